"""All notes and their results come in; the pages and files that are made from all of them go out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from markupsafe import Markup

from generator import api, archives, claims, drawings, feeds, graph, markup, search, social, speed, tables
from generator.cards import cards
from generator.codes import RULES
from generator.expand import expand
from generator.partials import page, partial, show_problems
from generator.places import place
from generator.render import render, render_home
from generator.schema import Asset, Note, Page, Problem
from generator.site import Site, named_cover
from generator.spelling import nearest
from generator.web import Surroundings, surroundings

ASSETS = Path(__file__).parent / "assets"
MATH_FONT = "assets/papernotes/fonts/STIXTwoMath.woff2"
NEWEST = 12
"""Cards on the home page; the rest are on the page of all notes."""


def pages(site: Site) -> tuple[list[Page], list[Problem]]:
    """Return every page of the site, and what the notes name that is not there."""
    bodies = {note.slug: expand(note, site) for note in site.library.notes}
    around = surroundings(site, bodies, site.newest)
    made, problems = [], []
    for note in site.library.notes:
        body = bodies[note.slug]
        own: list[Problem] = []
        if note.slug not in site.rerunning:  # what an older result contradicts may be mended already
            own = [*claims.problems(note, site.results.get(note.slug)), *_cover(note, site)]
            problems += [*own, *body.problems]
        said = [
            one for one in (*site.problems.get(note.file, ()), *own) if one not in body.problems
        ]  # those stand in place
        made.append(render(note, body, around[note.slug], site, said))
    made += [_broken(slug, found, site) for slug, found in site.library.broken.items()]
    home, found = _home(site)
    made += [home, *tables.notes(site), *tables.claims(site), *tables.kernels(site), *tables.methods(site)]
    made += [*tables.runs(site), *tables.reading(site), tables.data(site)]
    made += [*archives.papers(site), *archives.tags(site), *archives.authors(site), archives.venues(site)]
    made += [archives.timeline(site), _graph(site, around), page("problems.md", "problems.md", site, rules=RULES)]
    problems += [*found, *_disagreeing(site)]
    problems += [problem for snippet in site.library.snippets.values() for problem in speed.problems(snippet)]
    notes = {f"{note.slug}.md": note for note in site.library.notes}
    return [
        page.model_copy(update={"head": _math_font(page, site) + social.head(page.path, notes.get(page.path), site)})
        for page in made
    ], problems


def _math_font(page: Page, site: Site) -> str:
    """Return the line that asks for the font of formulae at once, for a page that has any: they never change under a reader."""
    if "<math" not in page.markdown:
        return ""
    href = markup.address(page.path, MATH_FONT, site.directory_urls)
    return f'<link rel="preload" as="font" type="font/woff2" crossorigin href="{href}">\n'


def _cover(note: Note, site: Site) -> Iterator[Problem]:
    of, name = named_cover(note)
    result = site.results.get(of)
    at = place(note, "cover")
    if of not in site.library.snippets and name:
        own = of == note.slug
        fix = "write cover: slug/figure" if own else nearest(of, site.library.snippets)
        yield Problem(note.file, at, f"a cover of '{of}', which has no snippet", fix, code="unknown-cover")
    elif result and name and name not in result.figures:
        fix = nearest(name, result.figures)
        yield Problem(note.file, at, f"the cover names no figure '{name}'", fix, code="unknown-cover")


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


def _home(site: Site) -> tuple[Page, tuple[Problem, ...]]:
    file = site.library.root / "notes" / "index.md"

    def newest() -> Markup:
        return cards("index.md", site.newest[:NEWEST], site)

    def counts() -> str:
        number = sum(len(result.kernels) for result in site.results.values())
        kernels = tables.kernel_counts(site)
        return partial("counts", notes=len(site.library.notes), counts=site.counts, number=number, kernels=kernels)

    text, problems = render_home(file, site, {"cards": newest, "counts": counts})
    if not text.startswith("---"):
        text = "---\nhide: [navigation, toc]\n---\n\n" + text
    return Page(path="index.md", markdown=text, source="notes/index.md"), problems


def _graph(site: Site, around: Mapping[str, Surroundings]) -> Page:
    found = graph.links(site.newest, {slug: [one.slug for one in near.mentions] for slug, near in around.items()})
    plot = graph.graph(site.newest, found)
    hrefs = {note.slug: site.link("graph.md", f"{note.slug}.md") for note in site.newest}
    drawn = Markup(partial("graph", plot=plot, hrefs=hrefs))
    return page("graph.md", "graph.md", site, graph=drawn, left_out=plot.left_out)


def _broken(slug: str, problems: tuple[Problem, ...], site: Site) -> Page:
    said = show_problems(problems, f"{slug}.md", site)
    return Page(path=f"{slug}.md", markdown=f"# {markup.escape(slug)}\n{said}", source=problems[0].file)


def _disagreeing(site: Site) -> list[Problem]:
    return [
        Problem(
            f"snippets/{slug}/kernel.py",
            line=1,
            what=f"kernel '{name}' disagrees with its twin ({row['dtype']}, {row['direction']})",
            fix="mend the kernel; a tolerance is never loosened",
            code="kernel-disagrees",
        )
        for slug, result in site.results.items()
        for name, kernel in result.kernels.items()
        for row in kernel["parity"]
        if not row["holds"]
    ]
