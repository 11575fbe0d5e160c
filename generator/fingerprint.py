"""A snippet comes in; the key of its result goes out, and the answer to "why is this stale?"."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import metadata
from pathlib import Path

from generator.lab.meaning import digest
from generator.schema import Snippet
from generator.sources import HOME, Source, Sources, digest_of, stamp_of

ENGINE = ("generator/lab/nursery.py", "generator/lab/compile.py")
"""What runs every snippet and proves its kernels: a result depends on it as on the snippet's own imports."""
PACKAGES = ("torch", "triton", "numpy", "matplotlib", "scikit-learn", "scipy")

Parts = dict[str, str]
"""What a result depends on: a name such as 'snippets/elu/method.py: elu' or 'torch', and its digest or version."""


@dataclass(frozen=True)
class Fingerprint:
    """Everything the result of a snippet depends on."""

    files: Mapping[str, Source]
    """What each file says, by its path inside the project."""
    rest: Parts
    """Declared data, versions, the kind of device."""
    needs: tuple[str, ...] = ()
    """What a machine must offer to run the snippet: what its experiment names in `NEEDS = ["gpu"]`."""

    @cached_property
    def key(self) -> str:
        """Return the key under which the result is stored."""
        return _key({name: source.digest for name, source in self.files.items()} | self.rest)

    @cached_property
    def parts(self) -> Parts:
        """Return the same definition by definition, for saying what changed."""
        found = {
            f"{name}: {definition}": value
            for name, source in sorted(self.files.items())
            for definition, value in source.parts.items()
        }
        return found | self.rest

    def paths(self, root: Path) -> dict[str, Path]:
        """Return where these files and the declared data lie, by their names: what another machine must be given."""
        names = [*self.files, *(name for name in self.rest if "/" in name)]
        found = {
            name: next((place / name for place in (root, HOME) if (place / name).is_file()), None) for name in names
        }
        return {name: path for name, path in found.items() if path}

    def untouched(self, root: Path) -> bool:
        """Return whether every file looks as it did when it was read; where data are declared, that is not known."""
        if any("/" in name for name in self.rest):
            return False
        there = self.paths(root)
        return all(name in there and stamp_of(there[name]) == source.stamp for name, source in self.files.items())


class Fingerprints:
    """Takes the fingerprints of a project's snippets; what they share is looked at once."""

    def __init__(self, root: Path, remembered: Mapping | None = None) -> None:
        self.sources = Sources(root, remembered)
        engine = self.sources.reached(str(HOME / file) for file in ENGINE)
        self._known = frozenset(engine)
        self._engine = {self.sources.name(path): source for path, source in engine.items()}

    def of(self, snippet: Snippet) -> Fingerprint:
        """Return everything the result of a snippet depends on."""
        experiment = str(snippet.folder / "experiment.py")
        found = self.sources.reached([experiment], self._known)
        data = {path for source in found.values() for path in source.data}
        needs = tuple(found[experiment].needs) if experiment in found else ()
        here = for_any_gpu(_versions()) if "gpu" in needs else _versions()
        return Fingerprint(
            files=self._engine | {self.sources.name(path): source for path, source in found.items()},
            rest={self.sources.name(path): self.sources.data(path) for path in data} | here,
            needs=needs,
        )


def fingerprint(snippet: Snippet, root: Path) -> Parts:
    """Return everything the result of one snippet depends on, part by part."""
    return Fingerprints(root).of(snippet).parts


def key_of(parts: Parts) -> str:
    """Return the key under which a result with these parts is stored."""
    files: dict[str, Parts] = {}
    rest = {}
    for name, value in parts.items():
        file, _, definition = name.partition(": ")
        if definition:
            files.setdefault(file, {})[definition] = value
        else:
            rest[name] = value
    return _key({file: digest_of(found) for file, found in files.items()} | rest)


def _key(parts: Parts) -> str:
    return digest("\n".join(f"{name}\t{value}" for name, value in sorted(parts.items())).encode())


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


def versions() -> Parts:
    """Return the versions and the kind of device that a result made by this process depends on."""
    parts = {"Python": platform.python_version(), "device": device_kind(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            parts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            parts[package] = "absent"
    return parts


@lru_cache(maxsize=1)
def _versions() -> Parts:
    return versions()


def for_any_gpu(versions: Parts) -> Parts:
    """Return versions as they count for what needs a GPU: whichever GPU it is, and the build of torch made for it."""
    return versions | {"device": "gpu", "torch": versions["torch"].partition("+")[0]}
