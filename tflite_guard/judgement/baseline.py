"""What an earlier run measured, as a small JSON file to commit."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from tflite_guard.errors import GuardError, UsageError
from tflite_guard.files import write_atomically
from tflite_guard.judgement import mistakes
from tflite_guard.manifest.location import displayed, strays
from tflite_guard.results import MetricResult, ModelResult, Report, VariantResult, WrongExamples
from tflite_guard.text import figures

SCHEMA_VERSION = 1
LARGEST = 16 * 2**20

Baseline = dict[str, Any]
"""{schema_version, tool, environment: {name: version},
models: {name: {variants: {name: {size_bytes, metrics: {name: value}, wrong: WrongExamples}}}}}"""
ENVIRONMENT = {
    "tensorflow": "tensorflow",
    "keras": "keras",
    "tf_keras": "tf-keras",
    "ai_edge_litert": "ai-edge-litert",
    "litert_quantizer": "litert-quantizer",
    "tflite_micro": "tflite-micro",
    "numpy": "numpy",
    "pillow": "pillow",
    "platform": "",
    "processor": "",
}
"""What measured numbers depend on, of a report's environment, to what stands before its value in a sentence."""
LONGEST_VERSION = 100
RECORDED_WITH = "the baseline was recorded with"
"""How the sentence begins that tells what differs."""
IDENTICAL = "identical"
"""Stands for the infinite value of outputs that equal the reference's, which JSON has no number for."""


def path_for(manifest: str) -> str:
    """Where a manifest's baseline is: beside it, `tflite-guard.json` has `tflite-guard.baseline.json`."""
    path = Path(manifest)
    return str(path.with_name(f"{path.stem}.baseline.json"))


def beside(manifests: Iterable[str], data_roots: Sequence[str] = ()) -> dict[str, Baseline]:
    """The baselines that exist, by their manifest's path. Raises UsageError for one that cannot be read."""
    return {path: read(path_for(path), data_roots) for path in manifests if os.path.lexists(path_for(path))}


def read(path: str, data_roots: Sequence[str] = ()) -> Baseline:
    """The baseline in a file.

    Raises UsageError, naming the file, when it is missing, not one, or only a link that leads out of its repository
    and the data roots.
    """
    _check_place(path, data_roots)
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise _broken(path, "is a device or a pipe: move it elsewhere")  # which might never end
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise _broken(path, f"is too large for a baseline (at most {LARGEST >> 20} MiB)")
        found = json.loads(content.decode(), parse_constant=_refuse, object_pairs_hook=_without_repeats)
    except IsADirectoryError as error:
        raise _broken(path, "is a folder: move it elsewhere") from error
    except OSError as error:
        raise _broken(path, f"cannot be read: {error.strerror}") from error
    # A file nested beyond reason ends in RecursionError; bad encodings and bad JSON are ValueErrors.
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"is not JSON: {error}") from error
    problem = _problem(found)
    if problem is not None:
        raise _broken(path, problem)
    return dict(found)


def write(path: str, baseline: Baseline, data_roots: Sequence[str] = ()) -> None:
    """Write a baseline, whole or not at all, keys sorted so that a review sees only what changed.

    Raises GuardError when the disk is full or the folder cannot be written, UsageError where `read` would refuse it.
    """
    _check_place(path, data_roots)
    text = json.dumps(baseline, indent=2, sort_keys=True, allow_nan=False) + "\n"
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise GuardError(f"{path}: the baseline cannot be written: {error.strerror}") from error


def from_report(report: Report) -> Baseline:
    """What a report measured: every value that exists, under its model, variant and metric.

    Raises UsageError when two models share a name, since one would hide the other.
    """
    models: dict[str, Any] = {}
    for model in report.models:
        if model.name in models:
            raise UsageError(f"two models are named {model.name!r}; a baseline needs different names")
        models[model.name] = {"variants": {variant.name: _recorded(variant) for variant in _measured(model)}}
    tool = {"name": report.tool.name, "version": report.tool.version}
    environment = {name: report.environment[name] for name in ENVIRONMENT if report.environment.get(name) is not None}
    return {"schema_version": SCHEMA_VERSION, "tool": tool, "environment": environment, "models": models}


