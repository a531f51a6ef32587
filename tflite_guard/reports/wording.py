"""Results in words and figures, the same in every rendering. Reads verdicts, never compares numbers."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from tflite_guard.results import MetricResult, ModelResult, Report, VariantResult, Verdict
from tflite_guard.vocabulary import METRICS

MARKS = {Verdict.PASS: "✓", Verdict.WARN: "!", Verdict.FAIL: "✗", Verdict.ERROR: "✗"}
LONGEST_TEXT = 500


def plain(text: str, longest: int = LONGEST_TEXT) -> str:
    """Text from files and libraries, made harmless for a terminal: one line, no control or invisible
    direction characters, of limited length. Names come from files that a pull request can change."""
    kept = "".join(_visible(character) for character in text[: longest + 1])
    return kept if len(kept) <= longest else kept[: longest - 1] + "…"


def _visible(character: str) -> str:
    if character in "\n\r\t":
        return " "
    # Cc control, Cf format (bidirectional controls, zero width), Cs surrogates, Zl and Zp line separators.
    return "�" if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") else character


def number(value: float | None, metric: str) -> str:
    """A metric's value with as many digits as mean something, in its unit."""
    if value is None:
        return "–"
    if metric == "size_bytes":
        return size(int(value))
    unit = METRICS[metric].unit if metric in METRICS else ""
    if unit == "dB":
        return f"{value:.2f} dB"
    return _figure(value)


def value_of(metric: MetricResult) -> str:
    """The variant's value, or why there is none."""
    if metric.identical and metric.value is None:
        return "identical"
    return number(metric.value, metric.metric)


