"""Make faults of known kinds in healthy models, check them, and count how often the cause is named.

    python bench/faults/run.py --work FOLDER            # everything
    python bench/faults/run.py --work FOLDER --diagonal # every magnitude of every kind and model, each of another seed
    python bench/faults/run.py --work FOLDER --quick    # one magnitude and seed of every kind and model
    python bench/faults/run.py --work FOLDER --kinds channel-imbalance --models residual --make-only

The last leaves a folder with a manifest of its own for each case in FOLDER/cases: check it with
`tflite-guard check FOLDER/cases/NAME/tflite-guard.json`. Cases that exist are not made again.
"""

from __future__ import annotations

import argparse
import fnmatch
import inspect
import json
import os
import random
import shutil
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import cases
import models
import numpy as np
import score
from cases import Label
from faults import KINDS, Kind, NotHere

import tflite_guard

DEVELOPMENT, HELD_OUT = "development", "held-out"
HELD_OUT_MODELS = ("temporal",)
"""Models that rules are never made with."""
HELD_OUT_SEEDS = 5000
"""Added to the seeds of held-out cases; lower seeds were looked at when rules were mended."""
PAGE = Path(__file__).resolve().parents[2] / "docs" / "diagnosis-benchmark.md"


def main() -> int:
    """Make, check, compare and print."""
    arguments = _arguments()
    if arguments.show:
        _print(json.loads(arguments.show.read_text()), arguments)
        return 0
    work: Path = arguments.work.resolve()
    arguments.results = arguments.results or work / "results.json"
    folders = make(arguments, work)
    if arguments.make_only:
        print("\n".join(map(str, folders)))
        return 0
    results: list[dict[str, Any]] = []
    for batch in _batches(folders, arguments.batch):
        results += checked(batch, work, arguments)
        arguments.results.write_text(json.dumps(results, indent=1))
    _print(results, arguments)
    return 0


def _print(results: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    print(score.harm(results) if arguments.harm else score.page(results))
    if arguments.write:
        PAGE.write_text(score.document(results), encoding="utf-8")


def make(arguments: argparse.Namespace, work: Path) -> list[Path]:
    """Make the cases that are asked for and not there yet; their folders."""
    folders = []
    for label in wanted(arguments):
        folder = work / "cases" / label.name
        whole = (folder / cases.ABOUT).exists() or (folder / "none").exists()
        if arguments.remake or not whole:
            shutil.rmtree(folder, ignore_errors=True)
            _make(label, folder, arguments, work)
        if (folder / cases.ABOUT).exists():
            folders.append(folder)
    return folders


def _make(label: Label, folder: Path, arguments: argparse.Namespace, work: Path) -> None:
    subject = _subject(label.model, work, arguments.published)
    kind = KINDS[label.kind]
    try:
        case = kind.fault(cases.healthy(subject), label.magnitude, _rng(label))
        cases.write(case, Label(**{**vars(label), "places": case.places}), folder)
    except (NotHere, cases.FunctionChanged) as error:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "none").write_text(str(error))
    print(f"{label.name}: made" if (folder / cases.ABOUT).exists() else f"{label.name}: left out", file=sys.stderr)


_SUBJECTS: dict[str, models.Subject] = {}


def _subject(name: str, work: Path, published: Path | None) -> models.Subject:
    if name not in _SUBJECTS:
        _SUBJECTS[name] = models.load(name, work, published)
    return _SUBJECTS[name]


def _rng(label: Label) -> np.random.Generator:
    return np.random.default_rng((label.seed, zlib.crc32(f"{label.kind} {label.model} {label.magnitude}".encode())))


def wanted(arguments: argparse.Namespace) -> Iterator[Label]:
    """The labels of the cases that the arguments ask for: all, or so many of each kind and part, drawn at random."""
    labels = list(_grid(arguments))
    order = {label.name: random.Random(label.name).random() for label in labels}
    drawn: Counter[tuple[str, str]] = Counter()
    for label in sorted(labels, key=lambda one: order[one.name]):
        drawn[label.kind, label.part] += 1
        if not arguments.each or drawn[label.kind, label.part] <= arguments.each:
            yield label


