"""A note's text comes in; the same text with its front matter in normal form goes out.

Nothing is dumped: pieces of the text are moved and rewritten where they stand, so that comments, numbers and the
writer's own folding stay as they are.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from generator.frontmatter import scalars
from generator.normal.pieces import comments, compose, meaning, placed_comments, scalar, split
from generator.normal.refusal import Refused
from generator.schema import Claim, Expect, FrontMatter, Update

WIDTH = 120
"""Where a long value is folded."""
LIMIT = 200
"""How long a line may be, as long as a summary: how a writer folded shorter ones is left to them."""
FLOW = ("papers", "tags", "relations", "expect")
"""What stands on one line, as in [one, two]."""
ORDERS: dict[str, Sequence[str]] = {
    "": tuple(FrontMatter.model_fields),
    "claims": tuple(Claim.model_fields),
    "updates": tuple(Update.model_fields),
    "expect": tuple(Expect.model_fields),
}


def normal(text: str) -> str:
    """Return a note with its front matter in normal form; raise Refused where that cannot be done."""
    head, body = split(text)
    before = compose(head)
    if before.flow_style:
        raise Refused(2, "front matter in braces", "write lines such as 'title: …'")
    done = _trimmed(_ordered(_folded(_rewritten(head, before))))
    if meaning(done) != meaning(head) or comments(done) != comments(head):
        raise Refused(1, "the front matter would change its meaning", "bring it into form by hand; see CONTRIBUTING.md")
    body = body.rstrip("\n")
    return f"---\n{done}---\n" + (f"{body}\n" if body else "")


def _trimmed(head: str) -> str:
    """Return front matter without blank lines and trailing spaces, but for those inside a value."""
    inside = {line for value in scalars(compose(head)) for line in _spanned(value)}
    lines = ((number, line) for number, line in enumerate(head.split("\n")))
    kept = (
        line if number in inside else line.rstrip(" \t")
        for number, line in lines
        if line.strip(" \t") or number in inside
    )
    return "".join(f"{line}\n" for line in kept)


def _spanned(value: yaml.ScalarNode) -> range:
    """Return the lines whose every character may be part of a value."""
    first, last = value.start_mark.line, _last(value)
    return range(first + 1, last + 1) if value.style in ("|", ">") else range(first, last)


# Values are rewritten where they stand.


def _rewritten(head: str, node: yaml.MappingNode) -> str:
    said = [at for at, _ in placed_comments(head)]
    edits = list(_edits(node, head, said))
    for start, end, text in sorted(edits, reverse=True):
        head = head[:start] + text + head[end:]
    return head


def _edits(node: yaml.MappingNode, head: str, said: list[int]) -> Iterator[tuple[int, int, str]]:
    for key, value in node.value:
        start, end = key.start_mark.index, _end(value)
        if any(key.start_mark.index < at < end for at in said):
            if not isinstance(value, yaml.ScalarNode):
                yield from _inside(value, head, said)
            continue
        name = scalar(key.value)
        if isinstance(value, yaml.ScalarNode):
            if value.style not in ("|", ">"):
                yield start, end, f"{name}: {_scalar(value, head)}".rstrip()
        elif key.value in FLOW or value.flow_style:
            yield start, end, f"{name}: {_flow(value, key.value)}"
        else:
            yield from _inside(value, head, said)


def _inside(value: Any, head: str, said: list[int]) -> Iterator[tuple[int, int, str]]:
    if value.flow_style:
        return
    if isinstance(value, yaml.MappingNode):
        yield from _edits(value, head, said)
    for one in value.value if isinstance(value, yaml.SequenceNode) else ():
        yield from _inside(one, head, said) if not isinstance(one, yaml.ScalarNode) else ()


def _scalar(node: yaml.ScalarNode, head: str) -> str:
    written = head[node.start_mark.index : node.end_mark.index]
    if node.tag == "tag:yaml.org,2002:timestamp":
        value = yaml.safe_load(written)
        midnight = isinstance(value, datetime.datetime) and value == datetime.datetime(
            value.year, value.month, value.day
        )
        return value.date().isoformat() if midnight else written
    if node.tag != "tag:yaml.org,2002:str":
        return written
    if node.style and re.fullmatch(r"\d{4}-\d\d-\d\d", node.value):
        return node.value
    if "\n" in written:
        return "\n".join(line.rstrip(" \t") for line in written.split("\n"))
    return scalar(node.value)


def _flow(node: yaml.Node, name: str = "") -> str:
    """Return a node on one line."""
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(_flow(one) for one in node.value)}]"
    if isinstance(node, yaml.MappingNode):
        order = ORDERS.get(name, ())
        pairs = sorted(node.value, key=lambda pair: _rank(pair[0].value, order))
        return "{" + ", ".join(f"{scalar(key.value, flow=True)}: {_flow(value)}".rstrip() for key, value in pairs) + "}"
    return scalar(node.value, flow=True) if node.tag == "tag:yaml.org,2002:str" else node.value or "null"


def _end(node: Any) -> int:
    """Return where the last piece of a node ends; a block itself ends only where the next begins."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        return node.end_mark.index
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _rank(key: str, order: Sequence[str]) -> int:
    return order.index(key) if key in order else len(order)


