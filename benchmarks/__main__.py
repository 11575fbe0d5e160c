"""Time the generator on synthetic projects and print a table; nothing here asserts a speed.

Each row is measured in this one run, on this machine: compare rows with each other, not with another day's.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from generator.build import build
from generator.check import check
from generator.load import load
from generator.run import run, status, store_of

METHOD = "def double(x):\n    return 2 * x\n"
EXPERIMENT = """from generator.lab.figures import panel
from snippets.{slug} import method

def run(record):
    record.metric("two", method.double(1))
    fig, ax = panel("Double", "x", "y")
    ax.plot([0, 1], [0, 2])
    record.figure("line", fig, caption="A line.", alt="a rising line")
"""
HEAD = """---
title: Note {n}
kind: essay
author: benchmark
added: 2026-01-01
summary: One of many.
"""
NOTE = (
    HEAD
    + """tags: [tag-{tag}]
claims: [{{says: two, metric: two, expect: {{near: 2, within: 0.1}}}}]
---
Measured {{{{ metric("two") }}}} with $x^2$; see [[{other}]].

{{{{ figure("line") }}}}
"""
)


def project(root: Path, size: int) -> None:
    """Write a project of so many notes, each with a snippet that imports torch's surroundings and draws one line."""
    (root / "notes").mkdir(parents=True)
    (root / "mkdocs.yml").write_text("site_name: benchmark\n")
    (root / "notes" / "index.md").write_text("# Home\n\n{{ cards() }}\n")
    for n in range(size):
        slug, other = f"note_{n}", f"note_{(n + 1) % size}"
        (root / "notes" / f"{slug}.md").write_text(NOTE.format(n=n, tag=n % 20, other=other))
        folder = root / "snippets" / slug
        folder.mkdir(parents=True)
        (folder / "method.py").write_text(METHOD)
        (folder / "experiment.py").write_text(EXPERIMENT.format(slug=slug))
        test = root / "tests" / "snippets" / f"test_{slug}.py"
        test.parent.mkdir(parents=True, exist_ok=True)
        test.write_text("")


def seconds(action: Callable[[], object], repeats: int = 3) -> float:
    """Return the median wall-clock time of an action."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, {platform.system()}, Python {platform.python_version()}\n")
    print("| notes | check | run, cold | run, nothing changed | status | build from stored results |")
    print("|---|---|---|---|---|---|")
    for size in (8, 64, 256):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "project"
            project(root, size)
            store = store_of(root)
            row = [
                seconds(lambda root=root: check(load(root))),
                seconds(lambda root=root, store=store: run(load(root), store), repeats=1),
                seconds(lambda root=root, store=store: run(load(root), store)),
                seconds(lambda root=root, store=store: status(load(root), store)),
                seconds(lambda root=root: build(root)),
            ]
        print(f"| {size} | " + " | ".join(f"{one:.2f} s" for one in row) + " |", flush=True)


if __name__ == "__main__":
    main()
