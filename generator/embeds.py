"""A note's body comes in; the embeds it calls, with their lines, go out. Nothing is rendered here."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.sandbox import SandboxedEnvironment

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

LINK = re.compile(r"\[\[([^\[\]|\n]+)(?:\|([^\[\]\n]+))?\]\]")
CITATION = re.compile(r"\[(@[\w:.-]+(?:\s*;\s*@[\w:.-]+)*)\]")


@dataclass(frozen=True)
class Call:
    """One embed as written: its name, its constant arguments, and its line in the file."""

    name: str
    line: int
    arguments: dict[str, Any] = field(default_factory=dict)


@lru_cache(maxsize=4096)
def reading(body: str) -> tuple[str, tuple[tuple[str, str, int], ...]]:
    """Return the body without code and formulae, and the formulae and code as (kind, text, line in the body)."""
    lifted = lift(body)
    pieces = []
    for number, (kind, piece) in enumerate(lifted.pieces):
        at = lifted.text.find(f"\ue000{number}")
        pieces.append((kind, piece, lifted.text.count("\n", 0, at) + 1))
    return lifted.text, tuple(pieces)


def calls(note: Note) -> list[Call]:
    """Return every embed of the note; raise TemplateSyntaxError where its Jinja cannot be read."""
    text, _ = reading(note.body)
    tree = SandboxedEnvironment().parse(text)
    found = []
    for call in tree.find_all(nodes.Call):
        if not isinstance(call.node, nodes.Name):
            continue
        names = EMBEDS.get(call.node.name, ())
        arguments = dict(zip(names, map(_constant, call.args), strict=False))
        arguments.update({pair.key: _constant(pair.value) for pair in call.kwargs})
        found.append(Call(call.node.name, call.lineno + note.body_line - 1, arguments))
    return found


def _constant(node: nodes.Node) -> Any:
    return node.value if isinstance(node, nodes.Const) else None


@lru_cache(maxsize=1024)
def tree(code: str) -> ast.Module:
    """Return the syntax tree of a file's code, to be read only; raises SyntaxError."""
    return ast.parse(code)


def definition(path: Path, name: str) -> str | None:
    """Return the source of one function or class of a file, decorators included; None where it has none so named."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(tree(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return None


def definitions(path: Path) -> list[str]:
    """Return the names of the functions and classes a file defines at its top level."""
    body = tree(path.read_text(encoding="utf-8")).body
    return [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


__all__ = [
    "CITATION",
    "EMBEDS",
    "LINK",
    "Call",
    "TemplateSyntaxError",
    "calls",
    "definition",
    "definitions",
    "reading",
    "tree",
]
