"""What a process may still do once it has confined itself, which it does before it loads any model.

A model is a program. Three things are taken away where the platform allows it:

* The user id, where the process is root and everything needed stays readable: root could ask Docker's socket, which
  GitHub mounts into every container of an action, for the tokens of its own container.
* Landlock (Linux 5.13 and later, any user): reading outside a list of paths (so of other processes'
  environments in /proc too), writing outside the scratch folder, ptrace, and with newer kernels TCP and signals.
* Everywhere: memory above a limit, core dumps, new privileges.

This narrows what hostile files can do. It is not a sandbox against a kernel or interpreter exploit.
The numbers come from the kernel's `linux/landlock.h`; the system calls have the same numbers on every
architecture.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1
_GET_VERSION = 1
_PR_SET_NO_NEW_PRIVS = 38
_O_PATH = 0o10000000

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE = 1 << 14
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_NOBODY = 65534

# What Python, TensorFlow and the dynamic loader read. Of /proc only what is not about other processes:
# Landlock's own rule for ptrace leaves their environments readable.
_SYSTEM = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store", "/sys/devices/system",
    "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems", "/proc/version",
    "/proc/sys/vm", "/proc/sys/kernel",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/passwd", "/etc/group",
    "/etc/nsswitch.conf", "/etc/os-release", "/etc/mime.types",
    "/dev/zero", "/dev/urandom", "/dev/random",
)  # fmt: skip


def confine(scratch: str, readable: Sequence[str], memory_bytes: int | None) -> list[str]:
    """Give up what a model has no business with; for good, and for every child of this process.

    Args:
        scratch: the only folder that stays writable.
        readable: files and folders that stay readable, beside the system's libraries and Python's own.
        memory_bytes: limit of the data segment, in bytes.

    Returns:
        What was applied: any of `memory`, `uid`, `landlock`.
    """
    applied = []
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        applied.append("memory")
    if not sys.platform.startswith("linux"):
        return applied
    paths = [*_SYSTEM, f"/proc/{os.getpid()}", *_python_paths(), *readable]
    if _drop_root(scratch, _python_paths(), readable):
        applied.append("uid")
    if _landlock(scratch, paths):
        applied.append("landlock")
    return applied


def _python_paths() -> list[str]:
    """The interpreter, the installed packages and this package; not the working directory or a checkout."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    checkout = os.path.dirname(package)
    entries = [entry for entry in sys.path if entry and os.path.abspath(entry) != checkout]
    return [sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable)), package, *entries]


def _landlock(scratch: str, readable: Iterable[str]) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION)
    if version < 1:
        return False
    handled = _handled(version)
    attributes = _ruleset(version, handled)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return False
    try:
        for path in readable:
            _allow(libc, ruleset, path, _READ)
        _allow(libc, ruleset, scratch, handled)
        _allow(libc, ruleset, "/dev/null", _READ_FILE | _WRITE_FILE)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            return False
        return bool(libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _handled(version: int) -> int:
    """Every kind of file access that this kernel can deny: 13, then REFER, TRUNCATE, IOCTL_DEV."""
    count = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    return (1 << count) - 1


def _ruleset(version: int, handled: int) -> bytes:
    network = 0b11  # bind and connect over TCP
    scopes = 0b11  # abstract sockets and signals
    if version >= 6:
        return struct.pack("=QQQ", handled, network, scopes)
    if version >= 4:
        return struct.pack("=QQ", handled, network)
    return struct.pack("=Q", handled)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, access: int) -> None:
    try:
        descriptor = os.open(path, _O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there cannot be read either
    try:
        if not os.path.isdir(path):
            access &= _ON_FILES
        libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", access, descriptor), 0)
    finally:
        os.close(descriptor)


def _drop_root(scratch: str, python: Iterable[str], readable: Iterable[str]) -> bool:
    """Become nobody, unless that would make something needed unreadable."""
    if os.geteuid() != 0 or _umask() & 0o005:  # then what the parent writes for us later is closed to others
        return False
    # The folder that the scratch folder lies in is only passed through, not listed.
    data = [path for path in readable if not scratch.startswith(path + os.sep)]
    needed = [
        path for path in (*python, *(inner for one in data for inner in _everything(one))) if os.path.exists(path)
    ]
    os.chown(scratch, _NOBODY, _NOBODY)
    for name in os.listdir(scratch):
        os.chown(os.path.join(scratch, name), _NOBODY, _NOBODY, follow_symlinks=False)
    os.setegid(_NOBODY)
    os.seteuid(_NOBODY)
    reachable = all(os.access(path, os.R_OK, effective_ids=True) for path in needed)
    reachable = reachable and os.access(scratch, os.W_OK, effective_ids=True)
    os.seteuid(0)
    os.setegid(0)
    if not reachable:
        return False
    with contextlib.suppress(PermissionError):
        os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    return True


def _everything(path: str) -> Iterator[str]:
    yield path
    for folder, folders, names in os.walk(path):
        yield from (os.path.join(folder, name) for name in (*folders, *names))


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
