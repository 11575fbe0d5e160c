"""Results go in under their key and come out verified; a half-written or damaged one is never seen."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from generator.fingerprint import Parts
from generator.schema import Failure, Result

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
            sums = json.loads((folder / "checksums.json").read_bytes())
            found = {name: (folder / name).read_bytes() for name in os.listdir(folder) if name != "checksums.json"}
            if {name: hashlib.sha256(data).hexdigest() for name, data in found.items()} != sums:
                return None
            data = json.loads(found["result.json"])
            data["run"] = json.loads(found["run.json"])
            return Result(slug=slug, key=key, folder=folder, data=data) if data["slug"] == slug else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
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
        """Take a finished folder in, whole, with what its run took; a sound result that stands there stays, unless `replace`."""
        _write(folder / "run.json", about)
        sums = {path.name: _checksum(path) for path in sorted(folder.iterdir())}
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

    def clean(self, keep: Collection[str], slugs: Collection[str], most: int = 0) -> tuple[int, int]:
        """Remove what nothing refers to, and return how many things and how many bytes that were.

        Kept are the results under these keys and the last good ones of these snippets. With `most`, results that
        nothing refers to are removed, oldest first, only until no more than so many bytes are left.
        """
        good = {str((self.recall(slug) or {}).get("good_key", "")) for slug in slugs}
        loose = [path for path in _listed(self.results) if path.name not in good | set(keep)]
        if most:
            sizes = {path: _size(path) for path in _listed(self.results)}
            loose.sort(key=lambda path: path.stat().st_mtime)
            over = sum(sizes.values()) - most
            kept_up_to = 0
            while kept_up_to < len(loose) and over > 0:
                over -= sizes[loose[kept_up_to]]
                kept_up_to += 1
            loose = loose[:kept_up_to]
        else:
            loose += [path for path in _listed(self.latest) if path.stem not in slugs]
            loose += [
                path for path in _listed(self.folder.parent) if re.fullmatch(r"v\d+", path.name) and path != self.folder
            ]
            loose += [path for path in self.folder.glob("tmp-*") if _abandoned(path)]
        freed = sum(map(_size, loose))
        for path in loose:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        return len(loose), freed

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
        try:
            found = json.loads((self.latest / f"{slug}.json").read_text(encoding="utf-8"))
            return found if isinstance(found, dict) and isinstance(found.get("parts"), dict) else None
        except (OSError, ValueError):
            return None

    def last_good(self, slug: str) -> Result | None:
        """Return the result of the newest run that succeeded, whatever has changed since."""
        entry = self.recall(slug)
        return self.get(slug, str(entry.get("good_key"))) if entry and entry.get("good_key") else None

    def remember_sources(self, memory: Mapping[str, Any]) -> None:
        """Keep what source files were seen to mean, so that those unchanged need not be read again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.sources, json.dumps(memory, separators=(",", ":")).encode())

    def recall_sources(self) -> dict[str, Any] | None:
        """Return what `remember_sources` kept, or None."""
        try:
            found = json.loads(self.sources.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else None
        except (OSError, ValueError):
            return None

    def last_failure(self, slug: str, key: str) -> Failure | None:
        """Return how the newest run ended, if it failed with exactly this key."""
        entry = self.recall(slug)
        if not entry or entry.get("key") != key or not entry.get("failure"):
            return None
        return Failure.model_validate(entry["failure"])


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _size(path: Path) -> int:
    files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
    return sum(one.stat().st_size for one in files)


def _abandoned(folder: Path) -> bool:
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


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it."""
    handle, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
