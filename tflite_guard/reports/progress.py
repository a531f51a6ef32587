"""What a person sees while a run works: a bar a model, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tflite_guard.reports.wording import MARKS
from tflite_guard.run.steps import Event, Phase
from tflite_guard.text.plain import plain

PHASES: dict[Phase, str] = {
    "fetch": "fetching",
    "load": "loading TensorFlow",
    "describe": "reading the model",
    "reference": "running the reference",
    "convert": "converting",
    "evaluate": "evaluating",
    "diagnose": "diagnosing",
    "shards": "checking in shards",
}


class _Rate(ProgressColumn):
    """Examples or bytes a second, once there are some."""

    def render(self, task: Task) -> Text:
        phase = task.fields["phase"]
        if not task.speed or task.total is None or phase == "shards":
            return Text("")
        if phase == "fetch":
            return Text(f"{task.speed / 1e6:,.1f} MB/s", "dim")
        return Text(f"{task.speed:,.0f} examples/s", "dim")


@contextmanager
def progress() -> Iterator[Callable[[Event], None]]:
    """A live display; the function it gives may be called from any thread."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        tasks: dict[str, TaskID] = {}
        finished: dict[str, str] = {}

        def show(event: Event) -> None:
            name = plain(event.model, 40)
            if event.model not in tasks:
                tasks[event.model] = display.add_task(name, total=None, phase=None)
            task = tasks[event.model]
            if event.phase == "done":
                mark = MARKS[event.verdict] if event.verdict else ""
                display.update(task, description=f"{mark} {name}", total=1, completed=1)
                return
            if event.phase == "variant":
                finished[event.model] = f" {event.done}/{event.total}"
                return
            doing = f"{PHASES[event.phase]} {plain(event.variant or event.file or '', 40)}".rstrip()
            what = f"{name}{finished.get(event.model, '')}: {doing}"
            if event.done <= 1 or display.tasks[task].description != what:
                total = event.total or None
                display.reset(task, description=what, total=total, completed=event.done, phase=event.phase)
            else:
                display.update(task, total=event.total or None, completed=event.done)

        yield show