def value(baseline: Baseline | None, model: str, variant: str, metric: str) -> float | None:
    """The recorded value of a metric; None without one, infinity where the outputs equalled the reference's.

    `size_bytes` is known of every recorded variant.
    """
    recorded = _variants(baseline or {}, model).get(variant, {})
    found = recorded.get("metrics", {}).get(metric)
    number: float | None = recorded.get("size_bytes") if found is None and metric == "size_bytes" else found
    return math.inf if found == IDENTICAL else number


def recorded(baseline: Baseline | None, model: str, variant: str) -> dict[str, float]:
    """The numbers that are recorded of a variant's metrics, by their names."""
    metrics = _variants(baseline or {}, model).get(variant, {}).get("metrics", {})
    return {name: float(found) for name, found in metrics.items() if found != IDENTICAL}


def wrong(baseline: Baseline | None, model: str, variant: str) -> WrongExamples | None:
    """Which examples the recorded variant got wrong; None where that is not recorded."""
    found = _variants(baseline or {}, model).get(variant, {}).get("wrong")
    return None if found is None else msgspec.convert(found, WrongExamples)


Asked = Mapping[str, Collection[str]]
"""Models' names to those of their variants."""


def compare(report: Report, baseline: Baseline, asked: Asked | None = None) -> tuple[str, ...]:
    """Sentences on every model, variant and metric that only one of a report and a baseline has.

    `asked` is what the manifest asks for, where the report has a part of it. A variant that could not be evaluated is
    not missing: its error is already reported.
    """
    notes: list[str] = []
    asked = {model.name: [*model] for model in report.models} if asked is None else asked
    for model in report.models:
        if model.name not in baseline.get("models", {}):
            notes.append(f"model {model.name!r} is not in the baseline")
        elif model.error is None:
            notes += _compare_variants(model, _variants(baseline, model.name), asked[model.name])
    gone = [name for name in sorted(baseline.get("models", {})) if name not in asked]
    return (*notes, *(f"model {name!r} is in the baseline but was not checked" for name in gone))


def other_environment(environment: Mapping[str, Any], baseline: Baseline) -> str | None:
    """A sentence on what the baseline was measured with and this run was not; None where nothing is known to differ.

    What only one side has is not compared: a package that was not installed has measured nothing.
    """
    then = baseline.get("environment", {})
    differing = [
        name
        for name in ENVIRONMENT
        if then.get(name) is not None and environment.get(name) is not None and then[name] != environment[name]
    ]
    if not differing:
        return None
    return (
        f"{RECORDED_WITH} {_versions(then, differing)}, this ran with "
        f"{_versions(environment, differing)}: numbers move between them without a change of the model"
    )


def _versions(environment: Mapping[str, Any], names: Iterable[str]) -> str:
    return " and ".join(f"{ENVIRONMENT[name]} {environment[name]}".strip() for name in names)


def describe(path: str, data_roots: Sequence[str] = ()) -> str:
    """A baseline file in lines for people: what it was recorded with, every variant with its size and metrics."""
    lines, found = [path], read(path, data_roots)
    environment = found.get("environment", {})
    if known := [name for name in ENVIRONMENT if name in environment]:
        lines.append(f"  recorded with {_versions(environment, known)}")
    for model, entry in sorted(found["models"].items()):
        lines += [f"  {model} / {name}: {_in_words(one)}" for name, one in sorted(entry["variants"].items())]
    return "\n".join(lines)


def _in_words(recorded: dict[str, Any]) -> str:
    size = [f"{recorded['size_bytes']:,} bytes"] if "size_bytes" in recorded else []
    metrics = [
        f"{name} {_figure(found)}" for name, found in sorted(recorded["metrics"].items()) if name != "size_bytes"
    ]
    wrong = recorded.get("wrong")
    mistaken = [] if wrong is None else [f"{len(mistakes.read(wrong['rows'])):,} of {wrong['examples']:,} wrong"]
    return ", ".join(size + metrics + mistaken) or "nothing"


def _figure(found: float | str) -> str:
    return found if isinstance(found, str) else figures.real(found)


def _compare_variants(model: ModelResult, recorded: dict[str, Any], asked: Collection[str]) -> list[str]:
    notes: list[str] = []
    for variant in model.variants:
        if variant.name not in recorded:
            notes.append(f"variant {variant.name!r} of model {model.name!r} is not in the baseline")
        elif variant.error is None:
            notes += _compare_metrics(model.name, variant, recorded[variant.name].get("metrics", {}))
    return notes + [
        f"variant {name!r} of model {model.name!r} is in the baseline but was not checked"
        for name in sorted(recorded)
        if name not in asked
    ]


