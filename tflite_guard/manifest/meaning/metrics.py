"""What is wrong in meaning with a model's metrics."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tflite_guard.manifest.jsontext import quoted
from tflite_guard.manifest.meaning.datasets import arrays, check_function
from tflite_guard.manifest.meaning.paths import Context, escapes
from tflite_guard.manifest.rejections import did_you_mean, listed
from tflite_guard.manifest.tree import Node
from tflite_guard.manifest.views import MetricView, ModelView, kind_of_model, label_keys
from tflite_guard.vocabulary import BOX_OUTPUTS, PADDING, UNLABELLED


def check_arena(model: ModelView, context: Context) -> None:
    """Add the problem of a metric of a model's own that none of its variants has."""
    for metric in model.metrics:
        if (node := metric.node) is None or node.pointer[0] == "defaults" or not model.variants:
            continue
        if not any(one.computes(metric.spec) for one in model.variants):
            context.say(
                node,
                f"{quoted(metric.spec.name)} is what TensorFlow Lite Micro takes, and no variant of model "
                f'{quoted(model.name)} runs on it; set "kernels": "micro" on one, or remove the metric',
            )


def check_metric(metric: MetricView, evaluation: Node | None, context: Context) -> None:
    """Add the problems of a metric: options that it does not have, labels that the evaluation data does not."""
    if evaluation is not None:
        _check_padding(metric, metric.node, evaluation, context)
    if metric.node is None:
        return
    if (function := metric.node.get("python")) is not None:
        check_function(function, context)
    for key, option in metric.node.members():
        if key not in _options(metric):
            offered = listed(name for name in _options(metric) if name not in ("name", "metric", "python"))
            hint = f"; it has {offered}" if offered else ""
            what = "a python metric" if metric.spec.python else metric.spec.metric
            context.say_key(option, f"{what} has no option {quoted(key)}{hint}")
    if metric.traits.of_boxes:
        _check_boxes(metric, metric.node, context)
    if evaluation is not None and "labels" not in evaluation.removed:
        _check_metric_labels(metric, metric.node, evaluation, context)


def check_outputs(model: ModelView, evaluation: Node | None, context: Context) -> None:
    """Add the problems of outputs that metrics and labels name, and recorded outputs do not hold.

    What a model to be run has is known only where it is loaded: then a check tells the same.
    """
    kind, path = kind_of_model(model.node.content["reference"])
    if kind != "outputs" or escapes(str(path.value()), context) is not None:
        return
    held = context.once(arrays, context.real_path(str(path.value())))
    if not held:
        return
    known = {*held, *(f"#{index}" for index in range(len(held)))}
    hint = partial(did_you_mean, names=held, known="it has")
    for metric in model.metrics:
        for key in ("output", *BOX_OUTPUTS):
            named = metric.node.get(key) if metric.node is not None else None
            if named is not None and (name := str(named.value())) not in known:
                context.say(named, f"{path.value()} has no output {quoted(name)}{hint(name)}")
    labels = evaluation.get("labels") if evaluation is not None else None
    for name, node in labels.members() if labels is not None else ():
        if name not in known:
            context.say_key(node, f"{path.value()} has no output {quoted(name)}{hint(name)}")


def _options(metric: MetricView) -> tuple[str, ...]:
    if metric.spec.python:
        return ("name", "python", "output", "labels", "higher_is_better")
    labels = ("labels",) if metric.traits.needs_labels else ()
    output = () if metric.traits.of_file else ("output",)
    return ("name", "metric", *output, *labels, *metric.traits.options)


