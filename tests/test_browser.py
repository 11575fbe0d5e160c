"""The real site in a real browser: what a reader sees, finds and loads."""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browsing import CHROMIUM, FLAGS, SCHEMES, WIDTHS, opened, served, until
from conftest import Project

from generator.filled import NEWEST
from generator.load import load

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    "claims/", "kernels/", "notes/", "methods/", "graph/", "timeline/", "papers/", "tags/", "authors/", "venues/", "data/", "runs/", "reading/", "problems/",
]  # fmt: skip
NOTES = [note.slug for note in load(ROOT).notes]

PAINTED = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: install one (Debian: chromium) to run the browser tests"
)


@pytest.fixture(scope="module")
def base(built_site):
    with served(built_site) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(browser, base):
    """Return a function that opens a page and fails the test on any request elsewhere or console error."""
    contexts, faults = [], []

    def open_page(address="", scheme="light", width=1440, idle=True, **how):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **how)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda request: (
                faults.append(request.url) if not request.url.startswith((base, "data:", "blob:")) else None
            ),
        )
        response = opened(page, base + address) if idle else page.goto(base + address, wait_until="load")
        assert response.ok, address
        page.evaluate(PAINTED)  # a key pressed before the first picture is nobody's
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("slug", NOTES)
def test_figures_are_visible_and_legible_in_both_schemes(visit, slug, scheme):
    page = visit(f"{slug}/", scheme, idle=False)
    figures = page.locator(".pn-figure:not(.pn-roofline)")
    assert figures.locator(".pn-panel").count() >= 2
    dark = scheme == "dark"
    for number in range(figures.count()):
        figure = figures.nth(number)
        box = figure.locator("svg").first.bounding_box()
        assert box["width"] > 200
        assert box["height"] > 100
        assert figure.locator("[role=img]").get_attribute("aria-label")
        assert figure.locator("figcaption").inner_text().startswith(f"Figure {number + 1}.")
        ink = figure.locator("svg text").first.evaluate("e => getComputedStyle(e).fill")
        brightness = sum(int(part) for part in ink.removeprefix("rgb(").rstrip(")").split(",")[:3]) / 3
        assert (brightness > 150) == dark, (slug, number, ink)


@pytest.mark.parametrize("address", ["", *PAGES, *(f"{slug}/" for slug in NOTES)])
def test_nothing_is_wider_than_the_screen(visit, address):
    page = visit(address, idle=False)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


LOOKS = [("light", 1440), ("dark", 390)]
REACHABLE = "[...document.querySelectorAll('pre > code')].every(code => code.scrollWidth <= code.clientWidth || code.tabIndex === 0)"
"""Whether all code that scrolls can be scrolled from the keyboard."""


