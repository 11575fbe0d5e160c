"""Strangers' snippets: what a hostile one tries, and that it really fails; and that a good one still can all it needs."""

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from generator.cli import papernotes
from generator.execute import Limits
from generator.lab import confine, seccomp
from generator.load import load
from generator.run import run, store_of

TOKEN = "ghp_this_is_no_real_token"
HERE = confine.possible()
TRY = """
import os, pathlib, socket, subprocess, sys, tempfile

def attempt(record, name, what):
    try:
        said = str(what() or "done")
    except BaseException as error:
        said = f"refused: {type(error).__name__}"
    record.metric(name, said)
"""
HOSTILE = """
def run(record):
    def connect():
        socket.create_connection(("127.0.0.1", {port}), timeout=5).sendall(b"hello")

    def send():
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", ("127.0.0.1", {port}))

    def agent():
        with socket.socket(socket.AF_UNIX) as line:
            line.connect({agent!r})

    def elsewhere():
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        a.connect({agent!r})

    def abstract():
        socket.socket(socket.AF_UNIX).connect("\\0{abstract}")

    def by_another_program():
        code = "import socket; socket.create_connection(('127.0.0.1', {port}), timeout=5)"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    def environment_of(pid):
        text = pathlib.Path(f"/proc/{{pid}}/environ").read_text()
        return "a token: " + text if {token!r} in text else text or "empty"

    def descriptors():
        found = {{os.readlink(f"/proc/self/fd/{{n}}") for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{{n}}")}}
        return sorted(one.partition(":")[0] for one in found if not one.startswith("/proc/"))

    def kill():
        os.kill({victim}, 9)

    attempt(record, "connect", connect)
    attempt(record, "send", send)
    attempt(record, "agent", agent)
    attempt(record, "elsewhere", elsewhere)
    attempt(record, "abstract", abstract)
    attempt(record, "by_another_program", by_another_program)
    attempt(record, "own_environment", lambda: sorted(os.environ))
    attempt(record, "kernel_own_environment", lambda: environment_of("self"))
    attempt(record, "parents_environment", lambda: environment_of(os.getppid()))
    attempt(record, "runners_environment", lambda: environment_of({runner}))
    attempt(record, "runners_memory", lambda: open("/proc/{runner}/mem", "rb"))
    attempt(record, "descriptors", descriptors)
    attempt(record, "kill", kill)
    for name, path in {paths!r}.items():
        attempt(record, "read_" + name, lambda: pathlib.Path(path).read_text())
        attempt(record, "write_" + name, lambda: pathlib.Path(path).write_text("mine"))
        attempt(record, "beside_" + name, lambda: pathlib.Path(path + ".new").write_text("mine"))
        attempt(record, "remove_" + name, lambda: os.unlink(path))
        attempt(record, "link_" + name, lambda: os.link(path, "linked"))
    attempt(record, "source", lambda: pathlib.Path(__file__).write_text("mine"))
    attempt(record, "namespace", lambda: subprocess.run(["unshare", "-rn", "true"], check=True, capture_output=True))
    attempt(record, "mount", lambda: subprocess.run(["mount", "-t", "tmpfs", "x", "."], check=True, capture_output=True))
"""


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """Run the hostile snippet on a machine full of what it wants; return what it could do, and what is left of that."""
    from conftest import Project

    project, home = Project(tmp_path_factory.mktemp("hostile")), tmp_path_factory.mktemp("home")
    paths = {
        "key": home / ".ssh" / "id_ed25519",
        "netrc": home / ".netrc",
        "git": project.root / ".git" / "config",
        "store": project.root / ".papernotes" / "v2" / "latest" / "other.json",
        "note": project.root / "notes" / "other.md",
    }
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")
    agent, unseen = home / "agent", f"papernotes-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        server, ssh, abstract = (
            stack.enter_context(socket.socket(family)) for family in (socket.AF_INET, socket.AF_UNIX, socket.AF_UNIX)
        )
        server.bind(("127.0.0.1", 0))
        ssh.bind(str(agent))
        for one in (server, ssh):
            one.listen()
            one.setblocking(False)
        if sys.platform == "linux":
            abstract.bind(f"\0{unseen}")
            abstract.listen()
        victim = subprocess.Popen(["sleep", "60"])
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in ("GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY", "SSH_AUTH_SOCK"):
            patch.setenv(name, TOKEN)
        runner = subprocess.Popen(["sleep", "60"])  # what is in its environment no one took out
        wants = {
            "port": server.getsockname()[1],
            "agent": str(agent),
            "abstract": unseen,
            "token": TOKEN,
            "victim": victim.pid,
        }
        wants |= {"runner": runner.pid, "paths": {name: str(path) for name, path in paths.items()}}
        project.snippet("hostile", TRY + HOSTILE.format(**wants))
        project.snippet("good", GOOD)
        try:
            runs = run(load(project.root), store_of(project.root), limits=Limits(timeout=120))
            assert not runs.failures, runs.failures
            said = {name: one["value"] for name, one in runs.results["hostile"].metrics.items()}
            reached = []
            for one in (server, ssh):
                with contextlib.suppress(BlockingIOError):
                    reached.append(one.accept())
            yield said, {"paths": paths, "reached": reached, "victim": victim, "runs": runs}
        finally:
            for process in (victim, runner):
                process.kill()
                process.wait()


