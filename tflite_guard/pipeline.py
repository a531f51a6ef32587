"""Manifest in, report out: what is cached is taken, what is missing goes to child processes, then all is judged."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.metadata
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import msgspec

from tflite_guard.baseline import Baseline, compare, value
from tflite_guard.cache import Cache, Entry, key_of
from tflite_guard.errors import EvaluationError, UsageError
from tflite_guard.files import sha256_of
from tflite_guard.manifest.types import CalibrationOptions, DatasetSpec, Manifest, ModelSpec, ReferenceSpec, VariantSpec
from tflite_guard.results import (
    Artifact,
    ErrorInfo,
    Finding,
    ManifestInfo,
    Measurement,
    MetricResult,
    ModelResult,
    Observed,
    ReferenceResult,
    Report,
    Tool,
    VariantResult,
    Verdict,
)
from tflite_guard.verdict import judge, within_steps
from tflite_guard.vocabulary import QUANTIZATIONS, REPORT_VERSION
from tflite_guard.workers import Confinement, OnLog, Worker, WorkerPair, WorkerPool, memory_limit, readable_paths

TOOL_NAME = "tflite-guard"


@dataclass(frozen=True)
class Event:
    """Something to show while a run works."""

    model: str
    variant: str | None
    phase: str
    """`reference`, `convert`, `evaluate`, `done`."""
    done: int = 0
    total: int = 0
    verdict: Verdict | None = None


OnEvent = Callable[[Event], None]
Recorded = Callable[[str], float | None]
"""A metric's name to its value in the baseline."""


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
        steps = _Steps(engine, manifest, model, workers, _ignore, time.monotonic() + options.timeout)
        return Path(steps.tflite(variant)).read_bytes()


def describe(reference: ReferenceSpec, options: Options, on_log: OnLog | None = None) -> dict[str, Any]:
    """Names, shapes and types of a model's inputs and outputs: {"inputs": {name: {"shape", "dtype"}}, "outputs": …}."""
    nothing = DatasetSpec("", "npz", "", "")
    with Engine([ModelSpec("", reference, nothing, (), ())], options, on_log) as engine, engine.pool.pair() as workers:
        worker = workers.litert if reference.kind == "tflite" else workers.tensorflow
        arguments = {"reference": msgspec.to_builtins(reference)}
        described, _ = worker.request("describe", arguments, deadline=time.monotonic() + options.timeout)
        return described


def select(manifests: Sequence[Manifest], options: Options) -> list[tuple[Manifest, ModelSpec]]:
    """The models, with the variants, that the patterns of some options ask for."""
    chosen = []
    for manifest in manifests:
        for model in manifest.models:
            if not _matches(model.name, options.models):
                continue
            variants = tuple(variant for variant in model.variants if _matches(variant.name, options.variants))
            if variants or not options.variants:
                chosen.append((manifest, replace(model, variants=variants)))
    if not chosen:
        asked = " ".join(
            [*(f"--model {name}" for name in options.models), *(f"--variant {name}" for name in options.variants)]
        )
        known = ", ".join(
            f"{model.name} ({', '.join(v.name for v in model.variants)})" for m in manifests for model in m.models
        )
        raise UsageError(f"{asked} matches nothing; the manifest has {known}")
    return chosen


def environment() -> dict[str, Any]:
    """The versions that results depend on, without importing any of them."""
    return {
        "python": platform.python_version(),
        "tensorflow": _version("tensorflow", "tensorflow-cpu"),
        "keras": _version("keras"),
        "ai_edge_litert": _version("ai-edge-litert"),
        "ai_edge_quantizer": _version("ai-edge-quantizer"),
        "numpy": _version("numpy"),
        "platform": f"{platform.system()} {platform.machine()}",
    }


@cache
def tool_version() -> str:
    """This tool's version."""
    return importlib.metadata.version(TOOL_NAME)


