"""What a run found: plain, frozen data that every rendering is a function of.

The field names are those of `schemas/report-v1.schema.json`. No field ever holds NaN or infinity.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from enum import StrEnum
from typing import Any, Literal

import msgspec

from tflite_guard.errors import Place

MOST_LISTED = 20
"""Names that an error lists."""
Severity = Literal["error", "warning", "note"]
"""How serious a finding is: an error fails its variant, a warning makes it `warn`, a note changes no verdict."""


class Verdict(StrEnum):
    """How a metric, a variant or a run came out."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    ERROR = "error"

    @staticmethod
    def worst(verdicts: Iterable[Verdict | None]) -> Verdict:
        """The worst of some verdicts; PASS when there are none. What was not judged, None, has no say."""
        order = list(Verdict)
        return max((one for one in verdicts if one is not None), key=order.index, default=Verdict.PASS)

    @property
    def ok(self) -> bool:
        """PASS or WARN, what the command line exits with 0 for."""
        return self in (Verdict.PASS, Verdict.WARN)


def missing(holder: str, what: str, name: object, known: Collection[str]) -> KeyError:
    """The error of a lookup by name: the name that is nearest, and what there is."""
    from difflib import get_close_matches

    near = get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    listed = ", ".join(map(repr, list(known)[:MOST_LISTED])) or "none"
    more = f" and {len(known) - MOST_LISTED:,} more" if len(known) > MOST_LISTED else ""
    return KeyError(f"{holder} has no {what} {name!r}{hint} It has {listed}{more}.")


class Slice(msgspec.Struct, frozen=True):
    """How a metric fares on the examples of one class, or of one value of a dataset's slices."""

    label: int | str
    """The class's number, or the value as text."""
    examples: int
    reference: float | None
    """The reference's own value on them; None of fidelity metrics."""
    variant: float
    """The variant's value on them."""
    drop: float | None
    """How much worse the variant is on them; negative where it is better, None without a reference value."""
    interval: tuple[float, float] | None = None
    """Of `drop`, else of `variant`, at 95 % for all slices at once; None where examples come in groups, where not all
    were evaluated, and of fewer than 20 scores that are not right or wrong."""
    counts: tuple[int, int, int, int] | None = None
    """Paired proportions: both right, only the reference, only the variant, neither."""


class Slices(msgspec.Struct, frozen=True):
    """One metric by class, or by one key of the evaluation data."""

    metric: str
    """The measurement's name."""
    kind: str
    """The metric itself."""
    key: str | None
    """The source's key whose values cut the examples into slices; None where labels do, a class a slice."""
    count: int
    """How many classes or values there are."""
    lost: int
    """How many of them have certainly lost: their interval is above 0."""
    worst: tuple[Slice, ...]
    """What fares worst first, by `drop`; at most 100, among which are all that can decide a tolerance."""


class FailedSlice(msgspec.Struct, frozen=True):
    """The class or the slice by which a metric is out of its tolerance."""

    name: str
    """`class 3 ('cat')`, `lighting 'night'`."""
    slice: Slice


class Measurement(msgspec.Struct, frozen=True):
    """One metric of one variant, before any tolerance is applied. Cached, so judging again is free."""

    name: str
    metric: str
    output: str | None
    value: float | None
    """The variant's value; None when undefined (see `identical` and `error`)."""
    higher_is_better: bool
    reference: float | None = None
    """The reference's own value of the same metric; None for fidelity metrics."""
    drop: float | None = None
    """How much worse than the reference, positive is worse; None without a reference value."""
    confidence_interval: tuple[float, float] | None = None
    """95 %, two-sided, of `drop` where there is one, else of `value`."""
    interval_method: str | None = None
    """`newcombe-paired`, `wilson`, `bootstrap`, their forms with `-groups`, `betting`; None without an interval."""
    interval_note: str | None = None
    """Why there is no interval."""
    examples: int = 0
    groups: int | None = None
    counts: tuple[int, int, int, int] | None = None
    """Paired proportions: both right, only the reference, only the variant, neither."""
    ties: int = 0
    """Examples whose decision was a tie among the variant's largest outputs."""
    reference_ties: int = 0
    """The same of the reference."""
    lost_ties: int = 0
    """Ties of the variant by which it is wrong where the reference is right; of one right-or-wrong decision an example.
    """
    identical: bool = False
    """The variant's outputs equal the reference's bit for bit (SQNR is then infinite)."""
    error: str | None = None
    """Why the metric could not be computed; never a pass."""
    value_interval: tuple[float, float] | None = None
    """95 %, two-sided, of `value` itself, what `min` and `max` are held against; None where there is none."""
    settled: bool = False
    """On which side of its limits all examples are is certain, although only a part of them was looked at."""
    by_class: Slices | None = None
    """None where an example has no single class as its label."""
    by_slice: tuple[Slices, ...] = ()
    """By each key of the dataset's `slices`, of a mean of examples' scores."""


