"""Take pictures of the site's main pages, in both schemes and three widths: `make screenshots`."""

from __future__ import annotations

import sys
from pathlib import Path

from browsing import CHROMIUM, FLAGS, SCHEMES, WIDTHS, opened, served
from playwright.sync_api import sync_playwright

TALLEST = 12_000
"""Pixels of a picture at most; a longer page is cut."""
PAGES = (
    "",
    "notes/",
    "claims/",
    "kernels/",
    "methods/",
    "graph/",
    "timeline/",
    "data/",
    "runs/",
    "elu/",
    "mask_rcnn/",
    "kallisto/",
)


def main(site: Path, folder: Path) -> int:
    if CHROMIUM is None:
        print("no Chromium here: install one (Debian: chromium) to take screenshots", file=sys.stderr)
        return 1
    if not (site / "index.html").exists():
        print(f"no site in {site}: run make site first", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    taken = 0
    with served(site) as base, sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for scheme in SCHEMES:
            for width in WIDTHS:
                page = started.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                for address in PAGES:
                    opened(page, base + address)
                    name = address.strip("/") or "home"
                    # A window as high as the page: a full-page picture of a lower one catches the header on its way out.
                    height = page.evaluate("document.documentElement.scrollHeight")
                    page.set_viewport_size({"width": width, "height": min(height, TALLEST)})
                    page.wait_for_timeout(300)
                    page.screenshot(path=folder / f"{name}-{scheme}-{width}.png")
                    page.set_viewport_size({"width": width, "height": 900})
                    taken += 1
                page.close()
        started.close()
    print(f"{taken} pictures in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
