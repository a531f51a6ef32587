"""Manifest in, report out: what is cached is taken, what is missing goes to child processes, then all is judged."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from tflite_guard.errors import EvaluationError, GuardError, UsageError
from tflite_guard.files import shortage
from tflite_guard.judgement.baseline import Baseline, compare, other_environment, value
from tflite_guard.judgement.judging import Outcome, loss_of, reference_result, variant_result, with_diagnosis
from tflite_guard.manifest.schema import check_numbers, validator
from tflite_guard.manifest.types import Manifest, ReferenceSpec, VariantSpec
from tflite_guard.protocol import DescribeModel, Diagnosed, Evaluation, Names, SavedOperator
from tflite_guard.results import (
    Diagnosis,
    ErrorInfo,
    ModelResult,
    ReferenceResult,
    Report,
    Shard,
    Tool,
    VariantResult,
    Verdict,
)
from tflite_guard.run import sharding
from tflite_guard.run.jobs import Job, Options, hidden_rungs, job, jobs
from tflite_guard.run.steps import TOOL_NAME, Event, OnEvent, Steps, environment, shown, tool_version
from tflite_guard.run.workers import NO_ANSWER, Confinement, OnLog, WorkerPool, memory_limit
from tflite_guard.run.workshop import Workshop
from tflite_guard.text.naming import titles
from tflite_guard.vocabulary import REPORT_VERSION, DiagnoseUse


def run(
    manifests: Sequence[Manifest],
    options: Options,
    *,
    baselines: dict[str, Baseline] | None = None,
    on_event: OnEvent | None = None,
    on_log: OnLog | None = None,
    known: sharding.Measured | None = None,
    pause: Callable[[], None] = lambda: None,
) -> Report:
    """Check every model of some manifests.

    Args:
        manifests: what to check.
        options: how.
        baselines: manifest path to its recorded results.
        on_event: called as work proceeds, from any thread.
        on_log: called with what TensorFlow and LiteRT said.
        known: what parts of the run took before, by which shards are made even.
        pause: called now and then, and may end the work by raising.

    Raises:
        UsageError: a `models` or `variants` pattern matches nothing.
        EvaluationError: the run cannot be done at all (no space for scratch files).
    """
    baselines = baselines or {}
    work = jobs(manifests, options, baselines)
    shard = None if options.shard is None else Shard(*options.shard, sharding.plan(work))
    if shard is not None:
        work = sharding.part(work, shard.number, shard.of, known)
    results, remarks = _in_threads(work, options, on_event or _ignore, on_log, pause)
    report = _report(results, shard)
    notes = [*remarks] if shard is None else [sharding.note(shard, results), *remarks]
    if not options.models and not options.variants:
        for manifest in manifests:
            if manifest.path in baselines:
                asked = {one.name: tuple(variant.name for variant in one.variants) for one in manifest.models}
                notes += compare(report_of(report, manifest.path), baselines[manifest.path], asked)
    compared = [
        baselines[one.path] for one in manifests if one.path in baselines and report_of(report, one.path).models
    ]
    told = [other_environment(report.environment, recorded) for recorded in compared]
    return replace(report, notes=tuple(dict.fromkeys([*(one for one in told if one is not None), *notes])))


def _report(results: Sequence[ModelResult], shard: Shard | None = None) -> Report:
    return Report(
        schema_version=REPORT_VERSION,
        tool=Tool(TOOL_NAME, tool_version()),
        environment=environment(),
        verdict=Verdict.worst(result.verdict for result in results),
        models=tuple(results),
        shard=shard,
    )


def _require_fit(result: ModelResult) -> None:
    """Raise EvaluationError where a report with this model could not be read again.

    What an untrusted child says has the right types, but may leave out what has a default, or count below nothing; and
    one model's figures must not make the report of all unreadable.
    """
    written = msgspec.json.decode(msgspec.json.encode(_report([result])))
    try:
        check_numbers(written)
        validator("report-v1").validate(written)
    except (ValueError, OverflowError, RecursionError) as error:
        raise EvaluationError("crash", NO_ANSWER) from error


def report_of(report: Report, manifest: str) -> Report:
    """The part of a report that one manifest gave."""
    return replace(report, models=tuple(model for model in report.models if model.manifest.path == manifest))


def run_job(one: Job, options: Options, workshop: Workshop, on_event: OnEvent) -> ModelResult:
    """Check one model. Whatever goes wrong is the model's error."""
    with workshop.pool.pair() as workers:
        steps = Steps(workshop, one, workers, on_event, time.monotonic() + options.timeout)
        try:
            result = _checked(steps, options.diagnose)
            if steps.seconds:  # something was made; what the cache has was held against the schema then
                _require_fit(result)
        except Exception as error:  # one that nobody has thought of must not take the other models' results with it
            outcome = Outcome(error=_told(steps, error), shared=True)
            outcomes = [outcome] * (len(hidden_rungs(one.model)) + len(one.model.variants))
            result = _model_result(steps, _results(steps, outcomes), outcomes)
    on_event(Event(one.model.name, None, "done", verdict=result.verdict))
    return result


