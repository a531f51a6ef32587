"""Manifest in, report out: what is cached is taken, what is missing goes to child processes, then all is judged."""

from __future__ import annotations

import shlex
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from tflite_guard.errors import EvaluationError, GuardError, UsageError
from tflite_guard.files import shortage
from tflite_guard.judgement.baseline import Baseline, compare, other_environment, value, wrong
from tflite_guard.judgement.judging import Loss, Outcome, loss_of, reference_result, variant_result, with_diagnosis
from tflite_guard.judgement.mistakes import with_mistakes
from tflite_guard.manifest.schema import check_numbers, validator
from tflite_guard.manifest.types import Manifest, ModelSpec, ReferenceSpec, VariantSpec
from tflite_guard.protocol import COLLECTED, Aggregate, DescribeModel, Diagnosed, Evaluation, Names, SavedOperator
from tflite_guard.results import (
    Diagnosis,
    ErrorInfo,
    ModelResult,
    ReferenceResult,
    Report,
    ScoredPiece,
    Shard,
    Tool,
    VariantResult,
    Verdict,
)
from tflite_guard.run import pieces, sharding
from tflite_guard.run.jobs import OF_TENSORFLOW, Job, Options, hidden_rungs, job, jobs
from tflite_guard.run.steps import TOOL_NAME, Event, OnEvent, Steps, environment, shown, tool_version
from tflite_guard.run.workers import NO_ANSWER, Confinement, OnLog, WorkerPool, memory_limit
from tflite_guard.run.workshop import Workshop
from tflite_guard.text.naming import titles
from tflite_guard.vocabulary import REPORT_VERSION, DiagnoseUse

T = TypeVar("T")


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
    shard = None
    if options.shard is not None:
        number, of = options.shard
        work = work if options.scores is None else sharding.cut(work, of, known)
        shard = Shard(number, of, sharding.plan(work))
        work = sharding.part(work, number, of, known)
    asked = _asked(manifests, options)
    done, remarks = _in_threads(work, options, asked, on_event or _ignore, on_log, pause)
    results = [one for one in done if isinstance(one, ModelResult)]
    scored = tuple(one for one in done if isinstance(one, ScoredPiece))
    shard = None if shard is None else replace(shard, pieces=scored)
    report = report_of_models(results, shard)
    if any(one.error is not None for one in scored):
        report = replace(report, verdict=Verdict.ERROR)
    notes = [*remarks] if shard is None else [sharding.note(shard, results), *remarks]
    for path, models in asked.items():
        if path in baselines:
            notes += compare(report_of(report, path), baselines[path], models)
    mine = dict.fromkeys(one.manifest.path for one in work)
    told = [other_environment(report.environment, baselines[path]) for path in mine if path in baselines]
    return replace(report, notes=tuple(dict.fromkeys([*(one for one in told if one is not None), *notes])))


Asked = dict[str, tuple[str, ...]]
"""The models that a manifest asks for, with their variants."""


def _asked(manifests: Sequence[Manifest], options: Options) -> dict[str, Asked]:
    """By the manifest's path, what it asks for; nothing where the run was asked for some models or variants alone."""
    if options.models or options.variants:
        return {}
    return {
        manifest.path: {one.name: tuple(variant.name for variant in one.variants) for one in manifest.models}
        for manifest in manifests
    }


def report_of_models(results: Sequence[ModelResult], shard: Shard | None = None) -> Report:
    """The report of some models, without notes."""
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
    written = msgspec.json.decode(msgspec.json.encode(report_of_models([result])))
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
            outcome = Outcome(error=_told(steps.workshop, error), shared=True)
            outcomes = [outcome] * (len(hidden_rungs(one.model)) + len(one.model.variants))
            result = _result(steps, _results(one, steps.seconds, outcomes), outcomes)
    on_event(Event(one.model.name, None, "done", verdict=result.verdict))
    return result


def score_piece(one: Job, folder: str, asked: Asked | None, workshop: Workshop, on_event: OnEvent) -> ScoredPiece:
    """Score a piece of one model's evaluation data. Whatever goes wrong is the model's error.

    Raises EvaluationError where the scores cannot be written to the folder.
    """
    rungs = [*hidden_rungs(one.model), *one.model.variants]
    with workshop.pool.pair() as workers:
        steps = Steps(workshop, one, workers, on_event, time.monotonic() + workshop.options.timeout)
        try:
            outcomes = _evaluate_all(steps, rungs)
            subjects = [steps.subject(rung) for rung in rungs]
            entries = [
                None if outcome.evaluation is None else steps.collected(rung)
                for rung, outcome in zip(rungs, outcomes, strict=True)
            ]
        except Exception as error:  # one that nobody has thought of must not take the other models' results with it
            outcomes = [Outcome(error=_told(workshop, error), shared=True)] * len(rungs)
            subjects, entries = [""] * len(rungs), [None] * len(rungs)
    found = tuple(
        pieces.Rung(
            subject, outcome, steps.seconds.get(rung.name, {}), None if entry is None else entry.files[COLLECTED]
        )
        for rung, subject, outcome, entry in zip(rungs, subjects, outcomes, entries, strict=True)
    )
    scores = [entry.folder / COLLECTED for entry in entries if entry is not None]
    on_event(Event(one.model.name, None, "done"))
    return pieces.write(folder, pieces.Piece(one, _unjudged(steps), found, asked, workshop.options.diagnose), scores)


