"""A slug and a title come in; a draft goes out: note, method, kernel, experiment and test, ready to run."""

from __future__ import annotations

import datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

FILES = {
    "note.md.j2": "notes/{slug}.md",
    "method.py.j2": "snippets/{slug}/method.py",
    "kernel.py.j2": "snippets/{slug}/kernel.py",
    "experiment.py.j2": "snippets/{slug}/experiment.py",
    "test.py.j2": "tests/snippets/test_{slug}.py",
}


class ExistsError(FileExistsError):
    """A file of that name is there already; nothing was written."""


@cache
def _templates() -> Environment:
    loader = PackageLoader("generator", "templates/new")
    return Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)


def new(root: Path, slug: str, title: str, papers: tuple[str, ...], author: str) -> list[Path]:
    """Write a draft and return its files; raise ExistsError, writing nothing, where one of them exists."""
    targets = {template: root / path.format(slug=slug) for template, path in FILES.items()}
    for target in targets.values():
        if target.exists():
            raise ExistsError(target.relative_to(root).as_posix())
    today = datetime.date.today().isoformat()
    for template, target in targets.items():
        text = (
            _templates()
            .get_template(template)
            .render(slug=slug, title=title, papers=papers, author=author, today=today)
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return list(targets.values())
