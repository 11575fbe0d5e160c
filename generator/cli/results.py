"""Commands about results: run, status, clean, pack, unpack."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from generator.cli.board import Board
from generator.cli.console import Refusal, count, err, known, out, project_of, refuse_failures, snippets_of, some, write
from generator.execute import Limits
from generator.lab.confine import freedoms, possible
from generator.pack import ForeignError
from generator.pack import pack as pack_results
from generator.pack import unpack as unpack_results
from generator.report import as_json, as_junit, summary
from generator.run import Runs, store_of, stored
from generator.run import run as run_snippets
from generator.run import status as standings
from generator.schema import Library
from generator.store import Store


@click.command()
@click.argument("slugs", nargs=-1, metavar="[SLUG]...")
@click.option("--force", is_flag=True, help="Run even what is fresh.")
@click.option("--only-stored", is_flag=True, help="Run nothing; say what is missing.")
@click.option("--jobs", type=click.IntRange(min=1), help="Snippets at a time; default: one a core.")
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), default=300.0, show_default=True, help="Seconds a snippet may take."
)
@click.option(
    "--memory", type=click.FloatRange(min=0.1), default=4.0, show_default=True, help="GiB a snippet may take."
)
@click.option("--confined", is_flag=True, help="Refuse to run snippets that this system cannot confine.")
@click.option("--scheduler", metavar="ADDRESS", help="Run them on the workers of this Dask scheduler, tcp://HOST:PORT.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write how it went as JUnit's XML.")
@click.option("--json", "json_", type=click.Path(path_type=Path, dir_okay=False), help="Write how it went as JSON.")
@click.pass_obj
def run(
    root: Path | None,
    slugs: tuple[str, ...],
    force: bool,
    only_stored: bool,
    jobs: int | None,
    timeout: float,
    memory: float,
    confined: bool,
    scheduler: str | None,
    junit: Path | None,
    json_: Path | None,
) -> None:
    """Run the snippets that are stale (default: of all notes), each in a process of its own.

    Exit status 1 if one fails; the others run all the same, and their results are kept.
    """
    library, store = snippets_of(root)
    known(slugs, library)
    named = slugs or tuple(slug for slug, snippet in library.snippets.items() if snippet.runs)
    if scheduler and jobs:
        raise click.UsageError("--jobs counts processes of this machine; leave it out with --scheduler")
    started = time.monotonic()
    if confined and not scheduler and (free := freedoms(possible())):
        raise Refusal(f"--confined: nothing was run, for a snippet could {' and '.join(free)}; see SECURITY.md")
    limits = Limits(timeout=timeout, memory=int(memory * 2**30), confined=confined)
    how: dict[str, Any] = {"jobs": jobs, "force": force, "limits": limits}
    if only_stored:
        runs = stored(library, store)
    elif scheduler:
        runs = _elsewhere(scheduler, library, store, named, how)
    else:
        with Board(err) as board:
            runs = run_snippets(library, store, named, watch=board.watch, **how)
    seconds = time.monotonic() - started
    for file, form in ((junit, as_junit), (json_, as_json)):
        if file:
            write(file, form(runs, named, seconds))
    for slug in (slug for slug in named if slug in runs.missing):
        out.print(Text(f"{slug} is missing: {some(runs.missing[slug]) or 'never run'}"))
    out.print(str(summary(runs, named, seconds)))
    refuse_failures(runs, named)


def _elsewhere(address: str, library: Library, store: Store, named: Iterable[str], how: dict[str, Any]) -> Runs:
    from generator import cluster

    try:
        with Board(err) as board:
            return run_snippets(library, store, named, watch=board.watch, elsewhere=cluster.on(address), **how)
    except cluster.PackageError as error:
        raise click.UsageError(str(error)) from None
    except cluster.ClusterError as error:
        raise Refusal(str(error)) from None


@click.command()
@click.pass_obj
def status(root: Path | None) -> None:
    """Say of each snippet whether it is fresh, stale (and why), failed, or was never run."""
    lines = standings(*snippets_of(root))
    style = {"fresh": "green", "stale": "yellow", "failed": "red", "never run": "yellow"}
    width = max((len(one.slug) for one in lines), default=0)
    for one in lines:
        said = (f"{one.slug:<{width}}  ", (f"{one.state:<9}", style[one.state]), f"  {some(one.why)}".rstrip())
        out.print(Text.assemble(*said))
    if not lines:
        out.print("no snippets yet")


@click.command()
@click.pass_obj
def clean(root: Path | None) -> None:
    """Remove stored results that nothing refers to any more, and what killed builds left behind."""
    library, store = snippets_of(root)
    number, freed = store.clean({one.key for one in standings(library, store)}, set(library.snippets))
    out.print(f"{count(number, 'thing')} removed, {freed / 1e6:.1f} MB")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def pack(root: Path | None, file: Path) -> None:
    """Write the fresh results into FILE, to carry to another machine."""
    runs = stored(*snippets_of(root))
    try:
        number = pack_results(runs.results.values(), file)
    except OSError as error:
        raise Refusal(f"cannot write {file}: {error.strerror}; choose another place") from None
    missing = f", {len(runs.missing) + len(runs.failures)} missing" if runs.missing or runs.failures else ""
    out.print(f"{count(number, 'result')} in {file}{missing}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.pass_obj
def unpack(root: Path | None, file: Path) -> None:
    """Take in the results of a file that `pack` wrote; a damaged or foreign one is refused whole."""
    try:
        number = unpack_results(file, store_of(project_of(root)))
    except ForeignError as error:
        raise Refusal(str(error)) from None
    except OSError as error:
        raise Refusal(f"cannot take in {file}: {error.strerror or error}") from None
    out.print(f"{count(number, 'result')} from {file}")


COMMANDS = (
    run,
    status,
    clean,
    pack,
    unpack,
)
