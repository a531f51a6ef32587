"""How long `tflite-guard check` takes beside the script that a user writes today, on the same work.

Four conversions of ResNet8 (200 calibration samples) and their evaluation on CIFAR-10 images. The script
(by_hand.py) is one process with a batch of one; tflite-guard runs with an empty cache, then with a full one; floor.py
measures what the work takes at least. The order alternates over the rounds. FOLDER holds models/ and data/.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
TODAY, COLD, WARM = "a script today", "tflite-guard, cold cache", "tflite-guard, warm cache"
FLOOR = "the work at least"
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Run:
    """One measured command."""

    seconds: float
    cpu_seconds: float
    """User and system time of the process and all its children."""
    largest_mb: float
    """Peak resident memory of the largest process."""
    together_mb: float
    """Peak of the processes' resident memory, summed; pages that they share count once each."""
    output: str


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="models and data")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="the 2,000 images so many times; default 5")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3; the medians are printed")
    arguments = parser.parse_args()
    runs: dict[str, list[Run]] = {TODAY: [], COLD: [], WARM: [], FLOOR: []}
    with tempfile.TemporaryDirectory(prefix="speed-") as work:
        prepare(arguments.folder.resolve(), Path(work), arguments.repeat)
        for number in range(arguments.rounds):
            for name, run in _round(arguments.folder.resolve(), Path(work), number):
                runs[name].append(run)
                print(f"{name}: {run.seconds:.1f} s, {run.cpu_seconds:.1f} s CPU", file=sys.stderr)
    print(table(runs, 2000 * arguments.repeat))


def prepare(folder: Path, work: Path, repeat: int) -> None:
    """Write the repeated images, the calibration images and a manifest of relative paths."""
    for part, times in (("evaluation", repeat), ("calibration", 1)):
        data = np.load(folder / "data" / f"cifar10-{part}.npz")
        np.savez(work / f"{part}.npz", **{key: np.concatenate([data[key]] * times) for key in data})
    source = {"source": "npz", "inputs": "image", "preprocess": [{"cast": "float32"}]}
    manifest = {
        "schema_version": 1,
        "datasets": {
            "test": {**source, "path": "evaluation.npz", "labels": "label"},
            "calibration": {**source, "path": "calibration.npz"},
        },
        "models": [
            {
                "name": "resnet8",
                "reference": {"keras": str(_model(folder))},
                "evaluation": "test",
                "calibration": "calibration",
                "calibration_options": {"samples": 200},
                "metrics": ["accuracy", "agreement", "sqnr"],
                "tolerances": {"accuracy": {"max_drop": 0.02}},
                "variants": [
                    "float32", "float16", "dynamic_range", {"name": "int8", "quantization": "int8", "io": "int8"},
                ],
            }
        ],
    }  # fmt: skip
    (work / "tflite-guard.json").write_text(json.dumps(manifest))


def table(runs: dict[str, list[Run]], images: int) -> str:
    """Medians over the rounds, as a Markdown table."""
    lines = [
        f"{images:,} images, median of {len(runs[TODAY])}, {os.cpu_count()} cores",
        "",
        "| | wall time | CPU time | ratio of wall times | largest process | all processes |",
        "|---|---|---|---|---|---|",
    ]
    today = statistics.median(run.seconds for run in runs[TODAY])
    for name, measured in runs.items():
        wall, cpu, largest, together = (
            statistics.median(getattr(run, key) for run in measured)
            for key in ("seconds", "cpu_seconds", "largest_mb", "together_mb")
        )
        lines.append(
            f"| {name} | {wall:.1f} s | {cpu:.1f} s | {wall / today:.2f} | {largest:,.0f} MB | {together:,.0f} MB |"
        )
    return "\n".join(lines)


def _round(folder: Path, work: Path, number: int) -> list[tuple[str, Run]]:
    """Each command once, the script first in every other round. Refuses results that differ."""
    script = [HERE / "by_hand.py", _model(folder), work / "evaluation.npz", work / "calibration.npz"]
    cache = work / f"cache-{number}"
    check = ["-m", "tflite_guard", "check", work / "tflite-guard.json", "--data-root", folder, "--cache-dir", cache]
    check += ["--format", "json"]
    commands = [(COLD, check), (WARM, check)]
    commands.insert(0 if number % 2 == 0 else 2, (TODAY, script))
    commands.append((FLOOR, [HERE / "floor.py", *script[1:]]))
    measured = {name: measure([sys.executable, *map(str, command)], work) for name, command in commands}
    found = [_accuracies(run.output) for name, run in measured.items() if name != FLOOR]
    if any(other != found[0] for other in found):
        raise SystemExit(f"the accuracies differ: {found}")
    measured[FLOOR] = _at_least(measured[FLOOR])
    return list(measured.items())


def _at_least(run: Run) -> Run:
    """What the parts that floor.py measured would take at once, after TensorFlow's import."""
    found = json.loads(run.output.splitlines()[-1])
    print(f"parts: {found}", file=sys.stderr)
    rest = sum(found["parts"].values())
    cores = len(os.sched_getaffinity(0))
    return replace(run, seconds=found["import_seconds"] + rest / cores, cpu_seconds=found["import_seconds"] + rest)


def _accuracies(output: str) -> dict[str, float]:
    # The converter prints, so the script's own line is the last one.
    result = json.loads(output if output.startswith("{") else output.splitlines()[-1])
    if "models" not in result:
        return result
    model = result["models"][0]
    values = {v["name"]: m["value"] for v in model["variants"] for m in v["metrics"] if m["name"] == "accuracy"}
    return {"reference": model["reference"]["metrics"]["accuracy"], **values}


def measure(command: list[str], folder: Path) -> Run:
    """Run a command to its end. Raises SystemExit when it fails."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=log, cwd=folder, env=environment)
        watch = _Memory(process.pid)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        watch.stop()
        out.seek(0)
        log.seek(0)
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read().decode()[-2000:]}")
        output = out.read().decode()
    # Of a process and the children that it waited for, ru_maxrss is the largest one's; in kilobytes.
    cpu = usage.ru_utime + usage.ru_stime
    return Run(seconds, cpu, usage.ru_maxrss / 1e3, watch.peak / 1e6, output)


class _Memory(threading.Thread):
    """Samples the resident memory of a process and its descendants, summed (Linux; else 0)."""

    EVERY_SECONDS = 0.1

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._pid = pid
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self.EVERY_SECONDS):
            self.peak = max(self.peak, sum(_resident(pid) for pid in _family(self._pid)))

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _family(root: int) -> list[int]:
    members = [root]
    for pid in members:
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                members += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return members


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0


def _model(folder: Path) -> Path:
    return folder / "models" / "mlperf-tiny" / "ic_resnet8.h5"


if __name__ == "__main__":
    main()
