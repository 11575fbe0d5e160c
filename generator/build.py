"""A project comes in; its pages and files, and everything that is wrong with it, go out: load, check, run, render."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

from generator.check import check
from generator.execute import Limits
from generator.filled import Read, read
from generator.load import load
from generator.run import Runs, Watcher, run, store_of, stored
from generator.schema import About, Asset, Library, Page, Problem
from generator.site import Site


@dataclass(frozen=True)
class Built:
    """A whole site, in memory."""

    library: Library
    runs: Runs
    problems: list[Problem]
    site: Site
    read: Read

    @cached_property
    def pages(self) -> list[Page]:
        """Return every page; made when asked for, with all that it takes, which who only checks never does."""
        from generator.pages import pages

        return pages(self.site, self.read)

    @cached_property
    def assets(self) -> list[Asset]:
        """Return every file that is no page."""
        from generator.pages import assets

        return assets(self.site)

    @property
    def sound(self) -> bool:
        """Return whether nothing is wrong and every snippet ran."""
        return not self.problems and not self.runs.failures


def build(
    root: Path,
    *,
    execute: bool = True,
    outdated: bool = False,
    jobs: int | None = None,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    watch: Watcher = lambda kind, event: None,
    about: About = About(),  # noqa: B008  (frozen)
) -> Built:
    """Build the site of the project in `root`; without `execute`, from stored results alone.

    With `outdated` the last good result stands in for one that is stale, and its page says so.
    """
    library = load(root)
    problems = check(library)
    runs = (
        run(library, store_of(root), jobs=jobs, limits=limits, watch=watch)
        if execute
        else stored(library, store_of(root), outdated=outdated)
    )
    site = Site(
        library,
        runs.results,
        runs.failures,
        about,
        {slug: runs.missing[slug] for slug in runs.outdated},
        {file: tuple(group) for file, group in groupby(problems, key=lambda one: one.file)},
    )
    found = read(site)
    every = sorted({*problems, *found.problems}, key=lambda one: (*one.place, one.what))
    return Built(library, runs, every, site, found)
