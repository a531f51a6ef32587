"""What a diagnosis names, on a network of plain arrays whose faults are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.diagnosis.conftest import DeepLab, PlainLab, PooledLab, examples, network
from tflite_guard.diagnosis.causes import Cause, precision
from tflite_guard.diagnosis.causes.calibration import MEASURED
from tflite_guard.diagnosis.causes.tensors import at_once, sensitive, thinned
from tflite_guard.diagnosis.experiments import HALF, Bench, Trial, _moved
from tflite_guard.diagnosis.lab import Case, Change, Option, Samples
from tflite_guard.diagnosis.mixed import smallest
from tflite_guard.diagnosis.procedure import diagnose
from tflite_guard.diagnosis.remedies import Search, together
from tflite_guard.diagnosis.rewrites import equalized
from tflite_guard.errors import ConversionError, EvaluationError
from tflite_guard.manifest.types import Tolerance
from tflite_guard.protocol import Diagnosed
from tflite_guard.results import Experiment

PROOF = Experiment("one", 1.0, (0.9, 1.0))
KEPT = Option("keep hidden in float", {"keep_float": ["hidden"]}, keep=("hidden",))
OTHERWISE = Option("preprocess otherwise", {"preprocess": []}, "/datasets/calib")
CASE = Case("accuracy", True, True, None, {"accuracy": Tolerance(max_drop=0.02)})


def calibrated(lab: PlainLab, data: np.ndarray) -> PlainLab:
    """The same network, its ranges taken on other data."""
    samples = Samples({"x": data})
    return replace(lab, calibration=samples, given=lab.ranges(samples))


def named(found: Diagnosed) -> list[str]:
    return [finding.rule for finding in found.findings if finding.primary]


def test_nothing_is_named_where_nothing_is_lost(healthy: PlainLab) -> None:
    found = diagnose(healthy, CASE)
    assert named(found) == []
    assert found.diagnosis.note is not None


def test_calibration_data_of_another_scale_is_named_with_its_proof(healthy: PlainLab) -> None:
    found = diagnose(calibrated(healthy, examples(200, seed=3) * 60), CASE)
    (cause,) = found.findings
    assert cause.rule == "calibration-range-mismatch"
    assert cause.primary
    assert cause.experiment is not None
    assert cause.experiment.recovered > 0.9
    assert cause.experiment.confidence_interval is not None
    assert cause.experiment.confidence_interval[0] > 0.5
    assert "calib" in cause.message


def test_one_example_again_and_again_is_named(healthy: PlainLab) -> None:
    one = np.repeat(examples(1, seed=4) * 0.1, 100, axis=0)
    assert named(diagnose(calibrated(healthy, one), CASE)) == ["calibration-degenerate"]


def test_a_few_extreme_examples_are_named(healthy: PlainLab) -> None:
    data = examples(200, seed=5)
    data[:3] *= 80
    found = diagnose(calibrated(healthy, data), CASE)
    assert named(found) == ["calibration-outliers"]
    assert found.findings[0].evidence["extreme"] == 3


def test_channels_of_unlike_range_are_named_with_their_tensor(healthy: PlainLab) -> None:
    faulty = imbalanced(healthy)
    faulty.given = faulty.ranges(faulty.calibration)
    found = diagnose(faulty, CASE)
    assert named(found) == ["channel-imbalance"]
    assert found.findings[0].tensor == "hidden"


def imbalanced(lab: PlainLab) -> PlainLab:
    """The same function, of channels of unlike range."""
    factors = np.exp(np.random.default_rng(6).uniform(-5, 5, len(lab.first)))
    return replace(lab, first=lab.first * factors[:, None], second=lab.second / factors)


def test_two_faults_are_both_named_and_mended_at_once(healthy: PlainLab) -> None:
    """What mends either by itself leaves the network out of tolerance."""
    faulty = calibrated(imbalanced(healthy), examples(200, seed=3) * 60)
    found = diagnose(replace(faulty, preprocess=((), ({"scale": 60},))), CASE)
    assert named(found) == ["channel-imbalance", "calibration-range-mismatch"]
    first, second = found.findings
    assert "another is calibration-range-mismatch" in first.message
    assert second.experiment is not None
    assert second.experiment.name.endswith(f"besides {first.experiment.name}" if first.experiment else "?")
    (remedy,) = found.remedies
    assert remedy.verified
    assert remedy.patch == {"keep_float": ["hidden"]}
    assert remedy.also == {"/datasets/calib": {"preprocess": None}}


def test_a_second_fault_that_does_no_harm_by_itself_is_not_named(healthy: PlainLab) -> None:
    """Ranges half as wide again cost nothing that a tolerance asks for."""
    faulty = calibrated(imbalanced(healthy), examples(200, seed=3) * 1.5)
    assert named(diagnose(faulty, CASE)) == ["channel-imbalance"]


def test_of_changes_made_at_once_those_are_kept_that_are_needed() -> None:
    """`a` and `c` give something back only together, and `b` nothing."""

    def tried(names: tuple[str, ...]) -> Trial:
        return Trial(" ".join(names), None, 0.0, 0.96 if {"a", "c"} <= set(names) else 0.1)

    needed, best = thinned(("a", "b", "c"), Trial("all", None, 0.0, 1.0), tried)
    assert needed == ("a", "c")
    assert best.name == "a c"


@pytest.mark.parametrize("kind", [DeepLab, PooledLab])
def test_faults_that_hide_one_another_are_mended_all_at_once(kind: type[DeepLab]) -> None:
    """Two layers' channels are of unlike range: equal ones in either give nothing back, in both each once all of it."""
    rng = np.random.default_rng(8)
    first, second = network()
    middle = rng.normal(size=(24, 24))
    one, other = np.exp(rng.uniform(-6, 6, (2, 24)))
    x = examples(900)
    labels = (np.maximum(np.maximum(x @ first.T, 0) @ middle.T, 0) @ second.T).argmax(1)
    first, middle, second = first * one[:, None], middle * other[:, None] / one, second / other
    lab = kind(first, second, Samples({"x": x}), labels, None, {}, middle=middle)
    lab.given = lab.ranges(lab.evaluation)
    bench = Bench(lab, CASE)
    views = {view.name: view for view in bench.real_views}
    for name in ("hidden", "deep"):
        for constants in equalized(lab, name, views[name].channels):
            change = Change(bench.ranges(bench.calibrating, constants), constants=constants)
            assert bench.quantized(name, change).recovered < HALF
    cause = at_once(bench, bench.real_views)
    assert cause is not None
    assert cause.rule == "channel-imbalance"
    assert cause.experiment.recovered > 0.9
    assert [option.patch for option in cause.options] == [{"equalize": ["hidden", "deep"]}]