# Long values are folded.


def _folded(head: str) -> str:
    edits = list(_folds(compose(head), head, 0))
    for start, end, text in sorted(edits, reverse=True):
        head = head[:start] + text + head[end:]
    return head


def _folds(node: Any, head: str, depth: int) -> Iterator[tuple[int, int, str]]:
    if isinstance(node, yaml.ScalarNode) or node.flow_style:
        return
    pairs = node.value if isinstance(node, yaml.MappingNode) else [(None, one) for one in node.value]
    for key, value in pairs:
        if key is None or not isinstance(value, yaml.ScalarNode):
            yield from _folds(value, head, depth + 1)
        elif value.style in (None, '"') and value.tag == "tag:yaml.org,2002:str":
            start, end = value.start_mark.index, value.end_mark.index
            written = head[start:end]
            column = key.start_mark.column
            lines = (" " * value.start_mark.column + written).split("\n")
            if depth and max(map(len, lines)) > LIMIT:
                first = " " * (column + len(key.value) + 2)
                yield start, end, _wrap(scalar(value.value), first, " " * (column + 2))
            elif len(lines) > 1 and not depth:
                yield start, end, scalar(value.value)


def _wrap(text: str, first: str, rest: str) -> str:
    """Fold a scalar: at single spaces only, for no other white space comes back as it was."""
    lines, line = [], first
    for word in re.split(r"(?<=[^\s\\]) (?=[^\s\\])", text):
        if len(line) + len(word) > WIDTH and line.strip():
            lines.append(line.rstrip())
            line = rest
        line += word + " "
    return "\n".join([*lines, line.rstrip()])[len(first) :]


# Keys are put in order, whole lines at a time: what is above a key stays above it.


def _ordered(head: str) -> str:
    node = compose(head)
    if _lies_bare(node):
        return head
    return "\n".join(_lines(node, head.split("\n"), 0, head.count("\n") + 1, ""))


def _lies_bare(node: yaml.MappingNode) -> bool:
    return not node.value or node.start_mark.column > 0


def _lines(node: yaml.MappingNode, lines: list[str], start: int, stop: int, name: str) -> list[str]:
    """Return the lines from `start` to `stop`, which hold a block mapping, with its keys in order."""
    begins = [key.start_mark.line for key, _ in node.value]
    ends = [_last(value, key) for key, value in node.value]
    blocks = []
    for number, (key, value) in enumerate(node.value):
        above = lines[(ends[number - 1] + 1 if number else start) : begins[number]]
        own = _own(key, value, lines, begins[number], ends[number] + 1)
        blocks.append((_rank(key.value, ORDERS.get(name, ())), [*above, *own]))
    blocks.sort(key=lambda block: block[0])
    below = lines[ends[-1] + 1 : stop]
    return [line for _, block in blocks for line in block] + below


def _own(key: Any, value: Any, lines: list[str], start: int, stop: int) -> list[str]:
    items = value.value if isinstance(value, yaml.SequenceNode) and not value.flow_style else []
    whole = lines[start:stop]
    if key.value not in ("claims", "updates") or not all(isinstance(one, yaml.MappingNode) for one in items):
        return whole
    if not items or any(one.flow_style or not one.value for one in items):
        return whole
    found, at = [lines[start]], start + 1
    for one in items:
        begin, end = one.start_mark.line, _last(one) + 1
        mark = lines[begin][: one.start_mark.column]
        if mark.strip() != "-":
            return whole
        bare = [*lines[:begin], " " * len(mark) + lines[begin][len(mark) :], *lines[begin + 1 :]]
        inside = _lines(one, bare, begin, end, key.value)
        shift = 4 - one.start_mark.column
        found += [_shifted(line, 2 - (len(mark) - len(mark.lstrip()))) for line in lines[at:begin]]
        first = next((n for n, line in enumerate(inside) if line.strip() and not line.lstrip().startswith("#")), 0)
        moved = [_shifted(line, shift) for line in inside]
        found += [*moved[:first], "  - " + moved[first].lstrip(), *moved[first + 1 :]]
        at = end
    return found + lines[at:stop]


def _shifted(line: str, by: int) -> str:
    if by >= 0:
        return " " * by + line if line.strip() else line
    return line[min(-by, len(line) - len(line.lstrip())) :]


def _last(node: Any, key: yaml.Node | None = None) -> int:
    """Return the last line of a node."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        mark = node.end_mark
        # A block scalar ends at the beginning of the line after it.
        last = mark.line - 1 if mark.column == 0 and mark.line > node.start_mark.line else mark.line
        return max(last, key.start_mark.line) if key else last
    last = node.value[-1]
    return _last(last[1] if isinstance(last, tuple) else last)
