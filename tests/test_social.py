"""Cards and heads: what other sites show of a link, made without any network."""

import os
from html.parser import HTMLParser

import pytest
from PIL import Image

from generator import social
from generator.load import load
from generator.schema import About
from generator.site import Site

WHERE = About(name="Notes & more", description="What we read", url="https://example.org/notes/")


class Head(HTMLParser):
    """The properties and links of a head, as a reader of it sees them."""

    def __init__(self, text):
        super().__init__()
        self.said, self.links = {}, {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "meta":
            self.said[given.get("property") or given["name"]] = given["content"]
        else:
            self.links[given["type"]] = given["href"]


@pytest.fixture
def site(toy):
    toy.note(title="'A \"toy\" <b>'", summary="'Less < more'")
    return Site(load(toy.root), about=WHERE)


def test_a_note_says_who_it_is_to_whoever_links_to_it(site):
    head = Head(social.head("toy.md", site.library.notes[0], site))
    assert head.said["og:title"] == 'A "toy" <b>'
    assert head.said["og:description"] == "Less < more"
    assert head.said["og:url"] == "https://example.org/notes/toy/"
    assert head.said["og:image"] == "https://example.org/notes/assets/cards/toy.png"
    assert head.said["article:published_time"] == str(site.library.notes[0].front.added)
    assert head.links == {"application/atom+xml": "../feed.xml", "application/json": "../api/v1/notes/toy.json"}


def test_any_other_page_speaks_for_the_site_and_names_its_feed(site):
    head = Head(social.head("papers/index.md", None, site))
    assert head.said["og:title"] == "Notes & more"
    assert head.said["og:url"] == "https://example.org/notes/papers/"
    assert head.links == {"application/atom+xml": "../feed.xml"}


def test_without_an_address_the_card_is_named_from_the_page(toy):
    site = Site(load(toy.root))
    head = Head(social.head("toy.md", site.library.notes[0], site))
    assert head.said["og:image"] == "../assets/cards/toy.png"
    assert "og:url" not in head.said


def test_cards_are_drawn_at_the_size_that_sites_crop_to_and_weigh_little(site):
    made = social.files(site)
    assert [asset.path for asset in made] == ["assets/cards/index.png", "assets/cards/toy.png"]
    for asset in made:
        assert Image.open(asset.source).size == (1200, 630)
        assert asset.source.stat().st_size < 40_000


def test_a_card_is_drawn_once_and_again_when_what_it_says_has_changed(site, toy, monkeypatch):
    first = social.files(site)
    monkeypatch.setattr(social, "draw", None)
    assert social.files(site) == first
    monkeypatch.undo()
    toy.note(title="Another title")
    second = social.files(Site(load(toy.root), about=WHERE))
    assert second[0] == first[0]
    assert second[1].source != first[1].source


def test_a_card_that_no_build_used_for_a_day_is_removed_and_one_in_use_never_is(site, toy):
    home, note = (asset.source for asset in social.files(site))
    for name in ("fresh.png", "old.png"):
        (home.parent / name).write_bytes(b"another title's")
    for path in (home, note, home.parent / "old.png"):
        os.utime(path, (0, 0))
    social.files(site)
    assert {path.name for path in home.parent.iterdir()} == {home.name, note.name, "fresh.png"}
    os.utime(home.parent / "fresh.png", (4e9, 4e9))  # a clock that was set back since
    assert all(asset.source.exists() for asset in social.files(site))


@pytest.mark.parametrize(
    "title",
    ["x" * 400, "many words " * 60, "日本語の題名", "Σ and α → ∞", "a"],
    ids=["long", "many", "cjk", "signs", "one"],
)
def test_no_title_spills_over_the_verdicts_or_the_edge(title):
    counts = {"reproduced": 900, "contradicted": 90, "untested": 9, "reported only": 99}
    card = social.draw(title, "A, B and C, 2016; " * 12, "summary " * 40, "name", counts).convert("L")
    margins = [(0, 0, 78, 630), (1122, 0, 1200, 630), (0, 0, 1200, 78), (0, 480, 1200, 483)]
    assert [card.crop(box).getextrema() for box in margins] == [(255, 255)] * 4


def test_a_bar_is_as_long_as_its_share():
    card = social.draw("t", "l", "", "n", {"reproduced": 3, "contradicted": 1}).convert("RGB")
    row = [card.getpixel((x, 630 - 80 - 60)) for x in range(1200)]
    good, bad = (row.count(color) for color in ((23, 102, 63), (161, 44, 28)))
    assert good == pytest.approx(780, abs=4)
    assert bad == pytest.approx(260, abs=4)


def test_a_folder_that_cannot_be_written_to_costs_the_cards_alone(site, toy):
    (toy.root / ".papernotes").write_text("a file in the way")
    assert social.files(site) == []
