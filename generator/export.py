"""A built site comes in; the same pages as plain Markdown with their files go out into a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from generator.build import Built


def export(built: Built, folder: Path) -> int:
    """Write every page and file of the site into a folder and return how many were written."""
    for page in built.pages:
        _place(folder, page.path).write_text(page.markdown, encoding="utf-8")
    for asset in built.assets:
        target = _place(folder, asset.path)
        if asset.source:
            shutil.copyfile(asset.source, target)
        else:
            target.write_text(asset.text, encoding="utf-8")
    return len(built.pages) + len(built.assets)


def _place(folder: Path, path: str) -> Path:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
