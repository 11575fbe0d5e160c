"""Notes and library.bib in normal form: what changes, what stays, and what is left alone."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generator.bibliography import load_papers
from generator.cli import papernotes
from generator.load import load
from generator.normal import files, front, library, pieces
from generator.normal.refusal import Refused

ROOT = Path(__file__).resolve().parent.parent


def note(head: str, body: str = "Prose.\n") -> str:
    return f"---\n{head}---\n{body}"


NORMAL = note(
    """\
title: A toy
papers: [doe2020toy]
kind: paper
author: papernotes
added: 2026-11-21
tags: [one, two]
summary: "A toy: for trying things."
relations: [{extends: elu}]
claims:
  - says: two is two
    where: Table 1
    metric: two
    expect: {near: 2.0, within: 1.0e-9}
"""
)

SAME = {
    "keys in another order": """\
summary: "A toy: for trying things."
claims:
  - expect: {near: 2.0, within: 1.0e-9}
    metric: two
    says: two is two
    where: Table 1
tags: [one, two]
added: 2026-11-21
kind: paper
papers: [doe2020toy]
author: papernotes
relations: [{extends: elu}]
title: A toy
""",
    "lists in blocks": """\
title: A toy
papers:
  - doe2020toy
kind: paper
author: papernotes
added: 2026-11-21
tags:
- one
- 'two'
summary: "A toy: for trying things."
relations:
- extends: elu
claims:
- says: two is two
  where: Table 1
  metric: two
  expect:
    within: 1.0e-9
    near: 2.0
""",
    "other quotes, spaces and a time of day": """\
title:   'A toy'  \n\
papers: [ doe2020toy ]
kind: "paper"

author : papernotes
added: 2026-11-21 00:00:00
tags: [one,two]
summary: 'A toy: for trying things.'
relations: [ {extends: "elu"} ]
claims:

  -   says: two is two
      where: "Table 1"   \n\
      metric: two
      expect: { within: 1.0e-9, near: 2.0 }
""",
    "a summary on two lines": """\
title: A toy
papers: [doe2020toy]
kind: paper
author: papernotes
added: "2026-11-21"
tags: [one, two]
summary: "A toy: for
  trying things."
relations: [{extends: elu}]
claims:
  - says: two is two
    where: Table 1
    metric: two
    expect: {near: 2.0, within: 1.0e-9}
""",
}


@pytest.mark.parametrize("head", SAME.values(), ids=SAME)
def test_front_matter_comes_into_one_form(head):
    assert front.normal(note(head)) == NORMAL
    assert front.normal(NORMAL) == NORMAL


def test_comments_stay_beside_what_they_speak_of():
    head = """\
# of the kind
kind: essay   # not a paper
# of the title

title: 'A toy'
author: me
added: 2026-11-21
tags:
  - one  # the first
  - two
summary: S.
claims:
  # of the claim
  - reported: true
    # of what it says
    says: it
# at the end
"""
    assert front.normal(note(head)) == note(
        """\
# of the title
title: A toy
# of the kind
kind: essay   # not a paper
author: me
added: 2026-11-21
tags:
  - one  # the first
  - two
summary: S.
claims:
  # of the claim
    # of what it says
  - says: it
    reported: true
