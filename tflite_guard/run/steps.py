"""The steps of one model, from its files to measurements: each answered from the cache or done by a child."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import msgspec

from tflite_guard.errors import EvaluationError
from tflite_guard.files import sha256_of
from tflite_guard.manifest.types import CalibrationOptions, DatasetSpec, Manifest, ModelSpec, ReferenceSpec, VariantSpec
from tflite_guard.protocol import Evaluation
from tflite_guard.results import Verdict
from tflite_guard.run.cache import Cache, Entry, key_of
from tflite_guard.run.workers import Worker, WorkerPair
from tflite_guard.vocabulary import QUANTIZATIONS

TOOL_NAME = "tflite-guard"


@dataclass(frozen=True)
class Event:
    """Something to show while a run works."""

    model: str
    variant: str | None
    phase: str
    """`reference`, `convert`, `evaluate` count examples; `variant` counts finished variants; `done` ends a model."""
    done: int = 0
    total: int = 0
    verdict: Verdict | None = None


OnEvent = Callable[[Event], None]


class Hashes:
    """Content hashes of the files of a run, each computed once. Links in folders may lead to `roots` alone."""

    def __init__(self, roots: Sequence[str]) -> None:
        self._roots = roots
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, path: str) -> str:
        with self._lock:
            if path not in self._known:
                try:
                    self._known[path] = sha256_of(path, self._roots)
                except OSError as error:
                    raise EvaluationError("file", f"{path}: cannot be read ({error.strerror})") from None
            return self._known[path]


@dataclass(frozen=True)
class Run:
    """What the models of a run share."""

    cache: Cache
    hashes: Hashes
    threads: int
    scratch: str
    """Different in every run."""
    allow_code: bool


@dataclass
class Steps:
    """The steps of one model: each answered from the cache or done by a child, each at most once."""

    run: Run
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
            "threads": self.run.threads,
        }
        return self._step(self._reference_key, worker, "reference", arguments, None, "reference", ReferenceAnswer)

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
            worker, task = self.workers.litert, "recipe"
        else:
            arguments["reference"] = msgspec.to_builtins(source)
            worker, task = self.workers.tensorflow, "convert"
        key = self._artifact_key(variant)
        return self._step(key, worker, task, arguments, variant.name, "convert", ArtifactAnswer)

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
            "threads": self.run.threads,
        }
        return self._step(key, self.workers.litert, "evaluate", arguments, variant.name, "evaluate", Evaluation)

    def evaluation_key(self, variant: VariantSpec) -> str:
        """Depends on everything but tolerances, so that changing one re-runs nothing."""
        observed = variant.observed_outputs and self.run.hashes(variant.observed_outputs)
        asked = (variant.kernels, variant.require_integer, variant.quantization, observed)
        metrics = msgspec.to_builtins(self.model.metrics)
        return key_of(
            "evaluation", self._artifact_key(variant), self._reference_key, metrics, asked, self._salt(), _code()
        )

    def known(self, variant: VariantSpec) -> Entry | None:
        """The variant's measurements if they are in the cache."""
        return self.run.cache.peek(self.evaluation_key(variant))

    def _artifact_key(self, variant: VariantSpec) -> str:
        if variant.tflite is not None:
            return key_of("file", self.run.hashes(variant.tflite))
        source = variant.source or self.model.reference
        part = _conversion_part(variant)
        calibration = self._data_key(part.calibration) if part.calibration is not None else None
        recipe = self.run.hashes(part.recipe_file) if part.recipe_file else part.recipe
        how = msgspec.to_builtins(replace(part, recipe=recipe, calibration=None, source=None))
        return key_of("artifact", self._model_key(source), how, calibration, _code())

    def _model_key(self, spec: ReferenceSpec) -> str:
        # What is refused without --allow-code must not be answered without it either.
        return key_of(spec.kind, self.run.hashes(spec.path), spec.signature, spec.input_shapes, self.run.allow_code)

    def _data_key(self, spec: DatasetSpec) -> str:
        files = [spec.path, spec.labels_file] if spec.source != "python" else []
        content = msgspec.to_builtins(replace(spec, name="", path="", labels_file=None, root="", roots=(), sha256=None))
        return key_of(content, [self.run.hashes(path) for path in files if path is not None], self._salt(spec))

    def _salt(self, spec: DatasetSpec | None = None) -> str | None:
        """Code of the user's is not hashed, so what it gives is never taken from an earlier run."""
        python = any(metric.python for metric in self.model.metrics) if spec is None else spec.source == "python"
        return self.run.scratch if python else None

    def _step(
        self,
        key: str,
        worker: Worker,
        task: str,
        arguments: dict[str, Any],
        variant: str | None,
        phase: str,
        kind: type[ReferenceAnswer] | type[ArtifactAnswer] | type[Evaluation],
    ) -> Entry:
        known = self.run.cache.get(key)
        if known is not None:
            return known
        self.on_event(Event(self.model.name, variant, phase))
        started = time.monotonic()
        try:
            with worker.writing(
                task,
                arguments,
                deadline=self.deadline,
                progress=lambda done, total: self.on_event(Event(self.model.name, variant, phase, done, total)),
            ) as (result, folder):
                names = _checked(result, kind)
                entry = self.run.cache.put(key, {name: name for name in names}, result, folder=folder)
        except EvaluationError as error:
            raise EvaluationError(error.kind, self._as_written(str(error), arguments.get("tflite"))) from None
        self.seconds.setdefault(variant or "", {})[phase] = round(time.monotonic() - started, 3)
        return entry

    def _as_written(self, message: str, tflite: str | None) -> str:
        """A message with the paths that it names as the manifest has them, and none of the cache's."""
        paths = sorted({path for path in paths_of(self.model, False) if path}, key=len, reverse=True)
        if tflite is not None and tflite not in paths:
            message = message.replace(tflite, "the converted model")
        for path in paths:
            message = message.replace(path, shown(path, self.manifest))
        return message


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
    package = Path(__file__).parents[1]
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


