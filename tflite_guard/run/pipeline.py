"""Manifest in, report out: what is cached is taken, what is missing goes to child processes, then all is judged."""

from __future__ import annotations

import fnmatch
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tflite_guard.errors import EvaluationError, UsageError
from tflite_guard.files import make_folders, repository_path
from tflite_guard.judgement.baseline import Baseline, compare, value
from tflite_guard.judgement.judging import Outcome, reference_metrics, variant_result
from tflite_guard.manifest.types import DatasetSpec, Manifest, ModelSpec, ReferenceSpec, VariantSpec
from tflite_guard.protocol import Evaluation
from tflite_guard.results import (
    ErrorInfo,
    ManifestInfo,
    ModelResult,
    ReferenceResult,
    Report,
    Tool,
    VariantResult,
    Verdict,
)
from tflite_guard.run.cache import Cache, Entry
from tflite_guard.run.steps import (
    TOOL_NAME,
    Event,
    Hashes,
    OnEvent,
    Run,
    Steps,
    environment,
    paths_of,
    shown,
    tool_version,
)
from tflite_guard.run.workers import Confinement, OnLog, WorkerPair, WorkerPool, memory_limit, readable_paths
from tflite_guard.vocabulary import REPORT_VERSION


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what to check."""

    models: tuple[str, ...] = ()
    """Glob patterns; empty means all."""
    variants: tuple[str, ...] = ()
    cache_dir: str | None = None
    """None keeps nothing beyond this run."""
    jobs: int | None = None
    """Models at a time; None chooses by the number of cores."""
    timeout: float = 3600.0
    """Seconds a model may take."""
    allow_code: bool = False
    memory_bytes: int | None = None
    """Limit of each child; None means what the machine has."""


def run(
    manifests: Sequence[Manifest],
    options: Options = Options(),
    *,
    baselines: dict[str, Baseline] | None = None,
    on_event: OnEvent | None = None,
    on_log: OnLog | None = None,
) -> Report:
    """Check every model of some manifests.

    Args:
        manifests: what to check.
        options: how.
        baselines: manifest path to its recorded results.
        on_event: called as work proceeds, from any thread.
        on_log: called with what TensorFlow and LiteRT said.

    Raises:
        UsageError: a `models` or `variants` pattern matches nothing.
        EvaluationError: the run cannot be done at all (no space for scratch files).
    """
    chosen = select(manifests, options)
    baselines = baselines or {}
    with Engine([model for _, model in chosen], options, on_log) as engine:
        results = engine.map(
            lambda item: _check_model(engine, item[0], item[1], baselines.get(item[0].path), on_event or _ignore),
            chosen,
        )
    report = Report(
        schema_version=REPORT_VERSION,
        tool=Tool(TOOL_NAME, tool_version()),
        environment=environment(),
        verdict=Verdict.worst(result.verdict for result in results),
        models=tuple(results),
    )
    whole = not options.models and not options.variants
    notes = [note for path, one in baselines.items() if whole for note in compare(report_of(report, path), one)]
    return replace(report, notes=tuple(notes))


def report_of(report: Report, manifest: str) -> Report:
    """The part of a report that one manifest gave."""
    return replace(report, models=tuple(model for model in report.models if model.manifest.path == manifest))


def artifact(
    manifest: Manifest, model_name: str, variant_name: str, options: Options, on_log: OnLog | None = None
) -> bytes:
    """The very bytes that `run` judges for one variant."""
    model = _named(manifest.models, model_name, "model", manifest.path)
    variant = _named(model.variants, variant_name, "variant", f"model {model_name!r}")
    with Engine([model], options, on_log) as engine, engine.pool.pair() as workers:
        steps = engine.steps(manifest, model, workers, _ignore)
        return Path(steps.tflite(variant)).read_bytes()


def describe(reference: ReferenceSpec, options: Options, on_log: OnLog | None = None) -> dict[str, Any]:
    """Names, shapes and types of a model's inputs and outputs: {"inputs": {name: {"shape", "dtype"}}, "outputs": …}."""
    nothing = DatasetSpec("", "npz", "", "")
    with Engine([ModelSpec("", reference, nothing, (), ())], options, on_log) as engine, engine.pool.pair() as workers:
        worker = workers.litert if reference.kind == "tflite" else workers.tensorflow
        arguments = {"reference": msgspec.to_builtins(reference)}
        return worker.request("describe", arguments, deadline=time.monotonic() + options.timeout)


