"""What is recorded, how it is read back, and what is said when the two sides differ."""

from __future__ import annotations

import json
import math
import os
import stat

import pytest
from msgspec.structs import replace

from tflite_guard.errors import GuardError, UsageError
from tflite_guard.judgement import baseline
from tflite_guard.judgement.verdict import judge
from tflite_guard.results import (
    Artifact,
    ErrorInfo,
    ManifestInfo,
    Measurement,
    MetricResult,
    ModelResult,
    ReferenceResult,
    Report,
    Tool,
    VariantResult,
    Verdict,
)


def metric(name: str, value: float | None) -> MetricResult:
    return judge(Measurement(name, "sqnr", None, value, True, identical=value is None), None, None)[0]


def variant(name: str, metrics: dict[str, float | None], error: ErrorInfo | None = None) -> VariantResult:
    return VariantResult(
        name=name,
        quantization="int8",
        verdict=Verdict.PASS,
        cached=False,
        artifact=None if error else Artifact(12_345, "0" * 64),
        metrics=tuple(metric(*item) for item in metrics.items()),
        findings=(),
        remedies=(),
        error=error,
        seconds={},
    )


def report(**models: list[VariantResult]) -> Report:
    results = [
        ModelResult(
            name=name,
            manifest=ManifestInfo("tflite-guard.json", "tflite-guard.json", "0" * 64),
            reference=ReferenceResult("keras", "m.keras", {}),
            variants=tuple(variants),
        )
        for name, variants in models.items()
    ]
    return Report(1, Tool("tflite-guard", "1.2.3"), {}, Verdict.PASS, tuple(results))


FOUND = report(digits=[variant("int8", {"accuracy": 0.97, "sqnr": None}), variant("float16", {"accuracy": 0.98})])


def test_a_baseline_comes_back_as_it_was_written(tmp_path):
    path = str(tmp_path / "b.json")
    baseline.write(path, baseline.from_report(FOUND))
    assert baseline.read(path) == {
        "schema_version": 1,
        "tool": {"name": "tflite-guard", "version": "1.2.3"},
        "environment": {},
        "models": {
            "digits": {
                "variants": {
                    "int8": {"size_bytes": 12_345, "metrics": {"accuracy": 0.97, "sqnr": "identical"}},
                    "float16": {"size_bytes": 12_345, "metrics": {"accuracy": 0.98}},
                }
            }
        },
    }


