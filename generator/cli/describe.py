"""What a user says of a paper on the command line, or is asked, comes in; its key in the bibliography goes out."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from generator.cli.console import Refusal, err, out
from generator.identifiers import arxiv_in, arxiv_of, doi_of, is_arxivs_own
from generator.intake import files
from generator.intake.online import OfflineError, looked_up
from generator.intake.reference import Reference, name_of, settled
from generator.intake.report import Item
from generator.intake.shelf import Shelf


def described(slug: str, shelf: Shelf, given: dict[str, Any]) -> tuple[list[str], str]:
    """Return the keys of the papers that are described, now on the shelf, and the note's title."""
    asking = sys.stdin.isatty() and given["bibtex"] != "-"
    if not (slug or given["papers"] or given["title"] or _describes(given)):
        if not asking:
            raise click.UsageError("name the note: SLUG, --title, or a paper by --arxiv, --doi or --bibtex")
        given |= _asked()
    found = _references(given) if _describes(given) else []
    if len(found) > 1 and given["kind"] != "digest":
        what = f"{given['bibtex']} holds {len(found)} entries; a note begins with one (or --kind digest)"
        raise click.UsageError(f"{what}; `papernotes import` takes in all")
    keys = [_placed(one, shelf, given, asking) for one in found]
    title = given["title"] or (shelf.titles[keys[0]] if len(keys) == 1 else "")
    if not (title or slug):
        if not asking:
            raise click.UsageError("name the note: SLUG or --title")
        title = click.prompt("Title of the note")
    if len(title) > 2000:
        raise click.UsageError("the title is longer than 2,000 letters; shorten it")
    return keys, title or slug.replace("_", " ").capitalize()


def _describes(given: dict[str, Any]) -> bool:
    return bool(given["arxiv"] or given["doi"] or given["bibtex"] or given["authors"] or given["year"])


def _asked() -> dict[str, Any]:
    """Ask which paper the note is on."""
    said = click.prompt("Paper (arXiv number, DOI, or a file with its BibTeX entry; empty: none)", default="").strip()
    if arxiv_of(said):
        return {"arxiv": said}
    if doi_of(said):
        return {"doi": said}
    if said and not Path(said).is_file():
        raise click.UsageError(f"'{said}' is no arXiv number, no DOI and no file")
    return {"bibtex": said} if said else {"title": click.prompt("Title of the note")}


def _references(given: dict[str, Any]) -> list[Reference]:
    arxiv, doi = arxiv_of(given["arxiv"] or ""), doi_of(given["doi"] or "")
    if given["arxiv"] and not arxiv:
        raise click.UsageError(f"'{given['arxiv']}' is no arXiv number; write it as 1706.02515 or cs/0112017")
    if given["doi"] and not doi:
        raise click.UsageError(f"'{given['doi']}' is no DOI; write it as 10.1038/nature14539")
    if is_arxivs_own(doi):
        arxiv, doi = arxiv or arxiv_in(doi.partition(".")[2].partition(".")[2]), ""
    authors = tuple(name_of(name) for name in given["authors"])
    flags = Reference(authors=authors, year=given["year"] or 0, arxiv=arxiv, doi=doi)
    return [settled(flags.completed(one)) for one in _entries(given["bibtex"])] if given["bibtex"] else [settled(flags)]


def _entries(bibtex: str) -> list[Reference]:
    name = "standard input" if bibtex == "-" else bibtex
    try:
        data = sys.stdin.buffer.read() if bibtex == "-" else Path(bibtex).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{bibtex}: {error.strerror}") from None
    found = files.read_references(data, name)
    if wrong := [one for one in found if isinstance(one, Item)]:
        raise Refusal(str(wrong[0]))
    if not found:
        raise Refusal(f"{name}:1: no entry in it; give one that begins with @")
    return [one for one in found if isinstance(one, Reference)]


def _placed(reference: Reference, shelf: Shelf, given: dict[str, Any], asking: bool) -> str:
    """Return the paper's key: the one it has, or that of its new entry."""
    titled = replace(reference, title=reference.title or given["title"])
    same = shelf.find(reference)
    if not same:
        if titled.missing and (reference.arxiv or reference.doi) and not given["offline"]:
            reference = _looked_up(reference)
            titled = replace(reference, title=reference.title or given["title"])
        reference = _completed(titled) if asking else titled
        same = shelf.find(reference)
    if same:
        out.print(Text(f"{files.FILE} has it as {same[0]}: {same[1]}"))
        return same[0]
    if reference.missing:
        flags = " ".join(f"--{name} …" for name in reference.missing)
        hint = "" if given["arxiv"] or given["doi"] or given["bibtex"] else " (or --by, for who writes the note)"
        raise click.UsageError(f"the paper has no {' and no '.join(reference.missing)}; give {flags}{hint}")
    return shelf.add(reference)


def _looked_up(reference: Reference) -> Reference:
    try:
        return looked_up(reference)
    except OfflineError as error:
        err.print(Text(f"{error}; going on with what is given"))
        return reference


def _completed(reference: Reference) -> Reference:
    """Ask for what is missing."""
    title = reference.title or click.prompt("Title of the paper")
    authors = reference.authors
    while not authors:
        said = click.prompt("Its authors, with 'and' between them")
        authors = tuple(name_of(name) for name in said.split(" and ") if name.strip())
    year = reference.year or click.prompt("Its year", type=click.IntRange(1500, 2099))
    return replace(reference, title=title, authors=authors, year=year)
