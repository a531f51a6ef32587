"""Results in words, the same in every rendering. Reads verdicts, never compares numbers."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from tflite_guard.results import (
    Confidence,
    Diagnosis,
    ErrorInfo,
    Experiment,
    Finding,
    MetricResult,
    Mistake,
    ModelResult,
    Observed,
    Remedy,
    Report,
    Rung,
    SinceBaseline,
    TensorLoss,
    VariantResult,
    Verdict,
)
from tflite_guard.rules import RULES
from tflite_guard.text import figures, naming
from tflite_guard.text.plain import file_names, plain
from tflite_guard.vocabulary import METRICS

LONGEST_MESSAGE = 2000
LONGEST_LINE = 300
"""Of what is to be written into a manifest."""
MOST_LINES = 20
MOST_TRIED = 3
"""Experiments that a sentence names."""
MOST_FIGURES = 4
"""Metrics of a remedy that a sentence names."""
MARKS = {Verdict.PASS: "✓", Verdict.WARN: "!", Verdict.FAIL: "✗", Verdict.ERROR: "✗", None: "–"}
"""By verdict; None is what was not judged."""
WORDS = {
    Verdict.ERROR: "could not be evaluated",
    Verdict.FAIL: "out of tolerance",
    Verdict.WARN: "with warnings",
    Verdict.PASS: "within tolerance",
    None: "without a tolerance",
}
"""What is said of so many variants, the worst first."""


def value_of(metric: MetricResult) -> str:
    """The variant's value, or why there is none."""
    if metric.identical and metric.value is None:
        return "identical"
    return figures.number(metric.value, metric.metric)


def baseline_of(metric: MetricResult) -> str:
    """The value recorded in the baseline."""
    return "identical" if metric.baseline_identical else figures.number(metric.baseline, metric.metric)


def change(metric: MetricResult) -> str:
    """`worse`, `better` or `unchanged` than the baseline in the figures that are shown.

    Empty where either has no value: what is missing is no worse, its verdict says that it is missing.
    """
    recorded = metric.baseline is not None or metric.baseline_identical
    if not recorded or (metric.value is None and not metric.identical):
        return ""
    if baseline_of(metric) == value_of(metric):
        return "unchanged"
    better = metric.identical if metric.regression is None else metric.regression < 0
    return "better" if better else "worse"


def moved(metric: MetricResult) -> bool:
    """Whether its value is another than the baseline's in the figures that are shown."""
    return change(metric) in ("worse", "better")


def has_baseline(metrics: Iterable[MetricResult]) -> bool:
    """Whether there is something to show beside an earlier run: a metric that has a value now and had one then."""
    return any(map(change, metrics))


def may_have_interval(metric: MetricResult) -> bool:
    """Whether the metric is of a kind that has intervals: not a maximum, not a size."""
    return metric.metric not in METRICS or METRICS[metric.metric].has_interval


def compression(variant: VariantResult, model: ModelResult) -> str:
    """The size beside the float32 .tflite, or beside A, e.g. `3.6× smaller`; empty where not known, or the same."""
    own = variant.artifact.size_bytes if variant.artifact else 0
    if not own or variant.quantization == "float32":
        return ""
    whole = model.reference.size_bytes or next(
        (rung.artifact.size_bytes for rung in model.rungs if rung.quantization == "float32" and rung.artifact), None
    )
    if not whole:
        return ""
    times = f"{max(whole, own) / min(whole, own):.1f}"
    return "" if times == "1.0" else f"{times}× {'smaller' if own < whole else 'larger'}"


def worse_by(metric: MetricResult) -> str:
    """How much worse than the reference; below zero where it is better."""
    return figures.worse_by(metric.drop, metric.reference, metric.value)


def in_words(worse: str) -> str:
    """A figure of `worse_by` in a sentence: `worse by 0.0700`, `better by 0.0100`, `no worse`."""
    if worse.startswith(figures.MINUS):
        return f"better by {worse.removeprefix(figures.MINUS)}"
    return "no worse" if worse == "0" else f"worse by {worse}"


def limits(metric: MetricResult) -> list[tuple[str, str]]:
    """A tolerance as the manifest has it, in parts: `max_drop` and `0.02`; nothing and `proven pass`."""
    said = metric.tolerance or {}
    found = [
        (plain(name), figures.limit(limit, metric.metric, name))
        for name, limit in said.items()
        if name.startswith(("max", "min"))
    ]
    if require := said.get("require"):
        found.append(("", plain(str(require)).replace("_", " ")))
    if said.get("level") == "warning":
        found.append(("", "warning only"))
    return found


