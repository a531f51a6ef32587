"""One report with a whole diagnosis: ladder, tensors, experiments, choices and a proven cause."""

from __future__ import annotations

import math

from msgspec.structs import replace

from tests.sample import accuracy, examples, full, metric, variant
from tflite_guard.results import (
    Diagnosis,
    Experiment,
    Finding,
    Histogram,
    ManifestInfo,
    ModelResult,
    ReferenceResult,
    Remedy,
    Report,
    Rung,
    TensorLoss,
    VariantResult,
    Verdict,
)

GUILTY = 16
"""The tensor that loses most, of 40."""
RUNGS = (
    Rung("reference", 0.9805, None),
    Rung("float32", 0.9805, 121.3),
    Rung("float16", 0.9803, 72.4),
    Rung("weights", 0.9795, 41.2),
    Rung("int16x8", 0.9793, 40.9),
    Rung("int8", 0.9131, 11.375),
    Rung("file", 0.9131, 11.375),
    Rung("application", None, None, note="no outputs were recorded"),
)
ELSEWHERE = {"/datasets/calib": {"preprocess": [{"cast": "float32"}]}}
PATCH = {"keep_float": ["block3/dw_conv", "block3/project"], "calibration": {"ranges": "measured"}}


def tensors(count: int = 40) -> tuple[TensorLoss, ...]:
    """A chain whose error grows, and jumps at the guilty tensor."""
    return tuple(_tensor(at, count) for at in range(count))


def _tensor(at: int, count: int) -> TensorLoss:
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "CONV_2D", "AVERAGE_POOL_2D")
    guilty = at == GUILTY % count
    isolated = 9.4 if guilty else 38.0 + 6 * math.sin(at * 1.7) - (4.0 if at % 7 == 3 else 0.0)
    grown = 36.0 - at * 0.15 if at < GUILTY % count else 11.4 + 0.4 * math.sin(at)
    top = 6.0 + 3 * math.sin(at)
    return TensorLoss(
        f"model/block{at // 5}/{kinds[at % 5].lower()}_{at}/Relu;model/block{at // 5}/bn_{at}/FusedBatchNormV3",
        kinds[at % 5],
        round(isolated, 3),
        None if at == 2 else round(grown, 3),
        (0.0 if at % 3 else -top / 2, top / 4 if guilty else top),
        (0.0 if at % 3 else -top / 2.2, top * 0.95),
        0.31 if guilty else 0.0004 * (at % 4),
        61 if guilty else 230 - at,
        f"{kinds[at % 5].lower()}_{at}",
    )


def diagnosis(count: int = 40) -> Diagnosis:
    return Diagnosis(
        "accuracy",
        512,
        RUNGS,
        tensors(count),
        (
            Experiment("block3/dw_conv_16 and its neighbours in float", 0.962, (0.91, 0.99)),
            Experiment("calibrated with 128 evaluation inputs", 0.941, (0.88, 0.985)),
            Experiment("weights of block1 clipped", 0.0214, None),
            Experiment("channels of block2 equalized", -0.004, None),
            *(Experiment(f"block{at}/conv in float", 0.06 - at * 0.004, None) for at in range(8)),
        ),
        (
            Remedy("int8, measured ranges", PATCH, False, {"accuracy": 0.9512}, 24_100, 0),
            Remedy("int8, block3 in float", PATCH, True, {"accuracy": 0.9760}, 31_200, 3),
            Remedy("16-bit activations", {"quantization": "int16x8"}, True, {"accuracy": 0.9793}, 36_900, 0),
            Remedy("float16", {"quantization": "float16", "calibration": None}, True, {"accuracy": 0.9803}, 46_000, 12),
        ),
        seconds=3.42,
        histograms=(histogram(),),
    )


def histogram() -> Histogram:
    """Of the guilty tensor: calibration fills a quarter of what evaluation data need."""
    guilty = tensors()[GUILTY]
    counts = tuple(max(0, 4000 - 60 * at) for at in range(64))
    return Histogram(
        guilty.tensor, guilty.operator, (0.0, 2.0), (0.0, 8.0), counts, (*counts[:16], *[0] * 48), 0.31, 0.0, 32, 24
    )


def failing(count: int = 40, name: str = "int8") -> VariantResult:
    cause = Finding(
        "calibration-range-mismatch",
        "error",
        "Calibration data is scaled to 0..1 but evaluation inputs reach 255: 31 % of block3/dw_conv's outputs clip.",
        primary=True,
        evidence={"calibrated": [0.0, 1.0], "evaluated": [0.0, 255.0], "clipped": 0.31},
        experiment=Experiment("Calibrated with 128 evaluation inputs", 0.962, (0.91, 0.99)),
        tensor=tensors(40)[GUILTY].tensor,
        operator="DEPTHWISE_CONV_2D block3/dw_conv",
    )
    mended = {"accuracy": 0.9760, "sqnr": 33.1}
    whole = variant(
        name,
        Verdict.FAIL,
        accuracy(0.9131, (0.055, 0.081), Verdict.FAIL, reference=0.9805, drop=0.0674),
        metric(
            "sqnr",
            11.375,
            Verdict.FAIL,
            confidence_interval=(10.9, 11.9),
            interval_method="bootstrap",
            conclusive=True,
            failed_limit="min",
            tolerance={"min": 20.0, "line": 13},
        ),
        findings=(cause, Finding("partially-quantized", "note", "3 of 40 operators compute in float", ignored="known")),
        remedies=(
            Remedy("Keep block3 in float and measure the ranges", PATCH, True, mended, 31_200, 3, also=ELSEWHERE),
            Remedy("16-bit activations", {"quantization": "int16x8"}, True, {"accuracy": 0.9793}, 36_900, 0),
        ),
        diagnosis=diagnosis(count),
    )
    return examples(whole)


def diagnosed(count: int = 40) -> Report:
    """The full report with one more model, whose int8 variant was diagnosed; and one that no cause was found for."""
    unsolved = variant(
        "dynamic_range",
        Verdict.FAIL,
        metric("agreement", 0.931, Verdict.FAIL, tolerance={"min": 0.97, "line": 14}, failed_limit="min"),
        diagnosis=Diagnosis(
            "agreement",
            512,
            (Rung("reference", None, None), Rung("float32", 1.0, None, identical=True), Rung("file", 0.931, 17.2)),
            tried=(Experiment("head in float", 0.21, None),),
            note="No single change gives half of the loss back; it is spread over the graph.",
            seconds=0.8,
        ),
    )
    keyword = ModelResult(
        "keyword-spotting",
        ManifestInfo("audio/tflite-guard.json", "models/audio/tflite-guard.json", "3" * 64),
        ReferenceResult("keras", "models/keyword.keras", {"accuracy": 0.9805}),
        (failing(count), unsolved, variant("int16x8", Verdict.PASS, accuracy(0.979, (-0.002, 0.004), Verdict.PASS))),
        Verdict.FAIL,
        line=60,
    )
    report = full()
    return replace(report, models=(keyword, *report.models))
