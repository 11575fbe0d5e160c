"""What becomes of BibTeX as people have it."""

import pytest

from generator.load import load


def bib(project, text):
    project.write("notes/library.bib", text)
    library = load(project.root)
    return library.papers, [str(problem) for problem in library.problems]


def test_names_accents_and_arxiv_numbers_are_read(project):
    papers, problems = bib(
        project,
        '@inproceedings{k2017, title="Self-{N}ormalizing {\\"U}nits", author={G{\\"u}nter Klambauer and Doe, Jane and '
        "{The Team}}, booktitle={NeurIPS}, year=2017, journal={arXiv preprint arXiv:1706.02515}}",
    )
    assert not problems
    paper = papers["k2017"]
    assert paper.title == "Self-Normalizing Ünits"
    assert paper.authors == ("Günter Klambauer", "Jane Doe", "The Team")
    assert (paper.year, paper.arxiv) == (2017, "1706.02515")
    assert paper.short_authors == "Klambauer et al."
    assert '{\\"U}nits' in paper.bibtex  # the entry is shown as it was written


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("@article{a, title={x}, author={y}}", "library.bib:1:1: entry 'a' has no year; add it"),
        ("\n\n@article{a, title={x}, year=2000}", "library.bib:3:1: entry 'a' has no author; add it"),
        ("@article{a, title={x}, author={y}, year=soon}", "year 'soon' is no year"),
        ("@article{a, title={x}, author={y}, year=1}\n@book{a, title={x}, author={y}, year=2000}", "duplicate key 'a'"),
        ("@article{a, title={x}, title={z}, author={y}, year=2000}", "field given twice: title"),
        ("@article{a, title={x\n@book{b, title={x}, author={y}, year=2000}", "entry cannot be read"),
        (
            "@article{a, title={x}, author={y}, year=2000, readstatus={tread}}",
            "unknown readstatus 'tread'; did you mean",
        ),
        ("@article{a, title={x}, author={ , }, year=2000}", "entry 'a' has no author; add it"),
        ("@article{a/../b, title={x}, author={y}, year=2000}", "characters an address cannot hold"),
    ],
)
def test_a_bad_entry_is_named_by_line(project, text, what):
    _, problems = bib(project, text)
    assert any(what in one for one in problems), problems


def test_one_bad_entry_does_not_cost_the_others(project):
    papers, problems = bib(project, "@article{a, title={x\n\n@book{b, title={x}, author={y}, year=2000}\n")
    assert "b" in papers
    assert problems


def test_a_missing_bibliography_is_an_empty_one(project):
    (project.root / "notes/library.bib").unlink()
    assert load(project.root).papers == {}


def test_a_group_keeps_its_and_an_address_its_signs_and_a_script_is_none(project):
    text = (
        "@misc{a, title={50% of $\\mathbb{R}$}, author={{Barnes and Noble} and King, Jr., Martin}, year=2000, "
        "url={https://x.example/~me\\_too?a=%20}}\n@misc{b, title={x}, author={y}, year=2000, url={javascript:alert(1)}}"
    )
    papers, problems = bib(project, text)
    assert len(problems) == 1 and problems[0].endswith("[link-not-allowed]") and "'b'" in problems[0]
    assert papers["a"].title == "50% of $\\mathbb{R}$"
    assert papers["a"].authors == ("Barnes and Noble", "Martin King Jr.")
    assert papers["a"].url == "https://x.example/~me_too?a=%20"
    assert papers["b"].url == ""


@pytest.mark.parametrize(
    ("field", "status"), [("", ""), ("To Read", "to read"), ("skimmed", "reading"), ("read", "read")]
)
def test_jabrefs_field_is_read(project, field, status):
    papers, _ = bib(project, f"@article{{a, title={{x}}, author={{y}}, year=2000, readstatus={{{field}}}}}")
    assert papers["a"].readstatus == status
