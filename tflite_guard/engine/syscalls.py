"""System calls that a process gives up for what Landlock does not cover (seccomp-bpf, Linux on x86-64 and arm64).

They fail as without permission, and nothing ends. Left out is all that changes other processes (their limits, priority,
memory), what others own or the user's files are (modes, owners, times, attributes), and every way to talk to somebody
else: sockets of whatever family, System V and POSIX queues, keyrings. io_uring would do any of that unseen.

The numbers are the kernel's own, asm/unistd_64.h and asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass

_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_LOAD, _EQUAL, _AT_LEAST, _ANY_OF, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
"""Offsets into `struct seccomp_data`; of an argument the lower half, which is the first on both machines."""
_STREAM = 1
_CLONE3 = 435
_NEW_NAMESPACES = 0x7E020000
"""Every flag of clone that makes one: in a namespace of its own a process has root's powers."""
_MOST = 470
"""From here on numbers are of calls that nobody has judged, which fail as on a kernel that does not have them."""

_REFUSED = {
    "x86_64": (
        (101, 310, 311, 312, 298, 321, 323, 438, 440, 448),
        (90, 91, 268, 452, 92, 93, 94, 260, 132, 235, 261, 280),
        (188, 189, 190, 197, 198, 199, 463, 466, 469),
        (41, 425, 426, 427, 248, 249, 250),
        (29, 30, 31, 64, 65, 66, 220, 68, 69, 70, 71, 240, 241),
        (141, 251, 256, 279, 165, 166, 272, 308, 428, 429, 430),
    ),
    "aarch64": (
        (117, 270, 271, 272, 241, 280, 282, 438, 440, 448),
        (52, 53, 452, 55, 54, 88),
        (5, 6, 7, 14, 15, 16, 463, 466, 469),
        (198, 425, 426, 427, 217, 218, 219),
        (194, 196, 195, 190, 193, 191, 192, 186, 189, 188, 187, 180, 181),
        (140, 30, 238, 239, 40, 39, 97, 268, 428, 429, 430),
    ),
}
"""Others' memory and counters; modes, owners, times; attributes; sockets, io_uring and keyrings; queues and memory of
System V and POSIX; priorities, pages, mounts and namespaces."""


@dataclass(frozen=True)
class _Machine:
    architecture: int
    prlimit: int
    socketpair: int
    ioctl: int
    clone: int
    scheduling: tuple[int, ...]
    """sched_setaffinity, sched_setscheduler, sched_setparam, sched_setattr."""


_MACHINES = {
    "x86_64": _Machine(0xC000003E, 302, 53, 16, 56, (203, 144, 142, 314)),
    "aarch64": _Machine(0xC00000B7, 261, 199, 29, 220, (122, 119, 118, 274)),
}
_INODE_FLAGS = (0x40086602, 0x40046602, 0x401C5820)
"""FS_IOC_SETFLAGS, its 32-bit form, FS_IOC_FSSETXATTR: attributes of a file that is only open to be read."""


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def give_up(libc: ctypes.CDLL) -> bool:
    """Refuse the calls from here on, in this thread and all that it starts; False where that cannot be had.

    The process must have given up new privileges.
    """
    program = _program(platform.machine())
    if program is None:
        return False
    filled = _SockFprog(len(program) // 8, program)
    return bool(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(filled), 0, 0) == 0)


def _program(name: str) -> bytes | None:
    """The filter for a machine, in classic BPF; None for one that is not known here."""
    machine = _MACHINES.get(name)
    if machine is None:
        return None
    lines = [_do(_LOAD, _ARCHITECTURE), *_unless(machine.architecture, _fail(errno.ENOSYS))]
    # Beyond are the numbers of x32 too, another way to the same calls.
    lines += [_do(_LOAD, _NUMBER), _do(_AT_LEAST, _MOST, 0, 1), _fail(errno.ENOSYS)]
    for number in (one for group in _REFUSED[name] for one in group):
        lines += [_do(_EQUAL, number, 0, 1), _fail(errno.EPERM)]
    # Of itself a process may limit and schedule what it likes; glibc asks for its own limits by the same call.
    for number in (machine.prlimit, *machine.scheduling):
        lines += _when(number, [_do(_LOAD, _FIRST), _do(_EQUAL, 0, 1, 0), _fail(errno.EPERM)])
    # A pair of streams is a pipe. Of datagrams either end could be sent to anybody who has a name.
    pair = [_do(_LOAD, _SECOND), _do(_AND, 0xF), *_unless(_STREAM, _fail(errno.EPERM))]
    lines += _when(machine.socketpair, pair)
    # Of clone3 a filter cannot see the flags; libc falls back to clone where a kernel does not have it.
    lines += [_do(_EQUAL, _CLONE3, 0, 1), _fail(errno.ENOSYS)]
    namespaces = [_do(_LOAD, _FIRST), _do(_ANY_OF, _NEW_NAMESPACES, 0, 1), _fail(errno.EPERM)]
    lines += _when(machine.clone, namespaces)
    flags = [line for flag in _INODE_FLAGS for line in (_do(_EQUAL, flag, 0, 1), _fail(errno.EPERM))]
    lines += _when(machine.ioctl, [_do(_LOAD, _SECOND), *flags])
    return b"".join([*lines, _do(_RETURN, _ALLOW)])


def _do(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _fail(code: int) -> bytes:
    return _do(_RETURN, _ERROR | code)


def _unless(value: int, then: bytes) -> list[bytes]:
    return [_do(_EQUAL, value, 1, 0), then]


def _when(number: int, then: Sequence[bytes]) -> list[bytes]:
    """Lines for one system call, which end with it."""
    return [_do(_EQUAL, number, 0, len(then) + 1), *then, _do(_RETURN, _ALLOW)]
