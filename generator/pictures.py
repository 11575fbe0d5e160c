"""The folder of notes comes in; the pictures and data that lie beside the notes go out, and what may not lie there.

Whatever a site engine finds there it would publish: a page of HTML, a script under the name of the theme's own, or through
a link any file of the machine that builds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from generator import regular
from generator.drawings import clean
from generator.schema import Asset, Problem

PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".avif", ".svg")
KINDS = (*PICTURES, ".csv", ".json", ".txt")
READ = (".md", ".bib")
"""What the generator reads itself."""


def pictures(root: Path) -> tuple[list[Asset], list[Problem]]:
    """Return every file beside the notes that the site may show, and what is wrong with the others."""
    assets, problems = [], []
    seen: dict[str, str] = {}
    for path in _walk(root / "notes"):
        file = path.relative_to(root).as_posix()
        if path.is_symlink():
            fix = "copy the file into notes/"
            problems.append(Problem(file, 1, "a symbolic link", fix, code="leaves-project"))
        elif path.suffix in READ:
            continue
        elif not path.is_file():
            problems.append(Problem(file, 1, "not a regular file", "remove it", code="unreadable"))
        elif (other := seen.setdefault(file.lower(), file)) != file:
            what = f"'{path.name}' and '{other.removeprefix('notes/')}' differ in nothing but case"
            problems.append(Problem(file, 1, what, "rename one: some disks take them for one file", code="case-only"))
        elif path.suffix.lower() == ".svg":
            asset, found = _drawing(path, file)
            assets.append(asset)
            problems += found
        elif path.suffix.lower() in KINDS:
            assets.append(Asset(path=file.removeprefix("notes/"), source=path))
        else:
            fix = f"keep {', '.join(one[1:] for one in KINDS)} there; what the whole site needs is named in mkdocs.yml"
            problems.append(Problem(file, 1, "a file of a kind that is not published", fix, code="file-kind"))
    return assets, problems


def links(folder: Path, root: Path) -> list[Problem]:
    """Return a problem for everything in a folder of the project that is a symbolic link, or no file at all."""
    found = []
    for path in _walk(folder):
        file = path.relative_to(root).as_posix()
        if path.is_symlink():
            found.append(Problem(file, 1, "a symbolic link", "copy the file there", code="leaves-project"))
        elif not path.is_file():
            found.append(Problem(file, 1, "not a regular file", "remove it", code="unreadable"))
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Yield every file of a folder, and every link in place of what it leads to; nothing whose name begins with a dot."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        yield from (Path(place, name) for name in folders if Path(place, name).is_symlink())
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def _drawing(path: Path, file: str) -> tuple[Asset, list[Problem]]:
    """Return a drawing as it is, or written anew where it holds what could run when it is opened."""
    name = file.removeprefix("notes/")
    try:
        found = clean(regular.text(path))
    except UnicodeDecodeError:
        return Asset(path=name), [Problem(file, 1, "not UTF-8", "save the file as UTF-8", code="not-utf8")]
    if not found.left_out:
        return Asset(path=name, source=path), []
    what = f"holds {', '.join(found.left_out)}, left out"
    return Asset(path=name, text=found.svg), [Problem(file, 1, what, "save it as plain SVG", code="figure-not-allowed")]
