"""Nothing is broken: 8 bits are too few."""

from __future__ import annotations

from collections.abc import Iterator

from tflite_guard.diagnosis.causes import Cause
from tflite_guard.diagnosis.experiments import Bench, Trial
from tflite_guard.diagnosis.lab import Option
from tflite_guard.errors import EvaluationError
from tflite_guard.text import figures

INT16 = Option("use 16-bit activations", {"quantization": "int16x8"})
FLOAT16 = Option("quantize the weights alone, to float16", {"quantization": "float16"})
WEIGHTS_BY_RECIPE = Option("use 8-bit weights", {"recipe": "dynamic_wi8_afp32"})


def limit(bench: Bench) -> Cause | None:
    """More bits for activations, or for weights, give the loss back where no smaller change does."""
    if bench.lab.shipped:
        return None
    return _of_activations(bench) if bench.lab.quantizable else _of_weights(bench)


def _of_weights(bench: Bench) -> Cause | None:
    if bench.lab.form != "integer":
        return None
    trial = bench.tested("8-bit weights, a scale for each channel", bench.lab.rounded())
    told = bench.proven(trial)
    if told is None:
        return None
    return Cause(
        "precision-limit",
        "Nothing is broken: the weights have too few bits for this network. With 8 bits and a scale for each channel "
        f"{figures.percent(told.recovered)} of the loss comes back.",
        told,
        options=(WEIGHTS_BY_RECIPE,) if bench.lab.recipe is not None else (),
    )


def _of_activations(bench: Bench) -> Cause | None:
    for trial, how in _with_more_bits(bench):
        told = bench.proven(trial)
        if told is not None:
            return Cause(
                "precision-limit",
                "No single tensor and no calibration explains the loss: 8 bits are too few for this network's "
                f"activations, and {how} {figures.percent(told.recovered)} of it comes back.",
                told,
                options=(INT16, FLOAT16),
            )
    return _of_eight_bit_weights(bench)


def _of_eight_bit_weights(bench: Bench) -> Cause | None:
    """Weights of 8 bits alone put the variant out of tolerance, so that nothing which leaves them so could mend it."""
    try:
        _, within = bench.judged(bench.lab.rounded(), bench.looked_at)
        float16 = bench.lab.float16()
    except EvaluationError:
        return None
    if within:
        return None
    trial = bench.tested("weights of float16, activations in float", float16)
    told = bench.proven(trial)
    if told is None:
        return None
    return Cause(
        "precision-limit",
        "8 bits are too few for this network's weights. Rounded to them, a scale for each channel, they are out of "
        f"tolerance by themselves, with everything else in float; with float16 {figures.percent(told.recovered)} of "
        "the loss comes back.",
        told,
        options=(FLOAT16,),
    )


def _with_more_bits(bench: Bench) -> Iterator[tuple[Trial, str]]:
    """Experiments with finer activations, and how they are told."""
    try:
        made = bench.lab.convert(INT16)
    except EvaluationError:
        pass
    else:
        yield bench.tested("16-bit activations (int16x8)", made.handle), "with 16 bits"
    yield bench.tested("8-bit weights, activations in float", bench.lab.rounded()), "with floats"


def spread(bench: Bench, trial: Trial) -> Cause | None:
    """Half of the loss comes back only with most of the network in float, so that no part of it is at fault."""
    told = bench.confirmed(trial)
    if told is None:
        return None
    return Cause(
        "precision-limit",
        "No single tensor and no calibration explains the loss, which is spread over the network: with most of its "
        f"operators in float {figures.percent(told.recovered)} comes back, with fewer not half.",
        told,
        options=(INT16, FLOAT16),
    )
