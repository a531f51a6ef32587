"""The independent check: a .tflite run one example at a time, as a user's own script would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType


def raw_outputs(tflite: Path, images: np.ndarray, resolver: OpResolverType = OpResolverType.AUTO) -> np.ndarray:
    """The first output of each image (n, …), integers where the model's output is quantized."""
    interpreter = Interpreter(model_path=str(tflite), experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for image in images:
        value = image[None]
        if source["dtype"] != np.float32:
            scale, zero = source["quantization"]
            limits = np.iinfo(source["dtype"])
            value = np.clip(np.round(value / scale) + zero, limits.min, limits.max).astype(source["dtype"])
        interpreter.set_tensor(source["index"], value)
        interpreter.invoke()
        rows.append(interpreter.get_tensor(target["index"])[0].copy())
    return np.array(rows)


def real_outputs(tflite: Path, images: np.ndarray) -> np.ndarray:
    """The same, dequantized to float32."""
    raw = raw_outputs(tflite, images)
    if raw.dtype == np.float32:
        return raw
    scale, zero = Interpreter(model_path=str(tflite)).get_output_details()[0]["quantization"]
    return (raw.astype(np.float32) - zero) * np.float32(scale)