def test_a_baseline_is_easy_to_review(tmp_path):
    path = tmp_path / "b.json"
    baseline.write(str(path), baseline.from_report(FOUND))
    text = path.read_text()
    assert '            "accuracy": 0.97,\n' in text
    assert text.index('"float16"') < text.index('"int8"')
    assert text.endswith("}\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["b.json"]


def test_values_are_looked_up_by_model_variant_and_metric():
    recorded = baseline.from_report(FOUND)
    assert baseline.value(recorded, "digits", "int8", "accuracy") == 0.97
    assert baseline.value(recorded, "digits", "int8", "size_bytes") == 12_345
    assert baseline.value(recorded, "digits", "int8", "sqnr") == math.inf, "identical to the reference's outputs"
    assert baseline.value(recorded, "other", "int8", "accuracy") is None
    assert baseline.value(None, "digits", "int8", "accuracy") is None


def test_what_failed_to_run_is_not_recorded():
    broken = report(digits=[variant("int8", {}, ErrorInfo("conversion", "no kernel")), variant("float16", {})])
    assert list(baseline.from_report(broken)["models"]["digits"]["variants"]) == ["float16"]


def test_two_models_of_one_name_are_refused():
    twice = report(digits=[variant("int8", {})])
    twice = Report(1, twice.tool, {}, Verdict.PASS, twice.models * 2)
    with pytest.raises(UsageError, match="two models are named 'digits'"):
        baseline.from_report(twice)


def test_the_same_results_have_nothing_to_say():
    assert baseline.compare(FOUND, baseline.from_report(FOUND)) == ()


def test_whatever_only_one_side_has_is_said():
    recorded = baseline.from_report(
        report(digits=[variant("int8", {"accuracy": 0.9, "r2": 0.5}), variant("old", {})], gone=[variant("int8", {})])
    )
    now = report(digits=[variant("int8", {"accuracy": 0.9, "f1": 0.8}), variant("new", {})], added=[])
    assert baseline.compare(now, recorded) == (
        "metric 'f1' of variant 'int8' of model 'digits' is not in the baseline",
        "metric 'r2' of variant 'int8' of model 'digits' is in the baseline but was not measured",
        "variant 'new' of model 'digits' is not in the baseline",
        "variant 'old' of model 'digits' is in the baseline but was not checked",
        "model 'added' is not in the baseline",
        "model 'gone' is in the baseline but was not checked",
    )


def test_a_variant_with_an_error_is_not_called_missing():
    broken = report(
        digits=[variant("int8", {}, ErrorInfo("conversion", "no kernel")), variant("float16", {"accuracy": 1})]
    )
    assert baseline.compare(broken, baseline.from_report(FOUND)) == ()


def test_baselines_lie_beside_their_manifests(tmp_path):
    manifest = str(tmp_path / "tflite-guard.json")
    assert baseline.path_for(manifest) == str(tmp_path / "tflite-guard.baseline.json")
    assert baseline.beside([manifest]) == {}
    baseline.write(baseline.path_for(manifest), baseline.from_report(FOUND))
    assert baseline.beside([manifest]) == {manifest: baseline.from_report(FOUND)}


def test_a_baseline_is_described_in_lines(tmp_path):
    path = str(tmp_path / "b.json")
    baseline.write(path, baseline.from_report(FOUND))
    assert baseline.describe(path).splitlines() == [
        path,
        "  digits / float16: 12,345 bytes, accuracy 0.98",
        "  digits / int8: 12,345 bytes, accuracy 0.97, sqnr identical",
    ]


THEN = {
    "ai_edge_litert": "2.2.0",
    "processor": "avx2",
    "tensorflow": "2.20.0",
    "tflite_micro": None,
    "python": "3.11.1",
}
NOW = {**THEN, "ai_edge_litert": "2.3.0", "processor": "avx512_vnni", "tflite_micro": "0.9", "python": "3.12.0"}


def test_what_the_baseline_was_recorded_with_is_compared_with_what_ran():
    recorded = baseline.from_report(replace(FOUND, environment=THEN))
    assert recorded["environment"] == {"ai_edge_litert": "2.2.0", "processor": "avx2", "tensorflow": "2.20.0"}
    assert baseline.other_environment(THEN, recorded) is None
    assert baseline.other_environment(NOW, recorded) == (
        "the baseline was recorded with ai-edge-litert 2.2.0 and avx2, this ran with ai-edge-litert 2.3.0 and "
        "avx512_vnni: numbers move between them without a change of the model"
    )


def test_a_baseline_that_does_not_tell_its_environment_says_nothing_of_it():
    assert baseline.other_environment(NOW, {"schema_version": 1, "models": {}}) is None


def test_a_description_tells_what_a_baseline_was_recorded_with(tmp_path):
    path = str(tmp_path / "b.json")
    baseline.write(path, baseline.from_report(replace(FOUND, environment=THEN)))
    assert (
        baseline.describe(path).splitlines()[1] == "  recorded with tensorflow 2.20.0 and ai-edge-litert 2.2.0 and avx2"
    )


def test_a_metric_that_became_identical_is_new_and_one_in_error_is_not():
    recorded = baseline.from_report(report(digits=[variant("int8", {"accuracy": 0.9})]))
    now = report(digits=[variant("int8", {"accuracy": 0.9, "sqnr": None})])
    assert baseline.compare(now, recorded) == (
        "metric 'sqnr' of variant 'int8' of model 'digits' is not in the baseline",
    )
    failed = judge(Measurement("sqnr", "sqnr", None, None, True, identical=True, error="broken"), None, None)[0]
    broken = replace(now.models[0].variants[0], metrics=(failed,))
    assert baseline.from_report(report(digits=[broken]))["models"]["digits"]["variants"]["int8"]["metrics"] == {}


def test_a_baseline_that_never_ends_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "b.json")
    with pytest.raises(UsageError, match="is a device or a pipe"):
        baseline.read(str(tmp_path / "b.json"))


