"""Commands about the site: check, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.text import Text

from generator.cli.board import Board
from generator.cli.console import Refusal, count, err, out, project_of, show_failures, show_problems

if TYPE_CHECKING:
    from generator.build import Built

# What a whole build needs is imported by the commands that build: the others answer at once without it.


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "github", "json"]),
    default="text",
    help="For people, for a pull request on GitHub, or for an editor.",
)
@click.option("--watch", is_flag=True, help="Check again at every change, until stopped.")
@click.pass_obj
def check(root: Path | None, form: str, watch: bool) -> None:
    """Show every problem of every note at once: file:line:column: what; how to mend it [code].

    Runs nothing. Claims are held against stored results where these are fresh. `papernotes explain CODE` says more.
    """
    project = project_of(root)
    if watch:
        from generator.watch import changes

        for _ in changes(project):
            out.print(CHECKING)
            built = _checked(project, form)
            out.print(f"{CHECKED}: {_sum(built)}")
    elif (built := _checked(project, form)).problems:
        raise Refusal(_sum(built))
    elif form != "json":
        out.print(_sum(built))


CHECKING, CHECKED = "checking", "checked"
"""The lines between which an editor that watches finds the problems."""


def _checked(project: Path, form: str) -> Built:
    """Build without running anything, and show what is wrong."""
    from generator import annotations, markup
    from generator.build import build
    from generator.load import load_about

    built = build(project, execute=False)
    if form == "json":
        about = load_about(project)
        rules = markup.address("index.md", "problems.md", about.directory_urls)
        out.print(annotations.as_json(built.problems, _notes(built), about.url + rules), markup=False, end="")
    elif form == "github":
        for problem in built.problems:
            out.print(annotations.as_github(problem), markup=False)
    else:
        show_problems(built.problems)
    return built


def _notes(built: Built) -> int:
    return len(built.library.notes) + len(built.library.broken)


def _sum(built: Built) -> str:
    from generator.annotations import count_codes

    notes = count(_notes(built), "note")
    if not built.problems:
        return f"{notes}, no problems"
    return f"{count(len(built.problems), 'problem')} in {notes}: {count_codes(built.problems)}"


@click.command()
@click.argument("code", required=False)
def explain(code: str | None) -> None:
    """Say what the code of a problem means, why it matters, and how it is mended; without CODE, list them all."""
    from generator.codes import RULES
    from generator.spelling import nearest

    if code is None:
        for name, rule in RULES.items():
            out.print(Text(f"{name:22} {rule.title}"))
        return
    if code not in RULES:
        raise click.UsageError(f"there is no code '{code}'; {nearest(code, RULES)}")
    rule = RULES[code]
    out.print(Text("\n".join(filter(None, (f"{code}: {rule.title}", rule.why)))))
    for heading, example in (("Not so:", rule.wrong), ("But so:" if rule.wrong else "As in:", rule.right)):
        if example:
            out.print(Text(f"\n{heading}\n\n" + "".join(f"    {line}\n" for line in example.splitlines())), end="")


@click.command()
def schema() -> None:
    """Print the JSON Schema of front matter, for an editor."""
    from generator.front_schema import as_text

    click.echo(as_text(), nl=False)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--strict", is_flag=True, help="Fail if anything is wrong.")
@click.option("--only-stored", is_flag=True, help="Run nothing; show what is stored.")
@click.option(
    "--zensical",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write FILE as well, a configuration by which Zensical builds the same site, and links as it reads them.",
)
@click.pass_obj
def export(root: Path | None, folder: Path, strict: bool, only_stored: bool, config: Path | None) -> None:
    """Write the same pages as plain Markdown with their files into FOLDER, for any other site engine."""
    from generator.build import build
    from generator.export import export as export_site
    from generator.export import write_config
    from generator.load import load_about

    project = project_of(root)
    with Board(err) as board:
        about = load_about(project).model_copy(update={"source_links": config is not None})
        built = build(project, execute=not only_stored, watch=board.watch, about=about)
    try:
        written = export_site(built, folder)
        if config:
            write_config(config, folder, project)
    except OSError as error:
        raise Refusal(f"cannot write {error.filename}: {error.strerror}; choose another folder") from None
    show_problems(built.problems)
    show_failures(built.runs)
    out.print(f"{written} files in {folder}")
    if strict and not built.sound:
        raise Refusal("the site has problems")


COMMANDS = (
    check,
    explain,
    schema,
    export,
)
