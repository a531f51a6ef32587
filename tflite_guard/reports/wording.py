"""Results in words, the same in every rendering. Reads verdicts, never compares numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tflite_guard.results import Finding, MetricResult, ModelResult, Observed, Report, VariantResult, Verdict
from tflite_guard.text import figures
from tflite_guard.text.plain import plain
from tflite_guard.vocabulary import METRICS

LONGEST_MESSAGE = 2000
LONGEST_PLACE = 50
"""Of a title, where the end of a path says most and the name comes after it."""
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
    """`worse`, `better` or `unchanged` than the baseline in the figures that are shown; empty where it has none."""
    if metric.baseline is None and not metric.baseline_identical:
        return ""
    if baseline_of(metric) == value_of(metric):
        return "unchanged"
    better = metric.identical if metric.regression is None else metric.regression < 0
    return "better" if better else "worse"


def may_have_interval(metric: MetricResult) -> bool:
    """Whether the metric is of a kind that has intervals: not a maximum, not a size."""
    return metric.metric not in METRICS or METRICS[metric.metric].has_interval


def compression(variant: VariantResult, model: ModelResult) -> str:
    """How many times smaller than the float32 .tflite, e.g. `3.6×`; empty where that is not known."""
    whole = next(
        (rung.artifact.size_bytes for rung in model.rungs if rung.quantization == "float32" and rung.artifact), None
    )
    if (
        whole is None
        or variant.artifact is None
        or variant.artifact.size_bytes == 0
        or variant.quantization == "float32"
    ):
        return ""
    return f"{whole / variant.artifact.size_bytes:.1f}×"


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
    value = value_of(metric) if metric.value is None else figures.exact(metric.value, metric.metric)
    allowed = next((figure for name, figure in limits(metric) if name == metric.failed_limit), "")
    ends = metric.confidence_interval
    within = f" 95 % interval {figures.interval(ends, metric.metric)}." if ends else ""
    if metric.failed_limit == "max_regression" and metric.baseline_identical:
        return f"{name} is {value} where the baseline was identical to the reference."
    if metric.failed_limit == "max_regression":
        baseline = figures.exact(metric.baseline, metric.metric)
        return f"{name} is {value} where the baseline had {baseline}; max_regression allows {allowed}."
    if metric.failed_limit in ("min", "max"):
        side = "below" if metric.failed_limit == "min" else "above"
        # The interval of a metric that drops is the drop's, and would be taken for the value's here.
        within = within if metric.drop is None else ""
        return f"{name} is {value}, {side} the {metric.failed_limit}imum of {allowed}.{within}"
    proof = " The tolerance asks for proof, which the interval does not give." if _unproven(metric) else ""
    moved = f"{name} went from {figures.exact(metric.reference, metric.metric)} to {value}"
    drop = figures.signed(metric.drop).lstrip("+")
    return f"{moved}, a drop of {drop}; {metric.failed_limit} allows {allowed}.{within}{proof}"


def _unproven(metric: MetricResult) -> bool:
    return bool(metric.tolerance and metric.tolerance.get("require") == "proven_pass")


def titles(report: Report) -> dict[int, str]:
    """What to call each model, by its `id`: its name, after its manifest's place where others have that name too."""
    same: dict[str, list[ModelResult]] = {}
    for model in report.models:
        same.setdefault(plain(model.name), []).append(model)
    return {
        id(model): f"{place}: {name}" if place else name
        for name, models in same.items()
        for model, place in zip(models, _places(models), strict=True)
    }


def _places(models: list[ModelResult]) -> list[str]:
    """The shortest that tells the models' manifests apart: folders, else paths; nothing where neither does."""
    manifests = [model.manifest for model in models]
    folders = [one.repository_path.rpartition("/")[0] for one in manifests]
    for places in (folders, [one.repository_path for one in manifests], [one.path for one in manifests]):
        shown = [_end_of(place) for place in places]
        if len(shown) > 1 and all(shown) and len(set(shown)) == len(shown):
            return shown
    return [""] * len(models)


def _end_of(path: str) -> str:
    path = plain(path, max(len(path), 1))
    return path if len(path) <= LONGEST_PLACE else "…" + path[1 - LONGEST_PLACE :]


@dataclass(frozen=True)
class Problem:
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
    cause: str | None = None
    """The variant's primary finding."""
    finding: Finding | None = None
    """The finding that it is: one that makes a verdict worse."""

    @property
    def where(self) -> str:
        """`model / variant, variant`."""
        names = ", ".join(plain(name) for name in self.variants)
        return self.title + (f" / {names}" if names else "")