def test_more_examples_confirm_and_verify_than_choose(healthy: PlainLab) -> None:
    """What few examples choose of more, the others share, so that smaller losses are certain."""
    bench = Bench(healthy, CASE)
    assert [len(rows) for rows in (bench.choosing, bench.confirming, bench.verifying)] == [256, 322, 322]


def test_where_a_remedy_fails_on_unseen_examples_the_next_is_tried(healthy: PlainLab) -> None:
    """The first one's ranges fit all but the last examples, which are larger."""
    inputs = healthy.evaluation.inputs["x"].copy()
    inputs[578:] *= 4
    lab = replace(healthy, evaluation=Samples({"x": inputs}))
    lab = replace(lab, given=lab.ranges(Samples({"x": inputs[:578]})))
    options = (KEPT, together(KEPT, OTHERWISE))
    case = replace(CASE, tolerances={"accuracy": Tolerance(max_drop=0.05)})
    search = Search(Bench(lab, case), [Cause("sensitive-operator", "", PROOF, options=options)], seconds=60)
    (mended,) = search.run()[0]
    assert mended.also == {OTHERWISE.target: OTHERWISE.patch}


def test_where_nothing_else_helps_the_fewest_tensors_are_left_in_float(healthy: PlainLab) -> None:
    """Neither measured ranges nor another quantization can be made of this network."""
    lab = imbalanced(healthy)
    lab.given = lab.ranges(lab.calibration)
    bench = Bench(lab, CASE)
    assert sensitive(bench) is not None
    held, front = Search(bench, (), seconds=60).run()
    assert [one.patch for one in held] == [{"keep_float": ["hidden"]}]
    assert held[0].verified
    assert [one.patch for one in front] == [MEASURED.patch, {"keep_float": ["hidden"]}]


