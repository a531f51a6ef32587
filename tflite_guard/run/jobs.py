"""What a run consists of, as plain data: one job a model."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from tflite_guard.errors import UsageError
from tflite_guard.files import repository_path
from tflite_guard.judgement.baseline import Baseline
from tflite_guard.manifest.types import Conversion, FileSpec, FunctionSpec, Manifest, ModelSpec, VariantSpec
from tflite_guard.protocol import Piece
from tflite_guard.results import ManifestInfo
from tflite_guard.vocabulary import DiagnoseUse

OF_TENSORFLOW = ("keras", "saved_model")
"""Kinds of references that TensorFlow runs and converts."""
UNCONVERTED = ("outputs", "artifact")
"""Kinds of references that are compared with and no more."""


class Options(msgspec.Struct, frozen=True):
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
    data_roots: tuple[str, ...] = ()
    """Folders outside the repository that manifests may read, and URIs below which they may name files."""
    diagnose: DiagnoseUse = "auto"
    """Look for the cause of what does not pass, of everything, or of nothing."""
    memory_bytes: int | None = None
    """Limit of each child; None means what the machine has."""
    shard: tuple[int, int] | None = None
    """Which of how many parts of the run to do, from 1; None does it all."""
    share: int = 1
    """How many runs share this machine's cores."""
    costs: str | None = None
    """A report of an earlier run, by whose times the parts are made even."""
    offline: bool = False
    """Fetch nothing: files elsewhere are taken from the cache alone."""
    scores: str | None = None
    """The folder for the scores of pieces of evaluation data; None has a shard do whole evaluation data alone."""
    every_example: bool = False
    """Evaluate all of them, whatever `stop_when` says: what is recorded must not be of a part."""


class Job(msgspec.Struct, frozen=True):
    """One model of one manifest, with all that checking it takes."""

    manifest: ManifestInfo
    folder: str
    """The manifest's, absolute."""
    data_roots: tuple[str, ...]
    model: ModelSpec
    baseline: Baseline | None = None
    piece: Piece | None = None
    """Of its evaluation data; None means all."""


def jobs(manifests: Sequence[Manifest], options: Options, baselines: Mapping[str, Baseline] | None = None) -> list[Job]:
    """The models, with the variants, that the patterns of some options ask for.

    Raises UsageError for a pattern that matches nothing.
    """
    _refuse_idle(options.models, "--model", [model.name for one in manifests for model in one.models])
    asked = [(one, model) for one in manifests for model in one.models if _matches(model.name, options.models)]
    _refuse_idle(options.variants, "--variant", [variant.name for _, model in asked for variant in model.variants])
    found = []
    for manifest, model in asked:
        variants = tuple(
            _in_full(variant) if options.every_example else variant
            for variant in model.variants
            if _matches(variant.name, options.variants)
        )
        if variants or not options.variants:
            recorded = (baselines or {}).get(manifest.path)
            found.append(job(manifest, replace(model, variants=variants), recorded))
    return found


def job(manifest: Manifest, model: ModelSpec, baseline: Baseline | None = None) -> Job:
    """The job of one model."""
    info = ManifestInfo(manifest.path, repository_path(manifest.path), manifest.sha256)
    return Job(info, manifest.folder, manifest.data_roots, model, baseline)


def hidden_rungs(model: ModelSpec) -> list[VariantSpec]:
    """Rungs of the ladder from the reference to the variants that nobody asked for and that tell where it breaks.

    The float conversion separates errors of conversion from those of quantization.
    """
    if model.reference.kind not in OF_TENSORFLOW:
        return []
    float32 = Conversion(quantization="float32", source=model.reference)
    asked = any(variant.conversion == float32 for variant in model.variants)
    return [] if asked else [VariantSpec("float32", float32)]


def named_files(value: Any) -> Iterator[FileSpec | FunctionSpec]:
    """Every file and function that a specification names, wherever in it."""
    if isinstance(value, FileSpec | FunctionSpec):
        yield value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from named_files(getattr(value, name))
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from named_files(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from named_files(inner)


def with_files(value: Any, change: Callable[[FileSpec], FileSpec]) -> Any:
    """A specification or request with another file in place of each that it names, wherever in it."""
    if isinstance(value, FileSpec):
        return change(value)
    if isinstance(value, msgspec.Struct):
        inner = {name: with_files(getattr(value, name), change) for name in value.__struct_fields__}
        return replace(value, **inner)
    if isinstance(value, Mapping):
        return {key: with_files(inner, change) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(with_files(inner, change) for inner in value)
    return value


def _in_full(variant: VariantSpec) -> VariantSpec:
    return replace(variant, evaluation=replace(variant.evaluation, confidence=None))


def _refuse_idle(patterns: Sequence[str], option: str, names: Sequence[str]) -> None:
    """A pattern that matches nothing is a slip, and what it was meant to check would go unchecked."""
    for pattern in patterns:
        if not any(_matches(name, (pattern,)) for name in names):
            raise UsageError(f"{option} {pattern} matches nothing; there are {', '.join(dict.fromkeys(names))}")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
