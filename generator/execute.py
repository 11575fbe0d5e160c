"""Orders come in; a warm parent forks a bounded process for each, and what happens to them goes out, event by event."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from generator.fingerprint import device_kind
from generator.lab.confine import emptied
from generator.sources import HOME

Event = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """What one snippet may use; each is killed that oversteps one, and said to have."""

    timeout: float = 300.0
    """Seconds of wall clock."""
    memory: int = 4 * 2**30
    """Bytes beyond the warm parent's."""
    output: int = 64 * 2**20
    """Bytes printed, though only the last are kept."""
    files: int = 2**30
    """Bytes of any one file it writes."""
    processes: int = 64
    """Processes that it starts, at once."""
    confined: bool = False
    """Whether it is not to run at all where the system cannot confine it."""


def execute(
    folders: Mapping[str, Path],
    root: Path,
    *,
    jobs: int,
    limits: Limits,
    warm: Sequence[str] = (),
    halted: Callable[[], bool] = lambda: False,
) -> Generator[Event, None, None]:
    """Run each snippet in its folder, in the order given, and yield when one starts and how it finished.

    A snippet that takes the warm parent down with it costs those that run beside it a second try, alone; who takes it
    down again is named. Once `halted`, all that still run are ended, and nothing more is said of them.
    """
    waiting = dict(folders)
    while waiting:
        begun: set[str] = set()
        before, status = len(waiting), None
        for event in _session(waiting, root, jobs, limits, warm, halted):
            if event["event"] == "lost":
                status = event["status"]
                break
            if event["event"] == "started":
                begun.add(event["slug"])
            elif event["event"] == "finished":
                begun.discard(event["slug"])
                del waiting[event["slug"]]
            yield event
        if status is None:
            return
        # It does not even start, or there is only one who can have done it.
        if (not begun and len(waiting) == before) or before == 1:
            lost = f"the process that starts snippets ended with status {status}"
            for slug in list(waiting):
                yield finished(slug, "killed" if slug in begun else "could not start", lost)
            return
        for slug in begun:
            alone = {slug: waiting.pop(slug)}
            shutil.rmtree(alone[slug])  # what it left when it was cut off is no part of a result
            alone[slug].mkdir()
            yield from execute(alone, root, jobs=1, limits=limits, warm=warm, halted=halted)


def _session(
    folders: Mapping[str, Path],
    root: Path,
    jobs: int,
    limits: Limits,
    warm: Sequence[str],
    halted: Callable[[], bool],
) -> Iterator[Event]:
    """Yield what one warm parent says of its snippets; if it falls silent, that it is lost."""
    waiting = set(folders)
    with nursery_of(root, min(jobs, len(folders)), warm) as nursery:
        for slug, folder in folders.items():
            tell(nursery, {"slug": slug, "folder": str(folder), **asdict(limits)})
        for event in heard(nursery, halted):
            if event["event"] == "finished":
                waiting.discard(event["slug"])
            if event["event"] != "ready":
                yield event
            elif event["freedoms"] and not limits.confined:
                yield {"event": "unconfined", "freedoms": event["freedoms"]}
            if not waiting:
                return
        if not halted():
            yield {"event": "lost", "status": nursery.wait()}


def heard(nursery: subprocess.Popen[bytes], halted: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Yield each line that the warm parent says, until it ends or is halted."""
    assert nursery.stdout
    said = nursery.stdout.fileno()
    unread = b""
    while not halted():
        if select.select([said], [], [], 0.2)[0]:
            data = os.read(said, 65536)
            if not data:
                return
            *lines, unread = (unread + data).split(b"\n")
            yield from map(json.loads, lines)


def finished(slug: str, outcome: str, error: str) -> Event:
    """Return the event of a snippet that never ran to its end."""
    about = {"outcome": outcome, "error": error, "tail": "", "seconds": 0.0, "peak_memory": 0}
    return {"event": "finished", "slug": slug, **about}


@contextlib.contextmanager
def nursery_of(
    root: Path, jobs: int, warm: Sequence[str], home: Path = HOME, device: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the warm parent in a session of its own, and end it with all its children.

    `home` is where the generator lies; with device 'cpu' a GPU that is there is hidden.
    """
    environment = {
        **emptied(os.environ),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "MPLBACKEND": "Agg",
        "PYTHONDONTWRITEBYTECODE": "1",  # a served project is watched: no run may write into it
    }
    if (device or device_kind()) == "cpu":
        environment["TRITON_INTERPRET"] = "1"  # must be set before triton is imported
        environment["CUDA_VISIBLE_DEVICES"] = environment["HIP_VISIBLE_DEVICES"] = ""
    environment["PYTHONPATH"] = os.pathsep.join([str(root), str(home), *filter(None, [os.environ.get("PYTHONPATH")])])
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
            process.wait(timeout=1.5)  # one that is still importing does not listen, and has no children yet
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def tell(nursery: subprocess.Popen[bytes], order: Mapping[str, Any]) -> None:
    """Give the warm parent an order: a snippet's slug, its folder and its limits."""
    assert nursery.stdin
    with contextlib.suppress(BrokenPipeError):  # it died: its silence is reported
        nursery.stdin.write(json.dumps(order).encode() + b"\n")
        nursery.stdin.flush()