def tolerance(metric: MetricResult, separator: str = ", ") -> str:
    """The limits in a line, e.g. `max_drop 0.02, proven pass`."""
    return separator.join(f"{name} {rest}".lstrip() for name, rest in limits(metric)) or "–"


def failure(metric: MetricResult) -> str:
    """One sentence on a metric that did not pass."""
    name = plain(metric.name)
    if metric.error is not None:
        return f"{name} could not be computed: {plain(metric.error)}"
    named = (metric.tolerance or {}).get(metric.failed_limit or "")
    limit = named if isinstance(named, int | float) else None  # of a report from elsewhere it may be anything
    allowed = next((figure for name, figure in limits(metric) if name == metric.failed_limit), "")
    ends = metric.confidence_interval
    within = f" 95 % interval {figures.interval(ends, metric.metric)}." if ends else ""
    if metric.failed_limit == "max_regression" and metric.baseline_identical:
        return f"{name} is {_exact(metric)} where the baseline was identical to the reference."
    if metric.failed_limit == "max_regression":
        baseline = figures.exact(metric.baseline, metric.metric, metric.value)
        own = _exact(metric, metric.baseline)
        return f"{name} is {own} where the baseline had {baseline}; max_regression allows {allowed}."
    if metric.failed_limit in ("min", "max"):
        side = "below" if metric.failed_limit == "min" else "above"
        side = f"not proven to be {'at least' if side == 'below' else 'at most'}" if unproven(metric) else side
        # The interval of a metric that drops is the drop's, and would be taken for the value's here.
        within = within if metric.drop is None else ""
        return f"{name} is {_exact(metric, limit)}, {side} the {metric.failed_limit}imum of {allowed}.{within}"
    proof = " The tolerance asks for proof, which the interval does not give." if unproven(metric) else ""
    if metric.failed_slice is not None:
        told = f"{name} of {lost_on(metric, limit)}; {metric.failed_limit} allows {allowed}."
        return f"{told}{_slice_interval(metric)}{proof}"
    reference = figures.exact(metric.reference, metric.metric, metric.value)
    moved = f"{name} went from {reference} to {_exact(metric, metric.reference)}, {_drop(metric, limit)}"
    return f"{moved}; {metric.failed_limit} allows {allowed}.{within}{proof}"


def lost_on(metric: MetricResult, limit: float | None = None) -> str:
    """How the class or slice fared that is out of tolerance: `class 3 went from 0.9800 to 0.8000, worse by 0.1800`."""
    failed = metric.failed_slice
    assert failed is not None
    one = failed.slice
    reference, variant = (
        figures.exact(value, metric.metric, other)
        for value, other in ((one.reference, one.variant), (one.variant, one.reference))
    )
    drop = in_words(figures.worse_by(one.drop, one.reference, one.variant, beside=limit))
    examples = count(one.examples, "example")
    return f"{plain(failed.name)} ({examples}) went from {reference} to {variant}, {drop}"


def _slice_interval(metric: MetricResult) -> str:
    ends = None if metric.failed_slice is None else metric.failed_slice.slice.interval
    return f" 95 % interval, for all at once, {figures.interval(ends, metric.metric)}." if ends else ""


def _exact(metric: MetricResult, beside: float | None = None) -> str:
    """The value in a sentence, beside a limit or another value."""
    return value_of(metric) if metric.value is None else figures.exact(metric.value, metric.metric, beside)


def _drop(metric: MetricResult, limit: float | None) -> str:
    """The drop in a sentence beside its limit, also as the share of the reference that a relative limit is of."""
    values = (metric.reference, metric.value)
    if metric.failed_limit != "max_relative_drop" or not metric.reference or metric.drop is None:
        return in_words(figures.worse_by(metric.drop, *values, beside=limit))
    share = figures.worse_by(metric.drop / abs(metric.reference), beside=limit).lstrip(figures.MINUS)
    return f"{in_words(worse_by(metric))}, {share} of the reference's"


def unproven(metric: MetricResult) -> bool:
    """Whether it is proof that is missing: the measured value itself may be inside."""
    return metric.conclusive is False and (metric.tolerance or {}).get("require") == "proven_pass"


