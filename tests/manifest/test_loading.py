from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tflite_guard import files, vocabulary
from tflite_guard.errors import ManifestError
from tflite_guard.manifest import Manifest, load
from tflite_guard.manifest.rejections import in_words
from tflite_guard.manifest.schema import schema, schema_text
from tflite_guard.manifest.types import CalibrationOptions, FunctionSpec, Ignore, MetricSpec, Tolerance

Read = Callable[..., Manifest]
Make = Callable[..., dict[str, Any]]


def only(manifest: Manifest) -> Any:
    """The variants of the only model by name."""
    (model,) = manifest.models
    return {variant.name: variant for variant in model.variants}


# --- what a manifest becomes


def test_a_pattern_of_a_tfrecord_stands_for_its_files_in_order(read: Read, manifest: Make, tmp_path: Path) -> None:
    data = tmp_path / "shards"
    data.mkdir()
    for number in range(3):
        (data / f"t-{number:05}-of-00003").write_bytes(b"\x80\x02\0\0\0\0\0\0")
    settings = {"source": "tfrecord", "inputs": "x", "features": {"x": {}}}
    written = os.path.join(data, "t-*-of-00003")
    sharded = manifest(
        datasets={"test": {**settings, "path": written, "sha256": files.sha256_of(str(data))}}, metrics=["agreement"]
    )
    found = read(sharded, data_roots=[str(tmp_path)]).models[0].evaluation
    assert [os.path.basename(one.path) for one in found.files] == [f"t-{number:05}-of-00003" for number in range(3)]
    (data / "t-00001-of-00003").write_text("other")
    assert "not the pinned" in problem(read, sharded, tmp_path)
    (data / "t-00001-of-00003").unlink()
    (data / "t-00001-of-00003").symlink_to("/etc/hostname")
    assert "t-00001-of-00003 leaves the repository" in problem(read, sharded, tmp_path)
    (data / "t-00001-of-00003").unlink()
    assert "t-00001-of-00003, which belongs to" in problem(read, sharded, tmp_path)
    assert "no file matches" in problem(
        read, manifest(datasets={"test": {**settings, "path": "no/*"}}, metrics=["agreement"]), tmp_path
    )


def problem(read: Read, content: Any, root: Path) -> str:
    with pytest.raises(ManifestError) as raised:
        read(content, data_roots=[str(root)])
    return str(raised.value)


def test_paths_are_resolved_against_the_manifest(read: Read, manifest: Make, project: Path) -> None:
    loaded = read(manifest(variants=[{"name": "shipped", "tflite": "./app/../app/digits_int8.tflite"}]))
    (model,) = loaded.models
    assert loaded.folder == str(project)
    assert (model.reference.kind, model.reference.path) == ("keras", str(project / "models/digits.keras"))
    assert model.evaluation.path == str(project / "data/evaluation.npz")
    assert loaded.folder == str(project)
    assert only(loaded)["shipped"].conversion.tflite.path == str(project / "app/digits_int8.tflite")


def test_the_manifest_carries_the_hash_of_its_bytes(tmp_path: Path, project: Path) -> None:
    text = (Path(__file__).parent / "good/short.json").read_bytes()
    path = project / "hashed.json"
    path.write_bytes(text)
    assert load(str(path)).sha256 == hashlib.sha256(text).hexdigest()
    path.unlink()


def test_a_short_variant_is_a_quantization_named_after_itself(read: Read, manifest: Make) -> None:
    variant = only(read(manifest(variants=["int8"])))["int8"]
    assert (
        variant.conversion.quantization,
        variant.conversion.io,
        variant.evaluation.kernels,
        variant.judgement.require_integer,
    ) == (
        "int8",
        "float32",
        "default",
        False,
    )
    assert variant.conversion.calibration.name == "calib"


