"""The text of a note comes in; its front matter as nodes of YAML, with their places, goes out, or why it cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from generator.places import Places, dotted

DEPTH_LIMIT = 20
FIRST = 2
"""The line that front matter begins on, after its three dashes."""


class FrontError(ValueError):
    """Front matter that cannot be read: where, how to mend it, and the rule it breaks."""

    def __init__(self, at: tuple[int, int], what: str, fix: str, code: str) -> None:
        super().__init__(what)
        self.at, self.what, self.fix, self.code = at, what, fix, code


def split(text: str) -> tuple[str, str, int]:
    """Return front matter, body, and the line on which the body starts; raise FrontError where there is no front matter."""
    lines = text.split("\n")
    if lines[0].rstrip() == "---":
        for number, line in enumerate(lines[1:], start=1):
            if line.rstrip() in ("---", "..."):
                head = "".join(f"{one}\n" for one in lines[1:number])
                return head, "\n".join(lines[number + 1 :]), number + FIRST
    fix = "begin the file with '---', the front matter, and '---'"
    raise FrontError((1, 1), "no front matter", fix, "no-front-matter")


def compose(head: str, anchors: bool = True) -> yaml.MappingNode:
    """Return front matter as a node; raise FrontError. `anchors` may stand where nothing refers to them."""
    try:
        node = _Loader(head, anchors).get_single_node()
    except (yaml.YAMLError, RecursionError) as error:
        raise unread(error, "quote values that hold ': ' or start with a special character") from None
    if not isinstance(node, yaml.MappingNode):
        raise FrontError((1, 1), "front matter is not a mapping", "write lines such as 'title: …'", "yaml")
    return node


class _Loader(yaml.SafeLoader):
    """Refuses what can make a small file enormous or a short one slow: aliases, tags, deep nesting. No note needs them."""

    def __init__(self, head: str, anchors: bool) -> None:
        super().__init__(head)
        self.anchored = anchors
        self.depth = 0

    def get_event(self) -> yaml.Event:
        event = super().get_event()
        at = place(event.start_mark)
        self.depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or (not self.anchored and getattr(event, "anchor", None)):
            raise FrontError(at, "front matter: YAML aliases are not used here", "write the value out", "yaml-alias")
        if tag := getattr(event, "tag", None):
            raise FrontError(at, "front matter: YAML tags are not used here", f"drop {tag[:40]}", "yaml-tag")
        if self.depth > DEPTH_LIMIT:
            raise FrontError(at, "front matter: nested too deeply", "close the brackets", "yaml-depth")
        return event


def unread(error: Exception, fix: str) -> FrontError:
    """Return what a reader of YAML found wrong, in our own terms."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    reason = str(getattr(error, "problem", None) or error).splitlines()[0]
    return FrontError(place(mark), f"front matter: {reason}", fix, "yaml")


def place(mark: Any) -> tuple[int, int]:
    """Return line and column, in the file, of a place in its front matter."""
    return (mark.line + FIRST, mark.column + 1) if mark else (1, 1)


def scalars(node: Any) -> Iterator[yaml.ScalarNode]:
    """Yield every text, number and key of a node, in order."""
    if isinstance(node, yaml.ScalarNode):
        yield node
    for one in node.value if not isinstance(node, yaml.ScalarNode) else ():
        for part in one if isinstance(one, tuple) else (one,):
            yield from scalars(part)


def index(node: yaml.Node, path: tuple[object, ...] = ()) -> tuple[Places, list[tuple[str, tuple[int, int]]]]:
    """Return line and column of every entry by its dotted path, and the keys that are given twice."""
    places = {dotted(path): place(node.start_mark)} if path else {}
    duplicates: list[tuple[str, tuple[int, int]]] = []
    children: Iterable[tuple[object, yaml.Node, tuple[int, int]]] = ()
    if isinstance(node, yaml.MappingNode):
        keys = [key.value if isinstance(key, yaml.ScalarNode) else "?" for key, _ in node.value]
        marks = [place(key.start_mark) for key, _ in node.value]
        first = {key: n for n, key in reversed(list(enumerate(keys)))}
        duplicates += [(key, marks[n]) for n, key in enumerate(keys) if first[key] < n]
        children = [(key, value, mark) for key, (_, value), mark in zip(keys, node.value, marks, strict=True)]
    elif isinstance(node, yaml.SequenceNode):
        children = [(n, value, place(value.start_mark)) for n, value in enumerate(node.value)]
    for key, value, mark in children:
        below, twice = index(value, (*path, key))
        places.update(below)
        places[dotted((*path, key))] = mark
        duplicates += twice
    return places, duplicates
