"""Commands for who writes: new, import."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from rich.text import Text

from generator.cli.console import Refusal, count, out, project_of
from generator.schema import SLUG, Kind, Library, ReadStatus

if TYPE_CHECKING:
    from generator.intake.report import Item, Report
    from generator.intake.shelf import Shelf

MOST = 20
"""Papers that were there already are many when a library comes in a second time: so many are named."""


def _writer() -> str:
    return os.environ.get("USER") or "anonymous"


@click.command()
@click.argument("slug", default="")
@click.option("--arxiv", metavar="ID", help="The paper's arXiv number, or its address there; any version.")
@click.option("--doi", metavar="DOI", help="The paper's DOI, or its address.")
@click.option("--bibtex", metavar="FILE", help="A file with the paper's BibTeX entry; - reads it from standard input.")
@click.option("--title", default="", help="The note's title, and the paper's where nothing else says it.")
@click.option("--author", "authors", multiple=True, metavar="NAME", help="An author of the paper; once for each.")
@click.option("--year", type=click.IntRange(1500, 2099), help="The paper's year.")
@click.option("--paper", "papers", multiple=True, metavar="KEY", help="A paper of notes/library.bib; may be repeated.")
@click.option("--kind", type=click.Choice(get_args(Kind)), help="Default: paper where there is one, else essay.")
@click.option("--no-kernel", is_flag=True, help="Write no kernel.py.")
@click.option("--by", default=_writer, show_default="you", help="Who writes it.")
@click.option("--offline", is_flag=True, help="Ask no network for what is not given.")
@click.pass_obj
def new(root: Path | None, slug: str, **given: Any) -> None:
    """Begin a note: a draft with method, kernel, experiment and test that passes `check` and runs.

    SLUG is made from the title where it is left out. The paper's entry comes into notes/library.bib, unless it is
    there: a DOI, an arXiv number, or title and first author tell. With --arxiv or --doi alone, arXiv or Crossref is
    asked for the rest. On a terminal, what is missing is asked for.
    """
    from generator.cli.describe import described
    from generator.intake import files
    from generator.load import load

    project = project_of(root)
    if slug and not re.fullmatch(SLUG, slug):
        raise click.UsageError(f"'{slug}' is no slug; use lower-case letters, digits and '_', as in my_method")
    library = load(project)
    for key in given["papers"]:
        if key not in library.papers:
            raise click.UsageError(f"unknown paper '{key}'; describe it by --arxiv, --doi or --bibtex instead")
    try:
        shelf = files.open_shelf(project)
        keys, title = described(slug, shelf, given)
        _begin(project, library, shelf, slug, title, tuple(dict.fromkeys((*given["papers"], *keys))), given)
    except files.UnreadableError as error:
        raise Refusal(str(error)) from None
    except OSError as error:
        raise Refusal(f"cannot write {error.filename}: {error.strerror}; nothing was written") from None


def _begin(
    project: Path, library: Library, shelf: Shelf, slug: str, title: str, papers: tuple[str, ...], given: dict[str, Any]
) -> None:
    from generator.intake import files
    from generator.load import RESERVED
    from generator.new import UNUSABLE, ExistsError, slug_of
    from generator.new import new as write_draft

    taken = {*library.snippets, *(path.stem for path in (project / "notes").rglob("*.md"))}
    slug = slug or slug_of(title, taken)
    if slug in RESERVED or slug in UNUSABLE:
        raise click.UsageError(f"'{slug}' is a name that the site or Python uses itself; choose another")
    for note in library.notes:
        if shared := [key for key in note.front.papers if key in papers and note.front.kind == "paper"]:
            out.print(f"{note.file} is on {shared[0]} as well")
    try:
        made = write_draft(
            project,
            slug,
            title,
            papers,
            given["by"],
            kind=given["kind"],
            kernel=not given["no_kernel"],
            figure=_cover(library, papers),
            finish=lambda: files.save(shelf, project) if shelf.new else None,
        )
    except ExistsError as error:
        raise Refusal(f"{error} exists; choose another name, or edit it") from None
    for key in shelf.new:
        out.print(Text(f"added {key} to {files.FILE}"))
    for path in made:
        out.print(f"wrote {path.relative_to(project)}")
    out.print(f"next: write notes/{slug}.md beside `mkdocs serve`, and `papernotes check`")


def _cover(library: Library, papers: tuple[str, ...]) -> str:
    """Return the cover of a note on one of the papers, as another note names it."""
    for note in library.notes:
        if note.front.cover and "/" not in note.front.cover and set(note.front.papers) & set(papers):
            return f"{note.slug}/{note.front.cover}"
    return ""


@click.command(name="import")
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--status",
    type=click.Choice([one for one in get_args(ReadStatus) if one]),
    help="Where the file does not say how far the reading has come; default: to read.",
)
@click.option("--dry-run", is_flag=True, help="Write nothing; say what would come in.")
@click.option("--by", default=_writer, show_default="you", help="Who wrote the notes that do not say it.")
@click.pass_obj
def import_(root: Path | None, file: Path, status: ReadStatus | None, dry_run: bool, by: str) -> None:
    """Take in a library of papers (.bib or CSL-JSON) as a reading list, or a folder of Markdown notes.

    Papers come into notes/library.bib, each once, and the rest of that file stays as it is. Exit status 1 if something
    of FILE cannot be read; what can comes in all the same.
    """
    from generator.intake import files
    from generator.intake.shelf import take_in

    project = project_of(root)
    try:
        if file.is_dir() or file.suffix.lower() in (".md", ".markdown"):
            if status or dry_run:
                raise click.UsageError("--status and --dry-run are for libraries of papers; leave them out for notes")
            from generator.intake.markdown import import_notes

            _show(import_notes(file, project, by), "added", "note")
            return
        shelf = files.open_shelf(project)
        report = take_in(shelf, files.read_references(file.read_bytes(), str(file)), str(file), status or "to read")
        if shelf.new and not dry_run:
            files.save(shelf, project)
    except files.UnreadableError as error:
        raise Refusal(str(error)) from None
    except OSError as error:
        raise Refusal(f"{error.filename}: {error.strerror}; nothing came in") from None
    _show(report, "would add" if dry_run else "added", "paper")


def _show(report: Report, verb: str, noun: str) -> None:
    """Say what became of everything; leave with 1 where something could not be read."""
    out.print(f"{verb} {count(len(report.added), noun)}")
    _list("already there", report.there, MOST)
    _list("changed on the way in", report.changed, MOST)
    _list("could not be kept", report.lost)
    _list("could not be read", report.unread)
    if report.unread:
        raise Refusal(f"{len(report.unread)} could not be read; mend them and import the file once more")


def _list(said: str, items: list[Item], most: int | None = None) -> None:
    if items:
        out.print(f"{said}: {len(items)}")
    for item in items[:most]:
        out.print(Text(f"  {item}"))
    if most and len(items) > most:
        out.print(f"  and {len(items) - most} more")


COMMANDS = (
    new,
    import_,
)
