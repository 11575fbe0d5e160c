"""The library comes in; what other programs read goes out: Atom, llms.txt, BibTeX and RIS."""

from __future__ import annotations

import datetime
import uuid
from xml.etree import ElementTree

import rispy

from generator import api
from generator.schema import Asset, Paper
from generator.site import Site

ENTRIES = 50
"""Notes in the feed: the newest."""
_ATOM = "http://www.w3.org/2005/Atom"
_RIS = {"article": "JOUR", "inproceedings": "CPAPER", "incollection": "CHAP", "book": "BOOK", "phdthesis": "THES"}


def files(site: Site) -> list[Asset]:
    """Return the feed, the page for language models, the bibliography, and each paper's entry by itself."""
    made = [Asset(path="feed.xml", text=atom(site)), Asset(path="llms.txt", text=llms(site))]
    bibliography = site.library.root / "notes" / "library.bib"
    if bibliography.is_file() and not bibliography.is_symlink():
        made.append(Asset(path="library.bib", source=bibliography))
    for key in sorted(site.by_paper):
        if paper := site.library.papers.get(key):
            made.append(Asset(path=f"papers/{key}.bib", text=paper.bibtex + "\n"))
            made.append(Asset(path=f"papers/{key}.ris", text=ris(paper)))
    return made


def atom(site: Site) -> str:
    """Return the newest notes as an Atom feed (RFC 4287); with a site_url its addresses are whole, else from the root."""
    ElementTree.register_namespace("", _ATOM)
    feed = ElementTree.Element(f"{{{_ATOM}}}feed")
    newest = sorted(site.library.notes, key=lambda note: (note.front.changed, note.slug), reverse=True)[:ENTRIES]

    def add(parent: ElementTree.Element, name: str, text: str = "", **attributes: str) -> ElementTree.Element:
        element = ElementTree.SubElement(parent, f"{{{_ATOM}}}{name}", attributes)
        element.text = text or None
        return element

    add(feed, "title", site.about.name)
    add(feed, "id", _identity(site, ""))
    add(feed, "updated", _moment(max((note.front.changed for note in newest), default=datetime.date(1970, 1, 1))))
    add(feed, "link", rel="self", href=f"{site.about.url}feed.xml")
    add(feed, "link", rel="alternate", href=site.about.url or "./")
    for note in newest:
        entry = add(feed, "entry")
        add(entry, "title", note.front.title)
        add(entry, "id", _identity(site, note.slug))
        add(entry, "published", _moment(note.front.added))
        add(entry, "updated", _moment(note.front.changed))
        add(add(entry, "author"), "name", note.front.author)
        add(entry, "link", rel="alternate", href=site.about.url + site.address(note))
        add(entry, "summary", note.front.summary)
        for tag in note.front.tags:
            add(entry, "category", term=tag)
    ElementTree.indent(feed, " ")
    return ElementTree.tostring(feed, encoding="unicode", xml_declaration=True) + "\n"


def llms(site: Site) -> str:
    """Return the notes as one page of Markdown links with what each says, as llmstxt.org has it."""
    lines = [f"# {site.about.name}", ""]
    if site.about.description:
        lines += [f"> {site.about.description}", ""]
    lines += [
        "Each note explains a paper, runs its method, and gives a verdict on each of its claims, computed from what was measured.",
        f"Everything as data: [{api.FOLDER}/index.json]({site.about.url}{api.FOLDER}/index.json), "
        f"its schema: [schema.json]({site.about.url}{api.FOLDER}/schema.json).",
        "",
        "## Notes",
        "",
    ]
    for note in site.newest:
        whole = f"{site.about.url}{api.FOLDER}/notes/{note.slug}.json"
        lines.append(
            f"- [{note.front.title}]({site.about.url}{site.address(note)}): {note.front.summary} ([text and data]({whole}))"
        )
    return "\n".join(lines) + "\n"


def ris(paper: Paper) -> str:
    """Return a paper in the RIS format that reference managers read."""
    entry = {
        "type_of_reference": _RIS.get(paper.kind, "GEN"),
        "id": paper.key,
        "title": paper.title,
        "authors": [name if f"{{{name}}}" in paper.bibtex else _last_first(name) for name in paper.authors],  # a group
        "year": str(paper.year or ""),
        "secondary_title": paper.venue,
        "doi": paper.doi,
        "urls": [paper.link] if paper.link else [],
    }
    return rispy.dumps([{name: value for name, value in entry.items() if value}], implementation=_Writer)


class _Writer(rispy.RisWriter):
    """Writes no running number above an entry: the file holds one."""

    def set_header(self, count: int) -> str:
        return ""


def _last_first(name: str) -> str:
    """Return 'Clevert, Djork-Arné' for 'Djork-Arné Clevert'; a single word stays."""
    given, _, last = name.rpartition(" ")
    return f"{last}, {given}" if given else last


def _moment(day: datetime.date) -> str:
    return f"{day.isoformat()}T00:00:00Z"


def _identity(site: Site, slug: str) -> str:
    """Return the same URN for the same note at every build, wherever the site lies."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"papernotes:{site.about.name}:{slug}").urn
