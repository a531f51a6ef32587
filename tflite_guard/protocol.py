"""What parent and child say to one another."""

from __future__ import annotations

from dataclasses import dataclass

from tflite_guard.results import Artifact, Measurement


@dataclass(frozen=True)
class Measured:
    """A measurement under the name that the manifest gives its metric."""

    of: str
    measurement: Measurement


@dataclass(frozen=True)
class ObservedMeasured:
    """Recorded outputs measured, and their largest difference from our own run by kernels."""

    measurements: tuple[Measured, ...]
    max_steps: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """What a child says after evaluating one variant; kept in the cache."""

    measurements: tuple[Measured, ...]
    artifact: Artifact
    observed: ObservedMeasured | None
    files: tuple[str, ...] = ("scores.npz",)