def _figure(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.0001:
        return f"{value:.3g}"
    if 0.9999 < value < 1:
        return f"{value:.6f}"
    return f"{value:.4f}"


def signed(value: float | None) -> str:
    """A drop or a regression: positive is worse."""
    if value is None:
        return "–"
    return "0" if value == 0 else ("+" if value > 0 else "−") + _figure(abs(value))


def interval(metric: MetricResult) -> str:
    """[low, high] of the 95 % interval, or a dash."""
    if metric.confidence_interval is None:
        return "–"
    return "[" + ", ".join(_bound(end, metric.metric) for end in metric.confidence_interval) + "]"


def _bound(value: float, metric: str) -> str:
    return number(value, metric).split(" ")[0].replace("-", "−")


def baseline_of(metric: MetricResult) -> str:
    """The value recorded in the baseline."""
    return "identical" if metric.baseline_identical else number(metric.baseline, metric.metric)


def may_have_interval(metric: MetricResult) -> bool:
    """Whether the metric is of a kind that has intervals: not a maximum, not a size."""
    return metric.metric not in METRICS or METRICS[metric.metric].has_interval


def size(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return "–"
    if count < 1000:
        return f"{count} B"
    for unit, scale in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if count < scale * 1000 or unit == "GB":
            return f"{count / scale:.1f} {unit}"
    raise AssertionError


def compression(variant: VariantResult, model: ModelResult) -> str:
    """How many times smaller than the float32 .tflite, e.g. `3.6×`; empty where that is not known."""
    whole = next(
        (
            v.artifact.size_bytes
            for v in (model.float32, *model.variants)
            if v and v.quantization == "float32" and v.artifact
        ),
        None,
    )
    if (
        whole is None
        or variant.artifact is None
        or variant.artifact.size_bytes == 0
        or variant.quantization == "float32"
    ):
        return ""
    return f"{whole / variant.artifact.size_bytes:.1f}×"


def tolerance(metric: MetricResult) -> str:
    """The limits as the manifest has them, e.g. `max_drop 0.02`."""
    if metric.tolerance is None:
        return "–"
    limits = [
        f"{name} {number(limit, metric.metric) if name in ('min', 'max') else f'{limit:g}'}"
        for name, limit in metric.tolerance.items()
        if name.startswith(("max", "min"))
    ]
    if metric.tolerance.get("level") == "warning":
        limits.append("(warning)")
    if require := metric.tolerance.get("require"):
        limits.append(str(require).replace("_", " "))
    return ", ".join(limits)


def failure(metric: MetricResult) -> str:
    """One sentence on a metric that did not pass."""
    name = plain(metric.name)
    if metric.error is not None:
        return f"{name} could not be computed: {plain(metric.error)}"
    value = value_of(metric)
    limit = (metric.tolerance or {}).get(metric.failed_limit or "")
    allowed = (
        number(limit, metric.metric)
        if metric.failed_limit in ("min", "max")
        else f"{limit:g}"
        if limit is not None
        else ""
    )
    within = f" 95 % interval {interval(metric)}." if metric.confidence_interval else ""
    if metric.failed_limit == "max_regression" and metric.baseline_identical:
        return f"{name} is {value} where the baseline was identical to the reference."
    if metric.failed_limit == "max_regression":
        baseline = number(metric.baseline, metric.metric)
        return f"{name} is {value} where the baseline had {baseline}; max_regression allows {allowed}."
    if metric.failed_limit in ("min", "max"):
        side = "below" if metric.failed_limit == "min" else "above"
        return f"{name} is {value}, {side} the {metric.failed_limit}imum of {allowed}.{within}"
    proof = " The tolerance asks for proof, which the interval does not give." if _unproven(metric) else ""
    moved = f"{name} went from {number(metric.reference, metric.metric)} to {value}"
    return (
        f"{moved}, a drop of {signed(metric.drop).lstrip('+')}; {metric.failed_limit} allows {allowed}.{within}{proof}"
    )


def _unproven(metric: MetricResult) -> bool:
    return bool(metric.tolerance and metric.tolerance.get("require") == "proven_pass")


def problems(report: Report) -> Iterator[tuple[Verdict, str, str]]:
    """What did not pass, worst first: verdict, `model / variant`, sentence; an error that variants share, once."""
    found = [item for model in report.models for item in _model_problems(model)]
    order = [Verdict.ERROR, Verdict.FAIL, Verdict.WARN]
    yield from sorted(found, key=lambda item: order.index(item[0]))


def _model_problems(model: ModelResult) -> Iterator[tuple[Verdict, str, str]]:
    if model.error is not None:
        yield Verdict.ERROR, plain(model.name), plain(model.error.message, 2000)
        return
    told: dict[str, list[str]] = {}
    for variant in model.variants:
        if variant.error is not None:
            told.setdefault(variant.error.message, []).append(plain(variant.name))
    for message, names in told.items():
        yield Verdict.ERROR, f"{plain(model.name)} / {', '.join(names)}", plain(message, 2000)
    for variant in model.variants:
        where = f"{plain(model.name)} / {plain(variant.name)}"
        observed = variant.observed
        for metric in variant.metrics:
            if metric.verdict is not Verdict.PASS:
                yield metric.verdict, where, failure(metric)
        if observed is not None:
            for metric in observed.metrics:
                if metric.verdict is not Verdict.PASS:
                    yield metric.verdict, where, f"observed outputs: {failure(metric)}"
            if observed.steps_verdict is not Verdict.PASS:
                steps = max(observed.max_steps.values())
                yield (
                    observed.steps_verdict,
                    where,
                    (
                        f"observed outputs differ from our own run by up to {steps:g} quantization steps; "
                        f"observed_tolerance allows {observed.tolerance:g}."
                    ),
                )


def headline(report: Report) -> str:
    """The run in one line."""
    variants = [variant for model in report.models for variant in model.variants]
    counts = {verdict: sum(variant.verdict is verdict for variant in variants) for verdict in Verdict}
    parts = [
        f"{counts[verdict]} {word}"
        for verdict, word in (
            (Verdict.ERROR, "could not be evaluated"),
            (Verdict.FAIL, "out of tolerance"),
            (Verdict.WARN, "with warnings"),
            (Verdict.PASS, "within tolerance"),
        )
        if counts[verdict]
    ]
    models, checked = count(len(report.models), "model"), count(len(variants), "variant")
    return f"{models}, {checked}: {', '.join(parts) or 'none checked'}"


def count(number: int, noun: str) -> str:
    """`1 model`, `2 models`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