def brief_failure(metric: MetricResult) -> str:
    """The same in a few words: `accuracy 0.9800 → 0.9100 (max_drop 0.02)`."""
    name = plain(metric.name)
    if metric.error is not None:
        return f"{name} could not be computed"
    allowed = next((f"{limit} {figure}" for limit, figure in limits(metric) if limit == metric.failed_limit), "")
    if metric.failed_slice is not None:
        one = metric.failed_slice.slice
        values = ((one.reference, one.variant), (one.variant, one.reference))
        reference, value = (figures.exact(own, metric.metric, other) for own, other in values)
        return f"{name} of {plain(metric.failed_slice.name)} {reference} → {value} ({allowed})"
    value = _exact(metric, metric.reference)
    reference = figures.exact(metric.reference, metric.metric, metric.value)
    before = f"{reference} → " if metric.reference is not None else ""
    if metric.failed_limit == "max_regression":
        before = f"{baseline_of(metric)} → "
    return f"{name} {before}{value}" + (f" ({allowed})" if allowed else "")


def confidence(found: Confidence, sides: Sides) -> str:
    """How sure both are of their answers, in a few words."""
    other = sides.figures[0]
    told = f"mean confidence {_beside(found.variant, found.reference, other)}"
    if found.variant_error is None or found.reference_error is None:
        return told
    return f"{told}, expected calibration error {_beside(found.variant_error, found.reference_error, other)}"


def _beside(variant: float, reference: float, other: str) -> str:
    return f"{figures.number(variant, '')} ({other} {figures.number(reference, '')})"


def titles(report: Report) -> dict[int, str]:
    """What to call each model, by its `id`."""
    called = naming.titles([(model.name, model.manifest) for model in report.models])
    return {id(model): title for model, title in zip(report.models, called, strict=True)}


def named_variants(report: Report) -> Iterator[tuple[str, VariantResult]]:
    """Every variant with a name for its files, `MODEL-VARIANT`, that no other one of the report has."""
    called = titles(report)
    every = [(model, variant) for model in report.models for variant in model.variants]
    names = file_names(f"{called[id(model)]}-{variant.name}" for model, variant in every)
    return zip(names, (variant for _, variant in every), strict=True)


class Explanation(msgspec.Struct, frozen=True):
    """Why a variant does not pass and what to change, in sentences; None where there is nothing to say."""

    rule: str | None = None
    """The rule of the cause."""
    cause: str | None = None
    """The primary finding's message; without one, why no cause is proven."""
    proof: str | None = None
    """The experiment, and how much of the loss came back; without a cause, what was tried."""
    place: str | None = None
    """The tensor and the operator."""
    remedy: str | None = None
    """The first verified one: its title, what the metrics then are, its size."""
    patch: tuple[str, ...] = ()
    """What to set in the manifest for it, as lines of the variant's object."""
    change: str = ""
    """Where the lines go, and which keys of that object go away."""

    @property
    def sentences(self) -> list[tuple[str, str]]:
        """All but the lines of the manifest, each with its label."""
        cause, proof = ("No cause is proven", "Tried") if self.rule is None else ("Cause", "Proof")
        named = [(cause, self.cause), (proof, self.proof), ("Place", self.place), ("Fix", self.remedy)]
        return [(label, sentence) for label, sentence in named if sentence is not None]

    @property
    def text(self) -> str:
        """All of it in one line, for what shows no more."""
        told = [f"{label}: {one if one.endswith(('.', '!', '?')) else one + '.'}" for label, one in self.sentences]
        if self.change:
            told.append(f"{self.change}: {', '.join(self.patch)}" if self.patch else f"{self.change}.")
        return " ".join(told)

    @property
    def brief(self) -> Explanation:
        """The cause alone."""
        return Explanation(self.rule, self.cause)


class Problem(msgspec.Struct, frozen=True):
    """Something that did not pass, in words and with its place."""

    verdict: Verdict
    """ERROR, FAIL or WARN."""
    model: ModelResult
    title: str
    """The model's, of `titles`."""
    variants: tuple[str, ...]
    """Several where they share one error; none where it is the model's."""
    metric: MetricResult | None
    """None for an error, a finding, and for observed outputs that differ in steps."""
    observed: bool
    """Of outputs that the user's own application recorded."""
    rule: str
    """`tolerance`, `reference`, `observed-outputs`, the kind of the error, or the finding's rule."""
    message: str
    line: int
    """Of the manifest: the tolerance's own, else the variant's, else the model's; 0 where unknown."""
    explanation: Explanation | None = None
    """Why, and what to change, where a diagnosis has something to say."""
    finding: Finding | None = None
    """The finding that it is: one that makes a verdict worse."""

    @property
    def where(self) -> str:
        """`model / variant, variant`."""
        names = ", ".join(plain(name) for name in self.variants)
        return self.title + (f" / {names}" if names else "")