GOOD = """
import os, pathlib, subprocess, tempfile, threading
import torch
from generator.lab import data

def run(record):
    with tempfile.NamedTemporaryFile() as file:
        record.metric("temporary", os.path.dirname(file.name) == os.getcwd())
    record.metric("home", os.path.realpath(os.path.expanduser("~")) == os.getcwd())
    pathlib.Path("one").mkdir()
    pathlib.Path("one/file").write_text("x")
    os.replace("one/file", "moved")
    record.metric("moved", pathlib.Path("moved").read_text())
    record.metric("program", subprocess.run(["echo", "hello"], capture_output=True, text=True).stdout.strip())
    thread = threading.Thread(target=lambda: record.metric("thread", 1))
    thread.start()
    thread.join()
    record.metric("source", "def run" in pathlib.Path(__file__).read_text())
    record.metric("digits", data.digits()[0].shape[0])
    record.metric("threads", torch.get_num_threads())
    record.metric("environment", sorted(set(os.environ) & {"PATH", "OMP_NUM_THREADS", "HOME", "TMPDIR"}).__repr__())
"""

needs_no_network = pytest.mark.skipif(
    HERE["network"] != "cut", reason="this system has no seccomp and no network namespace"
)
needs_files = pytest.mark.skipif(
    HERE["files"] != "scratch", reason="this system has no Landlock of Linux 5.19 or newer"
)
needs_signals = pytest.mark.skipif(
    HERE["signals"] != "own", reason="this system has no Landlock of Linux 6.12 or newer"
)


@needs_no_network
@pytest.mark.parametrize("way", ["connect", "send", "agent", "elsewhere", "abstract", "by_another_program"])
def test_a_snippet_reaches_no_server_not_even_of_this_machine(tried, way):
    said, left = tried
    assert said[way].startswith("refused: "), said[way]
    assert not left["reached"]


def test_no_token_proxy_or_agent_is_in_its_environment(tried):
    said, _ = tried
    assert not {"GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY", "SSH_AUTH_SOCK"} & set(
        eval(said["own_environment"])
    )
    assert TOKEN not in said["kernel_own_environment"]
    assert TOKEN not in said["parents_environment"]


@needs_files
@pytest.mark.parametrize("whose", ["parents_environment", "runners_environment", "runners_memory"])
def test_it_cannot_look_into_other_processes_of_the_same_user(tried, whose):
    assert tried[0][whose] == "refused: PermissionError"


def test_it_has_no_open_file_but_its_own_output_and_its_line_to_the_compiler(tried):
    assert set(eval(tried[0]["descriptors"])) <= {"pipe", "/dev/null", "socket"}
    assert tried[0]["descriptors"].count("socket") <= 1


@needs_files
@pytest.mark.parametrize("which", ["key", "netrc", "git", "store"])
def test_it_can_neither_read_nor_change_what_is_not_its_own(tried, which):
    said, left = tried
    for what in ("read", "write", "beside", "remove", "link"):
        assert said[f"{what}_{which}"] in ("refused: PermissionError", "refused: OSError"), what
    assert left["paths"][which].read_text() == "secret"


@needs_files
def test_it_reads_its_project_but_does_not_write_there(tried):
    said, left = tried
    assert said["read_note"] == "secret"
    assert said["write_note"] == said["source"] == "refused: PermissionError"
    assert left["paths"]["note"].read_text() == "secret"


@needs_signals
def test_it_cannot_kill_another_process_of_the_same_user(tried):
    said, left = tried
    assert said["kill"] == "refused: PermissionError"
    assert left["victim"].poll() is None


@needs_no_network
def test_it_can_make_itself_no_world_of_its_own(tried):
    assert tried[0]["namespace"] == tried[0]["mount"] == "refused: CalledProcessError"


