"""What a note names comes in, by its path in the front matter or its words in the body; its line and column go out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from generator.schema import Note

Places = Mapping[str, tuple[int, int]]
"""Line and column of each entry of front matter, by its dotted path."""


def place(note: Note, *path: object) -> tuple[int, int]:
    """Return line and column of an entry such as ("claims", 0, "metric") of a note, or of what holds it."""
    return place_of(path, note.places)


def place_of(path: tuple[object, ...], places: Places) -> tuple[int, int]:
    """Return where a front-matter entry stands, or the nearest one around it that does."""
    known = (places.get(dotted(path[:end])) for end in range(len(path), 0, -1))
    return next(filter(None, known), (1, 1))


def dotted(path: tuple[object, ...]) -> str:
    """Return a front-matter path as a key: ("claims", 0) -> "claims.0"."""
    return ".".join(map(str, path))


def column_of(said: str, body: str, line: int) -> int:
    """Return the column at which words begin on a line of a body, both from 1; 1 where they are not there as written."""
    lines = _lines(body)
    return lines[line - 1].find(said) + 1 or 1 if said and line <= len(lines) else 1


@lru_cache(maxsize=4)  # one note may have many problems
def _lines(body: str) -> list[str]:
    return body.split("\n")
