"""Many machines: a real scheduler and workers, which have neither the project nor pydantic, run what is stale here."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import click
import pytest
from click.testing import CliRunner
from conftest import free_port

from generator import cluster, errand, fingerprint
from generator import run as engine
from generator.cli import papernotes
from generator.execute import Limits
from generator.load import load
from generator.run import run, store_of

pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")

ROOT = Path(__file__).resolve().parent.parent
# A snippet finds little of its worker's environment; what names the language is let through.
WHO = "import os\ndef run(record):\n    record.metric('who', os.environ['LC_WHO'])\n"
SLEEP = "import time\ndef run(record):\n    time.sleep(600)\n"
CARRIED = """
import os, pathlib, random, numpy, torch
from generator.lab import data
from snippets.carried.beside import N
DATA = ["numbers.csv"]

def run(record):
    record.metric("random", random.random() + numpy.random.rand() + torch.randn(64, 64).sum().item())
    record.metric("digits", data.digits()[0].sum().item())
    record.metric("beside", N)
    record.metric("data", len(pathlib.Path(__file__).with_name("numbers.csv").read_text()))
    record.metric("threads", [torch.get_num_threads(), int(os.environ["OMP_NUM_THREADS"])])
"""


class Cluster:
    """A scheduler and its workers, each a process; the workers find nothing of the project but what they are sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("generator", "pydantic"):
            (folder / f"{name}.py").write_text("raise ImportError('a worker has no such thing')\n")
        self.started: list[subprocess.Popen[bytes]] = []
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        port = free_port()
        self.address = f"tcp://127.0.0.1:{port}"
        self._start("scheduler", "--host", "127.0.0.1", "--port", str(port))
        self.worker("plain", "--nthreads", "2")
        self.worker("gpu", "--nthreads", "1", "--resources", "gpu=1")

    def worker(self, who: str, *options: str) -> None:
        options = (self.address, *options, "--no-nanny", "--local-directory", str(self.folder))
        self.workers[who] = self._start("worker", *options, who=who)

    def _start(self, what: str, *arguments: str, who: str = "") -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            f"distributed.cli.dask_{what}",
            *arguments,
            "--dashboard-address",
            "127.0.0.1:0",
        ]
        with (self.folder / f"{what}-{len(self.started)}.log").open("wb") as log:
            self.started.append(
                subprocess.Popen(
                    command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
                    env={**os.environ, "LC_WHO": who, "PYTHONPATH": str(self.folder)},
                )
            )  # fmt: skip
        return self.started[-1]

    def stop(self) -> None:
        for process in reversed(self.started):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.stop()


def elsewhere(crew, project, **options):
    """Run the project's snippets on the cluster and return how they stand."""
    return run(load(project.root), store_of(project.root), elsewhere=cluster.on(crew.address), **options)


def below(process):
    """Return the processes that a worker has started, directly or not."""
    return psutil.Process(process.pid).children(recursive=True)


def eventually(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.1)
    return true()


def test_results_equal_those_of_this_machine_and_a_later_run_here_runs_nothing(crew, toy, tmp_path):
    toy.snippet("carried", CARRIED)
    toy.write("snippets/carried/beside.py", "N = 5\n")
    toy.write("snippets/carried/numbers.csv", "1,2,3\n")
    said = []
    there = elsewhere(crew, toy, watch=lambda kind, event: said.append((kind, event.get("slug"))))
    assert not there.failures
    assert {("started", slug) for slug in there.results} | {("finished", slug) for slug in there.results} <= set(said)
    assert run(load(toy.root), store_of(toy.root)).executed == []
    here = run(load(toy.root), store_of(tmp_path / "other")).results
    for slug, result in here.items():
        assert result.key == there.results[slug].key
        assert result.metrics == there.results[slug].metrics
        assert result.tables == there.results[slug].tables
        for file in result.folder.glob("*.svg"):
            assert file.read_bytes() == (there.results[slug].folder / file.name).read_bytes()
    assert not list(store_of(toy.root).folder.glob("tmp-*"))


def test_a_failure_there_comes_back_as_what_it_was(crew, project):
    project.snippet("raises", "def run(record):\n    print('so far')\n    raise KeyError('gone')\n")
    project.snippet("leaves", "import os\ndef run(record):\n    os._exit(3)\n")
    project.snippet("hangs", SLEEP)
    failures = elsewhere(crew, project, limits=Limits(timeout=2)).failures
    assert {slug: one.outcome for slug, one in failures.items()} == {
        "raises": "raised", "leaves": "exited", "hangs": "timed out",
    }  # fmt: skip
    assert failures["raises"].error == "KeyError: 'gone'"
    assert "so far" in failures["raises"].tail and "experiment.py" in failures["raises"].tail
    assert "did not end within 2 s" in failures["hangs"].error
    assert not store_of(project.root).results.exists()


def test_what_needs_a_gpu_goes_only_where_one_is_offered(crew, project, monkeypatch):
    # This machine's own idea of a GPU travels with the task.
    monkeypatch.setattr(fingerprint, "device_kind", lambda: "a toy GPU")
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    for slug in ("one", "two"):
        project.snippet(slug, f"NEEDS = ['gpu']\n{WHO}")
    project.snippet("lonely", f"NEEDS = ['tpu']\n{WHO}")
    runs = elsewhere(crew, project)
    assert {slug: one.metrics["who"]["value"] for slug, one in runs.results.items()} == {"one": "gpu", "two": "gpu"}
    assert runs.failures["lonely"].outcome == "could not start"
    assert "needs tpu, which no fit worker offers" in runs.failures["lonely"].error


