"""A child in two processes: the one that loads models, and its keeper, which ends with it all that models have started.

What a process leaves behind goes to the nearest ancestor that has asked for it (Linux, PR_SET_CHILD_SUBREAPER). That is
the keeper, which loads nothing, is not confined, and takes nothing from the other but how it ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from typing import NoReturn

_PR_SET_CHILD_SUBREAPER = 36
_ENDING = (signal.SIGCHLD, signal.SIGTERM) if hasattr(signal, "SIGCHLD") else ()


def go_on_kept(parent: int) -> int:
    """Go on in a new process; the present one becomes its keeper and ends as it does.

    The keeper ends the other on SIGTERM, and where its own parent is gone, whose number that process itself must have
    given: it may be gone by now. Gives the number of the process to live no longer than.
    """
    if not sys.platform.startswith("linux"):
        return parent
    keeper = os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, nobody learns how a process ended
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    kept = os.fork()
    if kept != 0:
        _keep(kept, parent)
    return keeper


def _keep(kept: int, parent: int) -> NoReturn:
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    for pipe in (0, 1):  # which must end with the other
        os.close(pipe)
    while (status := _reaped(kept)) is None:
        got = signal.sigtimedwait(_ENDING, 1)
        if (got is not None and got.si_signo == signal.SIGTERM) or os.getppid() != parent:
            os.kill(kept, signal.SIGKILL)
    _end_what_is_left()
    _end_as(status)


def _reaped(kept: int) -> int | None:
    """How the kept process ended, or None while it lives; others that ended are forgotten."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in (0, kept):
            return status if pid else None


def _end_what_is_left() -> None:
    # None are left, or the kernel does not list them (CONFIG_PROC_CHILDREN).
    with contextlib.suppress(ChildProcessError, FileNotFoundError):
        while True:
            for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            os.waitpid(-1, 0)


def _end_as(status: int) -> NoReturn:
    """End as another process did, for whoever waits for this one."""
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        number = os.WTERMSIG(status)
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
