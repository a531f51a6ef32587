"""`why` on real models: the example's network, quantized with calibration data that nobody has scaled."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tflite_guard
from tests.conftest import EXAMPLES, ROOT, Run, run_cli
from tests.plain_loop import raw_outputs
from tflite_guard.asking import Explanation
from tflite_guard.errors import DataError, UsageError
from tflite_guard.results import Verdict
from tflite_guard.rules import GROUPS
from tflite_guard.vocabulary import QUANTIZATIONS

CAUSE = "calibration-range-mismatch"
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """Inputs as the model takes them, with their labels."""
    held = np.load(EXAMPLES / "digits/data/evaluation.npz")
    return {"image": held["image"].astype(np.float32) / 16, "label": held["label"]}


@pytest.fixture(scope="module")
def unscaled() -> np.ndarray:
    return np.load(EXAMPLES / "digits/data/calibration.npz")["image"].astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path, arrays: Arrays, unscaled: np.ndarray) -> Path:
    """A folder with model.keras, the model_int8.tflite that is worse, data.npz, and what it was calibrated on."""
    folder = tmp_path_factory.mktemp("why")
    shutil.copy(EXAMPLES / "digits/models/digits.keras", folder / "model.keras")
    manifest = EXAMPLES / "digits-broken/tflite-guard.json"
    converted = folder / "model_int8.tflite"
    done = run_cli("convert", "digits", "int8", "-o", converted, "--manifest", manifest, "--cache-dir", shared_cache)
    assert done.code == 0, done.err
    np.savez(folder / "data.npz", **arrays)
    np.savez(folder / "calibration.npz", image=unscaled)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "own"))


def told(text: str) -> str:
    """The story without its line breaks."""
    return " ".join(text.split())


# --- the command


def test_a_file_is_explained_without_a_manifest(run: Run, folder: Path) -> None:
    before = sorted(folder.iterdir())
    finished = run("why", "model.keras", "model_int8.tflite", "data.npz", cwd=folder)
    assert (finished.code, finished.err) == (1, "")
    lines = finished.out.splitlines()
    assert lines[0] == "✗ model_int8 against model.keras"
    heads = ["What is lost", "Where it is lost", f"Why: {CAUSE}", "What to change"]
    assert [line for line in lines[1:] if line[:1].strip()] == heads
    assert "Proof: recalibrated with" in told(finished.out)
    assert "accuracy went from 0.9788 to 0.9487" in told(finished.out)
    assert "tflite-guard.json" not in finished.out, "there is no manifest to change"
    assert 'of a manifest, remove "tflite" and set:' in finished.out
    assert sorted(folder.iterdir()) == before


def test_files_may_lie_anywhere(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "here").mkdir()
    shutil.move(folder / "model.keras", tmp_path / "models/model.keras")
    arguments = ("../models/model.keras", folder / "model_int8.tflite", "../own/data.npz")
    finished = run("why", *arguments, cwd=tmp_path / "here")
    assert finished.out.splitlines()[0] == "✗ model_int8 against ../models/model.keras"
    assert f"Why: {CAUSE}" in finished.out


def test_what_a_file_was_calibrated_on_is_evidence(run: Run, folder: Path) -> None:
    arguments = ("model.keras", "model_int8.tflite", "data.npz", "--calibration", "calibration.npz")
    finished = run("why", *arguments, cwd=folder)
    assert f"Why: {CAUSE}" in finished.out
    assert "calibration holds 0 to 16, the evaluation data 0 to 1" in told(finished.out)


def test_a_quantization_is_made_and_explained(run: Run, folder: Path) -> None:
    finished = run("why", "model.keras", "int8", "data.npz", "--calibration", "calibration.npz", cwd=folder)
    assert (finished.code, finished.out.splitlines()[0]) == (1, "✗ int8 against model.keras")
    assert f"Why: {CAUSE}" in finished.out
    sound = run("why", "model.keras", "int8", "data.npz", cwd=folder)
    assert sound.code == 0
    assert sound.out.endswith("  Every tolerance holds, so there is nothing to explain.\n")


@pytest.mark.parametrize("converted", ["model_int8.tflite", "int8"])
def test_the_manifest_is_kept_and_is_valid_and_judges_the_same(run: Run, folder: Path, converted: str) -> None:
    """And its remedy can be applied, after which it passes."""
    asked = ("why", "model.keras", converted, "data.npz", "--calibration", "calibration.npz", "--manifest", "kept.json")
    finished = run(*asked, cwd=folder)
    assert finished.code == 1
    name = Path(converted).stem
    assert f"In variant {name} of " in told(finished.out)
    assert run("validate", "kept.json", cwd=folder).code == 0
    checked = run("check", "kept.json", "--format", "json", "--apply-remedy", cwd=folder)
    assert checked.code == 1
    assert checked.metric(name, "accuracy")["value"] == pytest.approx(0.9487, abs=1e-4)
    assert "applied: " in checked.err
    assert run("check", "kept.json", cwd=folder).code == 0
    again = run(*asked, cwd=folder)
    assert (again.code, "exists already" in again.err) == (2, True), "what is kept is not overwritten"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.keras", "int9", "data.npz"], "int9: is neither a file nor a quantization; there are float32,"),
        (["model.keras", "model_int9.tflite", "data.npz"], "model_int9.tflite: is neither a file nor a quantization"),
        (["none.keras", "model_int8.tflite", "data.npz"], "none.keras: no such file or folder"),
        (["model.keras", "model_int8.tflite", "none.npz"], "none.npz: no such file or folder"),
        (["model.keras", "loop.tflite", "data.npz"], "loop.tflite: cannot be read: Too many levels of symbolic links"),
        (["model.keras", "int8", "data.npz", "--calibration", "none.npz"], "none.npz: no such file or folder"),
        (["model.keras", "int8", "data.npz", "--observed", "none.npz"], "none.npz: no such file or folder"),
        (
            ["model.keras", "int8", "data.npz", "--labels", "digit"],
            "--labels digit: data.npz has no array 'digit'; it has label",
        ),
        (["model.keras", "model.keras", "data.npz"], "model.keras: is not a .tflite model; convert the model first"),
        (["model.keras", "int8", "data.npz", "--manifest", "model.keras"], "model.keras: exists already"),
        (["model.keras", "int8", "data.npz", "--manifest", "no/kept.json"], "there is no folder no; create it first"),
    ],
)
def test_what_cannot_be_asked_is_told(run: Run, folder: Path, arguments: list[str], message: str) -> None:
    if "loop.tflite" in arguments and not (loop := folder / "loop.tflite").is_symlink():
        loop.symlink_to(loop.name)
    before = sorted(folder.iterdir())
    finished = run("why", *arguments, cwd=folder)
    assert (finished.code, finished.out) == (2, "")
    assert message in finished.err
    assert sorted(folder.iterdir()) == before


def test_a_file_that_cannot_be_run_is_named_as_it_was_given(run: Run, folder: Path) -> None:
    damaged = folder / "damaged.tflite"
    damaged.write_bytes((folder / "model_int8.tflite").read_bytes()[:9000])
    finished = run("why", "model.keras", "damaged.tflite", "data.npz", cwd=folder)
    assert finished.code == 3
    assert "could not be evaluated: damaged.tflite is a damaged .tflite model" in told(finished.out)


# --- Python


@pytest.fixture
def ask(folder: Path, shared_cache: Path) -> Callable[..., Explanation]:
    """Asks of the file, on whatever data."""

    def call(*arguments: Any, converted: str = "model_int8.tflite", **others: Any) -> Explanation:
        target = converted if converted in QUANTIZATIONS else folder / converted
        return tflite_guard.why(folder / "model.keras", target, *arguments, cache_dir=shared_cache, **others)

    return call


Ask = Callable[..., Explanation]


def test_arrays_are_explained_as_often_as_one_asks(ask: Ask, folder: Path, arrays: Arrays) -> None:
    for way in ((arrays["image"], arrays["label"]), (arrays, "label"), (str(folder / "data.npz"), "label")):
        answer = ask(*way)
        assert answer.variant.verdict is Verdict.FAIL
        assert answer.cause is not None
        assert answer.cause.rule == CAUSE
        assert answer.cause.experiment is not None
        assert answer.cause.experiment.recovered > 0.9
        assert answer.diagnosis is not None
        assert answer.diagnosis.ladder
        assert answer.remedies[0].verified
        assert f"Why: {CAUSE}" in str(answer)
        assert str(answer).startswith(f"✗ model_int8 against {folder}/model.keras\n")


def test_the_same_question_is_answered_from_the_cache(ask: Ask, arrays: Arrays) -> None:
    ask(arrays["image"], arrays["label"])
    assert ask(arrays["image"], arrays["label"]).variant.cached


def test_calibration_data_may_be_an_array(ask: Ask, arrays: Arrays, unscaled: np.ndarray) -> None:
    answer = ask(arrays["image"], arrays["label"], calibration=unscaled)
    assert answer.cause is not None
    assert "holds 0 to 16" in answer.cause.message


def test_labels_that_are_given_are_those_that_count(ask: Ask, folder: Path, arrays: Arrays) -> None:
    """Not those of the file, nor an input of that name."""
    wrong = (arrays["label"] + 1) % 10
    for inputs in (folder / "data.npz", arrays):
        (accuracy,) = [one for one in ask(inputs, wrong).variant.metrics if one.name == "accuracy"]
        assert accuracy.reference is not None
        assert accuracy.reference < 0.05


def test_without_labels_the_outputs_are_compared(ask: Ask, arrays: Arrays) -> None:
    assert [one.name for one in ask(arrays["image"]).variant.metrics] == ["sqnr", "cosine_similarity"]


def test_a_quantization_is_made(ask: Ask, arrays: Arrays) -> None:
    answer = ask(arrays["image"], arrays["label"], converted="float16")
    assert (answer.variant.verdict, answer.cause) == (Verdict.PASS, None)


def test_recorded_outputs_are_compared(ask: Ask, arrays: Arrays) -> None:
    answer = ask(arrays["image"], arrays["label"], observed=np.zeros((len(arrays["image"]), 10), np.float32))
    assert answer.variant.observed is not None
    assert answer.variant.observed.max_steps["default"] > 1


def test_the_answer_is_escaped_in_a_notebook(ask: Ask, folder: Path, arrays: Arrays) -> None:
    shutil.copy(folder / "model_int8.tflite", folder / "<b>&amp;.tflite")
    shown = ask(arrays["image"], arrays["label"], converted="<b>&amp;.tflite")._repr_html_()
    assert shown.startswith("<pre>")
    assert "<b>" not in shown
    assert "&lt;b&gt;&amp;amp; against" in shown


def test_what_cannot_be_asked_from_python_is_raised(ask: Ask, folder: Path, arrays: Arrays) -> None:
    with pytest.raises(UsageError, match="has no array 'digit'"):
        ask(arrays, "digit")
    with pytest.raises(UsageError, match=r"none\.npz: no such file"):
        ask(folder / "none.npz", arrays["label"])
    with pytest.raises(DataError):
        ask({"one": arrays["image"], "two": arrays["image"]}, arrays["label"])


def test_the_kept_manifest_is_what_init_would_write(run: Run, folder: Path) -> None:
    run("why", "model.keras", "model_int8.tflite", "data.npz", "--manifest", "kept.json", cwd=folder)
    kept = json.loads((folder / "kept.json").read_text())
    run("init", "model.keras", "data.npz", "-o", "written.json", cwd=folder)
    written = json.loads((folder / "written.json").read_text())
    assert kept["models"][0]["variants"] == [{"name": "model_int8", "tflite": "model_int8.tflite"}]
    assert kept["datasets"]["evaluation"] == written["datasets"]["evaluation"]


# --- the guide


def sections(page: str) -> list[tuple[str, str]]:
    """The command of each section of docs/why.md, with the section's text."""
    found = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    return [(commands[0], text) for text in found if (commands := re.findall(r"```sh\ntflite-guard (.*)\n```", text))]


