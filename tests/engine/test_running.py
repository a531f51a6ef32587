"""References and variants run alike, held against plain loops over TensorFlow and LiteRT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from engine_models import EXAMPLES, Case, edited, lone, normal, runner, runners, without_signature

from tflite_guard.datasets import Batch, open_dataset
from tflite_guard.engine.outputs import batch_size
from tflite_guard.engine.reference import Reference, load_reference
from tflite_guard.engine.running import Running, run_batches
from tflite_guard.engine.tflite import Model, Port, Runner, bind
from tflite_guard.errors import DataError, EvaluationError, NamingError
from tflite_guard.manifest.types import DatasetSpec, FileSpec, ReferenceSpec
from tflite_guard.protocol import Facts, Names, TensorInfo

Serve = Callable[[Any], dict[str, Any]]
WEIGHTS = np.random.default_rng(1).normal(size=(4, 5)).astype("float32")


def saved(folder: Path, serve: Serve, shape: tuple[int | None, ...], module: tf.Module | None = None) -> str:
    function = tf.function(serve, input_signature=[tf.TensorSpec(shape, name="x")])
    path = folder / "saved"
    tf.saved_model.save(module or tf.Module(), str(path), signatures={"serving_default": function})
    return str(path)


def converted(folder: str) -> str:
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    converter.experimental_enable_resource_variables = True
    path = Path(folder).with_suffix(".tflite")
    path.write_bytes(converter.convert())
    return str(path)


def reference(folder: str) -> Reference:
    return load_reference(ReferenceSpec("saved_model", FileSpec(folder)))


def both(tmp_path: Path, serve: Serve, shape: tuple[int | None, ...]) -> Iterator[Running]:
    """One function as a reference and as a variant."""
    folder = saved(tmp_path, serve, shape)
    yield reference(folder)
    yield runner(converted(folder))


def outputs(running: list[Any], data: np.ndarray, size: int = 7, **settings: Any) -> dict[str, np.ndarray]:
    groups = settings.pop("groups", None)
    batches = [
        Batch({"x": data[i : i + size]}, {}, None if groups is None else groups[i : i + size], i, range(i, i + size))
        for i in range(0, len(data), size)
    ]
    found = [result for _, result in run_batches(running, batches, **settings)]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def test_what_depends_on_its_batch_is_run_one_by_one_and_told(tmp_path: Path) -> None:
    def serve(x: Any) -> dict[str, Any]:
        return {"y": x - tf.reduce_mean(x, axis=0, keepdims=True) + tf.reduce_max(x)}

    data = normal(4)
    for one in both(tmp_path, serve, (None, 4)):
        got = outputs([one], data)["y"]
        np.testing.assert_allclose(got, np.repeat(data.max(axis=1, keepdims=True), 4, axis=1))
        assert one.facts("reset") == Facts(batch_dependent=True)


def test_a_piece_is_run_as_all_examples_are(tmp_path: Path) -> None:
    """Whether a batch gives what its examples give singly is seen of the first of all, in every piece."""

    def serve(x: Any) -> dict[str, Any]:
        return {"y": x + tf.nn.relu(tf.reduce_max(x) - 5.0)}

    values = np.random.default_rng(0).random((150, 4)).astype("float32")
    values[3] = 6.0  # none behind the first batch is coupled
    np.savez(tmp_path / "data.npz", x=values)
    data = open_dataset(DatasetSpec("data", "npz", FileSpec(str(tmp_path / "data.npz")), "x"), ["x"])
    size = batch_size(data, 16)
    for one, again in zip(both(tmp_path, serve, (None, 4)), both(tmp_path, serve, (None, 4)), strict=True):
        whole = [found["y"] for _, found in run_batches([one], data.batches(size), data=data)]
        piece = data.piece(64, 150)
        assert batch_size(piece, 16) == size
        stream = run_batches([again], piece.batches(size), data=piece, checked=piece.first_of_all(size))
        np.testing.assert_array_equal(np.concatenate([found["y"] for _, found in stream]), np.concatenate(whole)[64:])
        assert again.facts("reset") == one.facts("reset") == Facts(batch_dependent=True)


def test_what_does_not_is_run_together(tmp_path: Path) -> None:
    data = normal(4)
    for one in both(tmp_path, lambda x: {"y": x @ WEIGHTS}, (None, 4)):
        np.testing.assert_allclose(outputs([one], data)["y"], data @ WEIGHTS, rtol=1e-4, atol=1e-5)
        assert not one.one_by_one
        assert one.facts("reset") == Facts()


@pytest.mark.parametrize("shape", [(1, 4), (4,)])
def test_outputs_without_a_batch_axis_are_each_examples_own(tmp_path: Path, shape: tuple[int, ...]) -> None:
    table = np.arange(24, dtype="float32").reshape(6, 4)

    def serve(x: Any) -> dict[str, Any]:
        row = tf.reshape(x, (1, 4))
        return {"scores": tf.squeeze(row @ WEIGHTS, 0), "table": table + tf.reduce_sum(x), "rows": row @ WEIGHTS}

    data = normal(4)
    for one in both(tmp_path, serve, shape):
        got = outputs([one], data)
        np.testing.assert_allclose(got["scores"], data @ WEIGHTS, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got["table"], table + data.sum(1)[:, None, None], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got["rows"], data @ WEIGHTS, rtol=1e-4, atol=1e-5)


def test_a_scalar_input_and_output(tmp_path: Path) -> None:
    data = normal()
    for one in both(tmp_path, lambda x: {"y": 2 * x + 1}, ()):
        np.testing.assert_allclose(outputs([one], data)["y"], 2 * data + 1, rtol=1e-6)


def test_a_leading_axis_is_an_examples_own_or_a_fixed_batch_as_the_data_say(tmp_path: Path) -> None:
    def serve(x: Any) -> dict[str, Any]:
        return {"y": 2.0 * x, "total": tf.reduce_sum(x)[None]}

    whole, rows = normal(3, 4), normal(4)
    for one in both(tmp_path, serve, (3, 4)):
        got = outputs([one], whole)
        np.testing.assert_allclose(got["y"], 2 * whole, rtol=1e-6)
        np.testing.assert_allclose(got["total"], whole.sum((1, 2)), rtol=1e-4, atol=1e-5)
    for one in both(tmp_path, lambda x: {"y": x @ WEIGHTS}, (3, 4)):
        np.testing.assert_allclose(outputs([one], rows)["y"], rows @ WEIGHTS, rtol=1e-4, atol=1e-5)


def test_an_output_whose_shape_follows_the_values_is_compared_in_one_shape_alone(tmp_path: Path) -> None:
    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.boolean_mask(x[0], x[0] > 0)}

    alike = np.abs(normal(4)) * [1, -1, 1, 1]
    unlike = normal(4)
    for one in both(tmp_path, serve, (1, 4)):
        np.testing.assert_array_equal(outputs([one], alike.astype("float32"))["y"], alike[:, [0, 2, 3]].astype("f4"))
        with pytest.raises(EvaluationError, match="output 'y' changes its shape between examples") as e:
            outputs([one], unlike)
        assert e.value.kind == "output-shape"


class Ring(tf.Module):
    """A streaming model as wake words have it: a ring buffer of the last three frames, and a sum over them."""

    def __init__(self) -> None:
        self.buffer = tf.Variable(tf.zeros((3, 4)))

    def serve(self, x: Any) -> dict[str, Any]:
        held = tf.concat([self.buffer[1:], x], axis=0)
        self.buffer.assign(held)
        return {"y": tf.reduce_sum(held, axis=0, keepdims=True)}


def ringed(data: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """A plain loop over the frames; the buffer is empty where another group begins."""
    rows = []
    for i, frame in enumerate(data):
        if i == 0 or (groups is not None and groups[i] != groups[i - 1]):
            buffer = np.zeros((3, 4), "float32")
        buffer = np.concatenate([buffer[1:], frame[None]])
        rows.append(buffer.sum(0))
    return np.stack(rows)


@pytest.mark.parametrize("groups", [None, np.repeat([3, 1, 2], 8), np.repeat(["b", "a"], [5, 19])])
def test_state_that_is_kept_ends_where_a_group_does(tmp_path: Path, groups: np.ndarray | None) -> None:
    ring, data = Ring(), normal(4)
    folder = saved(tmp_path, ring.serve, (1, 4), ring)
    for running in ([reference(folder)], runners(converted(folder), threads=3)):
        for _ in range(2):
            got = outputs(running, data, state="kept", groups=groups)["y"]
            np.testing.assert_allclose(got, ringed(data, groups), rtol=1e-5, atol=1e-6)
        assert running[0].facts("kept") == Facts()


def test_state_is_forgotten_before_each_example_unless_kept(tmp_path: Path) -> None:
    ring, data = Ring(), normal(4)
    folder = saved(tmp_path, ring.serve, (1, 4), ring)
    for running in ([reference(folder)], runners(converted(folder))):
        np.testing.assert_allclose(outputs(running, data, groups=np.zeros(EXAMPLES))["y"], data, rtol=1e-6)
        assert running[0].facts("reset") == Facts(state_reset=True)


def test_the_state_of_keras_layers_is_kept(stateful: Case) -> None:
    import keras

    model, groups = keras.saving.load_model(stateful.path), np.repeat([0, 1], EXAMPLES // 2)
    wanted = []
    for i in range(EXAMPLES):
        if i in (0, EXAMPLES // 2):
            model.layers[0].reset_state()
        wanted.append(model(stateful.data["steps"][i : i + 1]).numpy())
    batches = [Batch({"steps": stateful.data["steps"]}, {}, groups, 0, range(len(groups)))]
    for running in ([load_reference(stateful.spec)], runners(stateful.tflite("float32"))):
        [(_, got)] = run_batches(running, batches, "kept")
        np.testing.assert_allclose(lone(got), np.concatenate(wanted), rtol=1e-4, atol=1e-6)


def test_a_group_in_two_stretches_cannot_keep_its_state(tmp_path: Path) -> None:
    ring = Ring()
    folder = saved(tmp_path, ring.serve, (1, 4), ring)
    with pytest.raises(DataError, match="group 1 comes in more than one stretch"):
        outputs([reference(folder)], normal(4)[:6], state="kept", groups=np.array([1, 1, 2, 2, 1, 1]))


@pytest.fixture(scope="module")
def day_and_night(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A .tflite of two signatures with inputs and outputs of the same names and shapes."""
    folder = tmp_path_factory.mktemp("signatures")
    spec = [tf.TensorSpec((None, 4), name="x")]
    signatures = {
        "day": tf.function(lambda x: {"y": x @ WEIGHTS}, input_signature=spec),
        "night": tf.function(lambda x: {"y": x @ -WEIGHTS - tf.reduce_mean(x, 0)[0] * 0 + 1}, input_signature=spec),
    }
    tf.saved_model.save(tf.Module(), str(folder / "m"), signatures=signatures)
    path = folder / "both.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(folder / "m")).convert())
    return str(path)


