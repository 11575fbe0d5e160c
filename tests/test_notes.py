"""Every note of this project: sound, measured, and honest about its claims."""

import re
from pathlib import Path

import pytest

from generator import claims
from generator.build import build
from generator.load import load

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = load(ROOT)


@pytest.fixture(scope="module")
def built():
    """Build everything; snippets whose result is stored are not run again."""
    return build(ROOT)


def test_nothing_is_wrong_and_every_snippet_ran(built):
    assert [str(problem) for problem in built.problems] == []
    assert built.runs.failures == {}


@pytest.mark.parametrize("note", LIBRARY.notes, ids=lambda note: note.slug)
def test_a_note_has_what_its_reader_needs(note):
    words = len(re.findall(r"\w+", note.body))
    assert 600 <= words <= 1900, words  # words of the body, formulae and embeds counted too
    assert note.front.summary
    assert note.front.tags
    for embed in ("figure(", "metric(", "source(", "kernel("):
        assert embed in note.body, embed


@pytest.mark.parametrize("note", LIBRARY.notes, ids=lambda note: note.slug)
def test_no_claim_is_left_untested(note, built):
    judged = claims.judge_all(note, built.runs.results.get(note.slug))
    assert judged
    assert not [one.claim.says for one in judged if one.verdict == "untested"]


@pytest.mark.parametrize("note", LIBRARY.notes, ids=lambda note: note.slug)
def test_every_figure_and_table_that_is_measured_is_shown(note, built):
    result = built.runs.results[note.slug]
    for kind, names in (("figure", result.figures), ("table", result.tables), ("kernel", result.kernels)):
        for name in names:
            assert re.search(rf"{kind}\(\s*[\"']{name}[\"']", note.body), f"{kind} {name} is measured but not shown"
