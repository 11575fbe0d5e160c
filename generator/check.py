"""A library comes in; the problems that show only across its files go out."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from generator import regular
from generator.embeds import (
    CITATION,
    EMBEDS,
    LINK,
    UNREADABLE,
    Call,
    TemplateSyntaxError,
    calls,
    definitions,
    reading,
    tree,
)
from generator.formulae import FormulaError, mathml
from generator.places import column_of, place
from generator.schema import Library, Note, Problem, Snippet
from generator.spelling import nearest


def check(library: Library) -> list[Problem]:
    """Return every problem of the library, those of the loader included, by file and line."""
    tags = Counter(tag for note in library.notes for tag in note.front.tags)
    found = [*library.problems, *_keys(library)]
    for snippet in library.snippets.values():
        found += _snippet(snippet, library)
    for note in library.notes:
        for rule in (_papers, _relations, _claims, _links, _formulae, _embeds):
            found += rule(note, library)
        found += _tags(note, tags)
    return sorted(set(found), key=lambda one: (*one.place, one.what))


def _keys(library: Library) -> Iterator[Problem]:
    """Each paper has files of its own, and some disks tell no case apart."""
    seen: dict[str, str] = {}
    for key, paper in library.papers.items():
        if (other := seen.setdefault(key.lower(), key)) != key:
            what = f"the keys '{key}' and '{other}' differ in nothing but case"
            yield Problem("notes/library.bib", paper.line, what, "rename one of them", code="case-only")


def _papers(note: Note, library: Library) -> Iterator[Problem]:
    for number, key in enumerate(note.front.papers):
        if key not in library.papers:
            fix = _add_paper(key, library)
            yield Problem(note.file, place(note, "papers", number), f"unknown paper '{key}'", fix, code="unknown-paper")
    if note.front.kind == "paper" and not note.front.papers:
        fix = "name its keys of notes/library.bib, or choose another kind"
        yield Problem(note.file, place(note, "kind"), "a note of kind paper without papers", fix, code="no-papers")


def _add_paper(key: str, library: Library) -> str:
    close = get_close_matches(key, library.papers, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else "add its BibTeX entry to notes/library.bib"


def _tags(note: Note, tags: Counter[str]) -> Iterator[Problem]:
    """Take a tag that only this note uses, and that all but equals a tag in use, for a slip of the pen."""
    for number, tag in enumerate(note.front.tags):
        others = [other for other in tags if other != tag and tags[other] >= tags[tag]]
        if tags[tag] == 1 and (close := get_close_matches(tag, others, n=1, cutoff=0.88)):
            fix = f"did you mean '{close[0]}'?"
            yield Problem(note.file, place(note, "tags", number), f"unknown tag '{tag}'", fix, code="unknown-tag")


def _relations(note: Note, library: Library) -> Iterator[Problem]:
    for number, relation in enumerate(note.front.relations):
        at = place(note, "relations", number)
        if relation.slug == note.slug:
            yield Problem(note.file, at, "a relation of the note to itself", "name another note", code="own-relation")
        elif relation.slug not in library.by_slug and relation.slug not in library.broken:
            fix = nearest(relation.slug, library.by_slug)
            yield Problem(note.file, at, f"unknown note '{relation.slug}'", fix, code="unknown-note")


def _claims(note: Note, library: Library) -> Iterator[Problem]:
    for number, claim in enumerate(note.front.claims):
        at = place(note, "claims", number)
        untested = claim.verdict == "untested" and claim.because
        if not claim.metric and not claim.reported and not untested:
            fix = "name metric and expect, or mark it 'reported: true'"
            yield Problem(note.file, at, "claim without metric", fix, code="claim-without-metric")
        if claim.metric and not _runs(note.slug, library):
            fix = f"add snippets/{note.slug}/experiment.py, or mark the claim 'reported: true'"
            yield Problem(note.file, at, "claim to test, but no experiment", fix, code="no-experiment")


def _links(note: Note, library: Library) -> Iterator[Problem]:
    text, _ = reading(note.body)
    for number, line in enumerate(text.split("\n"), start=1):

        def at(said: str, number: int = number) -> tuple[int, int]:
            return number + note.body_line - 1, column_of(said, note.body, number)

        for link in LINK.finditer(line):
            slug = link[1].strip().partition("#")[0]
            if slug not in library.by_slug and slug not in library.broken:
                fix = nearest(slug, library.by_slug)
                yield Problem(note.file, at(link[0]), f"link to unknown note '{slug}'", fix, code="unknown-note")
        for citation in CITATION.finditer(line):
            for key in (part.strip().removeprefix("@") for part in citation[1].split(";")):
                if key not in library.papers:
                    fix = _add_paper(key, library)
                    yield Problem(note.file, at(citation[0]), f"unknown paper '{key}'", fix, code="unknown-paper")


def _formulae(note: Note, library: Library) -> Iterator[Problem]:
    for kind, piece, line in reading(note.body)[1]:
        if kind.endswith("math"):
            try:
                mathml(piece, display=kind == "display math")
            except FormulaError as error:
                at = (line + note.body_line - 1, column_of(piece.partition("\n")[0], note.body, line))
                fix = "mend the LaTeX, or write \\$ for a dollar"
                yield Problem(note.file, at, f"formula: {error}", fix, code="formula")


def _embeds(note: Note, library: Library) -> Iterator[Problem]:
    try:
        found = calls(note)
    except TemplateSyntaxError as error:
        line = error.lineno + note.body_line - 1
        yield Problem(note.file, line, f"Jinja: {error.message}", UNREADABLE, code="jinja")
        return
    for call in found:

        def wrong(what: str, fix: str, code: str, call: Call = call) -> Problem:
            column = column_of(f"{call.name}(", note.body, call.line - note.body_line + 1)
            return Problem(note.file, (call.line, column), what, fix, code=code)

        slug = call.arguments.get("of") or note.slug
        if call.name not in EMBEDS:
            yield wrong(f"unknown embed '{call.name}'", nearest(call.name, EMBEDS), "unknown-embed")
        elif extra := [key for key in call.arguments if key not in (*EMBEDS[call.name], "of")]:
            fix = nearest(extra[0], (*EMBEDS[call.name], "of"))
            yield wrong(f"{call.name}() takes no '{extra[0]}'", fix, "embed-argument")
        elif EMBEDS[call.name] and EMBEDS[call.name][0] not in call.arguments:
            fix = f'as in {call.name}("…")'
            yield wrong(f"{call.name}() needs a {EMBEDS[call.name][0]}", fix, "embed-argument")
        elif slug not in library.snippets and call.name not in ("claims", "ref"):
            fix = nearest(slug, library.snippets)
            yield wrong(f"{call.name}(): there is no snippets/{slug}/", fix, "unknown-snippet")
        elif call.name == "source":
            yield from _source(call.arguments, library.snippets[slug], wrong)


def _source(arguments: dict, snippet: Snippet, wrong) -> Iterator[Problem]:
    file, name = arguments.get("file"), arguments.get("name")
    if file not in snippet.files:
        fix = nearest(str(file), snippet.files)
        yield wrong(f"source(): no file '{file}' in snippets/{snippet.slug}/", fix, "unknown-file")
    elif name:
        try:
            known = definitions(snippet.folder / str(file))
        except (SyntaxError, ValueError, OSError):
            return  # reported once, with the snippet
        if name not in known:
            yield wrong(f"source(): {file} defines no '{name}'", nearest(str(name), known), "unknown-definition")


def _snippet(snippet: Snippet, library: Library) -> Iterable[Problem]:
    folder = f"snippets/{snippet.slug}"
    if snippet.slug not in library.by_slug and snippet.slug not in library.broken:
        fix = f"write notes/{snippet.slug}.md, or remove the folder"
        yield Problem(folder, 1, "orphan snippet: no note of this name", fix, code="orphan-snippet")
    for needed in ("method.py", "experiment.py"):
        if needed not in snippet.files:
            yield Problem(folder, 1, f"no {needed}", f"add {folder}/{needed}", code="missing-file")
    if not (library.root / "tests" / "snippets" / f"test_{snippet.slug}.py").exists():
        fix = f"add tests/snippets/test_{snippet.slug}.py"
        yield Problem(folder, 1, "no test of what the paper claims", fix, code="missing-test")
    for file in snippet.files:
        path = snippet.folder / file
        try:
            body = tree(regular.text(path)).body
        except SyntaxError as error:
            at = (error.lineno or 1, max(error.offset or 1, 1))
            yield Problem(f"{folder}/{file}", at, f"Python: {error.msg}", "mend the syntax", code="python-syntax")
        except (UnicodeDecodeError, ValueError):
            yield Problem(f"{folder}/{file}", 1, "not UTF-8 text", "save the file as UTF-8", code="not-utf8")
        except OSError as error:
            what, fix = f"cannot be read: {error.strerror}", "check the file and its permissions"
            yield Problem(f"{folder}/{file}", 1, what, fix, code="unreadable")
        else:
            names = {node.name for node in body if isinstance(node, ast.FunctionDef)}
            if file == "experiment.py" and "run" not in names:
                yield Problem(f"{folder}/{file}", 1, "no function run(record)", "define run(record)", code="no-run")


def _runs(slug: str, library: Library) -> bool:
    return slug in library.snippets and library.snippets[slug].runs
