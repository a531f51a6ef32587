"""Evaluation data in pieces, each scored by a shard, and joined by `merge`: the same figures, or a clear error."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from tests.conftest import EXAMPLES, Run, lighten, manifest_of, run_cli, write_manifest
from tests.fuzz.mutation import jumbled
from tflite_guard.checking import merged
from tflite_guard.datasets.arrays import write_npz
from tflite_guard.errors import GuardError, UsageError
from tflite_guard.reports import FORMATS
from tflite_guard.results import Report, Verdict

CLASSES = [
    "accuracy",
    {"metric": "top_k_accuracy", "k": 2},
    "f1_macro",
    "mean_iou",
    "roc_auc",
    "average_precision",
    {"metric": "kl_divergence", "from_logits": True},
    "agreement",
    "sqnr",
    "cosine_similarity",
    "max_abs_error",
    "mean_abs_error",
    "size_bytes",
]
VALUES = ["mae", "rmse", "r2"]


@pytest.fixture
def folder(light_digits: Path) -> Path:
    """A classifier, and the same outputs compared with values in groups; one variant out of tolerance; a baseline."""
    path = light_digits / "data/evaluation.npz"
    with np.load(path) as data:
        arrays = {key: data[key] for key in data.files}
    count = len(arrays["label"])
    values = np.random.default_rng(0).normal(size=(count, 10)).astype(np.float32)
    np.savez(path, **arrays, values=values, place=np.arange(count) // 7, device=np.arange(count) % 3)
    manifest = manifest_of(light_digits)
    (model,) = manifest["models"]
    (shipped,) = model["variants"]
    strict = shipped | {"name": "strict", "tolerances": {"accuracy": {"min": 1.0}}}
    manifest["datasets"]["test"]["slices"] = ["device"]
    model["tolerances"] |= {"accuracy": {"max_class_drop": 0.1, "max_slice_drop": 0.01}}
    manifest["datasets"]["values"] = manifest["datasets"]["test"] | {"labels": "values", "group": "place"}
    one = model | {"metrics": CLASSES, "variants": [shipped, strict]}
    other = model | {"name": "values", "evaluation": "values", "metrics": VALUES, "tolerances": {}}
    manifest["models"] = [one, other]
    write_manifest(light_digits, manifest)
    return light_digits


def costs(report: dict[str, Any], folder: Path, *seconds: float) -> Path:
    """A report of an earlier run in which the references took so long, and variants a second."""
    for model, took in zip(report["models"], seconds, strict=True):
        model["reference"]["seconds"] = {"reference": took}
        for variant in model["variants"]:
            variant["seconds"] = {"evaluate": 1.0}
    path = folder / "costs.json"
    path.write_text(json.dumps(report))
    return path


def untimed(report: dict[str, Any]) -> dict[str, Any]:
    """A report without what differs from run to run."""
    for model in report["models"]:
        model["reference"]["seconds"] = {}
        for variant in [*model["variants"], *([model["float32"]] if model["float32"] else [])]:
            variant |= {"seconds": {}, "cached": False}
    return report


def read(path: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(path.read_text())
    return parsed


Shards = Callable[..., list[Path]]


@pytest.fixture
def shards(run: Run) -> Shards:
    """Has so many shards check a folder, whose models are cut between them, and gives their reports."""

    def call(folder: Path, of: int, *seconds: float, diagnose: str = "never") -> list[Path]:
        asked = ("check", folder, "--diagnose", diagnose, "--fail-on", "never", "--report-dir")
        whole = run(*asked, folder / "whole")
        assert whole.code == 0, whole.err
        took = costs(read(folder / "whole/report.json"), folder, *seconds)
        reports = []
        for number in range(1, of + 1):
            place = folder / f"shards/{number}"
            done = run(*asked, place, "--shard", f"{number}/{of}", "--costs", took)
            assert done.code == 0, done.err
            reports.append(place / "report.json")
        return reports

    return call


@pytest.mark.parametrize(
    ("of", "seconds", "pieces"),
    [(2, (3000, 20), [2, 1]), (3, (20, 3000), [1, 3]), (5, (3000, 3000), [5, 5])],
)
def test_all_figures_verdicts_and_findings_are_the_unsharded_runs(
    run: Run, folder: Path, shards: Shards, of: int, seconds: tuple[float, float], pieces: list[int]
) -> None:
    run("baseline", "update", folder)
    recorded = folder / "tflite-guard.baseline.json"
    baseline = read(recorded)
    baseline["models"]["gone"] = baseline["models"].pop("values")
    recorded.write_text(json.dumps(baseline))
    reports = shards(folder, of, *seconds)
    first = read(reports[0])
    assert [model["pieces"] for model in first["shard"]["plan"]] == pieces
    for one in first["shard"]["pieces"]:
        told = f"piece 1 of {one['of']} of the evaluation data of model {one['model']!r}, to be judged by `merge`"
        assert told in first["notes"][0]
        assert one["model"] not in [model["name"] for model in first["models"]]
    done = run("merge", *reports, "--report-dir", folder / "merged")
    assert done.code == 1, done.err  # `strict` is out of tolerance
    merged = untimed(read(folder / "merged/report.json"))
    assert merged == untimed(read(folder / "whole/report.json"))
    assert merged["notes"] == [
        "model 'values' is not in the baseline",
        "model 'gone' is in the baseline but was not checked",
    ]
    names = {metric["metric"] for model in merged["models"] for metric in model["variants"][0]["metrics"]}
    assert len(names) == len(CLASSES) + len(VALUES)
    assert all(metric["value"] is not None for metric in merged["models"][0]["variants"][0]["metrics"])
    assert merged["models"][1]["variants"][0]["metrics"][0]["groups"] == -(-897 // 7)
    cuts = [(one["metric"], one["key"]) for one in merged["models"][1]["variants"][0]["by_slice"]]
    assert cuts == [("mae", "device")]
    assert len(merged["models"][0]["variants"][0]["by_slice"]) == 6
    assert merged["models"][0]["variants"][0]["by_class"]["count"] == 10


def test_models_that_each_shard_converts_are_joined(run: Run, digits: Path, shards: Shards) -> None:
    manifest = manifest_of(digits)
    manifest["models"][0]["variants"] = ["float16", "int8"]
    write_manifest(digits, manifest)
    reports = shards(digits, 2, 3000)
    done = run("merge", *reports, "--report-dir", digits / "merged")
    assert done.code == 0, done.err
    merged = untimed(read(digits / "merged/report.json"))
    assert merged == untimed(read(digits / "whole/report.json"))
    assert merged["models"][0]["float32"] is not None


def test_few_examples_leave_pieces_without_any(run: Run, folder: Path, shards: Shards) -> None:
    manifest = manifest_of(folder)
    manifest["datasets"]["test"]["limit"] = 100  # two batches
    manifest["models"] = manifest["models"][:1]
    write_manifest(folder, manifest)
    done = run("merge", *shards(folder, 5, 3000), "--report-dir", folder / "merged")
    assert done.code == 1, done.err
    assert untimed(read(folder / "merged/report.json")) == untimed(read(folder / "whole/report.json"))


def test_a_cause_that_was_not_looked_for_is_told(run: Run, folder: Path, shards: Shards) -> None:
    done = run("merge", *shards(folder, 2, 3000, 20, diagnose="auto"), "--format", "json")
    first, second = done.report["models"]
    assert "no cause was looked for" in first["notes"][0]
    assert "tflite-guard check --model digits" in first["notes"][0]
    assert not second["notes"]


def test_what_cannot_be_evaluated_on_a_piece_is_the_models_error(run: Run, folder: Path, shards: Shards) -> None:
    path = folder / "data/evaluation.npz"
    with np.load(path) as data:
        arrays = {key: data[key] for key in data.files}
    arrays["image"] = arrays["image"].astype(np.float32)
    np.savez(path, **arrays)
    manifest = manifest_of(folder)
    manifest["models"] = manifest["models"][:1]
    write_manifest(folder, manifest)
    shards(folder, 2, 3000)
    arrays["image"][700] = np.nan
    np.savez(path, **arrays)
    asked = ("check", folder, "--diagnose", "never", "--costs", folder / "costs.json", "--shard")
    codes = [run(*asked, f"{n}/2", "--report-dir", folder / f"shards/{n}").code for n in (1, 2)]
    assert codes == [0, 3]
    second = read(folder / "shards/2/report.json")
    assert second["verdict"] == "error"
    assert "example 700 (from 0) holds NaN" in second["notes"][0]
    done = run("merge", folder / "shards/1/report.json", folder / "shards/2/report.json", "--format", "json")
    assert done.code == 3
    assert {variant["error"]["kind"] for variant in done.report["models"][0]["variants"]} == {"data"}


@pytest.fixture(scope="module")
def pair(float_tflite: Path, shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the reports of two shards that have a piece of one model each, in `1` and `2`."""
    folder = tmp_path_factory.mktemp("pair") / "digits"
    shutil.copytree(EXAMPLES / "digits", folder)
    lighten(folder, float_tflite)
    asked = ("check", folder, "--cache-dir", shared_cache, "--report-dir")
    run_cli(*asked, folder / "whole")
    took = costs(read(folder / "whole/report.json"), folder, 3000)
    for number in (1, 2):
        run_cli(*asked, folder / f"{number}", "--shard", f"{number}/2", "--costs", took)
    return folder


