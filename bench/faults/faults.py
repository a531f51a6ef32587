"""Faults as they happen to people, made in healthy models: each is a function from a case to the case with it.

A fault that a model has no place for raises `NotHere`. Magnitudes are strings, so that they can be part of a name.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cases
import graph
import keras
import models
import numpy as np
from cases import Case
from models import LABEL, Array

layers = keras.layers
STALE_SQNR = 27.0
"""Another training may be as accurate; its fidelity shows that it is another model. Healthy ones have 33 and more."""
Fault = Callable[[Case, str, np.random.Generator], Case]


class NotHere(Exception):  # noqa: N818 (not an error: there is no such place in the model)
    """The model has no place for the fault."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault, with magnitudes to develop with and others to hold out."""

    fault: Fault
    expected: tuple[str, ...]
    development: tuple[str, ...]
    held_out: tuple[str, ...]


def calibration_range(case: Case, magnitude: str, rng: np.random.Generator) -> Case:  # noqa: ARG001
    """Calibration data scaled unlike real inputs: a factor, or `centred` for -1..1 where 0..1 is meant."""
    if magnitude == "centred":
        return replace(case, calibration_steps=(*case.calibration_steps, {"scale": 2.0}, {"offset": -1.0}))
    return replace(case, calibration_steps=(*case.calibration_steps, {"scale": float(magnitude)}))


def calibration_degenerate(case: Case, magnitude: str, rng: np.random.Generator) -> Case:
    """One sample repeated, constants, or as few samples as the magnitude says."""
    count = len(_first(case.calibration))
    chosen = int(rng.integers(count))

    def changed(values: Array) -> Array:
        if magnitude == "repeated":
            return np.repeat(values[chosen : chosen + 1], count, axis=0)
        if magnitude == "zeros":
            return np.zeros_like(values)
        if magnitude == "mean":
            return np.full_like(values, values.mean())
        return values[chosen : chosen + int(magnitude)]

    return replace(case, calibration={key: changed(values) for key, values in case.calibration.items()})


def calibration_unrepresentative(case: Case, magnitude: str, rng: np.random.Generator) -> Case:
    """Noise in the inputs' own range, or samples of one class, or faint ones only."""
    if magnitude in ("uniform", "normal"):
        return replace(case, calibration={k: _noise(v, magnitude, rng) for k, v in case.calibration.items()})
    keep = _one_class(case, rng) if magnitude == "one-class" else _faint(case, float(magnitude))
    return replace(case, calibration={key: values[keep] for key, values in case.calibration.items()})


def _noise(values: Array, magnitude: str, rng: np.random.Generator) -> Array:
    low, high = float(values.min()), float(values.max())
    if magnitude == "uniform":
        made = rng.uniform(low, high, values.shape)
    else:
        made = np.clip(rng.normal(values.mean(), values.std() / 3, values.shape), low, high)
    return made.astype(values.dtype)


def _one_class(case: Case, rng: np.random.Generator) -> Array:
    if case.metric != "accuracy" or LABEL not in case.calibration:
        raise NotHere
    labels = case.calibration[LABEL]
    return labels == rng.choice(np.unique(labels))


def _faint(case: Case, share: float) -> Array:
    values = _first(case.calibration).astype(np.float64)
    power = (values**2).reshape(len(values), -1).sum(1)
    return power <= np.quantile(power, share)


