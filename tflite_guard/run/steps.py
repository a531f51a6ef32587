"""The steps of one job, from its files to measurements: each answered from the cache or done by a child."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from tflite_guard.errors import EvaluationError
from tflite_guard.judgement.baseline import recorded
from tflite_guard.judgement.findings import degenerate_scales
from tflite_guard.judgement.judging import Loss
from tflite_guard.manifest.types import Conversion, FileSpec, FunctionSpec, Spec, VariantSpec
from tflite_guard.protocol import (
    ApplyRecipe,
    Convert,
    Converted,
    Diagnose,
    Diagnosed,
    Evaluate,
    Evaluation,
    ReadScales,
    ReferenceOutputs,
    Request,
    RunReference,
    SavedOperator,
    SaveOperator,
    Stopping,
)
from tflite_guard.results import ErrorInfo, Verdict
from tflite_guard.run.cache import Cache, Entry, key_of
from tflite_guard.run.jobs import OF_TENSORFLOW, UNCONVERTED, Job, named_files, with_files
from tflite_guard.run.workers import NO_ANSWER, Worker, WorkerPair, out_of_time
from tflite_guard.run.workshop import Workshop
from tflite_guard.vocabulary import METRICS, ToleranceKind

TOOL_NAME = "tflite-guard"
# The names that children give their files; anything else is not taken from them.
_FILE = re.compile(
    r"outputs\.json|collected\.npz|[0-9]{1,6}\.npy|model\.tflite|operator(_int8)?\.tflite|(in|out)puts\.npz"
)
FINAL = frozenset({"conversion", "no-kernel", "custom-object"})
"""Kinds of failed conversions that would fail again, whatever the machine; so they are remembered."""
A = TypeVar("A", ReferenceOutputs, Converted, Evaluation, Diagnosed, SavedOperator)
MOST_SAVED = 8
"""Examples that are saved with an operator."""


Phase = Literal[
    "fetch", "load", "describe", "reference", "convert", "evaluate", "diagnose", "variant", "shards", "done"
]


class Event(msgspec.Struct, frozen=True):
    """Something to show while a run works."""

    model: str
    """What it is called in this run."""
    variant: str | None
    phase: Phase
    """`fetch` counts bytes; `reference`, `convert`, `evaluate` count examples; `load` (of TensorFlow), `describe`,
    `diagnose` count nothing; `variant` counts finished variants, `shards` those of a cluster; `done` ends a model."""
    done: int = 0
    total: int = 0
    verdict: Verdict | None = None
    file: str | None = None
    """The URI that is fetched."""


OnEvent = Callable[[Event], None]


class Done(msgspec.Struct, frozen=True):
    """A finished step: where its files are, and what the child said."""

    entry: Entry
    answer: Any


@dataclass
class Steps:
    """The steps of one job: each answered from the cache or done by a child, each at most once."""

    workshop: Workshop
    job: Job
    workers: WorkerPair
    on_event: OnEvent
    deadline: float
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    _converting: threading.Lock = field(default_factory=threading.Lock)
    _convert_beside: bool = False

    @cached_property
    def reference(self) -> Done:
        """The reference's outputs over the evaluation data."""
        model = self.job.model
        worker = self.workers.tensorflow if model.reference.kind in OF_TENSORFLOW else self.workers.litert
        request = RunReference(
            model.reference,
            model.evaluation,
            self.workshop.threads,
            model.state,
            piece=self.job.piece,
            metrics=model.metrics,
        )
        if self._convert_beside:
            both = replace(request, convert=True)
            try:
                return self._step(self._reference_key, worker, both, None, "reference")
            except EvaluationError as error:
                if error.kind not in ("crash", "out-of-memory"):
                    raise  # else it may have been the conversion, which a variant will be told of
        return self._step(self._reference_key, worker, request, None, "reference")

    def prepare(self, variants: Sequence[VariantSpec]) -> None:
        """Have ready what the evaluation of some variants needs: the reference's outputs, or raise why they cannot be.

        While TensorFlow loads and the reference runs, LiteRT is loaded and the float conversion made.
        """
        reference = self.job.model.reference
        if reference.kind in OF_TENSORFLOW:
            self.workers.litert.start()
            made = [one.conversion for one in variants if one.conversion.tflite is None]
            self._convert_beside = any(one.source == reference for one in made)
        _ = self.reference

    def tflite(self, variant: VariantSpec) -> str:
        """The path of the variant's .tflite: the user's own, or one made from the source."""
        conversion = variant.conversion
        if conversion.tflite is not None:
            return self._here(conversion.tflite).path
        if conversion.source is None:
            raise EvaluationError(
                "conversion", "recorded outputs hold no model to convert; give the variant a `source` or `tflite`"
            )
        if conversion.source.kind == "tflite" and conversion.quantization == "float32":
            return self._here(conversion.source.file).path
        return str(self._converted(conversion, variant.name).entry.folder / "model.tflite")

    def _converted(self, conversion: Conversion, variant: str) -> Done:
        key = self._key("artifact", conversion)
        if conversion.recipe is None:
            with self._converting:  # whichever thread asks first makes it
                return self._step(key, self.workers.tensorflow, Convert(conversion), variant, "convert")
        float32 = self.tflite(VariantSpec(variant, Conversion("float32", source=conversion.source)))
        return self._step(key, self.workers.litert, ApplyRecipe(float32, conversion), variant, "convert")

    def evaluation(self, variant: VariantSpec, tflite: str) -> Evaluation:
        """The variant's measurements."""
        request = self._evaluate(variant, tflite)
        try:
            done = self._step(self._evaluation_key(variant), self.workers.litert, request, variant.name, "evaluate")
        except EvaluationError as error:
            if error.kind != "crash":
                raise
            raise EvaluationError(error.kind, f"{error}{self._crashed_on(tflite)}") from None
        found: Evaluation = done.answer
        return replace(found, data=self._data)

    def _crashed_on(self, tflite: str) -> str:
        """What the file of an evaluation that crashed says of the cause, as the end of a sentence."""
        try:
            found = self.workers.litert.request(ReadScales(tflite), deadline=self.deadline)
        except EvaluationError:
            return ""
        return f"; {degenerate_scales(found)}" if found.degenerate else ""

    def diagnosis(self, variant: VariantSpec, loss: Loss) -> Diagnosed | None:
        """Why a variant is worse; None where there is no float model to make experiments on."""
        model, conversion = self.job.model, variant.conversion
        source = conversion.source or model.reference
        if source.kind in UNCONVERTED:
            return None
        converter = conversion.recipe is None and environment()["tensorflow"] is not None
        float32 = VariantSpec(variant.name, Conversion("float32", source=source))
        request = Diagnose(
            evaluate=self._evaluate(variant, self.tflite(variant)),
            source=source,
            conversion=conversion,
            metric=loss.metric,
            higher_is_better=loss.higher_is_better,
            failed=loss.failed,
            healthy=loss.healthy,
            tolerances=variant.judgement.tolerances,
            float32=None if converter else self.tflite(float32),
            converter=converter,
            application=loss.application,
        )
        parts = (model.reference, model.evaluation, model.metrics, model.state, conversion, variant.evaluation)
        key = self._key("diagnosis", *parts, variant.judgement, loss)
        worker = self.workers.tensorflow if converter else self.workers.litert
        found: Diagnosed = self._step(key, worker, request, variant.name, "diagnose").answer
        return found

    def operator(self, variant: VariantSpec, tensor: str) -> Done:
        """The operator that computes a tensor of the variant's file, by itself, and the float one."""
        source = variant.conversion.source or self.job.model.reference
        request = SaveOperator(
            evaluate=self._evaluate(variant, self.tflite(variant)),
            float32=self.tflite(VariantSpec(variant.name, Conversion("float32", source=source))),
            tensor=tensor,
            examples=MOST_SAVED,
        )
        key = self._key("operator", self.job.model.evaluation, source, variant.conversion, tensor, MOST_SAVED)
        return self._step(key, self.workers.litert, request, variant.name, "diagnose")

    def _evaluate(self, variant: VariantSpec, tflite: str) -> Evaluate:
        model, reference = self.job.model, self.reference
        return Evaluate(
            tflite=tflite,
            reference=str(reference.entry.folder),
            names=reference.answer.names,
            dataset=model.evaluation,
            metrics=model.metrics,
            options=variant.evaluation,
            threads=self.workshop.threads,
            signature=_signature(variant.conversion),
            signature_place=variant.conversion.places.get("signature"),
            state=model.state,
            facts=reference.answer.facts,
            calibration=variant.conversion.calibration,
            samples=variant.conversion.calibration_options.samples,
            float32=self._float32() if variant.conversion.tflite is not None else None,
            stopping=self._stopping(variant),
            piece=self.job.piece,
        )

    def _stopping(self, variant: VariantSpec) -> Stopping | None:
        """What must be certain for the evaluation to stop early; None where it must not, or nothing is limited."""
        if variant.evaluation.confidence is None:
            return None
        measured = {one.name: METRICS[one.metric] for one in self.job.model.metrics if one.metric in METRICS}
        known = recorded(self.job.baseline, self.job.model.name, variant.name)
        limits: dict[str, dict[ToleranceKind, float]] = {}
        values: dict[str, float] = {}
        for name, tolerance in variant.judgement.tolerances.items():
            if measured[name].bounds is None:
                continue  # the size, which no example changes
            held = tolerance.limits()
            if "max_regression" in held:
                own = {key: found for key, found in known.items() if key == name or key.startswith(f"{name}[")}
                values |= own
                held = held if own else {kind: limit for kind, limit in held.items() if kind != "max_regression"}
            if held:
                limits[name] = held
        return Stopping(variant.evaluation.confidence, limits, values) if limits else None

    def _float32(self) -> str | None:
        """The path of the reference's own float conversion; None where there is none."""
        reference = self.job.model.reference
        if reference.kind in UNCONVERTED:
            return None
        try:
            return self.tflite(VariantSpec("float32", Conversion("float32", source=reference)))
        except EvaluationError:
            return None

    def known(self, variant: VariantSpec) -> Evaluation | None:
        """The variant's measurements if they are in the cache."""
        key = self._evaluation_key(variant)
        # Of a piece a file is needed, of a whole the measurements alone.
        entry = key.cache.peek(key.hash) if self.job.piece is None else key.cache.get(key.hash, self._pause)
        found: Evaluation | None = None if entry is None else _answer(key, entry, Evaluation)
        return None if found is None else replace(found, data=self._data)

    @cached_property
    def _data(self) -> str | None:
        """Tells the evaluation data from any other, however it is prepared; None where code of the user's makes it."""
        spec = replace(self.job.model.evaluation, preprocess=(), pictures=True)
        if any(isinstance(named, FunctionSpec) for named in named_files(spec)):
            return None
        return key_of(self._contents([spec]))

    @cached_property
    def _reference_key(self) -> _Key:
        model = self.job.model
        return self._key("reference", model.reference, model.evaluation, model.state, self.job.piece)

    def _evaluation_key(self, variant: VariantSpec) -> _Key:
        """Depends on everything but what is allowed, so that changing a tolerance runs nothing again.

        Only where the verdict decides how far an evaluation goes does it depend on what the verdict depends on.
        """
        return self._key("evaluation", *self._evaluated(variant), self._stopping(variant), self.job.piece)

    def _evaluated(self, variant: VariantSpec) -> tuple[Any, ...]:
        model = self.job.model
        return model.reference, model.evaluation, model.metrics, model.state, variant.conversion, variant.evaluation

    def subject(self, variant: VariantSpec) -> str:
        """The hash of what is evaluated on which data, whatever piece of it, machine and versions."""
        return key_of(self._contents(self._evaluated(variant)))

    def collected(self, variant: VariantSpec) -> Entry | None:
        """The entry with the file of what was collected on the piece; None of a variant that was not evaluated."""
        key = self._evaluation_key(variant)
        return key.cache.peek(key.hash)

    def _key(self, step: str, *parts: Any) -> _Key:
        """What a step's result is kept under: the hash of all that it depends on."""
        contents = self._contents(parts)
        # What is refused without --allow-code must not be answered without it either.
        found = key_of(step, contents, self.workshop.options.allow_code, _code())
        python = any(isinstance(named, FunctionSpec) for named in named_files(parts))
        return _Key(found, self.workshop.passing if python else self.workshop.cache)

    def _contents(self, parts: Sequence[Any]) -> list[Any]:
        return [content(part, partial(self.workshop.hashes, pause=self._pause)) for part in parts]

    def _step(self, key: _Key, worker: Worker, request: Request[A], variant: str | None, phase: Phase) -> Done:
        entry = key.cache.get(key.hash, self._pause)
        answer = None if entry is None else _answer(key, entry, request.answer)
        if entry is None or answer is None:
            entry = self._made(key, worker, request, variant, phase)
            answer = _answer(key, entry, request.answer)
        if isinstance(answer, _Failed):
            raise EvaluationError(answer.error.kind, answer.error.message)
        return Done(entry, answer)

    def _made(self, key: _Key, worker: Worker, request: Request[A], variant: str | None, phase: Phase) -> Entry:
        model = self.job.model.name
        request = with_files(request, self._here)
        self.on_event(Event(model, variant, "load" if worker.loads_first else phase))
        started = time.monotonic()
        try:
            with worker.writing(
                request,
                deadline=self.deadline,
                progress=lambda done, total: self.on_event(Event(model, variant, phase, done, total)),
            ) as (answer, folder):
                files = {name: name for name in _checked(answer.files)}
                entry = key.cache.put(key.hash, files, msgspec.to_builtins(answer), folder=folder, pause=self._pause)
        except EvaluationError as error:
            told = ErrorInfo(error.kind, self._as_written(str(error), request))
            if phase != "convert" or error.kind not in FINAL:
                raise EvaluationError(told.kind, told.message, error.place) from None
            entry = key.cache.put(key.hash, {}, msgspec.to_builtins(_Failed(told)))
        self.seconds.setdefault(variant or "", {})[phase] = round(time.monotonic() - started, 3)
        return entry

    def _pause(self) -> None:
        """Raise EvaluationError where the model's time is over: what is read here counts as what children do."""
        if self.workshop.pool.killed:
            raise EvaluationError("interrupted", "interrupted")
        if time.monotonic() > self.deadline:
            raise out_of_time("reading what the model named and gave")

    def _here(self, file: FileSpec) -> FileSpec:
        """A file as one of this machine: one from elsewhere is fetched, once."""
        if file.uri is None or file.path != file.uri:
            return file
        assert file.sha256 is not None
        event = Event(self.job.model.name, None, "fetch", file=file.uri)
        progress = lambda done, total: self.on_event(replace(event, done=done, total=total))  # noqa: E731
        path = self.workshop.remote.get(file.uri, file.sha256, pause=self._pause, progress=progress)
        return replace(file, path=str(path))

    def _as_written(self, message: str, request: Request[A]) -> str:
        """A message with the paths that it names as the manifest has them, and none of the cache's."""
        named = {self._place(one): one for one in named_files(self.job.model) if isinstance(one, FileSpec)}
        paths = sorted(named, key=len, reverse=True)
        evaluated = request.evaluate if isinstance(request, Diagnose | SaveOperator) else request
        tflite = evaluated.tflite if isinstance(evaluated, Evaluate) else None
        if tflite is not None and tflite not in paths:
            message = message.replace(tflite, "the converted model")
        for path in paths:
            message = message.replace(path, shown(named[path], self.job.folder))
        return message

    def _place(self, file: FileSpec) -> str:
        """Where a file is for children."""
        return file.path if file.uri is None else str(self.workshop.remote.place(file.uri, file.sha256 or ""))


