"""Files of references and the project's bibliography come in from disk; the bibliography goes back, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from generator import regular
from generator.bibliography import read_papers
from generator.intake import bibtex, csl
from generator.intake.reference import Reference
from generator.intake.report import Item
from generator.intake.shelf import FILE, Shelf
from generator.store import write_whole

LIMIT = 200_000_000
_MARK = b"\xef\xbb\xbf"


class UnreadableError(Exception):
    """A file that cannot be read as a whole: what is wrong, and how to mend it."""


def read_references(data: bytes, file: str) -> list[Reference | Item]:
    """Return what a file of BibTeX or CSL-JSON holds: each paper, or what is wrong with its entry."""
    text = _text(data, file)
    start = text.lstrip()[:1]
    if not start:
        raise UnreadableError(f"{file}:1: nothing in it; export the library once more")
    if start in "[{" and start != "@":
        return list(csl.references(text, file))
    if "@" not in text:
        raise UnreadableError(f"{file}:1: neither BibTeX nor CSL-JSON; export the library as one of them")
    return list(bibtex.references(text, file))


def open_shelf(root: Path) -> Shelf:
    """Return the project's bibliography; one that is not there yet is empty."""
    path = root / FILE
    return Shelf(_text(regular.read(path), FILE) if path.exists() else "")


def written(shelf: Shelf) -> str:
    """Return the bibliography with what came in; raise UnreadableError where one of its papers would be lost by it."""
    text = shelf.written()
    before, after = read_papers(shelf.text, FILE)[0], read_papers(text, FILE)[0]
    lost = [key for key in before if key not in after or before[key].bibtex != after[key].bibtex]
    if lost or (missing := [key for key in shelf.new if key not in after]):
        named = ", ".join((lost or missing)[:5])
        raise UnreadableError(f"{FILE}: would not be read any more ({named}); run `papernotes check` and mend it first")
    return text


def save(shelf: Shelf, root: Path) -> None:
    """Write the bibliography whole; its permissions, its mark of order and a link to it stay."""
    target = root / FILE
    marked = target.exists() and target.read_bytes().startswith(_MARK)
    write_whole(target, (_MARK if marked else b"") + written(shelf).encode())


def _text(data: bytes, file: str) -> str:
    if len(data) > LIMIT:
        raise UnreadableError(f"{file}:1: larger than {LIMIT // 1_000_000} MB; export it in parts")
    try:
        return data.removeprefix(_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{file}:{regular.line_of(error)}: not UTF-8; export it once more as UTF-8") from None
