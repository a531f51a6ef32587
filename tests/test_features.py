"""Every kind of reference, variant and metric through the whole way, against independent computations."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tests.conftest import Run, manifest_of, on_micro, write_manifest
from tests.plain_loop import raw_outputs


@pytest.fixture
def images(digits: Path) -> np.ndarray:
    return np.load(digits / "data/evaluation.npz")["image"].astype(np.float32) / 16


def edited(digits: Path, variants: list[Any], **model: Any) -> Path:
    manifest = manifest_of(digits)
    manifest["models"][0] |= {"variants": variants} | model
    for key in [key for key, value in model.items() if value is None]:
        del manifest["models"][0][key]
    return write_manifest(digits, manifest)


def converted(run: Run, digits: Path, variant: str, to: str) -> Path:
    finished = run("convert", "digits", variant, "-o", digits / to, "--manifest", digits / "tflite-guard.json")
    assert finished.code == 0, finished.err
    return digits / to


def test_a_float_tflite_as_reference(run: Run, digits: Path, images: np.ndarray) -> None:
    reference = converted(run, digits, "float32", "float.tflite")
    path = edited(
        digits,
        ["float32", {"name": "int8", "quantization": "int8"}, {"name": "shipped", "tflite": "app/digits_int8.tflite"}],
        reference={"tflite": "float.tflite"},
    )
    finished = run("check", path, "--format", "json")
    assert finished.code == 0, finished.out
    assert finished.metric("float32", "sqnr") | {"identical": True, "value": None} == finished.metric("float32", "sqnr")
    ours = raw_outputs(digits / "app/digits_int8.tflite", images).astype(np.float64)
    theirs = raw_outputs(reference, images).astype(np.float64)
    expected = 10 * math.log10(np.sum(theirs**2) / np.sum((theirs - ours) ** 2))
    assert finished.metric("shipped", "sqnr")["value"] == pytest.approx(expected, abs=0.01)
    assert finished.variant("int8")["artifact"]["float_operators"] == []


def test_recorded_outputs_as_reference_with_a_limit(run: Run, digits: Path, images: np.ndarray) -> None:
    recorded = raw_outputs(converted(run, digits, "float32", "float.tflite"), images)
    np.savez(digits / "data/recorded.npz", whatever=recorded)
    path = edited(
        digits, [{"name": "shipped", "tflite": "app/digits_int8.tflite"}], reference={"outputs": "data/recorded.npz"}
    )
    manifest = manifest_of(digits)
    manifest["datasets"]["test"] |= {"limit": 100, "seed": 7}
    finished = run("check", write_manifest(path.parent, manifest), "--format", "json")
    chosen = np.sort(np.random.default_rng(7).choice(len(images), 100, replace=False))
    ours = raw_outputs(digits / "app/digits_int8.tflite", images[chosen])
    same = np.mean(ours.argmax(axis=1) == recorded[chosen].argmax(axis=1))
    assert finished.metric("shipped", "agreement")["value"] == same
    assert finished.metric("shipped", "agreement")["examples"] == 100


def test_kept_float_layers_are_float_and_the_rest_is_not(run: Run, digits: Path) -> None:
    kept = {"name": "mixed", "quantization": "int8", "keep_float": ["probabilities"]}
    finished = run("check", edited(digits, [kept, {"name": "int8", "quantization": "int8"}]), "--format", "json")
    assert finished.code == 0, finished.out
    floats = finished.variant("mixed")["artifact"]["float_operators"]
    assert any(operator.startswith("FULLY_CONNECTED") for operator in floats)
    assert not any(operator.startswith(("CONV_2D", "DEPTHWISE")) for operator in floats)
    assert finished.metric("mixed", "sqnr")["value"] > finished.metric("int8", "sqnr")["value"]
    (finding,) = [f for f in finished.variant("mixed")["findings"] if f["rule"] == "partially-quantized"]
    assert "FULLY_CONNECTED" in finding["message"]
    kept["ignore"] = [{"rule": "partially-quantized", "reason": "the device has a float unit"}]
    finished = run("check", edited(digits, [kept]), "--format", "json")
    (finding,) = finished.variant("mixed")["findings"]
    assert (finding["rule"], finding["ignored"]) == ("partially-quantized", "the device has a float unit")
    del kept["ignore"]
    finished = run("check", edited(digits, [kept | {"require_integer": True}]), "--format", "json")
    assert finished.code == 3
    assert finished.variant("mixed")["error"]["kind"] == "float-operators"
    assert finished.variant("mixed")["metrics"]


def test_recipes_by_name_and_by_file(run: Run, digits: Path) -> None:
    recipe = [
        {
            "regex": ".*",
            "operation": "*",
            "algorithm_key": "min_max_uniform_quantize",
            "op_config": {
                "weight_tensor_config": {
                    "num_bits": 4,
                    "symmetric": True,
                    "granularity": "CHANNELWISE",
                    "dtype": "INT",
                },
                "compute_precision": "FLOAT",
                "explicit_dequantize": True,
                "skip_checks": False,
                "min_weight_elements": 0,
            },
        }
    ]
    (digits / "recipe.json").write_text(json.dumps(recipe))
    names = ["weight_only_wi8_afp32", "dynamic_wi8_afp32", "static_wi8_ai8"]
    variants: list[Any] = [{"name": name, "recipe": name} for name in names] + [
        {"name": "file", "recipe": "recipe.json"}
    ]
    finished = run("check", edited(digits, variants, tolerances={"accuracy": {"max_drop": 0.02}}), "--format", "json")
    assert finished.code == 0, finished.out + finished.err
    sqnr = {name: finished.metric(name, "sqnr")["value"] for name in [*names, "file"]}
    assert sqnr["weight_only_wi8_afp32"] > sqnr["static_wi8_ai8"] > sqnr["file"] > 5
    assert (
        finished.variant("file")["artifact"]["size_bytes"]
        < finished.variant("weight_only_wi8_afp32")["artifact"]["size_bytes"]
    )


def test_reference_kernels_are_the_interpreters_reference_kernels(run: Run, digits: Path, images: np.ndarray) -> None:
    variants = [
        {"name": kernels, "tflite": "app/digits_int8.tflite", "kernels": kernels}
        for kernels in ("default", "reference")
    ]
    finished = run("check", edited(digits, variants), "--format", "json")
    reference = raw_outputs(digits / "app/digits_int8.tflite", images, OpResolverType.BUILTIN_REF)
    labels = np.load(digits / "data/evaluation.npz")["label"]
    assert finished.metric("reference", "accuracy")["value"] == np.mean(reference.argmax(axis=1) == labels)
    assert finished.variant("default")["artifact"] == finished.variant("reference")["artifact"]


def micro_outputs(path: Path, images: np.ndarray) -> np.ndarray:
    """Raw outputs of TensorFlow Lite Micro's interpreter, example by example."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(str(path))
    given = interpreter.get_input_details(0)
    scale, zero = (given["quantization_parameters"][key][0] for key in ("scales", "zero_points"))
    results = []
    for image in images:
        steps = np.clip(np.rint(image[np.newaxis] / np.float32(scale)) + zero, -128, 127)
        interpreter.set_input(steps.astype(np.int8), 0)
        interpreter.invoke()
        results.append(interpreter.get_output(0)[0])
    return np.stack(results)


