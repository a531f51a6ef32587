"""Activation ranges that do not fit the real inputs, and why: how they were taken, or what they were taken on."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from tflite_guard.diagnosis import evidence
from tflite_guard.diagnosis.causes import Cause
from tflite_guard.diagnosis.experiments import HALF, ONE_BIT, Bench
from tflite_guard.diagnosis.lab import Change, Option, Ranges, Samples
from tflite_guard.results import Experiment
from tflite_guard.text import figures

MEASURED = Option("measure each tensor's own range", {"calibration_options": {"ranges": "measured"}})
EXTREME = 5.0
"""So many times further from the median than the typical example is: healthy data has 1.5 to 1.9, faults 12 and more.
"""
FEW = 10
SCALED = 1.3
"""A ratio of spreads from which calibration and evaluation inputs are of another scale."""


def ranges(bench: Bench) -> Cause | None:
    """Recalibrated with real inputs, the loss comes back."""
    lab = bench.lab
    if not lab.quantizable or not bench.artifact_ranges:
        return None
    count = bench.calibrating.count
    trial = bench.quantized(f"recalibrated with {count:,} evaluation inputs", Change(bench.real))
    if trial.quieter < ONE_BIT and trial.recovered < HALF:
        return None
    proof = bench.confirmed(trial)
    if proof is None:
        return None
    looks = (_calibrator, _degenerate, _outliers, _rescaled)
    found = next((cause for look in looks if (cause := look(bench, proof)) is not None), None)
    return replace(found or _unrepresentative(bench, proof), change=trial.change)


def _calibrator(bench: Bench, _proof: Experiment) -> Cause | None:
    """The same calibration data, its ranges measured: the way in which they were taken is at fault."""
    lab = bench.lab
    if lab.calibration is None:
        return None
    own = bench.ranges(lab.calibration)
    trial = bench.quantized("the true ranges on the same calibration data", Change(own))
    if trial.recovered < HALF and trial.quieter < ONE_BIT:
        return None
    told = bench.confirmed(trial)
    if told is None:
        return None
    name, ratio = _widest(bench.artifact_ranges, own)
    wider = ratio > 1
    rule = "calibrator-contamination" if wider else "recipe-calibration"
    given, true = (figures.span(one.get(name, (0.0, 0.0))) for one in (bench.artifact_ranges, own))
    why = (
        "the converter's calibrator took an in-place operator's output for its input's range"
        if wider
        else "the quantizer's smoothed calibration clips what it has seen"
    )
    return Cause(
        rule,
        f"The calibration data is right, but the ranges taken from it are not: {lab.place(name)} holds {true} on it "
        f"and was given {given} ({why}). Measure the ranges instead.",
        told,
        tensor=name,
        operator=_operator(bench, name),
        evidence={"given": list(bench.artifact_ranges.get(name, ())), "true": list(own.get(name, ()))},
        options=(MEASURED,),
    )


def _widest(given: Ranges, true: Ranges) -> tuple[str, float]:
    """The activation whose given range differs most from its true one, and the ratio of the two."""
    widths = {name: (evidence.width(given[name]), evidence.width(pair)) for name, pair in true.items() if name in given}
    ratios = {name: own / wanted for name, (own, wanted) in widths.items() if wanted}
    name = max(ratios, key=lambda one: abs(np.log(max(ratios[one], 1e-12))))
    return name, ratios[name]


def _operator(bench: Bench, tensor: str) -> str | None:
    producer = bench.lab.graph.producer(tensor)
    return None if producer is None else producer.type


def _degenerate(bench: Bench, proof: Experiment) -> Cause | None:
    data = bench.lab.calibration
    if data is None:
        return None
    different, constant = evidence.distinct(data), evidence.constants(data)
    told = []
    if different < min(FEW, data.count) or different <= data.count // 4:
        told.append(f"only {different:,} of its {data.count:,} examples differ")
    elif data.count < FEW:
        told.append(f"it has only {data.count:,} examples")
    if constant > data.count // 2:
        told.append(f"{constant:,} of its {data.count:,} examples hold one value throughout")
    if not told:
        return None
    name = bench.lab.calibration_name
    return Cause(
        "calibration-degenerate",
        f"The calibration data {name} says too little: {' and '.join(told)}. {_clipped(bench)} Calibrate on a few "
        f"hundred different examples of what the model meets in use; look for a broken path or a generator that "
        f"yields one example again and again.",
        proof,
        evidence={"examples": data.count, "distinct": different, "constant": constant},
    )


def _outliers(bench: Bench, _proof: Experiment) -> Cause | None:
    data = bench.lab.calibration
    if data is None:
        return None
    far = np.max([evidence.extremes(values) for values in data.inputs.values()], axis=0)
    rest = np.flatnonzero(far < EXTREME)
    if len(rest) == data.count or len(rest) < data.count // 2:
        return None
    out = data.count - len(rest)
    trial = bench.quantized(
        f"recalibrated without the {out:,} most extreme examples", Change(bench.ranges(data.take(rest)))
    )
    told = bench.confirmed(trial) if trial.recovered >= HALF or trial.quieter >= ONE_BIT else None
    if told is None:
        return None
    return Cause(
        "calibration-outliers",
        f"{out:,} of {data.count:,} examples of the calibration data {bench.lab.calibration_name} lie up to "
        f"{far.max():,.0f} times as far out as the typical one and stretch every range, so that the rest gets few "
        "steps. Leave them out, or clip the ranges.",
        told,
        evidence={"examples": data.count, "extreme": out, "furthest": round(float(far.max()), 2)},
        options=tuple(
            Option(
                f"clip ranges to the central {percentile} %",
                {"calibration_options": {"ranges": "measured", "clip_percentile": percentile}},
            )
            for percentile in (99.9, 99.0, 95.0)
        ),
    )


def _rescaled(bench: Bench, proof: Experiment) -> Cause | None:
    """Calibration inputs scaled and moved to where the evaluation's are."""
    data = bench.lab.calibration
    if data is None:
        return _rescaled_file(bench, proof)
    if all(evidence.among(values, bench.lab.evaluation.inputs[name]) for name, values in data.inputs.items()):
        return None  # each could be a real example, so it is the choice of them that is at fault
    moved, ratios = {}, {}
    for name, values in data.inputs.items():
        real = bench.lab.evaluation.inputs[name]
        (centre, width), (goal, wanted) = evidence.spread(values), evidence.spread(real)
        ratios[name] = width / wanted if wanted > 0 else 1.0
        if values.dtype.kind == "f" and width > 0:
            moved[name] = ((values - centre) * (wanted / width) + goal).astype(np.float32)
        else:
            moved[name] = values
    furthest = max(ratios.values(), key=lambda one: abs(np.log(max(one, 1e-12))))
    shifted = any(
        abs(evidence.spread(v)[0] - evidence.spread(bench.lab.evaluation.inputs[n])[0])
        > 0.4 * evidence.spread(bench.lab.evaluation.inputs[n])[1]
        for n, v in data.inputs.items()
    )
    if 1 / SCALED < furthest < SCALED and not shifted:
        return None
    trial = bench.quantized(
        "recalibrated with the same calibration data, scaled as the evaluation's is",
        Change(bench.ranges(Samples(moved))),
    )
    told = bench.confirmed(trial) if trial.recovered >= HALF or trial.quieter >= ONE_BIT else None
    if told is None:
        return None
    return _range_mismatch(bench, proof, furthest)


