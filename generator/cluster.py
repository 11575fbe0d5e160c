"""Stale snippets come in; the workers of a Dask scheduler run them, and what happens and their results go out.

A worker shares no disk with this machine and need not have the project, only the packages: a task brings the files its
snippet depends on, and `errand.work`, which runs it, pickled by value. Dask hands the tasks out and hands them on when
a worker dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import queue
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import generator
from generator import errand
from generator.execute import Event, Limits, finished
from generator.fingerprint import versions
from generator.run import Elsewhere, Standing, warmth

CONNECT, RECEIVE = 5.0, 120.0
"""Seconds to wait for the scheduler, and for the files of a result."""
PATIENCE = 10.0
"""Seconds that a snippet may find no worker that could run it: one that died may be starting again."""
TASK = "loads(code)(**task) if version() == task['wanted']['Python'] else {'worker': me().address, 'Python': version()}"
"""What a worker evaluates: source, because only the same Python can read what was pickled by value."""


class ClusterError(Exception):
    """The cluster cannot be used; the message says why, and how to mend it."""


class PackageError(ClusterError):
    """Dask is not installed."""


@dataclass(frozen=True)
class Task:
    """What a worker is told, and what it must offer."""

    told: dict[str, Any]
    needs: tuple[str, ...]


def on(address: str) -> Elsewhere:
    """Return what `run` takes as `elsewhere`: the workers of this scheduler. Raise PackageError without Dask."""
    if not find_spec("distributed"):
        raise PackageError("running on other machines needs Dask: pip install 'papernotes[cluster]'")
    return partial(events, address)


def events(
    address: str, stale: Sequence[Standing], folders: Mapping[str, Path], root: Path, limits: Limits
) -> Generator[Event, None, None]:
    """Yield what happens to the snippets, as a nursery on this machine would say it; leave results in the folders.

    Raises ClusterError if no scheduler answers at the address. Closed before the end, it stops what is running.
    """
    with _connected(address) as client:
        crew = Crew(client, address, {one.slug: _task(one, root, limits) for one in stale}, folders)
        try:
            yield from crew.events()
        finally:
            client.cancel(list(crew.sent.values()))


class Crew:
    """The workers of a scheduler, as far as this run knows them, and the snippets they have been given."""

    def __init__(self, client: Any, address: str, tasks: Mapping[str, Task], folders: Mapping[str, Path]) -> None:
        self.client, self.address, self.tasks, self.folders = client, address, tasks, folders
        self.topic = f"papernotes-{uuid.uuid4().hex}"
        self.code = _code()
        self.sent: dict[str, Any] = {}
        """The future of each snippet that has not finished."""
        self.unfit: dict[str, str] = {}
        """What is wrong with workers of other versions, by address."""
        self.meant: dict[str, set[str]] = {}
        """Whom a snippet was sent to, if not to any worker that offers what it needs."""
        self.stuck: dict[str, float] = {}
        """Since when there is no worker for a snippet."""
        self.heard: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        """Slugs: with nothing when a worker starts one, with its future when that is done."""
        client.subscribe_topic(self.topic, lambda event: self.heard.put((event[1], None)))

    def events(self) -> Iterator[Event]:
        """Send every snippet, and yield what happens until all have finished."""
        for slug in self.tasks:
            self._send(slug)
        started = set()
        while self.sent:
            try:
                slug, future = self.heard.get(timeout=1.0)
            except queue.Empty:
                yield from self._unstick()
                continue
            if future is None and slug in self.sent and slug not in started:
                started.add(slug)
                yield {"event": "started", "slug": slug}
            elif future is not None and self.sent.get(slug) is future and (event := self._ended(slug, future)):
                del self.sent[slug]
                yield event

    def _send(self, slug: str) -> None:
        task = self.tasks[slug]
        if self.unfit:
            self.meant[slug] = self._fit(task.needs)
        # Dask takes keys that begin alike for one group, and gives these out only as workers fall idle.
        self.sent[slug] = self.client.submit(
            eval,
            TASK,
            {**self.code, "task": {**task.told, "topic": self.topic}},
            key=(self.topic, slug, uuid.uuid4().hex),
            workers=self.meant.get(slug),
            resources=dict.fromkeys(task.needs, 1) or None,
        )
        self.sent[slug].add_done_callback(lambda future: self.heard.put((slug, future)))

    def _ended(self, slug: str, future: Any) -> Event | None:
        """Return how a snippet ended, or None if it has been sent to another worker."""
        try:
            answer = future.result(timeout=RECEIVE)
        except Exception as error:
            return finished(slug, "could not start", self._explain(future, error))
        if "files" in answer:
            errand.unpack(answer.pop("files"), self.folders[slug])
            return answer
        worker, task = answer.pop("worker"), self.tasks[slug]
        wanted = task.told["wanted"]
        other = [f"{name} is {there} there and {wanted[name]} here" for name, there in answer.items()]
        self.unfit[worker] = f"the versions of the worker at {worker} differ: {', '.join(other)}"
        if not self._fit(task.needs):
            return finished(slug, "could not start", self.unfit[worker])
        self._send(slug)
        return None

    def _explain(self, future: Any, error: Exception) -> str:
        if future.cancelled():
            return f"the scheduler at {self.address} is gone, or has dropped it"
        if type(error).__name__ == "KilledWorker":
            return f"{error.args[2] + 1} workers died while it ran"
        return f"a worker could not run it: {type(error).__name__}: {error}"

    def _fit(self, needs: Iterable[str]) -> set[str]:
        """Return the addresses of the connected workers that offer what is needed and are of no other versions."""
        try:
            workers = self.client.scheduler_info(n_workers=-1)["workers"]
        except OSError:  # Dask is connecting again
            return set()
        return {
            address
            for address, worker in workers.items()
            if address not in self.unfit and all(worker["resources"].get(need, 0) >= 1 for need in needs)
        }

    def _unstick(self) -> Iterator[Event]:
        """Send anew what waits for workers that are gone; give up what no worker could have run for a while."""
        fit = {needs: self._fit(needs) for needs in {self.tasks[slug].needs for slug in self.sent}}
        for slug, future in list(self.sent.items()):
            able = fit[self.tasks[slug].needs]
            if able & self.meant.get(slug, able):
                self.stuck.pop(slug, None)
            elif able:
                future.cancel()
                self._send(slug)
            elif time.monotonic() - self.stuck.setdefault(slug, time.monotonic()) > PATIENCE:
                future.cancel()
                del self.sent[slug]
                yield finished(slug, "could not start", self._wanting(self.tasks[slug].needs))

    def _wanting(self, needs: Sequence[str]) -> str:
        if needs:
            offer = ",".join(f"{need}=1" for need in needs)
            start = f'`dask worker {self.address} --resources "{offer}"` starts one'
            return f"needs {' and '.join(needs)}, which no fit worker offers; {start}"
        return "; ".join(self.unfit.values()) or f"no worker is connected; `dask worker {self.address}` starts one"


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    from distributed import Client, Security
    from distributed.core import connect

    async def greet() -> None:
        comm = await connect(address, timeout=CONNECT, **Security().get_connection_args("client"))
        await comm.close()

    # What goes wrong is said snippet by snippet; Dask would show the same as tracebacks.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        asyncio.run(asyncio.wait_for(greet(), CONNECT + 1))  # a client would wait for ever for one who says nothing
        client = Client(address, timeout=CONNECT, set_as_default=False)
    except Exception as error:  # whatever stands there may answer anything
        why = str(error).partition("\n")[0] or "silence"
        raise ClusterError(f"no scheduler answers at '{address}' ({why}); `dask scheduler` starts one") from None
    with client:
        yield client


def _task(one: Standing, root: Path, limits: Limits) -> Task:
    own = {f"snippets/{one.slug}/{path.name}": path for path in (root / "snippets" / one.slug).glob("*.py")}
    told = {
        "order": {"slug": one.slug, **asdict(limits)},
        "wanted": {name: one.fingerprint.rest[name] for name in versions()},
        "warm": warmth([one]),
        "files": errand.pack({**one.fingerprint.paths(root), **own}),
    }
    return Task(told, one.fingerprint.needs)


def _code() -> dict[str, Any]:
    """Return what `TASK` names: our own code as bytes, and by reference what every worker has."""
    import cloudpickle
    from distributed import get_worker

    cloudpickle.register_pickle_by_value(generator)
    try:
        code = cloudpickle.dumps(errand.work)
    finally:
        cloudpickle.unregister_pickle_by_value(generator)
    return {"code": code, "loads": cloudpickle.loads, "me": get_worker, "version": platform.python_version}