def _compare_metrics(model: str, variant: VariantResult, recorded: dict[str, Any]) -> list[str]:
    where = f"of variant {variant.name!r} of model {model!r}"
    present = {metric.name: metric for metric in variant.metrics}
    # A value that is undefined is never recorded, so it is not missed.
    new = [name for name, metric in present.items() if name not in recorded and _to_record(metric) is not None]
    gone = [name for name in sorted(recorded) if name not in present]
    return [f"metric {name!r} {where} is not in the baseline" for name in new] + [
        f"metric {name!r} {where} is in the baseline but was not measured" for name in gone
    ]


def _measured(model: ModelResult) -> list[VariantResult]:
    return [variant for variant in model.variants if variant.error is None]


def _recorded(variant: VariantResult) -> dict[str, Any]:
    found = {metric.name: _to_record(metric) for metric in variant.metrics}
    metrics = {name: what for name, what in found.items() if what is not None}
    size = {} if variant.artifact is None else {"size_bytes": variant.artifact.size_bytes}
    wrong = {} if variant.wrong is None else {"wrong": msgspec.to_builtins(variant.wrong)}
    return {**size, **wrong, "metrics": metrics}


def _to_record(metric: MetricResult) -> float | str | None:
    """A metric's value as a baseline holds it; None when it has none."""
    if metric.value is None and metric.identical and metric.error is None:
        return IDENTICAL
    return metric.value


def _variants(baseline: Baseline, model: str) -> dict[str, Any]:
    return dict(baseline.get("models", {}).get(model, {}).get("variants", {}))


def _problem(found: Any) -> str | None:
    """What is wrong with the shape of a baseline, in words; None when nothing is."""
    version = found.get("schema_version") if isinstance(found, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        return f"is not a baseline of schema_version {SCHEMA_VERSION} (it has {version!r})"
    environment = found.get("environment", {})
    if not isinstance(environment, dict) or not all(map(_is_version, environment.values())):
        return (
            f"is damaged: environment must be an object of texts of at most {LONGEST_VERSION} characters, a line each"
        )
    if not isinstance(found.get("models"), dict):
        return "is damaged: models must be an object"
    problems = (_model_problem(name, model) for name, model in found["models"].items())
    return next((problem for problem in problems if problem is not None), None)


def _model_problem(name: str, model: Any) -> str | None:
    if not isinstance(model, dict) or not isinstance(model.get("variants"), dict):
        return f"is damaged: variants of model {name!r} must be an object"
    problems = (_variant_problem(f"{variant!r} of model {name!r}", one) for variant, one in model["variants"].items())
    return next((problem for problem in problems if problem is not None), None)


def _variant_problem(name: str, recorded: Any) -> str | None:
    if not isinstance(recorded, dict) or not isinstance(recorded.get("metrics"), dict):
        return f"is damaged: metrics of variant {name} must be an object"
    values = {name: found for name, found in recorded["metrics"].items() if found != IDENTICAL}
    numbers = {**values, "size_bytes": recorded.get("size_bytes", 0)}
    wrong = [metric for metric, number in numbers.items() if not _is_number(number)]
    if wrong:
        return f"is damaged: no number for {wrong[0]!r} of variant {name}"
    return _wrong_problem(name, recorded["wrong"]) if "wrong" in recorded else None


def _wrong_problem(name: str, told: Any) -> str | None:
    try:
        found = msgspec.convert(told, WrongExamples)
        rows = mistakes.read(found.rows)
        if not len(rows) <= found.examples <= found.of:
            raise ValueError("more rows than examples")
    except ValueError as error:
        return f"is damaged: wrong of variant {name} holds something else ({error})"
    return None


def _is_version(told: Any) -> bool:
    return isinstance(told, str) and len(told) <= LONGEST_VERSION and told.isprintable()


def _is_number(number: Any) -> bool:
    if not isinstance(number, int | float) or isinstance(number, bool):
        return False
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number that no double holds
        return False


def _check_place(path: str, data_roots: Sequence[str]) -> None:
    if (real := strays(path, data_roots)) is not None:
        raise UsageError(
            f"{displayed(path)}: leads out of its repository, to {real}; put the baseline itself here, or allow that "
            "with --data-root"
        )


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it names a key twice")
    return found


def _broken(path: str, what: str) -> UsageError:
    return UsageError(f"{path}: {what}; write it again with `tflite-guard baseline update`")