def merged_from(folder: Path) -> Report:
    return merged([str(folder / "1/report.json"), str(folder / "2/report.json")])


def scores_of(folder: Path, kind: str) -> Path:
    """The largest file of a kind of the second shard's scores."""
    return max((folder / "2/scores").glob(f"*.{kind}"), key=lambda path: path.stat().st_size)


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what the second shard says of its piece, with hashes that agree."""
    path = scores_of(folder, "json")
    piece = read(path)
    change(piece)
    content = json.dumps(piece).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    (path.parent / f"{sha256}.json").write_bytes(content)
    report = read(folder / "2/report.json")
    report["shard"]["pieces"][0] |= {"size": len(content), "sha256": sha256}
    (folder / "2/report.json").write_text(json.dumps(report))


def resaved(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the arrays of a variant on the second shard's piece, with hashes that agree."""
    path = scores_of(folder, "npz")
    with np.load(path) as data:
        arrays = {key: data[key] for key in data.files}
    change(arrays)
    write_npz(path, arrays)
    replaced(folder, path.read_bytes(), path.stem)


def replaced(folder: Path, content: bytes, known: str) -> None:
    """Put another content in place of the scores of some hash, and have the piece name it."""
    stored = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / f"2/scores/{stored['sha256']}.npz").write_bytes(content)

    def named(piece: dict[str, Any]) -> None:
        for rung in piece["rungs"]:
            if rung["scores"]["sha256"] == known:
                rung["scores"] = stored

    rewritten(folder, named)


