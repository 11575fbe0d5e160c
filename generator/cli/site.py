"""Commands about the site: check, export, new."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from generator.cli.board import Board
from generator.cli.console import Refusal, count, err, out, project_of, show_failures, show_problems
from generator.schema import SLUG

# What a whole build needs is imported by the commands that build: the others answer at once without it.


@click.command()
@click.pass_obj
def check(root: Path | None) -> None:
    """Show every problem of every note at once: file:line: what; how to mend it.

    Runs nothing. Claims are held against stored results where these are fresh.
    """
    from generator.build import build

    built = build(project_of(root), execute=False)
    show_problems(built.problems)
    notes = len(built.library.notes) + len(built.library.broken)
    if built.problems:
        raise Refusal(f"{count(len(built.problems), 'problem')} in {count(notes, 'note')}")
    out.print(f"{count(notes, 'note')}, no problems")


@click.command()
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
    from generator.build import build
    from generator.export import export as export_site
    from generator.export import write_config
    from generator.load import load_about

    project = project_of(root)
    with Board(err) as board:
        about = load_about(project).model_copy(update={"source_links": config is not None})
        built = build(project, execute=not only_stored, watch=board.watch, about=about)
    try:
        written = export_site(built, folder)
        if config:
            write_config(config, folder, project)
    except OSError as error:
        raise Refusal(f"cannot write {error.filename}: {error.strerror}; choose another folder") from None
    show_problems(built.problems)
    show_failures(built.runs)
    out.print(f"{written} files in {folder}")
    if strict and not built.sound:
        raise Refusal("the site has problems")


@click.command()
@click.argument("slug")
@click.option("--title", default="", help="The note's title; default: made from SLUG.")
@click.option("--paper", "papers", multiple=True, help="A key of notes/library.bib; may be given several times.")
@click.option(
    "--author", default=lambda: os.environ.get("USER", "anonymous"), show_default="you", help="Who writes it."
)
@click.pass_obj
def new(root: Path | None, slug: str, title: str, papers: tuple[str, ...], author: str) -> None:
    """Begin a note: a draft with method, kernel, experiment and test that passes `check` and runs."""
    from generator.load import load
    from generator.new import ExistsError
    from generator.new import new as write_draft

    project = project_of(root)
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


COMMANDS = (
    check,
    export,
    new,
)