def select(manifests: Sequence[Manifest], options: Options) -> list[tuple[Manifest, ModelSpec]]:
    """The models, with the variants, that the patterns of some options ask for."""
    _refuse_idle(options.models, "--model", [model.name for one in manifests for model in one.models])
    chosen = []
    for manifest in manifests:
        for model in manifest.models:
            if not _matches(model.name, options.models):
                continue
            variants = tuple(variant for variant in model.variants if _matches(variant.name, options.variants))
            if variants or not options.variants:
                chosen.append((manifest, replace(model, variants=variants)))
    known = [
        v.name
        for one in manifests
        for model in one.models
        if _matches(model.name, options.models)
        for v in model.variants
    ]
    _refuse_idle(options.variants, "--variant", known)
    return chosen


class Engine:
    """A run's cache and child processes."""

    def __init__(self, models: Sequence[ModelSpec], options: Options, on_log: OnLog | None) -> None:
        self.options = options
        paths = [path for model in models for path in paths_of(model, options.allow_code)]
        self._cache_dir = options.cache_dir
        roots = [root for model in models for root in model.evaluation.roots]
        readable, places = readable_paths(paths), readable_paths(roots)
        kept = None
        if options.cache_dir is not None:
            _make_folder(options.cache_dir)
            kept = Cache(options.cache_dir)
            readable, places = (*readable, *kept.closed()), (*places, options.cache_dir)
        limit = options.memory_bytes if options.memory_bytes is not None else memory_limit()
        self.pool = WorkerPool(Confinement(readable, places, limit, options.allow_code), on_log)
        self.cache = kept or Cache(Path(self.pool.scratch) / "store", setting="TMPDIR")
        self.hashes = Hashes(roots)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.jobs = options.jobs or max(1, min(len(models), cores // 2))
        self.threads = max(1, cores // self.jobs)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.pool.kill()
        self.pool.close()
        if self._cache_dir is not None:
            self.cache.prune()

    def steps(self, manifest: Manifest, model: ModelSpec, workers: WorkerPair, on_event: OnEvent) -> Steps:
        """The steps of one model, whose time starts now."""
        run = Run(self.cache, self.hashes, self.threads, self.pool.scratch, self.options.allow_code)
        return Steps(run, manifest, model, workers, on_event, time.monotonic() + self.options.timeout)

    def map(self, function: Callable[[Any], ModelResult], items: Sequence[Any]) -> list[ModelResult]:
        """The function over items, `jobs` at a time, in order; an interrupt ends all children at once."""
        with ThreadPoolExecutor(self.jobs, thread_name_prefix="model") as executor:
            futures = [executor.submit(function, item) for item in items]
            try:
                return [_wait(future) for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                self.pool.kill()
                raise


def _wait(future: Future[ModelResult]) -> ModelResult:
    # A wait without a timeout cannot be interrupted by a signal on every platform.
    while True:
        try:
            return future.result(timeout=0.5)
        except TimeoutError:
            if future.done():
                return future.result()


FLOAT32 = VariantSpec("float32", quantization="float32")


def _check_model(
    engine: Engine, manifest: Manifest, model: ModelSpec, baseline: Baseline | None, on_event: OnEvent
) -> ModelResult:
    with engine.pool.pair() as workers:
        steps = engine.steps(manifest, model, workers, on_event)
        variants = _with_float32(model)
        outcomes = _evaluate_all(steps, variants)
    results = [
        variant_result(
            variant, outcome, steps.seconds.get(variant.name, {}), partial(value, baseline, model.name, variant.name)
        )
        for variant, outcome in zip(variants, outcomes, strict=True)
    ]
    float32 = results.pop(0) if len(results) > len(model.variants) else None
    shared = next((outcome.error for outcome in outcomes if outcome.shared), None)
    result = ModelResult(
        name=model.name,
        manifest=ManifestInfo(manifest.path, repository_path(manifest.path), manifest.sha256),
        reference=ReferenceResult(
            model.reference.kind, shown(model.reference.path, manifest), reference_metrics(outcomes)
        ),
        variants=tuple(results),
        verdict=Verdict.worst([*(result.verdict for result in results), Verdict.ERROR if shared else Verdict.PASS]),
        float32=float32,
        error=shared,
        notes=_float32_notes(float32),
        line=model.line,
    )
    on_event(Event(model.name, None, "done", verdict=result.verdict))
    return result


def _float32_notes(float32: VariantResult | None) -> tuple[str, ...]:
    if float32 is None or float32.error is None:
        return ()
    return (f"the float conversion by itself could not be evaluated: {float32.error.message}",)


def _with_float32(model: ModelSpec) -> list[VariantSpec]:
    """The variants, after the float conversion: it separates conversion errors from quantization errors."""
    source = model.reference.kind in ("keras", "saved_model")
    asked = any(variant.quantization == "float32" and variant.source is None for variant in model.variants)
    return [FLOAT32, *model.variants] if source and not asked else list(model.variants)


def _evaluate_all(steps: Steps, variants: Sequence[VariantSpec]) -> list[Outcome]:
    """Each variant's outcome; one is evaluated while the next is converted."""
    try:
        known = [steps.known(variant) for variant in variants]
        if not all(known):
            steps.prepare()
    except EvaluationError as error:
        return [Outcome(error=ErrorInfo(error.kind, str(error)), shared=True)] * len(variants)
    with ThreadPoolExecutor(1, thread_name_prefix="convert") as converting:
        paths = [
            converting.submit(steps.tflite, variant) if entry is None else None
            for variant, entry in zip(variants, known, strict=True)
        ]
        outcomes = []
        for variant, entry, path in zip(variants, known, paths, strict=True):
            outcomes.append(_evaluated(steps, variant, entry, path))
            steps.on_event(Event(steps.model.name, variant.name, "variant", len(outcomes), len(variants)))
        return outcomes


def _evaluated(steps: Steps, variant: VariantSpec, known: Entry | None, path: Future[str] | None) -> Outcome:
    if known is not None:
        return Outcome(msgspec.convert(known.meta, Evaluation), cached=True)
    assert path is not None
    try:
        return Outcome(msgspec.convert(steps.evaluation(variant, path.result()).meta, Evaluation))
    except EvaluationError as error:
        return Outcome(error=ErrorInfo(error.kind, str(error)))


def _refuse_idle(patterns: Sequence[str], option: str, names: Sequence[str]) -> None:
    """A pattern that matches nothing is a slip, and what it was meant to check would go unchecked."""
    for pattern in patterns:
        if not any(_matches(name, (pattern,)) for name in names):
            raise UsageError(f"{option} {pattern} matches nothing; there are {', '.join(dict.fromkeys(names))}")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _named(items: Sequence[Any], name: str, kind: str, where: str) -> Any:
    for item in items:
        if item.name == name:
            return item
    raise UsageError(f"{where} has no {kind} {name!r}; it has {', '.join(item.name for item in items)}")


def _make_folder(path: str) -> None:
    try:
        make_folders(path)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(
            f"{path}: the cache needs a folder, and a file is in its place; name another --cache-dir"
        ) from None
    except OSError as error:
        raise EvaluationError("cache", f"{path}: cannot be made ({error.strerror}); name another --cache-dir") from None


def _ignore(_: Event) -> None:
    pass
