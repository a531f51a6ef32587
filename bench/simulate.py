"""How a run over many machines spends its time: shards as run/sharding.py plans them, at measured costs.

python bench/simulate.py plays a run of 1,000 models of the kinds in constants.json, five variants each, on 50,000
examples, on machines of two cores with empty caches. It prints how long the run takes on so many machines, with a shard
each, and its efficiency: the time of one machine, divided by that of all times their number, up to the end of the last
shard and up to the merged report. Shards are planned by what files say, by what an earlier run took (`--costs`), and as
for a cluster (`--scheduler`), where each machine does one small shard after the other. Each step takes what was
measured, times a random factor of the spread that was measured, another one in each run; one seed gives one result.
Evaluation data that takes longer than a shard should is cut into pieces; what `merge` takes to join them is left out.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tflite_guard.manifest.types import (
    Conversion,
    DatasetSpec,
    EvaluationOptions,
    FileSpec,
    ModelSpec,
    ReferenceSpec,
    VariantSpec,
)
from tflite_guard.results import ManifestInfo
from tflite_guard.run import sharding
from tflite_guard.run.jobs import Job

CONSTANTS = json.loads((Path(__file__).parent / "constants.json").read_text())
BY_FILES, BY_RUN, BY_SCHEDULER = "sizes of files", "an earlier run", "a scheduler"
QUANTIZATIONS = ("float32", "float16", "dynamic_range", "int8", "int8")
CORES = 2
Costs = Mapping[str, Mapping[str, float]]
"""Processor seconds by model and step."""


@dataclass(frozen=True)
class Outcome:
    """How one run went."""

    workers: int
    by: str
    """What its shards were made even by."""
    seconds: float
    """From the start to the merged report."""
    efficiency: float
    """Of the shards."""
    merged: float
    """Of the whole, in which all machines wait for the merge."""
    again: float
    """The share of the machines' time in which they load TensorFlow, or models that others have, too."""
    idle: float
    """The share of the machines' time in which they wait for the last shard."""


@dataclass(frozen=True)
class Step:
    """One step of a model's check."""

    seconds: float
    """Of a processor."""
    cores: int
    """That it can use at once."""
    after: tuple[str, ...]
    """The steps that come before."""


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=1000, metavar="N", help="default 1,000")
    parser.add_argument("--examples", type=int, default=50_000, metavar="N", help="default 50,000")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64, 512], metavar="N", help="machines")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    arguments = parser.parse_args()
    print("| machines | shards made even by | hours | efficiency | with the merge | done again | waiting |")
    print("|---|---|---|---|---|---|---|")
    for one in simulate(arguments.models, arguments.examples, arguments.workers, arguments.seed):
        told = f"{one.seconds / 3600:.2f} | {one.efficiency:.2f} | {one.merged:.2f} | {one.again:.1%} | {one.idle:.1%}"
        print(f"| {one.workers} | {one.by} | {told} |")