# at the end
"""
    )


def test_how_a_writer_folded_a_value_stays_and_a_line_beyond_200_is_folded():
    words = "word " * 30 + "end"
    head = "title: T\nclaims:\n  - says: it\n    because: {}\n    reported: true\n"
    folded = front.normal(
        note(head.format(words.replace("word word", "word\n      word", 1)).replace("    because", "    because"))
    )
    assert "because: word\n      word" in folded.replace("    because", "because", 1)
    long = front.normal(note(head.format(f"{words} {words}")))
    lines = long.split("\n")
    assert max(map(len, lines)) <= 120 and sum("word" in line for line in lines) == 3
    assert front.normal(long) == long


def test_the_body_keeps_every_character_but_line_ends():
    body = "\n  - a  \n\t# b\n\n\n```\nkind: x\n```\n \n"
    assert front.normal(note("title: T\n", body + "\n\n")) == note("title: T\n", body)


def test_literal_values_are_not_touched():
    head = "title: T\nsummary: |\n  one  \n\n    two # no comment\n  three\nkind: essay\n"
    done = front.normal(note(head))
    assert done.index("kind") < done.index("summary")
    assert "summary: |\n  one  \n" in done or "two # no comment" in done


REFUSED = {
    "no front matter": ("# Title\n", 1, "no front matter"),
    "an open bracket": (note("title: T\ntags: [one\nkind: essay\n"), 4, "front matter"),
    "an alias": (note("title: &a T\nsummary: *a\n"), 2, "aliases"),
    "a built object": (note("title: !!python/name:os.system x\n"), 2, "tags are not used"),
    "a key given twice": (note("title: T\ntitle: U\n"), 3, "given twice"),
    "a list": (note("- one\n"), 1, "not a mapping"),
    "depth": (note("title: " + "[" * 50 + "]" * 50 + "\n"), 2, "too deeply"),
}


@pytest.mark.parametrize(("text", "line", "what"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_with_its_line(text, line, what):
    with pytest.raises(Refused, match=what) as refused:
        front.normal(text)
    assert refused.value.line == line


BIB = """\
% of the whole file

@String{nips = "NeurIPS"}
% of b
@Article{b2020, Title="B {X}", author={A and
   B},
  year=2020, month=jan, booktitle = nips # " 33",
}
@comment{jabref-meta: x;}
words between
@article{b2020, title={again}, author={A}, year={2020}}
@book(a2019, title={x}, author={Q}, year = 2019)
at the end
"""


def test_a_bibliography_comes_into_order_with_every_comment_and_string():
    assert (
        library.normal(BIB)
        == """\
% of the whole file

@String{nips = "NeurIPS"}

@book{a2019,
  title = {x},
  author = {Q},
  year = {2019}
}

% of b
@article{b2020,
  title = {B {X}},
  author = {A and
   B},
  booktitle = nips # " 33",
  year = {2020},
  month = jan
}

@comment{jabref-meta: x;}
words between
@article{b2020,
  title = {again},
  author = {A},
  year = {2020}
}

