"""A folder comes in; from then on this process sees and changes nothing but it, as far as the system lets that be had.

A snippet may be a stranger's. It has no network, no environment that holds secrets, no open file of another, writes
into its own folder, reads its project and its packages, and signals nobody but what it started.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from generator.lab import landlock, seccomp

CONFINED = {"network": "cut", "files": "scratch", "signals": "own"}
"""How a snippet runs that is confined in every respect; 'open' stands where the system does not let it be had."""
DEMANDED = {
    "network": "reach the network (there is no seccomp on Linux for x86-64 or arm64, and no network namespace)",
    "files": "read and write any file (there is no Landlock of Linux 5.19 or newer)",
}
"""What `--confined` insists on; and what a snippet can do where it cannot be had, and why."""
KEPT = (
    "LC_",
    "OMP_",
    "MKL_",
    "KMP_",
    "OPENBLAS_",
    "TORCH_",
    "PYTORCH_",
    "CUDA_",
    "HIP_",
    "ROCR_",
    "NVIDIA_",
    "TRITON_",
    "PYTHON",
)
KEPT_WHOLE = frozenset(
    ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "MPLBACKEND", "MPLCONFIGDIR")
)
SYSTEM = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt", "/nix/store", "/proc", "/sys",
    *(f"/etc/{name}" for name in (
        "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone", "passwd", "group", "nsswitch.conf", "fonts",
        "os-release", "lsb-release", "mime.types", "OpenCL", "alternatives", "gai.conf", "locale.alias", "locale.conf",
    )),
)  # fmt: skip
"""What programs are made of. The store, what begins with a dot, homes and other folders for data are not among it."""
READ_DEVICES = ("/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
DEVICES = ("/dev/null", "/dev/zero", "/dev/nvidia*", "/dev/dri", "/dev/kfd", "/dev/dxg")
NO_NEW_PRIVS = 38
NEW_USER, NEW_NET, NEW_IPC = 0x10000000, 0x40000000, 0x08000000
OVERRIDE = 1 << 1
"""The one capability that root keeps: to use its project where another user owns the files."""


class Readable(NamedTuple):
    """Folders that may be listed, and files and folders that may be read with all that lies in them."""

    listed: Sequence[Path]
    read: Sequence[Path]


def emptied(environment: Mapping[str, str]) -> dict[str, str]:
    """Return of an environment what programs and GPUs need: no token, no proxy, no agent."""
    return {name: value for name, value in environment.items() if name in KEPT_WHOLE or name.startswith(KEPT)}


def readable(root: Path, home: Path) -> Readable:
    """Return what a snippet may read: programs, packages, and of project and generator what is not hidden.

    What they hold it may list, for an import looks for its module in that list.
    """
    packages = {sys.prefix, sys.base_prefix, sys.exec_prefix, os.path.dirname(os.path.realpath(sys.executable))}
    packages |= {path for path in sys.path if path}
    packages |= set(filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)))
    owned = {Path(os.path.realpath(os.path.expanduser(path))) for path in ("~", root, home)}
    found = {one for path in {*SYSTEM, *READ_DEVICES, *packages} for one in _but_for(owned, Path(path))}
    for project in (root, home):
        found |= {path for path in project.iterdir() if not path.name.startswith(".")}
    return Readable([root, home], sorted(found))


def _but_for(owned: Collection[Path], path: Path) -> list[Path]:
    """Return a path, or what is in it where something owned lies in it, but for that."""
    here = Path(os.path.realpath(path))
    if here in owned or not os.path.exists(here):
        return []
    if not any(one.is_relative_to(here) for one in owned):
        return [path]
    with contextlib.suppress(OSError):
        return [one for beneath in path.iterdir() for one in _but_for(owned, beneath)]
    return []


def close_files(keep: Collection[int]) -> None:
    """Close every open file but these: what the parent holds, and the output of other snippets."""
    with contextlib.suppress(OSError):
        for name in os.listdir("/dev/fd"):
            if int(name) not in keep:
                with contextlib.suppress(OSError):
                    os.close(int(name))


def settle(scratch: Path) -> None:
    """Have everything that is looked for at home, or laid aside for a while, in this folder."""
    names = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TRITON_HOME", "TORCHINDUCTOR_CACHE_DIR")
    os.environ.update(dict.fromkeys(names, str(scratch)), TRITON_CACHE_DIR=str(scratch / "triton"))
    tempfile.tempdir = str(scratch)


def confine(folder: Path, reading: Readable) -> dict[str, str]:
    """Confine this process to a folder and say how far that could be had; there is no way back."""
    got = dict.fromkeys(CONFINED, "open")
    if sys.platform != "linux":
        return got
    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.suppress(AttributeError):
        libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    apart = leave_network(libc)
    drop_privileges(libc)
    devices = [Path(path) for pattern in DEVICES for path in glob.glob(pattern)]
    if landlock.restrict(*reading, [folder, *devices]):
        got |= {"files": "scratch", "signals": "own" if landlock.version() >= landlock.SIGNALS else "open"}
    if seccomp.restrict() or apart:
        got["network"] = "cut"
    return got


def leave_network(libc: ctypes.CDLL) -> bool:
    """Move into a network of its own in which not even the loopback is up; return whether that could be had."""
    if libc.unshare(NEW_NET | NEW_IPC) == 0:  # root's way
        return True
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEW_USER | NEW_NET | NEW_IPC):
        return False
    with contextlib.suppress(OSError):
        for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path("/proc/self", name).write_text(line)
    return True


def drop_privileges(libc: ctypes.CDLL) -> None:
    """Give up what root may do beyond its own files, also in a namespace just made."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    held = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; and the same for the higher 32
    with contextlib.suppress(AttributeError):
        if libc.capget(header, held) == 0:
            kept = held[0] & OVERRIDE
            libc.capset(header, (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0))


def possible() -> dict[str, str]:
    """Return how far this system lets a process be confined: tried in one that ends at once."""
    if sys.platform != "linux":
        return dict.fromkeys(CONFINED, "open")
    reading, writing = os.pipe()
    folder = tempfile.mkdtemp(prefix="papernotes-")
    try:
        if (pid := os.fork()) == 0:
            try:
                os.write(writing, json.dumps(confine(Path(folder), Readable([], []))).encode())
            finally:
                os._exit(0)
        os.close(writing)
        os.waitpid(pid, 0)
        return json.loads(os.read(reading, 4096) or b"null") or dict.fromkeys(CONFINED, "open")
    finally:
        os.close(reading)
        shutil.rmtree(folder, ignore_errors=True)


def freedoms(got: Mapping[str, str]) -> list[str]:
    """Return what a snippet can do that `--confined` would not have, and why."""
    return [said for name, said in DEMANDED.items() if got.get(name) != CONFINED[name]]
