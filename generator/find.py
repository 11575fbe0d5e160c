"""A project's root comes in; its snippets go out. Light enough to ask on every command."""

from __future__ import annotations

import os
from pathlib import Path

from generator.schema import Snippet


def find_snippets(root: Path) -> dict[str, Snippet]:
    """Return every folder of snippets/ that holds Python files."""
    try:
        folders = sorted(one.name for one in os.scandir(root / "snippets") if one.is_dir(follow_symlinks=False))
    except OSError:
        return {}
    found = {}
    for name in folders:
        if name.startswith((".", "_")):
            continue
        folder = root / "snippets" / name
        with os.scandir(folder) as there:  # a link could show any file of the machine, and of a pipe no read returns
            own = (file.name for file in there if file.is_file(follow_symlinks=False))
            files = tuple(sorted(name for name in own if name.endswith(".py")))
        if files:
            found[name] = Snippet.model_construct(slug=name, folder=folder, files=files)
    return found
