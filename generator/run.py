"""Stale snippets come in; results go out, each from a process of its own, forked from a warm parent."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from generator.fingerprint import Parts, device_kind, fingerprint, key_of, reasons
from generator.lab.nursery import KERNELS
from generator.schema import Failure, Library, Result, Snippet
from generator.store import Store

State = Literal["fresh", "stale", "failed", "never run"]
WARM = {"/kernel.py": KERNELS, "lab/data.py": "sklearn.datasets"}
"""How the path ends of a file that imports something slow, and what that is."""
Watcher = Callable[[str, Mapping[str, Any]], None]
"""Called with 'queued', 'started' or 'finished' and the event, as it happens."""


@dataclass(frozen=True)
class Limits:
    """What one snippet may use: seconds of wall clock, and bytes beyond the warm parent's."""

    timeout: float = 300.0
    memory: int = 4 * 2**30


@dataclass
class Runs:
    """How every snippet stands: its result, or how its run failed; and which ones were executed to get here."""

    results: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Standing:
    """One line of `papernotes status`."""

    slug: str
    state: State
    why: tuple[str, ...] = ()


def store_of(root: Path) -> Store:
    """Return the project's store of results."""
    return Store(root / ".papernotes")


def status(library: Library, store: Store) -> list[Standing]:
    """Say of every snippet whether its result is fresh, and if not, why."""
    return [_standing(snippet, library.root, store) for snippet in _runnable(library, None)]


def _standing(snippet: Snippet, root: Path, store: Store) -> Standing:
    parts = fingerprint(snippet, root)
    key = key_of(parts)
    if store.get(snippet.slug, key):
        return Standing(snippet.slug, "fresh")
    if failure := store.last_failure(snippet.slug, key):
        return Standing(snippet.slug, "failed", (f"{failure.outcome}: {failure.error.splitlines()[0]}",))
    before = store.recall(snippet.slug)
    if not before:
        return Standing(snippet.slug, "never run")
    changed = reasons(before["parts"], parts)
    return Standing(snippet.slug, "stale", tuple(changed) or ("its stored result is missing or damaged",))


def stored(library: Library, store: Store) -> Runs:
    """Return what is stored and fresh, and execute nothing."""
    runs = Runs()
    for snippet in _runnable(library, None):
        key = key_of(fingerprint(snippet, library.root))
        if result := store.get(snippet.slug, key):
            runs.results[snippet.slug] = result
        elif failure := store.last_failure(snippet.slug, key):
            runs.failures[snippet.slug] = failure
    return runs


def run(
    library: Library,
    store: Store,
    slugs: Iterable[str] | None = None,
    *,
    jobs: int | None = None,
    force: bool = False,
    retry: bool = True,
    limits: Limits = Limits(),
    watch: Watcher = lambda kind, event: None,
) -> Runs:
    """Bring the named snippets (default: all) up to date and return how all of them stand.

    A fresh result is reused unless `force`. Without `retry`, a snippet that failed with just this code is not tried
    again. Only success is stored.
    """
    runs = Runs()
    wanted = {snippet.slug for snippet in _runnable(library, slugs)}
    stale: list[tuple[Snippet, Parts, str]] = []
    for snippet in _runnable(library, None):
        parts = fingerprint(snippet, library.root)
        key = key_of(parts)
        result = store.get(snippet.slug, key)
        failure = None if result else store.last_failure(snippet.slug, key)
        if snippet.slug in wanted and (force or not (result or (failure and not retry))):
            stale.append((snippet, parts, key))
        elif result:
            runs.results[snippet.slug] = result
        elif failure:
            runs.failures[snippet.slug] = failure
    if stale:
        # Longest first, so that no long one starts last.
        watch("queued", {"slugs": [snippet.slug for snippet, _, _ in stale]})
        stale.sort(key=lambda one: -float((store.recall(one[0].slug) or {}).get("seconds", 60.0)))
        _execute(stale, runs, library.root, store, jobs or os.cpu_count() or 1, limits, watch, force)
    return runs