APPLICATION = "io-quantization-misuse"
"""The rule that is about the user's application, and not about the file."""


def problems(report: Report) -> list[Problem]:
    """What did not pass, worst first: errors, then what is proven to fail, then the rest, then warnings."""
    called = titles(report)
    found = [problem for model in report.models for problem in _model_problems(model, called[id(model)])]
    order = [Verdict.ERROR, Verdict.FAIL, Verdict.WARN]
    return sorted(
        found, key=lambda one: (order.index(one.verdict), bool(one.metric and one.metric.conclusive is False))
    )


def explained_once(found: list[Problem]) -> list[tuple[Problem, Explanation | None]]:
    """Problems, each variant's explanation at the first of its problems alone."""
    told: set[int] = set()
    return [(one, None if id(one.explanation) in told else _seen(one.explanation, told)) for one in found]


def _seen(one: Explanation | None, told: set[int]) -> Explanation | None:
    told.add(id(one))
    return one


class Short(msgspec.Struct, frozen=True):
    """All that is wrong with a variant, with variants of one error, or with a model, in a line."""

    verdict: Verdict
    """The worst."""
    where: str
    what: str
    """What moved, or the error."""
    why: str
    """The cause's rule and the remedy; empty where neither is known."""


def in_short(found: Sequence[Problem]) -> list[Short]:
    """Problems once more, in their order, one for each place where they are."""
    places: dict[tuple[int, str], list[Problem]] = {}
    for one in found:
        places.setdefault((id(one.model), one.where), []).append(one)
    return [_in_short(together) for together in places.values()]


def _in_short(found: Sequence[Problem]) -> Short:
    why = next((one.explanation for one in found if one.explanation is not None), Explanation())
    cause = f"Why: {why.rule}." if why.rule and why.cause else ""
    fix = f"Fix: {why.remedy}" if why.remedy else ""
    what = "; ".join(dict.fromkeys(map(_in_few_words, found)))
    return Short(found[0].verdict, found[0].where, what, " ".join(filter(None, (cause, fix))))


def _in_few_words(problem: Problem) -> str:
    if problem.metric is None:
        rule = RULES.get(problem.rule)
        return f"{rule.brief} ({rule.id})" if rule is not None and rule.finding else problem.message.rstrip(".")
    whose = "observed " if problem.observed else "the reference's " if problem.rule == "reference" else ""
    return whose + brief_failure(problem.metric)


def _model_problems(model: ModelResult, title: str) -> Iterator[Problem]:
    if model.error is not None:
        message = plain(model.error.message, LONGEST_MESSAGE)
        line = model.error.line or model.line
        yield Problem(Verdict.ERROR, model, title, (), None, False, model.error.kind, message, line)
        return
    told: dict[ErrorInfo, list[VariantResult]] = {}
    for variant in model.variants:
        if variant.error is not None:
            told.setdefault(variant.error, []).append(variant)
    for error, variants in told.items():
        names = tuple(variant.name for variant in variants)
        line = error.line or variants[0].line or model.line
        why = explanation(model, variants[0]) if len(variants) == 1 else None
        message = plain(error.message, LONGEST_MESSAGE)
        yield Problem(Verdict.ERROR, model, title, names, None, False, error.kind, message, line, why)
    for check in model.reference.checks:
        if check.problem:
            line = (check.tolerance or {}).get("line") or model.line
            message = f"the reference's {failure(check)}"
            yield Problem(check.problem, model, title, (), check, False, "reference", message, line)
    for variant in model.variants:
        yield from _variant_problems(model, title, variant)
    yield from _finding_problems(model, title)


def _finding_problems(model: ModelResult, title: str) -> Iterator[Problem]:
    """Findings that make a verdict worse: the reference's, then each of variants once, with all that it is of."""
    for finding in model.findings:
        if finding.verdict is not Verdict.PASS:
            yield _of_finding(model, title, finding, (), model.line)
    variants = {variant.name: variant for variant in model.variants}
    for finding, names in _merged(model, own_problems):
        first = variants[names[0]]
        problem = _of_finding(model, title, finding, tuple(names), first.line or model.line)
        yield replace(problem, explanation=_beyond_cause(model, first)) if finding.primary else problem


