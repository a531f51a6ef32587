"""A check on a Dask cluster, whose scheduler and workers are processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import tflite_guard
from tests.conftest import Run, manifest_of, write_manifest
from tests.run.test_sharding import untimed
from tflite_guard import EvaluationError, GuardError, Report, UsageError, cluster

Process = subprocess.Popen[bytes]


class Dask:
    """A scheduler on this machine, and workers for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "scheduler.json"
        self._workers: list[Process] = []
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0")
        until(self._file.exists)
        self.address: str = json.loads(self._file.read_text())["address"]

    def worker(self, packages: Path | None = None) -> Process:
        """A worker. Python finds packages in that folder before all others."""
        names = ("--nthreads", "1", "--no-nanny", "--local-directory", str(self._folder))
        self._workers.append(self._start("worker", *names, path="" if packages is None else str(packages)))
        return self._workers[-1]

    def connections(self) -> int:
        """How many clients the scheduler has had."""
        return (self._folder / "log").read_text().count("Receive client connection")

    def end_workers(self) -> None:
        while self._workers:
            end(self._workers.pop())

    def _start(self, what: str, *arguments: str, path: str = "") -> Process:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--scheduler-file", str(self._file)]
        paths = os.pathsep.join(filter(None, (path, os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"XDG_CACHE_HOME": str(self._folder), "PYTHONPATH": paths}
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--no-dashboard", *arguments], env=environment, stdout=log, stderr=log, cwd=self._folder
            )


def end(process: Process) -> None:
    process.kill()
    process.wait()


def until(true: Callable[[], Any]) -> None:
    while not true():
        time.sleep(0.02)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    started = Dask(tmp_path_factory.mktemp("dask"))
    yield started
    end(started.scheduler)


@pytest.fixture
def dask(scheduler: Dask) -> Iterator[Dask]:
    """A scheduler, which has the workers that a test starts."""
    yield scheduler
    scheduler.end_workers()


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[Dask]:
    """A scheduler and workers for a test that ends it."""
    started = Dask(tmp_path)
    yield started
    started.end_workers()
    end(started.scheduler)


def models_of(worker: Process) -> list[str]:
    """The processes in which a worker runs models."""
    found: list[str] = []
    with suppress(OSError):  # one that ends meanwhile
        for thread in Path(f"/proc/{worker.pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                if b"tflite_guard.engine" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
    return found


@pytest.fixture
def folder(light_digits: Path) -> Path:
    """Two models with three variants in all, one of them out of tolerance, and a baseline that has one more model."""
    manifest = manifest_of(light_digits)
    (model,) = manifest["models"]
    (shipped,) = model["variants"]
    strict = shipped | {"name": "strict", "tolerances": {"accuracy": {"min": 1.0}}}
    manifest["models"] = [model | {"variants": [shipped, strict]}, model | {"name": "again"}]
    write_manifest(light_digits, manifest)
    tool = {"name": "tflite-guard", "version": "1.0.0"}
    recorded = {"schema_version": 1, "tool": tool, "models": {"gone": {"variants": {}}}}
    (light_digits / "tflite-guard.baseline.json").write_text(json.dumps(recorded))
    return light_digits


@pytest.fixture
def checking(folder: Path, dask: Dask) -> Iterator[Callable[[], Future[Report]]]:
    """Starts a check on the cluster, from Python."""
    with ThreadPoolExecutor(1) as executor:
        options: dict[str, Any] = {"diagnose": "never", "no_cache": True, "scheduler": dask.address}
        yield lambda: executor.submit(tflite_guard.check, folder, **options)


def plain(report: str) -> dict[str, Any]:
    return untimed(json.loads(report))


def test_the_report_is_that_of_a_run_here(run: Run, folder: Path, dask: Dask) -> None:
    dask.worker()
    dask.worker()
    asked = ("check", folder.name, "--diagnose", "never", "--format", "json")
    there = run(*asked, "--scheduler", dask.address)
    here = run(*asked)
    assert (there.code, there.err) == (here.code, here.err) == (1, "")
    assert plain(there.out) == plain(here.out)
    assert there.report["notes"][1:] == [
        "model 'again' is not in the baseline",
        "model 'gone' is in the baseline but was not checked",
    ]


def test_a_killed_worker_costs_time_and_not_the_run(
    folder: Path, dask: Dask, checking: Callable[[], Future[Report]]
) -> None:
    killed = dask.worker()
    report = checking()
    until(lambda: models_of(killed))  # it is at work
    (folder / "tflite-guard.json").unlink()  # which has been sent, as every worker needs it
    dask.worker()
    end(killed)
    assert [list(model) for model in report.result().models] == [["shipped", "strict"], ["shipped"]]


def packages(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / "packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "packages"


MODULE = "def shard_report(*_): return 'tcp://10.0.0.5:1', {}"
WITHOUT = """
import importlib.metadata
def version(name, known=importlib.metadata.version):
    if name == "tflite-guard":
        raise importlib.metadata.PackageNotFoundError(name)
    return known(name)
importlib.metadata.version = version
"""
WRONG: dict[str, tuple[dict[str, str], type[GuardError], str]] = {
    "versions": (
        {"keras-2.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: keras\nVersion: 2.0\n"},
        UsageError,
        r"the worker tcp://127\.0\.0\.1:\d+ has keras 2\.0 \(here \d.*\); .* have the same there and here",
    ),
    "no tflite-guard": (
        {"sitecustomize.py": WITHOUT},
        UsageError,
        r"the worker tcp://127\.0\.0\.1:\d+ has no tflite-guard; install \d.* there, as here",
    ),
    "another tflite-guard": (
        {"tflite_guard-0.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: tflite-guard\nVersion: 0.1\n"},
        UsageError,
        r"the worker tcp://127\.0\.0\.1:\d+ has tflite-guard 0\.1; install \d.* there, as here",
    ),
    "no report": (
        {"tflite_guard/__init__.py": "", "tflite_guard/cluster.py": MODULE.format("b'{}'")},
        EvaluationError,
        r"the worker tcp://10\.0\.0\.5:1 sent what is no report; have the same tflite-guard",
    ),
    "no answer": (
        {"tflite_guard/__init__.py": "", "tflite_guard/cluster.py": MODULE.format("1")},
        EvaluationError,
        "shard 1 of 1: .*Expected `bytes`.*; have the same tflite-guard on all machines",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_worker_that_is_not_as_this_machine_is_refused(
    light_digits: Path, dask: Dask, tmp_path: Path, kind: str
) -> None:
    files, error, told = WRONG[kind]
    dask.worker(packages(tmp_path, files))
    with pytest.raises(error, match=told):
        tflite_guard.check(light_digits, no_cache=True, scheduler=dask.address)


def test_a_worker_that_does_not_see_a_file_says_which(
    folder: Path, dask: Dask, checking: Callable[[], Future[Report]]
) -> None:
    before = dask.connections()
    report = checking()
    until(lambda: dask.connections() > before)  # it has seen all files here, and waits for workers
    (folder / "app/digits_int8.tflite").unlink()
    dask.worker()
    told = r"the worker tcp://127\.0\.0\.1:\d+: .*\.json:\d+:\d+: .*digits_int8\.tflite.* \(and 2 more\); .* by URI"
    with pytest.raises(EvaluationError, match=told):
        report.result()


def test_a_lost_scheduler_is_told(folder: Path, lost: Dask) -> None:
    worker = lost.worker()
    client = client_of(folder, lost)
    until(lambda: models_of(worker))
    end(lost.scheduler)
    _, err = client.communicate()
    assert client.returncode == 3
    assert err == (
        f"tflite-guard: the scheduler {lost.address} was lost; what its workers have in their caches serves the next "
        "run\n"
    )


@pytest.mark.parametrize(
    ("how", "code", "told"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGKILL, -signal.SIGKILL, "")]
)
def test_a_client_that_ends_ends_what_workers_do(folder: Path, dask: Dask, how: int, code: int, told: str) -> None:
    worker = dask.worker()
    client = client_of(folder, dask)
    until(lambda: models_of(worker))
    client.send_signal(how)
    _, err = client.communicate()
    assert (client.returncode, err.strip()) == (code, told)
    until(lambda: not models_of(worker))
    assert worker.poll() is None


def client_of(folder: Path, dask: Dask) -> subprocess.Popen[str]:
    """A check on the cluster that takes long, from the command line."""
    manifest = manifest_of(folder)
    manifest["models"] = [manifest["models"][0] | {"name": f"m{number}"} for number in range(200)]
    write_manifest(folder, manifest)
    command = [sys.executable, "-m", "tflite_guard", "check", str(folder), "--no-cache", "--scheduler", dask.address]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
    )


def test_a_cluster_that_nobody_works_for_is_told(
    light_digits: Path, dask: Dask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.0)
    with pytest.raises(EvaluationError, match=f"the scheduler {dask.address} has had no worker for 0 seconds; start"):
        tflite_guard.check(light_digits, no_cache=True, scheduler=dask.address)


def test_a_scheduler_that_cannot_be_reached_is_told(run: Run, light_digits: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{closed.getsockname()[1]}"
        patience = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"}
        done = run("check", light_digits, "--scheduler", address, env=patience)
    assert done.code == 3
    assert re.fullmatch(rf"tflite-guard: the scheduler {address} cannot be reached \(.*\)\n", done.err)


@pytest.mark.parametrize(
    "address", ["", "10.0.0.5:8786", "tcp://", "tcp://a", "http://a:1", "tcp://a:1/x", "inproc://a:1"]
)
def test_what_is_no_address_is_told(light_digits: Path, address: str) -> None:
    with pytest.raises(UsageError, match="is no scheduler's address, such as tcp://"):
        tflite_guard.check(light_digits, scheduler=address)


def test_tls_without_certificates_is_told(light_digits: Path) -> None:
    with pytest.raises(UsageError, match="tls://localhost:1 needs a certificate: set DASK_DISTRIBUTED__COMM__TLS__CA"):
        tflite_guard.check(light_digits, scheduler="tls://localhost:1")


def test_a_shard_is_not_divided_again(run: Run, light_digits: Path) -> None:
    done = run("check", light_digits, "--shard", "1/2", "--scheduler", "tcp://localhost:1")
    assert (done.code, done.err.startswith("tflite-guard: a shard is one machine's part")) == (2, True)


def test_without_dask_the_extra_is_told(light_digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(EvaluationError, match=r"run: pip install 'tflite-guard\[dask\]'$"):
        tflite_guard.check(light_digits, scheduler="tcp://localhost:1")
