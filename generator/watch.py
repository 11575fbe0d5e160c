"""A project comes in; every change of it goes out, once it is over."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

FOLDERS = ("notes", "snippets", "tests/snippets")
QUIET = 0.2
"""Seconds without another change after which one is over: an editor writes a file in several steps."""


class _Told(FileSystemEventHandler):
    def __init__(self, told: queue.SimpleQueue[str]) -> None:
        self.told = told

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("created", "modified", "moved", "deleted") and not event.is_directory:
            self.told.put(str(event.src_path))


def changes(root: Path) -> Iterator[None]:
    """Yield at once, and then after every change of notes, snippets or their tests, until the caller stops."""
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    observer = Observer()
    for folder in FOLDERS:
        if (root / folder).is_dir():
            observer.schedule(_Told(told), str(root / folder), recursive=True)
    observer.start()
    try:
        while True:
            yield
            told.get()
            _quiet(told)
    finally:
        observer.stop()


def _quiet(told: queue.SimpleQueue[str]) -> None:
    while True:
        try:
            told.get(timeout=QUIET)
        except queue.Empty:
            return
