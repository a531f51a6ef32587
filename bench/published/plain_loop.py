"""The same conversions and metrics as tflite-guard.json, the way one would write them by hand.

Public converter, one interpreter, a batch of one, sums in plain Python; nothing of tflite_guard. Writes JSON:
model to variant to metric to value, null for an infinite SQNR. Takes a few minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tflite_micro.python.tflite_micro import runtime

Array = np.ndarray[Any, Any]
Rows = list[list[float]]
"""One list of floats an example."""

INT16X8 = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8


def main() -> None:
    """Run the models and write the metrics."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="models and data")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write; default: standard output")
    parser.add_argument("--model", action="append", metavar="NAME", help="only these models; repeatable")
    arguments = parser.parse_args()
    models, data = arguments.folder / "models", arguments.folder / "data"
    results = {
        name: run(models, data) for name, run in MODELS.items() if arguments.model is None or name in arguments.model
    }
    text = json.dumps(results, indent=2) + "\n"
    if arguments.out:
        arguments.out.write_text(text)
    else:
        print(text, end="")


def resnet8(models: Path, data: Path) -> dict[str, dict[str, float | None]]:
    """Image classification from the Keras file."""
    images, labels = _cifar10(data, "evaluation")
    calibration, _ = _cifar10(data, "calibration")
    model = tf.keras.models.load_model(models / "mlperf-tiny" / "ic_resnet8.h5", compile=False)
    made = _conversions(model, calibration[:200])
    published = (models / "mlperf-tiny" / "ic_resnet8_int8.tflite").read_bytes()
    variants = {name: _run(content, images) for name, content in made.items()}
    variants["published"] = _run(published, images)
    variants["published-reference-kernels"] = _run(published, images, OpResolverType.BUILTIN_REF)
    variants["published-micro"] = _run_micro(published, images)
    return _classification(_rows(model.predict(images, verbose=0)), variants, labels.tolist())


def resnet8_flatbuffer(models: Path, data: Path) -> dict[str, dict[str, float | None]]:
    """Image classification from the published float .tflite."""
    images, labels = _cifar10(data, "evaluation")
    calibration, _ = _cifar10(data, "calibration")
    content = (models / "mlperf-tiny" / "ic_resnet8_float32.tflite").read_bytes()
    variants = {
        "int8": _run(_int8_of_flatbuffer(content, calibration[:200]), images),
        "published": _run((models / "mlperf-tiny" / "ic_resnet8_int8.tflite").read_bytes(), images),
    }
    return _classification(_run(content, images), variants, labels.tolist())


def toycar(models: Path, data: Path) -> dict[str, dict[str, float | None]]:
    """The anomaly detector, which reconstructs its own input."""
    windows = np.load(data / "toycar-windows.npz")["features"]
    model = tf.keras.models.load_model(models / "mlperf-tiny" / "ad01.h5", compile=False)
    made = {
        **_conversions(model, windows[:100]),
        "published": (models / "mlperf-tiny" / "ad01_int8.tflite").read_bytes(),
    }
    reference, wanted = _rows(model.predict(windows, verbose=0)), _rows(windows)
    results: dict[str, dict[str, float | None]] = {"reference": dict(_errors(reference, wanted))}
    runs = {name: _run(content, windows) for name, content in made.items()}
    runs["published-micro"] = _run_micro(made["published"], windows)
    for name, outputs in runs.items():
        results[name] = {
            **_errors(outputs, wanted),
            "sqnr": _sqnr(outputs, reference),
            "cosine_similarity": _mean(_cosine(a, b) for a, b in zip(outputs, reference, strict=True)),
        }
    return results


def wake_word(models: Path, data: Path) -> dict[str, dict[str, float | None]]:
    """The streaming wake word, which Keras 2 saved."""
    loaded = np.load(data / "sww-samples.npz")
    specs, labels = loaded["specs"], loaded["label"]
    model = tf_keras.models.load_model(models / "mlperf-tiny" / "sww_ds_cnn_keras2.h5", compile=False)
    made = {**_conversions(model, specs), "published": (models / "mlperf-tiny" / "sww_ds_cnn_int8.tflite").read_bytes()}
    variants = {name: _run(content, specs) for name, content in made.items()}
    variants["published-micro"] = _run_micro(made["published"], specs)
    return _classification(_rows(model.predict(specs, verbose=0)), variants, labels.tolist())


