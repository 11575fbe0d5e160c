"""Names and texts as other programs write them come in; slugs, tags, dates, titles and summaries of the house go out."""

from __future__ import annotations

import datetime
import re
from collections.abc import Container
from typing import Any

from generator.identifiers import folded
from generator.load import RESERVED

SUMMARY = 200
TITLE = 300
_TAG = 40
_SLUG = 80
_ISO = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)")
_SENTENCE = re.compile(r"(?<=[.!?。！？])[\"”’')\]]*(?:\s+|$)")


def slug_of(*names: str) -> str:
    """Return the slug that the first name with a letter in it makes."""
    for name in names:
        made = re.sub(r"[^a-z0-9]+", "_", folded(name)).strip("_")
        if re.search("[a-z]", made):
            return (made if made[0].isalpha() else f"note_{made}")[:_SLUG].rstrip("_")
    return "note"


def free(slug: str, taken: Container[str]) -> str:
    """Return the slug, with a number where it is taken or an address of the site."""
    number, made = 1, slug
    while made in taken or made in RESERVED:
        number += 1
        made = f"{slug[: _SLUG - 1 - len(str(number))]}_{number}"
    return made


def tag_of(written: str) -> str:
    """Return a tag as the house writes it (a/B_c is a-b-c), or nothing where no letter of it is left."""
    split = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "-", written)  # GraphNets is graph-nets, GANs stays one word
    made = re.sub(r"[^a-z0-9]+", "-", folded(split)).strip("-")
    return made[:_TAG].rstrip("-")


def date_of(said: Any) -> datetime.date | None:
    """Return the day that a value of front matter or a file's name tells, where it does so beyond doubt."""
    if isinstance(said, datetime.datetime):
        return said.date()
    if isinstance(said, datetime.date):
        return said
    if found := _ISO.match(str(said or "").strip()):
        try:
            return datetime.date(*map(int, found.groups()))
        except ValueError:
            return None
    return None


def one_line(text: str, most: int) -> str:
    """Return a text on one line, cut at a word where it is too long."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    if len(line) <= most:
        return line
    return line[: most - 1].rsplit(" ", 1)[0].rstrip(" ,;:–-") + "…"


def summary_of(paragraph: str) -> str:
    """Return the first sentence of a paragraph, as plain text."""
    text = re.sub(r"!?\[\[[^\]|]*\|([^\]]*)\]\]|!\[[^\]]*\]\([^)]*\)", r"\1", paragraph[: 20 * SUMMARY])
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)(?:\{[^}]*\})?", r"\1", text)
    text = re.sub(r"\[@([^\]]*)\]|\[\^[^\]]*\]|<(?![\s\d])[^>]*>", "", text)
    text = re.sub(r"\$[^$\n]*\$", lambda found: re.sub(r"\\[A-Za-z]+|[{}$\\]", "", found[0]), text)
    text = (
        re.sub(r"\*\*|__|(?<!\w)[*_](?=\w)|(?<=\w)[*_](?!\w)|`|\$", "", text)
        .replace("&#123;", "{")
        .replace("&#36;", "$")
    )
    text = text.replace("&lt;", "<").replace("&#91;", "[").replace("&#40;", "(").replace("\\", "")
    line = re.sub(r"\s+([.,;:!?])", r"\1", one_line(text, 10 * SUMMARY))
    end = next((found.start() for found in _SENTENCE.finditer(line)), len(line))
    return one_line(line[:end], SUMMARY)
