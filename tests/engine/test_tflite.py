from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_models import EXAMPLES, Case, edited, lone, runner, runners, single_runs, without_signature

from tflite_guard.datasets import Batch
from tflite_guard.engine import feeds, tflite
from tflite_guard.engine.running import run_batches
from tflite_guard.engine.tflite import Model, Runner
from tflite_guard.errors import DataError, EvaluationError, ModelFileError
from tflite_guard.protocol import Names, TensorInfo


def batches(data: dict[str, np.ndarray], size: int) -> list[Batch]:
    count = len(next(iter(data.values())))
    return [
        Batch(
            {name: values[start : start + size] for name, values in data.items()},
            {},
            None,
            start,
            range(start, start + size),
        )
        for start in range(0, count, size)
    ]


def collected(results: Any) -> dict[str, np.ndarray]:
    outputs = [outputs for _, outputs in results]
    return {name: np.concatenate([each[name] for each in outputs]) for name in outputs[0]}


@pytest.mark.parametrize(
    ("quantization", "io"),
    [
        ("float32", "float32"),
        ("dynamic_range", "float32"),
        ("int8", "float32"),
        ("int8", "int8"),
        ("int8", "uint8"),
        ("int16x8", "int16"),
    ],
)
def test_batches_in_threads_give_what_a_loop_of_single_examples_gives(conv: Case, quantization: str, io: str) -> None:
    path = conv.tflite(quantization, io)
    results = collected(run_batches(runners(path, conv.source.names), batches(conv.data, 7)))
    np.testing.assert_array_equal(lone(results), single_runs(path, conv.data)["output_0"])


def test_inputs_and_outputs_go_by_name(branches: Case) -> None:
    path = branches.tflite("int8", "int8")
    wanted = single_runs(path, branches.data)
    shuffled = {name: branches.data[name] for name in ("right", "ids", "left")}
    results = collected(run_batches(runners(path, branches.source.names), batches(shuffled, 5)))
    assert set(results) == {"zeta", "alpha"}
    for name, values in results.items():
        np.testing.assert_array_equal(values, wanted[name])


def test_order_is_kept_and_little_is_held(conv: Case) -> None:
    drawn = 0

    def stream() -> Any:
        nonlocal drawn
        for batch in batches({"image": np.tile(conv.data["image"], (20, 1, 1, 1))}, 4):
            drawn += 1
            yield batch

    starts = []
    for done, (batch, _) in enumerate(run_batches(runners(conv.tflite("int8")), stream())):
        starts.append(batch.start)
        assert drawn - done <= 5
    assert starts == sorted(starts)
    assert len(starts) == 20 * EXAMPLES // 4


def test_no_batches_give_nothing(conv: Case) -> None:
    assert list(run_batches(runners(conv.tflite("int8")), [])) == []


def test_stopping_in_the_middle_leaves_no_thread(conv: Case) -> None:
    before = threading.active_count()
    stream = run_batches(runners(conv.tflite("int8")), batches(conv.data, 2))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_state_is_forgotten_before_every_example(stateful: Case) -> None:
    path = stateful.tflite("float32")
    results = collected(run_batches(runners(path, stateful.source.names), batches(stateful.data, 8)))
    np.testing.assert_array_equal(lone(results), single_runs(path, stateful.data)["output_0"])


def test_lstm_operator_with_variable_tensors_is_reset(tmp_path: Path) -> None:
    import tensorflow as tf
    import tf_keras

    steps = tf_keras.Input(batch_shape=(1, 5, 3), name="steps")
    model = tf_keras.Model(steps, tf_keras.layers.LSTM(4)(steps))
    function = tf.function(
        lambda steps: {"out": model(steps)}, input_signature=[tf.TensorSpec((1, 5, 3), name="steps")]
    )
    tf.saved_model.save(model, str(tmp_path / "m"), signatures={"serving_default": function})
    path = tmp_path / "m.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "m")).convert())
    assert runner(str(path)).stateful
    data = {"steps": np.random.default_rng(1).normal(size=(6, 5, 3)).astype("float32")}
    np.testing.assert_array_equal(runner(str(path)).run(data)["out"], single_runs(str(path), data)["out"])


