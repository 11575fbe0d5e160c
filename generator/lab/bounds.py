"""What keeps a process within its bounds: its memory, and its parent's life."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import signal


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone (Linux; elsewhere nothing)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def bound_memory(limit: int) -> None:
    """Allow this process so many bytes beyond what it holds already (Linux; elsewhere nothing)."""
    held = 0
    with contextlib.suppress(OSError, ValueError), open("/proc/self/status") as status:
        held = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (held + limit, held + limit))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
