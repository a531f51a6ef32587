"""A run split over shards, and the one report that is made of theirs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from itertools import combinations_with_replacement, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.conftest import Run, manifest_of, write_manifest
from tflite_guard.errors import EvaluationError, UsageError
from tflite_guard.manifest.types import (
    Conversion,
    DatasetSpec,
    EvaluationOptions,
    FileSpec,
    FunctionSpec,
    MetricSpec,
    ModelSpec,
    ReferenceSpec,
    VariantSpec,
)
from tflite_guard.protocol import Piece
from tflite_guard.reports.json import read, render
from tflite_guard.results import ManifestInfo, PlannedModel, Report, Verdict
from tflite_guard.run import sharding
from tflite_guard.run.jobs import Job
from tflite_guard.run.merging import merged

KINDS = st.sampled_from(["float16", "dynamic_range", "int8", "int16x8"])


def jobs(*models: list[str]) -> list[Job]:
    """A job for each list of quantizations, all of one manifest."""
    info = ManifestInfo("m.json", "m.json", "0" * 64)
    data = DatasetSpec("test", "npz", FileSpec(__file__), "x")
    reference = ReferenceSpec("keras", FileSpec("a.keras"))
    return [
        Job(info, "/", (), ModelSpec(f"model {number}", reference, data, (), tuple(_variants(kinds))))
        for number, kinds in enumerate(models)
    ]


def _variants(kinds: list[str]) -> list[VariantSpec]:
    options = EvaluationOptions()
    return [VariantSpec(f"{place} {kind}", Conversion(kind), evaluation=options) for place, kind in enumerate(kinds)]  # type: ignore[arg-type]


@given(st.lists(st.lists(KINDS, max_size=6), max_size=12), st.integers(1, 9))
def test_every_variant_is_in_one_shard_and_in_order(models: list[list[str]], of: int) -> None:
    work = jobs(*models)
    parts = [sharding.part(work, number, of) for number in range(1, of + 1)]
    dealt = [(job.model.name, variant.name) for part in parts for job in part for variant in job.model.variants]
    asked = [(job.model.name, variant.name) for job in work for variant in job.model.variants]
    assert sorted(dealt) == sorted(asked)
    assert {job.model.name for part in parts for job in part} == {job.model.name for job in work}
    for part in parts:
        places = [asked.index((job.model.name, variant.name)) for job in part for variant in job.model.variants]
        assert places == sorted(places)
        assert len({job.model.name for job in part}) == len(part)


@given(st.lists(st.lists(KINDS, min_size=1, max_size=3), min_size=1, max_size=4), st.integers(1, 3))
def test_the_dearest_shard_is_as_cheap_as_any_cuts_make_it(models: list[list[str]], of: int) -> None:
    line = [(model, kind) for model, kinds in enumerate(models) for kind in kinds]

    def cost(some: list[tuple[int, str]]) -> float:
        data = sharding.A_MEGABYTE * Path(__file__).stat().st_size / 1e6
        slow = {"int16x8": sharding.SLOW}
        references = len({model for model, _ in some}) * (sharding.START + 2 * data)
        return references + sum(sharding.A_VARIANT + data * slow.get(kind, 1.0) for _, kind in some)

    cuts = combinations_with_replacement(range(len(line) + 1), of - 1)
    ways = [[line[a:b] for a, b in pairwise((0, *cut, len(line)))] for cut in cuts]
    best = min(max(map(cost, way)) for way in ways)
    found = [sharding.part(jobs(*models), number, of) for number in range(1, of + 1)]
    dealt = [
        [(int(job.model.name.split()[1]), variant.name.split()[1]) for job in part for variant in job.model.variants]
        for part in found
    ]
    assert max(map(cost, dealt)) == pytest.approx(best)


def test_models_stay_whole_where_that_is_even() -> None:
    work = jobs(*[["int8", "float16"]] * 8)
    for number in range(1, 5):
        assert [len(job.model.variants) for job in sharding.part(work, number, 4)] == [2, 2]


def test_a_model_that_takes_longer_than_a_shard_should_is_split() -> None:
    work = jobs(["int8"] * 40, ["int8"])
    sizes = [sum(len(job.model.variants) for job in sharding.part(work, number, 3)) for number in (1, 2, 3)]
    assert sizes == [15, 15, 11]  # with two references in the last, 38 seconds each


def _long(*seconds: float) -> dict[tuple[str, str, str | None], float]:
    """An earlier run of models of one variant, int8, whose references took so long and variants a second."""
    took = {("m.json", f"model {number}", None): each for number, each in enumerate(seconds)}
    return took | {("m.json", f"model {number}", "0 int8"): 1.0 for number in range(len(seconds))}


@given(st.lists(st.floats(1, 5000), min_size=1, max_size=6), st.integers(1, 9))
def test_every_piece_is_in_one_shard_and_takes_as_long_as_a_shard_should_at_least(
    seconds: list[float], of: int
) -> None:
    work, took = jobs(*[["int8"]] * len(seconds)), _long(*seconds)
    cut = sharding.cut(work, of, took)
    assert cut == sharding.cut(work, of, took)
    dealt = [(job.model.name, job.piece) for part in sharding.parts(cut, of, took) for job in part]
    assert dealt == [(job.model.name, job.piece) for job in cut]
    most = max((sum(seconds) + len(seconds)) / of / 2, sharding.SUITED)
    for number, each in enumerate(seconds):
        pieces = [job.piece for job in cut if job.model.name == f"model {number}"]
        if each + 1 <= most or of == 1:
            assert pieces == [None]
        else:
            count = len(pieces)
            assert pieces == [Piece(place, count) for place in range(1, count + 1)]
            assert most < (each + 1) / (count - 1)
            assert (each + 1) / count <= most or count == of
    assert [(one.name, one.pieces) for one in sharding.plan(cut)] == [
        (job.model.name, sum(job.model.name == other.model.name for other in cut)) for job in work
    ]


def test_pieces_make_shards_even_that_whole_evaluation_data_does_not() -> None:
    work, took = jobs(["int8"], ["int8"]), _long(3000.0, 20.0)
    whole, cut = sharding.parts(work, 3, took), sharding.parts(sharding.cut(work, 3, took), 3, took)
    assert _names(whole) == [["model 0"], ["model 1"], []]
    assert _names(cut) == [["model 0"], ["model 0"], ["model 0", "model 1"]]


UNCUT: dict[str, Callable[[ModelSpec], ModelSpec]] = {
    "kept state": lambda model: replace(model, state="kept"),
    "recorded reference": lambda model: replace(model, reference=ReferenceSpec("outputs", FileSpec("a.npz"))),
    "data by a function": lambda model: replace(
        model, evaluation=replace(model.evaluation, source="python", function=FunctionSpec("m:f", "/"))
    ),
    "a metric of one's own": lambda model: replace(
        model, metrics=(MetricSpec("own", "python", python=FunctionSpec("m:f", "/")),)
    ),
    "an early end": lambda model: _evaluated(model, EvaluationOptions(confidence=0.95)),
    "recorded outputs": lambda model: _evaluated(model, EvaluationOptions(observed_outputs=FileSpec("a.npz"))),
    "no variants": lambda model: replace(model, variants=()),
}


def _evaluated(model: ModelSpec, options: EvaluationOptions) -> ModelSpec:
    return replace(model, variants=tuple(replace(one, evaluation=options) for one in model.variants))


@pytest.mark.parametrize("kind", UNCUT)
def test_what_looks_at_all_examples_is_not_cut(kind: str) -> None:
    (job,), took = jobs(["int8"]), _long(3000.0)
    assert len(sharding.cut([job], 4, took)) == 4
    whole = replace(job, model=UNCUT[kind](job.model))
    assert sharding.cut([whole], 4, took) == [whole]


def test_a_cluster_gets_some_shards_for_each_that_works_and_none_that_is_short() -> None:
    work = jobs(*[["int8"]] * 12)  # of ten seconds and a little each
    assert [sharding.suited(work, slots) for slots in (1, 8, 100)] == [3, 8, 12]
    assert sharding.suited(jobs(*[["int8"] * 40] * 3), 1) == 3  # of 88 seconds each, and not cut for nothing
    assert [sharding.suited(jobs(*[["int8"] * 40] * 30), slots) for slots in (1, 5, 10)] == [4, 20, 30]
    assert sharding.suited(jobs(), 4) == 1


def test_what_an_earlier_run_took_makes_shards_even() -> None:
    work = jobs(*[["int8", "float16"]] * 4)
    took = {
        ("m.json", f"model {number}", name): 1.0 for number in range(4) for name in (None, "0 int8", "1 float16")
    } | {("m.json", "model 0", "1 float16"): 90.0}
    assert _names(sharding.parts(work, 2, took)) == [["model 0"], ["model 1", "model 2", "model 3"]]
    # What is not known is taken to be as far from its estimate as what is known.
    alone = {key: 1000.0 for key in took if key[1] == "model 0"}
    for known in ({}, alone, {("m.json", "gone", None): 5.0}):
        assert _names(sharding.parts(work, 2, known)) == [["model 0", "model 1"], ["model 2", "model 3"]]


def _names(parts: list[list[Job]]) -> list[list[str]]:
    return [[job.model.name for job in part] for part in parts]


def test_a_run_on_many_machines_is_efficient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "bench")
    simulate = import_module("simulate").simulate
    runs = {(one.workers, one.by): one for one in simulate(120, 50_000, (1, 8), seed=1)}
    alone, estimated, measured, scheduled = (
        runs[at] for at in ((1, "an earlier run"), (8, "sizes of files"), (8, "an earlier run"), (8, "a scheduler"))
    )
    assert alone.efficiency > 0.99
    assert measured.efficiency > 0.9
    assert estimated.efficiency < scheduled.efficiency
    assert measured.seconds < alone.seconds / 7


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "1/2/3", "a/b", "-1/2", "1/20000", "²/3", "1.0/2"])
def test_what_is_no_shard_is_told(text: str, run: Run) -> None:
    with pytest.raises(ValueError, match="is not"):
        sharding.parse(text)


def test_a_shard_is_read() -> None:
    assert sharding.parse(" 2/4 ") == (2, 4)


@pytest.fixture
def folder(light_digits: Path) -> Path:
    """Two models with three variants in all, one of them out of tolerance, and a baseline that has one more."""
    manifest = manifest_of(light_digits)
    (model,) = manifest["models"]
    (shipped,) = model["variants"]
    strict = shipped | {"name": "strict", "tolerances": {"accuracy": {"min": 1.0}}}
    manifest["models"] = [model | {"variants": [shipped, strict]}, model | {"name": "again"}]
    write_manifest(light_digits, manifest)
    return light_digits


def untimed(report: dict[str, Any]) -> dict[str, Any]:
    for model in report["models"]:
        model["reference"]["seconds"] = {}
        for variant in model["variants"]:
            variant |= {"seconds": {}, "cached": False}
    return report


def test_the_merged_report_is_the_unsharded_runs(run: Run, folder: Path) -> None:
    run("baseline", "update", folder)
    recorded = folder / "tflite-guard.baseline.json"
    baseline = json.loads(recorded.read_text())
    baseline["models"]["gone"] = baseline["models"].pop("again")
    baseline["environment"]["ai_edge_litert"] = "2.0.0"
    recorded.write_text(json.dumps(baseline))
    asked = ("check", folder, "--diagnose", "never", "--report-dir")
    whole = run(*asked, folder / "whole")
    for number in (1, 2, 3):
        shard = run(*asked, folder / f"shards/{number}", "--shard", f"{number}/3")
        assert f"this is shard {number} of 3" in shard.out
    done = run("merge", str(folder / "shards/*/report.json"), "--report-dir", folder / "merged")
    assert done.code == whole.code == 1
    results = {name: json.loads((folder / name / "report.json").read_text()) for name in ("whole", "merged")}
    assert untimed(results["merged"]) == untimed(results["whole"])
    gone = "model 'gone' is in the baseline but was not checked"
    environment, *notes = results["whole"]["notes"]
    assert notes == ["model 'again' is not in the baseline", gone]
    assert environment.startswith("the baseline was recorded with ai-edge-litert 2.0.0, this ran with ai-edge-litert ")
    for name in ("report.md", "report.html"):
        assert "recorded with ai-edge-litert 2.0.0" in (folder / "merged" / name).read_text(), name
    assert "recorded with ai-edge-litert 2.0.0" in done.out
    assert "ai-edge-litert 2.0.0" in run("baseline", "show", folder).out


def test_shards_are_made_even_by_the_report_of_an_earlier_run(run: Run, folder: Path) -> None:
    asked = ("check", folder, "--diagnose", "never", "--no-cache", "--fail-on", "never", "--format", "json")
    report = json.loads(run(*asked).out)
    assert report["models"][0]["reference"]["seconds"]["reference"] > 0
    for model in report["models"]:
        for variant in model["variants"]:
            variant["seconds"] = {"evaluate": 1000.0 if model["name"] == "again" else 1.0}
    (folder / "costs.json").write_text(json.dumps(report))
    first = json.loads(run(*asked, "--shard", "1/2", "--costs", folder / "costs.json").out)
    assert [len(model["variants"]) for model in first["models"]] == [2]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--costs", "nowhere.json", "--shard", "1/2"), "nowhere.json: cannot be read (No such file"),
        (("--costs", "report.json"), "report.json: costs decide how a run is split; say which part to check"),
    ],
)
def test_costs_that_are_of_no_use_are_told(run: Run, light_digits: Path, arguments: tuple[str, ...], told: str) -> None:
    done = run("check", light_digits, *arguments)
    assert (done.code, told in done.err) == (2, True), done.err


def test_more_shards_than_work_leaves_some_without(run: Run, light_digits: Path) -> None:
    codes = []
    for number in (1, 2):
        shard = run("check", light_digits, "--shard", f"{number}/2", "--report-dir", light_digits / f"s{number}")
        codes.append(shard.code)
    assert codes == [0, 0]
    assert "with 0 of 1 variants" in shard.out
    done = run("merge", light_digits / "s1/report.json", light_digits / "s2/report.json")
    assert (done.code, "1 model, 1 variant" in done.out) == (0, True)


@pytest.fixture(scope="module")
def parts() -> dict[str, Report]:
    """Reports of two shards, by path."""
    from tests.sample import full

    whole = full()
    plan = tuple(sharding.PlannedModel(one.manifest.repository_path, one.name, tuple(one)) for one in whole.models)
    split = (whole.models[:1], whole.models[1:])
    return {
        f"{number}.json": replace(whole, models=models, shard=sharding.Shard(number, 2, plan))
        for number, models in enumerate(split, 1)
    }


def test_the_sample_in_two_parts_is_the_sample(parts: dict[str, Report], tmp_path: Path) -> None:
    from tests.sample import full

    assert merged(dict(reversed(parts.items()))) == full()
    path = tmp_path / "report.json"
    path.write_text(render(parts["1.json"]))
    assert read(str(path)) == parts["1.json"]


def planned(parts: dict[str, Report], change: Callable[[PlannedModel], PlannedModel]) -> dict[str, Report]:
    """The reports with each model of their plan changed."""
    found = {}
    for path, one in parts.items():
        assert one.shard is not None
        plan = tuple(map(change, one.shard.plan))
        found[path] = replace(one, shard=replace(one.shard, plan=plan))
    return found


WRONG: dict[str, tuple[Callable[[dict[str, Report]], dict[str, Report]], str]] = {
    "missing": (lambda parts: {"2.json": parts["2.json"]}, "of 2 shards, these have no report here: 1; name"),
    "twice": (lambda parts: {**parts, "c.json": parts["2.json"]}, "c.json: is of shard 2, as 2.json is"),
    "whole": (lambda parts: {**parts, "c.json": replace(parts["2.json"], shard=None)}, "c.json: is the report of a"),
    "versions": (
        lambda parts: {**parts, "2.json": replace(parts["2.json"], environment={"numpy": "1.0"})},
        "2.json: was made with .* run all shards with the same versions",
    ),
    "plan": (
        lambda parts: {**parts, "2.json": replace(parts["2.json"], shard=sharding.Shard(2, 2, ()))},
        "2.json: is a shard of another run than 1.json",
    ),
    "lacking": (lambda parts: {**parts, "2.json": replace(parts["2.json"], models=())}, "no report has variant"),
    "none": (lambda parts: {}, "no reports to merge"),
    "beyond": (
        lambda parts: {**parts, "c.json": replace(parts["2.json"], shard=replace(parts["2.json"].shard, number=3))},
        "c.json: is of shard 3 of 2, which no run has",
    ),
    "a variant twice": (
        lambda parts: {
            **parts,
            "2.json": replace(parts["2.json"], models=(*parts["2.json"].models, *parts["1.json"].models)),
        },
        "2.json: has variant .* as 1.json has",
    ),
    "another model": (
        lambda parts: {
            **parts,
            "2.json": replace(parts["2.json"], models=(replace(parts["1.json"].models[0], name="other"),)),
        },
        "2.json: has model 'other', which is not of its run",
    ),
    "another variant": (
        lambda parts: planned(parts, lambda one: replace(one, variants=one.variants[1:])),
        "1.json: has variant .* which is not of its run",
    ),
    "a plan of one model twice": (
        lambda parts: planned(parts, lambda one: replace(one, name="same")),
        "has 'same', or a variant of it, twice in this run",
    ),
    "a plan of one variant twice": (
        lambda parts: planned(parts, lambda one: replace(one, variants=one.variants * 2)),
        "or a variant of it, twice in this run",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_makes_no_whole_is_told(parts: dict[str, Report], kind: str) -> None:
    change, told = WRONG[kind]
    with pytest.raises(UsageError, match=told):
        merged(change(parts))


def test_a_shard_that_came_to_nothing_is_no_pass(parts: dict[str, Report]) -> None:
    nothing = replace(parts["2.json"], models=(), shard=None, verdict=Verdict.ERROR, notes=("m.json:3: bad",))
    with pytest.raises(EvaluationError, match=r"2\.json: that run came to nothing: m\.json:3: bad"):
        merged({**parts, "2.json": nothing})


def test_shards_of_unlike_processors_are_merged_and_it_is_said(parts: dict[str, Report]) -> None:
    first, second = (replace(one, environment={**one.environment, "processor": kind})
                     for one, kind in zip(parts.values(), ("avx2", "avx512f"), strict=True))  # fmt: skip
    (note,) = merged({"1.json": first, "2.json": second}).notes[-1:]
    assert note.startswith("the shards ran on different processors (avx2, avx512f);")


def test_a_float_conversion_that_one_shard_was_asked_for_is_no_hidden_one(parts: dict[str, Report]) -> None:
    (model,) = parts["1.json"].models
    model = replace(model, float32=model.variants[0])
    asked, hidden = model.variants[:1], model.variants[1:]
    first = replace(parts["1.json"], models=(replace(model, variants=asked, float32=None),))
    second = replace(parts["2.json"], models=(replace(model, variants=hidden), *parts["2.json"].models))
    assert merged({"1.json": first, "2.json": second}).models[0] == replace(model, float32=None)
    first = replace(first, models=(replace(model, variants=asked),))
    assert merged({"1.json": first, "2.json": second}).models[0] == model


def test_another_manifest_is_another_run(parts: dict[str, Report]) -> None:
    first, second = parts["1.json"].models[0], parts["2.json"]
    other = replace(first, manifest=replace(first.manifest, sha256="f" * 64))
    with pytest.raises(UsageError, match="run all shards on the same commit"):
        merged({**parts, "2.json": replace(second, models=(*second.models, other))})


def test_two_commits_are_told_whichever_shards_they_are_in(parts: dict[str, Report]) -> None:
    first, *rest = parts["2.json"].models
    assert rest
    other = replace(rest[0], manifest=replace(first.manifest, sha256="f" * 64))
    with pytest.raises(UsageError, match="run all shards on the same commit"):
        merged(
            {
                **parts,
                "1.json": replace(parts["1.json"], models=()),
                "2.json": replace(parts["2.json"], models=(first, other)),
            }
        )


def test_reports_of_many_notes_are_merged_at_once(parts: dict[str, Report]) -> None:
    notes = tuple(map(str, range(200_000)))  # each held against each other would take minutes
    assert merged({**parts, "2.json": replace(parts["2.json"], notes=notes)}).notes[-200_000:] == notes


def test_models_that_shards_could_not_tell_apart_are_refused(run: Run, light_digits: Path, tmp_path: Path) -> None:
    other = tmp_path / "another repository"
    shutil.copytree(light_digits, other)
    for repository in (light_digits, other):
        (repository / ".git").mkdir(exist_ok=True)
    done = run("check", light_digits, other, "--shard", "1/2")
    assert done.code == 2
    assert "tflite-guard.json has 'digits', or a variant of it, twice in this run" in done.err
