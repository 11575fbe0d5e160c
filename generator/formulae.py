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


_LABEL = re.compile(r"\\label\{([A-Za-z0-9_:.-]+)\}")


def label(latex: str) -> str:
    """Return the name that a formula gives itself with \\label{…}, or nothing."""
    found = _LABEL.search(latex)
    return found[1] if found else ""


@lru_cache(maxsize=20_000)
def mathml(latex: str, display: bool, number: int = 0) -> str:
    """Return the formula as one line of MathML, numbered if asked to; raise FormulaError where it is no LaTeX."""
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
