"""A folder of foreign notes, or one, comes in; its notes with their front matter go out, and what is none or cannot be read."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from generator import regular
from generator.intake import names
from generator.intake.report import Item, Report
from generator.load import NOTE_LIMIT
from generator.normal.pieces import compose
from generator.normal.refusal import Refused
from generator.pictures import PICTURES

NOTES = (".md", ".markdown")
_MEANT = {
    "title": "title", "aliases": "aliases", "alias": "aliases", "tags": "tags", "tag": "tags", "keywords": "tags",
    "added": "added", "date": "added", "created": "added", "date created": "added", "created_at": "added",
    "creation date": "added", "author": "author", "authors": "author", "summary": "summary", "description": "summary",
    "papers": "papers", "paper": "papers", "citekey": "papers", "citekeys": "papers", "citation-key": "papers",
    "citationkey": "papers", "bibtexkey": "papers", "doi": "doi", "arxiv": "arxiv", "eprint": "arxiv",
}  # fmt: skip
"""What the keys of other programs' front matter mean here."""
_SIMPLE = re.compile(r"([A-Za-z$][\w $-]*?)[ \t]*:[ \t]+(\S.*)")


@dataclass
class Source:
    """One note as it was found."""

    path: Path
    file: str
    name: str
    """Its path below the folder, without its ending."""
    said: dict[str, Any] = field(default_factory=dict)
    body: str = ""
    body_line: int = 1
    title: str = ""

    @property
    def aliases(self) -> list[str]:
        return words(self.said.get("aliases"), split=False)


def read(path: Path, report: Report) -> list[Source]:
    """Return the notes of a folder, or the one note."""
    base = path if path.is_dir() else path.parent
    found = []
    for one in _files(path, base, report):
        file = _shown(one, path)
        if one.suffix.lower() in NOTES:
            if source := _source(one, base, file, report):
                found.append(source)
        elif one.suffix.lower() not in PICTURES:
            report.lost.append(Item("", "is neither a note nor a picture; left out", file=file))
    return found


def files(folder: Path) -> Iterator[Path]:
    """Yield every file of a folder but what is hidden, by name; links to folders are not followed."""
    for here, folders, found in os.walk(folder):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        yield from (Path(here, one) for one in sorted(found) if not one.startswith("."))


def _files(path: Path, base: Path, report: Report) -> Iterator[Path]:
    for one in files(path) if path.is_dir() else [path]:
        if not one.resolve().is_relative_to(base.resolve()):
            fix = "copy the file into the folder"
            report.unread.append(Item("", "symbolic link that leaves the folder", fix, _shown(one, path), 1))
        elif not one.is_file():
            report.unread.append(Item("", "no plain file, or a link to none", "remove it", _shown(one, path), 1))
        elif one.is_symlink() and path.is_dir():
            report.there.append(Item("", "a link to a file that comes in itself", file=_shown(one, path)))
        else:
            yield one


def _shown(path: Path, given: Path) -> str:
    shown = f"{given.name}/{path.relative_to(given).as_posix()}" if given.is_dir() else path.name
    return shown.encode("utf-8", "replace").decode()


def _source(path: Path, base: Path, file: str, report: Report) -> Source | None:
    def wrong(line: int, what: str, fix: str) -> Source | None:
        report.unread.append(Item("", what, fix, file, line))
        return None

    try:
        if path.stat().st_size > NOTE_LIMIT:
            return wrong(1, f"larger than {NOTE_LIMIT // 1_000_000} MB", "split the note")
        text = regular.text(path)
    except UnicodeDecodeError as error:
        return wrong(regular.line_of(error), "not UTF-8", "save the file as UTF-8")
    except OSError as error:
        return wrong(1, f"cannot be read: {error.strerror}", "check the file and its permissions")
    clean = re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ue000-\uf8ff]", "", text)
    if clean != text:
        report.changed.append(Item("", "control characters are left out", file=file))
    name = path.relative_to(base).with_suffix("").as_posix()
    source = Source(path, file, name, body=clean)
    _front(source, report)
    if not source.body.strip() and not source.said:
        return wrong(1, "empty", "write it, or remove it")
    source.title = _title(source)
    return source


def _front(source: Source, report: Report) -> None:
    """Take what is known of the front matter, whatever state it is in."""
    found = re.match(r"---[ \t]*\n(.*?)(?:(?<=\n)|\A)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", source.body, re.DOTALL)
    if not found:
        return
    head = found[1]
    try:
        compose(head)
        raw = yaml.safe_load(head)
    except (Refused, yaml.YAMLError, ValueError, RecursionError) as error:
        line = error.line if isinstance(error, Refused) else 1
        why = "is no YAML; its simple lines were read"
        report.lost.append(
            Item("front matter", f"{why} ({names.one_line(str(error), 100)})", file=source.file, line=line)
        )
        simple = (_SIMPLE.fullmatch(one) for one in head.split("\n"))
        raw = {one[1]: one[2].strip().strip("\"'") for one in simple if one}
    source.body = source.body[found.end() :]
    source.body_line = found[0].count("\n") + 1
    left = []
    for key, value in raw.items():
        meant = _MEANT.get(str(key).strip().lower())
        if meant and value not in (None, "", []):
            source.said.setdefault(meant, value)
        elif not meant:
            left.append(str(key))
    if left:
        report.lost.append(Item(", ".join(left), "no such keys in front matter here", file=source.file, line=2))


def _title(source: Source) -> str:
    said = source.said.get("title")
    heading = re.search(r"(?m)^#[ \t]+(\S.*?)[ \t]*#*$", re.sub(r"(?ms)^(```|~~~).*?^\1", "", source.body))
    stem = source.name.rpartition("/")[2]
    plain = said if isinstance(said, str) else heading[1] if heading else stem.removeprefix("@")
    plain = re.sub(r"!?\[\[(?:[^\]|]*\|)?([^\]]*)\]\]|!?\[([^\]]*)\]\([^)]*\)", lambda m: m[1] or m[2] or "", plain)
    plain = re.sub(r"<%.*?%>|%%.*?%%|<[^>]*>|\*\*|==|`", "", plain)
    return names.one_line(plain, names.TITLE) or names.one_line(stem, names.TITLE) or "Untitled"


def words(said: Any, split: bool = True) -> list[str]:
    """Return a list from what front matter gives as one, or as text with commas."""
    if isinstance(said, str):
        said = re.split(r"[,;\s]+" if split else r"[,;\n]+", said)
    if not isinstance(said, list | tuple):
        said = [] if said is None or isinstance(said, dict) else [said]
    return [text for one in said if not isinstance(one, dict | list) and (text := str(one).strip().lstrip("#"))]


def added(source: Source) -> datetime.date:
    """Return the day a note was written: as it says, as its name says, or as its file does."""
    stem = source.name.rpartition("/")[2]
    if found := names.date_of(source.said.get("added")) or names.date_of(stem):
        return found
    return datetime.date.fromtimestamp(source.path.stat().st_mtime)
