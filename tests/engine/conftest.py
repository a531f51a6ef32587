from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from engine_models import EXAMPLES, Case, normal

L = keras.layers
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:  # TensorFlow's and Keras's own, with current numpy
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))


@pytest.fixture(scope="session")
def make_case(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    def make(name: str, model: Any, data: dict[str, np.ndarray], suffix: str = ".keras") -> Case:
        folder = tmp_path_factory.mktemp(name)
        path = folder / f"{name}{suffix}"
        model.save(path)
        return Case(path, data, folder)

    return make


@pytest.fixture(scope="session")
def conv(make_case: Callable[..., Case]) -> Case:
    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((8, 8, 1), name="image"),
        L.Conv2D(8, 3, activation="relu", name="first"),
        L.Flatten(),
        L.Dense(10, activation="softmax", name="scores"),
    ]
    return make_case("conv", keras.Sequential(layers), {"image": normal(8, 8, 1)})


@pytest.fixture(scope="session")
def branches(make_case: Callable[..., Case]) -> Case:
    """Two inputs of one shape and one of integers; two outputs by key, of which the last is computed first."""
    keras.utils.set_random_seed(2)
    right, left = keras.Input((4,), name="right"), keras.Input((4,), name="left")
    ids = keras.Input((3,), dtype="int32", name="ids")
    embedded = L.Flatten()(L.Embedding(5, 2)(ids))
    outputs = {
        "zeta": L.Dense(3, name="from_left")(left),
        "alpha": L.Concatenate(name="joined")([L.Dense(2, name="from_right")(right), embedded]),
    }
    data = {
        "left": normal(4),
        "right": 100 * normal(4)[::-1],
        "ids": np.random.default_rng(3).integers(0, 5, (EXAMPLES, 3)),
    }
    return make_case("branches", keras.Model({"left": left, "right": right, "ids": ids}, outputs), data)


@pytest.fixture(scope="session")
def sine(make_case: Callable[..., Case]) -> Case:
    keras.utils.set_random_seed(4)
    wave = keras.Input((6,), name="wave")
    hidden = L.Dense(4, name="before")(wave)
    return make_case("sine", keras.Model(wave, L.Dense(3, name="after")(keras.ops.sin(hidden))), {"wave": normal(6)})


@pytest.fixture(scope="session")
def looped(make_case: Callable[..., Case]) -> Case:
    """A recurrent model whose loop stays a loop."""
    keras.utils.set_random_seed(5)
    layers = [keras.Input((5, 3), name="steps"), L.LSTM(4), L.Dense(2)]
    return make_case("looped", keras.Sequential(layers), {"steps": normal(5, 3)})


@pytest.fixture(scope="session")
def stateful(make_case: Callable[..., Case]) -> Case:
    """A model that carries state from one call to the next."""
    keras.utils.set_random_seed(6)
    layers = [keras.Input(batch_shape=(1, 3, 2), name="steps"), L.LSTM(3, stateful=True, unroll=True), L.Dense(2)]
    return make_case("stateful", keras.Sequential(layers), {"steps": normal(3, 2)})


@pytest.fixture(scope="session")
def fixed(make_case: Callable[..., Case]) -> Case:
    """A model that takes one example at a time although its batch is declared free."""
    keras.utils.set_random_seed(8)
    x = keras.Input((4, 2), name="x")
    flat = keras.ops.reshape(L.Dense(3)(x), (1, 12))
    return make_case("fixed", keras.Model(x, L.Dense(2)(flat)), {"x": normal(4, 2)})
