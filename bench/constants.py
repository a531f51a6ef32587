"""What the parts of a check cost: measured constants for docs/scaling.md and simulate.py.

python bench/constants.py FOLDER... [--rounds N] > bench/constants.json measures published models, each in a process of
its own, by doing the steps of a real check in it one after the other. Processor time is what is measured, since other
work on the machine changes it least. Data is random: what it holds makes no step slower. FOLDER holds the models.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from speed import measure

KINDS = {
    "ResNet8": ({"keras": "mlperf-tiny/ic_resnet8.h5"}, (32, 32, 3), "uint8"),
    "MobileNet": ({"keras": "published/vww_96.h5"}, (96, 96, 3), "uint8"),
    "DS-CNN": ({"saved_model": "published/kws_ref_model"}, (49, 10, 1), "float32"),
    "wake word": ({"keras": "mlperf-tiny/sww_ds_cnn_keras2.h5"}, (30, 1, 40), "float32"),
    "autoencoder": ({"keras": "mlperf-tiny/ad01.h5"}, (640,), "float32"),
}
"""Each model's reference, the shape of an example and the type that it is stored in."""
INTEGERS = {"name": "integers", "quantization": "int8", "io": "int8"}
VARIANTS = ["float32", "float16", "dynamic_range", "int8", INTEGERS]
WARM_UP, FEW, MANY = 64, 500, 2500
"""Examples: those that load everything, and two sizes, whose difference is what an example costs."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the models")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3; medians are printed")
    parser.add_argument("--kind", choices=KINDS, help="measure this one here, once")
    arguments = parser.parse_args()
    if arguments.kind is not None:
        print(json.dumps(measured(arguments.folder.resolve(), arguments.kind)))
        return
    command = [sys.executable, __file__, str(arguments.folder)]
    rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(arguments.rounds):
        for kind, found in rounds.items():
            done = subprocess.run([*command, "--kind", kind], check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(kind, found[-1], file=sys.stderr)
    merging = merged(arguments.folder.resolve())
    start = [one.pop("start") for found in rounds.values() for one in found]
    print(json.dumps({
        "machine": f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "start": round(statistics.median(start), 2),
        **merging,
        "kinds": {kind: _medians(found) for kind, found in rounds.items()},
        "spread": round(statistics.median(_spreads(rounds)), 3),
    }, indent=2))  # fmt: skip


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(f"{statistics.median(one[name] for one in found):.3g}") for name in found[0]}


def _spreads(rounds: Mapping[str, list[dict[str, float]]]) -> Iterator[float]:
    """Of each quantity its standard deviation over the rounds as a share of its mean."""
    for found in rounds.values():
        for name in found[0] if len(found) > 1 else ():
            values = [one[name] for one in found]
            if name != "example_bytes":
                yield statistics.stdev(values) / statistics.mean(values)


def measured(folder: Path, kind: str) -> dict[str, float]:
    """Processor seconds of one model's steps.

    `start` is TensorFlow's import; `load` the model's first prediction; `reference` one example of it; `export` what
    the first conversion takes over the others; `convert` and `evaluate` one variant and one example of it.
    """
    started = time.process_time()
    import tensorflow  # noqa: F401

    found = {"start": time.process_time() - started}
    with tempfile.TemporaryDirectory(prefix="constants-") as work:
        seconds = {examples: _check(folder, kind, Path(work), examples) for examples in (WARM_UP, FEW, MANY)}
    per_example = {
        name: (seconds[MANY][name] - seconds[FEW][name]) / (MANY - FEW)
        for name in seconds[MANY]
        if name == "reference" or name.startswith("evaluate")
    }
    conversions = [seconds[WARM_UP][name] for name in seconds[WARM_UP] if name.startswith("convert")]
    evaluations = [name for name in per_example if name.startswith("evaluate")]
    return {
        **found,
        "load": seconds[WARM_UP]["reference"],
        "reference": per_example["reference"],
        "export": conversions[0] - statistics.median(conversions),
        "convert": statistics.median(conversions),
        "evaluate": statistics.mean(per_example[name] for name in evaluations),
        "evaluation": statistics.mean(seconds[FEW][name] - FEW * per_example[name] for name in evaluations),
        "example_bytes": int(np.prod(KINDS[kind][1])) * np.dtype(KINDS[kind][2]).itemsize,
    }


def merged(folder: Path, models: int = 1000, shards: int = 64) -> dict[str, float]:
    """What merging takes: processor seconds and bytes of report for each variant, and the memory of it all."""
    command = [sys.executable, "-m", "tflite_guard"]
    with tempfile.TemporaryDirectory(prefix="constants-") as place:
        work = Path(place)
        manifest = _manifest(folder, "ResNet8", work, FEW, converted=True)
        one = [*command, "check", str(manifest), "--data-root", str(folder), "--no-cache", "--shard", "1/1"]
        report = json.loads(measure([*one, "--format", "json"], work).output)
        (model,), (planned,) = report["models"], report["shard"]["plan"]
        report["shard"] |= {"of": shards, "plan": [planned | {"name": str(number)} for number in range(models)]}
        for number in range(shards):
            mine = [model | {"name": str(each)} for each in range(number, models, shards)]
            shard = report["shard"] | {"number": number + 1}
            (work / f"{number:02}.report").write_text(json.dumps(report | {"models": mine, "shard": shard}))
        run = measure([*command, "merge", *map(str, sorted(work.glob("*.report"))), "--report-dir", "all"], work)
        variants = models * len(VARIANTS)
        return {
            "merge": round(run.cpu_seconds / variants, 5),
            "merge_mb": round(run.largest_mb),
            "report_bytes": round((work / "all" / "report.json").stat().st_size / variants),
            "page_bytes": round((work / "all" / "report.html").stat().st_size / variants),
        }


def _check(folder: Path, kind: str, work: Path, examples: int) -> dict[str, float]:
    """Processor seconds of each step of a check on so many examples; what was converted before comes from the cache."""
    from tflite_guard.manifest import load
    from tflite_guard.run.jobs import Options, jobs
    from tflite_guard.run.steps import Steps
    from tflite_guard.run.workers import WorkerPair
    from tflite_guard.run.workshop import Workshop

    manifest = load(str(_manifest(folder, kind, work, examples)), data_roots=[str(folder)])
    (job,) = jobs([manifest], options := Options(cache_dir=str(work / "cache"), jobs=1))
    found: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        before = time.process_time()
        yield
        found[name] = time.process_time() - before

    with Workshop([job], options) as workshop:
        pair: Any = WorkerPair(_HERE, _HERE)  # type: ignore[arg-type]
        steps = Steps(workshop, job, pair, lambda _: None, time.monotonic() + 3600)
        with timed("reference"):
            _ = steps.reference
        for variant in job.model.variants:
            with timed(f"convert {variant.name}"):
                path = steps.tflite(variant)
            with timed(f"evaluate {variant.name}"):
                steps.evaluation(variant, path)
    return found


class _Here:
    """Does in this process what children do, so that each step's processor time is this process's."""

    loads_first = False

    def __init__(self) -> None:
        self._session: Any = None

    @contextmanager
    def writing(self, request: Any, **_: Any) -> Iterator[tuple[Any, int]]:
        """The answer, and a descriptor of the folder that its files are in."""
        from tflite_guard.engine.tasks import Session

        with tempfile.TemporaryDirectory(prefix="constants-") as out:
            if self._session is None:
                self._scratch = tempfile.TemporaryDirectory(prefix="constants-")
                self._session = Session(allow_code=False, scratch=self._scratch.name, roots=("/",))
            answer = self._session.run(request, out, lambda *_: None)
            descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
            try:
                yield answer, descriptor
            finally:
                os.close(descriptor)


_HERE = _Here()


def _manifest(folder: Path, kind: str, work: Path, examples: int, *, converted: bool = False) -> Path:
    """A manifest of one model; `converted` takes the published .tflite files of ResNet8, which need no TensorFlow."""
    reference, shape, stored = KINDS[kind]
    variants: list[Any] = VARIANTS
    if converted:
        reference = {"tflite": "mlperf-tiny/ic_resnet8_float32.tflite"}
        shipped = str(folder / "mlperf-tiny/ic_resnet8_int8.tflite")
        variants = [{"name": str(number), "tflite": shipped} for number in range(len(VARIANTS))]
    rng = np.random.default_rng(0)
    for name, count in (("calibration", 200), (f"evaluation-{examples}", examples)):
        values = rng.random((count, *shape)) if stored == "float32" else rng.integers(0, 256, (count, *shape))
        np.savez(work / f"{name}.npz", x=values.astype(stored))
    source = {"source": "npz", "inputs": "x", "preprocess": [{"cast": "float32"}]}
    model = {
        "name": kind,
        "reference": {name: str(folder / path) for name, path in reference.items()},
        "evaluation": "test",
        "calibration": "calibration",
        "metrics": ["agreement", "sqnr"],
        "variants": variants,
    }
    datasets = {
        "test": {**source, "path": f"evaluation-{examples}.npz"},
        "calibration": {**source, "path": "calibration.npz"},
    }
    path = work / f"{examples}.json"
    path.write_text(json.dumps({"schema_version": 1, "datasets": datasets, "models": [model]}))
    return path


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
