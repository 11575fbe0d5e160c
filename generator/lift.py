"""Markdown comes in; the same text goes out with formulae and code lifted out, so that Jinja never sees them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

PieceKind = Literal["code", "inline math", "display math", "html", "source", "reference"]

# First come, first served from left to right; a Jinja tag is matched only to be left alone.
_TOKENS = re.compile(
    r"""
    (?P<fence>^(?P<indent>[ ]{0,3}(?P<deep>(?:[ \t]|>[ ]?)+)?)(?P<tick>`{3,}|~{3,})[^\n]*\n
        (?:.*?\n)??(?(deep)(?P=indent)|[ ]{0,3})(?P=tick)[`~]*[ \t]*$)
    |(?P<escape>\\[\\`$])
    |(?P<code>(?P<run>`+)(?!`)(?:[^\n]|\n(?!\s*\n))+?(?<!`)(?P=run)(?!`))
    |(?P<jinja>\{\{.*?\}\}|\{%.*?%\}|\{\#.*?\#\})
    |(?P<display>\$\$(?P<d1>.+?)\$\$|\\\[(?P<d2>.+?)\\\])
    |(?P<inline>(?<![\w$])\$(?P<i1>(?![\s$])(?:[^$\\\n]|\\.|\n(?!\s*\n))*?(?<!\s))\$(?![\d$])|\\\((?P<i2>.+?)\\\))
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
_MARK = re.compile("\ue000(\\d+)\n*\ue001")


def closed(text: str) -> str:
    """Return the text with marks that span no lines: a blank line in it stands between two blocks, never in a mark."""
    return _MARK.sub("\ue000\\1\ue001", text)


_OPENING = re.compile(r"[\s>]*(`{3,}|~{3,})")


def settled(code: str) -> str:
    """Return code so that no engine reads HTML in it: a fence closed as it was opened, a span on one line."""
    *lines, last = code.split("\n")
    if not lines:
        return code
    opening = _OPENING.match(lines[0])
    if opening and re.fullmatch(r"[\s>]*[`~]+[ \t]*", last):
        return "\n".join([*lines, re.sub(r"[`~]+[ \t]*$", opening[1], last)])
    return " ".join([*lines, last])


@dataclass
class Lifted:
    """Text with marks in place of its pieces, and the pieces."""

    text: str = ""
    pieces: list[tuple[PieceKind, str]] = field(default_factory=list)

    def put(self, kind: PieceKind, piece: str, lines: int = 0) -> str:
        """Keep a piece and return its mark, which spans as many lines as the text it stands for."""
        self.pieces.append((kind, piece))
        return f"\ue000{len(self.pieces) - 1}" + "\n" * lines + "\ue001"

    def alone(self, block: str) -> tuple[PieceKind, str] | None:
        """Return the piece that a block of text is, if it is one piece and nothing else."""
        mark = _MARK.fullmatch(block.strip())
        return self.pieces[int(mark[1])] if mark else None

    def back(self, text: str, show: Callable[[PieceKind, str], str]) -> str:
        """Return the text with each mark replaced by what `show` makes of its piece; marks may hold marks."""
        while _MARK.search(text):
            text = _MARK.sub(lambda mark: show(*self.pieces[int(mark[1])]), text)
        return text


def lift(markdown: str) -> Lifted:
    """Lift code fences, code spans and formulae out of a note's body."""
    lifted = Lifted()

    def take(match: re.Match[str]) -> str:
        whole, lines = match[0], match[0].count("\n")
        if match["fence"] or match["code"]:
            return lifted.put("code", whole, lines)
        if whole == r"\$":
            return "&#36;"  # Markdown knows no such escape
        if match["display"]:
            return lifted.put("display math", (match["d1"] or match["d2"]).strip(), lines)
        if match["inline"]:
            return lifted.put("inline math", match["i1"] or match["i2"], lines)
        return whole

    # Marks of our own in the input would be taken for pieces.
    lifted.text = _TOKENS.sub(take, markdown.replace("\ue000", "").replace("\ue001", ""))
    return lifted
