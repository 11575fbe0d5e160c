"""Paths come in; from then on this process, and all that it starts, opens nothing else (Linux with Landlock)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

CREATE, ADD, RESTRICT = 444, 445, 446
"""The system calls' numbers, the same on every architecture."""
LEAST, SIGNALS = 2, 6
"""The versions that let a file be renamed from one folder into another, as Triton's cache does, and that bound signals."""
READ, LIST = 1 << 0 | 1 << 2 | 1 << 3, 1 << 3
"""Execute a file, read it, list a folder; and the last of these alone."""
WRITE = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 12
"""Write a file, remove one or a folder, make a folder, a file, a pipe or a symbolic link."""
SPECIAL = 1 << 6 | 1 << 9 | 1 << 11
"""Make a device or a socket: allowed nowhere."""
REFER, TRUNCATE = 1 << 13, 1 << 14
OF_FILES = 1 << 0 | 1 << 1 | 1 << 2 | TRUNCATE
"""The rights that one file can have; the others are a folder's."""
SCOPES = 1 << 0 | 1 << 1
"""Abstract sockets and signals reach only who is bound in the same way."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


@cache
def version() -> int:
    """Return which version of Landlock this system has, 0 if none."""
    return max(0, _call(CREATE, None, 0, 1))


def restrict(listing: Iterable[Path], reading: Iterable[Path], writing: Iterable[Path]) -> bool:
    """Allow nothing but to list folders, to read, and to read and write; return whether that could be had.

    What lies beneath a folder goes with it; what is not there is passed over.
    """
    if version() < LEAST:
        return False
    writes = WRITE | REFER | (TRUNCATE if version() >= 3 else 0)
    rules = _Ruleset(READ | writes | SPECIAL, 0, SCOPES if version() >= SIGNALS else 0)
    size = 24 if version() >= SIGNALS else 8
    ruleset = _call(CREATE, ctypes.byref(rules), size, 0)
    if ruleset < 0:
        return False
    try:
        for paths, rights in ((listing, LIST), (reading, READ), (writing, READ | writes)):
            for path in paths:
                _allow(ruleset, path, rights)
        return _call(RESTRICT, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    with contextlib.suppress(OSError):
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(opened).st_mode):
                rights &= OF_FILES
            _call(ADD, ruleset, 1, ctypes.byref(_Beneath(rights, opened)), 0)
        finally:
            os.close(opened)


def _call(number: int, *arguments: object) -> int:
    if sys.platform != "linux":  # there the numbers mean something else
        return -1
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return int(libc.syscall(ctypes.c_long(number), *arguments))
    except (OSError, AttributeError):
        return -1
