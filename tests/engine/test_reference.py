from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from engine_models import EXAMPLES, Case, lone, normal, runner

from tflite_guard.engine.reference import load_reference
from tflite_guard.engine.tflite import Model
from tflite_guard.errors import DataError, EvaluationError, ModelFileError, NamingError
from tflite_guard.manifest.types import FileSpec, ReferenceSpec
from tflite_guard.protocol import TensorInfo


def test_predictions_are_the_models_own(conv: Case) -> None:
    model = keras.saving.load_model(conv.path)
    np.testing.assert_allclose(
        lone(load_reference(conv.spec).run(conv.data)),
        model.predict(conv.data["image"], verbose=0),
        atol=1e-6,
    )


def test_names_are_those_of_the_exported_signature(branches: Case, tmp_path: Path) -> None:
    names = branches.source.names
    keras.saving.load_model(branches.path).export(str(tmp_path / "m"), verbose=False)
    signature = tf.saved_model.load(str(tmp_path / "m")).signatures["serving_default"]
    assert set(names.inputs) == set(signature.structured_input_signature[1])
    assert set(names.outputs) == set(signature.structured_outputs) == {"zeta", "alpha"}
    assert names.inputs["ids"] == TensorInfo((None, 3), "int32")
    assert names.outputs["alpha"] == TensorInfo((None, 8), "float32")


def test_layers_are_aliases_of_outputs(branches: Case) -> None:
    assert branches.source.names.output_aliases == {"from_left": "zeta", "joined": "alpha"}


def test_the_last_layer_of_a_sequence_is_its_output(tmp_path: Path) -> None:
    path = str(tmp_path / "m.keras")
    keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2, name="scores")]).save(path)
    assert load_reference(ReferenceSpec("keras", FileSpec(path))).names.outputs == {
        "scores": TensorInfo((None, 2), "float32")
    }


def test_inputs_and_outputs_go_by_name(branches: Case) -> None:
    model = keras.saving.load_model(branches.path)
    outputs = load_reference(branches.spec).run(dict(reversed(branches.data.items())))
    wanted = model.predict(branches.data, verbose=0)
    for name in ("zeta", "alpha"):
        np.testing.assert_allclose(outputs[name], wanted[name], rtol=1e-5)


def test_a_list_of_outputs_goes_by_layers_and_by_an_exports_names(make_case: Any) -> None:
    x = keras.Input((4,), name="x")
    model = keras.Model(x, [keras.layers.Dense(2, name="second")(x), keras.layers.Dense(3, name="first")(x)])
    case = make_case("listed", model, {"x": normal(4)})
    names = case.source.names
    assert {name: info.shape for name, info in names.outputs.items()} == {"second": (None, 2), "first": (None, 3)}
    assert names.output_aliases == {"output_0": "second", "output_1": "first"}
    wanted = dict(zip(("second", "first"), model.predict(case.data["x"], verbose=0), strict=True))
    for outputs in (case.source.reference.run(case.data), runner(case.tflite("float32"), names).run(case.data)):
        for name, values in wanted.items():
            np.testing.assert_allclose(outputs[name], values, rtol=1e-4, atol=1e-6)
    artifact = Model.read(case.tflite("float32"))
    assert set(artifact.outputs) == {"output_0", "output_1"}, "as the converter names what a user converts"


def test_layers_that_are_named_as_an_export_names_outputs_lend_no_names(make_case: Any) -> None:
    x = keras.Input((4,), name="x")
    crossed = [keras.layers.Dense(2, name="output_1")(x), keras.layers.Dense(3, name="output_0")(x)]
    case = make_case("crossed", keras.Model(x, crossed), {"x": normal(4)})
    assert case.source.names.outputs["output_0"].shape == (None, 2)
    assert case.source.reference.run(case.data)["output_1"].shape == (EXAMPLES, 3)


