"""The harness keeps of a step what GitHub's runner keeps."""

from __future__ import annotations

from tests.e2e.runner import Step
from tests.workflow_commands import commands


def test_ten_annotations_of_a_level_are_kept_with_messages_of_limited_length() -> None:
    log = "\n".join([*(f"::error::{number}" for number in range(12)), "::warning::" + "w" * 5000, "::debug::d"])
    step = Step(0, log, list(commands(log)), {}, "", {})
    assert [len(command.message) for command in step.annotations] == [1] * 10 + [4096]