@pytest.mark.parametrize(("own", "offered"), [("static_wi8_ai8", ["static_wi8_ai16"]), ("static_wi8_ai16", [])])
def test_a_recipe_that_loses_too_much_is_replaced_by_another(healthy: PlainLab, own: str, offered: list[str]) -> None:
    lab = replace(imbalanced(healthy), recipe=own, calibration=None)
    lab.given = lab.ranges(healthy.calibration)
    held, _ = Search(Bench(lab, CASE), (), seconds=60).run()
    assert [one.patch["recipe"] for one in held] == offered


def test_a_tensor_that_a_later_one_makes_needless_is_quantized_again(healthy: PlainLab) -> None:
    found = smallest(Bench(healthy, CASE), ["x", "hidden"], lambda names: "hidden" in names, lambda: False)
    assert found == [("hidden",), ("x", "hidden")]


def test_a_tensor_whose_operators_are_in_float_already_is_not_tried(healthy: PlainLab) -> None:
    tried = []

    def holds(names: tuple[str, ...]) -> bool:
        tried.append(names)
        return False

    assert smallest(Bench(healthy, CASE), ["hidden", "x", "output"], holds, lambda: False) == []
    assert tried == [("hidden",)]


def test_when_time_is_up_the_tensors_that_are_enough_so_far_are_offered(healthy: PlainLab) -> None:
    calls = iter([False, False, True, True])
    bench = Bench(healthy, CASE)
    assert smallest(bench, ["x", "output"], lambda names: "output" in names, lambda: next(calls)) == [("x", "output")]


@pytest.mark.parametrize(("judged", "right"), [("reference", "optimized"), ("default", "reference")])
def test_kernels_that_compute_something_else_are_named(healthy: PlainLab, judged: str, right: str) -> None:
    lab = replace(healthy, kernels=judged, wrong_kernels=judged)
    found = diagnose(lab, CASE)
    assert named(found) == ["kernel-divergence"]
    assert found.findings[0].experiment is not None
    assert found.findings[0].experiment.name == f"the same file on the {right} kernels"


def test_two_options_become_one_patch_of_the_variant() -> None:
    one = Option("a", {"keep_float": ["x"], "calibration_options": {"samples": 9}}, keep=("x",))
    other = Option("b", {"keep_float": ["y", "x"], "calibration_options": {"ranges": "measured"}}, keep=("y",))
    both = together(one, other)
    assert both.title == "a and b"
    assert both.patch == {"keep_float": ["x", "y"], "calibration_options": {"samples": 9, "ranges": "measured"}}
    assert both.keep == ("x", "y")


def test_a_file_made_from_other_weights_is_named(healthy: PlainLab) -> None:
    first, second = network(seed=7)
    shipped = replace(healthy, shipped=True, calibration=None, own={"W1": first, "W2": second})
    assert named(diagnose(shipped, CASE)) == ["stale-artifact"]


def test_a_file_is_made_anew_like_it_is_where_its_calibration_data_is_known(healthy: PlainLab) -> None:
    first, second = network(seed=7)
    shipped = replace(healthy, shipped=True, own={"W1": first, "W2": second})
    case = replace(CASE, tolerances={"accuracy": Tolerance(max_drop=0.05)})
    (remedy,) = diagnose(shipped, case).remedies
    assert remedy.verified
    assert remedy.title == "make it again from the reference: all in 8 bits"
    assert remedy.patch == {"tflite": None, "quantization": "int8", "io": "int8"}
    assert diagnose(replace(shipped, calibration=None), case).remedies == ()


