"""What a report says about a case, beside what is known of it; and the tables of many."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tflite_guard.results import Finding, MetricResult, ModelResult, Remedy, VariantResult

NONE = "none"
STRICT = "healthy-strict"
"""Healthy models that are asked for more than 8 bits can give: too few bits is then the one right answer."""
NO_REMEDY = ("io-misuse", "nan-output", "unassigned-variables", "reference-suspect")
"""Kinds that no change of a manifest mends: the fault is in the application, in the reference, or in a file without
weights.
"""
Result = dict[str, Any]


def result(about: dict[str, Any], model: ModelResult, seconds: float) -> Result:
    """One case: what it is, whether the fault did harm, what was named, whether it was mended."""
    variant = model.variants[0]
    primary = [finding for finding in (*model.findings, *variant.findings) if finding.primary or _gates(finding, model)]
    metric = variant.metrics[0] if variant.metrics else None
    return {
        **{key: about[key] for key in ("kind", "model", "magnitude", "seed", "part", "expected", "places")},
        "metric": metric.name if metric else None,
        "reference": metric.reference if metric else model.reference.metrics.get("accuracy"),
        "value": metric.value if metric else None,
        "sqnr": next((one.value for one in variant.metrics if one.name == "sqnr"), None),
        "error": _error(model, variant),
        "verdict": str(variant.verdict),
        "harmful": harmful(model, variant),
        "named": sorted({finding.rule for finding in primary}),
        "place": any(_place_named(finding, about["places"]) for finding in primary),
        "where": [finding.tensor or finding.operator for finding in primary],
        "notes": sorted({finding.rule for finding in (*model.findings, *variant.findings) if not finding.primary}),
        "remedied": any(_mends(remedy, variant) for remedy in variant.remedies),
        "remedies": [remedy.title for remedy in variant.remedies],
        "diagnosed": variant.diagnosis is not None,
        "note": variant.diagnosis.note if variant.diagnosis else None,
        "diagnosis_seconds": variant.diagnosis.seconds if variant.diagnosis else 0.0,
        "seconds": seconds,
    }


def _gates(finding: Finding, model: ModelResult) -> bool:
    """Whether a finding about the reference says why the reference's own tolerances fail."""
    failed = any(metric.verdict == "fail" for metric in model.reference.checks)
    return finding.rule == "reference-suspect" and failed


def harmful(model: ModelResult, variant: VariantResult) -> bool:
    """Whether something measured is out of tolerance; findings by themselves do not count."""
    judged = [metric.verdict for metric in (*variant.metrics, *model.reference.checks)]
    if variant.observed:
        judged += [variant.observed.steps_verdict, *(metric.verdict for metric in variant.observed.metrics)]
    return _error(model, variant) is not None or any(verdict in ("fail", "error") for verdict in judged)


def _error(model: ModelResult, variant: VariantResult) -> str | None:
    error = model.error or variant.error
    return error.message if error else next((metric.error for metric in variant.metrics if metric.error), None)


def _place_named(finding: Finding, places: Sequence[str]) -> bool:
    """A converter's name joins layers' names by `/` and `;`, some with a number."""
    named = (finding.tensor, finding.operator, finding.evidence.get("layer"))
    parts = re.split(r"[/;\s()]+", " ".join(str(one) for one in named if one is not None))
    if finding.operator is None:  # an input goes by the shortest pattern that means it, without a number
        parts += [place for place in places if re.sub(r"_\d+$", "", place) in parts]
    return any(re.sub(r"_\d+$", "", part) == place or part == place for part in parts for place in places)


def _mends(remedy: Remedy, variant: VariantResult) -> bool:
    """Verified, with every metric that has a tolerance within it."""
    judged = [metric for metric in variant.metrics if metric.tolerance]
    return remedy.verified and all(_within(metric, remedy.metrics.get(metric.name)) for metric in judged)


