"""What a pull request touches: which snippets, which tests, and what its keeper reads first; tried on a real repository."""

import subprocess
import sys

import pytest

from generator.touched import HistoryError, changed, touched

METHOD = "def double(x):\n    return 2 * x\n"
TEST = "from snippets.{slug} import method\n\ndef test_it_doubles():\n    assert method.double(2) == 4\n"


def git(project, *arguments):
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments],
        cwd=project.root, check=True, capture_output=True,
    )  # fmt: skip


@pytest.fixture
def repository(project):
    """Return a project of three notes, the second of which uses the first's method, with a branch beside main."""
    for slug in ("one", "two", "three"):
        project.note(slug)
        project.snippet(
            slug,
            "from snippets.toy import method\ndef run(record):\n    record.metric('x', method.double(1))\n",
            METHOD,
        )
        project.write(f"tests/snippets/test_{slug}.py", TEST.format(slug=slug))
    project.write("snippets/two/method.py", "from snippets.one.method import double\n")
    project.write("snippets/three/experiment.py", "from snippets.three import method\nDATA = ['numbers.csv']\n")
    project.write("snippets/three/numbers.csv", "1\n")
    for name in ("notes", "html", "architecture", "kernels", "docs", "workflows", "load"):
        project.write(f"tests/test_{name}.py", "def test_it():\n    pass\n")
    project.write("tests/conftest.py", "")
    project.write("generator/load.py", "")
    project.write("README.md", "")
    project.write("pyproject.toml", "[tool.pytest.ini_options]\npythonpath = ['.']\n")
    project.write(".gitignore", "/.papernotes/\n__pycache__/\n")
    git(project, "init", "--initial-branch", "main")
    git(project, "add", ".")
    git(project, "commit", "-m", "begin")
    git(project, "switch", "-c", "theirs")
    return project


def own(*slugs):
    return {f"tests/snippets/test_{slug}.py" for slug in slugs}


ANY_NOTE = {"tests/test_notes.py", "tests/test_html.py"}
ANY_CODE = {"tests/test_notes.py", "tests/test_architecture.py", "tests/test_kernels.py"}
EVERY = own("one", "two", "three") | {
    f"tests/test_{name}.py" for name in ("notes", "html", "architecture", "kernels", "docs", "workflows", "load")
}
# What is written -> (whose it is, the tests to run, whether it is to be read first).
CHANGES = {
    "notes/three.md": ({"three"}, own("three") | ANY_NOTE, False),
    "notes/library.bib": (set(), ANY_NOTE, False),
    "snippets/one/method.py": ({"one", "two"}, own("one", "two") | ANY_CODE, False),
    "snippets/three/numbers.csv": ({"three"}, own("three") | ANY_CODE, False),
    "snippets/four/experiment.py": ({"four"}, ANY_CODE, False),
    "tests/snippets/test_two.py": ({"two"}, own("two"), False),
    "tests/test_load.py": (set(), {"tests/test_load.py"}, True),
    "tests/conftest.py": (set(), EVERY, True),
    "tests/snippets/conftest.py": (set(), EVERY, True),
    "generator/load.py": (set(), EVERY, True),
    "generator/templates/note.md": (set(), EVERY, True),
    "constraints.txt": (set(), EVERY, True),
    "README.md": (set(), {"tests/test_docs.py"}, False),
    ".github/workflows/pull_request.yml": (set(), {"tests/test_workflows.py"}, True),
    "Makefile": (set(), EVERY, True),
}


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
def test_a_change_concerns_what_depends_on_it_and_nothing_else(repository, path, committed):
    repository.write(path, "import sys\n")
    if committed:
        git(repository, "add", ".")
        git(repository, "commit", "-m", "change")
    found = touched(repository.root, "main")
    slugs, tests, first = CHANGES[path]
    assert found.paths == (path,)
    assert (set(found.slugs), set(found.tests)) == (slugs, tests)
    assert found.beyond == ((path,) if first else ())


