"""The pictures of a folder come in; those that notes show go out beside the notes, each once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import unquote

from generator.drawings import NONE, clean
from generator.intake import names, vault
from generator.pictures import PICTURES
from generator.store import write_whole

FOLDER = "pictures"
LIMIT = 20_000_000


class Pictures:
    """Finds pictures by the names that notes give them, and keeps those that were asked for."""

    def __init__(self, base: Path, project: Path) -> None:
        self.base = base
        self.target = project / "notes" / FOLDER
        self.by_path: dict[str, Path] = {}
        self.by_name: dict[str, Path] = {}
        for path in vault.files(base):
            if path.suffix.lower() in PICTURES and path.resolve().is_relative_to(base.resolve()):
                self.by_path[path.relative_to(base).as_posix().lower()] = path
                self.by_name.setdefault(path.name.lower(), path)
        self.known: dict[str, str] = {}
        """The digests of the pictures that are there, and their names."""
        if self.target.is_dir():
            for path in sorted(self.target.iterdir()):
                if path.is_file():
                    self.known[_digest(path.read_bytes())] = path.name
        self.asked: dict[Path, tuple[str, bytes]] = {}
        self.refused: dict[Path, str] = {}
        self.changed: dict[Path, str] = {}
        """What was left out of a drawing: programs, files that it would fetch, styles of a page."""

    def find(self, name: str, source: vault.Source) -> str | None:
        """Return the address of a picture as seen from the notes, None where there is no such or it cannot come in."""
        name = unquote(name).replace("\\", "/").strip()
        here = source.name.rpartition("/")[0]
        tried = [_joined(here, name), _joined("", name.lstrip("/"))]
        path = next((self.by_path[one] for one in tried if one in self.by_path), None)
        path = path or self.by_name.get(name.rpartition("/")[2].lower())
        return f"{FOLDER}/{self._take(path)}" if path and self._fit(path) else None

    def _fit(self, path: Path) -> bool:
        if path in self.asked:
            return True
        if path not in self.refused:
            try:
                data = path.read_bytes() if path.stat().st_size <= LIMIT else b""
            except OSError as error:
                self.refused[path] = f"cannot be read: {error.strerror}"
                return False
            if not data:
                self.refused[path] = f"empty, or larger than {LIMIT // 1_000_000} MB"
            elif path.suffix.lower() == ".svg":
                self._draw(path, data)
            else:
                self.asked[path] = ("", data)
        return path not in self.refused

    def _draw(self, path: Path, data: bytes) -> None:
        """Take a drawing as it is, or written anew where it holds more than a drawing may."""
        drawing = clean(data.decode("utf-8-sig", "replace"))
        if drawing.svg == NONE:
            self.refused[path] = "no SVG that can be read"
            return
        if drawing.left_out:
            self.changed[path] = f"{', '.join(drawing.left_out)}: left out of the drawing"
        self.asked[path] = ("", drawing.svg.encode() if drawing.left_out else data)

    def _take(self, path: Path) -> str:
        name, data = self.asked[path]
        if not name:
            digest = _digest(data)
            name = self.known.get(digest) or self._free(path)
            self.known[digest] = name
            self.asked[path] = (name, data)
        return name

    def _free(self, path: Path) -> str:
        stem, taken = names.slug_of(path.stem), set(self.known.values())
        if stem == "note":
            stem = "picture"
        name, number = f"{stem}{path.suffix.lower()}", 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}{path.suffix.lower()}"
        return name

    def save(self, wanted: str) -> None:
        """Write those pictures that a text shows and that are not there yet."""
        for name, data in self.asked.values():
            target = self.target / name
            if name and f"{FOLDER}/{name}" in wanted and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                write_whole(target, data)


def _joined(folder: str, name: str) -> str:
    parts: list[str] = []
    for part in [*folder.split("/"), *name.split("/")]:
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    return "/".join(parts).lower()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
