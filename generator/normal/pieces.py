"""Front matter comes in as text; its pieces with their places, its comments and its meaning go out."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import ValidationError

from generator import frontmatter
from generator.normal.refusal import Refused
from generator.schema import FrontMatter

_PLAIN = re.compile(r"[A-Za-z](?:[\w .;()/+'=-]*[\w.)])?")
_ORDERS = re.compile(r"[!&*\[\]{}]")
"""What begins a tag, an alias or a collection: never part of a plain text, and a tag may fail in ways of its own."""
_WORDS = {"y", "n", "yes", "no", "true", "false", "on", "off", "null"}
"""What needs no quotes, told without asking YAML, and the words that do."""


def split(text: str) -> tuple[str, str]:
    """Return front matter and body of a note; raise Refused where it has no front matter."""
    with _refused():
        return frontmatter.split(text)[:2]


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except frontmatter.FrontError as error:
        raise Refused(error.at[0], error.what, error.fix) from None


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
    with _refused():
        node = frontmatter.compose(head, anchors=False)
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