at the end
"""
    )
    assert library.normal(library.normal(BIB)) == library.normal(BIB)


def test_what_others_refer_to_comes_after_them():
    text = "@book{a, title={A}}\n@inbook{b, title={B}, crossref={A}}\n"
    assert library.normal(text).index("{b,") < library.normal(text).index("{a,")


@pytest.mark.parametrize(
    ("text", "line"),
    [("\n@article{a, title={x, year={2020}}\n", 2), ("@article{a,\n title={x}, % a word\n year={2020}}\n", 3)],
)
def test_an_entry_that_cannot_be_read_is_refused_with_its_line(text, line):
    with pytest.raises(Refused) as refused:
        library.normal(text)
    assert refused.value.line == line


def test_the_projects_own_files_are_in_form_and_say_what_they_said(tmp_path):
    found = list(files.normal(files.of_project(ROOT)))
    assert len(found) > 30
    assert not [one.path.name for one in found if one.changes or one.refused]


def test_library_bib_loads_to_the_same_papers(tmp_path):
    path = tmp_path / "library.bib"

    def papers(text):
        path.write_text(text)
        found, problems = load_papers(path, tmp_path)
        return {key: one.model_copy(update={"line": 0, "bibtex": ""}) for key, one in found.items()}, len(problems)

    text = (ROOT / "notes/library.bib").read_text(encoding="utf-8")
    shuffled = "\n".join(reversed(text.strip().split("\n\n"))).replace("  ", "\t")
    assert papers(library.normal(shuffled)) == papers(text)
    assert library.normal(shuffled) == library.normal(text)


words = st.text(
    st.one_of(st.sampled_from(" :#'\"[]{},-?&*!|>%@`\\~.x1é"), st.characters(exclude_categories=["Cc", "Cs"])),
    min_size=1,
    max_size=40,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from([*front.ORDERS[""], "odd key"]),
        st.one_of(words, st.lists(words, max_size=3), st.none(), st.integers(), st.dates()),
    ),
    st.booleans(),
)
def test_whatever_yaml_writes_keeps_its_meaning_and_a_second_time_changes_nothing(said, flow):
    def written(key, value):
        style = None if flow and value and isinstance(value, list) else False
        return yaml.safe_dump({key: value}, allow_unicode=True, default_flow_style=style, width=30)

    head = "".join(written(*item) for item in said.items())
    try:
        done = front.normal(note(head))
    except Refused:
        assert not said
        return
    assert yaml.safe_load(pieces.split(done)[0]) == said
    assert front.normal(done) == done


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("ab:# -\n\"'[]{},|>&"), max_size=60))
def test_any_front_matter_comes_into_form_for_good_or_is_refused(head):
    try:
        done = front.normal(note(head))
    except Refused:
        return
    assert front.normal(done) == done


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["@a{k,", "@a{j,", "}", "{", '"', " x = ", "{v}", ",", "\n", "% c", "#", "@string{s = {t}}", "@comment{c}"]
        ),
        max_size=14,
    ).map("".join)
)
def test_any_bibliography_comes_into_form_for_good_or_is_refused(text):
    try:
        done = library.normal(text)
    except Refused:
        return
    assert library.normal(done) == done


# The command.


def fmt(project, *arguments):
    return CliRunner().invoke(papernotes, ["--root", str(project.root), "fmt", *map(str, arguments)])


def test_fmt_writes_check_names_and_diff_shows(project):
    untidy = project.write("notes/toy.md", note("kind: 'essay'\ntitle: T\nauthor: a\nadded: 2026-11-21\nsummary: S.\n"))
    before = untidy.read_text()
    checked = fmt(project, "--check")
    assert checked.exit_code == 1 and "notes/toy.md" in checked.output and "library.bib" in checked.output
    shown = fmt(project, "--diff")
    assert shown.exit_code == 0 and "-kind: 'essay'" in shown.output and "+kind: essay" in shown.output
    assert untidy.read_text() == before
    assert fmt(project).exit_code == 0
    assert untidy.read_text().startswith("---\ntitle: T\nkind: essay\n")
    assert fmt(project, "--check").exit_code == 0
    assert not load(project.root).problems


def test_a_file_that_cannot_be_read_is_left_alone_and_the_others_are_done(project):
    broken = project.write("notes/broken.md", "---\ntitle: [\n---\n")
    latin = project.write("notes/latin.md", "---\ntitle: caf\u00e9\n---\n".encode("latin-1"))
    tidied = project.write("notes/toy.md", note("kind: essay\ntitle: T\n"))
    done = fmt(project)
    assert done.exit_code == 1
    assert "broken.md:3: " in done.output and "latin.md:2: not UTF-8" in done.output
    assert broken.read_text() == "---\ntitle: [\n---\n" and b"\xe9" in latin.read_bytes()
    assert tidied.read_text().startswith("---\ntitle: T\n")


def test_line_ends_a_byte_order_mark_and_permissions(project):
    path = project.write("notes/toy.md", b"\xef\xbb\xbf---\r\ntitle: T\r\n---\r\nOne.\r\n\r\nTwo.")
    path.chmod(0o600)
    assert fmt(project, path).exit_code == 0
    assert path.read_bytes() == b"---\ntitle: T\n---\nOne.\n\nTwo.\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_link_to_a_note_stays_a_link(project):
    target = project.write("elsewhere/toy.md", note("kind: essay\ntitle: T\n"))
    link = project.root / "notes/toy.md"
    link.symlink_to(target)
    assert fmt(project, link).exit_code == 0
    assert link.is_symlink() and target.read_text().startswith("---\ntitle: T\n")


def test_fmt_of_another_kind_of_file_is_wrong_usage(project):
    assert fmt(project, project.root / "mkdocs.yml").exit_code == 2


def test_the_hook_takes_the_files_it_is_given():
    said = (ROOT / ".pre-commit-config.yaml").read_text()
    assert "papernotes fmt --check" in said
    done = subprocess.run(
        [sys.executable, "-m", "generator.cli", "fmt", "--check", "notes/elu.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
