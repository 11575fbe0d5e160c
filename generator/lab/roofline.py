"""Recorded rows and the machine's measured ceilings come in; a roofline figure goes out."""

from __future__ import annotations

import math
from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from generator.lab.figures import FAINT, INK, SERIES, panel
from generator.lab.recorded import Row

MARKERS = "osD^v"
"""Colours come round again after eight kernels; then the marker changes."""
LEAST_GAP = 0.075
"""Between two labels, as a share of the panel's height."""


def roofline(rows: Iterable[Row], copy_bandwidth: float, peak: float, title: str = "Roofline") -> Figure:
    """Return what each kernel reaches, in operations a second, against its operations a byte, under what is attainable.

    `copy_bandwidth` in bytes a second, `peak` in operations a second. Rows without operations or bytes have no place.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row.operations and row.bytes:
            place = (row.operations / row.bytes, row.operations / row.ms * 1e3)
            points.setdefault(row.kernel, []).append(place)
    fig, ax = panel(title, "operations a byte", "operations a second", height=3.0)
    ridge = peak / copy_bandwidth
    xs = [x for several in points.values() for x, _ in several]
    ys = [y for several in points.values() for _, y in several]
    left, right = min([*xs, ridge]) / 4, max([*xs, ridge]) * 4
    ax.plot([left, ridge, right], [left * copy_bandwidth, peak, peak], color=INK, label="attainable")
    ax.axvline(ridge, color=FAINT, linewidth=0.8, linestyle=":")
    ax.set(xscale="log", yscale="log", xlim=(left, right))
    ax.set_ylim(min([*ys, left * copy_bandwidth]) / 2, max([*ys, peak]) * 2)
    for nth, several in enumerate(points.values()):
        colour, marker = SERIES[nth % len(SERIES)], MARKERS[nth // len(SERIES) % len(MARKERS)]
        ax.plot(*zip(*several, strict=True), marker, color=colour, markersize=4.5)
    _label(ax, {kernel: max(several, key=lambda place: place[1]) for kernel, several in points.items()})
    return fig


def _label(ax: Axes, places: dict[str, tuple[float, float]]) -> None:
    """Write each kernel's name beside its best dot, moved up where names would overlap, with a line back to the dot."""
    (left, right), (bottom, top) = (map(math.log, ends) for ends in (ax.get_xlim(), ax.get_ylim()))
    names = list(places)
    lowest = 0.02
    for kernel in sorted(names, key=lambda name: places[name][1]):
        x, y = places[kernel]
        across, up = (math.log(x) - left) / (right - left), (math.log(y) - bottom) / (top - bottom)
        lowest = max(lowest, up - 0.1)
        # Below the roof there is room on the right of a dot; a dot far right has it on its left.
        side, at = ("left", across + 0.06) if across < 0.5 else ("right", across - 0.06)
        ax.annotate(
            kernel,
            (x, y),
            (at, lowest),
            textcoords="axes fraction",
            ha=side,
            va="center",
            fontsize=8.5,
            color=SERIES[names.index(kernel) % len(SERIES)],
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.6},
        )
        lowest += LEAST_GAP
