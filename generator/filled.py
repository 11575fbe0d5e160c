"""All notes and their results come in; the notes with everything filled in go out, and all that is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from generator import claims, regular, speed, tables
from generator.cards import cards
from generator.expand import Body, expand
from generator.partials import partial
from generator.places import place
from generator.schema import Note, Page, Problem
from generator.site import Site, named_cover
from generator.spelling import nearest

HOME = "index.md"
NEWEST = 12
"""Cards on the home page; the rest are on the page of all notes."""


@dataclass(frozen=True)
class Read:
    """The notes and the home page with everything filled in, and all that they name and is not there."""

    bodies: Mapping[str, Body]
    beside: Mapping[str, list[Problem]]
    """What is wrong with each note outside its body."""
    home: Page
    problems: list[Problem]


def read(site: Site) -> Read:
    """Fill in the notes and the home page: all that there is to know of what is wrong."""
    bodies = {note.slug: expand(note, site) for note in site.library.notes}
    beside: dict[str, list[Problem]] = {}
    problems: list[Problem] = []
    for note in site.library.notes:
        if note.slug not in site.rerunning:  # what an older result contradicts may be mended already
            beside[note.slug] = [*claims.problems(note, site.results.get(note.slug)), *_cover(note, site)]
            problems += [*beside[note.slug], *bodies[note.slug].problems]
    home, found = _home(site)
    problems += [*found, *_disagreeing(site)]
    problems += [problem for snippet in site.library.snippets.values() for problem in speed.problems(snippet)]
    return Read(bodies, beside, home, problems)


def _cover(note: Note, site: Site) -> Iterator[Problem]:
    of, name = named_cover(note)
    result = site.results.get(of)
    at = place(note, "cover")
    if of not in site.library.snippets and name:
        own = of == note.slug
        fix = "write cover: slug/figure" if own else nearest(of, site.library.snippets)
        yield Problem(note.file, at, f"a cover of '{of}', which has no snippet", fix, code="unknown-cover")
    elif result and name and name not in result.figures:
        fix = nearest(name, result.figures)
        yield Problem(note.file, at, f"the cover names no figure '{name}'", fix, code="unknown-cover")


def _home(site: Site) -> tuple[Page, tuple[Problem, ...]]:
    """Return the home page, with the embeds that only it has."""

    def newest() -> Markup:
        return cards("index.md", site.newest[:NEWEST], site)

    def counts() -> str:
        number = sum(len(result.kernels) for result in site.results.values())
        kernels = tables.kernel_counts(site)
        return partial("counts", notes=len(site.library.notes), counts=site.counts, number=number, kernels=kernels)

    written, unread = _home_text(site.library.root / "notes" / HOME)
    home = Note.model_construct(slug="index", file=f"notes/{HOME}", front=None, body=written, body_line=1, places={})
    filled = expand(home, site, {"cards": newest, "counts": counts})
    text = filled.markdown
    if not text.startswith("---"):
        text = "---\nhide: [navigation, toc]\n---\n\n" + text
    return Page(path=HOME, markdown=text, source=home.file), (*unread, *filled.problems)


def _home_text(path: Path) -> tuple[str, tuple[Problem, ...]]:
    """Return what the home page says, or what it says without a file of its own, and why it could not be read."""
    plain, file = "# Notes\n\n{{ cards() }}\n", f"notes/{HOME}"
    if not path.exists() or path.is_symlink():
        return plain, ()
    try:
        return regular.text(path), ()
    except UnicodeDecodeError:
        return plain, (Problem(file, 1, "not UTF-8", "save the file as UTF-8", code="not-utf8"),)
    except OSError as error:
        what, fix = f"cannot be read: {error.strerror}", "check the file and its permissions"
        return plain, (Problem(file, 1, what, fix, code="unreadable"),)


def _disagreeing(site: Site) -> list[Problem]:
    return [
        Problem(
            f"snippets/{slug}/kernel.py",
            line=1,
            what=f"kernel '{name}' disagrees with its twin ({row['dtype']}, {row['direction']})",
            fix="mend the kernel; a tolerance is never loosened",
            code="kernel-disagrees",
        )
        for slug, result in site.results.items()
        for name, kernel in result.kernels.items()
        for row in kernel["parity"]
        if not row["holds"]
    ]
