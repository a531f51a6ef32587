"""A child's answers to what `protocol` lets a parent ask; arrays and models travel as files."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import msgspec
from msgspec.structs import replace

from tflite_guard.datasets import Dataset, about, canonical, open_dataset
from tflite_guard.datasets.under_way import UnderWay
from tflite_guard.errors import ConversionError, DataError, ModelFileError, NamingError
from tflite_guard.manifest.types import CalibrationOptions, Conversion, DatasetSpec, FileSpec, ReferenceSpec
from tflite_guard.protocol import (
    COLLECTED,
    Aggregate,
    AnyRequest,
    ApplyRecipe,
    Convert,
    Converted,
    DescribeModel,
    Diagnose,
    Diagnosed,
    Evaluate,
    Evaluation,
    Names,
    ReadScales,
    ReferenceOutputs,
    RunReference,
    SavedOperator,
    SaveOperator,
    Scales,
    Stretch,
    WeightFacts,
)
from tflite_guard.results import Remedy
from tflite_guard.vocabulary import QUANTIZATIONS, RECIPES, StateUse

if TYPE_CHECKING:
    from tflite_guard.diagnosis.lab import Option, Ranges
    from tflite_guard.engine.calibration_facts import Seen
    from tflite_guard.engine.convert import FloatModel
    from tflite_guard.engine.evaluate import Subject
    from tflite_guard.engine.lab import Quantizer
    from tflite_guard.engine.tflite import Model

Calibration = Callable[[], Iterator[dict[str, Any]]]
OnProgress = Callable[[int, int], None]
OnPlace = Callable[[str], None]
# One export and one calibration serve all variants of a model; a second slot is for its QAT source.
SOURCES_KEPT = 2
MOST_COMPARED = 64 * 2**20
"""Bytes of a float model whose weights are compared."""


class Session:
    """One child's life: what it loaded for one request and may use for the next."""

    def __init__(self, *, allow_code: bool, scratch: str, roots: Sequence[str]) -> None:
        self._allow_code = allow_code
        self._scratch = scratch
        self._roots = roots
        self._sources: dict[str, FloatModel] = {}
        self._calibrations: dict[bytes, Calibration] = {}
        self._seen: dict[bytes, Seen | None] = {}
        self._progress: OnProgress = _quiet
        self._under_way = UnderWay(_quiet)

    def run(self, request: AnyRequest, out: str, progress: OnProgress, at: OnPlace) -> Any:
        """Do what is asked, with files written to the folder `out`; gives an answer of the request's type.

        `progress` is told of examples done and in all, `at` of what is being done with which.
        """
        self._progress = progress
        self._under_way = UnderWay(at)
        match request:
            case DescribeModel():
                return self._describe(request)
            case RunReference():
                return self._reference(request, out)
            case Convert():
                return self._convert(request, out)
            case ApplyRecipe():
                return self._recipe(request, out)
            case Evaluate():
                return self._evaluate(request, out)
            case Aggregate():
                return _aggregate(request)
            case ReadScales():
                return _scales(request)
            case Diagnose():
                return self._diagnose(request)
            case SaveOperator():
                return self._save_operator(request, out)
            case _:
                assert_never(request)

    def _describe(self, request: DescribeModel) -> Names:
        spec = request.reference
        return _file(spec).names if spec.kind in ("tflite", "artifact") else self._source(spec).names

    def _reference(self, request: RunReference, out: str) -> ReferenceOutputs:
        from tflite_guard.engine.meant import meant
        from tflite_guard.engine.outputs import batch_size, example_bytes, recorded_outputs, write_outputs
        from tflite_guard.engine.running import Running, run_batches

        spec, data = request.reference, request.dataset
        if spec.kind == "outputs":
            recorded = ((batch.rows, batch.inputs) for batch in recorded_outputs(spec.path, data, self._open))
            files, examples = write_outputs(recorded, out, self._progress, spec.path)
            return ReferenceOutputs(files, examples, None)
        runners: Sequence[Running]
        beside = None
        if spec.kind in ("tflite", "artifact"):
            from tflite_guard.engine.tflite import PREPARING, Runner

            model = _file(spec)
            names = model.names
            with self._doing(PREPARING):
                runners = [Runner(model) for _ in range(request.threads)]
        else:
            source = self._source(spec)
            names, runners = source.names, [source.reference]
            if request.convert and not source.reference.stateful:  # an export would hold what a run leaves
                beside = source.float32
        meant(request.metrics, names, canonical(data, names))  # refuses what is wrong before it takes time
        # Of what is beside the inputs, only groups say how a model is run: those in which its state is kept.
        data = replace(_with_state(data, request.state), labels=None, slices=())
        if request.state == "reset":
            data = replace(data, group=None)
        opened = self._open(canonical(data, names), list(names.inputs))
        stretch = None
        if request.piece is not None:
            stretch = Stretch(*request.piece.bounds(opened.examples), opened.examples)
            opened = opened.piece(stretch.first, stretch.last)
            if not opened.examples:
                return ReferenceOutputs((), 0, names, stretch=stretch)
        with about(data), _beside(beside):
            size = batch_size(opened, example_bytes(names.outputs.values()))
            ran = run_batches(runners, opened.batches(size), request.state, opened, opened.first_of_all(size))
            stream = ((batch.rows, outputs) for batch, outputs in ran)
            files, examples = write_outputs(stream, out, self._progress, spec.path, opened.examples)
        return ReferenceOutputs(files, examples, names, runners[0].facts(request.state), stretch)

    def _convert(self, request: Convert, out: str) -> Converted:
        conversion = request.conversion
        assert conversion.source is not None
        source = self._source(conversion.source)
        with about(conversion.calibration):
            model = source.quantize(conversion, self._calibration(conversion, source.names))
        return _written(model, out)

    def _recipe(self, request: ApplyRecipe, out: str) -> Converted:
        from tflite_guard.engine.recipes import quantize_with_recipe
        from tflite_guard.engine.tflite import Model

        conversion = request.conversion
        assert conversion.source is not None
        asked = conversion.source.signature if conversion.source.kind == "tflite" else None
        source = Model.read(request.float32, asked, place=conversion.source.places.get("signature"))
        source.require_main("a recipe")
        calibration = self._calibration(conversion, source.names)
        recipe = _recipe(conversion)
        assert recipe is not None
        with about(conversion.calibration), self._doing("applied the recipe"):
            model = quantize_with_recipe(
                Path(request.float32).read_bytes(),
                recipe,
                calibration,
                conversion.keep_float,
                conversion.calibration_options,
            )
        return _written(model, out)

    def _evaluate(self, request: Evaluate, out: str) -> Evaluation:
        from tflite_guard.engine.evaluate import collect, evaluate

        subject = self._subject(request)
        seen = self._calibration_seen(request, subject.names)
        if request.piece is None:
            found = evaluate(subject, request.options, self._progress, seen, request.stopping)
        else:
            found = collect(subject, request.options, self._progress, seen, str(Path(out) / COLLECTED))
        weights = None if request.float32 is None else _weights(request.float32, subject.model)
        return replace(found, reference=request.facts, weights=weights)

    def _calibration_seen(self, request: Evaluate, names: Names) -> Seen | None:
        """What the calibration data holds, looked at once for all variants; None where it cannot be read here."""
        from tflite_guard.engine.calibration_facts import calibration_seen

        if request.calibration is None or (request.calibration.source == "tfrecord" != request.dataset.source):
            return None  # reading TFRecords loads TensorFlow
        data = canonical(replace(request.calibration, labels=None, group=None, slices=()), names)
        key = msgspec.json.encode((data, request.samples, list(names.inputs)))
        if key not in self._seen:
            try:
                self._seen[key] = calibration_seen(self._open(data, list(names.inputs)), request.samples)
            except (DataError, NamingError):
                self._seen[key] = None
        return self._seen[key]

    def _subject(self, request: Evaluate) -> Subject:
        from tflite_guard.engine.evaluate import Subject, names_for
        from tflite_guard.engine.outputs import Outputs
        from tflite_guard.engine.tflite import Model

        recorded = Outputs(request.reference)
        own = None if request.names is None else request.names.signature
        model = Model.read(request.tflite, request.signature, own, place=request.signature_place)
        names = names_for(model, request.names, recorded)
        return Subject(
            model=model,
            recorded=recorded,
            names=names,
            dataset=canonical(_with_state(request.dataset, request.state), names),
            metrics=request.metrics,
            threads=request.threads,
            open_data=self._open,
            state=request.state,
            doing=self._doing,
            piece=request.piece,
        )

    def _diagnose(self, request: Diagnose) -> Diagnosed:
        from tflite_guard.diagnosis.lab import Case
        from tflite_guard.diagnosis.procedure import diagnose
        from tflite_guard.engine.lab import EngineLab, gathered_calibration

        subject, conversion = self._subject(request.evaluate), request.conversion
        workbench = self._workbench(request, subject)
        calibration = self._calibration(conversion, subject.names)
        recording = request.evaluate.options.observed_outputs
        lab = EngineLab(
            subject=subject,
            float_model=workbench.float_model,
            quantizer=workbench.quantizer,
            converter=workbench.converter,
            column=request.metric,
            calibration=None if calibration is None else gathered_calibration(calibration()),
            calibration_name="" if conversion.calibration is None else conversion.calibration.name,
            recipe=_recipe(conversion),
            shipped=conversion.tflite is not None,
            preprocess=(
                request.evaluate.dataset.preprocess,
                None if conversion.calibration is None else conversion.calibration.preprocess,
            ),
            kernels=request.evaluate.options.kernels,
            recording=None if recording is None else recording.path,
        )
        case = Case(
            request.metric,
            request.higher_is_better,
            request.failed,
            request.healthy,
            request.tolerances,
            request.application,
        )
        found = diagnose(lab, case)
        remedies = tuple(_whole(one, conversion) for one in found.remedies)
        front = tuple(_whole(one, conversion) for one in found.diagnosis.front)
        return replace(found, remedies=remedies, diagnosis=replace(found.diagnosis, front=front))

    def _save_operator(self, request: SaveOperator, out: str) -> SavedOperator:
        from tflite_guard.engine.extract import save_operator
        from tflite_guard.engine.feeds import calibration_examples

        subject = self._subject(request.evaluate)
        data = self._open(replace(subject.dataset, labels=None, group=None, slices=()), list(subject.names.inputs))
        batches = (batch.inputs for batch in data.batches(1, with_labels=False))
        with about(subject.dataset):
            examples = [*calibration_examples(batches, subject.names.inputs, request.examples)]
        float32, quantized = (Path(path).read_bytes() for path in (request.float32, request.evaluate.tflite))
        with self._doing("cut the operator out and ran it"):
            return save_operator(float32, quantized, request.tensor, examples, out)

    def _workbench(self, request: Diagnose, subject: Subject) -> Workbench:
        """How this child quantizes: with the converter where there is TensorFlow, else with the LiteRT Quantizer."""
        conversion, source = request.conversion, request.source
        own = self._calibration(conversion, subject.names)
        evaluation = Conversion("int8", source=source, calibration=request.evaluate.dataset)
        ranging = own or self._calibration(evaluation, subject.names)
        assert ranging is not None
        if not request.converter:
            return self._recipe_workbench(request, subject, own)
        model = self._source(source)

        def convert(option: Option) -> bytes:
            changed = _patched(conversion, option, request.evaluate.dataset)
            return model.quantize(changed, self._calibration(changed, model.names))

        return Workbench(model.rangeable(ranging), model.requantize, convert)

    def _recipe_workbench(self, request: Diagnose, subject: Subject, own: Calibration | None) -> Workbench:
        from tflite_guard.engine.recipes import prepared, quantize_with_ranges, quantize_with_recipe

        conversion = request.conversion
        static = "static_wi8_ai8"
        float_model = Path(request.float32 or request.source.path).read_bytes()

        def convert(option: Option) -> bytes:
            if "quantization" in option.patch:
                raise ConversionError("the LiteRT Quantizer makes recipes alone")
            changed = _patched(conversion, option, request.evaluate.dataset)
            calibration = self._calibration(changed, subject.names) if own else None
            return quantize_with_recipe(
                float_model, _recipe(changed) or static, calibration, changed.keep_float, changed.calibration_options
            )

        quantizer = partial(_by_ranges, quantize_with_ranges, static) if find_spec("litert_quantizer") else None
        return Workbench(prepared(float_model), quantizer, convert)

    def _source(self, spec: ReferenceSpec) -> FloatModel:
        waited = "tensorflow" not in sys.modules
        source = _converter()
        if waited:
            self._progress(0, 0)  # nothing is done yet, but TensorFlow is loaded
        key = msgspec.json.encode(spec).decode()
        if key not in self._sources:
            while len(self._sources) >= SOURCES_KEPT:
                del self._sources[next(iter(self._sources))]
            self._sources[key] = source(spec, self._scratch, allow_code=self._allow_code, doing=self._doing)
        return self._sources[key]

    def _open(self, spec: DatasetSpec, input_names: list[str]) -> Dataset:
        from tflite_guard.engine.tfrecord import read_tfrecord

        with self._doing(f"opened dataset {spec.name!r}"):
            return open_dataset(
                spec,
                input_names,
                allow_code=self._allow_code,
                tfrecord=read_tfrecord,
                roots=self._roots,
                under_way=self._under_way,
            )

    def _doing(self, what: str) -> AbstractContextManager[None]:
        return self._under_way.doing(what)

    def _calibration(self, conversion: Conversion, names: Names) -> Calibration | None:
        """The calibration examples, one at a time; the same object for the same data, so that ranges are kept."""
        if conversion.calibration is None:
            return None
        data, samples = canonical(conversion.calibration, names), conversion.calibration_options.samples
        key = msgspec.json.encode((data, samples, list(names.inputs)))

        def examples() -> Iterator[dict[str, Any]]:
            opened = self._open(data, list(names.inputs))
            for batch in islice(opened.batches(1, with_labels=False), samples):
                with opened.doing("calibrated with", batch.rows):
                    yield batch.inputs

        return self._calibrations.setdefault(key, examples)