def test_a_variant_keeps_everything_it_says(read: Read, manifest: Make, project: Path) -> None:
    written = {
        "name": "v",
        "quantization": "int8",
        "io": "uint8",
        "source": {"saved_model": "models/pruned", "signature": "serve", "input_shapes": {"x": [1, 8.0]}},
        "keep_float": ["dense"],
        "equalize": ["conv*", "stem"],
        "kernels": "reference",
        "require_integer": True,
        "observed_outputs": "data/recorded.npz",
        "observed_tolerance": 1,
        "ignore": [{"rule": "select-ops", "reason": "why"}],
        "calibration_options": {"samples": 10.0, "clip_percentile": 99.9},
    }
    variant = only(read(manifest(variants=[written])))["v"]
    assert (
        variant.conversion.io,
        variant.conversion.keep_float,
        variant.conversion.equalize,
        variant.evaluation.kernels,
        variant.judgement.require_integer,
    ) == (
        "uint8",
        ("dense",),
        ("conv*", "stem"),
        "reference",
        True,
    )
    assert variant.conversion.source.path == str(project / "models/pruned")
    assert (variant.conversion.source.kind, variant.conversion.source.signature) == ("saved_model", "serve")
    assert variant.conversion.source.input_shapes == {"x": (1, 8)}
    assert variant.evaluation.observed_outputs.path == str(project / "data/recorded.npz")
    assert variant.judgement.observed_tolerance == 1
    assert variant.judgement.ignore == (Ignore("select-ops", "why"),)
    assert variant.conversion.calibration_options == CalibrationOptions(10, 99.9, "measured")


def test_metrics_in_both_forms(read: Read, manifest: Make, project: Path) -> None:
    metrics = [
        "accuracy",
        {"metric": "top_k_accuracy", "name": "top3", "k": 3},
        {"metric": "mae"},
        {"python": "m.n:cost"},
    ]
    (model,) = read(manifest(metrics=metrics), allow_code=True).models
    assert tuple(replace(one, places={}) for one in model.metrics) == (
        MetricSpec("accuracy", "accuracy"),
        MetricSpec("top3", "top_k_accuracy", k=3),
        MetricSpec("mae", "mae", higher_is_better=False),
        MetricSpec("cost", "python", python=FunctionSpec("m.n:cost", str(project))),
    )


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("label", ["accuracy", "agreement"]),
        ({"digit": "label"}, ["accuracy", "agreement"]),
        ({"digit": "label", "parity": "label"}, ["sqnr", "cosine_similarity"]),
        (None, ["sqnr", "cosine_similarity"]),
    ],
)
def test_default_metrics_follow_the_labels(read: Read, manifest: Make, labels: Any, expected: list[str]) -> None:
    test = {"source": "npz", "path": "data/evaluation.npz", "inputs": "image", "labels": labels}
    if labels is None:
        del test["labels"]
    (model,) = read(manifest(metrics=None, datasets={"test": test})).models
    assert [metric.name for metric in model.metrics] == expected


def test_labels_named_by_the_sources_key_mean_their_output(read: Read, manifest: Make) -> None:
    test = {
        "source": "npz",
        "path": "data/evaluation.npz",
        "inputs": "image",
        "labels": {"digit": "label", "kind": "recording"},
    }
    metrics = [
        {"metric": "accuracy", "output": "a", "labels": "recording"},
        {"metric": "mae", "output": "a", "labels": "digit"},
    ]
    (model,) = read(manifest(metrics=metrics, datasets={"test": test})).models
    assert [metric.labels for metric in model.metrics] == ["kind", "digit"]
    (model,) = read(manifest(metrics=[{"metric": "accuracy", "labels": "label"}])).models
    assert model.metrics[0].labels is None


def test_a_dataset_keeps_everything_it_says(read: Read, manifest: Make, project: Path) -> None:
    test = {
        "source": "images",
        "path": "data/images",
        "labels": "label",
        "labels_file": "data/labels.csv",
        "class_order": ["cat", "dog"],
        "preprocess": [
            {"resize": [8.0, 8]},
            {"resize": {"size": [9.0, 8], "method": "area"}},
            {"transpose": [2.0, 0, 1]},
            {"expand_dims": 0.0},
            {"scale": 2},
        ],
        "limit": 5.0,
        "seed": 3,
    }
    (model,) = read(manifest(datasets={"test": test})).models
    assert model.evaluation.inputs == "image"
    assert model.evaluation.labels_file.path == str(project / "data/labels.csv")
    assert model.evaluation.class_order == ("cat", "dog")
    resize, area, transpose, *rest = model.evaluation.preprocess
    assert (resize, area, transpose) == (
        {"resize": [8, 8]}, {"resize": {"size": [9, 8], "method": "area"}}, {"transpose": [2, 0, 1]},
    )  # fmt: skip
    assert rest == [{"expand_dims": 0}, {"scale": 2}]
    assert {type(n) for n in (*resize["resize"], *area["resize"]["size"], *transpose["transpose"])} == {int}
    assert (model.evaluation.limit, model.evaluation.seed) == (5, 3)