def test_the_export_gives_the_same(branches: Case, tmp_path: Path) -> None:
    reference = load_reference(branches.spec)
    exported = load_reference(ReferenceSpec("saved_model", FileSpec(reference.export(str(tmp_path / "out")))))
    assert exported.names.inputs == reference.names.inputs
    wanted = reference.run(branches.data)
    for name, values in exported.run(branches.data).items():
        np.testing.assert_allclose(values, wanted[name], rtol=1e-5, atol=1e-5)


def test_dropout_and_normalization_are_in_inference_mode(make_case: Any) -> None:
    layers = [keras.Input((4,), name="x"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.9)]
    case = make_case("dropped", keras.Sequential(layers), {"x": normal(4)})
    outputs = lone(case.source.reference.run(case.data))
    np.testing.assert_allclose(outputs, case.data["x"] / np.sqrt(1 + 1e-3), rtol=1e-5)


def test_state_is_reset_before_every_example(stateful: Case) -> None:
    reference = load_reference(stateful.spec)
    together = lone(reference.run(stateful.data))
    alone = [lone(load_reference(stateful.spec).run({"steps": stateful.data["steps"][i : i + 1]})) for i in (0, 9)]
    np.testing.assert_allclose(together[[0, 9]], np.concatenate(alone), atol=1e-6)


def test_a_model_that_takes_one_example_at_a_time_gets_one(fixed: Case) -> None:
    reference = load_reference(fixed.spec)
    outputs = lone(reference.run(fixed.data))
    model = keras.saving.load_model(fixed.path)
    wanted = np.concatenate([model(fixed.data["x"][i : i + 1]).numpy() for i in range(EXAMPLES)])
    np.testing.assert_allclose(outputs, wanted, atol=1e-6)


def test_a_fixed_batch_is_filled_up(make_case: Any) -> None:
    x = keras.Input(batch_shape=(5, 4), name="x")
    case = make_case("five", keras.Model(x, keras.layers.Dense(2)(x)), {"x": normal(4)})
    outputs = lone(case.source.reference.run(case.data))
    assert outputs.shape == (EXAMPLES, 2)
    kernel, bias = keras.saving.load_model(case.path).get_weights()
    np.testing.assert_allclose(outputs, case.data["x"] @ kernel + bias, atol=1e-5)


