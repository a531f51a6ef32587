"""Faults of the calibration data and of a shipped file that do no harm yet, told all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import EXAMPLES, Run, manifest_of, write_manifest
from tflite_guard.engine.calibration_facts import Beside, Seen
from tflite_guard.engine.surgery import pack, unpack
from tflite_guard.judgement.calibrated import of_data
from tflite_guard.manifest.types import DatasetSpec

STEPS = [{"cast": "float32"}, {"scale": 0.0625}]


def dataset(name: str, steps: list[Any] = STEPS, **more: Any) -> dict[str, Any]:
    return {"source": "npz", "path": f"data/{name}.npz", "inputs": {"image": "image"}, "preprocess": steps, **more}


def of_other_weights(shipped: Path) -> bytes:
    """The file with the channels of its largest constant in another order."""
    content = unpack(shipped.read_bytes())
    held = [content.buffers[one.buffer] for one in content.subgraphs[0].tensors if one.type == 9]
    largest = max((one for one in held if one.data is not None), key=lambda one: len(one.data))
    largest.data = np.random.default_rng(3).permutation(np.asarray(largest.data))
    return pack(content)


def test_what_looks_wrong_is_told_where_every_tolerance_holds(run: Run, digits: Path) -> None:
    real = np.load(digits / "data/calibration.npz")["image"]
    evaluated = np.load(digits / "data/evaluation.npz")["image"]
    made = {
        "repeated": np.repeat(real[:4], 50, axis=0),
        "blank": np.concatenate(
            [real[:40], np.zeros((160, 8, 8, 1), np.uint8) + np.arange(160, dtype=np.uint8)[:, None, None, None] % 16]
        ),
        "leaked": np.concatenate([real[:100], evaluated[700:800]]),
        "stretched": np.concatenate([real[:198], 10 * real[198:]]),
    }
    for name, images in made.items():
        np.savez(digits / f"data/{name}.npz", image=images)
    manifest = manifest_of(digits)
    manifest["datasets"] |= {name: dataset(name) for name in made}
    manifest["datasets"]["dim"] = dataset("calibration", [{"cast": "float32"}, {"scale": 0.03125}])
    manifest["datasets"]["otherwise"] = dataset("calibration", [{"cast": "float32"}, {"scale": 0.125}, {"scale": 0.5}])
    (digits / "app/stale.tflite").write_bytes(of_other_weights(digits / "app/digits_int8.tflite"))
    names = ["calib", "repeated", "blank", "leaked", "stretched", "dim", "otherwise", "test"]
    manifest["models"][0] |= {
        "tolerances": {},
        "variants": [
            *({"name": name, "quantization": "int8", "calibration": name} for name in names),
            {"name": "shipped", "tflite": "app/digits_int8.tflite"},
            {"name": "stale", "tflite": "app/stale.tflite"},
        ],
    }
    finished = run("check", write_manifest(digits, manifest), "--format", "json")
    told = {
        variant["name"]: [
            (one["rule"], one["severity"]) for one in variant["findings"] if one["rule"].startswith(("cal", "stale"))
        ]
        for variant in finished.report["models"][0]["variants"]
    }
    assert told == {
        "calib": [],
        "repeated": [("calibration-degenerate", "warning")],
        "blank": [("calibration-degenerate", "warning")],
        "leaked": [("calibration-shared", "note")],
        "stretched": [("calibration-outliers", "warning")],
        "dim": [("calibration-range-mismatch", "warning")],
        "otherwise": [("calibration-range-mismatch", "note")],
        "test": [],
        "shipped": [],
        "stale": [("stale-artifact", "note")],
    }
    (shared,) = [one for one in finished.variant("leaked")["findings"] if one["rule"] == "calibration-shared"]
    assert shared["evidence"] == {"shared": 100, "examples": 200}
    (few,) = [one for one in finished.variant("stretched")["findings"] if one["rule"] == "calibration-outliers"]
    held = {key: few["evidence"][key] for key in ("input", "extreme", "examples", "ratio", "range", "without")}
    assert held == {"input": "image", "extreme": 2, "examples": 200, "ratio": 10, "range": [0, 10], "without": [0, 1]}
    (scaled,) = [one for one in finished.variant("dim")["findings"] if one["severity"] == "warning"]
    assert (scaled["evidence"]["calibration"], scaled["evidence"]["evaluation"]) == ([0, 0.5], [0, 1])


def test_how_far_data_reaches_without_its_furthest_examples() -> None:
    """Beside a plain loop that leaves them out one by one; what is not finite does not count."""
    data = np.random.default_rng(4).standard_t(2, (60, 5, 3)).astype(np.float32)
    data[7, 0, 0] = np.nan
    seen = Seen()
    seen.add({"x": data})
    (reach,) = seen.reaches()
    rest = [one for one in data if np.isfinite(one).all()]
    for low, high in reach.ranges:
        assert low == min(0.0, *(float(one.min()) for one in rest))
        assert high == max(0.0, *(float(one.max()) for one in rest))
        furthest = max(range(len(rest)), key=lambda i: float(np.abs(rest[i]).max()))
        del rest[furthest]
    assert len(reach.ranges) == 4


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.glob("*/data/*.npz")), ids=lambda path: f"{path.parts[-3]}-{path.stem}"
)
def test_no_half_of_real_data_disagrees_with_the_other(path: Path) -> None:
    images = np.load(path)["image"].astype(np.float32)
    assert halves_told(images) == []
    assert halves_told(images[::4]) == []


@pytest.mark.parametrize("name", ["laplace", "exponential", "lognormal", "student"])
def test_heavy_tails_are_no_outliers(name: str) -> None:
    """At most one of a hundred sets is told of: there halves do disagree."""
    random = np.random.default_rng(11)
    sizes = [(int(random.integers(50, 500)), int(random.choice([1, 16, 256]))) for _ in range(100)]
    draw = {"lognormal": lambda size: random.lognormal(0, 1, size), "student": lambda size: random.standard_t(3, size)}
    drawn = draw.get(name) or (lambda size: getattr(random, name)(size=size))
    assert sum(bool(halves_told(drawn(size).astype(np.float32))) for size in sizes) <= 1


def test_two_extremes_in_two_hundred_are_told() -> None:
    data = np.random.default_rng(12).normal(size=(200, 64)).astype(np.float32)
    data[[3, 90]] *= 30
    (message,) = halves_told(data)
    assert "without the 2 examples that reach furthest" in message


def halves_told(values: np.ndarray) -> list[str]:
    """What is said of calibration data that is evaluated too, so that only its own content counts."""
    seen = Seen()
    seen.add({"x": values})
    data = DatasetSpec("data", "npz", None, "x")
    beside = Beside(seen, len(values))
    beside.add({"x": values})
    return [one.message for one in of_data(beside.seen().facts(), data, data)]
