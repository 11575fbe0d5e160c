"""Kernels compiled by the warm process: the same as in a fresh one, and what a kernel that does not compile costs."""

import json
import os
import subprocess
import sys

import pytest

from generator.load import load
from generator.new import new
from generator.run import run, store_of

HEAD = "    start = tl.program_id(0).to(tl.int64) * BLOCK\n"
FAULTS = {
    "refused": (HEAD, '    tl.static_assert(BLOCK == 7, "seven is lucky")\n' + HEAD, "seven is lucky"),
    "killed": ("BLOCK = 1024\n", "BLOCK = 1024\nif not INTERPRETED:\n    os.kill(os.getpid(), 9)\n", ""),
    "leaving": ("BLOCK = 1024\n", "BLOCK = 1024\nif not INTERPRETED:\n    os._exit(0)\n", ""),
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Return a project with a sound kernel among faulty ones, and how all came out, run at once."""
    from conftest import Project

    project = Project(tmp_path_factory.mktemp("compiled"))
    for slug in ("sound", *FAULTS):
        new(project.root, slug, "A method", ("doe2020toy",), "papernotes")
    for slug, (before, after, _) in FAULTS.items():
        file = project.root / "snippets" / slug / "kernel.py"
        assert before in file.read_text()
        file.write_text(file.read_text().replace(before, after))
    return project, run(load(project.root), store_of(project.root))


def test_the_warm_compiler_says_what_a_fresh_one_does(outcome):
    from conftest import ROOT

    project, runs = outcome
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "generator.lab.compile", "sound"],
        cwd=project.root, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    fresh = [json.loads(line) for line in done.stdout.splitlines()[:-1]]
    assert fresh and fresh == runs.results["sound"].kernels["sound"]["compiled"]


@pytest.mark.parametrize("slug", FAULTS)
def test_a_kernel_that_does_not_compile_costs_its_snippet_alone(outcome, slug):
    _, runs = outcome
    assert set(runs.results) == {"sound"}
    assert runs.failures[slug].outcome == "raised"
    assert "its kernels do not compile" in runs.failures[slug].error
    assert FAULTS[slug][2] in runs.failures[slug].error + runs.failures[slug].tail


def test_nothing_of_the_compilation_is_stored(outcome):
    project, _ = outcome
    assert not [path for path in store_of(project.root).folder.rglob("*") if "compile" in path.name]
