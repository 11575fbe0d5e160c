"""The rules across files, each with the slip it is there for."""

import pytest

from generator.check import check
from generator.load import load


def said(project):
    return [str(problem) for problem in check(load(project.root))]


def test_a_sound_project_has_no_problems(toy):
    assert said(toy) == []


BODIES = [
    ("See [[toi]].", "link to unknown note 'toi'; did you mean 'toy'?"),
    ("See [@doe2020toi].", "unknown paper 'doe2020toi'; did you mean 'doe2020toy'?"),
    ("See [@nobody1999].", "unknown paper 'nobody1999'; add its BibTeX entry"),
    ("{{ figur('line') }}", "unknown embed 'figur'; did you mean 'figure'?"),
    ("{{ figure() }}", "figure() needs a name"),
    ("{{ figure('x', size=3) }}", "figure() takes no 'size'"),
    ("{{ source('methods.py') }}", "no file 'methods.py' in snippets/toy/; did you mean 'method.py'?"),
    ("{{ source('method.py', 'dubble') }}", "method.py defines no 'dubble'; did you mean 'double'?"),
    ("{{ source('../../secret', 'x') }}", "no file '../../secret'"),
    ("{{ metric('a', of='nowhere') }}", "there is no snippets/nowhere/"),
    ("{{ figure('line' }}", "Jinja:"),
    ("{% for %}", "Jinja:"),
    (r"$\frac{1$", "formula:"),
]


@pytest.mark.parametrize(("body", "what"), BODIES, ids=[body for body, _ in BODIES])
def test_a_slip_in_the_body_is_named_with_its_line(toy, body, what):
    toy.note(body=f"One.\n\n{body}\n")
    (problem,) = said(toy)
    assert what in problem
    assert problem.startswith("notes/toy.md:11:")


@pytest.mark.parametrize("body", ["`[[toi]]`", "```\n[[toi]] [@none] {{ figur() }}\n```", "$[[x]]$"])
def test_code_and_formulae_are_not_read_as_links(toy, body):
    toy.note(body=body)
    assert said(toy) == []


FRONTS = [
    ("papers: [doe2020]", "unknown paper 'doe2020'; did you mean 'doe2020toy'?"),
    ("papers: []", "a note of kind paper without papers"),
    ("relations: [{extends: nowhere}]", "unknown note 'nowhere'"),
    ("relations: [{extends: toy}]", "a relation of the note to itself"),
    ("claims: [{says: x}]", "claim without metric; name metric and expect, or mark it 'reported: true'"),
]


@pytest.mark.parametrize(("front", "what"), FRONTS)
def test_a_slip_in_the_front_matter_is_named(toy, front, what):
    toy.note(more=front, **({"papers": ""} if front.startswith("papers") else {}))
    assert any(what in one for one in said(toy)), said(toy)


def test_a_tag_all_but_equal_to_one_in_use_is_taken_for_a_slip(toy):
    toy.note("other", more="tags: [activation]")
    toy.note("third", more="tags: [activations]")
    (problem,) = said(toy)
    assert "unknown tag 'activations'; did you mean 'activation'?" in problem


def test_a_new_tag_needs_no_list_to_be_edited(toy):
    toy.note("other", more="tags: [bioinformatics]")
    assert said(toy) == []


def test_an_orphan_snippet_and_its_missing_files_are_named(project):
    project.write("snippets/lost/kernel.py", "def broken(:\n")
    found = said(project)
    for what in (
        "orphan snippet",
        "no method.py",
        "no experiment.py",
        "no test of what the paper claims",
        "lost/kernel.py:1:12: Python:",
    ):
        assert any(what in one for one in found), (what, found)


def test_an_experiment_without_run_is_named(toy):
    toy.write("snippets/toy/experiment.py", "x = 1\n")
    assert any("no function run(record)" in one for one in said(toy))


def test_a_claim_to_test_needs_an_experiment(project):
    project.note(more="claims: [{says: x, metric: y, expect: {below: 1}}]")
    assert any("claim to test, but no experiment" in one for one in said(project))
