"""Helpers of the engine's tests: small models with data, and plain loops to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from tflite_guard.engine.convert import FloatModel
from tflite_guard.engine.tflite import Model, Runner
from tflite_guard.manifest.types import Conversion, FileSpec, ReferenceSpec
from tflite_guard.protocol import Names

EXAMPLES = 24


@dataclass
class Case:
    """A small model with data; artifacts are made when first asked for."""

    path: Path
    data: dict[str, np.ndarray]
    scratch: Path
    kind: str = "keras"
    _source: FloatModel | None = None
    _made: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def spec(self) -> ReferenceSpec:
        return ReferenceSpec(self.kind, FileSpec(str(self.path)))

    @property
    def source(self) -> FloatModel:
        if self._source is None:
            self._source = FloatModel(self.spec, str(self.scratch))
        return self._source

    def calibration(self) -> Iterator[dict[str, np.ndarray]]:
        for i in range(EXAMPLES):
            yield {name: values[i : i + 1] for name, values in self.data.items()}

    def tflite(self, quantization: str, io: str = "float32") -> str:
        if (quantization, io) not in self._made:
            path = self.scratch / f"{self.path.stem}-{quantization}-{io}.tflite"
            path.write_bytes(self.source.quantize(Conversion(quantization, io=io), self.calibrated))
            self._made[quantization, io] = str(path)
        return self._made[quantization, io]

    @property
    def calibrated(self) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
        return self.__dict__.setdefault("_calibrated", self.calibration)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(EXAMPLES, *shape)).astype("float32")


def runners(path: str, expected: Names | None = None, threads: int = 2) -> list[Runner]:
    """Interpreters of one file, as an evaluation opens them."""
    model = Model.read(path)
    return [Runner(model, expected=expected) for _ in range(threads)]


def runner(path: str, expected: Names | None = None) -> Runner:
    """One interpreter, bound to a reference's names or to the file's own."""
    return runners(path, expected, 1)[0]


def single_runs(path: str, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a user's own loop with a batch of one gives: a new interpreter's signature runner for every example."""
    collected: dict[str, list[np.ndarray]] = {}
    for i in range(len(next(iter(data.values())))):
        interpreter = Interpreter(model_path=path, num_threads=1)
        runner = interpreter.get_signature_runner()
        feeds = {name: _quantized(values[i : i + 1], runner.get_input_details()[name]) for name, values in data.items()}
        details = runner.get_output_details()
        for name, value in runner(**feeds).items():
            collected.setdefault(name, []).append(_dequantized(value, details[name]))
    return {name: np.concatenate(values) for name, values in collected.items()}


def lone(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The only output, whatever it is called."""
    (values,) = outputs.values()
    return values


def _quantized(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    if scale == 0:
        return values.astype(detail["dtype"])
    limits = np.iinfo(detail["dtype"])
    steps = np.rint(values / np.float32(scale)) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(detail["dtype"])


def _dequantized(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    return values if scale == 0 else (values.astype("float32") - np.float32(zero_point)) * np.float32(scale)


def edited(path: str, out: Path, edit: Callable[[Any], None]) -> str:
    """A copy of a .tflite with something changed."""
    content = schema.ModelT.InitFromPackedBuf(Path(path).read_bytes())
    edit(content)
    builder = flatbuffers.Builder(1024)
    builder.Finish(content.Pack(builder), b"TFL3")
    out.write_bytes(bytes(builder.Output()))
    return str(out)


def without_signature(path: str, out: Path) -> str:
    def strip(content: Any) -> None:
        content.signatureDefs = None

    return edited(path, out, strip)
