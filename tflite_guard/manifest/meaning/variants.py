"""What is wrong in meaning with a variant."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tflite_guard.manifest.jsontext import MAX_BYTES, quoted
from tflite_guard.manifest.meaning.datasets import check_dataset_name, rejected
from tflite_guard.manifest.meaning.paths import Context, check_file, check_reference, escapes
from tflite_guard.manifest.meaning.tolerances import check_tolerance
from tflite_guard.manifest.rejections import did_you_mean, listed
from tflite_guard.manifest.tree import Node
from tflite_guard.manifest.views import MetricView, ModelView, ToleranceView, VariantView, is_recipe_file
from tflite_guard.rules import RULES
from tflite_guard.vocabulary import METRICS, QUANTIZATIONS, RECIPES

# The converter makes these from a Keras model or SavedModel only; what serves instead from a flatbuffer.
_RECIPE_INSTEAD = {
    "dynamic_range": "dynamic_wi8_afp32",
    "float16": "weight_only_wi8_afp32",
}


def check_variant(variant: VariantView, model: ModelView, tree: Node, context: Context) -> None:
    """Add the problems of a variant, and of its tolerances as they come out after inheritance."""
    _check_variant_files(variant, context)
    for rule in (
        _check_pin,
        _check_recipe,
        _check_io,
        _check_keep_float,
        _check_equalize,
        _check_no_effect,
        _check_convertible,
        _check_ranges,
    ):
        rule(variant, context)
    _check_calibration(variant, model, tree, context)
    check_ignore(variant.own.get("ignore"), context)
    metrics = {metric.spec.name: metric for metric in model.metrics}
    for name, tolerance in variant.tolerances.items():
        if name in metrics:
            check_tolerance(tolerance, metrics[name], context)
            _check_sliced(tolerance, model, tree, context)
            _check_measured(tolerance, metrics[name], variant, context)
    if variant.confidence is not None:
        _check_stopping(variant, model, context)


def _check_sliced(tolerance: ToleranceView, model: ModelView, tree: Node, context: Context) -> None:
    """Add the problem of a limit of slices where the evaluation data has none."""
    limit, evaluation = tolerance.keys.get("max_slice_drop"), model.settings.get("evaluation")
    datasets = tree.get("datasets")
    if limit is None or evaluation is None or datasets is None:
        return
    data = datasets.get(str(evaluation.value()))
    if data is not None and "slices" not in data.content.keys() | data.removed:
        name = quoted(str(evaluation.value()))
        context.say_key(limit, f'"max_slice_drop" needs slices: name keys of dataset {name} in its "slices"')


def _check_measured(tolerance: ToleranceView, metric: MetricView, variant: VariantView, context: Context) -> None:
    """Add the problem of a tolerance of the variant's own whose metric it has not."""
    own = variant.node.get("tolerances")
    if not variant.computes(metric.spec) and own is not None and own.get(metric.spec.name) is not None:
        micro = f'set "kernels": "micro" on variant {quoted(variant.name)}, or remove the tolerance'
        context.say_key(tolerance.node, f"arena_bytes is what TensorFlow Lite Micro takes; {micro}")


