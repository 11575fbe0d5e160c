"""A project's root comes in; its snippets go out. Light enough to ask on every command."""

from __future__ import annotations

import os
from pathlib import Path

from generator.schema import Snippet


def find_snippets(root: Path) -> dict[str, Snippet]:
    """Return every folder of snippets/ that holds Python files."""
    try:
        folders = sorted(one.name for one in os.scandir(root / "snippets") if one.is_dir())
    except OSError:
        return {}
    found = {}
    for name in folders:
        if name.startswith((".", "_")):
            continue
        folder = root / "snippets" / name
        if files := tuple(sorted(file for file in os.listdir(folder) if file.endswith(".py"))):
            found[name] = Snippet.model_construct(slug=name, folder=folder, files=files)
    return found
