"""What is stale comes in while a site is served; it is run beside the readers, and a file is touched when there is news."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from generator.execute import Limits
from generator.find import find_snippets
from generator.run import Watcher, run, store_of
from generator.schema import Library

PAUSE = 20.0
"""Seconds between two pieces of news, so that rebuilding pages does not take the cores from the runs."""


class Reruns:
    """One run at a time in a thread of its own; code that changes meanwhile begins it anew."""

    def __init__(self, root: Path, *, limits: Limits, jobs: int | None, watch: Watcher) -> None:
        self.root = root
        self.news = store_of(root).folder / "news"
        """A file that is touched when results have come in; a server watches it."""
        self._limits, self._jobs, self._watch = limits, jobs, watch
        self._wanted: dict[str, str] = {}
        self._halt = threading.Event()
        self._thread: threading.Thread | None = None

    def want(self, stale: Mapping[str, str]) -> None:
        """Have these snippets run, each under the key of its code now; what runs already goes on."""
        if not stale or (self._running() and all(self._wanted.get(slug) == key for slug, key in stale.items())):
            return
        self.stop()
        self._wanted, self._halt = dict(stale), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._halt,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End what runs, and wait until it has."""
        self._halt.set()
        if self._thread:
            self._thread.join(timeout=10)

    def _running(self) -> bool:
        return bool(self._thread and self._thread.is_alive())

    def _run(self, halt: threading.Event) -> None:
        told = time.monotonic()

        def watch(kind: str, event: Mapping) -> None:
            nonlocal told
            self._watch(kind, event)
            if kind == "finished" and time.monotonic() - told > PAUSE:
                self.tell()
                told = time.monotonic()

        library = Library(root=self.root, snippets=find_snippets(self.root))
        slugs = [slug for slug in self._wanted if slug in library.snippets]
        run(
            library,
            store_of(self.root),
            slugs,
            jobs=self._jobs,
            limits=self._limits,
            retry=False,
            watch=watch,
            halted=halt.is_set,
        )
        if not halt.is_set():
            self.tell()

    def tell(self) -> None:
        """Touch the file that is watched, if the disk lets it."""
        with contextlib.suppress(OSError):
            self.news.parent.mkdir(parents=True, exist_ok=True)
            self.news.touch()
