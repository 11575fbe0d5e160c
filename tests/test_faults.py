"""What a machine, a disk or another program may do to a build: nothing is lost, nothing half-written, and it is said clearly.

FAULTS=100 kills a hundred builds (`make faults`); without it there are a few.
"""

import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_cli import papernotes

from generator import export, fresh, regular
from generator import load as loader
from generator.build import build
from generator.check import check
from generator.intake.files import save
from generator.intake.shelf import Shelf
from generator.load import load
from generator.pack import pack
from generator.run import EDITED, run, status, store_of
from generator.store import Store, write_whole

ROOT = Path(__file__).resolve().parent.parent
QUICK = "def run(record):\n    record.metric('two', {})\n"
BUILD, RUN = ("mkdocs", "build", "-q"), ("generator.cli", "run")
KILLS = int(os.environ.get("FAULTS", "4"))


def command(project, *words):
    return {
        "args": [sys.executable, "-m", *words],
        "cwd": project.root,
        "env": {**os.environ, "PYTHONPATH": str(ROOT)},
    }


def mkdocs(project, *words):
    return subprocess.run(**command(project, "mkdocs", "build", *words), capture_output=True, text=True, timeout=120)


def said(done):
    return done.stdout + done.stderr


def no_traceback(done):
    assert "Traceback" not in said(done), said(done)[-3000:]
    return done


@pytest.fixture
def quick(project):
    """Return a project with three notes and three quick snippets."""
    for n, slug in enumerate(("one", "two", "three")):
        project.snippet(slug, QUICK.format(n))
        project.note(slug, body='{{ metric("two") }}\n')
    return project