def visual_wake_words(models: Path, data: Path) -> dict[str, dict[str, float | None]]:
    """Person or no person, on photographs without labels; Keras 2 saved it."""
    photos = np.load(data / "published" / "photo-crops.npz")["image"].astype(np.float32) * np.float32(1 / 255)
    folder = models / "published"
    model = tf_keras.models.load_model(folder / "vww_96.h5", compile=False)
    made = _conversions(model, photos[:100])
    del made["int16x8"]  # 200 images take minutes, and the kernels are those of the other models
    made["published-float"] = (folder / "vww_96_float.tflite").read_bytes()
    made["published"] = (folder / "vww_96_int8.tflite").read_bytes()
    variants = {name: _run(content, photos) for name, content in made.items()}
    variants["published-micro"] = _run_micro(made["published"], photos)
    return _classification(_rows(model.predict(photos, verbose=0)), variants, None)


def resnet_large(models: Path, data: Path) -> dict[str, dict[str, float | None]]:
    """Image classification, a published pair."""
    loaded = np.load(data / "published" / "cifar10-evaluation.npz")
    return _pair(models / "published", "pretrainedResnet_large", loaded["image"].astype(np.float32), loaded["label"])


def lstm(models: Path, data: Path) -> dict[str, dict[str, float | None]]:
    """A recurrent network whose state is forgotten before each digit."""
    images, labels = _mnist(data)
    folder = models / "published"
    contents = [(folder / name).read_bytes() for name in ("trained_lstm.tflite", "trained_lstm_int8.tflite")]
    reference, published = (_run(content, images, forget=True) for content in contents)
    return _classification(reference, {"published": published}, labels.tolist())


def mnist_conv(models: Path, data: Path) -> dict[str, dict[str, float | None]]:
    """Three files of one architecture; the quantized ones hold weights of their own."""
    images, labels = _mnist(data)
    names = {"other-weights": "conv_fc_mnist_srq_a8w8", "partly-quantized": "partly_quantized_mnist"}
    folder = models / "published"
    runs = {
        name: _run((folder / f"{file}.tflite").read_bytes(), images[..., None])
        for name, file in {"reference": "conv_fc_mnist", **names}.items()
    }
    return _classification(runs.pop("reference"), runs, labels.tolist())


def _pair(folder: Path, name: str, images: Array, labels: Array) -> dict[str, dict[str, float | None]]:
    reference, published = (_run((folder / f"{name}_{kind}.tflite").read_bytes(), images) for kind in ("float", "int8"))
    return _classification(reference, {"published": published}, labels.tolist())


def _mnist(data: Path) -> tuple[Array, Array]:
    loaded = np.load(data / "published" / "mnist-evaluation.npz")
    return loaded["image"].astype(np.float32) * np.float32(1 / 255), loaded["label"]


MODELS: dict[str, Callable[[Path, Path], dict[str, dict[str, float | None]]]] = {
    "resnet8": resnet8,
    "resnet8-flatbuffer": resnet8_flatbuffer,
    "toycar": toycar,
    "wake-word": wake_word,
    "visual-wake-words": visual_wake_words,
    "resnet-large": resnet_large,
    "lstm": lstm,
    "mnist-conv": mnist_conv,
}


def _cifar10(data: Path, part: str) -> tuple[Array, Array]:
    loaded = np.load(data / f"cifar10-{part}.npz")
    return loaded["image"].astype(np.float32), loaded["label"]


def _conversions(model: Any, calibration: Array) -> dict[str, bytes]:
    """The model as float32, float16, dynamic range, int8 with int8 inputs and outputs, and int16x8."""

    def samples() -> Iterator[list[Array]]:
        for sample in calibration:
            yield [sample[None]]

    def converted(**settings: Any) -> bytes:
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        for name, value in settings.items():
            setattr(converter.target_spec if name.startswith("supported") else converter, name, value)
        return bytes(converter.convert())

    optimized = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    calibrated = {**optimized, "representative_dataset": samples}
    return {
        "float32": converted(),
        "float16": converted(**optimized, supported_types=[tf.float16]),
        "dynamic_range": converted(**optimized),
        "int8": converted(**calibrated, inference_input_type=tf.int8, inference_output_type=tf.int8),
        "int16x8": converted(**calibrated, supported_ops=[INT16X8, tf.lite.OpsSet.TFLITE_BUILTINS]),
    }


def _int8_of_flatbuffer(content: bytes, calibration: Array) -> bytes:
    """There is no public way from a .tflite to int8: TensorFlow's calibrator and quantizer, both private."""
    from tensorflow.lite.python import convert
    from tensorflow.lite.python.optimize import calibrator

    made = calibrator.Calibrator(calibrator.add_intermediate_tensors(content))
    calibrated = made.calibrate(lambda: ([sample[None]] for sample in calibration))
    return bytes(convert.mlir_quantize(calibrated, input_data_type=tf.int8, output_data_type=tf.int8))


