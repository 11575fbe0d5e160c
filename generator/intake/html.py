"""Text with HTML in it comes in; the few tags that only mark words stay, without attributes, and the rest is shown as text."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser

from generator.safe import PLAIN_TAGS

KEPT = frozenset(PLAIN_TAGS)
DROPPED = frozenset((
    "div", "p", "span", "center", "font", "figure", "figcaption", "details", "section", "article", "a",
))  # fmt: skip
"""Tags that can go while what stands in them stays."""
_VOID = frozenset(["br", "hr", "wbr"])
_TAG = re.compile(r"<(?P<end>/?)(?P<name>[A-Za-z][\w-]*)(?P<rest>(?:\s[^<>]*)?/?)>")


def opened(
    text: str, done: Callable[[str], str], picture: Callable[[str, str, str, int], str], lost: Callable[..., None]
) -> str:
    """Return text whose tags are done or written as text; `picture` makes what an <img> becomes."""
    paired = _paired(text)
    made, at = [], 0
    for number, match in enumerate(_TAG.finditer(text)):
        made.append(text[at : match.start()])
        at = match.end()
        name = match["name"].lower()
        if name == "img":
            said = _attributes(match[0])
            shown = picture(said.get("src", ""), said.get("alt", ""), _digits(said.get("width", "")), match.start())
            if not shown:
                lost(match.start(), "<img>", "no such picture came in")
            made.append(shown)
        elif number in paired:
            made.append(done(f"<{match['end']}{name}>"))
        elif name == "summary":
            made.append("**")
        elif name in DROPPED:
            continue
        else:
            lost(match.start(), f"<{match['end']}{name}>", "HTML is shown as text, but for tags that only mark words")
            made.append(
                done(f"&lt;{match[0][1:-1].replace('<', '&lt;')}&gt;") if _harmless(match[0]) else _text(match[0])
            )
    made.append(text[at:])
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", "".join(made))


def _paired(text: str) -> set[int]:
    """Return which tags, by number, may stay: those that are closed within the text, in order."""
    found: set[int] = set()
    open_: list[tuple[str, int]] = []
    for number, match in enumerate(_TAG.finditer(text)):
        name = match["name"].lower()
        if name in _VOID:
            found.add(number)
        elif name in KEPT and not match["end"]:
            open_.append((name, number))
        elif name in KEPT and open_ and open_[-1][0] == name:
            found |= {open_.pop()[1], number}
    return found


def _harmless(tag: str) -> bool:
    return not re.search(r"[\[\]{}$`*_#\\\ue000-\ue0ff]", tag)


def _text(tag: str) -> str:
    return tag.replace("<", "&lt;").replace(">", "&gt;")


def _digits(said: str) -> str:
    found = re.match(r"\d{1,4}", said)
    return found[0] if found else ""


def _attributes(tag: str) -> dict[str, str]:
    found: dict[str, str] = {}

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.update({name: value or "" for name, value in attrs})

    Reader().feed(tag)
    return found
