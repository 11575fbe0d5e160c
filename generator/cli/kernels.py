"""Commands about kernels: compile, bench."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
from rich.box import SIMPLE
from rich.table import Table

from generator.cli.board import Board
from generator.cli.console import err, known, out, project_of, refuse_failures, snippets_of
from generator.find import find_snippets
from generator.run import run as run_snippets
from generator.schema import Library


@click.command(name="compile")
@click.argument("slugs", nargs=-1, metavar="[SLUG]...")
@click.pass_obj
def compile_(root: Path | None, slugs: tuple[str, ...]) -> None:
    """Show what Triton's compiler makes of each kernel for real GPUs: registers, spills, width of loads and stores.

    Needs no GPU. Stale snippets are run first; the table is stored with their results.
    """
    library, store = snippets_of(root)
    known(slugs, library)
    with Board(err) as board:
        runs = run_snippets(library, store, slugs or None, retry=False, watch=board.watch)
    table = Table("kernel", "function", "target", "dtype", box=SIMPLE)
    for column in ("registers", "spills", "shared", "load", "store"):
        table.add_column(column, justify="right")
    for slug in slugs or sorted(runs.results):
        for name, kernel in runs.results[slug].kernels.items() if slug in runs.results else ():
            for row in kernel.get("compiled", ()):
                numbers = (row[key] for key in ("registers", "spills", "shared", "widest_load", "widest_store"))
                table.add_row(name, row["function"], row["target"], row["dtype"], *map(str, numbers))
    out.print(table, soft_wrap=False)
    out.print("spills and shared in bytes a program; load and store: the widest, in bytes a thread")
    refuse_failures(runs, slugs or tuple(library.snippets))


@click.command()
@click.argument("slugs", nargs=-1, metavar="[SLUG]...")
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=540.0, show_default=True, help="Stop cleanly within this time."
)
@click.option("--force", is_flag=True, help="Measure again what is recorded.")
@click.pass_obj
def bench(root: Path | None, slugs: tuple[str, ...], seconds: float, force: bool) -> None:
    """Measure the kernels on this machine's GPU and record their speed in snippets/SLUG/recorded/.

    Measures copy bandwidth and matrix peak first, then each kernel against eager torch and torch.compile. A run that
    is cut short goes on where it stopped. Refuses to record what is wrong or too noisy.
    """
    project = project_of(root)
    known(slugs, Library(root=project, snippets=find_snippets(project)))
    command = [
        sys.executable,
        "-m",
        "generator.lab.bench",
        *slugs,
        "--seconds",
        str(seconds),
        *(["--force"] if force else []),
    ]
    sys.exit(subprocess.run(command, cwd=project).returncode)


COMMANDS = (
    compile_,
    bench,
)
