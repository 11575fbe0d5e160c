"""Where everything is said: the two consoles, and what several commands say alike."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from generator.find import find_snippets
from generator.run import Runs, store_of
from generator.schema import Library, Problem
from generator.spelling import nearest
from generator.store import Store, write_whole

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Refusal(click.ClickException):
    """A clear message and exit status 1."""

    def show(self, file: Any = None) -> None:
        err.print(Text(f"papernotes: {self.format_message()}", style="red"))


def refuse_failures(runs: Runs, slugs: tuple[str, ...]) -> None:
    show_failures(runs)
    if failed := sorted(slug for slug in runs.failures if slug in slugs):
        raise Refusal(f"{count(len(failed), 'snippet')} failed: {', '.join(failed)}")


def show_problems(problems: Iterable[Problem]) -> None:
    for problem in problems:
        out.print(Text(str(problem)))


def show_failures(runs: Runs) -> None:
    for failure in runs.failures.values():
        err.print(Text(f"\nsnippets/{failure.slug} {failure.outcome}: {failure.error}", style="red"))
        for line in failure.tail.strip().splitlines()[-20:]:
            err.print(Text(f"  | {line}"))


def some(reasons: tuple[str, ...], most: int = 5) -> str:
    return "; ".join(reasons[:most]) + (f"; and {len(reasons) - most} more" if len(reasons) > most else "")


def known(slugs: tuple[str, ...], library: Library) -> None:
    for slug in slugs:
        if slug not in library.snippets or not library.snippets[slug].runs:
            raise click.UsageError(f"there is no snippet '{slug}'; {nearest(slug, library.snippets)}")


def snippets_of(root: Path | None) -> tuple[Library, Store]:
    """Return the project's snippets without its notes, and its store."""
    project = project_of(root)
    return Library(root=project, snippets=find_snippets(project)), store_of(project)


def write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and not file.is_file():  # a pipe, or /dev/stdout
            file.write_text(text, encoding="utf-8")
        else:
            write_whole(file, text.encode())
    except OSError as error:
        raise Refusal(f"cannot write {file}: {error.strerror}; choose another place") from None


def project_of(root: Path | None) -> Path:
    """Return the project's folder: the one given, or the nearest upwards."""
    here = (root or Path.cwd()).resolve()
    for folder in [here] if root else [here, *here.parents]:
        if (folder / "mkdocs.yml").is_file() and (folder / "notes").is_dir():
            return folder
    raise Refusal(f"no project in {here}: there is no mkdocs.yml with notes/ beside it; change folder or use --root")


def count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