def environment() -> dict[str, Any]:
    """The versions that results depend on, without importing any of them."""
    return {
        "python": platform.python_version(),
        "tensorflow": _version("tensorflow", "tensorflow-cpu"),
        "keras": _version("keras"),
        "tf_keras": _version("tf-keras"),
        "h5py": _version("h5py"),
        "ai_edge_litert": _version("ai-edge-litert"),
        "litert_quantizer": _version("litert-quantizer"),
        "numpy": _version("numpy"),
        "pillow": _version("pillow"),
        "platform": f"{platform.system()} {platform.machine()}",
    }


@cache
def tool_version() -> str:
    """This tool's version."""
    return importlib.metadata.version(TOOL_NAME)


@dataclass(frozen=True)
class ReferenceAnswer:
    """What a child says after running the reference."""

    files: tuple[str, ...]
    examples: int
    names: dict[str, Any] | None


@dataclass(frozen=True)
class ArtifactAnswer:
    """What a child says after converting."""

    size_bytes: int
    files: tuple[str, ...] = ("model.tflite",)


# The names that children give their results; anything else is not taken from them.
_RESULT = re.compile(r"outputs\.json|[0-9]{1,6}\.npy|model\.tflite|scores\.npz")


def _checked(
    answer: dict[str, Any], kind: type[ReferenceAnswer] | type[ArtifactAnswer] | type[Evaluation]
) -> tuple[str, ...]:
    """The files of an answer, which comes from a child that is not trusted: of the right types, without paths."""
    try:
        files = msgspec.convert(answer, kind).files
    except msgspec.ValidationError:
        files = ("",)
    if not all(_RESULT.fullmatch(name) for name in files):
        raise EvaluationError("crash", "the process that ran the model gave an answer that is none")
    return files


def shown(path: str, manifest: Manifest) -> str:
    """A path of the manifest as a user has it: from the manifest's folder, unless that is a long way round."""
    real = os.path.realpath(path)
    return min(os.path.relpath(real, os.path.realpath(manifest.folder)), real, key=len)


def paths_of(model: ModelSpec, allow_code: bool) -> Iterator[str | None]:
    """Every file that a child may need for a model, links aside; whole folders only where code is to be run."""
    for spec in (model.reference, *(variant.source for variant in model.variants)):
        yield spec.path if spec is not None else None
    for data in (model.evaluation, *(variant.calibration for variant in model.variants)):
        if data is not None:
            yield from (data.path, data.labels_file, data.root if allow_code else None)
            yield from data.roots if data.source == "python" else ()
    for variant in model.variants:
        yield from (variant.tflite, variant.recipe_file, variant.observed_outputs)
