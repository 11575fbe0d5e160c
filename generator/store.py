"""Results go in under their key and come out verified; a half-written or damaged one is never seen."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generator.fingerprint import Parts
from generator.schema import Failure, Result

LAYOUT = "v1"


class Store:
    """A folder of results.

    `v1/results/<key>/` holds `result.json`, the figures, and `checksums.json`; `v1/latest/<slug>.json` says what the
    newest run of a snippet depended on and how it ended. Everything appears by a rename, so that two builds at once
    and a kill at any moment leave whole results or none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / LAYOUT
        self.results = self.folder / "results"
        self.latest = self.folder / "latest"

    def get(self, slug: str, key: str) -> Result | None:
        """Return the result stored under a key, or None where there is none or its files are damaged."""
        folder = self.results / key
        try:
            sums = json.loads((folder / "checksums.json").read_text(encoding="utf-8"))
            if {path.name: _checksum(path) for path in folder.iterdir() if path.name != "checksums.json"} != sums:
                return None
            data = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            return Result(slug=slug, key=key, folder=folder, data=data) if data["slug"] == slug else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a folder on the same disk, gone afterwards unless `put` took it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="tmp-", dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def put(self, slug: str, key: str, folder: Path, *, replace: bool = False) -> Result:
        """Take a finished folder in, whole; a sound result that stands there stays, unless `replace`."""
        sums = {path.name: _checksum(path) for path in sorted(folder.iterdir())}
        _write(folder / "checksums.json", sums)
        self.results.mkdir(parents=True, exist_ok=True)
        target = self.results / key
        try:
            os.rename(folder, target)
        except OSError:
            # Another build stored the same result first, or a damaged one lies there.
            if replace or self.get(slug, key) is None:
                aside = Path(tempfile.mkdtemp(prefix="tmp-", dir=self.folder)) / "before"
                os.rename(target, aside)
                os.rename(folder, target)
                shutil.rmtree(aside.parent, ignore_errors=True)
        found = self.get(slug, key)
        if found is None:
            raise OSError(f"the result of '{slug}' could not be stored in {self.results}")
        return found

    def remember(self, slug: str, parts: Parts, key: str, seconds: float, failure: Failure | None = None) -> None:
        """Note how the newest run of a snippet ended; the last good key is kept across failures."""
        before = self.recall(slug) or {}
        good = (parts, key) if failure is None else (before.get("good_parts", {}), before.get("good_key", ""))
        self.latest.mkdir(parents=True, exist_ok=True)
        entry = {
            "parts": parts,
            "key": key,
            "seconds": seconds,
            "good_parts": good[0],
            "good_key": good[1],
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

    def last_failure(self, slug: str, key: str) -> Failure | None:
        """Return how the newest run ended, if it failed with exactly this key."""
        entry = self.recall(slug)
        if not entry or entry.get("key") != key or not entry.get("failure"):
            return None
        return Failure.model_validate(entry["failure"])


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=1, sort_keys=True).encode())


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
