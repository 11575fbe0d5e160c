"""The command line: what it says, and the status it leaves with."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent


def papernotes(project, *arguments, stdin=None):
    return subprocess.run(
        [sys.executable, "-m", "generator.cli", *(["--root", str(project.root)] if project else []), *arguments],
        capture_output=True, text=True, input=stdin, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_check_shows_every_problem_and_leaves_with_one(toy):
    toy.note(body="[[toi]]\n{{ figur() }}\n", more="tittle: x")
    toy.note("other", body="[[toi]]\n{{ figur() }}\n")
    done = papernotes(toy, "check")
    assert done.returncode == 1
    assert "notes/toy.md:8:1: unknown key 'tittle'; did you mean 'title'?" in done.stdout
    assert "notes/other.md:9:1: link to unknown note 'toi'" in done.stdout
    assert "notes/other.md:10:4: unknown embed 'figur'; did you mean 'figure'?" in done.stdout
    assert "problems in 2 notes" in done.stderr


def test_check_of_a_sound_project_leaves_with_nought(toy):
    done = papernotes(toy, "check")
    assert (done.returncode, done.stdout) == (0, "1 note, no problems\n")


def test_check_holds_claims_against_stored_results(toy):
    papernotes(toy, "run")
    path = toy.root / "notes/toy.md"
    path.write_text(path.read_text().replace("near: 2", "near: 3"))
    done = papernotes(toy, "check")
    assert done.returncode == 1
    assert "this claim came out contradicted (2), the note says reproduced" in done.stdout


def test_run_status_and_run_again(toy):
    assert "toy  never run" in papernotes(toy, "status").stdout
    done = papernotes(toy, "run")
    assert done.returncode == 0, done.stderr
    assert "running toy" in done.stderr
    assert "1 ran, 0 reused, 0 failed" in done.stdout
    assert "toy  fresh" in papernotes(toy, "status").stdout
    assert "0 ran, 1 reused" in papernotes(toy, "run", "toy").stdout
    assert "1 ran, 0 reused" in papernotes(toy, "run", "--force", "--jobs", "1").stdout
    toy.snippet(method="def double(x):\n    return x + x\n")
    assert "stale      snippets/toy/method.py: double changed" in papernotes(toy, "status").stdout


def test_a_failing_snippet_is_shown_with_its_output(toy):
    toy.snippet(experiment="def run(record):\n    print('so far so good')\n    raise ValueError('[bold]no')\n")
    done = papernotes(toy, "run")
    assert done.returncode == 1
    assert "snippets/toy raised: ValueError: [bold]no" in done.stderr
    assert "| so far so good" in done.stderr
    assert "1 snippet failed: toy" in done.stderr
    assert "toy  failed" in papernotes(toy, "status").stdout


def test_export_writes_the_site_as_plain_markdown(toy, tmp_path):
    done = papernotes(toy, "export", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out/toy.md").read_text()
    assert "<svg" in text
    assert (tmp_path / "out/files/toy/method.py").read_text() == (toy.root / "snippets/toy/method.py").read_text()
    for page in ("index.md", "notes.md", "claims.md", "kernels.md", "tags/activation.md", "papers/doe2020toy.md"):
        assert (tmp_path / "out" / page).exists(), page


def test_a_strict_export_fails_on_a_problem(toy, tmp_path):
    toy.note(body="{{ figure('lime') }}")
    assert papernotes(toy, "export", "--strict", str(tmp_path / "out")).returncode == 1
    assert papernotes(toy, "export", str(tmp_path / "out")).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "status", "what"),
    [
        (("run", "nowhere"), 2, "there is no snippet 'nowhere'; known: toy"),
        (("run", "--jobs", "0"), 2, "--jobs"),
        (("fly",), 2, "No such command 'fly'"),
        (("--version",), 0, "papernotes, version 0.1.0"),
        (("--help",), 0, "Paper notes whose every method runs"),
        (("export",), 2, "FOLDER"),
        (("new", "toy"), 1, "notes/toy.md exists"),
        (("new", "Bad Name"), 2, "lower-case"),
    ],
)
def test_wrong_usage_leaves_with_two_and_a_hint(toy, arguments, status, what):
    done = papernotes(toy, *arguments)
    assert done.returncode == status, done.stderr
    assert what in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stderr


def test_outside_a_project_it_says_where_to_go(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "generator.cli", "check"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "there is no mkdocs.yml with notes/ beside it" in done.stderr


def test_a_new_note_is_a_draft_that_checks_runs_and_shows_a_figure(project, tmp_path):
    done = papernotes(project, "new", "my_method", "--title", 'A "Method": fast', "--paper", "doe2020toy")
    assert done.returncode == 0, done.stderr
    made = {path.relative_to(project.root).as_posix() for path in project.root.rglob("*my_method*") if path.is_file()}
    made |= {path.relative_to(project.root).as_posix() for path in (project.root / "snippets/my_method").iterdir()}
    assert made == {
        "notes/my_method.md",
        "snippets/my_method/method.py",
        "snippets/my_method/kernel.py",
        "snippets/my_method/experiment.py",
        "tests/snippets/test_my_method.py",
    }
    assert papernotes(project, "check").stdout == "1 note, no problems\n"
    ran = papernotes(project, "export", "--strict", str(tmp_path / "out"))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "<svg" in (tmp_path / "out/my_method.md").read_text()
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/snippets"], cwd=project.root,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": f"{project.root}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout


def test_a_run_is_reported_to_other_programs(toy, tmp_path):
    toy.snippet("bad", "def run(record):\n    print('here \\x1b[0m')\n    raise ValueError('<no> & \\x00')\n")
    toy.write("snippets/unrun/experiment.py", "def run(record): record.metric('one', 1)\n")
    papernotes(toy, "run", "toy")
    reports = ("--junit", str(tmp_path / "out/run.xml"), "--json", str(tmp_path / "run.json"))
    done = papernotes(toy, "run", "toy", "bad", *reports)
    assert done.returncode == 1
    assert "0 ran, 1 reused, 1 failed" in done.stdout
    said = json.loads((tmp_path / "run.json").read_text())
    assert {one["slug"]: one["state"] for one in said["snippets"]} == {"toy": "reused", "bad": "failed"}
    assert said["snippets"][0]["environment"]["torch"].startswith("2.")
    assert said["snippets"][0]["peak_memory"] > 10**7
    suite = ElementTree.parse(tmp_path / "out/run.xml").getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert suite.find("testcase/failure").get("type") == "raised"
    assert "ValueError: <no> &" in suite.find("testcase/failure").get("message")
    stored = papernotes(toy, "run", "--only-stored", *reports)
    assert "unrun is missing: never run" in stored.stdout
    assert "0 ran, 1 reused, 1 failed" in stored.stdout and "1 missing" in stored.stdout
    assert ElementTree.parse(tmp_path / "out/run.xml").getroot().find("testsuite").get("skipped") == "1"


def test_results_are_carried_to_another_machine_and_run_nothing_there(toy, tmp_path):
    papernotes(toy, "run")
    packed = tmp_path / "out" / "results.tar.gz"
    assert papernotes(toy, "pack", str(packed)).stdout.startswith("1 result in ")
    first = packed.read_bytes()
    papernotes(toy, "pack", str(packed))
    assert packed.read_bytes() == first
    shutil.rmtree(toy.root / ".papernotes")
    assert papernotes(toy, "unpack", str(packed)).stdout.startswith("1 result from ")
    assert papernotes(toy, "run").stdout.startswith("0 ran, 1 reused")


def test_clean_removes_what_nothing_refers_to_and_says_how_much(toy):
    papernotes(toy, "run")
    toy.snippet("gone", "def run(record): record.metric('one', 1)\n")
    papernotes(toy, "run")
    shutil.rmtree(toy.root / "snippets/gone")
    store = toy.root / ".papernotes"
    (store / "v1/results").mkdir(parents=True)
    (store / "v2/tmp-killed/toy").mkdir(parents=True)
    done = papernotes(toy, "clean")
    assert done.stdout.startswith(
        "4 things removed, 0."
    )  # its result, what was known of it, another version's store, the scratch
    assert papernotes(toy, "clean").stdout.startswith("0 things removed")
    assert papernotes(toy, "run").stdout.startswith("0 ran, 1 reused")
    assert sorted(path.name for path in (store / "v2").iterdir()) == ["latest", "results", "sources.json"]