@contextmanager
def _beside(work: Callable[[], Any] | None) -> Iterator[None]:
    """Do some work in a thread of its own; how it ends is for whoever asks for it again."""
    with ThreadPoolExecutor(1) as thread:
        if work is not None:
            thread.submit(work)
        yield


@cache
def _converter() -> type[FloatModel]:
    """What TensorFlow does, imported without collecting garbage over its half million new objects: 0.7 s less,
    and 0.1 s less a conversion, since the converter collects at each."""
    gc.disable()
    try:
        from tflite_guard.engine.convert import FloatModel
    finally:
        gc.freeze()
        gc.enable()
    return FloatModel


@dataclass(frozen=True)
class Workbench:
    """What a laboratory quantizes with."""

    float_model: bytes
    quantizer: Quantizer | None
    converter: Callable[[Option], bytes]


def _by_ranges(
    quantize: Callable[..., bytes], recipe: str, model: bytes, ranges: Ranges, nodes: Sequence[str]
) -> bytes:
    return quantize(model, recipe, ranges, nodes)


def _recipe(conversion: Conversion) -> str | None:
    """A recipe's name, or the path of its file."""
    return conversion.recipe.path if isinstance(conversion.recipe, FileSpec) else conversion.recipe


def _patched(conversion: Conversion, option: Option, evaluation: DatasetSpec) -> Conversion:
    """A conversion as it is with an option's patch in the manifest."""
    if option.target or option.also:
        # Whatever is not of the variant is of its calibration data.
        assert conversion.calibration is not None
        data = replace(conversion.calibration, preprocess=evaluation.preprocess)
        conversion = replace(conversion, calibration=data)
    if option.target:
        return conversion
    options = option.patch.get("calibration_options", {})
    kept = tuple(option.patch.get("keep_float", ()))
    equalize = tuple(option.patch.get("equalize", ()))
    quantization = option.patch.get("quantization", conversion.quantization)
    return replace(
        conversion,
        quantization=quantization,
        recipe=option.patch.get("recipe", conversion.recipe) if "quantization" not in option.patch else None,
        io=option.patch.get("io") or (conversion.io if quantization == conversion.quantization else "float32"),
        calibration_options=replace(conversion.calibration_options, **options),
        keep_float=(*conversion.keep_float, *kept) if quantization == "int8" or conversion.recipe else (),
        equalize=(*conversion.equalize, *equalize) if quantization == "int8" else (),
    )