def test_a_pinned_hash_is_compared_and_kept_in_lower_case(read: Read, manifest: Make, project: Path) -> None:
    pin = hashlib.sha256((project / "models/digits.keras").read_bytes()).hexdigest()
    (model,) = read(manifest(reference={"keras": "models/digits.keras", "sha256": pin.upper()})).models
    assert model.reference.file.sha256 == pin


# --- inheritance


def test_tolerances_merge_key_by_key_from_the_outside_in(read: Read, manifest: Make) -> None:
    written = manifest(
        defaults={"tolerances": {"accuracy": {"max_drop": 0.01, "level": "warning"}, "sqnr": {"min": 3}}},
        tolerances={"accuracy": {"max_regression": 0.5}, "agreement": {"min": 0.9}},
        variants=["float32", {"name": "b", "quantization": "int8", "tolerances": {"accuracy": {"max_drop": 0.02}}}],
    )
    written["models"].append(
        {**written["models"][0], "name": "other", "metrics": ["sqnr"], "tolerances": {}, "variants": ["int8"]}
    )
    model, other = read(written).models
    plain, inner = model.variants
    assert plain.judgement.tolerances["accuracy"].limits() == {"max_drop": 0.01, "max_regression": 0.5}
    assert inner.judgement.tolerances["accuracy"].limits() == {"max_drop": 0.02, "max_regression": 0.5}
    assert inner.judgement.tolerances["accuracy"].level == "warning"
    agreement = inner.judgement.tolerances["agreement"]
    assert agreement == Tolerance(min=0.9, line=agreement.line, lines={"min": agreement.line + 1})
    assert set(inner.judgement.tolerances) == {"accuracy", "agreement"}
    assert set(other.variants[0].judgement.tolerances) == {"sqnr"}


def test_a_tolerance_knows_the_line_of_the_innermost_object(read: Read, manifest: Make) -> None:
    text = json.dumps(
        manifest(
            tolerances={"accuracy": {"max_drop": 0.01}},
            variants=[
                "float32",
                {"name": "b", "quantization": "int8", "tolerances": {"accuracy": {"level": "warning"}}},
            ],
        ),
        indent=1,
    )
    (model,) = read(text).models
    lines = text.split("\n")
    outer, inner = (variant.judgement.tolerances["accuracy"].line for variant in model.variants)
    assert '"max_drop"' in lines[outer]
    assert '"level"' in lines[inner]
    assert lines[outer - 1].strip() == lines[inner - 1].strip() == '"accuracy": {'


def test_a_tolerance_knows_the_line_of_each_limits_own_key(read: Read, manifest: Make) -> None:
    written = manifest(
        defaults={"tolerances": {"accuracy": {"min": 0.9, "max_drop": 0.3}}},
        tolerances={"accuracy": {"require": "proven_pass"}},
        variants=["float32", {"name": "b", "quantization": "int8", "tolerances": {"accuracy": {"max_drop": 0.02}}}],
    )
    text = json.dumps(written, indent=1)
    (model,) = read(text).models
    lines = text.split("\n")
    outer, inner = (variant.judgement.tolerances["accuracy"].lines for variant in model.variants)
    assert [lines[inner[limit] - 1].strip() for limit in ("min", "max_drop")] == ['"min": 0.9,', '"max_drop": 0.02']
    assert lines[outer["max_drop"] - 1].strip() == '"max_drop": 0.3'
    assert set(inner) == {"min", "max_drop"}
    assert lines[model.variants[0].line - 1].strip() == '"float32",'
    assert '"name": "b"' in lines[model.variants[1].line]
    assert '"name": "digits"' in lines[model.line]


