"""Two validators hold the same schemas: a fast one that says whether, and a slow one that says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.fuzz.mutation import jumbled
from tests.sample import full
from tflite_guard.errors import ManifestError
from tflite_guard.manifest import jsontext
from tflite_guard.manifest.schema import schema, validator
from tflite_guard.reports import FORMATS

MANIFESTS = [json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "good").glob("*.json"))]


def reports() -> list[dict[str, Any]]:
    """A report of each variant, which the slow validator is done with sooner."""
    whole = json.loads(FORMATS["json"].text(full()))
    models = [{**model, "variants": [variant]} for model in whole["models"] for variant in model["variants"]]
    return [{**whole, "models": [model]} for model in models]


def in_manifest(content: bytes) -> Any:
    return jsontext.parse(content, "m.json").value


CASES: dict[str, tuple[list[dict[str, Any]], Callable[[bytes], Any]]] = {
    "manifest-v1": (MANIFESTS, in_manifest),
    "report-v1": (reports(), msgspec.json.decode),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_valid_by_one_is_valid_by_the_other(name: str) -> None:
    values, read = CASES[name]
    slow = Draft202012Validator(schema(name))
    assert all(validator(name).is_valid(value) and slow.is_valid(value) for value in values)

    @given(seed=st.integers(0, 2**32))
    @settings(max_examples=60, deadline=None, database=None)
    def agree(seed: int) -> None:
        rng = Random(seed)
        try:
            value = read(jumbled(rng, rng.choice(values)))
            found = validator(name).is_valid(value)
        except (ManifestError, ValueError, RecursionError):  # is not read, or looked at by the slow one alone
            assume(False)
        assert found == slow.is_valid(value)

    agree()


@pytest.mark.parametrize("name", CASES)
def test_nothing_in_a_schema_leads_back_to_itself(name: str) -> None:
    """A value nested without end, which the fast validator would follow until its stack is used up, is not followed."""
    definitions = schema(name)["$defs"]
    known: set[str] = set()

    def follow(part: Any, above: tuple[str, ...]) -> None:
        if isinstance(part, dict) and "$ref" in part:
            target = part["$ref"].removeprefix("#/$defs/")
            assert target not in above, f"{' → '.join(above)} → {target}"
            if target not in known:
                follow(definitions[target], (*above, target))
                known.add(target)
        if isinstance(part, dict | list):
            for key, inner in part.items() if isinstance(part, dict) else enumerate(part):
                if key != "$defs":
                    follow(inner, above)

    follow(schema(name), ())