def _within(metric: MetricResult, value: float | None) -> bool:
    limits = metric.tolerance or {}
    if value is None:
        return False
    if "min" in limits and value < limits["min"]:
        return False
    if "max_drop" in limits and metric.reference is not None:
        drop = metric.reference - value if metric.higher_is_better else value - metric.reference
        return bool(drop <= limits["max_drop"] + 1e-9)
    return True


def right(one: Result) -> bool:
    """The cause named is an expected one, and no other is."""
    return bool(one["named"]) and set(one["named"]) <= set(one["expected"])


def _wrong(one: Result) -> bool:
    return bool(one["named"]) and not right(one) if one["expected"] else _accused(one)


def _accused(one: Result) -> bool:
    """Whether something is said to be broken in a healthy model."""
    return bool(set(one["named"]) - ({"precision-limit"} if one["kind"] == STRICT else set()))


def _in_layer(one: Result) -> bool:
    """Whether a layer is to be named: of two faults, the calibration's is in none where it alone is named."""
    return bool(one["places"]) and not (one["named"] and all(rule.startswith("calibration-") for rule in one["named"]))


def harm(results: Iterable[Result]) -> str:
    """A table of what each fault does."""
    rows = [
        (
            *(one[key] for key in ("kind", "model", "magnitude", "seed", "metric")),
            *(_figure(one[key]) for key in ("reference", "value", "sqnr")),
            "harmful" if one["harmful"] else "harmless",
            ", ".join(one["named"]) or NONE,
            (one["error"] or "")[:80],
        )
        for one in results
    ]
    heads = ("kind", "model", "magnitude", "seed", "metric", "reference", "value", "SQNR", "harm", "named", "error")
    return _table(heads, rows)


def page(results: Sequence[Result]) -> str:
    """All tables, for the development and the held-out cases."""
    return "\n\n".join(
        f"## {title}\n\n{summary(part)}\n\n{by_kind(part)}\n\n{confusion(part)}\n\n{misses(part)}".rstrip()
        for title, part in _parts(results)
    )


def document(results: Sequence[Result]) -> str:
    """The page in docs/."""
    faulty, healthy = _split(results)
    kinds, names = ({one[key] for one in faulty} for key in ("kind", "model"))
    seeds, magnitudes = (len({(one["part"], one[key]) for one in faulty}) for key in ("seed", "magnitude"))
    made = (
        f"{len(faulty):,} faults of {len(kinds)} kinds in {len(names)} models, and {len(healthy):,} healthy controls."
    )
    run = f"In this run: {made} They were drawn at random from all of {seeds} seeds and {magnitudes} magnitudes."
    return f"{PREFACE}\n{run}\n\n{page(results)}\n"


