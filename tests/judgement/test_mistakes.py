"""Rows in a line, and two sides of a comparison, against sets of numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.judgement.test_baseline import variant
from tflite_guard.errors import UsageError
from tflite_guard.judgement import baseline, mistakes
from tflite_guard.protocol import Evaluation, Mistakes
from tflite_guard.results import Artifact, Mistake, SinceBaseline, WrongExamples

ROWS = st.sets(st.integers(0, 300)).map(sorted)


def evaluated(wrong: list[int], examples: int, of: int, data: str | None = "data") -> Evaluation:
    every = tuple(Mistake(row, 1, 2, 1, row % 7 / 10) for row in wrong)
    return Evaluation((), Artifact(1, "0" * 64), None, mistakes=Mistakes("accuracy", examples, of, every), data=data)


def recorded(wrong: list[int], examples: int, of: int) -> WrongExamples | None:
    return mistakes.with_mistakes(variant("int8", {}), evaluated(wrong, examples, of)).wrong


def since(now: Evaluation, then: WrongExamples | None) -> SinceBaseline | None:
    return mistakes.with_mistakes(variant("int8", {}), now, then).since_baseline


@given(ROWS)
def test_rows_come_back_as_they_were_written(rows: list[int]) -> None:
    assert mistakes.read(mistakes.written(rows)) == rows


def test_runs_of_rows_are_short() -> None:
    assert mistakes.written([3, 17, 18, 19, 40]) == "3 17-19 40"
    assert mistakes.written([]) == ""


@pytest.mark.parametrize(
    "line",
    [
        "3 3",
        "4 3",
        "5-4",
        "1-5 4",
        "0-999999999999",
        "-1",
        "1-",
        "1,2",
        "1 ",
        " 1",
        "1  2",
        "1\n",
        "²",
        "9" * 20,
        "1 " * 90_000,
    ],
)
def test_what_is_no_line_of_rows_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="rows"):
        mistakes.read(line)


@given(ROWS, ROWS, st.booleans(), st.booleans())
def test_what_got_worse_is_the_difference_as_far_as_both_sides_know(
    then: list[int], now: list[int], cut_then: bool, cut_now: bool
) -> None:
    """A side that was cut knows nothing behind its last wrong example."""
    cut_then, cut_now = cut_then and bool(then), cut_now and bool(now)
    known = [rows[-1] + 1 if cut else 301 for rows, cut in ((then, cut_then), (now, cut_now))]
    found = since(evaluated(now, known[1], 301), recorded(then, known[0], 301))
    assert found is not None
    worse = {row for row in now if row < min(known)} - {*then}
    better = {row for row in then if row < min(known)} - {*now}
    assert (found.examples, found.worse, found.better) == (min(known), len(worse), len(better))
    assert [one.example for one in found.worst] == sorted(worse, key=lambda row: (-(row % 7), row))[:20]


def test_nothing_is_said_of_what_cannot_be_compared() -> None:
    then = recorded([3], 10, 10)
    assert then == WrongExamples("accuracy", "data", 10, 10, "3")
    assert since(evaluated([4], 10, 10), None) is None
    assert since(evaluated([4], 10, 10, "other"), then) is None
    assert since(evaluated([4], 10, 10, None), then) is None
    assert since(evaluated([4], 11, 11), then) is None
    assert since(evaluated([4, 4], 10, 10), then) is None  # which only a child that is not trusted says
    assert since(evaluated([-1], 10, 10), then) is None


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        {"metric": "accuracy"},
        {"metric": "accuracy", "data": "d", "examples": 10, "of": 10, "rows": "4 3"},
        {"metric": "accuracy", "data": "d", "examples": 1, "of": 10, "rows": "3 4"},
        {"metric": "accuracy", "data": "d", "examples": 11, "of": 10, "rows": "3"},
        {"metric": "accuracy", "data": "d", "examples": "10", "of": 10, "rows": "3"},
    ],
)
def test_a_baseline_with_anything_else_is_refused(told: Any, tmp_path: Any) -> None:
    whole = {"schema_version": 1, "models": {"m": {"variants": {"int8": {"metrics": {}, "wrong": told}}}}}
    baseline.write(path := str(tmp_path / "b.json"), whole)
    with pytest.raises(UsageError, match=r"b\.json: is damaged: wrong of variant 'int8' of model 'm'"):
        baseline.read(path)