def test_a_batch_that_cannot_be_resized_goes_one_by_one(fixed: Case) -> None:
    path = fixed.tflite("int8")
    one = runner(path, fixed.source.names)
    np.testing.assert_array_equal(lone(one.run(fixed.data)), single_runs(path, fixed.data)["output_0"])
    assert one.one_by_one
    assert not one.batch_dependent


def test_a_batch_that_gives_something_else_goes_one_by_one(tmp_path: Path) -> None:
    import tensorflow as tf

    class Centred(tf.Module):
        """Subtracts the batch's mean: right only for one example at a time."""

        @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"y": x - tf.reduce_mean(x, axis=0, keepdims=True) + tf.reduce_max(x)}

    module = Centred()
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=module.__call__)
    path = tmp_path / "m.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "m")).convert())
    data = {"x": np.random.default_rng(0).normal(size=(9, 3)).astype("float32")}
    results = collected(run_batches(runners(str(path)), batches(data, 4)))
    np.testing.assert_array_equal(results["y"], np.repeat(data["x"].max(axis=1, keepdims=True), 3, axis=1))


def test_a_model_without_batch_axis_gets_one(tmp_path: Path) -> None:
    import tensorflow as tf

    function = tf.function(lambda x: {"y": tf.reduce_sum(x * x)}, input_signature=[tf.TensorSpec((3,), name="x")])
    concrete = function.get_concrete_function()
    path = tmp_path / "m.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    data = np.arange(12, dtype="float32").reshape(4, 3)
    [output] = runner(str(path)).run({"x": data}).values()
    np.testing.assert_array_equal(output, (data * data).sum(axis=1))


def test_without_signature_names_come_from_the_reference(conv: Case, tmp_path: Path) -> None:
    path = without_signature(conv.tflite("int8"), tmp_path / "bare.tflite")
    outputs = runner(path, conv.source.names).run(conv.data)
    np.testing.assert_array_equal(lone(outputs), single_runs(conv.tflite("int8"), conv.data)["output_0"])


def test_without_signature_equal_shapes_are_refused_and_not_guessed(branches: Case, tmp_path: Path) -> None:
    path = without_signature(branches.tflite("float32"), tmp_path / "bare.tflite")

    def rename(content: Any) -> None:
        for i, index in enumerate(content.subgraphs[0].inputs):
            content.subgraphs[0].tensors[index].name = f"in_{i}".encode()

    path = edited(path, tmp_path / "renamed.tflite", rename)
    with pytest.raises(
        EvaluationError, match=r"no input corresponds without doubt to the reference's (left|right)"
    ) as e:
        runner(path, branches.source.names)
    assert e.value.kind == "binding"


def test_outputs_without_names_are_bound_by_their_only_shape(branches: Case, tmp_path: Path) -> None:
    path = without_signature(branches.tflite("float32"), tmp_path / "bare.tflite")
    outputs = runner(path, branches.source.names).run(branches.data)
    wanted = single_runs(branches.tflite("float32"), branches.data)
    np.testing.assert_array_equal(outputs["zeta"], wanted["zeta"])
    np.testing.assert_array_equal(outputs["alpha"], wanted["alpha"])


def test_an_alias_finds_its_port(conv: Case) -> None:
    info = conv.source.names
    names = Names({"photo": info.inputs["image"]}, info.outputs, input_aliases={"image": "photo"})
    outputs = runner(conv.tflite("float32"), names).run({"photo": conv.data["image"]})
    assert lone(outputs).shape == (EXAMPLES, 10)


def test_another_shape_than_the_reference_is_an_error(conv: Case) -> None:
    names = Names(conv.source.names.inputs, {"output_0": TensorInfo((None, 11), "float32")})
    with pytest.raises(EvaluationError, match=r"reference's output_0 \[\?, 11\] float32 .*output_0 \[\?, 10\]"):
        runner(conv.tflite("float32"), names)


