"""Before any quantization: the float conversion, and what narrower floats cannot hold."""

from __future__ import annotations

from tflite_guard.diagnosis import evidence
from tflite_guard.diagnosis.causes import Cause
from tflite_guard.diagnosis.experiments import HALF, Bench
from tflite_guard.results import Experiment
from tflite_guard.text import figures

SAME = 40.0
"""Decibels that a float conversion has at least where it computes the same function."""


def float_conversion(bench: Bench) -> Cause | None:
    """The float conversion is already as bad, so quantization is innocent."""
    rows = bench.confirming
    plain = bench.outputs(bench.lab.float32, rows)
    closeness = evidence.sqnr(plain, bench.lab.reference(rows))
    if closeness is None or closeness >= SAME:
        return None
    weights = evidence.weights_drawn(len(rows))
    # What is lost at the float rung is what the source itself, in its place, would give back.
    kept = bench.recovered(plain, bench.outputs(bench.lab.artifact, rows), rows, weights)
    if kept is None or 1.0 - kept.recovered < HALF:
        return None
    low, high = kept.confidence_interval or (kept.recovered, kept.recovered)
    told = Experiment("the model itself in place of its float conversion", 1 - kept.recovered, (1 - high, 1 - low))
    return Cause(
        "float-conversion-mismatch",
        f"The loss is there before any quantization: the float32 conversion differs from the model it was made from "
        f"(SQNR {closeness:.1f} dB, where a faithful one has over {SAME:.0f}). Look for batch normalization or dropout "
        "left in training mode, for resizing that aligns otherwise, and for operators that the converter replaced.",
        told,
        evidence={"sqnr": round(closeness, 2)},
    )


def kernels(bench: Bench) -> Cause | None:
    """The same file is right on the plain kernels."""
    few = bench.choosing[:64]
    samples = bench.lab.evaluation.take(few)
    exact = bench.lab.reference(few)
    default = bench.lab.outputs(bench.lab.artifact, samples)
    plain = bench.lab.outputs(bench.lab.artifact, samples, "reference")
    if evidence.noise(plain, exact) > 0.25 * evidence.noise(default, exact):
        return None
    rows = bench.confirming
    found = bench.recovered(
        bench.lab.outputs(bench.lab.artifact, bench.lab.evaluation.take(rows), "reference"),
        bench.outputs(bench.lab.artifact, rows),
        rows,
        evidence.weights_drawn(len(rows)),
    )
    if found is None or found.recovered < HALF or not found.confidence_interval or found.confidence_interval[0] <= 0:
        return None
    return Cause(
        "kernel-divergence",
        "The file is right and its optimized kernels are not: on the reference kernels the loss is gone "
        f"({figures.percent(found.recovered)} of it). Where the device runs the reference kernels, set "
        '"kernels": "reference"; else convert with another TensorFlow, or keep the operator in float.',
        Experiment("the same file on the reference kernels", found.recovered, found.confidence_interval),
    )
