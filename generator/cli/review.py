"""Commands about changes that come from others: touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
from rich.text import Text

from generator.cli.console import Refusal, count, out, project_of
from generator.touched import HistoryError, Touched
from generator.touched import touched as touched_since

OWN = "tests/snippets/"
"""Where the tests of notes lie, which may be a stranger's: they run confined."""
KERNELS = "tests/test_kernels.py"
"""Imports what snippets declare: it runs confined as well, for those that a change concerns."""


@click.command()
@click.option("--since", default="origin/main", show_default=True, metavar="REF", help="The branch it is to join.")
@click.option("--test", is_flag=True, help="Run these tests; those of snippets confined.")
@click.option("--confined", is_flag=True, help="Refuse to run tests of snippets that this system cannot confine.")
@click.pass_obj
def touched(root: Path | None, since: str, test: bool, confined: bool) -> None:
    """Say which snippets and tests a change concerns, committed or not, and what of it to read before running anything.

    Exit status 1 if a test fails.
    """
    project = project_of(root)
    try:
        change = touched_since(project, since)
    except HistoryError as error:
        raise Refusal(str(error)) from None
    if not test:
        _say(change)
    elif not _passes(change, project, confined):
        raise Refusal("a test fails; its message stands above")


def _say(change: Touched) -> None:
    out.print(f"{count(len(change.paths), 'file')} changed")
    tests = ["all of them"] if change.everything else change.tests
    for what, names in (("concerns", change.slugs), ("tests", tests), ("read first", change.beyond)):
        if names:
            out.print(Text(f"{what}: {', '.join(names)}"))


def _passes(change: Touched, project: Path, confined: bool) -> bool:
    pytest = [sys.executable, "-m", "pytest", "-n", "auto", "--dist", "loadgroup"]
    within = [sys.executable, "-m", "generator.lab.within", *(() if confined else ("--if-possible",))]
    # Where they may not write is no cache for pytest, and what they may not read is no configuration.
    theirs = [*within, *pytest, "-p", "no:cacheprovider", "--confcutdir", "tests"]
    strangers = [test for test in change.tests if _imports_snippets(test, change)]
    rest = [test for test in change.tests if test not in strangers]
    passed = True
    environment = os.environ | ({} if change.everything else {"PAPERNOTES_SLUGS": " ".join(change.slugs)})
    for begin, files, known in ((theirs, strangers, environment), (pytest, rest, None)):
        if files:
            passed &= subprocess.run([*begin, *files], cwd=project, env=known).returncode == 0
    return passed


def _imports_snippets(test: str, change: Touched) -> bool:
    return test.startswith(OWN) or (test == KERNELS and not change.everything)


COMMANDS = (touched,)
