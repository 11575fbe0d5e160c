"""Front matter comes in as text; its pieces with their places, its comments and its meaning go out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import ValidationError

from generator.normal.refusal import Refused
from generator.schema import FrontMatter

DEPTH_LIMIT = 20
_PLAIN = re.compile(r"[A-Za-z](?:[\w .;()/+'=-]*[\w.)])?")
_ORDERS = re.compile(r"[!&*\[\]{}]")
"""What begins a tag, an alias or a collection: never part of a plain text, and a tag may fail in ways of its own."""
_WORDS = {"y", "n", "yes", "no", "true", "false", "on", "off", "null"}
"""What needs no quotes, told without asking YAML, and the words that do."""


def split(text: str) -> tuple[str, str]:
    """Return front matter and body of a note; raise Refused where it has no front matter."""
    lines = text.split("\n")
    if lines[0].rstrip() == "---":
        for number, line in enumerate(lines[1:], start=1):
            if line.rstrip() in ("---", "..."):
                return "".join(f"{one}\n" for one in lines[1:number]), "\n".join(lines[number + 1 :])
    raise Refused(1, "no front matter", "begin the file with '---', the front matter, and '---'")


def scalar(value: str, flow: bool = False) -> str:
    """Return a text as YAML: plain where that is read as the same text, else in double quotes."""
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    if value.isprintable() and value == value.strip() and not _ORDERS.search(value if flow else value[:1]):
        try:
            read = yaml.safe_load(f"[{value}]" if flow else f"key: {value}")
        except (yaml.YAMLError, ValueError):
            read = None
        if read == ([value] if flow else {"key": value}):
            return value
    return yaml.dump(value, allow_unicode=True, default_style='"', width=10**9).strip()


def comments(head: str) -> list[str]:
    """Return every comment of a piece of YAML, sorted."""
    return sorted(text for _, text in placed_comments(head))


def placed_comments(head: str) -> Iterator[tuple[int, str]]:
    """Yield each comment with its place: comments are what stands between two tokens and is not blank."""
    end = 0
    for token in yaml.scan(head, Loader=yaml.SafeLoader):
        start = token.start_mark.index
        if start > end:
            for found in re.finditer(r"#[^\n]*", head[end:start]):
                yield end + found.start(), found[0].rstrip()
        end = max(end, token.end_mark.index)


def compose(head: str) -> yaml.MappingNode:
    if odd := re.search("[\r\x85\u2028\u2029]", head):
        what = f"a line end U+{ord(odd[0]):04X}, which YAML takes for one and editors do not"
        raise Refused(
            head.count("\n", 0, odd.start()) + 2, what, "remove it, or write it as an escape in double quotes"
        )
    try:
        depth = 0
        for event in yaml.parse(head, Loader=yaml.SafeLoader):
            line = event.start_mark.line + 2 if event.start_mark else 1
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
                raise Refused(line, "front matter: YAML aliases and tags are not used here", "write the value out")
            if depth > DEPTH_LIMIT:
                raise Refused(line, "front matter: nested too deeply", "close the brackets")
        node = yaml.compose(head, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        reason = str(getattr(error, "problem", None) or error).splitlines()[0]
        fix = "quote values that hold ': ' or start with a special character"
        raise Refused(mark.line + 2 if mark else 1, f"front matter: {reason}", fix) from None
    if not isinstance(node, yaml.MappingNode):
        raise Refused(1, "front matter is not a mapping", "write lines such as 'title: …'")
    _unambiguous(node)
    return node


def _unambiguous(node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in seen:
                name = key.value if isinstance(key, yaml.ScalarNode) else "a key"
                raise Refused(key.start_mark.line + 2, f"'{name}' is given twice or no name", "keep one of them")
            seen.add(key.value)
            _unambiguous(value)
    elif isinstance(node, yaml.SequenceNode):
        for one in node.value:
            _unambiguous(one)


def meaning(head: str) -> Any:
    """Return what a note's front matter says: its record, or where it is no valid one, its raw values."""
    try:
        raw = yaml.safe_load(head)
        return FrontMatter.model_validate(raw)
    except ValidationError:
        return raw
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Refused(1, f"front matter: {str(error).splitlines()[0]}", "mend the value") from None


def scalars(node: Any) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    for one in node.value if not isinstance(node, yaml.ScalarNode) else ():
        for part in one if isinstance(one, tuple) else (one,):
            yield from scalars(part)
