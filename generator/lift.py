"""Markdown comes in; the same text goes out with formulae and code lifted out, so that Jinja never sees them."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Literal

PieceKind = Literal["code", "inline math", "display math", "html", "source", "reference"]

# What may begin something; a Jinja tag is found only to be left alone.
_OPENS = re.compile(
    r"(?P<fence>^(?P<indent>[ \t>]*+)(?P<tick>`{3,}+|~{3,}+)[^\n]*+\n)|(?P<escape>\\[\\`$])|(?P<code>`+)"
    r"|(?P<jinja>\{[{%#])|(?P<display>\$\$|\\\[)|(?P<inline>(?<![\w$])\$|\\\()",
    re.MULTILINE,
)
_FENCE_ENDS = re.compile(r"^([ \t>]*+)(`{3,}+|~{3,}+)[`~]*+[ \t]*+$", re.MULTILINE)
_DOLLARS = re.compile(r"\$((?![\s$])(?:[^$\\\n]|\\.|\n(?!\s*\n))*?(?<!\s))\$(?![\d$])", re.DOTALL)
_ENDS = {"{{": "}}", "{%": "%}", "{#": "#}", "$$": "$$", "\\[": "\\]", "\\(": "\\)"}
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

    def lines(self) -> dict[int, int]:
        """Return the line that each piece begins on, by its number; marks within pieces are on none."""
        found, line, at = {}, 1, 0
        for mark in _MARK.finditer(self.text):
            line += self.text.count("\n", at, mark.start())
            at = mark.start()
            found[int(mark[1])] = line
        return found

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
    # Marks of our own in the input would be taken for pieces.
    text = markdown.replace("\ue000", "").replace("\ue001", "")
    kept, at = [], 0
    for start, end, kind, piece in _Scanner(text).pieces():
        kept += [text[at:start], piece if kind == "text" else lifted.put(kind, piece, text.count("\n", start, end))]
        at = end
    lifted.text = "".join([*kept, text[at:]])
    return lifted


Found = tuple[int, int, PieceKind | Literal["text"], str]
"""Where a piece begins and ends, what it is, and what it says; text stays where it is."""


def _place(tick: str, indent: str) -> tuple[str, str]:
    """Return where a fence stands: of which character, and in which list or quotation."""
    return tick[0], "" if len(indent) < 4 and not indent.strip(" ") else indent


class _Scanner:
    """Finds pieces from left to right, first come, first served, in time that grows with the text and no faster.

    One regular expression for all of it would, at each of ten thousand openings that nothing closes, read to the end.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._absent: dict[str, int] = {}

    def pieces(self) -> Iterator[Found]:
        at = 0
        while found := _OPENS.search(self.text, at):
            piece, at = getattr(self, f"_{found.lastgroup}")(found)
            if piece:
                yield piece

    # Each takes where something may begin, and returns the piece, if it is one, and where to go on.

    def _fence(self, found: re.Match[str]) -> tuple[Found | None, int]:
        tick = found["tick"]
        place = _place(tick, found["indent"])
        ends = self._fence_ends[place]
        first = bisect_left(ends, (found.end(), 0, 0))
        if first == len(ends):  # nothing closes it: perhaps a code span begins there
            return self._span(found.start("tick"), found.end("tick")) if tick[0] == "`" else (None, found.end("tick"))
        length = min(len(tick), self._longest[place][first])
        end = next(ends[n][2] for n in range(first, len(ends)) if ends[n][1] >= length)
        return (found.start(), end, "code", self.text[found.start() : end]), end

    def _escape(self, found: re.Match[str]) -> tuple[Found | None, int]:
        if found[0] != r"\$":
            return None, found.end()
        return (found.start(), found.end(), "text", "&#36;"), found.end()  # Markdown knows no such escape

    def _code(self, found: re.Match[str]) -> tuple[Found | None, int]:
        return self._span(found.start(), found.end())

    def _span(self, start: int, opened: int) -> tuple[Found | None, int]:
        """Find the code span that these backticks open, or the last few of them; a blank line ends all hope."""
        at = bisect_left(self._blanks, opened)
        most = self._blanks[at] if at < len(self._blanks) else len(self.text)
        for length in range(opened - start, 0, -1):
            runs = self._runs.get(length, [])
            nearest = bisect_left(runs, opened + 1)
            if nearest < len(runs) and runs[nearest] <= most:
                end = runs[nearest] + length
                return (opened - length, end, "code", self.text[opened - length : end]), end
        return None, opened

    def _jinja(self, found: re.Match[str]) -> tuple[None, int]:
        end = self._find(_ENDS[found[0]], found.end())
        return None, found.start() + 1 if end < 0 else end + 2

    def _display(self, found: re.Match[str]) -> tuple[Found | None, int]:
        return self._between(found, "display math")

    def _inline(self, found: re.Match[str]) -> tuple[Found | None, int]:
        if found[0] != "$":
            return self._between(found, "inline math")
        whole = _DOLLARS.match(self.text, found.start())
        if not whole:
            return None, found.end()
        return (whole.start(), whole.end(), "inline math", whole[1]), whole.end()

    def _between(self, found: re.Match[str], kind: PieceKind) -> tuple[Found | None, int]:
        end = self._find(_ENDS[found[0]], found.end() + 1)
        if end < 0:
            return None, found.start() + 1
        said = self.text[found.end() : end]
        return (found.start(), end + 2, kind, said.strip() if kind == "display math" else said), end + 2

    def _find(self, closing: str, at: int) -> int:
        """Return where something stands next, or -1; what was not there once is not looked for again."""
        if at >= self._absent.get(closing, len(self.text) + 1):
            return -1
        found = self.text.find(closing, at)
        if found < 0:
            self._absent[closing] = at
        return found

    @cached_property
    def _fence_ends(self) -> dict[tuple[str, str], list[tuple[int, int, int]]]:
        """Return each line that may close a fence, by its place: where it begins, how long its run is, where it ends."""
        ends: dict[tuple[str, str], list[tuple[int, int, int]]] = defaultdict(list)
        for found in _FENCE_ENDS.finditer(self.text):
            ends[_place(found[2], found[1])].append((found.start(), len(found[2]), found.end()))
        return ends

    @cached_property
    def _longest(self) -> dict[tuple[str, str], list[int]]:
        """Return, for each line that may close a fence, the longest run of it and of those after it."""
        return {
            place: list(accumulate((run for _, run, _ in reversed(ends)), max))[::-1]
            for place, ends in self._fence_ends.items()
        }

    @cached_property
    def _blanks(self) -> list[int]:
        return [found.start() for found in re.finditer(r"\n\s*\n", self.text)]

    @cached_property
    def _runs(self) -> dict[int, list[int]]:
        """Return where runs of so many backticks stand."""
        runs: dict[int, list[int]] = defaultdict(list)
        for found in re.finditer("`+", self.text):
            runs[len(found[0])].append(found.start())
        return runs
