"""`--save-operator` on the real example: what is saved runs by itself, with plain LiteRT, and gives what is told."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import example, given
from msgspec.structs import replace

import tflite_guard
from tests.conftest import EXAMPLES, Run, run_cli
from tests.sample import HOSTILE, diagnosed, fixed
from tflite_guard.engine import graph
from tflite_guard.errors import UsageError
from tflite_guard.protocol import OperatorPort, SavedOperator
from tflite_guard.results import Finding, TensorLoss, VariantResult
from tflite_guard.saving import first_wrong, readme

BROKEN = EXAMPLES / "digits-broken/tflite-guard.json"
FILES = ["README.md", "inputs.npz", "operator.tflite", "operator_int8.tflite", "outputs.npz"]
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    """Where a check has saved the operator of the only diagnosed variant, beside report.json and both files whole."""
    here = tmp_path_factory.mktemp("saving")
    cache = ("--cache-dir", shared_cache)
    arguments = ("--save-operator", "operators", "--format", "json=report.json", *cache)
    done = run_cli("check", BROKEN, *arguments, cwd=here)
    assert (done.code, done.out) == (1, ""), "the exit code is that of the check"
    assert re.fullmatch(r"operators/digits-int8: CONV_2D, \d+\.\d+ dB\n", done.err)
    for name in ("float32", "int8"):
        made = run_cli("convert", "digits", name, "-o", f"{name}.tflite", "--manifest", BROKEN, *cache, cwd=here)
        assert made.code == 0
    return here


@pytest.fixture
def saved(folder: Path) -> Path:
    return folder / "operators/digits-int8"


def plain_run(model: Path, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Each output for each example, by an interpreter of its own."""
    rows = []
    for row in range(len(inputs[0])):
        interpreter = Interpreter(model_path=str(model))
        interpreter.allocate_tensors()
        for detail, values in zip(interpreter.get_input_details(), inputs, strict=True):
            interpreter.set_tensor(detail["index"], values[row])
        interpreter.invoke()
        rows.append([interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()])
    return [np.stack(values) for values in zip(*rows, strict=True)]


def arrays(path: Path, kind: str) -> list[np.ndarray]:
    held = np.load(path, allow_pickle=False)
    return [held[f"{kind}_{place}"] for place in range(sum(name.startswith(kind) for name in held.files))]


def told(readme: Path) -> dict[str, str]:
    """The facts of a README."""
    (block,) = re.findall(r"```text\n(.*?)```", readme.read_text(), re.DOTALL)
    return {line[:11].strip(): line[11:] for line in block.splitlines()}


@pytest.mark.parametrize(("kind", "model"), [("float", "operator.tflite"), ("quantized", "operator_int8.tflite")])
def test_a_plain_interpreter_gives_the_saved_outputs_for_the_saved_inputs(saved: Path, kind: str, model: str) -> None:
    assert sorted(path.name for path in saved.iterdir()) == FILES
    inputs, outputs = arrays(saved / "inputs.npz", kind), arrays(saved / "outputs.npz", kind)
    assert [values.shape for values in (*inputs, *outputs)] == [(8, 1, 8, 8, 16), (8, 1, 8, 8, 32)]
    for ours, wanted in zip(plain_run(saved / model, inputs), outputs, strict=True):
        np.testing.assert_array_equal(ours, wanted)
    (operator,) = graph.read(str(saved / model)).main.operators
    assert operator.type == "CONV_2D"


