"""The reports of a run's shards as the one report that the run by itself would have given."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from tflite_guard.errors import EvaluationError, GuardError, UsageError
from tflite_guard.judgement.baseline import compare
from tflite_guard.manifest.types import VariantSpec
from tflite_guard.protocol import Piece, Stretch
from tflite_guard.results import (
    MOST_LISTED,
    ModelResult,
    PlannedModel,
    ReferenceResult,
    Report,
    Shard,
    VariantResult,
    Verdict,
)
from tflite_guard.run import pieces
from tflite_guard.run.jobs import Job, Options, hidden_rungs
from tflite_guard.run.pieces import Found, Rung
from tflite_guard.run.pipeline import Scored, joined, report_of_models, summed
from tflite_guard.run.sharding import note, require_distinct
from tflite_guard.run.steps import environment, tool_version
from tflite_guard.run.workshop import Workshop
from tflite_guard.vocabulary import DiagnoseUse

PROCESSOR = "processor"
"""What of the environment may differ between shards."""


def merged(reports: Mapping[str, Report]) -> Report:
    """One report of all shards, by the paths that they were read from, with what they have scored beside them.

    Raises:
        UsageError: a shard or a piece is missing or there twice, or they are not of one run.
        EvaluationError: a shard has no results.
    """
    shards = _in_order(reports)
    path, first = next(iter(shards.items()))
    for other, one in shards.items():
        _require_alike(path, first, other, one)
    plan = _shard(first).plan
    require_distinct(plan)
    found = [one for path, report in shards.items() for one in pieces.read(path, report)]
    _require_one_commit(shards, found)
    wholes = _wholes(_by_planned(found, plan))
    cut = {(planned.manifest, planned.name): model for planned, (model, _) in zip(_cut(plan), wholes, strict=True)}
    models = tuple(
        cut[planned.manifest, planned.name] if planned.pieces > 1 else _model(planned, parts)
        for planned, parts in _by_model(shards, plan)
    )
    every = shards.values()
    return replace(
        first,
        verdict=Verdict.worst(model.verdict for model in models),
        models=models,
        notes=(
            *_woven(
                [
                    *([found for found in one.notes if found != note(_shard(one), one.models)] for one in every),
                    *(notes for _, notes in wholes),
                ]
            ),
            *_processors(every),
        ),
        shard=None,
    )


def versions() -> dict[str, Any]:
    """What must be the same wherever a part of a run is done, and the processor, on which last digits depend."""
    return {"tflite-guard": tool_version(), **environment()}


def require_versions(who: str, report: Report) -> None:
    """Raise UsageError, naming what differs, where a report was made with other versions or on another processor."""
    differing = _differing(versions(), _versions_of(report))
    if differing:
        told = ", ".join(f"{name} {theirs} (here {ours})" for name, ours, theirs in differing)
        raise UsageError(f"{who} has {told}; results would differ, so have the same there and here")


def _versions_of(report: Report) -> dict[str, Any]:
    return {"tflite-guard": report.tool.version, **report.environment}


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What has two values, with both of them."""
    pairs = [(name, ours.get(name), theirs.get(name)) for name in {**ours, **theirs}]
    return [(name, own, other) for name, own, other in pairs if own != other]


def _in_order(reports: Mapping[str, Report]) -> dict[str, Report]:
    """The reports by their shards' numbers, each number once."""
    held: dict[int, str] = {}
    for path, one in reports.items():
        number = _number(path, one)
        if number in held:
            raise UsageError(f"{path}: is of shard {number}, as {held[number]} is; give the report of each shard once")
        held[number] = path
    if not held:
        raise UsageError("no reports to merge; name the report.json of every shard")
    of = max(_shard(one).of for one in reports.values())
    absent = [number for number in range(1, of + 1) if number not in held]
    if absent:
        listed = ", ".join(map(str, absent[:MOST_LISTED])) + (" and more" if len(absent) > MOST_LISTED else "")
        raise UsageError(f"of {of:,} shards, these have no report here: {listed}; name the report.json of every shard")
    return {held[number]: reports[held[number]] for number in sorted(held)}


