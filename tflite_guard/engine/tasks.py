"""A child's answers to what `protocol` lets a parent ask; arrays and models travel as files."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import msgspec

from tflite_guard.datasets import Dataset, about, open_dataset
from tflite_guard.errors import ModelFileError
from tflite_guard.manifest.types import Conversion, DatasetSpec, ReferenceSpec
from tflite_guard.protocol import (
    AnyRequest,
    ApplyRecipe,
    Convert,
    Converted,
    DescribeModel,
    Evaluate,
    Evaluation,
    Names,
    ReferenceOutputs,
    RunReference,
)

if TYPE_CHECKING:
    from tflite_guard.engine.convert import FloatModel

Calibration = Callable[[], Iterator[dict[str, Any]]]
OnProgress = Callable[[int, int], None]
# One export and one calibration serve all variants of a model; a second slot is for its QAT source.
SOURCES_KEPT = 2


class Session:
    """One child's life: what it loaded for one request and may use for the next."""

    def __init__(self, *, allow_code: bool, scratch: str, roots: Sequence[str]) -> None:
        self._allow_code = allow_code
        self._scratch = scratch
        self._roots = roots
        self._sources: dict[str, FloatModel] = {}
        self._calibrations: dict[bytes, Calibration] = {}
        self._progress: OnProgress = _quiet

    def run(self, request: AnyRequest, out: str, progress: OnProgress) -> Any:
        """Do what is asked, with files written to the folder `out`; gives an answer of the request's type."""
        self._progress = progress
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
                return self._evaluate(request)
            case _:
                assert_never(request)

    def _describe(self, request: DescribeModel) -> Names:
        spec = request.reference
        return _float_names(spec.path) if spec.kind == "tflite" else self._source(spec).names

    def _reference(self, request: RunReference, out: str) -> ReferenceOutputs:
        from tflite_guard.engine.outputs import batch_size, recorded_outputs, write_outputs

        spec, data = request.reference, request.dataset
        if spec.kind == "outputs":
            recorded = recorded_outputs(spec.path, data, self._open)
            files, examples = write_outputs(recorded, out, self._progress, spec.path)
            return ReferenceOutputs(files, examples, None)
        if spec.kind == "tflite":
            from tflite_guard.engine.tflite import evaluate_batches

            names = _float_names(spec.path)
            opened = self._open(data, list(names.inputs))
            batches = opened.batches(batch_size(opened), with_labels=False)
            stream = (outputs for _, outputs in evaluate_batches(spec.path, batches, "default", request.threads))
        else:
            source = self._source(spec)
            names = source.names
            opened = self._open(data, list(names.inputs))
            batches = opened.batches(batch_size(opened), with_labels=False)
            stream = (source.reference.predict(batch.inputs) for batch in batches)
        with about(data):
            files, examples = write_outputs(stream, out, self._progress, spec.path, opened.examples)
        return ReferenceOutputs(files, examples, names)

    def _convert(self, request: Convert, out: str) -> Converted:
        conversion = request.conversion
        assert conversion.source is not None
        source = self._source(conversion.source)
        with about(conversion.calibration):
            model = source.quantize(conversion, self._calibration(conversion, list(source.names.inputs)))
        return _written(model, out)

    def _recipe(self, request: ApplyRecipe, out: str) -> Converted:
        from tflite_guard.engine.recipes import quantize_with_recipe
        from tflite_guard.engine.tflite import names_of

        conversion = request.conversion
        assert conversion.recipe is not None
        calibration = self._calibration(conversion, list(names_of(request.float32).inputs))
        recipe = conversion.recipe if isinstance(conversion.recipe, str) else conversion.recipe.path
        with about(conversion.calibration):
            model = quantize_with_recipe(
                Path(request.float32).read_bytes(),
                recipe,
                calibration,
                conversion.keep_float,
                conversion.calibration_options,
            )
        return _written(model, out)

    def _evaluate(self, request: Evaluate) -> Evaluation:
        from tflite_guard.engine.evaluate import Subject, evaluate, names_for
        from tflite_guard.engine.outputs import Outputs

        recorded = Outputs(request.reference)
        subject = Subject(
            request.tflite,
            recorded,
            names_for(request.tflite, request.names, recorded),
            request.dataset,
            request.metrics,
            request.threads,
            self._open,
        )
        return replace(evaluate(subject, request.options, self._progress), reference=request.facts)

    def _source(self, spec: ReferenceSpec) -> FloatModel:
        source = _converter()
        key = msgspec.json.encode(spec).decode()
        if key not in self._sources:
            while len(self._sources) >= SOURCES_KEPT:
                del self._sources[next(iter(self._sources))]
            self._sources[key] = source(spec, self._scratch, allow_code=self._allow_code)
        return self._sources[key]

    def _open(self, spec: DatasetSpec, input_names: list[str]) -> Dataset:
        from tflite_guard.engine.tfrecord import read_tfrecord

        return open_dataset(spec, input_names, allow_code=self._allow_code, tfrecord=read_tfrecord, roots=self._roots)

    def _calibration(self, conversion: Conversion, input_names: list[str]) -> Calibration | None:
        """The calibration examples, one at a time; the same object for the same data, so that ranges are kept."""
        if conversion.calibration is None:
            return None
        data, samples = conversion.calibration, conversion.calibration_options.samples
        key = msgspec.json.encode((data, samples, input_names))

        def examples() -> Iterator[dict[str, Any]]:
            batches = self._open(data, input_names).batches(1, with_labels=False)
            return (batch.inputs for batch in islice(batches, samples))

        return self._calibrations.setdefault(key, examples)


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


def _quiet(_done: int, _total: int) -> None:
    pass


def _float_names(path: str) -> Names:
    """A float .tflite's inputs and outputs; refuses a quantized one, which can be no float reference."""
    from tflite_guard.engine import graph
    from tflite_guard.engine.tflite import names_of

    quantized = graph.quantized_tensors(graph.read(path))
    if quantized:
        raise ModelFileError(
            f"{path}: is quantized ({quantized[0]}); a reference must be a float model, name the float .tflite"
        )
    return names_of(path)


def _written(model: bytes, out: str) -> Converted:
    path = Path(out) / "model.tflite"
    path.write_bytes(model)
    return Converted(len(model))
