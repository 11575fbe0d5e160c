"""From a note and a result to Markdown: embeds, links, citations, and what a stranger's text may not do."""

import json
from pathlib import Path

import pytest

from generator.expand import expand
from generator.filled import read
from generator.load import load
from generator.pages import pages
from generator.render import render
from generator.schema import About, Failure, Result
from generator.site import Site
from generator.web import Surroundings

SVG = '<svg viewBox="0 0 259.2 194.4"><text>x</text></svg>'
PROVENANCE = {"measured": "2026-11-21", "seconds": 1.0, "device": "CPU", "torch": "2.13", "python": "3.11"}


def rendered(note, site):
    body = expand(note, site)
    return render(note, body, Surroundings(), site), body.problems


@pytest.fixture
def page(toy, tmp_path):
    """Return a function from a body to (page, problems), over a result made by hand."""
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "line.svg").write_text(SVG)
    figure = {"files": ["line.svg"], "caption": "A <line>.", "alt": 'a "rising" line'}
    data = {
        "slug": "toy",
        "metrics": {"two": {"value": 2.0, "unit": "s", "setting": "a <toy>"}},
        "tables": {"pairs": {"columns": ["x", "name"], "rows": [[1, "<b>*one*</b>"]], "caption": ""}},
        "figures": {"line": figure},
        "kernels": {},
        "provenance": PROVENANCE,
    }
    result = Result(slug="toy", key="k", folder=folder, data=data)

    def make(body, **more):
        toy.note(body=body, more="claims: [{says: two is two, metric: two, expect: {near: 2, within: 0.1}}]")
        library = load(toy.root)
        assert not library.problems, library.problems
        site = Site(library, **({"results": {"toy": result}} | more))
        made, problems = rendered(library.notes[0], site)
        return made.markdown, [str(problem) for problem in problems]

    return make


def test_a_metric_stands_with_its_unit_and_setting(page):
    text, problems = page('{{ metric("two", ".3f") }}')
    assert not problems
    assert "2.000\u202fs</span>" in text
    assert 'title="a &lt;toy&gt;"' in text


def test_a_figure_has_its_number_caption_and_alternative_text(page):
    text, _ = page('{{ figure("line") }}')
    assert SVG in text
    assert "Figure 1." in text
    assert "A &lt;line&gt;." in text
    assert 'aria-label="a &#34;rising&#34; line"' in text


def test_cells_and_captions_can_hold_no_html(page):
    text, _ = page('{{ table("pairs") }}')
    assert "&lt;b&gt;*one*&lt;/b&gt;" in text


def test_code_is_embedded_whole_or_by_name_with_a_link(page):
    text, _ = page('{{ source("method.py", "double") }}')
    assert "```python\ndef double(x):" in text
    assert "(files/toy/method.py)" in text


def test_formulae_and_code_never_reach_jinja(page):
    text, problems = page(r"`{{ x }}` $\frac{{1}}{2}$ and ``` {% no %} ```")
    assert not problems
    assert "`{{ x }}`" in text
    assert "<mfrac>" in text


def test_links_become_links_and_citations_get_a_reference_list(page):
    text, _ = page("See [[toy]] and [[toy|this one]]; [@doe2020toy].")
    assert "[A toy](toy.md)" in text
    assert "[this one](toy.md)" in text
    assert '<a class="pn-cite" href="#ref-doe2020toy"' in text
    assert "Doe et al., 2020" in text
    assert '<li id="ref-doe2020toy">Jane Doe, John Smith, The Team.' in text
    assert "```bibtex\n@article{doe2020toy," in text


WRONG = [
    ('x\n\n{{ figure("lime") }}', ":12:4: the experiment records no figure 'lime'; did you mean 'line'?"),
    ('{{ metric("tow") }}', ":10:4: the experiment records no metric 'tow'; did you mean 'two'?"),
    ('{{ metric("two", "nonsense") }}', ":10:4: embed:"),
    ('{{ kernel("toy") }}', ":10:4: the experiment records no kernel 'toy'; there are none yet"),
    (
        "{{ undefined_name }}",
        ":10:1: Jinja: a note calls embeds with constants, and nothing else is read: here the name 'undefined_name'",
    ),
    ("$$\nx\n$$\n\n{{ 1 / 0 }}", ":14:1: Jinja:"),
    ("{% include 'note.md' %}", "Jinja:"),
    ("{% extends 'note.md' %}", "Jinja:"),
    ("{{ figure.__globals__ }}", "Jinja:"),
    ("{{ ''.__class__.__mro__ }}", "Jinja:"),
    ("{{ source('../../../etc/passwd') }}", "no file '../../../etc/passwd'"),
]


