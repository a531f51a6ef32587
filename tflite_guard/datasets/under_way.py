"""What is done with which examples, told as it is done, so that a crash can be put down to them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tflite_guard.datasets.sources import Rows


class UnderWay:
    """Tells what is being done by whatever threads: batches are read while others are run."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """`tell` is called whenever something begins or ends: with all that is being done, or with nothing."""
        self._tell = tell
        self._lock = threading.Lock()
        self._tasks: list[_Task] = []

    @contextmanager
    def doing(self, what: str, rows: Rows = range(0), called: Callable[[list[int]], str] = str) -> Iterator[None]:
        """Within it, something is done: with the examples at these rows of a source, which `called` puts in words."""
        task = _Task(what, [int(row) for row in rows], called)
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
        for what in sorted({task.what for task in self._tasks}):
            alike = [task for task in self._tasks if task.what == what]
            rows = [row for task in alike for row in task.rows]
            told.append(f"{what} {alike[0].called(rows)}" if rows else what)
        self._tell(" and ".join(told))


class _Task(NamedTuple):
    what: str
    rows: list[int]
    called: Callable[[list[int]], str]
