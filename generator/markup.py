"""Text and HTML come in; HTML that Markdown leaves alone goes out."""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Sequence
from functools import lru_cache

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

_MARKDOWN = str.maketrans({character: f"&#{ord(character)};" for character in "\\*_`[]$~^|"})


def escape(text: object) -> str:
    """Return text as HTML in which neither HTML nor Markdown finds anything to do."""
    return proof(html.escape(str(text)))


def proof(markup: str) -> str:
    """Return HTML whose characters Markdown would read as its own are written as entities."""
    return markup.translate(_MARKDOWN)


def block(markup: str) -> str:
    """Return HTML as one block that no Markdown engine splits: no blank lines, blank lines around it."""
    return "\n\n" + re.sub(r"\n\s*\n+", "\n", markup.strip()) + "\n\n"


def ticks(code: str, least: int = 1) -> str:
    """Return more backticks than stand beside each other anywhere in code: what may enclose it."""
    return "`" * max(least, 1 + max(map(len, re.findall(r"`+", code)), default=0))


def fence(code: str, language: str, title: str = "") -> str:
    """Return code as a fenced block whose fence is longer than any run of backticks in it."""
    around = ticks(code, 3)
    head = f'{around}{language} title="{title}"' if title else f"{around}{language}"
    return f"\n\n{head}\n{code.rstrip()}\n{around}\n\n"


@lru_cache(maxsize=1024)
def highlighted(code: str) -> str:
    """Return Python code as coloured HTML, in the classes of the theme's own code blocks and without a blank line."""
    shown = highlight(code, PythonLexer(), HtmlFormatter(cssclass="highlight", wrapcode=True))
    return re.sub(r"\n(?=\n)", "\n<i></i>", shown.strip())


def address(source: str, target: str, directory_urls: bool = True) -> str:
    """Return the relative address of a page (.md) or file of the site as seen from a page."""
    target, _, anchor = target.partition("#")
    if target.endswith(".md"):
        target = served(target, directory_urls)
    here = posixpath.dirname(served(source, directory_urls) + "x")
    found = posixpath.relpath(target or ".", here or ".")
    if target.endswith("/") or not target:
        found += "/"
    return found + (f"#{anchor}" if anchor else "")


def without_drawings(text: str) -> tuple[str, list[str]]:
    """Return a page's Markdown with a mark in each drawing's place, and the drawings: most of its length, all for nothing read."""
    drawings: list[str] = []

    def place(found: re.Match[str]) -> str:
        drawings.append(found[2])
        return f'{found[1]}<svg id="pn-drawing-{len(drawings) - 1}"></svg>'

    return _DRAWING.sub(place, text), drawings


def with_drawings(html: str, drawings: Sequence[str]) -> str:
    """Return a page's HTML with its drawings where they were."""
    return _PLACE.sub(lambda place: drawings[int(place[1])], html) if drawings else html


_DRAWING = re.compile(r'(<div class="pn-(?:panel|card-figure)"[^>]*>)(<svg\b[^<]*+(?:<(?!svg\b|/svg>)[^<]*+)*</svg>)')
_PLACE = re.compile(r'<svg id="pn-drawing-(\d+)"></svg>')


def beside(source: str, target: str) -> str:
    """Return the relative path of one source file of the site as seen from another."""
    target, _, anchor = target.partition("#")
    return posixpath.relpath(target, posixpath.dirname(source) or ".") + (f"#{anchor}" if anchor else "")


def served(page: str, directory_urls: bool = True) -> str:
    """Return where a page is served: 'elu.md' at 'elu/', 'index.md' at ''."""
    stem = page.removesuffix(".md")
    if not directory_urls:
        return f"{stem}.html"
    return "" if stem == "index" else f"{stem.removesuffix('/index')}/"
