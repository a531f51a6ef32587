from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from engine_models import Case, lone, normal, runner, single_runs, without_signature

from tflite_guard.engine import convert, graph
from tflite_guard.engine.convert import FloatModel
from tflite_guard.engine.tflite import Model
from tflite_guard.errors import ConversionError, DataError, EvaluationError, ModelFileError
from tflite_guard.manifest.types import CalibrationOptions, Conversion, FileSpec, ReferenceSpec


def public(case: Case, io: str, folder: Path, operators: Sequence[Any] = ()) -> str:
    """The model that TensorFlow's documentation tells a user to make."""
    model = keras.saving.load_model(case.path)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = list(operators) or converter.target_spec.supported_ops

    def samples() -> Iterator[list[np.ndarray]]:
        for sample in case.calibration():
            yield [sample[tensor.name].astype(tensor.dtype) for tensor in model.inputs]

    converter.representative_dataset = samples
    converter.inference_input_type = converter.inference_output_type = getattr(tf, io)
    path = folder / "public.tflite"
    path.write_bytes(converter.convert())
    return str(path)


@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")
@pytest.mark.parametrize("io", ["float32", "int8", "uint8"])
def test_int8_equals_the_public_converters_bit_for_bit(conv: Case, io: str, tmp_path: Path) -> None:
    theirs = public(conv, io, tmp_path)
    wanted = runner(theirs, conv.source.names).run(conv.data)
    outputs = single_runs(conv.tflite("int8", io), conv.data)
    np.testing.assert_array_equal(lone(outputs), lone(wanted))
    assert abs(Path(theirs).stat().st_size - Path(conv.tflite("int8", io)).stat().st_size) <= 256


def test_several_inputs_calibrate_by_name(branches: Case) -> None:
    """`right` is a hundred times `left`: if they were mixed up, the quantized outputs would be far off."""
    wanted = branches.source.reference.run(branches.data)
    outputs = single_runs(branches.tflite("int8"), branches.data)
    for name, values in wanted.items():
        assert np.abs(outputs[name] - values).max() < 0.02 * np.ptp(values)


@pytest.mark.parametrize("quantization", ["float32", "float16", "dynamic_range", "int8", "int16x8"])
def test_converting_twice_gives_the_same_bytes(conv: Case, quantization: str, tmp_path: Path) -> None:
    again = FloatModel(conv.spec, str(tmp_path)).quantize(Conversion(quantization), conv.calibration)
    assert again == Path(conv.tflite(quantization)).read_bytes()


@pytest.mark.parametrize(
    ("quantization", "tolerance"),
    [("float32", 1e-5), ("float16", 1e-2), ("dynamic_range", 2e-2), ("int8", 5e-2), ("int16x8", 2e-2)],
)
def test_every_quantization_follows_the_reference(conv: Case, quantization: str, tolerance: float) -> None:
    wanted = lone(conv.source.reference.run(conv.data))
    np.testing.assert_allclose(single_runs(conv.tflite(quantization), conv.data)["output_0"], wanted, atol=tolerance)


@pytest.mark.parametrize("io", ["int8", "uint8"])
def test_io_is_as_asked(conv: Case, io: str) -> None:
    ports = Model.read(conv.tflite("int8", io))
    assert [p.dtype for p in (*ports.inputs.values(), *ports.outputs.values())] == [io, io]
    assert [p.dtype for p in Model.read(conv.tflite("int16x8", "int16")).inputs.values()] == ["int16"]


def test_integer_inputs_stay_as_they_are(branches: Case) -> None:
    assert {name: port.dtype for name, port in Model.read(branches.tflite("int8", "int8")).inputs.items()} == {
        "ids": "int32",
        "left": "int8",
        "right": "int8",
    }


