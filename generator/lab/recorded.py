"""A snippet's folder comes in; the speeds recorded in it, checked, go out. Needs the standard library alone."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator.lab.meaning import kernel_fingerprint

FORMAT = 1
MOST = 1e30
"""A number as large as that was not measured; much larger ones are none to Python's floats."""
PROVENANCE = ("gpu", "driver", "cuda", "torch", "triton", "date")
"""What every file says of the machine, and every row of its own run, all as text."""


class RecordedError(ValueError):
    """A recorded file that cannot be read; the message says which, why, and how to mend it."""


@dataclass(frozen=True)
class Row:
    """One kernel at one size, dtype and direction: quantiles (median, 20 %, 80 %) in ms for each provider."""

    kernel: str
    shape: tuple[int, ...]
    dtype: str
    direction: str
    quantiles: dict[str, tuple[float, float, float]]
    noise: float
    bytes: int | None
    operations: int | None
    copy_share: float | None
    date: str
    torch: str
    triton: str

    @property
    def ms(self) -> float:
        """Return the kernel's median time in ms."""
        return self.quantiles["kernel"][0]

    @property
    def over_eager(self) -> float | None:
        """Return how many times as fast as torch eager the kernel is."""
        return self._over("eager")

    @property
    def over_compile(self) -> float | None:
        """Return how many times as fast as torch.compile the kernel is."""
        return self._over("compile")

    def _over(self, provider: str) -> float | None:
        return self.quantiles[provider][0] / self.ms if provider in self.quantiles else None


@dataclass(frozen=True)
class Recorded:
    """What one GPU's file holds: the machine of the latest run, its ceilings, and the rows of every kernel."""

    path: Path
    gpu: str
    driver: str
    cuda: str
    torch: str
    triton: str
    date: str
    copy_bandwidth: float
    """Bytes read and written a second."""
    peaks: dict[str, float]
    """Operations a second of a large matrix product, by dtype."""
    fingerprints: dict[str, str]
    rows: tuple[Row, ...]


def load(folder: Path) -> tuple[list[Recorded], list[str]]:
    """Return what every readable file of `folder/recorded/` holds, and a message for each that is not."""
    found, problems = [], []
    for path in sorted((folder / "recorded").glob("*.json")):
        try:
            found.append(_recorded(path, read(path)))
        except RecordedError as error:
            problems.append(str(error))
    return found, problems


def is_current(recorded: Recorded, folder: Path, kernel: str = "") -> bool:
    """Return whether the kernels in the folder (or the one named) mean what they meant when they were measured."""
    measured = [value for name, value in recorded.fingerprints.items() if kernel in ("", name)]
    return bool(measured) and set(measured) == {kernel_fingerprint(folder)}


def slugged(gpu: str) -> str:
    """Return a GPU's name as its file has it: 'NVIDIA H200' is 'nvidia-h200'."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") or "gpu"


def read(path: Path) -> dict[str, Any]:
    """Return a recorded file's document; raise RecordedError, with what to do, for one that is damaged or foreign."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"it is not of format {FORMAT}")
        if slugged(_text(document, "gpu")) != path.stem:
            raise ValueError(f"it was measured on '{document['gpu']}', which its name does not say")
        _recorded(path, document)  # what it is made of, checked before anyone relies on it
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise RecordedError(f"{path}: not a recorded speed: {why}; delete it and measure again") from None
    return document


def store(path: Path, document: dict[str, Any]) -> None:
    """Write a document in one step: a reader, or a run cut short, never sees half of it."""
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)  # mkstemp keeps its files from everyone else
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _recorded(path: Path, document: dict[str, Any]) -> Recorded:
    kernels = document["kernels"]
    return Recorded(
        path,
        **{name: _text(document, name) for name in PROVENANCE},
        copy_bandwidth=_positive(document["copy_bandwidth"], "copy_bandwidth"),
        peaks={name: _positive(value, f"peak {name}") for name, value in document["peaks"].items()},
        fingerprints={name: _text(kernel, "fingerprint") for name, kernel in kernels.items()},
        rows=tuple(_row(name, row) for name, kernel in kernels.items() for row in kernel["rows"]),
    )


def _row(kernel: str, row: dict[str, Any]) -> Row:
    quantiles = {}
    for provider, (median, low, high) in row["ms"].items():
        quantiles[provider] = tuple(_positive(one, f"{kernel} ms") for one in (median, low, high))
    if "kernel" not in quantiles:
        raise ValueError(f"a row of '{kernel}' has no time of the kernel itself")
    share = row["copy_share"]
    return Row(
        kernel,
        tuple(_count(size, f"{kernel} shape") for size in row["shape"]),
        **{name: _text(row, name) for name in ("dtype", "direction", "date", "torch", "triton")},
        quantiles=quantiles,  # type: ignore[arg-type]
        noise=float(_number(row["noise"], f"{kernel} noise")),
        bytes=None if row["bytes"] is None else _count(row["bytes"], f"{kernel} bytes"),
        operations=None if row["operations"] is None else _count(row["operations"], f"{kernel} operations"),
        copy_share=None if share is None else _positive(share, f"{kernel} copy_share"),
    )


def _text(document: dict[str, Any], name: str) -> str:
    if not isinstance(document[name], str):
        raise ValueError(f"its {name} is {document[name]!r}, not text")
    return document[name]


def _number(value: Any, what: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MOST:
        raise ValueError(f"its {what} is {repr(value)[:80]}, not a number")
    return value


def _positive(value: Any, what: str) -> float:
    if not _number(value, what) > 1 / MOST:
        raise ValueError(f"its {what} is {value!r}, not a positive number")
    return float(value)


def _count(value: Any, what: str) -> int:
    if not isinstance(value, int) or _number(value, what) < 0:
        raise ValueError(f"its {what} is {repr(value)[:80]}, not a count")
    return value
