"""A recorded figure comes in; the same drawing goes out, written anew from what Matplotlib draws with and nothing else.

An SVG file is a program as much as a picture: it may hold scripts, event handlers, pages and addresses. It is read as XML
and every element, attribute and style that is not on the list is left out and named.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from xml.parsers import expat

from generator import regular

NONE = "<svg></svg>"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*\.svg")
_DRAWN = """svg g path use defs clipPath rect circle ellipse line polyline polygon image text tspan style pattern linearGradient
radialGradient stop title desc"""
_SET = """id style d x y dx dy x1 x2 y1 y2 cx cy r rx ry fx fy width height viewBox version preserveAspectRatio transform points
clip-path clip-rule clipPathUnits gradientUnits gradientTransform patternUnits patternTransform patternContentUnits offset
spreadMethod stop-color stop-opacity fill fill-opacity fill-rule stroke stroke-opacity stroke-width stroke-dasharray
stroke-dashoffset stroke-linecap stroke-linejoin stroke-miterlimit opacity font-size font-family font-weight font-style
text-anchor dominant-baseline xml:space"""
_STYLED = """fill fill-opacity fill-rule stroke stroke-opacity stroke-width stroke-dasharray stroke-dashoffset stroke-linecap
stroke-linejoin stroke-miterlimit opacity font font-size font-family font-weight font-style font-stretch font-variant
text-anchor clip-path clip-rule stop-color stop-opacity image-rendering color dominant-baseline letter-spacing
mix-blend-mode"""
_TAGS, _ATTRIBUTES, _PROPERTIES = (frozenset(names.split()) for names in (_DRAWN, _SET, _STYLED))
_SPACES = {"xmlns": "http://www.w3.org/2000/svg", "xmlns:xlink": "http://www.w3.org/1999/xlink"}
_STYLE = "*{stroke-linejoin: round; stroke-linecap: butt}"
"""What Matplotlib writes into <style>, always."""
_ID = re.compile(r"(?!__)[\w.:-]+")
_PART = re.compile(r"#[\w.:-]+")
_PICTURE = re.compile(r"data:image/(?:png|jpeg);base64,[A-Za-z0-9+/=\s]*")
_VALUE = re.compile(r"(?:url\(#[\w.:-]+\)|(?:var|rgba?|hsla?)\([\w\s#.,%-]*\)|[\w\s#.,%'\"+-])*")
_ADDRESS = re.compile(r"url\s*\((?!#[\w.:-]+\))", re.IGNORECASE)


@dataclass(frozen=True)
class Drawing:
    """A drawing that can run nothing and load nothing, and what was left out of it."""

    svg: str
    left_out: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, str]:
        """Return how many pixels wide it may grow, so that its text stays near the size of the page's, and its shape."""
        found = re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)', self.svg)
        return (round(1.8 * float(found[1])), f"{found[1]} / {found[2]}") if found else (600, "auto")


def is_plain(name: object) -> bool:
    """Return whether a name is that of an SVG file, and of nothing above or below its folder."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name))


def drawing(folder: Path, name: object) -> Drawing:
    """Return a figure of a result; a name that is no plain file of its folder is an empty drawing."""
    path = folder / str(name) if is_plain(name) else None
    if path is None or path.is_symlink():
        return Drawing(NONE, ("a file that is not its own",))
    try:
        return clean(regular.text(path))
    except UnicodeDecodeError:
        return Drawing(NONE, ("what is not UTF-8",))
    except OSError:  # another build has just replaced it
        return Drawing(NONE, ("a file that is gone",))


@lru_cache(maxsize=512)
def clean(svg: str) -> Drawing:
    """Return a drawing, written anew, and the names of what it may not hold."""
    writer = _Writer()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = writer.start
    parser.EndElementHandler = writer.end
    parser.CharacterDataHandler = writer.text
    parser.StartDoctypeDeclHandler = writer.doctype
    parser.ordered_attributes = True
    try:
        parser.Parse(svg, True)
    except (expat.ExpatError, _DoctypeError):
        return Drawing(NONE, ("what is no SVG",))
    return Drawing("".join(writer.out) or NONE, tuple(dict.fromkeys(writer.left_out)))


class _DoctypeError(Exception):
    """A document type that declares something: a figure has no entities."""


class _Writer:
    """Writes down again what an XML parser finds, as far as it is on the lists."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.left_out: list[str] = []
        self.open: list[str] = []
        self.skipped = 0
        """How deep it is in an element that is left out."""
        self.pending = False
        """Whether the last tag still lacks its end: nothing stands in it so far."""

    def doctype(self, name: str, system: str | None, public: str | None, declares: int) -> None:
        if declares:
            raise _DoctypeError

    def start(self, tag: str, given: list[str]) -> None:
        if self.skipped or tag not in (_TAGS if self.open else ("svg",)) or (tag == "svg" and self.open):
            # What an editor keeps for itself has a namespace of its own, and draws nothing.
            if not self.skipped and tag != "metadata" and ":" not in tag:
                self.left_out.append(f"<{tag}>")
            self.skipped += 1
            return
        self._close_tag()
        said = [f"<{tag}"]
        for name, value in zip(given[::2], given[1::2], strict=True):
            if (kept := self._attribute(tag, name, value)) is not None:
                said.append(f' {name}="{html.escape(kept)}"')
        self.out.append("".join(said))
        self.open.append(tag)
        self.pending = True

    def end(self, tag: str) -> None:
        if self.skipped:
            self.skipped -= 1
            return
        self.open.pop()
        self.out.append("/>" if self.pending else f"</{tag}>")
        self.pending = False

    def text(self, said: str) -> None:
        if self.skipped or not self.open:
            return
        if self.open[-1] == "style" and said.strip() != _STYLE:
            self.left_out.append("<style>")
            return
        self._close_tag()
        self.out.append(html.escape(said, quote=False))

    def _close_tag(self) -> None:
        if self.pending:
            self.out.append(">")
            self.pending = False

    def _attribute(self, tag: str, name: str, value: str) -> str | None:
        if name in _SPACES:
            return value if value == _SPACES[name] else None
        if ":" in name and name not in ("xlink:href", "xml:space"):
            return None
        if name == "type" and tag == "style":
            return value if value == "text/css" else None
        if name in ("xlink:href", "href"):
            fits = {"use": _PART, "image": _PICTURE}.get(tag)
            kept = value if fits and fits.fullmatch(value) else None
        elif name == "id":
            kept = value if _ID.fullmatch(value) else None
        elif name == "style":
            return self._style(value)
        else:
            kept = value if name in _ATTRIBUTES and not _ADDRESS.search(value) and "\\" not in value else None
        if kept is None:
            self.left_out.append(f"{name} of <{tag}>")
        return kept

    def _style(self, style: str) -> str:
        kept, left_out = _properties(style)
        self.left_out += left_out
        return kept


@lru_cache(maxsize=4096)  # a drawing says the same of many of its parts
def _properties(style: str) -> tuple[str, list[str]]:
    """Return the part of a style attribute that draws, and what else it sets."""
    kept, left_out = [], []
    for part in style.split(";"):
        name, _, value = part.partition(":")
        if name.strip().lower() in _PROPERTIES and _VALUE.fullmatch(value):
            kept.append(part)
        elif part.strip():
            left_out.append(f"style {name.strip()[:40]}")
    return ";".join(kept), left_out
