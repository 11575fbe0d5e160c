"""Orders come in as JSON lines; a warm parent forks one bounded process for each, and says how it ended.

Started by `generator.run` as `python -m generator.lab.nursery ROOT JOBS [MODULE…]`, the modules being what several of the
snippets will import; ends, with all its children, when its standard input closes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import re
import selectors
import signal
import stat
import sys
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generator.lab import confine
from generator.lab.bounds import adopt_orphans, bound_files, bound_memory, children, die_with_parent, end, family

TAIL = 8 * 1024
"""Bytes of output kept of each snippet: the last ones."""
OUT_OF_MEMORY = 77
RAISED = 78
OVERSTEPPED = {
    "timed out": "did not end within {timeout:g} s",
    "too much output": "printed more than {output} bytes",
    "too many processes": "ran more than {processes} processes at once",
}
HOME = Path(__file__).resolve().parents[2]
"""Where the generator lies."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal would obey."""
KERNELS = "torch._dynamo"
"""What registering a Triton kernel with torch imports, at a second's cost."""


@dataclass(frozen=True)
class Confinement:
    """How far snippets can be confined here, and what they may read."""

    got: dict[str, str]
    reading: confine.Readable


@dataclass
class Child:
    """A snippet's process, and what is known of it."""

    order: dict[str, Any]
    pid: int
    output: int
    started: float
    tail: deque[bytes] = field(default_factory=deque)
    kept: int = 0
    printed: int = 0
    ended: str = ""
    """Which of its bounds it overstepped, and was killed for."""

    def keep(self, data: bytes) -> None:
        """Keep the last bytes of the output, and no more."""
        self.printed += len(data)
        self.tail.append(data)
        self.kept += len(data)
        while self.kept - len(self.tail[0]) > TAIL:
            self.kept -= len(self.tail.popleft())


def main(root: Path, jobs: int, warm: Sequence[str] = ()) -> None:
    """Take orders until standard input closes; run at most `jobs` at a time."""
    sys.path.insert(0, str(root))
    adopt_orphans()
    confinement = Confinement(confine.possible(), confine.readable(root, HOME))
    own = _warm_up(warm, confinement.reading)
    _say(event="ready", freedoms=confine.freedoms(confinement.got))
    waiting: deque[dict[str, Any]] = deque()
    running: dict[int, Child] = {}
    selector = selectors.DefaultSelector()
    os.set_blocking(0, False)
    selector.register(0, selectors.EVENT_READ)
    unread = b""
    try:
        while True:
            while waiting and len(running) < jobs:
                order = waiting.popleft()
                if order["confined"] and (free := confine.freedoms(confinement.got)):
                    _refuse(order["slug"], f"it must be confined, and here it could {' and '.join(free)}")
                    continue
                child = _start(order, confinement)
                running[child.output] = child
                selector.register(child.output, selectors.EVENT_READ)
                _say(event="started", slug=order["slug"])
            for ready, _ in selector.select(timeout=0.1):
                data = os.read(ready.fd, 65536)
                if ready.fd == 0:
                    if not data:
                        return
                    *lines, unread = (unread + data).split(b"\n")
                    waiting.extend(json.loads(line) for line in lines)
                elif data:
                    running[ready.fd].keep(data)
            for child in list(running.values()):
                if not child.ended and (overstepped := _overstepped(child)):
                    child.ended = overstepped
                    _kill(child.pid)
                if status := _ended(child.pid):
                    selector.unregister(child.output)
                    del running[child.output]
                    _finish(child, *status, confinement)
            _end_strays({own, *(child.pid for child in running.values())})
    finally:
        for child in running.values():
            _kill(child.pid)
        end({own} | family(own) if own else ())
        _end_strays({own})


def _overstepped(child: Child) -> str:
    """Return which bound a snippet has overstepped, or nothing."""
    order = child.order
    if time.monotonic() - child.started > order["timeout"]:
        return "timed out"
    if child.printed > order["output"]:
        return "too much output"
    return "too many processes" if len(family(child.pid)) > order["processes"] else ""


def _end_strays(own: set[int]) -> None:
    """End what a snippet left behind that now is a child of this process, and forget it."""
    strays = children(os.getpid()) - own
    end(strays | {pid for stray in strays for pid in family(stray)})
    for stray in strays:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(stray, os.WNOHANG)


def _warm_up(warm: Sequence[str], reading: confine.Readable) -> int:
    """Import once what the snippets need; nothing here may start a thread, for a fork would lose it.

    Return the process of the compiler, 0 if there is none.
    """
    import matplotlib
    import numpy as np
    import torch

    import generator.lab.figures
    import generator.lab.perform  # noqa: F401
    from generator.lab import compiler

    matplotlib.use("Agg")
    torch.set_num_threads(1)
    np.random.seed(0)  # imports what it needs
    own = compiler.start(warm, (0, _VOICE), reading) if KERNELS in warm else 0
    for module in (*warm, "triton.language"):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    return own


