"""Renderings of one fixed report against files that a person has read; hostile text in all of them."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_guard import results
from tflite_guard.reports import FILES, FORMATS
from tflite_guard.reports.json import read
from tflite_guard.reports.wording import number, plain, signed, size
from tflite_guard.results import (
    Artifact,
    ErrorInfo,
    Finding,
    ManifestInfo,
    MetricResult,
    ModelResult,
    Observed,
    ReferenceResult,
    Report,
    Tool,
    VariantResult,
    Verdict,
)

GOLDEN = Path(__file__).parent / "golden"
SCHEMA = json.loads((Path(__file__).parents[1] / "schemas/report-v1.schema.json").read_text())


def metric(name: str, value: float | None, verdict: Verdict, **settings: Any) -> MetricResult:
    defaults: dict[str, Any] = {
        "name": name,
        "metric": name,
        "output": None,
        "reference": None,
        "value": value,
        "drop": None,
        "confidence_interval": None,
        "interval_method": None,
        "interval_note": None,
        "examples": 1000,
        "groups": None,
        "ties": 0,
        "identical": False,
        "higher_is_better": True,
        "tolerance": None,
        "verdict": verdict,
        "conclusive": None,
    }
    return MetricResult(**(defaults | settings))


def accuracy(value: float, interval: tuple[float, float], verdict: Verdict, **settings: Any) -> MetricResult:
    defaults: dict[str, Any] = {
        "reference": 0.98,
        "drop": round(0.98 - value, 6),
        "confidence_interval": interval,
        "interval_method": "newcombe-paired",
        "tolerance": {"max_drop": 0.02, "line": 12},
        "conclusive": True,
        "failed_limit": None if verdict is Verdict.PASS else "max_drop",
    }
    return metric("accuracy", value, verdict, **(defaults | settings))


def variant(name: str, verdict: Verdict, *metrics: MetricResult, **settings: Any) -> VariantResult:
    defaults: dict[str, Any] = {
        "name": name,
        "quantization": name,
        "verdict": verdict,
        "cached": False,
        "artifact": Artifact(24_000, "0" * 64, 12),
        "metrics": metrics,
        "findings": (),
        "remedies": (),
        "error": None,
        "seconds": {"convert": 1.2, "evaluate": 0.6},
        "line": 20,
    }
    return VariantResult(**(defaults | settings))


def fixed() -> Report:
    whole = variant(
        "float32",
        Verdict.PASS,
        accuracy(0.98, (-0.0038, 0.0038), Verdict.PASS),
        metric("sqnr", None, Verdict.PASS, identical=True, tolerance={"min": 20.0, "line": 13}),
        artifact=Artifact(84_000, "1" * 64, 12),
        cached=True,
        seconds={},
    )
    failed = variant(
        "int8",
        Verdict.FAIL,
        accuracy(0.91, (0.05, 0.09), Verdict.FAIL),
        metric(
            "sqnr",
            11.375,
            Verdict.WARN,
            confidence_interval=(10.9, 11.9),
            interval_method="bootstrap",
            conclusive=True,
            failed_limit="min",
            tolerance={"min": 20.0, "level": "warning", "line": 13},
        ),
        metric("size_bytes", 24000.0, Verdict.PASS, higher_is_better=False, tolerance={"max": 30000.0, "line": 14}),
        findings=(Finding("partially-quantized", "note", "1 of 12 operators compute in float: SIN (wave)"),),
        observed=Observed(
            "phone.npz",
            (accuracy(0.90, (0.06, 0.10), Verdict.FAIL),),
            {"default": 3.0, "reference": 0.0},
            1.0,
            Verdict.FAIL,
            Verdict.FAIL,
        ),
    )
    small = variant(
        "int16",
        Verdict.PASS,
        accuracy(0.975, (-0.004, 0.024), Verdict.PASS, conclusive=False, baseline=0.979, regression=0.004),
        findings=(Finding("underpowered-evaluation", "warning", "accuracy: 1,000 examples are too few"),),
    )
    proof = variant(
        "proof",
        Verdict.FAIL,
        accuracy(
            0.97,
            (0.002, 0.031),
            Verdict.FAIL,
            conclusive=False,
            tolerance={"max_drop": 0.02, "require": "proven_pass", "line": 15},
        ),
    )
    worse = variant(
        "worse",
        Verdict.FAIL,
        accuracy(
            0.97,
            (0.0, 0.02),
            Verdict.FAIL,
            baseline=0.985,
            regression=0.015,
            failed_limit="max_regression",
            tolerance={"max_regression": 0.01, "line": 16},
        ),
    )
    lost = variant(
        "lost",
        Verdict.ERROR,
        artifact=None,
        error=ErrorInfo("conversion", "keep_float: no_such_layer matches nothing"),
        seconds={},
    )
    digits = ModelResult(
        "digits",
        ManifestInfo("tflite-guard.json", "2" * 64),
        ReferenceResult("keras", "models/digits.keras", {"accuracy": 0.98}),
        (whole, failed, small, proof, worse, lost),
        Verdict.ERROR,
        line=7,
    )
    broken = ModelResult(
        "broken",
        ManifestInfo("tflite-guard.json", "2" * 64),
        ReferenceResult("keras", "models/broken.keras", {}),
        (
            variant(
                "float32",
                Verdict.ERROR,
                artifact=None,
                seconds={},
                error=ErrorInfo("model-file", "models/broken.keras: is cut off"),
            ),
        ),
        Verdict.ERROR,
        error=ErrorInfo("model-file", "models/broken.keras: is cut off"),
        line=30,
    )
    healthy = ModelResult(
        "healthy",
        ManifestInfo("tflite-guard.json", "2" * 64),
        ReferenceResult("saved_model", "models/healthy", {"accuracy": 0.98}),
        (variant("int8", Verdict.PASS, accuracy(0.979, (-0.002, 0.004), Verdict.PASS)),),
        Verdict.PASS,
        float32=replace(whole, line=0),
        line=40,
    )
    return Report(
        1,
        Tool("tflite-guard", "1.2.3"),
        {"python": "3.11.7", "tensorflow": "2.21.0"},
        Verdict.ERROR,
        (digits, broken, healthy),
        ("model 'gone' is in the baseline but was not checked",),
    )


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


HOSTILE = st.one_of(
    st.text(max_size=300),
    st.sampled_from(
        [
            "\x1b[31mred\x1b[0m",
            "a\nb\rc",
            "\u202egpj.exe",
            "::error::x",
            "\x9b2J",
            "\u2028",
            "\ud800",
            "x" * 100_000,
            "[bold]x[/bold]",
        ]
    ),
)


@given(HOSTILE)
def test_text_from_files_cannot_move_the_cursor_or_break_a_line(text: str) -> None:
    shown = plain(text)
    assert len(shown) <= 500
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in shown)


@given(HOSTILE)
def test_hostile_names_change_neither_the_lines_nor_the_rest_of_a_report(text: str) -> None:
    report = fixed()
    model = replace(report.models[2], name=text, notes=(text,))
    rendered = FORMATS["text"](replace(report, models=(model,), notes=(text,)))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", rendered)
    assert rendered.rstrip().splitlines()[-1].endswith("within tolerance")


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
    from tflite_guard.errors import UsageError

    raw = json.loads(FORMATS["json"](fixed()))
    for edit in ({"schema_version": 2}, {"verdict": "good"}, {"models": [{}]}, {"extra": 1}):
        path = tmp_path / "report.json"
        path.write_text(json.dumps(raw | edit))
        with pytest.raises(UsageError, match=r"report\.json: is not a report"):
            read(str(path))
