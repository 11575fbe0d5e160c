"""All notes and their results come in; the pages and files that are made from all of them go out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from generator import claims, markup, roofline, speed
from generator.expand import expand
from generator.partials import partial, templates
from generator.render import render, render_home
from generator.schema import Asset, Note, Page, Problem
from generator.site import Site, count_verdicts
from generator.web import surroundings

ASSETS = Path(__file__).parent / "assets"
NEWEST = 12
"""Cards on the home page; the rest are on the page of all notes."""


def pages(site: Site) -> tuple[list[Page], list[Problem]]:
    """Return every page of the site, and what the notes name that is not there."""
    bodies = {note.slug: expand(note, site) for note in site.library.notes}
    around = surroundings(site, bodies, newest_first(site.library.notes))
    made, problems = [], []
    for note in site.library.notes:
        body = bodies[note.slug]
        made.append(render(note, body, around[note.slug], site))
        problems += [*body.problems, *claims.problems(note, site.results.get(note.slug))]
    made += [_broken(slug, found) for slug, found in site.library.broken.items()]
    home, found = _home(site)
    made += [home, _all_notes(site), _all_claims(site), _all_kernels(site), *_tags(site), *_papers(site)]
    problems += [*found, *_disagreeing(site)]
    problems += [problem for snippet in site.library.snippets.values() for problem in speed.problems(snippet)]
    return made, problems


def assets(site: Site) -> list[Asset]:
    """Return every file of the site that is no page: the generator's own, each snippet's code, each figure."""
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
        Asset(path=f"files/{slug}/{file}", source=result.folder / file)
        for slug, result in site.results.items()
        for figure in result.figures.values()
        for file in figure["files"]
    ]
    return own + code + figures


def newest_first(notes: Iterable[Note]) -> list[Note]:
    """Return notes by the day they were added, newest first, and by title within a day."""
    return sorted(notes, key=lambda note: (-note.front.added.toordinal(), note.front.title.lower()))


def _page(path: str, template: str, site: Site, **values: Any) -> Page:
    def link(target: str) -> str:
        return markup.address(path, target, site.directory_urls)

    return Page(path=path, markdown=templates().get_template(template).render(link=link, **values))


def _cards(path: str, notes: Iterable[Note], site: Site) -> Markup:
    return Markup(partial("cards", cards=[_card(path, note, site) for note in notes]))


def _card(path: str, note: Note, site: Site) -> dict[str, Any]:
    papers = site.papers(note)
    result = site.results.get(note.slug)
    figure = None
    if result and result.figures:
        cover = result.figures.get(note.front.cover or "") or next(iter(result.figures.values()))
        figure = Markup((result.folder / cover["files"][0]).read_text(encoding="utf-8"))
    line = f"{papers[0].short_authors}, {papers[0].year}" if papers else f"{note.front.kind}, {note.front.added.year}"
    return {
        "href": markup.address(path, f"{note.slug}.md", site.directory_urls),
        "title": note.front.title,
        "line": line,
        "summary": note.front.summary,
        "figure": figure,
        "counts": count_verdicts(site.judged(note)),
    }


def _home(site: Site) -> tuple[Page, tuple[Problem, ...]]:
    file = site.library.root / "notes" / "index.md"

    def cards() -> Markup:
        return _cards("index.md", newest_first(site.library.notes)[:NEWEST], site)

    def counts() -> str:
        judged = [one for note in site.library.notes for one in site.judged(note)]
        kernels = sum(len(result.kernels) for result in site.results.values())
        return partial("counts", notes=len(site.library.notes), kernels=kernels, counts=count_verdicts(judged))

    text, problems = render_home(file, site, {"cards": cards, "counts": counts})
    if not text.startswith("---"):
        text = "---\nhide: [navigation, toc]\n---\n\n" + text
    return Page(path="index.md", markdown=text, source="notes/index.md"), problems


def _all_notes(site: Site) -> Page:
    rows = []
    for note in newest_first(site.library.notes):
        papers = site.papers(note)
        judged = site.judged(note)
        rows.append({"note": note, "papers": papers, "counts": count_verdicts(judged)})
    return _page("notes.md", "notes.md", site, rows=rows)


def _all_claims(site: Site) -> Page:
    rows = [(note, one) for note in newest_first(site.library.notes) for one in site.judged(note)]
    return _page("claims.md", "claims.md", site, rows=rows, counts=count_verdicts(one for _, one in rows))


def _all_kernels(site: Site) -> Page:
    rows = []
    for slug, result in sorted(site.results.items()):
        if slug not in site.library.by_slug:
            continue
        for name, kernel in result.kernels.items():
            href = markup.address("kernels.md", f"{slug}.md#kernel-{name}", site.directory_urls)
            found = speed.speeds(site.library.snippets[slug], name)
            shares = [row.copy_share for one in found for row in one.rows if row.copy_share is not None]
            rows.append(
                {
                    "note": site.library.by_slug[slug],
                    "name": name,
                    "href": href,
                    "kernel": kernel,
                    "place": speed.declared(name, kernel, href),
                    "worst": max((p["worst_share"] for p in kernel["parity"]), default=0.0, key=float),
                    "agrees": all(p["holds"] for p in kernel["parity"]),
                    "registers": max((row["registers"] for row in kernel["compiled"]), default=None),
                    "widest": max((row["widest_load"] for row in kernel["compiled"]), default=None),
                    "spills": sum(row["spills"] for row in kernel["compiled"]),
                    "speeds": found,
                    "speed": speed.state(found),
                    "share": max(shares, default=None),
                }
            )
    targets = dict.fromkeys(one["target"] for row in rows for one in row["kernel"]["compiled"])
    return _page("kernels.md", "kernels.md", site, rows=rows, plots=_rooflines(rows), targets=targets)


def _rooflines(rows: list[dict[str, Any]]) -> list[Markup]:
    """Return one plot a GPU that was measured on, and the kernels not yet measured along their operations a byte."""
    plots = []
    machines = {one.gpu: one for row in rows for one in row["speeds"]}
    for gpu, machine in sorted(machines.items()):
        dots = [
            dot for row in rows for one in row["speeds"] if one.gpu == gpu
            for dot in speed.measured(row["name"], one, row["href"])
        ]  # fmt: skip
        if plot := roofline.roofline(dots, machine.roof):
            plots.append(Markup(partial("roofline", plot=plot, **speed.words(gpu, machine))))
    if plot := roofline.strip(row["place"] for row in rows if not row["speeds"]):
        plots.append(Markup(partial("roofline", plot=plot, **speed.UNMEASURED)))
    return plots


def _tags(site: Site) -> list[Page]:
    tagged: dict[str, list[Note]] = defaultdict(list)
    for note in site.library.notes:
        for tag in note.front.tags:
            tagged[tag].append(note)
    made = [_page("tags/index.md", "tags.md", site, tagged={tag: tagged[tag] for tag in sorted(tagged)})]
    for tag, notes in sorted(tagged.items()):
        path = f"tags/{tag}.md"
        made.append(_page(path, "tag.md", site, tag=tag, n=len(notes), cards=_cards(path, newest_first(notes), site)))
    return made


def _papers(site: Site) -> list[Page]:
    about: dict[str, list[Note]] = defaultdict(list)
    for note in site.library.notes:
        for key in note.front.papers:
            about[key].append(note)
    papers = [site.library.papers[key] for key in about if key in site.library.papers]
    papers.sort(key=lambda paper: (-(paper.year or 0), paper.title.lower()))
    made = [_page("papers/index.md", "papers.md", site, papers=[(paper, about[paper.key]) for paper in papers])]
    for paper in papers:
        path = f"papers/{paper.key}.md"
        cards = _cards(path, newest_first(about[paper.key]), site)
        bibtex = Markup(markup.fence(paper.bibtex, "bibtex"))
        made.append(_page(path, "paper.md", site, paper=paper, cards=cards, bibtex=bibtex))
    return made


def _broken(slug: str, problems: tuple[Problem, ...]) -> Page:
    said = partial("problems", problems=problems)
    return Page(path=f"{slug}.md", markdown=f"# {markup.escape(slug)}\n{said}", source=problems[0].file)


def _disagreeing(site: Site) -> list[Problem]:
    return [
        Problem(
            f"snippets/{slug}/kernel.py",
            line=1,
            what=f"kernel '{name}' disagrees with its twin ({row['dtype']}, {row['direction']})",
            fix="mend the kernel; a tolerance is never loosened",
        )
        for slug, result in site.results.items()
        for name, kernel in result.kernels.items()
        for row in kernel["parity"]
        if not row["holds"]
    ]
