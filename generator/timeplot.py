"""Notes and the years of their papers come in; the coordinates of a timeline go out, for a template to draw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

WIDTH, LEFT, RIGHT, TOP, LANE, AXIS = 900.0, 20.0, 880.0, 6.0, 22.0, 30.0
LETTER = 6.6
"""The width of a letter of a title, about; titles are set in 12 units."""
LONGEST = 34
"""Letters of a title; a longer one is cut, and whole where it is pointed at."""
LANES = 18
"""Lines of titles; in a fuller year what has no room keeps its dot."""


@dataclass(frozen=True)
class Mark:
    x: float
    y: float
    title: str
    short: str
    anchor: str
    href: str


@dataclass(frozen=True)
class Timeline:
    height: float
    floor: float
    years: list[tuple[float, int]]
    marks: list[Mark]
    width: float = WIDTH


def timeline(notes: Iterable[tuple[int, str, str]]) -> Timeline | None:
    """Return each (year, title, address) on the first line with room for its title."""
    placed = sorted(notes, key=lambda one: (one[0], one[1].lower()))
    if not placed:
        return None
    first, last = placed[0][0], placed[-1][0]
    span = max(last - first, 1)
    taken: list[list[tuple[float, float]]] = []
    found = []
    for year, title, href in placed:
        x = round(LEFT + (RIGHT - LEFT) * (year - first) / span, 1)
        short = title if len(title) <= LONGEST else title[: LONGEST - 1].rstrip() + "…"
        length = LETTER * len(short) + 14
        to_the_left = x + length > WIDTH
        box = (x - length, x + 6) if to_the_left else (x - 6, x + length)
        line = next((n for n, boxes in enumerate(taken) if all(box[1] < a or box[0] > b for a, b in boxes)), len(taken))
        if line >= LANES:
            line, short, box = LANES - 1, "", (x - 6, x + 6)
        if line == len(taken):
            taken.append([])
        taken[line].append(box)
        found.append((x, line, title, short, "end" if to_the_left else "start", href))
    floor = TOP + LANE * len(taken)
    marks = [Mark(x, floor - LANE * (line + 0.6), *rest) for x, line, *rest in found]
    step = -(-span // 10)
    years = [(round(LEFT + (RIGHT - LEFT) * (year - first) / span, 1), year) for year in range(first, last + 1, step)]
    return Timeline(floor + AXIS, floor, years, marks)
