"""The pages made from all notes: tables, archives, the timeline."""

import pytest

from generator.archives import authors, papers, timeline, venues
from generator.build import build
from generator.load import load
from generator.schema import Result
from generator.site import Site
from generator.tables import ROWS, kernel_counts, methods, notes, reading
from generator.timeplot import timeline as plotted

SECOND = """
@inproceedings{roe2021again,
  title = {Again},
  author = {Ørsted, Åsa and Doe, Jane},
  year = {2021},
  booktitle = {A Conference},
}
"""


@pytest.fixture
def site(toy):
    """Return a site of three notes: two on one paper, one on two."""
    from conftest import BIB

    toy.write("notes/library.bib", BIB + SECOND)
    toy.note("again", title="Another on the toy", added="2026-11-20")
    toy.note(
        "both", title="On both", papers="[doe2020toy, roe2021again]", kind="digest", added="2026-11-19", tags="[x-ray]"
    )
    library = load(toy.root)
    assert not library.problems
    return Site(library)


def test_every_note_of_a_paper_stands_at_the_papers_address(site):
    index, again, toy = papers(site)
    assert (again.path, toy.path) == ("papers/roe2021again.md", "papers/doe2020toy.md")
    for title in ("A toy", "Another on the toy", "On both"):
        assert title in toy.markdown
    assert "Another on the toy" not in again.markdown
    assert "../papers/doe2020toy/" in index.markdown or "doe2020toy/" in index.markdown


def test_authors_are_in_order_of_surname_accents_aside_and_each_has_an_address(site):
    (page,) = authors(site)
    found = [line.split('id="')[1].split('"')[0] for line in page.markdown.splitlines() if "<dt" in line]
    assert found == ["jane-doe", "asa-orsted", "john-smith", "the-team"]
    doe = page.markdown.split('id="jane-doe"')[1].split("<dt")[0]
    assert doe.count("<dd>") == 3  # the note on two papers stands once


def test_a_long_list_of_authors_has_a_page_a_letter(site, monkeypatch):
    monkeypatch.setattr("generator.archives.ENTRIES", 2)
    made = {page.path: page.markdown for page in authors(site)}
    assert set(made) == {"authors.md", "authors/d.md", "authors/o.md", "authors/s.md", "authors/t.md"}
    assert 'href="d/"' in made["authors.md"]
    assert "jane-doe" in made["authors/d.md"] and "smith" not in made["authors/d.md"]


def test_venues_and_years_list_their_notes(site):
    assert "A Conference" in venues(site).markdown
    text = timeline(site).markdown
    assert text.index('id="2021"') < text.index('id="2020"')
    assert [text.count(f'aria-label="{said}"') for said in ("2020: 3 notes", "2021: 1 note")] == [1, 1]


def test_the_table_of_notes_says_of_each_row_what_it_can_be_filtered_by(site):
    (page,) = notes(site)
    row = next(line for line in page.markdown.splitlines() if "On both" in line)
    for facet in (
        'data-kind="digest"',
        'data-year="2020|2021"',
        'data-venue="Journal of Toys|A Conference"',
        'data-tag="x-ray"',
    ):
        assert facet in row
    assert "<option>digest</option>" in page.markdown
    assert '<select name="gpu">' not in page.markdown  # one value tells nothing


def test_a_thousand_notes_fill_a_table_and_the_rest_another(site, monkeypatch):
    assert ROWS == 1000
    monkeypatch.setattr("generator.tables.ROWS", 2)
    first, second = notes(site)
    assert (first.path, second.path) == ("notes.md", "notes/2.md")
    assert "A toy" in first.markdown and "On both" not in first.markdown
    assert "On both" in second.markdown and 'href="../"' in second.markdown


def test_a_method_stands_with_its_arguments_and_what_it_says_of_itself(site):
    (page,) = methods(site)
    text = page.markdown
    assert "<code>double</code>" in text
    assert "(x)</code>" in text
    assert "Return 2x." in text
    assert "files/toy/method.py" in text


def test_a_timeline_has_a_bar_a_year_in_scale_and_names_its_last_year():
    plot = plotted({1993: 1, 2016: 12, 2018: 3})
    heights = {bar.year: bar.height for bar in plot.bars}
    assert heights == {1993: 7.0, 2016: 84.0, 2018: 21.0}
    assert all(bar.x >= 0 and bar.x + bar.width <= 100 for bar in plot.bars)
    assert plot.ticks[-1][1] == 2018
    assert len(plot.ticks) <= 7
    assert plotted({}) is None
    assert plotted({2020: 1}).ticks == [(40.0, 2020)]


def test_the_table_of_claims_begins_with_those_that_did_not_come_out(toy):
    toy.note(
        more="""
        claims:
          - {says: reported, reported: true}
          - {says: two is two, metric: two, expect: {near: 2, within: 0.1}}
          - {says: two is three, metric: two, expect: {near: 3, within: 0.1}, verdict: contradicted, because: it is two}
        """
    )
    built = build(toy.root)
    (text,) = [page.markdown for page in built.pages if page.path == "claims.md"]
    assert text.index("two is three") < text.index("two is two") < text.index("reported</td>")


def test_the_home_page_counts_kernels_by_state(toy):
    kernel = {"parity": [{"holds": True}], "compiled": []}
    wrong = {"parity": [{"holds": False}], "compiled": []}
    library = load(toy.root)
    result = Result.model_construct(data={"kernels": {"right": kernel, "wrong": wrong}})
    assert kernel_counts(Site(library, {"toy": result})) == {
        "agree with their twins": 1, "disagree": 1, "not yet measured": 2,
    }  # fmt: skip


def listed(project, *statuses):
    project.write("notes/library.bib", "".join(
        f"@article{{p{n}, title={{<Title> {n}}}, author={{A, B}}, year={2000 + n}, url={{https://x.example/{n}}}, "
        f"readstatus={{{status}}}}}\n" for n, status in enumerate(statuses)
    ))  # fmt: skip


def test_the_reading_list_begins_with_what_is_being_read_and_a_noted_paper_is_read(toy):
    listed(toy, "to read", "", "reading", "to read")
    toy.note("third", papers="[p3]", title="The third")
    (page,) = reading(Site(load(toy.root)))
    found = [page.markdown.index(f"&lt;Title&gt; {n}") for n in (2, 0, 3)]
    assert found == sorted(found) and "&lt;Title&gt; 1" not in page.markdown
    row = page.markdown[found[-1] - 200 :]
    assert 'data-status="read"' in row and "The third" in row and 'href="../papers/p3/"' in row
    assert 'href="https://x.example/0"' in page.markdown


def test_an_empty_reading_list_says_how_to_begin_one(toy):
    (page,) = reading(Site(load(toy.root)))
    assert page.path == "reading.md"
    assert "papernotes import FILE" in page.markdown and "<table" not in page.markdown


def test_a_long_reading_list_goes_on_over_pages(toy, monkeypatch):
    monkeypatch.setattr("generator.tables.ROWS", 2)
    listed(toy, *["to read"] * 5)
    assert [page.path for page in reading(Site(load(toy.root)))] == ["reading.md", "reading/2.md", "reading/3.md"]