def _range_mismatch(bench: Bench, proof: Experiment, ratio: float) -> Cause:
    lab = bench.lab
    name = lab.calibration_name
    evaluation, calibration = lab.preprocess
    data = lab.calibration
    both = [
        figures.span(
            (float(min(v.min() for v in one.inputs.values())), float(max(v.max() for v in one.inputs.values())))
        )
        for one in (data, lab.evaluation)
        if one is not None
    ]
    options: tuple[Option, ...] = ()
    if evaluation != calibration:
        options = (
            Option(
                f"preprocess {name} the way the evaluation data is preprocessed",
                {"preprocess": evaluation if evaluation else None},
                target=f"/datasets/{name.replace('~', '~0').replace('/', '~1')}",
            ),
        )
    apply = f"Apply the evaluation's preprocessing to {name}." if options else f"Scale {name} as real inputs are."
    return Cause(
        "calibration-range-mismatch",
        f"Calibration data is scaled unlike real inputs: {name} holds {both[0]}, the evaluation data {both[1]}. "
        f"{_clipped(bench)} {apply}",
        proof,
        evidence={"ratio": round(float(ratio), 4)},
        options=options,
    )


def _rescaled_file(bench: Bench, proof: Experiment) -> Cause | None:
    """A file's own calibration is not known; the range of its input says how its data was scaled."""
    given = bench.artifact_ranges
    known = [name for name in bench.lab.graph.inputs if name in given and name in bench.real]
    widths = [(evidence.width(given[name]), evidence.width(bench.real[name])) for name in known]
    ratios = [own / wanted for own, wanted in widths if wanted]
    if not ratios:
        return None
    furthest = max(ratios, key=lambda one: abs(np.log(max(one, 1e-12))))
    if 1 / SCALED < furthest < SCALED:
        return None
    name = known[0]
    return Cause(
        "calibration-range-mismatch",
        f"The file was calibrated on inputs of another scale: its input takes {figures.span(given[name])} and the "
        f"evaluation data holds {figures.span(bench.real[name])}. {_clipped(bench)} Calibrate on data that is "
        "preprocessed as real inputs are.",
        proof,
        tensor=name,
        evidence={"ratio": round(float(furthest), 4)},
    )


def _unrepresentative(bench: Bench, proof: Experiment) -> Cause:
    known = bench.lab.calibration_name
    name = f"The calibration data {known}" if known else "What the file was calibrated on"
    return Cause(
        "calibration-unrepresentative",
        f"{name} is unlike real inputs: {_clipped(bench)} Calibrate on a balanced sample "
        "of what the model meets in use: every class and every condition, preprocessed as the evaluation data is.",
        proof,
    )


def _clipped(bench: Bench) -> str:
    """Where the artifact's ranges fit the evaluation data worst, in one sentence."""
    views = [view for view in bench.views if view.name in bench.artifact_ranges]
    if not views:
        return ""
    worst = max(views, key=lambda view: view.clipped)
    where = bench.lab.place(worst.name)
    if worst.clipped >= 0.01:
        return f"{figures.percent(worst.clipped)} of the values of {where} ({worst.operator}) are clipped."
    coarse = min(views, key=lambda view: view.codes)
    where = bench.lab.place(coarse.name)
    return f"The values of {where} ({coarse.operator}) fall on {coarse.codes} of 256 steps."
