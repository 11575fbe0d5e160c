"""Runs a folder of snippets in a peer without a command line that does it: `python -m benchmarks.drive PEER FOLDER [HOW]`.

This is the process that is timed, so each peer is imported only where it runs.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

TIMEOUT = 600
"""Seconds a notebook may take; no snippet comes near."""


def nbclient(folder: Path, jobs: str) -> None:
    """Execute every notebook in a kernel of its own, so many at a time."""
    (folder / "done").mkdir(exist_ok=True)
    notebooks = sorted(folder.glob("*.ipynb"))
    if jobs == "1":
        for path in notebooks:
            _execute(path)
    else:
        with ProcessPoolExecutor(int(jobs)) as pool:
            list(pool.map(_execute, notebooks))


def _execute(path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=TIMEOUT, resources={"metadata": {"path": str(path.parent)}}).execute()
    nbformat.write(notebook, path.parent / "done" / path.name)


def jupyter_cache(folder: Path, executor: str) -> None:
    """Add the notebooks to a project once, and execute those whose result is not in the cache."""
    os.environ["JUPYTERCACHE"] = str(folder / "cache")
    from jupyter_cache import get_cache
    from jupyter_cache.executors import load_executor

    # Its parallel executor starts a process a core and has no option: give it the two that everyone has.
    multiprocessing.Pool = functools.partial(multiprocessing.Pool, 2)  # type: ignore[method-assign,assignment]
    cache = get_cache(str(folder / "cache"))
    if not cache.list_project_records():
        for path in sorted(folder.glob("*.ipynb")):
            cache.add_nb_to_project(str(path))
    done = load_executor(executor, cache=cache).run_and_cache(timeout=TIMEOUT)
    if done.excepted or done.errored:
        sys.exit(f"not executed: {done.excepted + done.errored}")


def markdown_exec(folder: Path) -> None:
    """Convert every page, running its fence on the way."""
    import markdown
    from markdown_exec import formatter, validator

    (folder / "done").mkdir(exist_ok=True)
    fence = {"name": "python", "class": "python", "validator": validator, "format": formatter}
    converter = markdown.Markdown(
        extensions=["pymdownx.superfences"], extension_configs={"pymdownx.superfences": {"custom_fences": [fence]}}
    )
    for path in sorted(folder.glob("*.md")):
        html = converter.reset().convert(path.read_text(encoding="utf-8"))
        (folder / "done" / f"{path.stem}.html").write_text(html, encoding="utf-8")


PEERS: dict[str, Callable[..., None]] = {
    "nbclient": nbclient,
    "jupyter-cache": jupyter_cache,
    "markdown-exec": markdown_exec,
}

if __name__ == "__main__":
    PEERS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
