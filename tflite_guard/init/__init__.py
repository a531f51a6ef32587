"""A first manifest for a model: names read from the model, keys matched with the data, tolerances to start from."""

from __future__ import annotations

import io
import json
import math
import os
import platform
import shlex
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from tflite_guard.errors import EvaluationError, ManifestError, ModelFileError, UsageError
from tflite_guard.files import contained, files_below, find_root, why_absent, write_atomically
from tflite_guard.init import binding, limits
from tflite_guard.init.binding import Chosen, Task, kind_of_numbers
from tflite_guard.init.preparing import as_features, as_rows, preparation
from tflite_guard.init.sources import Data, files_of, look, sniffed, split, values, with_labels_file
from tflite_guard.init.unread import UNKNOWN, settings_of
from tflite_guard.manifest import load
from tflite_guard.manifest.types import FileSpec, ReferenceSpec
from tflite_guard.protocol import Names, TensorInfo
from tflite_guard.results import ModelResult, VariantResult
from tflite_guard.run.jobs import Options
from tflite_guard.run.pipeline import describe, run
from tflite_guard.run.steps import OnEvent
from tflite_guard.run.workers import OnLog, children_run_here
from tflite_guard.text.figures import number
from tflite_guard.vocabulary import DEFAULT_MANIFEST, MANIFEST_VERSION, ReferenceKind

KINDS: dict[str, ReferenceKind] = {"keras": "keras", "hdf5": "keras", "saved_model": "saved_model", "tflite": "tflite"}
RANDOM_EXAMPLES = 64
RANDOM_BYTES = 64 * 2**20
MOST_LOOKED_AT = 100
"""Files of a SavedModel."""
SCHEMA = "https://raw.githubusercontent.com/tflite-guard/tflite-guard/main/schemas/manifest-v1.schema.json"
"""For an editor; nothing is fetched here."""


