"""A snippet's recorded speeds come in; what a page says of them goes out. Nothing is measured here, nothing estimated."""

from __future__ import annotations

from dataclasses import dataclass

from generator.lab import recorded
from generator.schema import Problem, Snippet


@dataclass(frozen=True)
class Speed:
    """What one GPU's record says of one kernel."""

    gpu: str
    machine: str
    date: str
    current: bool
    """Whether the kernel still means what it meant when it was measured."""
    rows: tuple[recorded.Row, ...]


def speeds(snippet: Snippet, kernel: str) -> list[Speed]:
    """Return a kernel's recorded speeds, one a GPU; none where it was not yet measured."""
    files, _ = recorded.load(snippet.folder)
    return [
        Speed(
            gpu=file.gpu,
            machine=f"driver {file.driver}, CUDA {file.cuda}, torch {file.torch}, Triton {file.triton}, "
            f"copy {file.copy_bandwidth / 1e9:.0f} GB/s",
            date=file.date,
            current=recorded.is_current(file, snippet.folder, kernel),
            rows=rows,
        )
        for file in files
        if (rows := tuple(row for row in file.rows if row.kernel == kernel))
    ]


def state(found: list[Speed]) -> str:
    """Return 'not yet measured', 'older than the kernel', or on which GPUs it was measured."""
    if not found:
        return "not yet measured"
    current = [one.gpu for one in found if one.current]
    return f"measured on {', '.join(current)}" if current else "older than the kernel"


def problems(snippet: Snippet) -> list[Problem]:
    """Return what is wrong with a snippet's recorded files."""
    _, said = recorded.load(snippet.folder)
    found = []
    for one in said:
        file, _, rest = one.partition(": ")
        what, _, fix = rest.rpartition("; ")
        found.append(Problem(f"snippets/{snippet.slug}/recorded/{file.rsplit('/', 1)[-1]}", 1, what, fix))
    return found
