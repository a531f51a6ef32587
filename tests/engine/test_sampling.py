"""The order of a sequential evaluation, and that it ends with the block that makes every verdict certain."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from tflite_guard.engine.sequential import Sampling, ends
from tflite_guard.manifest.types import MetricSpec
from tflite_guard.metrics import measure
from tflite_guard.metrics.sequential import settled
from tflite_guard.protocol import Stopping

SIZE = 2000
ACCURACY, AUC = MetricSpec("accuracy", "accuracy"), MetricSpec("auc", "roc_auc")
STOPPING = Stopping(0.95, {"accuracy": {"max_drop": 0.02}})


class Scores:
    """Scores of a whole set by place; `evaluated` are the places seen so far, in that order."""

    def __init__(self, *, rare: int | None = None) -> None:
        rng = np.random.default_rng(1)
        self.right = rng.random(SIZE) < 0.9
        self.label = np.zeros(SIZE, np.int64)
        self.rare = rare
        if rare is not None:
            self.label[rare] = 1
        self.evaluated = np.arange(0)

    @property
    def scored(self):
        at = self.evaluated
        alike = np.zeros(len(at), bool)
        accuracy = {"candidate": self.right[at], "reference": self.right[at], "identical": alike}
        auc = {"candidate": self.right[at] * 1.0, "reference": self.right[at] * 1.0, "label": self.label[at]}
        columns = [("accuracy", ACCURACY, accuracy)]
        return columns if self.rare is None else [*columns, ("auc", AUC, auc | {"identical": alike})]

    def arrange(self, index) -> None:
        self.evaluated = self.evaluated[index]

    def measurements(self):
        return [(name, replace(measure(spec, scores), name=name)) for name, spec, scores in self.scored]


def stopped_after(sampling: Sampling, scores: Scores) -> int:
    for done in range(1, SIZE + 1):
        scores.evaluated = sampling.places[:done]
        if sampling.certain(done, scores):
            return done
    return SIZE


def test_every_example_comes_once_in_blocks_that_grow_and_by_the_seed() -> None:
    sampling = Sampling(STOPPING, SIZE, seed=3)
    assert sorted(sampling.places.tolist()) == list(range(SIZE))
    assert np.cumsum([len(block) for block in sampling.blocks]).tolist() == list(ends(SIZE))
    assert all((np.diff(block) > 0).all() for block in sampling.blocks)
    assert (Sampling(STOPPING, SIZE, seed=3).places == sampling.places).all()
    assert (Sampling(STOPPING, SIZE, seed=4).places != sampling.places).any()
    assert list(ends(100)) == [100]
    assert list(ends(500)) == [128, 192, 288, 432, 500]


def test_it_ends_with_the_first_block_after_which_the_random_order_is_decided() -> None:
    sampling = Sampling(STOPPING, SIZE, seed=3)
    drawn = np.random.default_rng((3, 1)).permutation(SIZE)
    right = Scores().right
    expected = next(
        end
        for end in ends(SIZE)
        if settled(
            {"candidate": right[drawn[:end]], "reference": right[drawn[:end]]},
            (0.0, 1.0),
            SIZE,
            {"max_drop": 0.02},
            None,
            0.025,
        )
    )
    assert stopped_after(sampling, Scores()) == expected < SIZE


def test_no_part_ends_it_on_which_another_metric_has_no_value() -> None:
    """The only example of a class comes late: without it the area under the curve would be an error."""
    sampling = Sampling(STOPPING, SIZE, seed=3)
    early = stopped_after(sampling, Scores())
    rare = int(sampling.places[early + 10])
    late = stopped_after(sampling, Scores(rare=rare))
    assert late > early
    assert late == next(end for end in ends(SIZE) if end > early + 10)


def test_measurements_are_by_place_and_of_a_part_they_are_of_the_whole() -> None:
    sampling, scores = Sampling(STOPPING, SIZE, seed=3), Scores(rare=5)
    scores.evaluated = sampling.places
    whole = dict(sampling.measurements(SIZE, scores))
    assert scores.evaluated.tolist() == list(range(SIZE))
    assert whole["accuracy"].interval_method == "newcombe-paired"
    assert not whole["accuracy"].settled
    done = list(ends(SIZE))[-2]
    scores.evaluated = sampling.places[:done]
    part = dict(sampling.measurements(done, scores))
    assert scores.evaluated.tolist() == sorted(sampling.places[:done].tolist())
    assert part["accuracy"].settled
    assert part["accuracy"].interval_method == "betting"
    low, high = part["accuracy"].value_interval or pytest.fail("no interval")
    assert low < Scores().right.mean() < high
    assert part["auc"].confidence_interval is None
    assert not part["auc"].settled