@dataclass(frozen=True)
class Dataset:
    """One dataset of the manifest, and what it is for."""

    settings: dict[str, Any]
    """As it is written."""
    tasks: Mapping[str, Task] = field(default_factory=dict)
    """Of each output with labels, what these are."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wishes:
    """What the command line says beside the model and its data."""

    signature: str | None = None
    chosen: Chosen = field(default_factory=Chosen)
    labels_file: str | None = None
    tflite: tuple[str, ...] = ()
    """Files to judge beside what is made of the model."""
    measure: bool = False
    allow_code: bool = False
    force: bool = False


def write_manifest(
    model: str,
    data: str | None,
    output: str,
    wishes: Wishes | None = None,
    *,
    on_log: OnLog | None = None,
    on_event: OnEvent | None = None,
) -> Iterator[str]:
    """Write a manifest that passes `validate` and runs; yields what was done, a line each.

    Without data, an .npz of random inputs is written beside it, which checks that conversion works and
    says nothing of accuracy. The model is run and converted: with labels the reference is held to what it reaches,
    and what cannot be converted is left out.

    Raises:
        UsageError: the model or the data is of no supported kind, or a file to write exists already.
        EvaluationError: the model cannot be loaded or evaluated, or a file cannot be written.
        DataError: it is not certain which array of the data belongs to which input.
    """
    wishes = wishes or Wishes()
    kind = kind_of(model, wishes.signature)
    folder = os.path.dirname(os.path.abspath(output))
    random = None if data is not None else os.path.join(folder, f"{Path(output).stem}-random.npz")
    _check_places([model, *files_of(data or model), *filter(None, [wishes.labels_file]), *wishes.tflite], folder)
    for path in filter(None, (output, random)):
        if os.path.lexists(path) and not wishes.force:
            raise UsageError(f"{path}: exists already; use --force to overwrite it, or -o to write another")
    for path in wishes.tflite:
        if kind_of(path) != "tflite":
            raise UsageError(f"--tflite {path}: is not a .tflite model")
    if not children_run_here() and not wishes.measure:
        yield from _unread(kind, model, data, output, wishes)
        return
    names = names_of(kind, model, wishes.signature, on_log, on_event, allow_code=wishes.allow_code)
    if data is None:
        assert random is not None
        data = os.path.relpath(random)
        made = _random_arrays(names, model)
        _write(random, _npz(made))
        examples = len(next(iter(made.values())))
        datasets = {"evaluation": dataset_of(data, folder, names)}
        notes = [
            f"{data}: random examples (n = {examples}); they show that conversion works, not how accurate it is",
            "replace them with real data and labels",
        ]
    else:
        datasets, notes = _datasets(data, wishes, partial(dataset_of, folder=folder, names=names))
        if not datasets["evaluation"].tasks:
            notes.append("without labels, variants are held to the reference's outputs; name labels with --labels")
    manifest = _written(kind, model, output, datasets, names, wishes)
    yield from dict.fromkeys([note for one in datasets.values() for note in one.notes] + notes)
    left_open = _left_open(output, wishes)
    ran = False
    if left_open:
        yield from left_open
    else:
        ran = yield from fitted(manifest, output, wishes, on_log, on_event)
    variants = ", ".join(map(_name, manifest["models"][0]["variants"]))
    yield f"{output}: model {manifest['models'][0]['name']!r} with {variants}"
    place = "" if output == DEFAULT_MANIFEST else f" {shlex.quote(output)}"
    place += " --allow-code" if wishes.allow_code else ""
    if left_open:
        yield f"next: fill these in, until `tflite-guard validate{place}` has nothing more to say"
    elif not ran:
        yield f"next: correct what keeps the reference from running (see above), then tflite-guard check{place}"
    else:
        yield f"next: tflite-guard check{place}"


def _written(
    kind: ReferenceKind, model: str, output: str, datasets: Mapping[str, Dataset], names: Names, wishes: Wishes
) -> dict[str, Any]:
    """The manifest, once it is in its file."""
    folder = os.path.dirname(os.path.abspath(output))
    signature = {} if wishes.signature is None else {"signature": wishes.signature}
    reference: dict[str, Any] = {kind: relative(model, folder)} | signature
    manifest = manifest_of(kind, reference, Path(os.path.abspath(model)).stem or "model", datasets, names)
    manifest["models"][0]["variants"] += _shipped(model, wishes.tflite, folder, manifest["models"][0]["variants"])
    _write(output, text(manifest))
    return manifest


def _unread(kind: ReferenceKind, model: str, data: str | None, output: str, wishes: Wishes) -> Iterator[str]:
    """Write what the data says, and leave open what only the model knows, where none can be run."""
    if data is None:
        raise UsageError(
            f"{model}: {platform.system()} cannot run it, and random examples need the shapes of its inputs; "
            "name the data, as in `tflite-guard init MODEL DATA`"
        )
    folder, system = os.path.dirname(os.path.abspath(output)), platform.system()
    datasets, notes = _datasets(data, wishes, partial(_unread_dataset, folder=folder))
    manifest = _written(kind, model, output, datasets, UNKNOWN, wishes)
    yield from dict.fromkeys([note for one in datasets.values() for note in one.notes] + notes)
    yield f"{system} cannot run {model}, so its inputs and outputs are not known, and nothing is measured"
    yield from _left_open(output, wishes)
    yield f"{output}: model {manifest['models'][0]['name']!r}"
    yield "next: fill these in, and check it where models can run: in CI, on Linux or macOS, or inside WSL 2"


def _datasets(data: str, wishes: Wishes, make: Callable[..., Dataset]) -> tuple[dict[str, Dataset], list[str]]:
    """The evaluation data and, where there is any, the calibration data, by their names in the manifest; and notes."""
    evaluation, calibration = split(data)
    datasets = {"evaluation": make(evaluation, chosen=wishes.chosen, labels_file=wishes.labels_file)}
    notes = []
    if evaluation != data:
        beside = "" if calibration is None else f", and calibration on {calibration}"
        notes.append(f"evaluation is on {evaluation}{beside}")
    if calibration is None:
        notes.append(
            "calibration uses the evaluation data for now; name a sample of the training data for honest figures"
        )
    else:
        datasets["calibration"] = unlabelled(make(calibration, chosen=Chosen(wishes.chosen.inputs)))
    return datasets, notes


def _unread_dataset(path: str, *, folder: str, chosen: Chosen, labels_file: str | None = None) -> Dataset:
    data, chosen = _with_labels(look(path), folder, chosen, labels_file)
    settings, task = settings_of(data, chosen)
    return Dataset(_ordered({**settings, "path": relative(path, folder)}), {"": task} if task else {}, data.notes)


def _left_open(output: str, wishes: Wishes) -> list[str]:
    """What the manifest asks its reader to put in, a line each."""
    try:
        load(output, allow_code=wishes.allow_code)
    except ManifestError as error:
        return [str(problem) for problem in error.problems]
    return []


def _name(variant: Any) -> str:
    return str(variant if isinstance(variant, str) else variant["name"])


def _shipped(model: str, paths: Sequence[str], folder: str, made: Sequence[Any]) -> list[dict[str, str]]:
    """Variants of files, each once and without the model itself, which a glob may meet."""
    places = {os.path.realpath(path): path for path in reversed(paths)}
    places.pop(os.path.realpath(model), None)
    taken = set(map(_name, made))
    found = []
    for path in reversed(places.values()):
        stem, above = Path(path).stem, os.path.basename(os.path.dirname(os.path.abspath(path))) or "shipped"
        numbered = (f"{above}-{stem}-{number}" for number in count(2))
        name = next(one for one in chain((stem, f"{above}-{stem}"), numbered) if one not in taken)
        taken.add(name)
        found.append({"name": name, "tflite": relative(path, folder)})
    return found


def kind_of(model: str, signature: str | None = None) -> ReferenceKind:
    """What a reference is. Raises UsageError for what is none."""
    found = sniffed(model, "the model")
    if found == "saved_model":
        _refuse_pointers(model)
    kind = KINDS.get(found)
    if kind is None:
        raise UsageError(f"{model}: is not a .keras, .h5, SavedModel or .tflite; name the model that you convert")
    if kind == "keras" and signature is not None:
        raise UsageError(f"{model}: --signature is for a SavedModel or a .tflite; a Keras model has none")
    return kind


def _refuse_pointers(model: str) -> None:
    """Raise UsageError where the first files of a SavedModel are Git LFS pointers; the rest is told by its loading."""
    with suppress(OSError):
        for name in islice(files_below(model), MOST_LOOKED_AT):
            sniffed(os.path.join(model, name), "that part of the model")


def _check_places(paths: Sequence[str], folder: str) -> None:
    root = find_root(folder)
    for path in paths:
        if why := why_absent(path):
            raise UsageError(f"{path}: {why}")
        if not contained(path, [root]):
            raise UsageError(
                f"{path}: lies outside {root}; a manifest may only name files under it (move it, or use -o)"
            )


def names_of(
    kind: ReferenceKind,
    model: str,
    signature: str | None,
    on_log: OnLog | None,
    on_event: OnEvent | None = None,
    *,
    allow_code: bool = False,
) -> Names:
    """What the model takes and gives. Raises EvaluationError for what cannot be evaluated, such as text."""
    real = os.path.realpath(model)
    reference = (
        ReferenceSpec(kind, FileSpec(real)) if signature is None else ReferenceSpec(kind, FileSpec(real), signature)
    )
    try:
        described = describe(reference, Options(allow_code=allow_code), on_log, on_event)
    except EvaluationError as error:
        told = str(error).replace(real, model)
        told = told.replace('; say which with "signature"', "; choose one with --signature")
        raise EvaluationError(error.kind, told) from None
    for side, infos in (("input", described.inputs), ("output", described.outputs)):
        if not infos:
            raise ModelFileError(f"{model}: has no {side}s; there is nothing to evaluate")
        for name, info in infos.items():
            if kind_of_numbers(info.dtype) not in binding.NUMBERS:
                message = f"{model}: {side} {name!r} holds {info.dtype} values, which cannot be evaluated; "
                raise ModelFileError(message + "export the model without that part", "unsupported-type")
    return described


def _write(path: str, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise EvaluationError("file", f"{path}: cannot be written ({error.strerror}); name another with -o") from None


def text(manifest: dict[str, Any]) -> bytes:
    """A manifest as it is written to a file."""
    return (json.dumps(manifest, indent=2) + "\n").encode()


def fitted(
    manifest: dict[str, Any], output: str, wishes: Wishes, on_log: OnLog | None, on_event: OnEvent | None
) -> Generator[str, None, bool]:
    """Run the manifest once and write it anew: without what cannot be converted, the reference held to what it reaches.

    A reference that gets worse later is a broken set-up, which every comparison with it would hide. With `measure`
    each variant is held to what it reaches now. Returns whether the reference could be run.
    """
    (entry,) = manifest["models"]
    options = Options(allow_code=wishes.allow_code, diagnose="never")
    (model,) = run([load(output, allow_code=wishes.allow_code)], options, on_log=on_log, on_event=on_event).models
    if model.error is not None:
        yield f"the reference could not be run on this data: {model.error.message}"
        return False
    yield from _without_idle(entry, model)
    suspect = any(finding.rule == "reference-suspect" for finding in model.findings)
    for metric, value in model.reference.metrics.items():
        limit = None if value is None or suspect else limits.of_reference(metric, value)
        if limit is not None:
            entry["reference"].setdefault("tolerances", {})[metric] = limit
            held = ", ".join(f"{'at least' if key == 'min' else 'at most'} {bound:g}" for key, bound in limit.items())
            found = number(value, metric.rpartition(".")[2])
            yield f"the reference's {metric} on this data is {found}, and the manifest holds it to {held}"
    yield from dict.fromkeys(finding.message for finding in model.findings)
    if wishes.measure:
        entry["variants"] = [limits.measured(one, model) for one in entry["variants"]]
        yield "tolerances of the variants are what each reaches now, with room for other machines"
    _write(output, text(manifest))
    return True


def _without_idle(entry: dict[str, Any], model: ModelResult) -> Iterator[str]:
    """Leave out the variants that cannot be made, or are the float model again; gives why, a line a reason.

    What the user named stays, and so does the last that there is: a manifest without variants would check nothing.
    """
    reasons: dict[str, list[str]] = {}
    for one in model.variants:
        if (why := _idle(one)) is not None:
            reasons.setdefault(why, []).append(one.name)
    idle = {name for names in reasons.values() for name in names}
    left = [one for one in entry["variants"] if _name(one) not in idle or (isinstance(one, dict) and "tflite" in one)]
    entry["variants"] = left or entry["variants"]
    kept = set(map(_name, entry["variants"]))
    for why, names in reasons.items():
        for chosen, what in ((set(names) - kept, "left out"), (set(names) & kept, "kept, but will not do")):
            if chosen:
                listed = ", ".join(name for name in names if name in chosen)
                yield f"{listed}: {what}: {why}"


def _idle(variant: VariantResult) -> str | None:
    """Why a variant cannot be judged, or is not worth it."""
    if variant.error is not None:
        return variant.error.message
    idle = any(one.rule == "nothing-quantized" for one in variant.findings)
    return "nothing in it is quantized, so it is the float model again" if idle else None


def manifest_of(
    kind: ReferenceKind, reference: dict[str, Any], name: str, datasets: Mapping[str, Dataset], names: Names
) -> dict[str, Any]:
    """A manifest with one model, tolerances to start from, and the variants that can be made of it."""
    metrics, tolerances = limits.to_start_from(datasets["evaluation"].tasks, names)
    entry: dict[str, Any] = {
        "name": name,
        "reference": reference,
        "evaluation": "evaluation",
        "calibration": "calibration" if "calibration" in datasets else "evaluation",
        "metrics": metrics,
        "tolerances": tolerances,
        "variants": _variants(kind, names),
    }
    written = {key: dataset.settings for key, dataset in datasets.items()}
    return {"$schema": SCHEMA, "schema_version": MANIFEST_VERSION, "datasets": written, "models": [entry]}


def _variants(kind: ReferenceKind, names: Names) -> list[Any]:
    floats = all(port.dtype.startswith("float") for port in (*names.inputs.values(), *names.outputs.values()))
    int8: Any = {"name": "int8", "quantization": "int8", "io": "int8"} if floats else "int8"
    return ["float32", int8] if kind == "tflite" else ["float32", "float16", "dynamic_range", int8]


def dataset_of(
    path: str, folder: str, names: Names, chosen: Chosen | None = None, labels_file: str | None = None
) -> Dataset:
    """The manifest's dataset of some data. Raises DataError where it is not certain which array is which input."""
    data, chosen = _with_labels(look(path), folder, chosen or Chosen(), labels_file)
    data = as_features(as_rows(data, names, chosen), names)
    found = _inputs(data, names, chosen)
    free = {key: array for key, array in data.arrays.items() if key not in found.values()}
    read = cache(partial(values, data, folder=folder))
    bound = binding.labels(names, free, data.path, chosen.labels, read)
    settings: dict[str, Any] = {**data.settings, "path": relative(data.path, folder)}
    settings["inputs"] = found.get("", found)  # a lone input without a name
    if bound.keys:
        lone = len(names.outputs) == 1
        settings["labels"] = next(iter(bound.keys.values())) if lone else bound.keys
    steps, told = preparation(data, names, found)
    if any(steps.values()):
        settings["preprocess"] = next(iter(steps.values())) if len(found) == 1 else steps
    if data.settings["source"] == "npy":
        del settings["inputs"]
    if data.features:
        used = {*found.values(), *bound.keys.values()}
        settings["features"] = {key: one for key, one in settings["features"].items() if key in used}
    notes = (*data.notes, *_of_shapes(data, names, found, chosen), *bound.notes, *told)
    return Dataset(_ordered(settings), bound.tasks, notes)


