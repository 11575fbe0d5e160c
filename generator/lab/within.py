"""A command comes in; it is run as confined as a snippet, in a folder that is gone afterwards, and its exit status goes out.

Run as `python -m generator.lab.within [--if-possible] COMMAND…` from the project's root: for tests that may be a
stranger's. Time and memory are not bounded here.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from generator.lab import confine
from generator.lab.bounds import adopt_orphans, end, family

REFUSED = 3


def run(command: Sequence[str], root: Path, insist: bool) -> int:
    """Run a command confined and return its exit status; refuse, if confining cannot be had and is insisted on."""
    if insist and (free := confine.freedoms(confine.possible())):
        print(f"nothing was run, for it could {' and '.join(free)}; see SECURITY.md", file=sys.stderr)
        return REFUSED
    adopt_orphans()
    folder = Path(tempfile.mkdtemp(prefix="papernotes-"))
    try:
        if (pid := os.fork()) == 0:
            _become(command, root, folder)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        end(family(os.getpid()))  # what it left running
        return status if status >= 0 else 128 - status
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _become(command: Sequence[str], root: Path, folder: Path) -> None:
    try:
        own = {name: value for name, value in os.environ.items() if name.startswith("PAPERNOTES_")}
        kept = confine.emptied(os.environ) | own
        os.environ.clear()
        os.environ.update(kept, PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
        confine.close_files({0, 1, 2})
        reading = confine.readable(root, Path(__file__).resolve().parents[2])
        confine.settle(folder)
        confine.confine(folder, reading)
        os.execvp(command[0], list(command))
    except BaseException as error:
        print(f"{command[0]} could not be started: {error}", file=sys.stderr)
    finally:
        os._exit(127)


if __name__ == "__main__":
    insist = sys.argv[1:2] != ["--if-possible"]
    sys.exit(run(sys.argv[1 if insist else 2 :], Path.cwd(), insist))
