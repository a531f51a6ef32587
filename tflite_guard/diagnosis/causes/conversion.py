"""Before any quantization: the float conversion, and what narrower floats cannot hold."""

from __future__ import annotations

from tflite_guard.diagnosis import evidence
from tflite_guard.diagnosis.causes import Cause
from tflite_guard.diagnosis.experiments import HALF, ONE_BIT, SCREENED, Bench
from tflite_guard.diagnosis.lab import Array, Arrays
from tflite_guard.results import Experiment
from tflite_guard.text import figures
from tflite_guard.vocabulary import Kernels

LARGEST_FLOAT16 = 65504.0
ALIKE = 0.99
"""A cosine below which weights are of another training."""


def float_conversion(bench: Bench) -> Cause | None:
    """The float conversion is already as bad, so quantization is innocent."""
    rows = bench.confirming
    plain = bench.outputs(bench.lab.float32, rows)
    closeness = evidence.sqnr(plain, bench.lab.reference(rows))
    if closeness is None or closeness >= evidence.SAME_FUNCTION:
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
        f"(SQNR {closeness:.1f} dB, where a faithful one has over {evidence.SAME_FUNCTION:.0f}). Look for batch "
        "normalization or dropout left in training mode, for resizing that aligns otherwise, and for operators that "
        "the converter replaced.",
        told,
        evidence={"sqnr": round(closeness, 2)},
    )


def shipped_float(bench: Bench) -> Cause | None:
    """A float file of the user's own computes something else than its source, with the same weights or with others."""
    lab = bench.lab
    if not lab.shipped or lab.form == "integer":
        return None
    trial = bench.tested("converted again from the reference, float32", lab.float32)
    told = bench.proven(trial)
    if told is None:
        return None
    alike = lab.weights_alike()
    if alike is not None and alike < ALIKE:
        return Cause(
            "stale-artifact",
            f"The file was made from other weights than the reference has (their cosine is {alike:.3f}). Convert it "
            f"again from this reference, or name the model that it was made from.",
            told,
            evidence={"cosine": round(alike, 4)},
        )
    return Cause(
        "float-conversion-mismatch",
        "The file holds no quantization and yet differs from the model: a conversion made now is right. Look for batch "
        "normalization or dropout left in training mode when it was exported, and for another version of the code.",
        told,
        evidence={} if alike is None else {"cosine": round(alike, 4)},
    )


def float16_range(bench: Bench) -> Cause | None:
    """float16 cannot hold the model's values."""
    lab = bench.lab
    if lab.form != "float16":
        return None
    largest = lab.largest_constant()
    reached = max((max(map(abs, pair)) for pair in bench.real.values()), default=0.0)
    if max(largest, reached) <= LARGEST_FLOAT16:
        return None
    trial = bench.tested("float32 weights in place of float16", lab.float32)
    told = bench.proven(trial)
    if told is None:
        return None
    what = "a constant" if largest > LARGEST_FLOAT16 else "an activation"
    return Cause(
        "float16-range",
        f"The model holds {what} of {max(largest, reached):,.0f}, and float16 ends at 65,504: what lies beyond is "
        "clamped or becomes infinite. Scale that layer down, or stay with float32.",
        told,
        evidence={"largest_constant": largest, "largest_activation": reached},
    )


def plain_kernels(bench: Bench) -> Cause | None:
    """A file that is judged with other kernels is right on the optimized ones, which take little time to try."""
    judged = "TensorFlow Lite Micro's kernels" if bench.lab.kernels == "micro" else "the reference kernels"
    return _right_on(
        bench,
        "default",
        f"The file is right and {judged} that it is judged with are not: on LiteRT's optimized ones {{gained}} of "
        'the loss comes back. Where the device runs those, set "kernels": "default"; else keep the operator in float, '
        "and report it to those who make the kernels.",
    )


def optimized_kernels(bench: Bench) -> Cause | None:
    """A file that is judged with other kernels is right on LiteRT's plain ones, which are slow."""
    judged = "TensorFlow Lite Micro's" if bench.lab.kernels == "micro" else "its optimized"
    return _right_on(
        bench,
        "reference",
        f"The file is right and {judged} kernels are not: on the reference kernels {{gained}} of the loss comes "
        'back. Where the device runs the reference kernels, set "kernels": "reference"; else convert with another '
        "TensorFlow, or keep the operator in float.",
    )


def _right_on(bench: Bench, kernels: Kernels, message: str) -> Cause | None:
    """The same file gives the loss back on the kernels that it is not judged with."""
    lab = bench.lab
    if lab.kernels == kernels:
        return None

    def outputs(rows: Array) -> Arrays:
        return lab.outputs(lab.artifact, lab.evaluation.take(rows), kernels)

    if bench.quieter(outputs(bench.choosing[:SCREENED])) < ONE_BIT:
        return None
    found = bench.surely(outputs(bench.confirming))
    if found is None:
        return None
    name = "optimized" if kernels == "default" else "reference"
    return Cause(
        "kernel-divergence",
        message.format(gained=figures.percent(found.recovered)),
        Experiment(f"the same file on the {name} kernels", found.recovered, found.confidence_interval),
    )
