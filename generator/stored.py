"""What a stored file holds comes in; whether it is what a run or this program writes goes out.

A result may come from another machine, by `unpack`, with checksums that fit whatever is in it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, FiniteFloat, StrictBool, StringConstraints, ValidationError

from generator.schema import Failure

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=80)]
File = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*\.svg$", max_length=120)]
Whole = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**64)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**64)]
Number = Whole | Annotated[FiniteFloat, Field(strict=True)]
Error = Number | Literal["inf"]
"""An error without bound is text: JSON has no infinity."""
Form = TypeVar("Form", bound=BaseModel)
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]*$", max_length=64)]


class Metric(BaseModel):
    value: StrictBool | Number | str
    unit: str
    setting: str
    seeds: list[Number] = []


class Table(BaseModel):
    columns: list[str]
    rows: list[list[StrictBool | Number | str | None]]
    caption: str


class Figure(BaseModel):
    files: Annotated[list[File], Field(min_length=1)]
    caption: str
    alt: str


class Parity(BaseModel):
    dtype: str
    direction: str
    shapes: Whole | str
    worst_absolute: Error
    worst_share: Error
    holds: StrictBool


class Compiled(BaseModel):
    function: str
    target: str
    dtype: str
    registers: Count
    spills: Count
    shared: Count
    widest_load: Count
    widest_store: Count


class Kernel(BaseModel):
    oracle: str
    backward: StrictBool
    exact: StrictBool
    device: str
    example_shape: list[Count]
    bytes_moved: Count | None
    operations: Count | None
    parity: list[Parity]
    compiled: list[Compiled]


class Provenance(BaseModel):
    measured: str
    seconds: Number
    peak_memory: Number
    python: str
    device: str
    torch: str


class Took(BaseModel):
    seconds: Annotated[Number, Field(ge=0)] = 0.0
    peak_memory: Annotated[Number, Field(ge=0)] = 0


class Measured(BaseModel):
    """A result: `result.json`, and as `run` what `run.json` says."""

    slug: str
    metrics: dict[Name, Metric]
    tables: dict[Name, Table]
    figures: dict[Name, Figure]
    kernels: dict[str, Kernel] = {}
    log: list[str] = []
    provenance: Provenance
    run: Took


class Newest(BaseModel):
    """How the newest run of a snippet ended: `latest/<slug>.json`."""

    parts: dict[str, str]
    key: Key
    good_key: Key = ""
    seconds: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    failure: Failure | None = None


class Seen(BaseModel):
    """What one file was seen to mean: a row of `sources.json`."""

    row: tuple[list[Whole], dict[str, str], str, list[str], list[str], list[str]]


def is_result(data: Mapping[str, Any], files: Collection[str]) -> bool:
    """Return whether every page can show a result that lies among these files."""
    found = _as(Measured, data)
    if found is None or not all(file in files for figure in found.figures.values() for file in figure.files):
        return False
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a sign, which JSON can write and no file can hold
        return False
    return True


def is_newest(data: Any) -> bool:
    """Return whether this says how a run ended."""
    return _as(Newest, data) is not None


def is_seen(row: Any) -> bool:
    """Return whether this says what a file means."""
    return _as(Seen, {"row": row}) is not None


def _as(form: type[Form], data: Any) -> Form | None:
    try:
        return form.model_validate(data)
    except ValidationError:
        return None