def _checked(steps: Steps, use: DiagnoseUse) -> ModelResult:
    model = steps.job.model
    hidden = hidden_rungs(model)
    outcomes = _evaluate_all(steps, [*hidden, *model.variants])
    results = _results(steps, outcomes)
    for index, variant in enumerate(model.variants, len(hidden)):
        results[index] = _diagnosed(steps, variant, results[index], use)
    return _model_result(steps, results, outcomes)


def _results(steps: Steps, outcomes: Sequence[Outcome]) -> list[VariantResult]:
    """What the outcomes of a model's hidden rungs and variants mean."""
    one = steps.job
    return [
        variant_result(
            rung,
            outcome,
            steps.seconds.get(rung.name, {}),
            partial(value, one.baseline, one.model.name, rung.name),
            one.model.evaluation,
        )
        for rung, outcome in zip([*hidden_rungs(one.model), *one.model.variants], outcomes, strict=True)
    ]


def _told(steps: Steps, error: Exception) -> ErrorInfo:
    """An error for the report; one that nobody expected goes to the log whole."""
    if isinstance(error, GuardError):
        return ErrorInfo(error.kind, str(error))
    if told := shortage(error):
        return ErrorInfo("limit", told)
    steps.workshop.pool.log(traceback.format_exc())
    first = str(error).strip().splitlines()
    what = type(error).__name__ + (f": {first[0][:300]}" if first else "")
    return ErrorInfo("internal", f"{what}; this is a bug in {TOOL_NAME}, run with -v for details")


def artifact(
    manifest: Manifest,
    model_name: str,
    variant_name: str,
    options: Options,
    on_log: OnLog | None = None,
    on_event: OnEvent | None = None,
) -> bytes:
    """The very bytes that `run` judges for one variant."""
    model = _by_name(manifest.models, model_name, "model", manifest.path)
    variant = _by_name(model.variants, variant_name, "variant", f"model {model_name!r}")
    one = job(manifest, replace(model, variants=(variant,)))
    with Workshop([one], options, on_log) as workshop, workshop.pool.pair() as workers:
        steps = Steps(workshop, one, workers, on_event or _ignore, time.monotonic() + options.timeout)
        return Path(steps.tflite(variant)).read_bytes()


@dataclass(frozen=True)
class OperatorFiles:
    """One operator of a variant, float and quantized, with what it reads and gives."""

    told: SavedOperator
    files: dict[str, bytes]


def operators(
    one: Job, tensors: Mapping[str, str], options: Options, on_log: OnLog | None = None
) -> dict[str, OperatorFiles | EvaluationError]:
    """The operators of a job's variants that compute a tensor each, or why one cannot be had.

    `tensors` are variants' names to what their files call the tensors.
    """
    found: dict[str, OperatorFiles | EvaluationError] = {}
    with Workshop([one], options, on_log) as workshop, workshop.pool.pair() as workers:
        steps = Steps(workshop, one, workers, _ignore, time.monotonic() + options.timeout)
        for name, tensor in tensors.items():
            try:
                done = steps.operator(_by_name(one.model.variants, name, "variant", "the model"), tensor)
                files = {file: (done.entry.folder / file).read_bytes() for file in done.answer.files}
                found[name] = OperatorFiles(done.answer, files)
            except EvaluationError as error:
                found[name] = error
    return found


def describe(
    reference: ReferenceSpec, options: Options, on_log: OnLog | None = None, on_event: OnEvent | None = None
) -> Names:
    """Names, shapes and types of a model's inputs and outputs."""
    tell = on_event or _ignore
    name = Path(reference.path).stem
    limit = options.memory_bytes if options.memory_bytes is not None else memory_limit()
    pool = WorkerPool(Confinement((reference.path,), memory_bytes=limit, allow_code=options.allow_code), on_log)
    try:
        with pool.pair() as workers:
            worker = workers.litert if reference.kind == "tflite" else workers.tensorflow
            tell(Event(name, None, "load" if worker.loads_first else "describe"))
            return worker.request(
                DescribeModel(reference),
                deadline=time.monotonic() + options.timeout,
                progress=lambda *_: tell(Event(name, None, "describe")),
            )
    except BaseException:
        pool.kill()
        raise
    finally:
        pool.close()


