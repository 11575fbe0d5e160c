"""All notes and their results come in; the pages that are one table each go out: notes, claims, kernels, methods."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from generator import api, regular, roofline, speed
from generator.embeds import tree as tree_of
from generator.partials import page, partial
from generator.schema import Note, Page, Paper
from generator.site import Site, count_verdicts, newest_first

ROWS = 1000
"""Rows of a table on one page; the rest follow on further pages, which a reader's first filter brings together."""
STATES = ("measured", "older than the kernel", "not yet measured")
"""How a kernel stands on a GPU."""


def notes(site: Site) -> list[Page]:
    """Return every note in one table to sort and filter."""
    rows = [_row(note, site) for note in site.newest]
    return _paged("notes", rows, site, facets=_facets(rows))


def _paged(name: str, rows: list[Any], site: Site, **values: Any) -> list[Page]:
    """Return a table's pages: 'name.md', and from the second on 'name/2.md'."""
    parts = [rows[at : at + ROWS] for at in range(0, len(rows), ROWS)] or [[]]
    paths = [f"{name}.md", *(f"{name}/{n}.md" for n in range(2, len(parts) + 1))]
    return [
        page(path, f"{name}.md", site, rows=part, number=n, paths=paths, **values)
        for n, (path, part) in enumerate(zip(paths, parts, strict=True), start=1)
    ]


def _row(note: Note, site: Site) -> dict[str, Any]:
    papers = site.papers(note)
    snippet, result = site.library.snippets.get(note.slug), site.results.get(note.slug)
    states = [speed.state(speed.speeds(snippet, name)) for name in result.kernels] if snippet and result else []
    counts = count_verdicts(site.judged(note))
    return {
        "note": note,
        "papers": papers,
        "counts": counts,
        "gpu": _gpu(states),
        "facets": {
            "kind": [note.front.kind],
            "year": sorted({str(paper.year) for paper in papers if paper.year}),
            "venue": list(dict.fromkeys(paper.venue for paper in papers if paper.venue)),
            "tag": list(note.front.tags),
            "verdict": list(counts),
            "gpu": [_gpu(states)],
        },
    }


def _gpu(states: list[str]) -> str:
    """Return one word on a note's kernels: measured where any is, else older, else not yet."""
    return next((said for said in STATES if any(state.startswith(said) for state in states)), "no kernel")


def kernel_counts(site: Site) -> dict[str, int]:
    """Return how many kernels agree with their twins and how many do not, and how many were measured on a GPU."""
    found = list(_each_kernel(site))
    agree = sum(_agrees(kernel) for _, _, kernel, _ in found)
    counts = {"agree with their twins": agree, "disagree": len(found) - agree}
    counts |= {said: sum(speed.state(speeds).startswith(said) for *_, speeds in found) for said in STATES}
    return {said: n for said, n in counts.items() if n}