def _check_stopping(variant: VariantView, model: ModelView, context: Context) -> None:
    """Add the problems of an evaluation that is to stop when its verdict is certain, and could not be."""
    stop, way_out = variant.settings["stop_when"], f'set "stop_when": "never" on variant {quoted(variant.name)}'
    state = model.settings.get("state")
    if state is not None and state.value() == "kept":
        context.say_key(stop, '"stop_when" takes examples in random order, and "state": "kept" needs them all in order')
    if (observed := variant.own.get("observed_outputs")) is not None:
        context.say_key(observed, f'"observed_outputs" are compared on every example; {way_out}')
    metrics = {metric.spec.name: metric for metric in model.metrics}
    held = {name: tolerance for name, tolerance in variant.tolerances.items() if name in metrics}
    for name, tolerance in held.items():
        traits = metrics[name].traits
        if traits.bounds is None and not traits.of_file:
            possible = listed(name for name, one in METRICS.items() if one.bounds is not None)
            why = f"it is no mean of bounded scores, as {possible} are; {way_out}, or remove the tolerance there"
            context.say_key(tolerance.node, f"{quoted(name)} cannot be decided on a part of the examples: {why}")
        for kind in ("max_class_drop", "max_slice_drop"):
            if (limit := tolerance.keys.get(kind)) is not None:
                why = f"each class and slice needs all of its examples; {way_out}, or remove it there"
                context.say_key(limit, f"{quoted(kind)} cannot be decided on a part of the examples: {why}")
        if (require := tolerance.keys.get("require")) is not None:
            why = f"says of the whole set what it would measure, not what is proven of other examples; {way_out}"
            context.say_key(require, f'"require" does not apply here: "stop_when" {why}')
    decided = any(not metrics[name].traits.of_file for name in held)
    if not decided and model.metrics_complete and "tolerances" not in variant.node.removed:
        why = "there is nothing to be certain of: no metric has a tolerance"
        context.say(variant.node, f'"stop_when" has no effect on variant {quoted(variant.name)}, since {why}')


def check_ignore(ignore: Node | None, context: Context) -> None:
    """Add the problems of `ignore`: rules that no finding has, which would be thought accepted and are not."""
    findings = [rule.id for rule in RULES.values() if rule.finding]
    for entry in ignore.elements() if ignore else ():
        if (rule := entry.get("rule")) is not None and (name := str(rule.value())) not in findings:
            what = "is a verdict, not a finding" if name in RULES else "is not a rule"
            context.say(rule, f"{quoted(name)} {what}, so it cannot be ignored{did_you_mean(name, findings)}")


def _check_variant_files(variant: VariantView, context: Context) -> None:
    if "tflite" in variant.own:
        check_file(variant.node, "tflite", "tflite", context)
    if (source := variant.own.get("source")) is not None and "tflite" not in variant.own:
        check_reference(source, context)
    if "observed_outputs" in variant.own:
        check_file(variant.node, "observed_outputs", "outputs", context, pin="observed_sha256")


def _check_pin(variant: VariantView, context: Context) -> None:
    """A hash that holds for no file would be thought checked."""
    recipe = variant.text("recipe")
    if "sha256" in variant.own and "tflite" not in variant.own and not (recipe and is_recipe_file(recipe)):
        context.say_key(variant.own["sha256"], '"sha256" applies only beside "tflite" or the path of a recipe file')


def _check_recipe(variant: VariantView, context: Context) -> None:
    recipe = variant.text("recipe")
    if recipe is None:
        return
    node = variant.own["recipe"]
    if not is_recipe_file(recipe):
        if recipe not in RECIPES:
            context.say(node, f"unknown recipe {quoted(recipe)}{did_you_mean(recipe, RECIPES)}")
    elif (path := check_file(variant.node, "recipe", "recipe", context)) and context.once(_recipe_rules, path) is None:
        context.say(node, f"{recipe} is not a recipe of the LiteRT Quantizer: a JSON array of rules")


def _recipe_rules(path: str) -> list[object] | None:
    """The rules of a recipe file; None when it is none."""
    try:
        # A pipe or a device would never end.
        if not os.path.isfile(path) or os.path.getsize(path) > MAX_BYTES:
            return None
        with Path(path).open(encoding="utf-8") as file:
            rules = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    return rules if isinstance(rules, list) and all(isinstance(rule, dict) for rule in rules) else None


def _check_io(variant: VariantView, context: Context) -> None:
    quantization = QUANTIZATIONS.get(variant.text("quantization") or "")
    io = variant.text("io")
    if quantization and io and io not in quantization.io:
        possible = listed(quantization.io)
        context.say(variant.own["io"], f"io {quoted(io)} is not possible with {quantization.name}, only {possible}")