def test_an_input_that_the_reference_has_not_is_an_error(branches: Case) -> None:
    inputs = {name: info for name, info in branches.source.names.inputs.items() if name != "left"}
    with pytest.raises(EvaluationError, match="has an input that the reference does not have: left"):
        runner(branches.tflite("float32"), Names(inputs, branches.source.names.outputs))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 8, 8, 1), "uint8"), r'input image: .*float32 and the data is uint8; .*\{"cast": "float32"\}'),
        (
            np.zeros((2, 8, 8, 3), "float32"),
            r"input image: the model takes \[\?, 8, 8, 1\] and the data is \[\?, 8, 8, 3\]",
        ),
        (np.zeros((2, 64), "float32"), r"takes \[\?, 8, 8, 1\] and the data is \[\?, 64\]"),
        (np.zeros((2, 8, 8, 1), bool), "data is bool"),
        (np.full((2, 8, 8, 1), np.nan, "float32"), "NaN or infinity"),
    ],
)
def test_data_that_does_not_fit_is_an_error(conv: Case, values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        runner(conv.tflite("int8", "int8"), conv.source.names).run({"image": values})


def test_missing_data_names_the_input(branches: Case) -> None:
    with pytest.raises(DataError, match="no array for the model's input left"):
        runner(branches.tflite("float32")).run({name: branches.data[name] for name in ("right", "ids")})


def test_kinds_are_cast_without_a_word_where_nothing_is_lost(conv: Case, branches: Case) -> None:
    one = runner(conv.tflite("float32"))
    np.testing.assert_array_equal(
        lone(one.run({"image": conv.data["image"].astype("float64")})), lone(one.run(conv.data))
    )
    large = branches.data | {"ids": branches.data["ids"] + 2**40}
    with pytest.raises(DataError, match=r"input ids: the value \d+ does not fit the model's int32"):
        runner(branches.tflite("float32")).run(large)


def test_integers_are_refused_for_an_integer_model_that_stands_for_a_float_one(conv: Case) -> None:
    raw = np.zeros((2, 8, 8, 1), "uint8")
    path = conv.tflite("int8", "uint8")
    with pytest.raises(DataError, match="cast"):
        runner(path, conv.source.names).run({"image": raw})


@pytest.mark.parametrize(("io", "limits"), [("int8", (-128, 127)), ("uint8", (0, 255))])
def test_inputs_are_rounded_and_clipped(io: str, limits: tuple[int, int]) -> None:
    port = tflite.Port(0, (None, 4), io, 0.5, 10)
    got = tflite.quantize(np.array([[0.25, 0.75, 1e6, -1e6]], "float32"), port)
    assert got.tolist() == [[10, 12, limits[1], limits[0]]]
    assert got.dtype == io
    assert tflite.dequantize(got, port)[0, :2].tolist() == [0.0, 1.0]


def test_kernels_can_be_chosen(conv: Case) -> None:
    path = conv.tflite("int8")
    reference = lone(Runner(Model.read(path), "reference").run(conv.data))
    default = lone(Runner(Model.read(path), "default").run(conv.data))
    step = Model.read(conv.tflite("int8", "int8")).outputs["output_0"].scale
    assert np.abs(reference - default).max() <= 4 * step


def test_unknown_sizes_come_from_the_data(make_case: Any) -> None:
    import keras

    image = keras.Input((None, None, 1), name="image")
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(image)))
    case = make_case("sizes", model, {"image": np.random.default_rng(0).normal(size=(6, 9, 7, 1)).astype("float32")})
    outputs = runner(case.tflite("float32"), case.source.names).run(case.data)
    np.testing.assert_allclose(lone(outputs), lone(case.source.reference.run(case.data)), atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\x1c\0\0\0TFL3" + b"\0" * 40])
def test_a_file_that_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"bad\.tflite"):
        runner(str(path))


def test_a_truncated_model_is_refused(conv: Case, tmp_path: Path) -> None:
    content = Path(conv.tflite("int8")).read_bytes()
    path = tmp_path / "cut.tflite"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFileError, match=r"cut\.tflite"):
        runner(str(path))