class _Key(msgspec.Struct, frozen=True):
    hash: str
    cache: Cache


class _Failed(msgspec.Struct, frozen=True):
    """What is remembered of a conversion that failed for good."""

    error: ErrorInfo


def _answer(key: _Key, entry: Entry, kind: Any) -> Any:
    """What a child said, of a type, from the cache; an entry that holds something else, or lacks a file, is removed."""
    remembered = kind is Converted and "error" in entry.meta
    try:
        answer = msgspec.convert(entry.meta, _Failed if remembered else kind)
    except msgspec.ValidationError:
        answer = None
    if answer is None or not entry.files.keys() >= {*getattr(answer, "files", ())}:
        key.cache.discard(key.hash)
        return None
    return answer


def content(value: Any, hashes: Callable[[str], str]) -> Any:
    """A specification as JSON, with the hash of its content in place of each file, and without its titles."""
    if isinstance(value, FileSpec):
        # What is elsewhere is its hash, or is refused when it comes; so nothing known needs the network.
        return hashes(value.path) if value.uri is None else value.sha256
    if isinstance(value, msgspec.Struct):
        titles = value.titles if isinstance(value, Spec) else ()
        known = (name for name in value.__struct_fields__ if name not in titles)
        return {name: content(getattr(value, name), hashes) for name in known}
    if isinstance(value, Mapping):
        return {key: content(found, hashes) for key, found in value.items()}
    if isinstance(value, tuple | list):
        return [content(found, hashes) for found in value]
    return value