def _check_metric_labels(metric: MetricView, node: Node, evaluation: Node, context: Context) -> None:
    labels, spec = label_keys(evaluation), metric.spec
    dataset = quoted(evaluation.pointer[-1])
    if labels is None:
        if spec.labels or (metric.traits.needs_labels and not spec.python):
            context.say(
                node,
                f"{spec.metric} needs labels, and the evaluation dataset {dataset} declares none{_labels(evaluation)}",
            )
        return
    if (wanted := node.get("labels")) is not None:
        known = [labels] if isinstance(labels, str) else [*labels, *labels.values()]
        if (name := str(wanted.value())) not in known:
            context.say(wanted, f"{dataset} has no labels {quoted(name)}{did_you_mean(name, known, known='it has')}")
    elif isinstance(labels, dict) and metric.traits.needs_labels and not spec.python:
        _check_output_labels(spec.output, node, labels, context)


def _check_padding(metric: MetricView, node: Node | None, evaluation: Node, context: Context) -> None:
    """Add the problem of a metric that would count what preprocessing adds around masks as of a class."""
    masks, spec, removed = evaluation.get("masks"), metric.spec, node.removed if node else ()
    if masks is None or not metric.traits.needs_labels or spec.python or "ignore_index" in removed:
        return
    added = next((step for step in _steps(evaluation.get("preprocess")) if step in PADDING), None)
    if added is None or spec.ignore_index == UNLABELLED or label_keys(evaluation) is None:
        return
    what = f"{quoted(added)} adds places to the masks, with the label {UNLABELLED}, which {spec.metric}"
    if "ignore_index" in metric.traits.options:
        message = f'{what} must leave out: write {{"metric": {quoted(spec.metric)}, "ignore_index": {UNLABELLED}}}'
    else:
        message = f'{what} cannot leave out; use another metric, or "resize" in place of {quoted(added)}'
    (context.say_key if node is None else context.say)(node or masks, message)


def _steps(preprocess: Node | None) -> Iterator[str]:
    """The names of all steps of a dataset."""
    if preprocess is None:
        return
    lists = [preprocess, *(steps for _, steps in preprocess.members())]
    yield from (name for steps in lists for step in steps.elements() for name, _ in step.members())


_LISTED = (*BOX_OUTPUTS, "box_format")
_DECODED = ("output", "objectness", "box_axis", "nms_iou")


def _check_boxes(metric: MetricView, node: Node, context: Context) -> None:
    """Add the problems of how boxes are read: neither listed nor decoded, or options of the other way."""
    if any(key in node.removed for key in (*_LISTED, "decode")):
        return
    options = metric.spec.detection
    assert options is not None
    keys, decode = dict(node.members()), options.decode
    if decode is None and not {"boxes", "scores"} <= keys.keys():
        context.say(
            node,
            f'{metric.spec.metric} needs to know which outputs hold the boxes: name "boxes" and "scores" (and '
            '"classes" and "count" where there are such), or say with "decode" how one output is read',
        )
        return
    wrong = _DECODED if decode is None else (*_LISTED, *(_DECODED[1:] if decode == "yolo_end2end" else ()))
    for key in (one for one in wrong if one in keys):
        when = 'without "decode"' if decode is None else f'with "decode": {quoted(decode)}'
        context.say_key(keys[key], f"{quoted(key)} does not apply {when}")
    if "size" in keys and "units" not in node.removed and options.units != "pixels":
        context.say_key(keys["size"], '"size" is for boxes in pixels; add "units": "pixels", or remove it')


def _labels(evaluation: Node) -> str:
    """What to write for labels, as the end of a message; nothing where that is not known."""
    source = evaluation.get("source")
    of_images = source is not None and source.value() == "images"
    if of_images and ({"class_order", "labels_file", "masks"} & evaluation.content.keys()):
        return '; write "labels": "label" there'
    return '; name their key there as "labels"'


def _check_output_labels(output: str | None, node: Node, labels: dict[str, str], context: Context) -> None:
    if output is None and len(labels) > 1:
        context.say(node, f'say which "output" this metric is computed on; there are labels for {listed(labels)}')
    elif output is not None and output not in labels:
        hint = did_you_mean(output, labels, known="there are labels for")
        context.say(node.get("output") or node, f"no labels for output {quoted(output)}{hint}")
