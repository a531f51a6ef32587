"""A case: a model, its data, a fault in one of them, and what should be said about it; and its folder on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import models
import numpy as np
from models import LABEL, Arrays, Subject

MODEL, EVALUATION, CALIBRATION, SHIPPED, OBSERVED = (
    "model.keras",
    "evaluation.npz",
    "calibration.npz",
    "shipped.tflite",
    "observed.npz",
)
ABOUT = "case.json"
MANIFEST = "tflite-guard.json"
SAME_FUNCTION = 80.0
"""Decibels: from here on two float models compute the same."""


class FunctionChanged(Exception):  # noqa: N818 (said of a case, which is left out)
    """A fault that must not show in the float model does."""


Steps = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Label:
    """Which case it is, and what a diagnosis should say."""

    kind: str
    model: str
    magnitude: str
    seed: int
    part: str
    """`development` or `held-out`: whether rules may have been made with this case in sight."""
    expected: tuple[str, ...] = ()
    """Rules that are right; none for healthy models."""
    places: tuple[str, ...] = ()
    """Layers of which one must be named; none where the fault is not in a layer."""

    @property
    def name(self) -> str:
        """A folder's name."""
        return "-".join((self.kind, self.model, self.magnitude, str(self.seed)))


@dataclass(frozen=True)
class Case:
    """What is written to a folder. Faults are functions from a case to another."""

    subject: Subject
    network: keras.Model
    evaluation: Arrays
    calibration: Arrays
    steps: Steps
    calibration_steps: Steps
    variant: dict[str, Any] = field(default_factory=lambda: {"name": "int8", "quantization": "int8"})
    metric: str = "accuracy"
    tolerances: dict[str, dict[str, float]] = field(default_factory=dict)
    reference_tolerances: dict[str, dict[str, float]] = field(default_factory=dict)
    shipped: bytes | None = None
    observed: Arrays | None = None
    places: tuple[str, ...] = ()
    same_function: bool = False
    """The fault must leave the float outputs as they were; `write` holds it to that."""


def healthy(subject: Subject) -> Case:
    """The model without a fault, loaded afresh since faults change it in place."""
    return Case(
        subject,
        keras.models.load_model(subject.file, compile=False),
        dict(subject.evaluation),
        dict(subject.calibration),
        subject.steps,
        subject.steps,
        metric=subject.metric,
        tolerances={subject.metric: {"max_drop": subject.max_drop}},
    )


def write(case: Case, label: Label, folder: Path) -> None:
    """Write a case's folder, the manifest among the files; `case.json` comes last and says that it is whole.

    Raises FunctionChanged where a fault that must not change the float model did.
    """
    decibels = _held_to_function(case, label) if case.same_function else None
    folder.mkdir(parents=True, exist_ok=True)
    case.network.save(folder / MODEL)
    np.savez(folder / EVALUATION, **case.evaluation)
    np.savez(folder / CALIBRATION, **case.calibration)
    if case.shipped is not None:
        (folder / SHIPPED).write_bytes(case.shipped)
    if case.observed is not None:
        np.savez(folder / OBSERVED, **case.observed)
    (folder / MANIFEST).write_text(json.dumps(manifest({"": (label.name, case)}), indent=2))
    about = {**vars(label), "float_sqnr": decibels, "manifest": manifest({"": (label.name, case)})}
    (folder / ABOUT).write_text(json.dumps(about, indent=2))


def manifest(cases: Mapping[str, tuple[str, Case]]) -> dict[str, Any]:
    """The manifest of some cases, by the folder that each lies in."""
    datasets, entries = {}, []
    for folder, (name, case) in cases.items():
        inputs = {key: key for key in case.evaluation if key != LABEL}
        source = {"source": "npz", "inputs": inputs}
        path = os.path.join(folder, EVALUATION)
        datasets[f"{name}-test"] = {**source, "path": path, "labels": LABEL, "preprocess": list(case.steps)}
        path = os.path.join(folder, CALIBRATION)
        datasets[f"{name}-calib"] = {**source, "path": path, "preprocess": list(case.calibration_steps)}
        entries.append(_entry(name, case, folder))
    return {"schema_version": 1, "datasets": datasets, "models": entries}


def _entry(name: str, case: Case, folder: str) -> dict[str, Any]:
    variant = dict(case.variant)
    for key in ("tflite", "observed_outputs"):
        if key in variant:
            variant[key] = os.path.join(folder, variant[key])
    reference: dict[str, Any] = {"keras": os.path.join(folder, MODEL)}
    if case.reference_tolerances:
        reference["tolerances"] = case.reference_tolerances
    fidelity = ["agreement", "sqnr"] if case.metric == "accuracy" else ["sqnr"]
    return {
        "name": name,
        "reference": reference,
        "evaluation": f"{name}-test",
        "calibration": f"{name}-calib",
        "metrics": [case.metric, *fidelity],
        "tolerances": case.tolerances,
        "variants": [variant],
    }


def joined(folders: list[Path], root: Path) -> dict[str, Any]:
    """One manifest, to lie in `root`, of the cases in some folders below it."""
    whole: dict[str, Any] = {"schema_version": 1, "datasets": {}, "models": []}
    for folder in folders:
        one = json.loads((folder / ABOUT).read_text())["manifest"]
        below = os.path.relpath(folder, root)
        for name, dataset in one["datasets"].items():
            whole["datasets"][name] = {**dataset, "path": os.path.join(below, dataset["path"])}
        for model in one["models"]:
            whole["models"].append(_moved(model, below))
    return whole


def _moved(model: dict[str, Any], below: str) -> dict[str, Any]:
    def moved(mapping: dict[str, Any]) -> dict[str, Any]:
        paths = ("keras", "tflite", "observed_outputs")
        return {key: os.path.join(below, value) if key in paths else value for key, value in mapping.items()}

    return {**model, "reference": moved(model["reference"]), "variants": [moved(one) for one in model["variants"]]}


def outputs(case: Case) -> np.ndarray:
    """The float model's outputs for the evaluation data."""
    return predicted(case.network, inputs_of(case))


def predicted(network: keras.Model, inputs: Arrays) -> np.ndarray:
    """A network's outputs; inputs go by name where there are several."""
    given = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    return np.asarray(network.predict(given, verbose=0, batch_size=256))


def inputs_of(case: Case) -> Arrays:
    """The evaluation inputs as the model gets them."""
    return models.prepared(case.subject, case.evaluation, case.steps)


def calibration_of(case: Case) -> Arrays:
    """The calibration inputs as the model gets them."""
    return models.prepared(case.subject, case.calibration, case.calibration_steps)


def decibels(values: np.ndarray, reference: np.ndarray) -> float:
    """SQNR of values to a reference."""
    noise = float(np.sum((values.astype(np.float64) - reference) ** 2))
    return 200.0 if noise == 0 else 10 * float(np.log10(np.sum(reference.astype(np.float64) ** 2) / noise))


def _held_to_function(case: Case, label: Label) -> float:
    reached = decibels(outputs(case), outputs(healthy(case.subject)))
    if not reached >= SAME_FUNCTION:
        raise FunctionChanged(f"{label.name}: the float model changed, {reached:.1f} dB")
    return reached


def at(case: Case, *places: str) -> Case:
    """The same case with a fault in these layers, which the float function does not show."""
    return replace(case, places=(*case.places, *places), same_function=True)
