"""Whether labels of an output's own shape are one-hot, or say of each unit whether it applies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from tflite_guard.datasets import Dataset
from tflite_guard.engine.outputs import Outputs
from tflite_guard.manifest.types import MetricSpec
from tflite_guard.metrics.scores import PROBABILITIES_SUM_WITHIN
from tflite_guard.vocabulary import METRICS

Array = npt.NDArray[Any]


@dataclass
class LabelReading:
    """Decides a metric's `multi_label` where the manifest leaves it open, by all labels and all reference outputs.

    Several may apply where labels have the outputs' shape, are 0 or 1, are not one-hot throughout, and the reference's
    outputs are probabilities that do not add up to one. Anything else is read as classes of which one applies.
    """

    recorded: Outputs
    data: Callable[[], Dataset]
    """Opens the evaluation data, where it has to be looked at."""
    _read: dict[tuple[str, str, int | None], bool] = field(default_factory=dict)

    def settled(self, spec: MetricSpec, output: str, labels: str | None) -> MetricSpec:
        """The metric with `multi_label` decided; `labels` is the key of the output's labels, None without any."""
        if spec.multi_label is not None or "multi_label" not in METRICS[spec.metric].options:
            return spec
        if labels is None or spec.from_logits:
            return replace(spec, multi_label=False)
        key = (output, labels, spec.ignore_index)
        if key not in self._read:
            self._read[key] = self._independent(output) and self._several(output, *key[1:])
        return replace(spec, multi_label=self._read[key])

    @property
    def found(self) -> frozenset[str]:
        """Outputs whose labels were seen to name several units, or none, of an example."""
        return frozenset(output for (output, _, _), several in self._read.items() if several)

    def _independent(self, output: str) -> bool:
        """Whether the reference's outputs are probabilities of several units that do not add up to one."""
        shape, dtype = self.recorded.kind(output)
        if len(shape) < 2 or (shape[-1] or 0) < 2 or np.dtype(dtype).kind != "f":
            return False
        apart = False
        for values in self._outputs(output):
            if (values < 0).any() or (values > 1).any():
                return False
            apart |= bool((np.abs(values.sum(-1, dtype=np.float64) - 1) > PROBABILITIES_SUM_WITHIN).any())
        return apart

    def _outputs(self, output: str) -> Iterator[Array]:
        size = self.recorded.at_once
        for start in range(0, self.recorded.examples, size):
            yield self.recorded.rows(output, start, start + size)

    def _several(self, output: str, labels: str, ignored: int | None) -> bool:
        shape = self.recorded.kind(output)[0][1:]
        several = False
        for values in self.data().labels_of(labels, self.recorded.at_once):
            if values.shape[1:] != shape or values.dtype.kind not in "biuf":
                return False
            applies, left_out = values == 1, np.zeros(values.shape, bool) if ignored is None else values == ignored
            if not (applies | (values == 0) | left_out).all():
                return False
            several |= bool((applies.sum(-1) != 1).any())
        return several
