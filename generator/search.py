"""Notes as built pages come in; the index that a reader's browser searches, in pieces, goes out.

Pagefind splits the index, so that a query fetches what belongs to its words and little else. One index for all costs as much
at 30 notes and 35 times as much at 1,000 (`python -m benchmarks.search`). Pagefind forgives no typing errors; the list of
all words does.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from pagefind.service import get_executable

from generator.schema import Asset
from generator.site import Site

FOLDER = "pagefind"
"""Where the index lies in the site."""
SECONDS = 600
"""What Pagefind may take; it waits without end for a file that it cannot create."""
_NONE = ("index.html", "<html><body><article>_</article></body></html>")
"""What stands for the notes where there are none: Pagefind makes no index of nothing, and a search must be able to say so."""
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
        with tempfile.TemporaryDirectory() as root:
            rest = iter(pages)  # one at a time: together they may be large
            for address, html in chain([next(rest, _NONE)], rest):
                page = Path(root, address, "index.html") if address.endswith("/") else Path(root, address)
                page.parent.mkdir(parents=True, exist_ok=True)
                page.write_text(html, encoding="utf-8")
            done = _pagefind(root, folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"the search index cannot be built: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip() or f"Pagefind ended with status {done.returncode}"
        raise RuntimeError(f"the search index cannot be built: {said}")
    # The page has a search of its own.
    for unused in (*folder.glob("pagefind-*ui.*"), folder / "pagefind-highlight.js"):
        unused.unlink(missing_ok=True)


def _pagefind(root: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Pagefind over a folder of pages.

    As a command: as a service, which is what its Python interface starts, Pagefind 1.5.2 says that its files are written while it
    still writes them, and is ended at once.
    """
    settings = {
        "site": ".", "output_path": str(folder.absolute()), "root_selector": "article", "exclude_selectors": _LEFT_OUT,
        "include_characters": "_", "force_language": "en", "silent": True,
    }  # fmt: skip
    Path(root, "pagefind.json").write_text(json.dumps(settings), encoding="utf-8")
    around = {name: value for name, value in os.environ.items() if not name.startswith("PAGEFIND_")}
    program = [get_executable() or "pagefind"]
    return subprocess.run(
        program, cwd=root, env=around, capture_output=True, text=True, errors="replace", timeout=SECONDS
    )


def asset(site: Site) -> Asset:
    """Return the list of every word of four letters or more that the notes are written with or filed under, as JSON."""
    words = sorted({word.lower() for text in _texts(site) for word in _WORD.findall(text)})
    return Asset(path=f"{FOLDER}/words.json", text=json.dumps(words, ensure_ascii=False))


def _texts(site: Site) -> Iterable[str]:
    for note in site.library.notes:
        yield from (note.front.title, note.front.summary, note.body, *note.front.tags, note.front.author)
        for paper in site.papers(note):
            yield from (paper.title, paper.venue, *paper.authors)