@pytest.mark.parametrize(
    ("address", "scheme", "width"),
    [(address, *look) for address in ["", *PAGES] for look in LOOKS]
    + [(f"{slug}/", *LOOKS[number % 2]) for number, slug in enumerate(NOTES)],
)
def test_axe_finds_nothing_wrong(visit, address, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(address, scheme, width)
    until(page, REACHABLE)  # the theme sees to it once it has the time
    found = axe.run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []


def test_a_link_to_a_note_shows_what_it_leads_to_by_mouse_and_escape_closes_it(visit):
    page = visit("self_normalizing/")
    link, preview = page.locator("article a.pn-note[href*=elu]").first, page.locator("#pn-preview")
    link.hover()
    preview.wait_for()
    assert "Exponential Linear Units" in preview.inner_text() and "reproduced" in preview.inner_text()
    assert link.get_attribute("aria-describedby") == "pn-preview"
    box = preview.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 1440
    page.keyboard.press("Escape")
    assert not preview.is_visible() and link.get_attribute("aria-describedby") is None


def test_a_citation_shows_its_entry_from_the_keyboard(visit):
    page = visit("elu/")
    page.locator("article a.pn-cite").first.focus()
    page.keyboard.press("Tab")
    page.locator("#pn-preview").wait_for()
    key = page.evaluate("document.activeElement.getAttribute('href')")
    assert page.locator("#pn-preview").inner_text() == page.locator(key).inner_text()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") != key


def test_on_a_touch_screen_the_first_tap_shows_and_the_second_follows(visit):
    page = visit("elu/", "dark", 390, has_touch=True)
    link = page.locator("article a.pn-cite").nth(2)
    link.scroll_into_view_if_needed()
    link.tap()
    page.locator("#pn-preview").wait_for()
    assert "#" not in page.url
    box = page.locator("#pn-preview").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    link.tap()
    page.wait_for_url("**#ref-*")


def test_the_graph_has_a_dot_for_every_note_and_leads_there(visit):
    page = visit("graph/", "dark")
    assert page.locator(".pn-graph a").count() == len(NOTES)
    page.locator(".pn-graph a[href*=kallisto] circle").click()
    page.wait_for_url("**/kallisto/")


def open_search(page, key):
    """Press the key that opens the search; again where a browser that is still busy lost it, as a reader would."""
    for _ in range(5):
        page.keyboard.press(key)
        if page.locator(".pn-search input").is_visible():
            return
        page.wait_for_timeout(500)
    pytest.fail(f"'{key}' does not open the search")


def ask(page, words):
    """Type words into the search and return what it says and the links it finds, best first."""
    page.locator(".pn-search input").fill("")
    until(page, "document.querySelector('.pn-search-said').textContent == ''")
    page.locator(".pn-search input").fill(words)
    until(page, "document.querySelector('.pn-search-said').textContent != ''")
    links = page.locator(".pn-search-found > li > a").evaluate_all("links => links.map(link => link.pathname)")
    return page.locator(".pn-search-said").inner_text(), links


def test_search_finds_notes_by_what_researchers_type_and_forgives_typing_errors(visit):
    page = visit("claims/")
    open_search(page, "/")
    for words, slug in {
        "pseudoalignment": "kallisto",
        "Clevert": "elu",
        "Krizhevsky 2012": "alexnet",
        "embedding_bag": "quora_duplicates",
        "interpretability": "lime",
        "variance of the Laplacian": "selfai",
    }.items():
        said, links = ask(page, words)
        assert links[0].endswith(f"/{slug}/"), (words, links)
        assert "Nothing" not in said
    said, links = ask(page, "gumbal sofmtax")
    assert said.startswith("Nothing for “gumbal sofmtax”.") and "for “gumbel softmax”" in said
    assert links[0].endswith("/gumbel_softmax/")
    assert ask(page, "xqzzt") == ("Nothing for “xqzzt”.", [])


def test_search_is_used_from_the_keyboard_alone_and_shows_the_kind_of_note(visit):
    page = visit("elu/")
    open_search(page, "s")
    _, links = ask(page, "gumbel")
    assert len(links) > 1
    assert page.locator(".pn-search-kind").first.inner_text() == "paper, 2017"
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.pathname") == links[0]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Escape")
    assert not page.locator(".pn-search").is_visible()
    page.locator(".pn-search-open").press("Enter")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{links[0]}")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing_wrong_with_the_search(visit, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit("elu/", scheme, 390)
    page.locator(".pn-search-open").click()
    ask(page, "residual")
    found = axe.run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []


def test_the_search_index_is_fetched_at_the_first_query_and_only_what_it_needs(visit):
    page = visit("elu/")
    loaded = {}
    page.on("response", lambda response: loaded.update({response.url: response.body()}))
    open_search(page, "/")
    ask(page, "gumbel softmax")
    page.wait_for_load_state("networkidle")
    weight = sum(len(gzip.compress(body)) for body in loaded.values())
    assert any("pagefind.js" in url for url in loaded)
    assert weight <= 300_000


def test_the_home_page_has_a_card_with_a_figure_for_the_newest_notes(visit):
    page = visit("", width=390)
    shown = min(NEWEST, len(NOTES))
    assert page.locator(".pn-card").count() == shown
    assert page.locator(".pn-card svg").count() == shown
    page.locator(".pn-card a").first.click()
    page.wait_for_selector(".pn-head")


