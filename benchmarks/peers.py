"""Engines that run snippets: how the same N snippets are written for each, the command that runs them, what it leaves."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from textwrap import indent

from benchmarks.__main__ import HEAD

INSTALL = "`pip install -e '.[peers]'`"
IMPORTS = "import matplotlib\nimport torch\nimport triton\n\n"
NUMBER = "number = torch.tensor([71000, {n}, {part}]).sum().item()\n"
YIELDED = r"71\d{3}\.(25|75)"
"""The numbers that snippets yield and no source holds: they end on .25, and on .75 once the snippet was changed."""
DRAW = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots(figsize=(3.6, 2.7))\nax.plot([0, 1], [0, number])\n"
MULTIPLY = """# Enough products of 1,024² matrices for about a second of one core.
torch.manual_seed(0)
x = torch.randn(1024, 1024)
for _ in range(40):
    x = x @ x
    x = x / x.norm()
"""
WORK = {
    "imports": IMPORTS + NUMBER,
    "figure": IMPORTS + NUMBER + DRAW,
    "compute": IMPORTS + NUMBER + MULTIPLY,
}

MKDOCS = """site_name: benchmark
docs_dir: notes
site_dir: site
theme: {name: material, font: false}
plugins: [papernotes]
"""
NOTE = HEAD + 'tags: [tag]\n---\nMeasured {{{{ metric("number") }}}}.\n'
RECORD = "record.metric('number', number)\n"
RECORD_FIGURE = "record.figure('line', fig, caption='A line.', alt='a line')\n"
CONF = """extensions = ["sphinx_gallery.gen_gallery"]
sphinx_gallery_conf = {{"examples_dirs": "examples", "gallery_dirs": "gallery", "parallel": {parallel}}}
"""


@dataclass(frozen=True)
class Engine:
    """One way to bring snippets up to date: a writer of one snippet, a command that brings all up to date, its traces."""

    name: str
    settings: str
    begin: Callable[[Path], None]
    """Writes what the project needs besides its snippets."""
    write: Callable[[Path, int, str, float], None]
    """Writes snippet n, doing this work, whose number ends on this part."""
    command: Callable[[Path], list[str]]
    leaves: str
    """Which files hold the yielded numbers afterwards."""
    needs: tuple[str, ...] = ()
    keeps: bool = True
    """Whether it keeps results from one run to the next."""

    @property
    def installed(self) -> bool:
        return all(find_spec(module) for module in self.needs)


def source(n: int, work: str, part: float) -> str:
    """Return the code of snippet n, the same for every engine."""
    return WORK[work].format(n=n, part=part)


def python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


def _begin_papernotes(root: Path) -> None:
    (root / "notes").mkdir(parents=True)
    (root / "mkdocs.yml").write_text(MKDOCS)
    (root / "notes" / "index.md").write_text("# Home\n")


def _write_papernotes(root: Path, n: int, work: str, part: float) -> None:
    slug = f"note_{n}"
    (root / "notes" / f"{slug}.md").write_text(NOTE.format(n=n))
    body = source(n, work, part) + RECORD + (RECORD_FIGURE if work == "figure" else "")
    for file, text in {
        root / "snippets" / slug / "experiment.py": f"def run(record):\n{indent(body, '    ')}",
        root / "tests" / "snippets" / f"test_{slug}.py": "",
    }.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def _write_notebook(root: Path, n: int, work: str, part: float) -> None:
    code = source(n, work, part) + "number"
    cell: dict[str, object] = {
        "id": "only",
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": code,
    }
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": [cell]}
    (root / f"snippet_{n}.ipynb").write_text(json.dumps(notebook))


def _begin_gallery(parallel: int) -> Callable[[Path], None]:
    def begin(root: Path) -> None:
        (root / "examples").mkdir(parents=True)
        (root / "conf.py").write_text(CONF.format(parallel=parallel if parallel > 1 else False))
        (root / "index.rst").write_text("Home\n====\n\n.. toctree::\n\n   gallery/index\n")
        (root / "examples" / "GALLERY_HEADER.rst").write_text("Gallery\n=======\n")

    return begin


def _write_gallery(root: Path, n: int, work: str, part: float) -> None:
    text = f'"""\nSnippet {n}\n==========\n"""\n\n{source(n, work, part)}print(number)\n'
    (root / "examples" / f"plot_{n}.py").write_text(text)


def _write_markdown(root: Path, n: int, work: str, part: float) -> None:
    code = source(n, work, part) + "print(number)\n"
    if work == "figure":
        code += (
            "import io\nsvg = io.StringIO()\nfig.savefig(svg, format='svg')\nplt.close(fig)\nprint(svg.getvalue())\n"
        )
    (root / f"snippet_{n}.md").write_text(f'# Snippet {n}\n\n```python exec="true" html="true"\n{code}```\n')


def _nothing(root: Path) -> None:
    root.mkdir(parents=True)


def _driven(peer: str, *how: object) -> Callable[[Path], list[str]]:
    return lambda root: python("benchmarks.drive", peer, root, *how)


def papernotes(jobs: int) -> Engine:
    """Return papernotes with so many jobs; what is timed is its own command: notes are read and results stored."""
    return Engine(
        name="papernotes run",
        settings=f"`papernotes run --jobs {jobs}`: a forked process a snippet, {jobs} at a time, a note beside each",
        begin=_begin_papernotes,
        write=_write_papernotes,
        command=lambda root: python("generator.cli", "--root", root, "run", "--jobs", jobs),
        leaves=".papernotes/**/result.json",
    )


def papernotes_site() -> Engine:
    return Engine(
        name="papernotes, with its pages",
        settings="`mkdocs build` with the plugin and Material: runs as above, a job a core (the plugin has no option), "
        "and writes the site",
        begin=_begin_papernotes,
        write=_write_papernotes,
        command=lambda root: python("mkdocs", "build", "-q", "-f", root / "mkdocs.yml"),
        leaves=".papernotes/**/result.json",
    )


def nbclient(jobs: int, how: str) -> Engine:
    return Engine(
        name=f"nbclient, {how}",
        settings=f"a kernel a notebook, {how}; it has no option for several, and keeps no results: every run is a cold one",
        begin=_nothing,
        write=_write_notebook,
        command=_driven("nbclient", jobs),
        leaves="done/*.ipynb",
        needs=("nbclient", "ipykernel"),
        keeps=False,
    )


def jupyter_cache(executor: str, how: str) -> Engine:
    return Engine(
        name=f"jupyter-cache, {executor}",
        settings=f"its executor `{executor}` through its Python interface: a kernel a notebook, {how}",
        begin=_nothing,
        write=_write_notebook,
        command=_driven("jupyter-cache", executor),
        leaves="cache/executed/**/*.ipynb",
        needs=("jupyter_cache", "ipykernel"),
    )


def sphinx_gallery(jobs: int, how: str) -> Engine:
    return Engine(
        name=f"sphinx-gallery, {how}",
        settings=f"`sphinx-build -b html -j {jobs}` of one gallery, {how}; the snippets of a process share it; pages included",
        begin=_begin_gallery(jobs),
        write=_write_gallery,
        command=lambda root: python("sphinx", "-q", "-b", "html", "-j", jobs, root, root / "site"),
        leaves="site/gallery/plot_*.html",
        needs=("sphinx", "sphinx_gallery"),
    )


def markdown_exec() -> Engine:
    return Engine(
        name="markdown-exec",
        settings="its fence in Python-Markdown, a page a snippet and no site, which is the least it can do; one process that "
        "all share (it has no option for several); keeps no results: every run is a cold one",
        begin=_nothing,
        write=_write_markdown,
        command=_driven("markdown-exec"),
        leaves="done/*.html",
        needs=("markdown_exec",),
        keeps=False,
    )


ENGINES = [
    papernotes(2),
    papernotes_site(),
    nbclient(1, "one after another"),
    nbclient(2, "a pool of 2 processes"),
    jupyter_cache("local-serial", "one after another"),
    jupyter_cache("local-parallel", "a pool of 2 processes"),
    sphinx_gallery(1, "1 process"),
    sphinx_gallery(2, "`parallel: 2`"),
    markdown_exec(),
]
"""The first is what the others are compared with."""
