"""`stop_when`: an evaluation that ends when its verdict is certain, as a user of the command line meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Finished, Manifest, Run, manifest_of, write_manifest

SIZE = 7176
DECIDED = {"accuracy": {"max_drop": 0.03}, "agreement": {"min": 0.95}}


@pytest.fixture
def grown(light_digits: Path) -> Path:
    """The light example on its evaluation data eight times over, so that a part is enough."""
    path = light_digits / "data/evaluation.npz"
    with np.load(path) as data:
        np.savez(path, **{key: np.concatenate([data[key]] * 8) for key in data.files}, half=np.arange(SIZE) % 2)
    return light_digits


def manifest(folder: Path, *variants: Manifest, **model: object) -> Path:
    """The light manifest with the shipped .tflite under several names."""
    written = manifest_of(folder)
    (shipped,) = written["models"][0]["variants"]
    written["datasets"]["test"]["slices"] = ["half"]
    written["models"][0] |= {"variants": [shipped | one for one in variants], "tolerances": DECIDED, **model}
    return write_manifest(folder, written)


def told(finished: Finished, variant: str) -> Manifest:
    """The finding that says how many examples a variant took."""
    (found,) = [f for f in finished.variant(variant)["findings"] if f["rule"] == "sequential-evaluation"]
    return found


def test_it_stops_when_the_verdict_is_certain_and_says_after_how_many_examples(run: Run, grown: Path) -> None:
    path = manifest(grown, {"name": "whole"}, {"name": "stops", "stop_when": "conclusive"})
    plain = ["check", path, "--format", "json", "--diagnose", "never"]
    finished = run(*plain)
    used = told(finished, "stops")["evidence"]["examples"]
    assert 128 <= used < SIZE / 4
    assert told(finished, "stops")["severity"] == "note"
    assert told(finished, "stops")["evidence"] == {"examples": used, "of": SIZE, "confidence": 0.95}
    assert f"decided after {used:,} of 7,176 examples: at 95 % confidence" in told(finished, "stops")["message"]
    assert not [f for f in finished.variant("whole")["findings"] if f["rule"] == "sequential-evaluation"]
    for name in ("accuracy", "agreement"):
        part, whole = finished.metric("stops", name), finished.metric("whole", name)
        assert part["examples"] == used
        assert (part["verdict"], part["conclusive"]) == (whole["verdict"], True) == ("pass", True)
        assert part["interval_method"] == "betting"
        of_all = whole["value"] if whole["drop"] is None else whole["drop"]
        assert part["confidence_interval"][0] < of_all < part["confidence_interval"][1]
    # What allows for no early end has no interval then, and says so.
    assert finished.metric("stops", "sqnr")["confidence_interval"] is None
    assert "stopped early" in finished.metric("stops", "sqnr")["interval_note"]
    for cut in (finished.variant("stops")["by_class"], *finished.variant("stops")["by_slice"]):
        assert sum(one["examples"] for one in cut["worst"]) == used
        assert (cut["lost"], {one["interval"] and tuple(one["interval"]) for one in cut["worst"]}) == (0, {None})
    # The changed answers are those of the examples seen, and have their place in the source.
    changed = finished.variant("stops")["changed"]
    assert changed["examples"] == used
    everything = {one["example"] % 897 for one in finished.variant("whole")["changed"]["worst"]}
    assert {one["example"] % 897 for one in changed["worst"]} <= everything

    # Its tolerance decides how far it goes, so changing it evaluates it again, and no other variant.
    tighter = json.loads(path.read_text())
    tighter["models"][0]["tolerances"]["agreement"]["min"] = 0.96
    write_manifest(grown, tighter)
    again = run(*plain)
    assert [v["cached"] for v in again.report["models"][0]["variants"]] == [True, False]
    assert told(again, "stops")["evidence"]["examples"] >= used


def test_where_all_examples_are_needed_the_numbers_are_those_of_a_plain_evaluation(run: Run, grown: Path) -> None:
    # The drop is what is allowed: no part can tell.
    limit = {"tolerances": {"accuracy": {"max_drop": 8 / SIZE}}}
    stops = {"name": "near", "stop_when": {"confidence": 0.99}}
    path = manifest(grown, {"name": "whole"} | limit, stops | limit)
    finished = run("check", path, "--format", "json", "--diagnose", "never")
    assert told(finished, "near")["evidence"] == {"examples": SIZE, "of": SIZE, "confidence": 0.99}
    assert "all 7,176 examples were needed" in told(finished, "near")["message"]
    for name in ("accuracy", "agreement", "sqnr"):
        near, whole = (finished.metric(variant, name) | {"tolerance": None} for variant in ("near", "whole"))
        assert near == whole
    assert finished.metric("near", "accuracy")["drop"] == pytest.approx(8 / SIZE)
    for key in ("changed", "by_class", "by_slice", "artifact"):
        assert finished.variant("near")[key] == finished.variant("whole")[key]


def test_the_reference_and_the_baseline_are_of_all_examples(run: Run, grown: Path) -> None:
    reference = {"tflite": "app/digits_float.tflite"}
    path = manifest(grown, {"name": "whole"})
    plain = run("check", path, "--format", "json", "--diagnose", "never")
    exact = plain.model("digits")["reference"]["metrics"]["accuracy"]
    reference["tolerances"] = {"accuracy": {"min": exact}}  # type: ignore[assignment]
    path = manifest(grown, {"name": "shipped", "stop_when": "conclusive"}, reference=reference)
    partial = run("check", path, "--format", "json", "--diagnose", "never")
    assert told(partial, "shipped")["evidence"]["examples"] < SIZE
    assert partial.model("digits")["reference"]["metrics"] == {"accuracy": exact}
    (check,) = partial.model("digits")["reference"]["checks"]
    assert (check["value"], check["examples"], check["verdict"]) == (exact, SIZE, "pass")

    assert run("baseline", "update", path).code == 0
    recorded = json.loads((grown / "tflite-guard.baseline.json").read_text())
    values = recorded["models"]["digits"]["variants"]["shipped"]["metrics"]
    assert values == {name: plain.metric("whole", name)["value"] for name in ("accuracy", "agreement", "sqnr")}

    # Against the baseline it is certain too, and what is recorded is part of what decides when to stop.
    tolerances = {"accuracy": {"max_regression": 0.02}, "agreement": {"min": 0.95}}
    path = manifest(grown, {"name": "shipped", "stop_when": "conclusive"}, tolerances=tolerances)
    since = run("check", path, "--format", "json", "--diagnose", "never")
    assert told(since, "shipped")["evidence"]["examples"] < SIZE
    assert since.metric("shipped", "accuracy")["baseline"] == values["accuracy"]
    assert since.metric("shipped", "accuracy")["verdict"] == "pass"


def test_an_example_that_is_wrong_is_named_by_its_place_in_the_data(run: Run, grown: Path) -> None:
    path = grown / "data/evaluation.npz"
    with np.load(path) as data:
        arrays = {key: data[key] for key in data.files}
    arrays["label"][4321] = 77
    np.savez(path, **arrays)
    # So near that all examples have to be looked at.
    near = {"tolerances": {"accuracy": {"max_drop": 1e-9}}, "stop_when": "conclusive"}
    finished = run("check", manifest(grown, {"name": "near"} | near), "--format", "json", "--diagnose", "never")
    assert finished.code == 3
    assert "the label of example 4321 (from 0) is 77" in finished.variant("near")["error"]["message"]