def test_the_table_of_kernels_sorts_by_any_column_from_the_keyboard(visit):
    page = visit("kernels/")

    def column(n):
        cells = page.locator(f"table.sortable tbody td:nth-child({n})").all()
        return [cell.get_attribute("data-sort") or cell.inner_text() for cell in cells]

    page.get_by_role("button", name="Operations a byte").focus()
    page.keyboard.press("Space")
    page.wait_for_selector("th[aria-sort=ascending]")
    page.wait_for_timeout(50)
    intensity = [float(value) for value in column(6)]
    assert intensity == sorted(intensity)
    page.keyboard.press("Enter")
    page.wait_for_selector("th[aria-sort=descending]")
    page.wait_for_timeout(50)
    assert [float(value) for value in column(6)] == intensity[::-1]
    page.get_by_role("button", name="Kernel", exact=True).click()
    page.wait_for_timeout(50)
    assert column(1) == sorted(column(1))
    assert page.locator("th[aria-sort]").count() == 1


def test_the_table_of_notes_filters_and_keeps_the_choice_in_the_address(visit):
    page = visit("notes/")
    rows = page.locator("#rows tbody tr:visible")
    assert rows.count() == len(NOTES)
    page.locator("select[name=tag]").select_option("bioinformatics")
    assert rows.count() == 1
    assert page.locator(".pn-filter output").inner_text() == f"1 of {len(NOTES)}"
    page.reload()
    assert rows.count() == 1
    page.locator("select[name=tag]").select_option("")
    page.get_by_label("Contains").fill("klambauer")
    assert rows.count() == 1
    page.get_by_role("button", name="Year").click()  # sorting keeps what is hidden hidden
    page.wait_for_timeout(50)
    assert rows.count() == 1
    page.get_by_label("Contains").fill("")
    assert rows.count() == len(NOTES)


def test_on_a_phone_a_table_is_a_list_that_can_be_put_in_order(visit):
    page = visit("notes/", "dark", 390)
    assert not page.locator("#rows thead").is_visible()
    years = page.locator("#rows tbody td:nth-child(3)")
    page.locator(".pn-order select").select_option(label="year")
    page.wait_for_timeout(50)
    said = [text for text in years.all_inner_texts() if text]
    assert said == sorted(said) and len(set(said)) > 3


@pytest.fixture(scope="module")
def paged(tmp_path_factory):
    """Return a site whose tables have two rows a page, and which names its repository."""
    project = Project(tmp_path_factory.mktemp("paged"))
    with (project.root / "mkdocs.yml").open("a") as config:
        config.write("\nrepo_url: https://github.com/example/notes\n")
    for n in range(5):
        project.note(f"n{n}", title=f"Note {n}", tags=f"[tag-{n % 2}]")
    code = "from generator import tables; tables.ROWS = 2; from mkdocs.__main__ import cli; cli(['build', '--quiet'])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project.root, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return project.root / "site"


def test_a_table_of_several_pages_is_filtered_and_sorted_as_one(browser, paged):
    with served(paged) as address:
        for act in ("filter", "sort"):
            page = browser.new_page()
            page.goto(f"{address}notes/2/", wait_until="load")
            rows, pager = page.locator("#rows tbody tr:visible"), page.locator("nav.pn-pages")
            assert rows.count() == 2 and pager.is_visible()
            if act == "filter":
                page.locator("select[name=tag]").select_option("tag-0")
                until(page, "document.querySelector('.pn-filter output').textContent == '3 of 5'")
                assert rows.count() == 3
            else:
                page.get_by_role("button", name="Note", exact=True).click()
                until(page, "document.querySelectorAll('#rows tbody tr').length == 5")
                page.wait_for_timeout(50)
                assert [row.inner_text() for row in page.locator("td.pn-title").all()] == [
                    f"Note {n}" for n in range(5)
                ]
            assert not pager.is_visible()
            rows.first.locator("a").first.click()
            page.wait_for_selector(".pn-head")
            page.close()


def test_a_link_to_the_repository_asks_nobody_for_its_stars(browser, paged):
    with served(paged) as address:
        page, said = browser.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda one: said.append(one.url) if not one.url.startswith(address) else None)
        for name in ("n0/", "404.html"):
            opened(page, address + name)
            assert page.locator("a.md-source").first.get_attribute("href") == "https://github.com/example/notes"
        page.close()
    assert said == []