@on_micro
def test_a_microcontrollers_kernels_judge_and_tell_what_a_device_runs(
    run: Run, digits: Path, images: np.ndarray
) -> None:
    made = {"name": "int8", "quantization": "int8", "io": "int8"}
    model = converted(run, edited(digits, [made]).parent, "int8", "int8.tflite")
    outputs = micro_outputs(model, images)
    labels = np.load(digits / "data/evaluation.npz")["label"]
    np.savez(digits / "device.npz", out=outputs)
    observed = {"observed_outputs": "device.npz", "observed_tolerance": 0}
    variants = [
        made | {"name": "micro", "kernels": "micro"} | observed,
        made | {"name": "phone"} | observed,
        {"name": "half", "quantization": "float16", "kernels": "micro"},
    ]
    metrics = ["accuracy", "arena_bytes", "macs", "size_bytes"]
    tolerances = {"arena_bytes": {"max": 4000}}
    path = edited(digits, variants, metrics=metrics, tolerances=tolerances)
    finished = run("check", path, "--format", "json")
    assert finished.code == 3, finished.out + finished.err
    assert finished.metric("micro", "accuracy")["value"] == np.mean(outputs.argmax(1) == labels)
    arena = finished.metric("micro", "arena_bytes")
    assert (arena["verdict"], 1000 < arena["value"] < 20_000) == ("fail", True)
    assert [one["name"] for one in finished.variant("phone")["metrics"]] == ["accuracy", "macs", "size_bytes"]
    assert finished.metric("phone", "macs")["value"] == finished.metric("micro", "macs")["value"] > 10_000
    assert finished.variant("micro")["observed"]["max_steps"]["micro"] == 0
    assert "TensorFlow Lite Micro cannot prepare DEQUANTIZE" in finished.variant("half")["error"]["message"]
    steps = finished.variant("phone")["observed"]["max_steps"]
    raw = raw_outputs(model, images).astype(int)
    assert steps["default"] == np.abs(raw - outputs).max()
    told = [one for one in finished.variant("phone")["findings"] if one["rule"] == "observed-kernels"]
    if len(set(steps.values())) > 1:
        assert "micro" in told[0]["evidence"]["nearest"]
    else:
        assert told == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_recording_is_compared_with_the_kernels_that_run_the_file_to_its_end(run: Run, tmp_path: Path) -> None:
    """TensorFlow Lite Micro prepares an embedding of integers, and fails when it is run."""
    import keras

    keras.utils.set_random_seed(3)
    layers = [keras.Input((3,), dtype="int32", name="ids"), keras.layers.Embedding(5, 2), keras.layers.Flatten()]
    keras.Sequential([*layers, keras.layers.Dense(2)]).save(tmp_path / "ids.keras")
    ids = np.random.default_rng(3).integers(0, 5, (40, 3)).astype(np.int32)
    np.savez(tmp_path / "data.npz", ids=ids)
    variant = {"name": "float32", "quantization": "float32"}
    model = {"name": "ids", "reference": {"keras": "ids.keras"}, "evaluation": "d", "metrics": ["sqnr"]}
    manifest = {"schema_version": 1, "datasets": {"d": {"source": "npz", "path": "data.npz", "inputs": "ids"}}}
    path = write_manifest(tmp_path, manifest | {"models": [model | {"variants": [variant]}]})
    made = run("convert", "ids", "float32", "-o", tmp_path / "ids.tflite", "--manifest", path)
    assert made.code == 0, made.err
    interpreter = Interpreter(str(tmp_path / "ids.tflite"))
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    recorded = []
    for example in ids:
        interpreter.set_tensor(source["index"], example[np.newaxis])
        interpreter.invoke()
        recorded.append(interpreter.get_tensor(target["index"])[0])
    np.savez(tmp_path / "phone.npz", out=np.stack(recorded))
    variant |= {"observed_outputs": "phone.npz"}
    path = write_manifest(tmp_path, manifest | {"models": [model | {"variants": [variant]}]})
    found = run("check", path, "--format", "json").variant("float32")
    assert found["error"] is None
    assert found["observed"]["max_steps"]["default"] == 0
    assert "micro" not in found["observed"]["max_steps"]


