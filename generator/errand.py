"""A task comes in on a worker of a cluster; its snippet runs there as it would here, and how it ended goes out.

The worker has the packages and not the project: this module reaches it by value, with what it calls in `generator`. So
all that is named here is of the standard library or of `distributed`, or is a plain function: nothing cached, no record.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import tempfile
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from generator.execute import finished, heard, nursery_of, tell
from generator.fingerprint import Parts, for_any_gpu, versions


def work(order: dict[str, Any], wanted: Parts, warm: Sequence[str], files: bytes, topic: str) -> dict[str, Any]:
    """Run one snippet from the files it depends on and return its last event, with the files of its result.

    A worker of other versions than the wanted ones runs nothing and returns how they differ. The snippet has a nursery
    to itself, so that a worker may have several threads.
    """
    from distributed import get_worker

    worker = get_worker()
    if other := {name: there for name, there in _versions(wanted["device"]).items() if there != wanted[name]}:
        return {"worker": worker.address, **other}
    with tempfile.TemporaryDirectory(prefix="papernotes-", dir=worker.local_directory) as place:
        root, folder = Path(place, "project"), Path(place, "result")
        unpack(files, root)
        folder.mkdir()
        last = finished(order["slug"], "killed", "it took the process that starts snippets down with it")
        with nursery_of(root, 1, warm, home=root, device=wanted["device"]) as nursery:
            threading.Thread(target=_heed, args=(worker, worker.get_current_task(), nursery), daemon=True).start()
            tell(nursery, {**order, "folder": str(folder)})
            for event in heard(nursery):
                if event["event"] == "started":
                    worker.log_event(topic, order["slug"])
                elif event["event"] == "finished":
                    last = event
                    break
        made = folder.iterdir() if last["outcome"] == "succeeded" else ()
        return {**last, "files": pack({path.name: path for path in made})}


def pack(files: Mapping[str, Path]) -> bytes:
    """Return files as one archive, by their names."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in files.items():
            archive.writestr(name, path.read_bytes())
    return held.getvalue()


def unpack(archive: bytes, folder: Path) -> None:
    """Lay packed files into a folder."""
    with zipfile.ZipFile(io.BytesIO(archive)) as held:
        held.extractall(folder)


def _versions(device: str) -> Parts:
    """Return this machine's versions as they count for a snippet that is to run on such a device."""
    here = versions()
    if device == "cpu":
        return here | {"device": "cpu"}  # a GPU will be hidden
    return for_any_gpu(here) if device == "gpu" and here["device"] != "cpu" else here


def _heed(worker: Any, task: Any, nursery: subprocess.Popen[bytes]) -> None:
    """End a nursery when its task is cancelled, or its caller is gone: Dask alone would let it run to its end."""
    assert nursery.stdin
    while nursery.poll() is None:
        known = worker.state.tasks.get(task)
        if known is None or known.state == "cancelled":
            with contextlib.suppress(OSError):
                nursery.stdin.close()  # its sign to end
        time.sleep(0.2)
