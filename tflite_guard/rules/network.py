"""Causes in the network: ranges, weights and operators that eight bits do not suit."""

from __future__ import annotations

from tflite_guard.rules.rule import Rule

_TENSOR = (
    "The tensor that is named, its producer and all its consumers compute in float, everything else stays quantized. "
    "At least half of the loss comes back on examples that did not choose it, and more than for any other tensor"
)

NETWORK = (
    Rule(
        "calibrator-contamination",
        "warning",
        "The converter's calibrator took a wrong range",
        "The converter's calibrator logs the input of an addition or another elementwise operator again after the "
        "operator has overwritten it in place: the input's range becomes the union with the output's, and bits are "
        "lost. TensorFlow 2.15 to 2.21 all do it (tensorflow/tensorflow#127842); residual networks are exposed to it.",
        'Use measured ranges: `"calibration_options": {"ranges": "measured"}` on the variant.',
        proof="The range in the file equals the union of two tensors' true ranges on the same calibration data; "
        "quantized again with measured ranges, at least half of the loss comes back.",
        details="""A plain TFLiteConverter has no such option. Either ship the file that `tflite-guard convert` writes
for the variant, or make the variant with a `recipe` of the LiteRT Quantizer and measured ranges.""",
        accept="we ship what TFLiteConverter makes, and it is within tolerance",
    ),
    Rule(
        "recipe-calibration",
        "warning",
        "The quantizer's own calibration clips",
        "The LiteRT Quantizer calibrates by a moving average of minima and maxima, which is narrower than what "
        "activations reach: their largest values are clipped.",
        'Use measured ranges: `"calibration_options": {"ranges": "measured"}` on the variant.',
        proof="The recipe is applied again with each tensor's true range on the same calibration data, and at least "
        "half of the loss comes back. Seen: 6.3 dB became 22, 6.5 became 43, 15 became 34.",
        accept="clipping is wanted here, the tails are sensor faults",
    ),
    Rule(
        "channel-imbalance",
        "warning",
        "Channels of very different size share one scale",
        "An activation has one scale for all of its channels, and they differ greatly in range, as after depthwise "
        "convolutions and folded batch normalization: small channels are rounded away.",
        "Equalize the channels with `equalize` on the variant (a rewriting that keeps the float model's outputs), keep "
        "the tensor and the operators around it in float with `keep_float`, or use `int16x8`.",
        proof=_TENSOR
        + "; scaling its channels to one size and the next layer's weights by the inverse has the same effect, while "
        "the float outputs stay equal.",
        details="""On an int8 variant, with everything still in integers:

```json
{"name": "int8", "quantization": "int8", "equalize": ["depthwise_3"]}
```

The same in Keras, so that every conversion has it, between two layers with nothing but ReLU, pooling
or padding between them (not ReLU6, softmax or a residual addition). `reach` is the largest activation of each channel
between them, on calibration data:

```python
factor = np.sqrt(np.maximum(reach, 1e-3) / np.abs(second_kernel).max(axis=(0, 1, 3)))
first.set_weights([first_kernel / factor, first_bias / factor])
second.set_weights([second_kernel * factor[:, None], second_bias])
```

The mean over a tensor hides this: its signal-to-noise ratio may look healthy while some of its channels are dead.
Training with weight decay on batch normalization's scales, or quantization-aware training, prevents it.""",
        accept="the small channels carry nothing that the task needs",
    ),
    Rule(
        "weight-outliers",
        "warning",
        "Single weights stretch a scale",
        "One weight, or a few, are far larger than all others in their channel or tensor, and set its scale: the "
        "others fall on few integers.",
        "Clip those weights and evaluate the float model again, train on with weight decay or a max-norm constraint, "
        "or keep the layer in float with `keep_float`.",
        proof="The weights are clipped to what the others need. The float model stays as good and at least half of "
        "the quantized model's loss comes back.",
        details="""In Keras, clipping at the magnitude that 99.9 % of a channel's weights stay below:

```python
kernel, bias = layer.get_weights()
most = np.quantile(np.abs(kernel), 0.999, axis=tuple(range(kernel.ndim - 1)))
layer.set_weights([np.clip(kernel, -most, most), bias])
```""",
        accept="the layer is pruned to these weights on purpose",
    ),
    Rule(
        "concat-range-mismatch",
        "warning",
        "Branches of very different range are concatenated",
        "All inputs of a concatenation get one scale, and one branch has a far wider range than the others, which "
        "lose most of their integers.",
        "Normalize the branches before they meet (batch normalization, or one factor per branch that the next "
        "layer's weights undo), or keep the concatenation in float with `keep_float`. A detector's head with boxes in "
        "pixels beside scores: divide the boxes by the image's size before they meet, or give the two as outputs of "
        "their own, which costs nothing.",
        proof=_TENSOR + "; one factor for each branch, undone in the next layer, has the same effect.",
        accept="the narrow branch is an auxiliary input",
    ),
    Rule(
        "mask-constant",
        "warning",
        "A large constant sets the scale of small values",
        "A constant such as −1e9 in an attention mask, or a sentinel for missing values, shares a tensor with small "
        "values: its magnitude sets the scale and the rest falls on one or two integers.",
        "Use a constant that is just large enough: −30 before a softmax leaves less than 1e−13 of the masked places.",
        proof="The constant is clipped to what still saturates. The float outputs stay equal, and at least half of "
        "the quantized model's loss comes back.",
        details="""```python
scores = tf.where(mask, scores, -30.0)  # not -1e9
scores = scores + (1.0 - mask) * -30.0  # not * -1e9
```""",
        accept="the masked branch is not used on the device",
    ),
    Rule(
        "sensitive-operator",
        "warning",
        "One operator loses most",
        "One operator, or the tensor that it computes, loses most of the accuracy by itself, and no more specific "
        "cause fits: often a hard-swish, a softmax, an exponential, or the last layer.",
        "Keep it in float with `keep_float`; or replace it (ReLU6 for hard-swish, logits for a softmax), use "
        "`int16x8`, or train quantization-aware.",
        proof=_TENSOR + "; clipping, scaling and recalibrating do not. It, or an operator that computes with it, is "
        "rounded at least a bit (6 dB) coarser than the typical tensor: late in a network, whatever is left in float "
        "gives a lot back.",
        details="""On the variant, by the layer's name or a part of the tensor's; `*` and `?` are patterns:

```json
"keep_float": ["head/softmax"]
```

A device without float support cannot run it; there `int16x8` is the choice, where its kernels exist.""",
        accept="the target runs everything in integers, and the loss is agreed on with the product team",
    ),
    Rule(
        "shared-bias",
        "warning",
        "Operators with different scales share one bias",
        "The converter stored equal biases once, and in int16x8 one stored bias serves operators whose inputs have "
        "different scales: it is right for at most one of them.",
        "Give each layer a bias of its own that differs very slightly from the others (zero biases too), or drop "
        "biases that are all zero.",
        proof="Read from the file: the operators that share the bias and the scales that it would need. With a bias "
        "for each, at least half of the loss comes back.",
        details="""In Keras, before conversion:

```python
for i, layer in enumerate(layers_with_equal_biases):
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel, bias + 1e-6 * (i + 1)])
```""",
        accept="the biases are zero, so that their scale does not matter",
    ),
    Rule(
        "degenerate-scale",
        "warning",
        "A scale is zero or next to it",
        "A tensor's scale in the file is zero or subnormal, as from a block of weights that are all near zero or an "
        "activation that is constant in calibration. Kernels then divide by it, or flush it to zero.",
        "Remove dead channels or layers, set near-zero weights to exactly zero, and calibrate on data for which the "
        "activation varies.",
        proof="Read from the file: the tensor and its scale.",
        accept="the tensor belongs to a branch that this product never takes",
    ),
    Rule(
        "float16-range",
        "note",
        "Values beyond what float16 holds",
        "Constants beyond 65,504 were clamped by the float16 conversion, or activations go that far, which a GPU "
        "that computes in float16 turns into infinity.",
        "Scale the values down (a factor here, its inverse in the next layer), clip the constant, or use `float32` "
        "or `int8` where a GPU or NPU computes in float16.",
        proof="Read from the file and from the ranges on evaluation data; the float32 file passes and the "
        "float16 file fails.",
        accept="it runs only on the CPU, where float16 is only a storage format",
    ),
    Rule(
        "precision-limit",
        "note",
        "Eight bits are too few for this network",
        "Nothing is broken. The loss is spread over the graph: fixing any one tensor, range or weight gives back "
        "less than half of it, and more bits everywhere give back more.",
        "Use `int16x8`, keep the tensors that lose most in float, or train quantization-aware and name the result as "
        "the variant's `source`. A tolerance that the network cannot reach in eight bits may also be the wrong one.",
        proof="No small change recovers half of the loss. 16-bit activations, or float weights, do.",
        details="""The choices on the variant, the least work first:

```json
{"name": "int16", "quantization": "int16x8"}
{"name": "mixed", "quantization": "int8", "keep_float": ["first_conv", "head*"]}
{"name": "qat", "quantization": "int8", "source": {"saved_model": "models/with_qat"}}
```""",
        accept="the next model generation is trained quantization-aware",
    ),
    Rule(
        "nan-output",
        "warning",
        "NaN or infinity",
        "Outputs or activations hold NaN or infinity. They spread through everything after them, and then no metric "
        "means anything.",
        "Look at the first tensor that holds one: a division by zero, the logarithm or root of a value that may be "
        "zero or negative, an exponential that overflows, a weight that has been NaN since training.",
        proof="Every tensor is looked at in the order of execution, at each step of the ladder: the first that holds "
        "one, and the first step at which it appears.",
        details="""Guard the operator in the model, with a constant that survives quantization and float16:

```python
x = x / tf.maximum(norm, 1e-3)  # 1e-12 is zero in float16
x = tf.math.log(tf.maximum(x, 1e-3))
```""",
        accept="missing values are NaN by contract, and the application handles them",
    ),
)
