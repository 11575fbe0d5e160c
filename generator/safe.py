"""What an author wrote comes in, as text or as a page's HTML; what can run nothing in a reader's browser goes out.

The text is read first, so that each thing refused is named with its line. The HTML made of it is read once more by a
sanitizer (nh3), which goes by what a browser would see and not by how Markdown is written.
"""

from __future__ import annotations

import html
import re
from functools import cache

import nh3

SCHEMES = frozenset({"http", "https", "mailto"})
"""Where a link may lead, besides another page or part of the site."""
PLAIN_TAGS = (
    "b", "i", "em", "strong", "u", "s", "small", "sub", "sup", "mark", "del", "ins", "kbd", "q", "cite", "var", "samp", "abbr",
    "br", "hr", "wbr",
)  # fmt: skip
"""The HTML that a note may hold, without attributes: tags that mark words, and can do nothing else."""

_HIDDEN = re.compile(r"[\x00-\x20\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2060\ufeff\\]+")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)


def leads_where_it_may(address: str) -> bool:
    """Return whether a link's address is relative, or of a scheme that runs nothing."""
    plain = _HIDDEN.sub("", html.unescape(html.unescape(address)))
    scheme = _SCHEME.match(plain)
    return (
        scheme[1].lower() in SCHEMES
        if scheme
        else ":" not in plain.partition("/")[0].partition("?")[0].partition("#")[0]
    )


def stays_here(address: str) -> bool:
    """Return whether a picture's address is one of the site's own files."""
    plain = _HIDDEN.sub("", html.unescape(html.unescape(address)))
    return not _SCHEME.match(plain) and not plain.startswith("//")


# What an author's text may hold. A comment of HTML is dropped, all else that begins a tag becomes text.

_TAG = re.compile(
    rf"(?P<plain></?(?:{'|'.join(PLAIN_TAGS)})\s*/?>|<!-- -->|<https?://[^<>\s]+>|<[\w.+-]+@[\w.-]+>)|<(?=(?P<name>[a-zA-Z/!?][\w-]*))"
)
_LINK = re.compile(
    r"(?P<picture>!)?(?P<end>\])(?P<open>\()\s*<?(?P<inline>[^)>\n]*)|^(?P<named>[ ]{0,3}\[[^\]\n]+\])(?P<colon>:)\s*<?(?P<reference>\S+)",
    re.MULTILINE,
)
_LIST = re.compile(
    r"\{:?[ ]*+(?:(?:\.[\w-]++|#(?!__)[A-Za-z][\w.:-]*+|(?:width|height)=\"?[0-9]{1,4}+%?\"?|loading=\"?lazy\"?)[ ]*+)+\}"
)


def text(written: str) -> tuple[str, list[tuple[int, str, str, str]]]:
    """Return text in which nothing is HTML, an attribute or a link that is not allowed, and what was refused.

    Each refusal is (lines down, code, what, how to mend it).
    """
    refused: list[tuple[int, str, str, str]] = []

    counted = down = 0

    def no(at: int, *said: str) -> None:
        nonlocal counted, down
        down += written.count("\n", counted, at)
        counted = at
        refused.append((down, *said))  # type: ignore[arg-type]

    written = _without_comments(written)

    def tag(found: re.Match[str]) -> str:
        if found["plain"]:
            return found[0]
        fix = "write Markdown, put it in a code span, or write &lt; for the sign"
        no(found.start(), "html-not-allowed", f"HTML is not read here: <{found['name']}", fix)
        return "&lt;"

    def link(found: re.Match[str]) -> str:
        inline = found["inline"] is not None
        address = found["inline"] if inline else found["reference"]
        start = written.rfind("[", max(0, found.start() - MOST), found.start() + 1)
        picture = inline and start > 0 and written[start - 1] == "!"
        if picture and not stays_here(address):
            no(found.start(), "picture-from-elsewhere", "a picture from another site", "put its file beside the note")
        elif not leads_where_it_may(address):
            what = f"a link to '{_short(address)}'"
            no(found.start(), "link-not-allowed", what, "link to http:, https:, mailto: or a page of the site")
        else:
            return found[0]
        return found[0].replace("](", "]&#40;", 1) if inline else found["named"] + "&#58;" + found[0].partition("]:")[2]

    def braces(found: re.Match[str]) -> str:
        listed = _LIST.match(written, found.start())
        if listed and listed.end() - 1 in last:
            return "{"
        inside = written[found.end() : found.end() + MOST].partition("\n")[0]
        if re.match(r":?[ ]*[^}=\n]*=[^\n]*\}", inside):
            fix = "a class, an id, width and height may be set, as in { .wide }"
            no(found.start(), "attribute-not-allowed", f"an attribute that is not allowed: {{{_short(inside)}", fix)
        return "&#123;"

    # Each pass leaves as many lines as it found, so that what is named by the next has its own line.
    for pattern, show in ((_TAG, tag), (_LINK, link), (_BRACE, braces)):
        counted = down = 0
        last = {found.start() for found in _LAST.finditer(written)}
        written = pattern.sub(show, written)
    return written, refused