def _of_finding(model: ModelResult, title: str, finding: Finding, names: tuple[str, ...], line: int) -> Problem:
    message = plain(finding.message, LONGEST_MESSAGE)
    return Problem(
        finding.verdict, model, title, names, None, False, plain(finding.rule, 100), message, line, finding=finding
    )


def _beyond_cause(model: ModelResult, variant: VariantResult) -> Explanation | None:
    """Where the cause is the problem itself."""
    found = explanation(model, variant)
    return found and replace(found, cause=None)


def own_problems(variant: VariantResult) -> list[Finding]:
    """A variant's findings that are told as problems of their own, and not as the cause of another."""
    has = _has_problem(variant)
    return [one for one in variant.findings if one.verdict is not Verdict.PASS and not (one.primary and has)]


def beside_causes(variant: VariantResult) -> list[Finding]:
    """A variant's findings but those that are told as the cause of its problems, and nowhere else."""
    causes = (primary(variant), of_application(variant)) if _has_problem(variant) else ()
    return [one for one in variant.findings if not any(one is cause for cause in causes)]


def untold(variant: VariantResult) -> list[Finding]:
    """A variant's findings that no problem tells of."""
    problems = {id(one) for one in own_problems(variant)}
    return [one for one in beside_causes(variant) if id(one) not in problems]


def _has_problem(variant: VariantResult) -> bool:
    """Whether something other than a finding keeps a variant from passing."""
    observed = variant.observed
    measured = [*variant.metrics, *(observed.metrics if observed else ())]
    steps = observed.steps_verdict if observed else None
    return variant.error is not None or steps is Verdict.FAIL or any(metric.problem for metric in measured)


def _variant_problems(model: ModelResult, title: str, variant: VariantResult) -> Iterator[Problem]:
    at, why = variant.line or model.line, explanation(model, variant)
    application = of_application(variant)
    together = application is None or application is primary(variant)
    theirs = why if together else explanation(model, variant, observed=True)

    def problem(verdict: Verdict, metric: MetricResult | None, observed: bool, message: str) -> Problem:
        line = at if metric is None or metric.tolerance is None else metric.tolerance.get("line") or at
        rule = "observed-outputs" if observed else "tolerance" if metric and metric.tolerance else "metric"
        own = theirs if observed else why
        return Problem(verdict, model, title, (variant.name,), metric, observed, rule, message, line, own)

    for metric in variant.metrics:
        if metric.problem:
            yield problem(metric.problem, metric, False, failure(metric))
    if (observed := variant.observed) is None:
        return
    for metric in observed.metrics:
        if metric.problem:
            yield problem(metric.problem, metric, True, f"observed outputs: {failure(metric)}")
    if observed.steps_verdict not in (None, Verdict.PASS):
        yield problem(observed.steps_verdict, None, True, steps(observed))


def primary(variant: VariantResult) -> Finding | None:
    """The finding that is the cause of what did not pass; None where the cause is not known.

    What an application does is the cause where the file itself passes, and explains nothing that the file loses.
    """
    causes = [finding for finding in variant.findings if finding.primary and finding.ignored is None]
    own = [finding for finding in causes if finding.rule != APPLICATION]
    return next(iter(own if _fails_itself(variant) else own or causes), None)


def of_application(variant: VariantResult) -> Finding | None:
    """The finding that is the cause of what the user's application recorded; None where that is not known."""
    causes = (finding for finding in variant.findings if finding.primary and finding.ignored is None)
    return next((finding for finding in causes if finding.rule == APPLICATION), None)


def _fails_itself(variant: VariantResult) -> bool:
    """Whether the file does not pass, whatever its application makes of it."""
    return any(metric.problem for metric in variant.metrics)


def cause(variant: VariantResult) -> str | None:
    """The message of a variant's primary finding; None where the cause is not known."""
    found = primary(variant)
    return None if found is None else plain(found.message, LONGEST_MESSAGE)


