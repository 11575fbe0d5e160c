"""What `run(record)` records comes in; one folder with `result.json` and SVG files goes out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = 1
LOG_LIMIT = 64 * 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


class RecordError(ValueError):
    """Something recorded that no page could show; the message says what and how to mend it."""


class Recorder:
    """Collect the metrics, tables, figures and log lines of one snippet."""

    def __init__(self, slug: str, folder: Path) -> None:
        self.slug = slug
        self.folder = folder
        self.metrics: dict[str, dict[str, Any]] = {}
        self.tables: dict[str, dict[str, Any]] = {}
        self.figures: dict[str, dict[str, Any]] = {}
        self.logged: list[str] = []

    def metric(self, name: str, value: Any, unit: str = "", setting: str = "") -> None:
        """Record one number (or bool, or short text); a sequence of numbers is one value a seed.

        Of a sequence the page shows the mean with its range, and a claim is judged seed by seed.
        `setting` says in a few words where the number was measured.
        """
        self._claim_name("metric", name, self.metrics)
        entry: dict[str, Any] = {"unit": unit, "setting": setting}
        if isinstance(value, str | bool):
            entry["value"] = value
        elif hasattr(value, "tolist") and not isinstance(value, Real):
            value = value.tolist()
        if isinstance(value, Sequence) and not isinstance(value, str):
            entry["seeds"] = [_number(name, one) for one in value]
            if not entry["seeds"]:
                raise RecordError(f"metric '{name}' has no values; record at least one")
            entry["value"] = math.fsum(entry["seeds"]) / len(entry["seeds"])
        elif "value" not in entry:
            entry["value"] = _number(name, value)
        self.metrics[name] = entry

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], caption: str = "") -> None:
        """Record a table: a list of rows, each a mapping from column title to cell."""
        self._claim_name("table", name, self.tables)
        if not rows:
            raise RecordError(f"table '{name}' has no rows; record at least one")
        columns = list(rows[0])
        for number, row in enumerate(rows, start=1):
            if list(row) != columns:
                raise RecordError(f"table '{name}', row {number}: columns {list(row)} differ from row 1's {columns}")
        cells = [[_cell(name, row[column]) for column in columns] for row in rows]
        self.tables[name] = {"columns": columns, "rows": cells, "caption": caption}

    def figure(self, name: str, fig: Figure | Sequence[Figure], *, caption: str, alt: str) -> None:
        """Record a figure, or several panels that stand side by side where there is room and stack where not.

        `caption` tells what to see; `alt` tells it to someone who cannot see the picture.
        """
        from generator.lab.figures import save

        self._claim_name("figure", name, self.figures)
        for what, text in (("caption", caption), ("alt text", alt)):
            if not text.strip():
                raise RecordError(f"figure '{name}' has no {what}; say what is to be seen")
        panels = list(fig) if isinstance(fig, Sequence) else [fig]
        if not panels:
            raise RecordError(f"figure '{name}' has no panels; pass at least one figure")
        files = []
        for number, panel in enumerate(panels, start=1):
            file = f"{name}.svg" if len(panels) == 1 else f"{name}-{number}.svg"
            save(panel, self.folder / file, salt=f"{self.slug}/{file}")
            files.append(file)
        self.figures[name] = {"files": files, "caption": caption, "alt": alt}

    def log(self, text: object) -> None:
        """Keep a line for the page's log."""
        if sum(map(len, self.logged)) < LOG_LIMIT:
            self.logged.append(str(text)[:LOG_LIMIT])

    def save(self, **also: Any) -> None:
        """Write `result.json`: what was recorded, and what the caller knows besides."""
        measured = {"metrics": self.metrics, "tables": self.tables, "figures": self.figures, "log": self.logged}
        text = json.dumps({"format": FORMAT, "slug": self.slug, **measured, **also}, indent=1, allow_nan=False)
        (self.folder / "result.json").write_text(text, encoding="utf-8")

    def _claim_name(self, kind: str, name: str, taken: Mapping[str, Any]) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RecordError(f"{kind} name {name!r} must be lower-case letters, digits, '_' or '-'")
        if name in taken:
            raise RecordError(f"{kind} '{name}' is recorded twice; give each its own name")


def _number(name: str, value: Any) -> int | float:
    if isinstance(value, bool | Integral):
        return int(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise RecordError(f"metric '{name}' is {type(value).__name__}, not a number") from None
    if not math.isfinite(number):
        raise RecordError(f"metric '{name}' is {number}; record a finite number")
    return number


def _cell(table: str, value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else str(number)
