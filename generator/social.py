"""A page comes in; what its <head> says to feed readers and to sites that show a link as a card goes out, with the card.

The card is drawn once for each text it can have and kept beside the stored results while builds use it. Nothing is fetched.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Collection, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from markupsafe import Markup
from PIL import Image, ImageDraw, ImageFont

from generator import markup
from generator.schema import Asset, Note
from generator.site import Site, count_verdicts
from generator.store import write_whole

WIDTH, HEIGHT = 1200, 630
"""Pixels: the size that sites crop to."""
MARGIN = 80
INK, QUIET, PAPER, LINE = "#1c2430", "#4c5666", "#ffffff", "#dde1e7"
VERDICTS = {"reproduced": "#17663f", "contradicted": "#a12c1c", "untested": "#6b4e00", "reported only": "#8e98a8"}
"""The site's colors of the verdicts, on white."""
_DRAWN = "1"
"""Raised when a card of the same text is to look otherwise."""
_UNUSED = 86_400.0
"""Seconds before the newest use of any card, after which one is removed that no build used since."""


def head(path: str, note: Note | None, site: Site) -> str:
    """Return the lines of a page's <head> that name its feed, and its title, summary and card for whoever links to it."""

    def link(target: str) -> str:
        return markup.address(path, target, site.directory_urls)

    title = note.front.title if note else site.about.name
    said = note.front.summary if note else site.about.description
    properties = {
        "og:type": "article" if note else "website",
        "og:site_name": site.about.name,
        "og:title": title,
        "og:description": said,
        "og:image": (site.about.url + card_path(note)) if site.about.url else link(card_path(note)),
        "og:image:width": str(WIDTH),
        "og:image:height": str(HEIGHT),
        "og:image:alt": _told(note, site),
    }
    if site.about.url:
        properties["og:url"] = site.about.url + (
            site.address(note) if note else markup.served(path, site.directory_urls)
        )
    lines = [
        Markup('<link rel="alternate" type="application/atom+xml" title="{}" href="{}">').format(
            f"{site.about.name}: new notes", link("feed.xml")
        )
    ]
    if note:
        lines.append(
            # not rel="alternate": the theme takes that for another language and looks for its sitemap
            Markup('<link rel="describedby" type="application/json" title="{}" href="{}">').format(
                "This note as data", link(f"api/v1/notes/{note.slug}.json")
            )
        )
        properties["article:published_time"] = note.front.added.isoformat()
        properties["article:modified_time"] = note.front.changed.isoformat()
    lines += [Markup('<meta property="{}" content="{}">').format(*one) for one in properties.items() if one[1]]
    lines.append(Markup('<meta name="twitter:card" content="summary_large_image">'))
    return "\n".join(lines) + "\n"


def card_path(note: Note | None) -> str:
    """Return where the card of a note, or that of the site, lies."""
    return f"assets/cards/{note.slug if note else 'index'}.png"


def files(site: Site) -> list[Asset]:
    """Return the card of every note and of the site, drawn now if it was not before; none where none can be kept."""
    made = []
    for note in (None, *site.library.notes):
        if kept := _kept(note, site):
            made.append(Asset(path=card_path(note), source=kept))
    _tidy(_folder(site), {asset.source for asset in made})
    return made


def _tidy(folder: Path, shown: Collection[Path | None]) -> None:
    with contextlib.suppress(OSError):
        used = {path: path.stat().st_mtime for path in folder.iterdir()}
        last = max(used.values(), default=0.0)
        for path, at in used.items():
            if path not in shown and at < last - _UNUSED:
                path.unlink(missing_ok=True)


def _folder(site: Site) -> Path:
    return site.library.root / ".papernotes" / "cards"


def _kept(note: Note | None, site: Site) -> Path | None:
    said = _words(note, site)
    folder = _folder(site)
    file = folder / f"{hashlib.sha256(repr((_DRAWN, said)).encode()).hexdigest()[:24]}.png"
    if file.exists():
        with contextlib.suppress(OSError):
            os.utime(file)
        return file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        picture = io.BytesIO()
        draw(*said).save(picture, "PNG", optimize=True)
        write_whole(file, picture.getvalue())
    except OSError:  # a disk that is full or cannot be written to costs the cards alone
        return None
    return file


def _words(note: Note | None, site: Site) -> tuple[str, str, str, str, Mapping[str, int]]:
    if note is None:
        return site.about.name, site.about.description, "", "", site.counts
    papers = site.papers(note)
    line = "; ".join(f"{paper.short_authors}, {paper.year}" for paper in papers[:2]) or note.front.kind
    return note.front.title, line, note.front.summary, site.about.name, count_verdicts(site.judged(note))


def _told(note: Note | None, site: Site) -> str:
    title, line, _, _, counts = _words(note, site)
    told = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
    return f"{title}. {line}." + (f" Claims: {told}." if told else "")


def draw(title: str, line: str, summary: str, name: str, counts: Mapping[str, int]) -> Image.Image:
    """Return a card: the site's name, title, authors, summary as far as there is room, and the verdicts as one bar."""
    card = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen = ImageDraw.Draw(card)
    width = WIDTH - 2 * MARGIN
    pen.text((MARGIN, MARGIN), name, QUIET, _font(30))
    for size in (68, 58, 48, 40):
        rows = _rows(title, _font(size, bold=True), width)
        if len(rows) * size * 1.2 <= 250:
            break
    at = 146.0
    for row in rows[: int(250 / (size * 1.2))]:
        pen.text((MARGIN, at), row, INK, _font(size, bold=True))
        at += size * 1.2
    at += 18
    for row in _rows(line, _font(32), width)[:2]:
        pen.text((MARGIN, at), row, QUIET, _font(32))
        at += 42
    at += 18
    rows = _rows(summary, _font(28), width)
    room = max(0, int((HEIGHT - MARGIN - 92 - at) // 38))
    if len(rows) > room > 0:
        rows[room - 1] = rows[room - 1].rpartition(" ")[0] + " …"
    for row in rows[:room]:
        pen.text((MARGIN, at), row, INK, _font(28))
        at += 38
    _bar(pen, counts, width)
    return card.quantize(64)  # flat colors: a fifth of the bytes


def _bar(pen: ImageDraw.ImageDraw, counts: Mapping[str, int], width: int) -> None:
    """Draw the verdicts as shares of one bar, and say under it in words what the colors mean."""
    total = sum(counts.values())
    top, left = HEIGHT - MARGIN - 66, float(MARGIN)
    pen.rectangle((MARGIN, top, MARGIN + width, top + 14), LINE)
    for verdict, n in counts.items():
        right = left + width * n / total
        pen.rectangle((left, top, right - (2 if right < MARGIN + width - 1 else 0), top + 14), VERDICTS[verdict])
        left = right
    left = float(MARGIN)
    for verdict, n in counts.items():
        words = f"{n} {verdict}"
        pen.text((left, top + 32), words, VERDICTS[verdict] if verdict != "reported only" else QUIET, _font(30))
        left += _font(30).getlength(words) + 44


def _rows(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    rows: list[str] = []
    for word in text.split():
        if rows and font.getlength(f"{rows[-1]} {word}") <= width:
            rows[-1] += f" {word}"
        else:
            while font.getlength(word) > width:
                word = word[:-2] + "…"
            rows.append(word)
    return rows


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib brings along: Latin, Greek, Cyrillic and the signs of mathematics."""
    spec = find_spec("matplotlib")  # asked where it lies, not imported
    folder = Path(str(spec.origin)).parent if spec else Path()
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(folder / "mpl-data" / "fonts" / "ttf" / name, size)
