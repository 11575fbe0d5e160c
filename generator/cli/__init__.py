"""The command line: the one place that prints."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from generator import __version__
from generator.cli import format, kernels, results, review, site, write
from generator.cli.console import err


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="papernotes")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    help="The project; default: the nearest folder upwards with mkdocs.yml.",
)
@click.pass_context
def papernotes(context: click.Context, root: Path | None) -> None:
    """Paper notes whose every method runs.

    Run it inside a project: a folder with mkdocs.yml, notes/ and snippets/. To browse the site, type `mkdocs serve`.
    """
    context.obj = root


for module in (site, write, format, results, kernels, review):
    for command in module.COMMANDS:
        papernotes.add_command(command)


def main() -> None:
    """Run the command line; an interrupt ends it with status 130 and no traceback."""
    try:
        sys.exit(papernotes(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        err.print("stopped; finished results are kept")
        sys.exit(130)
