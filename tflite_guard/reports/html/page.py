"""A report in the order in which it is read, and no more of it than fits in a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from tflite_guard.reports import wording
from tflite_guard.reports.html import examples, phrases, tensors
from tflite_guard.reports.wording import Problem
from tflite_guard.results import (
    ChangedAnswer,
    Diagnosis,
    Finding,
    MetricResult,
    ModelResult,
    Report,
    TensorLoss,
    VariantResult,
    Verdict,
)
from tflite_guard.text import figures


@dataclass(frozen=True)
class Bounds:
    """How much of a report a page shows."""

    failures: int
    models: int
    variants: int
    """Of one model."""
    metrics: int
    """Of one variant."""
    items: int
    """Of any list: findings, names, notes, facts."""
    diagnoses: int
    tensors: int
    """Of one diagnosis."""
    pictures: int
    """Bytes of all of them."""


BOUNDS = (
    Bounds(500, 200, 200, 100, 200, 50, 200, 1_000_000),
    Bounds(200, 50, 100, 50, 50, 20, 100, 500_000),
    Bounds(50, 20, 30, 20, 20, 5, 50, 200_000),
    Bounds(10, 5, 10, 5, 5, 1, 20, 50_000),
    Bounds(3, 1, 3, 2, 2, 0, 0, 0),
)
"""From all that anybody reads to what always fits; the first that makes a small enough page is taken."""


@dataclass(frozen=True)
class Failure:
    """All that keeps one variant, or one model, from passing, with its cause and what mends it."""

    problems: tuple[Problem, ...]
    variant: VariantResult | None
    """The only one that it is of."""
    link: str
    """To where more is told of it; empty where nothing is."""

    @property
    def verdict(self) -> Verdict:
        """The worst of the problems'."""
        return Verdict.worst(problem.verdict for problem in self.problems)

    @property
    def cause(self) -> Finding | None:
        """What an experiment has shown to be the main cause."""
        return wording.primary(self.variant) if self.variant else None

    @property
    def application(self) -> Finding | None:
        """What the user's application does wrong, beside what the file loses."""
        found = wording.of_application(self.variant) if self.variant else None
        return None if found is self.cause else found

    @property
    def cause_is_told(self) -> bool:
        """Whether the cause is itself one of the problems."""
        return any(problem.finding is not None and problem.finding.primary for problem in self.problems)


@dataclass(frozen=True)
class Variant:
    """A variant with its place in the page."""

    anchor: str
    result: VariantResult
    bounds: Bounds
    diagnosis: Diagnosis | None
    """None where there is none, or no room for it."""
    pictures: tuple[tuple[ChangedAnswer, examples.Url], ...] = ()
    """Of examples that changed their answer, as far as there is room for them."""
    hidden: bool = False
    """Nobody asked for it: the conversion alone."""
    classes: tuple[str, ...] = ()
    """Their names by number, where they have any."""

    @property
    def rows(self) -> list[tuple[MetricResult, bool]]:
        """Its metrics, with whether each is of outputs that the application recorded."""
        observed = self.result.observed.metrics if self.result.observed else ()
        every = [*((metric, False) for metric in self.result.metrics), *((metric, True) for metric in observed)]
        return every[: self.bounds.metrics]

    @property
    def metrics_left_out(self) -> int:
        """How many metrics there is no room for."""
        observed = self.result.observed.metrics if self.result.observed else ()
        return len(self.result.metrics) + len(observed) - len(self.rows)

    @property
    def tensors(self) -> list[tuple[int, TensorLoss]]:
        """The diagnosis's, with their numbers; no more than there is room for."""
        return [] if self.diagnosis is None else tensors.numbered(self.diagnosis.tensors, self.bounds.tensors)

    @property
    def is_told(self) -> bool:
        """Whether there is more to say of it than its row in the table."""
        return not self.hidden and (self.diagnosis is not None or self.result.artifact is not None)