def test_settings_come_from_the_innermost_place(read: Read, manifest: Make) -> None:
    defaults = {
        "kernels": "reference",
        "require_integer": True,
        "calibration": "calib",
        "variants": ["int8"],
        "evaluation": "test",
    }
    defaults["calibration_options"] = {"samples": 10, "ranges": "measured"}
    variants = ["int8", {"name": "own", "quantization": "int8", "kernels": "default", "calibration": "test"}]
    loaded = read(manifest(defaults=defaults, calibration_options={"samples": 20}, variants=variants, calibration=None))
    short, own = only(loaded).values()
    assert (short.evaluation.kernels, short.judgement.require_integer, short.conversion.calibration.name) == (
        "reference",
        True,
        "calib",
    )
    assert short.conversion.calibration_options == CalibrationOptions(20, None, "measured")
    assert (own.evaluation.kernels, own.conversion.calibration.name) == ("default", "test")
    (model,) = read(manifest(defaults=defaults, variants=None, evaluation=None, calibration=None)).models
    assert [variant.name for variant in model.variants] == ["int8"]


def test_what_does_not_concern_a_variant_is_not_inherited(read: Read, manifest: Make) -> None:
    variants = ["float16", "dynamic_range", "int16x8", {"name": "shipped", "tflite": "app/digits_int8.tflite"}]
    variants += [{"name": "weights", "recipe": "weight_only_wi8_afp32"}, {"name": "static", "recipe": "static_wi8_ai8"}]
    options = {"samples": 7, "clip_percentile": 99}
    found = only(read(manifest(variants=variants, require_integer=True, calibration_options=options)))
    assert {name for name, variant in found.items() if variant.conversion.calibration} == {"int16x8", "static"}
    assert {name for name, variant in found.items() if variant.judgement.require_integer} == {
        "int16x8",
        "static",
        "shipped",
    }
    assert found["float16"].conversion.calibration_options == CalibrationOptions()
    assert found["int16x8"].conversion.calibration_options == CalibrationOptions(7)
    assert found["static"].conversion.calibration_options == CalibrationOptions(7, 99, "measured")


def test_a_quantization_aware_source_needs_no_calibration(read: Read, manifest: Make, messages: Any) -> None:
    trained = {"name": "qat", "quantization": "int8", "source": {"saved_model": "models/digits_qat"}}
    pruned = {"name": "pruned", "quantization": "int8", "source": {"saved_model": "models/pruned"}}
    # It may be trained in part only, which the engine sees: the data are there for it.
    assert only(read(manifest(variants=[trained])))["qat"].conversion.calibration.name == "calib"
    assert messages(manifest(variants=[trained | {"calibration": "calib"}])) == []
    assert only(read(manifest(variants=[trained], calibration=None)))["qat"].conversion.calibration is None
    assert only(read(manifest(variants=[pruned])))["pruned"].conversion.calibration.name == "calib"
    (message,) = messages(manifest(variants=[trained, pruned], calibration=None))
    assert message.startswith("int8 needs a calibration dataset")


@pytest.mark.parametrize(("recipe", "calibrated"), [("static", True), ("fitted", True), ("weights", False)])
def test_a_recipe_file_that_needs_examples_needs_calibration(
    manifest: Make, messages: Any, recipe: str, calibrated: bool
) -> None:
    found = messages(manifest(variants=[{"name": "v", "recipe": f"recipes/{recipe}.json"}], calibration=None))
    assert [m.split(";")[0] for m in found] == [f"recipes/{recipe}.json needs a calibration dataset"] * calibrated


def test_a_name_alone_makes_no_source_quantization_aware(read: Read, manifest: Make, messages: Any) -> None:
    scoped = {"name": "scoped", "quantization": "int8", "source": {"saved_model": "models/scoped"}}
    assert only(read(manifest(variants=[scoped])))["scoped"].conversion.calibration.name == "calib"
    (message,) = messages(manifest(variants=[scoped], calibration=None))
    assert message.startswith("int8 needs a calibration dataset")


# --- what may be read


