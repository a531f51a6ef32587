from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from engine_models import Case, normal, single_runs, without_signature

from tflite_guard.engine import graph
from tflite_guard.engine.calibrate import inject, measured_ranges
from tflite_guard.engine.convert import FloatModel
from tflite_guard.errors import ConversionError, DataError
from tflite_guard.manifest.types import CalibrationOptions, Conversion

MEASURED = CalibrationOptions(ranges="measured")


@pytest.fixture(scope="session")
def residual(make_case: Callable[..., Case]) -> Case:
    """relu(small + large): the sum overwrites `small`, which the converter's calibrator then logs again."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    wide = keras.initializers.RandomNormal(stddev=5, seed=1)
    small = keras.layers.Conv2D(4, 3, padding="same", name="small")(image)
    large = keras.layers.Conv2D(4, 3, padding="same", name="large", kernel_initializer=wide)(image)
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(keras.ops.relu(small + large)))
    return make_case("residual", keras.Model(image, outputs), {"image": normal(8, 8, 3)})


def true_range(case: Case, layer: str) -> tuple[float, float]:
    values = keras.saving.load_model(case.path).get_layer(layer)(case.data["image"]).numpy()
    return float(values.min()), float(values.max())


def test_ranges_are_the_tensors_true_ones(residual: Case) -> None:
    raw = Path(residual.tflite("float32")).read_bytes()
    ranges = measured_ranges(raw, residual.calibration)
    assert ranges["serving_default_image:0"] == (residual.data["image"].min(), residual.data["image"].max())
    for layer in ("small", "large"):
        measured = next(pair for name, pair in ranges.items() if f"/{layer}" in name)
        np.testing.assert_allclose(measured, true_range(residual, layer), rtol=1e-4)


def test_constants_have_no_range(residual: Case) -> None:
    raw = Path(residual.tflite("float32")).read_bytes()
    constants = {t.name for t in graph.read(raw).main.tensors if t.constant}
    assert constants
    assert not constants & set(measured_ranges(raw, residual.calibration))


def small_step(model: bytes) -> float:
    tensors = graph.read(model).main.tensors
    return next(float(t.scale[0]) for t in tensors if "/small" in t.name and t.dtype == "int8" and not t.constant)


def test_measured_ranges_cure_what_the_converters_calibrator_gets_wrong(residual: Case) -> None:
    """The judged model has the converter's fault, as what users ship has; measured ranges do not have it."""
    low, high = true_range(residual, "small")
    measured = residual.source.quantize(Conversion("int8", calibration_options=MEASURED), residual.calibration)
    np.testing.assert_allclose(small_step(measured), (high - low) / 255, rtol=1e-3)
    stock = Path(residual.tflite("int8")).read_bytes()
    assert small_step(stock) > 4 * small_step(measured)


def test_where_nothing_runs_in_place_both_calibrations_agree(branches: Case, tmp_path: Path) -> None:
    path = tmp_path / "measured.tflite"
    path.write_bytes(branches.source.quantize(Conversion("int8", calibration_options=MEASURED), branches.calibration))
    wanted = single_runs(branches.tflite("int8"), branches.data)
    for name, values in single_runs(str(path), branches.data).items():
        np.testing.assert_allclose(values, wanted[name], atol=1e-4 * np.ptp(wanted[name]))


@pytest.mark.parametrize("percentile", [99.0, 90.0])
def test_a_percentile_keeps_the_central_values(conv: Case, percentile: float) -> None:
    raw = Path(conv.tflite("float32")).read_bytes()
    image = conv.data["image"]
    low, high = measured_ranges(raw, conv.calibration, percentile)["serving_default_image:0"]
    tail = (100 - percentile) / 2
    bin_width = np.ptp(image) / 8192
    np.testing.assert_allclose((low, high), np.percentile(image, [tail, 100 - tail]), atol=2 * bin_width + 4e-2)
    kept = np.mean((image >= low) & (image <= high)) * 100
    assert kept == pytest.approx(percentile, abs=0.5)


def test_clipping_narrows_the_quantized_input(conv: Case, tmp_path: Path) -> None:
    options = CalibrationOptions(clip_percentile=90.0)
    source = FloatModel(conv.spec, str(tmp_path))
    variant = Conversion("int8", io="int8", calibration_options=options)
    clipped = graph.read(source.quantize(variant, conv.calibrated))
    plain = graph.read(conv.tflite("int8", "int8"))
    assert clipped.main.tensors[0].scale[0] < 0.8 * plain.main.tensors[0].scale[0]


def test_a_constant_tensor_survives_the_percentile(conv: Case) -> None:
    def zeros() -> Iterator[dict[str, np.ndarray]]:
        yield {"image": np.zeros((1, 8, 8, 1), "float32")}

    raw = Path(conv.tflite("float32")).read_bytes()
    assert measured_ranges(raw, zeros, 99.0)["serving_default_image:0"] == (0.0, 0.0)


def test_files_without_signature_are_measured_too(conv: Case, tmp_path: Path) -> None:
    bare = Path(without_signature(conv.tflite("float32"), tmp_path / "bare.tflite")).read_bytes()
    raw = Path(conv.tflite("float32")).read_bytes()
    assert measured_ranges(bare, conv.calibration) == measured_ranges(raw, conv.calibration)


def test_injected_ranges_stand_in_the_file_and_others_stay(conv: Case) -> None:
    raw = Path(conv.tflite("float32")).read_bytes()
    once = inject(raw, {"serving_default_image:0": (-1.0, 2.0), "no such tensor": (0.0, 1.0)})
    twice = inject(once, {"StatefulPartitionedCall:0": (0.0, 1.0)})
    assert limits(twice)["serving_default_image:0"] == ([-1.0], [2.0])
    assert limits(twice)["StatefulPartitionedCall:0"] == ([0.0], [1.0])
    assert graph.read(twice).signatures == graph.read(raw).signatures


def limits(model: bytes) -> dict[str, Any]:
    from ai_edge_litert import schema_py_generated as schema

    tensors = schema.ModelT.InitFromPackedBuf(model).subgraphs[0].tensors
    return {t.name.decode(): (list(t.quantization.min), list(t.quantization.max)) for t in tensors if ranged(t)}


def ranged(tensor: Any) -> bool:
    return tensor.quantization is not None and tensor.quantization.min is not None


def test_no_examples_are_an_error(conv: Case) -> None:
    with pytest.raises(DataError, match="the calibration data has no examples"):
        measured_ranges(Path(conv.tflite("float32")).read_bytes(), lambda: iter(()))


def test_examples_that_give_no_range_are_told_from_none(conv: Case) -> None:
    nothing_finite = {"image": np.full((1, 8, 8, 1), np.nan, "float32")}
    with pytest.raises(DataError, match="nothing but NaN and infinity"):
        measured_ranges(Path(conv.tflite("float32")).read_bytes(), lambda: iter([nothing_finite]))


def test_a_model_without_float_activations_has_nothing_to_quantize(make_case: Callable[..., Case]) -> None:
    ids = keras.Input((3,), dtype="int32", name="ids")
    case = make_case("integers", keras.Model(ids, keras.ops.add(ids, ids)), {"ids": np.ones((2, 3), "int32")})
    with pytest.raises(ConversionError, match="computes nothing in float"):
        measured_ranges(Path(case.tflite("float32")).read_bytes(), lambda: iter([{"ids": np.ones((1, 3), "int32")}]))
