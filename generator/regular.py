"""A path comes in; what the file there holds goes out. A pipe or a device, of which a read may never return, is refused."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read(path: Path | str) -> bytes:
    """Return a regular file's bytes; raise OSError for whatever else lies there."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb", closefd=True) as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()


def text(path: Path | str) -> str:
    """Return a regular file's text, its lines ended alike; raise OSError, or UnicodeDecodeError where it is not UTF-8."""
    return read(path).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def line_of(error: UnicodeDecodeError) -> int:
    """Return the line of the first byte that is not UTF-8."""
    return error.object[: error.start].count(b"\n") + 1
