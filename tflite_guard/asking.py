"""Questions without a manifest of the user's own: `why` one converted model is worse, and how two files `compare`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from tflite_guard import init
from tflite_guard.errors import ManifestError, UsageError
from tflite_guard.files import sha256_of, sniff, why_absent, write_atomically
from tflite_guard.init.binding import Chosen
from tflite_guard.init.sources import arrays_of
from tflite_guard.manifest import Manifest, load
from tflite_guard.protocol import Names
from tflite_guard.results import Diagnosis, ErrorInfo, Finding, ModelResult, Remedy, Report, VariantResult, Verdict
from tflite_guard.run.jobs import Options
from tflite_guard.run.pipeline import run
from tflite_guard.run.scratch import scratch_folder
from tflite_guard.run.steps import OnEvent
from tflite_guard.run.workers import OnLog, require_children
from tflite_guard.vocabulary import QUANTIZATIONS, RECIPES

MOST_TOLD = 3
IN_A_MANIFEST = "write a manifest with `tflite-guard init`, say it there, and use `check`"
BEFOREHAND = "do it beforehand, and give an .npz of what both files take"


@dataclass(frozen=True)
class Question:
    """Which model, compared with what, on which data. All are paths but `labels`, a key of the data, and the last."""

    reference: str
    converted: str
    """A .tflite, or the name of a quantization or recipe."""
    data: str
    labels: str | None = None
    calibration: str | None = None
    observed: str | None = None
    signature: str | None = None
    """Of a SavedModel or .tflite reference that has several."""


@dataclass(frozen=True)
class Explanation:
    """The answer: a report of one model with one variant."""

    report: Report
    manifest: Manifest = field(repr=False)
    """What was checked, with the files where they really are."""

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
        UsageError: a file is missing or of no supported kind, or what is done to the data cannot be known.
        DataError: it is not certain which array belongs to which input.
        EvaluationError: the reference cannot be loaded. What goes wrong later is in the answer, as its variant's error.
    """
    require_children()
    with scratch_folder() as scratch:
        return _explained(question, options, manifest, scratch, on_event, on_log)


def _explained(
    question: Question,
    options: Options,
    manifest: str | None,
    scratch: str,
    on_event: OnEvent | None = None,
    on_log: OnLog | None = None,
) -> Explanation:
    path = manifest or os.path.join(scratch, "tflite-guard.json")
    folder = os.path.dirname(os.path.abspath(path))
    written = _manifest(question, folder, on_log, on_event)
    write_atomically(path, init.text(written))
    roots = _folders(_files(question))
    load_ = partial(load, path, data_roots=roots, allow_code=options.allow_code)
    first = load_() if manifest is not None else _loaded_unkept(load_, question.data, IN_A_MANIFEST)
    loaded = _knowing_calibration(first, question, written, load_)
    asked = replace(options, data_roots=roots, diagnose="auto" if options.diagnose == "never" else options.diagnose)
    report = run([loaded], asked, on_event=on_event, on_log=on_log)
    given = _as_given(_files(question), folder)
    models = tuple(_as_asked(model, given, manifest is not None) for model in report.models)
    return Explanation(replace(report, models=models), loaded)


def _folders(files: Iterable[str]) -> tuple[str, ...]:
    """What the manifest may read: who names files on the command line may read them, wherever they lie."""
    return tuple(dict.fromkeys(os.path.dirname(os.path.realpath(one)) for one in files))


def _loaded_unkept(load_: Callable[..., Manifest], data: str, advice: str) -> Manifest:
    """A manifest that nobody can look into once it is gone. Raises UsageError for what it leaves open."""
    try:
        return load_()
    except ManifestError as error:
        told = "; ".join(one.message for one in error.problems[:MOST_TOLD])
        raise UsageError(f"{data}: {told}; {advice}") from None


def _knowing_calibration(
    loaded: Manifest, question: Question, written: dict[str, Any], load_: Callable[..., Manifest]
) -> Manifest:
    """The manifest, in which an existing .tflite knows what it was calibrated on: for evidence, not to be made anew."""
    (model,) = loaded.models
    (variant,) = model.variants
    if question.calibration is None or variant.conversion.tflite is None:
        return loaded
    (entry,) = written["models"]
    entry = {**entry, "variants": [{"name": "calibrated", "quantization": "int8"}]}
    calibrated = load_(content=init.text({**written, "models": [entry]})).models[0].variants[0]
    conversion = replace(variant.conversion, calibration=calibrated.conversion.calibration)
    return replace(loaded, models=(replace(model, variants=(replace(variant, conversion=conversion),)),))


