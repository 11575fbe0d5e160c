"""A request comes in over a socket; a warm process without the interpreter forks a compilation, and rows go out.

The interpreter and the compiler cannot share a process, and importing torch and Triton costs more than a compilation
does. So the warm parent forks the compiler off before it imports Triton itself, and every snippet's process asks there.
A compilation runs the snippet's code: it is confined and bounded as the snippet is, and ends with it. Which snippet that
is, the compiler learns from the warm parent, who hands it a line for each; what comes over the line is not believed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generator.lab.bounds import bound_files, bound_memory, die_with_parent, end, family
from generator.lab.confine import Readable, close_files, confine, freedoms, settle

MOST = 4
"""Compilations of one snippet at a time."""

_LOG = "compile.log"
_line: socket.socket | None = None
"""The way to the warm compiler: in the warm parent for handing it lines, in a snippet's process the line that is its own."""


@dataclass
class Asker:
    """A snippet that may ask, and the compilations it has asked for."""

    line: socket.socket
    order: dict[str, Any]
    running: set[int] = field(default_factory=set)


def start(warm: Sequence[str], close: Sequence[int], readable: Readable) -> int:
    """Fork the warm compiler off this process, which must not have imported Triton; `close` are files not meant for it.

    A compilation may read what is `readable`. Return its process, 0 where there can be none.
    """
    global _line
    if not hasattr(socket, "SOCK_SEQPACKET") or "triton" in sys.modules:
        return 0
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if pid := os.fork():
        theirs.close()
        _line = mine
        return pid
    try:
        mine.close()
        for file in close:
            os.close(file)
        _serve(theirs, warm, readable)
    finally:
        os._exit(0)


def line_for(order: dict[str, Any]) -> socket.socket | None:
    """Return a line over which the snippet of this order can ask, None where there is no warm compiler."""
    if not _line:
        return None
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            socket.send_fds(_line, [json.dumps(order).encode()], [theirs.fileno()])
        except OSError:  # the compiler is gone
            mine.close()
            return None
    return mine


def ask_over(line: socket.socket | None) -> None:
    """Have this process, forked for a snippet, ask over its own line."""
    global _line
    _line = line


def compiled(slug: str, folder: Path) -> list[dict[str, Any]]:
    """Return what the compiler makes of the kernels of a snippet; what it leaves behind lies in the folder.

    Raises RuntimeError, with what the compiler said, if a kernel does not compile.
    """
    cache = folder / "compile-cache"
    said = _ask(cache, folder / _LOG) if _line else _run(slug, cache, folder / _LOG)
    rows = [json.loads(row) for row in said.splitlines() if row.endswith("}")]
    if not rows or "done" not in rows.pop():
        log = (folder / _LOG).read_text(encoding="utf-8", errors="replace") if (folder / _LOG).exists() else ""
        raise RuntimeError(f"its kernels do not compile:\n{log.strip()[-2000:]}")
    return rows


def _ask(cache: Path, log: Path) -> str:
    assert _line
    reading, writing = os.pipe()
    try:
        socket.send_fds(_line, [json.dumps({"cache": str(cache), "log": str(log)}).encode()], [writing])
    finally:
        os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as answer:
        return answer.read()  # ends when the compilation does, however it does


def _run(slug: str, cache: Path, log: Path) -> str:
    """Compile in a fresh process: slower to start, and all there is without a warm compiler."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with log.open("w") as errors:
        return subprocess.run(
            [sys.executable, "-m", "generator.lab.compile", slug],
            env={**environment, "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
        ).stdout  # fmt: skip


def _serve(line: socket.socket, warm: Sequence[str], readable: Readable) -> None:
    """Fork a process for each request, until the warm parent is gone; end those whose snippet is."""
    die_with_parent()
    os.environ.pop("TRITON_INTERPRET", None)
    for module in (*warm, "generator.lab.compile"):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    askers: dict[int, Asker] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(line, selectors.EVENT_READ)
        while True:
            for ready, _ in selector.select(timeout=0.2 if any(one.running for one in askers.values()) else None):
                said, files = _heard(ready.fileobj)
                if ready.fd == line.fileno():
                    if not said:
                        return
                    new = socket.socket(fileno=files[0])
                    askers[files[0]] = Asker(new, json.loads(said))
                    selector.register(new, selectors.EVENT_READ)
                elif said:
                    _compile(askers[ready.fd], said, files, readable)
                else:
                    selector.unregister(ready.fileobj)
                    _end(gone := askers.pop(ready.fd))
                    gone.line.close()
            for asker in askers.values():
                _look_after(asker)


def _heard(line: Any) -> tuple[bytes, list[int]]:
    try:
        said, files, _, _ = socket.recv_fds(line, 65536, 1)
    except OSError:
        return b"", []
    return said, list(files)


def _look_after(asker: Asker) -> None:
    """Forget the compilations that have ended, and end what multiplies."""
    asker.running = {pid for pid in asker.running if os.waitpid(pid, os.WNOHANG)[0] == 0}
    if any(len(family(pid)) > asker.order["processes"] for pid in asker.running):
        _end(asker)


def _end(asker: Asker) -> None:
    end({one for pid in asker.running for one in (pid, *family(pid))})
    for pid in asker.running:
        os.waitpid(pid, 0)
    asker.running = set()


def _compile(asker: Asker, said: bytes, files: list[int], readable: Readable) -> None:
    """Fork a compilation, if this is a request, and close what came with it."""
    try:
        if files and len(asker.running) < MOST:
            if pid := os.fork():
                asker.running.add(pid)
            else:
                _answer(asker.order, said, files[0], readable)
    finally:
        for file in files:
            os.close(file)


def _answer(order: dict[str, Any], said: bytes, output: int, readable: Readable) -> None:
    """Compile in the forked process, and leave; a reader that is gone ends it at the next row."""
    try:
        os.dup2(output, 1)
        close_files({0, 1, 2})
        bound_memory(order["memory"])
        bound_files(order["files"])
        got = confine(Path(order["folder"]), readable)
        if order["confined"] and freedoms(got):
            raise RuntimeError("it could not be confined; run it again")
        die_with_parent()  # a change of privileges would undo this
        request = json.loads(said)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        Path(request["cache"]).mkdir(exist_ok=True)
        settle(Path(request["cache"]))
        os.environ["TRITON_CACHE_DIR"] = request["cache"]
        from generator.lab import compile as compilation

        compilation.main([order["slug"]])
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        with contextlib.suppress(Exception):
            sys.stderr.flush()
    finally:
        os._exit(0)
