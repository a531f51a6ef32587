"""A first manifest: which array is which input, random data within bounds, refusals in a sentence."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from tests.conftest import EXAMPLES, Run
from tests.plain_loop import raw_outputs
from tests.sample import full
from tflite_guard.asking import Question, explain
from tflite_guard.errors import DataError, EvaluationError, GuardError, UsageError
from tflite_guard.init import Wishes, write_manifest
from tflite_guard.results import ErrorInfo
from tflite_guard.run.jobs import Options

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def tflite(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Makes a .tflite that sums its inputs, given as name to (shape, dtype), one signature for each mapping."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("models")
    made: dict[str, Path] = {}

    def make(*signatures: dict[str, tuple[list[int | None], str]]) -> Path:
        path = folder / f"{len(made)}.tflite"
        if str(signatures) not in made:
            module = tf.Module()
            functions = [concrete(inputs) for inputs in signatures]
            keys = ["serving_default"] if len(functions) == 1 else ["day", "night"]
            module.functions = functions
            tf.saved_model.save(module, str(folder / "saved"), signatures=dict(zip(keys, functions, strict=True)))
            converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"), signature_keys=keys)
            path.write_bytes(converter.convert())
            made[str(signatures)] = path
        return made[str(signatures)]

    def concrete(inputs: dict[str, tuple[list[int | None], str]]) -> Any:
        specs = {name: tf.TensorSpec(shape, dtype, name=name) for name, (shape, dtype) in inputs.items()}

        @tf.function
        def total(**tensors: Any) -> dict[str, Any]:
            return {"scores": sum(tf.cast(tensor, tf.float32) for tensor in tensors.values()) + 1.0}

        return total.get_concrete_function(**specs)

    return make


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(model: Path | str, arrays: dict[str, np.ndarray] | None = None, **options: Any) -> dict[str, Any]:
    """The dataset of the manifest that is written here for a model."""
    local = Path(f"model{Path(model).suffix}")
    if Path(model).is_file():
        local.write_bytes(Path(model).read_bytes())
        model = str(local)
    if arrays is not None:
        np.savez("data.npz", **arrays)
    lines = list(write_manifest(str(model), None if arrays is None else "data.npz", "new.json", Wishes(**options)))
    written = json.loads(Path("new.json").read_text())
    return {**written["datasets"]["evaluation"], "reference": written["models"][0]["reference"], "lines": lines}


ROWS = np.zeros((7, 4), np.float32)
PAIR: dict[str, Any] = {"before": ([None, 4], "float32"), "after": ([None, 4], "float32")}
MIXED: dict[str, Any] = {"pixels": ([None, 4], "float32"), "count": ([None, 1], "int32")}


@pytest.mark.parametrize(
    ("model", "arrays", "inputs"),
    [
        (PAIR, {"after": ROWS, "before": ROWS}, {"before": "before", "after": "after"}),
        (PAIR, {"after": ROWS, "other": ROWS}, {"before": "other", "after": "after"}),
        (PAIR, {"other": ROWS, "before": ROWS, "y": ROWS}, {"before": "before", "after": "other"}),
        (MIXED, {"a": np.zeros((7, 1), np.int64), "b": ROWS}, {"pixels": "b", "count": "a"}),
        (MIXED, {"a": ROWS[:, :1], "b": ROWS, "c": np.zeros((7, 1), np.int8)}, {"pixels": "b", "count": "c"}),
        ({"x": ([None, 4], "float32")}, {"image": ROWS.astype(np.uint8)}, {"x": "image"}),
    ],
)
def test_arrays_go_to_inputs_by_name_and_else_only_where_one_fits(
    tflite: Maker, place: Path, model: dict[str, Any], arrays: dict[str, np.ndarray], inputs: dict[str, str]
) -> None:
    assert init(tflite(model), arrays)["inputs"] == inputs


@pytest.mark.parametrize(
    ("model", "arrays", "message"),
    [
        (PAIR, {"a": ROWS, "b": ROWS}, r"not certain which array is input 'before'.*: a \[7, 4\] float32, b \[7, 4\]"),
        (PAIR, {"a": ROWS}, r"input 'before' .*: a .*could also be 'after'"),
        (PAIR, {"before": ROWS}, r"no array fits input 'after' \[\?, 4\] float32 \(there is no other array\)"),
        (PAIR, {"before": ROWS, "labels": ROWS}, "no array fits input 'after'"),
        (PAIR, {"before": ROWS, "after": ROWS[:, :3], "b": ROWS}, r"'after' \[7, 3\] float32 does not fit the input"),
        (MIXED, {"pixels": ROWS, "count": ROWS[:, :1]}, r"'count' \[7, 1\] float32 does not fit .* int32"),
    ],
)
def test_between_equals_nothing_is_guessed(
    tflite: Maker, place: Path, model: dict[str, Any], arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(DataError, match=message) as raised:
        init(tflite(model), arrays)
    assert "by hand" in str(raised.value)
    assert not Path("new.json").exists()


CLASSES: dict[str, Any] = {"x": ([None, 3], "float32")}
X = np.zeros((6, 3), np.float32)
NUMBERS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("arrays", "labels"),
    [
        ({"y": NUMBERS}, "y"),
        ({"Test_Labels": NUMBERS, "fold": NUMBERS}, "Test_Labels"),
        ({"scores": NUMBERS}, "scores"),
        ({"digit": NUMBERS}, "digit"),
        ({"digit": NUMBERS, "fold": NUMBERS * 7}, "digit"),
        ({"subject": NUMBERS * 7}, None),
        ({"subject": NUMBERS % 2}, None),
        ({"digit": NUMBERS, "other": NUMBERS}, None),
        ({"y": X}, "y"),
        ({"y": X.astype(np.int32)[:, :2]}, None),
        ({"more": X}, None),
        ({"y": NUMBERS[:, None]}, "y"),
        ({"y": NUMBERS.astype(np.float32)}, "y"),
        ({"kind": np.eye(3)[NUMBERS]}, "kind"),
        ({"kind": np.ones((6, 3))}, None),
        ({"y": NUMBERS + 7}, None),
    ],
)
def test_labels_are_what_is_called_so_or_holds_the_classes(
    tflite: Maker, place: Path, arrays: dict[str, np.ndarray], labels: str | None
) -> None:
    made = init(tflite(CLASSES), {"x": X, **arrays})
    assert made.get("labels") == labels
    assert any("could each be the labels" in line for line in made["lines"]) == ("other" in arrays)


@pytest.mark.parametrize(
    ("shape", "dtype", "arrays"),
    [
        ([], "float32", (64,)),
        ([5360], "float32", (64, 5360)),
        ([1, 6], "int32", (64, 6)),
        ([None, None, 3], "float32", (64, 1, 3)),
        ([8, 6], "float32", (64, 6)),
        ([1, 2**17], "float32", (4, 2**17)),
    ],
)
def test_random_examples_have_the_models_shape_and_stay_within_bounds(
    tflite: Maker,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: list[int | None],
    dtype: str,
    arrays: tuple[int, ...],
) -> None:
    monkeypatch.setattr("tflite_guard.init.RANDOM_BYTES", 2**21)  # the real one takes seconds to compress
    made = init(tflite({"file": (shape, dtype)}))
    assert (made["inputs"], made["path"]) == ({"file": "file"}, "new-random.npz")
    with np.load("new-random.npz") as written:
        assert list(written) == ["file"]
        assert (written["file"].shape, written["file"].dtype) == (arrays, dtype)


@pytest.mark.parametrize(("shape", "data"), [([], (7,)), ([20], (7, 20)), ([8, 6], (7, 8, 6)), ([8, 6], (7, 6))])
def test_an_example_without_a_batch_axis_is_known(
    tflite: Maker, place: Path, shape: list[int | None], data: tuple[int, ...]
) -> None:
    assert init(tflite({"x": (shape, "float32")}), {"data": np.zeros(data, np.float32)})["inputs"] == {"x": "data"}


def test_one_example_as_large_as_the_bound_is_made(tflite: Maker, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tflite_guard.init.RANDOM_BYTES", 2**20)  # the real one takes seconds to compress
    model = tflite({"x": ([1, 2**18], "float32")})
    init(model)
    assert np.load("new-random.npz")["x"].shape == (1, 2**18)
    with pytest.raises(UsageError, match="one random example would take 1 MiB"):
        init(tflite({"x": ([1, 2**18 + 1], "float32")}), force=True)


def test_one_example_beyond_the_bound_is_asked_for(tflite: Maker, place: Path) -> None:
    with pytest.raises(UsageError, match=r"one random example would take 128 MiB; give examples .* DATA"):
        init(tflite({"x": ([1, 2**25], "float32")}))
    assert os.listdir(place) == ["model.tflite"]


def test_steps_that_nobody_can_know_are_asked_for_without_the_manifest_that_is_gone(tflite: Maker, place: Path) -> None:
    model = tflite({"image": ([None, 8, 8, 1], "float32")})
    np.savez("data.npz", image=np.zeros((3, 9, 9, 1), np.float32))
    with pytest.raises(UsageError, match=r"^data\.npz: .*left open; put here the steps .*with `tflite-guard init`"):
        explain(Question(str(model), "float32", "data.npz"), Options())


def test_one_of_several_signatures_must_be_named(tflite: Maker, place: Path) -> None:
    model = tflite({"x": ([None, 3], "float32")}, {"z": ([None, 5], "float32")})
    with pytest.raises(EvaluationError, match=r"there are: '?day'?, '?night'?\)?; choose one with --signature"):
        init(model)
    with pytest.raises(EvaluationError, match="no signature 'noon'; there are 'day', 'night'"):
        init(model, signature="noon")
    np.savez("data.npz", z=np.zeros((3, 5), np.float32))
    asked = Question("model.tflite", "float32", "data.npz", signature="night")
    assert explain(asked, Options()).manifest.models[0].reference.signature == "night"
    made = init(model, signature="night")
    assert made["inputs"] == {"z": "z"}
    assert made["reference"] == {"tflite": "model.tflite", "signature": "night"}
    assert np.load("new-random.npz")["z"].shape == (64, 5)
    assert "signature" not in init(tflite(CLASSES), force=True)["reference"]


def test_what_is_no_model_of_numbers_is_refused_in_a_sentence(place: Path, run: Run) -> None:
    import tensorflow as tf

    text = tf.function(lambda x: {"scores": tf.reshape(x, [-1, 1])})
    concrete = text.get_concrete_function(tf.TensorSpec([None, 3], tf.string, name="x"))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())
    Path("text.tflite").write_bytes(converter.convert())
    Path("pointer.keras").write_bytes(POINTER)
    for name, message in (("text.tflite", "input 'x' holds string values"), ("pointer.keras", "run `git lfs pull`")):
        refused = run("init", name, cwd=place)
        assert refused.code in (2, 3)
        assert message in refused.err
        assert refused.err.count("\n") == 1
    assert sorted(os.listdir(place)) == ["pointer.keras", "text.tflite"]


def test_no_file_of_a_users_is_overwritten_without_force(tflite: Maker, place: Path) -> None:
    model = tflite(CLASSES)
    for name in ("new.json", "new-random.npz"):
        Path(name).write_text("precious")
        with pytest.raises(UsageError, match=rf"{name}: exists already; use --force"):
            init(model)
        assert Path(name).read_text() == "precious"
        init(model, force=True)
        for made in ("new.json", "new-random.npz"):
            Path(made).unlink()


def test_a_folder_that_cannot_be_written_is_said(tflite: Maker, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(dir: str, **named: str) -> tuple[int, str]:
        if dir == str(place):
            raise PermissionError(13, "Permission denied")
        return made(dir=dir, **named)

    made = tempfile.mkstemp
    monkeypatch.setattr("tempfile.mkstemp", refusing)  # root may write everywhere
    with pytest.raises(GuardError, match=r"new-random.npz: cannot be written \(Permission denied\); name another"):
        init(tflite(CLASSES))


def test_the_root_of_the_disk_is_a_folder_like_any_other(
    tflite: Maker, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tflite_guard.init.find_root", lambda _: "/")
    assert init(tflite(CLASSES))["inputs"] == {"x": "x"}
    monkeypatch.setattr("tflite_guard.init.find_root", lambda _: str(place / "elsewhere"))
    with pytest.raises(UsageError, match="lies outside"):
        init(tflite(CLASSES), force=True)


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict", "ignore::DeprecationWarning")
def test_the_keys_of_a_dictionary_of_inputs_bind(place: Path) -> None:
    """Layer names are canonical; keys sort otherwise, and two inputs are of one shape."""
    import keras

    inputs = {"user": keras.Input((5,), name="u_in"), "item": keras.Input((5,), name="a_item_in")}
    outputs = keras.layers.Dense(2)(inputs["user"] - 3 * inputs["item"])
    keras.Model(inputs, outputs).save("model.keras")
    rows = np.zeros((7, 5), np.float32)
    made = init("model.keras", {"item": rows, "user": rows, "extra": rows})
    assert made["inputs"] == {"u_in": "user", "a_item_in": "item"}
    with pytest.raises(DataError, match=r"not certain which array is input 'u_in'.*: extra .*, more"):
        init("model.keras", {"item": rows, "extra": rows, "more": rows}, force=True)


def test_the_reference_is_held_to_what_it_has_now(run: Run, place: Path, float_tflite: Path) -> None:
    shutil.copy(float_tflite, "digits.tflite")
    data = np.load(EXAMPLES / "digits/data/evaluation.npz")
    image = data["image"].astype(np.float32) / 16
    np.savez("data.npz", image=image, y=data["label"])
    made = run("init", "digits.tflite", "data.npz", cwd=place)
    assert made.code == 0, made.err
    outputs = raw_outputs(float_tflite, image)
    right = np.mean(outputs.argmax(1) == data["label"])
    assert f"the reference's accuracy on this data is {right:.4f}" in made.out
    reference = json.loads(Path("tflite-guard.json").read_text())["models"][0]["reference"]
    assert reference["tolerances"] == {"accuracy": {"min": math.floor((right - 0.005) * 100) / 100}}
    finished = run("check", "--variant", "float32", "--format", "json", cwd=place)
    assert (finished.code, finished.report["models"][0]["reference"]["verdict"]) == (0, "pass")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_variant_that_is_worth_nothing_is_left_out_and_the_others_are_held_to_what_they_reach(place: Path) -> None:
    import keras

    inputs = keras.Input((4,), name="x")
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save("small.keras")
    rows = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    made = init("small.keras", {"x": rows}, measure=True)
    assert "dynamic_range: left out: nothing in it is quantized, so it is the float model again" in made["lines"]
    exact, *others = json.loads(Path("new.json").read_text())["models"][0]["variants"]
    assert exact == "float32", "which equals the reference, and has no figure to be held to"
    assert [one["name"] for one in others] == ["float16", "int8"]
    float16, int8 = (one["tolerances"]["sqnr"]["min"] for one in others)
    assert float16 > int8 > 20, "where every manifest starts from 10 dB"


@pytest.mark.parametrize(
    ("broken", "told", "left"),
    [
        (["int8"], "int8: left out: it has no kernel", ["float32", "given"]),
        (["float32", "int8"], "float32, int8: left out: it has no kernel", ["given"]),
        (["given"], "given: kept, but will not do: it has no kernel", ["float32", "int8", "given"]),
    ],
)
def test_a_variant_that_cannot_be_made_is_left_out_with_the_reason(
    tflite: Maker, place: Path, monkeypatch: pytest.MonkeyPatch, broken: list[str], told: str, left: list[str]
) -> None:
    model_result = full().models[0]
    some = next(one for one in model_result.variants if one.error is None)
    variants = [
        replace(
            some, name=name, findings=(), error=ErrorInfo("no-kernel", "it has no kernel") if name in broken else None
        )
        for name in ("float32", "int8", "given")
    ]
    result = replace(model_result, error=None, findings=(), variants=tuple(variants))
    monkeypatch.setattr("tflite_guard.init.run", lambda *_, **__: replace(full(), models=(result,)))
    model = tflite(CLASSES)
    Path("given.tflite").write_bytes(model.read_bytes())
    made = init(model, {"x": X}, tflite=("given.tflite",))
    assert told in made["lines"]
    written = json.loads(Path("new.json").read_text())["models"][0]["variants"]
    assert [one if isinstance(one, str) else one["name"] for one in written] == left


def test_each_file_to_judge_has_a_name_of_its_own_and_the_model_is_none(tflite: Maker, place: Path) -> None:
    model = tflite({"image": ([None, 4, 4, 1], "float32")})
    files = ("eu/int8.tflite", "us/int8.tflite", "us/small.tflite", "more/us/int8.tflite")
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(model, file)
    init(model, {"image": np.zeros((6, 9, 9, 3), np.uint8)}, tflite=(*files, "us/../eu/int8.tflite", "model.tflite"))
    variants = json.loads(Path("new.json").read_text())["models"][0]["variants"]
    assert {one["name"]: one["tflite"] for one in variants if "tflite" in one} == {
        "eu-int8": "eu/int8.tflite",
        "us-int8": "us/int8.tflite",
        "small": "us/small.tflite",
        "us-int8-2": "more/us/int8.tflite",
    }


def test_what_is_left_open_is_told_at_its_line(tflite: Maker, place: Path, run: Run) -> None:
    made = init(tflite({"image": ([None, 4, 4, 1], "float32")}), {"image": np.zeros((6, 9, 9, 3), np.uint8)})
    (line,) = [one for one in made["lines"] if "left open" in one]
    assert line.startswith("new.json:12:9: left open; put here the steps that make [9, 9, 3] uint8 into")
    assert made["lines"][-1] == "next: fill these in, until `tflite-guard validate new.json` has nothing more to say"
    refused = run("validate", "new.json", cwd=place)
    assert (refused.code, refused.err.strip()) == (2, line)


def test_where_the_reference_cannot_run_the_last_line_says_to_mend_that_first(
    run: Run, float_tflite: Path, tmp_path: Path
) -> None:
    shutil.copy(float_tflite, tmp_path / "m.tflite")
    np.savez(tmp_path / "data.npz", image=np.full((4, 8, 8, 1), np.nan, np.float32))
    output = tmp_path / "of mine.json"
    lines = run("init", tmp_path / "m.tflite", tmp_path / "data.npz", "-o", output).out.splitlines()
    assert any(line.startswith("the reference could not be run on this data: data.npz: image: ") for line in lines)
    what = "next: correct what keeps the reference from running (see above), then tflite-guard check"
    assert lines[-1] == f"{what} {shlex.quote(str(output))}"
