"""What measurements and facts say by themselves, without an experiment."""

from __future__ import annotations

from tflite_guard.rules.rule import Rule

MEASURED = (
    Rule(
        "not-proven",
        "error",
        "A required proof is missing",
        "The tolerance requires a confidence interval to be inside the limit, but there is no interval.",
        'Remove "require" from the tolerance, or choose a metric that has an interval.',
        accept="the metric has no interval, and the value alone decides here",
    ),
    Rule(
        "underpowered-evaluation",
        "note",
        "Too few examples",
        "The confidence interval contains the limit: with other examples the verdict could differ.",
        "Evaluate on more examples. The message says roughly how many would be enough.",
        proof="The 95 % interval's width against the distance from the limit; see `docs/metrics.md`.",
        accept="there are no more labelled recordings",
    ),
    Rule(
        "sequential-evaluation",
        "note",
        "How many examples the verdict took",
        'The manifest lets the evaluation stop when its verdict is certain (`"stop_when"`). The message says after how '
        "many examples that was. All figures of the variant are of these examples.",
        'Nothing needs to be done. If the exact figures matter, set `"stop_when": "never"`; if all examples were '
        "needed, the variant is too near its limit for fewer to tell.",
        proof="A bet against each limit, on examples drawn at random without replacement; see `docs/metrics.md`.",
        accept="the variant takes minutes for a thousand examples",
    ),
    Rule(
        "reference-suspect",
        "warning",
        "The reference looks broken",
        "The float reference does no better on this data than a constant answer would, always decides for one class, "
        "gives the same outputs for every example, gives nothing but zeros and ones, or, as a detector, finds next to "
        "nothing. That a variant agrees with it then proves nothing.",
        "The message says what was seen, and between which values the inputs lie. If pixels are 0 to 255 and training "
        'scaled them to 0 to 1, add `{"scale": 0.00392156862745098}` to `preprocess` of every dataset; if the model '
        "scales them itself, take such a step out. Else check the order of the channels, resizing, layout, the labels "
        "and the order of the classes; of a detector also how its boxes are read.",
        proof="The reference's own outputs and metrics are compared with a constant answer on the same examples.",
        accept="the classes are this unbalanced, and a constant answer is what the task amounts to",
    ),
    Rule(
        "batch-dependent",
        "warning",
        "An example's outputs depend on its batch",
        "The same example gives different outputs in a batch and alone, as with batch normalization left in training "
        "mode. Everything was then run one example at a time, as an application does.",
        "Export the model for inference (in Keras: `training=False`), so that an example's outputs depend on nothing "
        "else.",
        proof="The first batch is run as a whole and one example at a time, and the outputs differ.",
        accept="the application runs whole batches of one recording",
    ),
    Rule(
        "state-reset",
        "note",
        "State was reset before each example",
        "The model carries state from one call to the next, and each example was evaluated as if it were the first.",
        'If the application keeps the state between calls, set `"state": "kept"` on the model, and name what '
        "belongs together (the windows of a recording) as the `group` of the evaluation data.",
        accept="each window is a recording of its own",
    ),
    Rule(
        "multi-label",
        "note",
        "Each unit of the output was judged by itself",
        "The labels have the output's shape and say for each unit whether it applies, several or none in one example, "
        "and the reference's probabilities do not add up to one. So each unit is a decision of its own, above or below "
        "the threshold.",
        'Write `"multi_label": true` on the metric to say that this is meant. If exactly one class applies to each '
        'example, write `"multi_label": false`, and correct the labels that do not name exactly one.',
        proof="All labels of the evaluation data and all outputs of the reference are looked at.",
        accept="these are tags, and several may apply",
    ),
    Rule(
        "nothing-quantized",
        "warning",
        "Nothing is quantized",
        "A quantization was asked for, but no tensor in the file is quantized: it is a float model under another name.",
        "The quantizer leaves small constants in float (under 1,024 elements in `dynamic_range`), and operators that "
        "it does not know. Choose `int8`, or drop the variant.",
        proof="Read from the file: no tensor has integers that represent reals.",
        accept="it is small anyway, and the variant tests the conversion",
    ),
    Rule(
        "coarse-output",
        "warning",
        "The output is too coarse to decide",
        "In many examples several of the largest outputs are equal, where the reference's are not: the output's few "
        "quantization steps cannot tell the classes apart, and the lowest index decides.",
        "If the output is a softmax, use its logits as the model's output, or leave the last operators in float "
        "with `keep_float`. Calibrating on values with a different range from the evaluation's leaves few steps, too.",
        proof="Ties among the largest outputs are counted, the reference's own and the variant's, and the decisions "
        "that a tie has lost.",
        accept="ties are broken by the application, with the previous frame",
    ),
    Rule(
        "constant-output",
        "error",
        "An output never varies",
        "The variant gives the same output, or channel of it, for every example, where the reference's varies. "
        "So a detector whose boxes are in pixels and whose scores are in the same output loses all scores: one "
        "quantization step is larger than any of them. The SQNR of the whole output does not show it.",
        "Where channels of unlike range share an output, bring them to a like range (boxes divided by the size of the "
        "image), or give each an output of its own. Else look at the calibration data and the scales of the output: "
        "everything is rounded or clipped to one value.",
        proof="Each output and each channel is looked at over all examples: the variant's is always the same. An error "
        "where the reference's varies by 5 % of the output's range or by 0.05; a warning where an output varies by "
        "less; channels that vary by less are not told.",
        accept="this output is a version number",
    ),
    Rule(
        "class-lost",
        "note",
        "A class has lost accuracy",
        "The variant decides examples of one class worse than the reference, beyond what chance explains, whatever the "
        "average says. Of several the message names the one that lost most.",
        "Look at its examples on the page (`report.html`), and whether the calibration data holds enough of the class. "
        "The tolerance `max_class_drop` gates it.",
        proof="The paired interval of each class's accuracy, at a level that holds for all classes at once "
        "(Bonferroni); see `docs/metrics.md`. Not where examples come in groups.",
        accept="this class is not used in the product",
    ),
    Rule(
        "slice-lost",
        "note",
        "A slice has lost",
        "The variant is worse than the reference on the examples of one slice (a value of a key that the evaluation "
        "data names in `slices`, such as one device or one speaker), beyond what chance explains, whatever the average "
        "says. Of several the message names the one that lost most.",
        "Look whether the calibration data holds enough of the slice. The tolerance `max_slice_drop` gates it.",
        proof="The paired interval of each slice's drop, at a level that holds for all slices of the key at once "
        "(Bonferroni); see `docs/metrics.md`. Not where examples come in groups.",
        accept="this device is no longer sold",
    ),
    Rule(
        "observed-kernels",
        "note",
        "Which kernels the device agrees with",
        "The outputs that the application recorded are nearer to what some kernels give here than to others: LiteRT's "
        "optimized (`default`) or plain ones (`reference`), or those of TensorFlow Lite Micro (`micro`).",
        "Evaluate with the kernels that the message names (`kernels` on the variant), so that what is judged is what "
        "the device computes. TensorFlow Lite Micro is among them where the extra `micro` is installed and it can run "
        "the file.",
        proof="The file runs on all examples with each, and the largest difference from the recording is taken, in "
        "quantization steps.",
        accept="the recording is of another device than the product's",
    ),
    Rule(
        "select-ops",
        "note",
        "Operators outside the built-in set",
        "The file holds operators that LiteRT itself does not have: TensorFlow's (Flex) or custom ones.",
        "Link what implements them into the application (for Flex, the Select TF operators), or replace them. "
        "Microcontrollers cannot run them.",
        proof="Read from the file: its operator codes.",
        accept="the application links the Select TF operators",
    ),
    Rule(
        "partially-quantized",
        "note",
        "Operators compute in float",
        "Some operators of an integer model compute in float, so a device without float support cannot run it.",
        "Replace the operators, or set `require_integer` on the variant to make this an error.",
        proof="Read from the file: the type of each operator's tensors.",
        accept="the device has a float unit",
    ),
    Rule(
        "no-baseline",
        "note",
        "The baseline holds no value",
        "The tolerance limits the change since the baseline, but the baseline has no value for this metric.",
        "Record one with `tflite-guard baseline update`.",
        accept="the metric is new, and the baseline follows with the next release",
    ),
)