@pytest.mark.parametrize(("asked", "own"), [("night", None), ("night", "day"), (None, "night")])
def test_the_signature_that_is_named_is_the_one_that_runs(day_and_night: str, asked: Any, own: Any) -> None:
    data = normal(4)
    plain = Interpreter(model_path=day_and_night).get_signature_runner("night")
    wanted = np.concatenate([plain(x=data[i : i + 1])["y"] for i in range(EXAMPLES)])
    one = Runner(Model.read(day_and_night, asked, own))
    np.testing.assert_allclose(outputs([one], data)["y"], wanted, rtol=1e-5, atol=1e-6)
    assert not one.one_by_one


@pytest.mark.parametrize(("asked", "own"), [(None, None), (None, "dawn"), ("dawn", "night")])
def test_a_signature_is_never_guessed(day_and_night: str, asked: Any, own: Any) -> None:
    with pytest.raises(NamingError, match="'day', 'night'"):
        Model.read(day_and_night, asked, own)


def test_a_signature_without_outputs_is_not_looked_at(day_and_night: str, tmp_path: Path) -> None:
    def emptied(content: Any) -> None:
        content.signatureDefs[0].outputs = None

    path = edited(day_and_night, tmp_path / "one.tflite", emptied)
    assert Model.read(path).signature.key == "night"


