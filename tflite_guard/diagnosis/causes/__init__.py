"""Causes, a module a family: each looks for evidence, makes the experiments that it suggests, and confirms one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tflite_guard.diagnosis.experiments import Bench
from tflite_guard.diagnosis.lab import Change, Option
from tflite_guard.results import Experiment


class Cause(msgspec.Struct, frozen=True):
    """What an experiment has shown to cost at least half of what is lost."""

    rule: str
    message: str
    experiment: Experiment
    tensor: str | None = None
    operator: str | None = None
    evidence: dict[str, Any] = msgspec.field(default_factory=dict)
    options: tuple[Option, ...] = ()
    """What would mend it, the likeliest first."""
    change: Change | None = None
    """What the experiment changed, with true ranges; None where it did not quantize otherwise."""


Look = Callable[[Bench], Cause | None]
