"""What happens to snippets comes in, event by event; a console shows what is running and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text


class Board:
    """Shows what is running and for how long: a live bar on a terminal, a line an event elsewhere."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=console, transient=True)
        self.console = console
        self.rows: dict[str, TaskID] = {}
        self.done = self.total = 0
        self.why: Mapping[str, tuple[str, ...]] = {}

    def __enter__(self) -> Board:
        self.progress.start()
        return self

    def __exit__(self, *about: object) -> None:
        self.progress.stop()

    def watch(self, kind: str, event: Mapping[str, Any]) -> None:
        if kind == "queued":
            self.total, self.why = len(event["slugs"]), event["why"]
            self.rows[""] = self.progress.add_task("snippets", total=self.total, count=f"0/{self.total}")
        elif kind == "unconfined":
            said = f"on this system a snippet can {' and '.join(event['freedoms'])}; run strangers' code elsewhere"
            self.console.print(Text(said, style="yellow"))
        elif kind == "started":
            self.rows[event["slug"]] = self.progress.add_task(f"  {event['slug']}", total=None, count="")
            if not self.console.is_terminal:
                why = "; ".join(self.why.get(event["slug"], ())[:2])
                self.console.print(Text(f"running {event['slug']}" + (f" ({why})" if why else "")))
        elif kind == "finished":
            self.done += 1
            self.progress.update(self.rows[""], completed=self.done, count=f"{self.done}/{self.total}")
            if row := self.rows.pop(event["slug"], None):
                self.progress.remove_task(row)
            mark = ("✓ ", "green") if event["outcome"] == "succeeded" else ("✗ ", "red")
            self.console.print(Text.assemble(mark, f"{event['slug']} {event['outcome']} in {event['seconds']:.1f} s"))