def _whole(remedy: Remedy, conversion: Conversion) -> Remedy:
    """A remedy whose patch makes of the variant in the manifest what `_patched` made of its conversion."""
    patch = remedy.patch
    if remedy.target:
        return remedy
    for key, own in (("keep_float", conversion.keep_float), ("equalize", conversion.equalize)):
        if key in patch:
            # A merge patch replaces a list.
            patch = {**patch, key: [*own, *patch[key]]}
    if "recipe" in patch and isinstance(conversion.recipe, FileSpec) and conversion.recipe.sha256 is not None:
        patch = {**patch, "sha256": None}
    if patch.get("quantization", conversion.quantization) != conversion.quantization:
        patch = {**patch, **dict.fromkeys(_left(conversion, patch["quantization"]))}
    if conversion.calibration_options != CalibrationOptions() and not _calibrated(patch):
        patch = {**patch, "calibration_options": None}
    return replace(remedy, patch=patch)


def _calibrated(patch: Mapping[str, Any]) -> bool:
    """Whether a calibrated variant still is with a patch."""
    if "quantization" in patch:
        return QUANTIZATIONS[patch["quantization"]].calibrated
    return RECIPES.get(patch.get("recipe", ""), True)


def _left(conversion: Conversion, quantization: str) -> Iterator[str]:
    """The variant's own keys that another quantization leaves no place for."""
    if conversion.io != "float32":
        yield "io"
    if conversion.keep_float and quantization != "int8":
        yield "keep_float"
    if conversion.equalize and quantization != "int8":
        yield "equalize"
    if conversion.tflite is not None:
        yield "tflite"
        if conversion.tflite.sha256 is not None:
            yield "sha256"
        if conversion.signature is not None:
            yield "signature"


