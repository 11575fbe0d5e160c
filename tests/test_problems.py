"""Problems as people, pull requests and editors are told of them, and the rules that they name."""

import ast
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import yaml
from test_cli import papernotes

from generator.annotations import as_github, count_codes, excerpt
from generator.codes import RULES
from generator.front_schema import FILE, HINTS, as_text
from generator.load import load
from generator.schema import FrontMatter, Problem

ROOT = Path(__file__).resolve().parent.parent
EDITOR = ROOT / ".vscode"


def test_every_code_is_explained_and_every_rule_is_somebodys():
    used = set()
    for path in (ROOT / "generator").rglob("*.py"):
        if path.name == "codes.py":
            continue
        text = path.read_text(encoding="utf-8")
        used |= {
            node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant) and node.value in RULES
        }
        # A code stands as a keyword, or last among what `wrong(…)` and `EmbedError(…)` are told.
        for node in ast.walk(ast.parse(text)):
            for keyword in getattr(node, "keywords", ()):
                if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                    assert keyword.value.value in RULES, (path.name, keyword.value.value)
    made = {f"unknown-{kind}" for kind in ("figure", "metric", "table", "kernel")}
    assert set(RULES) - made == used - made
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code) and rule.title for code, rule in RULES.items())


def test_a_problem_is_told_to_a_pull_request_in_its_own_terms():
    problem = Problem("notes/a,b.md", (3, 7), "100 % wrong\nindeed", "mend: it", code="value")
    assert as_github(problem) == (
        "::error file=notes/a%2Cb.md,line=3,col=7,title=value::100 %25 wrong\ufffdindeed; mend: it"
    )


def test_problems_are_counted_by_code_most_first():
    codes = ["yaml", "value", "value", "formula"]
    assert count_codes(Problem("a", 1, "x", code=code) for code in codes) == "2 value, 1 formula, 1 yaml"


def test_check_tells_a_pull_request_and_an_editor(toy):
    toy.note(body="[[toi]]\n")
    done = papernotes(toy, "check", "--format", "github")
    assert done.stdout == (
        "::error file=notes/toy.md,line=9,col=1,title=unknown-note::link to unknown note 'toi'; did you mean 'toy'?\n"
    )
    assert done.returncode == 1 and "1 problem in 1 note: 1 unknown-note" in done.stderr
    done = papernotes(toy, "check", "--format", "json")
    said = json.loads(done.stdout)
    assert done.returncode == 1 and said["notes"] == 1
    assert said["problems"] == [
        {
            "file": "notes/toy.md", "line": 9, "column": 1, "what": "link to unknown note 'toi'",
            "fix": "did you mean 'toy'?", "code": "unknown-note", "help": "problems/#unknown-note",
        }
    ]  # fmt: skip


def test_check_that_watches_says_what_each_change_did(toy):
    papernotes(toy, "run")
    command = [sys.executable, "-m", "generator.cli", "--root", str(toy.root), "check", "--watch"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})

    def next_check():
        lines = []
        for line in watching.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("checked"):
                return lines

    try:
        assert next_check() == ["checking", "checked: 1 note, no problems"]
        time.sleep(0.5)  # the files are watched from now on
        toy.note(body="[[toi]]\n")
        assert next_check() == [
            "checking",
            "notes/toy.md:9:1: link to unknown note 'toi'; did you mean 'toy'? [unknown-note]",
            "checked: 1 problem in 1 note: 1 unknown-note",
        ]
        toy.note(body="[[toy]]\n")
        assert next_check() == ["checking", "checked: 1 note, no problems"]
    finally:
        watching.terminate()
        watching.wait(timeout=10)


def test_a_code_is_explained_with_an_example(toy):
    done = papernotes(toy, "explain", "unknown-note")
    assert done.returncode == 0 and "[[elu_]]" in done.stdout and "[[elu]]" in done.stdout
    assert papernotes(toy, "explain").stdout.count("\n") == len(RULES)
    done = papernotes(toy, "explain", "unknown-nose")
    assert done.returncode == 2 and "did you mean 'unknown-note'?" in done.stderr


def test_an_excerpt_shows_the_line_and_stays_inside_the_project(project, tmp_path_factory):
    project.write("notes/a.md", "one\ntwo\n" + "x" * 500 + "\n")
    assert excerpt(Problem("notes/a.md", 1, "", code="value"), project.root) == [(1, "one"), (2, "two")]
    assert len(excerpt(Problem("notes/a.md", 3, "", code="value"), project.root)[1][1]) < 200
    assert excerpt(Problem("notes/gone.md", 1, "", code="value"), project.root) == []
    outside = tmp_path_factory.mktemp("outside") / "secret.md"
    outside.write_text("secret")
    (project.root / "notes/link.md").symlink_to(outside)
    assert excerpt(Problem("notes/link.md", 1, "", code="value"), project.root) == []
    assert excerpt(Problem("../outside/secret.md", 1, "", code="value"), project.root) == []


# The editor's settings.


def test_the_schema_that_editors_read_is_that_of_the_code(toy):
    assert (ROOT / FILE).read_text(encoding="utf-8") == as_text() == papernotes(toy, "schema").stdout
    assert set(HINTS) == set(FrontMatter.model_fields)


@pytest.mark.parametrize("note", load(ROOT).notes, ids=lambda note: note.slug)
def test_the_schema_takes_every_note_as_it_is_written(note):
    head = (ROOT / note.file).read_text(encoding="utf-8").split("---\n")[1]
    front = json.loads(json.dumps(yaml.safe_load(head), default=str))
    jsonschema.Draft202012Validator(json.loads(as_text())).validate(front)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tittle": "x"},
        {"kind": "book"},
        {"relations": [{"extend": "elu"}]},
        {"claims": [{"metric": "x"}]},
        {"tags": "a"},
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_check_refuses(wrong):
    front = {"title": "x", "kind": "essay", "author": "x", "added": "2026-11-21", "summary": "x"}
    validator = jsonschema.Draft202012Validator(json.loads(as_text()))
    assert validator.is_valid(front) and not validator.is_valid(front | wrong)


def test_the_editors_task_reads_what_check_prints():
    task = json.loads((EDITOR / "tasks.json").read_text())["tasks"][0]
    matcher = task["problemMatcher"]
    problem = Problem("notes/toy.md", (9, 4), "link to unknown note: 'a'", "did you mean 'b'?", code="unknown-note")
    found = re.fullmatch(matcher["pattern"]["regexp"], str(problem))
    place = {name: found[group] for name, group in matcher["pattern"].items() if isinstance(group, int)}
    assert place == {
        "file": "notes/toy.md", "line": "9", "column": "4",
        "message": "link to unknown note: 'a'; did you mean 'b'?", "code": "unknown-note",
    }  # fmt: skip
    assert re.match(matcher["background"]["beginsPattern"], "checking")
    assert re.match(matcher["background"]["endsPattern"], "checked: 30 notes, no problems")
    for name in ("settings.json", "extensions.json", "papernotes.code-snippets"):
        assert json.loads((EDITOR / name).read_text())