def _number(path: str, report: Report) -> int:
    if report.shard is None and report.verdict is Verdict.ERROR and not report.models:
        raise EvaluationError("shard", f"{path}: that run came to nothing: {'; '.join(report.notes)}")
    if report.shard is None:
        raise UsageError(f"{path}: is the report of a whole run, not of a shard; run `tflite-guard check --shard I/N`")
    if report.shard.number > report.shard.of:
        numbers = f"{report.shard.number:,} of {report.shard.of:,}"
        raise UsageError(f"{path}: is of shard {numbers}, which no run has; run that shard again")
    return report.shard.number


def _shard(report: Report) -> Shard:
    assert report.shard is not None
    return report.shard


def _processors(parts: Iterable[Report]) -> Iterator[str]:
    """A note where shards ran on unlike processors: machines of a hosted runner are not all alike."""
    kinds = _once(str(one.environment.get(PROCESSOR)) for one in parts)
    if len(kinds) > 1:
        yield (
            f"the shards ran on different processors ({', '.join(kinds)}); figures can differ in their last digits "
            "from those of one machine"
        )


def _require_alike(first: str, report: Report, path: str, other: Report) -> None:
    """Raise UsageError where two reports are not of one run, or were made with other versions."""
    for name, ours, theirs in _differing(_versions_of(report), _versions_of(other)):
        if name != PROCESSOR:
            raise UsageError(
                f"{path}: was made with {name} {theirs}, and {first} with {ours}; run all shards with the same versions"
            )
    if (_shard(report).of, _shard(report).plan) != (_shard(other).of, _shard(other).plan):
        raise UsageError(f"{path}: is a shard of another run than {first}; run all shards with the same arguments")


def _require_one_commit(shards: Mapping[str, Report], found: Iterable[Found]) -> None:
    """Raise UsageError where two reports are of different texts of one manifest."""
    met: dict[str, tuple[str, str]] = {}
    told = [(path, model.manifest) for path, one in shards.items() for model in one.models]
    told += [(one.report, one.piece.job.manifest) for one in found]
    for path, manifest in told:
        name, sha256 = manifest.repository_path, manifest.sha256
        first, known = met.setdefault(name, (path, sha256))
        if known != sha256:
            raise UsageError(f"{path}: {name} is another than in {first}; run all shards on the same commit")


def _cut(plan: Iterable[PlannedModel]) -> list[PlannedModel]:
    return [one for one in plan if one.pieces > 1]


def _by_planned(found: Iterable[Found], plan: Sequence[PlannedModel]) -> list[tuple[PlannedModel, list[Found]]]:
    """What was scored of each model whose evaluation data is cut. Raises UsageError for what is not of the plan."""
    held: dict[tuple[str, str], tuple[PlannedModel, list[Found]]] = {
        (one.manifest, one.name): (one, []) for one in _cut(plan)
    }
    for one in found:
        job = one.piece.job
        planned, parts = held.get((job.manifest.repository_path, job.model.name), (None, []))
        number = job.piece
        if planned is None or number is None or number.of != planned.pieces or not 1 <= number.number <= number.of:
            raise UsageError(f"{one.report}: has a piece of model {job.model.name!r} that is not of its run; {_AGAIN}")
        parts.append(one)
    return [*held.values()]


_AGAIN = "run that shard again"


class _Whole(msgspec.Struct, frozen=True):
    """A model whose evaluation data was cut, put together and not judged."""

    job: Job
    reference: ReferenceResult
    rungs: list[list[Scored]]
    asked: dict[str, tuple[str, ...]] | None
    diagnose: DiagnoseUse

    def judged(self, workshop: Workshop) -> tuple[ModelResult, Sequence[str]]:
        """Its result, with what it and its manifest's baseline differ in."""
        result = joined(self.job, self.reference, self.rungs, self.diagnose, workshop)
        baseline = self.job.baseline
        if self.asked is None or baseline is None:
            return result, ()
        return result, compare(report_of_models([result]), baseline, self.asked)


def _wholes(parts: Sequence[tuple[PlannedModel, list[Found]]]) -> list[tuple[ModelResult, Sequence[str]]]:
    """The results of the models that were cut, each with its notes on the baseline."""
    whole = [(planned, _joined(planned, found)) for planned, found in parts]
    if not whole:
        return []
    with Workshop([], Options()) as workshop:
        return [_judged(planned, one, workshop) for planned, one in whole]