def problems(report: Report) -> list[Problem]:
    """What did not pass, worst first: errors, then what is proven to fail, then the rest, then warnings."""
    called = titles(report)
    found = [problem for model in report.models for problem in _model_problems(model, called[id(model)])]
    order = [Verdict.ERROR, Verdict.FAIL, Verdict.WARN]
    return sorted(
        found, key=lambda one: (order.index(one.verdict), bool(one.metric and one.metric.conclusive is False))
    )


def _model_problems(model: ModelResult, title: str) -> Iterator[Problem]:
    if model.error is not None:
        message = plain(model.error.message, LONGEST_MESSAGE)
        yield Problem(Verdict.ERROR, model, title, (), None, False, model.error.kind, message, model.line)
        return
    told: dict[tuple[str, str], list[VariantResult]] = {}
    for variant in model.variants:
        if variant.error is not None:
            told.setdefault((variant.error.kind, variant.error.message), []).append(variant)
    for (kind, message), variants in told.items():
        names = tuple(variant.name for variant in variants)
        line = variants[0].line or model.line
        yield Problem(Verdict.ERROR, model, title, names, None, False, kind, plain(message, LONGEST_MESSAGE), line)
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
    lines = {variant.name: variant.line for variant in model.variants}
    for finding, names in _merged(model, lambda variant, finding: is_problem(variant, finding)):
        yield _of_finding(model, title, finding, tuple(names), lines[names[0]] or model.line)


def _of_finding(model: ModelResult, title: str, finding: Finding, names: tuple[str, ...], line: int) -> Problem:
    message = plain(finding.message, LONGEST_MESSAGE)
    return Problem(
        finding.verdict, model, title, names, None, False, plain(finding.rule, 100), message, line, finding=finding
    )


def is_problem(variant: VariantResult, finding: Finding) -> bool:
    """Whether a variant's finding is told as a problem of its own, and not as the cause of another."""
    return finding.verdict is not Verdict.PASS and not (finding.primary and _has_problem(variant))


def _has_problem(variant: VariantResult) -> bool:
    """Whether something other than a finding keeps a variant from passing."""
    observed = variant.observed
    measured = [*variant.metrics, *(observed.metrics if observed else ())]
    steps = observed.steps_verdict if observed else None
    return variant.error is not None or steps is Verdict.FAIL or any(metric.problem for metric in measured)


def _variant_problems(model: ModelResult, title: str, variant: VariantResult) -> Iterator[Problem]:
    at, why = variant.line or model.line, cause(variant)

    def problem(verdict: Verdict, metric: MetricResult | None, observed: bool, message: str) -> Problem:
        line = at if metric is None or metric.tolerance is None else metric.tolerance.get("line") or at
        rule = "observed-outputs" if observed else "tolerance" if metric and metric.tolerance else "metric"
        return Problem(verdict, model, title, (variant.name,), metric, observed, rule, message, line, why)

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


def cause(variant: VariantResult) -> str | None:
    """The message of a variant's primary finding; None where the cause is not known."""
    primary = next((finding for finding in variant.findings if finding.primary and finding.ignored is None), None)
    return None if primary is None else plain(primary.message, LONGEST_MESSAGE)


def steps(observed: Observed) -> str:
    """One sentence on recorded outputs that differ too much from our own run."""
    judged = observed.max_steps.get(observed.kernels, 0.0)
    others = {plain(name): most for name, most in observed.max_steps.items() if name != observed.kernels}
    beside = ", ".join(f"{most:g} with the {name} ones" for name, most in others.items())
    kernels = f"with the {plain(observed.kernels)} kernels" + (f" ({beside})" if beside else "")
    differ = f"observed outputs differ from our own run by up to {judged:g} quantization steps {kernels}"
    return f"{differ}; observed_tolerance allows {figures.limit(observed.tolerance or 0, '')}."


def findings(model: ModelResult) -> list[tuple[Finding, list[str]]]:
    """Findings that no problem is, each once with the raw names of all its variants; none of these: the reference's."""
    own = [(finding, list[str]()) for finding in model.findings if finding.verdict is Verdict.PASS]
    return own + _merged(model, lambda variant, finding: not is_problem(variant, finding))


def _merged(model: ModelResult, wanted: Callable[[VariantResult, Finding], bool]) -> list[tuple[Finding, list[str]]]:
    """Some findings of variants, each once with the raw names of all the variants that it is of, as they come."""
    told: dict[tuple[str, str, str, str | None], tuple[Finding, list[str]]] = {}
    for variant in model.variants:
        for finding in variant.findings:
            if wanted(variant, finding):
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


def headline(report: Report) -> str:
    """The run in one line."""
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


def count(number: int, noun: str) -> str:
    """`1 model`, `2 models`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