def test_a_good_snippet_has_all_it_needs(tried):
    good = {name: one["value"] for name, one in tried[1]["runs"].results["good"].metrics.items()}
    assert good == {
        "temporary": True, "home": True, "moved": "x", "program": "hello", "thread": 1, "source": True, "digits": 1348,
        "threads": 1, "environment": "['HOME', 'OMP_NUM_THREADS', 'PATH', 'TMPDIR']",
    }  # fmt: skip


def test_a_file_that_comes_into_the_project_meanwhile_hides_no_snippet(project):
    code = "import time\ndef run(record):\n    time.sleep(0.3)\n    import snippets.{other}.method as other\n    record.metric('x', other.double(1))\n"
    for slug, other in (("one", "two"), ("two", "one")):
        project.snippet(slug, code.format(other=other))
    runs = run(
        load(project.root),
        store_of(project.root),
        jobs=1,
        watch=lambda kind, event: project.write(f"new-{time.time_ns()}", ""),
    )
    assert not runs.failures


def test_a_result_says_how_far_its_run_was_confined_and_the_snippet_has_no_say_in_it(project):
    lie = "def run(record):\n    record.metric('x', 1)\n    save = record.save\n"
    lie += "    lied = {'network': 'a lie', 'files': 'a lie'}\n"
    lie += "    record.save = lambda **also: save(**{**also, 'provenance': {**also.get('provenance', {}), **lied}})\n"
    project.snippet("lies", lie)
    provenance = run(load(project.root), store_of(project.root)).results["lies"].provenance
    assert {name: provenance[name] for name in HERE} == HERE


COMPILES = """
import os
if os.environ.get("TRITON_INTERPRET") is None:  # only the compiler has none
    {hostile}
KERNELS = ("one",)
def run(record):
    record.metric("two", 2)
"""


IN_THE_COMPILER = {
    "writes": ("open('{victim}', 'w').write('mine')", "raised", "PermissionError"),
    "connects": ("__import__('socket').create_connection(('127.0.0.1', 9))", "raised", "PermissionError"),
    "sleeps": ("__import__('time').sleep(4646)", "timed out", ""),
    "multiplies": ("exec('while True: os.fork()')", "raised", "do not compile"),
}


@needs_files
@needs_no_network
def test_the_compiler_runs_a_snippets_code_as_confined_and_bounded_as_the_snippet_itself(project):
    victim = project.write("notes/victim.md", "whole")
    for slug, (hostile, _, _) in IN_THE_COMPILER.items():
        code = COMPILES.format(hostile=hostile.format(victim=victim)) + f"import snippets.{slug}.kernel\n"
        project.snippet(slug, code)
        project.write(f"snippets/{slug}/kernel.py", "import torch\n")
    failures = run(load(project.root), store_of(project.root), limits=Limits(timeout=8, processes=16)).failures
    for slug, (_, outcome, said) in IN_THE_COMPILER.items():
        assert failures[slug].outcome == outcome, failures[slug]
        assert said in failures[slug].error + failures[slug].tail
    assert victim.read_text() == "whole"
    assert subprocess.run(["pgrep", "-f", str(project.root)], capture_output=True).stdout == b""


@pytest.mark.parametrize("trap", ["symlink_to({secret!r})", "hardlink_to({secret!r})"])
def test_a_result_that_leads_to_a_file_outside_is_not_stored(project, trap, tmp_path):
    secret = tmp_path / "secret.svg"
    secret.write_text("secret")
    code = f"import pathlib\ndef run(record):\n    (pathlib.Path.cwd().parent / 'x.svg').{trap.format(secret=str(secret))}\n"
    project.snippet("leads", code)
    runs = run(load(project.root), store_of(project.root))
    assert not runs.results
    assert not list(store_of(project.root).results.glob("*"))


def test_a_figure_that_names_a_file_outside_is_not_stored(project, tmp_path):
    (tmp_path / "secret").write_text("secret")
    figure = {"files": [str(tmp_path / "secret")], "caption": "x", "alt": "x"}
    project.snippet("names", f"def run(record):\n    record.figures['x'] = {figure!r}\n")
    runs = run(load(project.root), store_of(project.root))
    assert "could not be stored" in runs.failures["names"].error