class Engine:
    """A run's cache and child processes."""

    def __init__(self, models: Sequence[ModelSpec], options: Options, on_log: OnLog | None) -> None:
        self.options = options
        paths = [path for model in models for path in _paths_of(model, options.allow_code)]
        self._cache_dir = options.cache_dir
        readable = readable_paths(paths)
        if options.cache_dir is not None:
            _make_folder(options.cache_dir)
            readable = (*readable, options.cache_dir)
        limit = options.memory_bytes if options.memory_bytes is not None else memory_limit()
        self.pool = WorkerPool(Confinement(readable, limit, options.allow_code), on_log)
        if options.cache_dir is not None:
            self.cache = Cache(options.cache_dir)
        else:
            self.cache = Cache(Path(self.pool.scratch) / "store", setting="TMPDIR")
        self.hashes = _Hashes()
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


class _Hashes:
    """Content hashes of the files of a run, each computed once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, path: str) -> str:
        with self._lock:
            if path not in self._known:
                try:
                    self._known[path] = sha256_of(path)
                except OSError as error:
                    raise EvaluationError("file", f"{path}: cannot be read ({error.strerror})") from None
            return self._known[path]


@dataclass
class _Steps:
    """The steps of one model: each answered from the cache or done by a child, each at most once."""

    engine: Engine
    manifest: Manifest
    model: ModelSpec
    workers: WorkerPair
    on_event: OnEvent
    deadline: float
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)

    @cached_property
    def reference(self) -> Entry:
        """The reference's outputs over the evaluation data."""
        spec = self.model.reference
        worker = self.workers.tensorflow if spec.kind in ("keras", "saved_model") else self.workers.litert
        arguments = {
            "reference": msgspec.to_builtins(spec),
            "dataset": msgspec.to_builtins(self.model.evaluation),
            "threads": self.engine.threads,
        }
        return self._step(self._reference_key, worker, "reference", arguments, None, "reference")

    def prepare(self) -> None:
        """Have the reference's outputs ready, or raise why they cannot be."""
        _ = self.reference

    @cached_property
    def _reference_key(self) -> str:
        return key_of(
            "reference", self._model_key(self.model.reference), self._data_key(self.model.evaluation), _code()
        )

    def tflite(self, variant: VariantSpec) -> str:
        """The path of the variant's .tflite: the user's own, or one made from the source."""
        if variant.tflite is not None:
            return variant.tflite
        source = variant.source or self.model.reference
        if source.kind == "tflite" and variant.quantization == "float32":
            return source.path
        return str(self._converted(variant, source).folder / "model.tflite")

    def _converted(self, variant: VariantSpec, source: ReferenceSpec) -> Entry:
        if source.kind == "outputs":
            raise EvaluationError(
                "conversion", "recorded outputs hold no model to convert; give the variant a `source` or `tflite`"
            )
        arguments: dict[str, Any] = {"variant": msgspec.to_builtins(_conversion_part(variant))}
        if variant.recipe is not None:
            arguments["float32"] = self.tflite(VariantSpec("float32", quantization="float32", source=source))
            return self._step(
                self._artifact_key(variant), self.workers.litert, "recipe", arguments, variant.name, "convert"
            )
        arguments["reference"] = msgspec.to_builtins(source)
        return self._step(
            self._artifact_key(variant), self.workers.tensorflow, "convert", arguments, variant.name, "convert"
        )

    def evaluation(self, variant: VariantSpec, tflite: str) -> Entry:
        """The variant's measurements."""
        key = self.evaluation_key(variant)
        arguments = {
            "tflite": tflite,
            "reference": str(self.reference.folder),
            "names": self.reference.meta["names"],
            "dataset": msgspec.to_builtins(self.model.evaluation),
            "metrics": msgspec.to_builtins(self.model.metrics),
            "variant": msgspec.to_builtins(variant),
            "threads": self.engine.threads,
        }
        return self._step(key, self.workers.litert, "evaluate", arguments, variant.name, "evaluate", ("scores.npz",))

    def evaluation_key(self, variant: VariantSpec) -> str:
        """Depends on everything but tolerances, so that changing one re-runs nothing."""
        observed = variant.observed_outputs and self.engine.hashes(variant.observed_outputs)
        asked = (variant.kernels, variant.require_integer, variant.quantization, observed)
        metrics = msgspec.to_builtins(self.model.metrics)
        return key_of(
            "evaluation", self._artifact_key(variant), self._reference_key, metrics, asked, self._salt(), _code()
        )

    def known(self, variant: VariantSpec) -> Entry | None:
        """The variant's measurements if they are in the cache."""
        return self.engine.cache.peek(self.evaluation_key(variant))

    def _artifact_key(self, variant: VariantSpec) -> str:
        if variant.tflite is not None:
            return key_of("file", self.engine.hashes(variant.tflite))
        source = variant.source or self.model.reference
        calibration = self._data_key(variant.calibration) if variant.calibration is not None else None
        recipe = variant.recipe
        if recipe is not None and os.path.isabs(recipe):
            recipe = self.engine.hashes(recipe)
        how = msgspec.to_builtins(replace(_conversion_part(variant), recipe=recipe, calibration=None, source=None))
        return key_of("artifact", self._model_key(source), how, calibration, _code())

    def _model_key(self, spec: ReferenceSpec) -> str:
        return key_of(spec.kind, self.engine.hashes(spec.path), spec.signature, spec.input_shapes)

    def _data_key(self, spec: DatasetSpec) -> str:
        files = [spec.path, spec.labels_file] if spec.source != "python" else []
        content = msgspec.to_builtins(replace(spec, name="", path="", labels_file=None, root="", sha256=None))
        return key_of(content, [self.engine.hashes(path) for path in files if path is not None], self._salt(spec))

    def _salt(self, spec: DatasetSpec | None = None) -> str | None:
        """Code of the user's is not hashed, so what it gives is never taken from an earlier run."""
        python = any(metric.python for metric in self.model.metrics) if spec is None else spec.source == "python"
        return self.engine.pool.scratch if python else None

    def _step(
        self,
        key: str,
        worker: Worker,
        task: str,
        arguments: dict[str, Any],
        variant: str | None,
        phase: str,
        files: Sequence[str] | None = None,
    ) -> Entry:
        known = self.engine.cache.get(key)
        if known is not None:
            return known
        self.on_event(Event(self.model.name, variant, phase))
        started = time.monotonic()
        try:
            result, out = worker.request(
                task,
                arguments,
                deadline=self.deadline,
                progress=lambda done, total: self.on_event(Event(self.model.name, variant, phase, done, total)),
                writes=True,
            )
        except EvaluationError as error:
            raise EvaluationError(error.kind, self._as_written(str(error), arguments.get("tflite"))) from None
        names = files if files is not None else result.get("files", ("model.tflite",))
        entry = self.engine.cache.put(key, {_plain(name): out / _plain(name) for name in names}, result)
        shutil.rmtree(out, ignore_errors=True)
        self.seconds.setdefault(variant or "", {})[phase] = round(time.monotonic() - started, 3)
        return entry

    def _as_written(self, message: str, tflite: str | None) -> str:
        """A message with the paths that it names as the manifest has them, and none of the cache's."""
        paths = sorted({path for path in _paths_of(self.model, False) if path}, key=len, reverse=True)
        if tflite is not None and tflite not in paths:
            message = message.replace(tflite, "the converted model")
        for path in paths:
            message = message.replace(path, _shown(path, self.manifest))
        return message