class MetricResult(msgspec.Struct, frozen=True):
    """A measurement with its verdict."""

    name: str
    metric: str
    output: str | None
    reference: float | None
    value: float | None
    drop: float | None
    confidence_interval: tuple[float, float] | None
    interval_method: str | None
    interval_note: str | None
    examples: int
    groups: int | None
    ties: int
    identical: bool
    higher_is_better: bool
    tolerance: dict[str, Any] | None
    """As the manifest has it, with the line that set it."""
    verdict: Verdict | None
    """None without a tolerance: it was measured and not judged."""
    conclusive: bool | None
    """The interval lies wholly on one side of every limit; None without an interval or a tolerance."""
    failed_limit: str | None = None
    """The limit that decided: `max_drop`, `min`, …"""
    baseline: float | None = None
    baseline_identical: bool = False
    """The baseline has no number because the outputs then equalled the reference's; `baseline` is None."""
    regression: float | None = None
    """How much worse than the baseline, positive is worse; None too where it is infinite."""
    error: str | None = None
    failed_slice: FailedSlice | None = None
    """Whose drop is beyond `max_class_drop` or `max_slice_drop`, where that is the limit that decided."""

    @property
    def problem(self) -> Verdict | None:
        """WARN, FAIL or ERROR; None where it passed or was not judged."""
        return None if self.verdict is Verdict.PASS else self.verdict


class Experiment(msgspec.Struct, frozen=True):
    """One change made to prove a cause, and how much of the loss it gave back."""

    name: str
    recovered: float
    confidence_interval: tuple[float, float] | None
    """95 %, of `recovered`, on examples that chose nothing; None where it was not confirmed."""


class Finding(msgspec.Struct, frozen=True):
    """Something a user should know about a variant, or about a model's reference."""

    rule: str
    severity: Severity
    message: str
    primary: bool = False
    evidence: dict[str, Any] = msgspec.field(default_factory=dict)
    experiment: Experiment | None = None
    tensor: str | None = None
    operator: str | None = None
    ignored: str | None = None
    """Why the manifest accepts it; it then stays in the report and makes no verdict worse."""

    @property
    def verdict(self) -> Verdict:
        """What it makes of the variant or model that it is of, at least."""
        of: dict[Severity, Verdict] = {"error": Verdict.FAIL, "warning": Verdict.WARN, "note": Verdict.PASS}
        return Verdict.PASS if self.ignored is not None else of[self.severity]


class Remedy(msgspec.Struct, frozen=True):
    """A change of the manifest that mends a variant."""

    title: str
    patch: dict[str, Any]
    verified: bool
    metrics: dict[str, float | None]
    size_bytes: int | None
    float_operators: int = 0
    """Operators that compute in float with it."""
    target: str = ""
    """What of the manifest it patches, as a JSON pointer (RFC 6901); empty means the variant."""
    also: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    """Patches of something else that go with it, by JSON pointer."""


class Rung(msgspec.Struct, frozen=True):
    """One step of the ladder from the reference to what the application gives."""

    name: str
    """`reference`, `float32`, `float16`, `weights`, `int16x8`, `int8`, `file` or `application`."""
    value: float | None
    """Of the metric that is diagnosed; None where it has no value."""
    sqnr: float | None
    """Decibels, of the outputs to the reference's; None where they are identical or could not be had."""
    identical: bool = False
    note: str | None = None
    """Why it could not be had."""


class TensorLoss(msgspec.Struct, frozen=True):
    """How one activation fares in the quantized graph. Ranges are in real units."""

    tensor: str
    operator: str
    """The type of the operator that computes it."""
    isolated: float | None
    """SQNR in decibels of what its operator alone loses: fed with exact values, its weights rounded to 8 bits (a scale
    for each output channel), its result to its range."""
    cumulative: float | None
    """SQNR in decibels of its values in the quantized graph to those in the float graph."""
    calibrated: tuple[float, float]
    """The range that the quantized file gives it."""
    evaluated: tuple[float, float]
    """Its true range on the evaluation data."""
    clipped: float
    """The fraction of its values on the evaluation data that lie outside the range."""
    codes: int
    """How many of its integers occur on the evaluation data."""
    in_file: str | None = None
    """What the judged file calls the tensor that holds its integers; None where that has none."""


