"""Which of a model's outputs and labels the metrics of a manifest mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec.structs import replace

from tflite_guard.errors import NamingError
from tflite_guard.manifest.types import DatasetSpec, Detection, MetricSpec
from tflite_guard.protocol import Names
from tflite_guard.text.plain import instead
from tflite_guard.vocabulary import BOX_OUTPUTS, METRICS

OUTPUTS = "its outputs are"
CHANNELS = (1, 3, 4)
"""How many an image has, to tell the order of its axes by."""


class Meant(msgspec.Struct, frozen=True):
    """One metric on one output, or a user's own, which sees them as it asks."""

    spec: MetricSpec
    """With outputs and labels by canonical name."""
    output: str | None
    """None of a user's own metric."""
    labels: tuple[str, ...]
    """The outputs whose labels are given; "" where the dataset has labels of no output's name."""


def meant(specs: Iterable[MetricSpec], names: Names, dataset: DatasetSpec) -> list[Meant]:
    """What metrics are of, without those of a file, in their order; several of one that is of each output by itself.

    Args:
        specs: the metrics as a manifest has them.
        names: the model's.
        dataset: the evaluation data, its labels by canonical name.

    Raises:
        NamingError: a metric or the labels name an output that the model does not have, or leave open which is meant.
    """
    labels = [""] if isinstance(dataset.labels, str) else list(dataset.labels or ())
    for key in labels:
        if key and key not in names.outputs:
            raise NamingError(
                f"dataset {dataset.name!r} has labels of an output that the model does not have: "
                f"{key!r}{instead(key, names.outputs, OUTPUTS)}",
                dataset.places.get(f"labels/{key}"),
            )
    return [
        one
        for spec in specs
        if spec.metric not in METRICS or not METRICS[spec.metric].of_file
        for one in _meant(_canonical(spec, names), names, labels, dataset)
    ]


def _meant(spec: MetricSpec, names: Names, labels: Sequence[str], dataset: DatasetSpec) -> Iterator[Meant]:
    if spec.python is not None:
        yield Meant(spec, None, _all_labels_of(spec, labels))
        return
    for output in _outputs_of(spec, names, labels):
        key = _labels_of(spec, output, labels)
        if key is None and METRICS[spec.metric].needs_labels:
            raise NamingError(
                f"metric {spec.name!r} needs labels for output {output!r}; add them to dataset {dataset.name!r}",
                spec.place("output"),
            )
        yield Meant(spec, output, () if key is None else (key,))


def _canonical(spec: MetricSpec, names: Names) -> MetricSpec:
    """The metric with its output and labels by canonical name."""
    output = None if spec.output is None else _known(spec, "output", spec.output, names)
    labels = None if spec.labels is None else names.output(spec.labels)
    if spec.detection is None:
        return replace(spec, output=output, labels=labels)
    options = _detector(spec, spec.detection, names)
    output = output or options.boxes or (next(iter(names.outputs)) if len(names.outputs) == 1 else None)
    if output is None:
        raise _unsaid(spec, names)
    return replace(spec, output=output, labels=labels, detection=options)


def _known(spec: MetricSpec, key: str, written: str, names: Names) -> str:
    """The output that a metric's option names, by its canonical name."""
    output = names.output(written)
    if output not in names.outputs:
        what = f"the model has no output {written!r}{instead(written, names.outputs, OUTPUTS)}"
        raise NamingError(f"metric {spec.name!r}, {key!r}: {what}", spec.place(key))
    return output


def _unsaid(spec: MetricSpec, names: Names) -> NamingError:
    return NamingError(
        f'metric {spec.name!r} does not say which output it is for; add "output"{instead("", names.outputs, OUTPUTS)}',
        spec.place(),
    )


def _detector(spec: MetricSpec, options: Detection, names: Names) -> Detection:
    """How boxes are read, with outputs by canonical name, and the size that boxes in pixels are of."""
    roles = {role: getattr(options, role) for role in BOX_OUTPUTS}
    known = {role: None if name is None else _known(spec, role, name, names) for role, name in roles.items()}
    size = options.size
    if options.units == "pixels" and size is None:
        size = _image_size(names)
        if size is None:
            raise NamingError(
                f'metric {spec.name!r}: the inputs do not say how large an image is; add "size": [height, width]',
                spec.place(),
            )
    return replace(options, **known, size=size)


def _image_size(names: Names) -> tuple[int, int] | None:
    """Height and width of the only input that is an image; None where that is not told."""
    sizes = []
    for info in names.inputs.values():
        if len(info.shape) != 4:
            continue
        _, *sides = info.shape
        height, width = sides[1:] if sides[0] in CHANNELS and sides[2] not in CHANNELS else sides[:2]
        if height and width:
            sizes.append((height, width))
    return sizes[0] if len(sizes) == 1 else None


def _outputs_of(spec: MetricSpec, names: Names, labels: Sequence[str]) -> list[str]:
    """The outputs that a metric is of: the named one, the only one, or for fidelity each by itself."""
    if spec.output is not None:
        return [spec.output]
    if len(names.outputs) == 1 or not METRICS[spec.metric].needs_labels:
        return list(names.outputs)
    labelled = [name for name in names.outputs if name in labels]
    if len(labelled) == 1:
        return labelled
    raise _unsaid(spec, names)


def _all_labels_of(spec: MetricSpec, labels: Sequence[str]) -> tuple[str, ...]:
    """The keys of the labels that a user's own metric sees: all, unless it is of one output."""
    if spec.output is None and spec.labels is None and len(labels) > 1:
        return tuple(labels)
    key = _labels_of(spec, spec.output, labels)
    return () if key is None else (key,)


def _labels_of(spec: MetricSpec, output: str | None, labels: Sequence[str]) -> str | None:
    for key in (spec.labels, output, "", labels[0] if len(labels) == 1 else None):
        if key is not None and key in labels:
            return key
    return None
