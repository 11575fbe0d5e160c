"""What changed since a commit comes in; the snippets and tests that it concerns go out, and what a keeper reads first."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from generator.find import find_snippets
from generator.fingerprint import Fingerprints

ALWAYS = {
    "note": ("tests/test_notes.py", "tests/test_html.py"),
    "code": ("tests/test_architecture.py", "tests/test_kernels.py", "tests/test_notes.py"),
    "prose": ("tests/test_docs.py",),
    "workflow": ("tests/test_workflows.py",),
}
"""The tests that hold of every file of a kind, whosever it is."""
PROSE = {".md", ".cff"}
"""Endings of documents at the top of the project, which `tests/test_docs.py` holds to be true."""


class HistoryError(Exception):
    """Git cannot say what changed; the message says why, and how to mend it."""


@dataclass(frozen=True)
class Touched:
    """What a change concerns."""

    paths: tuple[str, ...]
    slugs: tuple[str, ...]
    """Snippets and notes that changed, and snippets that depend on what changed."""
    tests: tuple[str, ...]
    """The test files to run: all of them where what changed can concern anything."""
    beyond: tuple[str, ...]
    """What changed beside notes, snippets and their tests: it runs with the rights of who runs it."""
    everything: bool = False
    """Whether what changed can concern anything."""


def touched(root: Path, since: str) -> Touched:
    """Compare the working tree with where it left the branch `since`. Raises HistoryError."""
    return concerns(root, changed(root, since))


def changed(root: Path, since: str) -> list[str]:
    """Return the files that differ from the last commit shared with `since`, committed or not, by their paths in the project."""
    if set(since) == {"0"}:  # what GitHub calls the commit before a branch's first
        return _listed(root, "ls-files", "-z")
    try:
        commit = _git(root, "rev-parse", "--verify", "--end-of-options", f"{since}^{{commit}}").strip()
    except HistoryError:
        raise HistoryError(
            f"git knows no commit '{since}' here; fetch it, or name another: --since REF, make pr BASE=REF"
        ) from None
    shared = _git(root, "merge-base", commit, "HEAD").strip()
    differing = _listed(
        root, "diff", "--name-only", "--no-renames", "--no-ext-diff", "--relative", "-z", shared, "--", "."
    )
    return sorted({*differing, *_listed(root, "ls-files", "--others", "--exclude-standard", "-z", "--", ".")})


def concerns(root: Path, paths: Iterable[str]) -> Touched:
    """Return what these changed files concern."""
    paths = tuple(sorted(set(paths)))
    places = [_place(path) for path in paths]
    snippets = find_snippets(root)
    taken = Fingerprints(root)
    known = {slug: {*_depends(taken, slug, snippets)} for slug in sorted(snippets)}
    slugs = {slug for _, slug in places if slug} | {slug for slug, on in known.items() if on & set(paths)}
    tests = {test for kind, _ in places for test in ALWAYS.get(kind, ())}
    tests |= {path for path, (kind, _) in zip(paths, places, strict=True) if kind == "test"}
    own = {slug: f"tests/snippets/test_{slug}.py" for slug in {*snippets, *slugs}}
    tests |= {test for slug, test in own.items() if slug in slugs or _reaches(taken, root / test, set(paths))}
    everything = any(kind == "any" for kind, _ in places)
    every = {path.relative_to(root).as_posix() for path in (root / "tests").rglob("test_*.py")}
    there = tuple(sorted(every if everything else tests & every))
    beyond = tuple(
        path for path, (kind, slug) in zip(paths, places, strict=True) if not slug and kind not in ("note", "prose")
    )
    return Touched(paths, tuple(sorted(slugs)), there, beyond, everything)


def _place(path: str) -> tuple[str, str]:
    """Return of what kind a file is, and whose it is if it belongs to one note."""
    match path.split("/"):
        case ["notes", name] if name.endswith(".md"):
            return "note", name.removesuffix(".md") if name != "index.md" else ""
        case ["notes", *_]:
            return "note", ""
        case ["snippets", slug, _, *_]:
            return "code", slug
        case ["tests", "snippets", name] if name.startswith("test_"):
            return "test", name.removeprefix("test_").removesuffix(".py")
        case ["tests", name] if name.startswith("test_"):
            return "test", ""
        case [".github", *_]:
            return "workflow", ""
        case [name] if Path(name).suffix in PROSE:
            return "prose", ""
    return "any", ""


def _depends(taken: Fingerprints, slug: str, snippets: dict) -> Iterable[str]:
    return (name for name in (*taken.of(snippets[slug]).files, *taken.of(snippets[slug]).rest) if "/" in name)


def _reaches(taken: Fingerprints, test: Path, paths: set[str]) -> bool:
    """Return whether a test imports, directly or not, what changed."""
    return bool({taken.sources.name(path) for path in taken.sources.reached([str(test)])} & paths)


def _listed(root: Path, *arguments: str) -> list[str]:
    return [path for path in _git(root, *arguments).split("\0") if path]


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True)
    except OSError as error:
        raise HistoryError(f"git cannot be run ({error.strerror}); install it") from None
    if done.returncode:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise HistoryError(f"git cannot say what changed: {said or 'the branches share no commit; fetch all of both'}")
    return done.stdout.decode("utf-8", "surrogateescape")