def _with_labels(data: Data, folder: str, chosen: Chosen, labels_file: str | None) -> tuple[Data, Chosen]:
    if labels_file is None:
        return data, chosen
    data = with_labels_file(data, labels_file, partial(relative, folder=folder))
    return data, replace(chosen, labels={"": "label"})


def _inputs(data: Data, names: Names, chosen: Chosen) -> dict[str, str]:
    """Model input to key; the only picture of an example is the only input, whatever its size."""
    if data.settings["source"] == "npy" and len(names.inputs) > 1:
        listed = ", ".join(names.inputs)
        raise UsageError(f"{data.path}: an .npy holds one array; for inputs {listed} put one of each name into an .npz")
    if len(data.pictures) == 1 and not chosen.inputs and (len(names.inputs) == 1 or not data.features):
        return dict.fromkeys(names.inputs, data.pictures[0])
    return binding.inputs(names, data.arrays, data.path, chosen.inputs)


def _of_shapes(data: Data, names: Names, inputs: Mapping[str, str], chosen: Chosen) -> list[str]:
    """What is said of arrays that were taken by their shape among several."""
    if data.settings["source"] not in ("npz", "tfrecord") or len(data.arrays) == 1 or data.pictures:
        return []
    return [
        f"{data.path}: {key} is input {name!r}, since nothing else fits it"
        for name, key in inputs.items()
        if names.input(key) != name and key not in chosen.inputs.values()
    ]


