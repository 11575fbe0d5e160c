"""What a first search costs a reader in bytes, with one index for all and with Pagefind's pieces: `python -m benchmarks.search`.

Needs a built site and Chromium. Notes beyond those of the site are made of its notes' sentences in another order, so that
their words are as many and as frequent as in real ones; a rare word that only more notes would bring is missing.
"""

from __future__ import annotations

import gzip
import html
import json
import random
import re
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from generator import search
from generator.load import load

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from browsing import CHROMIUM, FLAGS, served  # noqa: E402

QUERIES = 20
SHOWN = 8
PAGE = "<!doctype html><title>search</title>"


def notes() -> dict[str, tuple[str, list[str]]]:
    """Return each note's title and the sentences of its built page, by slug."""
    found = {}
    for note in load(ROOT).notes:
        text = (ROOT / "site" / note.slug / "index.html").read_text(encoding="utf-8")
        body = re.sub(
            r"<(script|style|svg|math)\b.*?</\1>",
            " ",
            text.split("<article", 1)[1].split("</article>")[0],
            flags=re.DOTALL,
        )
        plain = html.unescape(re.sub(r"<[^>]+>", " ", body))
        found[note.slug] = (note.front.title, re.split(r"(?<=[.:!?])\s+|\n\s*\n", plain))
    return found


def pages(real: dict[str, tuple[str, list[str]]], count: int) -> dict[str, str]:
    """Return so many pages: the notes' own sentences, then others of the same length from all of them."""
    draw = random.Random(0)
    everything = [sentence for _, sentences in real.values() for sentence in sentences]
    made = {}
    for n in range(count):
        slug = list(real)[n % len(real)]
        title, sentences = real[slug]
        if n >= len(real):
            title, sentences = f"{title} {n}", draw.sample(everything, len(sentences))
        body = "".join(f"<p>{html.escape(one)}</p>" for one in sentences)
        made[f"{slug}-{n}/"] = f"<html lang=en><body><article><h1>{html.escape(title)}</h1>{body}</article>"
    return made


def one_index(made: dict[str, str]) -> int:
    """Return the compressed size of a single index of all texts, which is what the theme's own search fetches."""
    docs = [{"location": address, "title": "", "text": re.sub(r"<[^>]+>", " ", text)} for address, text in made.items()]
    return len(gzip.compress(json.dumps({"docs": docs}).encode()))


def first_queries(made: dict[str, str], folder: Path) -> list[int]:
    """Return the compressed bytes of a first query, for words of titles, each in a browser that has fetched nothing yet."""
    search.index(made.items(), folder / search.FOLDER)
    (folder / "index.html").write_text(PAGE)
    draw, costs = random.Random(1), []
    titles = [re.findall(r"<h1>(.*?)</h1>", text)[0] for text in made.values()]
    with served(folder) as base, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for title in draw.sample(titles, QUERIES):
            words = " ".join(re.findall(r"[^\W\d_]{4,}", html.unescape(title))[:2])
            page = browser.new_context().new_page()
            page.goto(base)
            loaded: dict[str, int] = {}
            page.on(
                "response", lambda answer, loaded=loaded: loaded.update({answer.url: len(gzip.compress(answer.body()))})
            )
            script = f"""async words => {{
                const found = await (await import("/{search.FOLDER}/pagefind.js")).search(words);
                await Promise.all(found.results.slice(0, {SHOWN}).map(one => one.data()));
            }}"""
            page.evaluate(script, words)
            page.wait_for_load_state("networkidle")
            costs.append(sum(loaded.values()))
            page.context.close()
        browser.close()
    return costs


def main() -> None:
    real = notes()
    for count in (len(real), 1000):
        made = pages(real, count)
        with tempfile.TemporaryDirectory() as folder:
            costs = first_queries(made, Path(folder))
        print(
            f"{count:5} notes: one index {one_index(made) / 1000:8.0f} kB; Pagefind's first query, {QUERIES} of them: "
            f"median {statistics.median(costs) / 1000:.0f} kB, most {max(costs) / 1000:.0f} kB"
        )


if __name__ == "__main__":
    main()