def _as_given(files: Sequence[str], folder: str) -> dict[str, str]:
    """How a report may name files, from the manifest's folder or whole, to how the question does."""
    return {init.relative(one, folder): one for one in files} | {os.path.realpath(one): one for one in files}


def _as_asked(model: ModelResult, given: Mapping[str, str], kept: bool) -> ModelResult:
    """A result that names files as the question did, and no manifest that is gone."""
    reference = replace(model.reference, path=given.get(model.reference.path, model.reference.path))
    variants = tuple(replace(one, error=_told_as_asked(one.error, given)) for one in model.variants)
    model = replace(model, reference=reference, variants=variants, error=_told_as_asked(model.error, given))
    return model if kept else _without_manifest(model)


def _without_manifest(model: ModelResult) -> ModelResult:
    nowhere = replace(model.manifest, path="", repository_path="")
    return replace(model, manifest=nowhere, line=0, variants=tuple(replace(one, line=0) for one in model.variants))


def _told_as_asked(error: ErrorInfo | None, given: Mapping[str, str]) -> ErrorInfo | None:
    if error is None:
        return None
    message = error.message
    for written, named in given.items():
        message = message.replace(written, named) if written != os.path.basename(named) else message
    return replace(error, message=message)


def explain_arrays(
    reference: str,
    converted: str,
    inputs: Any,
    labels: Any,
    *,
    calibration: Any = None,
    observed: Any = None,
    signature: str | None = None,
    options: Options,
    then: Callable[[Explanation], None] | None = None,
) -> Explanation:
    """The same on arrays: (n, …) each, or dictionaries of them by name, or paths.

    `then` is called with the answer while the arrays are still the files that its manifest names.
    """
    require_children()
    with scratch_folder() as scratch:
        data, key = _with_labels(inputs, labels, scratch)
        question = Question(
            reference,
            converted,
            data,
            key,
            None if calibration is None else _saved(calibration, scratch, "calibration"),
            None if observed is None else _saved(observed, scratch, "observed"),
            signature,
        )
        answer = _explained(question, options, None, scratch)
        if then is not None:
            then(answer)
        return answer


@dataclass(frozen=True)
class Pair:
    """Which two .tflite files, on which data. All are paths but the last three."""

    a: str
    b: str
    data: str
    labels: str | None = None
    """A key of the data."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """The keys of inputs by their names, "" of a lone one's, where the names of the data do not say."""
    signature: str | None = None
    """Of both, where they have several."""


def compare(pair: Pair, options: Options, *, on_event: OnEvent | None = None, on_log: OnLog | None = None) -> Report:
    """Compare two .tflite files, each as it is: A takes the reference's place, B a variant's, and nothing is judged.

    Args:
        pair: which.
        options: how to run.
        on_event: called as work proceeds, from any thread.
        on_log: called with what LiteRT said.

    Raises:
        UsageError: a file is missing or of no supported kind, both are one file, or what is done to the data cannot be
            known.
        DataError: it is not certain which array belongs to which input.
        EvaluationError: A cannot be loaded. What goes wrong later is in the report.
    """
    require_children()
    with scratch_folder() as scratch:
        return _compared(pair, options, scratch, on_event, on_log)


def compare_arrays(
    a: str, b: str, inputs: Any, labels: Any, *, signature: str | None = None, options: Options
) -> Report:
    """The same on arrays: (n, …) each, or dictionaries of them by name, or paths."""
    require_children()
    with scratch_folder() as scratch:
        data, key = _with_labels(inputs, labels, scratch)
        return _compared(Pair(a, b, data, key, signature=signature), options, scratch)


