"""Beginning a note and taking in a library, as a user types it."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from test_cli import papernotes

from generator import new as draft
from generator.cli import papernotes as command
from generator.intake import online
from generator.load import load

ROOT = Path(__file__).resolve().parent.parent
RECORDED = Path(__file__).parent / "recorded"
ENTRY = """@inproceedings{heIdentity,
  title = {Going Deeper: {{ResNets}} \\& \\"Ubung},
  author = {He, Kaiming and G{\\"o}del, Kurt},
  year = {2016}, booktitle = {CVPR}, doi = {10.1109/CVPR.2016.91},
  abstract = {Long}, file = {/home/me/x.pdf}
}
"""
WORDS = ("new", "--arxiv", "https://arxiv.org/abs/1706.03762v5")


def files_of(project):
    """Return every file of a project with its bytes, but what running it leaves."""
    paths = (path for path in project.root.rglob("*") if path.is_file())
    found = {path.relative_to(project.root).as_posix(): path.read_bytes() for path in paths}
    return {
        name: data for name, data in found.items() if not name.startswith(".papernotes") and "__pycache__" not in name
    }


def added(project, before):
    after = files_of(project)
    assert {name for name in before if before[name] != after[name]} <= {"notes/library.bib"}
    return {name for name in after if name not in before}


def drafted(slug, kernel=True):
    kinds = ("method", "kernel", "experiment") if kernel else ("method", "experiment")
    return {f"notes/{slug}.md", f"tests/snippets/test_{slug}.py", *(f"snippets/{slug}/{kind}.py" for kind in kinds)}


def run(project, *arguments, stdin=None):
    """Run a command in this process, where the network can be replaced."""
    return CliRunner().invoke(command, ["--root", str(project.root), *arguments], input=stdin)


@pytest.fixture
def network(monkeypatch):
    """Answer what arXiv and Crossref are asked with what they answered once; return the addresses that were asked."""
    asked = []

    def get(answer):
        def reply(*arguments, **_):
            asked.append(next(one for one in arguments if isinstance(one, str)))
            if isinstance(answer, BaseException):
                raise answer
            return answer(asked[-1])

        return reply

    def answer(arxiv=None, crossref=None):
        requests, httpx2 = pytest.importorskip("requests"), pytest.importorskip("httpx2")
        pytest.importorskip("arxiv"), pytest.importorskip("habanero")

        def atom(_):
            response = requests.Response()
            response.status_code, response._content = 200, (RECORDED / "arxiv.xml").read_bytes()
            return response

        def work(url):
            data = json.loads((RECORDED / "crossref.json").read_text())
            return httpx2.Response(200, json=data, request=httpx2.Request("GET", url))

        monkeypatch.setattr(requests.Session, "get", get(arxiv or atom))
        monkeypatch.setattr(httpx2, "get", get(crossref or work))
        return asked

    return answer


@pytest.fixture(autouse=True)
def unplugged(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a test asked the network")

    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.mark.parametrize("kernel", [True, False])
def test_an_entry_piped_in_gives_a_draft_that_checks_runs_and_shows_a_figure(project, tmp_path_factory, kernel):
    before = files_of(project)
    flags = () if kernel else ("--no-kernel",)
    done = papernotes(project, "new", "--bibtex", "-", *flags, stdin=ENTRY)
    assert done.returncode == 0, done.stderr
    assert "added he2016going to notes/library.bib" in done.stdout
    assert added(project, before) == drafted("going_deeper", kernel)
    assert load(project.root).papers["he2016going"].title == "Going Deeper: ResNets & Übung"
    assert papernotes(project, "check").stdout == "1 note, no problems\n"
    out = tmp_path_factory.mktemp("out")
    ran = papernotes(project, "export", "--strict", str(out))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "<svg" in (out / "going_deeper.md").read_text()
    environment = {**os.environ, "PYTHONPATH": f"{project.root}{os.pathsep}{ROOT}"}
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/snippets"], cwd=project.root,
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout
    # Which imports are first-party is told by the folders beside them: here there is no generator/.
    style = ["--config", str(ROOT / "pyproject.toml"), "--no-cache", "notes", "snippets", "tests"]
    for rule in (["check", "--ignore", "I001"], ["format", "--check"]):
        clean = subprocess.run(
            [sys.executable, "-m", "ruff", *rule, *style], cwd=project.root, capture_output=True, text=True
        )
        assert clean.returncode == 0, clean.stdout


def test_a_second_note_on_a_paper_adds_no_second_entry(project):
    run(project, "new", "--bibtex", "-", stdin=ENTRY)
    before = files_of(project)
    done = run(project, "new", "again", "--doi", "https://doi.org/10.1109/cvpr.2016.91")
    assert done.exit_code == 0, done.output
    assert "notes/library.bib has it as he2016going: the same DOI" in done.output.replace("\n", " ")
    assert "notes/going_deeper.md is on he2016going as well" in done.output
    assert added(project, before) == drafted("again")
    assert files_of(project)["notes/library.bib"] == before["notes/library.bib"]


def test_arxiv_is_asked_for_what_only_it_knows(project, network):
    asked = network()
    done = run(project, *WORDS)
    assert done.exit_code == 0, done.output
    assert ["1706.03762" in one for one in asked] == [True]
    paper = load(project.root).papers["vaswani2017attention"]
    assert (paper.title, paper.year, paper.arxiv) == ("Attention Is All You Need", 2017, "1706.03762")
    assert (len(paper.authors), paper.authors[5]) == (8, "Aidan N. Gomez")
    assert (project.root / "notes/attention_is_all_you_need.md").exists()


def test_crossref_is_asked_for_a_doi(project, network):
    asked = network()
    done = run(project, "new", "--doi", "https://doi.org/10.1038/nature14539", "--title", "My reading of it")
    assert done.exit_code == 0, done.output
    assert len(asked) == 1 and asked[0].endswith("10.1038/nature14539")
    assert """@article{lecun2015deep,
  title = {Deep learning},
  author = {Yann LeCun and Yoshua Bengio and Geoffrey Hinton},
  journal = {Nature},
  year = {2015},
  volume = {521},
  number = {7553},
  pages = {436--444},
  doi = {10.1038/nature14539}
}""" in (project.root / "notes/library.bib").read_text()
    assert "title: My reading of it\n" in (project.root / "notes/my_reading_of_it.md").read_text()


GIVEN = ("--title", "Attention", "--author", "Ashish Vaswani", "--author", "Shazeer, Noam")


def test_without_an_answer_it_says_so_and_goes_on(project, network):
    network(arxiv=ConnectionError("no route"))
    done = run(project, *WORDS, "--title", "Attention")
    assert done.exit_code == 2
    assert "arXiv cannot be asked (no network); going on with what is given" in done.output
    assert "the paper has no author; give --author …" in done.output
    done = run(project, *WORDS, "--author", "Ashish Vaswani", "--title", "Attention")
    assert done.exit_code == 0, done.output
    assert load(project.root).papers["vaswani2017attention"].year == 2017  # the number says so


def test_what_is_whole_or_said_to_be_offline_asks_nobody(project, network):
    asked = network(arxiv=AssertionError(), crossref=AssertionError())
    assert run(project, *WORDS, *GIVEN).exit_code == 0
    assert run(project, "new", "--doi", "10.1/2", "--offline").exit_code == 2
    assert not asked


def test_a_network_that_hangs_is_waited_for_seconds_only(project, network, monkeypatch):
    monkeypatch.setattr(online, "SECONDS", 0.2)
    network(arxiv=lambda _: time.sleep(30))
    started = time.monotonic()
    assert "arXiv did not answer within" in run(project, *WORDS).output
    assert time.monotonic() - started < 15


def test_a_missing_client_is_named(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "arxiv", None)
    assert "pip install 'papernotes[online]'" in run(project, *WORDS).output


@pytest.mark.parametrize(
    ("arguments", "status", "what"),
    [
        ((), 2, "name the note"),
        (("--arxiv", "17"), 2, "'17' is no arXiv number"),
        (("--doi", "nature"), 2, "'nature' is no DOI"),
        (("--bibtex", "nowhere.bib"), 2, "nowhere.bib: No such file"),
        (("--paper", "no2000one"), 2, "unknown paper 'no2000one'"),
        (("my_note", "--author", "me"), 2, "--by"),
        (("notes",), 2, "'notes' is a name"),
        (("lambda",), 2, "'lambda' is a name"),
        (("--title", "x" * 2001), 2, "longer than 2,000"),
    ],
)
def test_wrong_words_write_nothing_and_say_what_to_do(project, arguments, status, what):
    before = files_of(project)
    done = run(project, "new", *arguments, "--offline")
    assert done.exit_code == status, done.output
    assert what in " ".join(done.output.split())
    assert files_of(project) == before


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "nothing in it"),
        ("@article{a, title={x", "standard input:1: entry cannot be read"),
        ("@comment{nothing}", "no entry in it"),
        ("@book{a,title={A},author={B},year=2000}\n@book{c,title={C},author={D},year=2000}", "holds 2 entries"),
    ],
)
def test_bibtex_that_is_not_one_paper_writes_nothing(project, text, what):
    before = files_of(project)
    done = run(project, "new", "--bibtex", "-", stdin=text)
    assert done.exit_code in (1, 2)
    assert what in " ".join(done.output.split())
    assert files_of(project) == before


@pytest.mark.parametrize("there", sorted(drafted("going_deeper")))
def test_where_one_file_exists_nothing_is_written(project, there):
    project.write(there, "mine")
    before = files_of(project)
    done = run(project, "new", "going_deeper", "--bibtex", "-", stdin=ENTRY)
    assert done.exit_code == 1, done.output
    assert f"{there} exists" in done.output
    assert files_of(project) == before


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device", "library.bib"), KeyboardInterrupt()])
def test_what_fails_half_way_leaves_nothing_behind(project, monkeypatch, fault):
    def fail(*_):
        raise fault

    monkeypatch.setattr("generator.intake.files.write_whole", fail)
    before = files_of(project)
    folders = {path for path in project.root.rglob("*") if path.is_dir()}
    assert run(project, "new", "--bibtex", "-", stdin=ENTRY).exit_code == 1
    assert files_of(project) == before
    assert {path for path in project.root.rglob("*") if path.is_dir()} == folders


def test_a_digest_is_a_note_that_shows_what_a_note_on_its_papers_measured(toy, tmp_path_factory):
    note = toy.root / "notes/toy.md"
    note.write_text(note.read_text().replace("kind: paper", "kind: paper\ncover: line"))
    two = ENTRY + "@book{other, title={Other}, author={A B}, year=2000}"
    before = files_of(toy)
    arguments = ("new", "--kind", "digest", "--paper", "doe2020toy", "--bibtex", "-", "--title", "Three of a kind")
    assert run(toy, *arguments, stdin=two).exit_code == 0
    assert added(toy, before) == {"notes/three_of_a_kind.md"}
    out = tmp_path_factory.mktemp("out")
    done = papernotes(toy, "export", "--strict", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "<svg" in (out / "three_of_a_kind.md").read_text()


def test_on_a_terminal_it_asks_for_what_is_missing(project):
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "generator.cli", "--root", str(project.root), "new", "--offline"],
        stdin=side, stdout=side, stderr=side, env={**os.environ, "PYTHONPATH": str(ROOT)}, close_fds=True,
    )  # fmt: skip
    os.close(side)
    os.write(main, b"1706.03762\nA Title: of mine\nAda Li and Bo Ek\n")
    said = b""
    try:
        while chunk := os.read(main, 4096):
            said += chunk
    except OSError:
        pass  # how a terminal ends
    assert process.wait(timeout=60) == 0, said.decode()
    for question in (b"Paper (arXiv number", b"Title of the paper", b"Its authors"):
        assert question in said
    assert load(project.root).papers["li2017title"].authors == ("Ada Li", "Bo Ek")
    assert (project.root / "notes/title.md").exists()


LIBRARY = """@article{x1, title={One}, author={Doe, Jane}, year=2001, doi={10.1/one}, keywords={read}}
@article{x2, title={A toy paper}, author={Doe, Jane}, year=2020}
@article{x3, title={Three}, author={Doe, Jane}}
"""


def test_a_library_comes_in_with_a_report_and_once_only(project):
    file = project.write("refs.bib", LIBRARY)
    before = files_of(project)
    tried = run(project, "import", str(file), "--dry-run")
    assert tried.exit_code == 1
    assert "would add 1 paper" in tried.output
    assert files_of(project) == before
    done = run(project, "import", str(file), "--status", "reading")
    assert done.exit_code == 1
    said = done.output.replace("\n", " ")
    assert "added 1 paper" in said
    assert "refs.bib:2: x2: doe2020toy has the same title and first author" in said
    assert "refs.bib:3: x3: no year; add it" in said
    assert added(project, before) == set()
    assert load(project.root).papers["doe2001one"].readstatus == "read"
    again = run(project, "import", str(file))
    assert "added 0 papers already there: 2" in again.output.replace("\n", " ")


def test_csl_json_comes_in_by_what_it_holds(project):
    item = {"type": "book", "title": "B", "author": [{"family": "Li"}], "issued": {"date-parts": [[2000]]}}
    file = project.write("export.txt", json.dumps([item]))
    done = run(project, "import", str(file))
    assert (done.exit_code, done.output) == (0, "added 1 paper\n")
    assert load(project.root).papers["li2000b"].readstatus == "to read"


def test_what_is_no_library_is_refused(project):
    file = project.write("x.bib", b"\xff\xfe")
    done = run(project, "import", str(file))
    assert done.exit_code == 1
    assert "not UTF-8" in done.output
    assert run(project, "import", "nowhere.bib").exit_code == 2


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("BERT: Pre-training of Deep Bidirectional Transformers", "bert"),
        ("Deep Residual Learning for Image Recognition", "deep_residual_learning"),
        ("Attention Is All You Need", "attention_is_all_you_need"),
        ("3D ConvNets", "note_3d_convnets"),
        ("Lambda", "note_lambda"),
        ("深度学习", "note"),
        ("Über été", "uber_ete"),
        ("The Notes", "the_notes"),
        ("A" * 300, "a" * 60),
    ],
)
def test_a_slug_is_short_and_its_own(title, slug):
    assert draft.slug_of(title, ()) == slug
    assert draft.slug_of(title, {slug, f"{slug}_2"}) == f"{slug}_3"


@pytest.mark.parametrize(
    "title", ['Q&A: "why" \\ell """x""" \\N{x} # 100 %', "no", "2026", "@home: [x]", "a\x7f\x85b", "- x"]
)
def test_any_title_gives_a_draft_that_reads_and_runs(project, title):
    assert run(project, "new", "my_note", "--title", title).exit_code == 0
    assert load(project.root).problems == ()
    for path in (project.root / "snippets/my_note").iterdir():
        compile(path.read_text(), str(path), "exec", dont_inherit=True)


def test_every_option_has_a_help_text():
    for name in ("new", "import"):
        options = [one for one in command.commands[name].params if isinstance(one, click.Option)]
        assert all(one.help for one in options)
