from __future__ import annotations

from tflite_guard.manifest.types import DatasetSpec, ModelSpec, ReferenceSpec, VariantSpec
from tflite_guard.run.steps import paths_of


def test_a_recipes_name_is_no_path() -> None:
    recipes = ("static_wi8_ai8", "/repository/recipe.json")
    model = ModelSpec(
        "m",
        ReferenceSpec("tflite", "/repository/m.tflite"),
        DatasetSpec("d", "npz", "/repository/d.npz", "x"),
        (),
        tuple(VariantSpec(recipe, recipe=recipe) for recipe in recipes),
    )
    named = {path for path in paths_of(model, False) if path is not None}
    assert named == {"/repository/m.tflite", "/repository/d.npz", "/repository/recipe.json"}