def calibration_outliers(case: Case, magnitude: str, rng: np.random.Generator) -> Case:
    """A few samples, too large by a factor: one in a hundred, at least one."""
    key = _main_input(case)
    values = case.calibration[key].astype(np.float32)
    chosen = rng.choice(len(values), max(1, len(values) // 100), replace=False)
    values[chosen] *= float(magnitude)
    return replace(case, calibration={**case.calibration, key: values})


def channel_imbalance(case: Case, magnitude: str, rng: np.random.Generator) -> Case:
    """One layer's channels scaled log-uniformly in e^±magnitude, and the next layer's kernel by the inverse."""
    untouched = [site for site in graph.sites(case.network) if site.producer.name not in case.places]
    site = _chosen(untouched, rng)
    graph.scale(site, np.exp(rng.uniform(-float(magnitude), float(magnitude), site.channels)))
    return cases.at(case, *site.places)


def weight_outliers(case: Case, magnitude: str, rng: np.random.Generator) -> Case:
    """Huge weights that a silent channel is multiplied by, in all of the next layer's output channels."""
    both = {k: np.concatenate([cases.inputs_of(case)[k], cases.calibration_of(case)[k]]) for k in case.subject.inputs}
    found = [site for site in graph.sites(case.network) if not isinstance(site.consumer, layers.DepthwiseConv2D)]
    silent = [(site, channels) for site in found if len(channels := graph.silent_channels(case.network, site, both))]
    if not silent:
        raise NotHere
    site, channels = silent[rng.integers(len(silent))]
    outputs = np.arange(site.consumer.kernel.shape[-1])
    largest = float(np.abs(np.array(site.consumer.kernel)).max())
    graph.set_input_weight(site, int(channels[0]), outputs, largest * float(magnitude))
    return cases.at(case, site.consumer.name, *_activations(site.consumer))


def concat_range(case: Case, magnitude: str, rng: np.random.Generator) -> Case:
    """One branch of a concatenation scaled by the magnitude, which the next layer undoes."""
    site = _chosen(graph.branches(case.network), rng)
    graph.scale(site, np.full(site.channels, float(magnitude)))
    assert site.concatenation is not None
    return cases.at(case, site.concatenation.name, *site.places)


def stale_artifact(case: Case, magnitude: str, rng: np.random.Generator) -> Case:
    """A shipped file of another training, or of weights off by a share of their deviation."""
    old = keras.models.clone_model(case.network)
    old.set_weights(case.network.get_weights())
    if magnitude == "retrained":
        if case.subject.other is None:
            raise NotHere
        old = keras.models.load_model(case.subject.other, compile=False)
    else:
        for weight in old.trainable_weights:
            values = np.array(weight)
            weight.assign(values + rng.normal(0, float(magnitude) * max(float(values.std()), 1e-6), values.shape))
    stricter = replace(case, tolerances={**case.tolerances, "sqnr": {"min": STALE_SQNR}})
    return _shipped(stricter, converted(replace(case, network=old), "int8"))


def input_range(case: Case, magnitude: str, rng: np.random.Generator) -> Case:  # noqa: ARG001
    """A shipped file that wants other inputs than the evaluation's: the reference scales them itself.

    The magnitude is the factor that the reference applies; `centred` also shifts by one half.
    """
    if len(case.subject.inputs) > 1:
        raise NotHere
    name = _main_input(case)
    factor, offset = (2.0, -1.0) if magnitude == "centred" else (float(magnitude), 0.0)
    shipped = converted(case, "int8")
    wrapped = _with_rescaled_input(case.network, name, factor, offset)
    undone = ({"scale": 1 / factor}, {"offset": -offset / factor})
    steps = (*case.steps, *undone)
    return _shipped(replace(case, network=wrapped, steps=steps, calibration_steps=steps), shipped)


def _with_rescaled_input(network: keras.Model, name: str, factor: float, offset: float) -> keras.Model:
    inputs = keras.Input(network.inputs[0].shape[1:], name=name)
    return keras.Model(inputs, network(layers.Rescaling(factor, offset=offset, name="rescaled")(inputs)))


def io_misuse(case: Case, magnitude: str, rng: np.random.Generator) -> Case:  # noqa: ARG001
    """Outputs that an application recorded which treats integers wrongly; the magnitude says how."""
    shipped = converted(case, "int8", io="int8")
    observed = _misused(shipped, cases.inputs_of(case), magnitude)
    variant = {"name": "shipped", "tflite": cases.SHIPPED, "observed_outputs": cases.OBSERVED, "observed_tolerance": 1}
    return replace(case, variant=variant, shipped=shipped, observed={"output": observed})


def _misused(content: bytes, inputs: models.Arrays, misuse: str) -> Array:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    sources, (sink,) = interpreter.get_input_details(), interpreter.get_output_details()
    fed = [(source, _fed(_input_for(source, inputs), source, misuse)) for source in sources]
    collected = []
    for index in range(len(_first(inputs))):
        for source, values in fed:
            interpreter.set_tensor(source["index"], values[index : index + 1])
        interpreter.invoke()
        collected.append(interpreter.get_tensor(sink["index"]))
    return _read(np.concatenate(collected), sink, misuse)


def _input_for(detail: dict[str, Any], inputs: models.Arrays) -> Array:
    return next(values for name, values in inputs.items() if f"_{name}:" in detail["name"] or name in detail["name"])


def _fed(values: Array, detail: dict[str, Any], misuse: str) -> Array:
    scale, zero_point = detail["quantization"]
    if misuse == "input-not-quantized":
        return values.astype(np.int8)
    if misuse == "input-zero-point-ignored":
        return np.clip(np.round(values / scale), -128, 127).astype(np.int8)
    if misuse == "input-as-uint8":
        return (np.clip(np.round(values / scale) + zero_point + 128, 0, 255)).astype(np.uint8).view(np.int8)
    steps = values / scale + zero_point
    if misuse == "input-not-rounded":
        return np.clip(np.trunc(steps), -128, 127).astype(np.int8)
    return np.clip(np.round(steps), -128, 127).astype(np.int8)


def _read(raw: Array, detail: dict[str, Any], misuse: str) -> Array:
    scale, zero_point = detail["quantization"]
    if misuse == "output-not-dequantized":
        return raw.astype(np.float32)
    if misuse == "output-zero-point-ignored":
        return raw.astype(np.float32) * np.float32(scale)
    if misuse == "output-as-uint8":
        return (raw.view(np.uint8).astype(np.float32) - zero_point) * np.float32(scale)
    once = (raw.astype(np.float32) - zero_point) * np.float32(scale)
    return (once - zero_point) * np.float32(scale) if misuse == "output-dequantized-twice" else once


def float_conversion(case: Case, magnitude: str, rng: np.random.Generator) -> Case:  # noqa: ARG001
    """A shipped float file that computes something else from the same weights."""
    if magnitude == "training":
        if not any(isinstance(layer, layers.BatchNormalization) for layer in case.network.layers):
            raise NotHere
        shipped = converted(replace(case, network=_rebuilt(case.network, _in_training_mode)), "float32")
    elif magnitude == "padding":
        shipped = converted(replace(case, network=_shifted(case.network)), "float32")
    else:
        shipped = converted(replace(case, network=_rebuilt(case.network, _leaky)), "float32")
    return _shipped(case, shipped)


def _shifted(network: keras.Model) -> keras.Model:
    """The network on images shifted by one pixel, as other padding gives."""
    if len(network.inputs) != 1 or len(network.inputs[0].shape) != 4:
        raise NotHere
    inputs = keras.Input(network.inputs[0].shape[1:], name=network.inputs[0].name)
    moved = layers.ZeroPadding2D(((1, 0), (1, 0)), name="moved")(layers.Cropping2D(((0, 1), (0, 1)))(inputs))
    return keras.Model(inputs, network(moved))


def _leaky(layer: keras.Layer) -> keras.Layer:
    if isinstance(layer, layers.ReLU):
        return layers.LeakyReLU(0.2, name=layer.name)
    config = layer.get_config()
    if config.get("activation") == "relu":
        config["activation"] = "elu"
    return layer.__class__.from_config(config)


def _rebuilt(network: keras.Model, change: Callable[[keras.Layer], keras.Layer]) -> keras.Model:
    rebuilt = keras.models.clone_model(network, clone_function=change)
    rebuilt.set_weights(network.get_weights())
    return rebuilt


class _BatchStatistics(layers.BatchNormalization):
    """Batch normalization by the statistics of whatever is in the batch, as in training."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:  # noqa: ARG002
        axes = tuple(range(len(inputs.shape) - 1))
        mean, variance = keras.ops.moments(inputs, axes)
        scaled = (inputs - mean) * keras.ops.rsqrt(variance + self.epsilon)
        return scaled * keras.ops.cast(self.gamma, inputs.dtype) + keras.ops.cast(self.beta, inputs.dtype)


def _in_training_mode(layer: keras.Layer) -> keras.Layer:
    own = _BatchStatistics if isinstance(layer, layers.BatchNormalization) else layer.__class__
    return own.from_config(layer.get_config())


def unassigned_variables(case: Case, magnitude: str, rng: np.random.Generator) -> Case:  # noqa: ARG001
    """A shipped float file converted with `training=True`, whose moving averages nothing assigns."""
    import tensorflow as tf

    if not any(isinstance(layer, layers.BatchNormalization) for layer in case.network.layers):
        raise NotHere
    signature = [tf.TensorSpec((None, *one.shape[1:]), one.dtype, one.name) for one in case.network.inputs]
    function = tf.function(lambda *inputs: case.network(list(inputs), training=True), input_signature=signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], case.network)
    with _quiet():
        try:
            return _shipped(case, bytes(converter.convert()))
        except ValueError as error:  # dropout's own counter, which the converter cannot freeze
            raise NotHere from error


def nan_output(case: Case, magnitude: str, rng: np.random.Generator) -> Case:
    """A weight that is no number: in the shipped float file, or in one that divides by it."""
    spoilt = keras.models.clone_model(case.network)
    spoilt.set_weights(case.network.get_weights())
    kernels = [layer for layer in spoilt.layers if isinstance(layer, graph.KERNELS)]
    layer = _chosen(kernels, rng)
    values = np.array(layer.kernel)
    values.flat[int(rng.integers(values.size))] = {"nan": np.nan, "infinity": np.inf}[magnitude]
    layer.kernel.assign(values)
    return replace(_shipped(case, converted(replace(case, network=spoilt), "float32")), places=())


def float16_range(case: Case, magnitude: str, rng: np.random.Generator) -> Case:
    """Weights beyond 65,504, made small again by the next layer, in a float16 file."""
    site = _chosen(graph.sites(case.network), rng)
    largest = float(np.abs(np.array(site.consumer.kernel)).max())
    graph.scale(site, np.full(site.channels, largest / 65504 / float(magnitude)))
    return replace(cases.at(case), variant={"name": "float16", "quantization": "float16"})


def mask_constant(case: Case, magnitude: str, rng: np.random.Generator) -> Case:  # noqa: ARG001
    """A huge negative number for what is masked."""
    if case.subject.name != "attention":
        raise NotHere
    masked = models.attention(-float(magnitude))
    masked.set_weights(case.network.get_weights())
    return cases.at(replace(case, network=masked), "mask_offset", "masked_scores", "scaled")


def input_units(case: Case, magnitude: str, rng: np.random.Generator) -> Case:
    """One channel of the only input in a unit that makes it larger, and the first layer's kernel to match."""
    name = _main_input(case)
    channels = case.evaluation[name].shape[-1]
    if len(case.subject.inputs) > 1 or case.evaluation[name].ndim > 3 or channels < 2:
        raise NotHere
    factors = np.ones(channels, np.float32)
    factors[rng.choice(channels, max(1, channels // 8), replace=False)] = float(magnitude)
    first = [node.operation for node in case.network.layers[0]._outbound_nodes]
    for layer in first:
        weights = layer.cell if hasattr(layer, "cell") else layer
        weights.kernel.assign(np.array(weights.kernel) / factors[:, None])
    scaled = {part: getattr(case, part) for part in ("evaluation", "calibration")}
    scaled = {part: {**arrays, name: arrays[name] * factors} for part, arrays in scaled.items()}
    return replace(cases.at(case, name, *(layer.name for layer in first)), **scaled)


def output_outlier(case: Case, magnitude: str, rng: np.random.Generator) -> Case:
    """One target far larger than the others."""
    last = case.network.layers[-1]
    if case.metric != "r2" or not isinstance(last, layers.Dense):
        raise NotHere
    factors = np.ones(last.units, np.float32)
    factors[rng.integers(last.units)] = float(magnitude)
    last.kernel.assign(np.array(last.kernel) * factors)
    last.bias.assign(np.array(last.bias) * factors)
    return replace(
        case,
        evaluation={**case.evaluation, LABEL: case.evaluation[LABEL] * factors},
        places=(last.name, "output_0", "output"),
    )


def coarse_output(case: Case, magnitude: str, rng: np.random.Generator) -> Case:
    """Probabilities closer to one another than the output's step, of `flat` logits or of many `classes`."""
    last = case.network.layers[-1]
    if case.metric != "accuracy" or not isinstance(last, layers.Dense):
        raise NotHere
    how, amount = magnitude.split("=")
    if how == "flat":
        last.kernel.assign(np.array(last.kernel) / float(amount))
        last.bias.assign(np.array(last.bias) / float(amount))
        return replace(case, places=(last.name,))
    return _many_classes(case, int(amount), rng)


def _many_classes(case: Case, classes: int, rng: np.random.Generator) -> Case:
    """Every class has many near twins, each a little less likely than the class itself."""
    last = case.network.layers[-1]
    copies = classes // last.units
    head = layers.Dense(last.units * copies, activation="softmax", name=last.name)
    network = keras.Model(case.network.inputs, head(case.network.layers[-2].output))
    head.kernel.assign(np.repeat(np.array(last.kernel), copies, axis=1))
    less = -rng.uniform(0.02, 0.3, (last.units, copies))
    less[:, -1] = 0  # the last of its twins: a tie goes to an earlier one
    head.bias.assign((np.array(last.bias)[:, None] + less).reshape(-1))
    label = case.evaluation[LABEL] * copies + copies - 1
    return replace(case, network=network, evaluation={**case.evaluation, LABEL: label}, places=(last.name,))


def precision_limit(case: Case, magnitude: str, rng: np.random.Generator) -> Case:  # noqa: ARG001
    """More asked of few bits than they can give: an SQNR, or weights of 4 bits."""
    if magnitude == "four-bits":
        return replace(case, variant={"name": "four-bits", "recipe": "weight_only_wi4_afp32"})
    return replace(case, tolerances={"sqnr": {"min": float(magnitude)}})


def kernel_divergence(case: Case, magnitude: str, rng: np.random.Generator) -> Case:  # noqa: ARG001
    """A sum in place of an average, judged with the reference kernels: LiteRT's for int8 sums are far off.

    Measured on LiteRT 2.3: 39 dB to the float sum with the optimized kernels, under 7 dB with the reference ones.
    """
    averaged = [layer for layer in case.network.layers if isinstance(layer, layers.GlobalAveragePooling2D)]
    if not averaged:
        raise NotHere
    last = case.network.layers[-1]
    height, width = averaged[0].input.shape[1:3]
    summed = keras.ops.sum(averaged[0].input, axis=(1, 2))
    network = keras.Model(case.network.inputs, last(summed))
    last.kernel.assign(np.array(last.kernel) / (height * width))
    changed = cases.at(replace(case, network=network))
    return replace(changed, variant={"name": "int8", "quantization": "int8", "kernels": "reference"})


def reference_suspect(case: Case, magnitude: str, rng: np.random.Generator) -> Case:
    """Labels in another order of classes, or of other examples; the reference is told to be better than that."""
    if case.metric != "accuracy":
        raise NotHere
    label = case.evaluation[LABEL]
    classes = int(label.max()) + 1
    order = (np.arange(classes) + 1 + int(rng.integers(classes - 1))) % classes
    changed = order[label] if magnitude == "permuted" else rng.permutation(label)
    evaluation = {**case.evaluation, LABEL: changed}
    return replace(case, evaluation=evaluation, reference_tolerances={"accuracy": {"min": 0.7}})


def shipped_healthy(case: Case, magnitude: str, rng: np.random.Generator) -> Case:  # noqa: ARG001
    """No fault: a true int8 file, with outputs recorded as they should be."""
    shipped = converted(case, "int8", io="int8")
    observed = _misused(shipped, cases.inputs_of(case), "none")
    variant = {"name": "shipped", "tflite": cases.SHIPPED, "observed_outputs": cases.OBSERVED}
    return replace(case, variant=variant, shipped=shipped, observed={"output": observed})


def no_fault(case: Case, magnitude: str, rng: np.random.Generator) -> Case:
    """A healthy model, calibrated on half of the calibration data, as the quantization that the magnitude says."""
    quantization, _, io = magnitude.partition("+")
    variant = {"name": quantization, "quantization": quantization, **({"io": io} if io else {})}
    count = len(_first(case.calibration))
    chosen = np.sort(rng.choice(count, count // 2, replace=False))
    return replace(case, variant=variant, calibration={key: values[chosen] for key, values in case.calibration.items()})


def unreachable(case: Case, magnitude: str, rng: np.random.Generator) -> Case:
    """A healthy model that is asked to give what its reference gives: all that is lost is the bits that 8 have not."""
    tolerances = {"agreement": {"min": 1.0}} if case.metric == "accuracy" else {case.metric: {"max_drop": 0.0}}
    return replace(no_fault(case, magnitude, rng), tolerances=tolerances)


def both(first: Fault, second: Fault, magnitudes: str, *, seeds: tuple[int, int] = (1, 2)) -> Fault:
    """Two faults at once; a seed each, so that they choose apart."""
    one, other = magnitudes.split("&")

    def together(case: Case, magnitude: str, rng: np.random.Generator) -> Case:  # noqa: ARG001
        base = int(rng.integers(1 << 30))
        case = first(case, one, np.random.default_rng((base, seeds[0])))
        return second(case, other, np.random.default_rng((base, seeds[1])))

    return together


def converted(case: Case, quantization: str, io: str | None = None) -> bytes:
    """The network by TensorFlow's own converter, calibrated on the case's data."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(case.network)
    if quantization == "int8":
        samples = cases.calibration_of(case)
        order = [one.name for one in case.network.inputs]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            [samples[name][index : index + 1] for name in order] for index in range(len(_first(samples)))
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        if io:
            converter.inference_input_type = converter.inference_output_type = getattr(tf, io)
    with _quiet():
        return bytes(converter.convert())


@contextlib.contextmanager
def _quiet() -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _shipped(case: Case, content: bytes) -> Case:
    return replace(case, shipped=content, variant={"name": "shipped", "tflite": cases.SHIPPED})


def _main_input(case: Case) -> str:
    return max(case.subject.inputs, key=lambda name: case.evaluation[name][0].size)


def _first(arrays: models.Arrays) -> Array:
    return next(iter(arrays.values()))


def _activations(layer: keras.Layer) -> list[str]:
    """What follows a layer and is fused with it."""
    after = [node.operation for node in layer._outbound_nodes]
    if len(after) == 1 and isinstance(after[0], (layers.BatchNormalization, layers.ReLU, layers.Activation)):
        return [after[0].name, *_activations(after[0])]
    return []


def _chosen(found: list[Any], rng: np.random.Generator) -> Any:
    if not found:
        raise NotHere
    return found[int(rng.integers(len(found)))]


MISUSES = (
    "output-not-dequantized",
    "output-zero-point-ignored",
    "output-dequantized-twice",
    "output-as-uint8",
    "input-not-quantized",
    "input-zero-point-ignored",
    "input-not-rounded",
    "input-as-uint8",
)
CONTROLS = ("float32", "float16", "dynamic_range", "int8", "int8+int8", "int16x8")
IMBALANCED_RANGE = both(channel_imbalance, calibration_range, "4&8")
KINDS: dict[str, Kind] = {
    "calibration-range": Kind(
        calibration_range, ("calibration-range-mismatch",), ("16", "0.0625", "0.25"), ("40", "0.12", "centred")
    ),
    "calibration-degenerate": Kind(
        calibration_degenerate, ("calibration-degenerate",), ("repeated", "zeros", "1"), ("repeated", "mean", "2")
    ),
    "calibration-unrepresentative": Kind(
        calibration_unrepresentative,
        ("calibration-unrepresentative",),
        ("uniform", "one-class", "0.1", "0.05"),
        ("one-class", "0.07"),
    ),
    # Noise of a third of the inputs' deviation is both unlike them and of another scale.
    "calibration-noise": Kind(
        calibration_unrepresentative,
        ("calibration-unrepresentative", "calibration-range-mismatch"),
        ("normal",),
        ("normal",),
    ),
    "calibration-outliers": Kind(calibration_outliers, ("calibration-outliers",), ("10", "30", "100"), ("20", "60")),
    "channel-imbalance": Kind(channel_imbalance, ("channel-imbalance",), ("3", "4", "5"), ("3.5", "4.5", "5.5")),
    "weight-outliers": Kind(weight_outliers, ("weight-outliers",), ("30", "100", "1000"), ("60", "300")),
    "concat-range": Kind(concat_range, ("concat-range-mismatch",), ("300", "1000", "0.001"), ("500", "2000", "0.002")),
    "stale-artifact": Kind(stale_artifact, ("stale-artifact",), ("retrained", "0.3", "0.6"), ("retrained", "0.45")),
    "input-range": Kind(
        input_range, ("input-range-mismatch",), ("0.00392156862745098", "centred", "8"), ("0.0625", "0.25", "40")
    ),
    "io-misuse": Kind(io_misuse, ("io-quantization-misuse",), MISUSES, MISUSES),
    "float-conversion": Kind(
        float_conversion,
        ("float-conversion-mismatch", "batch-dependent"),
        ("training", "padding", "activation"),
        ("padding", "activation"),
    ),
    "unassigned-variables": Kind(unassigned_variables, ("unassigned-variables",), ("training",), ("training",)),
    "nan-output": Kind(nan_output, ("nan-output",), ("nan", "infinity"), ("nan",)),
    "float16-range": Kind(float16_range, ("float16-range",), ("3", "30"), ("10",)),
    "mask-constant": Kind(mask_constant, ("mask-constant",), ("1e4", "1e6", "1e9"), ("1e5", "1e8")),
    "input-units": Kind(input_units, ("input-unit-mismatch",), ("100", "1000", "10000"), ("300", "3000")),
    "output-outlier": Kind(output_outlier, ("output-outlier",), ("30", "100", "1000"), ("60", "300")),
    "coarse-output": Kind(
        coarse_output, ("coarse-output",), ("flat=100", "flat=300", "classes=400"), ("flat=200", "classes=200")
    ),
    # Where one operator in float is enough for the SQNR that is asked for, that is the smaller change.
    "precision-limit": Kind(
        precision_limit, ("precision-limit", "sensitive-operator"), ("45", "four-bits"), ("47", "50", "four-bits")
    ),
    "kernel-divergence": Kind(kernel_divergence, ("kernel-divergence",), ("sum",), ("sum",)),
    "reference-suspect": Kind(reference_suspect, ("reference-suspect",), ("permuted", "shuffled"), ("permuted",)),
    "two-imbalance-range": Kind(
        IMBALANCED_RANGE, ("channel-imbalance", "calibration-range-mismatch"), ("4&8",), ("4&8",)
    ),
    "two-imbalance-imbalance": Kind(
        both(channel_imbalance, channel_imbalance, "4&4"), ("channel-imbalance",), ("4&4",), ("4&4",)
    ),
    "two-imbalance-concat": Kind(
        both(channel_imbalance, concat_range, "5&1000"),
        ("channel-imbalance", "concat-range-mismatch"),
        ("5&1000",),
        ("5&1000",),
    ),
    "two-weights-outliers": Kind(
        both(weight_outliers, calibration_outliers, "300&30"),
        ("weight-outliers", "calibration-outliers"),
        ("300&30",),
        ("300&30",),
    ),
    "harmless-imbalance": Kind(channel_imbalance, ("channel-imbalance",), ("0.3",), ("0.5",)),
    "harmless-range": Kind(calibration_range, ("calibration-range-mismatch",), ("1.2",), ("1.4",)),
    "harmless-outliers": Kind(calibration_outliers, ("calibration-outliers",), ("1.3",), ("1.5",)),
    "harmless-weights": Kind(weight_outliers, ("weight-outliers",), ("1.5",), ("2",)),
    "harmless-stale": Kind(stale_artifact, ("stale-artifact",), ("0.01",), ("0.02",)),
    "healthy": Kind(no_fault, (), CONTROLS, CONTROLS),
    "healthy-strict": Kind(unreachable, (), ("int8", "int8+int8"), ("int8", "int8+int8")),
    "healthy-shipped": Kind(shipped_healthy, (), ("recorded",), ("recorded",)),
}
