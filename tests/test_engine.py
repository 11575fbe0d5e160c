"""The exported pages, built by an engine that runs no plugin: Zensical, the successor of Material for MkDocs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from test_html import broken_links, read_pages

ZENSICAL = shutil.which("zensical", path=str(Path(sys.executable).parent))

pytestmark = pytest.mark.skipif(ZENSICAL is None, reason="no Zensical here: pip install -e .[dev] to compare engines")


@pytest.fixture(scope="module")
def rebuilt(built_site, tmp_path_factory):
    """Export the project's own site and build it once more, without MkDocs."""
    folder = tmp_path_factory.mktemp("engine")
    config = folder / "zensical.yml"
    command = [sys.executable, "-m", "generator.cli", "export", "--strict", str(folder / "pages")]
    done = subprocess.run([*command, "--zensical", str(config)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([ZENSICAL, "build", "-f", str(config)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    return folder / "site"


def files(site):
    """Return the pages and files that are the project's own, and not the engine's."""
    own = (path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file())
    engine = ("assets/javascripts/", "assets/stylesheets/", "assets/images/", "pagefind/", "search", "sitemap.xml.gz")
    return {path for path in own if not path.startswith((*engine, "."))}


def test_it_has_the_same_pages_and_files(built_site, rebuilt):
    assert files(rebuilt) == files(built_site)
    assert "elu/index.html" in files(rebuilt)


def test_its_internal_links_and_anchors_resolve(rebuilt):
    assert broken_links(rebuilt, read_pages(rebuilt)) == []


def test_its_pages_hold_the_same_verdicts_and_heads(built_site, rebuilt):
    for name in ("elu/index.html", "claims/index.html", "index.html"):
        ours, theirs = ((site / name).read_text(encoding="utf-8") for site in (built_site, rebuilt))
        for mark in (
            'class="pn-verdict',
            'class="pn-metric',
            "<math",
            "application/atom+xml",
            "og:image",
            "papernotes.css",
        ):
            assert theirs.count(mark) == ours.count(mark), (name, mark)
