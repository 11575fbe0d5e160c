"""What stands inside a block of a foreign note comes in; the same in the house's Markdown goes out, and what was lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol
from urllib.parse import unquote, urlsplit

from generator.formulae import FormulaError, mathml
from generator.intake.html import opened
from generator.intake.names import one_line
from generator.lift import Lifted
from generator.markup import ticks

_CODE = re.compile(r"(?<![\\`])(?P<run>`+)(?!`)(?:.+?)(?<!`)(?P=run)(?!`)", re.DOTALL)
_MATH = re.compile(r"(?<![\w$\\])\$((?![\s$])(?:[^$\\]|\\.)*?(?<!\s))\$(?![\d$])", re.DOTALL)
_BRACKETS = re.compile(r"\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_LATEX = re.compile(r"\\[A-Za-z]|[\^_=]")
_WIKI = re.compile(r"(?P<shown>!?)\[\[(?P<target>[^\[\]|\n]*?)(?:\\?\|(?P<alias>(?:[^\[\]\n]|\](?!\]))*))?\]\]")
_LINK = re.compile(
    r"(?P<shown>!?)\[(?P<text>(?:[^\[\]\\]|\\.|\[[^\[\]]*\])*)\]"
    r"\(\s*(?P<dest><[^<>\n]*>|[^\s()<>]*(?:\([^\s()]*\)[^\s()]*)*)(?:\s+(?:\"[^\"\n]*\"|'[^'\n]*'))?\s*\)"
)
_ANCHOR = re.compile(r"(?is)<a\s[^<>]*?href\s*=\s*[\"']([^\"'<>]*)[\"'][^<>]*>([^<>\[\]]*)</a>")
_DEFINITION = re.compile(r"(?m)^\[(?!\^)(?P<text>[^\[\]\n]+)\]:[ \t]*(?P<dest>\S+)[^\n]*$")
_AUTO = re.compile(r"<(https?://[^\s<>]+|mailto:[^\s<>]+|[\w.+-]+@[\w-]+\.[\w.-]+)>")
_BARE = re.compile(r"(?<![\w\"'=/])https?://[^\s<>\[\]\ue000-\ue0ff`|]+")
_CITED = re.compile(r"\[([^\[\]\n]*@[^\[\]\n]*)\]")
_CITATION = re.compile(r"(?P<pre>[^@]*?)-?@\{?(?P<key>[A-Za-z0-9](?:[\w:.#+/-]*\w)?)\}?(?P<post>[^@]*)", re.DOTALL)
_KEY = re.compile(r"(?<![\w@.\[/-])@([A-Za-z0-9](?:[\w:.-]*\w)?)")
_TAG = re.compile(r"(?<![^\s(])#(?P<tag>[\w/-]*[^\W\d_][\w/-]*)")
_BLOCK_ID = re.compile(r"(?m)(?:^|[ \t])\^([A-Za-z0-9-]+)[ \t]*$")


class Known(Protocol):
    """What links may lead to."""

    def note(self, name: str, heading: str) -> tuple[str, str, str] | None:
        """Return a note's slug, its title and the anchor of a heading ('' where it has none such)."""

    def picture(self, name: str) -> str | None:
        """Return the address of a picture as seen from the notes."""

    def paper(self, key: str) -> bool: ...


