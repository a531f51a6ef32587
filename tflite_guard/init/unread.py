"""What data alone says of a manifest's dataset, where no model can be run; what only the model knows is left open."""

from __future__ import annotations

from typing import Any

from tflite_guard.init.binding import Chosen, Task, kind_of_numbers, listed_and, named_as_labels, present
from tflite_guard.init.preparing import FEATURES, as_features
from tflite_guard.init.sources import Data
from tflite_guard.manifest.gaps import gap
from tflite_guard.protocol import Names, TensorInfo

UNKNOWN = Names({}, {"": TensorInfo((None,), "float32")})
"""A model of which nothing is known, with the one output that most have."""
STEPS = (
    'the steps that turn this data into what the model takes, as in training, such as {"cast": "float32"}, '
    '{"scale": 0.00392156862745098}; none where it is taken as it is'
)


def settings_of(data: Data, chosen: Chosen) -> tuple[dict[str, Any], Task | None]:
    """A dataset's settings without its path, and what its labels are; inputs and steps are left open.

    Raises UsageError where a key is chosen that the data does not have.
    """
    data = as_features(data, UNKNOWN)
    for option, keys in (("--input", chosen.inputs), ("--labels", chosen.labels)):
        for name, key in keys.items():
            present(f"{option} {name}={key}" if name else f"{option} {key}", key, data.arrays, data.path)
    labels = dict(chosen.labels) or dict.fromkeys([""], _only_labels(data))
    own = [key for key in labels.values() if key is not None]
    settings = {**data.settings, **_inputs(data, chosen, own)}
    if own:
        settings["labels"] = labels.get("", labels)
    settings["preprocess"] = [gap(STEPS)]
    lone = labels.get("")
    return settings, None if lone is None else _task(data, lone)


def _only_labels(data: Data) -> str | None:
    named = named_as_labels(UNKNOWN, data.arrays)
    return named[0] if len(named) == 1 else None


def _task(data: Data, key: str) -> Task:
    return "numbers" if kind_of_numbers(data.arrays[key].dtype) == "f" else "classes"


def _inputs(data: Data, chosen: Chosen, labels: list[str]) -> dict[str, Any]:
    """`inputs`, and the columns of a table; without `inputs` for an .npy, which holds one array."""
    if chosen.inputs:
        columns = {"columns": {key: key for key in (*chosen.inputs.values(), *labels)}} if data.columns else {}
        return {**columns, "inputs": chosen.inputs.get("", dict(chosen.inputs))}
    if data.settings["source"] == "npy":
        return {}
    if data.settings["source"] == "images":
        return {"inputs": "image"}
    free = [key for key in data.arrays if key not in labels]
    if data.columns:
        asked = gap("the columns that are the model's input, in the order of training: keep these, and remove the rest")
        return {"columns": {FEATURES: [asked, *free], **{key: key for key in data.columns if key in labels}},
                "inputs": FEATURES}  # fmt: skip
    listed = listed_and([f"{key} {data.arrays[key]}" for key in free]) or "what the file holds"
    return {"inputs": gap(f'the key that is the model\'s input, of {listed}; for several inputs {{"NAME": "KEY"}}')}
