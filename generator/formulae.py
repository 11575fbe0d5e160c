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


@lru_cache(maxsize=20_000)
def mathml(latex: str, display: bool) -> str:
    """Return the formula as one line of MathML; raise FormulaError where it is no LaTeX."""
    try:
        found = _converter().convert_with_local_state(latex, displaystyle=display)
    except LatexError as error:
        raise FormulaError(_reason(error)) from None
    found = proof(" ".join(found.split()))
    if display:
        return f'<div class="pn-formula" tabindex="0" role="group" aria-label="formula">{found}</div>'
    # Markdown takes a line that begins with <math> for a block of its own; with <span> it does not.
    return f'<span class="pn-math">{found}</span>'


def _reason(error: LatexError) -> str:
    first = str(error).strip().splitlines()[0]
    return re.sub(r"^\d+: ", "", first).rstrip(".")
