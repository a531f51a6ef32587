"""Small valid inputs of each kind, which the fuzzing makes wrong."""

from __future__ import annotations

import io
import json
import re
import struct
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from tests.fuzz.mutation import unzipped, zipped

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits"
KERAS = DIGITS / "models/digits.keras"
TFLITE = DIGITS / "app/digits_int8.tflite"
SAVED_MODEL = DIGITS / "models/digits_qat"
EXAMPLES = 12


@cache
def arrays() -> dict[str, np.ndarray]:
    """A few examples for the digits model."""
    with np.load(DIGITS / "data/evaluation.npz") as data:
        return {key: data[key][:EXAMPLES] for key in ("image", "label")}


def npy(array: np.ndarray) -> bytes:
    target = io.BytesIO()
    np.lib.format.write_array(target, array)
    return target.getvalue()


@cache
def npz() -> bytes:
    return zipped([(f"{key}.npy", npy(array)) for key, array in arrays().items()])


@cache
def table() -> str:
    lines = ["id,a,b,label"]
    lines += [f"r{number},{number / 8},{number * number},{number % 3}" for number in range(EXAMPLES)]
    return "\n".join(lines) + "\n"


@cache
def pictures() -> dict[str, bytes]:
    """One picture in each format that is read, by file name."""
    drawn = Image.fromarray(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3))
    found = {}
    for name in ("png", "jpeg", "bmp", "gif", "webp"):
        target = io.BytesIO()
        drawn.save(target, name)
        found[f"1.{name}"] = target.getvalue()
    return found


@cache
def masks() -> list[bytes]:
    """Masks of the pictures in each form that is read."""
    drawn = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 3)
    found = []
    for mode in ("L", "P", "1"):
        target = io.BytesIO()
        drawn.convert(mode).save(target, "png")
        found.append(target.getvalue())
    return found


@cache
def records() -> list[bytes]:
    """tf.train.Example messages with the pixels as numbers, as raw bytes and as a PNG."""
    found = []
    for image, label in zip(arrays()["image"], arrays()["label"], strict=True):
        features = {
            "image": field(2, field(1, image.astype("<f4").tobytes())),
            "raw": field(1, field(1, image.astype("<f4").tobytes())),
            "png": field(1, field(1, pictures()["1.png"])),
            "label": field(3, field(1, bytes([int(label)]))),
        }
        entries = [field(1, field(1, key.encode()) + field(2, value)) for key, value in features.items()]
        found.append(field(1, b"".join(entries)))
    return found


def field(number: int, content: bytes) -> bytes:
    """One length-delimited field of a protocol buffer."""
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def tfrecord(messages: list[bytes]) -> bytes:
    """A TFRecord file with checksums that are right."""
    framed = b""
    for message in messages:
        length = struct.pack("<Q", len(message))
        framed += length + _checksum(length) + message + _checksum(message)
    return framed


def _checksum(content: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _crc_table()[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@cache
def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


@cache
def keras() -> dict[str, bytes]:
    """The digits model's .keras by member, without what training left."""
    members = unzipped(KERAS.read_bytes())
    target = io.BytesIO()
    with h5py.File(io.BytesIO(members["model.weights.h5"])) as whole, h5py.File(target, "w") as slim:
        whole.copy("layers", slim)
    config = json.loads(members["config.json"])
    config.pop("compile_config", None)
    return {**members, "config.json": json.dumps(config).encode(), "model.weights.h5": target.getvalue()}


@cache
def hdf5() -> bytes:
    """The same model as an .h5, as Keras writes it."""
    return hdf5_with(json.dumps(json.loads(keras()["config.json"])))


def hdf5_with(config: Any) -> bytes:
    """The model's weights under another configuration."""
    target = io.BytesIO()
    layers = json.loads(keras()["config.json"])["config"]["layers"]
    with h5py.File(io.BytesIO(keras()["model.weights.h5"])) as source, h5py.File(target, "w") as file:
        file.attrs["keras_version"], file.attrs["backend"], file.attrs["model_config"] = "3.0.0", "tensorflow", config
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [layer["config"]["name"].encode() for layer in layers]
        met: Counter[str] = Counter()
        for layer in layers:
            snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", layer["class_name"]).lower()
            place = f"layers/{snake}_{met[snake]}" if met[snake] else f"layers/{snake}"
            met[snake] += 1
            held = list(source[f"{place}/vars"].items()) if f"{place}/vars" in source else []
            group = weights.create_group(layer["config"]["name"])
            group.attrs["weight_names"] = [key.encode() for key, _ in held]
            for key, values in held:
                group[key] = values[()]
    return target.getvalue()