@dataclass(frozen=True)
class _Outcome:
    """What became of one variant before any tolerance is applied."""

    entry: Entry | None = None
    cached: bool = False
    error: ErrorInfo | None = None
    shared: bool = False
    """The error is the reference's, so it is every variant's."""


FLOAT32 = VariantSpec("float32", quantization="float32")


def _check_model(
    engine: Engine, manifest: Manifest, model: ModelSpec, baseline: Baseline | None, on_event: OnEvent
) -> ModelResult:
    with engine.pool.pair() as workers:
        steps = _Steps(engine, manifest, model, workers, on_event, time.monotonic() + engine.options.timeout)
        variants = _with_float32(model)
        outcomes = _evaluate_all(steps, variants)
    results = [
        _variant_result(
            variant, outcome, steps.seconds.get(variant.name, {}), partial(value, baseline, model.name, variant.name)
        )
        for variant, outcome in zip(variants, outcomes, strict=True)
    ]
    float32 = results.pop(0) if len(results) > len(model.variants) else None
    shared = next((outcome.error for outcome in outcomes if outcome.shared), None)
    result = ModelResult(
        name=model.name,
        manifest=ManifestInfo(manifest.path, manifest.sha256),
        reference=ReferenceResult(
            model.reference.kind, _shown(model.reference.path, manifest), _reference_metrics(outcomes)
        ),
        variants=tuple(results),
        verdict=Verdict.worst([*(result.verdict for result in results), Verdict.ERROR if shared else Verdict.PASS]),
        float32=float32,
        error=shared,
        line=model.line,
    )
    on_event(Event(model.name, None, "done", verdict=result.verdict))
    return result