class Inline:
    """Turns the text of one note's blocks, piece by piece; pieces that are done are marks that nothing later reads."""

    def __init__(self, known: Known, lifted: Lifted, lost: Callable[..., None]) -> None:
        self.known = known
        self.lifted = lifted
        self.report = lost
        self.tags: list[str] = []
        self.lines: Sequence[int] = ()
        self.text = ""

    def convert(self, text: str, lines: Sequence[int], heading: bool = False) -> str:
        """Return a block's text in the house's Markdown; `lines` are those that it stands on."""
        self.lines = lines
        text = "\n".join(line.lstrip() for line in text.split("\n"))
        for pattern, make in (
            (_CODE, self._code),
            (re.compile(r"<%.*?%>", re.DOTALL), self._templater),
            (_MATH, self._math),
            (_BRACKETS, self._bracketed),
            (_AUTO, lambda match: self._done(match[0])),
            (_WIKI, self._wiki),
            (_ANCHOR, lambda match: f"[{match[2].strip()}](<{match[1].strip()}>)"),
            (_LINK, self._link),
            (_DEFINITION, self._definition),
            (_BARE, self._bare),
            (_CITED, self._cited),
            (_KEY, self._key),
        ):
            text = self._each(pattern, make, text)
        text = opened(text, self._done, self._picture_tag, lambda at, *said: self._lost(text, at, *said))
        text = self._each(re.compile(r"(?<!=)==(?=[^\s=])([^=\n]+?)(?<=\S)==(?!=)"), self._around("mark"), text)
        text = self._each(re.compile(r"(?<!~)~~(?=[^\s~])([^~\n]+?)(?<=\S)~~(?!~)"), self._around("del"), text)
        text = self._each(_BLOCK_ID, self._block_id, text)
        text = self._tagged(text)
        return self._escaped(text, heading).strip()

    # How a piece is done.

    def _each(self, pattern: re.Pattern[str], make: Callable[[re.Match[str]], str], text: str) -> str:
        self.text = text
        return pattern.sub(make, text)

    def _done(self, text: str) -> str:
        return self.lifted.put("html", text)

    def _lost(self, text: str, at: int, *said: str) -> None:
        number = text.count("\n", 0, at)
        self.report(self.lines[min(number, len(self.lines) - 1)], *said)

    def _gone(self, match: re.Match[str], *said: str) -> None:
        self._lost(self.text, match.start(), *said)

    def _code(self, match: re.Match[str]) -> str:
        return self.lifted.put("code", " ".join(match[0].split("\n")))

    def _templater(self, match: re.Match[str]) -> str:
        self._gone(match, "Templater command", "is shown as it is written, not carried out")
        return self.lifted.put("code", _span(match[0]))

    def _math(self, match: re.Match[str]) -> str:
        return self._formula(match, match[1])

    def _bracketed(self, match: re.Match[str]) -> str:
        inside = match[1] or match[2]
        if _LATEX.search(inside):
            return self._formula(match, inside.strip())
        return match[0]  # brackets that were escaped so that they are no link

    def _formula(self, match: re.Match[str], latex: str) -> str:
        try:
            mathml(latex, display=False)
        except FormulaError as error:
            if _LATEX.search(latex):
                self._gone(match, f"formula {one_line(match[0], 40)}", f"is shown as LaTeX: {error}")
                return self.lifted.put("code", _span(latex))
            return match[0]
        return self.lifted.put("inline math", latex)

    def _around(self, tag: str) -> Callable[[re.Match[str]], str]:
        return lambda match: f"{self._done(f'<{tag}>')}{match[1]}{self._done(f'</{tag}>')}"

    def _block_id(self, match: re.Match[str]) -> str:
        self._gone(match, f"^{match[1]}", "blocks have no names here; links to it lead to the note")
        return ""

    # Links.

    def _wiki(self, match: re.Match[str]) -> str:
        target, alias = match["target"].strip().rstrip("\\"), (match["alias"] or "").strip()
        name, _, heading = target.partition("#")
        if match["shown"] and (address := self.known.picture(name)):
            size = re.fullmatch(r"(\d+)(?:x\d+)?", alias.rpartition("|")[2])
            alt = "" if size and "|" not in alias else alias.rpartition("|")[0] if size else alias
            return self._picture(address, alt or _alt(name), size[1] if size else "")
        text = alias or f"{_stem(name)} > {heading.lstrip('#^')}".strip(" >") if heading else alias or _stem(name)
        if match["shown"] and not self.known.note(name, ""):
            self._gone(match, match[0], "no picture or note of this name came in; its name is shown")
            return _words(text) or " "
        if match["shown"]:
            self._gone(match, match[0], "what it showed of another note became a link to it")
        return self._to_note(match, name, heading, text)

    def _to_note(self, match: re.Match[str], name: str, heading: str, text: str) -> str:
        found = self.known.note(name, heading.rpartition("#")[2])
        if not found and name.startswith("@"):
            alias = "" if text == name else f"{text} "
            return f"{alias}[{name}]"  # a citation, and reported as one
        if not found:
            self._gone(match, one_line(match[0], 80), "no note of this name came in; its text is kept")
            return _words(text) or " "
        slug, _, anchor = found
        if heading and not anchor:
            self._gone(match, one_line(match[0], 80), "the note has no such heading; the link leads to the note")
        return self._done(f"[[{slug}{f'#{anchor}' if anchor else ''}|{self._label(text)}]]")

    def _label(self, text: str) -> str:
        """Return the words of a link, which the page shows as they are: only Jinja and formulae would read into them."""
        plain = _words(text).lstrip("@").translate(str.maketrans("[]`$", "()'＄"))
        return re.sub(r"\{\{.*?\}\}|\{[{%#]", lambda found: self.lifted.put("code", _span(found[0])), plain)

    def _link(self, match: re.Match[str]) -> str:
        text, dest = match["text"], unquote(match["dest"].strip("<>"))
        scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", dest)
        if match["shown"]:
            return self._shown(match, text, dest, bool(scheme))
        if re.match(r"(?i)(https?://|mailto:)", dest):
            return f"[{text}]{self._done(f'({_address(dest)})')}"
        if found := re.match(r"obsidian://open\?(?:.*&)?file=([^&]+)", dest):
            return self._to_note(match, found[1], "", text)
        path, _, heading = dest.partition("#")
        if not scheme and not dest.startswith("//"):
            if path and (address := self.known.picture(path)):
                return f"[{text}]{self._done(f'({address})')}"
            if self.known.note(path, ""):
                return self._to_note(match, path, heading, text)
        self._gone(match, one_line(match[0], 80), "leads nowhere a reader could go; its text is kept")
        return f"[{text}]" if re.fullmatch(r"@[\w:.-]+", text) else text

    def _shown(self, match: re.Match[str], text: str, dest: str, elsewhere: bool) -> str:
        alt, _, size = text.rpartition("|")
        alt, size = (alt, size.partition("x")[0]) if size.partition("x")[0].isdigit() else (text, "")
        if not elsewhere and (address := self.known.picture(dest)):
            return self._picture(address, alt or _alt(dest), size)
        if re.match(r"(?i)https?://", dest):
            self._gone(
                match, one_line(dest, 80), "a picture of another site became a link: pages load nothing from elsewhere"
            )
            return f"[{_words(alt) or 'picture'}]{self._done(f'({_address(dest)})')}"
        self._gone(match, one_line(match[0], 80), "no such picture came in; its name is shown")
        return _words(alt) or _stem(dest)

    def _picture(self, address: str, alt: str, size: str = "") -> str:
        words = _words(alt).replace("[", "(").replace("]", ")")
        return f"![{words}]{self._done(f'({address})' + (f'{{ width={size} }}' if size else ''))}"

    def _picture_tag(self, source: str, alt: str, size: str, at: int) -> str:
        if address := self.known.picture(unquote(source)):
            return self._picture(address, alt or _alt(source), size)
        return ""

    def _definition(self, match: re.Match[str]) -> str:
        dest = unquote(match["dest"].strip("<>"))
        if re.match(r"(?i)https?://|mailto:", dest):
            return f"[{match['text']}]:{self._done(f' {_address(dest)}')}"
        self._gone(match, one_line(match[0], 80), "leads nowhere a reader could go")
        return ""

    def _bare(self, match: re.Match[str]) -> str:
        url = match[0].rstrip(".,;:!?'\"*_")
        while url.endswith(")") and url.count(")") > url.count("("):
            url = url[:-1].rstrip(".,;:!?'\"*_")
        return self._done(f"<{_address(url)}>") + match[0][len(url) :] if urlsplit(url).netloc else match[0]

    # Citations and tags.

    def _cited(self, match: re.Match[str]) -> str:
        parts = [_CITATION.fullmatch(part.strip()) for part in match[1].split(";")]
        if not all(parts) or not any(
            part and (not part["pre"].strip() or self.known.paper(part["key"])) for part in parts
        ):
            return match[0]
        said = [(part["pre"].strip(), part["key"], part["post"].strip()) for part in parts if part]
        for _, key, _ in said:
            if not self.known.paper(key):
                self._gone(match, f"@{key}", "no such key in notes/library.bib; its name is kept")
        if all(self.known.paper(key) and not pre and not post for pre, key, post in said):
            return self._done("[" + "; ".join(f"@{key}" for _, key, _ in said) + "]")
        words = []
        for pre, key, post in said:
            cited = self._done(f"[@{key}]") if self.known.paper(key) else self._done(f"@{key}")
            words.append(f"{pre} {cited}{'' if post[:1] in ',:' else ' '}{post}".strip())
        if len(words) == 1 and not said[0][0] and not said[0][2]:
            return words[0]
        return f"({'; '.join(words)})"

    def _key(self, match: re.Match[str]) -> str:
        return self._done(f"[@{match[1]}]") if self.known.paper(match[1]) else match[0]

    def _tagged(self, text: str) -> str:
        kept = []
        for line in text.split("\n"):
            self.tags += [found["tag"] for found in _TAG.finditer(line)]
            alone = not _TAG.sub("", line).strip(" ,;\t") and _TAG.search(line)
            if not alone:
                kept.append(_TAG.sub(lambda found: found["tag"], line))
        return "\n".join(kept)

    def _escaped(self, text: str, heading: bool) -> str:
        """Return text in which neither Jinja, nor the house's own marks, nor Python-Markdown finds what is not meant."""
        text = re.sub(r"\\([\[\]()$])", lambda found: f"&#{ord(found[1])};", text)
        text = re.sub(r"\\\n", "  \n", text)
        text = text.replace("$", "&#36;").replace("[[", "&#91;&#91;")
        text = re.sub(r"(?<!\\)`", "&#96;", text)
        text = re.sub(r"\[(?=@)", "&#91;", text)
        text = re.sub(r"\{(?=[{%#:])|(?<=[*_)\]>\ue001])\{" + (r"|\{" if heading else ""), "&#123;", text)
        text = re.sub(r"\{(?=[^{}\n]*\}[ \t]*$)", "&#123;", text) if not heading else text
        text = re.sub(r"(?m)^(#+)", r"\\\1", text)
        return re.sub(r"(?m)^([!?])(?=\1\1)", lambda found: f"&#{ord(found[1])};", text)


def _span(text: str) -> str:
    """Return text as a code span."""
    around = ticks(text)
    pad = " " if "`" in text else ""
    return f"{around}{pad}{' '.join(text.split())}{pad}{around}"


def _words(text: str) -> str:
    return " ".join(text.split())


def _stem(name: str) -> str:
    """Return a file's name as a link shows it: without folder, and without the ending of a note."""
    return re.sub(r"\.(md|markdown)$", "", name.rpartition("/")[2], flags=re.IGNORECASE)


def _alt(name: str) -> str:
    """Return what a picture without a text is called: its file's name, without ending."""
    return re.sub(r"[_-]+", " ", re.sub(r"\.\w+$", "", name.rpartition("/")[2]))


def _address(url: str) -> str:
    """Return an address with what would end it, or begin something else, written in percents."""
    return re.sub(r"[\s<>\"'(){}\[\]`\\^$*|]", lambda found: f"%{ord(found[0]):02X}", url)
