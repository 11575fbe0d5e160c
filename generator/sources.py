"""Local files come in; what each means, imports and declares goes out, and is remembered from one run to the next."""

from __future__ import annotations

import ast
import json
import os
import stat
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from generator import regular
from generator.lab.meaning import digest, meaning, parse
from generator.stored import is_seen

HOME = Path(__file__).resolve().parent.parent
MEMORY = 2
"""The form of what is remembered; another is forgotten."""
RACY = 3.0
"""Seconds within which a file may be written twice and look the same; one as new as that is not remembered."""


class Source(NamedTuple):
    """What there is to know of one file; `stamp` tells whether it is still that file."""

    stamp: list[int]
    parts: dict[str, str]
    digest: str
    imports: list[str]
    data: list[str]
    needs: list[str]


class Sources:
    """The Python files of a project and of the generator, each read at most once."""

    def __init__(self, root: Path, remembered: Mapping[str, Any] | None = None) -> None:
        self.root = str(root)
        # What a file imports is remembered as paths: they hold for this project and this generator where they are now.
        self._form = [MEMORY, self.root, str(HOME)]
        remembered = remembered if remembered and remembered.get("form") == self._form else {}
        self._remembered: Mapping[str, Any] = remembered.get("files", {})
        self._found: dict[str, Source | None] = {}
        self._data: dict[str, str] = {}
        self._new = False

    def read(self, path: str) -> Source | None:
        """Return what a file says, or None where there is none."""
        if path not in self._found:
            self._found[path] = self._read(path)
        return self._found[path]

    def reached(self, start: Iterable[str], known: frozenset[str] = frozenset()) -> dict[str, Source]:
        """Return these files and every local file they import, directly or not, but for what is known already."""
        reached: dict[str, Source] = {}
        waiting = list(start)
        while waiting:
            path = waiting.pop()
            if path in reached or path in known:
                continue
            if source := self.read(path):
                reached[path] = source
                waiting += source.imports
        return reached

    def data(self, path: str) -> str:
        """Return the digest of a declared data file, or 'missing'."""
        if path not in self._data:
            try:
                self._data[path] = digest(regular.read(path))
            except OSError:
                self._data[path] = "missing"
        return self._data[path]

    def name(self, path: str) -> str:
        """Return a file's path inside the project, or inside the generator where that is installed elsewhere."""
        base = self.root if path.startswith(self.root + os.sep) else str(HOME)
        return path[len(base) + 1 :].replace(os.sep, "/")

    def memory(self) -> dict[str, Any] | None:
        """Return what is worth remembering, or None where nothing was read anew."""
        if not self._new:
            return None
        now = time.time_ns()
        files = {
            path: source for path, source in self._found.items() if source and max(source.stamp[:2]) < now - RACY * 1e9
        }
        return {"form": self._form, "files": files}

    def _read(self, path: str) -> Source | None:
        if (stamp := stamp_of(path)) is None:
            return None
        remembered: Any = self._remembered.get(path)
        if is_seen(remembered) and remembered[0] == stamp:
            return Source(*remembered)
        try:
            file = Path(path)
            parts, tree = meaning(file), parse(file)
        except OSError:
            return None
        self._new = True
        data = [os.path.normpath(os.path.join(os.path.dirname(path), name)) for name in _declared(tree, "DATA")]
        return Source(stamp, parts, digest_of(parts), self._imports(tree, path), data, _declared(tree, "NEEDS"))

    def _imports(self, tree: ast.Module, path: str) -> list[str]:
        here = self.name(path).removesuffix(".py").split("/")
        modules: list[list[str]] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules += [alias.name.split(".") for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = here[: len(here) - node.level] if node.level else []
                base = [*above, *(node.module.split(".") if node.module else [])]
                modules += [base, *([*base, alias.name] for alias in node.names)]
        found: dict[str, None] = {}
        for module in modules:
            if folder := {"snippets": self.root, "generator": str(HOME)}.get(module[0]) if module else None:
                for end in range(1, len(module) + 1):
                    stem = os.path.join(folder, *module[:end])
                    found |= {f"{stem}.py": None, os.path.join(stem, "__init__.py"): None}
        return list(found)


def stamp_of(path: str | Path) -> list[int] | None:
    """Return what tells whether a file is still that file, or None where there is no regular file."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    # The time of the last change of the entry itself (ctime) no program sets at will.
    return [about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino] if stat.S_ISREG(about.st_mode) else None


def digest_of(parts: Mapping[str, str]) -> str:
    """Return one digest of a file's parts."""
    return digest(json.dumps(parts, sort_keys=True).encode())


def _declared(tree: ast.Module, name: str) -> list[str]:
    """Return what a module names in `DATA = ["file", …]` or `NEEDS = ["gpu"]`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            try:
                return [str(one) for one in ast.literal_eval(node.value)]
            except (ValueError, TypeError):
                return []
    return []
