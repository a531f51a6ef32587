"""Resampling of images as `tf.image.resize` does it without antialiasing: half-pixel centres, float32."""

from __future__ import annotations

import numpy as np

from tflite_guard.datasets.sources import Array

METHODS = ("bilinear", "nearest", "bicubic", "area")
# TensorFlow reads cubic weights from a table of so many places between two pixels.
_CUBIC_PLACES = 1024


def resample(images: Array, size: tuple[int, int], method: str) -> Array:
    """Images (n, h, w, channels) at another (height, width); float32, for `nearest` of the type given."""
    if method == "nearest":
        rows, columns = (_nearest(*lengths) for lengths in zip(images.shape[1:3], size, strict=True))
        nearest: Array = images[:, rows][:, :, columns]
        return nearest
    by_rows, by_columns = (_WEIGHTS[method](*lengths) for lengths in zip(images.shape[1:3], size, strict=True))
    result = np.empty((len(images), *size, images.shape[-1]), np.float32)
    for image, target in zip(images, result, strict=True):
        planes = np.moveaxis(image, -1, 0).astype(np.float32)
        target[...] = np.moveaxis(by_rows @ planes @ by_columns.T, 0, -1)
    return result


def _scale(length: int, target: int) -> np.float32:
    return np.float32(length) / np.float32(target)


def _centres(length: int, target: int) -> Array:
    """Where each new pixel's centre lies among the old ones, in old pixels from the first one's centre."""
    half = np.float32(0.5)
    return (np.arange(target, dtype=np.float32) + half) * _scale(length, target) - half


def _nearest(length: int, target: int) -> Array:
    places = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * _scale(length, target)
    pixels: Array = np.minimum(np.floor(places).astype(np.int64), length - 1)
    return pixels


def _bilinear(length: int, target: int) -> Array:
    centres = _centres(length, target)
    below = np.floor(centres)
    share = centres - below
    weights = np.zeros((target, length), np.float32)
    for pixel, weight in ((below, 1 - share), (below + 1, share)):
        # Beyond the border, the pixel at the border.
        np.add.at(weights, (np.arange(target), pixel.clip(0, length - 1).astype(np.int64)), weight)
    return weights


def _bicubic(length: int, target: int) -> Array:
    """Keys' cubic (a = -0.5); what lies beyond the border has no weight."""
    centres = _centres(length, target)
    below = np.floor(centres)
    share = np.rint((centres - below) * _CUBIC_PLACES) / np.float32(_CUBIC_PLACES)
    distances = np.abs(np.arange(length) - below[:, None] - share[:, None]).astype(np.float32)
    near = (1.5 * distances - 2.5) * distances**2 + 1
    far = ((-0.5 * distances + 2.5) * distances - 4) * distances + 2
    weights = np.where(distances <= 1, near, np.where(distances < 2, far, 0)).astype(np.float32)
    # The four nearest alone, although a rounded share may come within reach of a fifth.
    weights[np.abs(np.arange(length) - below[:, None] - 0.5) > 2] = 0
    normalized: Array = weights / weights.sum(axis=1, keepdims=True)
    return normalized


def _area(length: int, target: int) -> Array:
    """The mean over the area of the old image that a new pixel covers."""
    edges = np.arange(target + 1, dtype=np.float32) * _scale(length, target)
    pixels = np.arange(length)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = covered.clip(min=0).astype(np.float32)
    normalized: Array = weights / weights.sum(axis=1, keepdims=True)
    return normalized


_WEIGHTS = {"bilinear": _bilinear, "bicubic": _bicubic, "area": _area}
