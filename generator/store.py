"""Results go in under their key and come out verified; a half-written or damaged one is never seen."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from generator import regular
from generator.fingerprint import Parts
from generator.lab.confine import CONFINED
from generator.schema import Failure, Result
from generator.stored import is_newest, is_result

LAYOUT = "v2"


class Store:
    """A folder of results.

    `v2/results/<key>/` holds `result.json`, the figures, `run.json` (what the run took) and `checksums.json`;
    `v2/latest/<slug>.json` says what the newest run of a snippet depended on and how it ended; `v2/sources.json` is what
    source files were seen to mean. Everything appears by a rename, so that two builds at once and a kill at any moment
    leave whole results or none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / LAYOUT
        self.results = self.folder / "results"
        self.latest = self.folder / "latest"
        self.sources = self.folder / "sources.json"

    def get(self, slug: str, key: str) -> Result | None:
        """Return the result stored under a key, or None where there is none or its files are damaged."""
        return self.read(self.results / key, slug, key)

    @staticmethod
    def read(folder: Path, slug: str, key: str) -> Result | None:
        """Return the result in a folder, or None where its files are not those that were put there."""
        try:
            sums = json.loads(regular.read(folder / "checksums.json"))
            found = {name: regular.read(folder / name) for name in os.listdir(folder) if name != "checksums.json"}
            if {name: _checksum(data) for name, data in found.items()} != sums:
                return None
            data = json.loads(found["result.json"])
            data["run"] = json.loads(found["run.json"])
            # How far the run was confined is the engine's to say, not the snippet's.
            said = {name: data["run"][name] for name in CONFINED if name in data["run"]}
            data["provenance"] = data["provenance"] | said
            sound = is_result(data, found) and data["slug"] == slug
            return Result(slug=slug, key=key, folder=folder, data=data) if sound else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def has(self, key: str) -> bool:
        """Return whether anything lies under a key, sound or damaged."""
        return (self.results / key).exists()

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a folder on the same disk, gone afterwards; while it is in use it is locked, and `clean` leaves it alone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="tmp-", dir=self.folder))
        held = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(held)

    def put(self, slug: str, key: str, folder: Path, about: Mapping[str, Any], *, replace: bool = False) -> Result:
        """Take a finished folder in, whole, with what its run took; a sound result that stands there stays, unless `replace`.

        Raises OSError where something in it is no plain file: what made it may be a stranger's.
        """
        _refuse_traps(folder)
        _write(folder / "run.json", about)
        sums = {path.name: _checksum(path.read_bytes()) for path in sorted(folder.iterdir())}
        _write(folder / "checksums.json", sums)
        return self.adopt(slug, key, folder, replace=replace)

    def adopt(self, slug: str, key: str, folder: Path, *, replace: bool = False) -> Result:
        """Take in a folder that was a result elsewhere, by one rename."""
        self.results.mkdir(parents=True, exist_ok=True)
        target = self.results / key
        try:
            os.rename(folder, target)
        except OSError:
            # Another build stored the same result first, or a damaged one lies there.
            if replace or self.get(slug, key) is None:
                with self.scratch() as aside:
                    os.rename(target, aside / "before")
                    os.rename(folder, target)
        found = self.get(slug, key)
        if found is None:
            raise OSError(f"the result of '{slug}' could not be stored in {self.results}")
        return found

    def clean(self, keep: Collection[str], slugs: Collection[str]) -> tuple[int, int]:
        """Remove what nothing refers to, and return how many things and how many bytes that were.

        Kept are the results under these keys and the last good ones of these snippets.
        """
        others = [path for path in _listed(self.folder.parent) if re.fullmatch(r"v\d+", path.name)]
        return _remove(
            [
                *self._loose(keep, slugs),
                *(path for path in _listed(self.latest) if path.stem not in slugs),
                *(path for path in others if path != self.folder),
                *(path for path in self.folder.glob("tmp-*") if abandoned(path)),
            ]
        )

    def bound(self, most: int, keep: Collection[str], slugs: Collection[str]) -> tuple[int, int]:
        """Remove results that nothing refers to, oldest first, until no more than so many bytes are left."""
        sizes = {path: _size(path) for path in _listed(self.results)}
        over = sum(sizes.values()) - most
        going = []
        for path in sorted(self._loose(keep, slugs), key=_changed) if over > 0 else ():
            if over <= 0:
                break
            going.append(path)
            over -= sizes.get(path, 0)
        return _remove(going)

    def _loose(self, keep: Collection[str], slugs: Collection[str]) -> list[Path]:
        kept = {*keep, *(str((self.recall(slug) or {}).get("good_key", "")) for slug in slugs)}
        return [path for path in _listed(self.results) if path.name not in kept]

    def remember(self, slug: str, parts: Parts, key: str, seconds: float, failure: Failure | None = None) -> None:
        """Note how the newest run of a snippet ended; the last good key is kept across failures."""
        before = (self.recall(slug) or {}) if failure else {}
        good = key if failure is None else before.get("good_key", "")
        self.latest.mkdir(parents=True, exist_ok=True)
        entry = {
            "parts": parts,
            "key": key,
            "seconds": seconds,
            "good_key": good,
            "failure": failure.model_dump() if failure else None,
        }
        _write(self.latest / f"{slug}.json", entry)

    def recall(self, slug: str) -> dict[str, Any] | None:
        """Return what `remember` noted last, or None."""
        found = _recalled(self.latest / f"{slug}.json", "parts")
        return found if is_newest(found) else None

    def last_good(self, slug: str) -> Result | None:
        """Return the result of the newest run that succeeded, whatever has changed since."""
        entry = self.recall(slug)
        return self.get(slug, str(entry.get("good_key"))) if entry and entry.get("good_key") else None

    def remember_sources(self, memory: Mapping[str, Any]) -> None:
        """Keep what source files were seen to mean, so that those unchanged need not be read again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.sources, memory)

    def recall_sources(self) -> dict[str, Any] | None:
        """Return what `remember_sources` kept, or None."""
        return _recalled(self.sources, "files")

    def last_failure(self, slug: str, key: str) -> Failure | None:
        """Return how the newest run ended, if it failed with exactly this key."""
        entry = self.recall(slug)
        if not entry or entry.get("key") != key or not entry.get("failure"):
            return None
        return Failure.model_validate(entry["failure"])


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _remove(paths: Collection[Path]) -> tuple[int, int]:
    freed = sum(map(_size, paths))
    for path in paths:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return len(paths), freed


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all in a folder; another build may be taking them away meanwhile."""
    files = [Path(place, name) for place, _, names in os.walk(path) for name in names] or [path]
    return sum(about.st_size for about in map(_about, files) if about and stat.S_ISREG(about.st_mode))


def _changed(path: Path) -> float:
    about = _about(path)
    return about.st_mtime if about else 0.0


def _about(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def abandoned(folder: Path) -> bool:
    """Return whether nobody holds a scratch folder any more: its process was killed."""
    try:
        held = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(held)


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _recalled(path: Path, holds: str) -> dict[str, Any] | None:
    """Return what a JSON file says, if it is whole and holds a mapping of this name."""
    try:
        found = json.loads(regular.text(path))
        return found if isinstance(found, dict) and isinstance(found.get(holds), dict) else None
    except (OSError, ValueError, RecursionError):
        return None


def _refuse_traps(folder: Path) -> None:
    """Raise OSError where a link would bring in a file from elsewhere, or a pipe would be waited for."""
    for entry in os.scandir(folder):
        about = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
            raise OSError(f"'{entry.name}' in it is no plain file of its own")


def _write(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it."""
    path = path.resolve()
    mode = stat.S_IMODE(path.stat().st_mode) if path.is_file() else 0o644
    handle, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, mode)  # mkstemp keeps its files from everyone else
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