def test_the_guide_lists_the_causes_that_its_commands_find(run: Run, folder: Path, arrays: Arrays) -> None:
    """On a file that was calibrated on unscaled data, and an application that takes raw integers as reals."""
    raw = raw_outputs(folder / "model_int8.tflite", arrays["image"]).astype(np.float32)
    np.savez(folder / "recorded.npz", output=raw)
    page = (ROOT / "docs/why.md").read_text()
    told = {command: run(*command.split(), cwd=folder) for command in {command for command, _ in sections(page)}}
    assert {command: finished.err for command, finished in told.items()} == dict.fromkeys(told, "")
    for command, text in sections(page):
        finished = told[command]
        assert finished.code == (0 if " float32 " in command else 1), finished.out
        named = set(re.findall(r"^Why.*: ([a-z-]+)$", finished.out, re.MULTILINE))
        assert named == set() if finished.code == 0 else CAUSE in named
        if "--observed" in command:
            assert named & set(re.findall(r"\(rules/([a-z0-9-]+)\.md\)", text)) == {"io-quantization-misuse"}


def test_every_rule_has_its_place_in_the_guide_or_is_no_cause() -> None:
    page = (ROOT / "docs/why.md").read_text()
    causes = {rule.id for name, rules in GROUPS.items() if name.startswith("Causes") for rule in rules}
    assert causes - set(re.findall(r"\(rules/([a-z0-9-]+)\.md\)", page)) == set()
