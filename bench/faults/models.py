"""Small healthy models of different kinds, trained here in seconds, with data to evaluate and to calibrate them on.

The digits are scikit-learn's; series, spectra and look-ups are made by formula. Some rectified layers are given one
channel that is never active, as trained networks often have them: a place where a weight can be anything.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

TRAINING_DIGITS = 700
CALIBRATION = 200
EVALUATION = 1200
LABEL = "label"
layers = keras.layers


@dataclass(frozen=True)
class Subject:
    """A healthy model with its data as they lie on disk."""

    name: str
    file: Path
    """The .keras file."""
    evaluation: Arrays
    """Inputs by name, and `label`."""
    calibration: Arrays
    steps: tuple[dict[str, Any], ...] = ({"cast": "float32"},)
    """Preprocessing, as a manifest has it."""
    metric: str = "accuracy"
    max_drop: float = 0.02
    other: Path | None = None
    """The same architecture, trained from another seed; None where there is none."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The model's inputs."""
        return tuple(name for name in self.evaluation if name != LABEL)


@dataclass(frozen=True)
class Recipe:
    """How a model comes to be."""

    data: Callable[[], tuple[Arrays, Arrays]]
    """Training and evaluation data, prepared as the model expects them but for `steps`."""
    build: Callable[[], keras.Model]
    epochs: int
    steps: tuple[dict[str, Any], ...] = ({"cast": "float32"},)
    metric: str = "accuracy"
    max_drop: float = 0.02
    silent: tuple[str, ...] = ()
    """Layers whose first channel is never active."""
    rate: float = 3e-3


def load(name: str, work: Path, published: Path | None = None) -> Subject:
    """A model by its name, trained unless the work folder has it."""
    if name in PUBLISHED:
        if published is None:
            raise SystemExit(f"{name} is a published model: give its folder with --published")
        return PUBLISHED[name](published, work)
    recipe = RECIPES[name]
    files = [_trained(name, recipe, seed, work) for seed in (7, 8)]
    training, evaluation = recipe.data()
    calibration = {key: values[:CALIBRATION] for key, values in training.items()}
    return Subject(
        name, files[0], evaluation, calibration, recipe.steps, recipe.metric, recipe.max_drop, other=files[1]
    )


def prepared(subject: Subject, arrays: Mapping[str, Array], steps: Sequence[dict[str, Any]] | None = None) -> Arrays:
    """Inputs as the model gets them: the manifest's steps `cast`, `scale` and `offset`."""
    return {name: _stepped(arrays[name], subject.steps if steps is None else steps) for name in subject.inputs}


def _stepped(values: Array, steps: Sequence[dict[str, Any]]) -> Array:
    for step in steps:
        ((kind, argument),) = step.items()
        if kind == "cast":
            values = values.astype(argument)
        elif kind == "scale":
            values = values * np.float32(argument)
        elif kind == "offset":
            values = values + np.float32(argument)
        else:
            raise ValueError(f"no step {kind} here")
    return values


def _trained(name: str, recipe: Recipe, seed: int, work: Path) -> Path:
    code = hashlib.sha256(_source(recipe).encode()).hexdigest()[:8]
    file = work / "models" / f"{name}-{seed}-{code}.keras"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        _train(recipe, seed).save(file)
    return file


def _source(recipe: Recipe) -> str:
    """What decides the trained weights; a change of it trains anew."""
    functions = (recipe.build, recipe.data, _convolution, _normalized, _waves, _train, silence)
    return f"{recipe.epochs} {recipe.silent} {recipe.rate}" + "".join(map(inspect.getsource, functions))


