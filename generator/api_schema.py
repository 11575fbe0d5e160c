"""The nouns of the published JSON, version 1: what a reader of `api/v1/` may rely on. No reading, no writing."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from generator.schema import Expect, Kind, Record, Relation, Update, Verdict


class NoteEntry(Record):
    """A note without its text."""

    slug: str
    title: str
    kind: Kind
    author: str
    added: datetime.date
    changed: datetime.date = Field(description="day of its last update; else the day it was added")
    updates: tuple[Update, ...]
    summary: str
    papers: tuple[str, ...] = Field(description="BibTeX keys")
    tags: tuple[str, ...]
    relations: tuple[Relation, ...]
    claims: tuple[str, ...] = Field(description="identifiers of its claims")
    kernels: tuple[str, ...]
    page: str = Field(description="address of its page, from the root of the site")
    whole: str = Field(description="address of the note with its text and its result, from the root of the site")


class PaperEntry(Record):
    """A paper of the bibliography, and the notes on it."""

    key: str
    title: str
    authors: tuple[str, ...]
    year: int | None
    venue: str
    arxiv: str
    doi: str
    url: str
    readstatus: str = Field(description="to read, reading or read; empty for a paper that is on no reading list")
    bibtex: str
    notes: tuple[str, ...] = Field(description="slugs of the notes on it")


class ClaimEntry(Record):
    """A statement of a paper, and how it came out."""

    id: str
    note: str
    says: str
    where: str
    verdict: Verdict
    metric: str
    expect: Expect | None
    value: bool | int | float | str | None = Field(description="what was measured; the mean where there are seeds")
    seeds: tuple[float, ...] = Field(description="one value a seed, where there are several")
    unit: str
    holds: str = Field(description="for how many seeds it holds, in words")
    setting: str
    because: str


class ResultEntry(Record):
    """What the last successful run of a snippet recorded."""

    note: str
    key: str = Field(description="digest of everything the result depends on")
    metrics: Mapping[str, Any]
    tables: Mapping[str, Any]
    figures: Mapping[str, Any] = Field(description="captions, alternative texts, and addresses from the site's root")
    provenance: Mapping[str, Any]


class SpeedEntry(Record):
    """One recorded measurement of a kernel."""

    gpu: str
    date: str
    torch: str
    triton: str
    current: bool = Field(description="whether the kernel still means what it meant when it was measured")
    shape: tuple[int, ...]
    dtype: str
    direction: str
    ms: Mapping[str, tuple[float, float, float]] = Field(description="median, 20 % and 80 % quantile of each provider")
    copy_share: float | None = Field(description="share of the measured copy bandwidth")
    bytes: int | None
    operations: int | None


class KernelEntry(Record):
    """A kernel with its proofs: agreement with its twin, what the compiler makes of it, and its recorded speed."""

    name: str
    note: str
    oracle: str
    backward: bool
    exact: bool
    parity: tuple[Mapping[str, Any], ...]
    compiled: tuple[Mapping[str, Any], ...]
    speed: tuple[SpeedEntry, ...]


class Whole(Record):
    """A note with its text, its claims and its result."""

    version: Literal[1] = 1
    note: NoteEntry
    text: str = Field(description="the Markdown its author wrote, embeds unexpanded")
    claims: tuple[ClaimEntry, ...]
    result: ResultEntry | None
    kernels: tuple[KernelEntry, ...]


class Notes(Record):
    version: Literal[1] = 1
    notes: tuple[NoteEntry, ...]


class Papers(Record):
    version: Literal[1] = 1
    papers: tuple[PaperEntry, ...]


class Claims(Record):
    version: Literal[1] = 1
    claims: tuple[ClaimEntry, ...]


class Results(Record):
    version: Literal[1] = 1
    results: tuple[ResultEntry, ...]


class Kernels(Record):
    version: Literal[1] = 1
    kernels: tuple[KernelEntry, ...]


class Index(Record):
    """What there is, and where."""

    version: Literal[1] = 1
    generator: str
    counts: Mapping[str, int]
    files: Mapping[str, str] = Field(description="address of each document, from the root of the site")


DOCUMENTS: dict[str, type[Record]] = {
    "notes": Notes,
    "papers": Papers,
    "claims": Claims,
    "results": Results,
    "kernels": Kernels,
}


def schema() -> dict[str, Any]:
    """Return the JSON Schema of every document; each is a definition of its own name."""
    models: list[type[BaseModel]] = [Index, *DOCUMENTS.values(), Whole]
    _, found = models_json_schema([(model, "serialization") for model in models], title="papernotes")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
