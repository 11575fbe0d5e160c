"""A note's body comes in; the embeds it calls, with their lines, go out. Nothing is rendered here."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes

from generator import regular
from generator.lift import lift
from generator.schema import Note

EMBEDS = {
    "figure": ("name",),
    "metric": ("name", "format"),
    "table": ("name",),
    "source": ("file", "name"),
    "kernel": ("name",),
    "claims": (),
    "ref": ("name",),
}
"""What a note may call, and the names of its arguments; what shows a result also takes `of`, another snippet's slug."""

UNREADABLE = "close it, or put it in a code span if it is no embed"
"""How to mend Jinja that cannot be read."""
LINK = re.compile(r"\[\[([^\[\]|\n]+)(?:\|([^\[\]\n]+))?\]\]")
CITATION = re.compile(r"\[(@[\w:.-]+(?:\s*;\s*@[\w:.-]+)*)\]")


@dataclass(frozen=True)
class Text:
    """What an author wrote between embeds."""

    line: int
    text: str


@dataclass(frozen=True)
class Call:
    """One embed as written: its name, its constant arguments, and its line."""

    name: str
    line: int
    given: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        """Return its arguments by their names."""
        return dict(zip(EMBEDS.get(self.name, ()), self.given, strict=False)) | self.named


@dataclass(frozen=True)
class Refused:
    """What is no call of an embed; nothing of it is ever evaluated."""

    line: int
    what: str


@lru_cache(maxsize=4096)
def reading(body: str) -> tuple[str, tuple[tuple[str, str, int], ...]]:
    """Return the body without code and formulae, and the formulae and code as (kind, text, line in the body)."""
    lifted = lift(body)
    lines = lifted.lines()
    found = ((kind, piece, lines[number]) for number, (kind, piece) in enumerate(lifted.pieces))
    return lifted.text, tuple(found)


@lru_cache(maxsize=4096)
def pieces(body: str) -> tuple[Text | Call | Refused, ...]:
    """Return a body as its text and its embeds, with their lines in it; raise TemplateSyntaxError where it cannot be read.

    Jinja is read here and never run: a note may call embeds with constants, and nothing else that Jinja can do.
    """
    text, _ = reading(body)
    try:
        tree = Environment(keep_trailing_newline=True).parse(text)
    except RecursionError:
        raise TemplateSyntaxError("nested too deeply", 1) from None
    found: list[Text | Call | Refused] = []
    for node in tree.body:
        for part in node.nodes if isinstance(node, nodes.Output) else [node]:
            found.append(_piece(part))
    return tuple(found)


def _piece(node: nodes.Node) -> Text | Call | Refused:
    if isinstance(node, nodes.TemplateData):
        return Text(node.lineno, node.data)
    if not isinstance(node, nodes.Call) or not isinstance(node.node, nodes.Name):
        return Refused(node.lineno, _said(node))
    values = [*node.args, *(pair.value for pair in node.kwargs)]
    if odd := [one for one in values if not isinstance(one, nodes.Const)]:
        return Refused(node.lineno, f"{_said(odd[0])} as an argument of {node.node.name}()")
    if node.dyn_args or node.dyn_kwargs:
        return Refused(node.lineno, f"* in the arguments of {node.node.name}()")
    named = {pair.key: pair.value.as_const() for pair in node.kwargs}
    return Call(node.node.name, node.lineno, tuple(one.as_const() for one in node.args), named)


def _said(node: nodes.Node) -> str:
    if isinstance(node, nodes.Name):
        return f"the name '{node.name}'"
    return _NODES.get(type(node).__name__, "an expression")


_NODES = {
    "For": "a loop", "If": "a condition", "CondExpr": "a condition", "Assign": "an assignment", "AssignBlock": "an assignment",
    "Include": "an include", "Import": "an import", "FromImport": "an import", "Extends": "an extended template", "Macro": "a macro",
    "Block": "a block", "With": "a block", "Filter": "a filter", "FilterBlock": "a filter", "Test": "a test", "Getattr": "an attribute",
    "Getitem": "an item", "Call": "a call", "Const": "a constant", "List": "a list", "Tuple": "a tuple",
    "Dict": "a mapping",
}  # fmt: skip


def calls(note: Note) -> list[Call]:
    """Return every embed of the note; raise TemplateSyntaxError where its Jinja cannot be read."""
    found = (one for one in pieces(note.body) if isinstance(one, Call))
    return [replace(one, line=one.line + note.body_line - 1) for one in found]


@lru_cache(maxsize=1024)
def tree(code: str) -> ast.Module:
    """Return the syntax tree of a file's code, to be read only; raises SyntaxError."""
    try:
        return ast.parse(code)
    except (RecursionError, MemoryError):  # Python reads by recursion
        raise SyntaxError("nested too deeply") from None


def definition(path: Path, name: str) -> str | None:
    """Return the source of one function or class of a file, decorators included; None where it has none so named."""
    text = regular.text(path)
    for node in ast.walk(tree(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return None


def definitions(path: Path) -> list[str]:
    """Return the names of the functions and classes a file defines at its top level."""
    body = tree(regular.text(path)).body
    return [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


__all__ = [
    "CITATION",
    "EMBEDS",
    "LINK",
    "UNREADABLE",
    "Call",
    "Refused",
    "TemplateSyntaxError",
    "Text",
    "calls",
    "definition",
    "definitions",
    "pieces",
    "reading",
    "tree",
]