def explanation(model: ModelResult, variant: VariantResult, *, observed: bool = False) -> Explanation | None:
    """Why a variant does not pass, as its diagnosis has it; None without a cause, a verified remedy and a note.

    `observed` asks for the cause of what its application recorded, where that has one of its own.
    """
    application = of_application(variant) if observed else None
    found, mend = primary(variant), next((remedy for remedy in variant.remedies if remedy.verified), None)
    if application is not None:
        found, mend = application, None  # what mends the file mends no application
    why = Explanation()
    if found is not None:
        message = plain(found.message, LONGEST_MESSAGE)
        why = replace(why, rule=plain(found.rule, 100), cause=message, proof=proof(found), place=place(found))
    elif variant.diagnosis is not None and variant.diagnosis.note is not None:
        note = plain(variant.diagnosis.note, LONGEST_MESSAGE)
        why = replace(why, cause=note, proof=tried(variant.diagnosis))
    if mend is not None:
        why = replace(why, remedy=remedy(mend, variant), patch=tuple(patch(mend)), change=_change(mend, model, variant))
    return why if why.sentences else None


def proof(finding: Finding) -> str | None:
    """What the experiment gave back, e.g. `recalibrated, 96 % of the loss comes back (95 % CI 91 to 100 %)`."""
    if finding.experiment is None:
        return None
    ends = finding.experiment.confidence_interval
    low, high = (figures.percent(end) for end in ends) if ends else ("", "")
    within = f" (95 % CI {low.removesuffix(' %')} to {high})" if ends else ""
    return f"{recovered(finding.experiment)} of the loss comes back{within}"


def recovered(experiment: Experiment) -> str:
    """An experiment with the share that it gave back: `conv2d in float, 4 %`."""
    return f"{plain(experiment.name)}, {figures.percent(experiment.recovered)}"


def place(finding: Finding) -> str | None:
    """The layer, else the tensor, and the operator that a finding is about."""
    layer = finding.evidence.get("layer")
    called = ("tensor", finding.tensor) if layer is None else ("layer" if finding.operator else "input", str(layer))
    named = [called, ("operator", finding.operator)]
    return ", ".join(f"{what} {plain(name)}" for what, name in named if name is not None) or None


def tried(diagnosis: Diagnosis) -> str | None:
    """The experiments that gave back most, where none gave back enough."""
    shown = "; ".join(map(recovered, diagnosis.tried[:MOST_TRIED]))
    more = len(diagnosis.tried) - MOST_TRIED
    return shown + (f"; and {more:,} more" if more > 0 else "") or None


def remedy(mend: Remedy, variant: VariantResult) -> str:
    """A remedy in a sentence: its title, and what was measured with it.

    The present values are not beside it: they are of all examples, and a remedy's of those that its search did not use.
    """
    kinds = {metric.name: metric.metric for metric in variant.metrics}
    values = [(name, value, kinds.get(name, name)) for name, value in mend.metrics.items()]
    # The size is told by itself.
    named = [one for one in values if not is_of_file(one[2])][:MOST_FIGURES]
    measured = [f"{plain(name)} {figures.number(value, metric)}" for name, value, metric in named]
    measured += [figures.size(mend.size_bytes)] if mend.size_bytes is not None else []
    measured += [count(mend.float_operators, "operator") + " in float"] if mend.float_operators else []
    title = plain(mend.title).rstrip(".")
    verified = "verified on examples that the search did not use: " if mend.verified else ""
    return f"{title}; {verified}{', '.join(measured)}" if measured else title


def patch(mend: Remedy) -> list[str]:
    """What a remedy sets in the variant's object, a line a key."""
    return _lines(mend.patch)


def _lines(patch: Mapping[str, object]) -> list[str]:
    kept = [(key, value) for key, value in patch.items() if value is not None][:MOST_LINES]
    return [plain(f"{_json(key)}: {_json(value)}", LONGEST_LINE) for key, value in kept]


def _change(mend: Remedy, model: ModelResult, variant: VariantResult) -> str:
    """Where the lines go, and keys that go away: `In variant int8 of tflite-guard.json:20, remove "recipe" and set`.

    Before it comes what goes with it elsewhere: `At /datasets/calib of tflite-guard.json, set "samples": 200. `
    """
    gone = [plain(_json(key)) for key, value in mend.patch.items() if value is None][:MOST_LINES]
    what = " and ".join(([f"remove {', '.join(gone)}"] if gone else []) + (["set"] if patch(mend) else []))
    manifest = plain(model.manifest.repository_path)
    place = f"{manifest}:{variant.line or model.line}" if manifest else "a manifest"
    where = f"In variant {plain(variant.name)} of {place}"
    if mend.target:
        where = f"At {plain(mend.target)} of {manifest or 'a manifest'}"
    elsewhere = (
        f"At {plain(target)} of {manifest or 'a manifest'}, set {', '.join(_lines(own))}. "
        for target, own in mend.also.items()
    )
    return f"{''.join(elsewhere)}{where}, {what}" if what else ""


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def passes(model: ModelResult) -> bool:
    """Whether everything of a model holds; what was only measured and not judged does not."""
    return model.verdict is Verdict.PASS and any(variant.judged is not None for variant in model.variants)


