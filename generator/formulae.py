"""LaTeX comes in; MathML goes out, safe to stand in Markdown."""

from __future__ import annotations

import re
from functools import cache, lru_cache

from math_core import LatexError, LatexToMathML

from generator.markup import proof


class FormulaError(ValueError):
    """A formula that is no LaTeX; the message says where it breaks."""


@cache
def _converter() -> LatexToMathML:
    # The annotation keeps the LaTeX itself in the page, for copying and for screen readers that prefer it.
    return LatexToMathML(annotation=True, fancy_error=False)


LENGTH, DEPTH, UNCLOSED = 5_000, 100, 8
"""The longest formula, the deepest, and the most brackets in it that nothing closes.

The converter reads by recursion and crashes the whole process some thousands of levels deep; what follows a bracket that
nothing closes it reads twice, so that thirty of them take a quarter of a minute, and forty a day.
"""
_DEFINES = re.compile(r"\\(?:[egx]?def|let|futurelet|(?:re|provide|)(?:newcommand|command))(?![A-Za-z])")
_TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|\S", re.DOTALL)
_OPENS = {
    *"([⌈⌊❲⟅⟦⟨⟪⟬⟮⦃⦅⦇⦉⦋⦍⦏⦑⦓⦕⦗⧘⧚⧼", "\\{",
    *(f"\\l{name}" for name in ["angle", "ceil", "floor", "vert", "Vert", "group", "moustache", "brace", "brack", "paren", "ang", "Angle", "Brace"]),
    *("\\ulcorner", "\\llcorner", "\\llbracket", "\\llparenthesis", "\\llangle"),
}  # fmt: skip
_ENDS = {
    *")]⌉⌋❳⟆⟧⟩⟫⟭⟯⦄⦆⦈⦊⦌⦎⦐⦒⦔⦖⦘⧙⧛⧽", "\\}",
    *(f"\\r{name}" for name in ["angle", "ceil", "floor", "vert", "Vert", "group", "moustache", "brace", "brack", "paren", "ang", "Angle"]),
    *("\\urcorner", "\\lrcorner", "\\rrbracket", "\\rrparenthesis", "\\rrangle"),
}  # fmt: skip


def _bound(latex: str) -> None:
    """Raise FormulaError for what the converter would crash on, or not come back from."""
    if len(latex) > LENGTH:
        raise FormulaError(f"it has {len(latex):,} characters, more than {LENGTH:,}")
    if found := _DEFINES.search(latex):
        raise FormulaError(f"'{found[0]}': a formula defines no commands")
    groups, row, unclosed = [0], 0, 0
    # Brackets open in each group, commands since the last plain character, brackets left open in groups that ended.
    for token in _TOKEN.findall(latex):
        if token in _OPENS:
            groups[-1] += 1
        elif token in _ENDS:
            groups[-1] -= bool(groups[-1])
        elif token in ("{", "\\left", "\\begin"):
            groups.append(0)
        elif token in ("}", "\\right", "\\end", "&", "\\\\"):
            unclosed += groups.pop()
            if token in ("&", "\\\\") or not groups:
                groups.append(0)
        row = row + 1 if token[0] in "\\^_" and token not in _ENDS else row * (token in "{}")
        if len(groups) + row > DEPTH:
            raise FormulaError(f"it is nested more than {DEPTH} deep")
    if unclosed + sum(groups) > UNCLOSED:
        raise FormulaError(f"more than {UNCLOSED} of its brackets are not closed")


_LABEL = re.compile(r"\\label\{([A-Za-z0-9_:.-]+)\}")


def label(latex: str) -> str:
    """Return the name that a formula gives itself with \\label{…}, or nothing."""
    found = _LABEL.search(latex)
    return found[1] if found else ""


@lru_cache(maxsize=20_000)
def mathml(latex: str, display: bool, number: int = 0) -> str:
    """Return the formula as one line of MathML, numbered if asked to; raise FormulaError where it is no LaTeX."""
    _bound(latex)
    name = label(latex)
    try:
        found = _converter().convert_with_local_state(_LABEL.sub("", latex), displaystyle=display)
    except LatexError as error:
        raise FormulaError(_reason(error)) from None
    # A script capital comes with a variation selector, for which a browser would fetch the rest of the font in vain.
    found = proof(" ".join(found.replace("\ufe00", "").split()))
    if display and number:
        anchor = f"equation-{name}"
        return (
            f'<div class="pn-formula pn-numbered" id="{anchor}"><div tabindex="0" role="group" '
            f'aria-label="equation {number}">{found}</div><a class="pn-number" href="#{anchor}">({number})</a></div>'
        )
    if display:
        return f'<div class="pn-formula" tabindex="0" role="group" aria-label="formula">{found}</div>'
    # Markdown takes a line that begins with <math> for a block of its own; with <span> it does not.
    return f'<span class="pn-math">{found}</span>'


def _reason(error: LatexError) -> str:
    first = str(error).strip().splitlines()[0]
    return re.sub(r"^\d+: ", "", first).rstrip(".")