def _quiet(*_told: Any) -> None:
    pass


def _with_state(data: DatasetSpec, state: StateUse) -> DatasetSpec:
    """The dataset itself. Raises DataError where it cannot be the sequence that a kept state is carried through."""
    if state == "kept" and data.limit is not None:
        raise DataError(
            f"dataset {data.name!r} has a `limit`, which leaves examples out, and state that is kept needs every one "
            "in order; remove `limit`"
        )
    return data


def _aggregate(request: Aggregate) -> Evaluation:
    from tflite_guard.engine.collected import joined

    found = joined(request.collected, request.examples)
    return found.evaluation(request.evaluation, request.metrics, request.dataset.seed)


def _scales(request: ReadScales) -> Scales:
    from tflite_guard.engine import facts, graph

    return facts.scales(graph.read(request.tflite), Path(request.tflite).read_bytes)


def _weights(float32: str, model: Model) -> WeightFacts | None:
    """A file's weights beside a float model's; None where they cannot be paired, or would take long."""
    from tflite_guard.engine import graph
    from tflite_guard.engine.weights import Pair, float_constants

    if Path(float32).stat().st_size > MOST_COMPARED:
        return None
    content = Path(float32).read_bytes()
    exact = graph.read(content).main
    pair = Pair(exact, float_constants(content, exact), model)
    steps, cosine = pair.steps_apart(), pair.alike()
    return None if steps is None or cosine is None else WeightFacts(round(steps, 2), round(cosine, 5))


def _file(spec: ReferenceSpec) -> Model:
    """A reference's .tflite; refuses a quantized one where that is to be the float reference."""
    from tflite_guard.engine import graph
    from tflite_guard.engine.tflite import Model

    model = Model.read(spec.path, spec.signature, place=spec.places.get("signature"))
    quantized = graph.quantized_tensors(model.graph)
    if quantized and spec.kind == "tflite":
        raise ModelFileError(
            f"{spec.path}: is quantized ({quantized[0]}); a reference must be a float model, name the float .tflite"
        )
    return model


def _written(model: bytes, out: str) -> Converted:
    path = Path(out) / "model.tflite"
    path.write_bytes(model)
    return Converted(len(model))
