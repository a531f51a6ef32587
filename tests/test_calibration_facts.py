"""Faults of the calibration data and of a shipped file that do no harm yet, told all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import Run, manifest_of, write_manifest
from tflite_guard.engine.surgery import pack, unpack

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
    }
    for name, images in made.items():
        np.savez(digits / f"data/{name}.npz", image=images)
    manifest = manifest_of(digits)
    manifest["datasets"] |= {name: dataset(name) for name in made}
    manifest["datasets"]["dim"] = dataset("calibration", [{"cast": "float32"}, {"scale": 0.03125}])
    manifest["datasets"]["otherwise"] = dataset("calibration", [{"cast": "float32"}, {"scale": 0.125}, {"scale": 0.5}])
    (digits / "app/stale.tflite").write_bytes(of_other_weights(digits / "app/digits_int8.tflite"))
    names = ["calib", "repeated", "blank", "leaked", "dim", "otherwise", "test"]
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
        "dim": [("calibration-range-mismatch", "warning")],
        "otherwise": [("calibration-range-mismatch", "note")],
        "test": [],
        "shipped": [],
        "stale": [("stale-artifact", "note")],
    }
    (shared,) = [one for one in finished.variant("leaked")["findings"] if one["rule"] == "calibration-shared"]
    assert shared["evidence"] == {"shared": 100, "examples": 200}
    (scaled,) = [one for one in finished.variant("dim")["findings"] if one["severity"] == "warning"]
    assert (scaled["evidence"]["calibration"], scaled["evidence"]["evaluation"]) == ([0, 0.5], [0, 1])
