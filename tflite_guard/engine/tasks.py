"""What a child can be asked to do. Arguments and results are JSON; arrays and models travel as files."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tflite_guard.datasets import Dataset, about, open_dataset
from tflite_guard.errors import ModelFileError
from tflite_guard.manifest.types import DatasetSpec, MetricSpec, ReferenceSpec, VariantSpec

if TYPE_CHECKING:
    from tflite_guard.engine.convert import FloatModel

Calibration = Callable[[], Iterator[dict[str, Any]]]
OnProgress = Callable[[int, int], None]
# One export and one calibration serve all variants of a model; a second slot is for its QAT source.
SOURCES_KEPT = 2


class Session:
    """One child's life: what it loaded for one request and may use for the next."""

    def __init__(self, *, allow_code: bool, scratch: str, measures: list[str]) -> None:
        self._allow_code = allow_code
        self._scratch = scratch
        self._measures = measures
        self._sources: dict[str, FloatModel] = {}
        self._calibrations: dict[bytes, Calibration] = {}
        self._progress: OnProgress = _quiet

    def run(self, task: str, arguments: dict[str, Any], progress: OnProgress) -> dict[str, Any]:
        """Do one task by name."""
        self._progress = progress
        result: dict[str, Any] = getattr(self, f"task_{task}")(**arguments)
        return result

    def task_describe(self, *, reference: dict[str, Any]) -> dict[str, Any]:
        """Names, shapes and types of a model's inputs and outputs; what `init` asks."""
        spec = msgspec.convert(reference, ReferenceSpec)
        if spec.kind == "tflite":
            return _builtins(_float_names(spec.path, spec.signature))
        return _builtins(self._source(spec).names)

    def task_reference(
        self, *, reference: dict[str, Any], dataset: dict[str, Any], out: str, threads: int
    ) -> dict[str, Any]:
        """Run the float reference over a dataset; write its outputs to `out` and give their files and names."""
        from tflite_guard.engine.outputs import batch_size, recorded_outputs, write_outputs

        spec = msgspec.convert(reference, ReferenceSpec)
        data = msgspec.convert(dataset, DatasetSpec)
        if spec.kind == "outputs":
            written = write_outputs(recorded_outputs(spec.path, data, self._open), out, self._progress, spec.path)
            return written | {"names": None}
        if spec.kind == "tflite":
            from tflite_guard.engine.tflite import evaluate_batches

            names = _float_names(spec.path)
            opened = self._open(data, list(names.inputs))
            batches = opened.batches(batch_size(opened), with_labels=False)
            stream = (outputs for _, outputs in evaluate_batches(spec.path, batches, "default", threads))
        else:
            source = self._source(spec)
            names = source.names
            opened = self._open(data, list(names.inputs))
            batches = opened.batches(batch_size(opened), with_labels=False)
            stream = (source.reference.predict(batch.inputs) for batch in batches)
        with about(data):
            written = write_outputs(stream, out, self._progress, spec.path, opened.examples)
        return written | {"names": _builtins(names)}

    def task_convert(self, *, reference: dict[str, Any], variant: dict[str, Any], out: str) -> dict[str, Any]:
        """Make one variant with the TFLiteConverter and write it to `out`/model.tflite."""
        spec = msgspec.convert(variant, VariantSpec)
        source = self._source(msgspec.convert(reference, ReferenceSpec))
        with about(spec.calibration):
            model = source.quantize(spec, self._calibration(spec, list(source.names.inputs)))
        return _write_model(model, out)

    def task_recipe(self, *, float32: str, variant: dict[str, Any], out: str) -> dict[str, Any]:
        """Make one variant with the AI Edge Quantizer from a float .tflite."""
        from tflite_guard.engine.recipes import quantize_with_recipe
        from tflite_guard.engine.tflite import names_of

        spec = msgspec.convert(variant, VariantSpec)
        assert spec.recipe is not None
        calibration = self._calibration(spec, list(names_of(float32).inputs))
        with about(spec.calibration):
            model = quantize_with_recipe(
                Path(float32).read_bytes(), spec.recipe, calibration, spec.keep_float, spec.calibration_options
            )
        return _write_model(model, out)

    def task_evaluate(
        self,
        *,
        tflite: str,
        reference: str,
        names: dict[str, Any] | None,
        dataset: dict[str, Any],
        metrics: list[Any],
        variant: dict[str, Any],
        threads: int,
        out: str,
    ) -> dict[str, Any]:
        """Evaluate one .tflite against recorded reference outputs; scores go to `out`/scores.npz."""
        from tflite_guard.engine.evaluate import Subject, evaluate, names_for
        from tflite_guard.engine.outputs import Outputs

        recorded = Outputs(reference)
        subject = Subject(
            tflite,
            recorded,
            names_for(tflite, names, recorded),
            msgspec.convert(dataset, DatasetSpec),
            msgspec.convert(metrics, tuple[MetricSpec, ...]),
            threads,
            self._open,
        )
        return evaluate(subject, msgspec.convert(variant, VariantSpec), out, self._progress)

    def task_measures(self) -> dict[str, Any]:
        """What confines this child."""
        return {"measures": self._measures}

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

        return open_dataset(spec, input_names, allow_code=self._allow_code, tfrecord=read_tfrecord)

    def _calibration(self, spec: VariantSpec, input_names: list[str]) -> Calibration | None:
        """The calibration examples, one at a time; the same object for the same data, so that ranges are kept."""
        if spec.calibration is None:
            return None
        data, samples = spec.calibration, spec.calibration_options.samples
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


def _float_names(path: str, signature: str | None = None) -> Any:
    """A float .tflite's inputs and outputs; refuses a quantized one, which can be no float reference.

    With `signature` they are that signature's, which must be there unless the file has at most one.
    """
    from tflite_guard.engine import graph
    from tflite_guard.engine.names import Names, TensorInfo
    from tflite_guard.engine.tflite import names_of

    model = graph.read(path)
    quantized = graph.quantized_tensors(model)
    if quantized:
        raise ModelFileError(
            f"{path}: is quantized ({quantized[0]}); a reference must be a float model, name the float .tflite"
        )
    chosen = model.signatures.get(signature or "")
    if chosen is not None:
        tensors = model.subgraphs[chosen.subgraph].tensors
        inputs, outputs = (
            {name: TensorInfo(tensors[i].shape_signature, tensors[i].dtype) for name, i in side.items()}
            for side in (chosen.inputs, chosen.outputs)
        )
        return Names(inputs, outputs)
    if signature is not None and (len(model.signatures) > 1 or signature != ReferenceSpec.signature):
        there = ", ".join(sorted(model.signatures)) or "none"
        raise ModelFileError(f'{path} has no signature "{signature}"; there are: {there}', "signature")
    return names_of(path)


def _builtins(value: Any) -> dict[str, Any]:
    result: dict[str, Any] = msgspec.to_builtins(value)
    return result


def _write_model(model: bytes, out: str) -> dict[str, Any]:
    path = Path(out) / "model.tflite"
    path.write_bytes(model)
    return {"size_bytes": len(model)}
