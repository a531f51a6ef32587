"""What is done, and with which examples, told as it is done, so that a crash can be put down to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

from tflite_guard.datasets.sources import Rows

Doing = Callable[[str], AbstractContextManager[None]]
"""Gives what tells, within it, that something is done."""


def untold(_what: str) -> AbstractContextManager[None]:
    """Do something that nobody is told of."""
    return nullcontext()


class UnderWay:
    """Tells what is being done by whatever threads: batches are read while others are run."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """`tell` is called whenever something begins or ends: with all that is being done, or with nothing."""
        self._tell = tell
        self._lock = threading.Lock()
        self._tasks: list[_Task] = []

    @contextmanager
    def doing(
        self, what: str, rows: Rows = range(0), called: Callable[[list[int]], str] = str, dataset: str = ""
    ) -> Iterator[None]:
        """Within it, something is done: with the examples at these rows of a dataset, which `called` puts in words."""
        task = _Task(what, [int(row) for row in rows], called, dataset)
        with self._lock:
            self._tasks.append(task)
            self._say()
        try:
            yield
        finally:
            with self._lock:
                self._tasks = [other for other in self._tasks if other is not task]
                self._say()

    def _say(self) -> None:
        told = []
        for what, dataset in sorted({(task.what, task.dataset) for task in self._tasks}):
            alike = [task for task in self._tasks if (task.what, task.dataset) == (what, dataset)]
            rows = [row for task in alike for row in task.rows]
            told.append(f"{what} {alike[0].called(rows)} of dataset {dataset!r}" if rows else what)
        self._tell(" and ".join(told))


class _Task(NamedTuple):
    what: str
    rows: list[int]
    called: Callable[[list[int]], str]
    dataset: str
