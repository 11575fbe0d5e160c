"""Kernels and a machine's measured ceilings come in; the coordinates of a roofline plot go out, for a template to draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

WIDTH, LEFT, RIGHT, TOP, HEIGHT, AXIS = 420.0, 48.0, 400.0, 14.0, 210.0, 34.0
"""In the drawing's own units: 420 across, of which the plot has 48 to 400; 34 below it for the axis."""
LANE = 16.0
"""Between two lines of names."""
LETTER = 6.3
"""The width of a letter of a name, at most: names are set in 11 units."""
RADIUS = 3.5
SIDES = ((8, 4, "start"), (-8, 4, "end"), (0, -9, "middle"), (0, 18, "middle"), (8, -9, "start"), (-8, -9, "end"))
"""Where a name may stand about its dot: right, left, above, below, and askew."""


@dataclass(frozen=True)
class Kernel:
    """A dot to be: operations a byte (None where it computes nothing), and operations a second where measured."""

    name: str
    intensity: float | None
    rate: float | None = None
    said: str = ""
    """What the dot says when it is pointed at."""
    href: str = ""


@dataclass(frozen=True)
class Roof:
    """Measured ceilings: bytes a second copied, operations a second of a matrix product by dtype."""

    bandwidth: float
    peaks: Mapping[str, float]


@dataclass(frozen=True)
class Dot:
    kernel: Kernel
    x: float
    y: float
    label: tuple[float, float, str] | None
    """Where the name stands, and its anchor; None where there is no room for it."""


@dataclass(frozen=True)
class Plot:
    """What a template draws: every coordinate is ready, every text is plain."""

    height: float
    xticks: Sequence[tuple[float, str]]
    yticks: Sequence[tuple[float, str]] = ()
    roof: Sequence[tuple[float, float]] = ()
    ceilings: Sequence[tuple[float, float, str]] = ()
    """The horizontal line of each dtype's peak: from x, at y, its name."""
    dots: Sequence[Dot] = ()
    floor: float = 0.0
    """The y of the x axis."""
    width: float = field(default=WIDTH)
    left: float = field(default=LEFT)
    right: float = field(default=RIGHT)


def roofline(kernels: Iterable[Kernel], roof: Roof) -> Plot | None:
    """Return operations a second against operations a byte, under what the machine was seen to attain."""
    measured = [one for one in kernels if one.intensity and one.rate]
    if not measured:
        return None
    highest = max(roof.peaks.values(), default=0.0) or max(one.rate or 0 for one in measured)
    ridge = highest / roof.bandwidth
    across = _scale([*(one.intensity or 1 for one in measured), ridge], LEFT, RIGHT)
    floor = TOP + HEIGHT
    lowest = min([*(one.rate or 1 for one in measured), 10**across.first * roof.bandwidth])
    up = _scale([lowest, highest, *(one.rate or 1 for one in measured)], floor, TOP)
    start, end = 10**across.first, 10**across.last
    corner = [(across(start), up(start * roof.bandwidth)), (across(ridge), up(highest))]
    ceilings = [
        (across(peak / roof.bandwidth), up(peak), name) for name, peak in roof.peaks.items() if up(peak) <= floor
    ]
    places = [(across(one.intensity or 1), up(one.rate or 1)) for one in measured]
    return Plot(
        height=floor + AXIS,
        xticks=across.ticks(),
        yticks=up.ticks(),
        roof=[*corner, (across(end), up(highest))],
        ceilings=ceilings,
        dots=_named(measured, places, [_box(RIGHT, y - 4, "end", len(name)) for _, y, name in ceilings]),
        floor=floor,
    )


def strip(kernels: Iterable[Kernel]) -> Plot | None:
    """Return the kernels along operations a byte alone, each on the first line with room for its name."""
    placed = sorted((one for one in kernels if one.intensity), key=lambda one: (one.intensity, one.name))
    if not placed:
        return None
    across = _scale([one.intensity or 1 for one in placed], LEFT, RIGHT)
    taken: list[list[tuple[float, float]]] = []
    lines = []
    for one in placed:
        x, length = across(one.intensity or 1), LETTER * len(one.name) + 12
        on_the_left = x + length > RIGHT + 8
        span = (x - length, x + 6) if on_the_left else (x - 6, x + length)
        line = next((n for n, spans in enumerate(taken) if all(span[1] < a or span[0] > b for a, b in spans)), None)
        if line is None:
            line = len(taken)
            taken.append([])
        taken[line].append(span)
        lines.append((one, x, line, on_the_left))
    floor = TOP + LANE * len(taken)
    dots = []
    for one, x, line, on_the_left in lines:
        y = floor - LANE * (line + 0.7)
        dots.append(Dot(one, x, y, (x - 7, y + 4, "end") if on_the_left else (x + 7, y + 4, "start")))
    return Plot(height=floor + AXIS, xticks=across.ticks(), dots=dots, floor=floor)


@dataclass(frozen=True)
class _Scale:
    """A logarithmic axis over whole decades."""

    first: int
    last: int
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.first) / (self.last - self.first)
        return round(self.begin + share * (self.end - self.begin), 1)

    def ticks(self) -> list[tuple[float, str]]:
        step = -(-(self.last - self.first) // 6)  # at most seven
        return [(self(10.0**n), _power(n)) for n in range(self.first, self.last + 1, step)]


def _scale(values: Sequence[float], begin: float, end: float) -> _Scale:
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return _Scale(first, max(last, first + 1), begin, end)


_SMALL = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power(n: int) -> str:
    return {-2: "0.01", -1: "0.1", 0: "1", 1: "10", 2: "100", 3: "1000"}.get(n) or "10" + str(n).translate(_SMALL)


_Box = tuple[float, float, float, float]


def _named(kernels: Sequence[Kernel], places: Sequence[tuple[float, float]], taken: Sequence[_Box]) -> list[Dot]:
    """Name each dot where nothing is in the way; of several dots of one kernel only the highest is named."""
    boxes = [*taken, *((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in places)]
    best: dict[str, tuple[float, float]] = {}
    for one, (x, y) in zip(kernels, places, strict=True):
        if one.name not in best or y < best[one.name][1]:
            best[one.name] = (x, y)
    dots = []
    for one, (x, y) in zip(kernels, places, strict=True):
        label = None
        if best[one.name] == (x, y):
            for dx, dy, anchor in SIDES:
                box = _box(x + dx, y + dy, anchor, len(one.name))
                own = (x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)
                inside = box[0] >= LEFT and box[2] <= RIGHT + 8 and box[1] >= 0
                if inside and not any(_overlap(box, other) for other in boxes if other != own):
                    label = (x + dx, y + dy, anchor)
                    boxes.append(box)
                    break
            best[one.name] = (math.nan, math.nan)
        dots.append(Dot(one, x, y, label))
    return dots


def _box(x: float, y: float, anchor: str, letters: int) -> _Box:
    length = LETTER * letters
    left = {"start": x, "end": x - length, "middle": x - length / 2}[anchor]
    return left, y - 10, left + length, y + 3


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