@pytest.mark.parametrize(("body", "what"), WRONG, ids=[body for body, _ in WRONG])
def test_a_wrong_embed_is_named_with_its_line_and_the_page_is_made_all_the_same(page, body, what):
    text, problems = page(body)
    assert len(problems) == 1
    assert what in problems[0], problems
    assert problems[0].startswith("notes/toy.md:")
    assert "This needs mending" in text
    assert "## BibTeX" in text


def test_the_rest_of_the_page_survives_a_wrong_embed(page):
    text, _ = page('Before.\n\n{{ figure("lime") }}\n\nAfter {{ metric("two") }}.')
    assert "Before." in text
    assert "After <span" in text


def test_claims_are_shown_once_even_if_the_note_forgets_them(page):
    assert page("Prose.")[0].count("two is two") == 1
    assert page("{{ claims() }}")[0].count("two is two") == 1


def test_a_failed_snippet_shows_its_error_on_its_page_as_text(page):
    failure = Failure(slug="toy", outcome="raised", error="RuntimeError: <b>", tail="<script>alert(1)</script>\n\nlast")
    text, problems = page('{{ metric("two") }}', results={}, failures={"toy": failure})
    assert not problems
    assert "snippets/toy raised" in text
    assert "RuntimeError: &lt;b&gt;" in text
    assert "<script>" not in text
    assert "not measured: toy has no result" in text


def test_every_html_block_is_free_of_blank_lines(page):
    """A Markdown engine ends an HTML block at a blank line: none may stand inside one."""
    text, _ = page('{{ figure("line") }}\n\n{{ table("pairs") }}\n\n{{ claims() }}')
    for piece in text.split("\n\n"):
        for tag in ("div", "figure", "ol", "table"):
            assert piece.count(f"<{tag}") == piece.count(f"</{tag}>"), piece


def test_the_result_shown_is_the_one_stored(toy):
    from generator.run import run, store_of

    library = load(toy.root)
    runs = run(library, store_of(toy.root))
    stored = json.loads((Path(runs.results["toy"].folder) / "result.json").read_text())
    made, problems = rendered(library.notes[0], Site(library, runs.results))
    assert not problems
    assert stored["metrics"]["two"]["value"] == 2.0
    assert ">2</span>" in made.markdown


def test_an_inline_formula_never_starts_a_block_of_its_own(page):
    """Python-Markdown takes a line that begins with <math> for a block and tears the sentence apart."""
    import markdown

    text, _ = page("One line and\n$x^2$, and the same sentence goes on.")
    html = markdown.markdown(text.split("</div>", 1)[1])
    assert any("One line and" in part and "goes on" in part for part in html.split("</p>"))


def test_references_lead_to_figures_and_equations_before_and_after_them(page):
    text, problems = page(
        'By {{ ref("eq:one") }} and {{ ref("line") }}.\n\n$$x = 1$$\n\n$$\\label{eq:one} y = 2$$\n\n'
        '{{ figure("line") }}\n\nSee {{ ref("line") }} and $$z \\label{last}$$ {{ ref("last") }}.\n'
    )
    assert not problems
    assert text.count('<a class="pn-ref" href="#figure-line">Figure 1</a>') == 2
    assert '<a class="pn-ref" href="#equation-eq:one">Equation 1</a>' in text
    assert '<a class="pn-ref" href="#equation-last">Equation 2</a>' in text
    assert text.count('id="equation-eq:one"') == text.count('id="equation-last"') == 1
    assert "label" not in text.replace("aria-label", "")
    assert text.count(">(1)</a>") == text.count(">(2)</a>") == 1


def test_a_reference_to_nothing_is_named_once_with_its_line(page):
    made, problems = page('First.\n\nSee {{ ref("lime") }}, {{ ref("lime") }}.\n\n{{ figure("line") }}\n')
    (problem,) = problems
    assert "no figure or equation 'lime' to refer to" in problem and "line" in problem
    assert made.count('<span class="pn-missing">lime?</span>') == 2