def _facets(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return what each facet can be asked for; one with a single value tells nothing and is left out."""
    found = {
        name: sorted({value for row in rows for value in row["facets"][name]}, reverse=name == "year")
        for name in (rows[0]["facets"] if rows else ())
    }
    return {name: values for name, values in found.items() if len(values) > 1}


def claims(site: Site) -> list[Page]:
    """Return every claim of every note with its verdict; first those that did not come out, then those that did."""
    first = ("contradicted", "reproduced", "untested", "reported only")
    rows = [(note, one) for note in site.newest for one in site.judged(note)]
    rows.sort(key=lambda row: first.index(row[1].verdict))
    counts = count_verdicts(one for _, one in rows)
    return _paged("claims", rows, site, counts=counts, facets={"verdict": list(counts)})


def methods(site: Site) -> list[Page]:
    """Return every public function of every method, with the line that says what it computes."""
    rows: list[dict[str, Any]] = []
    for note in site.newest:
        snippet = site.library.snippets.get(note.slug)
        if snippet is None or "method.py" not in snippet.files:
            continue
        twins = _functions(snippet.folder / "kernel.py") if "kernel.py" in snippet.files else {}
        rows += [
            {"name": name, "signature": signature, "says": says, "note": note, "kernel": name in twins}
            for name, (signature, says) in _functions(snippet.folder / "method.py").items()
        ]
    rows.sort(key=lambda row: (row["name"].lower(), row["note"].slug))
    return _paged("methods", rows, site)


def runs(site: Site) -> list[Page]:
    """Return how each note's snippet ran, what that took, and where."""
    rows: list[dict[str, Any]] = []
    for note in site.newest:
        snippet = site.library.snippets.get(note.slug)
        if snippet is None or not snippet.runs:
            continue
        result, failure = site.results.get(note.slug), site.failures.get(note.slug)
        took: dict[str, Any] = result.data.get("run", {}) if result else {}
        about = result.provenance if result else {}
        outcome = failure.outcome if failure else "succeeded" if result else "not yet run"
        rows.append(
            {
                "note": note,
                "outcome": "rerunning" if note.slug in site.rerunning else outcome,
                "seconds": failure.seconds if failure else took.get("seconds"),
                "peak": failure.peak_memory if failure else took.get("peak_memory"),
                "about": about,
                "versions": ", ".join(f"{said} {about[name]}" for name, said in _VERSIONS.items() if name in about),
            }
        )
    rows.sort(key=lambda row: row["outcome"] == "succeeded")  # what needs a look stands first
    outcomes = sorted({row["outcome"] for row in rows})
    return _paged("runs", rows, site, facets={"outcome": outcomes} if len(outcomes) > 1 else {})


_VERSIONS = {"python": "Python", "torch": "torch", "triton": "Triton", "numpy": "NumPy", "network": "network"}


def reading(site: Site) -> list[Page]:
    """Return every paper that has a place on the reading list, and the notes on those that were read."""
    listed = [paper for paper in site.library.papers.values() if paper.readstatus]
    rows = [_listed(paper, site.by_paper.get(paper.key, [])) for paper in listed]
    rows.sort(key=lambda row: (_READING.index(row["status"]), -(row["paper"].year or 0), row["paper"].title.lower()))
    return _paged("reading", rows, site, facets=_facets(rows))


_READING = ("reading", "to read", "read")
"""What is being read stands first."""


def _listed(paper: Paper, about: list[Note]) -> dict[str, Any]:
    status = "read" if about else paper.readstatus  # who wrote a note has read the paper
    facets = {"status": [status], "year": [str(paper.year)], "venue": [paper.venue] if paper.venue else []}
    return {"paper": paper, "notes": newest_first(about), "status": status, "facets": facets}


def data(site: Site) -> Page:
    """Return what there is to take away, file by file."""
    return page("data.md", "data.md", site, files=[(f"{api.FOLDER}/{name}", says) for name, says in _DATA] + _FEEDS)


_DATA = [
    ("index.json", "what there is, and how much of each"),
    ("notes.json", "every note: title, papers, tags, relations, claims, kernels"),
    ("papers.json", "every paper of the bibliography, with the notes on it"),
    ("claims.json", "every claim: what it says, what it predicts, what was measured, the verdict"),
    ("claims.csv", "the same as a table"),
    ("results.json", "every metric, table and figure, with the machine and the versions"),
    ("kernels.json", "every kernel: agreement, what the compiler makes of it, recorded speed"),
    ("speeds.csv", "every recorded measurement of a kernel as a table"),
    ("schema.json", "the JSON Schema of all these"),
    ("front-matter.schema.json", "the JSON Schema of a note's front matter, for editors"),
]
_FEEDS = [
    ("library.bib", "the bibliography, as BibTeX"),
    ("feed.xml", "the newest notes, as an Atom feed"),
    ("llms.txt", "the notes as one page for language models"),
]


def _functions(path: Path) -> dict[str, tuple[str, str]]:
    """Return each public function of a file with its arguments and the first line of its docstring."""
    try:
        tree = tree_of(regular.text(path))
    except (OSError, SyntaxError, ValueError):
        return {}  # its own page says what is wrong
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            for one in [
                *node.args.posonlyargs,
                *node.args.args,
                *node.args.kwonlyargs,
                node.args.vararg,
                node.args.kwarg,
            ]:
                if one is not None:
                    one.annotation = None
            says = (ast.get_docstring(node) or "").split("\n\n")[0]
            found[node.name] = (ast.unparse(node.args), " ".join(says.split()))
    return found


def kernels(site: Site) -> list[Page]:
    """Return every kernel in one table, and the plots of where each stands under the roof."""
    rows = []
    for note, name, kernel, found in _each_kernel(site):
        target = f"{note.slug}.md#kernel-{name}"
        href = site.link("kernels.md", target)
        shares = [row.copy_share for one in found for row in one.rows if row.copy_share is not None]
        rows.append(
            {
                "note": note,
                "name": name,
                "target": target,
                "kernel": kernel,
                "href": href,
                "place": speed.declared(name, kernel, href),
                "worst": max((p["worst_share"] for p in kernel["parity"]), default=0.0, key=float),
                "agrees": _agrees(kernel),
                "registers": max((row["registers"] for row in kernel["compiled"]), default=None),
                "widest": max((row["widest_load"] for row in kernel["compiled"]), default=None),
                "spills": sum(row["spills"] for row in kernel["compiled"]),
                "speeds": found,
                "speed": speed.state(found),
                "share": max(shares, default=None),
            }
        )
    targets = dict.fromkeys(one["target"] for row in rows for one in row["kernel"]["compiled"])
    return _paged("kernels", rows, site, plots=_rooflines(rows), targets=targets)


def _each_kernel(site: Site) -> Iterator[tuple[Note, str, dict[str, Any], list[speed.Speed]]]:
    """Yield each kernel's note, its name, what this build knows of it, and its recorded speeds."""
    for slug, result in sorted(site.results.items()):
        if note := site.library.by_slug.get(slug):
            for name, kernel in result.kernels.items():
                yield note, name, kernel, speed.speeds(site.library.snippets[slug], name)


def _agrees(kernel: dict[str, Any]) -> bool:
    return all(row["holds"] for row in kernel["parity"])


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