def _compared(
    pair: Pair, options: Options, scratch: str, on_event: OnEvent | None = None, on_log: OnLog | None = None
) -> Report:
    files = (pair.a, pair.b, pair.data)
    for path in files:
        _require_file(path)
    for path in (pair.a, pair.b):
        if sniff(path) != "tflite":
            raise UsageError(f"{path}: is not a .tflite model; name two, or ask `tflite-guard why` about a conversion")
    if os.path.samefile(pair.a, pair.b):
        raise UsageError(f"{pair.a} and {pair.b} are one file; name two")
    names = init.names_of("artifact", pair.a, pair.signature, on_log, on_event)
    data = _dataset(pair.data, scratch, names, pair.labels, pair.inputs)
    path = os.path.join(scratch, "tflite-guard.json")
    write_atomically(path, init.text(_manifest_of_pair(pair, scratch, data, names)))
    roots = _folders(files)
    load_ = partial(load, path, data_roots=roots, allow_code=options.allow_code)
    loaded = _loaded_unkept(load_, pair.data, BEFOREHAND)
    (model,) = loaded.models
    model = replace(model, reference=replace(model.reference, kind="artifact"))
    asked = replace(options, data_roots=roots, diagnose="never")
    report = run([replace(loaded, models=(model,))], asked, on_event=on_event, on_log=on_log)
    result = _as_asked(report.models[0], _as_given(files, scratch), kept=False)
    result = _of_two(result, pair, _prepared(pair, data))
    return replace(report, models=(result,), verdict=result.verdict)


def _manifest_of_pair(pair: Pair, folder: str, data: init.Dataset, names: Names) -> dict[str, Any]:
    """One model, A, with one variant, B, and no tolerance."""
    reference = {"tflite": init.relative(pair.a, folder)}
    if pair.signature is not None:
        reference["signature"] = pair.signature
    a, b = _told_apart(pair.a, pair.b)
    manifest = init.manifest_of("tflite", reference, a, {"evaluation": data}, names)
    (entry,) = manifest["models"]
    entry["metrics"] = [*(one for one in entry["metrics"] if one != "sqnr"), "sqnr"]
    entry["variants"] = [{"name": b, "tflite": init.relative(pair.b, folder)}]
    del entry["tolerances"]
    return manifest


def _prepared(pair: Pair, data: init.Dataset) -> list[str]:
    """What both files were given, which nobody can look up in a manifest."""
    inputs, steps = data.settings.get("inputs"), data.settings.get("preprocess")
    keys = list(inputs.values()) if isinstance(inputs, dict) else [inputs] if inputs else []
    which = f" ({', '.join(keys)})" if keys else ""
    notes = [f"both were given {pair.data}{which} {'after ' + json.dumps(steps) if steps else 'as it is'}"]
    return (
        notes
        if data.tasks
        else [*notes, "there are no labels, so only the outputs are compared; name them with --labels"]
    )


def _told_apart(a: str, b: str) -> tuple[str, str]:
    """What to call two files: by their names, where these are alike with the folders up to where they differ."""
    first, second = (Path(os.path.abspath(one)).with_suffix("").parts for one in (a, b))
    for depth in range(1, max(len(first), len(second)) + 1):
        if first[-depth:] != second[-depth:]:
            return "/".join(first[-depth:]), "/".join(second[-depth:])
    return os.path.basename(a), os.path.basename(b)


_CALLED = {"reference": "A", "variant": "B"}
_ROLE = re.compile(rf"\b(?:the|any|this) ({'|'.join(_CALLED)})\b")


def _in_pairs_words(text: str) -> str:
    """A sentence about a reference and a variant, told of two files."""
    return _ROLE.sub(lambda found: _CALLED[found[1]], text)


def _of_two(model: ModelResult, pair: Pair, notes: Sequence[str]) -> ModelResult:
    """A result that speaks of A and B, and in which nothing fails, since nobody has said what may not be."""
    (variant,) = model.variants
    size, sha256 = os.path.getsize(pair.a), sha256_of(pair.a)
    if variant.artifact is not None and variant.artifact.sha256 == sha256:
        notes = ["A and B are the same, byte for byte", *notes]
    error = _error_of_two(variant.error)
    variant = replace(
        variant, verdict=_unjudged(variant.verdict), findings=_findings_of_two(variant.findings), error=error
    )
    return replace(
        model,
        verdict=_unjudged(model.verdict),
        reference=replace(model.reference, size_bytes=size),
        variants=(variant,),
        findings=_findings_of_two(model.findings),
        error=_error_of_two(model.error),
        notes=(*model.notes, *notes),
    )