@pytest.fixture
def digest(toy, tmp_path):
    """Return a function from a body to (page, problems): a note without a snippet beside one that measured a figure."""
    (tmp_path / "line.svg").write_text(SVG)
    data = {
        "metrics": {},
        "tables": {"pairs": {"columns": ["x"], "rows": [[1]], "caption": ""}},
        "figures": {"line": {"files": ["line.svg"], "caption": "A line.", "alt": "a line"}},
        "kernels": {},
        "provenance": PROVENANCE,
    }
    results = {"toy": Result(slug="toy", key="k", folder=tmp_path, data=data)}

    def make(body, **front):
        toy.note(title="Toys & <games>")
        toy.note("gathered", body=body, **({"kind": "digest"} | front))
        library = load(toy.root)
        assert not library.problems, library.problems
        site = Site(library, results=results)
        found = read(site)
        by_path = {page.path: page.markdown for page in pages(site, found)}
        return by_path, [str(problem) for problem in found.problems]

    return make


def test_a_digest_shows_the_figures_of_other_notes_and_says_whose_they_are(digest):
    made, problems = digest('{{ figure("line", of="toy") }} {{ table("pairs", of="toy") }} {{ ref("line", of="toy") }}')
    assert not problems
    page = made["gathered.md"]
    assert SVG in page and 'id="figure-toy-line"' in page
    assert page.count('<span class="pn-from">From <a href="../toy/">Toys &amp; &lt;games&gt;</a>.</span>') == 2
    assert '<a class="pn-ref" href="#figure-toy-line">Figure 1</a>' in page


def test_a_note_says_nothing_of_the_origin_of_its_own_figures(digest):
    toy_page = digest("Prose.")[0]["toy.md"]
    assert "pn-from" not in toy_page


def test_the_cover_may_be_the_figure_of_another_note(digest):
    made, problems = digest("Prose.", cover="toy/line")
    assert not problems
    assert made["index.md"].count(SVG) == 2  # its own card, and that of the digest


def test_one_drawing_on_two_cards_has_no_identifier_twice(digest, tmp_path):
    drawing = '<svg><clipPath id="a"/><g clip-path="url(#a)"/><use xlink:href="#a"/></svg>'
    (tmp_path / "line.svg").write_text(drawing)
    made, _ = digest("Prose.", cover="toy/line")
    again = drawing.replace('id="a"', 'id="again-a"').replace("#a", "#again-a")
    assert made["index.md"].count(drawing) == made["index.md"].count(again) == 1


@pytest.mark.parametrize(
    ("cover", "problem"),
    [
        ("toy/lime", "notes/gathered.md:8:1: the cover names no figure 'lime'; did you mean 'line'? [unknown-cover]"),
        (
            "tory/line",
            "notes/gathered.md:8:1: a cover of 'tory', which has no snippet; did you mean 'toy'? [unknown-cover]",
        ),
        (
            "line",
            "notes/gathered.md:8:1: a cover of 'gathered', which has no snippet; write cover: slug/figure [unknown-cover]",
        ),
    ],
)
def test_a_cover_that_is_not_there_is_named_with_its_line(digest, cover, problem):
    assert digest("Prose.", cover=cover)[1] == [problem]


def test_updates_and_the_discussion_are_shown_where_there_are_any(toy):
    toy.note(
        more="""
        updates:
          - date: 2026-11-22
            says: Said <b>more</b>.
          - date: 2026-11-23
            says: The exponent was wrong.
            correction: true
        """
    )
    library = load(toy.root)
    assert not library.problems
    (note,) = library.notes
    plain, _ = rendered(note, Site(library))
    assert "last changed 2026-11-23" in plain.markdown
    newest, older = plain.markdown.split("## Updates")[1].split("- **")[1:3]
    assert newest.startswith("2026-11-23** (correction): The exponent") and "&lt;b&gt;" in older
    assert "Discuss this note" not in plain.markdown and "Pass it on" not in plain.markdown
    about = About(url="https://example.org/", discussion="https://example.org/talk?q={slug}&t={title}")
    told, _ = rendered(note, Site(library, about=about))
    assert 'href="https://example.org/talk?q=toy&amp;t=A%20toy"' in told.markdown
    assert "https%3A%2F%2Fexample.org%2Ftoy%2F" in told.markdown