def _judged(planned: PlannedModel, whole: _Whole, workshop: Workshop) -> tuple[ModelResult, Sequence[str]]:
    try:
        return whole.judged(workshop)
    except GuardError:
        raise
    except Exception as error:  # files from elsewhere can say, with the right types, what no run has said
        workshop.pool.log(traceback.format_exc())
        what = f"{type(error).__name__}: {str(error)[:300]}"
        raise UsageError(
            f"the pieces of model {planned.name!r} of {planned.manifest} do not fit together ({what}); run all shards "
            "again"
        ) from error


def _joined(planned: PlannedModel, parts: Sequence[Found]) -> _Whole:
    """All pieces of a model. Raises UsageError where one is missing, there twice, or of something else."""
    if not parts:
        raise UsageError(f"no report has a piece of model {planned.name!r}, which {planned.manifest} asks for")
    specs: dict[str, VariantSpec] = {}
    variants: dict[str, dict[int, _Part]] = {name: {} for name in planned.variants}
    hidden: dict[str, dict[int, _Part]] = {}
    references: dict[int, ReferenceResult] = {}
    for one in parts:
        model, number = one.piece.job.model, one.number
        references.setdefault(number, one.piece.reference)
        own = hidden_rungs(model)
        for spec, rung in zip(own, one.piece.rungs, strict=False):
            hidden.setdefault(spec.name, {}).setdefault(number, _Part(one, rung))
        for spec, rung in zip(model.variants, one.piece.rungs[len(own) :], strict=True):
            what = f"{one.report}: has piece {number} of variant {spec.name!r} of model {planned.name!r}"
            if spec.name not in variants:
                raise UsageError(f"{what}, which is not of its run; {_AGAIN}")
            if number in variants[spec.name]:
                first = variants[spec.name][number].found.report
                raise UsageError(f"{what}, as {first} has; run all shards with the same arguments")
            specs[spec.name] = spec
            variants[spec.name][number] = _Part(one, rung)
    for name, held in variants.items():
        _require_pieces(held, planned, f"variant {name!r} of model {planned.name!r}")
    job = parts[0].piece.job
    job = replace(job, piece=None, model=replace(job.model, variants=tuple(specs[name] for name in planned.variants)))
    own = hidden_rungs(job.model)
    for spec in own:
        _require_pieces(hidden.get(spec.name, {}), planned, f"the float conversion of model {planned.name!r}")
    rungs = [hidden[spec.name] for spec in own] + [*variants.values()]
    return _Whole(
        job,
        replace(parts[0].piece.reference, seconds=summed(one.seconds for one in references.values())),
        [[held[number].scored for number in sorted(held)] for held in rungs],
        parts[0].piece.asked,
        parts[0].piece.diagnose,
    )


class _Part(msgspec.Struct, frozen=True):
    """A rung on one piece, and where it was."""

    found: Found
    rung: Rung

    @property
    def scored(self) -> Scored:
        return self.rung, self.found.scores(self.rung)


def _require_pieces(held: Mapping[int, _Part], planned: PlannedModel, what: str) -> None:
    """Raise UsageError unless all pieces of a variant are there, of the same artifact on the same data.

    What is not an example's is told of the first piece.
    """
    absent = next((number for number in range(1, planned.pieces + 1) if number not in held), None)
    if absent is not None:
        raise UsageError(
            f"no report has piece {absent} of {planned.pieces} of the evaluation data of {what}, which "
            f"{planned.manifest} asks for; run it again"
        )
    told = [one for _, one in sorted(held.items()) if one.rung.outcome.error is None]
    for one in told:
        if one.rung.subject != told[0].rung.subject:
            first = told[0].found.report
            raise UsageError(
                f"{one.found.report}: has {what} on other data, or of other files, than {first}; run both again"
            )
    evaluated = [(one, one.rung.outcome.evaluation) for one in told if one.rung.outcome.evaluation is not None]
    for one, evaluation in evaluated:
        other, of = evaluated[0]
        # Unlike processors round a conversion otherwise; a note says that they are unlike.
        alike = one.found.processor == other.found.processor
        if alike and replace(evaluation, stretch=None) != replace(of, stretch=None):
            made = "made" if evaluation.artifact.sha256 != of.artifact.sha256 else "seen to be"
            raise UsageError(
                f"{one.found.report}: {what} was {made} another model than for {other.found.report}, on a processor of "
                "the same kind; run both again"
            )
    if not evaluated and len(told) == len(held):
        raise UsageError(f"{told[0].found.report}: has no examples of {what}, and no other report has; {_AGAIN}")
    # Pieces of other examples than these would make other figures than all of them.
    of_all = max((one.stretch.of for _, one in evaluated if one.stretch is not None), default=0)
    for one in told:
        start, end = Piece(one.found.number, planned.pieces).bounds(of_all)
        found = one.rung.outcome.evaluation
        stretch = Stretch(start, end, of_all) if start < end else None
        if stretch != (found and found.stretch) or (found is None) != (one.rung.scores is None):
            raise UsageError(f"{one.found.report}: has other examples of {what} than its piece; {_AGAIN}")


