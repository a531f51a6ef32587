"""How memory grows: the peak of a whole check's processes, by the number of examples and by the size of outputs.

python bench/memory.py [--kind examples|segmentation] makes a small model and data by itself and runs `check` on them
with an empty cache: a classifier on 10,000 and on 100,000 examples, and a model with outputs of 512×512×21 on 20. It
prints the highest sum of the processes' resident memory, in which pages that several share count once for each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from speed import measure

SIZES = {"examples": (10_000, 100_000), "segmentation": (20, 60)}
METRICS = {
    "examples": ["accuracy", "agreement", "sqnr", "kl_divergence", "f1_macro"],
    "segmentation": ["mean_iou", "accuracy", "agreement", "sqnr"],
}
MODEL = """
import sys, keras
from keras import layers
kind, path = sys.argv[1:]
if kind == "examples":
    x = given = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    x = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x))
else:
    x = given = keras.Input((512, 512, 3))
    x = layers.Conv2D(16, 3, strides=4, padding="same", activation="relu")(x)
    x = layers.Conv2D(21, 1)(layers.UpSampling2D(4, interpolation="bilinear")(x))
    x = layers.Softmax()(x)
keras.Model(given, x).save(path)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=SIZES, help="one of them; default both")
    parser.add_argument("--variants", nargs="+", default=["float32", "int8"], metavar="NAME", help="float32 int8")
    arguments = parser.parse_args()
    print("| what | examples | all processes | largest process | wall time |")
    print("|---|---|---|---|---|")
    for kind in SIZES if arguments.kind is None else (arguments.kind,):
        for examples in SIZES[kind]:
            with tempfile.TemporaryDirectory(prefix="memory-") as work:
                prepare(kind, examples, Path(work), arguments.variants)
                command = [sys.executable, "-m", "tflite_guard", "check", "--no-cache", "--fail-on", "never"]
                run = measure([*command, "--diagnose", "never"], Path(work))
            sizes = f"{run.together_mb:,.0f} MB | {run.largest_mb:,.0f} MB"
            print(f"| {kind} | {examples:,} | {sizes} | {run.seconds:.0f} s |", flush=True)


def prepare(kind: str, examples: int, work: Path, variants: list[str]) -> None:
    """Write a model, data and a manifest."""
    subprocess.run([sys.executable, "-c", MODEL, kind, str(work / "model.keras")], check=True, capture_output=True)
    shape, classes = ((16, 16, 3), 10) if kind == "examples" else ((512, 512, 3), 21)
    rng = np.random.default_rng(0)
    for name, count in (("evaluation", examples), ("calibration", 20)):
        labels = rng.integers(0, classes, (count, *(() if kind == "examples" else shape[:2]))).astype(np.uint8)
        np.savez(work / f"{name}.npz", x=rng.integers(0, 256, (count, *shape)).astype(np.uint8), y=labels)
    source = {"source": "npz", "inputs": "x", "preprocess": [{"cast": "float32"}, {"scale": 1 / 255}]}
    manifest = {
        "schema_version": 1,
        "datasets": {
            "test": {**source, "path": "evaluation.npz", "labels": "y"},
            "calibration": {**source, "path": "calibration.npz"},
        },
        "models": [
            {
                "name": kind,
                "reference": {"keras": "model.keras"},
                "evaluation": "test",
                "calibration": "calibration",
                "metrics": METRICS[kind],
                "variants": variants,
            }
        ],
    }
    (work / "tflite-guard.json").write_text(json.dumps(manifest))


if __name__ == "__main__":
    main()
