"""The command fmt: notes and library.bib in normal form."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path

import click
from rich.text import Text

from generator.cli.console import Refusal, count, err, out, project_of


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--check", is_flag=True, help="Write nothing; name the files that would change, and exit with status 1.")
@click.option("--diff", is_flag=True, help="Write nothing; show what would change.")
@click.pass_obj
def fmt(root: Path | None, files: tuple[Path, ...], check: bool, diff: bool) -> None:
    """Bring the front matter of notes, and library.bib, into normal form (default: those of the whole project).

    Comments stay, the body of a note is not touched, and a file whose meaning would change is left alone.
    """
    from generator.normal import files as normal

    for path in files:
        if path.suffix not in (".md", ".bib"):
            raise click.UsageError(f"{path} is neither a note (.md) nor a bibliography (.bib)")
    asked = files or normal.of_project(project_of(root))
    changed, refused = [], []
    for one in normal.normal(asked):
        name = _shown(one.path)
        if one.refused:
            refused.append(name)
            fix = f"; {one.refused.fix}" if one.refused.fix else ""
            err.print(Text(f"{name}:{one.refused.line}: {one.refused.what}{fix}; left as it is"))
        elif one.changes:
            changed.append(name)
            if diff:
                for line in _diff(one.before, one.after, name):
                    out.print(line)
            else:
                out.print(Text(f"{'would change' if check else 'changed'} {name}"))
            if not (check or diff):
                _write(one)
    said = f"{count(len(changed), 'file')} of {len(asked)} {'would change' if check or diff else 'changed'}"
    if refused:
        raise Refusal(f"{said}, {len(refused)} left as {'it is' if len(refused) == 1 else 'they are'}")
    if check and changed:
        raise Refusal(f"{said}; run 'papernotes fmt'")
    (err if diff else out).print(said)


def _write(one) -> None:  # type: ignore[no-untyped-def]
    from generator.normal import files as normal

    try:
        normal.write(one)
    except OSError as error:
        raise Refusal(f"cannot write {one.path}: {error.strerror}; what came before it is written") from None


def _diff(before: str, after: str, name: str) -> Iterator[Text]:
    style = {"+": "green", "-": "red", "@": "cyan"}
    for line in unified_diff(before.splitlines(), after.splitlines(), f"a/{name}", f"b/{name}", lineterm=""):
        yield Text(line, style=style.get(line[:1], ""))


def _shown(path: Path) -> str:
    here = Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()


COMMANDS = (fmt,)
