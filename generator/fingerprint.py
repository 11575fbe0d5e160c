"""A snippet comes in; the key of its result goes out, and the answer to "why is this stale?"."""

from __future__ import annotations

import ast
import json
import platform
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from generator.lab.meaning import digest, meaning, parse
from generator.schema import Snippet

HOME = Path(__file__).resolve().parent.parent
ENGINE = ("generator/lab/nursery.py", "generator/lab/compile.py")
"""What runs every snippet and proves its kernels: a result depends on it as on the snippet's own imports."""
PACKAGES = ("torch", "triton", "numpy", "matplotlib", "scikit-learn", "scipy")

Parts = dict[str, str]
"""What a result depends on: a name such as 'snippets/elu/method.py: elu' or 'torch', and its digest or version."""


def fingerprint(snippet: Snippet, root: Path) -> Parts:
    """Return everything the result of a snippet depends on, part by part."""
    parts: Parts = {}
    for path in sorted(_reached([snippet.folder / "experiment.py", *(HOME / file for file in ENGINE)], root)):
        name = _name(path, root)
        for definition, value in _meaning(path, path.stat().st_mtime_ns).items():
            parts[f"{name}: {definition}"] = value
        for data in _declared_data(path):
            parts[_name(data, root)] = digest(data.read_bytes()) if data.is_file() else "missing"
    return parts | _versions()


def key_of(parts: Parts) -> str:
    """Return the key under which a result with these parts is stored."""
    return digest(json.dumps(parts, sort_keys=True).encode())


def reasons(before: Parts, now: Parts) -> list[str]:
    """Say what changed between two fingerprints, in words."""
    said = []
    had, has = ({name.partition(": ")[0] for name in parts} for parts in (before, now))
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        file, _, definition = name.partition(": ")
        if old == new or f"{file} appeared" in said or f"{file} is gone" in said:
            continue
        if definition and (file in had) != (file in has):
            said.append(f"{file} appeared" if file in has else f"{file} is gone")
            continue
        if not definition and "/" not in name:
            said.append(f"{name} {old or 'absent'} → {new or 'absent'}")
            continue
        what = "appeared" if old is None else "is gone" if new is None else "changed"
        said.append(f"{file}: {definition} {what}" if definition else f"{file} {what}")
    return said


def device_kind() -> str:
    """Return 'cpu', or the kind of accelerator the driver shows; torch is not asked, for that would import it."""
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    for line in gpus[0].read_text().splitlines() if gpus else ():
        if line.startswith("Model:"):
            return line.removeprefix("Model:").strip()
    return "rocm" if Path("/dev/kfd").exists() else "cpu"


@lru_cache(maxsize=1)
def _versions() -> Parts:
    parts = {"Python": platform.python_version(), "device": device_kind(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            parts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            parts[package] = "absent"
    return parts


def _name(path: Path, root: Path) -> str:
    """Return a file's path inside the project, or inside the generator where that is installed elsewhere."""
    return path.relative_to(root if path.is_relative_to(root) else HOME).as_posix()


def _reached(start: list[Path], root: Path) -> set[Path]:
    """Return these files and every local file they import, directly or not; cycles are no matter."""
    reached: set[Path] = set()
    waiting = list(start)
    while waiting:
        path = waiting.pop()
        if path in reached or not path.is_file():
            continue
        reached.add(path)
        waiting += _imports(path, path.stat().st_mtime_ns, root)
    return reached


@lru_cache(maxsize=4096)
def _imports(path: Path, changed: int, root: Path) -> list[Path]:
    here = Path(_name(path, root)).with_suffix("").parts
    modules: list[tuple[str, ...]] = []
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            modules += [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level] if node.level else ()
            base = (*above, *(node.module.split(".") if node.module else ()))
            modules += [base, *((*base, alias.name) for alias in node.names)]
    found = []
    for module in modules:
        folder = {"snippets": root, "generator": HOME}.get(module[0]) if module else None
        if folder:
            for end in range(1, len(module) + 1):
                stem = folder.joinpath(*module[:end])
                found += [stem.with_suffix(".py"), stem / "__init__.py"]
    return found


@lru_cache(maxsize=4096)
def _meaning(path: Path, changed: int) -> Parts:
    return meaning(path)


def _declared_data(path: Path) -> list[Path]:
    """Return the files that a module names in `DATA = ["file", …]`, beside itself."""
    for node in parse(path).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "DATA" for t in node.targets):
            try:
                return [path.parent / name for name in ast.literal_eval(node.value)]
            except (ValueError, TypeError):
                return []
    return []
