"""Notes come in; the cards that stand for them on other pages go out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

from generator.drawings import drawing
from generator.partials import partial
from generator.schema import Note
from generator.site import Site, count_verdicts

_REFERENCE = re.compile(r"(\bid=\"|url\(#|href=\"#)")
"""Where a drawing names one of its parts, or speaks of it."""


def cards(path: str, notes: Iterable[Note], site: Site) -> Markup:
    """Return the cards of the notes as they stand on the page at `path`."""
    made = [_card(path, note, site) for note in notes]
    shown: set[str] = set()
    for card in made:
        if card["figure"] and card["figure"] in shown:  # a digest may have the cover of a note beside it
            card["figure"] = Markup(_REFERENCE.sub(r"\1again-", str(card["figure"])))
        shown.add(card["figure"])
    return Markup(partial("cards", cards=made))


def _card(path: str, note: Note, site: Site) -> dict[str, Any]:
    papers = site.papers(note)
    cover = site.cover(note)
    figure = Markup(drawing(*cover).svg) if cover else None
    line = f"{papers[0].short_authors}, {papers[0].year}" if papers else f"{note.front.kind}, {note.front.added.year}"
    return {
        "href": site.link(path, f"{note.slug}.md"),
        "title": note.front.title,
        "line": line,
        "summary": note.front.summary,
        "figure": figure,
        "counts": count_verdicts(site.judged(note)),
    }
