"""Problems come in; the same for a pull request, for an editor and for a page goes out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from generator.schema import Problem

FORMAT = 1
AROUND = 1
"""Lines shown before and after the one that a problem is on."""
LONGEST = 160
"""Characters shown of a line."""


def as_json(problems: Iterable[Problem], notes: int, help_url: str) -> str:
    """Return the problems as JSON, each with the address of its rule."""
    said = [{**problem.model_dump(), "help": f"{help_url}#{problem.code}"} for problem in problems]
    return json.dumps({"format": FORMAT, "notes": notes, "problems": said}, indent=1, ensure_ascii=False) + "\n"


def as_github(problem: Problem) -> str:
    """Return the line by which a workflow of GitHub's marks the problem in a pull request."""
    place = {"file": problem.file, "line": problem.line, "col": problem.column, "title": problem.code}
    properties = ",".join(f"{key}={_escaped(str(value), ':,')}" for key, value in place.items())
    message = f"{problem.what}; {problem.fix}" if problem.fix else problem.what
    return f"::error {properties}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    for character in "%\r\n" + more:  # the per cent sign first, which the others bring in
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def count_codes(problems: Iterable[Problem]) -> str:
    """Return how many problems there are of each code, most first: '3 unknown-note, 1 yaml'."""
    counts = Counter(problem.code for problem in problems)
    return ", ".join(f"{number} {code}" for code, number in sorted(counts.items(), key=lambda one: (-one[1], one[0])))


@lru_cache(maxsize=2)  # one note may have a thousand problems
def _lines(path: Path, changed: int, size: int) -> list[str]:
    return path.read_text(encoding="utf-8-sig", errors="replace").split("\n")


def excerpt(problem: Problem, root: Path) -> list[tuple[int, str]]:
    """Return the line a problem is on and those around it, with their numbers; nothing where the file cannot be shown."""
    path = root / problem.file
    first = max(problem.line - AROUND, 1)
    try:
        if not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
            return []
        about = path.stat()
        lines = _lines(path, about.st_mtime_ns, about.st_size)
        found = [line.rstrip()[:LONGEST] for line in lines[first - 1 : problem.line + AROUND]]
    except OSError:
        return []
    return list(enumerate(found, start=first)) if any(found) else []
