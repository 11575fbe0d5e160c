"""A note's body comes in; Markdown whose embeds, links and citations are filled in goes out, and what could not be."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from generator import claims, drawings, markup, regular, roofline, safe, speed
from generator.beside import beside
from generator.embeds import (
    CITATION,
    EMBEDS,
    LINK,
    UNREADABLE,
    Call,
    Refused,
    TemplateSyntaxError,
    Text,
    definition,
    pieces,
)
from generator.formulae import FormulaError, label, mathml
from generator.lift import Lifted, lift, settled
from generator.partials import partial, show_problems
from generator.places import column_of
from generator.schema import Note, Problem, Result
from generator.sentences import around, links
from generator.site import Site
from generator.spelling import nearest

EMBED_LIMIT = 1_000
"""Embeds of one note, and with what they may show the bound on what a note can grow to."""
SHOWN_LIMIT = 30_000_000
"""Characters that the embeds of one note may show together."""
_FORMAT = re.compile(r"[+ ]?0?[0-9]{0,2},?(\.[0-9]{1,2})?[deEfFgGn%]?")


class EmbedError(Exception):
    """An embed that names what is not there; carries how to mend it, and the rule it breaks."""

    def __init__(self, what: str, fix: str, code: str) -> None:
        super().__init__(what)
        self.fix = fix
        self.code = code


@dataclass(frozen=True)
class Body:
    """What has become of a note's body."""

    markdown: str
    problems: tuple[Problem, ...] = ()
    showed_claims: bool = False
    keys: tuple[str, ...] = ()
    """The papers it cites, in order."""
    mentions: tuple[tuple[str, str], ...] = ()
    """Each note it links to, with the sentence that the link stands in, as Markdown."""


def expand(note: Note, site: Site, more: dict[str, Callable[..., Any]] | None = None) -> Body:
    """Fill in a note's body; `more` names embeds that only this page has."""
    reader = _Reader(note, site)
    text = reader.read(more)
    return Body(text, tuple(reader.problems), reader.showed_claims, tuple(reader.keys), tuple(reader.mentions))


