"""How many notes each year has come in; the bars of a timeline go out, for a template to draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HEIGHT, TOP, AXIS = 84.0, 16.0, 22.0
"""Of the bars at most, above them for their number, and below them for the years; in pixels."""
TICKS = 6
"""Years that are named under the axis, about: as many as fit on a phone."""


@dataclass(frozen=True)
class Bar:
    """The notes on the papers of one year; places along the axis are in percent of it."""

    year: int
    notes: int
    x: float
    width: float
    height: float


@dataclass(frozen=True)
class Timeline:
    bars: list[Bar]
    ticks: list[tuple[float, int]]
    floor: float = TOP + HEIGHT
    height: float = TOP + HEIGHT + AXIS


def timeline(notes: Mapping[int, int]) -> Timeline | None:
    """Return a bar a year that has notes, as high as it has many, and the years to name; None where there is no year."""
    if not notes:
        return None
    first, last = min(notes), max(notes)
    step = 100 / (last - first + 1)
    most = max(notes.values())

    def left(year: int) -> float:
        return round(step * (year - first), 3)

    bars = [
        Bar(year, notes[year], left(year), round(0.8 * step, 3), round(HEIGHT * notes[year] / most, 1))
        for year in sorted(notes)
    ]
    apart = max(-(-(last - first) // TICKS), 1)
    ticks = [(round(left(year) + 0.4 * step, 3), year) for year in range(last, first - 1, -apart)]
    return Timeline(bars, ticks[::-1])