def _with_float32(model: ModelSpec) -> list[VariantSpec]:
    """The variants, after the float conversion: it separates conversion errors from quantization errors."""
    source = model.reference.kind in ("keras", "saved_model")
    asked = any(variant.quantization == "float32" and variant.source is None for variant in model.variants)
    return [FLOAT32, *model.variants] if source and not asked else list(model.variants)


def _evaluate_all(steps: _Steps, variants: Sequence[VariantSpec]) -> list[_Outcome]:
    """Each variant's outcome; one is evaluated while the next is converted."""
    try:
        known = [steps.known(variant) for variant in variants]
        if not all(known):
            steps.prepare()
    except EvaluationError as error:
        return [_Outcome(error=ErrorInfo(error.kind, str(error)), shared=True)] * len(variants)
    with ThreadPoolExecutor(1, thread_name_prefix="convert") as converting:
        paths = [
            converting.submit(steps.tflite, variant) if entry is None else None
            for variant, entry in zip(variants, known, strict=True)
        ]
        return [_evaluated(steps, *item) for item in zip(variants, known, paths, strict=True)]


def _evaluated(steps: _Steps, variant: VariantSpec, known: Entry | None, path: Future[str] | None) -> _Outcome:
    if known is not None:
        return _Outcome(known, cached=True)
    assert path is not None
    try:
        return _Outcome(steps.evaluation(variant, path.result()))
    except EvaluationError as error:
        return _Outcome(error=ErrorInfo(error.kind, str(error)))


def _variant_result(
    variant: VariantSpec, outcome: _Outcome, seconds: dict[str, float], baseline: Recorded
) -> VariantResult:
    how = variant.quantization or (variant.recipe and Path(variant.recipe).name)
    if outcome.entry is None:
        return VariantResult(
            variant.name, how, Verdict.ERROR, False, None, (), (), (), outcome.error, seconds, line=variant.line
        )
    meta = outcome.entry.meta
    metrics, findings = _judged(meta["measurements"], variant, baseline)
    made = msgspec.convert(meta["artifact"], Artifact)
    observed = _observed(meta["observed"], variant)
    findings = [*findings, *_integer_findings(made, variant)]
    error = _float_operators_error(made, variant)
    verdicts = [*(metric.verdict for metric in metrics), observed.verdict if observed else Verdict.PASS]
    ignored = {entry.rule for entry in variant.ignore}
    return VariantResult(
        name=variant.name,
        quantization=how,
        verdict=Verdict.ERROR if error else Verdict.worst(verdicts),
        cached=outcome.cached,
        artifact=made,
        metrics=tuple(metrics),
        findings=tuple(finding for finding in findings if finding.rule not in ignored),
        remedies=(),
        error=error,
        seconds=seconds,
        observed=observed,
        line=variant.line,
    )


def _judged(
    measured: list[dict[str, Any]], variant: VariantSpec, baseline: Recorded
) -> tuple[list[MetricResult], list[Finding]]:
    metrics: list[MetricResult] = []
    findings: list[Finding] = []
    for item in measured:
        measurement = msgspec.convert(item["measurement"], Measurement)
        result, found = judge(measurement, variant.tolerances.get(item["of"]), baseline(measurement.name))
        metrics.append(result)
        findings.extend(found)
    return metrics, findings


