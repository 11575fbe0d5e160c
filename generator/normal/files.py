"""Files come in; what each would be in normal form goes out, or why it is left alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from generator import regular
from generator.normal import front, library
from generator.normal.refusal import Refused
from generator.store import write_whole

HOME = "index.md"
LIMIT = 20_000_000
MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Normal:
    """A file as it is and as it would be; the two are the same where it is in form, and where it was refused."""

    path: Path
    before: str
    after: str
    refused: Refused | None = None
    marked: bool = False
    """Whether it began with a byte order mark."""

    @property
    def changes(self) -> bool:
        return self.refused is None and (self.before != self.after or self.marked)


def of_project(root: Path) -> list[Path]:
    """Return the files of a project that have a normal form: its notes, and its bibliography."""
    notes = root / "notes"
    found = [path for path in sorted(notes.rglob("*.md")) if path != notes / HOME]
    return [*found, *(path for path in [notes / "library.bib"] if path.exists())]


def normal(paths: Iterable[Path]) -> Iterator[Normal]:
    """Yield each file in normal form; nothing is written."""
    for path in paths:
        try:
            yield _normal(path)
        except Refused as refused:
            yield Normal(path, "", "", refused)


def _normal(path: Path) -> Normal:
    try:
        if path.stat().st_size > LIMIT:
            raise Refused(1, f"larger than {LIMIT // 1_000_000} MB", "split it")
        data = regular.read(path)
        before = data.removeprefix(MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(regular.line_of(error), "not UTF-8", "save the file as UTF-8") from None
    except OSError as error:
        raise Refused(1, f"cannot be read: {error.strerror}", "check the file and its permissions") from None
    form = library.normal if path.suffix == ".bib" else front.normal
    return Normal(path, before, form(before.replace("\r\n", "\n")), marked=data.startswith(MARK))


def write(one: Normal) -> None:
    """Write a file in normal form, whole or not at all; its permissions stay, and so does a link to it."""
    write_whole(one.path, one.after.encode())
