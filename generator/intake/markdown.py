"""Markdown notes of other programs and a project come in; notes of the house go out, with a report of what became of each."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from markdown.extensions.toc import slugify, unique

from generator.check import check
from generator.identifiers import arxiv_in, doi_of
from generator.intake import names, vault
from generator.intake.blocks import Blocks, Body
from generator.intake.inline import Inline
from generator.intake.lifting import lift
from generator.intake.pictures import Pictures
from generator.intake.report import Item, Report
from generator.intake.vault import Source
from generator.lift import Lifted
from generator.load import NOTE_LIMIT, load, read_note
from generator.normal import front
from generator.normal.pieces import scalar
from generator.schema import Library, Note
from generator.store import write_whole

_TO = re.compile(r"\[\[\ue010(\d+)\ue011(#[^|\]]*)?\|([^\]\n]*)\]\]")
"""A link to a note that comes in, whose slug is not settled yet."""


@dataclass
class Draft:
    """A note on its way in."""

    source: Source
    body: Body
    text: str
    papers: list[str]
    tags: list[str]
    slug: str = ""
    items: list[tuple[str, Item]] = field(default_factory=list)
    """What is to be said of it if it comes in: in which list, and what."""


def import_notes(path: Path, project: Path, author: str = "") -> Report:
    """Take a Markdown file, or every one of a folder, into notes/; nothing that is there is overwritten."""
    report = Report()
    library = load(project)
    sources = vault.read(path, report)
    known = Known(sources, library, Pictures(path if path.is_dir() else path.parent, project))
    drafts = [_draft(source, known) for source in sources]
    _tag(drafts, library)
    _settle(drafts, library, project, report)
    texts = _sound(drafts, library, author or os.environ.get("USER", "anonymous"), report)
    known.pictures.save("".join(texts.values()))
    for draft in drafts:
        if draft.slug in texts and draft.text:
            target = project / "notes" / f"{draft.slug}.md"
            write_whole(target, texts[draft.slug].encode())
            report.added.append(Item(draft.slug, draft.source.title, file=draft.source.file))
            for which, item in draft.items:
                getattr(report, which).append(item)
    for which, found in (("lost", known.pictures.refused), ("changed", known.pictures.changed)):
        getattr(report, which).extend(Item("", why, file=picture.name) for picture, why in found.items())
    return report


class Known:
    """What the links of foreign notes may lead to: each other, the notes that are there, pictures and papers."""

    def __init__(self, sources: list[Source], library: Library, pictures: Pictures) -> None:
        self.library = library
        self.pictures = pictures
        self.here: Source | None = None
        self.by_name: dict[str, int | Note] = {}
        for note in library.notes:
            for name in (note.slug, note.front.title):
                self.by_name.setdefault(name.lower(), note)
        own: dict[str, int | Note] = {}
        for kind in (
            lambda one: [one.name],
            lambda one: [one.name.rpartition("/")[2]],
            lambda one: [one.title, *one.aliases],
        ):
            for number, source in enumerate(sources):
                for name in kind(source):
                    own.setdefault(name.lower(), number)
        self.by_name |= own
        self.sources = sources
        self.anchors: dict[int | str, set[str]] = {}

    def note(self, name: str, heading: str) -> tuple[str, str, str] | None:
        name = re.sub(r"(?i)\.(md|markdown)$", "", name.strip())
        if not name and self.here:
            name = self.here.name
        folder = self.here.name.rpartition("/")[0] if self.here else ""
        tried = [_beside(folder, name), name.lstrip("/"), name.rpartition("/")[2]]
        found = next((self.by_name[one.lower()] for one in tried if one.lower() in self.by_name), None)
        if found is None:
            return None
        if isinstance(found, Note):
            return found.slug, found.front.title, self._anchor(found.front.title, found.body, heading)
        source = self.sources[found]
        return f"\ue010{found}\ue011", source.title, self._anchor(source.title, source.body, heading)

    def picture(self, name: str) -> str | None:
        return self.pictures.find(name, self.here) if self.here and name else None

    def paper(self, key: str) -> bool:
        return key in self.library.papers

    def _anchor(self, title: str, body: str, heading: str) -> str:
        """Return the name that the page gives a heading, where it is made of plain words."""
        wanted = slugify(heading, "-")
        if not wanted or heading.startswith("^"):
            return ""
        used = {slugify(title, "-")}
        for found in re.finditer(r"(?m)^ {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*$", re.sub(r"(?ms)^(```|~~~).*?^\1", "", body)):
            if found[1] == title:
                continue
            if re.search(r"[$`<>\[\]{}%=&\\]|#\w", found[1]):
                continue  # how such a one is called shows only on the page
            name = unique(slugify(re.sub(r"[*_]", "", found[1]), "-"), used)
            if slugify(re.sub(r"[*_]", "", found[1]), "-") == wanted:
                return name
        return ""


def _beside(folder: str, name: str) -> str:
    parts = folder.split("/") if folder else []
    for part in name.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _draft(source: Source, known: Known) -> Draft:
    """Turn one note into the house's Markdown; where its links lead is settled later."""
    items: list[tuple[str, Item]] = []

    def lost(line: int, name: str, why: str) -> None:
        items.append(("lost", Item(name, why, file=source.file, line=line)))

    known.here = source
    lifted = Lifted()
    text, origin = lift(source.body, source.body_line, lifted, lost)
    inline = Inline(known, lifted, lost)
    body = Blocks(inline, lifted, origin, source.title, lost).read(text)
    papers = _papers(source, known.library, lost)
    tags = []
    for written in [*vault.words(source.said.get("tags")), *inline.tags]:
        if tag := names.tag_of(written):
            tags.append(tag)
        else:
            lost(1, f"tag '{written}'", "has no letter that an address can hold")
    return Draft(source, body, body.text, papers, list(dict.fromkeys(tags)), items=items)


