"""What is seen of outputs, batch by batch, against the whole arrays looked at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, r2_score

from tflite_guard.engine.facts import Watch, scales
from tflite_guard.engine.graph import Graph, Operator, Subgraph, Tensor
from tflite_guard.manifest.types import MetricSpec
from tflite_guard.protocol import Decided, OutputFacts, Stuck


def watched(reference: np.ndarray, labels: np.ndarray | None, metric: str, variant=None, **options) -> OutputFacts:
    """What is seen of all examples, which is what two pieces of them say together."""
    spec = MetricSpec(metric, metric, **options)
    variant = reference if variant is None else variant

    def looked(first: int, last: int) -> Watch:
        watch = Watch("out", [(spec, None if labels is None else "")])
        for start in range(first, last, 7):
            rows = slice(start, min(start + 7, last))
            watch.add(variant[rows], reference[rows], {} if labels is None else {"": labels[rows]}, range(start, last))
        return watch

    whole, joined = looked(0, len(reference)), looked(0, len(reference) // 3)
    joined.join(looked(len(reference) // 3, len(reference)))
    assert joined.facts() == whole.facts()
    return whole.facts()


def test_decisions_are_counted_beside_their_labels() -> None:
    generator = np.random.default_rng(3)
    scores, labels = generator.random((100, 5), np.float32), generator.integers(0, 4, 100)
    found = watched(scores, labels, "accuracy").decided
    most = max(int((labels == c).sum()) for c in range(4))
    right = accuracy_score(labels, scores.argmax(1), normalize=False)
    assert found == Decided(100, right, most, 4, 5)


def test_positions_without_a_label_are_left_out() -> None:
    scores, labels = np.zeros((3, 2, 2), np.float32), np.array([[0, 255], [1, 255], [255, 0]])
    found = watched(scores, labels, "mean_iou", ignore_index=255).decided
    assert found == Decided(3, 2, 2, 2, 1)


def test_r2_is_scikit_learns_in_any_batches_and_far_from_zero() -> None:
    generator = np.random.default_rng(4)
    labels = 1e6 + generator.standard_normal((50, 3))
    outputs = labels + generator.standard_normal((50, 3))
    found = watched(outputs, labels, "mae").r2
    assert found == pytest.approx(r2_score(labels, outputs), abs=1e-6)
    assert watched(outputs, np.full((50, 3), 2.0), "mae").r2 is None


def test_outputs_that_never_vary_are_seen_in_floats_alone() -> None:
    same, other = np.ones((20, 3), np.float32), np.ones((20, 3), np.float32)
    other[19, 2] = 2
    found = watched(same, None, "sqnr", variant=other)
    assert (found.constant, found.stuck, found.examples) == (True, None, 20)
    assert watched(np.ones((20, 1), np.int64), None, "agreement").constant is False
    assert watched(other, None, "sqnr", variant=same).stuck == Stuck(spread=1, width=1, clear=True)
    barely = np.ones((20, 3), np.float32) + np.float32(1e-3) * np.arange(60, dtype=np.float32).reshape(20, 3) / 60
    found = watched(5 * barely, None, "sqnr", variant=same).stuck
    assert found is not None
    assert (found.spread, found.clear) == (pytest.approx(5e-3 * 57 / 60, rel=1e-3), True)
    few = np.where(np.arange(60).reshape(20, 3) == 30, np.float32(1.001), np.float32(1)) * np.array(
        [1, 50, 1], np.float32
    )
    found = watched(few, None, "sqnr", variant=same).stuck
    assert found is not None
    assert found.clear is False


HEADS = st.tuples(st.integers(1, 20), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3))


@given(sizes=HEADS, seed=st.integers(0, 2**32 - 1))
def test_channels_that_never_vary_are_those_of_a_plain_loop(sizes: tuple[int, int, int, int], seed: int) -> None:
    n, first, last, dead = sizes
    generator = np.random.default_rng(seed)
    axis = 2 if last < first else 1
    reference = (generator.random((n, first, last)) * generator.choice([0.01, 1, 100], last)).astype(np.float32)
    variant = reference + np.float32(0.1)
    for channel in generator.permutation(reference.shape[axis])[:dead]:
        (variant[:, :, channel] if axis == 2 else variant[:, channel])[...] = 0.5
    stuck, spreads = [], []
    for channel in range(reference.shape[axis]):
        ours, theirs = (np.take(one, channel, axis).astype(np.float64).ravel() for one in (variant, reference))
        spread, width = max(theirs) - min(theirs), float(reference.max()) - float(reference.min())
        if len(set(ours)) == 1 and spread > 0 and spread >= 0.05 * min(1, width):
            stuck.append(channel)
            spreads.append(spread)
    found = watched(reference, None, "sqnr", variant=variant).stuck
    constant = all(len(set(one)) == 1 for one in variant.reshape(n, -1).T)
    if constant and any(len(set(one)) > 1 for one in reference.reshape(n, -1).T):
        assert found is not None
        assert found.count == 0
    elif first == last or min(first, last) == 1 or not stuck:
        assert found is None
    else:
        width = float(reference.max()) - float(reference.min())
        assert found == Stuck(max(spreads), width, True, tuple(stuck), len(stuck), reference.shape[axis])


@pytest.mark.parametrize(
    ("rows", "seen", "undecided"),
    [([1, 0], 20, 0), ([1 - 1e-7, 1e-7], 20, 20), ([0.999, 0.001], 0, 0), ([2, 0], 0, 0)],
)
def test_probabilities_at_their_ends_are_counted(rows: list[float], seen: int, undecided: int) -> None:
    outputs = np.tile(np.array(rows, np.float32), (20, 1))
    assert watched(outputs, None, "agreement").saturated == seen
    assert watched(outputs, None, "agreement", from_logits=True).saturated == 0
    assert watched(outputs, None, "sqnr").saturated == undecided


def test_what_saturates_is_seen_without_a_decision_and_masks_and_small_values_are_not() -> None:
    steep = (1 / (1 + np.exp(-np.random.default_rng(5).choice([-60.0, 60.0], (40, 3))))).astype(np.float32)
    assert watched(steep, None, "sqnr").saturated == 40
    assert watched(steep.round(), None, "sqnr").saturated == 0, "a mask"
    assert watched(np.full((40, 3), 1e-8, np.float32), None, "sqnr").saturated == 0, "small values"


def test_classes_that_are_decided_for_are_counted_without_labels() -> None:
    scores = np.random.default_rng(5).random((40, 3), np.float32)
    assert watched(scores, None, "agreement").decided == Decided(0, 0, 0, 0, len(set(scores.argmax(1).tolist())))
    assert watched(scores * [1, 0, 0], None, "agreement").decided == Decided(0, 0, 0, 0, 1)
    assert watched(scores[:, :1], None, "agreement").decided == Decided(0, 0, 0, 0, 0)
    assert watched(scores, None, "sqnr").decided is None


def quantized(name: str, scale: float, *, dtype: str = "int8", constant: bool = False) -> Tensor:
    return Tensor(name, (1, 4), (1, 4), dtype, np.array([scale], np.float32), np.zeros(1, np.int64), 0, False, constant)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (quantized("out", 0.05), []),
        (quantized("out", 2e-6 / 255), ["out"]),
        (quantized("out", 2e-6 / 65535, dtype="int16"), ["out"]),
        (quantized("out", 0.0), ["out"]),
        (quantized("out", 1e-40), ["out"]),
        (quantized("out", np.inf), ["out"]),
    ],
)
def test_scales_of_no_range_are_found(output: Tensor, expected: list[str]) -> None:
    tensors = (quantized("in", 0.1), quantized("weights", 1e-6, constant=True), output)
    graph = Graph((Subgraph(tensors, (Operator("ADD", (0, 1), (2,)),), (0,), (2,)),), {})
    assert [one.tensor for one in scales(graph, bytes).degenerate] == expected


def test_small_values_from_small_inputs_have_a_range() -> None:
    tensors = (quantized("in", 1e-9), quantized("out", 1e-9))
    graph = Graph((Subgraph(tensors, (Operator("RELU", (0,), (1,)),), (0,), (1,)),), {})
    assert scales(graph, bytes).degenerate == ()
