"""Wrong inputs of every kind, the same each time; `python -m tests.fuzz --minutes 30` looks further."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.families import FAMILIES, Children, once

SEEDS = {
    "tflite-run": range(30),
    "keras": (*range(20), 9_127_029),
    "hdf5": range(52),
    "saved-model": range(20),
    "labels": range(126),
    "tfrecord": range(20),
    "report": range(20),
    "shards": range(40),
    "remote": range(25),
    "answer": (*range(30), 2_009),
}
"""Fewer of those that start a process, convert a model, render or wait."""


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    made = Children()
    yield made
    made.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_wrong_is_one_clear_error_and_no_more(family: str, children: Children) -> None:
    met = {once(family, seed, children) for seed in SEEDS.get(family, range(100))}
    assert met - {"read"}, "none of the inputs was wrong"