def _unjudged(verdict: Verdict) -> Verdict:
    return verdict if verdict is Verdict.ERROR else Verdict.PASS


def _findings_of_two(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(replace(one, severity="note", message=_in_pairs_words(one.message)) for one in findings)


def _error_of_two(error: ErrorInfo | None) -> ErrorInfo | None:
    if error is None:
        return None
    message = _in_pairs_words(error.message)
    if error.kind == "binding":  # the advice is about conversions
        message = f"{message.rpartition('; ')[0]}; only files with the same inputs and outputs can be compared"
    return replace(error, message=message)


def _with_labels(inputs: Any, labels: Any, folder: str) -> tuple[str, str | None]:
    """The path of the data and the key of its labels; labels that are an array are put beside the inputs."""
    if labels is None or isinstance(labels, str):
        return _saved(inputs, folder, "data"), labels
    arrays = _arrays(inputs)
    key = next(name for name in (f"label{'_' * more}" for more in count()) if name not in arrays)
    return _saved({**arrays, key: labels}, folder, "data"), key


def _arrays(given: Any) -> Mapping[str, Any]:
    """Arrays by name: those of an .npz, a dictionary, or one array that needs no name."""
    import numpy as np

    if isinstance(given, str | os.PathLike):
        path = os.fspath(given)
        _require_file(path)
        keys = list(arrays_of(path))  # tells what is wrong with the file
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in keys}
    return given if isinstance(given, Mapping) else {"input": given}


def _saved(arrays: Any, folder: str, name: str) -> str:
    """Arrays as an .npz; a path as it is."""
    if isinstance(arrays, str | os.PathLike):
        return os.fspath(arrays)
    import numpy as np

    from tflite_guard.datasets.arrays import write_npz

    path = Path(folder) / f"{name}.npz"
    with path.open("wb") as file:
        write_npz(file, {key: np.asarray(values) for key, values in _arrays(arrays).items()})
    return str(path)


def _files(question: Question) -> list[str]:
    named = (question.reference, question.data, question.calibration, question.observed)
    own = [question.converted] if os.path.exists(question.converted) else []
    return [one for one in named if one is not None] + own


def _manifest(question: Question, folder: str, on_log: OnLog | None, on_event: OnEvent | None) -> dict[str, Any]:
    for path in _files(question):
        _require_file(path)
    kind = init.kind_of(question.reference, question.signature)
    names = init.names_of(kind, question.reference, question.signature, on_log, on_event)
    data = _dataset(question.data, folder, names, question.labels)
    reference: dict[str, Any] = {kind: init.relative(question.reference, folder)}
    if question.signature is not None:
        reference["signature"] = question.signature
    datasets = {"evaluation": data}
    if question.calibration is not None:
        datasets["calibration"] = init.unlabelled(_dataset(question.calibration, folder, names, None))
    manifest = init.manifest_of(kind, reference, Path(question.reference).stem, datasets, names)
    manifest["models"][0]["variants"] = [_variant(question, folder)]
    return manifest


def _require_file(path: str) -> None:
    if why := why_absent(path):
        raise UsageError(f"{path}: {why}")


def _dataset(
    path: str, folder: str, names: Names, labels: str | None, inputs: Mapping[str, str] | None = None
) -> init.Dataset:
    return init.dataset_of(path, folder, names, Chosen(inputs or {}, {} if labels is None else {"": labels}))


def _variant(question: Question, folder: str) -> dict[str, Any]:
    converted = question.converted
    observed = {} if question.observed is None else {"observed_outputs": init.relative(question.observed, folder)}
    if os.path.lexists(converted):
        _require_file(converted)
        if sniff(converted) != "tflite":
            raise UsageError(f"{converted}: is not a .tflite model; convert the model first, or name a quantization")
        return {"name": Path(converted).stem, "tflite": init.relative(converted, folder), **observed}
    if converted in QUANTIZATIONS:
        return {"name": converted, "quantization": converted, **observed}
    if converted in RECIPES:
        return {"name": converted, "recipe": converted, **observed}
    raise UsageError(
        f"{converted}: is neither a file nor a quantization; there are {', '.join(QUANTIZATIONS)}, and recipes"
    )
