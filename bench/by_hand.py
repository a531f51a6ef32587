"""What a user does today: one script that converts a Keras model four ways and runs each with a batch of one.

Usage: by_hand.py MODEL EVALUATION.npz CALIBRATION.npz. Prints the accuracies as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

SAMPLES = 200


def main(model_path: str, evaluation: str, calibration: str) -> None:
    """Convert, evaluate, print."""
    data = np.load(evaluation)
    images, labels = data["image"].astype(np.float32), data["label"]
    samples = np.load(calibration)["image"].astype(np.float32)[:SAMPLES]
    model = tf.keras.models.load_model(model_path, compile=False)
    accuracies = {"reference": _accuracy(model.predict(images, verbose=0), labels)}
    for name in ("float32", "float16", "dynamic_range", "int8"):
        accuracies[name] = _accuracy(_run(_converted(model, name, samples), images), labels)
    print(json.dumps(accuracies))


def _converted(model: Any, name: str, samples: np.ndarray) -> bytes:
    def representative_dataset() -> Iterator[list[np.ndarray]]:
        for sample in samples:
            yield [sample[None]]

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if name != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if name == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if name == "int8":
        converter.representative_dataset = representative_dataset
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def _run(content: bytes, images: np.ndarray) -> np.ndarray:
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero_point = source["quantization"]
    outputs = []
    for image in images:
        if scale:
            image = np.clip(np.round(image / scale) + zero_point, -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(sink["index"])[0])
    return np.array(outputs)


def _accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.argmax(outputs, 1) == labels))


if __name__ == "__main__":
    main(*sys.argv[1:])
