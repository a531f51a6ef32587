"""tflite-guard: stops TensorFlow Lite accuracy regressions at the pull request."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tflite_guard.asking import Explanation
    from tflite_guard.errors import (
        ConversionError,
        DataError,
        EvaluationError,
        GuardError,
        ManifestError,
        ManifestProblem,
        ModelFileError,
        UsageError,
    )
    from tflite_guard.python import Report, check, compare, why
    from tflite_guard.results import Finding, MetricResult, ModelResult, Remedy, VariantResult, Verdict

    __version__: str

__all__ = [
    "ConversionError",
    "DataError",
    "EvaluationError",
    "Explanation",
    "Finding",
    "GuardError",
    "ManifestError",
    "ManifestProblem",
    "MetricResult",
    "ModelFileError",
    "ModelResult",
    "Remedy",
    "Report",
    "UsageError",
    "VariantResult",
    "Verdict",
    "__version__",
    "check",
    "compare",
    "why",
]
_HOMES = {"Explanation": "asking"}
_HOMES |= dict.fromkeys(("Report", "check", "compare", "why"), "python")
_HOMES |= dict.fromkeys(("Finding", "MetricResult", "ModelResult", "Remedy", "VariantResult", "Verdict"), "results")
"""The modules of what is no error; each is loaded when a name of it is first asked for."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        from importlib.metadata import version

        return version("tflite-guard")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