class Histogram(msgspec.Struct, frozen=True):
    """How the values of one activation of the float graph are spread, beside the range that it is quantized with."""

    tensor: str
    operator: str
    """The type of the operator that computes it."""
    quantized: tuple[float, float]
    """The smallest and the largest real that the quantized file can hold."""
    span: tuple[float, float]
    """From the first bin to the last, all of one width; it holds the quantized range and every value."""
    evaluation: tuple[int, ...]
    """Values by bin, on evaluation data."""
    calibration: tuple[int, ...]
    """The same on calibration data; empty where there is none."""
    evaluation_outside: float
    """The fraction of the values on evaluation data that lie a step and more outside the quantized range."""
    calibration_outside: float | None
    """The same on calibration data; None where there is none."""
    evaluation_examples: int
    """That were looked at."""
    calibration_examples: int


class Diagnosis(msgspec.Struct, frozen=True):
    """What was done to find why a variant is worse, whatever came of it."""

    metric: str
    """The metric whose loss was to be explained."""
    examples: int
    """Of the evaluation data, that experiments were made on; some chose, others confirmed, the rest verified."""
    ladder: tuple[Rung, ...] = ()
    tensors: tuple[TensorLoss, ...] = ()
    """In the order of execution; of more than 200 those that lose most."""
    tried: tuple[Experiment, ...] = ()
    """Every experiment that chose nothing further, by what it gave back; at most 50."""
    front: tuple[Remedy, ...] = ()
    """Remedies none of which another one beats in both the metric and the size."""
    note: str | None = None
    """Why there is no cause, or no diagnosis."""
    seconds: float = 0.0
    histograms: tuple[Histogram, ...] = ()
    """Of the tensor that the cause is about, else of those that clip most or use fewest integers; at most 3."""


class ErrorInfo(msgspec.Struct, frozen=True):
    """Why something could not be evaluated."""

    kind: str
    message: str
    place: Place | None = None
    """Of an error of kind `manifest`, where the manifest says what its model cannot; the message begins with it."""

    @property
    def line(self) -> int:
        """The line of the manifest that it is about; 0 where it is about none."""
        return 0 if self.place is None else self.place.line


class Artifact(msgspec.Struct, frozen=True):
    """The .tflite that was judged."""

    size_bytes: int
    sha256: str
    operators: int = 0
    float_operators: tuple[str, ...] = ()
    """Operators that compute in float although integer was asked, as `TYPE (output tensor)`."""
    quantized_tensors: int = 0
    """Tensors whose integers stand for reals."""
    custom_operators: tuple[str, ...] = ()
    """Types of operators that are not built in, at most 20."""


class Observed(msgspec.Struct, frozen=True):
    """How outputs recorded by the user's own application compare."""

    path: str
    metrics: tuple[MetricResult, ...]
    max_steps: dict[str, float]
    """Kernels to the largest difference from our own run, in quantization steps (of float: in units)."""
    kernels: str
    """The kernels whose difference is judged: the variant's own."""
    tolerance: float | None
    """`observed_tolerance`, in quantization steps."""
    steps_verdict: Verdict | None
    """How the difference in steps came out; None without a tolerance."""
    verdict: Verdict


class ChangedAnswer(msgspec.Struct, frozen=True):
    """An example that the variant decides otherwise than the reference.

    A margin is by how much the answer's score is above that of the other one's answer; of an output of one unit, how
    far it is from the threshold. It is None where the outputs are decisions themselves.
    """

    example: int
    """Its row in the evaluation data's source, from 0."""
    label: int | None
    """None without a label."""
    reference: int
    """The reference's answer, a class number."""
    variant: int
    reference_margin: float | None
    variant_margin: float | None
    picture: str | None = None
    """A small PNG of its input in base64, where that is an image."""
    file: str | None = None
    """The file that it is, from the dataset's folder, where each example is one."""


class Changed(msgspec.Struct, frozen=True):
    """Examples whose answer is no longer the reference's."""

    metric: str
    """The name of the metric whose output these answers are of."""
    examples: int
    """That were compared."""
    changed: int
    lost: int | None
    """How many of the changed ones the reference had right; None without labels."""
    gained: int | None
    """How many of the changed ones the variant has right; None without labels."""
    worst: tuple[ChangedAnswer, ...]
    """What the reference had right first, then by its margin, the largest first; at most 20."""


_LONG = ("diagnosis", "by_class", "by_slice", "changed", "wrong", "since_baseline")
MOST_WRONG = 5_000
"""Wrong examples of a variant that are recorded, so that a file to commit stays small."""


