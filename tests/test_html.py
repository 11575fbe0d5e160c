"""The built pages as files: they parse, nothing is named twice, and what they name is there."""

import re
from html.parser import HTMLParser

import pytest

justhtml = pytest.importorskip("justhtml", reason="justhtml reads HTML as a browser does: pip install -e .[dev]")
KINDS = (
    "index.html", "multi_residual/index.html", "kallisto/index.html", "claims/index.html", "kernels/index.html",
    "notes/index.html", "graph/index.html", "timeline/index.html", "papers/index.html", "data/index.html", "runs/index.html",
)  # fmt: skip


class Page(HTMLParser):
    """The identifiers, the links, and the files it loads or names in its head."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.loads, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if given.get("id") else []
        self.links += [given["href"]] if tag == "a" and given.get("href") else []
        if tag == "link" or (tag in ("script", "img") and given.get("src")):
            self.loads.append(given.get("href") or given.get("src"))
        if tag == "meta" and given.get("property") == "og:image":
            self.loads.append(given["content"])


@pytest.mark.parametrize("name", KINDS)
def test_a_browser_has_nothing_to_mend_in_the_html(built_site, name):
    read = justhtml.JustHTML((built_site / name).read_text(encoding="utf-8"), collect_errors=True)
    assert [str(error) for error in read.errors] == []


def read_pages(site):
    """Return what every page of a site holds, by its file."""
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def broken_links(site, pages):
    """Return each internal link that leads nowhere, with the page it stands on."""
    broken = []
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:|//", target):
                continue
            folder = site if path.name == "404.html" else path.parent
            file = (folder / target.partition("?")[0].lstrip("/")).resolve() if target else path
            file = file / "index.html" if file.is_dir() else file
            if not file.exists() or (anchor and file in pages and anchor not in pages[file].ids):
                broken.append((path.relative_to(site).as_posix(), link))
    return broken


@pytest.fixture(scope="module")
def every_page(built_site):
    return read_pages(built_site)


def test_every_internal_link_and_anchor_resolves(built_site, every_page):
    assert broken_links(built_site, every_page) == []


def test_no_identifier_stands_twice_on_a_page_and_every_file_it_names_is_there(built_site, every_page):
    for path, page in every_page.items():
        assert len(page.ids) == len(set(page.ids)), (path, {one for one in page.ids if page.ids.count(one) > 1})
        for load in page.loads:
            assert not re.match(r"(https?:)?//", load), (path, load)
            folder = built_site if path.name == "404.html" else path.parent
            file = folder / load.split("?")[0].lstrip("/")
            assert file.exists(), (path, load)


def test_every_page_names_its_feed_and_every_note_its_card(built_site):
    for name in KINDS:
        assert 'type="application/atom+xml"' in (built_site / name).read_text(encoding="utf-8")
    for name in ("multi_residual", "kallisto"):
        assert f"assets/cards/{name}.png" in (built_site / name / "index.html").read_text(encoding="utf-8")