def test_an_operator_without_kernel_is_named(conv: Case, tmp_path: Path) -> None:
    def custom(content: Any) -> None:
        content.operatorCodes[0].builtinCode = content.operatorCodes[0].deprecatedBuiltinCode = 32
        content.operatorCodes[0].customCode = b"MyOperator"

    with pytest.raises(
        EvaluationError, match="needs the custom operator MyOperator, for which LiteRT has no kernel"
    ) as e:
        runner(edited(conv.tflite("float32"), tmp_path / "custom.tflite", custom))
    assert e.value.kind == "no-kernel"


def test_a_flex_operator_is_named(conv: Case, tmp_path: Path) -> None:
    def flex(content: Any) -> None:
        content.operatorCodes[0].builtinCode = content.operatorCodes[0].deprecatedBuiltinCode = 32
        content.operatorCodes[0].customCode = b"FlexErfinv"

    with pytest.raises(EvaluationError, match="needs the TensorFlow operator Erfinv") as e:
        runner(edited(conv.tflite("float32"), tmp_path / "flex.tflite", flex))
    assert e.value.kind == "no-kernel"


def test_a_version_without_kernel_is_named(conv: Case, tmp_path: Path) -> None:
    def newer(content: Any) -> None:
        content.operatorCodes[0].version = 99

    path = edited(conv.tflite("float32"), tmp_path / "new.tflite", newer)
    with pytest.raises(
        EvaluationError, match=r"newer version of the operator .*CONV_2D.*; install a newer ai-edge-litert"
    ) as e:
        runner(path)
    assert e.value.kind == "no-kernel"


@pytest.mark.parametrize(
    ("given", "wanted", "advice"),
    [
        ((12, 12, 3), (None, 3, 12, 12), '{"transpose": [2, 0, 1]}'),
        ((3, 8, 9), (None, 8, 9, 3), '{"transpose": [1, 2, 0]}'),
        ((3, 8, 9), (None, None, None, 3), '{"transpose": [1, 2, 0]}'),
        ((5, 7), (1, 7, 5), '{"transpose": [1, 0]}'),
        ((12, 12), (None, 12, 12, 1), "expand_dims"),
        ((9, 9, 3), (None, 8, 8, 3), "resize"),
        (tuple(range(2, 12)), (None, *range(11, 1, -1)), "reshape"),
    ],
)
def test_axes_in_another_order_are_told_with_the_step_that_orders_them(
    given: tuple[int, ...], wanted: tuple[int | None, ...], advice: str
) -> None:
    data = np.broadcast_to(np.float32(0), (2, *given))
    with pytest.raises(DataError) as raised:
        feeds.examples("image", TensorInfo(wanted, "float32"), data)
    assert advice in str(raised.value)
    assert ("transpose" in str(raised.value)) != ("reshape" in str(raised.value))


@pytest.mark.parametrize(
    ("message", "kernels", "kind", "said"),
    [
        ("Node number 3 (TfLiteXNNPackDelegate) failed to prepare.", "default", "run", '"kernels": "reference"'),
        ("failed to create XNNPACK runtime", "default", "run", '"kernels": "reference"'),
        ("Node number 3 (CONV_2D) failed to prepare.", "default", "no-kernel", "cannot prepare operator CONV_2D"),
        ("Node number 3 (CONV_2D) failed to prepare.", "reference", "no-kernel", "cannot prepare operator CONV_2D"),
        ("unresolved custom op: Own.\nTfLiteXNNPackDelegate", "default", "no-kernel", "the custom operator Own"),
    ],
)
def test_what_litert_refuses_comes_with_what_to_do(message: str, kernels: Any, kind: str, said: str) -> None:
    error = tflite._refused("m.tflite", message, kernels)
    assert (error.kind, said in str(error)) == (kind, True)


def test_a_file_is_read_once_for_all_threads(conv: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    path = conv.tflite("int8")
    whole = tflite.graphs.read
    monkeypatch.setattr(tflite.graphs, "read", lambda source: read.append(source) or whole(source))
    collected(run_batches(runners(path, conv.source.names, threads=4), batches(conv.data, 3)))
    assert read == [path]


def test_bytes_run_as_their_file_does(conv: Case) -> None:
    path = conv.tflite("int8")
    held = Runner(Model.read(Path(path).read_bytes()))
    np.testing.assert_array_equal(lone(held.run(conv.data)), lone(runner(path).run(conv.data)))