def test_what_is_saved_is_what_happens_in_the_whole_files(folder: Path, saved: Path) -> None:
    """The inputs are those of the float model on the first examples, the constants those of the judged file."""
    whole = Interpreter(
        model_path=str(folder / "float32.tflite"),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    whole.allocate_tensors()
    images = np.load(EXAMPLES / "digits/data/evaluation.npz")["image"][:8].astype(np.float32) / 16
    read = graph.read(str(folder / "float32.tflite")).main
    (operator,) = [one for one in read.operators if "pointwise_relu" in read.tensors[one.outputs[0]].name]
    (inputs,), (outputs,) = (arrays(saved / f"{side}.npz", "float") for side in ("inputs", "outputs"))
    for row, image in enumerate(images):
        whole.set_tensor(whole.get_input_details()[0]["index"], image[None])
        whole.invoke()
        np.testing.assert_array_equal(inputs[row], whole.get_tensor(operator.inputs[0]))
        np.testing.assert_allclose(outputs[row], whole.get_tensor(operator.outputs[0]), rtol=1e-4, atol=1e-4)
    alone, judged = (constants(path) for path in (saved / "operator_int8.tflite", folder / "int8.tflite"))
    assert len(alone) == 2, "weights and bias"
    for key, values in alone.items():
        np.testing.assert_array_equal(values, judged[key])


def constants(path: Path) -> Arrays:
    read, interpreter = graph.read(str(path)).main, Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    return {t.name: interpreter.get_tensor(i) for i, t in enumerate(read.tensors) if t.constant}


def test_the_figures_of_the_readme_are_those_of_a_plain_computation(saved: Path) -> None:
    (exact,), (codes,) = (arrays(saved / "outputs.npz", kind) for kind in ("float", "quantized"))
    (real,), (integers,) = (arrays(saved / "inputs.npz", kind) for kind in ("float", "quantized"))
    interpreter = Interpreter(model_path=str(saved / "operator_int8.tflite"))
    scale, zero = interpreter.get_output_details()[0]["quantization"]
    error = (codes.astype(np.float64) - zero) * scale - exact
    facts = told(saved / "README.md")
    decibels = 10 * np.log10(np.square(exact.astype(np.float64)).sum() / np.square(error).sum())
    assert facts["SQNR"] == f"{decibels:.2f} dB over 8 examples"
    assert float(facts["difference"].split()[0]) == pytest.approx(np.abs(error).max(), rel=1e-5)
    own, own_zero = interpreter.get_input_details()[0]["quantization"]
    assert facts["input 0"].startswith(f"int8 [1, 8, 8, 16], real = {own:.9g} * (q {-own_zero:+d}), ")
    np.testing.assert_array_equal(integers, np.clip(np.rint(real / np.float32(own)) + own_zero, -128, 127))


def test_the_readme_names_the_first_operator_that_loses_most_alone(folder: Path, saved: Path) -> None:
    variant = json.loads((folder / "report.json").read_text())["models"][0]["variants"][1]
    worst = min((one for one in variant["diagnosis"]["tensors"]), key=lambda one: one["isolated"])
    facts = told(saved / "README.md")
    assert facts["tensor"] == worst["in_file"]
    assert facts["operator"].split(",")[0] == worst["operator"]


def test_the_lines_of_the_readme_run_the_operator(saved: Path) -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", (saved / "README.md").read_text(), re.DOTALL)
    assert len(lines.splitlines()) <= 6
    script = f"import numpy; numpy.set_printoptions(threshold=10**9)\n{lines}"
    done = subprocess.run([sys.executable, "-c", script], cwd=saved, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = np.array([int(one) for one in re.findall(r"-?\d+", done.stdout)])
    np.testing.assert_array_equal(printed, arrays(saved / "outputs.npz", "quantized")[0][0].ravel())


def test_a_given_tflite_is_cut_up_as_the_one_that_was_made(run: Run, folder: Path, saved: Path, tmp_path: Path) -> None:
    """By `why`, with a float .tflite for the reference: the same bytes."""
    for one in ("float32", "int8"):
        shutil.copy(folder / f"{one}.tflite", tmp_path)
    scans = np.load(EXAMPLES / "digits/data/evaluation.npz")
    np.savez(tmp_path / "data.npz", image=scans["image"].astype("float32") / 16, label=scans["label"])
    finished = run("why", "float32.tflite", "int8.tflite", "data.npz", "--save-operator", "out")
    assert finished.code == 1
    assert finished.err.startswith("out/float32-int8: CONV_2D, ")
    for file in set(FILES) - {"README.md"}:
        assert (tmp_path / "out/float32-int8" / file).read_bytes() == (saved / file).read_bytes(), file


def test_python_saves_the_same(folder: Path, saved: Path, tmp_path: Path, shared_cache: Path) -> None:
    """From a manifest, and from arrays that are in no file of the user's."""
    tflite_guard.check(BROKEN, cache_dir=shared_cache, save_operator=tmp_path / "checked")
    scans = np.load(EXAMPLES / "digits/data/evaluation.npz")
    models = folder / "float32.tflite", folder / "int8.tflite"
    images = scans["image"].astype("float32") / 16
    tflite_guard.why(*models, images, scans["label"], cache_dir=shared_cache, save_operator=tmp_path / "asked")
    for place in ("checked/digits-int8", "asked/float32-int8"):
        for file in set(FILES) - {"README.md"}:
            assert (tmp_path / place / file).read_bytes() == (saved / file).read_bytes(), file
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        tflite_guard.check(BROKEN, save_operator=tmp_path / "file")


def test_several_diagnosed_variants_have_a_folder_each(run: Run, tmp_path: Path) -> None:
    """Also those whose inputs and outputs are float; what passes without a wrong operator has none."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    (tmp_path / ".git").mkdir()
    manifest = tmp_path / "examples/digits-broken/tflite-guard.json"
    content = json.loads(manifest.read_text())
    kinds = [{"name": f"int8/{io}", "quantization": "int8", "io": io} for io in ("int8", "float32")]
    content["models"][0]["variants"] = [*kinds, "dynamic_range"]
    manifest.write_text(json.dumps(content))
    finished = run("check", manifest, "--save-operator", "out", "--diagnose", "always", "--format", "json")
    assert finished.code == 1
    assert [line.split(",")[0] for line in finished.err.splitlines()] == [
        "out/digits-int8_int8: CONV_2D",
        "out/digits-int8_float32: CONV_2D",
        "out/digits-dynamic_range: nothing saved; no operator by itself is below 20 dB",
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["digits-int8_float32", "digits-int8_int8"]
    for one in (tmp_path / "out").iterdir():
        assert sorted(path.name for path in one.iterdir()) == FILES
        ours = plain_run(one / "operator_int8.tflite", arrays(one / "inputs.npz", "quantized"))
        np.testing.assert_array_equal(ours[0], arrays(one / "outputs.npz", "quantized")[0])


def test_a_place_that_cannot_be_written_is_told_in_a_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finished = run("check", BROKEN, "--save-operator", "file")
    assert (finished.code, finished.out) == (2, "")
    assert finished.err == "tflite-guard: --save-operator file: is a file; name a folder\n"
    (tmp_path / "out").mkdir()
    (tmp_path / "out/digits-int8").write_text("")
    finished = run("check", BROKEN, "--save-operator", "out", "--format", "json")
    assert finished.code == 3
    assert finished.report["verdict"] == "fail", "the report is printed all the same"
    assert finished.err.startswith("tflite-guard: out/digits-int8: cannot be written (")
    assert len(finished.err.splitlines()) == 1
    kept = run("check", BROKEN, "--save-operator", "out", "--format", "json", "--fail-on", "never")
    assert (kept.code, kept.err) == (0, finished.err)
    never = run("check", BROKEN, "--save-operator", "new", "--diagnose", "never")
    assert (never.code, "needs a diagnosis" in never.err) == (2, True)


def test_links_in_its_place_are_replaced_and_not_followed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/digits-int8").symlink_to(tmp_path / "theirs")
    assert run("check", BROKEN, "--save-operator", "out").code == 1
    assert list((tmp_path / "theirs").iterdir()) == []
    assert len(list((tmp_path / "out/digits-int8").iterdir())) == len(FILES)


# Which operator


def losing(*losses: float | None, cause: str | None = None) -> VariantResult:
    found = diagnosed(fixed().models[0].variants[1])
    assert found.diagnosis is not None
    tensors = tuple(
        TensorLoss(f"t{i}", "CONV_2D", loss, loss, (0.0, 1.0), (0.0, 1.0), 0.0, 9, f"q{i}")
        for i, loss in enumerate(losses)
    )
    first = replace(tensors[0], operator="input")
    findings = (Finding("sensitive-operator", "error", "…", primary=True, tensor=cause),)
    return replace(found, findings=findings, diagnosis=replace(found.diagnosis, tensors=(first, *tensors[1:])))


@pytest.mark.parametrize(
    ("losses", "cause", "expected"),
    [
        ((5.0, 30.0, 12.0, 9.0, 9.0), None, "q3"),
        ((5.0, 30.0, 12.0, 9.0, 9.0), "t1", "q1"),
        ((5.0, 30.0, 12.0, 9.0, 9.0), "t0", "q3"),
        ((5.0, 30.0, 12.0, 9.0, 9.0), "elsewhere", "q3"),
        ((5.0, 20.0, None, 33.0), None, None),
    ],
)
def test_the_causes_operator_is_saved_or_else_the_first_that_loses_most(
    losses: tuple[float | None, ...], cause: str | None, expected: str | None
) -> None:
    found = first_wrong(losing(*losses, cause=cause))
    assert (found.in_file if found else None) == expected


@given(HOSTILE)
@example("```\n# x\n[link](http://x)")
def test_no_name_of_a_file_leaves_the_readmes_block(text: str) -> None:
    port = OperatorPort(text, text, (1, 2), 0.5, -3)
    told = SavedOperator(text, text, text, 1, 1, 8, 0, 0.5, 12.0, 1.0, (port, port), (port,))
    report = fixed()
    page = readme(report, report.models[0].variants[0], "digits-int8", told)
    before, inside, after = page.split("```text\n")[0], *page.split("```text\n", 1)[1].split("\n```\n", 1)
    assert before == "# One operator, float and quantized\n\n"
    labels = [
        "variant",
        "operator",
        "tensor",
        "float",
        "input 0",
        "input 1",
        "output 0",
        "SQNR",
        "difference",
        "versions",
    ]
    assert [line[:11].strip() for line in inside.split("\n")] == labels
    assert after.startswith("\nThe SQNR is that of")
