"""A paper as some catalogue describes it comes in; an entry of notes/library.bib in the style of the house goes out."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from bibtexparser.middlewares.names import parse_single_name_into_parts

from generator.identifiers import arxiv_year, folded
from generator.latex import escaped, is_group, plain
from generator.schema import ReadStatus

PREPRINT = "arXiv preprint"
UNIMPORTANT = frozenset(
    ["a", "an", "the", "on", "in", "of", "for", "to", "with", "and", "from", "is", "at", "by", "as"]
)
"""Words of a title that say nothing in a key or in an address."""
FIELDS = (
    "journal", "booktitle", "howpublished", "institution", "school", "publisher", "edition", "year", "volume", "number",
    "pages", "eprint", "archiveprefix", "doi", "url", "readstatus",
)  # fmt: skip
"""What an entry may hold besides title and authors, in the order in which it is written."""


@dataclass(frozen=True)
class Name:
    """One author: a person's given names and family name, particles within it, or a group's whole name."""

    family: str
    given: str = ""
    suffix: str = ""
    group: bool = False

    @property
    def surname(self) -> str:
        """Return the family name without its particles: Oord for van den Oord; of a group its first telling word."""
        words = list(telling(self.family))[:1] if self.group else self.family.split()
        kept = words if self.group else [word for word in words if not word[:1].islower()]
        return " ".join(kept or words[-1:]) or self.family

    def __str__(self) -> str:
        family = escaped(self.family)
        if self.group:
            return f"{{{family}}}"
        given = escaped(self.given)
        if self.suffix:
            return f"{family}, {escaped(self.suffix)}, {given}"
        if not given:
            return family if " " not in family else f"{{{family}}}"
        return f"{family}, {given}" if " " in self.surname else f"{given} {family}"


@lru_cache(maxsize=1 << 16)  # who wrote one paper wrote others
def name_of(written: str) -> Name:
    """Return a name as BibTeX understands it: 'Oord, Aaron van den', 'Aaron van den Oord' or '{The Team}'."""
    written = re.sub(r"\s+", " ", written).strip()
    written = re.sub(r" \d{4}$", "", written)  # DBLP tells namesakes apart by a number
    if is_group(written):
        return Name(plain(written), group=True)
    parts = parse_single_name_into_parts(written.strip(", "), strict=False)
    family = plain(" ".join([*parts.von, *parts.last]))
    given = plain(" ".join(parts.first))
    if not given and any(word.startswith("{") for word in parts.last):
        return Name(family, group=True)
    return Name(family or given, given if family else "", plain(" ".join(parts.jr)))


@dataclass(frozen=True)
class Reference:
    """One paper, and where its description stands."""

    kind: str = "misc"
    title: str = ""
    authors: tuple[Name, ...] = ()
    year: int = 0
    arxiv: str = ""
    doi: str = ""
    url: str = ""
    status: ReadStatus = ""
    more: Mapping[str, str] = field(default_factory=dict)
    """Where it appeared: some of FIELDS, as plain text."""
    capitals: frozenset[str] = frozenset()
    """Words of the title whose letters no style may change."""
    name: str = ""
    """What it is called in the file it comes from."""
    line: int = 0

    @property
    def missing(self) -> list[str]:
        """Return what an entry needs and this has not."""
        needed = {"title": self.title, "author": self.authors, "year": self.year}
        return [name for name, value in needed.items() if not value]

    def completed(self, other: Reference) -> Reference:
        """Return this with what only the other knows."""
        return replace(
            self,
            kind=other.kind if self.kind == "misc" else self.kind,
            title=self.title or other.title,
            authors=self.authors or other.authors,
            year=self.year or other.year,
            arxiv=self.arxiv or other.arxiv,
            doi=self.doi or other.doi,
            url=self.url or other.url,
            status=self.status or other.status,
            more={**other.more, **self.more},
            capitals=self.capitals if self.title else other.capitals,
            name=self.name or other.name,
            line=self.line or other.line,
        )


def settled(reference: Reference) -> Reference:
    """Return a reference with its kind and fields as the house has them; a preprint without a year has its number's."""
    year = reference.year or (arxiv_year(reference.arxiv) if reference.arxiv else 0)
    more = {name: value for name, value in reference.more.items() if value}
    kind = reference.kind
    if reference.arxiv and not (more.keys() & {"booktitle", "school", "institution"}):
        journal = more.get("journal", "")
        if not journal or journal == "CoRR" or "arxiv" in journal.lower():
            kind = "article"
            more = {"journal": PREPRINT}
    return replace(reference, kind=kind, year=year, more=more)


def key_of(reference: Reference, taken: Container[str]) -> str:
    """Return a key as those of the house: surname, year, first telling word of the title; then a, b, … if it is taken.

    `taken` holds keys in lower case.
    """
    surname = re.sub(r"[^a-z0-9]", "", folded(reference.authors[0].surname)) or "anon"
    key = f"{surname}{reference.year}{next(telling(reference.title), '')}"
    return next(one for one in (key + suffix for suffix in _suffixes()) if one not in taken)


def telling(title: str) -> Iterator[str]:
    """Yield the words of a title that say something, in plain letters and lower case."""
    for word in re.findall(r"[a-z0-9]+", re.sub(r"['’]", "", folded(title))):
        if word not in UNIMPORTANT:
            yield word


def _suffixes() -> Iterator[str]:
    yield ""
    letters = "abcdefghijklmnopqrstuvwxyz"
    yield from letters
    for first in _suffixes():
        yield from (first + last for last in letters if first)


def entry(reference: Reference, key: str) -> str:
    """Return the entry's text, without a line's end after it."""
    values = {
        **{name: escaped(value).replace("–", "--") for name, value in reference.more.items()},
        "year": str(reference.year),
        "eprint": reference.arxiv,
        "archiveprefix": "arXiv" if reference.arxiv else "",
        "doi": reference.doi,
        # With a DOI or a number the address adds nothing: those lead to the paper.
        "url": "" if reference.doi or reference.arxiv else _web(reference.url),
        "readstatus": reference.status,
    }
    lines = [f"  title = {{{_title(reference)}}}", f"  author = {{{' and '.join(map(str, reference.authors))}}}"]
    lines += [f"  {name} = {{{values[name]}}}" for name in FIELDS if values.get(name)]
    return f"@{reference.kind}{{{key},\n" + ",\n".join(lines) + "\n}"


def _web(url: str) -> str:
    """Return an address as braces can hold it; nothing where it is none of the web's."""
    if not re.match(r"(https?|ftp)://[^\s\\]+$", url):
        return ""
    return url if url.count("{") == url.count("}") == 0 else url.replace("{", "%7B").replace("}", "%7D")


def _title(reference: Reference) -> str:
    title = escaped(reference.title)
    if not reference.capitals:
        return title
    words = "|".join(sorted(map(re.escape, reference.capitals), key=len, reverse=True))
    return re.sub(rf"(?<![\w\\$])(?:{words})(?![\w$])", r"{\g<0>}", title)
