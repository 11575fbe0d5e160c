"""The value of a BibTeX field comes in; plain text goes out, and plain text comes in to be written into one."""

from __future__ import annotations

import re
from functools import lru_cache

from bibtexparser import Library, middlewares, model
from bibtexparser.middlewares.names import split_multiple_persons_names

_DECODER = middlewares.LatexDecodingMiddleware()
_LATEX = re.compile(r"[\\$~^]|``|''|[!?]`")
"""What a value without has nothing to decode: decoding costs more than all other reading together."""
_WORD = re.compile(r"(?:\\[A-Za-z]+\s+|\\.|[^\s{}\\]|\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})+|[{}\\]", re.DOTALL)
"""A word with all that its macros take and its braces hold."""
_BARE = re.compile(r"(?<!\\)[%&#]")
"""Meant as they stand in a title, but a comment or a column to LaTeX."""
_FORMULA = re.compile(r"((?<!\\)\$[^$]*(?<!\\)\$)")
_SPECIAL = re.compile(r"[&%#_]")


def unquoted(value: str) -> str:
    """Return a field without the braces or quotes around it: the parser leaves them on in what it found fault with."""
    value = value.strip()
    return value[1:-1] if len(value) > 1 and value[0] + value[-1] in ("{}", '""') else value


@lru_cache(maxsize=1 << 16)  # names and venues recur
def plain(value: str) -> str:
    """Return a field without LaTeX: accents as letters, no braces, single spaces; formulae as they are."""
    if _LATEX.search(value):
        whole = "$" in value or "``" in value
        value = _decoded(value) if whole else _WORD.sub(lambda word: _decoded(word[0]), value)
    pieces = _FORMULA.split(value)
    pieces[::2] = [re.sub(r"[{}]", "", piece).replace("---", "—").replace("--", "–") for piece in pieces[::2]]
    return re.sub(r"\s+", " ", "".join(pieces)).strip()


@lru_cache(maxsize=1 << 16)
def _decoded(value: str) -> str:
    if not _LATEX.search(value):
        return value
    entry = model.Entry("x", "x", [model.Field("x", _BARE.sub(r"\\\g<0>", value))])
    done = _DECODER.transform_entry(entry, Library())
    return str(done.fields[0].value) if isinstance(done, model.Entry) else value


def verbatim(value: str) -> str:
    """Return an address or an identifier: nothing decoded but the escapes that LaTeX makes people put into one."""
    value = re.sub(r"\\url\s*\{(.*)\}", r"\1", value.strip())
    return re.sub(r"\\([_%&#~$])(?:\{\})?", r"\1", value).strip("{} \n\t\r")


def people(value: str) -> list[str]:
    """Return the names of an author field, each as it is written."""
    return [name for name in split_multiple_persons_names(value) if name.strip()]


def is_group(name: str) -> bool:
    """Return whether a name is one pair of braces: no person's, but a group's, without parts."""
    if not (name.startswith("{") and name.endswith("}")):
        return False
    depth = 0
    for at, letter in enumerate(name):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return at == len(name) - 1
    return False


def escaped(text: str) -> str:
    """Return plain text as it may stand within braces: LaTeX's own characters escaped, formulae as they are."""
    pieces = _FORMULA.split(text)
    for at in range(0, len(pieces), 2):
        cleaned = re.sub(r"[{}\\]", "", pieces[at]).replace("$", r"\$")
        pieces[at] = _SPECIAL.sub(r"\\\g<0>", cleaned)
    for at in range(1, len(pieces), 2):
        if pieces[at].count("{") != pieces[at].count("}") or "@" in pieces[at]:  # as BibTeX sees it, its entry ends
            pieces[at] = re.sub(r"[{}]", "", pieces[at])
    return "".join(pieces)