@contextmanager
def mounted(folder, *options):
    """Mount a small disk there, or skip where that is not allowed."""
    folder.mkdir(exist_ok=True)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("needs leave to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def left_over(project):
    """Return what only a build at work may have beside what is kept."""
    names = [path.name for path in [*project.root.iterdir(), *(project.root / ".papernotes").rglob("*")]]
    return [name for name in names if name.startswith((".tmp-", "tmp-", ".site-"))]


# Killed


def whole(site):
    """Return whether every page of a site is whole, to its last line."""
    pages = list(site.rglob("*.html"))
    return len(pages) > 10 and all(page.read_text().rstrip().endswith("</html>") for page in pages)


def named(site):
    """Return every file of a site by its name; those of the search's index are named by what is in them."""
    return {
        path.relative_to(site)
        for path in site.rglob("*")
        if path.parent.parent.name != "pagefind" and "pf_" not in path.suffix
    }


def test_a_killed_build_loses_nothing_and_leaves_no_half_of_anything(quick):
    began = time.monotonic()
    no_traceback(mkdocs(quick, "--strict"))
    took = dict.fromkeys((BUILD, RUN), time.monotonic() - began)
    store, kept, chance = store_of(quick.root), {}, random.Random(0)
    files = named(quick.root / "site")
    n = killed = 0
    while killed < KILLS:
        n += 1
        kept |= {one.slug: one.result for one in status(load(quick.root), store) if one.result}
        quick.snippet("three", QUICK.format(100 + n))  # something to run, beside what is stored
        began = time.monotonic()
        words = BUILD if n % 4 else RUN
        process = subprocess.Popen(**command(quick, *words), start_new_session=True, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=chance.uniform(0, took[words]))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
        else:
            took[words] = time.monotonic() - began
        for slug, result in kept.items():
            again = store.get(slug, result.key)
            assert again and again.data == result.data, f"kill {n}: the result of {slug} is lost"
        for folder in store.results.iterdir():
            slug = json.loads((folder / "result.json").read_text())["slug"]
            assert store.get(slug, folder.name), f"kill {n}: half a result of {slug}"
        for file in (*store.latest.glob("*.json"), store.sources):
            json.loads(file.read_text())
        assert whole(quick.root / "site"), f"kill {n}: half a site"
        assert named(quick.root / "site") == files, f"kill {n}"
    no_traceback(mkdocs(quick, "--strict"))
    assert papernotes(quick, "clean").returncode == 0
    assert left_over(quick) == []
    assert {one.state for one in status(load(quick.root), store)} == {"fresh"}
    deadline = time.monotonic() + 10
    while subprocess.run(["pgrep", "-f", str(quick.root)], capture_output=True).stdout:
        assert time.monotonic() < deadline, "a killed build left a process"
        time.sleep(0.2)


def test_two_builds_at_once_each_put_a_whole_site(quick):
    papernotes(quick, "run")
    builds = [subprocess.Popen(**command(quick, "mkdocs", "build", "-q", "--strict")) for _ in range(3)]
    assert [build.wait(timeout=120) for build in builds] == [0, 0, 0]
    assert whole(quick.root / "site")
    assert left_over(quick) == []


def test_where_two_folders_cannot_change_places_in_one_step_they_do_in_two(project, monkeypatch):
    monkeypatch.setattr(fresh, "_exchanged", lambda one, other: False)
    project.write("site/old.html", "old")
    made = fresh.Fresh(project.root / "site")
    (made.folder / "index.html").write_text("new")
    made.put()
    assert [path.name for path in (project.root / "site").iterdir()] == ["index.html"]
    assert left_over(project) == []


def test_a_site_that_a_tool_keeps_its_own_files_in_is_built_in_place(project):
    (project.root / "site/.git").mkdir(parents=True)
    project.write("site/.git/HEAD", "ref")
    no_traceback(mkdocs(project, "--strict"))
    assert (project.root / "site/.git/HEAD").read_text() == "ref" and whole(project.root / "site")


def test_the_empty_file_that_keeps_the_sites_folder_stays(project):
    project.write("site/.gitkeep", "")
    project.write("site/old.html", "")
    no_traceback(mkdocs(project))
    assert (project.root / "site/.gitkeep").exists() and not (project.root / "site/old.html").exists()


# Disks that are full, or not to be written


def test_a_full_disk_keeps_the_old_site_and_says_what_did_not_fit(project, tmp_path):
    with mounted(tmp_path / "disk", "size=1m") as disk:
        (disk / "site").mkdir()
        (disk / "site/index.html").write_text("before")
        done = no_traceback(mkdocs(project, "-d", str(disk / "site")))
        assert done.returncode == 1
        assert "No space left on device; make room" in said(done) and "the site stays as it was" in said(done)
        assert [path.name for path in disk.rglob("*")] == ["site", "index.html"]
        assert (disk / "site/index.html").read_text() == "before"


def test_a_site_that_cannot_be_written_is_said_to_be_so(project):
    with mounted(project.root / "site", "ro"):
        done = no_traceback(mkdocs(project))
        assert done.returncode == 1 and "Read-only file system" in said(done) and "cannot write" in said(done)


def test_a_store_that_cannot_be_written_costs_its_results_alone(quick):
    with mounted(quick.root / ".papernotes", "ro"):
        for words in (["status"], ["check"], ["clean"]):
            assert no_traceback(papernotes(quick, *words)).returncode == 0, words
        done = no_traceback(papernotes(quick, "run"))
        assert done.returncode == 1 and "Read-only file system" in said(done)
        assert no_traceback(mkdocs(quick, "--strict")).returncode == 1
        assert no_traceback(mkdocs(quick)).returncode == 0
    assert whole(quick.root / "site")


def test_notes_that_cannot_be_written_refuse_a_new_one_whole(quick):
    before = sorted(path for path in quick.root.rglob("*"))
    if subprocess.run(["mount", "--bind", quick.root / "notes", quick.root / "notes"], capture_output=True).returncode:
        pytest.skip("needs leave to mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", quick.root / "notes"], check=True)
        for words in (["new", "other"], ["fmt"], ["new", "--bibtex", str(ROOT / "notes/library.bib")]):
            done = no_traceback(papernotes(quick, *words))
            assert done.returncode in (1, 2) or words == ["fmt"], words
        assert "Read-only file system" in said(papernotes(quick, "new", "other"))
    finally:
        subprocess.run(["umount", "--lazy", quick.root / "notes"], check=True)
    assert [path for path in sorted(quick.root.rglob("*")) if ".papernotes" not in path.parts] == before


WRITERS = {
    # What is written -> (how, the file that has to stay as it was).
    "a file": lambda project, file: write_whole(file, b"new"),
    "library.bib": lambda project, file: save(Shelf(file.read_text()), project.root),
    "a memory": lambda project, file: store_of(project.root).remember("toy", {}, "k", 1.0),
    "sources": lambda project, file: store_of(project.root).remember_sources({"files": {}}),
    "a pack": lambda project, file: pack([], file),
    "an export": lambda project, file: export.export(build(project.root, execute=False), file.parent),
    "a report": lambda project, file: papernotes_write(file),
}
PLACES = {
    "library.bib": "notes/library.bib", "a memory": ".papernotes/v2/latest/toy.json", "sources": ".papernotes/v2/sources.json",
    "an export": "out/index.md",
}  # fmt: skip


