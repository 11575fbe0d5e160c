"""Which prose a listing is set beside, and that nothing is lost or moved by it."""

import markdown
import pytest

from generator.beside import beside
from generator.lift import lift

LISTING = "```python\n" + "x = 1\n" * 8 + "```\n"


@pytest.fixture
def body():
    """Return a function from a body, LISTING standing for a listing and FIGURE for a figure, to what becomes of it."""

    def make(text):
        lifted = lift(text)
        for word, kind, piece in (("LISTING", "source", LISTING), ("FIGURE", "html", "<figure>f</figure>")):
            while word in lifted.text:
                lifted.text = lifted.text.replace(word, lifted.put(kind, piece), 1)
        made = beside(lifted.text, lifted)
        return lifted.back(made, lambda kind, piece: f"$${piece}$$" if kind == "display math" else piece)

    return make


def halves(text):
    """Return the prose and the listings of each pair."""
    found = []
    for part in text.split('<div class="pn-pair" markdown="1">')[1:]:
        prose, _, code = part.partition('<div class="pn-pair-code" markdown="1">')
        found.append((prose.partition('markdown="1">')[2].partition("</div>")[0].strip(), code.partition("</div>")[0]))
    return found


def test_a_listing_stands_beside_the_paragraphs_and_formulae_before_it(body):
    (pair,) = halves(body("# Head\n\nFirst.\n\n$$\nx\n=\n1\n$$\n\nSecond.\n\nLISTING\n\nAfter."))
    assert pair[0].startswith("First.") and pair[0].endswith("Second.") and "$$x" in pair[0]
    assert LISTING in pair[1]


@pytest.mark.parametrize(
    "wall", ["## Heading", "FIGURE", "| a |\n|---|\n| 1 |", "```sh\nls\n\nls\n```", "!!! note\n    n"]
)
def test_no_pair_reaches_over_anything_that_is_not_prose(body, wall):
    (pair,) = halves(body(f"Before.\n\n{wall}\n\nProse.\n\nLISTING"))
    assert pair[0] == "Prose."


def test_no_more_prose_is_taken_than_the_listing_is_long(body):
    text = "\n\n".join(f"{name} " + "word " * 40 for name in ("one", "two", "three", "four"))
    (pair,) = halves(body(f"{text}\n\nLISTING"))
    assert pair[0].startswith("three") and "four" in pair[0]


def test_listings_in_a_row_share_their_prose(body):
    (pair,) = halves(body("Prose.\n\nLISTING\n\nLISTING"))
    assert pair[1].count("```python") == 2


def test_a_listing_without_prose_stays_as_it_is(body):
    assert "pn-pair" not in body("LISTING\n\nAfter.\n")


def test_every_block_is_kept_in_its_order(body):
    made = body("One.\n\n- a\n- b\n\nLISTING\n\n## Two\n\nFIGURE\n\nThree $x$ and `c`.\n\nLISTING\n\nFour.\n")
    places = [made.index(word) for word in ("One.", "- a", "## Two", "<figure>", "Three", "Four.")]
    assert places == sorted(places)
    assert made.count(LISTING) == 2


def test_markdown_reads_what_stands_in_a_pair(body):
    html = markdown.markdown(
        body("Some *prose* with\n[a link](x.md).\n\nLISTING\n\nAfter."),
        extensions=["md_in_html", "pymdownx.superfences", "attr_list"],
    )
    assert "<em>prose</em>" in html and '<a href="x.md">' in html
    assert (
        html.index("pn-pair-prose")
        < html.index("pn-pair-code")
        < html.index('class="highlight"')
        < html.index("After.")
    )
    assert "```" not in html and "markdown=" not in html
