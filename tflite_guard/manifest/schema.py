"""The JSON Schemas, inside an installed package or beside it in a checkout, and what is valid by them."""

from __future__ import annotations

import importlib.resources
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator


def schema_text(name: str) -> str:
    """The text of a schema, e.g. `manifest-v1`. Raises FileNotFoundError for a name that does not exist."""
    file = f"{name}.schema.json"
    installed = importlib.resources.files("tflite_guard") / "schemas" / file
    if installed.is_file():
        return installed.read_text(encoding="utf-8")
    return (Path(__file__).parents[2] / "schemas" / file).read_text(encoding="utf-8")


@cache
def schema(name: str) -> dict[str, Any]:
    """A schema as JSON, read once. Not to be changed by whoever gets it."""
    parsed: dict[str, Any] = json.loads(schema_text(name))
    return parsed


@cache
def validator(name: str) -> Draft202012Validator:
    """What tells in no time whether JSON is valid by a schema; it raises ValueError where it is not."""
    from jsonschema_rs import Draft202012Validator

    return Draft202012Validator(schema(name))


def check_numbers(value: Any) -> None:
    """Raise OverflowError for a whole number that no double holds; decoders refuse such a fraction already."""
    if isinstance(value, int):
        float(value)
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            check_numbers(inner)