def papernotes_write(file):
    from generator.cli.console import Refusal, write

    try:
        write(file, "new")
    except Refusal as refusal:
        raise OSError(errno.ENOSPC, str(refusal), str(file)) from None


@pytest.mark.parametrize("what", WRITERS)
@pytest.mark.parametrize("where", ["write", "replace"])
def test_a_disk_that_fills_up_midway_leaves_the_old_file_and_no_other(project, monkeypatch, what, where):
    file = project.root / PLACES.get(what, "out/file")
    if what != "library.bib":
        project.write(file.relative_to(project.root).as_posix(), "old")
    before = file.read_bytes()

    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "replace":
        monkeypatch.setattr("generator.store.os.replace", full)
    else:
        real = os.fdopen

        def opened(handle, mode="r", *more, **named):
            made = real(handle, mode, *more, **named)
            if "w" in mode:
                made.close()
                full()
            return made

        monkeypatch.setattr("generator.store.os.fdopen", opened)
    with pytest.raises(OSError, match="No space left"):
        WRITERS[what](project, file)
    monkeypatch.undo()
    assert file.read_bytes() == before
    assert not [path for path in project.root.rglob(".tmp-*")]


# Clocks


def test_a_clock_that_was_set_back_makes_nothing_stale_and_loses_nothing(quick):
    store = store_of(quick.root)
    run(load(quick.root), store)
    for when in (4e9, 1.0):  # in 2096, and in 1970
        for path in [*quick.root.rglob("*.py"), *quick.root.rglob("*.md"), *store.folder.rglob("*")]:
            os.utime(path, (when, when))
        assert {one.state for one in status(load(quick.root), store)} == {"fresh"}
        assert papernotes(quick, "clean").stdout.startswith("0 things removed")
    assert run(load(quick.root), store).executed == []


def test_sources_seen_by_a_clock_that_is_wrong_are_read_again(quick, monkeypatch):
    monkeypatch.setattr("generator.sources.time.time_ns", lambda: 10**9)  # in 1970: every file is newer than now
    store = store_of(quick.root)
    assert len(run(load(quick.root), store).executed) == 3
    monkeypatch.undo()
    quick.snippet("two", QUICK.format(77))
    assert run(load(quick.root), store).executed == ["two"]


def test_a_note_of_a_day_to_come_is_a_note(quick):
    quick.note("later", papers="[doe2020toy]", added="2999-01-01")
    assert papernotes(quick, "run").returncode == 0
    assert no_traceback(mkdocs(quick, "--strict")).returncode == 0
    assert "2999-01-01" in (quick.root / "site/feed.xml").read_text()


# Files that change while they are read


def test_a_note_that_goes_while_it_is_read_is_named(quick, monkeypatch):
    real = regular.text

    def text(path):
        if Path(path).name == "two.md":
            Path(path).unlink(missing_ok=True)
        return real(path)

    monkeypatch.setattr(loader.regular, "text", text)
    (problem,) = load(quick.root).problems
    assert str(problem).startswith("notes/two.md:1:1: cannot be read: No such file or directory")


def test_files_that_go_between_loading_and_showing_are_problems(toy):
    library = load(toy.root)
    runs = run(library, store_of(toy.root))
    toy.note(body='{{ source("method.py", "double") }} {{ source("method.py") }} {{ figure("line") }}\n')
    library = load(toy.root)
    shutil.rmtree(toy.root / "snippets")
    shutil.rmtree(runs.results["toy"].folder)
    (toy.root / "notes/index.md").unlink()
    assert any("cannot be read" in str(problem) for problem in check(library))
    from generator.filled import read
    from generator.pages import pages
    from generator.site import Site

    site = Site(library, runs.results)
    found = read(site)
    assert any("No such file or directory" in str(problem) for problem in found.problems)
    assert "toy.md" in {page.path for page in pages(site, found)}


@pytest.mark.parametrize("moment", ["queued", "started"])
def test_code_that_is_edited_while_it_runs_is_not_stored_under_either_key(project, moment):
    slow = "import time\ndef run(record):\n    time.sleep(0.5)\n    record.metric('two', {})\n"
    project.snippet("one", slow.format(1))
    project.snippet("two", slow.format(1))
    store = store_of(project.root)

    def edit(kind, event):
        if kind == moment and event.get("slug", "one") == "one":
            project.snippet("one", slow.format(2))

    runs = run(load(project.root), store, jobs=1, watch=edit)
    assert runs.failures["one"].error == EDITED and set(runs.results) == {"two"}
    assert len(list(store.results.iterdir())) == 1
    again = run(load(project.root), store)
    assert again.executed == ["one"] and again.results["one"].metrics["two"]["value"] == 2
    project.snippet("one", slow.format(1))
    assert run(load(project.root), store).results["one"].metrics["two"]["value"] == 1


