"""A file of the user's own: made from other weights, or for inputs of another scale."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from tflite_guard.diagnosis import evidence
from tflite_guard.diagnosis.causes import Cause
from tflite_guard.diagnosis.experiments import HALF, ONE_BIT, Bench, exchanged
from tflite_guard.diagnosis.lab import Array, Arrays, Change, Samples
from tflite_guard.text import figures

TRUE_PAIR = 1.0
"""Steps by which weights of one training differ at most: rounding makes 0.5, one per cent of noise 1.1."""

MOST_SWAPS = 45
"""Pairs of inputs, or of outputs, that are exchanged: all of ten."""
FITS = 10.0
"""Decibels that outputs have to the reference's at least on inputs that a file is right for; wrong ones had 2 at most.
"""
OTHER_SCALE = 1.25
"""A ratio of the file's input range to the data's from which the data may be of another scale."""
TRANSFORMS: dict[str, Callable[[Array], Array]] = {
    "multiplied by 255": lambda x: x * 255,
    "divided by 255": lambda x: x / 255,
    "multiplied by 128": lambda x: x * 128,
    "divided by 128": lambda x: x / 128,
    "moved from 0..255 to -1..1": lambda x: x / 127.5 - 1,
    "moved from 0..1 to -1..1": lambda x: x * 2 - 1,
    "moved from -1..1 to 0..1": lambda x: (x + 1) / 2,
    "moved from -1..1 to 0..255": lambda x: (x + 1) * 127.5,
    "moved from 0..255 to -128..127": lambda x: x - 128,
    "moved from -128..127 to 0..255": lambda x: x + 128,
    "with its last axis reversed (RGB and BGR swapped)": lambda x: x[..., ::-1],
}


def order(bench: Bench) -> Cause | None:
    """The file's inputs or outputs stand in for one another."""
    if not bench.lab.shipped:
        return None
    inputs = {name: values[:1] for name, values in bench.lab.evaluation.inputs.items()}
    best: tuple[float, str, dict[str, str]] | None = None
    for side, arrays in (("inputs", inputs), ("outputs", bench.reference)):
        for swapped in _swaps(arrays):
            outputs = exchanged(bench.bad, swapped) if side == "outputs" else _fed(bench, swapped)
            quieter = bench.quieter(outputs)
            if best is None or quieter > best[0]:
                best = (quieter, side, swapped)
    if best is None or best[0] < ONE_BIT:
        return None
    _, side, swapped = best
    names = " and ".join(sorted(swapped))
    samples = Samples(exchanged(bench.lab.evaluation.inputs, swapped)) if side == "inputs" else None
    taken = swapped if side == "outputs" else None
    trial = bench.tested(f"the {side} {names} exchanged", bench.lab.artifact, samples, taken)
    told = bench.confirmed(trial)
    if told is None:
        return None
    return Cause(
        "io-order-swapped",
        f"The file's {side} {names} have changed places. Convert it with a signature whose names are the source's, or "
        "address them in the manifest and in the application as the file has them.",
        told,
        evidence={"side": side, "exchanged": sorted(swapped)},
    )


def _swaps(arrays: Arrays) -> Iterator[dict[str, str]]:
    """Every two of one shape and kind, each with the other in its place."""
    for one, other in itertools.islice(itertools.combinations(arrays, 2), MOST_SWAPS):
        first, second = arrays[one], arrays[other]
        if first.shape == second.shape and first.dtype.kind == second.dtype.kind:
            yield {one: other, other: one}


def _fed(bench: Bench, swapped: Mapping[str, str]) -> Arrays:
    samples = Samples(exchanged(bench.lab.evaluation.inputs, swapped))
    return bench.lab.outputs(bench.lab.artifact, samples.take(bench.choosing))


def input_range(bench: Bench) -> Cause | None:
    """The file is right for inputs of another scale or order of channels."""
    if not bench.lab.shipped:
        return None
    best: tuple[float, str, Samples] | None = None
    for name, samples in _transformed(bench):
        outputs = bench.lab.outputs(bench.lab.artifact, samples.take(bench.choosing))
        closeness = evidence.sqnr(outputs, bench.reference)
        if closeness is not None and (best is None or closeness > best[0]):
            best = (closeness, name, samples)
    if best is None or best[0] < FITS:
        return None
    trial = bench.tested(f"the same file on inputs {best[1]}", bench.lab.artifact, best[2])
    told = bench.confirmed(trial) if trial.quieter >= ONE_BIT else None
    if told is None:
        return None
    return Cause(
        "input-range-mismatch",
        f"The file expects inputs {best[1]}: the data is preprocessed for the reference, but the file was made for "
        f"another preprocessing. Preprocess both alike, or convert the file again from this reference with "
        f"calibration data that is preprocessed as the evaluation is.",
        told,
        tensor=next(iter(bench.lab.graph.inputs), None),
        evidence={"transform": best[1], "sqnr": round(best[0], 2)},
    )


def _transformed(bench: Bench) -> Iterator[tuple[str, Samples]]:
    samples = bench.lab.evaluation
    yield from _to_its_range(bench)
    for name, transform in TRANSFORMS.items():
        if name.startswith("with its last axis") and not all(
            v.ndim == 4 and v.shape[-1] == 3 for v in samples.inputs.values()
        ):
            continue
        changed = {
            key: transform(values).astype(np.float32) if values.dtype.kind == "f" else values
            for key, values in samples.inputs.items()
        }
        yield name, Samples(changed)


def _to_its_range(bench: Bench) -> Iterator[tuple[str, Samples]]:
    """Inputs scaled to the range that the file's own input takes, where that is another."""
    given, real = bench.lab.artifact_ranges, bench.real
    known = [name for name in bench.lab.graph.inputs if name in given and name in real]
    if len(known) != len(bench.lab.evaluation.inputs) or len(known) != 1:
        return
    (key, values), name = next(iter(bench.lab.evaluation.inputs.items())), known[0]
    (low, high), (start, end) = real[name], given[name]
    factor = (end - start) / (high - low) if high > low else 1.0
    if values.dtype.kind != "f" or 1 / OTHER_SCALE < factor < OTHER_SCALE:
        return
    yield f"multiplied by {factor:.3g}", Samples({key: (values * factor).astype(np.float32)})
    moved = ((values - low) * factor + start).astype(np.float32)
    yield f"scaled to {figures.span((start, end))}", Samples({key: moved})


def stale(bench: Bench) -> Cause | None:
    """The file was made from other weights than the reference has."""
    if not bench.lab.shipped:
        return None
    apart = bench.lab.weights_differ()
    if apart is None or apart <= TRUE_PAIR or not bench.lab.quantizable:
        return None
    ranges = bench.lab.artifact_ranges
    fresh = [bench.quantized("quantized again from the reference, with the file's own ranges", Change(ranges))]
    if fresh[0].recovered < HALF:
        real = bench.lab.ranges(bench.lab.evaluation.take(bench.choosing))
        fresh.append(bench.quantized("quantized again from the reference", Change(real)))
    trial = max(fresh, key=lambda one: one.recovered)
    told = bench.confirmed(trial)
    if told is None:
        return None
    return Cause(
        "stale-artifact",
        f"The file was made from other weights than the reference has: they differ by up to {apart:,.0f} quantization "
        "steps, where rounding makes half a step. Convert it again from this reference, or name the model that it was "
        "made from.",
        told,
        evidence={"steps": round(apart, 2)},
    )
