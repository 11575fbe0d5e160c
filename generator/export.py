"""A built site comes in; the same pages as plain Markdown with their files go out, and what another engine needs to build them."""

from __future__ import annotations

import json
import os
from pathlib import Path

from generator.build import Built
from generator.schema import Page
from generator.site import SCRIPTS, STYLES
from generator.store import write_whole

OVERRIDES = "overrides"
MAIN = """{% extends "base.html" %}
{% block extrahead %}{% if page and page.meta and page.meta.head %}{{ page.meta.head }}{% endif %}{% endblock %}
"""


def export(built: Built, folder: Path) -> int:
    """Write every page and file of the site into a folder and return how many were written."""
    for page in built.pages:
        write_whole(_place(folder, page.path), _with_head(page).encode())
    for asset in built.assets:
        target = _place(folder, asset.path)
        write_whole(target, asset.source.read_bytes() if asset.source else asset.text.encode())
    return len(built.pages) + len(built.assets)


def write_config(path: Path, folder: Path, project: Path) -> None:
    """Write a configuration by which Zensical, which reads mkdocs.yml but runs no plugin, builds the exported pages.

    It goes by the project's own mkdocs.yml. What a page says in its head stands in its front matter, and a template
    beside the configuration puts it there.
    """
    path, folder = path.resolve(), folder.resolve()
    scripts = [script for script in SCRIPTS if not script.endswith("/search.js")]  # the engine has its own search
    said = {
        "INHERIT": os.path.relpath(project / "mkdocs.yml", path.parent),
        "docs_dir": os.path.relpath(folder, path.parent),
        "site_dir": "site",
        "plugins": [],
        "theme": {"custom_dir": OVERRIDES},
        "extra_css": [STYLES],
        "extra_javascript": scripts,
    }
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in said.items())
    write_whole(_place(path.parent, path.name), "".join(lines).encode())
    write_whole(_place(path.parent / OVERRIDES, "main.html"), MAIN.encode())


def _with_head(page: Page) -> str:
    if not page.head:
        return page.markdown
    head = f"head: {json.dumps(page.head, ensure_ascii=False)}\n"
    return (
        page.markdown.replace("---\n", f"---\n{head}", 1)
        if page.markdown.startswith("---\n")
        else f"---\n{head}---\n\n{page.markdown}"
    )


def _place(folder: Path, path: str) -> Path:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