def test_a_file_made_for_other_inputs_is_named(healthy: PlainLab) -> None:
    shipped = replace(healthy, shipped=True, calibration=None, own={"W1": healthy.first / 255, "W2": healthy.second})
    shipped.given = {**healthy.given, "x": tuple(255 * end for end in healthy.given["x"])}
    found = diagnose(shipped, CASE)
    assert named(found) == ["input-range-mismatch"]
    assert "255" in found.findings[0].message


def test_what_has_not_failed_is_looked_at_and_nothing_is_named(healthy: PlainLab) -> None:
    found = diagnose(calibrated(healthy, examples(200, seed=3) * 60), replace(CASE, failed=False))
    assert found.findings == ()
    rungs = ["reference", "float32", "float16", "weights", "int8", "file"]
    assert [rung.name for rung in found.diagnosis.ladder] == rungs


def test_16_bits_hold_what_lies_a_step_beyond_the_8_bit_range(
    healthy: PlainLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A softmax in 8 bits ends at 255/256; in 16 bits its 1.0 is not lost."""
    given: dict[str, tuple[float, float]] = {}
    monkeypatch.setattr(healthy, "int16x8", given.update)
    healthy.given = {**healthy.given, "output": (0.0, 255 / 256)}
    diagnose(healthy, replace(CASE, failed=False))
    assert given["output"] == pytest.approx((-1 / 256, 1.0))


def test_the_histogram_is_of_the_tensor_that_the_cause_is_about(healthy: PlainLab) -> None:
    first = healthy.first.copy()
    first[0] *= 120
    second = healthy.second.copy()
    second[:, 0] /= 120
    lab = replace(healthy, first=first, second=second)
    found = diagnose(replace(lab, given=lab.ranges(lab.evaluation)), CASE)
    (cause,) = found.findings
    assert cause.tensor == "hidden"
    (histogram,) = found.diagnosis.histograms
    assert (histogram.tensor, histogram.operator) == ("hidden", "FULLY_CONNECTED")
    assert histogram.quantized == lab.ranges(lab.evaluation)["hidden"]


def test_without_a_tensor_the_histograms_are_of_what_clips_most(healthy: PlainLab) -> None:
    low, high = healthy.given["output"]
    given = {**healthy.given, "output": (low / 4, high / 4)}
    found = diagnose(replace(healthy, given=given, calibration=None), replace(CASE, failed=False))
    worst, *others = found.diagnosis.histograms
    assert worst.tensor == "output"
    assert len(others) == 2
    assert worst.evaluation_outside > 0.2
    assert (worst.calibration, worst.calibration_outside, worst.calibration_examples) == ((), None, 0)


def test_few_examples_prove_nothing(healthy: PlainLab) -> None:
    few = replace(healthy, evaluation=healthy.evaluation.take(range(20)), labels=healthy.labels[:20])
    found = diagnose(few, CASE)
    assert found.findings == ()
    assert "too few" in str(found.diagnosis.note)


@pytest.mark.parametrize("seed", range(6))
def test_healthy_networks_have_no_cause(healthy: PlainLab, seed: int) -> None:
    """Whatever is lost is within the tolerance, so that there is nothing to explain."""
    lab = calibrated(healthy, examples(200, seed=10 + seed))
    rows = np.arange(lab.evaluation.count)
    ((_, measured),) = lab.measured(lab.outputs(lab.artifact, lab.evaluation), rows)
    assert measured.drop is not None
    found = diagnose(lab, replace(CASE, failed=measured.drop > 0.02))
    assert named(found) == []


@pytest.mark.parametrize("seed", [16, 17])
def test_no_place_is_at_fault_where_all_tensors_lose_alike(seed: int) -> None:
    """The last layer in float gives half of the loss back, since what is lost there is not evened out any more."""
    first, second = network(seed)
    x = Samples({"x": examples(1500, seed=100 + seed)})
    middle = np.random.default_rng(seed).normal(size=(24, 24))
    lab = DeepLab(first, second, x, np.zeros(1500), Samples({"x": examples(200, seed=2)}), {}, middle=middle)
    lab = replace(lab, labels=lab.outputs(None, x)["output"].argmax(1), given=lab.ranges(x))
    found = diagnose(lab, replace(CASE, tolerances={"accuracy": Tolerance(max_drop=0.0)}))
    assert any("deep" in one.name and one.recovered >= HALF for one in found.diagnosis.tried)
    assert set(named(found)) <= {"precision-limit"}


@pytest.mark.parametrize(("steps", "told"), [(255, False), (9, True)])
def test_weights_that_alone_are_out_of_tolerance_have_too_few_bits(healthy: PlainLab, steps: int, told: bool) -> None:
    """Where they alone hold it, what is lost is something else, although float16 would give that back too."""
    lab = replace(calibrated(healthy, examples(200, seed=3) * (1 if told else 60)), weight_steps=steps)
    bench = Bench(lab, CASE)
    found = precision.limit(bench)
    assert ("float16" in bench.tried[-1].name) is told
    assert (found is not None and "network's weights" in found.message) is told


def test_what_leaves_most_of_the_noise_explains_nothing(healthy: PlainLab) -> None:
    """Errors that happen to fall on the right side in the metric are errors still."""
    bench = Bench(calibrated(healthy, examples(200, seed=3) * 60), CASE)
    rows = bench.confirming
    exact, bad = bench.lab.reference(rows)["output"], bench.outputs(bench.artifact, rows)["output"]
    favourable = exact.copy()
    favourable[np.arange(len(rows)), exact.argmax(1)] += np.sqrt(np.square(bad - exact).sum(1))
    assert (favourable.argmax(1) == exact.argmax(1)).all()
    assert bench.surely({"output": favourable}) is None
    found = bench.surely({"output": exact + (bad - exact) / 10})
    assert found is not None
    assert found.recovered >= HALF


class BrittleLab(PlainLab):
    """Files with the hidden tensor in float cannot be made, those with the output in float cannot be run."""

    def quantize(self, change: Change) -> Change:
        if "hidden" in change.keep:
            raise ConversionError("no")
        return super().quantize(change)

    def outputs(self, handle: Any, samples: Samples, kernels: str | None = None) -> dict[str, np.ndarray]:
        if isinstance(handle, Change) and "output" in handle.keep:
            raise EvaluationError("run", "no")
        return super().outputs(handle, samples, kernels)

    def float16(self) -> Any:
        raise EvaluationError("run", "no float16 here")


def test_an_experiment_that_cannot_be_made_or_run_ends_no_diagnosis(healthy: PlainLab) -> None:
    lab = BrittleLab(**vars(calibrated(healthy, examples(200, seed=2))))
    found = diagnose(lab, replace(CASE, tolerances={"accuracy": Tolerance(max_drop=0.0)}))
    tried = [one.name for one in found.diagnosis.tried]
    assert any("x in float" in name for name in tried)
    assert not any("hidden in float" in name or "output in float" in name for name in tried)
    rungs = {rung.name: rung for rung in found.diagnosis.ladder}
    assert rungs["float16"].note == "no float16 here"
    assert rungs["int8"].value is not None


@pytest.mark.parametrize(
    ("given", "before", "after", "moved"),
    [
        ((0.0, 4.2), (0.0, 4.0), (0.0, 4.001), (0.0, 4.2)),  # rounding is no move
        ((0.0, 4.2), (0.0, 4.0), (0.0, 8.0), (0.0, 8.4)),  # faithful as before
        ((0.0, 1.0), (0.0, 4.0), (0.0, 8.0), (0.0, 2.0)),  # clipped as before
        ((-1e6, 6.0), (-1e6, 6.0), (-34.0, 6.0), (-34.0, 6.0)),  # a mask that is smaller now
        ((0.0, 2000.0), (0.0, 4.0), (0.0, 1960.0), (0.0, 2000.0)),  # a branch that had another one's range
        ((0.0, 2000.0), (0.0, 4.0), (0.0, 4000.0), (0.0, 4000.0)),
    ],
)
def test_a_range_moves_with_the_true_one(
    given: tuple[float, float], before: tuple[float, float], after: tuple[float, float], moved: tuple[float, float]
) -> None:
    assert _moved(given, before, after) == pytest.approx(moved)
