"""A child that a model has taken over, against its parent: it may lie about its own model, and nothing more."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Run, manifest_of, only, write_manifest
from tests.test_isolation import alive
from tflite_guard.errors import EvaluationError
from tflite_guard.files.removal import remove
from tflite_guard.judgement.judging import Outcome, variant_result
from tflite_guard.manifest import load
from tflite_guard.manifest.types import (
    Conversion,
    DatasetSpec,
    EvaluationOptions,
    FileSpec,
    ReferenceSpec,
    VariantSpec,
)
from tflite_guard.protocol import (
    AnyRequest,
    ApplyRecipe,
    Convert,
    DescribeModel,
    Diagnose,
    Evaluate,
    ReadScales,
    RunReference,
    SaveOperator,
)
from tflite_guard.results import VariantResult, Verdict
from tflite_guard.run import pipeline
from tflite_guard.run.cache import Cache, key_of
from tflite_guard.run.jobs import Options
from tflite_guard.run.workers import Confinement, Worker

# Runs inside the child in place of an evaluation, with what the child could reach: its pipes and its scratch folder.
TAKEN_OVER = """
import os, gc, json, glob

def load():
    out = max(glob.glob(os.environ["HOME"] + "/out-*"), key=os.path.getctime)
    answers = next(o for o in gc.get_objects() if type(o).__name__ == "BufferedWriter" and o.fileno() > 2)
    %s
    answers.write((json.dumps({"result": {"files": %s, "examples": 1, "names": None}}) + "\\n").encode())
    answers.flush()
    os._exit(0)
"""
SECRET = "secret-of-the-parent"
ABSENT = DescribeModel(ReferenceSpec("tflite", FileSpec("absent.tflite")))


def taken_over(digits: Path, action: str, files: list[str]) -> Path:
    (digits / "evil.py").write_text(TAKEN_OVER % (action, files))
    manifest = only(manifest_of(digits), "shipped")
    manifest["datasets"]["test"] = {"source": "python", "path": "evil:load", "inputs": "image"}
    manifest["models"][0] |= {"metrics": ["sqnr"], "tolerances": {}, "reference": {"outputs": "recorded.npz"}}
    np.savez(digits / "recorded.npz", out=np.zeros((3, 10), np.float32))
    manifest["models"][0].pop("calibration")
    return write_manifest(digits, manifest)


@pytest.mark.parametrize(
    ("action", "files"),
    [
        ('os.rmdir(out); os.symlink("{private}", out)', ["outputs.json"]),
        ('os.symlink("{private}/outputs.json", out + "/outputs.json")', ["outputs.json"]),
        ("pass", ["../../outputs.json"]),
        ("pass", ["{private}/outputs.json"]),
        ('os.mkfifo(out + "/outputs.json")', ["outputs.json"]),
        ('os.mkdir(out + "/outputs.json")', ["outputs.json"]),
        ("os.mknod(out + '/outputs.json', 0o600 | 0o140000)", ["outputs.json"]),
        ("os.chmod(out, 0)", ["outputs.json"]),
        ("answers.write(b'[]\\n')", []),
        ("answers.write(b'not json\\n')", []),
        ("answers.write(bytes([255, 10]))", []),
        ("answers.write(b'[' * 100_000 + b'\\n')", []),
        ("answers.write(b'{{\"result\": [' + b'{{}},' * 1_000_000 + b'7]}}\\n')", []),
        ("answers.write(b'{{\"result\": ' + b'9' * 400 + b'}}\\n')", []),
        ("answers.write(b'{{\"progress\": [1, ' + b'9' * 400 + b']}}\\n')", []),
        ('answers.write(b\'{{"result": {{"files": 7}}}}\\n\')', []),
    ],
)
def test_a_child_cannot_make_its_parent_read_other_files_or_hang(
    run: Run, digits: Path, tmp_path: Path, action: str, files: list[str]
) -> None:
    private, cache = tmp_path / "private", tmp_path / "cache"
    private.mkdir()
    (private / "outputs.json").write_text(SECRET)
    files = [name.format(private=private) for name in files]
    path = taken_over(digits, action.format(private=private), files)
    started = time.monotonic()
    finished = run("check", path, "--allow-code", "--cache-dir", cache, "--timeout", "60", "-v")
    assert time.monotonic() - started < 50
    assert finished.code == 3, finished.out + finished.err
    assert "Traceback" not in finished.out
    assert SECRET not in finished.out + finished.err
    kept = [file for file in cache.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert kept == []


LEAVING = """
import glob, os

