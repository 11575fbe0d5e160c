"""From a project to a site: built by MkDocs, read as files, and served while someone writes."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import free_port
from test_html import broken_links, read_pages

ROOT = Path(__file__).resolve().parent.parent


def mkdocs(project, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", *arguments], cwd=project.root, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def page(project, address):
    return (project.root / "site" / address / "index.html").read_text(encoding="utf-8")


def test_a_project_becomes_a_site_and_a_second_build_runs_nothing(toy):
    done = mkdocs(toy, "build", "--strict")
    assert done.returncode == 0, done.stderr
    assert "running toy" in done.stderr
    text = page(toy, "toy")
    stored = json.loads(next((toy.root / ".papernotes").rglob("result.json")).read_text())
    assert f">{stored['metrics']['two']['value']:g}</span>" in text
    assert "<svg" in text
    assert "1 reproduced" in text
    assert "1 reported only" in text
    assert "reported only" in page(toy, "claims")
    assert "A toy" in page(toy, ".")
    assert "A toy" in page(toy, "tags/activation")
    assert "@article{doe2020toy" in re.sub("<.*?>", "", page(toy, "papers/doe2020toy"))
    assert (toy.root / "site/files/toy/method.py").exists()
    assert (toy.root / "site/library.bib").exists()
    indexed = json.loads((toy.root / "site/pagefind/pagefind-entry.json").read_text())
    assert indexed["languages"]["en"]["page_count"] == 1  # the note alone
    assert "measured" in json.loads((toy.root / "site/pagefind/words.json").read_text())
    again = mkdocs(toy, "build", "--strict")
    assert again.returncode == 0
    assert "running" not in again.stderr


def test_a_site_of_plain_files_is_read_without_a_server(toy):
    config = toy.root / "mkdocs.yml"
    config.write_text(f"{config.read_text()}\nuse_directory_urls: false\n")
    assert mkdocs(toy, "build", "--strict").returncode == 0
    site = toy.root / "site"
    assert (site / "toy.html").exists()
    pages = read_pages(site)
    assert broken_links(site, pages) == []
    assert not [link for page in pages.values() for link in page.links if link.endswith("/")]


def test_no_page_names_another_host_to_load_from(toy):
    mkdocs(toy, "build")
    for path in (toy.root / "site").rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="(https?:[^"]+)"', text)
        assert not [one for one in loaded if 'rel="canonical"' not in one], path
    for path in (toy.root / "site").rglob("*.css"):
        assert not re.findall(r"url\([\"']?https?:", path.read_text(encoding="utf-8")), path


def test_a_changed_method_changes_the_number_on_the_page(toy):
    mkdocs(toy, "build")
    assert ">2</span>" in page(toy, "toy")
    toy.snippet(method="def double(x):\n    return 2.5 * x\n")
    done = mkdocs(toy, "build")
    assert ">2.5</span>" in page(toy, "toy")
    assert "notes/toy.md:10:5: this claim came out contradicted (2.5), the note says reproduced" in done.stderr


def test_a_failing_snippet_costs_its_page_alone_until_strict(toy):
    toy.note("other", body="All is well here.\n")
    toy.snippet(experiment="def run(record):\n    print('<i>hello</i>')\n    raise ValueError('no luck')\n")
    done = mkdocs(toy, "build")
    assert done.returncode == 0
    assert "no luck" in done.stderr
    assert "ValueError: no luck" in page(toy, "toy")
    assert "&lt;i&gt;hello&lt;/i&gt;" in page(toy, "toy")
    assert "All is well here." in page(toy, "other")
    assert mkdocs(toy, "build", "--strict").returncode == 1


def test_a_note_that_cannot_be_read_shows_why_on_its_page(toy):
    toy.note("broken", more="tittle: x")
    done = mkdocs(toy, "build")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "unknown key 'tittle'" in re.sub("<.*?>", "", page(toy, "broken")).replace("&#39;", "'")
    assert "A toy" in page(toy, "toy")


@pytest.fixture
def server(toy):
    """Serve the toy project, and stop when done."""
    port = free_port()
    log = toy.root / "serve.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mkdocs", "serve", "-a", f"127.0.0.1:{port}"], cwd=toy.root, stdout=out, stderr=out,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip

    def fetch(address, wanted, unwanted="\0", seconds=60):
        until = time.monotonic() + seconds
        text = ""
        while time.monotonic() < until:
            try:
                text = urllib.request.urlopen(f"http://127.0.0.1:{port}/{address}", timeout=5).read().decode()
                if wanted in text and unwanted not in text:
                    return text
            except OSError:
                assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        raise AssertionError(f"{wanted!r} never appeared on {address}: {log.read_text()[-2000:]}")

    yield fetch, log
    process.terminate()
    process.wait(timeout=10)


def test_serving_shows_edits_and_runs_only_what_changed(toy, server):
    fetch, log = server
    toy.snippet("other")
    fetch("toy/", ">2</span>")
    index = re.search('"hash":"(.*?)"', fetch("pagefind/pagefind-entry.json", "hash"))[1]

    def ran():
        return re.findall(r"running (\w+)", log.read_text())

    before = ran()
    path = toy.root / "notes/toy.md"
    path.write_text(path.read_text() + "\nA sentence more.\n")
    fetch("toy/", "A sentence more.")
    assert [slug for slug in ran() if slug == "toy"] == ["toy"]
    assert ran()[: len(before)] == before
    fetch("pagefind/pagefind-entry.json", "hash", index)  # the search finds what was written

    toy.snippet(method="def double(x):\n    return 3 * x\n")
    fetch("toy/", ">3</span>")
    assert ran().count("toy") == 2

    path.write_text("---\ntitle: [\n---\n")
    fetch("toy/", "This needs mending")
    toy.note(body="Mended.")
    fetch("toy/", "Mended.")


FAULTS = [
    # (what is written where, what the note's page then says)
    ("notes/toy.md", b"---\ntitle: A toy\ntags: [a\n---\nx\n", "notes/toy.md:3:9</code> front matter:"),
    ("notes/toy.md", b"---\ntitle: \xff\n---\nx\n", "notes/toy.md:2:1</code> not UTF-8"),
    ("notes/toy.md", "See [[toi]] and [@nobody2020].", "<mark>9</mark>  See [[toi]] and [@nobody2020]."),
    ("notes/toy.md", "Take $\\frac{1$ of it.", 'href="../problems/#formula"'),
    ("notes/toy.md", '{{ figure("lime") }}', "did you mean 'line'?"),
    ("notes/toy.md", "{{ figure(", 'href="../problems/#jinja"'),
    ("notes/library.bib", "@article{doe2020toy, title = {A", "unknown paper 'doe2020toy'"),
    ("notes/index.md", "{% if %}", ">2</span>"),
    ("snippets/toy/experiment.py", "def run(record:", "SyntaxError"),
]


def test_no_fault_of_a_file_stops_the_server_and_each_is_said_on_the_page(toy, server):
    fetch, log = server
    fetch("toy/", ">2</span>")
    for file, wrong, said in FAULTS:
        before = (toy.root / file).read_bytes()
        if isinstance(wrong, bytes) or not file.endswith("toy.md"):
            toy.write(file, wrong)
        else:
            toy.note(body=f"{wrong}\n")
        fetch("toy/", said)
        toy.write(file, before)
        fetch("toy/", ">2</span>", unwanted="This needs mending")
    assert "Traceback" not in log.read_text()


def test_while_a_snippet_is_rerun_its_last_good_result_is_shown_and_marked(toy, server):
    fetch, _ = server
    fetch("toy/", ">2</span>")
    slow = "import time\n\ndef double(x):\n    time.sleep(4)\n    return 3 * x\n"
    toy.snippet(method=slow)
    meanwhile = fetch("toy/", "pn-rerunning")
    assert ">2</span>" in meanwhile
    assert "snippets/toy/method.py: double changed" in meanwhile
    assert "rerunning" in fetch("runs/", "rerunning")
    done = fetch("toy/", ">3</span>")
    assert "pn-rerunning" not in done
    assert "succeeded" in fetch("runs/", "succeeded")


def test_code_that_changes_while_it_runs_begins_anew_and_a_failure_is_shown(toy, server):
    fetch, log = server
    toy.snippet(method="import time\n\ndef double(x):\n    time.sleep(600)\n")
    fetch("toy/", "pn-rerunning")
    toy.snippet(method="def double(x):\n    return 5 * x\n")
    fetch("toy/", ">5</span>")
    toy.snippet(method="def double(x):\n    raise ValueError('not now')\n")
    assert "pn-rerunning" not in fetch("toy/", "ValueError: not now")
    assert log.read_text().count("papernotes: toy raised") == 1
