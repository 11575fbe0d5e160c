"""Stale snippets come in; results go out, each from a process of its own, forked from a warm parent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from generator.execute import Event, Limits, execute, finished
from generator.fingerprint import Fingerprint, Fingerprints, device_kind, reasons
from generator.lab.nursery import KERNELS
from generator.schema import Failure, Library, Result, Snippet
from generator.store import Store

State = Literal["fresh", "stale", "failed", "never run"]
WARM = {"/kernel.py": KERNELS, "lab/data.py": "sklearn.datasets"}
"""How the path ends of a file that imports something slow, and what that is."""
UNKNOWN = 60.0
"""Seconds that a snippet is taken to need which never ran."""
STORED = 2 * 2**30
"""Bytes of results kept; beyond it, those go that nothing refers to, oldest first."""
EDITED = "its code was changed while it ran; run it again"
Watcher = Callable[[str, Mapping[str, Any]], None]
"""Called with 'queued', 'unconfined', 'started' or 'finished' and the event, as it happens."""

Elsewhere = Callable[["Sequence[Standing]", Mapping[str, Path], Path, Limits], Generator[Event, None, None]]
"""Runs snippets on other machines: takes them with a folder for each, the project's root and the limits."""


@dataclass
class Runs:
    """How every snippet stands: its result, or how its run failed; and which ones were executed to get here."""

    results: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Snippets without a fresh result that were not run, and why they are stale."""
    outdated: dict[str, str] = field(default_factory=dict)
    """Those of them whose last good result is given all the same, or that have none yet; with their keys."""


@dataclass(frozen=True)
class Standing:
    """How one snippet stands: a line of `papernotes status`."""

    slug: str
    state: State
    fingerprint: Fingerprint
    why: tuple[str, ...] = ()
    result: Result | None = None
    failure: Failure | None = None
    seconds: float = UNKNOWN
    """What its last run took."""

    @property
    def key(self) -> str:
        return self.fingerprint.key


def store_of(root: Path) -> Store:
    """Return the project's store of results."""
    return Store(root / ".papernotes")


def status(library: Library, store: Store) -> list[Standing]:
    """Say of every snippet whether its result is fresh, and if not, why."""
    taken = Fingerprints(library.root, store.recall_sources())
    found = [_standing(snippet, taken.of(snippet), store) for snippet in _runnable(library, None)]
    if memory := taken.sources.memory():
        with contextlib.suppress(OSError):
            store.remember_sources(memory)
    return found


def _standing(snippet: Snippet, now: Fingerprint, store: Store) -> Standing:
    slug, key = snippet.slug, now.key
    if result := store.get(slug, key):
        return Standing(slug, "fresh", now, result=result)
    before = store.recall(slug)
    if not before:
        return Standing(slug, "never run", now)
    seconds = float(before.get("seconds", UNKNOWN))
    if failure := store.last_failure(slug, key):
        why = f"{failure.outcome}: {(failure.error.splitlines() or [''])[0]}"
        return Standing(slug, "failed", now, (why,), failure=failure, seconds=seconds)
    lost = "its stored result is damaged" if store.has(key) else "its stored result is missing"
    return Standing(slug, "stale", now, tuple(reasons(before["parts"], now.parts)) or (lost,), seconds=seconds)


def stored(library: Library, store: Store, *, outdated: bool = False) -> Runs:
    """Return what is stored and fresh, and execute nothing; of what is stale the last good result too, if `outdated`."""
    runs = Runs()
    for one in status(library, store):
        _sort_in(one, runs)
        if outdated and one.slug in runs.missing:
            runs.outdated[one.slug] = one.key
            if good := store.last_good(one.slug):
                runs.results[one.slug] = good
    return runs


def _sort_in(one: Standing, runs: Runs) -> None:
    if one.result:
        runs.results[one.slug] = one.result
    elif one.failure:
        runs.failures[one.slug] = one.failure
    else:
        runs.missing[one.slug] = one.why