def _parts(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    parts = [
        ("Development cases", [one for one in results if one["part"] == "development"]),
        ("Held-out cases", [one for one in results if one["part"] == "held-out"]),
    ]
    return [(title, part) for title, part in parts if part]


def summary(results: Sequence[Result]) -> str:
    """The figures that the benchmark is for."""
    faulty, healthy = _split(results)
    passing = [one for one in healthy if one["kind"] != STRICT]
    hurt = [one for one in faulty if one["harmful"]]
    harmless = [one for one in faulty if not one["harmful"]]
    placed = [one for one in hurt if right(one) and _in_layer(one)]
    wrong = [one for one in hurt if one["named"] and not right(one)]
    mendable = [one for one in hurt if one["kind"] not in NO_REMEDY]
    times = sorted(one["diagnosis_seconds"] for one in hurt) or [0.0]
    rows = [
        ("faults out of tolerance", str(len(hurt))),
        ("named right", _share(sum(map(right, hurt)), len(hurt))),
        ("named wrong", _share(len(wrong), len(hurt))),
        ("abstained", _share(sum(not one["named"] for one in hurt), len(hurt))),
        ("of layer faults named right, the guilty layer", _share(sum(one["place"] for one in placed), len(placed))),
        ("with a verified remedy within tolerance", _share(sum(one["remedied"] for one in mendable), len(mendable))),
        ("harmless faults with a cause named", _share(sum(bool(one["named"]) for one in harmless), len(harmless))),
        ("healthy controls with a cause named", _share(sum(map(_accused, healthy)), len(healthy))),
        ("healthy controls out of tolerance", _share(sum(one["harmful"] for one in passing), len(passing))),
        ("seconds of a diagnosis, median and largest", f"{times[len(times) // 2]:.1f}, {times[-1]:.1f}"),
    ]
    return _table(("", ""), rows)


def by_kind(results: Sequence[Result]) -> str:
    """Each kind of fault by itself."""
    rows = []
    for kind, ones in _grouped(results, lambda one: one["kind"]).items():
        hurt = [one for one in ones if one["harmful"]]
        placed = [one for one in hurt if _in_layer(one)]
        rows.append(
            (
                kind,
                len(ones),
                len(hurt),
                sum(map(right, hurt)),
                sum(map(_wrong, hurt)),
                sum(not one["named"] for one in hurt),
                f"{sum(one['place'] for one in placed)} of {len(placed)}" if placed else "",
                sum(one["remedied"] for one in hurt),
                sum(bool(one["named"]) for one in ones if not one["harmful"]),
            )
        )
    heads = ("kind", "cases", "harmful", "right", "wrong", "abstained", "place", "remedied", "named though harmless")
    return _table(heads, rows)


def confusion(results: Sequence[Result]) -> str:
    """Expected by named, of what did harm and of what did not."""
    counts: Counter[tuple[str, str]] = Counter()
    for one in results:
        wanted = " or ".join(one["expected"]) if one["harmful"] and one["expected"] else NONE
        counts[wanted, ", ".join(one["named"]) or NONE] += 1
    rows = [(wanted, named, count) for (wanted, named), count in sorted(counts.items())]
    return _table(("expected", "named", "cases"), rows)


def misses(results: Sequence[Result]) -> str:
    """Every case that was not named right, one by one."""
    rows = [
        (
            f"{one['kind']} {one['magnitude']}",
            one["model"],
            one["seed"],
            f"{_figure(one['reference'])} → {_figure(one['value'])}",
            ", ".join(one["named"]) or NONE,
            (one["error"] or one["note"] or "")[:90],
        )
        for one in results
        if (not right(one) if one["harmful"] and one["expected"] else _accused(one))
    ]
    return _table(("case", "model", "seed", "metric", "named", "note"), rows) if rows else ""


def _split(results: Sequence[Result]) -> tuple[list[Result], list[Result]]:
    return [one for one in results if one["expected"]], [one for one in results if not one["expected"]]


def _grouped(results: Iterable[Result], key: Callable[[Result], str]) -> dict[str, list[Result]]:
    groups = defaultdict(list)
    for one in results:
        groups[key(one)].append(one)
    return dict(groups)


def _share(count: int, of: int) -> str:
    return f"{count} of {of} ({100 * count / of:.1f} %)" if of else "none"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


PREFACE = """# How often the cause is named

Faults of known kinds, made in healthy models: `bench/faults` trains small models (depthwise separable, residual with
concatenation, recurrent, autoencoder, attention, one of more than a million weights), breaks each of them and of two
published ones (ResNet8 and the ToyCar autoencoder of MLPerf Tiny) in one way, checks it with `tflite_guard.check`,
and compares the primary finding with the fault. Layer faults leave the float outputs as they were, to more than 80
dB, which the benchmark checks for each of them.

```bash
python bench/faults/run.py --work FOLDER --published FOLDER --diagonal --each 7 --write
```

A fault counts if something measured is out of tolerance; one that does no harm must have no primary cause, nor may a
healthy model. Some healthy ones are asked for all that their reference gives, so that experiments are made on them too;
of those nothing but too few bits may be named. A reference that fails its own tolerance is named by the warning about
it, which is not an experiment. Remedies are counted for faults that a change to the manifest can fix: an application's
code, a wrong reference, a file without weights and one that gives NaN are not among them. The held-out cases have
magnitudes and seeds of their own, and a model of their own; no rule was made with them in sight.
"""
