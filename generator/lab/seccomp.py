"""From here on this process, and all that it starts, opens no socket and asks nothing of the kernel that research needs not.

A filter of system calls, which needs no privilege (Linux on x86-64 and arm64; elsewhere nothing).
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""How the kernel calls each, and the column of the calls' numbers that is its own."""
DENIED = {
    # The network, and sockets in the file system: a container engine or an agent may listen there.
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "io_uring_setup": (425, 425),
    # Other processes.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    # Namespaces and mounts, with which a process becomes root of its own world, and files behind the paths' back.
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsmount": (432, 432),
    "mount_setattr": (442, 442), "open_by_handle_at": (304, 265),
    # Keys, and the parts of the kernel that attacks on it begin with.
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280), "userfaultfd": (323, 282),
    "perf_event_open": (298, 241), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "syslog": (103, 116),
}  # fmt: skip
CLONE, CLONE3, SOCKETPAIR = (56, 220), (435, 435), (53, 199)
NEW_USER = 0x10000000
DATAGRAM, KIND = 2, 0xF
X32 = 0x40000000
"""Numbers from here on are a second set of the same calls on x86-64."""
NUMBER, ARCHITECTURE, FIRST, SECOND = 0, 4, 16, 24
"""Where the filter finds a call's number, its architecture, and its arguments."""
LOAD, EQUAL, AT_LEAST, ANY_OF, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
SECCOMP = (317, 277)
SET_FILTER, AS_FAST = 1, 1 << 2
"""Without the latter, kernels before 5.16 make every process under a filter slower."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def restrict() -> bool:
    """Refuse these calls from now on; return whether that could be had. The process may gain no privileges any more."""
    if sys.platform != "linux" or platform.machine() not in ARCHITECTURES or sys.byteorder != "little":
        return False
    architecture, column = ARCHITECTURES[platform.machine()]
    code = program(architecture, column)
    try:
        held = _Program(len(code) // 8, code)
        number = ctypes.c_long(SECCOMP[column])
        return ctypes.CDLL(None).syscall(number, SET_FILTER, AS_FAST, ctypes.byref(held)) == 0
    except (OSError, AttributeError):
        return False


def program(architecture: int, column: int) -> bytes:
    """Return the filter: of each step, its code, how many steps to skip if it is so and if not, and its operand."""
    no, none = REFUSE | errno.EPERM, REFUSE | errno.ENOSYS
    steps = [
        (LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, no), (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, X32), (RETURN, 0, 0, no),
        # Its flags lie in memory, where no filter can look: the C library then takes `clone`.
        (EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, none),
        (EQUAL, 0, 4, CLONE[column]), (LOAD, 0, 0, FIRST), (ANY_OF, 0, 1, NEW_USER), (RETURN, 0, 0, no),
        (RETURN, 0, 0, ALLOW),
        # One of a pair of datagram sockets could be pointed at another address.
        (EQUAL, 0, 5, SOCKETPAIR[column]), (LOAD, 0, 0, SECOND), (AND, 0, 0, KIND), (EQUAL, 0, 1, DATAGRAM),
        (RETURN, 0, 0, no), (RETURN, 0, 0, ALLOW),
    ]  # fmt: skip
    for numbers in DENIED.values():
        steps += [(EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, no)]
    return b"".join(struct.pack("HBBI", *step) for step in [*steps, (RETURN, 0, 0, ALLOW)])