def _observed(raw: dict[str, Any] | None, variant: VariantSpec) -> Observed | None:
    if raw is None or variant.observed_outputs is None:
        return None
    metrics, _ = _judged(raw["measurements"], variant, lambda _: None)
    own = within_steps(raw["max_steps"][variant.kernels], variant.observed_tolerance)
    return Observed(
        path=Path(variant.observed_outputs).name,
        metrics=tuple(metrics),
        max_steps=raw["max_steps"],
        tolerance=variant.observed_tolerance,
        steps_verdict=own,
        verdict=Verdict.worst([own, *(metric.verdict for metric in metrics)]),
    )


def _integer_findings(made: Artifact, variant: VariantSpec) -> list[Finding]:
    if not made.float_operators or variant.require_integer:
        return []
    message = f"{_float_operators(made)}; a device without float support cannot run it"
    return [Finding("partially-quantized", "note", message, evidence={"float_operators": list(made.float_operators)})]


def _float_operators_error(made: Artifact, variant: VariantSpec) -> ErrorInfo | None:
    if not made.float_operators or not variant.require_integer:
        return None
    return ErrorInfo("float-operators", f"{_float_operators(made)}, and the variant has `require_integer`")


def _float_operators(made: Artifact) -> str:
    count, shown = len(made.float_operators), ", ".join(made.float_operators[:3])
    more = f" and {count - 3} more" if count > 3 else ""
    return f"{count} of {made.operators} operators compute in float: {shown}{more}"


def _reference_metrics(outcomes: Sequence[_Outcome]) -> dict[str, float | None]:
    """The reference's own values, which every evaluated variant has measured alike."""
    for outcome in outcomes:
        if outcome.entry is not None:
            measured = [item["measurement"] for item in outcome.entry.meta["measurements"]]
            return {item["name"]: item["reference"] for item in measured if item["reference"] is not None}
    return {}


def _conversion_part(variant: VariantSpec) -> VariantSpec:
    """What of a variant its conversion depends on; so the same conversion under two names is done once."""
    integer = variant.recipe is not None or QUANTIZATIONS[variant.quantization or "float32"].calibrated
    return VariantSpec(
        name="",
        quantization=variant.quantization,
        recipe=variant.recipe,
        io=variant.io,
        source=variant.source,
        calibration=variant.calibration if integer else None,
        calibration_options=variant.calibration_options if integer else CalibrationOptions(),
        keep_float=variant.keep_float,
    )


@cache
def _code() -> str:
    """A hash of this package's own code and of the versions of what it runs: a result is theirs too."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return key_of(digest.hexdigest(), environment())


def _version(*names: str) -> str | None:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _paths_of(model: ModelSpec, allow_code: bool) -> Iterator[str | None]:
    """Every file that a child may need for a model; the whole root only where its code is to be run."""
    for spec in (model.reference, *(variant.source for variant in model.variants)):
        yield spec.path if spec is not None else None
    for data in (model.evaluation, *(variant.calibration for variant in model.variants)):
        if data is not None:
            yield from (data.path, data.labels_file, data.root if allow_code else None)
    for variant in model.variants:
        yield from (variant.tflite, variant.recipe, variant.observed_outputs)


def _shown(path: str, manifest: Manifest) -> str:
    """A path of the manifest as a user has it: from the manifest's folder."""
    return os.path.relpath(path, os.path.realpath(manifest.folder))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _named(items: Sequence[Any], name: str, kind: str, where: str) -> Any:
    for item in items:
        if item.name == name:
            return item
    raise UsageError(f"{where} has no {kind} {name!r}; it has {', '.join(item.name for item in items)}")


def _make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(
            f"{path}: the cache needs a folder, and a file is in its place; name another --cache-dir"
        ) from None
    except OSError as error:
        raise EvaluationError("cache", f"{path}: cannot be made ({error.strerror}); name another --cache-dir") from None


def _plain(name: str) -> str:
    """A file's name, from a child that is not trusted: no path."""
    if name != os.path.basename(name) or name in ("", ".", ".."):
        raise EvaluationError("crash", "the process that ran the model gave a file name that is none")
    return name


def _ignore(_: Event) -> None:
    pass
