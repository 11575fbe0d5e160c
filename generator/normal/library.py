"""The text of library.bib comes in; the same entries, comments and strings in normal form go out."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import bibtexparser
from bibtexparser import model

from generator.latex import unquoted
from generator.normal.refusal import Refused

logging.getLogger("bibtexparser").setLevel(logging.CRITICAL)  # its warnings become refusals here
FIELDS = (
    *("title", "subtitle", "author", "editor"),
    *("journal", "journaltitle", "booktitle", "series", "howpublished", "institution", "school", "organization"),
    *("publisher", "address", "location", "edition", "chapter", "year", "date", "month"),
    *("volume", "number", "issue", "pages"),
    *("eprint", "archiveprefix", "eprinttype", "primaryclass", "eprintclass", "doi", "isbn", "issn", "url", "urldate"),
    *("readstatus", "crossref", "note", "keywords", "abstract", "file"),
)
"""The order of an entry's fields: who and what, where, when, which, and how to find it."""
_NAME = re.compile(r"[A-Za-z][\w:.+-]*")
_MACRO = re.compile(r"[A-Za-z][\w:.+-]*|\d+")


@dataclass
class _Piece:
    """An entry with what stands above it: comments travel with the entry they precede."""

    above: list[str] = field(default_factory=list)
    entry: model.Entry | None = None


def normal(text: str) -> str:
    """Return a bibliography in normal form; raise Refused where it cannot be read whole."""
    head, pieces, foot = _pieces(_blocks(text))
    parents = {_bare(one).lower() for piece in pieces for one in _values(piece, "crossref")}

    def order(piece: _Piece) -> tuple[bool, str, str]:
        assert piece.entry
        key = piece.entry.key
        return key.lower() in parents, key.lower(), key  # BibTeX wants what others refer to after them

    ordered = sorted(pieces, key=order)
    parts = [*head, *("\n".join([*piece.above, _entry(piece.entry)]) for piece in ordered if piece.entry), *foot]
    done = "\n\n".join(parts) + "\n" if parts else ""
    if _meaning(done) != _meaning(text):
        raise Refused(1, "the bibliography would change its meaning", "bring it into form by hand; see CONTRIBUTING.md")
    return done


def _blocks(text: str) -> list[model.Block]:
    """Return every block as written; raise Refused at the first that cannot be read."""
    found = []
    for block in bibtexparser.parse_string(text, parse_stack=[]).blocks:
        line = (block.start_line or 0) + 1
        whole = block.ignore_error_block if isinstance(block, model.ParsingFailedBlock) else block
        if whole is None:
            raise Refused(line, "entry cannot be read", "check braces, quotes and commas of this entry")
        if isinstance(whole, model.Entry):
            _readable(whole, line)
        found.append(whole)
    return found


def _readable(entry: model.Entry, line: int) -> None:
    for one in entry.fields:
        if not _NAME.fullmatch(one.key):
            at = (one.start_line or line - 1) + 1
            name = " ".join(one.key.split())[:40]
            raise Refused(at, f"'{name}' is no field", "put comments between entries, not inside one")
    if not entry.key or re.search(r"[\s{}(),=]", entry.key):
        raise Refused(line, "an entry without a key", "give it a key, as in @article{doe2020toy,")


def _pieces(blocks: list[model.Block]) -> tuple[list[str], list[_Piece], list[str]]:
    """Return what stands first in the file, the entries, and what stands last."""
    head: list[str] = []
    pieces: list[_Piece] = []
    above: list[str] = []
    last = 0
    for block in blocks:
        raw = _stripped(block.raw or "")
        start = block.start_line or 0
        if not pieces and above and start > last + 1:  # a heading of the file, not a word on what comes next
            head.append("\n".join(above))
            above = []
        last = start + (block.raw or "").rstrip().count("\n")
        if isinstance(block, model.Entry):
            pieces.append(_Piece(above, block))
            above = []
        elif isinstance(block, model.String | model.Preamble):
            head.append("\n".join([*above, raw]))
            above = []
        else:
            above.append(raw)
    return head, pieces, ["\n".join(above)] if above else []


def _entry(entry: model.Entry) -> str:
    fields = sorted(entry.fields, key=lambda one: _rank(one.key.lower()))
    lines = [f"  {one.key.lower()} = {_value(str(one.value))}" for one in fields]
    return f"@{entry.entry_type.lower()}{{{entry.key},\n" + ",\n".join(lines) + "\n}"


def _rank(name: str) -> int:
    return FIELDS.index(name) if name in FIELDS else len(FIELDS)


def _value(written: str) -> str:
    """Return a value in braces; what names a @string, or is put together with #, stays as it is."""
    written = _stripped(written)
    if re.fullmatch(r"\d+", written):
        return f"{{{written}}}"
    inside = written[1:-1]
    if written.startswith('"') and written.endswith('"') and len(written) > 1 and _one_string(inside):
        return f"{{{inside.strip()}}}"
    if written.startswith("{") and written.endswith("}") and _balanced(inside):
        return f"{{{inside.strip()}}}"
    return written


def _one_string(inside: str) -> bool:
    """Return whether a quotation is one string, not several put together."""
    return _balanced(inside) and '"' not in re.sub(r"\{[^{}]*\}", "", inside)


def _balanced(text: str) -> bool:
    depth = 0
    for character in re.sub(r"\\[{}]", "", text):
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


def _stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().split("\n"))


def _bare(value: str) -> str:
    return value.strip().strip('{}"').strip()


def _values(piece: _Piece, name: str) -> Iterator[str]:
    for one in piece.entry.fields if piece.entry else ():
        if one.key.lower() == name:
            yield str(one.value)


def _meaning(text: str) -> Any:
    """Return what a bibliography says, without order and layout."""
    entries, others = [], []
    for block in bibtexparser.parse_string(text).blocks:
        whole = block.ignore_error_block if isinstance(block, model.ParsingFailedBlock) else block
        if isinstance(whole, model.Entry):
            fields = sorted((one.key.lower(), " ".join(unquoted(str(one.value)).split())) for one in whole.fields)
            entries.append((whole.entry_type.lower(), whole.key, fields))
        else:
            others.append(" ".join(str(block.raw).split()))
    return sorted(entries), sorted(" ".join(others).split())
