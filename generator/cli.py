"""The command line: the one file that prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from generator import __version__
from generator.board import Board
from generator.build import Built, build
from generator.export import export as export_site
from generator.export import write_config
from generator.load import load, load_about
from generator.new import ExistsError
from generator.new import new as write_draft
from generator.run import Limits, Runs, store_of
from generator.run import run as run_snippets
from generator.run import status as standings
from generator.schema import SLUG, Library
from generator.spelling import nearest

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Refusal(click.ClickException):
    """A clear message and exit status 1."""

    def show(self, file: Any = None) -> None:
        err.print(Text(f"papernotes: {self.format_message()}", style="red"))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="papernotes")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    help="The project; default: the nearest folder upwards with mkdocs.yml.",
)
@click.pass_context
def papernotes(context: click.Context, root: Path | None) -> None:
    """Paper notes whose every method runs.

    Run it inside a project: a folder with mkdocs.yml, notes/ and snippets/. To browse the site, type `mkdocs serve`.
    """
    context.obj = root


@papernotes.command()
@click.pass_obj
def check(root: Path | None) -> None:
    """Show every problem of every note at once: file:line: what; how to mend it.

    Runs nothing. Claims are held against stored results where these are fresh.
    """
    built = build(_project(root), execute=False)
    _show_problems(built)
    notes = len(built.library.notes) + len(built.library.broken)
    if built.problems:
        raise Refusal(f"{_count(len(built.problems), 'problem')} in {_count(notes, 'note')}")
    out.print(f"{_count(notes, 'note')}, no problems")


@papernotes.command()
@click.argument("slugs", nargs=-1, metavar="[SLUG]...")
@click.option("--force", is_flag=True, help="Run even what is fresh.")
@click.option("--jobs", type=click.IntRange(min=1), help="Snippets at a time; default: one a core.")
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), default=300.0, show_default=True, help="Seconds a snippet may take."
)
@click.option(
    "--memory", type=click.FloatRange(min=0.1), default=4.0, show_default=True, help="GiB a snippet may take."
)
@click.pass_obj
def run(
    root: Path | None, slugs: tuple[str, ...], force: bool, jobs: int | None, timeout: float, memory: float
) -> None:
    """Run the snippets that are stale (default: of all notes), each in a process of its own.

    Exit status 1 if one fails; the others run all the same, and their results are kept.
    """
    project = _project(root)
    library = load(project)
    _known(slugs, library)
    started = time.monotonic()
    limits = Limits(timeout=timeout, memory=int(memory * 2**30))
    with Board(err) as board:
        runs = run_snippets(
            library, store_of(project), slugs or None, jobs=jobs, force=force, limits=limits, watch=board.watch
        )
    _summarise(runs, slugs or tuple(library.snippets), time.monotonic() - started)


@papernotes.command()
@click.pass_obj
def status(root: Path | None) -> None:
    """Say of each snippet whether it is fresh, stale (and why), failed, or was never run."""
    project = _project(root)
    lines = standings(load(project), store_of(project))
    style = {"fresh": "green", "stale": "yellow", "failed": "red", "never run": "yellow"}
    width = max((len(one.slug) for one in lines), default=0)
    for one in lines:
        out.print(
            Text.assemble(
                f"{one.slug:<{width}}  ", (f"{one.state:<9}", style[one.state]), f"  {_some(one.why)}".rstrip()
            )
        )
    if not lines:
        out.print("no snippets yet")


@papernotes.command(name="compile")
@click.argument("slugs", nargs=-1, metavar="[SLUG]...")
@click.pass_obj
def compile_(root: Path | None, slugs: tuple[str, ...]) -> None:
    """Show what Triton's compiler makes of each kernel for real GPUs: registers, spills, width of loads and stores.

    Needs no GPU. Stale snippets are run first; the table is stored with their results.
    """
    project = _project(root)
    library = load(project)
    _known(slugs, library)
    with Board(err) as board:
        runs = run_snippets(library, store_of(project), slugs or None, retry=False, watch=board.watch)
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
    _refuse_failures(runs, slugs or tuple(library.snippets))


@papernotes.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--strict", is_flag=True, help="Fail if anything is wrong.")
@click.option("--only-stored", is_flag=True, help="Run nothing; show what is stored.")
@click.option(
    "--zensical",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write FILE as well, a configuration by which Zensical builds the same site, and links as it reads them.",
)
@click.pass_obj
def export(root: Path | None, folder: Path, strict: bool, only_stored: bool, config: Path | None) -> None:
    """Write the same pages as plain Markdown with their files into FOLDER, for any other site engine."""
    project = _project(root)
    with Board(err) as board:
        about = load_about(project).model_copy(update={"source_links": config is not None})
        built = build(project, execute=not only_stored, watch=board.watch, about=about)
    try:
        written = export_site(built, folder)
        if config:
            write_config(config, folder, project)
    except OSError as error:
        raise Refusal(f"cannot write {error.filename}: {error.strerror}; choose another folder") from None
    _show_problems(built)
    _show_failures(built.runs)
    out.print(f"{written} files in {folder}")
    if strict and not built.sound:
        raise Refusal("the site has problems")


@papernotes.command()
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
    project = _project(root)
    _known(slugs, load(project))
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


@papernotes.command()
@click.argument("slug")
@click.option("--title", default="", help="The note's title; default: made from SLUG.")
@click.option("--paper", "papers", multiple=True, help="A key of notes/library.bib; may be given several times.")
@click.option(
    "--author", default=lambda: os.environ.get("USER", "anonymous"), show_default="you", help="Who writes it."
)
@click.pass_obj
def new(root: Path | None, slug: str, title: str, papers: tuple[str, ...], author: str) -> None:
    """Begin a note: a draft with method, kernel, experiment and test that passes `check` and runs."""
    project = _project(root)
    if not re.fullmatch(SLUG, slug):
        raise click.UsageError(f"'{slug}' is no slug; use lower-case letters, digits and '_', as in my_method")
    library = load(project)
    for key in papers:
        if key not in library.papers:
            raise click.UsageError(f"unknown paper '{key}'; add its BibTeX entry to notes/library.bib first")
    try:
        made = write_draft(project, slug, title or slug.replace("_", " ").capitalize(), papers, author)
    except ExistsError as error:
        raise Refusal(f"{error} exists; choose another name, or edit it") from None
    for path in made:
        out.print(f"wrote {path.relative_to(project)}")
    out.print(f"next: write notes/{slug}.md beside `mkdocs serve`, and `papernotes check`")


def _summarise(runs: Runs, slugs: tuple[str, ...], seconds: float) -> None:
    failed = [slug for slug in runs.failures if slug in slugs]
    reused = [slug for slug in slugs if slug in runs.results and slug not in runs.executed]
    ran = len(runs.executed) - len(set(failed) & set(runs.executed))
    out.print(f"{ran} ran, {len(reused)} reused, {len(failed)} failed in {seconds:.1f} s")
    _refuse_failures(runs, slugs)


def _refuse_failures(runs: Runs, slugs: tuple[str, ...]) -> None:
    _show_failures(runs)
    if failed := sorted(slug for slug in runs.failures if slug in slugs):
        raise Refusal(f"{_count(len(failed), 'snippet')} failed: {', '.join(failed)}")


def _show_problems(built: Built) -> None:
    for problem in built.problems:
        out.print(Text(str(problem)))


def _show_failures(runs: Runs) -> None:
    for failure in runs.failures.values():
        err.print(Text(f"\nsnippets/{failure.slug} {failure.outcome}: {failure.error}", style="red"))
        for line in failure.tail.strip().splitlines()[-20:]:
            err.print(Text(f"  | {line}"))


def _some(reasons: tuple[str, ...], most: int = 5) -> str:
    return "; ".join(reasons[:most]) + (f"; and {len(reasons) - most} more" if len(reasons) > most else "")


def _known(slugs: tuple[str, ...], library: Library) -> None:
    for slug in slugs:
        if slug not in library.snippets or not library.snippets[slug].runs:
            raise click.UsageError(f"there is no snippet '{slug}'; {nearest(slug, library.snippets)}")


def _project(root: Path | None) -> Path:
    """Return the project's folder: the one given, or the nearest upwards."""
    here = (root or Path.cwd()).resolve()
    for folder in [here] if root else [here, *here.parents]:
        if (folder / "mkdocs.yml").is_file() and (folder / "notes").is_dir():
            return folder
    raise Refusal(f"no project in {here}: there is no mkdocs.yml with notes/ beside it; change folder or use --root")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def main() -> None:
    """Run the command line; an interrupt ends it with status 130 and no traceback."""
    try:
        sys.exit(papernotes(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        err.print("stopped; finished results are kept")
        sys.exit(130)


if __name__ == "__main__":
    main()
