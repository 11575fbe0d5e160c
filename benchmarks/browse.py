"""What reading costs on a phone: bytes, time until a page answers, and the tables at 1,000 notes: `python -m benchmarks.browse`.

Needs a built site and Chromium. The phone is Chromium with a fourth of this machine's speed, once on a good mobile network
(9 Mbit/s, 170 ms a round trip: Lighthouse's "4G") and once on a slow one (1.6 Mbit/s, 150 ms: its "slow 4G"). A page answers once
its scripts have run and the main thread has had no task longer than 50 ms since.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from browsing import CHROMIUM, FLAGS, served

from benchmarks.__main__ import project

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = {"4G": (9e6, 170), "slow 4G": (1.6e6, 150)}
WATCH = """
window.answers = 0;
new PerformanceObserver(list => { for (const one of list.getEntries()) window.answers = one.startTime + one.duration })
  .observe({type: 'longtask', buffered: true});
"""


def visit(browser, url: str, network: tuple[float, int]) -> tuple[float, float, int]:
    """Return when a page first shows something and when it answers, in seconds, and the compressed bytes it loaded."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    rate, latency = network
    session = context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    session.send("Network.enable")
    through = {"downloadThroughput": rate / 8, "uploadThroughput": rate / 8, "latency": latency, "offline": False}
    session.send("Network.emulateNetworkConditions", through)
    page.add_init_script(WATCH)
    answered = []
    page.on("response", lambda response: answered.append(response))
    page.goto(url, wait_until="networkidle")
    page.wait_for_timeout(1000)
    shown = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1e3
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd") / 1e3
    answers = page.evaluate("window.answers") / 1e3
    size = sum(len(gzip.compress(response.body())) for response in answered)
    context.close()
    return shown, max(shown, loaded, answers), size


def table(browser, url: str) -> tuple[float, float, float]:
    """Return how long a table takes to answer a letter typed into its filter, and a click that sorts it; in seconds."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(url, wait_until="networkidle")
    took = """async act => { const began = performance.now(); act(); await new Promise(done =>
        setTimeout(() => requestAnimationFrame(() => setTimeout(done)), 2)); return (performance.now() - began) / 1e3; }"""
    typed = "() => { const q = document.querySelector('.pn-filter input'); q.value = 'note 99'; q.dispatchEvent(new Event('input', {bubbles: true})); }"
    sort = "() => document.querySelector('#rows th button').click()"
    found = [page.evaluate(f"({took})({act})") for act in (typed, sort)]
    count = page.locator("#rows tbody tr").count()
    page.close()
    return count, *found


def thousand(folder: Path) -> Path:
    """Build a site of 1,000 notes without running their snippets, and return it."""
    project(folder, 1000)
    (folder / "mkdocs.yml").write_text(
        (ROOT / "mkdocs.yml")
        .read_text(encoding="utf-8")
        .replace("  - papernotes\n", "  - papernotes: {execute: false}\n")
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet"],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
    )
    return folder / "site"


def main() -> int:
    site = ROOT / "site"
    if CHROMIUM is None or not (site / "elu" / "index.html").exists():
        print("needs Chromium and a built site: run make site first", file=sys.stderr)
        return 1
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver, served(site) as base:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        print("| page | network | first paint | answers | bytes with figures, compressed |\n|---|---|---|---|---|")
        for name in ("elu/", "identity_mappings/", "", "notes/"):
            for network, limits in NETWORKS.items():
                shown, answers, size = visit(browser, base + name, limits)
                print(f"| /{name} | {network} | {shown:.2f} s | {answers:.2f} s | {size / 1e3:.0f} kB |", flush=True)
        print("\n| table of | page, compressed | a letter typed | sorted |\n|---|---|---|---|")
        with tempfile.TemporaryDirectory() as folder:
            for one in (site, thousand(Path(folder) / "project")):
                with served(one) as address:
                    count, typed, sort = table(browser, address + "notes/")
                size = len(gzip.compress((one / "notes" / "index.html").read_bytes()))
                print(f"| {count} notes | {size / 1e3:.0f} kB | {typed:.3f} s | {sort:.3f} s |", flush=True)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