def _papers(source: Source, library: Library, lost: Any) -> list[str]:
    """Return the keys of the papers that a note says it is on."""
    keys = [key.strip("[]@ ") for key in vault.words(source.said.get("papers"))]
    stem = source.name.rpartition("/")[2]
    if stem.startswith("@"):
        keys.append(stem[1:])
    doi, arxiv = (doi_of(str(source.said.get("doi", ""))), arxiv_in(str(source.said.get("arxiv", ""))))
    for paper in library.papers.values():
        if (doi and paper.doi.lower() == doi.lower()) or (arxiv and paper.arxiv == arxiv):
            keys.append(paper.key)
    for key in keys:
        if key not in library.papers:
            lost(1, f"@{key}", "no such key in notes/library.bib; import the bibliography first to keep it")
    return list(dict.fromkeys(key for key in keys if key in library.papers))


def _tag(drafts: list[Draft], library: Library) -> None:
    """Write tags that all but equal one in use as that one: check takes them for a slip of the pen."""
    used = Counter(tag for note in library.notes for tag in note.front.tags)
    coming = Counter(tag for draft in drafts for tag in draft.tags)
    kept, become = list(used), {}
    for tag, _ in sorted(coming.items(), key=lambda item: (-item[1], item[0])):
        close = [] if tag in used else get_close_matches(tag, kept, n=1, cutoff=0.88)
        become[tag] = close[0] if close else tag
        if not close:
            kept.append(tag)
    for draft in drafts:
        for tag in draft.tags:
            if become[tag] != tag:
                why = f"became '{become[tag]}', which is in use"
                draft.items.append(("changed", Item(f"tag '{tag}'", why, file=draft.source.file)))
        draft.tags = list(dict.fromkeys(become[tag] for tag in draft.tags))