@pytest.mark.parametrize("raw", [True, False])
def test_outputs_observed_in_an_application(run: Run, digits: Path, images: np.ndarray, raw: bool) -> None:
    path = edited(digits, ["float32", {"name": "int8", "quantization": "int8", "io": "int8"}])
    model = converted(run, digits, "int8", "int8.tflite")
    scale, zero = Interpreter(model_path=str(model)).get_output_details()[0]["quantization"]
    observed = raw_outputs(model, images)
    observed[5] = np.roll(observed[5], 1)
    steps = int(np.max(np.abs(observed[5].astype(int) - raw_outputs(model, images[5:6])[0].astype(int))))
    np.savez(digits / "phone.npz", out=observed if raw else (observed.astype(np.float32) - zero) * np.float32(scale))
    variant = {
        "name": "int8",
        "quantization": "int8",
        "io": "int8",
        "observed_outputs": "phone.npz",
        "observed_tolerance": 1,
    }
    finished = run("check", edited(digits, [variant]), "--format", "json")
    assert finished.code == 1
    found = finished.variant("int8")["observed"]
    assert found["max_steps"]["default"] == pytest.approx(steps, abs=1e-3)
    assert found["steps_verdict"] == "fail"
    labels = np.load(digits / "data/evaluation.npz")["label"]
    accuracy = next(metric for metric in found["metrics"] if metric["name"] == "accuracy")
    assert accuracy["value"] == np.mean(observed.argmax(axis=1) == labels)
    assert "quantization steps" in run("check", path.with_name("tflite-guard.json")).out
    variant["observed_tolerance"] = steps + 0.01
    assert run("check", edited(digits, [variant])).code == 0


def test_a_metric_of_the_users_own(run: Run, light_digits: Path) -> None:
    digits = light_digits
    (digits / "mine.py").write_text(
        "import numpy as np\n"
        "def right(outputs, labels):\n    return (outputs[0].argmax(axis=1) == labels).astype(float)\n"
        "def one(outputs, labels):\n    return float((outputs[0].argmax(axis=1) == labels).mean())\n"
    )
    metrics = ["accuracy", {"name": "right", "python": "mine:right"}, {"name": "one", "python": "mine:one"}]
    variants = [{"name": "shipped", "tflite": "app/digits_int8.tflite"}]
    path = edited(digits, variants, metrics=metrics, tolerances={"right": {"max_drop": 0.02}})
    assert run("check", path).code == 2
    finished = run("check", path, "--allow-code", "--format", "json")
    assert finished.code == 0, finished.out + finished.err
    values = [finished.metric("shipped", name) for name in ("accuracy", "right", "one")]
    assert len({metric["value"] for metric in values}) == 1
    assert len({metric["drop"] for metric in values}) == 1
    assert values[1]["confidence_interval"] is not None
    assert values[2]["confidence_interval"] is None
    (digits / "mine.py").write_text("def right(outputs, labels):\n    return [0.0] * len(labels)\none = right\n")
    assert (
        run("check", path, "--allow-code", "--format", "json").metric("shipped", "right")["value"] == 0
    )  # never from the cache