_BRACE = re.compile(r"\{")
_LAST = re.compile(r"\}(?=[^\n}]*$)", re.MULTILINE)
"""The last closing brace of a line."""
MOST = 2000
"""Characters within which a picture's text or a list of attributes is looked for."""


def _without_comments(written: str) -> str:
    """Return text without HTML's comments, on as many lines; one that nothing closes stays, and one that keeps lists apart."""
    kept, at = [], 0
    while (start := written.find("<!--", at)) >= 0 and (end := written.find("-->", start + 4)) >= 0:
        comment = written[start : end + 3]
        kept += [written[at:start], comment if comment == "<!-- -->" else "\n" * comment.count("\n")]
        at = end + 3
    return "".join([*kept, written[at:]])


def _short(said: str) -> str:
    return said if len(said) <= 40 else said[:40] + "…"


# What a page's HTML may hold: what Markdown and the generator make, and nothing that runs.

_HTML = """a abbr article b blockquote br button caption cite code col colgroup dd del details div dl dt em figcaption figure
h1 h2 h3 h4 h5 h6 hr i img input ins kbd label li mark nav ol p pre q s samp small span strong sub summary sup table tbody td
tfoot th thead tr u ul var wbr"""
_MATH = """math semantics annotation mrow mi mn mo ms mtext mspace mfrac msqrt mroot msub msup msubsup mover munder
munderover mmultiscripts mprescripts none mtable mtr mtd mpadded mphantom mstyle menclose merror"""
_SVG = "svg g path circle line polyline rect text tspan title"
_EVERYWHERE = {"id", "class", "title", "role", "tabindex", "hidden", "lang", "dir", "style"}
_ATTRIBUTES = {
    "a": {"href", "rel", "download", "name"},
    "img": {"src", "alt", "width", "height", "loading"},
    "input": {"type", "checked", "disabled", "name", "id"},
    "label": {"for"},
    "button": {"type"},
    "details": {"open"},
    "ol": {"start", "type"},
    "li": {"value"},
    "th": {"scope", "colspan", "rowspan"},
    "td": {"colspan", "rowspan"},
    "col": {"span"},
}
_MATH_ATTRIBUTES = {
    "display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "rspace", "lspace", "form", "minsize", "maxsize", "accent",
    "accentunder", "linethickness", "width", "height", "depth", "voffset", "encoding", "fence", "separator", "symmetric",
    "largeop", "movablelimits", "columnalign", "rowalign", "columnspan", "rowspan", "columnlines", "rowlines", "columnspacing",
    "rowspacing", "frame", "notation", "mathcolor", "mathbackground", "mathsize", "intent", "arg",
}  # fmt: skip
_SVG_ATTRIBUTES = {
    "viewBox", "width", "height", "d", "cx", "cy", "r", "x", "y", "x1", "x2", "y1", "y2", "rx", "ry", "dx", "dy", "points",
    "text-anchor", "transform",
}  # fmt: skip
_STYLES = {
    "text-align", "max-width", "width", "height", "padding", "padding-left", "padding-right", "padding-top", "padding-bottom",
    "border", "border-left", "border-right", "border-top", "border-bottom", "color", "background-color", "text-shadow",
    "aspect-ratio", "justify-items",
}  # fmt: skip
"""What the theme, MathML and the generator set on an element itself; nothing that covers or moves other parts of a page."""


def page(made: str) -> str:
    """Return a page's HTML without whatever is not on the list."""
    return nh3.clean(made, **_allowed())


@cache
def _allowed() -> dict:
    tags = {*_HTML.split(), *_MATH.split(), *_SVG.split()}
    attributes = {"*": _EVERYWHERE, **_ATTRIBUTES}
    attributes |= {tag: attributes.get(tag, set()) | _MATH_ATTRIBUTES for tag in _MATH.split()}
    attributes |= {tag: attributes.get(tag, set()) | _SVG_ATTRIBUTES for tag in _SVG.split()}
    return {
        "tags": tags,
        "clean_content_tags": {"script", "style", "iframe", "object", "embed", "template", "noscript"},
        "attributes": attributes,
        "attribute_filter": _attribute,
        "generic_attribute_prefixes": {"aria-", "data-"},
        "filter_style_properties": _STYLES,
        "url_schemes": set(SCHEMES),
        "link_rel": None,  # nothing opens in a window of its own: target is not on the list
    }


def _attribute(tag: str, name: str, value: str) -> str | None:
    # The theme finds its own settings by names that begin so.
    if name in ("id", "name", "for") and value.startswith("__") and not value.startswith("__tabbed_"):
        return None
    if name.startswith("data-") and name.removeprefix("data-") not in _DATA:
        return None
    if name == "src" and not stays_here(value):
        return None
    if name == "href" and not leads_where_it_may(value):
        return None
    if tag == "input" and name == "type" and value not in ("checkbox", "radio"):
        return None
    return value


_DATA = {"pagefind-meta", "sort", "label"}
