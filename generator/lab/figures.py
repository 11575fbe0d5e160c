"""Matplotlib figures come in; SVG with real text that follows the reader's colour scheme goes out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#1c2430"
"""Text, axes, and the one curve that stands for 'the reference'."""
FAINT = "#8a94a3"
"""Grid, guides, and what is only there for comparison."""
SERIES = ("#2f6fdb", "#d9622b", "#2b8a5a", "#a8458f", "#8c7300", "#2a8fa8", "#c2405a", "#6a5acd")
"""Categorical colours in the order of use; the first belongs to the method the note is about."""

# Each colour reaches the SVG as a CSS variable with itself as fallback, so that a page can re-colour it.
_VARIABLES = {INK: "ink", FAINT: "faint", **{colour: f"series-{n}" for n, colour in enumerate(SERIES, start=1)}}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "axes.prop_cycle": cycler(color=SERIES),
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.constrained_layout.use": True,
}
mpl.rcParams.update(_STYLE)


def panel(title: str = "", xlabel: str = "", ylabel: str = "", *, height: float = 2.7) -> tuple[Figure, Axes]:
    """Return one panel, 3.6 inches wide: two stand side by side on a wide screen, one fills a phone."""
    return _canvas(3.6, height, title, xlabel, ylabel)


def wide(title: str = "", xlabel: str = "", ylabel: str = "", *, height: float = 2.9) -> tuple[Figure, Axes]:
    """Return one wide picture, 6.4 inches across; prefer `panel` where a phone must be able to read it."""
    return _canvas(6.4, height, title, xlabel, ylabel)


def _canvas(width: float, height: float, title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    fig, ax = plt.subplots(figsize=(width, height))
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return fig, ax


def spread(ax: Axes, x: Any, runs: Any, color: str, label: str | None = None, **style: Any) -> None:
    """Draw the mean of `runs` [run, point] over x as a line, and from the lowest to the highest run as a band."""
    values = np.asarray(runs, dtype=float)
    ax.fill_between(x, values.min(0), values.max(0), color=color, alpha=0.16, linewidth=0)
    ax.plot(x, values.mean(0), color=color, label=label, **style)


def save(fig: Figure, path: Path, salt: str) -> None:
    """Write the figure as deterministic SVG whose ids are unique to `salt`, and close it."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        fig.savefig(path, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    plt.close(fig)
    path.write_text(follow_scheme(path.read_text(encoding="utf-8"), salt), encoding="utf-8")


def follow_scheme(svg: str, salt: str) -> str:
    """Replace the house colours by CSS variables and make every id the figure's own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--figure-{name}, {colour})")
    own = re.sub(r"[^a-z0-9]+", "-", salt.lower()).strip("-")
    svg = re.sub(r'\bid="', f'id="{own}-', svg)
    svg = re.sub(r"url\(#", f"url(#{own}-", svg)
    return re.sub(r'href="#', f'href="#{own}-', svg)