def test_what_has_no_name_goes_by_its_place(conv: Case, tmp_path: Path) -> None:
    def unnamed(content: Any) -> None:
        for tensor in content.subgraphs[0].tensors:
            tensor.name = b""

    path = without_signature(conv.tflite("float32"), tmp_path / "bare.tflite")
    model = Model.read(edited(path, tmp_path / "unnamed.tflite", unnamed))
    assert (list(model.inputs), list(model.outputs)) == (["#0"], ["#0"])
    np.testing.assert_array_equal(
        lone(Runner(model, expected=conv.source.names).run(conv.data)),
        lone(runner(conv.tflite("float32")).run(conv.data)),
    )


@pytest.mark.parametrize("names", [("#0", "#1"), ("arg0", "arg1")])
def test_equals_that_the_reference_has_no_names_for_go_by_their_places(names: tuple[str, str]) -> None:
    infos = {name: TensorInfo((None, 4), "float32") for name in ("#0", "#1")}
    ports = {name: Port(index, (None, 4), "float32") for name, index in zip(names, (5, 7), strict=True)}
    assert {name: port.index for name, port in bind("m", ports, infos, {}, "input").items()} == {"#0": 5, "#1": 7}


def test_what_has_no_name_and_another_order_goes_by_its_only_shape() -> None:
    infos = {"#0": TensorInfo((None, 4), "float32"), "#1": TensorInfo((None, 6), "float32")}
    ports = {"#0": Port(5, (None, 6), "float32"), "#1": Port(7, (None, 4), "float32")}
    assert {name: port.index for name, port in bind("m", ports, infos, {}, "input").items()} == {"#0": 7, "#1": 5}


