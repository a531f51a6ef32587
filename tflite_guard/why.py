"""`why`: a check and a diagnosis of one converted model, without a manifest of the user's own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tflite_guard import init
from tflite_guard.errors import UsageError
from tflite_guard.files import sniff, write_atomically
from tflite_guard.manifest import load
from tflite_guard.protocol import Names
from tflite_guard.results import Diagnosis, Finding, ModelResult, Remedy, Report, VariantResult
from tflite_guard.run.jobs import Options
from tflite_guard.run.pipeline import run
from tflite_guard.run.steps import OnEvent
from tflite_guard.vocabulary import QUANTIZATIONS, RECIPES

OnLog = Callable[[str], None]


@dataclass(frozen=True)
class Question:
    """Which model, compared with what, on which data. All are paths but `labels`, a key of the data."""

    reference: str
    converted: str
    """A .tflite, or the name of a quantization or recipe."""
    data: str
    labels: str | None = None
    calibration: str | None = None
    observed: str | None = None


@dataclass(frozen=True)
class Explanation:
    """The answer: a report of one model with one variant."""

    report: Report

    @property
    def model(self) -> ModelResult:
        """The model, with its reference's own values and findings."""
        return self.report.models[0]

    @property
    def variant(self) -> VariantResult:
        """The converted model."""
        return self.model.variants[0]

    @property
    def cause(self) -> Finding | None:
        """The cause that an experiment has proven; None where there is none, or nothing to explain."""
        return next((one for one in self.variant.findings if one.primary), None)

    @property
    def remedies(self) -> tuple[Remedy, ...]:
        """What mends it, verified on examples that the search did not use."""
        return self.variant.remedies

    @property
    def diagnosis(self) -> Diagnosis | None:
        """What was tried."""
        return self.variant.diagnosis

    def __str__(self) -> str:
        from tflite_guard.reports.story import render

        return render(self.report)

    def _repr_html_(self) -> str:
        from tflite_guard.reports.story import render_html

        return render_html(self.report)


def explain(
    question: Question,
    options: Options,
    *,
    manifest: str | None = None,
    on_event: OnEvent | None = None,
    on_log: OnLog | None = None,
) -> Explanation:
    """Check and diagnose one converted model.

    Args:
        question: which.
        options: how to run.
        manifest: where to keep the manifest that was worked out; None keeps none.
        on_event: called as work proceeds, from any thread.
        on_log: called with what TensorFlow and LiteRT said.

    Raises:
        UsageError: a file is missing or of no supported kind.
        DataError: it is not certain which array belongs to which input.
        EvaluationError: a model cannot be loaded or run.
    """
    with tempfile.TemporaryDirectory(prefix="tflite-guard-") as scratch:
        path = manifest or os.path.join(scratch, "tflite-guard.json")
        write_atomically(path, init.text(_manifest(question, os.path.dirname(os.path.abspath(path)), on_log)))
        # The person who names files on the command line may read them, wherever they lie.
        roots = tuple(dict.fromkeys(os.path.dirname(os.path.realpath(one)) for one in _files(question)))
        loaded = load(path, data_roots=roots, allow_code=options.allow_code)
        asked = replace(options, data_roots=roots, diagnose="auto" if options.diagnose == "never" else options.diagnose)
        return Explanation(run([loaded], asked, on_event=on_event, on_log=on_log))


def explain_arrays(
    reference: str,
    converted: str,
    inputs: Any,
    labels: Any,
    *,
    calibration: Any = None,
    observed: Any = None,
    options: Options,
) -> Explanation:
    """The same on arrays: (n, …) each, or dictionaries of them by name, or paths."""
    with tempfile.TemporaryDirectory(prefix="tflite-guard-") as scratch:
        data = _saved(inputs, scratch, "data", {} if labels is None or isinstance(labels, str) else {"label": labels})
        question = Question(
            reference,
            converted,
            data,
            labels if isinstance(labels, str) else None if labels is None else "label",
            None if calibration is None else _saved(calibration, scratch, "calibration"),
            None if observed is None else _saved(observed, scratch, "observed"),
        )
        return explain(question, options)


def _saved(arrays: Any, folder: str, name: str, beside: Mapping[str, Any] | None = None) -> str:
    """Arrays as an .npz; a path as it is."""
    if isinstance(arrays, str | os.PathLike):
        return os.fspath(arrays)
    import numpy as np

    from tflite_guard.datasets.arrays import write_npz

    own = arrays if isinstance(arrays, Mapping) else {"input": arrays}
    path = Path(folder) / f"{name}.npz"
    with path.open("wb") as file:
        write_npz(file, {key: np.asarray(values) for key, values in {**own, **(beside or {})}.items()})
    return str(path)


def _files(question: Question) -> list[str]:
    named = (question.reference, question.data, question.calibration, question.observed)
    own = [question.converted] if os.path.exists(question.converted) else []
    return [one for one in named if one is not None] + own


def _manifest(question: Question, folder: str, on_log: OnLog | None) -> dict[str, Any]:
    for path in _files(question):
        if not os.path.exists(path):
            raise UsageError(f"{path}: no such file or folder")
    kind = init.kind_of(question.reference)
    names = init.names_of(kind, question.reference, None, on_log)
    data = _dataset(question.data, folder, names, question.labels)
    reference: dict[str, Any] = {kind: init.relative(question.reference, folder)}
    manifest = init.manifest_of(kind, reference, Path(question.reference).stem, data, names)
    (model,) = manifest["models"]
    model["variants"] = [_variant(question, folder)]
    if question.calibration is not None:
        manifest["datasets"]["calibration"] = _without_labels(_dataset(question.calibration, folder, names, None))
        model["calibration"] = "calibration"
    return manifest


def _dataset(path: str, folder: str, names: Names, labels: str | None) -> dict[str, Any]:
    notes: list[str] = []
    found = init.arrays_of(path)
    if labels is not None and labels not in found:
        raise UsageError(f"{path}: has no array {labels!r}; it has {', '.join(found)}")
    dataset = init.dataset_of(path, folder, found, names, notes)
    return dataset if labels is None else {**dataset, "labels": labels}


def _without_labels(dataset: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in dataset.items() if key != "labels"}


def _variant(question: Question, folder: str) -> dict[str, Any]:
    converted = question.converted
    observed = {} if question.observed is None else {"observed_outputs": init.relative(question.observed, folder)}
    if os.path.exists(converted):
        if sniff(converted) != "tflite":
            raise UsageError(f"{converted}: is no .tflite model; convert the model first, or name a quantization")
        return {"name": Path(converted).stem, "tflite": init.relative(converted, folder), **observed}
    if converted in QUANTIZATIONS:
        return {"name": converted, "quantization": converted, **observed}
    if converted in RECIPES:
        return {"name": converted, "recipe": converted, **observed}
    raise UsageError(
        f"{converted}: is neither a file nor a quantization; there are {', '.join(QUANTIZATIONS)}, and recipes"
    )