class _Reader:
    """Turns one body into Markdown: formulae and code out, embeds, links and citations in, formulae and code back."""

    def __init__(self, note: Note, site: Site) -> None:
        self.note = note
        self.site = site
        self.problems: list[Problem] = []
        self.lifted = Lifted()
        self.figures: dict[str, int] = {}
        self.shown = 0
        self.equations: dict[str, int] = {}
        self.references: dict[str, int] = {}
        self.line = 1
        """Of the embed that is being shown."""
        self.calls = 0
        self.room = SHOWN_LIMIT
        self.showed_claims = False
        self.keys: list[str] = []
        self.mentions: list[tuple[str, str]] = []
        self.mentioned: set[str] = set()

    def read(self, more: dict[str, Callable[..., Any]] | None = None) -> str:
        self.lifted = lift(self.note.body)
        names = [label(piece) for kind, piece in self.lifted.pieces if kind == "display math"]
        self.equations = {name: n for n, name in enumerate(dict.fromkeys(filter(None, names)), start=1)}
        embeds = {name: getattr(self, f"_{name}") for name in EMBEDS} | (more or {})
        try:
            found = pieces(self.note.body)
        except TemplateSyntaxError as error:
            said = self._wrong(self._at(error.lineno), f"Jinja: {error.message}", UNREADABLE, "jinja")
            found = (Text(1, self.lifted.text), Text(1, said))
        text = "".join(self._piece(piece, embeds) for piece in found)
        for match in links(text):
            self._mention(match, text)
        text = CITATION.sub(lambda match: self._citation(match[1]), LINK.sub(lambda m: self._link(m[1], m[2]), text))
        return self.lifted.back(beside(text, self.lifted), self._show)

    def _piece(self, piece: Text | Call | Refused, embeds: dict[str, Callable[..., Any]]) -> str:
        self.line = self._at(piece.line)
        if isinstance(piece, Text):
            text, refused = safe.text(piece.text)
            self.problems += [
                Problem(self.note.file, self.line + down, what, fix, code=code) for down, code, what, fix in refused
            ]
            return text
        if isinstance(piece, Refused):
            what = f"Jinja: a note calls embeds with constants, and nothing else is read: here {piece.what}"
            return self._wrong(self.line, what, "write it out, or put it in a code span", "jinja-not-allowed")
        self.calls += 1
        if self.calls > EMBED_LIMIT or self.room < 0:
            what, fix = "more embeds than a page can show", f"at most {EMBED_LIMIT:,}; split the note"
            return self._wrong(self.line, what, fix, "too-many-embeds") if self.calls <= EMBED_LIMIT + 1 else ""
        before = len(self.lifted.pieces)
        shown = self._call(piece, embeds)
        self.room -= sum(len(made) for _, made in self.lifted.pieces[before:])
        return shown

    def _at(self, line: int) -> int:
        """Return the line of the file that a line of the body is."""
        return line + self.note.body_line - 1

    # What the embeds of a note are. Each returns a mark, so that nothing later reads into its output.

    def _figure(self, name: str, of: str = "") -> str:
        result = self._result(of)
        figure = self._named("figure", name, result.figures)
        self.shown += 1
        self.figures.setdefault(self._here(name, of), self.shown)
        panels = [drawings.drawing(result.folder, file) for file in figure["files"]]
        for left_out in dict.fromkeys(one for panel in panels for one in panel.left_out):
            what = f"the figure '{name}' holds {left_out}, which is left out"
            fix = "draw it with Matplotlib alone"
            self.problems.append(Problem(self.note.file, self.line, what, fix, code="figure-not-allowed"))
        return self._html(
            partial(
                "figure",
                number=self.shown,
                name=self._here(name, of),
                figure=figure,
                origin=self._origin(of),
                panels=[(*panel.shape, Markup(panel.svg)) for panel in panels],
            )
        )

    def _metric(self, name: str, format: str = "", of: str = "") -> str:
        metric = self._named("metric", name, self._result(of).metrics)
        if not _FORMAT.fullmatch(str(format)):
            raise ValueError(f"no number is written as '{str(format)[:20]}'")
        title = markup.escape(metric.get("setting") or f"measured when this site was built: {name}")
        value = markup.escape(claims.shown(metric, format))
        return self.lifted.put("html", f'<span class="pn-metric" title="{title}">{value}</span>')

    def _table(self, name: str, of: str = "") -> str:
        table = self._named("table", name, self._result(of).tables)
        return self._html(partial("table", table=table, origin=self._origin(of)))

    def _source(self, file: str, name: str = "", of: str = "") -> str:
        slug = of or self.note.slug
        snippet = self.site.library.snippets.get(slug)
        if snippet is None or file not in snippet.files:
            fix = nearest(file, snippet.files if snippet else ())
            raise EmbedError(f"no file '{file}' in snippets/{slug}/", fix, "unknown-file")
        path = snippet.folder / file
        code = definition(path, name) if name else regular.text(path)
        if code is None:
            raise EmbedError(
                f"{file} defines no '{name}'", "name a function or class of the file", "unknown-definition"
            )
        link = f"[snippets/{slug}/{file}](files/{slug}/{file}){{ .pn-source }}"
        return self.lifted.put("source", markup.fence(code, "python") + link + "\n\n")

    def _kernel(self, name: str, of: str = "") -> str:
        kernel = self._named("kernel", name, self._result(of).kernels)
        slug = of or self.note.slug
        snippet = self.site.library.snippets[slug]
        found = [
            {"speed": one, "plot": roofline.roofline(speed.measured(name, one), one.roof), **speed.words(one.gpu, one)}
            for one in speed.speeds(snippet, name)
        ]
        entries = dict.fromkeys(row["function"] for row in kernel["compiled"])
        code = "\n\n\n".join(filter(None, (definition(snippet.folder / "kernel.py", entry) for entry in entries)))
        link = self.site.link(f"{self.note.slug}.md", f"files/{slug}/kernel.py")
        code = Markup(markup.highlighted(code)) if code else ""
        return self._html(partial("kernel", name=name, kernel=kernel, found=found, code=code, link=link, slug=slug))

    def _ref(self, name: str, of: str = "") -> str:
        name = self._here(str(name), of)
        self.references.setdefault(name, self.line)
        return self.lifted.put("reference", name)  # figures further down have no number yet

    def _claims(self) -> str:
        self.showed_claims = True
        judged = self.site.judged(self.note)
        return self._html(partial("claims", judged=judged))

    def _result(self, of: str) -> Result:
        slug = of or self.note.slug
        if found := self.site.results.get(slug):
            return found
        raise _NotMeasuredError(slug)

    def _here(self, name: str, of: str) -> str:
        """Return what a figure is called on this page, where two notes may each have one of that name."""
        return f"{of}-{name}" if of and of != self.note.slug else name

    def _origin(self, of: str) -> dict[str, str] | None:
        """Return the note that a figure or table of another note comes from, as a link."""
        note = self.site.library.by_slug.get(of)
        if note is None or note is self.note:
            return None
        address = self.site.link(f"{self.note.slug}.md", f"{of}.md")
        return {"title": note.front.title, "href": address}

    def _named(self, kind: str, name: str, known: Any) -> Any:
        if name not in known:
            fix = nearest(str(name), known)
            raise EmbedError(f"the experiment records no {kind} '{name}'", fix, f"unknown-{kind}")
        return known[name]

    def _html(self, html: str) -> str:
        return self.lifted.put("html", html)

    def _call(self, piece: Call, embeds: dict[str, Callable[..., Any]]) -> str:
        """Show an embed; one that fails costs its own place on the page only."""
        try:
            if piece.name not in embeds:
                raise EmbedError(f"unknown embed '{piece.name}'", nearest(piece.name, embeds), "unknown-embed")
            return str(embeds[piece.name](*piece.given, **piece.named))
        except _NotMeasuredError as missing:
            return self._html(f'<span class="pn-missing">not measured: {markup.escape(missing)} has no result</span>')
        except EmbedError as error:
            return self._wrong(self.line, str(error), error.fix, error.code, f"{piece.name}(")
        except (OSError, SyntaxError) as error:  # of a snippet's file, which check names too
            what = f"embed: {getattr(error, 'strerror', None) or error}"
            return self._wrong(self.line, what, "mend the snippet's file", "embed-argument")
        except (TypeError, ValueError) as error:
            fix = "see the embeds in CONTRIBUTING.md"
            return self._wrong(self.line, f"embed: {error}", fix, "embed-argument", f"{piece.name}(")

    def _wrong(self, line: int, what: str, fix: str, code: str, said: str = "") -> str:
        column = column_of(said, self.note.body, line - self.note.body_line + 1)
        problem = Problem(self.note.file, (line, column), what, fix, code=code)
        self.problems.append(problem)
        return self._html(show_problems([problem], f"{self.note.slug}.md", self.site))

    # What is no embed: links, citations, and the pieces that go back.

    def _link(self, target: str, text: str | None) -> str:
        slug, _, anchor = target.strip().partition("#")
        note = self.site.library.by_slug.get(slug)
        if note is None:
            return self.lifted.put(
                "html", f'<span class="pn-missing" title="no such note">{markup.escape(text or slug)}?</span>'
            )
        anchor = "#" + quote(anchor, safe=":.-_") if anchor else ""
        return f"[{markup.escape(text or note.front.title)}]({slug}.md{anchor}){{ .pn-note }}"

    def _mention(self, match: re.Match[str], text: str) -> None:
        """Keep the sentence a link stands in, for the page that it leads to."""
        slug = match[1].strip().partition("#")[0]
        if slug not in self.site.library.by_slug or slug == self.note.slug or slug in self.mentioned:
            return
        self.mentioned.add(slug)  # one sentence a note: the first says why
        sentence = around(text, match)
        sentence = LINK.sub(lambda m: self._link(m[1], m[2]), re.sub(r"^[\s>#*+-]+", "", sentence))
        if sentence.count("**") % 2:  # bold type that began before it, or lost its beginning
            sentence = sentence.replace("**", "")
        plain = CITATION.sub(lambda m: f"({self._short(m[1])})", sentence)
        self.mentions.append((slug, " ".join(self.lifted.back(plain, self._show).split())))

    def _short(self, inside: str) -> str:
        keys = [part.strip().removeprefix("@") for part in inside.split(";")]
        papers = [self.site.library.papers[key] for key in keys if key in self.site.library.papers]
        return "; ".join(markup.escape(f"{paper.short_authors}, {paper.year}") for paper in papers)

    def _citation(self, inside: str) -> str:
        said = []
        for key in (part.strip().removeprefix("@") for part in inside.split(";")):
            paper = self.site.library.papers.get(key)
            if paper is None:
                said.append(markup.escape(f"@{key}?"))
                continue
            self.keys.append(key)
            words = markup.escape(f"{paper.short_authors}, {paper.year}")
            said.append(f'<a class="pn-cite" href="#ref-{key}" title="{markup.escape(paper.title)}">{words}</a>')
        return self.lifted.put("html", f"({'; '.join(said)})")

    def _show(self, kind: str, piece: str) -> str:
        if kind == "reference":
            return self._reference(piece)
        if not kind.endswith("math"):
            return settled(piece) if kind == "code" else piece
        try:
            shown = mathml(piece, display=kind == "display math", number=self.equations.get(label(piece), 0))
        except FormulaError as error:
            return f'<code class="pn-missing" title="{markup.escape(str(error))}">{markup.escape(piece)}</code>'
        return f"\n\n{shown}\n\n" if kind == "display math" else shown

    def _reference(self, name: str) -> str:
        if name in self.figures:
            return f'<a class="pn-ref" href="#figure-{markup.escape(name)}">Figure {self.figures[name]}</a>'
        if name in self.equations:
            return f'<a class="pn-ref" href="#equation-{name}">Equation {self.equations[name]}</a>'
        if line := self.references.pop(name, None):  # said once
            known = [*self.figures, *self.equations]
            fix = nearest(name, known) or "show the figure, or write \\label{…} in the equation"
            what = f"no figure or equation '{name}' to refer to"
            self.problems.append(Problem(self.note.file, line, what, fix, code="unknown-reference"))
        return f'<span class="pn-missing">{markup.escape(name)}?</span>'


class _NotMeasuredError(Exception):
    """There is no result to take a figure or a number from."""
