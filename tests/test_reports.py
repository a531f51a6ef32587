"""Renderings of one fixed report against files that a person has read; hostile text in all of them."""

from __future__ import annotations

import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sample import HOSTILE, fixed, named
from tflite_guard import results
from tflite_guard.errors import UsageError
from tflite_guard.plain import plain
from tflite_guard.reports import FILES, FORMATS
from tflite_guard.reports.json import read
from tflite_guard.reports.wording import number, signed, size
from tflite_guard.results import Verdict

GOLDEN = Path(__file__).parent / "golden"
SCHEMA = json.loads((Path(__file__).parents[1] / "schemas/report-v1.schema.json").read_text())


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_rendering_is_the_one_that_was_read(name: str) -> None:
    path = GOLDEN / FILES[name]
    rendered = FORMATS[name](fixed())
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(rendered)
    assert rendered == path.read_text()


def test_the_json_is_valid_and_reads_back_the_same() -> None:
    jsonschema.validate(json.loads(FORMATS["json"](fixed())), SCHEMA, cls=jsonschema.Draft202012Validator)
    assert read(str(GOLDEN / "report.json")) == fixed()


def test_the_schema_has_exactly_the_fields_of_the_types() -> None:
    def compare(kind: Any, schema: Any) -> None:
        schema = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
        schema = next((s for s in schema.get("anyOf", ()) if s.get("type") != "null"), schema)
        if "$ref" in schema:
            return compare(kind, schema)
        if get_origin(kind) is tuple:
            return compare(get_args(kind)[0], schema["items"])
        if get_origin(kind) is UnionType:
            (kind,) = [one for one in get_args(kind) if one is not NoneType][:1]
            return compare(kind, schema)
        if is_dataclass(kind):
            hints = get_type_hints(kind)
            assert list(schema["properties"]) == [field.name for field in fields(kind)], kind
            assert schema["required"] == list(schema["properties"])
            for name, hint in hints.items():
                compare(hint, schema["properties"][name])
        return None

    compare(results.Report, SCHEMA)
    assert SCHEMA["$defs"]["verdict"]["enum"] == [verdict.value for verdict in Verdict]


@given(HOSTILE)
def test_text_from_files_cannot_move_the_cursor_or_break_a_line(text: str) -> None:
    shown = plain(text)
    assert len(shown) <= 500
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in shown)


@given(HOSTILE)
def test_hostile_names_change_neither_the_lines_nor_the_rest_of_a_report(text: str) -> None:
    rendered = FORMATS["text"](named(text))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", rendered)
    assert rendered.rstrip().splitlines()[-2].startswith("✗ error  3 models, 8 variants:")
    assert not any("##[" in line or line.lstrip().startswith("::") for line in rendered.splitlines())


@pytest.mark.parametrize(
    ("value", "name", "shown"),
    [
        (0.98, "accuracy", "0.9800"),
        (0.0, "mae", "0"),
        (None, "accuracy", "–"),
        (38.2149, "sqnr", "38.21 dB"),
        (1.5e-7, "mae", "1.5e-07"),
        (23592, "size_bytes", "23.6 kB"),
        (123456.0, "rmse", "1.23e+05"),
        (-0.25, "r2", "-0.2500"),
    ],
)
def test_figures(value: float | None, name: str, shown: str) -> None:
    assert number(value, name) == shown


def test_signs_and_sizes() -> None:
    assert [signed(0.01), signed(-0.01), signed(0.0), signed(None)] == ["+0.0100", "−0.0100", "0", "–"]
    assert [size(999), size(1000), size(999_949), size(24_500_000), size(None)] == [
        "999 B",
        "1.0 kB",
        "999.9 kB",
        "24.5 MB",
        "–",
    ]


def test_a_report_that_is_not_one_is_refused(tmp_path: Path) -> None:
    raw = json.loads(FORMATS["json"](fixed()))
    for edit in ({"schema_version": 2}, {"verdict": "good"}, {"models": [{}]}, {"extra": 1}):
        path = tmp_path / "report.json"
        path.write_text(json.dumps(raw | edit))
        with pytest.raises(UsageError, match=r"report\.json: is not a report"):
            read(str(path))


PLACES = st.integers(0, 10**6)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from([10**400, -1, 2**63]) | HOSTILE,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(HOSTILE, inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(PLACES, ANYTHING), min_size=1, max_size=3))
def test_whatever_is_read_as_a_report_can_be_rendered(edits: list[tuple[int, Any]]) -> None:
    raw = json.loads((GOLDEN / "report.json").read_text())
    for place, value in edits:
        holders = list(_holders(raw))
        holder, key = holders[place % len(holders)]
        holder[key] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        path.write_bytes(json.dumps(raw).encode("utf-8", "replace"))
        try:
            report = read(str(path))
        except UsageError:
            return
    for name in FORMATS:
        FORMATS[name](report)


def _holders(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value, as the container and the key in it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _holders(inner)
