"""Running .tflite models through TensorFlow Lite Micro, the interpreter that microcontrollers run."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tflite_guard.engine import graph as graphs
from tflite_guard.engine.tflite import Bound, Model, dequantize
from tflite_guard.errors import EvaluationError, ModelFileError
from tflite_guard.protocol import Names
from tflite_guard.text.plain import plain

Array = npt.NDArray[Any]
PACKAGE = "tflite_micro"
SCRIPT = Path(__file__).with_name("micro_process.py")
"""Not imported: it loads the package, which need not be there."""
ARENAS = (1 << 24, 1 << 27, 1 << 30)
"""Bytes of arena to try. What is not used takes no memory."""
MOST_SAID = 1 << 16
"""Bytes of what the interpreter says that are read."""


class MicroRunner(Bound):
    """One interpreter in a process, bound to a reference's names or, without them, to the model's own.

    It takes one example at a time, of the shape that the file has, and forgets what earlier ones left.
    """

    def __init__(self, model: Model, expected: Names | None = None) -> None:
        """Raises ModuleNotFoundError without the package, EvaluationError where it cannot run the model."""
        if find_spec(PACKAGE) is None:
            raise ModuleNotFoundError(name=PACKAGE)
        # Operators of its own (signal processing) keep state that no tensor shows.
        known = set(graphs.OPERATOR_NAMES.values())
        own = any(one.type not in known for one in model.graph.main.operators)
        super().__init__(model, expected, stateful=graphs.has_state(model.graph) or own, fixed_batch=1)
        if model.signature.subgraph != 0:
            raise EvaluationError(
                "signature",
                f"{model.path}: TensorFlow Lite Micro runs the first subgraph alone, and signature "
                f"{model.signature.key!r} is of another; convert that signature to a .tflite of its own",
            )
        self._order = {index: place for place, index in enumerate(model.graph.main.inputs)}
        self._returned = {index: place for place, index in enumerate(model.graph.main.outputs)}
        self._process = self._started()

    def call(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of one call: float32 where the model's are float or quantized, integers as they are."""
        given = sorted((self._order[self.ports[name].index], name, values) for name, values in tensors.items())
        process = self._process
        for (shape, dtype), (_, name, values) in zip(process.inputs, given, strict=True):
            if values.shape != shape or values.dtype != dtype:
                raise EvaluationError(
                    "binding",
                    f"{self.path}: TensorFlow Lite Micro takes inputs of the file's own shape alone: {name} has "
                    f"{list(values.shape)} {values.dtype} and the file {list(shape)} {dtype}; convert with a batch of "
                    "1 and the shape that the device feeds",
                )
        results = process.invoked(b"".join(np.ascontiguousarray(values).tobytes() for _, _, values in given))
        if results is None:
            raise _refused(self.path, process.said())
        return {name: dequantize(results[self._returned[port.index]], port) for name, port in self.outputs.items()}

    def restart(self) -> None:
        """Forget what earlier calls left."""
        if not self._process.told(b"r"):
            raise _refused(self.path, self._process.said())

    def arena_bytes(self) -> int:
        """Bytes that the interpreter has of its arena in use, on this machine (pointers of 64 bits)."""
        self._process.told(b"a")
        found = re.findall(r"Arena allocation total (\d+) bytes", self._process.said())
        if not found:
            raise _refused(self.path, self._process.said())
        return int(found[-1])

    def _started(self) -> _Process:
        for size in ARENAS:
            process = _Process(self.path, size)
            if process.ready:
                return process
            said = process.said()
            if not re.search(r"Requested: \d+, available", said):
                break
        raise _refused(self.path, said)


class _Process:
    """`micro_process` running."""

    def __init__(self, path: str, arena: int) -> None:
        # A file, since nobody reads a pipe while the process computes.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(SCRIPT), path, str(arena)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        weakref.finalize(self, _end, self._process, self._errors)
        line = self._answers.readline()
        self.ready = line.endswith(b"\n")
        sides = json.loads(line) if self.ready else ([], [])
        self.inputs, self._outputs = ([(tuple(shape), np.dtype(dtype)) for shape, dtype in side] for side in sides)

    def invoked(self, inputs: bytes) -> list[Array] | None:
        """The outputs in the file's order; None where it failed."""
        if not self._sent(b"i" + inputs):
            return None
        results = []
        for shape, dtype in self._outputs:
            size = int(np.prod(shape)) * dtype.itemsize
            content = self._answers.read(size)
            if len(content) < size:
                return None
            results.append(np.frombuffer(content, dtype).reshape(shape))
        return results

    def told(self, request: bytes) -> bool:
        """Whether it did what the request says."""
        return self._sent(request) and self._answers.read(1) == request

    def said(self) -> str:
        """What it has written for people, once it has ended or done what it was asked."""
        if self._process.stdout is not None and not self.ready:
            self._process.wait()
        self._errors.seek(0, 2)
        self._errors.seek(max(0, self._errors.tell() - MOST_SAID))
        return self._errors.read().decode(errors="replace")

    def _sent(self, content: bytes) -> bool:
        try:
            self._requests.write(content)
            self._requests.flush()
        except OSError:
            return False
        return True


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    process.kill()
    with contextlib.suppress(OSError):
        process.communicate()
    errors.close()


LACKS = r"Didn't find op for builtin opcode '(\w+)'|Unresolved custom op: '?([^\s']+)|custom op.*?'([^']+)'"
FAILED = r"Node (\w+) \(number (\d+)\) failed to (prepare|invoke)"


def _refused(path: str, said: str) -> EvaluationError:
    """What the interpreter says, for people: the operator that it lacks or cannot prepare, and why."""
    if found := re.search(LACKS, said):
        name = next(group for group in found.groups() if group)
        return EvaluationError(
            "no-kernel",
            f"{path} needs the operator {plain(name)}, which TensorFlow Lite Micro does not have; replace it in the "
            "model",
        )
    lines = [plain(line.strip()) for line in said.splitlines() if line.strip()]
    if found := re.search(FAILED, said):
        place = next((i for i, line in enumerate(lines) if found[0] in line), 0)
        reason = (
            re.sub(r"^tensorflow/\S+(:\d+)? ", "", lines[place - 1].rstrip(".")) if place else "it does not say why"
        )
        if "Hybrid models" in reason or "filter type" in reason:
            reason += "; it has weights in integers and computes in float, so quantize activations too (int8)"
        elif found[1] == "DEQUANTIZE":
            reason += "; constants in float16 cannot be read there, so quantize to int8"
        return EvaluationError(
            "no-kernel", f"{path}: TensorFlow Lite Micro cannot {found[3]} {found[1]}, operator {found[2]}: {reason}"
        )
    if re.search(r"Requested: \d+, available", said):
        return EvaluationError(
            "no-kernel", f"{path} needs more than {ARENAS[-1] >> 30} GiB of arena in TensorFlow Lite Micro"
        )
    last = lines[-1] if lines else "it ended without a word"
    return ModelFileError(f"TensorFlow Lite Micro refuses {path}: {last}")
