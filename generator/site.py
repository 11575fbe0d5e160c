"""The library and how its runs stand, together: what every page of the site is made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from generator import claims, markup
from generator.schema import About, Failure, Judgement, Library, Note, Paper, Problem, Result

STYLES = "assets/papernotes/papernotes.css"
SCRIPTS = tuple(
    f"assets/papernotes/{name}" for name in ("sortable/sortable.min.js", "filter.js", "preview.js", "search.js")
)
"""What every page loads, from the root of the site."""


@dataclass(frozen=True)
class Site:
    """What rendering needs besides the note: the library, how the runs stand, and what is known of the site."""

    library: Library
    results: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    about: About = field(default_factory=About)
    rerunning: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Snippets that are being run again while the site is read, and what changed."""
    problems: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)
    """What is wrong with each file, for its page to say."""

    @property
    def directory_urls(self) -> bool:
        """Return whether a page is served as a folder, 'elu/', and not as 'elu.html'."""
        return self.about.directory_urls

    def link(self, source: str, target: str) -> str:
        """Return the link from a page to a page or file, as the engine that builds the site wants it."""
        if self.about.source_links:
            return markup.beside(source, target)
        return markup.address(source, target, self.directory_urls)

    def papers(self, note: Note) -> list[Paper]:
        """Return the note's papers that the bibliography knows, in the note's order."""
        return [self.library.papers[key] for key in note.front.papers if key in self.library.papers]

    @cached_property
    def newest(self) -> list[Note]:
        """Return every note, newest first."""
        return newest_first(self.library.notes)

    @cached_property
    def by_paper(self) -> dict[str, list[Note]]:
        """Return the notes on each paper that any note is on, by BibTeX key."""
        found: dict[str, list[Note]] = {}
        for note in self.library.notes:
            for key in note.front.papers:
                found.setdefault(key, []).append(note)
        return found

    def address(self, note: Note) -> str:
        """Return the address of a note's page from the root of the site."""
        return markup.address("index.md", f"{note.slug}.md", self.directory_urls)

    def cover(self, note: Note) -> tuple[Path, str] | None:
        """Return the drawing that stands for the note on other pages, a folder and its file; the cover may be another note's figure."""
        of, name = named_cover(note)
        result = self.results.get(of)
        if result is None or not result.figures:
            return None
        figure = result.figures.get(name) or next(iter(result.figures.values()))
        return result.folder, str(figure["files"][0])

    @cached_property
    def _verdicts(self) -> dict[str, list[Judgement]]:
        return {note.slug: claims.judge_all(note, self.results.get(note.slug)) for note in self.library.notes}

    @cached_property
    def counts(self) -> dict[str, int]:
        """Return how many claims of all notes came out in each way."""
        return count_verdicts(one for judged in self._verdicts.values() for one in judged)

    def judged(self, note: Note) -> list[Judgement]:
        """Return the verdict on each of the note's claims, by what its snippet measured."""
        return self._verdicts[note.slug]


def named_cover(note: Note) -> tuple[str, str]:
    """Return the slug and the name of the figure that a note names as its cover; no name if it names none."""
    of, _, name = (note.front.cover or "").rpartition("/")
    return of or note.slug, name


def count_verdicts(judged: Iterable[Judgement]) -> dict[str, int]:
    """Return how many claims came out in each way, in the order they are shown."""
    judged = list(judged)
    order = ("reproduced", "contradicted", "untested", "reported only")
    return {verdict: n for verdict in order if (n := sum(one.verdict == verdict for one in judged))}


def newest_first(notes: Iterable[Note]) -> list[Note]:
    """Return notes by the day they were added, newest first, and by title within a day."""
    return sorted(notes, key=lambda note: (-note.front.added.toordinal(), note.front.title.lower()))