def _start(order: dict[str, Any], confinement: Confinement) -> Child:
    from generator.lab import compiler  # not before warming up, and then it costs nothing

    reading, writing = os.pipe()
    line = compiler.line_for(order)
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        compiler.ask_over(line)
        _become(order, writing, line.fileno() if line else -1, confinement)
    os.close(writing)
    if line:
        line.close()
    os.set_blocking(reading, False)
    return Child(order, pid, reading, started)


def _become(order: dict[str, Any], output: int, line: int, confinement: Confinement) -> None:
    """Turn the forked process into the snippet's own: bounded, silent towards the parent, and gone when done."""
    code = RAISED
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        faulthandler.enable()
        from generator.lab.perform import perform  # imported while warming up: costs nothing here

        confine.close_files({0, 1, 2, line})
        bound_memory(order["memory"])
        bound_files(order["files"])
        if confine.confine(Path(order["folder"]), confinement.reading) != confinement.got:
            raise RuntimeError("it could not be confined as others were; run it again")
        die_with_parent()  # a change of privileges would undo this
        perform(order["slug"], Path(order["folder"]))
        code = 0
    except MemoryError:
        code = OUT_OF_MEMORY
        print("MemoryError", file=sys.stderr)
    except BaseException as error:
        code = OUT_OF_MEMORY if "can't allocate memory" in str(error) or "alloc_cpu" in str(error) else RAISED
        _report(error, Path(order["folder"]))
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _report(error: BaseException, folder: Path) -> None:
    """Print the traceback from the snippet's own frames on, and leave the one-line error for the parent."""
    if isinstance(error, SystemExit):
        line = f"called sys.exit({error.code!r})"
    else:
        line = "".join(traceback.format_exception_only(error)).strip()
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename and f.filename != __file__
    ]
    print("".join(traceback.format_list(frames)) + line, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        (folder / "error.txt").write_text(line, encoding="utf-8")


def _ended(pid: int) -> tuple[int, float] | None:
    done, status, usage = os.wait4(pid, os.WNOHANG)
    return (status, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)) if done else None


def _refuse(slug: str, why: str) -> None:
    about = {"outcome": "could not start", "error": why, "tail": "", "seconds": 0.0, "peak_memory": 0}
    _say(event="finished", slug=slug, **about)


def _finish(child: Child, status: int, peak: float, confinement: Confinement) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(child.output, 65536):
            child.keep(data)
    os.close(child.output)
    _kill_group(child.pid)  # whatever it left running; what left the group too is a stray now
    tail = CONTROL.sub("\N{REPLACEMENT CHARACTER}", b"".join(child.tail)[-TAIL:].decode("utf-8", "replace"))
    outcome, error = _outcome(child, status, tail)
    seconds = time.monotonic() - child.started
    about = {"outcome": outcome, "error": error, "tail": tail, "seconds": seconds, "peak_memory": int(peak)}
    _say(event="finished", slug=child.order["slug"], **about, confined=confinement.got)


def _noted(file: Path) -> str:
    """Return the error that a snippet left, and remove it; what is no plain file of moderate size is not looked at."""
    said = ""
    with contextlib.suppress(OSError):
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(opened, "rb") as note:
            if stat.S_ISREG(os.fstat(opened).st_mode):
                said = CONTROL.sub("\N{REPLACEMENT CHARACTER}", note.read(TAIL).decode("utf-8", "replace"))
    with contextlib.suppress(OSError):
        file.unlink()
    return said


def _outcome(child: Child, status: int, tail: str) -> tuple[str, str]:
    line = _noted(Path(child.order["folder"]) / "error.txt")
    if child.ended:
        return child.ended, OVERSTEPPED[child.ended].format(**child.order)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return "killed", f"killed by signal {os.WTERMSIG(status)} ({name})"
    code = os.waitstatus_to_exitcode(status)
    if code == OUT_OF_MEMORY:
        return "out of memory", line or f"needed more than {child.order['memory'] / 2**30:.1f} GiB"
    if code == RAISED:
        return "raised", line or (tail.strip().splitlines() or ["raised an exception"])[-1]
    if not (Path(child.order["folder"]) / "result.json").exists():
        return "exited", f"left with status {code} before it was done"
    return "succeeded", ""


def _kill(pid: int) -> None:
    """End a snippet's process with its group and whatever else it started."""
    end({pid} | family(pid))
    _kill_group(pid)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _say(**event: Any) -> None:
    line = json.dumps(event).encode() + b"\n"
    os.write(_VOICE, line) if len(line) < 4096 else _write_all(line)


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(_VOICE, data) :]


_VOICE = 1

if __name__ == "__main__":
    # Standard output carries events alone: what an import prints goes to standard error.
    _VOICE = os.dup(1)
    os.set_inheritable(_VOICE, False)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    os._exit(0)  # nothing is left to tidy up, and a slow good-bye from torch would be waited for
