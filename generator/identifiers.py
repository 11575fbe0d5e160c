"""A paper's number or title as people paste it comes in; the one form in which papers are compared goes out."""

from __future__ import annotations

import re
import unicodedata

_NEW = r"\d{2}(?:0[1-9]|1[0-2])\.\d{4,5}"
_OLD = r"[a-z]+(?:-[a-z]+)?(?:\.[a-z]{2})?/\d{7}"
_NUMBER = rf"(?P<number>{_NEW}|{_OLD})(?:v\d+)?"
_ARXIV = re.compile(rf"(?<![\w.]){_NUMBER}(?![\w]|\.\d)", re.IGNORECASE)
_PASTED = re.compile(
    rf"(?:https?://)?(?:[\w.-]+\.)?(?:(?:dx\.)?doi\.org/)?(?:10\.48550/)?(?:arxiv\.org/|alphaxiv\.org/)?"
    rf"(?:(?:abs|pdf|html|format|list|overview)/)?(?:arxiv[:.]\s*)?{_NUMBER}(?:\.pdf)?(?:\s*\[[\w.-]+\])?/?(?:[?#].*)?",
    re.IGNORECASE,
)
_DOI = re.compile(r"10\.\d{4,9}/[^\s\"{}\\]*[^\s\"{}\\.,;]")
_LETTERS = str.maketrans({"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "ß": "ss", "æ": "ae", "œ": "oe", "ı": "i"})


def arxiv_of(pasted: str) -> str:
    """Return the arXiv number that somebody pasted (number, address, old or new, any version), or nothing."""
    found = _PASTED.fullmatch(pasted.strip())
    return _without_class(found["number"]) if found else ""


def arxiv_in(text: str) -> str:
    """Return the first arXiv number within a text, without its version, or nothing."""
    found = _ARXIV.search(text)
    return _without_class(found["number"]) if found else ""


def arxiv_year(number: str) -> int:
    """Return the year in which an arXiv number was given."""
    two = int(re.sub(r".*/", "", number)[:2])
    return 1900 + two if two > 90 else 2000 + two


def _without_class(number: str) -> str:
    """Return an old number as arXiv itself writes it: math.GT/0309136 is math/0309136."""
    return re.sub(r"\.[a-z]{2}/", "/", number.lower())


def doi_of(pasted: str) -> str:
    """Return a DOI without what stands around it, in its own case, or nothing."""
    found = _DOI.search(pasted.replace("\\_", "_").replace("\\%", "%"))
    return found[0] if found else ""


def is_arxivs_own(doi: str) -> bool:
    """Return whether a DOI only repeats an arXiv number."""
    return doi.lower().startswith("10.48550/arxiv.")


def folded(text: str) -> str:
    """Return a text in lower case and without accents."""
    apart = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return "".join(one for one in apart if not unicodedata.combining(one)).lower()


def normal_title(title: str) -> str:
    """Return a title by its letters and digits alone, in any script: what stays the same from one catalogue to the next."""
    return "".join(one for one in folded(title) if one.isalnum())