def joined(
    one: Job, reference: ReferenceResult, rungs: Sequence[Sequence[Scored]], use: DiagnoseUse, workshop: Workshop
) -> ModelResult:
    """The result of a model from what was scored on all pieces of its evaluation data.

    Args:
        one: the job of the whole.
        reference: the reference, unjudged.
        rungs: of each hidden rung and variant its pieces, in order.
        use: what was to be diagnosed, which is not.
        workshop: whose child aggregates them.

    Raises:
        UsageError: a file of scores is missing, or another than its piece says.
    """
    kept = [[_kept(rung, path, workshop) for rung, path in parts if rung.scores is not None] for parts in rungs]
    with ThreadPoolExecutor(workshop.threads, thread_name_prefix="rung") as executor:
        try:
            futures = [
                executor.submit(_aggregated, one.model, [rung for rung, _ in parts], copies, workshop)
                for parts, copies in zip(rungs, kept, strict=True)
            ]
            outcomes = _wait_all(futures, lambda: None)
        except BaseException:
            workshop.pool.kill()
            raise
    names = [rung.name for rung in (*hidden_rungs(one.model), *one.model.variants)]
    seconds = {name: summed(rung.seconds for rung, _ in parts) for name, parts in zip(names, rungs, strict=True)}
    result = _model_result(one, reference, _results(one, seconds, outcomes), outcomes)
    if any(_to_explain(one.model, variant, use) for variant in result.variants):
        result = replace(result, notes=(*result.notes, _undiagnosed(one.model.name)))
    _require_fit(result)
    return result


def _undiagnosed(model: str) -> str:
    return (
        "the evaluation data was cut into pieces, so that no cause was looked for; for one, run `tflite-guard check "
        f"--model {shlex.quote(model)}` on one machine, or `tflite-guard why`"
    )


Scored = tuple[pieces.Rung, str]
"""A rung on a piece, and the path of its scores."""


def summed(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Seconds of several pieces, by phase."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return {phase: round(seconds, 3) for phase, seconds in total.items()}


class _Kept(msgspec.Struct, frozen=True):
    """Scores of a rung on a piece, copied to where children read them."""

    evaluation: Evaluation
    examples: int
    path: str
    copy: str


def _kept(rung: pieces.Rung, path: str, workshop: Workshop) -> _Kept:
    evaluation = rung.outcome.evaluation
    assert rung.scores is not None
    if evaluation is None or evaluation.stretch is None:
        raise UsageError(f"{path}: are the scores of what was not evaluated; run that shard again")
    examples = evaluation.stretch.last - evaluation.stretch.first
    return _Kept(evaluation, examples, path, str(pieces.kept(path, rung.scores, workshop.passing)))


def _aggregated(model: ModelSpec, rungs: Sequence[pieces.Rung], kept: Sequence[_Kept], workshop: Workshop) -> Outcome:
    """The outcome of a rung on all examples."""
    failed = next((rung.outcome for rung in rungs if rung.outcome.error is not None), None)
    if failed is not None:
        return failed
    copies, examples = tuple(one.copy for one in kept), tuple(one.examples for one in kept)
    request = Aggregate(kept[0].evaluation, copies, examples, model.evaluation, model.metrics)
    try:
        with workshop.pool.pair() as workers:
            found = workers.litert.request(request, deadline=time.monotonic() + workshop.options.timeout)
    except Exception as error:
        told = _told(workshop, error)
        message = told.message
        for one in kept:
            message = message.replace(one.copy, one.path)
        return Outcome(error=replace(told, message=message))
    return Outcome(found, cached=all(rung.outcome.cached for rung in rungs))


def _checked(steps: Steps, use: DiagnoseUse) -> ModelResult:
    model = steps.job.model
    hidden = hidden_rungs(model)
    outcomes = _evaluate_all(steps, [*hidden, *model.variants])
    results = _results(steps.job, steps.seconds, outcomes)
    for index, variant in enumerate(model.variants, len(hidden)):
        results[index] = _diagnosed(steps, variant, results[index], use)
    return _result(steps, results, outcomes)


def _results(one: Job, seconds: Mapping[str, dict[str, float]], outcomes: Sequence[Outcome]) -> list[VariantResult]:
    """What the outcomes of a model's hidden rungs and variants mean; `seconds` are by their names."""
    return [
        with_mistakes(
            variant_result(
                rung,
                outcome,
                seconds.get(rung.name, {}),
                partial(value, one.baseline, one.model.name, rung.name),
                one.model.evaluation,
            ),
            outcome.evaluation,
            wrong(one.baseline, one.model.name, rung.name),
        )
        for rung, outcome in zip([*hidden_rungs(one.model), *one.model.variants], outcomes, strict=True)
    ]


def _told(workshop: Workshop, error: Exception) -> ErrorInfo:
    """An error for the report; one that nobody expected goes to the log whole."""
    if isinstance(error, GuardError):
        return ErrorInfo(error.kind, str(error), error.place if isinstance(error, EvaluationError) else None)
    if told := shortage(error):
        return ErrorInfo("limit", told)
    workshop.pool.log(traceback.format_exc())
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
            worker = workers.tensorflow if reference.kind in OF_TENSORFLOW else workers.litert
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
    work: Sequence[Job],
    options: Options,
    asked: Mapping[str, Asked],
    on_event: OnEvent,
    on_log: OnLog | None,
    pause: Callable[[], None],
) -> tuple[list[ModelResult | ScoredPiece], list[str]]:
    """The jobs, some at a time, in order, and what is to be said of the run; an interrupt ends all children at once."""
    with (
        Workshop(work, options, on_log) as workshop,
        ThreadPoolExecutor(workshop.jobs, thread_name_prefix="model") as executor,
    ):
        called = titles([(one.model.name, one.manifest) for one in work])
        try:
            results = _wait_all(
                [
                    executor.submit(
                        _done, one, asked.get(one.manifest.path), workshop, partial(_titled, on_event, title)
                    )
                    for one, title in zip(work, called, strict=True)
                ],
                pause,
            )
            return results, workshop.remarks()
        except BaseException:
            workshop.pool.kill()
            raise