def test_a_worker_that_offers_a_gpu_and_has_none_is_refused(crew, project, monkeypatch):
    monkeypatch.setattr(fingerprint, "device_kind", lambda: "cpu")
    project.snippet("toy", f"NEEDS = ['gpu']\n{WHO}")
    failure = elsewhere(crew, project).failures["toy"]
    assert failure.outcome == "could not start"
    assert "device is cpu there and gpu here" in failure.error


def test_without_a_gpu_here_what_needs_one_is_not_started(project, monkeypatch):
    monkeypatch.setattr(engine, "device_kind", lambda: "cpu")
    project.snippet("toy", f"NEEDS = ['gpu']\n{WHO}")
    failure = run(load(project.root), store_of(project.root)).failures["toy"]
    assert (failure.outcome, failure.error) == ("could not start", "needs gpu, which this machine lacks")


@pytest.mark.parametrize("part", ["torch", "Python"])
def test_workers_of_other_versions_are_refused_and_nothing_is_stored(crew, project, monkeypatch, part):
    real = fingerprint.versions()
    monkeypatch.setattr(fingerprint, "_versions", lambda: {**real, part: "0.1"})
    project.snippet("toy", WHO)
    failure = elsewhere(crew, project).failures["toy"]
    assert failure.outcome == "could not start"
    assert f"{part} is {real[part]} there and 0.1 here" in failure.error
    assert not store_of(project.root).results.exists()


def test_a_worker_of_other_versions_is_passed_over(crew, project, monkeypatch):
    real = fingerprint.versions

    def versions():
        return real() | ({"torch": "0.1"} if os.getenv("LC_WHO") == "plain" else {})

    monkeypatch.setattr(errand, "versions", versions)
    for slug in ("one", "two"):
        project.snippet(slug, WHO)
    assert {one.metrics["who"]["value"] for one in elsewhere(crew, project).results.values()} == {"gpu"}


def test_a_worker_killed_in_mid_run_costs_a_second_try_on_another(crew, project):
    project.snippet("toy", "import time\ndef run(record):\n    time.sleep(2)\n    record.metric('two', 2)\n")
    killed = []

    def kill(kind, event):
        if kind == "started" and not killed:
            killed.extend(who for who, process in crew.workers.items() if below(process))
            left.extend(below(crew.workers[killed[0]]))
            crew.workers[killed[0]].kill()

    left = []
    runs = elsewhere(crew, project, watch=kill)
    assert runs.results["toy"].metrics["two"]["value"] == 2
    assert len(killed) == 1
    assert eventually(lambda: not any(one.is_running() for one in left))
    resources = ("--resources", "gpu=1") if killed == ["gpu"] else ()
    crew.worker(killed[0], "--nthreads", "1", *resources)


def test_a_snippet_whose_workers_all_die_could_not_start():
    from distributed.scheduler import KilledWorker

    future = mock.Mock(result=mock.Mock(side_effect=KilledWorker("toy", None, 3)), cancelled=lambda: False)
    crew = cluster.Crew(mock.Mock(), "tcp://there:1", {}, {})
    event = crew._ended("toy", future)
    assert (event["outcome"], event["error"]) == ("could not start", "4 workers died while it ran")


def test_an_interrupt_ends_what_runs_there(crew, project):
    project.snippet("slow", SLEEP)
    process = subprocess.Popen(
        [sys.executable, "-m", "generator.cli", "--root", str(project.root), "run", "--scheduler", crew.address],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert "running slow" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert eventually(lambda: not any(below(worker) for worker in crew.workers.values() if worker.poll() is None))
    assert not list(store_of(project.root).folder.glob("tmp-*"))


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:1", "nowhere.invalid:8786", "tcp://127.0.0.1:no", "fly://x:1", "x"]
)
def test_a_scheduler_that_is_not_there_is_said_so(project, monkeypatch, address):
    monkeypatch.setattr(cluster, "CONNECT", 1.0)
    project.snippet("toy", WHO)
    with pytest.raises(cluster.ClusterError, match="no scheduler answers at"):
        run(load(project.root), store_of(project.root), elsewhere=cluster.on(address))


def test_one_who_listens_and_says_nothing_is_no_scheduler(project, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT", 0.5)
    project.snippet("toy", WHO)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(cluster.ClusterError, match="silence"):
            run(
                load(project.root),
                store_of(project.root),
                elsewhere=cluster.on(f"tcp://127.0.0.1:{mute.getsockname()[1]}"),
            )


def test_the_command_leaves_with_one_where_there_is_no_scheduler_and_with_two_without_dask(project, monkeypatch):
    project.snippet("toy", WHO)
    monkeypatch.setattr(cluster, "CONNECT", 1.0)
    arguments = ["--root", str(project.root), "run", "--scheduler", f"tcp://127.0.0.1:{free_port()}"]
    done = CliRunner().invoke(papernotes, arguments, standalone_mode=False)
    assert isinstance(done.exception, click.ClickException)
    assert done.exception.exit_code == 1
    assert "no scheduler answers at 'tcp://127.0.0.1:" in done.exception.message
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    done = CliRunner().invoke(papernotes, arguments)
    assert done.exit_code == 2
    assert "pip install 'papernotes[cluster]'" in " ".join(done.output.split())
