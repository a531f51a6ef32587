"""Child processes that load models, seen from the parent: started lazily, reused, killed when they misbehave.

A child is `python -m tflite_guard.engine` behind two pipes. Requests and answers are one JSON object a
line. multiprocessing is not used: it needs a `__main__` guard in users' scripts and fails in daemonic
workers. What a child may see is decided here (environment) and in `engine.confine` (files, other
processes, network).
"""

from __future__ import annotations

import contextlib
import os
import platform
import select
import signal
import site
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar, cast

import msgspec

from tflite_guard.errors import EvaluationError
from tflite_guard.files import adopt, is_full, shortage
from tflite_guard.files.removal import remove
from tflite_guard.protocol import AnyRequest, Call, Limits, Message, Request
from tflite_guard.run.scratch import Scratch
from tflite_guard.text.figures import size

WorkerKind = Literal["tensorflow", "litert"]
OnProgress = Callable[[int, int], None]
OnLog = Callable[[str], None]
A = TypeVar("A")
UNREADABLE = "an answer that cannot be read"
NO_ANSWER = f"the model's process gave {UNREADABLE}"
BARE = ("internal", "out-of-memory")
"""Kinds of errors whose messages say nothing of what was being done."""

# An answer is measurements and names, never arrays; more than this is not an answer.
MAX_LINE = 8 * 2**20
MAX_VALUES = 400_000
"""Objects, lists and elements: one that is empty takes three bytes of a line, and many times that in memory."""
NO_THREADS = ("pthread_create failed", "can't start new thread", "Resource temporarily unavailable")
"""What a child's log says where its user may start no more: OpenBLAS ends itself then as an interrupt would."""
LONGEST_PLACE = 500
"""Characters of where a child says that it is: a few words, and two paths."""
LOG_TAIL = 2**16
LOG_AT_ONCE = 2**22
KEEPER_SECONDS = 10
"""That a child's keeper has to end what models started."""

# Everything else in the environment (tokens, credentials, proxies with passwords) stays with the parent.
ALLOWED_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SYSTEMROOT", "LD_LIBRARY_PATH")


class Confinement(msgspec.Struct, frozen=True):
    """What children of this run may read, beside the Python installation and their own scratch folder."""

    readable: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    """Folders that are readable too, but not needed whole."""
    roots: tuple[str, ...] = ()
    """Those of them outside the repository, which links in data may lead to."""
    memory_bytes: int | None = None
    allow_code: bool = False


def children_run_here() -> bool:
    """Whether the system has what starts, confines and ends children: Windows has none of it."""
    return hasattr(os, "killpg")


def require_children() -> None:
    """Raise EvaluationError where no child can run."""
    if not children_run_here():
        raise EvaluationError(
            "platform",
            f"models run in child processes that {platform.system()} cannot confine; use WSL 2, Linux or macOS "
            "(what runs no model works here: validate, report, comment, explain, schema, and init, which leaves open "
            "what only the model says)",
        )


class _NoAnswerError(Exception):
    """A child said something that is no answer; the message is what."""


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    scratch: str
    log: BinaryIO
    """An open file without a name, which the child can write to and not replace."""
    buffer: bytearray = field(default_factory=bytearray)
    log_position: int = 0
    """Up to where the log has been passed on."""
    request_position: int = 0
    """From where on the log is of the present request."""


@dataclass
class _Reached:
    """How far a child says that it is, for messages."""

    done: str = ""
    at: str = ""

    def goes_on(self, message: Message) -> bool:
        """Take a message into account; whether others follow it."""
        if message.progress is not None:
            done, total = message.progress
            self.done = f" after {done:,} of {total:,} examples" if total else ""
        elif message.at is not None:
            self.at = f", while it {message.at[:LONGEST_PLACE]}" if message.at else ""
        else:
            return False
        return True

    def __str__(self) -> str:
        return self.done + self.at


