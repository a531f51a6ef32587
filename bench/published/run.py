"""Check published models with tflite-guard, MLPerf Tiny's among them, and compare the report with a plain loop.

FOLDER holds `models/` and `data/`, as docs/benchmarks.md lists them. Nothing is written to it.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import tflite_guard
from tflite_guard.reports import FORMATS
from tflite_guard.vocabulary import METRICS

HERE = Path(__file__).parent
TOYCAR = "toycar-windows.npz"
DECIBELS = 0.01
"""How far apart two SQNR may lie."""
RELATIVE = 1e-6
"""How far apart other real-valued metrics may lie, relative to their size."""
EXACT = ("accuracy", "agreement")


def main() -> int:
    """Run the benchmark and give the exit code: 1 where the plain loop differs, or a model has an error."""
    arguments = _arguments()
    folder = arguments.folder.resolve()
    with tempfile.TemporaryDirectory(prefix="published-") as work:
        manifest = write_manifest(folder, Path(work))
        started = time.perf_counter()
        report = tflite_guard.check(
            manifest,
            models=arguments.model,
            cache_dir=arguments.cache_dir,
            no_cache=arguments.cache_dir is None,
            data_roots=folder,
        )
        seconds = time.perf_counter() - started
        if arguments.verify or arguments.plain:
            plain = json.loads(arguments.plain.read_text()) if arguments.plain else run_plain_loop(folder, Path(work))
    if arguments.report_dir:
        arguments.report_dir.mkdir(parents=True, exist_ok=True)
        for rendering in FORMATS.values():
            for name, text in rendering.files(report).items():
                (arguments.report_dir / name).write_text(text, encoding="utf-8")
    print(FORMATS["text"].text(report))
    print(f"{seconds:.1f} s")
    failed = report.verdict == "error"
    if arguments.verify or arguments.plain:
        failed |= not verified(json.loads(FORMATS["json"].text(report)), plain)
    return int(failed)


def write_manifest(folder: Path, work: Path) -> Path:
    """Write the manifest with FOLDER's real path, and the ToyCar windows with the recording they belong to."""
    text = (HERE / "tflite-guard.json").read_text(encoding="utf-8")
    path = work / "tflite-guard.json"
    path.write_text(text.replace("FOLDER/", json.dumps(f"{folder}/")[1:-1]), encoding="utf-8")
    windows = np.load(folder / "data" / TOYCAR)["features"]
    np.savez(work / TOYCAR, features=windows, recording=np.zeros(len(windows), np.int64))
    return path


def run_plain_loop(folder: Path, work: Path) -> dict[str, Any]:
    """The plain loop's metrics: model to variant to metric to value."""
    out = work / "plain.json"
    command = [sys.executable, HERE / "plain_loop.py", folder, "--out", out]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)  # the converter prints much
    if finished.returncode != 0:
        raise SystemExit(f"plain_loop.py failed:\n{finished.stderr[-3000:]}")
    return json.loads(out.read_text())


def verified(report: dict[str, Any], plain: dict[str, Any]) -> bool:
    """Print both values of every metric side by side; whether all are equal as far as they should be."""
    print("\n| model | variant | metric | tflite-guard | plain loop | difference | |\n|---|---|---|---|---|---|---|")
    good, seen = True, set()
    for model, variant, metric, ours in _metrics(report):
        seen.add((model, variant, metric))
        theirs = plain[model][variant][metric]
        same = _same(metric, ours, theirs)
        good &= same
        print(
            f"| {model} | {variant} | {metric} | {_number(ours)} | {_number(theirs)} "
            f"| {_difference(ours, theirs)} | {'ok' if same else 'DIFFERENT'} |"
        )
    asked = {model["name"] for model in report["models"]}
    wanted = {(m, v, x) for m in asked for v, metrics in plain[m].items() for x in metrics}
    for missing in sorted(wanted - seen):
        good = False
        print(f"| {' | '.join(missing)} | missing | | | DIFFERENT |")
    print("\nall equal" if good else "\nsome differ")
    return good


def _metrics(report: dict[str, Any]) -> Iterator[tuple[str, str, str, float | None]]:
    """Model, variant, metric and value of all that was measured, the reference's own values first."""
    for model in report["models"]:
        for name, value in model["reference"]["metrics"].items():
            yield model["name"], "reference", name, value
        for variant in model["variants"]:
            for metric in variant["metrics"]:
                if not METRICS[metric["metric"]].of_file:  # of these the tests know what they should be
                    yield model["name"], variant["name"], metric["name"], metric["value"]


def _same(metric: str, ours: float | None, theirs: float | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    if metric in EXACT:
        return ours == theirs
    if metric == "sqnr":
        return abs(ours - theirs) <= DECIBELS
    return math.isclose(ours, theirs, rel_tol=RELATIVE)


def _number(value: float | None) -> str:
    return "identical" if value is None else f"{value:.6g}"


def _difference(ours: float | None, theirs: float | None) -> str:
    return "" if ours is None or theirs is None else f"{ours - theirs:.1g}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="models and data")
    parser.add_argument("--report-dir", type=Path, metavar="DIR", help="write the report's renderings there")
    parser.add_argument("--cache-dir", metavar="DIR", help="take and keep results there; default: no cache")
    parser.add_argument("--model", action="append", default=[], metavar="GLOB", help="only these models; repeatable")
    parser.add_argument("--verify", action="store_true", help="compare with plain_loop.py, which takes a few minutes")
    parser.add_argument("--plain", type=Path, metavar="FILE", help="compare with what plain_loop.py --out wrote")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
