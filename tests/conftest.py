"""Shared by all tests: the interpreter where there is no GPU, and a tiny project to build."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# Before triton is imported anywhere: without a GPU its kernels run in the interpreter.
if not Path("/proc/driver/nvidia/gpus").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_MKDOCS_2_WARNING", "1")

ROOT = Path(__file__).resolve().parent.parent

FRONT = {
    "title": "A toy",
    "kind": "paper",
    "papers": "[doe2020toy]",
    "author": "papernotes",
    "added": "2026-11-21",
    "summary": "A toy for trying things.",
}
BIB = """@article{doe2020toy,
  title = {A Toy {Paper}},
  author = {Doe, Jane and John Smith and {The Team}},
  year = {2020},
  journal = {Journal of Toys},
  eprint = {2001.00001},
  archiveprefix = {arXiv},
}
"""
EXPERIMENT = """
from generator.lab.figures import panel
from snippets.toy import method

def run(record):
    record.metric("two", method.double(1.0), setting="a toy")
    record.metric("noisy", [1.0, 2.0, 3.0], unit="s")
    fig, ax = panel("Double", "x", "y")
    ax.plot([0, 1], [0, 2])
    record.figure("line", fig, caption="A line, <twice> as steep.", alt="a rising line")
    record.table("pairs", [{"x": 1, "name": "<b>one</b>"}, {"x": 2.5, "name": None}])
"""
METHOD = 'def double(x):\n    """Return 2x."""\n    return 2 * x\n'


def stored_result(slug: str = "toy", **more: object) -> dict:
    """Return what a result.json says at least, and more."""
    where = {
        "measured": "2026-11-21",
        "seconds": 1.0,
        "peak_memory": 1,
        "python": "3.11.7",
        "device": "CPU",
        "torch": "2",
    }
    return {
        "format": 1,
        "slug": slug,
        "metrics": {},
        "tables": {},
        "figures": {},
        "log": [],
        "provenance": where,
    } | more


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Project:
    """A project in a temporary folder, written file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("mkdocs.yml", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
        self.write("notes/library.bib", BIB)
        self.write("notes/index.md", "# Home\n\n{{ counts() }}\n\n{{ cards() }}\n")

    def write(self, path: str, text: str | bytes) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text if isinstance(text, bytes) else text.encode())
        return target

    def note(self, slug: str = "toy", body: str = "Prose.\n", more: str = "", **front: str) -> Path:
        head = "\n".join(f"{key}: {value}" for key, value in (FRONT | front).items() if value)
        head = f"{head}\n{textwrap.dedent(more).strip()}".strip()
        return self.write(f"notes/{slug}.md", f"---\n{head}\n---\n{body}")

    def snippet(self, slug: str = "toy", experiment: str = EXPERIMENT, method: str = METHOD) -> None:
        self.write(f"snippets/{slug}/method.py", method)
        self.write(
            f"snippets/{slug}/experiment.py", textwrap.dedent(experiment).replace("snippets.toy", f"snippets.{slug}")
        )
        self.write(f"tests/snippets/test_{slug}.py", "")


TOGETHER = {
    "test_site": "site",
    "test_browser": "site",
    "test_html": "site",
    "test_engine": "site",
    "test_cluster": "cluster",
    "test_confine": "confine",
    "test_notes": "site",
}
"""Files whose costly fixtures are made once when tests run side by side; a snippet's tests stay together as well."""
PROVED = ("test_it_compiles", "test_full_blocks", "test_it_computes_no_index")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell pytest-xdist which tests share a worker (`--dist loadgroup`); alone or in order, this changes nothing."""
    for item in items:
        group = TOGETHER.get(item.path.stem) or (item.path.stem if item.path.parent.name == "snippets" else None)
        if item.name.startswith(PROVED):
            group = "site"
        if group:
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return an empty project: a bibliography of one paper and a home page."""
    return Project(tmp_path)


@pytest.fixture
def toy(project: Project) -> Project:
    """Return a project with one whole note."""
    project.snippet()
    project.note(
        more="""
        tags: [activation]
        claims:
          - says: two is two
            metric: two
            expect: {near: 2, within: 0.1}
          - says: 1 % error on ImageNet
            where: Table 1
            reported: true
        """,
        body='Measured {{ metric("two") }} in [@doe2020toy].\n\n{{ figure("line") }}\n\n{{ table("pairs") }}\n',
    )
    return project


@pytest.fixture(scope="session")
def built_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the project's own site, once; what is stale is run, what is stored is reused."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder
