"""Time the run engine and its peers on the same snippets, and write a table: `python -m benchmarks.engine [--quick] [--write FILE]`.

What is timed is always a whole command in a fresh process, from its start to its end: cold (nothing stored), with
nothing changed, and with one snippet changed. Nothing here asserts a speed; that every snippet ran is asserted.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.peers import ENGINES, IMPORTS, INSTALL, YIELDED, Engine, papernotes, python

HOME = Path(__file__).resolve().parent.parent
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONPATH": str(HOME),
    "NO_MKDOCS_2_WARNING": "1",
}
PACKAGES = ("torch", "triton", "matplotlib", "nbclient", "ipykernel", "jupyter-cache", "sphinx", "sphinx-gallery")
SMALL, MIDDLE, LARGE, HUGE = 8, 40, 64, 1000
REPEATS = {SMALL: 3, LARGE: 1}
Times = dict[str, list[float]]
"""Of an engine: seconds cold, with nothing changed, and with one changed; of one that keeps nothing, only the first."""


def seconds(command: Sequence[str], folder: Path) -> float:
    """Return the wall-clock time of a command, start of its interpreter included; raise if it fails."""
    with tempfile.TemporaryFile("w+") as said:
        started = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
        taken = time.perf_counter() - started
        if done.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}:\n{said.read()[-2000:]}")
    return taken


def fill(engine: Engine, root: Path, size: int, work: str) -> None:
    """Write a project of so many snippets."""
    engine.begin(root)
    for n in range(size):
        engine.write(root, n, work, 0.25)


def yielded(engine: Engine, root: Path) -> dict[str, int]:
    """Return how many snippets yielded their number as first written ('25'), and how many as changed ('75')."""
    ends = [re.search(YIELDED, path.read_text(encoding="utf-8")) for path in root.glob(engine.leaves)]
    return {part: sum(bool(one) and one[1] == part for one in ends if one) for part in ("25", "75")}


def rounds(engine: Engine, size: int, work: str) -> list[float]:
    """Return the seconds of one cold run, one with nothing changed and one with one snippet changed."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        fill(engine, root, size, work)
        command = engine.command(root)
        taken = [seconds(command, root)]
        if (found := yielded(engine, root)) != {"25": size, "75": 0}:
            raise RuntimeError(f"{engine.name}: of {size} snippets these yielded their number: {found}")
        if engine.keeps:
            taken.append(seconds(command, root))
            engine.write(root, size // 2, work, 0.75)
            taken.append(seconds(command, root))
            if yielded(engine, root)["75"] != 1:
                raise RuntimeError(f"{engine.name} did not run the changed snippet")
    return taken


def compare(size: int, work: str, repeats: int) -> Times:
    """Return the median times of each installed engine; the rounds alternate, so that a busy moment hits all alike."""
    engines = [engine for engine in ENGINES if engine.installed]
    taken = [{engine.name: rounds(engine, size, work) for engine in engines} for _ in range(repeats)]
    return {
        engine.name: [statistics.median(one) for one in zip(*(each[engine.name] for each in taken), strict=True)]
        for engine in engines
    }


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return "\n".join([row(*titles), row(*("---" for _ in titles)), *(row(*one) for one in rows)])


def compared(times: Times) -> str:
    """Return a table of engines: seconds, and in brackets how many times those of papernotes' own run."""
    ours = times[ENGINES[0].name]

    def cells(engine: Engine) -> list[str]:
        if engine.name not in times:
            return [f"not installed: {INSTALL}", "", ""]
        taken = [f"{one:.2f} s ({one / our:.1f}×)" for one, our in zip(times[engine.name], ours, strict=False)]
        return (
            taken if engine.keeps else [*taken, *(f"as cold ({times[engine.name][0] / our:.1f}×)" for our in ours[1:])]
        )

    return table(["engine", "cold", "nothing changed", "one changed"], ([one.name, *cells(one)] for one in ENGINES))


def overhead(small: Times, large: Times) -> str:
    """Return a table of what one snippet costs: on average of each size, and one more snippet."""
    rows = [
        (name, few[0] / SMALL, many[0] / LARGE, (many[0] - few[0]) / (LARGE - SMALL))
        for (name, few), many in zip(small.items(), large.values(), strict=True)
    ]
    titles = ["engine", f"T({SMALL})/{SMALL}", f"T({LARGE})/{LARGE}", f"(T({LARGE})−T({SMALL}))/{LARGE - SMALL}"]
    return table(titles, ((name, *(f"{1000 * one:.0f} ms" for one in taken)) for name, *taken in rows))


def many(size: int) -> str:
    """Return a table of what a large project costs papernotes: cold, unchanged, its status, and one snippet changed."""
    engine = papernotes(2)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        fill(engine, root, size, "imports")
        run, status = engine.command(root), python("generator.cli", "--root", root, "status")
        rows = []

        def time_(what: str, command: Sequence[str], repeats: int = 1) -> None:
            before = {path: path.stat().st_mtime_ns for path in root.glob(engine.leaves)}
            taken = statistics.median(seconds(command, root) for _ in range(repeats))
            after = {path: path.stat().st_mtime_ns for path in root.glob(engine.leaves)}
            rows.append((what, taken, len(after.items() - before.items())))

        time_("run, cold", run)
        time_("run, nothing changed", run, 3)
        time_("status, nothing changed", status, 3)
        engine.write(root, size // 2, "imports", 0.75)
        time_("status, one changed", status)
        time_("run, one changed", run)
    return table(["command", "time", "snippets executed"], ((what, f"{one:.2f} s", ran) for what, one, ran in rows))


def speedup(size: int, repeats: int = 3) -> str:
    """Return a table of compute-bound snippets with one job and with two, in turn; start and imports included."""
    taken: dict[int, list[float]] = {1: [], 2: []}
    for jobs in list(taken) * repeats:
        engine = papernotes(jobs)
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "project"
            fill(engine, root, size, "compute")
            taken[jobs].append(seconds(engine.command(root), root))
    median = {jobs: statistics.median(each) for jobs, each in taken.items()}
    rows = [(jobs, f"{one:.2f} s", f"{median[1] / one:.2f}×") for jobs, one in median.items()]
    return table(["jobs", f"time (median of {repeats})", "speedup"], rows)


def machine() -> str:
    """Return what was measured on: the date, the processor and its load, and the versions of everybody."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", info.read_text(), re.MULTILINE) if info.exists() else []
    versions = [f"Python {platform.python_version()}"]
    for package in (*PACKAGES, "markdown-exec"):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{package} absent")
    return (
        f"Measured {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC on {(names or [platform.machine()])[0]}, "
        f"{os.cpu_count()} cores, {platform.system()}, load {os.getloadavg()[0]:.2f} at the start; {', '.join(versions)}."
    )


def sections(quick: bool) -> Iterable[str]:
    """Yield the report piece by piece, each as soon as it is measured."""
    timed = " ".join((__doc__ or "").partition("\n\n")[2].split())
    yield f"# The run engine and its peers\n\n{machine()}\n\n{timed}"
    yield (
        "One torch thread each, two processes where an engine has the option. In brackets: times papernotes' run.\n\n"
        + ("\n".join(f"- **{engine.name}**: {engine.settings}." for engine in ENGINES))
    )
    # The first engine shall not be the one that pays for reading torch from the disk.
    seconds([sys.executable, "-c", IMPORTS], HOME)
    small = compare(SMALL, "imports", REPEATS[SMALL])
    what = "snippets that import torch, triton and matplotlib and yield a number"
    yield f"## {SMALL} {what} (median of {REPEATS[SMALL]})\n\n{compared(small)}"
    yield f"## {SMALL} that also draw a figure (one run)\n\n{compared(compare(SMALL, 'figure', 1))}"
    if not quick:
        large = compare(LARGE, "imports", REPEATS[LARGE])
        yield f"## {LARGE} {what} (one run)\n\n{compared(large)}"
        yield f"## What one snippet costs, cold\n\n{overhead(small, large)}"
    yield f"## {MIDDLE} snippets that multiply matrices, papernotes\n\n{speedup(MIDDLE)}"
    if not quick:
        yield f"## {HUGE:,} notes with a snippet each, papernotes\n\n{many(HUGE)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--quick", action="store_true", help=f"leave out {LARGE} and {HUGE:,} snippets")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the report to this file, too")
    chosen = parser.parse_args()
    pieces = []
    for piece in sections(chosen.quick):
        print(piece + "\n", flush=True)
        pieces.append(piece)
    if chosen.write:
        chosen.write.write_text("\n\n".join(pieces) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