def _runnable(library: Library, slugs: Iterable[str] | None) -> list[Snippet]:
    chosen = library.snippets if slugs is None else {slug: library.snippets[slug] for slug in slugs}
    return [snippet for snippet in chosen.values() if snippet.runs]


def _execute(
    stale: list[tuple[Snippet, Parts, str]],
    runs: Runs,
    root: Path,
    store: Store,
    jobs: int,
    limits: Limits,
    watch: Watcher,
    force: bool,
) -> None:
    orders = {snippet.slug: (parts, key) for snippet, parts, key in stale}
    with ExitStack() as stack:
        folders = {slug: stack.enter_context(store.scratch()) for slug in orders}
        nursery = stack.enter_context(
            _nursery(root, min(jobs, len(orders)), _warmth(parts for parts, _ in orders.values()))
        )
        for slug, folder in folders.items():
            order = {"slug": slug, "folder": str(folder), "timeout": limits.timeout, "memory": limits.memory}
            _tell(nursery, order)
        waiting = set(orders)
        for event in _events(nursery, waiting):
            if event["event"] == "finished":
                slug = event["slug"]
                waiting.discard(slug)
                runs.executed.append(slug)
                _settle(event, folders[slug], *orders[slug], runs, store, force)
            watch(event["event"], event)


def _settle(
    event: Mapping[str, Any], folder: Path, parts: Parts, key: str, runs: Runs, store: Store, force: bool
) -> None:
    slug, seconds = event["slug"], float(event["seconds"])
    if event["outcome"] == "succeeded":
        try:
            # Only a forced run replaces a sound result: another build may be reading it.
            runs.results[slug] = store.put(slug, key, folder, replace=force)
            store.remember(slug, parts, key, seconds)
            return
        except OSError as error:
            event = {**event, "outcome": "could not start", "error": f"its result could not be stored: {error}"}
    failure = Failure(slug=slug, outcome=event["outcome"], error=event["error"], tail=event["tail"], seconds=seconds)
    runs.failures[slug] = failure
    with contextlib.suppress(OSError):
        store.remember(slug, parts, key, seconds, failure)


def _warmth(stale: Iterable[Parts]) -> list[str]:
    """Return the slow imports that the snippets to be run will make, for their common parent to make once."""
    files = {name.partition(": ")[0] for parts in stale for name in parts}
    return [module for ending, module in WARM.items() if any(file.endswith(ending) for file in files)]


@contextlib.contextmanager
def _nursery(root: Path, jobs: int, warm: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start the warm parent in a session of its own, and end it with all its children."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "MPLBACKEND": "Agg",
        "PYTHONDONTWRITEBYTECODE": "1",  # a served project is watched: no run may write into it
    }
    if device_kind() == "cpu":
        environment["TRITON_INTERPRET"] = "1"  # must be set before triton is imported
    here = Path(__file__).resolve().parent.parent
    environment["PYTHONPATH"] = os.pathsep.join([str(root), str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", "generator.lab.nursery", str(root), str(jobs), *warm],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=root,
        env=environment,
        start_new_session=True,
    )
    assert process.stdin and process.stdout
    try:
        yield process
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()  # its sign to end
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _tell(nursery: subprocess.Popen[bytes], order: Mapping[str, Any]) -> None:
    assert nursery.stdin
    with contextlib.suppress(BrokenPipeError):  # it died: its silence is reported below
        nursery.stdin.write(json.dumps(order).encode() + b"\n")
        nursery.stdin.flush()


def _events(nursery: subprocess.Popen[bytes], waiting: set[str]) -> Iterator[dict[str, Any]]:
    """Yield what the warm parent says until nothing is awaited; if it falls silent, the rest could not start."""
    assert nursery.stdout
    while waiting:
        line = nursery.stdout.readline()
        if not line:
            code = nursery.wait()
            for slug in sorted(waiting):
                error = f"the process that starts snippets ended with status {code}"
                yield {
                    "event": "finished",
                    "slug": slug,
                    "outcome": "could not start",
                    "error": error,
                    "tail": "",
                    "seconds": 0.0,
                }
            return
        yield json.loads(line)