def test_measured_ranges_and_fewer_samples_change_the_artifact(run: Run, digits: Path) -> None:
    options: dict[str, Any] = {
        "plain": {"samples": 200},
        "measured": {"ranges": "measured"},
        "few": {"samples": 3},
        "clipped": {"clip_percentile": 99.0},
    }
    variants = [{"name": name, "quantization": "int8", "calibration_options": value} for name, value in options.items()]
    finished = run("check", edited(digits, variants, tolerances={}), "--format", "json")
    assert finished.code == 0, finished.out
    hashes = {name: finished.variant(name)["artifact"]["sha256"] for name in options}
    assert len({hashes["plain"], hashes["few"], hashes["clipped"]}) == 3
    assert all(finished.metric(name, "accuracy")["value"] > 0.9 for name in options)


def test_examples_in_groups_are_resampled_together(run: Run, light_digits: Path) -> None:
    arrays = dict(np.load(light_digits / "data/evaluation.npz"))
    arrays["scan"] = np.arange(len(arrays["label"])) // 50
    np.savez(light_digits / "data/evaluation.npz", **arrays)
    manifest = manifest_of(light_digits)
    manifest["datasets"]["test"]["group"] = "scan"
    finished = run("check", write_manifest(light_digits, manifest), "--format", "json")
    metric = finished.metric("shipped", "sqnr")
    assert metric["groups"] == len(set(arrays["scan"].tolist()))
    assert metric["interval_method"] == "bootstrap-groups"