def _check_keep_float(variant: VariantView, context: Context) -> None:
    node = variant.own.get("keep_float")
    if node is not None and "recipe" not in variant.own and variant.text("quantization") != "int8":
        context.say_key(node, '"keep_float" applies only with quantization "int8" or a recipe')


def _check_equalize(variant: VariantView, context: Context) -> None:
    node = variant.own.get("equalize")
    if node is not None and variant.text("quantization") != "int8":
        context.say_key(node, '"equalize" applies only with quantization "int8"')


def _check_no_effect(variant: VariantView, context: Context) -> None:
    """Settings of the variant itself that would do nothing; inherited ones concern other variants."""
    quantization = QUANTIZATIONS.get(variant.text("quantization") or "")
    idle: dict[str, str] = {}
    if "tflite" in variant.own:
        idle["source"] = "an existing .tflite is not converted"
    if quantization and not quantization.integer:
        idle["require_integer"] = f"{quantization.name} does not ask for integers"
    if not variant.calibrated:
        idle |= dict.fromkeys(("calibration", "calibration_options"), "this variant is not calibrated")
    for key, why in idle.items():
        if key in variant.own:
            context.say_key(variant.own[key], f"{quoted(key)} has no effect: {why}")


def _check_convertible(variant: VariantView, context: Context) -> None:
    if variant.converted_from is None:
        return
    kind, _ = variant.converted_from
    quantization = variant.text("quantization")
    if kind == "outputs":
        why = 'recorded outputs hold no model; give "source" or "tflite"'
        context.say(variant.node, f"{quoted(variant.name)} has nothing to convert: {why}")
    if kind == "tflite" and quantization in _RECIPE_INSTEAD:
        instead = f'use "recipe": "{_RECIPE_INSTEAD[quantization]}", or a Keras model or SavedModel'
        context.say(variant.own["quantization"], f"{quantization} cannot be made from a .tflite; {instead}")


def _check_ranges(variant: VariantView, context: Context) -> None:
    options = variant.calibration_options
    ranges, clip = options.get("ranges"), options.get("clip_percentile")
    if ranges and clip and ranges.value() == "converter":
        context.say_key(clip, '"clip_percentile" works on measured ranges and contradicts "ranges": "converter"')
    own = variant.own.get("calibration_options")
    for key in ("ranges", "clip_percentile"):
        found = own.get(key) if own else None
        if found is not None and variant.calibrated and not variant.measurable and found.value() != "converter":
            why = "is for int8 and static recipes; int16x8 takes the converter's ranges"
            context.say_key(found, f"{quoted(key)} {why}")


def _check_calibration(variant: VariantView, model: ModelView, tree: Node, context: Context) -> None:
    check_dataset_name(variant.own.get("calibration"), tree, context)
    if "calibration" in variant.settings or not _needs_calibration(variant, context):
        return
    if not rejected("calibration", model, tree) and "calibration" not in variant.node.removed:
        what = variant.text("quantization") or variant.text("recipe")
        where = 'name one as "calibration" here, on the model or in "defaults"'
        context.say(variant.node, f"{what} needs a calibration dataset; {where}")


def _needs_calibration(variant: VariantView, context: Context) -> bool:
    recipe = variant.text("recipe")
    if recipe is None or not is_recipe_file(recipe):
        trained = variant.quantization_aware and recipe is None
        return variant.calibrated and not trained
    if escapes(recipe, context):
        return False
    return any(_asks_for_examples(rule) for rule in context.once(_recipe_rules, context.real_path(recipe)) or ())


def _asks_for_examples(rule: object) -> bool:
    """A rule with fixed activation ranges (`activation_tensor_config`), or with weights fitted to activations."""
    if not isinstance(rule, dict):
        return False
    config = rule.get("op_config")
    return rule.get("algorithm_key") == "GPTQ" or (
        isinstance(config, dict) and bool(config.get("activation_tensor_config"))
    )
