"""The whole knowledge base comes in; it goes out again as static JSON with its schema, and as CSV: nothing is lost with the site.

Addresses under `api/v1/` and the names in them do not change; a change that would break a reader gets `api/v2/` beside it.
Identifiers are a note's slug, a paper's BibTeX key, and for a claim `<slug>/<claim>`, which is its anchor on the note's page too.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from generator import __version__, front_schema, speed
from generator.api_schema import (
    DOCUMENTS,
    ClaimEntry,
    Index,
    KernelEntry,
    NoteEntry,
    PaperEntry,
    ResultEntry,
    SpeedEntry,
    Whole,
    schema,
)
from generator.schema import Asset, Note, Record, Result
from generator.site import Site, newest_first

FOLDER = "api/v1"


def files(site: Site) -> list[Asset]:
    """Return every file of the interface: a document a kind, one a note, the schema, and two tables as CSV."""
    wholes = [whole(note, site) for note in site.newest]
    entries: dict[str, Sequence[Record]] = {
        "notes": [one.note for one in wholes],
        "papers": _papers(site),
        "claims": [claim for one in wholes for claim in one.claims],
        "results": [one.result for one in wholes if one.result],
        "kernels": [kernel for one in wholes for kernel in one.kernels],
    }
    made = [_json(name, DOCUMENTS[name](**{name: tuple(some)})) for name, some in entries.items()]
    made += [_json(f"notes/{one.note.slug}", one) for one in wholes]
    made.append(Asset(path=f"{FOLDER}/schema.json", text=json.dumps(schema(), indent=1) + "\n"))
    made.append(Asset(path=f"{FOLDER}/front-matter.schema.json", text=front_schema.as_text()))
    made.append(Asset(path=f"{FOLDER}/claims.csv", text=_claims_csv(entries["claims"])))
    made.append(Asset(path=f"{FOLDER}/speeds.csv", text=_speeds_csv(entries["kernels"])))
    index = Index(
        generator=f"papernotes {__version__}",
        counts={name: len(some) for name, some in entries.items()},
        files={asset.path.removeprefix(f"{FOLDER}/"): asset.path for asset in made if "/notes/" not in asset.path},
    )
    return [_json("index", index), *made]


def whole(note: Note, site: Site) -> Whole:
    """Return everything that is known of one note."""
    front, result = note.front, site.results.get(note.slug)
    judged = site.judged(note)
    kernels = tuple(_kernel(name, note, result, site) for name in result.kernels) if result else ()
    entry = NoteEntry(
        slug=note.slug,
        title=front.title,
        kind=front.kind,
        author=front.author,
        added=front.added,
        changed=front.changed,
        updates=front.updates,
        summary=front.summary,
        papers=front.papers,
        tags=front.tags,
        relations=front.relations,
        claims=tuple(f"{note.slug}/{one.id}" for one in judged),
        kernels=tuple(kernel.name for kernel in kernels),
        page=site.address(note),
        whole=f"{FOLDER}/notes/{note.slug}.json",
    )
    metrics = result.metrics if result else {}
    claims = []
    for one in judged:
        measured = metrics.get(one.claim.metric or "", {})
        claims.append(
            ClaimEntry(
                id=f"{note.slug}/{one.id}",
                note=note.slug,
                says=one.claim.says,
                where=one.claim.where or "",
                verdict=one.verdict,
                metric=one.claim.metric or "",
                expect=one.claim.expect,
                value=measured.get("value"),
                seeds=tuple(measured.get("seeds", ())),
                unit=measured.get("unit", ""),
                holds=one.seeds,
                setting=one.setting,
                because=one.claim.because or "",
            )
        )
    return Whole(note=entry, text=note.body, claims=tuple(claims), result=_result(note, result), kernels=kernels)


def _result(note: Note, result: Result | None) -> ResultEntry | None:
    if result is None:
        return None
    figures = {
        name: {**figure, "files": [f"files/{note.slug}/{file}" for file in figure["files"]]}
        for name, figure in result.figures.items()
    }
    return ResultEntry(
        note=note.slug,
        key=result.key,
        metrics=result.metrics,
        tables=result.tables,
        figures=figures,
        provenance=result.provenance,
    )


def _kernel(name: str, note: Note, result: Result, site: Site) -> KernelEntry:
    kernel = result.kernels[name]
    speeds = [
        SpeedEntry(
            gpu=one.gpu,
            date=row.date,
            torch=row.torch,
            triton=row.triton,
            current=one.current,
            shape=row.shape,
            dtype=row.dtype,
            direction=row.direction,
            ms=row.quantiles,
            copy_share=row.copy_share,
            bytes=row.bytes,
            operations=row.operations,
        )
        for one in speed.speeds(site.library.snippets[note.slug], name)
        for row in one.rows
    ]
    return KernelEntry(
        name=name,
        note=note.slug,
        oracle=kernel["oracle"],
        backward=kernel["backward"],
        exact=kernel["exact"],
        parity=tuple(kernel["parity"]),
        compiled=tuple({key: row[key] for key in row if key not in ("slug", "kernel")} for row in kernel["compiled"]),
        speed=tuple(speeds),
    )


def _papers(site: Site) -> list[PaperEntry]:
    fields = set(PaperEntry.model_fields) - {"notes"}
    return [
        PaperEntry(
            **paper.model_dump(include=fields),
            notes=tuple(note.slug for note in newest_first(site.by_paper.get(key, ()))),
        )
        for key, paper in sorted(site.library.papers.items())
    ]


def _json(name: str, document: Record) -> Asset:
    return Asset(path=f"{FOLDER}/{name}.json", text=document.model_dump_json(indent=1) + "\n")


def _claims_csv(entries: Iterable[Any]) -> str:
    columns = ("id", "note", "says", "where", "verdict", "metric", "value", "unit", "holds", "setting", "because")
    return _csv(columns, ([getattr(one, column) for column in columns] for one in entries))


def _speeds_csv(kernels: Iterable[Any]) -> str:
    columns = ("gpu", "date", "torch", "triton", "current", "shape", "dtype", "direction", "bytes", "operations")
    providers = ("kernel", "eager", "compile")
    rows = (
        [
            kernel.name,
            kernel.note,
            *("×".join(map(str, one.shape)) if name == "shape" else getattr(one, name) for name in columns),
            *(value for provider in providers for value in one.ms.get(provider, ("", "", ""))),
            one.copy_share,
        ]
        for kernel in kernels
        for one in kernel.speed
    )
    quantiles = [f"{provider} ms, {which}" for provider in providers for which in ("median", "20 %", "80 %")]
    return _csv(("kernel", "note", *columns, *quantiles, "share of copy bandwidth"), rows)


def _csv(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return text.getvalue()
