"""A laboratory of plain arrays: a network of two layers that is quantized by rounding, without TensorFlow or LiteRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from tflite_guard.diagnosis.evidence import decibels
from tflite_guard.diagnosis.lab import Change, FloatGraph, Made, Operator, Option, Port, Ports, Samples, TensorView
from tflite_guard.errors import ConversionError
from tflite_guard.manifest.types import MetricSpec
from tflite_guard.metrics import measure, per_example, statistic

GRAPH = FloatGraph(
    ("x",),
    ("output",),
    (
        Operator("FULLY_CONNECTED", ("x",), ("hidden",), ("W1",), "RELU"),
        Operator("FULLY_CONNECTED", ("hidden",), ("output",), ("W2",)),
    ),
)
DEEP = FloatGraph(
    ("x",),
    ("output",),
    (
        Operator("FULLY_CONNECTED", ("x",), ("hidden",), ("W1",), "RELU"),
        Operator("FULLY_CONNECTED", ("hidden",), ("deep",), ("W3",), "RELU"),
        Operator("FULLY_CONNECTED", ("deep",), ("output",), ("W2",)),
    ),
)
POOLED = FloatGraph(
    ("x",),
    ("output",),
    (
        *DEEP.operators[:2],
        Operator("MAX_POOL_2D", ("deep",), ("pooled",)),
        Operator("FULLY_CONNECTED", ("pooled",), ("output",), ("W2",)),
    ),
)
ACCURACY = MetricSpec("accuracy", "accuracy")


def rounded(values: np.ndarray, low: float, high: float, steps: int = 255) -> np.ndarray:
    """Values on steps from `low` to `high`, zero among them."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / steps or 1.0
    zero = np.rint(-low / scale)
    return (np.clip(np.rint(values / scale) + zero, 0, steps) - zero) * scale