def _done(one: Job, asked: Asked | None, workshop: Workshop, on_event: OnEvent) -> ModelResult | ScoredPiece:
    """What comes of one job of a run."""
    options = workshop.options
    if one.piece is None:
        return run_job(one, options, workshop, on_event)
    assert options.scores is not None
    return score_piece(one, options.scores, asked, workshop, on_event)


def _titled(on_event: OnEvent, title: str, event: Event) -> None:
    """Pass an event on by what tells its model from others of its name."""
    on_event(replace(event, model=title))


def _wait_all(futures: Sequence[Future[T]], pause: Callable[[], None]) -> list[T]:
    try:
        return [_wait(future, pause) for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _wait(future: Future[T], pause: Callable[[], None]) -> T:
    # A wait without a timeout cannot be interrupted by a signal on every platform.
    while True:
        try:
            return future.result(timeout=0.5)
        except TimeoutError:
            if future.done():
                return future.result()
            pause()


def _result(steps: Steps, every: Sequence[VariantResult], outcomes: Sequence[Outcome]) -> ModelResult:
    return _model_result(steps.job, _unjudged(steps), every, outcomes)


def _unjudged(steps: Steps) -> ReferenceResult:
    """The reference before its values are known."""
    reference, took = steps.job.model.reference, steps.seconds.get("", {})
    return ReferenceResult(reference.kind, shown(reference.file, steps.job.folder), {}, seconds=took)


def _model_result(
    one: Job, reference: ReferenceResult, every: Sequence[VariantResult], outcomes: Sequence[Outcome]
) -> ModelResult:
    """The result of a model from those of its hidden rungs and variants."""
    rungs = len(hidden_rungs(one.model))
    hidden, results = every[:rungs], every[rungs:]
    shared = next((outcome.error for outcome in outcomes if outcome.shared), None)
    judged, findings = reference_result(reference, outcomes, one.model.reference_tolerances, one.model.ignore)
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
            if not steps.reference.answer.examples:  # a piece of few examples
                return [Outcome()] * len(variants)
    except Exception as error:
        return [Outcome(error=_told(steps.workshop, error), shared=True)] * len(variants)
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
        return Outcome(error=_told(steps.workshop, error))


def _diagnosed(steps: Steps, variant: VariantSpec, result: VariantResult, use: DiagnoseUse) -> VariantResult:
    """A variant's result with the cause of what it loses, where that is asked for."""
    loss = _to_explain(steps.job.model, result, use)
    if loss is None:
        return result
    try:
        found = steps.diagnosis(variant, loss)
    except Exception as error:
        note = f"the diagnosis could not be made: {_told(steps.workshop, error).message}"
        found = Diagnosed(Diagnosis(loss.metric, 0, note=note))
    return result if found is None else with_diagnosis(result, found, variant.judgement.ignore)


def _to_explain(model: ModelSpec, result: VariantResult, use: DiagnoseUse) -> Loss | None:
    """What of a variant is to be diagnosed; None for nothing."""
    loss = None if use == "never" or model.state == "kept" else loss_of(result)
    return loss if loss is not None and (loss.failed or loss.application or use == "always") else None


def _by_name(items: Sequence[Any], name: str, kind: str, where: str) -> Any:
    for item in items:
        if item.name == name:
            return item
    raise UsageError(f"{where} has no {kind} {name!r}; it has {', '.join(item.name for item in items)}")


def _ignore(_: Event) -> None:
    pass