def load():
    out = max(glob.glob(os.environ["HOME"] + "/out-*"), key=os.path.getctime)
    %s
    raise ValueError("done")
"""
NESTED = """
    for _ in range(3000):
        os.mkdir("inner")
        os.chdir("inner")
"""


@pytest.mark.parametrize(
    "action", ['os.chdir(out); os.mkdir("a"); os.chdir("a")' + NESTED, 'os.chmod(os.environ["HOME"], 0)', NESTED]
)
def test_what_a_model_leaves_in_its_scratch_folder_harms_no_other(
    run: Run, light_digits: Path, tmp_path: Path, action: str
) -> None:
    """The child answers, and lives on for the next model."""
    (light_digits / "evil.py").write_text(LEAVING % action)
    manifest = manifest_of(light_digits)
    manifest["datasets"]["evil"] = {"source": "python", "path": "evil:load", "inputs": "image"}
    evil = {"name": "evil", "evaluation": "evil", "metrics": ["sqnr"], "tolerances": {}}
    manifest["models"].insert(0, manifest["models"][0] | evil)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    finished = run(
        *("check", write_manifest(light_digits, manifest), "--allow-code", "--jobs", "1", "--format", "json"),
        env={"TMPDIR": str(scratch)},
    )
    assert [model["verdict"] for model in finished.report["models"]] == ["error", "pass"], finished.out
    assert list(scratch.iterdir()) == []


def test_whatever_goes_wrong_in_one_model_is_its_error_alone(
    light_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = manifest_of(light_digits)
    manifest["models"].append(manifest["models"][0] | {"name": "other"})
    loaded = load(str(write_manifest(light_digits, manifest)))

    def judged(variant: VariantSpec, outcome: Outcome, *others: Any) -> VariantResult:
        if not outcome.error and others[1].args[1] == "other":
            raise KeyError("nobody has thought of this")
        return variant_result(variant, outcome, *others)

    monkeypatch.setattr(pipeline, "variant_result", judged)
    said: list[str] = []
    report = pipeline.run([loaded], Options(diagnose="never"), on_log=said.append)
    good, bad = report.models
    assert good.verdict is Verdict.PASS
    assert bad.error is not None
    assert bad.error.kind == "internal"
    assert "KeyError: 'nobody has thought of this'" in bad.error.message
    assert "Traceback" in "".join(said)


def cut(index: Path) -> None:
    index.write_bytes(index.read_bytes()[:-9])


def not_utf8(index: Path) -> None:
    index.write_bytes(index.read_bytes().replace(b"meta", b"m\xffta"))


def forged(index: Path) -> None:
    """Says something else than it should, in its own right."""
    remove(index.parent)
    Cache(index.parents[3]).put(index.parent.name, {}, {"files": 7})


def test_a_damaged_cache_heals(run: Run, light_digits: Path, tmp_path: Path) -> None:
    arguments = ("check", light_digits / "tflite-guard.json", "--format", "json", "--diagnose", "never")
    cached = []
    for damage in (cut, not_utf8, forged, None, None):
        finished = run(*arguments, "--cache-dir", tmp_path)
        assert finished.code == 0, finished.out + finished.err
        cached.append(finished.variant("shipped")["cached"])
        indexes = list(tmp_path.glob("v1/??/*/entry.json"))
        assert len(indexes) > 1
        for index in indexes if damage else ():
            damage(index)
    assert cached == [False, False, False, False, True]


def test_a_child_that_never_stops_talking_is_ended_in_time(tmp_path: Path) -> None:
    worker = Worker("litert", str(tmp_path), Confinement(allow_code=True))
    talker = tmp_path / "talker"
    talker.write_text("#!/bin/sh\nwhile true; do echo '{\"progress\": [1, 2]}'; done\n")
    talker.chmod(0o755)
    child = worker._started()
    child.process.kill()
    child.process.communicate()
    child.process = subprocess.Popen([str(talker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    started = time.monotonic()
    with pytest.raises(EvaluationError) as raised:
        worker.request(ABSENT, deadline=time.monotonic() + 1)
    assert raised.value.kind == "timeout"
    assert time.monotonic() - started < 10
    worker.close()


def test_a_child_whose_line_never_ends_is_ended_for_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tflite_guard.run.workers.MAX_LINE", 2**20)
    worker = Worker("litert", str(tmp_path), Confinement(allow_code=True))
    child = worker._started()
    child.process.kill()
    child.process.communicate()
    child.process = subprocess.Popen(["cat", "/dev/zero"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with pytest.raises(EvaluationError, match="gave an answer of more than 1 MiB") as raised:
        worker.request(ABSENT, deadline=time.monotonic() + 60)
    assert raised.value.kind == "crash"
    assert child.process.returncode is not None
    worker.close()


def test_an_answer_is_never_taken_for_the_next_request(tmp_path: Path) -> None:
    worker = Worker("litert", str(tmp_path), Confinement())
    first = worker._started().process.pid
    worker._receive, receive = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt), worker._receive  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        worker.request(ABSENT)
    worker._receive = receive  # type: ignore[method-assign]
    with pytest.raises(EvaluationError, match=r"absent\.tflite"):
        worker.request(ABSENT)
    assert worker._started().process.pid != first
    worker.close()


def test_what_a_child_left_is_read_only_where_it_is_a_regular_file(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    folder = tmp_path / "out"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "folder").mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    for name in ("pipe", "link", "folder", "/dev/zero"):
        with pytest.raises(EvaluationError):
            cache.put(key_of(name), {"model.tflite": name}, {}, folder=descriptor)
        assert cache.get(key_of(name)) is None
    os.close(descriptor)


def test_a_result_that_needed_allow_code_is_not_given_without_it(run: Run, digits: Path) -> None:
    import keras

    model = keras.Sequential(
        [keras.Input((8, 8, 1), name="image"), keras.layers.Flatten(), keras.layers.Lambda(lambda x: x * 2.0)]
    )
    model.save(digits / "models/lambda.keras")
    manifest = only(manifest_of(digits), "float32")
    manifest["models"][0] |= {"reference": {"keras": "models/lambda.keras"}, "metrics": ["sqnr"], "tolerances": {}}
    path = write_manifest(digits, manifest)
    assert run("check", path, "--allow-code").code == 0
    refused = run("check", path)
    assert refused.code == 3
    assert "Lambda" in refused.out


@pytest.mark.parametrize(
    ("said", "number", "how"),
    [
        (['{"progress": [64, 897]}'], 11, "(SIGSEGV) after 64 of 897 examples"),
        (['{"progress": [0, 0]}'], 11, "(SIGSEGV)"),  # TensorFlow is loaded, and no more
        (['{"progress": [64, 897]}'], 40, "(signal 40) after 64 of 897 examples"),
        (
            ['{"progress": [64, 897]}', '{"at": "ran examples 64 to 127"}'],
            11,
            "(SIGSEGV) after 64 of 897 examples, while it ran examples 64 to 127",
        ),
        (['{"at": "ran examples 0 to 63"}', '{"at": ""}'], 11, "(SIGSEGV)"),
    ],
)
def test_a_crash_says_in_which_step_on_which_model_and_how_far_it_came(
    tmp_path: Path, said: list[str], number: int, how: str
) -> None:
    worker = Worker("litert", str(tmp_path), Confinement())
    dying = tmp_path / "dying"
    lines = "".join(f"echo '{line}'\n" for line in said)
    dying.write_text(f"#!/bin/sh\nread call\n{lines}kill -{number} $$\n")
    dying.chmod(0o755)
    child = worker._started()
    child.process.kill()
    child.process.communicate()
    child.process = subprocess.Popen([str(dying)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with pytest.raises(EvaluationError) as raised:
        worker.request(RunReference(ABSENT.reference, DatasetSpec("d", "npz", FileSpec("d.npz"), "x"), 1))
    assert raised.value.kind == "crash"
    assert str(raised.value) == (
        f"the process that ran the reference absent.tflite crashed {how}; run with -v to see what TensorFlow or LiteRT "
        "said"
    )
    worker.close()


def test_what_an_earlier_request_said_is_not_why_a_child_ended(tmp_path: Path) -> None:
    worker = Worker("litert", str(tmp_path), Confinement())
    child = worker._started()
    os.write(child.log.fileno(), b"MemoryError, which was an answer\n")
    child.process.kill()
    child.process.communicate()
    child.process = subprocess.Popen(
        ["sh", "-c", "read call; kill -11 $$"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=child.log
    )
    with pytest.raises(EvaluationError) as raised:
        worker.request(ABSENT)
    assert raised.value.kind == "crash"
    worker.close()


@pytest.mark.parametrize("said", ["OpenBLAS blas_thread_init: pthread_create failed", "BlockingIOError: [Errno 11] "
                                  "Resource temporarily unavailable"])  # fmt: skip
def test_a_child_that_may_start_no_threads_says_so(tmp_path: Path, said: str) -> None:
    worker = Worker("litert", str(tmp_path), Confinement())
    child = worker._started()
    child.process.kill()
    child.process.communicate()
    child.process = subprocess.Popen(
        ["sh", "-c", f"read call; echo '{said}' >&2; kill -2 $$"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=child.log,
    )
    with pytest.raises(EvaluationError, match="could start no more threads; raise `ulimit -u`") as raised:
        worker.request(ABSENT)
    assert raised.value.kind == "limit"
    worker.close()


def test_a_child_without_a_keeper_ends_with_its_group(tmp_path: Path) -> None:
    """As it is on macOS."""
    worker = Worker("litert", str(tmp_path), Confinement())
    child = worker._started()
    child.process.kill()
    child.process.communicate()
    child.process = subprocess.Popen(
        ["sh", "-c", "sleep 600 & echo $! >started; wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        start_new_session=True,
    )
    with pytest.raises(EvaluationError, match="ran out of time"):
        worker.request(ABSENT, deadline=time.monotonic() + 1)
    started = int((tmp_path / "started").read_text())
    deadline = time.monotonic() + 15
    while alive(started) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(started)
    worker.close()


def test_a_child_whose_parent_was_gone_before_it_began_ends_at_once(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    kept = f"import sys; from tflite_guard.engine.keeper import go_on_kept; go_on_kept({gone.pid}); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", kept], stdin=subprocess.PIPE) as child:
        assert child.wait(timeout=60) == -9


def test_every_request_says_what_is_done_with_which_file() -> None:
    spec = ReferenceSpec("keras", FileSpec("a.keras"))
    data = DatasetSpec("d", "npz", FileSpec("d.npz"), "x")
    made = Conversion("int8", source=spec)
    evaluate = Evaluate("b.tflite", "outputs", None, data, (), EvaluationOptions(), 1)
    told: list[tuple[AnyRequest, str]] = [
        (DescribeModel(spec), "read a.keras"),
        (RunReference(spec, data, 1), "ran the reference a.keras"),
        (Convert(made), "made int8 of a.keras"),
        (ApplyRecipe("f.tflite", Conversion(recipe="own", source=spec)), "made recipe own of a.keras"),
        (evaluate, "evaluated b.tflite"),
        (ReadScales("b.tflite"), "read b.tflite"),
        (
            Diagnose(evaluate, spec, None, made, "m", True, False, None, {}, True),
            "looked for the cause of what b.tflite loses",
        ),
        (SaveOperator(evaluate, "f.tflite", "t", 1), "cut an operator out of b.tflite"),
    ]
    assert [request.doing for request, _ in told] == [doing for _, doing in told]
