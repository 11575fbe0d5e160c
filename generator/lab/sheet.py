"""A snippet's recorded file as it is being filled: what is missing from it comes out, what was measured goes in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from generator.lab import recorded
from generator.lab.kernels import Kernel
from generator.lab.machine import Ceilings, Machine
from generator.lab.meaning import kernel_fingerprint


@dataclass
class Sheet:
    """One snippet's recorded file, as it is being filled: its document, where it goes, and its kernels."""

    slug: str
    path: Path
    fingerprint: str
    kernels: Sequence[Kernel]
    document: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One kernel at one shape and dtype, and the directions that are not recorded yet."""

    sheet: Sheet
    kernel: Kernel
    shape: tuple[int, ...]
    dtype: torch.dtype
    directions: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.sheet.slug}: {self.kernel.name} {_plain(self.dtype)} {'×'.join(map(str, self.shape))}"


def pending(sheet: Sheet, machine: Machine, force: bool = False) -> list[Case]:
    """Return what of a snippet is not recorded for this meaning of its kernels and these versions of torch and triton."""
    cases = []
    for kernel in sheet.kernels:
        entry = sheet.document.get("kernels", {}).get(kernel.name, {})
        current = entry.get("fingerprint") == sheet.fingerprint and not force
        done = {
            _size(row)
            for row in entry.get("rows", ())
            if current and (row["torch"], row["triton"]) == (machine.torch, machine.triton)
        }
        for shape in kernel.bench_shapes:
            for dtype in kernel.dtypes:
                directions = ("forward", "backward") if kernel.differentiable else ("forward",)
                left = tuple(one for one in directions if (tuple(shape), _plain(dtype), one) not in done)
                if left:
                    cases.append(Case(sheet, kernel, tuple(shape), dtype, left))
    return cases


def keep(case: Case, rows: Sequence[dict[str, Any]], machine: Machine, seen: Ceilings) -> None:
    """Put a case's rows into its file, in the place of older ones; rows of another meaning of the kernel go."""
    sheet, provenance = case.sheet, machine.provenance()
    for row in rows:
        median = row["ms"]["kernel"][0] / 1e3
        row["copy_share"] = row["bytes"] / median / seen.copy_bandwidth if row["bytes"] else None
        # Rows of one file may come from several runs: each says its own.
        row |= {name: value for name, value in provenance.items() if name != "gpu"}
        row["copy_bandwidth"] = seen.copy_bandwidth
    before = sheet.document.get("kernels", {})
    entry = before.get(case.kernel.name, {})
    old = entry.get("rows", []) if entry.get("fingerprint") == sheet.fingerprint else []
    new = {_size(row) for row in rows}
    entry = {"fingerprint": sheet.fingerprint, "rows": [*(row for row in old if _size(row) not in new), *rows]}
    sheet.document = {
        "format": recorded.FORMAT,
        **provenance,
        "copy_bandwidth": seen.copy_bandwidth,
        "peaks": seen.peaks,
        "kernels": {**before, case.kernel.name: entry},
    }
    recorded.store(sheet.path, sheet.document)


def open_sheet(slug: str, folder: Path, kernels: Sequence[Kernel], gpu: str, out: Path | None = None) -> Sheet:
    """Return a snippet's sheet, with what is recorded already; raise RecordedError for a file that is damaged.

    With `out` the file goes to `out/<slug>/recorded/`, and what the snippet's own folder holds still counts as done.
    """
    name = f"{recorded.slugged(gpu)}.json"
    here = folder / "recorded" / name
    path = out / slug / "recorded" / name if out else here
    sheet = Sheet(slug, path, kernel_fingerprint(folder), kernels)
    for file in (path, here):
        if file.is_file():
            sheet.document = recorded.read(file)
            break
    return sheet


def summary(row: dict[str, Any]) -> str:
    """Return a row in words: the time in ms, the share of the copy bandwidth, and how many times the others take."""
    mine = row["ms"]["kernel"][0]
    over = [f"{row['ms'][one][0] / mine:.2f} × {one}" for one in ("eager", "compile") if one in row["ms"]]
    share = [f"{row['copy_share']:.0%} of copy"] if row["copy_share"] else []
    return f"{row['direction']}: {', '.join([f'{mine:.4f} ms', *share, *over])}"


def _size(row: dict[str, Any]) -> tuple[tuple[int, ...], str, str]:
    return tuple(row["shape"]), row["dtype"], row["direction"]


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