def simulate(models: int, examples: int, workers: Sequence[int], seed: int) -> Iterator[Outcome]:
    """Runs of the same models on so many machines each, planned in all ways."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="simulate-") as folder:
        work = load(models, examples, Path(folder), rng)
        before, now = ({one.model.name: drawn(one, examples, rng) for one in work} for _ in range(2))
        known = reported(work, before)
        alone = CONSTANTS["start"] + sum(played(work, now))
        merging = CONSTANTS["merge"] * len(work) * len(QUANTIZATIONS)
        for number in workers:
            plans = {
                BY_FILES: sharding.parts(sharding.cut(work, number), number),
                BY_RUN: sharding.parts(sharding.cut(work, number, known), number, known),
                BY_SCHEDULER: sharding.parts(work, sharding.suited(work, number)),
            }
            for by, shards in plans.items():
                took = [CONSTANTS["start"] + sum(played(shard, now)) for shard in shards]
                end = ended(took, number)
                spent = number * end
                yield Outcome(
                    workers=number,
                    by=by,
                    seconds=end + merging,
                    efficiency=alone / spent,
                    merged=(alone + merging) / (number * (end + merging)),
                    again=(sum(took) - alone) / spent,
                    idle=1 - sum(took) / spent,
                )


def ended(took: Sequence[float], machines: int) -> float:
    """When the last shard is done, where each machine that is free does the next one."""
    free = [0.0] * machines
    for seconds in took:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def load(models: int, examples: int, folder: Path, rng: random.Random) -> list[Job]:
    """So many models of random kinds, each with a file of evaluation data as large as it would be."""
    for kind, constants in CONSTANTS["kinds"].items():
        with (folder / kind).open("wb") as stream:
            stream.truncate(examples * int(constants["example_bytes"]))
    info = ManifestInfo("tflite-guard.json", "tflite-guard.json", "0" * 64)
    variants = tuple(
        VariantSpec(str(place), Conversion(quantization), evaluation=EvaluationOptions())  # type: ignore[arg-type]
        for place, quantization in enumerate(QUANTIZATIONS)
    )
    found = []
    for number, kind in enumerate(rng.choices(list(CONSTANTS["kinds"]), k=models)):
        data = DatasetSpec("test", "npz", FileSpec(str(folder / kind)), "x")
        model = ModelSpec(f"{number} {kind}", ReferenceSpec("keras", FileSpec("model.keras")), data, (), variants)
        found.append(Job(info, "/", (), model))
    return found


def drawn(one: Job, examples: int, rng: random.Random) -> dict[str, float]:
    """Processor seconds of each step of a model, as they come out in one run."""
    constants = CONSTANTS["kinds"][one.model.name.split(" ", 1)[1]]
    means = {name: constants[name] for name in ("load", "export")} | {"reference": constants["reference"] * examples}
    for variant in one.model.variants:
        means[f"convert {variant.name}"] = constants["convert"]
        means[f"evaluate {variant.name}"] = constants["evaluation"] + constants["evaluate"] * examples
    return {name: mean * math.exp(rng.gauss(0, CONSTANTS["spread"])) for name, mean in means.items()}


def steps(costs: Mapping[str, float], variants: Sequence[str]) -> dict[str, Step]:
    """What a check of some variants of a model does: one is evaluated while the next is converted.

    The export and the first conversion are made beside the reference.
    """
    found = {"load": Step(costs["load"], 1, ()), "reference": Step(costs["reference"], CORES, ("load",))}
    converted, evaluated = "load", "reference"
    for name in variants:
        first = converted == "load"
        waits = ("load",) if first else (converted, "reference")
        converted = f"convert {name}"
        found[converted] = Step(costs[converted] + (costs["export"] if first else 0.0), 1, waits)
        found[f"evaluate {name}"] = Step(costs[f"evaluate {name}"], CORES, (converted, evaluated))
        evaluated = f"evaluate {name}"
    return found


def spans(work: Mapping[str, Step]) -> dict[str, tuple[float, float]]:
    """From when to when each step is under way on one machine; steps at the same time share its cores."""
    left = {name: step.seconds for name, step in work.items()}
    found: dict[str, tuple[float, float]] = {}
    now = 0.0
    while left:
        ready = [name for name in left if not left.keys() & {*work[name].after}]
        speed = {name: min(work[name].cores, CORES / len(ready)) for name in ready}
        began = {name: found.get(name, (now, now))[0] for name in ready}
        lasting = min(left[name] / speed[name] for name in ready)
        now += lasting
        for name in ready:
            found[name] = began[name], now
            left[name] -= lasting * speed[name]
            if left[name] < 1e-9:
                del left[name]
    return found


def played(shard: Sequence[Job], costs: Costs) -> list[float]:
    """The seconds of each model of a shard on one machine."""
    return [max(end for _, end in spans(_steps_of(one, costs[one.model.name])).values()) for one in shard]


def _steps_of(one: Job, costs: Mapping[str, float]) -> dict[str, Step]:
    """What a check of a model, or of a piece of its evaluation data, does."""
    of = 1 if one.piece is None else one.piece.of
    data = {name: seconds / of for name, seconds in costs.items() if name.startswith(("reference", "evaluate "))}
    return steps({**costs, **data}, [each.name for each in one.model.variants])


def reported(work: Sequence[Job], costs: Costs) -> sharding.Measured:
    """What the report of a run says that references and variants took."""
    found = {}
    for one in work:
        took = spans(_steps_of(one, costs[one.model.name]))
        seconds = {name: end - start for name, (start, end) in took.items()}
        place, model = one.manifest.repository_path, one.model.name
        found[place, model, None] = seconds["load"] + seconds["reference"]
        for variant in one.model.variants:
            found[place, model, variant.name] = seconds[f"convert {variant.name}"] + seconds[f"evaluate {variant.name}"]
    return found


if __name__ == "__main__":
    main()