@dataclass(frozen=True)
class Model:
    """A model with its place in the page."""

    anchor: str
    title: str
    result: ModelResult
    variants: tuple[Variant, ...]
    left_out: int
    """Variants that there is no room for."""
    bounds: Bounds

    @property
    def rows(self) -> list[Variant]:
        """All that was measured: hidden rungs, then the variants."""
        hidden = [Variant("", rung, self.bounds, None, hidden=True) for rung in self.result.hidden]
        return [*self.variants, *hidden]

    @property
    def _measured(self) -> list[MetricResult]:
        return [metric for variant in self.rows for metric, _ in variant.rows]

    @property
    def has_intervals(self) -> bool:
        """Whether there is an interval to show."""
        return any(metric.confidence_interval is not None for metric in self._measured)

    @property
    def has_baseline(self) -> bool:
        """Whether there is something to show beside an earlier run."""
        return wording.has_baseline(self._measured)

    @property
    def doubtful(self) -> bool:
        """Whether a verdict could differ with other examples."""
        return any(metric.conclusive is False for metric in self._measured)

    @property
    def own(self) -> list[tuple[str, str, MetricResult | None]]:
        """The reference's own values: name, figure, and the check by its own tolerance where there is one."""
        checks = {check.name: check for check in self.result.reference.checks}
        values = self.result.reference.metrics
        names = list(dict.fromkeys([*values, *checks]))[: self.bounds.items]
        return [(one, self._figure(one, checks.get(one)), checks.get(one)) for one in names]

    def _figure(self, named: str, check: MetricResult | None) -> str:
        if check is not None:
            return wording.value_of(check)
        kinds = (phrases.kind(variant.result, named) for variant in self.variants)
        return figures.number(self.result.reference.metrics[named], next(kinds, named))


@dataclass(frozen=True)
class Page:
    """What the template is given."""

    report: Report
    bounds: Bounds
    failures: list[Failure]
    failures_left_out: int
    models: list[Model]
    models_left_out: int

    @cached_property
    def environment(self) -> list[tuple[str, str]]:
        """Names and values."""
        manifests = wording.manifests(self.report)
        found = [(name, str(value)) for name, value in self.report.environment.items() if value is not None]
        own = (self.report.tool.name, self.report.tool.version)
        return [own, *found, *(("manifest", path) for path in manifests)][: self.bounds.items]


def page(report: Report, bounds: Bounds) -> Page:
    """A report, worst first, as far as the bounds go."""
    models = list(_models(report, bounds))
    failures, failures_left_out = _failures(report, models, bounds.failures)
    return Page(
        report,
        bounds,
        failures,
        failures_left_out,
        models,
        len(report.models) - len(models),
    )


def _models(report: Report, bounds: Bounds) -> Iterator[Model]:
    titles, room, bytes_left = wording.titles(report), bounds.diagnoses, bounds.pictures
    order = list(Verdict)
    ranked = sorted(report.models, key=lambda one: order.index(one.verdict), reverse=True)
    for at, model in enumerate(ranked[: bounds.models], 1):
        kept = sorted(model.variants, key=lambda one: order.index(one.verdict), reverse=True)[: bounds.variants]
        variants = []
        for place, one in enumerate(kept, 1):
            told = one.diagnosis if room > 0 else None
            room -= told is not None
            pictures = _pictures(one, bytes_left)
            bytes_left -= sum(len(url) for _, url in pictures)
            variants.append(Variant(f"m{at}-v{place}", one, bounds, told, pictures, classes=model.classes))
        left_out = len(model.variants) - len(kept)
        yield Model(f"m{at}", titles[id(model)], model, tuple(variants), left_out, bounds)


def _pictures(variant: VariantResult, room: int) -> tuple[tuple[ChangedAnswer, examples.Url], ...]:
    """Those of a variant's examples that have one, until there is no more room."""
    kept: list[tuple[ChangedAnswer, examples.Url]] = []
    for one in variant.changed.worst[: examples.MOST_PICTURES] if variant.changed else ():
        url = examples.url(one.picture) if one.picture else None
        room -= len(url or "")
        if room < 0:
            break
        if url is not None:
            kept.append((one, url))
    return tuple(kept)


def _failures(report: Report, models: Sequence[Model], most: int) -> tuple[list[Failure], int]:
    """The problems, those of one variant together, in the order of the worst of each, and how many more there are."""
    together: dict[tuple[int, tuple[str, ...]], list[Problem]] = {}
    for problem in wording.problems(report):
        together.setdefault((id(problem.model), problem.variants), []).append(problem)
    links = {id(model.result): model.anchor for model in models}
    links |= {id(one.result): one.anchor for model in models for one in model.variants if one.is_told}
    kept = [_failure(problems, links) for problems in islice(together.values(), most)]
    return kept, len(together) - len(kept)


def _failure(problems: Sequence[Problem], links: dict[int, str]) -> Failure:
    first = problems[0]
    variant = None
    if len(first.variants) == 1:
        variant = next((one for one in first.model.variants if one.name == first.variants[0]), None)
    link = links.get(id(variant)) or links.get(id(first.model)) or ""
    return Failure(tuple(problems), variant, link)
