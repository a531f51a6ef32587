"""What a person sees while a run works: a bar a model, on standard error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
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
from rich.table import Column
from rich.text import Text

from tflite_guard.reports.wording import MARKS
from tflite_guard.results import Verdict
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


def _counted(finished: Mapping[Verdict | None, int]) -> str:
    """`finished: 36 ✓, 2 ✗`."""
    marks = Counter[str]()
    for verdict, number in finished.items():
        marks[MARKS[verdict]] += number
    return "finished: " + ", ".join(f"{number:,} {mark}" for mark, number in marks.items())


@contextmanager
def progress(console: Console | None = None) -> Iterator[Callable[[Event], None]]:
    """A live display on standard error or another console; the function it gives may be called from any thread."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        _Rate(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console or Console(stderr=True), transient=True) as display:
        tasks: dict[str, TaskID] = {}
        finished: dict[str, str] = {}
        ended = Counter[Verdict | None]()
        summary = display.add_task("", total=1, completed=1, phase=None, visible=False)

        def show(event: Event) -> None:
            name = plain(event.model, 40)
            if event.model not in tasks:
                tasks[event.model] = display.add_task(name, total=None, phase=None)
            task = tasks[event.model]
            if event.phase == "done":
                # In one row for all: many would leave none for what is being done.
                ended[event.verdict] += 1
                display.update(task, visible=False)
                display.update(summary, description=_counted(ended), visible=True)
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
