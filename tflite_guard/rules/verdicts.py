"""Verdicts and errors: limits that are exceeded and values that are missing. No manifest can `ignore` them."""

from __future__ import annotations

from tflite_guard.rules.rule import Rule

NOT_EVALUATED = Rule(
    "could-not-evaluate",
    "error",
    "A model or a variant could not be evaluated",
    "A variant or a whole model could not be evaluated, so nothing is known of its quality. Its verdict is `error`, "
    "and the exit code 3, or 2 where it is the manifest that is wrong. Reports name it with the kind of the error, as "
    "in `could-not-evaluate/crash`.",
    "The message says in which step it was, and what to do.",
    finding=False,
    details="""The kind says where to look:

- `manifest`: the manifest names an input, an output or a signature that its model does not have, or leaves open which
  is meant. The message begins with `file:line:column`, and says what the model has.
- `model-file`, `unsafe-model`, `custom-object`, `too-deep`, `unsupported-type`, `input-shapes`: the model's file cannot
  be read, may not be loaded without `--allow-code`, or does not fit the manifest.
- `conversion`, `no-calibration`, `no-kernel`: the converter, the quantizer or the interpreter has nothing for an
  operator, a type or a shape, or lacks calibration data.
- `binding`, `output-shape`: inputs or outputs are not those of the reference.
- `macs`: the file does not tell how much it computes, and the metric `macs` has no value.
- `data`: examples or labels do not fit the model or a metric.
- `run`, `non-finite-output`, `crash`: the model fails on an example, gives NaN or infinity, or ends its process;
  `-v` shows what TensorFlow and LiteRT said.
- `timeout`, `out-of-memory`, `disk-full`, `limit`: time, memory, disk or what the system allows is used up; raise
  `--timeout`, evaluate fewer examples (`limit`), or use another machine.
- `fetch`, `offline`: a file from elsewhere could not be fetched.
- `missing-package`, `missing-dependency`, `platform`: something is not installed, or does not run on this system.
- `internal`: an error of this tool or of a library; run again with `-v` and report it.""",
)

VERDICTS = (
    Rule(
        "tolerance-exceeded",
        "error",
        "A tolerance is exceeded",
        "A converted model is worse than its float reference, or than its baseline, by more than the manifest allows.",
        "Look at the calibration data and its preprocessing first, then at the operators that lose most. If the loss "
        "is acceptable, change the tolerance in the manifest.",
        finding=False,
    ),
    Rule(
        "metric-not-computed",
        "error",
        "A metric could not be computed",
        "A metric has no value, for example because the outputs hold NaN or infinity. That is never a pass.",
        "The message says why. Check the model's outputs, the labels and the metric's options in the manifest.",
        finding=False,
    ),
    Rule(
        "observed-outputs",
        "error",
        "Outputs recorded by the application differ",
        "Outputs that the application or the device recorded are outside the tolerances, or differ from what the same "
        "artifact gives here.",
        "Compare the application's preprocessing, the version of its runtime and its kernels with those of the check.",
        finding=False,
    ),
    Rule(
        "reference-tolerance",
        "error",
        "The reference itself is out of tolerance",
        "The float reference's own value is outside the limits that the manifest sets in `reference.tolerances`.",
        "Fix the reference, its preprocessing or the evaluation data: a comparison with a bad reference proves "
        "nothing.",
        finding=False,
    ),
    Rule(
        "unassigned-variables",
        "error",
        "The converted file reads variables without values",
        "The .tflite reads variables that nothing in it assigns: the converter left the weights out, as it does for "
        "Keras 3 models written with `tf.saved_model.save` or held in a `tf.Module`. Its answers would mean "
        "nothing.",
        "Convert again from `model.export(folder)`, or with `TFLiteConverter.from_keras_model`.",
        finding=False,
        proof="Read from the file: VAR_HANDLE and READ_VARIABLE without a value, in a file far smaller than its "
        "weights.",
        details="""```python
model.export("exported")  # not tf.saved_model.save(model, "exported")
converter = tf.lite.TFLiteConverter.from_saved_model("exported")
```""",
    ),
    NOT_EVALUATED,
)
