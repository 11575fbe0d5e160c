"""BibTeX or biblatex as catalogues export it comes in; references go out, and for each entry that is none, why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import bibtexparser
from bibtexparser import model

from generator.bibliography import READSTATUS
from generator.identifiers import arxiv_in, doi_of, is_arxivs_own
from generator.intake.reference import Reference, name_of, settled
from generator.intake.report import Item
from generator.latex import people, plain, unquoted, verbatim
from generator.schema import ReadStatus

_KINDS = {
    "article": "article", "inproceedings": "inproceedings", "conference": "inproceedings", "book": "book",
    "incollection": "incollection", "inbook": "incollection", "inreference": "incollection", "booklet": "misc",
    "collection": "book", "mvbook": "book", "proceedings": "book", "phdthesis": "phdthesis", "thesis": "phdthesis",
    "mastersthesis": "mastersthesis", "techreport": "techreport", "report": "techreport", "periodical": "article",
}  # fmt: skip
_SOURCES = {
    "journal": ("journal", "journaltitle"),
    "booktitle": ("booktitle",),
    "school": ("school",),
    "institution": ("institution",),
    "howpublished": ("howpublished", "organization"),
    "edition": ("edition",),
    "volume": ("volume",),
    "number": ("number", "issue"),
    "pages": ("pages",),
    "publisher": ("publisher",),
}
"""The names by which BibTeX and biblatex call what an entry of the house holds; all others are left out."""
_INHERITED = ("year", "date", "publisher", "volume", "number", "journal", "journaltitle", "booktitle", "editor")
TAGS: dict[str, ReadStatus] = {
    "to read": "to read", "toread": "to read", "unread": "to read", "read later": "to read", "todo": "to read",
    "reading": "reading", "in progress": "reading", "skimmed": "reading", "read": "read", "done": "read",
}  # fmt: skip
"""Tags by which people keep a reading list."""


def references(text: str, file: str) -> Iterator[Reference | Item]:
    """Yield each entry of a file as a reference, or what is wrong with it."""
    parsed = [_entry(block, file) for block in bibtexparser.parse_string(text).blocks]
    entries = [one for one in parsed if isinstance(one, model.Entry)]
    by_key = {one.key.lower(): _fields(one) for one in reversed(entries)}
    parents = {plain(fields["crossref"]).lower() for fields in by_key.values() if "crossref" in fields}
    for one in parsed:
        if isinstance(one, Item):
            yield one
        elif isinstance(one, model.Entry) and not (one.key.lower() in parents and one.entry_type.lower() in _VOLUMES):
            fields = _fields(one)
            parent = by_key.get(plain(fields.get("crossref", "")).lower(), {}) if "crossref" in fields else {}
            yield _reference(one, {**_handed_down(parent, one.entry_type.lower()), **fields})


_VOLUMES = ("proceedings", "book", "collection", "mvproceedings", "mvbook", "mvcollection")


def _entry(block: model.Block, file: str) -> model.Entry | Item | None:
    """Return a block's entry; one whose key or field is given twice as well: only its first is looked at."""
    line = (block.start_line or 0) + 1
    if isinstance(block, model.Entry):
        return block
    if isinstance(block, model.DuplicateBlockKeyBlock | model.DuplicateFieldKeyBlock):
        inner = block.ignore_error_block
        if isinstance(inner, model.Entry):  # it was set aside before the signs around its values were taken off
            fields = [model.Field(one.key, unquoted(str(one.value))) for one in inner.fields]
            return model.Entry(inner.entry_type, inner.key, fields, start_line=block.start_line)
    if isinstance(block, model.ParsingFailedBlock):
        return Item("", "entry cannot be read", "check its braces, quotes and commas", file, line)
    return None


def _fields(entry: model.Entry) -> dict[str, str]:
    return {field.key.lower(): str(field.value) for field in reversed(entry.fields) if str(field.value).strip()}


def _handed_down(parent: Mapping[str, str], kind: str) -> dict[str, str]:
    """Return what an entry has from the volume that it appeared in."""
    found = {name: parent[name] for name in _INHERITED if name in parent}
    if "title" in parent and kind in ("inproceedings", "incollection", "inbook", "conference"):
        found.setdefault("booktitle", parent["title"])
    return found


def _reference(entry: model.Entry, fields: dict[str, str]) -> Reference:
    names = people(fields.get("author") or fields.get("editor") or "")
    date = plain(fields.get("year") or fields.get("date") or "")
    year = re.search(r"(?<!\d)(1[5-9]|20)\d\d(?!\d)", date)
    more = {
        name: next((plain(fields[one]) for one in sources if one in fields), "") for name, sources in _SOURCES.items()
    }
    kind = _KINDS.get(entry.entry_type.lower(), "misc")
    if kind == "phdthesis" and "master" in fields.get("type", "").lower():
        kind = "mastersthesis"
    if kind.endswith("thesis"):
        more["school"], more["institution"] = more["school"] or more["institution"], ""
    arxiv, doi = _numbers(fields)
    if arxiv and "arxiv" in more["number"].lower() + more["publisher"].lower():
        more["number"] = more["publisher"] = ""
    title = fields.get("title", "")
    if subtitle := fields.get("subtitle"):
        title = f"{title}: {subtitle}"
    return settled(
        Reference(
            kind=kind,
            title=plain(title),
            authors=tuple(name_of(name) for name in names if name.strip("{} ").lower() != "others"),
            year=int(year[0]) if year else 0,
            arxiv=arxiv,
            doi=doi,
            url=verbatim(fields.get("url", "")),
            status=status_of(fields.get("readstatus", ""), re.split(r"[,;]", fields.get("keywords", ""))),
            more=more,
            capitals=_capitals(title),
            name=entry.key,
            line=(entry.start_line or 0) + 1,
        )
    )


def _numbers(fields: Mapping[str, str]) -> tuple[str, str]:
    """Return the arXiv number and the DOI, wherever the entry has them; a DOI that repeats the number is none."""
    doi = doi_of(verbatim(fields.get("doi", "")))
    kind = plain(fields.get("archiveprefix") or fields.get("eprinttype") or "").lower()
    arxiv = arxiv_in(plain(fields["eprint"])) if "eprint" in fields and kind in ("", "arxiv") else ""
    for name in ("journal", "journaltitle", "number", "howpublished", "note", "url"):
        if not arxiv and "arxiv" in (said := fields.get(name, "")).lower():
            arxiv = arxiv_in(said.removesuffix(".pdf"))
    if is_arxivs_own(doi):
        arxiv, doi = arxiv or arxiv_in(doi.partition(".")[2].partition(".")[2]), ""
    return arxiv, doi


def status_of(readstatus: str, tags: list[str]) -> ReadStatus:
    """Return how far the reading has come, by JabRef's field or else by a tag."""
    for said in (readstatus, *tags):
        if found := (READSTATUS | TAGS).get(re.sub(r"[-_\s]+", " ", plain(said)).strip(" /#!.").lower()):
            return found
    return ""


def _capitals(title: str) -> frozenset[str]:
    """Return the words that the title braces and that have a capital after their first letter: GAN, but not Deep."""
    braced = re.findall(r"\{([^{}\\$]*)\}", title)
    words = {word for group in braced for word in re.findall(r"[\w-]+", group)}
    return frozenset(word for word in words if re.search(r".[A-Z]", word))
