"""Python files come in; digests of what they mean go out, blind to comments, docstrings, layout and Python's version."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

PROVED = ("kernel.py", "method.py")
"""The files a measured speed speaks of: what was timed, and the twin it was timed against."""


def meaning(path: Path) -> dict[str, str]:
    """Return a digest for each top-level definition of a file, and one for the rest of it."""
    try:
        return _meaning(parse(path))
    except RecursionError:  # an expression nested as deep as no person writes: its bytes are its meaning
        return _meaning(_unread(path))


def _meaning(tree: ast.Module) -> dict[str, str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [one for one in node.body if not _is_string(one)]
    parts: dict[str, str] = {}
    rest = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name not in parts:
            parts[node.name] = digest(_text(node).encode())
        else:
            rest.append(_text(node))
    # The order of definitions counts too: a later one may use or replace an earlier.
    order = [getattr(node, "name", "") for node in tree.body if getattr(node, "name", "")]
    return parts | {"module level": digest("\n".join([*order, *rest]).encode())}


def kernel_fingerprint(folder: Path) -> str:
    """Return one digest of what `kernel.py` and `method.py` of a snippet's folder mean."""
    said = []
    for name in PROVED:
        path = folder / name
        parts = meaning(path) if path.is_file() else {"missing": ""}
        said += [f"{name}: {definition} {value}" for definition, value in sorted(parts.items())]
    return digest("\n".join(said).encode())


def parse(path: Path) -> ast.Module:
    """Return a file's syntax tree; of a file that is no Python, its bytes as the only statement."""
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # It will fail when it runs, and say why; its bytes are all the meaning it has.
        return _unread(path)


def _unread(path: Path) -> ast.Module:
    return ast.Module(body=[ast.Expr(ast.Constant(value=path.read_bytes()))], type_ignores=[])


def digest(data: bytes) -> str:
    """Return 32 hexadecimal digits of SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]


def _text(node: object) -> str:
    # Not `ast.dump`: it gains and drops empty fields from one Python to the next, and a kernel measured on another
    # machine's Python would look changed here.
    if isinstance(node, ast.JoinedStr):  # some Pythons put empty pieces into an f-string, which say nothing
        node.values = [one for one in node.values if not (isinstance(one, ast.Constant) and one.value == "")]
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__} {node.value!r}"
    if isinstance(node, ast.AST):
        fields = [
            f"{name}={_text(value)}" for name, value in ast.iter_fields(node) if value is not None and value != []
        ]
        return f"{type(node).__name__}({', '.join(fields)})"
    return f"[{', '.join(map(_text, node))}]" if isinstance(node, list) else repr(node)


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