def _scores(arrays: dict[str, Any]) -> str:
    """The key of an array of the scores: the first metric's, of one number an example."""
    state = json.loads(arrays["state"].tobytes())
    return str(next(iter(state["columns"][-1]["scores"][0].values())))


def _linked(folder: Path) -> None:
    path = scores_of(folder, "npz")
    path.rename(folder / "elsewhere.npz")
    path.symlink_to(folder / "elsewhere.npz")


def _cut_short(folder: Path) -> None:
    path = scores_of(folder, "npz")
    path.write_bytes(path.read_bytes()[:-10])


def _flipped(folder: Path) -> None:
    path = scores_of(folder, "npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _fifo(folder: Path) -> None:
    path = scores_of(folder, "json")
    path.unlink()
    os.mkfifo(path)


def _first_again(folder: Path) -> None:
    """The second shard has the first one's piece."""
    shutil.rmtree(folder / "2/scores")
    shutil.copytree(folder / "1/scores", folder / "2/scores")
    report = read(folder / "2/report.json")
    report["shard"]["pieces"] = read(folder / "1/report.json")["shard"]["pieces"]
    (folder / "2/report.json").write_text(json.dumps(report))


def _without_pieces(folder: Path) -> None:
    report = read(folder / "2/report.json")
    report["shard"]["pieces"] = []
    (folder / "2/report.json").write_text(json.dumps(report))


def _another_model(piece: dict[str, Any]) -> None:
    piece["job"]["model"]["name"] = "another"


def _another_file(piece: dict[str, Any]) -> None:
    piece["rungs"][0]["outcome"]["evaluation"]["artifact"]["sha256"] = "0" * 64


def _state_reset(piece: dict[str, Any]) -> None:
    piece["rungs"][0]["outcome"]["evaluation"]["facts"]["state_reset"] = True


def _other_data(piece: dict[str, Any]) -> None:
    piece["rungs"][0]["subject"] = "0" * 64


def _other_examples(piece: dict[str, Any]) -> None:
    piece["rungs"][0]["outcome"]["evaluation"]["stretch"]["last"] -= 1


def _no_scores(piece: dict[str, Any]) -> None:
    piece["rungs"][0]["scores"] = None


def _other_commit(piece: dict[str, Any]) -> None:
    piece["job"]["manifest"]["sha256"] = "0" * 64


def _no_rung(piece: dict[str, Any]) -> None:
    piece["rungs"] = []


def _path_for_hash(piece: dict[str, Any]) -> None:
    piece["rungs"][0]["scores"]["sha256"] = "../../../etc/passwd"


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda folder: shutil.rmtree(folder / "2/scores"), "cannot be read (No such file"),
    "no scores": (lambda folder: scores_of(folder, "npz").unlink(), "cannot be read (No such file"),
    "a link": (_linked, "cannot be read (Too many levels"),
    "a pipe": (_fifo, "cannot be read (not a regular file); copy the shard's whole report folder"),
    "truncated": (_cut_short, "is not what the shard wrote; copy the shard's whole report folder"),
    "damaged": (_flipped, "is not what the shard wrote"),
    "a piece twice": (_first_again, "has piece 1 of variant 'shipped' of model 'digits', as "),
    "a missing piece": (
        _without_pieces,
        "no report has piece 2 of 2 of the evaluation data of variant 'shipped' of model 'digits'",
    ),
    "another model": (lambda folder: rewritten(folder, _another_model), "is of another piece than its report says"),
    "another artifact": (lambda folder: rewritten(folder, _another_file), "was made another model than for"),
    "another way to run": (lambda folder: rewritten(folder, _state_reset), "was seen to be another model than for"),
    "other data": (lambda folder: rewritten(folder, _other_data), "on other data, or of other files, than"),
    "other examples": (lambda folder: rewritten(folder, _other_examples), "has other examples of variant 'shipped'"),
    "scores that it leaves out": (lambda folder: rewritten(folder, _no_scores), "has other examples of variant"),
    "another commit": (lambda folder: rewritten(folder, _other_commit), "is another than in"),
    "no rungs": (lambda folder: rewritten(folder, _no_rung), "is of another piece than its report says"),
    "no list": (lambda folder: rewritten(folder, lambda piece: piece.update(rungs=3)), "is no piece of an evaluation"),
    "a path": (lambda folder: rewritten(folder, _path_for_hash), "passwd.npz: cannot be read"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_pieces_that_make_no_whole_are_told_by_name(pair: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(pair, folder)
    spoil, told = WRONG[kind]
    spoil(folder)
    with pytest.raises(UsageError) as error:
        merged_from(folder)
    assert told in str(error.value)


def test_pieces_of_unlike_processors_make_a_whole_with_a_note(pair: Path, tmp_path: Path) -> None:
    """Their conversions differ in last bits, and hosted runners are not all alike."""
    folder = tmp_path / "copy"
    shutil.copytree(pair, folder)
    whole = merged_from(folder)
    rewritten(folder, _another_file)
    report = read(folder / "2/report.json")
    report["environment"]["processor"] = "another"
    (folder / "2/report.json").write_text(json.dumps(report))
    found = merged_from(folder)
    assert [one.metrics for one in found.models[0].variants] == [one.metrics for one in whole.models[0].variants]
    assert any("the shards ran on different processors" in one for one in found.notes)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_a_piece_says_there_is_a_report_or_an_error(pair: Path, tmp_path: Path, seed: int) -> None:
    folder, rng = tmp_path / "copy", Random(seed)
    shutil.copytree(pair, folder)

    def change(piece: dict[str, Any]) -> None:
        victim = rng.choice(("rungs", "job", "asked", "reference"))
        try:
            piece[victim] = json.loads(jumbled(rng, piece[victim]))
        except (ValueError, RecursionError):
            piece[victim] = None

    rewritten(folder, change)
    with suppress(GuardError):
        found = merged_from(folder)
        for one in FORMATS.values():
            one.files(found)


def _nan(arrays: dict[str, Any]) -> None:
    arrays[_scores(arrays)] = np.full(len(arrays[_scores(arrays)]), np.nan)


def _shorter(arrays: dict[str, Any]) -> None:
    arrays[_scores(arrays)] = arrays[_scores(arrays)][:-1]


def _text(arrays: dict[str, Any]) -> None:
    arrays[_scores(arrays)] = np.array(["x"] * len(arrays[_scores(arrays)]))


def _complex(arrays: dict[str, Any]) -> None:
    arrays[_scores(arrays)] = arrays[_scores(arrays)].astype(np.complex128)


def _no_state(arrays: dict[str, Any]) -> None:
    del arrays["state"]


def _no_array(arrays: dict[str, Any]) -> None:
    del arrays[_scores(arrays)]


def _deep(arrays: dict[str, Any]) -> None:
    arrays["state"] = np.frombuffer(b"[" * 100_000, np.uint8)


HOSTILE = [_shorter, _text, _complex, _no_state, _no_array, _deep]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__)
def test_scores_that_are_none_are_an_error_and_no_verdict(
    pair: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(pair, folder)
    resaved(folder, change)
    (variant,) = merged_from(folder).models[0].variants
    assert variant.error is not None
    assert variant.error.kind == "data"
    assert str(folder / "2/scores") in variant.error.message
    assert "run its shard again" in variant.error.message


def test_scores_that_are_not_finite_are_no_value(pair: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(pair, folder)
    resaved(folder, _nan)
    (variant,) = merged_from(folder).models[0].variants
    assert variant.verdict is Verdict.ERROR
    assert "not a finite number" in str(variant["sqnr"].error)


def test_a_file_of_scores_that_says_to_be_huge_takes_no_memory(pair: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(pair, folder)
    path = scores_of(folder, "npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("state.npy", header.getvalue())
    replaced(folder, path.read_bytes(), path.stem)
    (variant,) = merged_from(folder).models[0].variants
    assert variant.error is not None
    assert variant.error.kind == "data"


def test_the_pair_is_merged_where_nothing_is_wrong(pair: Path) -> None:
    assert [variant.verdict for variant in merged_from(pair).models[0].variants] == [Verdict.PASS]