def test_a_comment_that_is_written_while_code_runs_costs_nothing(project):
    project.snippet("one", QUICK.format(1))
    edit = lambda kind, event: project.snippet("one", "# said\n" + QUICK.format(1)) if kind == "started" else None  # noqa: E731
    assert set(run(load(project.root), store_of(project.root), watch=edit).results) == {"one"}


# What is no file, or not as it should be


def test_what_is_no_regular_file_is_named_and_nothing_waits_for_it(quick):
    notes = quick.root / "notes"
    for name in ("pipe.md", "pipe.png", "library.bib"):
        (notes / name).unlink(missing_ok=True)
        os.mkfifo(notes / name)
    os.mkfifo(quick.root / "snippets/one/pipe.py")
    (notes / "folder.md").mkdir()
    with socket.socket(socket.AF_UNIX) as door:
        os.chdir(notes)  # the name of a socket has no room for a long path
        try:
            door.bind("door.md")
        finally:
            os.chdir(ROOT)
    (notes / "dangling.md").symlink_to("nowhere.md")
    (notes / "loop.md").symlink_to("loop.md")
    (notes / "round").symlink_to(".")
    (quick.root / "snippets/two/method.py").unlink()
    (quick.root / "snippets/two/method.py").mkdir()
    store = store_of(quick.root)
    store.folder.mkdir(parents=True)
    os.mkfifo(store.sources)
    done = no_traceback(papernotes(quick, "check"))
    assert done.returncode == 1
    for line in (
        "notes/pipe.md:1:1: cannot be read: not a regular file",
        "notes/pipe.png:1:1: not a regular file",
        "notes/library.bib:1:1: cannot be read: not a regular file",
        "snippets/one/pipe.py:1:1: not a regular file",
        "notes/folder.md:1:1: cannot be read: Is a directory",
        "notes/door.md:1:1: cannot be read",
        "notes/dangling.md:1:1: a symbolic link",
        "notes/loop.md:1:1: a symbolic link",
        "notes/round:1:1: a symbolic link",
        "snippets/two:1:1: no method.py",
    ):
        assert line in done.stdout, done.stdout
    assert no_traceback(papernotes(quick, "status")).returncode == 0
    assert no_traceback(mkdocs(quick)).returncode == 0
    assert whole(quick.root / "site")


def test_files_as_other_systems_write_them_are_read(quick):
    text = (quick.root / "notes/one.md").read_bytes()
    quick.write("notes/crlf.md", text.replace(b"\n", b"\r\n"))
    quick.write("notes/cr.md", text.replace(b"\n", b"\r"))
    quick.write("notes/marked.md", b"\xef\xbb\xbf" + text)
    library = (quick.root / "notes/library.bib").read_bytes()
    quick.write("notes/library.bib", b"\xef\xbb\xbf" + library.replace(b"\n", b"\r\n"))
    found = load(quick.root)
    assert not found.problems
    assert {note.body for note in found.notes} == {'{{ metric("two") }}\n'}


LATIN = b"---\ntitle: caf\xe9\n---\n"
ODD = {
    "notes/latin.md": (LATIN, "notes/latin.md:2:1: not UTF-8; save the file as UTF-8"),
    "notes/wide.md": ("---\n".encode("utf-16"), "notes/wide.md:1:1: not UTF-8"),
    "notes/empty.md": (b"", "notes/empty.md:1:1: no front matter"),
    "notes/large.md": (b"a" * 10_000_000, "notes/large.md:1:1: larger than 2 MB; split the note"),
    "notes/index.md": (b"caf\xe9", "notes/index.md:1:1: not UTF-8; save the file as UTF-8"),
    "notes/One.md": (LATIN[:4], "notes/One.md:1:1: 'One' is no slug"),
    "notes/nul.md": (b"---\n", "notes/nul.md:1:1: 'nul' is the name of a device on Windows"),
    "notes/com1.md": (b"---\n", "notes/com1.md:1:1: 'com1' is the name of a device on Windows"),
    "notes/a b\x1b[31m\n.md": (b"", "notes/a b\ufffd[31m\ufffd.md:1:1: 'a b\ufffd[31m\ufffd' is no slug"),
    "notes/caf\udce9.md": (b"", "notes/caf\ufffd.md:1:1: 'caf\ufffd' is no slug"),
    f"notes/{'a' * 200}.md": (b"", f"'{'a' * 200}' is no slug"),
    "notes/Figure.png": (b"", ""),
    "notes/figure.png": (b"", "'figure.png' and 'Figure.png' differ in nothing but case"),
    "snippets/one/kernel.py": (b"caf\xe9", "snippets/one/kernel.py:1:1: not UTF-8 text"),
    "snippets/two/kernel.py": (b"a\x00", "snippets/two/kernel.py"),
}  # fmt: skip