def test_what_could_not_be_hashed_is_told_before_a_run(tmp_path: Path, project: Path, manifest: Make) -> None:
    root = tmp_path / "repo"
    shutil.copytree(project, root, symlinks=True, ignore=shutil.ignore_patterns("pipe.npz"))
    (root / "models/pruned/assets").mkdir()
    os.mkfifo(root / "models/pruned/assets/pipe")
    (root / "models/digits_qat/zero").symlink_to("/dev/zero")
    (root / "data/images/cat/all").symlink_to("/")
    os.mkfifo(root / "recipes/pipe.json")
    images = {"source": "images", "path": "data/images", "class_order": ["cat"], "labels": "label"}
    variants = [
        {"name": "qat", "quantization": "float32", "source": {"saved_model": "models/digits_qat"}},
        {"name": "pruned", "quantization": "float32", "source": {"saved_model": "models/pruned"}},
        {"name": "recipe", "recipe": "recipes/pipe.json"},
    ]
    written = manifest(variants=variants)
    written["datasets"]["images"] = images
    (root / "m.json").write_text(json.dumps(written))
    with pytest.raises(ManifestError) as caught:
        load(str(root / "m.json"))
    told = [problem.message for problem in caught.value.problems]
    assert told == [
        "data/images cannot be read: cat/all leads out of the folder, to /; copy it, or allow its place with "
        "--data-root",
        "models/digits_qat cannot be read: zero leads out of the folder, to /dev/zero; copy it, or allow its place "
        "with --data-root",
        "models/pruned cannot be read: assets/pipe is a device, a pipe or a socket, not a file",
        "recipes/pipe.json is a device or a pipe, where a recipe file (.json) is expected",
    ]
    with pytest.raises(ManifestError, match="zero is a device"):
        load(str(root / "m.json"), data_roots=["/dev"])


@pytest.mark.parametrize("pointer", ["data/evaluation.npz.dvc", "data.dvc"])
def test_data_that_dvc_keeps_is_named_with_the_cure(
    tmp_path: Path, project: Path, manifest: Make, pointer: str
) -> None:
    shutil.copytree(project, tmp_path / "repo", symlinks=True, ignore=shutil.ignore_patterns("pipe.npz"))
    shutil.rmtree(tmp_path / "repo/data")
    (tmp_path / "repo" / pointer).parent.mkdir(exist_ok=True)
    (tmp_path / "repo" / pointer).write_text("outs:\n- md5: 0\n  path: evaluation.npz\n")
    (tmp_path / "repo/m.json").write_text(json.dumps(manifest()))
    with pytest.raises(ManifestError) as caught:
        load(str(tmp_path / "repo/m.json"))
    told = {problem.message for problem in caught.value.problems}
    assert 'no such file: data/evaluation.npz; DVC keeps it: run "dvc pull"' in told


def test_a_data_root_allows_what_lies_under_it(read: Read, manifest: Make, messages: Any, project: Path) -> None:
    outside = str(project.parent / "outside.npz")
    for path in ("../outside.npz", outside, "data/link.npz"):
        written = manifest(datasets={"test": {"source": "npz", "path": path, "inputs": "image", "labels": "label"}})
        assert len(messages(written)) == 1
        (model,) = read(written, data_roots=[str(project.parent)]).models
        assert model.evaluation.path == outside


def test_data_outside_the_repository_is_shown_in_no_picture_unless_that_is_asked_for(
    read: Read, manifest: Make, project: Path
) -> None:
    def pictures(path: str, **more: Any) -> bool:
        source = {"source": "npz", "path": path, "inputs": "image", "labels": "label"}
        written = manifest(datasets={"test": source | more})
        return read(written, data_roots=[str(project.parent)]).models[0].evaluation.pictures

    assert pictures("data/evaluation.npz")
    assert not pictures("data/evaluation.npz", pictures=False)
    assert not pictures("../outside.npz")
    assert not pictures("data/link.npz")
    assert pictures("../outside.npz", pictures=True)