@dataclass
class PlainLab:
    """x → hidden = relu(x W1) → output = hidden W2."""

    first: np.ndarray
    second: np.ndarray
    evaluation: Samples
    labels: np.ndarray
    calibration: Samples | None
    given: dict[str, tuple[float, float]]
    """The artifact's ranges."""
    shipped: bool = False
    weight_steps: int = 255
    """In how many steps weights are quantized."""
    recipe: str | None = None
    eight_bits: bool = True
    quantizable: bool = True
    calibration_name: str = "calib"
    preprocess: tuple[Any, Any] = ((), ())
    observed: dict[str, np.ndarray] | None = None
    own: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The artifact's weights where they are others."""
    graph: FloatGraph = GRAPH
    form: str = "integer"
    kernels: str = "default"
    wrong_kernels: str | None = None
    """Those that compute something else."""
    ports: Ports = field(default_factory=lambda: Ports({"x": Port("int8", 0.1)}, {"output": Port("int8", 0.1)}))

    @property
    def artifact_ranges(self) -> dict[str, tuple[float, float]]:
        return self.given

    @property
    def artifact_names(self) -> dict[str, str]:
        return {name: f"{name}/quantized" for name in self.given}

    @property
    def artifact(self) -> Any:
        return Change(self.given, constants=self.own)

    @property
    def float32(self) -> Any:
        return None

    def _run(self, handle: Any, x: np.ndarray) -> dict[str, np.ndarray]:
        constants = {} if handle is None else dict(handle.constants or {})
        first, second = constants.get("W1", self.first), constants.get("W2", self.second)
        kept = self._kept(handle)

        def seen(name: str, values: np.ndarray) -> np.ndarray:
            if handle is None or name in kept:
                return values
            return rounded(values, *handle.ranges[name])

        if handle is not None:
            first, second = (
                weights if name in kept else self._coarse(weights) for name, weights in (("W1", first), ("W2", second))
            )
        x = seen("x", x)
        hidden = seen("hidden", np.maximum(x @ first.T, 0))
        return {"x": x, "hidden": hidden, "output": seen("output", hidden @ second.T)}

    def _kept(self, handle: Any) -> set[str]:
        """What stays in float where tensors do: the operators around them, with all that those read and give."""
        if handle is None:
            return set()
        around = [one for one in self.graph.operators if set(handle.keep) & {*one.inputs, *one.outputs}]
        return {name for one in around for name in (*one.outputs, *one.constants)} | set(handle.keep)

    def reference(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return self.outputs(None, self.evaluation.take(rows))

    def outputs(self, handle: Any, samples: Samples, kernels: str | None = None) -> dict[str, np.ndarray]:
        given = self._run(handle, samples.inputs["x"])["output"].astype(np.float32)
        wrong = handle is not None and (kernels or self.kernels) == self.wrong_kernels
        return {"output": given[:, ::-1] if wrong else given}

    def scores(self, outputs: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
        return per_example(ACCURACY, outputs["output"], self.reference(rows)["output"], self.labels[rows])

    def statistic(self, scores: Mapping[str, np.ndarray], weights: np.ndarray) -> np.ndarray:
        return statistic(ACCURACY, dict(scores))(weights)

    def measured(self, outputs: dict[str, np.ndarray], rows: np.ndarray) -> list[Any]:
        return [("accuracy", measure(ACCURACY, self.scores(outputs, rows)))]

    def quantize(self, change: Change) -> Change:
        return replace(change, ranges={**self.given, **change.ranges})

    def convert(self, option: Option) -> Made:
        if "keep_float" in option.patch:
            ranges = self.ranges(self.evaluation) if option.also else self.given
            return Made(Change(ranges, keep=option.keep), 100, len(option.keep))
        if option.patch.get("quantization") == "int8" and self.calibration is not None:
            return Made(Change(self.ranges(self.calibration)), 100, 0)
        if option.patch.get("calibration_options") and self.calibration is not None:
            return Made(Change(self.ranges(self.calibration)), 100, 0)
        if option.patch.get("recipe") == "static_wi8_ai16":
            return Made(None, 120, 0)
        raise ConversionError("not here")

    def ranges(
        self, samples: Samples, constants: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, tuple[float, float]]:
        first, second = self.first, self.second
        changed = constants or {}
        hidden = np.maximum(samples.inputs["x"] @ changed.get("W1", first).T, 0)
        values = {"x": samples.inputs["x"], "hidden": hidden, "output": hidden @ changed.get("W2", second).T}
        return {name: (float(array.min()), float(array.max())) for name, array in values.items()}

    def edited(self, constants: Mapping[str, np.ndarray]) -> Any:
        return _Float(constants)

    def values(self, tensors: Sequence[str], samples: Samples) -> list[dict[str, np.ndarray]]:
        found = self._run(None, samples.inputs["x"])
        return [{name: found[name][row] for name in tensors} for row in range(samples.count)]

    def tensors(
        self, ranges: Mapping[str, tuple[float, float]], rows: np.ndarray, *, alone: bool = False
    ) -> list[TensorView]:
        views = []
        for name, values in self._run(None, self.evaluation.take(rows).inputs["x"]).items():
            lost = np.square(rounded(values, *ranges[name]) - values)
            each = [decibels(float(s), float(n)) for s, n in zip(np.square(values).sum(0), lost.sum(0), strict=True)]
            views.append(
                TensorView(
                    name,
                    "input" if name == "x" else "FULLY_CONNECTED",
                    (float(values.min()), float(values.max())),
                    np.stack([values.min(0), values.max(0)], 1),
                    decibels(float(np.square(values).sum()), float(lost.sum())),
                    min((one for one in each if one is not None), default=None),
                    None,
                    float(((values < ranges[name][0]) | (values > ranges[name][1])).mean()),
                    len(np.unique(rounded(values, *ranges[name]))),
                )
            )
        return views

    def constant(self, name: str) -> np.ndarray:
        return {"W1": self.first, "W2": self.second}[name]

    def width(self, tensor: str) -> int:
        return {"x": self.first.shape[1], "hidden": len(self.first), "output": len(self.second)}[tensor]

    def weights_differ(self) -> float | None:
        if "W1" not in self.own:
            return 0.5
        return float(np.abs(self.own["W1"] - self.first).max() / (np.abs(self.own["W1"]).max() / 127))

    def weights_alike(self) -> float | None:
        return None

    def largest_constant(self) -> float:
        return float(max(np.abs(self.first).max(), np.abs(self.second).max()))

    def float16(self) -> Any:
        return _Float({})

    def rounded(self) -> Any:
        return _Float({name: self._coarse(self.constant(name)) for name in ("W1", "W2")})

    def _coarse(self, weights: np.ndarray) -> np.ndarray:
        return rounded(weights, -np.abs(weights).max(), np.abs(weights).max(), self.weight_steps)

    def int16x8(self, ranges: Mapping[str, tuple[float, float]]) -> Any:
        return None

    def place(self, tensor: str) -> str:
        return tensor

    def layer(self, tensor: str) -> str:
        return tensor


@dataclass(frozen=True)
class _Float:
    """A float model with other constants."""

    constants: Mapping[str, np.ndarray]
    ranges: Any = field(default_factory=lambda: _Everything())
    keep: tuple[str, ...] = ("x", "hidden", "output")


class _Everything(dict[str, tuple[float, float]]):
    def __missing__(self, _: str) -> tuple[float, float]:
        raise AssertionError("everything is in float")


@dataclass
class DeepLab(PlainLab):
    """x → hidden = relu(x W1) → deep = relu(hidden W3) → output = deep W2."""

    middle: np.ndarray = field(default_factory=lambda: np.eye(1))
    graph: FloatGraph = DEEP

    def _activations(self, constants: Mapping[str, np.ndarray], x: np.ndarray, seen: Any) -> dict[str, np.ndarray]:
        first, middle, second = (constants.get(name, self.constant(name)) for name in ("W1", "W3", "W2"))
        x = seen("x", x)
        hidden = seen("hidden", np.maximum(x @ first.T, 0))
        deep = seen("deep", np.maximum(hidden @ middle.T, 0))
        return {"x": x, "hidden": hidden, "deep": deep, "output": seen("output", deep @ second.T)}

    def _run(self, handle: Any, x: np.ndarray) -> dict[str, np.ndarray]:
        if handle is None:
            return self._activations({}, x, lambda _, values: values)
        kept = self._kept(handle)
        changed = {name: (handle.constants or {}).get(name, self.constant(name)) for name in ("W1", "W3", "W2")}
        constants = {
            name: values if name in kept else rounded(values, -np.abs(values).max(), np.abs(values).max())
            for name, values in changed.items()
        }
        return self._activations(
            constants, x, lambda name, values: values if name in kept else rounded(values, *handle.ranges[name])
        )

    def edited(self, constants: Mapping[str, np.ndarray]) -> Any:
        return Change({}, keep=self.graph.activations, constants=constants)

    def ranges(
        self, samples: Samples, constants: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, tuple[float, float]]:
        found = self._activations(constants or {}, samples.inputs["x"], lambda _, values: values)
        return {name: (float(array.min()), float(array.max())) for name, array in found.items()}

    def constant(self, name: str) -> np.ndarray:
        return self.middle if name == "W3" else super().constant(name)

    def width(self, tensor: str) -> int:
        return len(self.middle) if tensor == "deep" else super().width(tensor)


@dataclass
class PooledLab(DeepLab):
    """x → hidden = relu(x W1) → deep = relu(hidden W3) → pooled = deep → output = pooled W2."""

    graph: FloatGraph = POOLED

    def _activations(self, constants: Mapping[str, np.ndarray], x: np.ndarray, seen: Any) -> dict[str, np.ndarray]:
        found = super()._activations(constants, x, seen)
        return {**found, "pooled": found["deep"]}

    def width(self, tensor: str) -> int:
        return super().width("deep" if tensor == "pooled" else tensor)


def network(seed: int = 0, inputs: int = 12, hidden: int = 24, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the two layers, (hidden, inputs) and (classes, hidden)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(hidden, inputs)), rng.normal(size=(classes, hidden))


def examples(count: int, inputs: int = 12, seed: int = 1) -> np.ndarray:
    """Inputs of a standard normal, (count, inputs)."""
    return np.random.default_rng(seed).normal(size=(count, inputs))


@pytest.fixture
def healthy() -> PlainLab:
    """A network with its ranges taken on data like the evaluation's."""
    first, second = network()
    x = examples(900)
    labels = (np.maximum(x @ first.T, 0) @ second.T).argmax(1)
    lab = PlainLab(first, second, Samples({"x": x}), labels, Samples({"x": examples(200, seed=2)}), {})
    lab.given = lab.ranges(Samples({"x": examples(200, seed=2)}))
    return lab
