"""CONTRIBUTING's walk from a paper to a merged note, followed command by command in a clone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def steps(heading):
    """Return what a section tells one to do: (language, file, text) of each of its fenced blocks."""
    section = GUIDE.split(f"\n## {heading}\n", 1)[1]
    found, end = [], 0
    for fence in FENCE.finditer(section):
        if "\n## " in section[end : fence.start()]:  # not those within a fence
            break
        found.append(fence.groups())
        end = fence.end()
    return found


@pytest.fixture
def clone(tmp_path):
    """Clone the project as it lies here, with the results it has stored, and an origin to push to."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    home = tmp_path / "papernotes"
    for file in files:
        if (ROOT / file).is_file():
            (home / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, home / file)
    if (ROOT / ".papernotes").is_dir():
        shutil.copytree(ROOT / ".papernotes", home / ".papernotes")
    for command in (
        "git init -q -b main", "git config user.name Ada", "git config user.email ada@example.org", "git add -A",
        "git commit -qm Start", f"git clone -q --bare . {tmp_path}/origin.git", f"git remote add origin {tmp_path}/origin.git",
        "git fetch -q",
    ):  # fmt: skip
        subprocess.run(command.split(), cwd=home, check=True)
    return home


def shell(command, folder):
    """Type a command as a reader would, with this environment's programs first in the path."""
    binaries = folder.parent / "bin"
    if not binaries.exists():
        binaries.mkdir()
        for name, module in {"papernotes": "generator.cli", "mkdocs": "mkdocs", "pytest": "pytest"}.items():
            script = binaries / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
            script.chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{binaries}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder), "NO_MKDOCS_2_WARNING": "1",
    }  # fmt: skip
    return subprocess.run(["sh", "-e", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_walk_from_a_paper_to_a_merged_note_goes_as_it_is_told(clone):
    before = set(subprocess.run(["git", "ls-files"], cwd=clone, capture_output=True, text=True).stdout.splitlines())
    told = steps("From a paper to a merged note")
    assert [language for language, *_ in told].count("sh") >= 5
    for language, file, text in told:
        if file:
            (clone / file).parent.mkdir(parents=True, exist_ok=True)
            (clone / file).write_text(text, encoding="utf-8")
        elif language == "diff":
            done = subprocess.run(["git", "apply", "-"], cwd=clone, input=text, text=True, capture_output=True)
            assert done.returncode == 0, (text, done.stderr)
        elif language == "sh":
            done = shell(text, clone)
            assert done.returncode == 0, (text, done.stdout, done.stderr)
    page = (clone / "site/squared_relu/index.html").read_text(encoding="utf-8")
    assert 'id="figure-curves"' in page and "2 reproduced" in page
    # On the keeper's side: the branch is merged, and adds six files and one entry to what was there.
    origin = clone.parent / "origin.git"
    keeper = clone.parent / "keeper"
    for command in (f"git clone -q {origin} {keeper}", f"git -C {keeper} merge -q origin/squared-relu"):
        subprocess.run(command.split(), check=True, capture_output=True)
    after = set(subprocess.run(["git", "ls-files"], cwd=keeper, capture_output=True, text=True).stdout.splitlines())
    assert after - before == {
        "notes/squared_relu.md", "snippets/squared_relu/method.py", "snippets/squared_relu/kernel.py",
        "snippets/squared_relu/experiment.py", "tests/snippets/test_squared_relu.py",
    }  # fmt: skip
    changed = subprocess.run(
        ["git", "diff", "--numstat", "origin/main", "--", "notes/library.bib"],
        cwd=keeper,
        capture_output=True,
        text=True,
    )
    assert re.fullmatch(r"\d+\t0\tnotes/library.bib\n", changed.stdout)
