"""The rules that notes, bibliography and snippets are held to: what each code means, why it matters, and an example mended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """What one code of a problem stands for."""

    title: str
    why: str
    wrong: str = ""
    right: str = ""


RULES = {
    # Files of notes
    "no-front-matter": Rule(
        "A note without front matter",
        "Title, papers, tags and claims stand between two lines of three dashes at the top of the file.",
        "# My note",
        "---\ntitle: My note\n…\n---\n",
    ),
    "yaml": Rule(
        "Front matter that is no YAML",
        "Most often a value with a colon in it, or one that begins with a special character, stands without quotes.",
        "title: Attention: all you need",
        'title: "Attention: all you need"',
    ),
    "yaml-alias": Rule(
        "A YAML anchor or alias",
        "An alias can make a small file enormous, and no note needs one.",
        "tags: &t [activation]\nauthor: *t",
        "tags: [activation]",
    ),
    "yaml-tag": Rule(
        "A YAML tag",
        "A tag makes an object of a value; front matter is text, numbers, lists and mappings.",
        "tags: !!set {a}",
        "tags: [a]",
    ),
    "yaml-depth": Rule("Front matter nested too deeply", "Nothing a note says needs more than a few levels."),
    "duplicate-key": Rule(
        "A key given twice", "YAML would keep the last one and say nothing.", "title: A\ntitle: B", "title: B"
    ),
    "unknown-key": Rule(
        "A key that front matter does not have",
        "What is misspelled would be lost without a word. CONTRIBUTING lists the keys; editors complete them.",
        "tittle: My note",
        "title: My note",
    ),
    "missing-key": Rule(
        "A key that every note needs", "title, kind, author, added and summary are on every page.", "", "kind: essay"
    ),
    "value": Rule(
        "A value of the wrong kind",
        "The message says what was expected there.",
        "added: yesterday",
        "added: 2026-11-21",
    ),
    "not-utf8": Rule(
        "A file that is not UTF-8", "Characters would turn into others on some machines. Save it as UTF-8."
    ),
    "unreadable": Rule("A file that cannot be read", "Most often its permissions, or a link to a file that is gone."),
    "too-large": Rule(
        "A note that is too large", "Split it, or let its experiment record the tables that make it so large."
    ),
    "leaves-project": Rule(
        "A link out of the project",
        "A symbolic link could publish any file of the machine that builds the site. Copy the file instead.",
    ),
    "file-kind": Rule(
        "A file of a kind that is not published",
        "Beside the notes lie pictures (png, jpg, gif, webp, avif, svg) and data (csv, json, txt). A page of HTML or a script "
        "there would run in every reader's browser. What mkdocs.yml itself names, such as a stylesheet, is published.",
    ),
    "slug": Rule(
        "A file name that is no slug",
        "The name is the note's address and a Python package: lower-case letters, digits and '_', beginning with a letter.",
        "notes/Self-Attention.md",
        "notes/self_attention.md",
    ),
    "reserved-slug": Rule("An address the site uses itself", "Such as notes, claims or index. Rename the note."),
    "reserved-name": Rule(
        "A name that Windows keeps for a device",
        "Nobody could check the project out there. Rename the note.",
        "notes/con.md",
    ),
    "case-only": Rule(
        "Names that differ in nothing but case",
        "On the disks of Windows and macOS they are one file, and one would be lost.",
    ),
    "duplicate-slug": Rule("Two notes of one name", "Both would have the same address, whatever folders they lie in."),
    # Papers
    "unknown-paper": Rule(
        "A paper that the bibliography does not have",
        "`papers:` and citations name keys of notes/library.bib; that file is the only place for a paper's data.",
        "[@clevert2015]",
        "[@clevert2015fast]",
    ),
    "no-papers": Rule("A note of kind paper that names none", "Name its keys under `papers:`, or choose another kind."),
    "bibtex": Rule(
        "An entry that cannot be read", "A brace, a quote or a comma is missing, most often in the entry before."
    ),
    "readstatus": Rule(
        "A readstatus that is none",
        "It puts a paper on the reading list: to read, reading or read. JabRef writes the same field.",
        "readstatus = {someday}",
        "readstatus = {to read}",
    ),
    "duplicate-entry": Rule("Two entries of one key", "A citation could mean either."),
    "duplicate-field": Rule("A field given twice in an entry", "Readers of BibTeX differ in which of them they keep."),
    "entry-key": Rule(
        "A key that an address cannot hold",
        "Every paper has a page under its key: letters, digits, '-', '_', ':' and '.'.",
        "@article{clevert 2015,",
        "@article{clevert2015fast,",
    ),
    "incomplete-entry": Rule("An entry without title, author or year", "Every citation shows them."),
    "entry-year": Rule(
        "A year that is none", "Four digits; a range or a month goes elsewhere.", "year = {to appear}", "year = {2026}"
    ),
    # What a note says
    "unknown-note": Rule(
        "A link or relation to a note that is not there", "The message names the nearest slug.", "[[elu_]]", "[[elu]]"
    ),
    "own-relation": Rule("A relation of a note to itself", "Name the other note."),
    "unknown-tag": Rule(
        "A tag that all but equals another",
        "One slip of the pen would split a subject in two. A new subject's tag may be as new as it likes.",
        "tags: [activations]",
        "tags: [activation]",
    ),
    "formula": Rule(
        "A formula that is no LaTeX",
        "Formulae become MathML at build. A dollar sign is written \\$.",
        "$\\alhpa$",
        "$\\alpha$",
    ),
    "jinja": Rule(
        "An embed that cannot be read",
        "`{{ … }}` calls an embed. Braces that are meant to be seen go into a code span.",
        '{{ figure("curve" }}',
        '{{ figure("curve") }}',
    ),
    "jinja-not-allowed": Rule(
        "Jinja that is no call of an embed",
        "Notes come from strangers: no expression, loop or filter of a note is ever evaluated. Arguments are constants.",
        '{{ metric("loss") | upper }}',
        '{{ metric("loss") }}',
    ),
    "too-many-embeds": Rule(
        "More embeds than one page can show", "At most 1,000 a note, showing at most 30 million characters together."
    ),
    "html-not-allowed": Rule(
        "HTML in a note",
        "A note is Markdown. Of HTML it may hold tags that mark words, such as sub, kbd or mark, without attributes.",
        '<img src="curve.png" width="300">',
        '![the curve](curve.png){ width="300" }',
    ),
    "attribute-not-allowed": Rule(
        "An attribute that a note may not set",
        "Braces after Markdown set classes, an id, and the width, height and loading of a picture.",
        '[a link](notes.md){ onclick="…" }',
        "[a link](notes.md){ .wide }",
    ),
    "link-not-allowed": Rule(
        "A link that may run something",
        "Links lead to http:, https: and mailto: addresses, to pages of the site and to parts of a page.",
        "[here](javascript:…)",
        "[here](https://example.org)",
    ),
    "picture-from-elsewhere": Rule(
        "A picture of another site",
        "A reader's browser asks nobody but this site. Put the file beside the note.",
        "![](https://example.org/curve.png)",
        "![a curve](curve.png)",
    ),
    "figure-not-allowed": Rule(
        "A figure that holds more than a drawing",
        "SVG can hold scripts, pages and addresses. What Matplotlib draws with is kept, all else is left out.",
    ),
    "unknown-embed": Rule(
        "An embed that does not exist", "CONTRIBUTING lists them.", '{{ figur("curve") }}', '{{ figure("curve") }}'
    ),
    "embed-argument": Rule(
        "An argument an embed does not take, or one it needs",
        "",
        "{{ metric(digits=3) }}",
        '{{ metric("loss", ".3f") }}',
    ),
    "unknown-snippet": Rule("An embed of a snippet that is not there", "Without `of=` it is the note's own."),
    "unknown-file": Rule(
        "A file the snippet does not have", "", '{{ source("methods.py") }}', '{{ source("method.py") }}'
    ),
    "unknown-definition": Rule(
        "A function or class the file does not define",
        "",
        '{{ source("method.py", "elus") }}',
        '{{ source("method.py", "elu") }}',
    ),
    "unknown-figure": Rule("A figure the experiment does not record", "`record.figure(name, …)` gives it its name."),
    "unknown-metric": Rule("A metric the experiment does not record", "`record.metric(name, …)` gives it its name."),
    "unknown-table": Rule("A table the experiment does not record", "`record.table(name, …)` gives it its name."),
    "unknown-kernel": Rule("A kernel the experiment does not declare", "`KERNELS` in experiment.py declares them."),
    "unknown-reference": Rule(
        "A reference to no figure and no equation of the note", "Figures have names, equations have \\label{…}."
    ),
    "unknown-cover": Rule("A cover that is no figure", "A figure's name, or slug/name for another note's."),
    # Claims
    "claim-without-metric": Rule(
        "A claim that nothing tests",
        "A claim names metric and expect, or says that it cannot be tested here.",
        "- says: 6.55 % test error",
        "- says: 6.55 % test error\n  reported: true",
    ),
    "no-experiment": Rule(
        "A claim to test, but no experiment", "Add experiment.py, or mark the claim `reported: true`."
    ),
    "verdict": Rule(
        "A claim that came out otherwise than the note says",
        "The verdict is computed. A note says so where a claim is contradicted, with the setting and what was seen.",
        "",
        "verdict: contradicted\nbecause: With 10 layers on digits, the loss ended 3 % above ReLU's.",
    ),
    # Snippets
    "orphan-snippet": Rule("A snippet without a note", "Every method has a note of its name."),
    "missing-file": Rule("A snippet without method.py or experiment.py", "`papernotes new` writes both."),
    "missing-test": Rule(
        "A snippet without a test", "tests/snippets/ holds what each paper claims, computed another way."
    ),
    "python-syntax": Rule("A file that is no Python", "The message is Python's own."),
    "no-run": Rule(
        "An experiment without run(record)", "What it records is what a note shows.", "", "def run(record):\n    …"
    ),
    "kernel-disagrees": Rule(
        "A kernel that disagrees with its reference", "Mend the kernel; a tolerance is never loosened."
    ),
    "recorded-speed": Rule(
        "A recorded speed that cannot be read", "Delete the file and measure again with `papernotes bench`."
    ),
}
"""Every code that a problem may carry."""