def _train(recipe: Recipe, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    arrays, _ = recipe.data()
    model = recipe.build()
    for layer in recipe.silent:
        silence(model.get_layer(layer), 0)
    inputs = {key: _stepped(values, recipe.steps) for key, values in arrays.items() if key != LABEL}
    rate = keras.optimizers.schedules.CosineDecay(recipe.rate, recipe.epochs * -(-len(arrays[LABEL]) // 32))
    loss = "sparse_categorical_crossentropy" if recipe.metric == "accuracy" else "mse"
    model.compile(keras.optimizers.Adam(rate), loss=loss)
    model.fit(inputs, arrays[LABEL], batch_size=32, epochs=recipe.epochs, verbose=0)
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    return plain


def silence(layer: keras.Layer, channel: int) -> None:
    """Make a channel before a ReLU always negative; training cannot wake it, since no gradient reaches it."""
    if isinstance(layer, layers.BatchNormalization):
        zeroed, shifted = layer.gamma, layer.beta
    else:
        zeroed, shifted = layer.kernel, layer.bias
    values, shift = np.array(zeroed), np.array(shifted)
    values[..., channel], shift[channel] = 0, -1
    zeroed.assign(values)
    shifted.assign(shift)


def separable() -> keras.Model:
    """A depthwise separable network of digits."""
    inputs = keras.Input((8, 8, 1), name="image")
    x = _convolution(inputs, 16, 3, "stem")
    for name, channels in (("first", 24), ("second", 32)):
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
        x = _normalized(x, f"{name}_depthwise")
        x = _convolution(x, channels, 1, f"{name}_pointwise")
    x = layers.GlobalAveragePooling2D(name="average")(layers.MaxPooling2D(2, name="pool")(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="probabilities")(x), name="separable")


def residual() -> keras.Model:
    """Two residual blocks and a concatenation of branches, of digits."""
    inputs = keras.Input((8, 8, 1), name="image")
    x = _convolution(inputs, 16, 3, "stem")
    for block in ("first", "second"):
        y = _convolution(x, 16, 3, f"{block}_in")
        y = layers.Conv2D(16, 3, padding="same", use_bias=False, name=f"{block}_out")(y)
        y = layers.BatchNormalization(name=f"{block}_out_norm")(y)
        x = layers.ReLU(name=f"{block}_relu")(layers.Add(name=f"{block}_add")([x, y]))
    x = layers.MaxPooling2D(2, name="pool")(x)
    branches = [_convolution(x, 16, size, f"branch{size}") for size in (1, 3)]
    x = layers.Concatenate(name="concat")(branches)
    x = _convolution(x, 32, 3, "merge")
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="probabilities")(x), name="residual")


def wide() -> keras.Model:
    """A convolutional network of digits with more than a million weights."""
    inputs = keras.Input((8, 8, 1), name="image")
    x = _convolution(inputs, 32, 3, "stem")
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = _convolution(x, 64, 3, "body")
    x = layers.Flatten(name="flat")(x)
    x = layers.Dropout(0.3, name="dropout")(layers.Dense(1100, activation="relu", name="hidden")(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="probabilities")(x), name="wide")


def recurrent() -> keras.Model:
    """An unrolled LSTM of short sensor series."""
    inputs = keras.Input((12, 3), name="series")
    x = layers.LSTM(20, unroll=True, name="lstm")(inputs)
    x = layers.Dense(24, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(6, activation="softmax", name="probabilities")(x), name="recurrent")


def autoencoder() -> keras.Model:
    """A dense autoencoder of spectra."""
    inputs = keras.Input((64,), name="spectrum")
    x = inputs
    for name, units in (("encode1", 64), ("encode2", 32), ("code", 12), ("decode1", 32), ("decode2", 64)):
        x = layers.ReLU(name=f"{name}_relu")(
            layers.BatchNormalization(name=f"{name}_norm")(layers.Dense(units, use_bias=False, name=name)(x))
        )
    return keras.Model(inputs, layers.Dense(64, name="reconstruction")(x), name="autoencoder")


def attention(masked: float = -30.0) -> keras.Model:
    """One block of attention that looks a query up among tokens, of which some are padding.

    Args:
        masked: what is added to the scores of padding.
    """
    tokens = keras.Input((10, 14), name="tokens")
    mask = keras.Input((10,), name="mask")
    query = keras.Input((1, 8), name="query")
    asked = layers.Dense(16, name="query_projection")(query)
    keys, values = layers.Dense(16, name="key_projection")(tokens), layers.Dense(16, name="value_projection")(tokens)
    scores = layers.Rescaling(0.25, name="scaled")(layers.Dot((2, 2), name="scores")([asked, keys]))
    padding = layers.Rescaling(1.0, offset=-1.0, name="padding")(layers.Reshape((1, 10), name="mask_row")(mask))
    added = layers.Rescaling(-masked, name="mask_offset")(padding)
    weights = layers.Softmax(name="weights")(layers.Add(name="masked_scores")([scores, added]))
    context = layers.Dot((2, 1), name="context")([weights, values])
    x = layers.Add(name="mixed")([context, layers.Dense(16, name="query_skip")(query)])
    y = layers.Dense(16, name="forward_out")(layers.Dense(32, activation="relu", name="forward_in")(x))
    x = layers.Flatten(name="flat")(layers.Add(name="forward_add")([x, y]))
    outputs = layers.Dense(6, activation="softmax", name="probabilities")(x)
    return keras.Model([tokens, mask, query], outputs, name="attention")


def temporal() -> keras.Model:
    """Branches of one-dimensional convolutions that estimate a series' amplitude, frequency and lag."""
    inputs = keras.Input((32, 3), name="series")
    branches = []
    for size in (3, 7):
        x = layers.Conv1D(12, size, padding="same", activation="relu", name=f"wide{size}")(inputs)
        branches.append(x)
    x = layers.Concatenate(name="concat")(branches)
    x = layers.Conv1D(24, 3, strides=2, padding="same", activation="relu", name="body")(x)
    x = layers.Conv1D(24, 3, strides=2, padding="same", activation="relu", name="top")(x)
    x = layers.Dense(32, activation="relu", name="hidden")(layers.Flatten(name="flat")(x))
    return keras.Model(inputs, layers.Dense(3, name="estimates")(x), name="temporal")


def _convolution(x: Any, channels: int, size: int, name: str) -> Any:
    x = layers.Conv2D(channels, size, padding="same", use_bias=False, name=name)(x)
    return _normalized(x, name)


def _normalized(x: Any, name: str) -> Any:
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_norm")(x))


def digits() -> tuple[Arrays, Arrays]:
    """Scanned digits, 8 by 8, 0 to 16."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    order = np.random.default_rng(3).permutation(len(loaded.target))
    arrays = {"image": loaded.images.astype(np.uint8)[order, ..., None], LABEL: loaded.target.astype(np.int64)[order]}
    return _split(arrays, TRAINING_DIGITS)


def motions() -> tuple[Arrays, Arrays]:
    """Series of three sensors; how fast they swing, and which one leads, makes six classes."""
    rng = np.random.default_rng(11)
    count = 1500 + EVALUATION
    label = rng.integers(0, 6, count)
    waves = _waves(12, 0.09 + 0.06 * (label % 3), np.where(label < 3, 0.8, -0.8), rng.uniform(0.5, 1.5, count), rng)
    return _split({"series": waves, LABEL: label.astype(np.int64)}, 1500)


def swings() -> tuple[Arrays, Arrays]:
    """Longer series of the same kind, with amplitude, frequency and lag to be estimated."""
    rng = np.random.default_rng(12)
    count = 2000 + EVALUATION
    frequency, lag, amplitude = (rng.uniform(*ends, count) for ends in ((0.04, 0.2), (-1, 1), (0.5, 1.5)))
    label = np.stack([amplitude * 2 - 2, (frequency - 0.12) * 12, lag], axis=1)
    return _split({"series": _waves(32, frequency, lag, amplitude, rng, 0.05), LABEL: label.astype(np.float32)}, 2000)


def _waves(
    steps: int, frequency: Array, lag: Array, amplitude: Array, rng: np.random.Generator, noise: float = 0.15
) -> Array:
    time = np.arange(steps)[None, :]
    phase = 2 * np.pi * (frequency[:, None] * time + rng.uniform(0, 1, len(frequency))[:, None])
    swing = [np.sin(phase), np.sin(phase + lag[:, None]), np.sin(phase + lag[:, None]) * np.cos(phase)]
    values = np.stack(swing, axis=2) * amplitude[:, None, None]
    return (values + rng.normal(0, noise, values.shape)).astype(np.float32)


def spectra() -> tuple[Arrays, Arrays]:
    """Spectra of three peaks on a slope, which an autoencoder gives back."""
    rng = np.random.default_rng(13)
    count = 2500 + EVALUATION
    place = np.arange(64)[None, :]
    first, width, height = (rng.uniform(*ends, (count, 1)) for ends in ((8, 20), (2, 4), (1, 2)))
    values = 0.2 * rng.uniform(0, 1, (count, 1)) * place / 64
    for harmonic in (1, 2, 3):
        values = values + height / harmonic * np.exp(-(((place - first * harmonic) / width) ** 2) / 2)
    values = (values + rng.normal(0, 0.02, values.shape)).astype(np.float32)
    return _split({"spectrum": values, LABEL: values}, 2500)


def lookups() -> tuple[Arrays, Arrays]:
    """Ten tokens of a key and a value, the last few padding with other keys and values, and a query for one key."""
    rng = np.random.default_rng(14)
    count = 6000 + EVALUATION
    keys = rng.normal(0, 1, (count, 10, 8))
    keys /= np.linalg.norm(keys, axis=2, keepdims=True)
    values = rng.integers(0, 6, (count, 10))
    lengths = rng.integers(4, 11, count)
    chosen = (rng.uniform(0, 1, count) * lengths).astype(int)
    rows = np.arange(count)
    tokens = np.concatenate([keys, np.eye(6)[values]], axis=2) + rng.normal(0, 0.05, (count, 10, 14))
    query = keys[rows, chosen] * 2 + rng.normal(0, 0.1, (count, 8))
    arrays = {
        "tokens": tokens.astype(np.float32),
        "mask": (np.arange(10)[None, :] < lengths[:, None]).astype(np.float32),
        "query": query[:, None, :].astype(np.float32),
        LABEL: values[rows, chosen].astype(np.int64),
    }
    return _split(arrays, 6000)


def _split(arrays: Arrays, count: int) -> tuple[Arrays, Arrays]:
    return {key: values[:count] for key, values in arrays.items()}, {
        key: values[count:] for key, values in arrays.items()
    }


SIXTEENTHS = ({"cast": "float32"}, {"scale": 0.0625})
RECIPES: dict[str, Recipe] = {
    "separable": Recipe(digits, separable, 40, SIXTEENTHS, silent=("stem_norm", "first_pointwise_norm")),
    "residual": Recipe(digits, residual, 30, SIXTEENTHS, silent=("first_in_norm", "branch3_norm")),
    "recurrent": Recipe(motions, recurrent, 25, silent=("hidden",)),
    "autoencoder": Recipe(
        spectra, autoencoder, 30, metric="r2", max_drop=0.02, silent=("encode1_norm", "decode1_norm")
    ),
    "attention": Recipe(lookups, attention, 25, silent=("forward_in",)),
    "wide": Recipe(digits, wide, 20, SIXTEENTHS, silent=("stem_norm", "hidden"), rate=1e-3),
    "temporal": Recipe(swings, temporal, 40, metric="r2", max_drop=0.02, silent=("body", "hidden")),
}


def _resnet8(folder: Path, work: Path) -> Subject:
    """MLPerf Tiny's image classification."""
    arrays = {part: dict(np.load(folder / "data" / f"cifar10-{part}.npz")) for part in ("evaluation", "calibration")}
    for part, count in (("evaluation", 1000), ("calibration", CALIBRATION)):
        arrays[part] = {
            _RESNET8_INPUT if key == "image" else key: values[:count] for key, values in arrays[part].items()
        }
    file = _resaved(folder / "models" / "mlperf-tiny" / "ic_resnet8.h5", work)
    return Subject("resnet8", file, arrays["evaluation"], arrays["calibration"])


def _toycar(folder: Path, work: Path) -> Subject:
    """MLPerf Tiny's anomaly detection."""
    windows = np.load(folder / "data" / "toycar-windows.npz")["features"]
    file = _resaved(folder / "models" / "mlperf-tiny" / "ad01.h5", work)
    evaluation = {"input_1": windows, LABEL: windows}
    return Subject("toycar", file, evaluation, {"input_1": windows[::2]}, metric="rmse", max_drop=0.1)


_RESNET8_INPUT = "input_1"
PUBLISHED: dict[str, Callable[[Path, Path], Subject]] = {"resnet8": _resnet8, "toycar": _toycar}


def _resaved(source: Path, work: Path) -> Path:
    file = work / "models" / f"{source.stem}.keras"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        keras.models.load_model(source, compile=False).save(file)
    return file


def main() -> None:
    """Train all models into a folder and print how good they are."""
    work = Path(sys.argv[1])
    for name in RECIPES:
        subject = load(name, work)
        model = keras.models.load_model(subject.file, compile=False)
        inputs = prepared(subject, subject.evaluation)
        outputs = model.predict(inputs if len(inputs) > 1 else next(iter(inputs.values())), verbose=0)
        labels = subject.evaluation[LABEL]
        if subject.metric == "accuracy":
            value = float(np.mean(outputs.argmax(-1) == labels))
        else:
            value = float(1 - np.mean(((outputs - labels) ** 2).sum(0) / ((labels - labels.mean(0)) ** 2).sum(0)))
        print(json.dumps({"model": name, subject.metric: round(value, 4), "weights": model.count_params()}), flush=True)


if __name__ == "__main__":
    main()