def _ordered(settings: dict[str, Any]) -> dict[str, Any]:
    first = ("source", "path")
    return {key: settings[key] for key in first} | {key: one for key, one in settings.items() if key not in first}


def unlabelled(dataset: Dataset) -> Dataset:
    """The same as calibration data, which needs no labels."""
    settings = {key: one for key, one in dataset.settings.items() if key != "labels"}
    return replace(dataset, settings=settings, tasks={})


def _random_arrays(names: Names, model: str) -> dict[str, Any]:
    """Random inputs of the right shapes, (n, ...): reals in [0, 1), integers 0 and 1; unknown dimensions are 1."""
    import numpy as np

    shapes = {name: _example(port, names) for name, port in names.inputs.items()}
    size = sum(math.prod(shapes[name]) * np.dtype(port.dtype).itemsize for name, port in names.inputs.items())
    examples = min(RANDOM_EXAMPLES, RANDOM_BYTES // max(size, 1))
    if examples == 0:
        raise UsageError(
            f"{model}: one random example would take {size / 2**20:,.0f} MiB; give examples of your own as DATA (.npz)"
        )
    rng = np.random.default_rng(0)
    arrays = {}
    for name, port in names.inputs.items():
        shape = (examples, *shapes[name])
        values = (
            rng.random(shape, np.float32) if kind_of_numbers(port.dtype) == "f" else rng.integers(0, 2, shape, np.uint8)
        )
        arrays[name or "input"] = values.astype(port.dtype)
    return arrays


def _example(port: TensorInfo, names: Names) -> tuple[int, ...]:
    """The shape of one example: without the batch, which is there when it is 1, unknown, or the same everywhere."""
    first = {other.shape[:1] for other in (*names.inputs.values(), *names.outputs.values())}
    batched = port.shape and (port.shape[0] in (None, 1) or (len(port.shape) > 1 and len(first) == 1))
    return tuple(size or 1 for size in (port.shape[1:] if batched else port.shape))


def _npz(arrays: Mapping[str, Any]) -> bytes:
    from tflite_guard.datasets.arrays import write_npz

    content = io.BytesIO()
    write_npz(content, arrays)
    return content.getvalue()


def relative(path: str, folder: str) -> str:
    """A path as a manifest in some folder names it."""
    return Path(os.path.relpath(os.path.realpath(path), os.path.realpath(folder))).as_posix()