def test_without_git_the_manifests_folder_is_the_root(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    text = (Path(__file__).parent / "good/short.json").read_text()
    (inner / "m.json").write_text(text.replace('"models/', '"../models/'))
    with pytest.raises(ManifestError) as caught:
        load(str(inner / "m.json"))
    assert any("../models/digits.keras leaves the repository" in problem.message for problem in caught.value.problems)


def test_code_runs_only_when_allowed(messages: Any, manifest: Make) -> None:
    written = manifest(metrics=["accuracy", {"python": "mine:cost"}])
    assert messages(written, allow_code=True) == []
    assert messages(written) == ["mine:cost is your own code, which runs only with --allow-code"]


def test_a_lone_wrong_version_is_the_only_problem(problems: Any) -> None:
    assert problems('{"models": 3, "schema_version": 2.5}') == [
        '1:33: "schema_version" is 2.5; this tflite-guard reads the number 1'
    ]
    assert len(problems('{"schema_version": true}')) == 1


def test_a_typo_in_one_model_does_not_hide_a_missing_file_in_another(messages: Any, manifest: Make) -> None:
    written = manifest(metrix=["accuracy"], metrics=None)
    written["models"].append({**manifest()["models"][0], "name": "b", "reference": {"keras": "models/none.keras"}})
    assert messages(written) == [
        'unknown key "metrix"; did you mean "metrics"?',
        "no such file: models/none.keras",
    ]


def test_what_a_rejected_part_would_have_offered_is_not_called_missing(messages: Any, manifest: Make) -> None:
    """One mistake is one problem: no unknown dataset, metric or calibration because of it."""
    broken = manifest(metrics=["accuracy", {"metric": "sqnr", "name": 3}], tolerances={"other": {"min": 3}})
    assert messages(broken) == ['"name" should be a string, not a number']
    broken = manifest(datasets={"calib": {"source": "npz"}, "test": {"source": "npz", "path": 3, "inputs": "image"}})
    assert messages(broken) == [
        '"path" should be a string, not a number',
        '"calib" lacks "inputs", which source "npz" needs',
        '"calib" lacks "path"',
    ]
    assert messages(manifest(calibration=3)) == ['"calibration" should be a string, not a number']
    broken = manifest(defaults={"calibration": 3}, calibration=None)
    assert messages(broken) == ['"calibration" should be a string, not a number']
    unlabelled = {"source": "npz", "path": "data/evaluation.npz", "inputs": "image", "labels": 3}
    assert messages(manifest(datasets={"test": unlabelled})) == [
        '"labels" should be a string or an object, not a number'
    ]


# --- the schema and the code agree


def enumeration(*path: str) -> set[str]:
    found: Any = schema("manifest-v1")["$defs"]
    for step in path:
        found = found[int(step) if step.isdigit() else step]
    return set(found["enum"])


def test_the_schemas_words_are_the_codes() -> None:
    assert enumeration("variants", "items", "anyOf", "0") == set(vocabulary.QUANTIZATIONS)
    assert enumeration("variant", "properties", "quantization") == set(vocabulary.QUANTIZATIONS)
    assert enumeration("metrics", "items", "anyOf", "0") == set(vocabulary.METRICS)
    assert enumeration("metric", "properties", "metric") == set(vocabulary.METRICS)
    assert enumeration("dataset", "properties", "source") == set(get_args(vocabulary.SourceKind))
    assert enumeration("model", "properties", "kernels") == set(get_args(vocabulary.Kernels))
    assert enumeration("calibration_options", "properties", "ranges") == set(get_args(vocabulary.Ranges))
    types = {name for quantization in vocabulary.QUANTIZATIONS.values() for name in quantization.io}
    assert enumeration("variant", "properties", "io") == types
    definitions = schema("manifest-v1")["$defs"]
    assert set(vocabulary.TOLERANCES) == set(definitions["tolerance"]["properties"]) - {"level", "require"}
    kinds = {branch["required"][0] for branch in definitions["reference"]["oneOf"]}
    assert kinds == set(get_args(vocabulary.ReferenceKind)) - {"artifact"}


def objects(found: Any) -> list[dict[str, Any]]:
    """Every part of a schema that lists properties."""
    if isinstance(found, list):
        return [part for child in found for part in objects(child)]
    if not isinstance(found, dict):
        return []
    own = [found] if "additionalProperties" in found and "properties" in found else []
    return own + [part for key, child in found.items() if key != "examples" for part in objects(child)]


def test_every_object_is_closed_and_every_key_is_described() -> None:
    whole = schema("manifest-v1")
    parts = objects(whole)
    assert len(parts) > 10
    for part in parts:
        assert part["additionalProperties"] is False
        for key, found in part["properties"].items():
            target = whole["$defs"][found["$ref"].rpartition("/")[2]] if "$ref" in found else found
            assert len(target["description"]) > 10, key


def test_the_schema_is_valid_draft_2020_12() -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(json.loads(schema_text("manifest-v1")))


def test_the_pages_about_the_manifest_and_the_rules_are_current() -> None:
    script = Path(__file__).parents[2] / "docs" / "generate.py"
    result = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


# --- quick, light, and nothing but its own error


def test_loading_is_light(project: Path) -> None:
    path = project / "quick.json"
    path.write_bytes((Path(__file__).parent / "good/everything.json").read_bytes())
    code = (
        "import sys\n"
        "from tflite_guard.manifest import load\n"
        "load(sys.argv[1])\n"
        "print(*{'numpy', 'tensorflow', 'keras', 'ai_edge_litert', 'scipy', 'PIL'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    path.unlink()
    assert run.stdout.split() == []


WORDS = st.sampled_from(
    [
        "int8",
        "accuracy",
        "test",
        "calib",
        "npz",
        "image",
        "label",
        "models/digits.keras",
        "",
        "x:y",
        "a\0",
        "s3://a/b",
        "/",
    ]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_json_in_any_place_gives_a_manifest_or_its_problems(data: Any, problems: Any) -> None:
    """Replace one to three values of a full manifest with anything: never another error."""
    written = json.loads((Path(__file__).parent / "good/defaults.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = written
        key: Any = data.draw(st.sampled_from(sorted(place)))
        while isinstance(place[key], dict | list) and place[key] and data.draw(st.integers(0, 3)):
            place = place[key]
            key = data.draw(
                st.sampled_from(sorted(place)) if isinstance(place, dict) else st.integers(0, len(place) - 1)
            )
        place[key] = data.draw(ANYTHING)
    for problem in problems(written, allow_code=data.draw(st.booleans())):
        assert problem.split(": ", 1)[1]


def test_problems_are_in_the_order_of_the_file_without_repeats(read: Read) -> None:
    text = (Path(__file__).parent / "bad/names.json").read_text()
    with pytest.raises(ManifestError) as caught:
        read(text)
    places = [(problem.line, problem.column) for problem in caught.value.problems]
    assert places == sorted(places)
    assert len(set(caught.value.problems)) == len(places)
    assert caught.value.exit_code == 2


def test_a_path_that_no_file_can_have_is_refused_before_it_is_looked_for(problems: Any, manifest: Make) -> None:
    written = manifest(reference={"keras": "a/" * 50_000})
    assert [found.split(": ", 1)[1] for found in problems(written)] == ['"keras" has 100000 characters, more than 4096']
    (found,) = problems(manifest(variants=[{"name": "v", "tflite": "é/" * 2_000}]))
    assert found.split(": ", 1)[1] == "this path has 6,000 bytes, more than 4,096"


def test_every_path_of_the_schema_is_limited() -> None:
    paths = {"path", "labels_file", "keras", "saved_model", "tflite", "outputs", "recipe", "observed_outputs"}
    definitions = schema("manifest-v1")["$defs"]
    limits = [
        (name, found.get("maxLength"))
        for part in ("dataset", "reference", "source", "variant")
        for name, found in definitions[part]["properties"].items()
        if name in paths
    ]
    assert len(limits) == 12
    assert {limit for _, limit in limits} == {4096}


def test_a_number_that_no_double_holds_is_told_at_its_place(problems: Any, manifest: Make) -> None:
    text = json.dumps(manifest(tolerances={"size_bytes": {"max": 10**309}}), indent=1)
    (found,) = problems(text)
    assert found.endswith("… is too large for a number")
    assert '"max": 1000' in text.split("\n")[int(found.split(":")[0]) - 1]
    assert problems(manifest(tolerances={"size_bytes": {"max": 10**308}})) == []


def test_an_arena_is_of_variants_on_tensorflow_lite_micro(problems: Any, read: Read, manifest: Make) -> None:
    on_micro = {"name": "mcu", "quantization": "int8", "kernels": "micro"}
    limited = {"name": "phone", "quantization": "int8", "tolerances": {"arena_bytes": {"max": 9}}}
    settings: dict[str, Any] = {"metrics": ["accuracy", "arena_bytes"], "tolerances": {"arena_bytes": {"max": 5000}}}
    phone, mcu = read(manifest(variants=["int8", on_micro], **settings)).models[0].variants
    assert (list(phone.judgement.tolerances), list(mcu.judgement.tolerances)) == ([], ["arena_bytes"])
    (found,) = problems(manifest(variants=["int8"], **settings))
    assert 'no variant of model "digits" runs on it; set "kernels": "micro" on one' in found
    assert problems(manifest(variants=["int8"], defaults={"metrics": ["accuracy", "arena_bytes"]}, metrics=None)) == []
    (found,) = problems(manifest(variants=[limited, on_micro], **settings))
    assert 'set "kernels": "micro" on variant "phone", or remove the tolerance' in found


def test_a_file_is_looked_at_once_however_often_it_is_named(
    read: Read, manifest: Make, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[tuple[str, str]] = []
    for name in ("sniff", "sha256_of", "holds", "zip_members"):
        told = getattr(files, name)

        def counted(path: str, *more: Any, name: str = name, told: Any = told) -> Any:
            looked.append((name, path))
            return told(path, *more)

        monkeypatch.setattr(files, name, counted)
    pin = hashlib.sha256((project / "app/digits_int8.tflite").read_bytes()).hexdigest()
    sources = [{"saved_model": "models/pruned"}, {"saved_model": "models/digits_qat"}]
    variants: list[Any] = [
        {"name": f"t{index}", "tflite": "app/digits_int8.tflite", "sha256": pin} for index in range(50)
    ]
    variants += [{"name": f"s{index}", "quantization": "int8", "source": sources[index % 2]} for index in range(50)]
    datasets = {f"d{index}": {"source": "npz", "path": "data/evaluation.npz", "inputs": "image"} for index in range(50)}
    read(manifest(variants=variants, datasets=datasets))
    assert ("sha256_of", str(project / "app/digits_int8.tflite")) in looked
    assert max(looked.count(one) for one in looked) <= 3  # an operator each in `holds`


def test_what_defaults_repeat_for_every_model_is_limited(problems: Any, manifest: Make) -> None:
    variants = [{"name": f"v{index}", "quantization": "float32"} for index in range(1000)]
    metrics = [{"name": f"m{index}", "metric": "accuracy"} for index in range(300)]
    written = manifest(defaults={"variants": variants, "metrics": metrics}, variants=None, metrics=None)
    written["models"] = [{**written["models"][0], "name": f"m{index}"} for index in range(300)]
    (found,) = problems(written)
    assert "the models have 90,300,000 metrics and tolerances of variants, more than 200,000" in found


def test_looking_for_near_names_ends_before_the_patience_does(
    messages: Any, manifest: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = 0
    ratio = difflib.SequenceMatcher.ratio

    def counted(self: Any) -> float:
        nonlocal compared
        compared += len(self.a) * len(self.b)
        return ratio(self)

    monkeypatch.setattr(difflib.SequenceMatcher, "ratio", counted)
    monkeypatch.setattr("tflite_guard.errors.MOST_TOLD", 300)
    dataset = manifest()["datasets"]["test"]
    written = manifest(datasets={"ab" * 40 + str(index): dataset for index in range(300)})
    written["models"] = [
        {**written["models"][0], "name": f"m{index}", "evaluation": "ba" * 40 + str(index)} for index in range(300)
    ]
    found = messages(written)
    assert len(found) == 300
    assert "; did you mean" in found[0]
    assert "; known: " in found[-1]
    assert 0 < compared < 4_000_000, "all 90,000 pairs would be 1,200 million"
    assert "; did you mean" in messages(manifest(metrix=["accuracy"]))[0], "every manifest has its own patience"


@pytest.mark.parametrize(("mistakes", "rest"), [(100, None), (400, "and 300 more"), (20_000, "and at least 900 more")])
def test_of_many_mistakes_the_first_are_told_and_the_rest_is_counted(
    messages: Any, manifest: Make, monkeypatch: pytest.MonkeyPatch, mistakes: int, rest: str | None
) -> None:
    worded = 0

    def counted(*of: Any) -> Any:
        nonlocal worded
        worded += 1
        return in_words(*of)

    monkeypatch.setattr("tflite_guard.manifest.loading.in_words", counted)
    found = messages(manifest(variants=[{"name": f"v{index}", "quantisation": "int8"} for index in range(mistakes)]))
    assert len(found) == 100 + (rest is not None)
    assert rest is None or rest in found[-1]
    assert worded <= 2000