@cache
def _code() -> str:
    """A hash of this package's own code and of the versions of what it runs: a result is theirs too."""
    package = os.path.dirname(os.path.dirname(__file__))
    digest = hashlib.sha256()
    # By os.walk, in half the time of pathlib: every run waits for this.
    modules = (
        os.path.join(folder, name) for folder, _, names in os.walk(package) for name in names if name.endswith(".py")
    )
    for path in sorted(modules):
        digest.update(os.path.relpath(path, package).encode() + b"\0" + Path(path).read_bytes() + b"\0")
    return key_of(digest.hexdigest(), environment())


def _signature(conversion: Conversion) -> str | None:
    """The signature that the manifest names, of the artifact itself or of the .tflite that it is made from."""
    if conversion.source is not None and conversion.source.kind == "tflite":
        return conversion.source.signature
    return conversion.signature


@cache
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
        "tflite_micro": _version("tflite-micro"),
        "numpy": _version("numpy"),
        "pycocotools": _version("pycocotools"),
        "pillow": _version("pillow"),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _instructions(),
    }


VECTORS = ("avx512_vnni", "avx_vnni", "avx512f", "avx2", "i8mm", "asimddp", "asimd")
"""Sets of instructions by which kernels are chosen, as Linux calls them, the widest first."""


@cache
def _instructions() -> str | None:
    """The widest vector instructions that kernels of LiteRT and TensorFlow use here; None where that is not told.

    Their results differ in the last bits between them, so that what one processor computed is not another one's.
    """
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as stream:
            told = next((line for line in stream if line.startswith(("flags", "Features"))), "")
    except OSError:
        return None
    known = set(told.split())
    return next((one for one in VECTORS if one in known), None)


@cache
def tool_version() -> str:
    """This tool's version."""
    return importlib.metadata.version(TOOL_NAME)


def _checked(files: tuple[str, ...]) -> tuple[str, ...]:
    """The files of an answer, which comes from a child that is not trusted: names alone, no paths."""
    if not all(_FILE.fullmatch(name) for name in files):
        raise EvaluationError("crash", NO_ANSWER)
    return files


def shown(file: FileSpec, folder: str) -> str:
    """A file of a manifest as a user has it: its URI, or its path from the manifest's folder, or whole if shorter."""
    if file.uri is not None:
        return file.uri
    real = os.path.realpath(file.path)
    return min(os.path.relpath(real, os.path.realpath(folder)), real, key=len)