def run(
    library: Library,
    store: Store,
    slugs: Iterable[str] | None = None,
    *,
    jobs: int | None = None,
    force: bool = False,
    retry: bool = True,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    watch: Watcher = lambda kind, event: None,
    halted: Callable[[], bool] = lambda: False,
    elsewhere: Elsewhere | None = None,
) -> Runs:
    """Bring the named snippets (default: all) up to date and return how all of them stand.

    A fresh result is reused unless `force`. Without `retry`, a snippet that failed with just this code is not tried
    again. Only success is stored. Given `elsewhere`, what is stale runs there and not on this machine.
    """
    runs = Runs()
    wanted = {snippet.slug for snippet in _runnable(library, slugs)}
    stale: list[Standing] = []
    everyone = status(library, store)
    for one in everyone:
        if one.slug in wanted and (force or not (one.result or (one.failure and not retry))):
            stale.append(one)
        else:
            _sort_in(one, runs)
    if stale:
        watch("queued", {"slugs": [one.slug for one in stale], "why": {one.slug: one.why for one in stale}})
        # Longest first, so that no long one starts last.
        stale.sort(key=lambda one: -one.seconds)
        jobs = jobs or os.cpu_count() or 1
        place = elsewhere or partial(_here, jobs=jobs, halted=halted)
        _execute(stale, runs, library, store, limits, watch, force, place)
        store.bound(STORED, {one.key for one in everyone}, set(library.snippets))
    return runs


def _runnable(library: Library, slugs: Iterable[str] | None) -> list[Snippet]:
    chosen = library.snippets if slugs is None else {slug: library.snippets[slug] for slug in slugs}
    return [snippet for snippet in chosen.values() if snippet.runs]


def _execute(
    stale: list[Standing],
    runs: Runs,
    library: Library,
    store: Store,
    limits: Limits,
    watch: Watcher,
    force: bool,
    place: Elsewhere,
) -> None:
    orders = {one.slug: one for one in stale}
    with ExitStack() as stack:
        folders = {}
        try:
            scratch = stack.enter_context(store.scratch())
            for slug in orders:
                folders[slug] = scratch / slug
                folders[slug].mkdir()
            events = place(stale, folders, library.root, limits)
        except OSError as error:
            said = f"no room in {store.folder}: {error.strerror}"
            events = (finished(slug, "could not start", said) for slug in orders)
        warned = False
        for event in stack.enter_context(contextlib.closing(events)):
            if event["event"] == "unconfined":
                if warned:
                    continue
                warned = True
            if event["event"] == "finished":
                slug = event["slug"]
                runs.executed.append(slug)
                if event["outcome"] != "could not start" and _changed(
                    library.snippets[slug], orders[slug], library, store
                ):
                    event = {**event, "outcome": "could not start", "error": EDITED}
                _settle(event, folders.get(slug, Path()), orders[slug], runs, store, force)
            watch(event["event"], event)


def _here(
    stale: Sequence[Standing],
    folders: Mapping[str, Path],
    root: Path,
    limits: Limits,
    *,
    jobs: int,
    halted: Callable[[], bool],
) -> Generator[Event, None, None]:
    """Run snippets on this machine and yield what happens; one that needs what is not here is not started."""
    able = []
    for one in stale:
        if lacks := [need for need in one.fingerprint.needs if need != "gpu" or device_kind() == "cpu"]:
            yield finished(one.slug, "could not start", f"needs {' and '.join(lacks)}, which this machine lacks")
        else:
            able.append(one)
    orders = {one.slug: folders[one.slug] for one in able}
    yield from execute(orders, root, jobs=jobs, limits=limits, warm=warmth(able), halted=halted)


def _changed(snippet: Snippet, order: Standing, library: Library, store: Store) -> bool:
    """Return whether the code is no longer what it was when the run began: nobody knows which of the two ran."""
    if order.fingerprint.untouched(library.root):
        return False
    return Fingerprints(library.root, store.recall_sources()).of(snippet).key != order.key


def _settle(event: Event, folder: Path, order: Standing, runs: Runs, store: Store, force: bool) -> None:
    slug, seconds = event["slug"], float(event["seconds"])
    if event["outcome"] == "succeeded":
        try:
            # Only a forced run replaces a sound result: another build may be reading it.
            about = {"seconds": round(seconds, 3), "peak_memory": event["peak_memory"], **event["confined"]}
            runs.results[slug] = store.put(slug, order.key, folder, about, replace=force)
            store.remember(slug, order.fingerprint.parts, order.key, seconds)
            return
        except OSError as error:
            event = {**event, "outcome": "could not start", "error": f"its result could not be stored: {error}"}
    kept = {name: event[name] for name in ("outcome", "error", "tail", "peak_memory")}
    failure = Failure(slug=slug, seconds=seconds, **kept)
    runs.failures[slug] = failure
    if failure.error == EDITED:
        return  # the code that it is said of may come back, and was not tried
    with contextlib.suppress(OSError):
        store.remember(slug, order.fingerprint.parts, order.key, seconds, failure)


def warmth(stale: Iterable[Standing]) -> list[str]:
    """Return the slow imports that the snippets to be run will make, for their common parent to make once."""
    files = {file for one in stale for file in one.fingerprint.files}
    return [module for ending, module in WARM.items() if any(file.endswith(ending) for file in files)]