@pytest.fixture(scope="module")
def two_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with two inputs of one shape and two outputs, so that any mix-up of order shows."""
    import keras

    folder = tmp_path_factory.mktemp("two")
    keras.utils.set_random_seed(3)
    zebra, apple = keras.Input((4,), name="zebra"), keras.Input((4,), name="apple")
    dense = keras.layers.Dense(3, name="inner")
    model = keras.Model(
        {"zebra": zebra, "apple": apple},
        {"small": 0.1 * dense(zebra) + 5.0, "large": dense(apple) * 10.0 + keras.ops.sum(zebra, axis=1, keepdims=True)},
    )
    model.save(folder / "two.keras")
    rng = np.random.default_rng(0)
    data = {"a": rng.normal(size=(60, 4)).astype(np.float32), "z": rng.normal(size=(60, 4)).astype(np.float32) * 3}
    outputs = model.predict({"zebra": data["z"], "apple": data["a"]}, verbose=0)
    np.savez(folder / "data.npz", **data, small=outputs["small"] + 0.25, large=outputs["large"] - 0.5)
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_metric_of_the_users_own_sees_all_outputs_and_labels_by_name(
    run: Run, two_by_two: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(two_by_two, tmp_path / "two")
    (folder / "own.py").write_text(
        "import numpy as np\n"
        "def both(outputs, labels):\n"
        "    assert sorted(outputs.keys()) == sorted(labels) == ['large', 'small'] and len(outputs) == 2\n"
        "    assert any(values is outputs['large'] for values in outputs)\n"
        "    return sum(np.abs(outputs[name] - labels[name]).mean(axis=1) for name in labels)\n"
        "def one(outputs, labels):\n"
        "    return np.abs(outputs[0] - labels).mean(axis=1)\n"
    )
    data = {"source": "npz", "path": "data.npz", "inputs": {"apple": "a", "zebra": "z"}}
    data["labels"] = {"small": "small", "large": "large"}
    metrics = [{"python": "own:both"}, {"python": "own:one", "output": "large"}]
    model = {"name": "two", "reference": {"keras": "two.keras"}, "evaluation": "test", "variants": ["float32"]}
    manifest = {"schema_version": 1, "datasets": {"test": data}, "models": [model | {"metrics": metrics}]}
    finished = run("check", write_manifest(folder, manifest), "--allow-code", "--format", "json")
    assert finished.variant("float32")["error"] is None, finished.out
    assert finished.metric("float32", "both")["reference"] == pytest.approx(0.75, abs=1e-5)  # 0.25 and 0.5 apart
    assert finished.metric("float32", "one")["reference"] == pytest.approx(0.5, abs=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_several_inputs_and_outputs_are_bound_by_name(run: Run, two_by_two: Path) -> None:
    manifest = {
        "schema_version": 1,
        "datasets": {
            "test": {
                "source": "npz",
                "path": "data.npz",
                "inputs": {"apple": "a", "zebra": "z"},
                "labels": {"small": "small", "large": "large"},
            },
        },
        "models": [
            {
                "name": "two",
                "reference": {"keras": "two.keras"},
                "evaluation": "test",
                "calibration": "test",
                "metrics": [
                    "sqnr",
                    {"name": "mae_small", "metric": "mae", "output": "small"},
                    {"name": "mae_large", "metric": "mae", "output": "large"},
                ],
                "variants": ["float32", "int8", "dynamic_range"],
            }
        ],
    }
    finished = run("check", write_manifest(two_by_two, manifest), "--format", "json")
    assert finished.code == 0, finished.out + finished.err
    assert finished.metric("float32", "mae_small")["reference"] == pytest.approx(0.25, abs=1e-5)
    assert finished.metric("float32", "mae_large")["reference"] == pytest.approx(0.5, abs=1e-5)
    for variant, least in (("float32", 100), ("int8", 20), ("dynamic_range", 20)):
        for output in ("small", "large"):
            assert finished.metric(variant, f"sqnr[{output}]")["value"] > least


def test_the_size_is_a_metric(run: Run, digits: Path) -> None:
    tolerances = {"size_bytes": {"max": 24_000}}
    path = edited(
        digits,
        ["float16", {"name": "int8", "quantization": "int8"}],
        metrics=["size_bytes", "agreement"],
        tolerances=tolerances,
    )
    finished = run("check", path, "--format", "json")
    assert finished.code == 1
    assert finished.metric("int8", "size_bytes")["verdict"] == "pass"
    assert finished.metric("float16", "size_bytes")["verdict"] == "fail"
    assert finished.metric("float16", "size_bytes")["value"] == finished.variant("float16")["artifact"]["size_bytes"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:When providing `inputs` as a dict:UserWarning")
def test_inputs_and_outputs_go_by_keys_layers_and_places(run: Run, tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(5)
    layers = keras.layers
    inputs = {"user": keras.Input((4,), name="u_in"), "item": keras.Input((4,), name="a_in")}
    outputs = {
        "click": layers.Dense(2, name="z_click")(inputs["user"]),
        "rating": layers.Dense(3, name="a_rating")(inputs["item"]),
    }
    keras.Model(inputs, outputs).save(tmp_path / "m.keras")
    rng = np.random.default_rng(0)
    data = {"u": rng.normal(size=(40, 4)).astype("float32"), "i": 10 * rng.normal(size=(40, 4)).astype("float32")}
    found = keras.saving.load_model(tmp_path / "m.keras").predict({"user": data["u"], "item": data["i"]}, verbose=0)
    np.savez(tmp_path / "data.npz", **data, click=found["click"] + 0.25, rating=found["rating"] - 0.5)

    def named(user: str, item: str, click: str, rating: str) -> tuple[dict[str, Any], dict[str, Any]]:
        dataset = {
            "source": "npz",
            "path": "data.npz",
            "inputs": {user: "u", item: "i"},
            "labels": {click: "click", rating: "rating"},
            "preprocess": {user: [{"scale": 1.0}]},
        }
        metrics = [
            {"name": "click", "metric": "mae", "output": click},
            {"name": "rating", "metric": "mae", "output": rating},
        ]
        model = {
            "reference": {"keras": "m.keras", "input_shapes": {user: [1, 4]}},
            "metrics": metrics,
            "variants": ["float32", "int8"],
        }
        return dataset, model

    by = {
        "keys": named("user", "item", "click", "rating"),
        "layers": named("u_in", "a_in", "z_click", "a_rating"),
        # A dictionary's keys are in order: item before user.
        "places": named("#1", "#0", "#0", "#1"),
        "both": named("user", "u_in", "click", "rating"),
    }
    datasets = {name: dataset for name, (dataset, _) in by.items()}
    models = [model | {"name": name, "evaluation": name, "calibration": name} for name, (_, model) in by.items()]
    path = write_manifest(tmp_path, {"schema_version": 1, "datasets": datasets, "models": models})
    finished = run("check", path, "--format", "json")
    for name in ("keys", "layers", "places"):
        assert finished.model(name)["verdict"] == "pass", finished.out + finished.err
        for variant, near in (("float32", 1e-5), ("int8", 0.2)):
            assert finished.metric(variant, "click", name)["value"] == pytest.approx(0.25, abs=near)
            assert finished.metric(variant, "rating", name)["value"] == pytest.approx(0.5, abs=near)
    assert "'inputs' names 'u_in' twice, once as 'u_in'" in finished.model("both")["error"]["message"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_state_is_kept_through_a_group(run: Run, tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(6)
    lstm = keras.layers.LSTM(3, stateful=True, unroll=True)
    keras.Sequential([keras.Input(batch_shape=(1, 3, 2), name="steps"), lstm]).save(tmp_path / "m.keras")
    steps = np.random.default_rng(0).normal(size=(20, 3, 2)).astype("float32")
    recording = np.repeat([0, 1], 10)
    model, kept = keras.saving.load_model(tmp_path / "m.keras"), []
    for i in range(20):
        if i in (0, 10):
            model.layers[0].reset_state()
        kept.append(model(steps[i : i + 1]).numpy()[0])
    np.savez(tmp_path / "data.npz", steps=steps, recording=recording, kept=np.stack(kept))

    dataset = {"source": "npz", "path": "data.npz", "inputs": "steps", "labels": "kept", "group": "recording"}
    datasets = {"whole": dataset, "limited": dataset | {"limit": 5}}
    models = [
        {"name": name, "reference": {"keras": "m.keras"}, "evaluation": data, "state": state}
        | {"metrics": ["mae", "sqnr"], "variants": ["float32"]}
        for name, data, state in (
            ("kept", "whole", "kept"),
            ("reset", "whole", "reset"),
            ("limited", "limited", "kept"),
        )
    ]
    path = write_manifest(tmp_path, {"schema_version": 1, "datasets": datasets, "models": models})
    finished = run("check", path, "--format", "json")
    assert finished.model("kept")["verdict"] == finished.model("reset")["verdict"] == "pass", finished.out
    assert finished.metric("float32", "mae", "kept")["reference"] == pytest.approx(0, abs=1e-6)
    assert finished.metric("float32", "mae", "kept")["value"] == pytest.approx(0, abs=1e-6)
    assert finished.metric("float32", "mae", "reset")["reference"] > 0.01
    assert finished.metric("float32", "sqnr", "reset")["value"] > 100
    assert "has a `limit`, which leaves examples out" in finished.model("limited")["error"]["message"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_variant_is_run_by_the_references_signature_or_its_own(run: Run, tmp_path: Path) -> None:
    import tensorflow as tf

    weights = {name: np.random.default_rng(seed).normal(size=(4, 3)) for seed, name in enumerate(("day", "night"))}
    spec = [tf.TensorSpec((None, 4), name="x")]

    def signature(name: str) -> Any:
        return tf.function(lambda x: {"y": x @ weights[name].astype("float32")}, input_signature=spec)

    signatures = {name: signature(name) for name in weights}
    tf.saved_model.save(tf.Module(), str(tmp_path / "m"), signatures=signatures)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "m"))
    (tmp_path / "both.tflite").write_bytes(converter.convert())
    x = np.random.default_rng(3).normal(size=(30, 4)).astype("float32")
    np.savez(tmp_path / "data.npz", x=x, night=x @ weights["night"].astype("float32"))

    shipped = {"name": "shipped", "tflite": "both.tflite"}
    day = {"name": "day", "tflite": "both.tflite", "signature": "day"}

    def entry(name: str, reference: dict[str, str], *variants: Any) -> dict[str, Any]:
        asked = {"evaluation": "d", "metrics": ["mae"], "variants": list(variants)}
        return {"name": name, "reference": reference} | asked

    models = [
        entry("saved_model", {"saved_model": "m", "signature": "night"}, shipped, day, "float32"),
        entry("tflite", {"tflite": "both.tflite", "signature": "night"}, shipped, day, "float32"),
        entry("neither", {"tflite": "both.tflite"}, shipped),
    ]
    dataset = {"source": "npz", "path": "data.npz", "inputs": "x", "labels": "night"}
    path = write_manifest(tmp_path, {"schema_version": 1, "datasets": {"d": dataset}, "models": models})
    finished = run("check", path, "--format", "json")
    for name in ("saved_model", "tflite"):
        assert finished.metric("shipped", "mae", name)["reference"] == pytest.approx(0, abs=1e-6)
        assert finished.metric("shipped", "mae", name)["value"] == pytest.approx(0, abs=1e-6)
        assert finished.metric("float32", "mae", name)["value"] == pytest.approx(0, abs=1e-6)
        wanted = np.abs(x @ weights["day"] - x @ weights["night"]).mean()
        assert finished.metric("day", "mae", name)["value"] == pytest.approx(wanted, rel=1e-5)
    assert finished.code == 2
    message = finished.model("neither")["error"]["message"]
    assert "both.tflite has several signatures (there are: 'day', 'night'); say which" in message


def test_a_metric_of_the_users_own_of_an_output_that_there_is_not(run: Run, light_digits: Path) -> None:
    (light_digits / "own.py").write_text("def own(outputs, reference, labels):\n    return 0.0\n")
    path = edited(light_digits, ["float32"], metrics=[{"python": "own:own", "output": "nothing"}], tolerances={})
    finished = run("check", path, "--allow-code", "--format", "json")
    assert finished.code == 2
    assert "metric 'own', 'output': the model has no output 'nothing'; its outputs are " in finished.out


def test_a_reference_on_inputs_of_a_wrong_scale_is_suspect_and_can_be_gated(run: Run, light_digits: Path) -> None:
    digits = light_digits
    manifest = manifest_of(digits)
    for dataset in manifest["datasets"].values():
        dataset["preprocess"] = [{"cast": "float32"}, {"scale": 1 / 4096}]
    model = manifest["models"][0]
    model |= {"variants": ["float32"], "metrics": ["accuracy"], "tolerances": {"accuracy": {"max_drop": 0.01}}}
    data = np.load(digits / "data/evaluation.npz")
    most = np.bincount(data["label"]).max() / len(data["label"])
    finished = run("check", write_manifest(digits, manifest), "--format", "json", "--fail-on", "warning")
    (found,) = finished.report["models"][0]["findings"]
    assert found["rule"] == "reference-suspect"
    assert found["evidence"]["most_frequent"] == pytest.approx(most)
    assert found["evidence"]["accuracy"] == pytest.approx(
        finished.report["models"][0]["reference"]["metrics"]["accuracy"]
    )
    assert (finished.code, finished.report["verdict"], finished.variant("float32")["verdict"]) == (1, "warn", "pass")
    model["ignore"] = [{"rule": "reference-suspect", "reason": "on purpose"}]
    finished = run("check", write_manifest(digits, manifest), "--format", "json", "--fail-on", "warning")
    assert (finished.code, finished.variant("float32")["cached"]) == (0, True)
    assert finished.report["models"][0]["findings"][0]["ignored"] == "on purpose"
    model["reference"]["tolerances"] = {"accuracy": {"min": 0.9}}
    finished = run("check", write_manifest(digits, manifest), "--format", "json")
    assert (finished.code, finished.variant("float32")["cached"]) == (1, True)
    assert finished.report["models"][0]["reference"]["verdict"] == "fail"
    assert "the reference's accuracy is" in run("check", digits / "tflite-guard.json").out


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_a_quantization_that_finds_nothing_to_quantize_is_told(run: Run, digits: Path) -> None:
    import keras

    keras.utils.set_random_seed(1)
    layers = [keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    keras.Sequential([keras.Input((8, 8, 1), name="image"), *layers]).save(digits / "models/tiny.keras")
    path = edited(
        digits,
        ["dynamic_range", {"name": "int8", "quantization": "int8"}],
        reference={"keras": "models/tiny.keras"},
        metrics=["sqnr"],
        tolerances=None,
    )
    finished = run("check", path, "--format", "json")
    assert [one["rule"] for one in finished.variant("dynamic_range")["findings"]] == ["nothing-quantized"]
    assert finished.variant("dynamic_range")["verdict"] == "warn"
    assert finished.variant("dynamic_range")["artifact"]["quantized_tensors"] == 0
    assert finished.variant("int8")["findings"] == []
    assert finished.variant("int8")["artifact"]["quantized_tensors"] > 0
    assert finished.metric("int8", "sqnr")["verdict"] is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_crash_on_a_scale_of_no_range_is_told_with_the_tensor(run: Run, tmp_path: Path) -> None:
    """An activation that is always zero one example at a time; LiteRT's kernel aborts on the scale that it gets."""
    import tensorflow as tf

    kernel = tf.constant(np.random.default_rng(1).normal(size=(6, 3)), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec((None, 6), name="x")])
    def centred(x: tf.Tensor) -> dict[str, tf.Tensor]:
        mean, variance = tf.nn.moments(x @ kernel, [0])
        return {"scores": (x @ kernel - mean) / tf.sqrt(variance + 1e-3)}

    module = tf.Module()
    module.centred = centred
    tf.saved_model.save(module, tmp_path / "saved", signatures={"serving_default": centred})
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(2).normal(size=(40, 6)).astype(np.float32))
    manifest = {
        "schema_version": 1,
        "datasets": {"d": {"source": "npz", "path": "data.npz", "inputs": "x"}},
        "models": [
            {
                "name": "m",
                "reference": {"saved_model": "saved"},
                "evaluation": "d",
                "calibration": "d",
                "variants": ["int8"],
                "metrics": ["sqnr"],
            }
        ],
    }
    finished = run("check", write_manifest(tmp_path, manifest), "--format", "json")
    error = finished.variant("int8")["error"]
    assert error["kind"] == "crash"
    assert re.search(
        r"crashed \(SIGABRT\).*activation '[^']+' has the scale 7\.84e-09, as of one that", error["message"]
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_outputs_that_changed_places_are_the_cause(run: Run, two_by_two: Path, tmp_path: Path) -> None:
    """The same file but for its signature, in which the two outputs have each other's name."""
    folder = shutil.copytree(two_by_two, tmp_path / "two")
    data = {"source": "npz", "path": "data.npz", "inputs": {"apple": "a", "zebra": "z"}, "labels": {"small": "small"}}
    model: dict[str, Any] = {"name": "two", "reference": {"keras": "two.keras"}, "evaluation": "test"}
    manifest = {"schema_version": 1, "datasets": {"test": data}, "models": [model | {"variants": ["float32"]}]}
    path = write_manifest(folder, manifest)
    made = run("convert", "two", "float32", "-o", folder / "right.tflite", "--manifest", path)
    assert made.code == 0, made.err
    content = schema.ModelT.InitFromPackedBuf((folder / "right.tflite").read_bytes())
    one, other = content.signatureDefs[0].outputs
    one.name, other.name = other.name, one.name
    builder = flatbuffers.Builder(1024)
    builder.Finish(content.Pack(builder), b"TFL3")
    (folder / "swapped.tflite").write_bytes(bytes(builder.Output()))
    model |= {"metrics": [{"metric": "mae", "output": "small"}], "tolerances": {"mae": {"max_drop": 0.01}}}
    model["variants"] = [{"name": name, "tflite": f"{name}.tflite"} for name in ("right", "swapped")]
    manifest = {"schema_version": 1, "datasets": {"test": data}, "models": [model]}
    finished = run("check", write_manifest(folder, manifest), "--format", "json")
    assert finished.code == 1, finished.out + finished.err
    assert finished.variant("right")["findings"] == []
    (cause,) = [one for one in finished.variant("swapped")["findings"] if one["primary"]]
    assert cause["rule"] == "io-order-swapped"
    assert cause["evidence"]["exchanged"] == ["large", "small"]
    assert cause["experiment"]["recovered"] == pytest.approx(1.0, abs=0.01)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_detector_whose_scores_share_the_scale_of_its_boxes_fails(run: Run, tmp_path: Path) -> None:
    """Boxes in pixels and scores of 0 to 1 in one output, of both layouts; its SQNR is that of the boxes."""
    import keras

    keras.utils.set_random_seed(1)
    image = keras.Input((16, 16, 3), name="image")
    seen = keras.layers.Conv2D(8, 3, 2, "same", activation="relu")(image)
    boxes = 640.0 * keras.layers.Conv2D(4, 1, activation="sigmoid")(seen)
    scores = keras.layers.Conv2D(2, 1, activation="sigmoid")(seen)
    rows = keras.layers.Reshape((64, 6))(keras.layers.Concatenate()([boxes, scores]))
    keras.Model(image, rows).save(tmp_path / "rows.keras")
    keras.Model(image, keras.layers.Permute((2, 1))(rows)).save(tmp_path / "columns.keras")
    np.savez(tmp_path / "data.npz", image=np.random.default_rng(3).random((60, 16, 16, 3), np.float32))
    models = [
        {"name": name, "reference": {"keras": f"{name}.keras"}, "variants": ["int8", "float16"], "metrics": ["sqnr"]}
        | {"evaluation": "d", "calibration": "d", "tolerances": {"sqnr": {"min": 40}}}
        for name in ("rows", "columns")
    ]
    data = {"d": {"source": "npz", "path": "data.npz", "inputs": "image"}}
    path = write_manifest(tmp_path, {"schema_version": 1, "datasets": data, "models": models})
    finished = run("check", path, "--format", "json")
    assert finished.code == 1, finished.out + finished.err
    for name in ("rows", "columns"):
        assert finished.variant("float16", name)["findings"] == []
        dead = finished.variant("int8", name)
        assert dead["metrics"][0]["verdict"] == "pass"
        (told,) = dead["findings"]
        assert (dead["verdict"], told["rule"], told["severity"]) == ("fail", "constant-output", "error")
        assert told["evidence"]["channels"] == [4, 5]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_bias_that_operators_of_unlike_scale_share_is_told(run: Run, tmp_path: Path) -> None:
    """Equal biases that are not zero; int16x8 stores them once."""
    import keras

    def saved(name: str, bias: float) -> None:
        keras.utils.set_random_seed(1)
        x = hidden = keras.Input((8,), name="x")
        for _ in range(3):
            constant = keras.initializers.Constant(bias)
            hidden = keras.layers.Dense(8, "relu", bias_initializer=constant)(hidden * 3.0)
        keras.Model(x, hidden).save(tmp_path / f"{name}.keras")

    saved("shared", 0.01)
    saved("zero", 0.0)
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(3).normal(size=(60, 8)).astype(np.float32))
    models = [
        {"name": name, "reference": {"keras": f"{name}.keras"}, "variants": ["int16x8"], "metrics": ["sqnr"]}
        | {"evaluation": "d", "calibration": "d"}
        for name in ("shared", "zero")
    ]
    data = {"d": {"source": "npz", "path": "data.npz", "inputs": "x"}}
    manifest = {"schema_version": 1, "datasets": data, "models": models}
    finished = run("check", write_manifest(tmp_path, manifest), "--format", "json")
    found = {
        name: [one["rule"] for one in finished.variant("int16x8", name)["findings"]] for name in ("shared", "zero")
    }
    assert found == {"shared": ["shared-bias"], "zero": []}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_first_tensor_that_is_not_finite_is_named(run: Run, tmp_path: Path) -> None:
    """A file of larger weights than the reference has, whose exponential is infinite."""
    import keras

    x = keras.Input((4,), name="x")
    inner = keras.layers.Dense(4, use_bias=False, name="inner")
    model = keras.Model(x, keras.layers.Dense(2, name="outer")(keras.ops.exp(inner(x))))
    inner.set_weights([np.eye(4, dtype=np.float32)])
    model.save(tmp_path / "model.keras")
    inner.set_weights([np.eye(4, dtype=np.float32) * 1000])
    model.save(tmp_path / "other.keras")
    np.savez(tmp_path / "data.npz", x=np.ones((30, 4), np.float32))
    variant = {"name": "other", "quantization": "float32", "source": {"keras": "other.keras"}}
    manifest = {
        "schema_version": 1,
        "datasets": {"d": {"source": "npz", "path": "data.npz", "inputs": "x"}},
        "models": [
            {
                "name": "m",
                "reference": {"keras": "model.keras"},
                "evaluation": "d",
                "variants": [variant],
                "metrics": ["sqnr"],
            }
        ],
    }
    finished = run("check", write_manifest(tmp_path, manifest), "--format", "json")
    message = finished.variant("other")["error"]["message"]
    assert re.search(r"the first that is not finite is \S*[Ee]xp\S* \(EXP\)$", message), message