class Worker:
    """One child of one kind, restarted after it dies. Does one request at a time, from whatever thread."""

    def __init__(self, kind: WorkerKind, scratch: str, confinement: Confinement, on_log: OnLog | None = None) -> None:
        self.kind = kind
        self._scratch = scratch
        self._confinement = confinement
        self._on_log = on_log
        self._child: _Child | None = None
        self._lock = threading.Lock()
        self._busy = threading.Lock()
        self._closed = False

    @property
    def loads_first(self) -> bool:
        """Whether the next request waits for TensorFlow, which takes seconds; progress then tells that it is loaded."""
        return self.kind == "tensorflow" and self._child is None

    def start(self) -> None:
        """Have the child loaded by the time of its first request. Raises EvaluationError where it cannot be started."""
        with self._busy, self._scratch_errors():
            self._started()

    def request(self, request: Request[A], *, deadline: float | None = None, progress: OnProgress | None = None) -> A:
        """Have the child do one thing and give its answer.

        Args:
            request: what to do.
            deadline: `time.monotonic()` at which to give up, in seconds.
            progress: called with (examples done, examples in all).

        Raises:
            EvaluationError: it failed, or the child crashed, hung or ran out of memory.
        """
        with self._busy:
            with self._scratch_errors():
                child = self._started()
            return self._exchange(child, request, "", deadline, progress)

    @contextlib.contextmanager
    def writing(
        self, request: Request[A], *, deadline: float | None, progress: OnProgress | None
    ) -> Iterator[tuple[A, int]]:
        """The same where files are written: the answer, and a descriptor of the new folder that they were written to.

        The folder is held open since before the request, so a child that puts a link in its place gains nothing; it
        is removed afterwards.
        """
        with contextlib.ExitStack() as stack:
            with self._busy:
                with self._scratch_errors():
                    child = self._started()
                    out = tempfile.mkdtemp(prefix="out-", dir=child.scratch)
                    stack.callback(remove, out)
                    adopt(out)  # the child may have another user id
                    descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                    stack.callback(os.close, descriptor)
                answer = self._exchange(child, request, out, deadline, progress)
            yield answer, descriptor

    @contextlib.contextmanager
    def _scratch_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _no_scratch(error, os.path.dirname(self._scratch)) from None

    def _exchange(
        self, child: _Child, request: Request[A], out: str, deadline: float | None, progress: OnProgress | None
    ) -> A:
        reached = _Reached()
        doer = f"the process that {request.doing}"
        child.request_position = _end_of(child.log)
        try:
            self._send(child, Call(cast(AnyRequest, request), out))
            while reached.goes_on(message := self._receive(child, deadline)):
                if progress is not None and message.progress is not None:
                    progress(*message.progress)
            if message.error is not None:
                advice = _limits_in_force() if message.error.kind == "out-of-memory" else ""
                told = message.error.message + advice
                raise EvaluationError(
                    message.error.kind,
                    f"{doer} failed{reached.done}: {told}" if message.error.kind in BARE else told,
                    message.error.place,
                )
            return _answer(request, message)
        except EvaluationError:
            raise
        except (BrokenPipeError, EOFError):
            raise self._obituary(child, doer, reached) from None
        except TimeoutError:
            self._end(child)
            raise out_of_time(doer, str(reached)) from None
        except _NoAnswerError as error:
            self._end(child)
            raise EvaluationError("crash", f"{doer} gave {error}") from None
        except BaseException:
            # The answer is still to come, and would be taken for the next request's.
            self._end(child)
            raise
        finally:
            self._forward_log(child)

    def kill(self) -> None:
        """End the child now and for good; a request under way in another thread fails."""
        with self._lock:
            self._closed = True
            child = self._child
        if child is not None:
            _kill(child.process)

    def close(self) -> None:
        """Let the child end by itself, or end it."""
        child = self._child
        if child is None:
            return
        with contextlib.suppress(OSError):
            assert child.process.stdin is not None
            child.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(timeout=2)
        self._end(child)

    def _started(self) -> _Child:
        with self._lock:
            if self._closed:
                raise EvaluationError("interrupted", "interrupted")
            child = self._child
        if child is not None and not _usable(child.scratch):
            self._end(child)  # a model has closed the folder, and the next one needs it
        with self._lock:
            if self._child is None:
                self._child = self._start()
            return self._child

    def _start(self) -> _Child:
        scratch = tempfile.mkdtemp(prefix=f"{self.kind}-", dir=self._scratch)
        log = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115 - lives as long as the child
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tflite_guard.engine", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(scratch),
            cwd=scratch,
            # Ctrl-C in the terminal then reaches the parent alone, which ends its children in order.
            start_new_session=True,
        )
        child = _Child(process, scratch, log)
        limits = Limits(
            scratch,
            (*self._confinement.readable, self._scratch),
            self._confinement.places,
            self._confinement.roots,
            self._confinement.memory_bytes,
            self._confinement.allow_code,
            load=self.kind == "litert",
        )
        with contextlib.suppress(BrokenPipeError):  # a child dead at birth is told by the first answer
            self._send(child, limits)
        return child

    def _send(self, child: _Child, message: Limits | Call) -> None:
        assert child.process.stdin is not None
        child.process.stdin.write(msgspec.json.encode(message) + b"\n")
        child.process.stdin.flush()

    def _receive(self, child: _Child, deadline: float | None) -> Message:
        assert child.process.stdout is not None
        descriptor = child.process.stdout.fileno()
        while (end := child.buffer.find(b"\n")) < 0:
            wait = None if deadline is None else deadline - time.monotonic()
            # A child that never stops talking has no more time than one that is silent.
            if (wait is not None and wait <= 0) or not select.select([descriptor], [], [], wait)[0]:
                raise TimeoutError
            block = os.read(descriptor, 2**16)
            if not block:
                raise EOFError
            if len(child.buffer) > MAX_LINE:
                raise _NoAnswerError(f"an answer of more than {MAX_LINE / 2**20:.0f} MiB")
            child.buffer += block
        line = bytes(child.buffer[:end])
        del child.buffer[: end + 1]
        if sum(map(line.count, (b"{", b"[", b","))) > MAX_VALUES:
            raise _NoAnswerError(f"an answer of more than {MAX_VALUES:,} values")
        try:
            return msgspec.json.decode(line, type=Message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _NoAnswerError(UNREADABLE) from None

    def _obituary(self, child: _Child, doer: str, reached: _Reached) -> EvaluationError:
        """Why a child is gone, in words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(timeout=2)
        code = child.process.poll()
        said = _tail(child.log, child.request_position)
        self._end(child)
        if self._closed:
            return EvaluationError("interrupted", "interrupted")
        if code == -signal.SIGKILL or _ran_out_of_memory(said):
            told = f"{doer} ran out of memory{reached}; use smaller inputs, or a machine with more"
            return EvaluationError("out-of-memory", told + _limits_in_force())
        if any(words in said for words in NO_THREADS):
            told = f"{doer} could start no more threads{reached}; raise `ulimit -u`"
            return EvaluationError("limit", told + _limits_in_force())
        how = _signal(-code) if code is not None and code < 0 else f"exit code {code}"
        return EvaluationError(
            "crash",
            f"{doer} crashed ({how}){reached}; run with -v to see what TensorFlow or LiteRT said",
        )

    def _end(self, child: _Child) -> None:
        _kill(child.process)
        try:
            child.process.wait(timeout=KEEPER_SECONDS)
        except subprocess.TimeoutExpired:
            _kill(child.process, signal.SIGKILL)
            child.process.wait()
        for pipe in (child.process.stdin, child.process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        self._forward_log(child)
        child.log.close()
        with self._lock:
            if self._child is child:
                self._child = None

    def _forward_log(self, child: _Child) -> None:
        if self._on_log is None or child.log.closed:
            return
        text = os.pread(child.log.fileno(), LOG_AT_ONCE, child.log_position)
        child.log_position = _end_of(child.log)
        if text:
            self._on_log(text.decode("utf-8", "replace"))


def _answer(request: Request[A], message: Message) -> A:
    """An answer of the request's type, whatever an untrusted child has said."""
    try:
        answer: A = msgspec.json.decode(message.result, type=request.answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _NoAnswerError(UNREADABLE) from None
    return answer


class WorkerPool:
    """Pairs of workers (one with TensorFlow, one with LiteRT alone), lent to one model at a time.

    Conversion holds the GIL while evaluation releases it, so the two overlap only in separate processes.
    """

    def __init__(self, confinement: Confinement, on_log: OnLog | None = None) -> None:
        require_children()
        try:
            self._scratch = Scratch(0o711)  # children that gave up root pass through it to folders of their own
        except OSError as error:
            raise _no_scratch(error, os.environ.get("TMPDIR", "scratch files")) from None
        self.scratch = self._scratch.path
        self._confinement = confinement
        self._on_log = on_log
        self._free: list[WorkerPair] = []
        self._all: list[WorkerPair] = []
        self._lock = threading.Lock()
        self.killed = False

    @contextlib.contextmanager
    def pair(self) -> Iterator[WorkerPair]:
        """Borrow a pair; children start when first used and live on for the next model."""
        with self._lock:
            pair = self._free.pop() if self._free else self._new()
        try:
            yield pair
        finally:
            with self._lock:
                self._free.append(pair)

    def log(self, text: str) -> None:
        """Pass on what is for those who ask for more."""
        if self._on_log is not None:
            self._on_log(text)

    def _new(self) -> WorkerPair:
        pair = WorkerPair(
            Worker("tensorflow", self.scratch, self._confinement, self._on_log),
            Worker("litert", self.scratch, self._confinement, self._on_log),
        )
        self._all.append(pair)
        return pair

    def kill(self) -> None:
        """End every child now."""
        self.killed = True
        for pair in self._all:
            pair.tensorflow.kill()
            pair.litert.kill()

    def close(self) -> None:
        """End every child and remove what they wrote."""
        for pair in self._all:
            pair.tensorflow.close()
            pair.litert.close()
        self._scratch.close()


class WorkerPair(msgspec.Struct, frozen=True):
    """The two children that one model needs."""

    tensorflow: Worker
    litert: Worker


def _environment(scratch: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ALLOWED_ENVIRONMENT if name in os.environ}
    if site.ENABLE_USER_SITE:
        kept["PYTHONUSERBASE"] = site.getuserbase()
    return kept | {
        "HOME": scratch,
        "TMPDIR": scratch,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
        "TF_CPP_MIN_LOG_LEVEL": "1",
        # No accelerator: a result must not depend on the machine that a check happens to run on.
        "CUDA_VISIBLE_DEVICES": "-1",
    }


def _usable(folder: str) -> bool:
    """Whether a scratch folder is still a folder, with the permissions that it was made with."""
    try:
        mode = os.lstat(folder).st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) and mode & 0o700 == 0o700


def _kill(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
    """End a child and its group; SIGTERM has its keeper, where it has one, end all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, how)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(how)


def out_of_time(doer: str, reached: str = "") -> EvaluationError:
    """What a model is told of that took longer than it may, and how far it was."""
    return EvaluationError(
        "timeout", f"{doer} ran out of time{reached}; raise --timeout or use fewer examples (`limit`)"
    )


def _no_scratch(error: OSError, place: str) -> EvaluationError:
    if told := shortage(error):
        return EvaluationError("limit", told)
    if is_full(error):
        return EvaluationError("disk-full", f"{place}: no space left; free some, or name another folder with TMPDIR")
    return EvaluationError("scratch", f"{place}: cannot be used ({error.strerror}); name another folder with TMPDIR")


def _end_of(log: BinaryIO) -> int:
    return os.fstat(log.fileno()).st_size


def _tail(log: BinaryIO, start: int) -> str:
    """The last of a log, from a position on."""
    return os.pread(log.fileno(), LOG_TAIL, max(start, _end_of(log) - LOG_TAIL)).decode("utf-8", "replace")


def _ran_out_of_memory(log: str) -> bool:
    said = ("std::bad_alloc", "MemoryError", "Cannot allocate memory", "out of memory", "Memory allocation")
    return any(words in log for words in said)


def _signal(number: int) -> str:
    """What a signal is called; those between SIGRTMIN and SIGRTMAX have no names."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _limits_in_force() -> str:
    """What limits of the user's own say of a shortage of memory, as the end of a sentence."""
    import resource  # Windows has none

    kinds = {"-v": resource.RLIMIT_AS, "-d": resource.RLIMIT_DATA}
    soft = {option: resource.getrlimit(kind)[0] for option, kind in kinds.items()}
    low = [f"`ulimit {option}` to {size(most)}" for option, most in soft.items() if most != resource.RLIM_INFINITY]
    return f"; memory is limited by {' and '.join(low)}, raise that" if low else ""


def memory_limit() -> int | None:
    """Bytes that a child may allocate: what the machine or its control group has, less a tenth."""
    amounts = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            amounts.append(int(Path(path).read_text()))
    return min(amounts) * 9 // 10 if amounts else None


def readable_paths(paths: Sequence[str | None]) -> tuple[str, ...]:
    """The paths that exist, each once, in order."""
    return tuple(dict.fromkeys(path for path in paths if path is not None and os.path.exists(path)))