def closest(model: ModelResult) -> tuple[VariantResult, MetricResult] | None:
    """The figures to show of a model in a row: the variant that loses most, by the first metric that is judged.

    A metric that the reference has a value of comes before one that only compares with it, and the file's figures last.
    """
    every = [(variant, one) for variant in model.variants for one in variant.metrics]
    scores = [found for found in every if not is_of_file(found[1].metric)]
    told = [found for found in scores if found[1].verdict is not None] or scores or every
    chosen = next((one.name for _, one in told if one.drop is not None), told[0][1].name if told else "")
    named = [found for found in told if found[1].name == chosen]
    return max(named, key=lambda found: _lost(found[1]), default=None)


def is_of_file(metric: str) -> bool:
    """Whether a metric is told by the file alone, whatever the examples."""
    return metric in METRICS and METRICS[metric].of_file


def _lost(metric: MetricResult) -> float:
    """How bad a value is beside those that other variants have of the same metric."""
    if metric.drop is not None:
        return metric.drop
    if metric.value is None:
        return -math.inf
    return -metric.value if metric.higher_is_better else metric.value


def most_lossy(tensors: Sequence[TensorLoss]) -> list[TensorLoss]:
    """Those that lose most by themselves first; what could not be measured alone comes last."""
    return sorted(tensors, key=lambda one: (one.isolated is None, one.isolated or 0.0))


def rung(one: Rung, metric: str) -> tuple[str, str]:
    """What a rung of the ladder gave: the metric's value, and the decibels to the reference where they say more."""
    decibels = (
        "identical"
        if one.identical and one.name != "reference"
        else ""
        if one.sqnr is None
        else figures.number(one.sqnr, "sqnr")
    )
    return figures.number(one.value, metric), decibels


def steps(observed: Observed) -> str:
    """One sentence on recorded outputs that differ too much from our own run."""
    judged = observed.max_steps.get(observed.kernels, 0.0)
    others = {plain(name): most for name, most in observed.max_steps.items() if name != observed.kernels}
    beside = ", ".join(f"{most:g} with the {name} ones" for name, most in others.items())
    kernels = f"with the {plain(observed.kernels)} kernels" + (f" ({beside})" if beside else "")
    differ = f"observed outputs differ from our own run by up to {judged:g} quantization steps {kernels}"
    return f"{differ}; observed_tolerance allows {figures.limit(observed.tolerance or 0, '')}."


def findings(model: ModelResult) -> list[tuple[Finding, list[str]]]:
    """Findings that no problem tells of, each once with the raw names of all its variants; none: the reference's."""
    own = [(finding, list[str]()) for finding in model.findings if finding.verdict is Verdict.PASS]
    return own + _merged(model, untold)


def _merged(model: ModelResult, some: Callable[[VariantResult], list[Finding]]) -> list[tuple[Finding, list[str]]]:
    """Some findings of variants, each once with the raw names of all the variants that it is of, as they come."""
    told: dict[tuple[str, str, str, str | None], tuple[Finding, list[str]]] = {}
    for variant in model.variants:
        for finding in some(variant):
            key = (finding.severity, finding.message, finding.rule, finding.ignored)
            told.setdefault(key, (finding, []))[1].append(variant.name)
    return list(told.values())


def told(finding: Finding) -> str:
    """A finding's message; of an ignored one with the manifest's reason."""
    message = plain(finding.message, LONGEST_MESSAGE)
    return message if finding.ignored is None else f"{message} (ignored: {plain(finding.ignored, LONGEST_MESSAGE)})"


def label(finding: Finding) -> str:
    """A finding's severity, or that it is ignored."""
    return finding.severity if finding.ignored is None else f"ignored {finding.severity}"