def test_wide_integers_with_a_scale_stand_for_reals(tmp_path: Path) -> None:
    folder = saved(tmp_path, lambda x: {"y": tf.cast(x, tf.int32)}, (None, 4))

    def scaled(content: Any) -> None:
        from ai_edge_litert import schema_py_generated as schema

        for index in content.subgraphs[0].outputs:
            quantization = schema.QuantizationParametersT()
            quantization.scale, quantization.zeroPoint = [0.5], [-3]
            content.subgraphs[0].tensors[index].quantization = quantization

    path = edited(converted(folder), tmp_path / "scaled.tflite", scaled)
    data = np.array([[1, 2, 3, 4], [10, 20, 30, 2**30]], "float32")
    got = runner(path, Names({"x": TensorInfo((None, 4), "float32")}, {"y": TensorInfo((None, 4), "float32")}))
    np.testing.assert_array_equal(got.run({"x": data})["y"], ((data.astype(float) + 3) / 2).astype("float32"))


def test_an_output_whose_shape_the_file_leaves_open_goes_by_its_name(conv: Case, tmp_path: Path) -> None:
    def opened(content: Any) -> None:
        for index in content.subgraphs[0].outputs:
            content.subgraphs[0].tensors[index].shape = content.subgraphs[0].tensors[index].shapeSignature = []

    path = edited(conv.tflite("float32"), tmp_path / "open.tflite", opened)
    wanted = lone(runner(conv.tflite("float32")).run(conv.data))
    np.testing.assert_array_equal(lone(runner(path, conv.source.names).run(conv.data)), wanted)
