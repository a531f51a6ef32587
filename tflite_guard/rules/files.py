"""Causes in conversion, in the file that ships and in the application around it."""

from __future__ import annotations

from tflite_guard.rules.rule import Rule

FILES = (
    Rule(
        "float-conversion-mismatch",
        "warning",
        "The conversion itself changed the model",
        "The float32 .tflite already differs from the reference, before anything is quantized: batch normalization or "
        "dropout in training mode, resizing with another alignment, an operator that was fused or replaced.",
        "Export for inference, and compare layer by layer from the first one that differs. Changing calibration or "
        "keeping operators in float does not help here.",
        proof="No quantization is needed: the float32 .tflite is run on the same examples as the reference, and its "
        "outputs differ by more than rounding.",
        details="""Usual places to look:

- `model(x, training=True)`, or a layer whose `trainable` state changes what it computes: export with
  `model.export(folder)`.
- `tf.image.resize` and `UpSampling2D` against a custom resize: `align_corners` and `half_pixel_centers` differ.
- Preprocessing inside the model that is not exported, or is exported and then done again outside.
- A custom layer that behaves differently when traced: Python conditions on tensors, random numbers, state.""",
        accept="the random augmentation layer is meant to stay active",
    ),
    Rule(
        "stale-artifact",
        "warning",
        "The shipped file was made from another model",
        "The constants of the .tflite do not match a fresh conversion of the reference beyond rounding: it was made "
        "from other weights, often from an earlier training.",
        "Convert again and ship that file; let the build make it, with `tflite-guard convert`, so that it cannot be "
        "forgotten.",
        proof="The file's weights are compared with a fresh conversion's, in the file's own quantization steps. A true "
        "pair differs by at most half a step, a different training by hundreds. The fresh conversion passes and the "
        "file fails.",
        accept="the device ships the previous release until the next update",
    ),
    Rule(
        "io-order-swapped",
        "warning",
        "Inputs or outputs changed places",
        "The conversion gave inputs or outputs a different order from the source's, so values go to, or are read "
        "from, the wrong one of the same shape.",
        "Address inputs and outputs by the signature's names, never by position; in the manifest, map them by name in "
        "`inputs` and `labels`.",
        proof="Inputs or outputs are permuted; one permutation brings the metric back.",
        details="""```python
run = interpreter.get_signature_runner("serving_default")
scores = run(left=left_image, right=right_image)["score"]
```

```kotlin
interpreter.runSignature(mapOf("left" to left, "right" to right), mapOf("score" to score), "serving_default")
```""",
        accept="both inputs are views of one object, and their order means nothing",
    ),
    Rule(
        "io-quantization-misuse",
        "warning",
        "The application misreads quantized values",
        "The outputs that the application recorded are what you get when the scale and zero point of an input or "
        "output are ignored, rounding or clipping is left out, uint8 is read as int8, or values are dequantized twice.",
        "Quantize inputs and dequantize outputs as below, with the scale and zero point of the file.",
        proof="Each misuse is replayed on the same examples with the same file, on inputs, on outputs, on both. One "
        "reproduces the recorded outputs on examples that did not choose it: to half a quantization step, or to 40 dB "
        "and 20 dB better than the correct way does.",
        details="""An input is quantized as `q = round(x / scale) + zero_point`, clipped to the type's range; an
output is read as `x = (q - zero_point) * scale`. An input or output whose type is float needs neither.

Python:

```python
scale, zero_point = details["quantization"]  # of get_input_details()[0]
limits = np.iinfo(details["dtype"])
q = np.clip(np.round(x / scale) + zero_point, limits.min, limits.max).astype(details["dtype"])
# … set_tensor, invoke, then with scale and zero point of get_output_details()[0]:
y = (interpreter.get_tensor(output["index"]).astype(np.float32) - zero_point) * scale
```

C++, TensorFlow Lite for Microcontrollers:

```cpp
TfLiteTensor* input = interpreter.input(0);
for (size_t i = 0; i < count; ++i) {
  const long q = std::lround(x[i] / input->params.scale) + input->params.zero_point;
  input->data.int8[i] = static_cast<int8_t>(std::min(127L, std::max(-128L, q)));
}
interpreter.Invoke();
TfLiteTensor* output = interpreter.output(0);
const float y = (output->data.int8[0] - output->params.zero_point) * output->params.scale;
```

Kotlin, Android:

```kotlin
val into = interpreter.getInputTensor(0).quantizationParams()
for (value in values) {
    val q = Math.round(value / into.scale) + into.zeroPoint
    input.put(q.coerceIn(-128, 127).toByte())        // uint8: coerceIn(0, 255)
}
interpreter.run(input, output)
val from = interpreter.getOutputTensor(0).quantizationParams()
val y = (output.get(0).toInt() - from.zeroPoint) * from.scale
// uint8: (output.get(0).toInt() and 0xFF)
```

What is replayed:

- outputs: raw integers taken as reals, the zero point or the scale ignored, int8 read as uint8 and uint8 as int8,
  dequantized twice;
- inputs: cast without scale and zero point, truncated instead of rounded, wrapped around instead of clipped, the zero
  point or the scale ignored, uint8 pixels read as int8 without the −128, quantized twice.

Where several give the same (a scale of 1, a zero point of 0), all of them are named. Examples recorded in another
order, other preprocessing and other kernels are none of these: then no misuse is named, and the report says so.
Outputs that are the same for every example name none either.

`docs/recording-outputs.md` shows how to record what an application gives.""",
        accept="the application works on raw integers on purpose, and its thresholds are adapted",
    ),
    Rule(
        "kernel-divergence",
        "warning",
        "Kernels differ",
        "The same file gives other answers with LiteRT's optimized kernels, which phones run, than with its reference "
        "kernels, or with those of TensorFlow Lite Micro, which microcontrollers run.",
        "Evaluate with the kernels of the target (`kernels` on the variant), record the device's own outputs and give "
        "them as `observed_outputs`, and report the operator that differs to LiteRT.",
        proof="The same file runs on the same examples with other kernels than those that it is judged with, and they "
        "give the loss back.",
        details="""On the variant:

```json
"kernels": "reference"
```

Some difference is normal: in a published ResNet8, 57 % of the images differ by more than one step, and 4 % in the
answer. `docs/recording-outputs.md` shows how to record what a device gives.""",
        accept="the product runs on these kernels alone",
    ),
)