def missing_intervals(model: ModelResult) -> dict[str, list[str]]:
    """Why metrics that could have an interval have none, to the raw names of those metrics."""
    notes: dict[str, list[str]] = {}
    for metric in (metric for variant in model.variants for metric in variant.metrics):
        if metric.interval_note is not None and may_have_interval(metric):
            names = notes.setdefault(metric.interval_note, [])
            if metric.name not in names:
                names.append(metric.name)
    return notes


def manifests(report: Report) -> list[str]:
    """The manifests by their paths in the repository, each once; a comparison has none."""
    return list(dict.fromkeys(one.manifest.repository_path for one in report.models if not one.is_comparison))


class Sides(msgspec.Struct, frozen=True):
    """What the two are called whose values stand side by side."""

    reference: str
    """In a sentence."""
    variant: str
    figures: tuple[str, str]
    """At the head of their values."""

    @classmethod
    def of(cls, model: ModelResult) -> Sides:
        """A and B where two files are compared."""
        if model.is_comparison:
            return cls("A", "B", ("A", "B"))
        return cls("the reference", "this variant", ("float", "quantized"))


def comparisons(report: Report) -> list[tuple[ModelResult, VariantResult]]:
    """Each A with its B, of a report that compares files and judges nothing."""
    if not all(model.is_comparison for model in report.models):
        return []
    return [(model, b) for model in report.models for b in model.variants]


def compared(b: VariantResult) -> str:
    """How B differs from A by the first metric that both have a value of, else how alike their outputs are."""
    measured = [metric for metric in b.metrics if metric.error is None]
    chosen = next((one for one in measured if one.drop is not None), next(iter(measured), None))
    if chosen is None:
        return "nothing was measured"
    name, ends = plain(chosen.name), chosen.confidence_interval
    within = f", 95 % interval {figures.interval(ends, chosen.metric)}" if ends else ""
    if chosen.drop is None:
        return f"{name} of B with A is {value_of(chosen)}{within}"
    before, after = figures.exact(chosen.reference, chosen.metric, chosen.value), _exact(chosen, chosen.reference)
    told = f"{name} is {before} in A and {after} in B, {in_words(worse_by(chosen))}{within}"
    chance = ends is not None and ends[0] <= 0 <= ends[1] and chosen.drop != 0
    return f"{told}, so the difference may be chance" if chance else told


def headline(report: Report) -> str:
    """The run in one line."""
    found = comparisons(report)
    if len(found) == 1 and report.verdict is not Verdict.ERROR:
        return compared(found[0][1])
    variants, references = verdicts(report)
    counts = Counter(variants)
    parts = [f"{counts[verdict]} {word}" for verdict, word in WORDS.items() if counts[verdict]]
    amiss = Counter(verdict for verdict in references if verdict is not Verdict.PASS)
    parts += [f"{count(number, 'reference')} {WORDS[verdict]}" for verdict, number in amiss.items()]
    models, checked = count(len(report.models), "model"), count(len(variants), "variant")
    return f"{models}, {checked}: {', '.join(parts) or 'none checked'}"


def verdicts(report: Report) -> tuple[list[Verdict | None], list[Verdict]]:
    """How each variant came out, None where nothing of it was judged; and each model's reference."""
    variants = [variant.judged for model in report.models for variant in model.variants]
    return variants, [model.reference_verdict for model in report.models]


def since_baseline(found: SinceBaseline) -> str:
    """How many examples got worse and better since the baseline, in a sentence."""
    first = "" if found.examples == found.of else f"the first {found.examples:,} of "
    return (
        f"since the baseline, of {first}{found.of:,} examples {found.worse:,} that were right "
        f"{_be(found.worse)} wrong, and {found.better:,} that were wrong {_be(found.better)} right"
    )


def _be(number: int) -> str:
    return "is" if number == 1 else "are"


def called(label: int, classes: Sequence[str]) -> str:
    """A class by its name, where it has one, else by its number."""
    return classes[label] if 0 <= label < len(classes) else str(label)


def worsened(one: Mistake, classes: Sequence[str]) -> str:
    """An example that got worse: its number and file, the answer then and now, and how sure that is."""
    file = "" if one.file is None else f" ({one.file})"
    answers = f"was {called(one.label, classes)}, is {called(one.variant, classes)}"
    sure = "" if one.margin is None else f" by {figures.real(one.margin, 3)}"
    reference = "" if one.reference == one.label else f"; the reference: {called(one.reference, classes)}"
    return f"example {one.example}{file} {answers}{sure}{reference}"


def count(number: int, noun: str) -> str:
    """`1 model`, `2 models`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