def _by_model(
    shards: Mapping[str, Report], plan: Sequence[PlannedModel]
) -> Iterator[tuple[PlannedModel, list[ModelResult]]]:
    """The parts of each model of the plan. Raises UsageError for what is not of it, or in two reports."""
    held: dict[tuple[str, str], list[ModelResult]] = {(planned.manifest, planned.name): [] for planned in plan}
    asked = {(planned.manifest, planned.name, variant) for planned in plan for variant in planned.variants}
    met: dict[tuple[str, str, str], str] = {}
    for path, one in shards.items():
        for model in one.models:
            key = (model.manifest.repository_path, model.name)
            if key not in held:
                raise UsageError(f"{path}: has model {model.name!r}, which is not of its run; run that shard again")
            held[key].append(model)
            for variant in model:
                what = f"{path}: has variant {variant!r} of model {model.name!r}"
                if (*key, variant) not in asked:
                    raise UsageError(f"{what}, which is not of its run; run that shard again")
                if first := met.get((*key, variant)):
                    raise UsageError(f"{what}, as {first} has; run all shards with the same arguments")
                met[(*key, variant)] = path
    for planned in plan:
        yield planned, held[planned.manifest, planned.name]


def _model(planned: PlannedModel, parts: Sequence[ModelResult]) -> ModelResult:
    """A model of the plan from its parts in all shards."""
    variants = {variant.name: variant for part in parts for variant in part.variants}
    absent = next((name for name in planned.variants if name not in variants), None)
    if absent is not None or not parts:
        lacking = "model" if absent is None else f"variant {absent!r} of model"
        raise UsageError(f"no report has {lacking} {planned.name!r}, which {planned.manifest} asks for; run it again")
    whole = replace(
        parts[0],
        reference=_reference([part.reference for part in parts]),
        variants=tuple(variants[name] for name in planned.variants),
        float32=_float([part.float32 for part in parts]),
        error=next((part.error for part in parts if part.error is not None), None),
        notes=_once(found for part in parts for found in part.notes),
        findings=_once(found for part in parts for found in part.findings),
    )
    return replace(whole, verdict=Verdict.worst(part.verdict for part in parts))


def _reference(parts: Sequence[ReferenceResult]) -> ReferenceResult:
    """The reference as the shard that measured most of it has it."""
    return max(parts, key=lambda one: len(one.metrics))


def _float(parts: Sequence[VariantResult | None]) -> VariantResult | None:
    """The float conversion that nobody asked for; a shard without one has a variant that is it."""
    if None in parts:
        return None
    return next((one for one in parts if one is not None and one.error is None), parts[0])


def _once(items: Iterable[Any]) -> tuple[Any, ...]:
    """Each item once, in order; findings cannot be hashed."""
    return tuple({msgspec.json.encode(item): item for item in items}.values())


def _woven(parts: Sequence[Sequence[str]]) -> list[str]:
    """What several parts of one list hold, each once, in an order that all of them have."""
    after: dict[str | None, str | None] = {None: None}  # a ring from None to None, both ways
    before = dict(after)
    for part in parts:
        place = None
        for item in reversed(part):
            if item not in after:
                last = before[place]
                after[last], before[item], after[item], before[place] = item, last, place, item
            place = item
    return [item for item in _walk(after) if item is not None]


def _walk(after: Mapping[str | None, str | None]) -> Iterator[str | None]:
    place = after[None]
    while place is not None:
        yield place
        place = after[place]
