"""One fixed report with a bit of everything, which the renderings are held against, and hostile text."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from tflite_guard.files import png
from tflite_guard.results import (
    Artifact,
    Changed,
    ChangedAnswer,
    Confidence,
    Diagnosis,
    ErrorInfo,
    Experiment,
    Finding,
    Histogram,
    ManifestInfo,
    MetricResult,
    Mistake,
    ModelResult,
    Observed,
    ReferenceResult,
    Remedy,
    Report,
    Rung,
    SinceBaseline,
    Slice,
    Slices,
    TensorLoss,
    Tool,
    VariantResult,
    Verdict,
    WrongExamples,
)


def metric(name: str, value: float | None, verdict: Verdict | None, **settings: Any) -> MetricResult:
    defaults: dict[str, Any] = {
        "name": name,
        "metric": name,
        "output": None,
        "reference": None,
        "value": value,
        "drop": None,
        "confidence_interval": None,
        "interval_method": None,
        "interval_note": None,
        "examples": 1000,
        "groups": None,
        "ties": 0,
        "identical": False,
        "higher_is_better": True,
        "tolerance": None,
        "verdict": verdict,
        "conclusive": None,
    }
    return MetricResult(**(defaults | settings))


def accuracy(value: float, interval: tuple[float, float], verdict: Verdict, **settings: Any) -> MetricResult:
    defaults: dict[str, Any] = {
        "reference": 0.98,
        "drop": round(0.98 - value, 6),
        "confidence_interval": interval,
        "interval_method": "newcombe-paired",
        "tolerance": {"max_drop": 0.02, "line": 12},
        "conclusive": True,
        "failed_limit": None if verdict is Verdict.PASS else "max_drop",
    }
    return metric("accuracy", value, verdict, **(defaults | settings))


def variant(name: str, verdict: Verdict, *metrics: MetricResult, **settings: Any) -> VariantResult:
    defaults: dict[str, Any] = {
        "name": name,
        "quantization": name,
        "verdict": verdict,
        "cached": False,
        "artifact": Artifact(24_000, "0" * 64, 12),
        "metrics": metrics,
        "findings": (),
        "remedies": (),
        "error": None,
        "seconds": {"convert": 1.2, "evaluate": 0.6},
        "line": 20,
    }
    return VariantResult(**(defaults | settings))


def fixed() -> Report:
    whole = variant(
        "float32",
        Verdict.PASS,
        accuracy(0.98, (-0.0038, 0.0038), Verdict.PASS),
        metric("sqnr", None, Verdict.PASS, identical=True, tolerance={"min": 20.0, "line": 13}),
        artifact=Artifact(84_000, "1" * 64, 12),
        cached=True,
        seconds={},
    )
    failed = variant(
        "int8",
        Verdict.FAIL,
        accuracy(0.91, (0.05, 0.09), Verdict.FAIL),
        metric(
            "sqnr",
            11.375,
            Verdict.WARN,
            confidence_interval=(10.9, 11.9),
            interval_method="bootstrap",
            conclusive=True,
            failed_limit="min",
            tolerance={"min": 20.0, "level": "warning", "line": 13},
        ),
        metric("size_bytes", 24000.0, Verdict.PASS, higher_is_better=False, tolerance={"max": 30000.0, "line": 14}),
        findings=(Finding("partially-quantized", "note", "1 of 12 operators compute in float: SIN (wave)"),),
        observed=Observed(
            "phone.npz",
            (accuracy(0.90, (0.06, 0.10), Verdict.FAIL),),
            {"default": 3.0, "reference": 0.0},
            "default",
            1.0,
            Verdict.FAIL,
            Verdict.FAIL,
        ),
    )
    small = variant(
        "int16",
        Verdict.PASS,
        accuracy(0.975, (-0.004, 0.024), Verdict.PASS, conclusive=False, baseline=0.979, regression=0.004),
        findings=(Finding("underpowered-evaluation", "note", "accuracy: 1,000 examples are too few"),),
    )
    proof = variant(
        "proof",
        Verdict.FAIL,
        accuracy(
            0.97,
            (0.002, 0.031),
            Verdict.FAIL,
            conclusive=False,
            tolerance={"max_drop": 0.02, "require": "proven_pass", "line": 15},
        ),
    )
    worse = variant(
        "worse",
        Verdict.FAIL,
        accuracy(
            0.97,
            (0.0, 0.02),
            Verdict.FAIL,
            baseline=0.985,
            regression=0.015,
            failed_limit="max_regression",
            tolerance={"max_regression": 0.01, "line": 16},
        ),
    )
    lost = variant(
        "lost",
        Verdict.ERROR,
        artifact=None,
        error=ErrorInfo("conversion", "keep_float: no_such_layer matches nothing"),
        seconds={},
    )
    digits = ModelResult(
        "digits",
        ManifestInfo("vision/tflite-guard.json", "models/vision/tflite-guard.json", "2" * 64),
        ReferenceResult("keras", "models/digits.keras", {"accuracy": 0.98}),
        (whole, failed, small, proof, worse, lost),
        Verdict.ERROR,
        line=7,
    )
    broken = ModelResult(
        "broken",
        ManifestInfo("vision/tflite-guard.json", "models/vision/tflite-guard.json", "2" * 64),
        ReferenceResult("keras", "models/broken.keras", {}),
        (
            variant(
                "float32",
                Verdict.ERROR,
                artifact=None,
                seconds={},
                error=ErrorInfo("model-file", "models/broken.keras: is cut off"),
            ),
        ),
        Verdict.ERROR,
        error=ErrorInfo("model-file", "models/broken.keras: is cut off"),
        line=30,
    )
    healthy = ModelResult(
        "healthy",
        ManifestInfo("vision/tflite-guard.json", "models/vision/tflite-guard.json", "2" * 64),
        ReferenceResult("saved_model", "models/healthy", {"accuracy": 0.98}),
        (variant("int8", Verdict.PASS, accuracy(0.979, (-0.002, 0.004), Verdict.PASS)),),
        Verdict.PASS,
        float32=replace(whole, line=0),
        line=40,
    )
    return Report(
        1,
        Tool("tflite-guard", "1.2.3"),
        {"python": "3.11.7", "tensorflow": "2.21.0"},
        Verdict.ERROR,
        (digits, broken, healthy),
        ("model 'gone' is in the baseline but was not checked",),
    )


PICTURE = png.picture(bytes([255, 0, 255, 0, 255, 0, 0, 255, 0, 255, 0, 255]), 2, 2, 3)
"""Two by two pixels of magenta and green, which nothing else on a page is."""


def examples(one: VariantResult) -> VariantResult:
    """With what it decides otherwise than the reference, by class and by example."""
    by_class = Slices(
        "accuracy",
        "accuracy",
        None,
        3,
        1,
        (
            Slice(7, 300, 0.99, 0.8, 0.19, (0.1, 0.3), (237, 60, 3, 0)),
            Slice(1, 400, 0.98, 0.95, 0.03, (-0.01, 0.07), (372, 20, 8, 0)),
            Slice(0, 300, 0.97, 290 / 300, 1 / 300),
        ),
    )
    by_slice = (
        Slices(
            "accuracy",
            "accuracy",
            "lighting",
            2,
            1,
            (
                Slice("night", 200, 0.96, 0.7, 0.26, (0.2, 0.33), (138, 54, 2, 6)),
                Slice("day <b>", 800, 0.985, 0.9625, 0.0225, (-0.01, 0.05), (770, 18, 0, 12)),
            ),
        ),
        Slices("top3", "top_k_accuracy", "lighting", 1, 0, (Slice("night", 7, 1.0, 1.0, 0.0),)),
        Slices("mae", "mae", "lighting", 1, 0, (Slice("night", 7, 2.0, 2.5, 0.5),)),
        Slices("agreement", "agreement", "lighting", 1, 0, (Slice("night", 7, None, 0.75, None, (0.5, 0.9)),)),
    )
    worst = (
        ChangedAnswer(657, 7, 7, 4, 0.9986, 0.0, PICTURE),
        ChangedAnswer(20, 7, 7, 1, 0.871, 0.25, file="seven/<b>20</b>.png"),
        ChangedAnswer(3, None, 0, 1, None, None),
    )
    since = SinceBaseline(
        "accuracy",
        900,
        1000,
        31,
        1,
        (Mistake(657, 7, 4, 7, 0.75), Mistake(20, 7, 1, 1, 0.25, "seven/<b>20</b>.png"), Mistake(3, 0, 1, 0, None)),
    )
    wrong = WrongExamples("accuracy", "3" * 64, 900, 1000, "3 20 657-661")
    return replace(
        one,
        by_class=by_class,
        by_slice=by_slice,
        changed=Changed("accuracy", 1000, 86, 78, 8, worst),
        wrong=wrong,
        since_baseline=since,
        confidence=Confidence("accuracy", 1000, 0.97, 0.62, 0.012, 0.29),
    )


def diagnosed(one: VariantResult) -> VariantResult:
    """A failing variant with a proven cause and remedies."""
    cause = Finding(
        "calibration-range-mismatch",
        "warning",
        "calibration data reach 0.0625 where evaluation inputs reach 1: 94 % of the input's values are clipped; apply "
        "the same preprocess to 'calib' as to 'test'",
        primary=True,
        evidence={"calibrated": [0.0, 0.0625], "evaluated": [0.0, 1.0], "clipped": 0.94},
        experiment=Experiment("recalibrated with evaluation inputs", 0.96, (0.91, 1.0)),
        tensor="serving_default_image:0",
        operator="CONV_2D (conv/Relu)",
    )
    training = Remedy(
        "calibrate on 'train', which is prepared like 'test'",
        {"calibration": "train", "calibration_options": None},
        True,
        {"accuracy": 0.9775, "sqnr": 24.125, "size_bytes": 24000.0},
        24_000,
    )
    wider = Remedy("16-bit activations", {"quantization": "int16x8"}, True, {"accuracy": 0.9795}, 24_600)
    mixed = Remedy("keep conv in float", {"keep_float": ["conv"]}, False, {"accuracy": 0.955, "sqnr": None}, 31_000, 3)
    steps = {"preprocess": [{"cast": "float32"}]}
    alike = Remedy("prepare 'calib' like 'test'", steps, False, {"accuracy": 0.978}, 24_000, target="/datasets/calib")
    ladder = (
        Rung("reference", 0.98, None, identical=True),
        Rung("float32", 0.98, 118.4),
        Rung("float16", 0.98, 71.25),
        Rung("weights", 0.978, 38.5),
        Rung("int16x8", None, None, note="LiteRT has no 16-bit kernel for SIN"),
        Rung("int8", 0.91, 11.375),
    )
    tensors = tuple(
        TensorLoss(f"conv_{layer}/Relu;conv_{layer}/BiasAdd", "CONV_2D", 30.0 - layer, 12.5, (0.0, 6.0), (-0.5, 51.06),
                   0.0125, 200 - layer)
        for layer in range(12)
    )  # fmt: skip
    tried = (
        Experiment("recalibrated with evaluation inputs", 0.96, (0.91, 1.0)),
        Experiment("calibration data rescaled by 16", 0.95, None),
        Experiment("conv/Relu and the operators around it in float", 0.31, None),
        Experiment("conv/Relu equalized", -0.02, None),
    )
    histogram = Histogram(
        "serving_default_image:0",
        "input",
        (0.0, 0.0625),
        (0.0, 1.0),
        (40, 0, 0, *[10] * 59, 5, 25),
        (2000, 12, 0, 0, *[0] * 60),
        0.94,
        0.0,
        32,
        20,
    )
    front = (training, wider, mixed)
    return replace(
        examples(one),
        findings=(cause, *one.findings),
        remedies=(training, wider, mixed, alike),
        diagnosis=Diagnosis("accuracy", 512, ladder, tensors, tried, front, None, 2.5, (histogram,)),
    )


def unexplained(one: VariantResult) -> VariantResult:
    """A failing variant whose diagnosis has proven nothing."""
    tried = tuple(
        Experiment(f"{layer} and the operators around it in float", 0.04 / place, None)
        for place, layer in enumerate(("dense", "conv", "pool", "flatten"), 1)
    )
    note = "the drop of 0.0100 is too small to tell changes apart on 1,000 examples"
    return replace(one, diagnosis=Diagnosis("accuracy", 1000, tried=tried, note=note, seconds=3.5))


def full() -> Report:
    """The fixed report with diagnoses, and one more model, which has every kind of finding and a reference with
    tolerances."""
    coarse = variant(
        "int8",
        Verdict.WARN,
        accuracy(0.965, (0.005, 0.025), Verdict.PASS, conclusive=False),
        metric("agreement", 0.971, None, confidence_interval=(0.958, 0.98), interval_method="wilson"),
        findings=(
            Finding("coarse-output", "warning", "accuracy: 476 of 1,000 decisions are ties", evidence={"ties": 476}),
            Finding("partially-quantized", "note", "1 of 12 operators compute in float", ignored="the DSP has floats"),
        ),
    )
    ignored = Finding("nothing-quantized", "warning", "no tensor is quantized", ignored="it is small anyway")
    accepted = variant("dynamic_range", Verdict.PASS, accuracy(0.98, (0.0, 0.004), Verdict.PASS), findings=(ignored,))
    unjudged = variant("float16", Verdict.PASS, metric("agreement", 1.0, None))
    suspect = ModelResult(
        "suspect",
        ManifestInfo("vision/tflite-guard.json", "models/vision/tflite-guard.json", "2" * 64),
        ReferenceResult(
            "keras",
            "models/suspect.keras",
            {"accuracy": 0.98},
            Verdict.FAIL,
            (metric("accuracy", 0.98, Verdict.FAIL, tolerance={"min": 0.99, "line": 52}, failed_limit="min"),),
        ),
        (coarse, accepted, unjudged),
        Verdict.FAIL,
        line=50,
        findings=(
            Finding("reference-suspect", "warning", "the reference decides for class 3 on all 1,000 examples"),
            Finding("batch-dependent", "warning", "an example's outputs depend on its batch", ignored="as trained"),
        ),
    )
    report = fixed()
    digits, *others = report.models
    explained = {"int8": diagnosed, "proof": unexplained}
    variants = tuple(explained.get(one.name, lambda one: one)(one) for one in digits.variants)
    return replace(report, models=(replace(digits, variants=variants), *others, suspect))


COMMANDS = [
    "\x1b[31mred\x1b[0m",
    "a\nb\rc\r\nd",
    "\u202egpj.exe",
    "\u2066\u2069",
    "::error::x",
    "  ::set-output name=verdict::pass",
    "\n::add-mask::pass",
    "##[add-mask]pass",
    "x ##[error]y",
    "###[error]y",
    "%0A::error::x",
    "\x9b2J",
    "\x00\ufffe\uffff",
    "\u2028",
    "\ud800",
    "x" * 100_000,
    "[bold]x[/bold]",
    "a|b|c\\|d",
    "`a` ``b`` ```c```\n```\n",
    "<script>alert(1)</script>",
    "</code></td></tr></table><img src=x onerror=alert(1)>",
    "<!-- tflite-guard id=tflite-guard -->",
    "-->",
    "@everyone @octocat/team",
    "#1 GH-1 octo/repo#1 0123456789abcdef0123456789abcdef01234567",
    "[link](https://example.com) ![image](https://example.com/x.png)",
    "https://example.com www.example.com a@example.com",
    "[ref]: https://example.com",
    "# heading\n- [ ] task\n> quote\n---",
    "*bold* _it_ ~~gone~~ $x^2$ $`x`$ :tada:",
    "&lt;b&gt; &#60; &amp;",
    "]]>",
    "<details open><summary>",
    "{{7*7}} ${{ secrets.X }} {% raw %}",
    " leading and trailing ",
    "",
    "EOF\nverdict=pass",
    "../../etc/passwd",
    "file,line=1,col=2::x",
    "ünïcödé 🎉 العربية",
]
HOSTILE = st.one_of(st.text(max_size=300), st.sampled_from(COMMANDS))


def named(text: str) -> Report:
    """The fixed report with a text from a file in every place where one can be."""
    report = full()

    def metric(one: MetricResult) -> MetricResult:
        error = None if one.error is None else text
        note = None if one.interval_note is None else text
        return replace(one, name=text, error=error, interval_note=note)

    def variant(one: VariantResult) -> VariantResult:
        finding = Finding("partially-quantized", "note", text, tensor=text, operator=text)
        warning, ignored = replace(finding, severity="warning"), replace(finding, ignored=text)
        observed = one.observed and replace(one.observed, path=text, metrics=tuple(map(metric, one.observed.metrics)))
        error = one.error and ErrorInfo(one.error.kind, text)
        causes = [cause(found) for found in one.findings if found.primary]
        return replace(
            one,
            name=text,
            metrics=tuple(map(metric, one.metrics)),
            findings=(*causes, finding, warning, ignored),
            remedies=tuple(map(remedy, one.remedies)),
            observed=observed,
            error=error,
            diagnosis=one.diagnosis and diagnosis(one.diagnosis),
            by_class=one.by_class and cut(one.by_class),
            by_slice=tuple(map(cut, one.by_slice)),
            changed=one.changed and changed(one.changed),
        )

    def cut(one: Slices) -> Slices:
        named = one.key is not None
        worst = tuple(replace(part, label=text) if named else part for part in one.worst)
        return replace(one, metric=text, key=text if named else None, worst=worst)

    def changed(one: Changed) -> Changed:
        worst = tuple(replace(answer, picture=answer.picture and text) for answer in one.worst)
        return replace(one, metric=text, worst=worst)

    def cause(one: Finding) -> Finding:
        proof = one.experiment and replace(one.experiment, name=text)
        return replace(one, message=text, experiment=proof, tensor=text, operator=text, evidence={text: text})

    def remedy(one: Remedy) -> Remedy:
        patch = {text: {text: [text]}, f"{text}2": None}
        target, also = one.target and text, {text: patch} if one.also else {}
        return replace(one, title=text, patch=patch, metrics={text: 0.5, f"{text}2": None}, target=target, also=also)

    def diagnosis(one: Diagnosis) -> Diagnosis:
        return replace(
            one,
            metric=text,
            ladder=tuple(replace(rung, note=rung.note and text) for rung in one.ladder),
            tensors=tuple(replace(loss, tensor=text, operator=text) for loss in one.tensors),
            tried=tuple(replace(experiment, name=text) for experiment in one.tried),
            front=tuple(map(remedy, one.front)),
            note=one.note and text,
            histograms=tuple(replace(histogram, tensor=text, operator=text) for histogram in one.histograms),
        )

    def model(one: ModelResult) -> ModelResult:
        return replace(
            one,
            name=text,
            manifest=ManifestInfo(text, text, "2" * 64),
            reference=replace(one.reference, path=text, metrics={text: 0.98}),
            variants=tuple(map(variant, one.variants)),
            error=one.error and ErrorInfo(one.error.kind, text),
            notes=(text,),
            classes=(text,) * 10,
            findings=tuple(
                replace(finding, message=text, ignored=finding.ignored and text) for finding in one.findings
            ),
        )

    return replace(report, models=tuple(map(model, report.models)), notes=(text,))