def test_without_scripts_a_note_is_whole_and_a_table_shows_every_row(browser, base):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"{base}self_normalizing/")
    assert page.locator(".pn-figure svg").first.is_visible() and page.locator("math").first.is_visible()
    assert page.locator(".pn-claim .pn-verdict").first.is_visible() and page.locator(".pn-near a").first.is_visible()
    page.goto(f"{base}notes/")
    assert page.locator("#rows tbody tr").count() == len(NOTES)
    assert not page.locator("form.pn-filter").is_visible()  # nothing is promised that does not work
    assert page.locator(".pn-search-open").count() == 0
    page.locator("#rows td.pn-title a").first.click()
    assert page.locator(".pn-head").is_visible()
    page.context.close()


def test_the_site_works_from_a_folder_of_another_site(browser, built_site, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/papernotes").symlink_to(built_site, target_is_directory=True)
    with served(tmp_path) as address:
        page, faults = browser.new_page(), []
        page.on("response", lambda response: faults.append(response.url) if response.status >= 400 else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        for name in ("", "notes/", "graph/", "elu/"):
            opened(page, f"{address}a/papernotes/{name}")
        open_search(page, "/")
        assert ask(page, "gumbel")[1][0] == "/a/papernotes/gumbel_softmax/"
        page.keyboard.press("Escape")
        page.locator("article a.pn-note").first.hover()
        page.locator("#pn-preview").wait_for()
        page.close()
    assert faults == []


def test_claims_filter_by_verdict(visit):
    page = visit("claims/?verdict=contradicted")
    shown = page.locator("#rows tbody tr:visible .pn-verdict").all_inner_texts()
    assert shown and set(shown) == {"contradicted"}


def test_the_plot_of_kernels_leads_to_each_of_them(visit):
    page = visit("kernels/", "dark")
    names = {row.inner_text() for row in page.locator("table.sortable tbody td:first-child").all()}
    dots = page.locator(".pn-roofline a")
    assert dots.count() == len(names)
    dots.first.locator("circle").click()
    page.wait_for_selector(".pn-kernel")
    assert "#kernel-" in page.url


def test_the_scheme_can_be_switched_by_hand(visit):
    page = visit("elu/", "light")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("label[title='Switch to dark']").click()
    until(page, f"getComputedStyle(document.body).backgroundColor != '{before}'")


def test_formulae_are_mathml_with_the_sites_own_font(visit):
    page = visit("elu/")
    assert page.locator("math").count() > 3
    assert page.locator("math").first.evaluate("e => getComputedStyle(e).fontFamily").startswith('"STIX Two Math Web"')


def test_on_a_wide_screen_code_stands_beside_its_prose_and_below_it_on_others(visit):
    for width, beside in ((1680, True), (1440, False), (390, False)):
        page = visit("gumbel_softmax/", width=width)
        pair = page.locator(".pn-pair").first
        prose, code = (pair.locator(f".pn-pair-{name}").bounding_box() for name in ("prose", "code"))
        assert (code["x"] >= prose["x"] + prose["width"]) == beside
        assert (code["y"] >= prose["y"] + prose["height"]) != beside


@pytest.mark.parametrize("slug", ["gumbel_softmax", "identity_mappings"])
def test_a_note_is_light_and_nothing_on_it_moves_while_it_loads(browser, base, slug):
    """At most 150 kB without figures, and no layout shift, on a phone with a fourth of the speed."""
    page = browser.new_context(viewport={"width": 390, "height": 844}).new_page()
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 4})
    page.add_init_script(
        "window.shift = 0; new PerformanceObserver(list => { for (const one of list.getEntries()) window.shift += one.value })"
        ".observe({type: 'layout-shift', buffered: true})"
    )
    loaded = {}
    page.on("response", lambda response: loaded.update({response.url: response.body()}))
    opened(page, f"{base}{slug}/")
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.evaluate("document.fonts.ready.then(() => true)")
    page.wait_for_timeout(300)
    page.wait_for_load_state("networkidle")
    shift = page.evaluate("window.shift")
    page.context.close()
    figures = re.compile(rb'<div class="pn-panels".*?</div>\s*<figcaption', re.DOTALL)
    weight = sum(len(gzip.compress(figures.sub(b"", body))) for body in loaded.values())
    assert any(url.endswith("STIXTwoMath.woff2") for url in loaded)
    assert not any(url.endswith("STIXTwoMath-rest.woff2") for url in loaded)
    assert weight <= 150_000, {url: len(gzip.compress(body)) for url, body in loaded.items()}
    assert shift < 0.01
