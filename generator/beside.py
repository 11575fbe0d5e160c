"""A filled-in body comes in, its pieces still lifted out; the same body with each listing beside the prose before it goes out.

On a narrow screen nothing changes: the prose, then the listing. On a wide one the stylesheet sets the two side by side.
"""

from __future__ import annotations

import re

from generator.lift import Lifted, closed

_BLOCKS = re.compile(r"\n[ \t]*\n+")
_PROSE = re.compile(r"(?![#<|>:~`]|!!!|\?\?\?|\[\^|[ ]{4}|\t)")
"""How a block of running text, a list or a formula begins: not as a heading, HTML, a table, a fence or a footnote does."""
_WORDS_A_LINE = 9
_FORMULA_LINES = 4


def beside(text: str, lifted: Lifted) -> str:
    """Pair each listing with as much of the prose before it, back to the last thing that is none, as it is long."""
    blocks = [block for block in _BLOCKS.split(closed(text)) if block.strip()]
    made: list[str] = []
    at = 0
    while at < len(blocks):
        end = at
        while end < len(blocks) and _kind(blocks[end], lifted) == "source":
            end += 1
        if end == at:
            made.append(blocks[at])
            at += 1
            continue
        listings, at = blocks[at:end], end
        length = sum(_lines(listing, lifted) for listing in listings)
        prose: list[str] = []
        while made and _is_prose(made[-1], lifted) and sum(_lines(block, lifted) for block in prose) < length:
            prose.insert(0, made.pop())
        made.append(_pair(prose, listings) if prose else "\n\n".join(listings))
    return "\n\n".join(made) + "\n"


def _kind(block: str, lifted: Lifted) -> str:
    """Return what a block is if it is one lifted piece alone, else ''."""
    piece = lifted.alone(block)
    return piece[0] if piece else ""


def _is_prose(block: str, lifted: Lifted) -> bool:
    if piece := lifted.alone(block):
        kind, text = piece
        return kind not in ("html", "source") and not (kind == "code" and "\n" in text)
    return bool(_PROSE.match(block))


def _lines(block: str, lifted: Lifted) -> float:
    if piece := lifted.alone(block):
        kind, text = piece
        if kind in ("display math", "source"):
            return _FORMULA_LINES if kind == "display math" else text.count("\n")
    return len(block.split()) / _WORDS_A_LINE + 1


def _pair(prose: list[str], listings: list[str]) -> str:
    def inside(name: str, blocks: list[str]) -> str:
        return f'<div class="{name}" markdown="1">\n\n' + "\n\n".join(blocks) + "\n\n</div>"

    left, right = inside("pn-pair-prose", prose), inside("pn-pair-code", listings)
    return f'<div class="pn-pair" markdown="1">\n\n{left}\n\n{right}\n\n</div>'
