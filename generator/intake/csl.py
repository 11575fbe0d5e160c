"""A library in CSL-JSON, as Zotero exports it, comes in; references go out, and for each item that is none, why."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from generator.identifiers import arxiv_in, doi_of, is_arxivs_own
from generator.intake.bibtex import status_of
from generator.intake.reference import Name, Reference, settled
from generator.intake.report import Item

_KINDS = {
    "article-journal": "article", "article-magazine": "article", "article-newspaper": "article", "review": "article",
    "journal-article": "article", "paper-conference": "inproceedings", "proceedings-article": "inproceedings",
    "book": "book", "monograph": "book", "chapter": "incollection", "book-chapter": "incollection",
    "thesis": "phdthesis", "dissertation": "phdthesis", "report": "techreport",
}  # fmt: skip
"""The types of CSL, and Crossref's own names for them."""
_CONTAINERS = {"article": "journal", "inproceedings": "booktitle", "incollection": "booktitle"}
_PUBLISHERS = {"phdthesis": "school", "techreport": "institution", "misc": "howpublished"}
_SPACE = re.compile(r"\s*")


def references(text: str, file: str) -> Iterator[Reference | Item]:
    """Yield each item of a file as a reference, or what is wrong with it; after broken JSON nothing more is found."""
    decoder, at, line, seen = json.JSONDecoder(), 0, 1, 0
    start = re.match(r"\s*(\{\s*\"items\"\s*:\s*)?\[", text)
    at = start.end() if start else 0
    while True:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        line, seen = line + text.count("\n", seen, at), at
        if start and text[at : at + 1] == "]":
            return
        try:
            found, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            place = text.count("\n", 0, getattr(error, "pos", at)) + 1
            what = f"no JSON: {getattr(error, 'msg', 'nested too deeply').lower()}"
            yield Item("", what, "export the library once more as CSL JSON", file, place)
            return
        yield (
            reference(found, line)
            if isinstance(found, dict)
            else Item("", "an item that is no object", "export the library once more as CSL JSON", file, line)
        )
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if not start:
            return
        at += text[at : at + 1] == ","


def reference(item: Mapping[str, Any], line: int = 0) -> Reference:
    """Return one item of CSL-JSON, or one work as Crossref describes it, as a reference."""
    kind = _KINDS.get(_text(item.get("type")), "misc")
    arxiv, doi = _numbers(item)
    publisher = _text(item.get("publisher"))
    more = {
        _CONTAINERS.get(kind, "howpublished"): _text(item.get("container-title")),
        "volume": _text(item.get("volume")),
        "number": _text(item.get("issue")),
        "pages": _text(item.get("page")).replace("-", "--").replace("----", "--"),
    }
    if kind == "book":
        more = {"edition": _text(item.get("edition")), "publisher": publisher}
    elif kind in _PUBLISHERS and not (arxiv and "arxiv" in publisher.lower()):
        more[_PUBLISHERS[kind]] = more.get(_PUBLISHERS[kind]) or publisher
    tags = item.get("keyword") or item.get("tags") or item.get("categories") or ""
    return settled(
        Reference(
            kind=kind,
            title=_text(item.get("title")),
            authors=tuple(_names(item.get("author") or item.get("editor"))),
            year=_year(item),
            arxiv=arxiv,
            doi=doi,
            url=_text(item.get("URL")),
            status=status_of(
                "", [_text(tag) for tag in (tags if isinstance(tags, list) else re.split("[,;]", str(tags)))]
            ),
            more=more,
            name=_text(item.get("citation-key") or item.get("id")),
            line=line,
        )
    )


def _text(value: Any) -> str:
    """Return a value as plain text: the first of a list, a number as it is written, without marks of HTML."""
    if isinstance(value, list):
        value = value[0] if value else ""
    if isinstance(value, Mapping):
        value = value.get("tag", "")
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return ""
    text = re.sub(r"</?(?:i|b|sub|sup|em|strong|scp|span|sc|tt|mml:\w+|jats:\w+)\b[^<>]*>", "", str(value))
    return re.sub(r"\s+", " ", html.unescape(text)).strip()


def _names(people: Any) -> Iterator[Name]:
    for person in people if isinstance(people, list) else []:
        if not isinstance(person, Mapping):
            continue
        particle = _text(person.get("non-dropping-particle") or person.get("dropping-particle"))
        family, given = _text(person.get("family")), _text(person.get("given"))
        if family:
            yield Name(f"{particle} {family}".strip(), given, _text(person.get("suffix")))
        elif whole := _text(person.get("literal") or person.get("name")) or given:
            yield Name(whole, group=True)


def _year(item: Mapping[str, Any]) -> int:
    for name in ("issued", "published-print", "published", "published-online", "original-date"):
        date = item.get(name)
        if isinstance(date, Mapping):
            date = date.get("date-parts") or date.get("literal") or date.get("raw")
        if found := re.search(r"(?<!\d)(1[5-9]|20)\d\d(?!\d)", str(date or "")):
            return int(found[0])
    return 0


def _numbers(item: Mapping[str, Any]) -> tuple[str, str]:
    doi = doi_of(_text(item.get("DOI")))
    arxiv = arxiv_in(doi.partition(".")[2].partition(".")[2]) if is_arxivs_own(doi) else ""
    for name in ("number", "archive_location", "note", "container-title", "URL"):
        said = _text(item.get(name))
        if not arxiv and "arxiv" in (said + _text(item.get("archive")) * (name == "archive_location")).lower():
            arxiv = arxiv_in(said.removesuffix(".pdf"))
    return arxiv, "" if is_arxivs_own(doi) else doi