def _run(content: bytes, inputs: Array, kernels: OpResolverType = OpResolverType.AUTO, *, forget: bool = False) -> Rows:
    """What the .tflite gives, one example at a time, dequantized; `forget` resets its state before each."""
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    (source,), (sink,) = interpreter.get_input_details(), interpreter.get_output_details()
    outputs: Rows = []
    for example in inputs:
        if forget:
            interpreter.reset_all_variables()
        interpreter.set_tensor(source["index"], _quantized(example[None], source))
        interpreter.invoke()
        outputs += _dequantized(interpreter.get_tensor(sink["index"]), sink)
    return outputs


def _run_micro(content: bytes, inputs: Array) -> Rows:
    """What TensorFlow Lite Micro gives, one example at a time, dequantized."""
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=1 << 24)
    source, sink = (_pair_of(one(0)) for one in (interpreter.get_input_details, interpreter.get_output_details))
    outputs: Rows = []
    for example in inputs:
        interpreter.reset()
        interpreter.set_input(_quantized(example[None], source), 0)
        interpreter.invoke()
        outputs += _dequantized(interpreter.get_output(0), sink)
    return outputs


def _pair_of(detail: dict[str, Any]) -> dict[str, Any]:
    scaled = detail["quantization_parameters"]
    return {"dtype": detail["dtype"], "quantization": (float(scaled["scales"][0]), int(scaled["zero_points"][0]))}


def _quantized(values: Array, detail: dict[str, Any]) -> Array:
    scale, zero_point = detail["quantization"]
    if scale == 0:
        return values
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.round(values / scale) + zero_point, limits.min, limits.max).astype(detail["dtype"])


def _dequantized(values: Array, detail: dict[str, Any]) -> Rows:
    scale, zero_point = detail["quantization"]
    if scale == 0:
        return _rows(values)
    return [[(value - zero_point) * scale for value in row] for row in _rows(values)]


def _rows(values: Array) -> Rows:
    return [[float(value) for value in row.reshape(-1)] for row in values]


def _classification(
    reference: Rows, variants: dict[str, Rows], labels: list[int] | None
) -> dict[str, dict[str, float | None]]:
    """Metrics of the reference and of each variant; without labels there is no accuracy."""
    decided = [_decision(row) for row in reference]
    results: dict[str, dict[str, float | None]] = {"reference": _accuracy(decided, labels)}
    for name, outputs in variants.items():
        decisions = [_decision(row) for row in outputs]
        results[name] = {
            **_accuracy(decisions, labels),
            "agreement": _share_equal(decisions, decided),
            "sqnr": _sqnr(outputs, reference),
        }
    return results


def _accuracy(decisions: list[int], labels: list[int] | None) -> dict[str, float | None]:
    return {} if labels is None else {"accuracy": _share_equal(decisions, labels)}


def _decision(row: list[float]) -> int:
    return row.index(max(row))


def _share_equal(ours: list[int], theirs: list[int]) -> float:
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)


def _sqnr(outputs: Rows, reference: Rows) -> float | None:
    """10 log10 of the reference's power over that of the difference; None where there is no difference."""
    signal = math.fsum(b * b for row in reference for b in row)
    noise = math.fsum(
        (a - b) ** 2 for ours, row in zip(outputs, reference, strict=True) for a, b in zip(ours, row, strict=True)
    )
    return 10 * math.log10(signal / noise) if noise else None


def _errors(outputs: Rows, wanted: Rows) -> dict[str, float]:
    """Mean absolute and root mean squared error over all values, and R2 averaged over the features."""
    pairs = [(a, b) for row, label in zip(outputs, wanted, strict=True) for a, b in zip(row, label, strict=True)]
    features = zip(zip(*outputs, strict=True), zip(*wanted, strict=True), strict=True)
    return {
        "mae": _mean(abs(a - b) for a, b in pairs),
        "rmse": math.sqrt(_mean((a - b) ** 2 for a, b in pairs)),
        "r2": _mean(_determination(ours, labels) for ours, labels in features),
    }


def _determination(ours: tuple[float, ...], labels: tuple[float, ...]) -> float:
    centre = _mean(labels)
    residual = math.fsum((a - b) ** 2 for a, b in zip(ours, labels, strict=True))
    return 1 - residual / math.fsum((b - centre) ** 2 for b in labels)


def _cosine(ours: list[float], theirs: list[float]) -> float:
    product = math.fsum(a * b for a, b in zip(ours, theirs, strict=True))
    return product / math.sqrt(math.fsum(a * a for a in ours) * math.fsum(b * b for b in theirs))


def _mean(values: Any) -> float:
    collected = list(values)
    return math.fsum(collected) / len(collected)


if __name__ == "__main__":
    sys.exit(main())
