"""The path of an entry of front matter comes in, as in ("claims", 0, "metric"); where it stands in its file goes out."""

from __future__ import annotations

from collections.abc import Mapping


def place_of(path: tuple[object, ...], places: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Return where a front-matter entry stands, or the nearest one around it that does."""
    known = (places.get(dotted(path[:end])) for end in range(len(path), 0, -1))
    return next(filter(None, known), (1, 1))


def dotted(path: tuple[object, ...]) -> str:
    """Return a front-matter path as a key: ("claims", 0) -> "claims.0"."""
    return ".".join(map(str, path))
