"""A filled-in body comes in; the links in it, and the sentence that each stands in, go out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from generator.embeds import LINK

SENTENCE = re.compile(r"(?<=[.!?])(?:\*\*)?\s+(?=[^a-z\s])")
"""Between two sentences: a stop, perhaps the end of bold type, then anything but a small letter."""
AROUND = 2000
"""Characters before and after a link within which its sentence is looked for: some text has no full stop."""


def links(text: str) -> Iterator[re.Match[str]]:
    """Yield the links of a text, those in headings last: a sentence says more."""
    later: list[re.Match[str]] = []
    at = 0
    for line in text.split("\n"):
        found = LINK.finditer(text, at, at + len(line))
        at += len(line) + 1
        if line.startswith("#"):
            later += found
        else:
            yield from found
    yield from later


def around(text: str, link: re.Match[str]) -> str:
    """Return the sentence that a link stands in; of a table, its row."""
    least, most = max(0, link.start() - AROUND), link.end() + AROUND
    start, end = text.rfind("\n\n", least, link.start()) + 1 or least, text.find("\n\n", link.end(), most)
    paragraph = text[start : end if end >= 0 else most]
    inside = link.start() - start
    if paragraph.lstrip().startswith("|"):
        row = paragraph[paragraph.rfind("\n", 0, inside) + 1 :].partition("\n")[0]
        return " · ".join(cell.strip() for cell in row.strip().strip("|").split("|"))
    ends = [0, *(one.end() for one in SENTENCE.finditer(paragraph)), len(paragraph)]
    return next(paragraph[a:b] for a, b in pairwise(ends) if a <= inside < b)
