"""A run split over machines: what each does, decided alike by all of them, and nothing twice but what several need."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from tflite_guard.errors import UsageError
from tflite_guard.manifest.types import ModelSpec, VariantSpec
from tflite_guard.protocol import Piece
from tflite_guard.results import MOST_LISTED, ModelResult, PlannedModel, Report, ScoredPiece, Shard
from tflite_guard.run.jobs import Job
from tflite_guard.vocabulary import MOST_SHARDS

START = 8.0
"""Seconds that a model takes whatever its data: TensorFlow's import, loading, an export."""
A_VARIANT = 2.0
"""Seconds that a variant takes whatever its data: its conversion."""
A_MEGABYTE = 0.1
"""Seconds that a small convolutional network takes for a megabyte of evaluation data, the reference twice that."""
SLOW = 15.0
"""Times as long as others take models without fast kernels: int16x8, and all without LiteRT's optimized ones."""
SUITED = 60.0
"""Seconds that a shard of a cluster should take at least: many times its start."""
EACH = 4
"""Shards of a cluster for each that works at the same time: what one has too much, others do meanwhile, and little is
lost with a worker."""
FINENESS = 2
"""Pieces of evaluation data in an even share, at least: whole ones would fill few shards evenly."""
HALVINGS = 40
"""Of the range in which the cost of the dearest shard is looked for."""
LONGEST = 1e6
"""Seconds that anything is taken to have been measured at; a report may hold any number."""
Measured = Mapping[tuple[str, str, str | None], float]
"""Seconds that variants took, and references (None for the variant), by the manifest's place, model and variant."""


def parse(text: str) -> tuple[int, int]:
    """`I/N` as I and N, from 1/1. Raises ValueError with what is wrong."""
    number, slash, of = text.strip().partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and len(text) < 32):
        raise ValueError(f"{text[:80]!r} is not I/N, such as 2/4: the second of four shards")
    if not 1 <= int(number) <= int(of) <= MOST_SHARDS:
        raise ValueError(f"{text[:80]!r} is not one of 1/{of} to {of}/{of}, of at most {MOST_SHARDS:,} shards")
    return int(number), int(of)


def cut(work: Sequence[Job], of: int, known: Measured | None = None) -> list[Job]:
    """A run's jobs with one for each piece in place of those that take longer than a shard should.

    Of such a model the reference and the dearest variant alone, which no other cut divides, cost more than half an even
    share, and than a shard should take at least.
    """
    costs = _costs(work, known or {})
    most = max(_total(work, costs) / of / FINENESS, SUITED)
    found: list[Job] = []
    for one in work:
        least = costs[_key(one)] + max((costs[_key(one, each.name)] for each in one.model.variants), default=0.0)
        count = min(of, math.ceil(least / most)) if _divisible(one.model) else 1
        pieces = [Piece(number, count) for number in range(1, count + 1)]
        found += [one] if count == 1 else [replace(one, piece=piece) for piece in pieces]
    return found


def _divisible(model: ModelSpec) -> bool:
    """Whether the examples can be evaluated in pieces: by none of what looks at all, or depends on those before."""
    return bool(model.variants) and not (
        model.state == "kept"
        or model.reference.kind == "outputs"
        or model.evaluation.function is not None
        or any(metric.python is not None for metric in model.metrics)
        or any(one.evaluation.confidence or one.evaluation.observed_outputs for one in model.variants)
    )


def plan(work: Sequence[Job]) -> tuple[PlannedModel, ...]:
    """All that a run is to check. Raises UsageError where reports of shards could not tell it apart."""
    found = tuple(
        PlannedModel(
            one.manifest.repository_path,
            one.model.name,
            tuple(found.name for found in one.model.variants),
            1 if one.piece is None else one.piece.of,
        )
        for one in work
        if one.piece is None or one.piece.number == 1
    )
    require_distinct(found)
    return found


def require_distinct(plan: Sequence[PlannedModel]) -> None:
    """Raise UsageError for what is in a plan twice: manifests of two repositories can have equal paths in them."""
    met = Counter((one.manifest, one.name) for one in plan)
    for one in plan:
        if met[one.manifest, one.name] > 1 or len({*one.variants}) < len(one.variants):
            raise UsageError(
                f"{one.manifest} has {one.name!r}, or a variant of it, twice in this run, and shards know it by that "
                "name alone; check each repository by itself"
            )


def suited(work: Sequence[Job], slots: int) -> int:
    """Into how many shards to divide a run for so many that work at the same time.

    At least as many as they are; some for each of them where there are as many models, and each takes long.
    """
    costs = _costs(work, {})
    most = min(sum(len(one.model.variants) or 1 for one in work), MOST_SHARDS)
    return max(1, min(max(slots, min(EACH * slots, len(work), math.ceil(_total(work, costs) / SUITED))), most))


def _total(work: Sequence[Job], costs: Measured) -> float:
    """The cost of a run with every reference once."""
    return sum(costs[_key(one)] + sum(costs[_key(one, each.name)] for each in one.model.variants) for one in work)


