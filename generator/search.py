"""Notes as built pages come in; the index that a reader's browser searches, in pieces, goes out.

Pagefind splits the index, so that a query fetches what belongs to its words and little else. One index for all costs as much
at 30 notes and 35 times as much at 1,000 (`python -m benchmarks.search`). Pagefind forgives no typing errors; the list of
all words does.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from pathlib import Path

from pagefind.index import IndexConfig, PagefindIndex

from generator.schema import Asset
from generator.site import Site

FOLDER = "pagefind"
"""Where the index lies in the site."""
_WORD = re.compile(r"[^\W\d_]{4,24}")
_LEFT_OUT = (
    "math", ".pn-panels", ".headerlink", ".pn-near", ".pn-share", ".pn-beside", ".pn-references",
    ".pn-links", ".pn-provenance", ".pn-counts",
)  # fmt: skip


def index(pages: Iterable[tuple[str, str]], folder: Path) -> None:
    """Index the pages, each an address from the root of the site and HTML, and write the index into `folder`.

    Raises RuntimeError where Pagefind cannot run.
    """
    try:
        asyncio.run(_index(pages, folder))
    except (OSError, AssertionError) as error:
        raise RuntimeError(f"the search index cannot be built: {error}") from error


async def _index(pages: Iterable[tuple[str, str]], folder: Path) -> None:
    settings = IndexConfig(
        root_selector="article", exclude_selectors=_LEFT_OUT, include_characters="_", force_language="en",
        output_path=str(folder),
    )  # fmt: skip
    async with PagefindIndex(config=settings) as found:
        for address, html in pages:
            await found.add_html_file(content=html, url=address)
    # The page has a search of its own.
    for unused in (*folder.glob("pagefind-*ui.*"), folder / "pagefind-highlight.js"):
        unused.unlink(missing_ok=True)


def asset(site: Site) -> Asset:
    """Return the list of every word of four letters or more that the notes are written with or filed under, as JSON."""
    words = sorted({word.lower() for text in _texts(site) for word in _WORD.findall(text)})
    return Asset(path=f"{FOLDER}/words.json", text=json.dumps(words, ensure_ascii=False))


def _texts(site: Site) -> Iterable[str]:
    for note in site.library.notes:
        yield from (note.front.title, note.front.summary, note.body, *note.front.tags, note.front.author)
        for paper in site.papers(note):
            yield from (paper.title, paper.venue, *paper.authors)