def _grid(arguments: argparse.Namespace) -> Iterator[Label]:
    names = [*models.RECIPES, *(models.PUBLISHED if arguments.published else ())]
    for kind_name, kind in KINDS.items():
        if not _matches(kind_name, arguments.kinds):
            continue
        for name in (name for name in names if _matches(name, arguments.models)):
            yield from _labels(kind_name, kind, name, arguments)


def _labels(kind_name: str, kind: Kind, model: str, arguments: argparse.Namespace) -> Iterator[Label]:
    held_out_model = model in HELD_OUT_MODELS
    parts = {HELD_OUT: kind.held_out} if held_out_model else {DEVELOPMENT: kind.development, HELD_OUT: kind.held_out}
    for part, magnitudes in parts.items():
        chosen = [one for one in magnitudes if _matches(one, arguments.magnitudes)]
        seeds = range(1, arguments.seeds + 1)
        if part not in arguments.part:
            continue
        if arguments.quick:
            chosen, seeds = chosen[-1:], range(1, 2)
        for place, magnitude in enumerate(chosen):
            for seed in (seeds[place % len(seeds)],) if arguments.diagonal else seeds:
                number = seed + (HELD_OUT_SEEDS if part == HELD_OUT else 0)
                yield Label(kind_name, model, magnitude, number, part, kind.expected)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def checked(folders: Sequence[Path], work: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Check some cases in one manifest, and compare each with what is known of it."""
    file = work / f"batch-{os.getpid()}.json"
    file.write_text(json.dumps(cases.joined(list(folders), work), indent=1))
    options: dict[str, Any] = {
        "cache_dir": arguments.cache_dir,
        "no_cache": arguments.cache_dir is None,
        "baseline": "off",
    }
    if "diagnose" in inspect.signature(tflite_guard.check).parameters:
        options["diagnose"] = arguments.diagnose
    started = time.perf_counter()
    report = tflite_guard.check(file, **options)
    file.unlink()
    seconds = (time.perf_counter() - started) / len(folders)
    print(f"{len(folders)} cases, {seconds:.1f} s each", file=sys.stderr)
    abouts = [json.loads((folder / cases.ABOUT).read_text()) for folder in folders]
    return [score.result(about, model, seconds) for about, model in zip(abouts, report.models, strict=True)]


def _batches(folders: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(folders), size):
        yield folders[start : start + size]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER", help="models and cases are kept there")
    parser.add_argument("--published", type=Path, metavar="FOLDER", help="published models; see docs/benchmarks.md")
    parser.add_argument("--models", nargs="+", default=[], metavar="GLOB", help="only these models")
    parser.add_argument("--kinds", nargs="+", default=[], metavar="GLOB", help="only these kinds of faults")
    parser.add_argument("--magnitudes", nargs="+", default=[], metavar="GLOB", help="only these magnitudes")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds of each case; default 3")
    parser.add_argument(
        "--part", nargs="+", default=[DEVELOPMENT, HELD_OUT], choices=[DEVELOPMENT, HELD_OUT], help="default: both"
    )
    parser.add_argument("--quick", action="store_true", help="one magnitude and one seed of each kind and model")
    parser.add_argument("--diagonal", action="store_true", help="the first magnitude of the first seed, and so on")
    parser.add_argument("--each", type=int, metavar="N", help="at most N cases of each kind and part, drawn at random")
    parser.add_argument("--make-only", action="store_true", help="write the cases' folders and print them")
    parser.add_argument("--remake", action="store_true", help="make cases anew that are there")
    parser.add_argument("--diagnose", default="always", choices=["auto", "always", "never"], help="default: always")
    parser.add_argument("--batch", type=int, default=12, metavar="N", help="cases in one manifest; default 12")
    parser.add_argument("--cache-dir", metavar="DIR", help="take and keep results there; default: no cache")
    parser.add_argument("--results", type=Path, metavar="FILE", help="where; default: results.json in --work")
    parser.add_argument("--show", type=Path, metavar="FILE", help="make nothing: print the results of an earlier run")
    parser.add_argument("--harm", action="store_true", help="print which faults do harm, not what was named")
    parser.add_argument("--write", action="store_true", help=f"write docs/{PAGE.name}")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
