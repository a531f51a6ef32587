"""How long a diagnosis of a failing ResNet8 takes, beside the layer table of TensorFlow's QuantizationDebugger.

    python bench/faults/seconds.py --work FOLDER --published FOLDER [--runs N]

Both are of one int8 model with the channels of one layer rescaled, on the same calibration and evaluation examples,
and take turns in one run. Neither includes TensorFlow's import. The debugger's time is that of making it, which
converts the model twice, and of its run over the evaluation examples that a diagnosis looks at for its own table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import cases
import keras
import models
import numpy as np
import tensorflow as tf
from cases import Label
from faults import KINDS

import tflite_guard

LOOKED_AT = 32
"""Examples of a diagnosis's own table of tensors."""


def main() -> None:
    """Measure both in turns, and print each run and the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--published", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    folder = work / "seconds"
    subject = models.load("resnet8", work, arguments.published)
    kind = KINDS["channel-imbalance"]
    case = kind.fault(cases.healthy(subject), "4", np.random.default_rng(1))
    cases.write(case, Label("channel-imbalance", "resnet8", "4", 1, "development", kind.expected, case.places), folder)
    ours, theirs = [], []
    for _ in range(arguments.runs):
        report = tflite_guard.check(folder / cases.MANIFEST, baseline="off", no_cache=True)
        (variant,) = report.models[0].variants
        assert variant.diagnosis is not None
        cause = next((one for one in variant.findings if one.primary), None)
        verified = [one.title for one in variant.remedies]
        ours.append(variant.diagnosis.seconds)
        theirs.append(_debugged(folder))
        named = cause.rule if cause else None
        print(f"diagnosis {ours[-1]:.2f} s ({named}; {', '.join(verified)}), debugger {theirs[-1]:.2f} s", flush=True)
    both = statistics.median(ours), statistics.median(theirs)
    print(f"median: diagnosis {both[0]:.2f} s, debugger {both[1]:.2f} s, ratio {both[0] / both[1]:.2f}")


def _debugged(folder: Path) -> float:
    """Seconds for the debugger's layer table."""
    model = keras.models.load_model(folder / cases.MODEL, compile=False)
    with np.load(folder / cases.CALIBRATION) as data:
        calibration = data["input_1"].astype(np.float32)
    with np.load(folder / cases.EVALUATION) as data:
        evaluation = data["input_1"][:LOOKED_AT].astype(np.float32)
    started = time.perf_counter()
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([one[None]] for one in calibration)
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=lambda: ([one[None]] for one in evaluation)
    )
    debugger.run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