def test_one_calibration_serves_many_variants(conv: Case, tmp_path: Path) -> None:
    passes = 0

    def counted() -> Iterator[dict[str, np.ndarray]]:
        nonlocal passes
        passes += 1
        return conv.calibration()

    source = FloatModel(conv.spec, str(tmp_path))
    for variant in (
        Conversion("int8"),
        Conversion("int8", io="int8"),
        Conversion("int8", keep_float=("first",)),
    ):
        source.quantize(variant, counted)
    assert passes == 1


def test_one_loading_serves_many_conversions(conv: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorflow.lite import python
    from tensorflow.lite.python import lite

    loaded = []
    load = lite._load
    monkeypatch.setattr(lite, "_load", lambda *given: loaded.append(given) or load(*given))

    def made() -> list[bytes]:
        source = FloatModel(conv.spec, str(tmp_path))
        return [source.quantize(Conversion(kind), None) for kind in ("float32", "float16", "dynamic_range")]

    once = made()
    assert len(loaded) == 1
    # A TensorFlow that loads by another name loads for each, twice, and makes the same.
    monkeypatch.setattr(python, "lite", object())
    assert made() == once
    assert len(loaded) == 1 + 6


def test_only_so_many_samples_are_used(conv: Case, tmp_path: Path) -> None:
    def tainted() -> Iterator[dict[str, np.ndarray]]:
        for i, sample in enumerate(conv.calibration()):
            yield {"image": sample["image"] * (1 if i < 5 else 1000)}

    few = CalibrationOptions(samples=5)
    scales = [
        graph.read(
            FloatModel(conv.spec, str(tmp_path)).quantize(Conversion("int8", io="int8", calibration_options=o), tainted)
        )
        for o in (few, CalibrationOptions())
    ]
    assert scales[0].main.tensors[0].scale < scales[1].main.tensors[0].scale / 100


@pytest.mark.parametrize("private", [True, False])
def test_keep_float_leaves_a_layer_in_float(conv: Case, tmp_path: Path, private: bool) -> None:
    source = conv.source if private else FloatModel(conv.spec, str(tmp_path), quantizer=moved)
    model = source.quantize(Conversion("int8", keep_float=("scores",)), conv.calibrated)
    kinds = [name.split(" ")[0] for name in graph.float_operators(graph.read(model))]
    assert kinds == ["FULLY_CONNECTED", "SOFTMAX"]


def moved(calibrated: bytes, io: str, nodes: Sequence[str]) -> bytes:
    raise ImportError("cannot import name 'mlir_quantize'")


@pytest.mark.parametrize("keep", [(), ("scores",)])
def test_without_the_private_function_the_public_one_gives_the_same(
    conv: Case, tmp_path: Path, keep: tuple[str, ...]
) -> None:
    variant = Conversion("int8", keep_float=keep)
    path = tmp_path / "public.tflite"
    path.write_bytes(FloatModel(conv.spec, str(tmp_path), quantizer=moved).quantize(variant, conv.calibrated))
    own = tmp_path / "own.tflite"
    own.write_bytes(conv.source.quantize(variant, conv.calibrated))
    np.testing.assert_array_equal(
        single_runs(str(path), conv.data)["output_0"], single_runs(str(own), conv.data)["output_0"]
    )


def test_keep_float_that_matches_nothing_is_an_error(conv: Case) -> None:
    with pytest.raises(ConversionError, match='"nowhere" matches no tensor'):
        conv.source.quantize(Conversion("int8", keep_float=("nowhere",)), conv.calibrated)


@pytest.mark.parametrize("quantization", ["float16", "dynamic_range", "int16x8"])
def test_keep_float_elsewhere_is_an_error(conv: Case, quantization: str) -> None:
    with pytest.raises(ConversionError, match="keep_float works for int8 with calibration data alone"):
        conv.source.quantize(Conversion(quantization, keep_float=("scores",)), conv.calibrated)


@pytest.mark.parametrize("io", ["float32", "uint8"])
def test_a_float_flatbuffer_quantizes_as_its_model_does(branches: Case, tmp_path: Path, io: str) -> None:
    source = FloatModel(ReferenceSpec("tflite", FileSpec(branches.tflite("float32"))), str(tmp_path))
    path = tmp_path / "from_flatbuffer.tflite"
    path.write_bytes(source.quantize(Conversion("int8", io=io), branches.calibration))
    wanted = single_runs(branches.tflite("int8", io), branches.data)
    outputs = single_runs(str(path), branches.data)
    for name, values in wanted.items():
        np.testing.assert_array_equal(outputs[name], values)


@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
def test_a_flatbuffer_without_signature_quantizes_too(conv: Case, tmp_path: Path, quantization: str) -> None:
    bare = without_signature(conv.tflite("float32"), tmp_path / "bare.tflite")
    source = FloatModel(ReferenceSpec("tflite", FileSpec(bare)), str(tmp_path))
    path = tmp_path / "quantized.tflite"
    path.write_bytes(source.quantize(Conversion(quantization), conv.calibration))
    outputs = lone(runner(str(path), conv.source.names).run(conv.data))
    np.testing.assert_array_equal(outputs, single_runs(conv.tflite(quantization), conv.data)["output_0"])


def test_what_a_flatbuffer_cannot_become_is_said(conv: Case, tmp_path: Path) -> None:
    source = FloatModel(ReferenceSpec("tflite", FileSpec(conv.tflite("float32"))), str(tmp_path))
    assert source.quantize(Conversion("float32"), None) == Path(conv.tflite("float32")).read_bytes()
    with pytest.raises(ConversionError, match=r"cannot make float16 from a \.tflite"):
        source.quantize(Conversion("float16"), None)


def test_a_quantized_flatbuffer_is_no_source(conv: Case, tmp_path: Path) -> None:
    source = FloatModel(ReferenceSpec("tflite", FileSpec(conv.tflite("int8"))), str(tmp_path))
    with pytest.raises(ConversionError, match=r"conv-int8-float32\.tflite is quantized already"):
        source.quantize(Conversion("int8"), conv.calibration)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SavedModel as quantization-aware training leaves it: fake quantization around every operator."""
    rng = np.random.default_rng(0)
    kernel, bias = tf.Variable(rng.normal(size=(4, 3)).astype("float32")), tf.Variable(np.zeros(3, "float32"))

    @tf.function(input_signature=[tf.TensorSpec((None, 4), name="x")])
    def serve(x: Any) -> Any:
        x = tf.quantization.fake_quant_with_min_max_args(x, -4, 4)
        w = tf.quantization.fake_quant_with_min_max_args(kernel, -3, 3, narrow_range=True)
        return {"y": tf.quantization.fake_quant_with_min_max_args(tf.nn.relu(x @ w + bias), 0, 12)}

    module = tf.Module()
    module.variables_kept = [kernel, bias]
    folder = str(tmp_path_factory.mktemp("trained"))
    tf.saved_model.save(module, folder, signatures={"serving_default": serve})
    return folder


@pytest.mark.parametrize("io", ["float32", "int8"])
def test_a_quantization_aware_source_needs_no_calibration(trained: str, tmp_path: Path, io: str) -> None:
    source = FloatModel(ReferenceSpec("saved_model", FileSpec(trained)), str(tmp_path))
    path = tmp_path / "trained.tflite"
    path.write_bytes(source.quantize(Conversion("int8", io=io), None))
    assert graph.float_operators(graph.read(str(path))) == []
    ports = Model.read(str(path))
    assert ports.inputs["x"].dtype == io
    data = {"x": np.random.default_rng(1).normal(size=(6, 4)).astype("float32")}
    outputs = single_runs(str(path), data)["y"]
    np.testing.assert_allclose(outputs, source.reference.run(data)["y"], atol=12 / 255 + 1e-4)


def test_a_name_alone_makes_no_source_quantization_aware(tmp_path: Path) -> None:
    kernel = tf.Variable(np.random.default_rng(0).normal(size=(4, 3)).astype("float32"), name="FakeQuantWithMinMaxVars")

    @tf.function(input_signature=[tf.TensorSpec((None, 4), name="x")])
    def serve(x: Any) -> Any:
        with tf.name_scope("MyFakeQuantum"):
            return {"y": x @ kernel}

    @tf.function(input_signature=[tf.TensorSpec((None, 4), name="x")])
    def training(x: Any) -> Any:
        return {"y": tf.quantization.fake_quant_with_min_max_args(x @ kernel)}

    module = tf.Module()
    module.kernel = kernel
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": serve, "training": training})
    source = FloatModel(ReferenceSpec("saved_model", FileSpec(str(tmp_path / "m"))), str(tmp_path))
    assert not source.quantization_aware
    assert graph.float_operators(graph.read(source.quantize(Conversion("int8"), four_wide))) == []


def four_wide() -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    return iter([{"x": rng.normal(size=(1, 4)).astype("float32")} for _ in range(8)])


def test_ranges_trained_in_part_only_ask_for_calibration(tmp_path: Path) -> None:
    kernel = tf.Variable(np.random.default_rng(0).normal(size=(4, 3)).astype("float32"))

    @tf.function(input_signature=[tf.TensorSpec((None, 4), name="x")])
    def serve(x: Any) -> Any:
        return {"y": tf.quantization.fake_quant_with_min_max_args(x @ kernel, -20, 20)}

    module = tf.Module()
    module.kernel = kernel
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": serve})
    source = FloatModel(ReferenceSpec("saved_model", FileSpec(str(tmp_path / "m"))), str(tmp_path))
    with pytest.raises(
        ConversionError, match=r"not quantization-aware-trained throughout.*name a dataset as calib"
    ) as e:
        source.quantize(Conversion("int8"), None)
    assert e.value.kind == "no-calibration"
    assert graph.float_operators(graph.read(source.quantize(Conversion("int8"), four_wide))) == []


def test_a_variant_is_the_same_whichever_were_made_before(
    conv: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float32 is made to need a batch of one; what is made after it keeps its free batch."""
    once = FloatModel._once

    def picky(source: FloatModel, folder: str, setup: Any) -> bytes:
        if setup is convert._plain and "single" not in folder:
            raise ConversionError("not with a free batch")
        return once(source, folder, setup)

    monkeypatch.setattr(FloatModel, "_once", picky)
    source = FloatModel(conv.spec, str(tmp_path))
    assert graph.read(source.float32()).main.tensors[0].shape_signature[0] == 1
    for quantization in ("dynamic_range", "int8"):
        variant = Conversion(quantization)
        alone = FloatModel(conv.spec, str(tmp_path)).quantize(variant, conv.calibration)
        assert source.quantize(variant, conv.calibration) == alone
        assert alone == Path(conv.tflite(quantization)).read_bytes()


def test_a_saved_model_with_state_agrees_with_its_conversion(tmp_path: Path) -> None:
    module = tf.Module()
    module.state = tf.Variable(tf.zeros(3))

    @tf.function(input_signature=[tf.TensorSpec((1, 3), name="x")])
    def serve(x: Any) -> Any:
        return {"y": x + module.state.assign(module.state * 0.5 + x[0])}

    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": serve})
    source = FloatModel(ReferenceSpec("saved_model", FileSpec(str(tmp_path / "m"))), str(tmp_path))
    data = {"x": np.random.default_rng(1).normal(size=(6, 3)).astype("float32")}
    wanted = source.reference.run(data)["y"]
    np.testing.assert_allclose(wanted, 2 * data["x"], rtol=1e-6)
    path = tmp_path / "m.tflite"
    path.write_bytes(source.float32())
    np.testing.assert_allclose(single_runs(str(path), data)["y"], wanted, rtol=1e-6)
    outputs = runner(str(path), source.names).run(data)["y"]
    np.testing.assert_allclose(outputs, wanted, rtol=1e-6)


@pytest.fixture(scope="module")
def unexported(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A Keras 3 model written with tf.saved_model.save within a module: its copies of the weights are not restored."""
    keras.utils.set_random_seed(12)
    layers = [keras.Input((4,), name="x"), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)]
    module = tf.Module()
    module.model = keras.Sequential(layers)
    module.count = tf.Variable(1.0)

    @tf.function(input_signature=[tf.TensorSpec((None, 4), name="x")])
    def serve(x: Any) -> Any:
        return {"y": module.count * module.model(x)}

    folder = str(tmp_path_factory.mktemp("unexported"))
    tf.saved_model.save(module, folder, signatures={"serving_default": serve})
    return folder, module.model


@pytest.mark.parametrize("quantization", ["float32", "float16", "dynamic_range", "int8", "int16x8"])
def test_weights_that_the_saved_model_does_not_restore_are_converted(
    unexported: tuple[str, Any], tmp_path: Path, quantization: str
) -> None:
    folder, model = unexported
    samples = [sample["x"] for sample in four_wide()]
    source = FloatModel(ReferenceSpec("saved_model", FileSpec(folder)), str(tmp_path))
    path = tmp_path / "m.tflite"
    path.write_bytes(source.quantize(Conversion(quantization), four_wide))
    wanted = np.concatenate([model(sample).numpy() for sample in samples])
    outputs = single_runs(str(path), {"x": np.concatenate(samples)})["y"]
    np.testing.assert_allclose(outputs, wanted, atol=0.02 * np.ptp(wanted))


def test_a_flatbuffer_without_its_weights_is_refused(unexported: tuple[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "users.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(unexported[0]).convert())
    assert "READ_VARIABLE" in [op.type for op in graph.read(str(path)).main.operators]
    for opened in (lambda: Model.read(str(path)), lambda: FloatModel(tflite_spec(path), str(tmp_path)).names):
        with pytest.raises(EvaluationError, match=r"users\.tflite reads variables .*dense.*model\.export") as e:
            opened()
        assert e.value.kind == "unassigned-variables"


def tflite_spec(path: Path) -> ReferenceSpec:
    return ReferenceSpec("tflite", FileSpec(str(path)))


def test_calibration_data_is_asked_for(conv: Case) -> None:
    with pytest.raises(ConversionError, match="int8 needs calibration data") as e:
        conv.source.quantize(Conversion("int8"), None)
    assert e.value.kind == "no-calibration"


@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
def test_no_examples_and_wrong_shapes_in_calibration_are_said(conv: Case, tmp_path: Path, quantization: str) -> None:
    source = FloatModel(conv.spec, str(tmp_path))
    with pytest.raises(DataError, match="the calibration data has no examples"):
        source.quantize(Conversion(quantization), lambda: iter(()))
    wrong = {"image": np.zeros((1, 8, 8, 2), "float32")}
    with pytest.raises(
        DataError, match=r"input image: the model takes \[\?, 8, 8, 1\] and the data is \[\?, 8, 8, 2\]"
    ):
        source.quantize(Conversion(quantization), lambda: iter([wrong]))


def test_an_operator_that_needs_tensorflow_is_named(make_case: Any) -> None:
    matrix = keras.Input((3, 3), name="matrix")
    case = make_case(
        "flex", keras.Model(matrix, keras.ops.cholesky(matrix)), {"matrix": np.eye(3, dtype="float32")[None]}
    )
    with pytest.raises(ConversionError, match="no built-in operator for Cholesky"):
        case.source.float32()


def test_each_step_of_a_conversion_is_told(conv: Case, tmp_path: Path) -> None:
    told: list[str] = []

    @contextmanager
    def doing(what: str) -> Iterator[None]:
        told.append(what)
        yield

    FloatModel(conv.spec, str(tmp_path), doing=doing).quantize(Conversion("int8"), conv.calibration)
    assert list(dict.fromkeys(told)) == [
        "loaded the model",
        "exported the model for the converter",
        "converted the model",
        "quantized the calibrated model",
    ]


def test_a_loop_is_refused_before_it_crashes_the_calibrator(looped: Case) -> None:
    with pytest.raises(ConversionError, match=r"a model with a loop.*unroll=True"):
        looped.source.quantize(Conversion("int8"), looped.calibration)
    with pytest.raises(ConversionError, match=r"a model with a loop.*unroll=True"):  # as a diagnosis asks for it
        looped.source.rangeable(looped.calibration)


def test_a_model_that_converts_only_with_a_batch_of_one_does(looped: Case) -> None:
    wanted = lone(looped.source.reference.run(looped.data))
    np.testing.assert_allclose(single_runs(looped.tflite("float32"), looped.data)["output_0"], wanted, atol=1e-5)


def test_state_left_by_predictions_is_not_exported(stateful: Case, tmp_path: Path) -> None:
    source = FloatModel(stateful.spec, str(tmp_path))
    wanted = lone(source.reference.run(stateful.data))
    path = tmp_path / "stateful.tflite"
    path.write_bytes(source.float32())
    np.testing.assert_allclose(single_runs(str(path), stateful.data)["output_0"], wanted, atol=1e-5)


def test_int16x8_of_looked_up_integers_is_what_the_converter_cannot_do(branches: Case) -> None:
    with pytest.raises(ConversionError, match=r"range of ids, .* int16x8 of this model: use int8"):
        branches.source.quantize(Conversion("int16x8"), branches.calibration)


@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")
def test_int16x8_of_pixels_that_are_rescaled_inside(make_case: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(9)
    pixels = keras.Input((6, 6, 3), dtype="uint8", name="pixels")
    rescaled = keras.layers.Rescaling(1 / 127.5, -1)(pixels)
    model = keras.Model(pixels, keras.layers.Dense(2)(keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(rescaled))))
    data = {"pixels": np.random.default_rng(2).integers(0, 256, (24, 6, 6, 3)).astype("uint8")}
    case = make_case("pixels", model, data)
    theirs = public(case, "float32", tmp_path, [convert.INT16X8, tf.lite.OpsSet.TFLITE_BUILTINS])
    outputs = single_runs(case.tflite("int16x8"), data)["output_0"]
    np.testing.assert_array_equal(outputs, single_runs(theirs, data)["output_0"])
    assert np.abs(outputs - model(data["pixels"]).numpy()).max() < 0.02


FLOATS = {"float16": "mixed_float16", "bfloat16": "mixed_bfloat16", "float64": "float64"}


@pytest.mark.parametrize("kind", FLOATS)
def test_a_float_type_without_operators_is_told(make_case: Any, kind: str) -> None:
    x = keras.Input((3,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, dtype=FLOATS[kind])(x))
    case = make_case(kind, model, {"x": np.zeros((2, 3), "float32")})
    with pytest.raises(ConversionError, match=rf"computes in {kind}, .*\(BiasAdd, MatMul\).*dtype policy float32"):
        case.source.float32()


def test_integers_without_an_operator_are_told(make_case: Any) -> None:
    x = keras.Input((3,), name="x", batch_size=1)
    product = keras.ops.multiply(keras.ops.cast(x, "uint16"), np.full((1, 3), 3, "uint16"))
    case = make_case("wide", keras.Model(x, product), {})
    with pytest.raises(ConversionError, match=r"no built-in Mul for uint16; cast to float32 before it"):
        case.source.float32()


def test_unknown_dimensions_are_told_with_their_cure(make_case: Any) -> None:
    image = keras.Input((None, None, 3), name="image")
    hidden = keras.layers.UpSampling2D(2)(keras.layers.Conv2D(4, 3, padding="same")(image))
    case = make_case("free", keras.Model(image, keras.layers.Conv2D(2, 1)(hidden)), {})
    with pytest.raises(
        ConversionError, match=r'Conv2D while dimensions .* "input_shapes": \{"image": \[1, \?, \?, 3\]\}'
    ):
        case.source.float32()
    sized = ReferenceSpec("keras", FileSpec(str(case.path)), input_shapes={"image": (1, 8, 6, 3)})
    assert graph.read(FloatModel(sized, str(case.scratch)).float32()).main.tensors[0].shape == (1, 8, 6, 3)


def test_what_the_converter_printed_is_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    reason = "type of return operand 0 ('tensor<1x2xi8>') doesn't match function result type ('tensor<1x2xf32>')"

    def failing(message: str) -> Any:
        def fail() -> bytes:
            os.write(2, f"W0000 loc(fused[a: b]): error: {reason}\n".encode())
            raise RuntimeError(message)

        return fail

    os.write(2, b"error: of something before\n")
    with pytest.raises(ConversionError) as told:
        convert._guarded(failing(""))
    assert str(told.value) == f"the converter failed: {reason}; run with -v to see all that it printed"
    with pytest.raises(ConversionError, match="the converter failed: node 3 failed to prepare"):
        convert._guarded(failing("node 3 failed to prepare"))
    assert reason in capfd.readouterr().err


def test_a_failure_is_not_waited_for_twice(make_case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = keras.Input((3, 3), name="matrix")
    case = make_case("twice", keras.Model(matrix, keras.ops.cholesky(matrix)), {})
    tried = 0
    once = FloatModel._once

    def counted(source: FloatModel, folder: str, setup: Any) -> bytes:
        nonlocal tried
        tried += 1
        return once(source, folder, setup)

    monkeypatch.setattr(FloatModel, "_once", counted)
    for quantization in ("float32", "dynamic_range", "int8", "int16x8"):
        with pytest.raises(ConversionError, match="no built-in operator for Cholesky"):
            case.source.quantize(Conversion(quantization), case.calibration)
    assert tried == 2  # with a free batch and with one example


def test_a_failed_calibration_is_remembered(conv: Case, tmp_path: Path) -> None:
    passes = 0

    def empty() -> Iterator[dict[str, np.ndarray]]:
        nonlocal passes
        passes += 1
        return iter(())

    source = FloatModel(conv.spec, str(tmp_path))
    for io in ("float32", "int8"):
        with pytest.raises(DataError, match="no examples"):
            source.quantize(Conversion("int8", io=io), empty)
    assert passes == 1


def test_a_failed_load_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(b"")
    source = FloatModel(ReferenceSpec("keras", FileSpec(str(path))), str(tmp_path))
    for change in (lambda: None, path.unlink):
        change()
        with pytest.raises(ModelFileError, match="zero bytes"):
            source.float32()


def test_a_fixed_batch_calibrates(make_case: Any) -> None:
    x = keras.Input(batch_shape=(4, 3), name="x")
    data = {"x": np.random.default_rng(0).normal(size=(24, 3)).astype("float32")}
    case = make_case("four", keras.Model(x, keras.layers.Dense(2)(x)), data)
    outputs = lone(runner(case.tflite("int8"), case.source.names).run(data))
    np.testing.assert_allclose(outputs, lone(case.source.reference.run(data)), atol=0.1)


def test_a_damaged_reference_says_so_through_the_source(tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes(b"")
    with pytest.raises(ModelFileError, match="zero bytes"):
        FloatModel(ReferenceSpec("keras", FileSpec(str(tmp_path / "m.keras"))), str(tmp_path)).float32()


# --- channels of unlike range


BETWEEN: dict[str, list[Any]] = {
    "pooled": [keras.layers.MaxPooling2D(2)],
    "resized": [keras.layers.UpSampling2D(2, interpolation="bilinear"), keras.layers.ZeroPadding2D(1)],
    "in one dimension": [keras.layers.Reshape((16, 16)), keras.layers.MaxPooling1D(2)],
}


@pytest.fixture(scope="module", params=BETWEEN)
def imbalanced(request: pytest.FixtureRequest, make_case: Callable[..., Case]) -> Case:
    """Channels of `wide` that differ by up to e^8, as batch normalization leaves them, undone by what reads them."""
    keras.utils.set_random_seed(4)
    layers = [
        keras.Input((6, 6, 2), name="image"),
        keras.layers.Conv2D(16, 3, activation="relu", name="wide"),
        *BETWEEN[request.param],
        keras.layers.Flatten(),
        keras.layers.Dense(4, activation="softmax", name="scores"),
    ]
    model = keras.Sequential(layers)
    factors = np.exp(np.random.default_rng(5).uniform(-4, 4, 16)).astype(np.float32)
    kernel, bias = model.get_layer("wide").get_weights()
    model.get_layer("wide").set_weights([kernel * factors, bias * factors])
    kernel, bias = model.get_layer("scores").get_weights()
    model.get_layer("scores").set_weights([kernel / np.tile(factors, len(kernel) // 16)[:, None] * 3, bias])
    return make_case(f"imbalanced {request.param}", model, {"image": normal(6, 6, 2)})


def distance(path: Path, case: Case, model: bytes) -> float:
    """SQNR of a model's outputs to the float model's, in decibels, by a plain loop."""
    path.write_bytes(model)
    wanted = single_runs(case.tflite("float32"), case.data)["output_0"]
    found = lone(runner(str(path), case.source.names).run(case.data))
    return float(10 * np.log10(np.sum(wanted**2) / np.sum((found - wanted) ** 2)))


@pytest.mark.parametrize("pattern", ["wide", "wide*", "*"])
def test_equalized_channels_are_not_lost(imbalanced: Case, tmp_path: Path, pattern: str) -> None:
    plain, equal = (
        imbalanced.source.quantize(Conversion("int8", equalize=equalize), imbalanced.calibrated)
        for equalize in ((), (pattern,))
    )
    before, after = (distance(tmp_path / "m.tflite", imbalanced, one) for one in (plain, equal))
    assert after > before + 10
    assert graph.float_operators(graph.read(equal)) == []
    assert len(equal) == pytest.approx(len(plain), rel=0.02)


def test_what_cannot_be_equalized_is_an_error(imbalanced: Case) -> None:
    for pattern in ("scores", "image"):
        with pytest.raises(ConversionError, match=f'equalize: "{pattern}" cannot be equalized: what computes it'):
            imbalanced.source.quantize(Conversion("int8", equalize=(pattern,)), imbalanced.calibrated)
    with pytest.raises(ConversionError, match=r'equalize: "wild" matches no tensor.*near names: wide'):
        imbalanced.source.quantize(Conversion("int8", equalize=("wild",)), imbalanced.calibrated)


# --- operators of several results


def test_an_operator_of_several_results_is_kept_in_float(make_case: Callable[..., Case]) -> None:
    keras.utils.set_random_seed(6)
    image = keras.Input((12,), name="image")
    halves = keras.ops.split(keras.layers.Dense(8, name="before")(image), 2, axis=1)
    scores = keras.layers.Dense(3, name="after")(keras.layers.Multiply(name="product")(halves))
    case = make_case("split", keras.Model(image, scores), {"image": normal(12)})
    read = graph.read(case.source.quantize(Conversion("int8", keep_float=("split",)), case.calibrated))
    (split,) = [op for op in read.main.operators if op.type == "SPLIT"]
    assert {read.main.tensors[i].dtype for i in split.outputs} == {"float32"}
    assert any(read.main.tensors[op.outputs[0]].dtype == "int8" for op in read.main.operators)
