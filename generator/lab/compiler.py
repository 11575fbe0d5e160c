"""A slug comes in over a socket; a warm process without the interpreter forks a compilation of its kernels, and rows go out.

The interpreter and the compiler cannot share a process, and importing torch and Triton costs more than a compilation
does. So the warm parent forks the compiler off before it imports Triton itself, and every snippet's process asks there.
"""

from __future__ import annotations

import array
import contextlib
import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from generator.lab.bounds import die_with_parent

_LOG = "compile.log"
_line: socket.socket | None = None
"""The way to the warm compiler, in the process that started it and in all that are forked from it."""


def start(warm: Sequence[str], close: Sequence[int]) -> int:
    """Fork the warm compiler off this process, which must not have imported Triton; `close` are files not meant for it.

    Return its process, 0 where there can be none.
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
        _serve(theirs, warm)
    finally:
        os._exit(0)


def compiled(slug: str, folder: Path) -> list[dict[str, Any]]:
    """Return what the compiler makes of the kernels of a snippet; what it leaves behind lies in the folder.

    Raises RuntimeError, with what the compiler said, if a kernel does not compile.
    """
    cache = folder / "compile-cache"
    said = _ask(slug, cache, folder / _LOG) if _line else _run(slug, cache, folder / _LOG)
    rows = [json.loads(row) for row in said.splitlines() if row.endswith("}")]
    if not rows or "done" not in rows.pop():
        log = (folder / _LOG).read_text(encoding="utf-8", errors="replace") if (folder / _LOG).exists() else ""
        raise RuntimeError(f"its kernels do not compile:\n{log.strip()[-2000:]}")
    return rows


def _ask(slug: str, cache: Path, log: Path) -> str:
    assert _line
    reading, writing = os.pipe()
    memory = resource.getrlimit(resource.RLIMIT_DATA)[0]
    request = {"slug": slug, "cache": str(cache), "log": str(log), "memory": memory}
    try:
        socket.send_fds(_line, [json.dumps(request).encode()], [writing])
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


def _serve(line: socket.socket, warm: Sequence[str]) -> None:
    """Fork a process for each request, until everyone who could ask is gone."""
    die_with_parent()
    os.environ.pop("TRITON_INTERPRET", None)
    for module in (*warm, "generator.lab.compile"):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies: nobody asks how a compilation ended
    while True:
        request, files, _, _ = socket.recv_fds(line, 65536, 1)
        if not request:
            return
        if os.fork() == 0:
            line.close()
            _answer(json.loads(request), array.array("i", files)[0])
        for file in files:
            os.close(file)


def _answer(request: dict[str, Any], output: int) -> None:
    """Compile in the forked process, and leave; a reader that is gone ends it at the next row."""
    try:
        die_with_parent()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (request["memory"], request["memory"]))
        os.environ["TRITON_CACHE_DIR"] = request["cache"]
        from generator.lab import compile as compilation

        compilation.main([request["slug"]])
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        with contextlib.suppress(Exception):
            sys.stderr.flush()
    finally:
        os._exit(0)
