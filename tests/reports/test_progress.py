"""The live display, whatever a run is doing."""

from __future__ import annotations

from typing import get_args

import pytest

from tflite_guard.reports.progress import progress
from tflite_guard.results import Verdict
from tflite_guard.run.steps import Event, Phase


@pytest.mark.parametrize("phase", get_args(Phase))
def test_every_phase_can_be_shown(phase: Phase) -> None:
    with progress() as show:
        show(Event("model", "int8", phase, 1, 2, Verdict.PASS))
