"""Every note of this project: sound, measured, and honest about its claims."""

import re
from pathlib import Path

import pytest

from generator import claims
from generator.build import build
from generator.load import load

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = load(ROOT)
MEASURED = [note for note in LIBRARY.notes if note.slug in LIBRARY.snippets]
GATHERED = [note for note in LIBRARY.notes if note.slug not in LIBRARY.snippets]
"""Digests that measure nothing of their own: they show what other notes measured."""

CATALOGUE = (
    "elu", "self_normalizing", "glorot_init", "weight_norm", "batchnorm_optimization", "shattered_gradients",
    "identity_mappings", "multi_residual", "inception_v4", "fractional_max_pooling", "dilated_convolution", "besnet",
    "alexnet", "imagenet_winners", "deepface", "mask_rcnn",
    "gan", "dcgan", "gumbel_softmax", "variational_nmt",
    "spatial_contrasting", "lime", "adversarial_ensembles", "quora_duplicates", "selfai",
    "rethinking_generalization", "bits_and_missings", "project_design", "kallisto",
)  # fmt: skip
"""What the knowledge base set out to cover: a note, a snippet and a test for each, and a digest."""


@pytest.fixture(scope="module")
def built():
    """Build everything; snippets whose result is stored are not run again."""
    return build(ROOT)


def test_nothing_is_wrong_and_every_snippet_ran(built):
    assert [str(problem) for problem in built.problems] == []
    assert built.runs.failures == {}


@pytest.mark.parametrize("slug", CATALOGUE)
def test_everything_in_the_catalogue_has_its_note_its_method_and_its_test(slug):
    assert slug in LIBRARY.by_slug
    for file in (f"snippets/{slug}/method.py", f"snippets/{slug}/kernel.py", f"tests/snippets/test_{slug}.py"):
        assert (ROOT / file).is_file(), file
    assert slug in {note.slug for note in MEASURED}


def test_what_was_read_in_2016_is_gathered_in_a_digest():
    digest = LIBRARY.by_slug["reading_list_2016"]
    assert digest.front.kind == "digest"
    assert set(re.findall(r"of=[\"'](\w+)", digest.body)) == {
        "gumbel_softmax", "spatial_contrasting", "rethinking_generalization", "multi_residual",
    }  # fmt: skip


@pytest.mark.parametrize("note", LIBRARY.notes, ids=lambda note: note.slug)
def test_a_note_has_what_its_reader_needs(note):
    words = len(re.findall(r"\w+", note.body))
    assert 600 <= words <= 1900, words  # words of the body, formulae and embeds counted too
    assert note.front.summary
    assert note.front.tags
    assert note in MEASURED or note.front.kind == "digest"
    for embed in ("figure(", "metric(") if note in GATHERED else ("figure(", "metric(", "source(", "kernel("):
        assert embed in note.body, embed


@pytest.mark.parametrize("note", GATHERED, ids=lambda note: note.slug)
def test_a_digest_shows_a_figure_of_every_note_it_gathers(note):
    of = set(re.findall(r"figure\([^)]*of=[\"'](\w+)", note.body))
    linked = {slug for slug in re.findall(r"^## \[\[(\w+)", note.body, re.MULTILINE)}
    assert linked and linked <= of
    papers = {key for slug in linked for key in LIBRARY.by_slug[slug].front.papers[:1]}
    assert papers <= set(note.front.papers)


@pytest.mark.parametrize("note", MEASURED, ids=lambda note: note.slug)
def test_no_claim_is_left_untested(note, built):
    judged = claims.judge_all(note, built.runs.results.get(note.slug))
    assert judged
    assert not [one.claim.says for one in judged if one.verdict == "untested"]


@pytest.mark.parametrize("note", MEASURED, ids=lambda note: note.slug)
def test_every_figure_and_table_that_is_measured_is_shown(note, built):
    result = built.runs.results[note.slug]
    for kind, names in (("figure", result.figures), ("table", result.tables), ("kernel", result.kernels)):
        for name in names:
            assert re.search(rf"{kind}\(\s*[\"']{name}[\"']", note.body), f"{kind} {name} is measured but not shown"