def test_every_odd_file_is_named_with_its_mend(quick):
    for name, (content, _) in ODD.items():
        quick.write(name, content)
    done = no_traceback(papernotes(quick, "check"))
    assert done.returncode == 1
    for name, (_, line) in ODD.items():
        assert line in done.stdout, (name, done.stdout)
    assert no_traceback(papernotes(quick, "check", "--format", "json")).returncode == 1
    assert no_traceback(mkdocs(quick)).returncode == 0
    assert whole(quick.root / "site")


LONG = "a" * 1000
NAMES = [
    ({"title": LONG}, "", "", ""),
    ({"summary": LONG}, "", "", "'summary': string should have at most 200 characters"),
    ({"cover": LONG}, "", "", "'cover'"),
    ({}, f"tags: [{LONG}]", "", "'tags.0'"),
    ({"papers": f"[{LONG}]"}, "", "", "unknown paper 'aaa"),
    ({}, f"relations: [{{extends: {LONG}}}]", "", "'relations.0'"),
    ({}, f"claims: [{{says: a, metric: {LONG}, expect: {{below: 1}}}}]", "", "'claims.0.metric'"),
    ({}, f"{LONG}: a", "", "unknown key 'aaa"),
    ({}, "", f"[[{LONG}]]", "link to unknown note 'aaa"),
    ({}, "", f"[@{LONG}]", "unknown paper 'aaa"),
    ({}, "", f"{{{{ {LONG}() }}}}", "unknown embed 'aaa"),
    ({}, "", f"{{{{ metric('{LONG}', of='one') }}}}", "records no metric 'aaa"),
    ({}, "", f"{{{{ metric('two', of='{LONG}') }}}}", "there is no snippets/aaa"),
    ({}, "", f"$\\{LONG}$", "formula:"),
]


def test_names_of_1000_characters_are_shown_or_refused_and_named(quick):
    run(load(quick.root), store_of(quick.root))
    for n, (front, more, body, _) in enumerate(NAMES):
        quick.note(f"long{n}", body=body, more=more, **front)
    done = no_traceback(papernotes(quick, "check"))
    for n, (*_, what) in enumerate(NAMES):
        lines = [line for line in done.stdout.splitlines() if line.startswith(f"notes/long{n}.md:")]
        assert bool(lines) == bool(what) and all(what in line for line in lines[:1]), (n, lines, done.stdout[:3000])
        assert all(len(line) < 1300 for line in lines)
    assert no_traceback(mkdocs(quick)).returncode == 0


def test_keys_that_differ_in_case_only_are_named(project):
    bib = (project.root / "notes/library.bib").read_text()
    project.write("notes/library.bib", bib + bib.replace("doe2020toy", "Doe2020Toy"))
    (problem,) = check(load(project.root))
    assert "the keys 'Doe2020Toy' and 'doe2020toy' differ in nothing but case; rename one" in str(problem)


def test_a_page_that_markdown_cannot_read_costs_itself_alone(quick):
    quick.note("deep", body="1. " * 5000)
    done = no_traceback(mkdocs(quick))
    assert done.returncode == 0
    assert "deep.md:1: the page nests lists, quotations or brackets too deeply to be read; take some out" in said(done)
    assert "too deeply" in (quick.root / "site/deep/index.html").read_text()
    assert whole(quick.root / "site")


def test_a_page_that_takes_markdown_too_long_is_given_up():
    import markdown

    from generator.bounded import Bounded

    told = []
    html = markdown.Markdown(extensions=[Bounded(told.append, 0.2)]).convert("[" * 20_000)
    assert told == ["the page takes Markdown more than 0.2 s; look for long runs of one sign, or split it"]
    assert "needs mending" in html


def test_a_folder_of_results_is_never_half_taken_for_one(project):
    store = Store(project.root / ".papernotes")
    (store.results / "key").mkdir(parents=True)
    os.mkfifo(store.results / "key/checksums.json")
    os.mkfifo(store.results / "key/result.json")
    assert store.get("toy", "key") is None
