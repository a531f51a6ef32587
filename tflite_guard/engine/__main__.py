"""A child process: confines itself, then answers requests until its parent closes the pipe.

Requests come on standard input, answers go to the original standard output, as `protocol` has them.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import io
import os
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from tflite_guard.engine.confine import confine
from tflite_guard.engine.keeper import go_on_kept
from tflite_guard.errors import EvaluationError, GuardError
from tflite_guard.files import is_full, says_full, shortage
from tflite_guard.protocol import Call, Limits

if TYPE_CHECKING:
    from tflite_guard.engine.tasks import Session


def main() -> None:
    """Serve one parent, whose number is the argument."""
    parent = go_on_kept(int(sys.argv[1]))
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    # TensorFlow and the converter print to standard output from Python and from C++; only the log may see it.
    os.dup2(2, 1)
    log = io.BufferedWriter(_Log(2, "w", closefd=False))
    sys.stdout = sys.stderr = io.TextIOWrapper(log, "utf-8", "backslashreplace", line_buffering=True)
    faulthandler.enable(all_threads=False)  # where a crash below Python came from
    first = requests.readline()
    if not first:
        return
    limits = msgspec.json.decode(first, type=Limits)
    # Before any thread starts: Landlock confines the calling thread and those that it starts.
    confine(limits.scratch, limits.readable, limits.memory_bytes, limits.places)
    threading.Thread(target=_die_with_parent, args=(parent,), daemon=True).start()
    if not limits.allow_code:
        # Keras imports scikit-learn where it is installed, a fifth of TensorFlow's start-up, and it is not used here.
        sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type]
    # Imported only now: nothing of a model's toolchain runs before the confinement.
    from tflite_guard.engine.tasks import Session

    if limits.load:
        with contextlib.suppress(Exception):  # whatever is wrong is told by the request that needs it
            importlib.import_module("tflite_guard.engine.evaluate")
    session = Session(allow_code=limits.allow_code, scratch=limits.scratch, roots=limits.roots)
    # The scratch folder is one of its own, in the run's, in the one that TMPDIR names.
    place = os.path.dirname(os.path.dirname(limits.scratch))
    for line in requests:
        _answer(answers, session, msgspec.json.decode(line, type=Call), place)
    # TensorFlow takes a second to tear itself down, for nobody; every answer has been flushed.
    os._exit(0)


class _Log(io.FileIO):
    """Where a child's libraries print. What a full disk has no room for is lost, not the answer."""

    def write(self, data: Any) -> int:
        """All of it, or what there is room for."""
        with contextlib.suppress(OSError):
            super().write(data)
        return len(data)


def _answer(answers: BinaryIO, session: Session, call: Call, place: str) -> None:
    sending = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        line = msgspec.json.encode(message) + b"\n"
        with sending:  # models are run in threads, which tell where they are
            answers.write(line)
            answers.flush()

    def progress(done: int, total: int) -> None:
        send({"progress": [done, total]})

    def at(place: str) -> None:
        send({"at": _utf8(place)})

    try:
        send({"result": session.run(call.request, call.out, progress, at)})
    except Exception as error:  # a child must answer whatever a model makes a library raise
        traceback.print_exc(file=sys.stderr)
        told = {name: _utf8(text) for name, text in _explain(error, place).items()}
        send({"error": told | {"place": error.place if isinstance(error, EvaluationError) else None}})


def _utf8(text: str) -> str:
    """A text as an answer can hold it: a file's name in it need not be UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _explain(error: Exception, place: str) -> dict[str, str]:
    """What went wrong, for people; `place` holds the scratch folders."""
    if (isinstance(error, OSError) and is_full(error)) or says_full(str(error)):
        return {
            "kind": "disk-full",
            "message": f"{place}: no space left; free some, or name another folder with TMPDIR",
        }
    if isinstance(error, GuardError):
        return {"kind": error.kind, "message": str(error)}
    if isinstance(error, ModuleNotFoundError) and (extra := _EXTRAS.get((error.name or "").split(".")[0])):
        return {
            "kind": "missing-dependency",
            "message": f"this needs {error.name}, which is not installed; run: pip install 'tflite-guard[{extra}]'",
        }
    if _short_of_memory(error):
        threads = isinstance(error, RuntimeError) and shortage(error)
        also = ", or raise `ulimit -u`, which limits threads" if threads else ""
        message = f"ran out of memory; use smaller inputs, or a machine with more{also}"
        return {"kind": "out-of-memory", "message": message}
    if told := shortage(error):
        return {"kind": "limit", "message": told}
    if isinstance(error, PermissionError):
        return {
            "kind": "permission",
            "message": f"{error.filename}: a model may read only the files that its manifest names ({error.strerror})",
        }
    first = str(error).strip().splitlines()
    detail = f": {first[0][:300]}" if first else ""
    return {"kind": "internal", "message": f"{type(error).__name__}{detail}; run with -v for details"}


def _short_of_memory(error: Exception) -> bool:
    """Whether a library had no memory; the dynamic loader and threads say so in words alone."""
    said = ("failed to map segment", "cannot allocate memory", "can't start new thread", "std::bad_alloc")
    in_words = isinstance(error, ImportError | OSError | RuntimeError) and any(t in str(error).lower() for t in said)
    return isinstance(error, MemoryError) or "ResourceExhausted" in type(error).__name__ or in_words


_EXTRAS = {
    "tensorflow": "tensorflow",
    "keras": "tensorflow",
    "h5py": "tensorflow",
    "tf_keras": "tensorflow",
    "ai_edge_litert": "litert",
    "litert_quantizer": "recipes",
    "tflite_micro": "micro",
    "pycocotools": "detection",
}


def _die_with_parent(parent: int) -> None:
    """A keeper or parent that is killed cannot end us; do not outlive it by more than a second."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main()
