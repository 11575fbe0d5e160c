"""A snippet's recorded speeds come in; what a page says of them goes out. Nothing is measured here, nothing estimated."""

from __future__ import annotations

from dataclasses import dataclass

from generator import roofline
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
    roof: roofline.Roof


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
            roof=roofline.Roof(file.copy_bandwidth, file.peaks),
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


def measured(name: str, speed: Speed, href: str = "") -> list[roofline.Kernel]:
    """Return a dot for each recorded row of a kernel that does any operations."""
    return [
        roofline.Kernel(
            name,
            row.operations / row.bytes,
            row.operations / row.ms * 1e3,
            f"{name}, {' × '.join(map(str, row.shape)) or '0-d'}, {row.dtype}, {row.direction}: {row.ms:.3g} ms",
            href,
        )
        for row in speed.rows
        if row.operations and row.bytes
    ]


def declared(name: str, kernel: dict, href: str = "") -> roofline.Kernel:
    """Return where a kernel would stand under any roof: its declared operations a byte, at the size that is proved."""
    moved, done = kernel["bytes_moved"], kernel["operations"]
    intensity = done / moved if done and moved else None
    return roofline.Kernel(name, intensity, None, f"{name}: {intensity or 0:.2g} operations a byte", href)


UNMEASURED = {
    "alt": "Each kernel that was not yet measured on a GPU, by name, on a logarithmic axis of operations a byte",
    "caption": "Not yet measured: where each kernel will stand, by the operations that it does for each byte it must move. "
    "Far left, memory bandwidth is the limit; a GPU's limit by arithmetic begins at tens to hundreds of operations a byte.",
}


def words(gpu: str, speed: Speed) -> dict[str, str]:
    """Return what a roofline of one GPU says beneath, and in place of the picture."""
    return {
        "alt": f"Roofline of {gpu}: operations a second against operations a byte, both logarithmic; a dot a measured size",
        "caption": f"Measured on {gpu}, {speed.date} ({speed.machine}). The slope is the bandwidth of a copy, the level "
        "lines are large matrix products, both measured in the same run.",
    }


def problems(snippet: Snippet) -> list[Problem]:
    """Return what is wrong with a snippet's recorded files."""
    _, said = recorded.load(snippet.folder)
    found = []
    for one in said:
        file, _, rest = one.partition(": ")
        what, _, fix = rest.rpartition("; ")
        file = f"snippets/{snippet.slug}/recorded/{file.rsplit('/', 1)[-1]}"
        found.append(Problem(file, 1, what, fix, code="recorded-speed"))
    return found
