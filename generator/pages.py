"""All notes and their results come in; the pages and files that are made from all of them go out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from generator import api, archives, drawings, feeds, graph, markup, search, social, tables
from generator.codes import RULES
from generator.filled import Read
from generator.partials import page, partial, show_problems
from generator.render import render
from generator.schema import Asset, Page, Problem
from generator.site import Site
from generator.web import Surroundings, surroundings

ASSETS = Path(__file__).parent / "assets"
MATH_FONT = "assets/papernotes/fonts/STIXTwoMath.woff2"


def pages(site: Site, read: Read) -> list[Page]:
    """Return every page of the site."""
    around = surroundings(site, read.bodies, site.newest)
    made = []
    for note in site.library.notes:
        body = read.bodies[note.slug]
        wrong = (*site.problems.get(note.file, ()), *read.beside.get(note.slug, ()))
        said = [one for one in wrong if one not in body.problems]  # those stand in place
        made.append(render(note, body, around[note.slug], site, said))
    made += [_broken(slug, found, site) for slug, found in site.library.broken.items()]
    made += [read.home, *tables.notes(site), *tables.claims(site), *tables.kernels(site), *tables.methods(site)]
    made += [*tables.runs(site), *tables.reading(site), tables.data(site)]
    made += [*archives.papers(site), *archives.tags(site), *archives.authors(site), archives.venues(site)]
    made += [archives.timeline(site), _graph(site, around), page("problems.md", "problems.md", site, rules=RULES)]
    notes = {f"{note.slug}.md": note for note in site.library.notes}
    return [
        page.model_copy(update={"head": _math_font(page, site) + social.head(page.path, notes.get(page.path), site)})
        for page in made
    ]


def _math_font(page: Page, site: Site) -> str:
    """Return the line that asks for the font of formulae at once, for a page that has any: they never change under a reader."""
    if "<math" not in page.markdown:
        return ""
    href = markup.address(page.path, MATH_FONT, site.directory_urls)
    return f'<link rel="preload" as="font" type="font/woff2" crossorigin href="{href}">\n'


def assets(site: Site) -> list[Asset]:
    """Return every file of the site that is no page: the generator's own, code, figures, and what other programs read."""
    own = [
        Asset(path=f"assets/papernotes/{path.relative_to(ASSETS).as_posix()}", source=path)
        for path in sorted(ASSETS.rglob("*"))
        if path.is_file()
    ]
    code = [
        Asset(path=f"files/{slug}/{file}", source=snippet.folder / file)
        for slug, snippet in site.library.snippets.items()
        for file in snippet.files
    ]
    figures = [
        _figure(f"files/{slug}/{file}", result.folder, file)
        for slug, result in site.results.items()
        for figure in result.figures.values()
        for file in figure["files"]
        if drawings.is_plain(file)
    ]
    return [
        *site.library.files,
        *own,
        *code,
        *figures,
        *api.files(site),
        *feeds.files(site),
        *social.files(site),
        search.asset(site),
    ]


def _figure(path: str, folder: Path, file: str) -> Asset:
    """Return a figure's file as it was recorded, or written anew where it holds what could run when it is opened."""
    found = drawings.drawing(folder, file)
    return Asset(path=path, text=found.svg) if found.left_out else Asset(path=path, source=folder / file)


def _graph(site: Site, around: Mapping[str, Surroundings]) -> Page:
    found = graph.links(site.newest, {slug: [one.slug for one in near.mentions] for slug, near in around.items()})
    plot = graph.graph(site.newest, found)
    hrefs = {note.slug: site.link("graph.md", f"{note.slug}.md") for note in site.newest}
    drawn = Markup(partial("graph", plot=plot, hrefs=hrefs))
    return page("graph.md", "graph.md", site, graph=drawn, left_out=plot.left_out)


def _broken(slug: str, problems: tuple[Problem, ...], site: Site) -> Page:
    said = show_problems(problems, f"{slug}.md", site)
    return Page(path=f"{slug}.md", markdown=f"# {markup.escape(slug)}\n{said}", source=problems[0].file)