def _in_threads(
    work: Sequence[Job], options: Options, on_event: OnEvent, on_log: OnLog | None, pause: Callable[[], None]
) -> tuple[list[ModelResult], list[str]]:
    """The jobs, some at a time, in order, and what is to be said of the run; an interrupt ends all children at once."""
    with (
        Workshop(work, options, on_log) as workshop,
        ThreadPoolExecutor(workshop.jobs, thread_name_prefix="model") as executor,
    ):
        called = titles([(one.model.name, one.manifest) for one in work])
        try:
            results = _wait_all(
                [
                    executor.submit(run_job, one, options, workshop, partial(_titled, on_event, title))
                    for one, title in zip(work, called, strict=True)
                ],
                pause,
            )
            return results, workshop.remarks()
        except BaseException:
            workshop.pool.kill()
            raise


def _titled(on_event: OnEvent, title: str, event: Event) -> None:
    """Pass an event on by what tells its model from others of its name."""
    on_event(replace(event, model=title))


def _wait_all(futures: Sequence[Future[ModelResult]], pause: Callable[[], None]) -> list[ModelResult]:
    try:
        return [_wait(future, pause) for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _wait(future: Future[ModelResult], pause: Callable[[], None]) -> ModelResult:
    # A wait without a timeout cannot be interrupted by a signal on every platform.
    while True:
        try:
            return future.result(timeout=0.5)
        except TimeoutError:
            if future.done():
                return future.result()
            pause()


def _model_result(steps: Steps, every: Sequence[VariantResult], outcomes: Sequence[Outcome]) -> ModelResult:
    """The result of a model from those of its hidden rungs and variants."""
    one = steps.job
    rungs = len(hidden_rungs(one.model))
    hidden, results = every[:rungs], every[rungs:]
    shared = next((outcome.error for outcome in outcomes if outcome.shared), None)
    reference = one.model.reference
    took = steps.seconds.get("", {})
    unjudged = ReferenceResult(reference.kind, shown(reference.file, one.folder), {}, seconds=took)
    judged, findings = reference_result(unjudged, outcomes, one.model.reference_tolerances, one.model.ignore)
    result = ModelResult(
        name=one.model.name,
        manifest=one.manifest,
        reference=judged,
        variants=tuple(results),
        float32=next(iter(hidden), None),
        error=shared,
        notes=tuple(_rung_note(rung, rung.error) for rung in hidden if rung.error is not None),
        line=one.model.line,
        findings=findings,
        classes=one.model.evaluation.class_order or (),
    )
    verdicts = [result.reference_verdict, *(variant.verdict for variant in results), Verdict.ERROR if shared else None]
    return replace(result, verdict=Verdict.worst(verdicts))


def _rung_note(rung: VariantResult, error: ErrorInfo) -> str:
    name = "float" if rung.quantization == "float32" else rung.name
    return f"the {name} conversion by itself could not be evaluated: {error.message}"


def _evaluate_all(steps: Steps, variants: Sequence[VariantSpec]) -> list[Outcome]:
    """Each variant's outcome: those with a file of their own first, and one evaluated while the next is converted."""
    try:
        known = [steps.known(variant) for variant in variants]
        missing = [variant for variant, found in zip(variants, known, strict=True) if found is None]
        if missing:
            steps.prepare(missing)
    except Exception as error:
        return [Outcome(error=_told(steps, error), shared=True)] * len(variants)
    order = sorted(range(len(variants)), key=lambda place: variants[place].conversion.tflite is None)
    outcomes: dict[int, Outcome] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="convert") as converting:
        paths = {place: converting.submit(steps.tflite, variants[place]) for place in order if known[place] is None}
        for place in order:
            outcomes[place] = _evaluated(steps, variants[place], known[place], paths.get(place))
            steps.on_event(Event(steps.job.model.name, variants[place].name, "variant", len(outcomes), len(variants)))
    return [outcomes[place] for place in range(len(variants))]


def _evaluated(steps: Steps, variant: VariantSpec, known: Evaluation | None, path: Future[str] | None) -> Outcome:
    if known is not None:
        return Outcome(known, cached=True)
    assert path is not None
    try:
        return Outcome(steps.evaluation(variant, path.result()))
    except Exception as error:
        return Outcome(error=_told(steps, error))


def _diagnosed(steps: Steps, variant: VariantSpec, result: VariantResult, use: DiagnoseUse) -> VariantResult:
    """A variant's result with the cause of what it loses, where that is asked for."""
    loss = None if use == "never" or steps.job.model.state == "kept" else loss_of(result)
    if loss is None or not (loss.failed or loss.application or use == "always"):
        return result
    try:
        found = steps.diagnosis(variant, loss)
    except Exception as error:
        note = f"the diagnosis could not be made: {_told(steps, error).message}"
        found = Diagnosed(Diagnosis(loss.metric, 0, note=note))
    return result if found is None else with_diagnosis(result, found, variant.judgement.ignore)


def _by_name(items: Sequence[Any], name: str, kind: str, where: str) -> Any:
    for item in items:
        if item.name == name:
            return item
    raise UsageError(f"{where} has no {kind} {name!r}; it has {', '.join(item.name for item in items)}")


def _ignore(_: Event) -> None:
    pass