def _settle(drafts: list[Draft], library: Library, project: Path, report: Report) -> None:
    """Give each note its slug, that of the note where it is there already."""
    there = {_mark(note.front.title, note.body): note.slug for note in library.notes}
    taken = {path.stem.lower() for path in (project / "notes").rglob("*.md")}
    for draft in drafts:
        source, mark = draft.source, _mark(draft.source.title, draft.text)
        if slug := there.get(mark):
            report.there.append(Item(slug, "the same title and the same words", file=source.file))
            draft.slug, draft.text = slug, ""
            continue
        stem = source.name.rpartition("/")[2].removeprefix("@")
        wanted = names.slug_of(stem, source.title)
        if (same := library.by_slug.get(wanted)) and same.front.title == source.title:
            fix = f"remove {same.file} to take it in anew, or give it another title"
            report.there.append(Item(wanted, "the same title, in other words", fix, source.file))
            draft.slug, draft.text = wanted, ""
            continue
        draft.slug = names.free(wanted, taken)
        if draft.slug != wanted:
            why = f"'{wanted}' is taken or an address of the site; it came in as '{draft.slug}'"
            draft.items.append(("changed", Item("", why, file=source.file)))
        taken.add(draft.slug)
        there[mark] = draft.slug


def _mark(title: str, body: str) -> tuple[str, ...]:
    """Return what tells two notes apart: their words, not where their links lead."""
    text = re.sub(r"\[\[[^\]|]*\|([^\]]*)\]\]", r"\1", body)
    return title, *re.findall(r"\w+", re.sub(r"\]\([^)]*\)(?:\{[^}]*\})?", "]", text))


def _sound(drafts: list[Draft], library: Library, author: str, report: Report) -> dict[str, str]:
    """Return the texts by slug, without those that check would find fault with; links to these become text."""
    coming = {number: draft for number, draft in enumerate(drafts) if draft.text}
    while True:
        slugs = {n: draft.slug for n, draft in enumerate(drafts) if n in coming or not draft.text}
        texts = {draft.slug: _written(draft, author, slugs) for draft in coming.values()}
        wrong = _problems(texts, library)
        bad = [number for number, draft in coming.items() if draft.slug in wrong]
        for number in bad:
            draft = coming.pop(number)
            draft.text = " "
            report.unread.append(Item("", wrong[draft.slug], "mend it there", draft.source.file, 1))
        if not bad:
            return texts


def _problems(texts: dict[str, str], library: Library) -> dict[str, str]:
    """Return what check would find fault with, by slug."""
    found: dict[str, str] = {}
    notes = []
    for slug, text in texts.items():
        read = read_note(text, slug, f"notes/{slug}.md")
        if isinstance(read, Note):
            notes.append(read)
        else:
            found[slug] = read[0].what
        if len(text.encode()) > NOTE_LIMIT:
            found[slug] = f"would be larger than {NOTE_LIMIT // 1_000_000} MB"
    whole = library.model_copy(update={"notes": (*library.notes, *notes)})
    whole.__dict__.pop("by_slug", None)
    for problem in check(whole):
        slug = Path(problem.file).stem
        if slug in texts and problem.file == f"notes/{slug}.md":
            found.setdefault(slug, problem.what)
    return found


def _written(draft: Draft, author: str, slugs: dict[int, str]) -> str:
    """Return a note's whole text, its front matter in normal form."""

    def link(found: re.Match[str]) -> str:
        slug = slugs.get(int(found[1]))
        return f"[[{slug}{found[2] or ''}|{found[3]}]]" if slug else found[3]

    source, text = draft.source, _TO.sub(link, draft.text)
    said = source.said.get("summary")
    prose = _TO.sub(lambda found: found[3], draft.body.prose)
    summary = names.one_line(said, names.SUMMARY) if isinstance(said, str) else names.summary_of(prose)
    by = names.one_line(", ".join(vault.words(source.said.get("author"), split=False)), 200)
    lines = [f"title: {scalar(source.title)}"]
    lines += [f"papers: [{', '.join(scalar(key, flow=True) for key in draft.papers)}]"] if draft.papers else []
    lines += [f"kind: {'paper' if draft.papers else 'essay'}", f"author: {scalar(by or author)}"]
    lines += [f"added: {vault.added(source).isoformat()}"]
    lines += [f"tags: [{', '.join(scalar(tag, flow=True) for tag in draft.tags)}]"] if draft.tags else []
    lines += [f"summary: {scalar(summary or names.one_line(source.title, names.SUMMARY))}"]
    return front.normal("---\n" + "\n".join(lines) + f"\n---\n\n{text}\n")
