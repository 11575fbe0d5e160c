"""The text of notes/library.bib and references come in; the text with their entries in their places goes out."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import replace

import bibtexparser
from bibtexparser import model

from generator.bibliography import read_papers
from generator.identifiers import folded, normal_title
from generator.intake.reference import Reference, entry, key_of
from generator.intake.report import Item, Report
from generator.schema import Paper, ReadStatus

FILE = "notes/library.bib"
_KEY = re.compile(
    r"^[ \t]*@[ \t]*(?!(?:comment|string|preamble)\b)\w+[ \t]*[{(][ \t]*([^\s,{}()]+)", re.MULTILINE | re.IGNORECASE
)


class Shelf:
    """The bibliography as it is, and the entries that are to come into it."""

    def __init__(self, text: str) -> None:
        self.text = text
        papers, _ = read_papers(text, FILE)
        self.new: dict[str, Reference] = {}
        self.titles = {paper.key: paper.title for paper in papers.values()}
        self._taken = {key.lower() for key in _KEY.findall(text)} | {key.lower() for key in papers}
        self._by_doi: dict[str, str] = {}
        self._by_arxiv: dict[str, str] = {}
        self._by_title: dict[str, dict[str, str]] = {}
        for paper in papers.values():
            self._know(paper.key, paper.doi, paper.arxiv, paper.title, _surname(paper))

    def _know(self, key: str, doi: str, arxiv: str, title: str, surname: str) -> None:
        self._by_doi.setdefault(doi.lower(), key)
        self._by_arxiv.setdefault(arxiv, key)
        self._by_title.setdefault(normal_title(title), {}).setdefault(surname, key)

    def find(self, reference: Reference) -> tuple[str, str] | None:
        """Return the key of the same paper, and by what it is the same.

        A title alone is not enough, two papers may have one: their first authors have to be namesakes.
        """
        if reference.doi and (key := self._by_doi.get(reference.doi.lower())):
            return key, f"the same DOI, {reference.doi}"
        if reference.arxiv and (key := self._by_arxiv.get(reference.arxiv)):
            return key, f"the same arXiv number, {reference.arxiv}"
        title = normal_title(reference.title)
        if title and reference.authors:
            surname = _last_word(reference.authors[0].family)
            if key := self._by_title.get(title, {}).get(surname):
                return key, "the same title and first author"
        return None

    def add(self, reference: Reference) -> str:
        """Take in a paper that is not there, and return its key."""
        key = key_of(reference, self._taken)
        self._taken.add(key.lower())
        self.new[key] = reference
        self.titles[key] = reference.title
        surname = _last_word(reference.authors[0].family)
        self._know(key, reference.doi, reference.arxiv, reference.title, surname)
        return key

    def written(self) -> str:
        """Return the whole text with every new entry before the first that its key precedes; no other letter differs."""
        if not self.new:
            return self.text
        end = "\r\n" if "\r\n" in self.text else "\n"
        places, keys = _places(self.text)
        coming: dict[int, list[str]] = {}
        for key in sorted(self.new, key=str.lower):
            text = entry(self.new[key], key).replace("\n", end)
            coming.setdefault(bisect_right(keys, key.lower()), []).append(text)
        pieces, done = [], 0
        for number in sorted(coming):
            group = (2 * end).join(coming[number])
            if number < len(places):
                at, group = places[number], group + 2 * end
            else:
                at = len(self.text.rstrip())
                group = (2 * end if at else "") + group + ("" if "\n" in self.text[at:] else end)
            pieces += [self.text[done:at], group]
            done = at
        return "".join(pieces) + self.text[done:]


def _places(text: str) -> tuple[list[int], list[str]]:
    """Return where something may be put in before each entry, and the keys as far as they have risen.

    A comment right above an entry stays with it.
    """
    places: list[int] = []
    keys: list[str] = []
    ended = after = 0
    for block in bibtexparser.parse_string(text).blocks:
        raw = block.raw or ""
        at = text.find(raw, after) if raw else -1
        if at < 0:
            continue
        if found := _KEY.match(raw):
            gap = text[ended:at]
            blank = list(re.finditer(r"\n[ \t]*\r?\n", gap))
            put = ended + blank[-1].end() if blank else ended + gap.find("\n") + 1 if "\n" in gap else at
            places.append(put if places else min(put, at))
            # Where a file is not sorted, what comes in stands before the first key that is greater than all before it.
            keys.append(max(found[1].lower(), keys[-1] if keys else ""))
        after = at + len(raw)
        if not isinstance(block, model.ImplicitComment):
            ended = after
    return places, keys


def _surname(paper: Paper) -> str:
    return _last_word(paper.authors[0])


def _last_word(name: str) -> str:
    words = folded(name).split()
    return words[-1] if words else ""


def take_in(shelf: Shelf, found: list[Reference | Item], file: str, status: ReadStatus) -> Report:
    """Put every reference on the shelf that is not there already, and report what became of each."""
    report = Report()
    for one in found:
        if isinstance(one, Item):
            report.unread.append(one)
        elif one.missing:
            what = f"no {' and no '.join(one.missing)}"
            report.unread.append(Item(one.name, what, "add it", file, one.line))
        elif same := shelf.find(one):
            report.there.append(Item(one.name, f"{same[0]} has {same[1]}", file=file, line=one.line))
        else:
            key = shelf.add(replace(one, status=one.status or status))
            report.added.append(Item(key, one.title, file=file, line=one.line))
    return report
