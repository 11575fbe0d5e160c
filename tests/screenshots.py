"""Take pictures of the site's main pages, in both schemes and three widths: `make screenshots`."""

from __future__ import annotations

import functools
import http.server
import shutil
import sys
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAGES = (
    "",
    "notes/",
    "claims/",
    "kernels/",
    "methods/",
    "graph/",
    "timeline/",
    "data/",
    "elu/",
    "mask_rcnn/",
    "kallisto/",
)
WIDTHS, SCHEMES = (1440, 820, 390), ("light", "dark")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *about: object) -> None:
        pass


def main(site: Path, folder: Path) -> int:
    browser = next((found for name in NAMES if (found := shutil.which(name))), None)
    if browser is None:
        print("no Chromium here: install one (Debian: chromium) to take screenshots", file=sys.stderr)
        return 1
    if not (site / "index.html").exists():
        print(f"no site in {site}: run make site first", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    taken = 0
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=browser, args=FLAGS)
        for scheme in SCHEMES:
            for width in WIDTHS:
                page = started.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                for address in PAGES:
                    page.goto(f"http://127.0.0.1:{server.server_port}/{address}", wait_until="networkidle")
                    name = address.strip("/") or "home"
                    page.screenshot(path=folder / f"{name}-{scheme}-{width}.png", full_page=True)
                    taken += 1
                page.close()
        started.close()
    server.shutdown()
    print(f"{taken} pictures in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