class Mistake(msgspec.Struct, frozen=True):
    """An example with a label that the variant gets wrong."""

    example: int
    """Its row in the evaluation data's source, from 0."""
    label: int
    variant: int
    """The variant's answer, a class number."""
    reference: int
    """The reference's answer."""
    margin: float | None
    """By how much the variant's answer scores above the label; None where the outputs are decisions themselves."""
    file: str | None = None
    """The file that it is, from the dataset's folder, where each example is one."""


class WrongExamples(msgspec.Struct, frozen=True):
    """Which examples a variant gets wrong, as a baseline records it."""

    metric: str
    """The name of the metric whose output and labels tell."""
    data: str
    """Tells the evaluation data from any other: a hash of its files and of which examples are taken."""
    examples: int
    """How many were looked at, from the first: all, or those up to the last of 5,000 wrong ones."""
    of: int
    """How many there are."""
    rows: str
    """The wrong ones' rows in the data's source in ascending order, runs joined by a hyphen: `3 17-19 40`."""


class SinceBaseline(msgspec.Struct, frozen=True):
    """Examples that were right in the baseline and are wrong now, and the other way round."""

    metric: str
    examples: int
    """How many were compared, from the first."""
    of: int
    worse: int
    """How many were right and are wrong."""
    better: int
    """How many were wrong and are right."""
    worst: tuple[Mistake, ...]
    """Those that are worse, by the margin of the wrong answer, the largest first; at most 20."""


class Confidence(msgspec.Struct, frozen=True):
    """How sure both models are of their answers, one decision an example."""

    metric: str
    """The name of the metric whose output and labels these are."""
    examples: int
    """That were looked at; with labels, those that have one that counts."""
    reference: float
    """The reference's mean confidence: the probability of its answer."""
    variant: float
    """The variant's, of its own answer."""
    reference_error: float | None
    """Its expected calibration error, in 15 bins of equal width (Guo et al. 2017); None without labels."""
    variant_error: float | None


class VariantResult(msgspec.Struct, frozen=True):
    """One variant of one model."""

    name: str
    quantization: str | None
    verdict: Verdict
    cached: bool
    artifact: Artifact | None
    metrics: tuple[MetricResult, ...]
    findings: tuple[Finding, ...]
    remedies: tuple[Remedy, ...]
    error: ErrorInfo | None
    seconds: dict[str, float]
    observed: Observed | None = None
    line: int = 0
    diagnosis: Diagnosis | None = None
    """None where none was asked for or needed."""
    by_class: Slices | None = None
    """None without labels of one decision an example."""
    by_slice: tuple[Slices, ...] = ()
    """Each metric that is a mean of examples' scores, by each key of the evaluation data's `slices`."""
    changed: Changed | None = None
    """None where no metric compares one decision an example."""
    confidence: Confidence | None = None
    """None, too, where the output is not known to be probabilities or logits."""
    wrong: WrongExamples | None = None
    """None without labels of one decision an example, and where the data is made by code or not all was evaluated."""
    since_baseline: SinceBaseline | None = None
    """None where the baseline does not say which examples were wrong, or says it of other data."""

    def __repr__(self) -> str:
        """Without what fills pages."""
        told = [one for one in self.__struct_fields__ if one not in _LONG]
        return f"VariantResult({', '.join(f'{one}={getattr(self, one)!r}' for one in told)})"

    def __getitem__(self, name: str) -> MetricResult:
        """The metric of a name. Iterating gives the names."""
        found = {metric.name: metric for metric in self.metrics}
        if name in found:
            return found[name]
        if self.error is not None and not found:
            raise KeyError(f"variant {self.name!r} has no metrics: it could not be evaluated: {self.error.message}")
        raise missing(f"variant {self.name!r}", "metric", name, found)

    def __iter__(self) -> Iterator[str]:
        return (metric.name for metric in self.metrics)

    @property
    def ok(self) -> bool:
        """Nothing is out of tolerance, and everything could be evaluated. Warnings leave it so."""
        return self.verdict.ok

    @property
    def judged(self) -> Verdict | None:
        """The verdict; None where nothing was judged, so that there is nothing to have passed."""
        held = [*(metric.verdict for metric in self.metrics), *([self.observed.steps_verdict] if self.observed else ())]
        held += [metric.verdict for metric in self.observed.metrics] if self.observed else []
        return None if self.verdict is Verdict.PASS and not any(held) else self.verdict


class ManifestInfo(msgspec.Struct, frozen=True):
    """Which manifest."""

    path: str
    """As given on the command line."""
    repository_path: str
    """Relative to the repository's root, with `/`, as GitHub and others name files."""
    sha256: str
    """Of its bytes, hexadecimal."""


