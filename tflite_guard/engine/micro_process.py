"""TensorFlow Lite Micro's interpreter in a process of its own, since it holds Python's lock while it computes.

Run as a script with a path and the size of an arena in bytes; nothing of this package is imported. It first answers a
line of JSON that describes inputs and outputs, then each request of one byte: `i` and the inputs' bytes, which runs the
model and answers the outputs' bytes; `r`, which forgets state; `a`, which writes the arena's use to standard error. The
last two answer one byte. What goes wrong ends it, with the interpreter's words on standard error.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from tflite_micro.python.tflite_micro import runtime


def main(path: str, arena: int) -> None:
    """Serve until the requests end."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # answers alone go out
    interpreter = runtime.Interpreter.from_file(path, arena_size=arena)
    inputs, outputs = _all(interpreter.get_input_details), _all(interpreter.get_output_details)
    described = [[[*map(int, one["shape"])], np.dtype(one["dtype"]).name] for one in (*inputs, *outputs)]
    answers.write(json.dumps([described[: len(inputs)], described[len(inputs) :]]).encode() + b"\n")
    answers.flush()
    while request := requests.read(1):
        if request == b"i":
            for place, one in enumerate(inputs):
                given = requests.read(int(np.prod(one["shape"])) * np.dtype(one["dtype"]).itemsize)
                interpreter.set_input(np.frombuffer(given, one["dtype"]).reshape(one["shape"]), place)
            interpreter.invoke()
            for place in range(len(outputs)):
                answers.write(np.ascontiguousarray(interpreter.get_output(place)).tobytes())
        else:
            interpreter.reset() if request == b"r" else interpreter.print_allocations()
            answers.write(request)
        answers.flush()


def _all(details: Callable[[int], Any]) -> list[Any]:
    """What there is of each input or output; it says how many by refusing one more."""
    found = []
    for place in itertools.count():
        try:
            found.append(details(place))
        except IndexError:
            return found
    raise AssertionError


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
