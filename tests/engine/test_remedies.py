"""A remedy's patch makes of the manifest what was tried: what was verified is what the user gets."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tflite_guard
from tests.conftest import EXAMPLES
from tflite_guard.diagnosis.lab import Option
from tflite_guard.engine import tasks
from tflite_guard.manifest import load
from tflite_guard.manifest.editing import merged
from tflite_guard.manifest.types import VariantSpec
from tflite_guard.results import Remedy

MEASURED = {"calibration_options": {"ranges": "measured"}}
KEPT = {"keep_float": ["scores"]}
INT16 = {"quantization": "int16x8"}
ANEW = {"tflite": None, "quantization": "int8", "io": "int8"}
WEIGHTS = {"quantization": "dynamic_range"}
RULES = b"[{}]"
STATIC, STATIC16, DYNAMIC = ({"recipe": one} for one in ("static_wi8_ai8", "static_wi8_ai16", "dynamic_wi8_afp32"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remedies") / "digits"
    shutil.copytree(EXAMPLES / "digits", folder)
    (folder / "rules.json").write_bytes(RULES)
    return folder


def loaded(folder: Path, variant: dict[str, Any]) -> VariantSpec:
    manifest = json.loads((folder / "tflite-guard.json").read_text())
    manifest["models"][0]["variants"] = [variant]
    path = folder / "remedy.json"
    path.write_text(json.dumps(manifest))
    return load(str(path)).models[0].variants[0]


OWN: tuple[dict[str, Any], ...] = (
    {"quantization": "int8"},
    {"quantization": "int8", "io": "int8"},
    {"quantization": "int8", "keep_float": ["first"]},
    {"quantization": "int8", "calibration_options": {"samples": 20}},
    {"tflite": "app/digits_int8.tflite"},
    STATIC,
    {**STATIC, "keep_float": ["first"]},
    {**STATIC, "calibration_options": {"samples": 20}},
    {"recipe": "rules.json", "sha256": hashlib.sha256(RULES).hexdigest()},
)
PATCHES = (MEASURED, KEPT, INT16, WEIGHTS, ANEW, STATIC16, DYNAMIC)


def sayable(own: dict[str, Any], patch: dict[str, Any]) -> bool:
    """A file is not calibrated, and a recipe is changed to another recipe alone."""
    if "tflite" in own and "quantization" not in patch:
        return False
    return "recipe" not in patch if "recipe" not in own else "quantization" not in patch


COMBINATIONS = [(own, patch) for own in OWN for patch in PATCHES if sayable(own, patch)]


@pytest.mark.parametrize(("own", "patch"), COMBINATIONS, ids=str)
def test_the_manifest_then_says_what_was_tried(folder: Path, own: dict[str, Any], patch: dict[str, Any]) -> None:
    variant = {"name": "one", **own}
    before = loaded(folder, variant)
    tried = tasks._patched(before.conversion, Option("", patch), load(str(folder / "remedy.json")).models[0].evaluation)
    remedy = tasks._whole(Remedy("", patch, True, {}, None), before.conversion)
    now = loaded(folder, merged(variant, remedy.patch)).conversion
    assert now.tflite is None
    assert (now.quantization, now.io, now.keep_float) == (tried.quantization, tried.io, tried.keep_float)
    assert now.recipe == tried.recipe
    if now.quantization == "int8":
        assert now.calibration_options == tried.calibration_options


def test_a_variant_of_a_recipe_with_integer_inputs_is_diagnosed(folder: Path, tmp_path: Path) -> None:
    manifest = json.loads((EXAMPLES / "digits" / "tflite-guard.json").read_text())
    model = manifest["models"][0]
    model["tolerances"] = {"sqnr": {"min": 60}}
    model["variants"] = [{"name": "one", **STATIC}]
    path = folder / "recipe.json"
    path.write_text(json.dumps(manifest))
    report = tflite_guard.check(path, baseline="off", diagnose="auto", cache_dir=tmp_path)
    diagnosis = report.models[0].variants[0].diagnosis
    assert diagnosis is not None
    assert diagnosis.tried
    assert any(one.cumulative is not None for one in diagnosis.tensors)