def test_what_changed_on_main_meanwhile_is_not_theirs(repository):
    repository.write("notes/one.md", "theirs")
    git(repository, "commit", "-am", "theirs")
    git(repository, "switch", "main")
    repository.write("notes/two.md", "ours")
    git(repository, "commit", "-am", "ours")
    git(repository, "switch", "theirs")
    assert changed(repository.root, "main") == ["notes/one.md"]


def test_a_method_that_is_removed_concerns_who_used_it(repository):
    (repository.root / "snippets/one/method.py").unlink()
    assert set(touched(repository.root, "main").slugs) >= {"one"}
    assert "tests/snippets/test_one.py" in touched(repository.root, "main").tests


def test_a_name_that_would_mislead_a_shell_or_git_is_a_name(repository):
    name = "notes/$(touch x) -p evil\n--x.md"
    repository.write(name, "")
    assert changed(repository.root, "main") == [name]
    with pytest.raises(HistoryError, match="git knows no commit '--output=x' here"):
        changed(repository.root, "--output=x")
    assert not (repository.root / "x").exists()


def test_a_branch_that_was_not_there_before_concerns_everything(repository):
    assert set(touched(repository.root, "0" * 40).tests) == EVERY


def test_outside_a_repository_that_is_said(project):
    project.note()
    with pytest.raises(HistoryError):
        touched(project.root, "main")


def command(project, *options):
    line = [sys.executable, "-m", "generator.cli", "--root", str(project.root), "touched", *options]
    return subprocess.run(line, capture_output=True, text=True)


def test_the_command_says_what_a_change_concerns_and_what_to_read_first(repository):
    repository.write("snippets/one/method.py", METHOD + "\n\ndef more():\n    return 1\n")
    repository.write("tests/test_load.py", "")
    done = command(repository, "--since", "main")
    assert done.returncode == 0, done.stderr
    assert "2 files changed" in done.stdout
    assert "concerns: one, two" in done.stdout
    assert "read first: tests/test_load.py" in done.stdout


def test_a_commit_that_is_not_there_is_said_without_a_traceback(repository):
    done = command(repository)
    assert (done.returncode, done.stdout) == (1, "")
    assert "git knows no commit 'origin/main' here; fetch it" in done.stderr
    assert "Traceback" not in done.stderr


def run_tests(project, *options):
    return command(project, "--since", "main", "--test", *options)


def test_the_tests_of_a_change_run_and_a_failing_one_fails_the_command(repository):
    repository.write("snippets/one/method.py", METHOD + "\n")
    done = run_tests(repository)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout  # of snippets: the method's own, and that of the one which uses it
    repository.write("snippets/one/method.py", METHOD.replace("2", "3"))
    done = run_tests(repository)
    assert done.returncode == 1
    assert "test_two" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_strangers_test_runs_as_confined_as_a_snippet(repository, monkeypatch, tmp_path_factory):
    from generator.lab import confine

    if confine.freedoms(confine.possible()):
        pytest.skip("this system confines nothing")
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_no_real_token")
    victim = tmp_path_factory.mktemp("home") / "file"
    victim.write_text("whole")
    hostile = f"""
import os, pathlib, socket, pytest

@pytest.mark.parametrize("attempt", [
    lambda: pathlib.Path({str(victim)!r}).write_text("mine"),
    lambda: pathlib.Path({str(victim)!r}).read_text(),
    lambda: pathlib.Path(__file__).write_text("mine"),
    lambda: socket.create_connection(("127.0.0.1", 9)),
])
def test_it_is_refused(attempt):
    with pytest.raises(PermissionError):
        attempt()

def test_it_knows_nothing(tmp_path):
    assert "GITHUB_TOKEN" not in os.environ
    (tmp_path / "own").write_text("fine")
"""
    repository.write("tests/snippets/test_three.py", hostile)
    done = run_tests(repository, "--confined")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout
    assert victim.read_text() == "whole"
