"""What a note is to be comes in; a draft goes out: note, method, kernel, experiment and test, ready to run."""

from __future__ import annotations

import contextlib
import datetime
import keyword
import re
from collections.abc import Callable, Container
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from generator.identifiers import folded
from generator.intake.names import free
from generator.intake.reference import telling
from generator.normal.pieces import scalar
from generator.schema import Kind

FILES = {
    "note.md.j2": "notes/{slug}.md",
    "method.py.j2": "snippets/{slug}/method.py",
    "kernel.py.j2": "snippets/{slug}/kernel.py",
    "experiment.py.j2": "snippets/{slug}/experiment.py",
    "test.py.j2": "tests/snippets/test_{slug}.py",
}
DIGEST = {"digest.md.j2": "notes/{slug}.md"}
"""A digest sets papers side by side and shows what their own notes measured."""
UNUSABLE = frozenset([*keyword.kwlist, "torch", "triton", "tl", "method"])
"""Names that would break a draft, whose function has the name of its slug."""
_LONG = 30


class ExistsError(FileExistsError):
    """A file of that name is there already; nothing was written."""


@cache
def _templates() -> Environment:
    loader = PackageLoader("generator", "templates/new")
    made = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    made.filters |= {"yaml": scalar, "docstring": lambda text: text.replace("\\", "\\\\").replace('"""', "'''")}
    return made


def new(
    root: Path,
    slug: str,
    title: str,
    papers: tuple[str, ...],
    author: str,
    *,
    kind: Kind | None = None,
    kernel: bool = True,
    figure: str = "",
    finish: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Write a draft, finish, and return its files; where anything fails, nothing of it stays.

    Raises ExistsError, writing nothing, where one of the files exists. `figure` is what a digest shows: slug/name.
    """
    kind = kind or ("paper" if papers else "essay")
    files = DIGEST if kind == "digest" else {name: to for name, to in FILES.items() if kernel or "kernel" not in name}
    targets = {template: root / path.format(slug=slug) for template, path in files.items()}
    title = " ".join("".join(one if one.isprintable() else " " for one in title).split())
    values = {"slug": slug, "title": title, "papers": papers, "author": author, "kind": kind, "kernel": kernel}
    values |= {"figure": figure, "today": datetime.date.today().isoformat()}
    texts = {to: _templates().get_template(name).render(values).rstrip() + "\n" for name, to in targets.items()}
    for target in targets.values():
        if target.exists() or target.is_symlink():
            raise ExistsError(target.relative_to(root).as_posix())
    made: list[Path] = []
    try:
        for target, text in texts.items():
            _make_folder(target.parent, made)
            with target.open("x", encoding="utf-8", newline="\n") as file:
                made.append(target)
                file.write(text)
        finish()
    except BaseException:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        raise
    return [path for path in made if path in texts]


def _make_folder(folder: Path, made: list[Path]) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent, made)
        folder.mkdir()
        made.append(folder)


def slug_of(title: str, taken: Container[str]) -> str:
    """Return a short slug that is not taken: the title's name before its colon, or its first telling words."""
    words = list(telling(title))
    before = list(telling(title.partition(":")[0])) if ":" in title else []
    every = re.findall(r"[a-z0-9]+", re.sub(r"['’]", "", folded(title)))
    whole = "_".join(every)
    chosen = "_".join(before if 0 < len(before) <= 3 else words[:3])
    slug = (whole if ":" not in title and len(whole) <= _LONG else chosen)[:60].rstrip("_")
    if not slug or not slug[0].isalpha() or slug in UNUSABLE:
        slug = f"note_{slug}".rstrip("_")
    return free(slug, taken)