def test_input_shapes_fix_unknown_dimensions(make_case: Any) -> None:
    image = keras.Input((None, None, 1), name="image")
    case = make_case("sized", keras.Model(image, keras.layers.Conv2D(2, 3)(image)), {"image": normal(9, 7, 1)})
    spec = ReferenceSpec("keras", FileSpec(str(case.path)), input_shapes={"image": (1, 9, 7, 1)})
    names = load_reference(spec).names
    assert names.inputs["image"].shape == (None, 9, 7, 1)
    assert lone(names.outputs).shape == (None, 7, 5, 2)
    for wrong, message in (
        ({"picture": (1, 9, 7, 1)}, "the model has no input 'picture'; its inputs are 'image'"),
        ({"image": (1, 9, 7, 3)}, r"\[1, 9, 7, 3\], but"),
    ):
        with pytest.raises((ModelFileError, NamingError), match=message):
            load_reference(ReferenceSpec("keras", FileSpec(str(case.path)), input_shapes=wrong))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 8, 8, 1), "int64"), r'input image: .*float32 and the data is int64; .*\{"cast": "float32"\}'),
        (np.zeros((2, 9, 8, 1), "float32"), r"takes \[\?, 8, 8, 1\] and the data is \[\?, 9, 8, 1\]"),
    ],
)
def test_data_that_does_not_fit_is_an_error(conv: Case, values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        conv.source.reference.run({"image": values})


def test_keras_3_h5(conv: Case, tmp_path: Path) -> None:
    model = keras.saving.load_model(conv.path)
    model.save(tmp_path / "m.h5")
    outputs = lone(load_reference(ReferenceSpec("keras", FileSpec(str(tmp_path / "m.h5")))).run(conv.data))
    np.testing.assert_allclose(outputs, model.predict(conv.data["image"], verbose=0), atol=1e-6)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_h5_that_only_keras_2_reads(tmp_path: Path) -> None:
    import tf_keras

    x = tf_keras.Input((8, 8, 3), name="x")
    model = tf_keras.Model(x, tf_keras.layers.DepthwiseConv2D(3, name="depthwise")(x))
    path = str(tmp_path / "old.h5")
    model.save(path)
    data = {"x": normal(8, 8, 3)}
    reference = load_reference(ReferenceSpec("keras", FileSpec(path)))
    np.testing.assert_allclose(lone(reference.run(data)), model.predict(data["x"], verbose=0), atol=1e-5)
    exported = load_reference(ReferenceSpec("saved_model", FileSpec(reference.export(str(tmp_path / "out")))))
    np.testing.assert_allclose(lone(exported.run(data)), lone(reference.run(data)), atol=1e-5)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    module = tf.Module()
    module.factor = tf.Variable(2.0)

    def times(x: Any) -> Any:
        return {"y": x * module.factor, "count": tf.cast(tf.reduce_sum(tf.ones_like(x), axis=1), tf.int64)}

    spec = tf.TensorSpec((None, None), name="x")
    folder = str(tmp_path_factory.mktemp("saved"))
    signatures = {
        "double": tf.function(times, input_signature=[spec]),
        "half": tf.function(lambda x: {"y": x / 2}, input_signature=[spec]),
    }
    tf.saved_model.save(module, folder, signatures=signatures)
    return folder


def test_a_saved_model_by_signature(saved: str) -> None:
    data = {"x": normal(3)}
    double = load_reference(ReferenceSpec("saved_model", FileSpec(saved), signature="double")).run(data)
    np.testing.assert_array_equal(double["y"], data["x"] * 2)
    assert double["count"].tolist() == [3] * EXAMPLES
    half = load_reference(ReferenceSpec("saved_model", FileSpec(saved), signature="half")).run(data)
    np.testing.assert_array_equal(half["y"], data["x"] / 2)


def counters(folder: Path, change: Callable[[Any, Any], Any], batch: int | None = None) -> str:
    """A SavedModel whose output is a variable that every call changes; another signature only reads it."""
    module = tf.Module()
    module.state = tf.Variable([1.0, 2.0, 3.0])
    spec = tf.TensorSpec((batch, 3), name="x")

    def serve(x: Any) -> Any:
        change(module.state, x)
        return {"y": x + module.state}

    signatures = {
        "serving_default": tf.function(serve, input_signature=[spec]),
        "peek": tf.function(lambda x: {"y": x + module.state}, input_signature=[spec]),
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return str(folder)


def scattered(state: Any, x: Any) -> None:
    state.scatter_nd_add([[0], [2]], x[0, :2])


def in_a_branch(state: Any, x: Any) -> None:
    tf.cond(tf.reduce_sum(x) > -1e9, lambda: state.assign_add(x[0]), lambda: state.read_value())


CHANGES: list[Callable[[Any, Any], Any]] = [
    lambda state, x: state.assign(state * 0.5 + x[0]),
    lambda state, x: state.assign_sub(x[0]),
    lambda state, x: state[1:].assign(x[0, 1:]),
    scattered,
    in_a_branch,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_saved_models_state_is_reset_before_every_example(tmp_path: Path, change: Callable[[Any, Any], Any]) -> None:
    path = counters(tmp_path / "m", change)
    data = normal(3)
    signatures = [tf.saved_model.load(path).signatures["serving_default"] for _ in range(3)]
    wanted = [signature(x=tf.constant(data[i : i + 1]))["y"].numpy() for i, signature in enumerate(signatures)]
    reference = load_reference(ReferenceSpec("saved_model", FileSpec(path)))
    for _ in range(2):
        np.testing.assert_array_equal(reference.run({"x": data})["y"][:3], np.concatenate(wanted))


def test_state_of_a_saved_model_does_not_reach_its_export(tmp_path: Path) -> None:
    path = counters(tmp_path / "m", CHANGES[0])
    reference = load_reference(ReferenceSpec("saved_model", FileSpec(path)))
    wanted = reference.run({"x": normal(3)})["y"]
    again = load_reference(
        ReferenceSpec("saved_model", FileSpec(reference.export(str(tmp_path / "out"), {"x": (1, 3)})))
    )
    np.testing.assert_array_equal(again.run({"x": normal(3)})["y"], wanted)


def test_a_signature_that_only_reads_its_variables_takes_whole_batches(tmp_path: Path) -> None:
    path = counters(tmp_path / "m", CHANGES[0])
    assert load_reference(ReferenceSpec("saved_model", FileSpec(path), signature="peek")).stateful is False
    assert load_reference(ReferenceSpec("saved_model", FileSpec(path))).stateful


def test_an_unknown_signature_lists_those_there_are(saved: str) -> None:
    with pytest.raises(
        NamingError, match=r"no signature 'serving_default'; name one of these as \"signature\": 'double', 'half'"
    ):
        load_reference(ReferenceSpec("saved_model", FileSpec(saved)))


def test_a_saved_model_without_signatures_is_told_as_such(tmp_path: Path) -> None:
    tf.saved_model.save(tf.Module(), str(tmp_path))
    with pytest.raises(ModelFileError, match="has no signature that gives outputs; export it with one"):
        load_reference(ReferenceSpec("saved_model", FileSpec(str(tmp_path))))


def test_signatures_without_outputs_are_not_offered(tmp_path: Path) -> None:
    module = tf.Module()
    module.count = tf.Variable(0.0)
    spec = tf.TensorSpec((None, 2), name="x")

    def count(x: Any) -> Any:
        module.count.assign_add(tf.reduce_sum(x))
        return {}

    functions = {"count": count, "twice": lambda x: {"y": 2 * x}}
    signatures = {name: tf.function(function, input_signature=[spec]) for name, function in functions.items()}
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=signatures)
    for name in ("count", "serving_default"):
        with pytest.raises(NamingError, match=rf"no signature '{name}'; name one of these as \"signature\": 'twice'$"):
            load_reference(ReferenceSpec("saved_model", FileSpec(str(tmp_path / "m")), signature=name))


def test_a_saved_model_with_fixed_shapes_is_exported_anew(saved: str, tmp_path: Path) -> None:
    plain = load_reference(ReferenceSpec("saved_model", FileSpec(saved), signature="double"))
    assert plain.export(str(tmp_path / "a")) == saved
    fixed = load_reference(
        ReferenceSpec("saved_model", FileSpec(saved), signature="double", input_shapes={"x": (1, 3)})
    )
    folder = fixed.export(str(tmp_path / "b"))
    again = load_reference(ReferenceSpec("saved_model", FileSpec(folder), signature="double"))
    assert again.names.inputs["x"].shape == (None, 3)
    np.testing.assert_array_equal(again.run({"x": normal(3)})["y"], normal(3) * 2)


def test_strings_are_refused(tmp_path: Path) -> None:
    lengths = tf.function(
        lambda s: {"n": tf.strings.length(s)}, input_signature=[tf.TensorSpec((None,), tf.string, name="s")]
    )
    tf.saved_model.save(tf.Module(), str(tmp_path / "m"), signatures={"serving_default": lengths})
    with pytest.raises(ModelFileError, match="s holds strings, which cannot be evaluated"):
        load_reference(ReferenceSpec("saved_model", FileSpec(str(tmp_path / "m"))))


def test_a_custom_layer_is_named(tmp_path: Path) -> None:
    class Swirl(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * 2

    for name in ("m.keras", "m.h5"):
        keras.Sequential([keras.Input((3,)), Swirl()]).save(tmp_path / name)
        with pytest.raises(
            ModelFileError, match=r"m\.\w+ needs the custom object \S*Swirl.*export the model as a SavedModel"
        ) as e:
            load_reference(ReferenceSpec("keras", FileSpec(str(tmp_path / name))))
        assert e.value.kind == "custom-object"


def test_a_model_that_fails_says_how(tmp_path: Path) -> None:
    @tf.function(input_signature=[tf.TensorSpec((None, 3), name="x")])
    def grown(x: Any) -> Any:
        return {"y": tf.reshape(x, tf.stack([tf.shape(x)[0] + 1, 3]))}

    tf.saved_model.save(tf.Module(), str(tmp_path / "m"), signatures={"serving_default": grown})
    reference = load_reference(ReferenceSpec("saved_model", FileSpec(str(tmp_path / "m"))))
    with pytest.raises(EvaluationError, match=r"m cannot be run: .*reshape") as e:
        reference.run({"x": normal(3)})
    assert "\n" not in str(e.value)


def test_what_went_wrong_in_a_graph_is_told_not_only_where(tmp_path: Path) -> None:
    class Divides(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32, name="values")])
        def __call__(self, values: Any) -> Any:
            return {"quotient": 1 // values}

    tf.saved_model.save(Divides(), str(tmp_path / "m"))
    source = load_reference(ReferenceSpec("saved_model", FileSpec(str(tmp_path / "m"))))
    with pytest.raises(EvaluationError, match=r"cannot be run: .*division by zero"):
        source.run({"values": np.zeros((1, 2), np.int32)})


def test_a_waveform_of_any_length_is_one_example_as_long_as_the_data_or_the_manifest_says(tmp_path: Path) -> None:
    spec = tf.TensorSpec((None,), name="wave")
    peak = tf.function(lambda wave: {"y": tf.stack([tf.reduce_max(wave), tf.reduce_sum(wave)])}, input_signature=[spec])
    tf.saved_model.save(tf.Module(), str(tmp_path), signatures={"serving_default": peak})
    data = np.random.default_rng(3).normal(size=(5, 70)).astype("float32")
    for shapes in ({}, {"wave": (70,)}):
        reference = load_reference(ReferenceSpec("saved_model", FileSpec(str(tmp_path)), input_shapes=shapes))
        assert reference.names.inputs["wave"].shape == shapes.get("wave", (None,))
        got = reference.run({"wave": data})["y"]
        np.testing.assert_allclose(got, np.stack([data.max(1), data.sum(1)], 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "kept", "scales"),
    [
        # A converter folds what it can into a convolution without padding.
        ([keras.layers.Rescaling(1 / 127.5, -1, name="scaled"), keras.layers.Conv2D(2, 3)], False, "scaled"),
        (
            [keras.layers.Rescaling(1 / 127.5, -1, name="scaled"), keras.layers.Conv2D(2, 3, padding="same")],
            True,
            "scaled",
        ),
        ([keras.layers.Normalization(mean=[1.0] * 3, variance=[4.0] * 3, name="norm")], True, "norm"),
        ([keras.layers.Conv2D(2, 3), keras.layers.Rescaling(0.1)], True, None),
        ([keras.layers.Activation("swish")], True, None),
    ],
)
def test_what_scales_inputs_is_found_in_exports_too(
    layers: Any, kept: bool, scales: str | None, tmp_path: Path
) -> None:
    model = keras.Sequential([keras.Input((6, 6, 3), name="image"), *layers, keras.layers.Flatten()])
    model.export(tmp_path / "exported", verbose=False)
    exported = load_reference(ReferenceSpec("saved_model", FileSpec(str(tmp_path / "exported"))))
    assert exported.names.scaling == ((scales,) if scales else ())
    flatbuffer = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    assert Model.read(flatbuffer).names.scaling == ((scales,) if scales and kept else ())
