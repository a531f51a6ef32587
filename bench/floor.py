"""What the work of speed.py takes at least: each part that cannot be left out, measured alone.

Usage: floor.py MODEL EVALUATION.npz CALIBRATION.npz. Prints JSON: `import_seconds`, wall time of TensorFlow's import,
and `parts`, processor seconds of the others. Parts can be done at once, so that the floor on so many cores is the
import and the sum of the parts divided by the cores.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

started = time.perf_counter()

import tensorflow as tf  # noqa: E402

IMPORTED = time.perf_counter() - started

import numpy as np  # noqa: E402
from ai_edge_litert.interpreter import Interpreter  # noqa: E402

SAMPLES, BATCH = 200, 64


def main(model_path: str, evaluation: str, calibration: str) -> None:
    """Measure and print."""
    images = np.load(evaluation)["image"].astype(np.float32)
    samples = np.load(calibration)["image"].astype(np.float32)[:SAMPLES]
    parts: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        before = time.process_time()
        result = work()
        parts[name] = round(time.process_time() - before, 3)
        return result

    model = timed("load", lambda: tf.keras.models.load_model(model_path, compile=False))
    with tempfile.TemporaryDirectory() as folder:
        timed("export", lambda: model.export(folder, verbose=False))
        names = ("float32", "float16", "dynamic_range", "int8")
        files = {name: timed(f"convert {name}", lambda name=name: _converted(folder, name, samples)) for name in names}
    call = tf.function(lambda batch: model(batch, training=False), input_signature=[tf.TensorSpec((None, 32, 32, 3))])
    call(images[:1])
    timed("reference", lambda: [call(tf.constant(part)).numpy() for part in _batches(images)])
    for name, content in files.items():
        timed(f"invoke {name}", lambda content=content: _invoked(content, images))
    print(json.dumps({"import_seconds": round(IMPORTED, 3), "parts": parts}))


def _converted(folder: str, name: str, samples: Any) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    if name != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if name == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if name == "int8":
        converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def _batches(images: Any) -> Any:
    return (images[start : start + BATCH] for start in range(0, len(images), BATCH))


def _invoked(content: bytes, images: Any) -> None:
    interpreter = Interpreter(model_content=content, num_threads=1)
    (source,) = interpreter.get_input_details()
    for part in _batches(images.astype(source["dtype"])):
        if interpreter.get_input_details()[0]["shape"][0] != len(part):
            interpreter.resize_tensor_input(source["index"], part.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], part)
        interpreter.invoke()


if __name__ == "__main__":
    main(*sys.argv[1:])
