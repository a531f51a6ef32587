"""The live display, whatever a run is doing."""

from __future__ import annotations

import io
from typing import get_args

import pytest
from rich.console import Console

from tflite_guard.reports.progress import progress
from tflite_guard.results import Verdict
from tflite_guard.run.steps import Event, Phase


@pytest.mark.parametrize("phase", get_args(Phase))
def test_every_phase_can_be_shown(phase: Phase) -> None:
    with progress() as show:
        show(Event("model", "int8", phase, 1, 2, Verdict.PASS))


def test_of_many_models_those_that_are_done_are_counted_in_a_row() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=80, height=24)
    with progress(console) as show:
        for number in range(40):
            show(Event(f"model-{number}", None, "evaluate", 1, 2))
            if number < 39:
                show(Event(f"model-{number}", None, "done", verdict=Verdict.FAIL if number < 2 else Verdict.PASS))
    last = screen.getvalue().rpartition("finished: ")[2]
    assert last.startswith("2 ✗, 37 ✓ ")
    assert "model-39: evaluating" in last
    assert "model-38" not in last
