"""What a process may still do once it has confined itself, which it does before it loads any model.

A model is a program. Four things are taken away where the platform allows it:

* The user id, where the process is root and everything needed stays readable: root could ask Docker's socket, which
  GitHub mounts into every container of an action, for the tokens of its own container.
* Landlock (Linux 5.13 and later, any user): reading outside a list of paths (so of other processes'
  environments in /proc too), writing outside the scratch folder, ptrace, and with newer kernels TCP and signals.
* System calls for what Landlock does not cover: other processes' limits, files' modes and times, sockets (`syscalls`).
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

from tflite_guard.engine import syscalls
from tflite_guard.files import under

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
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

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


def confine(scratch: str, readable: Sequence[str], memory_bytes: int | None, places: Sequence[str] = ()) -> list[str]:
    """Give up what a model has no business with; for good, and for every child of this process.

    Args:
        scratch: the only folder that stays writable.
        readable: files and folders that stay readable, beside the system's libraries and Python's own.
        memory_bytes: limit of the data segment, in bytes.
        places: folders that stay readable too, but are not needed whole: the cache, and where links may lead to.

    Returns:
        What was applied: any of `memory`, `uid`, `landlock`, `seccomp`.
    """
    applied = []
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        applied.append("memory")
    if not sys.platform.startswith("linux"):
        return applied
    libc = ctypes.CDLL(None, use_errno=True)
    # Also without Landlock, or who gave up root could get it back with a program such as su.
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if _drop_root(scratch, readable, places):
        applied.append("uid")
    paths = [*_SYSTEM, f"/proc/{os.getpid()}", *_python_paths(), *readable, *places]
    if _landlock(libc, scratch, paths):
        applied.append("landlock")
    if syscalls.give_up(libc):
        applied.append("seccomp")
    return applied


def _python_paths() -> list[str]:
    """The interpreter, the installed packages and this package; not the working directory or a checkout."""
    executables = os.path.dirname(os.path.realpath(sys.executable))
    return [sys.prefix, sys.base_prefix, executables, _PACKAGE, *_import_path()]


def _import_path() -> list[str]:
    checkout = os.path.dirname(_PACKAGE)  # where it is one, and not the folder of all installed packages
    left_out = checkout if os.path.exists(os.path.join(checkout, "pyproject.toml")) else None
    return [entry for entry in sys.path if entry and os.path.abspath(entry) != left_out]


def _landlock(libc: ctypes.CDLL, scratch: str, readable: Iterable[str]) -> bool:
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


def _drop_root(scratch: str, readable: Sequence[str], places: Sequence[str]) -> bool:
    """Become nobody, unless something needed would be out of reach, or root's powers here do not suffice."""
    if os.geteuid() != 0 or _umask() & 0o005:  # then what the parent writes for us later is closed to others
        return False
    owner = os.stat(scratch)
    try:
        _give(scratch, _NOBODY, _NOBODY)
        # Without the power to pass over permissions, the parent would be shut out.
        possible = os.access(scratch, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)
        possible = possible and _can_be_nobody(scratch, readable, places)
    except OSError:
        possible = False
    if possible:
        _become_nobody()
    else:
        with contextlib.suppress(OSError):
            _give(scratch, owner.st_uid, owner.st_gid)
    return possible


def _give(folder: str, user: int, group: int) -> None:
    os.chown(folder, user, group)
    for name in os.listdir(folder):
        os.chown(os.path.join(folder, name), user, group, follow_symlinks=False)


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _can_be_nobody(scratch: str, readable: Sequence[str], places: Sequence[str]) -> bool:
    """Try it in a process of its own: groups that were given up do not come back in every container."""
    pid = os.fork()
    if pid == 0:
        possible = False
        try:
            _become_nobody()
            possible = _in_reach(scratch, readable, places)
        finally:
            os._exit(0 if possible else 1)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        os.kill(pid, 0)  # the parent, whose powers are ours, must be able to end us
        killable = True
    except PermissionError:
        killable = False
    _, status = os.waitpid(pid, 0)
    return killable and status == 0


def _in_reach(scratch: str, readable: Sequence[str], places: Sequence[str]) -> bool:
    """Whether this process can work: import packages, read what is to be evaluated, write its scratch folder."""
    if not os.access(scratch, os.W_OK | os.X_OK, effective_ids=True):
        return False
    if any(map(_is_closed, _packages())) or any(_is_closed(place, os.X_OK) for place in places):
        return False
    # The folder that the scratch folder lies in is only passed through, not listed.
    return not _holds_closed([path for path in readable if not under(scratch, path)], places)


def _packages() -> Iterator[str]:
    """Python's folders, and the modules and packages in them."""
    yield from _python_paths()
    for folder in _import_path():
        yield from (entry.path for entry in _entries(folder) if entry.name != "__pycache__")


def _holds_closed(needed: Sequence[str], places: Sequence[str]) -> bool:
    """Whether this process cannot read something in some files and folders, the places in them left out.

    A link that leads out of all of them is nothing that a model may read, so it does not count.
    """
    allowed = [os.path.realpath(path) for path in (*needed, *places)]
    pending = list(needed)
    seen: set[str] = set()
    while pending:
        path = pending.pop()
        if _is_closed(path):
            return True
        for entry in _entries(path):
            folder = _is_folder(entry)
            # Resolving a link takes longer than all else here, and only what is closed needs it.
            if not folder and not _is_closed(entry.path, os.R_OK):
                continue
            real = entry.path
            if entry.is_symlink():
                real = os.path.realpath(real)
                if not any(under(real, place) for place in allowed):
                    continue
            elif real in places:
                continue
            if not folder:
                return True
            if real not in seen:
                seen.add(real)
                pending.append(entry.path)
    return False


def _is_closed(path: str, mode: int | None = None) -> bool:
    """Whether something is there that this process may not use: a folder is to be listed and passed through."""
    if mode is None:
        mode = os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK
    if os.access(path, mode, effective_ids=True):
        return False
    try:
        os.stat(path)
    except PermissionError:
        return True
    except OSError:
        return False  # a link to nothing, or gone since it was listed
    return True


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing where it is a file, or gone."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed
        return False


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