def measured(report: Report) -> dict[tuple[str, str, str | None], float]:
    """What an earlier run took for all that it did not have from the cache."""
    found: dict[tuple[str, str, str | None], float] = {}
    for model in report.models:
        took = [(None, model.reference.seconds), *((one.name, one.seconds) for one in model.variants)]
        for name, seconds in took:
            if (total := sum(seconds.values())) > 0:
                found[model.manifest.repository_path, model.name, name] = min(total, LONGEST)
    return found


def part(work: Sequence[Job], number: int, of: int, known: Measured | None = None) -> list[Job]:
    """The jobs of one shard, from 1, in order."""
    return parts(work, of, known)[number - 1]


def parts(work: Sequence[Job], of: int, known: Measured | None = None) -> list[list[Job]]:
    """The jobs of each shard, in order. Together they have every variant of every job once.

    The work is a line of variants, cut into stretches so that the dearest is as cheap as it can be; a model that is cut
    has its reference run in each of them. Costs are those that are known of an earlier run; others are estimated from
    what every machine sees alike, sizes of files and kinds of variants, and brought to the same scale.
    """
    costs = _costs(work, known or {})
    units = [unit for place, one in enumerate(work) for unit in _units(place, one, costs)]
    low, high = 0.0, sum(unit.reference + unit.cost for unit in units)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if len(_stretches(units, middle)) <= of else (middle, high)
    stretches = _stretches(units, high)
    return [_jobs(work, stretch) for stretch in stretches] + [[] for _ in range(of - len(stretches))]


def _jobs(work: Sequence[Job], stretch: Sequence[_Unit]) -> list[Job]:
    held: dict[int, list[VariantSpec]] = {}
    for unit in stretch:
        held.setdefault(unit.job, []).extend(unit.variants)
    return [replace(work[job], model=replace(work[job].model, variants=tuple(some))) for job, some in held.items()]


def note(shard: Shard, models: Sequence[ModelResult]) -> str:
    """What a report says of being a part."""
    mine, every = sum(len(one.variants) for one in models), sum(len(one.variants) for one in shard.plan)
    scored = [f"{_scored(one)}, to be judged by `merge`" for one in shard.pieces[:MOST_LISTED]]
    scored += ["and more"] if len(shard.pieces) > MOST_LISTED else []
    told = (f"this is shard {shard.number} of {shard.of}, with {mine} of {every} variants", *scored)
    return f"{'; '.join(told)}; `tflite-guard merge` makes one report of all shards"


def _scored(one: ScoredPiece) -> str:
    failed = "" if one.error is None else f", where something could not be evaluated: {one.error}"
    return f"piece {one.number} of {one.of} of the evaluation data of model {one.model!r}{failed}"


class _Unit(msgspec.Struct, frozen=True):
    """What is not divided: a variant, or a model without any."""

    job: int
    variants: tuple[VariantSpec, ...]
    cost: float
    """Seconds."""
    reference: float
    """Seconds that its model takes besides, once a shard."""


def _units(place: int, one: Job, costs: Measured) -> list[_Unit]:
    reference = _of_piece(one, costs[_key(one)], START)
    found = [
        _Unit(place, (each,), _of_piece(one, costs[_key(one, each.name)], A_VARIANT), reference)
        for each in one.model.variants
    ]
    return found or [_Unit(place, (), 0.0, reference)]


def _of_piece(one: Job, cost: float, start: float) -> float:
    """What a piece costs of what all examples cost, of which some seconds are spent whatever their number."""
    if one.piece is None:
        return cost
    start = min(start, cost)
    return start + (cost - start) / one.piece.of


def _key(one: Job, variant: str | None = None) -> tuple[str, str, str | None]:
    return one.manifest.repository_path, one.model.name, variant


def _costs(work: Sequence[Job], known: Measured) -> Measured:
    """What is known, and the rest at its estimate times what the known was of its own."""
    estimated = {key: seconds for one in work for key, seconds in _estimates(one).items()}
    both = estimated.keys() & known.keys()
    scale = sum(known[key] for key in both) / sum(estimated[key] for key in both) if both else 1.0
    return {key: known.get(key, scale * seconds) for key, seconds in estimated.items()}


def _estimates(one: Job) -> Measured:
    data = A_MEGABYTE * _megabytes(one)
    variants = {_key(one, each.name): A_VARIANT + data * _slowness(each) for each in one.model.variants}
    return {_key(one): START + 2 * data, **variants}


def _stretches(units: Sequence[_Unit], most: float) -> list[list[_Unit]]:
    """The line of work in as few stretches as there can be of a cost of at most so much, or of one unit."""
    stretches: list[list[_Unit]] = []
    total = math.inf
    for unit in units:
        again = bool(stretches) and stretches[-1][-1].job == unit.job
        total += unit.cost + (0.0 if again else unit.reference)
        if total > most:
            stretches.append([])
            total = unit.cost + unit.reference
        stretches[-1].append(unit)
    return stretches


def _slowness(variant: VariantSpec) -> float:
    slow = variant.conversion.quantization == "int16x8" or variant.evaluation.kernels != "default"
    return SLOW if slow else 1.0


def _megabytes(one: Job) -> float:
    return sum(_size(file.path) for file in one.model.evaluation.files) / 1e6


def _size(path: str) -> int:
    """Bytes of a file, or of all files below a folder; 0 where there is none."""
    if os.path.isdir(path):
        return sum(_bytes_of(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)
    return _bytes_of(path)


def _bytes_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
