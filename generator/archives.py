"""All notes come in; the pages that gather them by one thing they share go out: tag, author, year, venue, paper."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from markupsafe import Markup

from generator import markup, timeplot
from generator.cards import cards
from generator.partials import page, partial
from generator.schema import Note, Page, Paper
from generator.site import Site, newest_first

ENTRIES = 1500
"""Names on one page of an archive; beyond it, a page a letter."""


def tags(site: Site) -> list[Page]:
    """Return a page a tag, and the list of tags."""
    tagged: dict[str, list[Note]] = defaultdict(list)
    for note in site.library.notes:
        for tag in note.front.tags:
            tagged[tag].append(note)
    made = [page("tags/index.md", "tags.md", site, tagged={tag: tagged[tag] for tag in sorted(tagged)})]
    for tag, notes in sorted(tagged.items()):
        path = f"tags/{tag}.md"
        made.append(page(path, "tag.md", site, tag=tag, n=len(notes), cards=cards(path, newest_first(notes), site)))
    return made


def papers(site: Site) -> list[Page]:
    """Return a page a paper, at the permanent address of its BibTeX key, and the list of papers."""
    about = site.by_paper
    papers = [site.library.papers[key] for key in about if key in site.library.papers]
    papers.sort(key=lambda paper: (-(paper.year or 0), paper.title.lower()))
    made = [page("papers/index.md", "papers.md", site, papers=[(paper, about[paper.key]) for paper in papers])]
    for paper in papers:
        path = f"papers/{paper.key}.md"
        shown = cards(path, newest_first(about[paper.key]), site)
        bibtex = Markup(markup.fence(paper.bibtex, "bibtex"))
        made.append(page(path, "paper.md", site, paper=paper, cards=shown, bibtex=bibtex))
    return made


def authors(site: Site) -> list[Page]:
    """Return the authors of the papers, by surname, with the notes on what they wrote; in long lists, a page a letter."""
    gathered = _gathered(site, lambda paper: paper.authors)
    entries = [Entry(name, notes) for name, notes in gathered.items()]
    entries.sort(key=lambda entry: (_plain(_surname(entry.name)), _plain(entry.name)))
    if len(entries) <= ENTRIES:
        return [page("authors.md", "archive.md", site, title="Authors", entries=entries, others={})]
    lettered: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        letter = _plain(_surname(entry.name))[:1]
        lettered[letter if letter.isalpha() else "other"].append(entry)
    others = {letter: f"authors/{letter}.md" for letter in lettered}
    made = [page("authors.md", "archive.md", site, title="Authors", entries=[], others=others)]
    for letter, some in lettered.items():
        title = f"Authors: {letter.upper() if len(letter) == 1 else letter}"
        made.append(page(others[letter], "archive.md", site, title=title, entries=some, others=others))
    return made


def venues(site: Site) -> Page:
    """Return where the papers appeared, with the notes on them."""
    gathered = _gathered(site, lambda paper: (paper.venue,) if paper.venue else ())
    entries = sorted((Entry(name, notes) for name, notes in gathered.items()), key=lambda entry: _plain(entry.name))
    return page("venues.md", "archive.md", site, title="Venues", entries=entries, others={})


def timeline(site: Site) -> Page:
    """Return the notes along the years of their papers: drawn, and year by year."""
    gathered = _gathered(site, lambda paper: (str(paper.year),) if paper.year else ())
    entries = [Entry(year, gathered[year]) for year in sorted(gathered, reverse=True)]
    drawn = timeplot.timeline({int(entry.name): len(entry.notes) for entry in entries})
    plot = Markup(partial("timeline", plot=drawn)) if drawn else ""
    return page("timeline.md", "archive.md", site, title="Timeline", entries=entries, others={}, lead=plot)


@dataclass(frozen=True)
class Entry:
    """One name of an archive, with its notes and the paper each is here for."""

    name: str
    notes: list[tuple[Note, Paper]]

    @property
    def anchor(self) -> str:
        """Return the name as an address: 'Djork-Arné Clevert' is 'djork-arne-clevert'."""
        return re.sub(r"[^a-z0-9]+", "-", _plain(self.name)).strip("-") or "unnamed"


def _gathered(site: Site, names: Callable[[Paper], Iterable[str]]) -> dict[str, list[tuple[Note, Paper]]]:
    found: dict[str, list[tuple[Note, Paper]]] = defaultdict(list)
    for note in site.newest:
        seen = set()
        for paper in site.papers(note):
            for name in names(paper):
                if name not in seen:  # a note on two papers of an author stands under that author once
                    seen.add(name)
                    found[name].append((note, paper))
    return found


def _surname(name: str) -> str:
    return name.split()[-1] if name.split() else name


def _plain(name: str) -> str:
    """Return a name as it is sorted and addressed: lower case, without accents."""
    folded = unicodedata.normalize("NFKD", name.translate(_LETTERS))
    return "".join(one for one in folded if not unicodedata.combining(one)).lower()


_LETTERS = str.maketrans({"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "ß": "ss", "æ": "ae", "œ": "oe"})