def test_a_trap_in_place_of_the_error_neither_holds_the_engine_up_nor_leaks(project, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for slug, trap in {"pipe": "os.mkfifo(p)", "link": f"os.symlink({str(secret)!r}, p)"}.items():
        project.snippet(slug, f"import os\ndef run(record):\n    p = '../error.txt'\n    {trap}\n    os._exit(78)\n")
    failures = run(load(project.root), store_of(project.root), limits=Limits(timeout=20)).failures
    assert {slug: one.outcome for slug, one in failures.items()} == {"pipe": "raised", "link": "raised"}
    assert "secret" not in failures["link"].error


def test_what_a_snippet_prints_cannot_steer_a_terminal(project):
    project.snippet("prints", "def run(record):\n    print('\\x1b]0;owned\\x07')\n    raise ValueError('\\x1b[2J')\n")
    failure = run(load(project.root), store_of(project.root)).failures["prints"]
    assert "\x1b" not in failure.tail + failure.error
    assert "owned" in failure.tail


def in_a_process(work):
    """Return what a function says of a process of its own, which it may confine for good."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(writing, str(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as said:
        return said.read()


def reaches(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError as error:
        return type(error).__name__
    return "reached"


@pytest.fixture
def port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_each_of_the_two_ways_to_cut_the_network_cuts_it_alone(port):
    def by_namespace():
        return confine.leave_network(ctypes.CDLL(None)) and reaches(port)

    def by_filter():
        ctypes.CDLL(None).prctl(confine.NO_NEW_PRIVS, 1, 0, 0, 0)
        return seccomp.restrict() and reaches(port)

    assert in_a_process(lambda: reaches(port)) == "reached"
    said = {in_a_process(by_namespace), in_a_process(by_filter)}
    if said == {"False"}:
        pytest.skip("this system has neither seccomp nor a network namespace to give")
    assert said <= {"False", "OSError", "PermissionError"}


def test_a_system_without_any_of_it_runs_the_snippets_and_says_so_once(project, monkeypatch):
    freed(monkeypatch)
    for slug in ("one", "two"):
        project.snippet(slug, "def run(record):\n    record.metric('two', 2)\n")
    said = []
    runs = run(load(project.root), store_of(project.root), watch=lambda kind, event: said.append((kind, event)))
    assert [event["freedoms"] for kind, event in said if kind == "unconfined"] == [list(confine.DEMANDED.values())]
    assert runs.results["one"].provenance["network"] == "open"


def test_confined_refuses_such_a_system_and_runs_nothing(project, monkeypatch):
    project.snippet("one", "def run(record):\n    record.metric('two', 2)\n")
    monkeypatch.setattr("generator.cli.results.possible", lambda: dict.fromkeys(confine.CONFINED, "open"))
    done = CliRunner().invoke(papernotes, ["--root", str(project.root), "run", "--confined"], standalone_mode=False)
    assert "nothing was run" in str(done.exception)
    assert "network" in str(done.exception)
    assert not store_of(project.root).results.exists()


def test_a_worker_that_cannot_confine_does_not_start_what_must_be_confined(project, monkeypatch):
    freed(monkeypatch)
    project.snippet("one", "def run(record):\n    record.metric('two', 2)\n")
    (failure,) = run(load(project.root), store_of(project.root), limits=Limits(confined=True)).failures.values()
    assert failure.outcome == "could not start"
    assert "must be confined" in failure.error


def freed(monkeypatch):
    """Have the warm parents that are started from here find a system that lets nothing be confined."""
    from generator import execute

    code = (
        "import sys; from generator.lab import confine; "
        "confine.confine = lambda folder, reading: dict.fromkeys(confine.CONFINED, 'open'); "
        "import runpy; sys.argv = ['nursery', *sys.argv[1:]]; "
        "runpy.run_module('generator.lab.nursery', run_name='__main__', alter_sys=True)"
    )
    real = subprocess.Popen

    def start(command, **how):
        return real([command[0], "-c", code, *command[3:]], **how)

    monkeypatch.setattr(execute.subprocess, "Popen", start)


def test_what_a_snippet_may_read_holds_neither_the_home_nor_what_is_hidden_in_the_project(tmp_path, monkeypatch):
    root = tmp_path / "usr" / "app"
    for name in (".git/config", ".env", "snippets/one/method.py", "data.csv"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    monkeypatch.setattr(sys, "path", [*sys.path, str(root), str(tmp_path / "usr"), ""])
    (tmp_path / "usr" / "lib").mkdir()
    listed, found = confine.readable(root, root)
    assert listed == [root, root]
    assert {root / "snippets", root / "data.csv", tmp_path / "usr" / "lib"} <= set(found)
    assert not {path for path in found if root.is_relative_to(path) or path.name in (".git", ".env")}
    assert not {path for path in found if Path.home().resolve().is_relative_to(path.resolve())}