def test_a_baseline_that_is_a_link_out_of_the_repository_is_neither_read_nor_written(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "repo"
    for folder in (outside, inside / ".git"):
        folder.mkdir(parents=True)
    secret = outside / "secret.json"
    baseline.write(str(secret), baseline.from_report(FOUND))
    manifest, link = str(inside / "tflite-guard.json"), inside / "tflite-guard.baseline.json"
    link.symlink_to(secret)
    for use in (
        lambda: baseline.beside([manifest]),
        lambda: baseline.describe(str(link)),
        lambda: baseline.write(str(link), {}),
    ):
        with pytest.raises(UsageError, match=f"baseline.json: leads out of its repository, to {secret}; put .*itself"):
            use()
    assert baseline.beside([manifest], [str(outside)]) == {manifest: baseline.from_report(FOUND)}
    assert baseline.describe(str(link), [str(outside)]).startswith(str(link))
    link.unlink()
    (inside / "kept.json").write_text(secret.read_text())
    link.symlink_to("kept.json")
    assert baseline.beside([manifest]) == {manifest: baseline.from_report(FOUND)}


def with_variant(recorded) -> str:
    return json.dumps({"schema_version": 1, "models": {"m": {"variants": {"v": recorded}}}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[]", "is not a baseline of schema_version 1"),
        ('{"schema_version": 2}', r"schema_version 1 \(it has 2\)"),
        ('{"schema_version": true, "models": {}}', "it has True"),
        ('{"schema_version": 1, "schema_version": 1}', "names a key twice"),
        ('{"schema_version": 1, "environment": [], "models": {}}', "environment must be an object"),
        ('{"schema_version": 1, "environment": {"numpy": 2}, "models": {}}', "environment must be an object"),
        ('{"schema_version": 1, "environment": {"numpy": "2\\n3"}, "models": {}}', "a line each"),
        (json.dumps({"schema_version": 1, "environment": {"numpy": "2" * 101}, "models": {}}), "at most 100"),
        ('{"schema_version": 1, "models": []}', "models must be an object"),
        ('{"schema_version": 1, "models": {"m": 3}}', "variants of model 'm' must be an object"),
        (with_variant(3), "metrics of variant 'v' of model 'm' must be an object"),
        (with_variant({"metrics": {"accuracy": "high"}}), "no number for 'accuracy' of variant 'v' of model 'm'"),
        (with_variant({"metrics": {"accuracy": True}}), "no number for 'accuracy'"),
        (with_variant({"metrics": {"accuracy": float("nan")}}), "it holds NaN"),
        ('{"schema_version": 1, "models": {"m": {"variants": {"v": {"metrics": {"a": 1e999}}}}}}', "no number for 'a'"),
        (with_variant({"size_bytes": None, "metrics": {}}), "no number for 'size_bytes'"),
        (with_variant({"metrics": {"accuracy": 10**400}}), "no number for 'accuracy'"),
        (with_variant({"size_bytes": -(10**400), "metrics": {}}), "no number for 'size_bytes'"),
        ("[" * 100_000, "is not JSON"),
        ("\x00\xff", "is not JSON"),
    ],
)
def test_a_file_that_is_no_baseline_is_named_with_what_to_do(tmp_path, text, message):
    path = tmp_path / "b.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=message) as caught:
        baseline.read(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "tflite-guard baseline update" in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.json: cannot be read: No such file"):
        baseline.read(str(tmp_path / "none.json"))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "b.json"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GuardError, match=r"b\.json: the baseline cannot be written: No space left"):
        baseline.write(str(path), baseline.from_report(FOUND))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["b.json"]
