"""Where in a Keras model a channel can be scaled, and undone, without a change of the float function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

layers = keras.layers
KERNELS = (layers.Conv1D, layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
PASSING = (
    layers.ReLU,
    layers.MaxPooling2D,
    layers.AveragePooling2D,
    layers.GlobalAveragePooling2D,
    layers.Flatten,
    layers.Dropout,
)
"""They give a channel that is scaled by a positive number back scaled by it."""


@dataclass(frozen=True)
class Site:
    """A layer that makes channels, what they pass through, and the one layer that takes them."""

    producer: keras.Layer
    passed: tuple[keras.Layer, ...]
    consumer: keras.Layer
    channels: int
    offset: int = 0
    """Where the producer's channels begin among the consumer's."""
    total: int = 0
    """How many channels the consumer takes."""
    concatenation: keras.Layer | None = None

    @property
    def places(self) -> tuple[str, ...]:
        """Layers that compute the channels as they are between producer and consumer."""
        before = [node.operation.name for node in _inbound(self.producer) if isinstance(node.operation, KERNELS)]
        return (*before, self.producer.name, *(layer.name for layer in self.passed))


def sites(network: keras.Model) -> list[Site]:
    """All places where one layer's channels can be scaled, without those behind a concatenation."""
    found = [_site(layer) for layer in network.layers if _scalable(layer)]
    return [site for site in found if site is not None and site.concatenation is None]


def branches(network: keras.Model) -> list[Site]:
    """The branches of concatenations that can be scaled as a whole."""
    found = [_site(layer) for layer in network.layers if _scalable(layer)]
    return [site for site in found if site is not None and site.concatenation is not None]


def scale(site: Site, factors: np.ndarray) -> None:
    """Multiply the producer's channels by factors and divide the consumer's kernel by them."""
    producer = site.producer
    if isinstance(producer, layers.BatchNormalization):
        _multiply(producer.gamma, factors)
        _multiply(producer.beta, factors)
    else:
        shape = (-1, 1) if isinstance(producer, layers.DepthwiseConv2D) else (-1,)
        _multiply(producer.kernel, factors.reshape(shape))
        if producer.use_bias:
            _multiply(producer.bias, factors)
    divide_inputs(site.consumer, factors, site.total, site.offset)


def divide_inputs(consumer: keras.Layer, factors: np.ndarray, total: int, offset: int = 0) -> None:
    """Divide the kernel's slices for some input channels."""
    whole = np.ones(total)
    whole[offset : offset + len(factors)] = factors
    kernel = np.array(consumer.kernel, np.float64)
    if isinstance(consumer, layers.Dense):  # flattened inputs repeat the channels
        divided = kernel.reshape(-1, total, kernel.shape[-1]) / whole[:, None]
    else:
        divided = kernel / whole[:, None]
    consumer.kernel.assign(divided.reshape(kernel.shape))


def set_input_weight(site: Site, channel: int, outputs: np.ndarray, value: float) -> None:
    """Set the consumer's weight of an input channel, in the first place of the kernel, for some output channels."""
    kernel = np.array(site.consumer.kernel)
    flat = kernel.reshape(-1, site.total, kernel.shape[-1])
    flat[0, site.offset + channel, outputs] = value
    site.consumer.kernel.assign(flat.reshape(kernel.shape))


def silent_channels(network: keras.Model, site: Site, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Channels of a site that are zero on all the data."""
    probe = keras.Model(network.inputs, (site.passed or (site.producer,))[-1].output)
    given = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    values = np.asarray(probe.predict(given, verbose=0, batch_size=256))
    return np.flatnonzero(np.abs(values.reshape(-1, site.total)).max(0) == 0)


def _site(producer: keras.Layer) -> Site | None:
    channels = int(producer.output.shape[-1])
    passed: list[keras.Layer] = []
    layer, offset, total, concatenation = producer, 0, channels, None
    while True:
        after = [node.operation for node in layer._outbound_nodes]
        if len(after) != 1:
            return None
        (after_layer,) = after
        if isinstance(after_layer, KERNELS):
            site = Site(producer, tuple(passed), after_layer, channels)
            return replace(site, offset=offset, total=total, concatenation=concatenation)
        if isinstance(after_layer, layers.Concatenate) and concatenation is None:
            sizes = [(tensor, int(tensor.shape[-1])) for tensor in after_layer.input]
            offset = sum(size for _, size in sizes[: _index(after_layer, layer)])
            total, concatenation = sum(size for _, size in sizes), after_layer
        elif not _passes(after_layer):
            return None
        passed.append(after_layer)
        layer = after_layer


def _index(concatenation: keras.Layer, layer: keras.Layer) -> int:
    return next(at for at, tensor in enumerate(concatenation.input) if tensor is layer.output)


def _scalable(layer: keras.Layer) -> bool:
    if isinstance(layer, layers.BatchNormalization):
        return bool(layer.scale and layer.center)
    return isinstance(layer, KERNELS) and layer.activation in (keras.activations.relu, keras.activations.linear)


def _passes(layer: keras.Layer) -> bool:
    if isinstance(layer, layers.ReLU):
        return layer.max_value is None
    if isinstance(layer, layers.Activation):
        return layer.activation in (keras.activations.relu, keras.activations.linear)
    return isinstance(layer, PASSING)


def _inbound(layer: keras.Layer) -> Iterator[Any]:
    for node in layer._inbound_nodes:
        for tensor in node.input_tensors:
            yield tensor._keras_history


def _multiply(weight: Any, factors: np.ndarray) -> None:
    weight.assign(np.array(weight, np.float64) * factors)