class ReferenceResult(msgspec.Struct, frozen=True):
    """The reference's own metrics: the float model's, or where two files are compared those of A."""

    kind: str
    path: str
    metrics: dict[str, float | None]
    verdict: Verdict | None = None
    """How it came out against its own tolerances; None without any."""
    checks: tuple[MetricResult, ...] = ()
    """Its own values, each judged by its tolerance in `reference.tolerances`."""
    seconds: dict[str, float] = msgspec.field(default_factory=dict)
    """Phase to seconds; empty where the cache answered."""
    size_bytes: int | None = None
    """Of A; None of a float model."""


class ModelResult(msgspec.Struct, frozen=True):
    """One model with all its variants."""

    name: str
    manifest: ManifestInfo
    reference: ReferenceResult
    variants: tuple[VariantResult, ...]
    verdict: Verdict = Verdict.PASS
    float32: VariantResult | None = None
    """The float conversion, evaluated even where no variant asks for it; judged by no tolerance."""
    error: ErrorInfo | None = None
    notes: tuple[str, ...] = ()
    line: int = 0
    findings: tuple[Finding, ...] = ()
    """What concerns the reference, and so every variant."""
    classes: tuple[str, ...] = ()
    """The names of the evaluation data's classes, by their numbers; empty where it gives numbers alone."""

    def __getitem__(self, name: str) -> VariantResult:
        """The variant of a name. Iterating gives the names."""
        found = {variant.name: variant for variant in self.variants}
        if name in found:
            return found[name]
        raise missing(f"model {self.name!r}", "variant", name, found)

    def __iter__(self) -> Iterator[str]:
        return (variant.name for variant in self.variants)

    @property
    def ok(self) -> bool:
        """No variant and not the reference is out of tolerance, and everything could be evaluated."""
        return self.verdict.ok

    @property
    def is_comparison(self) -> bool:
        """Whether two files are compared, A as the reference and B as the variant; nothing is then judged."""
        return self.reference.kind == "artifact"

    @property
    def hidden(self) -> tuple[VariantResult, ...]:
        """The rungs that nobody asked for, from the reference towards the variants."""
        return () if self.float32 is None else (self.float32,)

    @property
    def rungs(self) -> tuple[VariantResult, ...]:
        """All that was evaluated: hidden rungs, then the variants."""
        return (*self.hidden, *self.variants)

    @property
    def reference_verdict(self) -> Verdict:
        """What the reference's tolerances and findings make of the model, at least."""
        return Verdict.worst([self.reference.verdict, *(finding.verdict for finding in self.findings)])


class Tool(msgspec.Struct, frozen=True):
    """What wrote the report."""

    name: str
    version: str


class PlannedModel(msgspec.Struct, frozen=True):
    """One model of the whole run that a shard is a part of."""

    manifest: str
    """Its `repository_path`."""
    name: str
    variants: tuple[str, ...]
    pieces: int = 1
    """Into how many its evaluation data is cut."""


class ScoredPiece(msgspec.Struct, frozen=True):
    """A piece of a model's evaluation data that a shard has scored, and no more: `merge` judges the whole."""

    manifest: str
    """Its `repository_path`."""
    model: str
    number: int
    """From 1."""
    of: int
    variants: tuple[str, ...]
    size: int
    """Bytes of its file."""
    sha256: str
    """Of its file, `scores/SHA256.json` beside the report."""
    error: str | None = None
    """Why something could not be evaluated."""


class Shard(msgspec.Struct, frozen=True):
    """Which part of a run a report is of."""

    number: int
    """From 1."""
    of: int
    plan: tuple[PlannedModel, ...]
    """All that the shards together check, in order."""
    pieces: tuple[ScoredPiece, ...] = ()
    """What it has scored of models whose evaluation data is cut, which are not among the report's models."""


class Report(msgspec.Struct, frozen=True):
    """A whole run, or a shard of one."""

    schema_version: int
    tool: Tool
    environment: dict[str, Any]
    verdict: Verdict
    models: tuple[ModelResult, ...]
    notes: tuple[str, ...] = ()
    shard: Shard | None = None
    """None of a whole run."""

    @property
    def ok(self) -> bool:
        """Nothing is out of tolerance, and everything could be evaluated. Warnings leave it so."""
        return self.verdict.ok

    @property
    def errors(self) -> Iterator[ErrorInfo]:
        """Why models and variants could not be evaluated."""
        for model in self.models:
            every = (model.error, *(variant.error for variant in model.variants))
            yield from (error for error in every if error is not None)
