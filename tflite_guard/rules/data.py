"""Causes in what the model is fed: evaluation inputs, calibration data, targets."""

from __future__ import annotations

from tflite_guard.rules.rule import Rule

_RECALIBRATE = (
    "That proves the cause and is not the remedy: evaluation data in the calibration set would make the next "
    "evaluation flatter the model."
)

DATA = (
    Rule(
        "input-range-mismatch",
        "warning",
        "Inputs are not prepared as the model expects",
        "The model is fed values on another scale, or in another order, than it was made for: 0..255 for a "
        "model of 0..1, normalized twice, another mean, red and blue swapped.",
        "Prepare the data as in training: fix `preprocess` of the dataset, or the code that fills the input tensor. "
        "Look for a Rescaling or Normalization layer in the model, which does it once already.",
        proof="The inputs are fed again with the correction (multiplied or divided by 255, shifted to −1..1, channels "
        "swapped). One correction brings the metric or the outputs back, on examples that did not choose it.",
        details="""The usual forms, as steps of `preprocess`:

```json
[{"cast": "float32"}, {"scale": 0.00392156862745098}]
[{"cast": "float32"}, {"scale": 0.00784313725490196}, {"offset": -1}]
[{"cast": "float32"}, {"channels": "bgr"}, {"offset": -110}]
```

The first is 0..1, the second −1..1, the third what networks in Caffe's tradition want. The application has to do
exactly the same: a mismatch that is fixed in the manifest alone stays in the product.""",
        accept="the sensor is clamped to 0..1 in the application; this data is raw",
    ),
    Rule(
        "input-unit-mismatch",
        "warning",
        "One input holds channels of different units",
        "Channels of one input differ by a factor of 100 or more in range (pressure beside acceleration), and one "
        "scale serves them all: the small ones get one or two integers.",
        "Normalize the channels before the model, each by its own mean and deviation, or keep the model's own "
        "normalization in float with `keep_float`.",
        proof="The first operators are kept in float, so that the channels are normalized before they share a scale. "
        "At least half of the loss comes back.",
        details="""As a step of `preprocess`, with one number per channel; the application must do the same:

```json
{"normalize": {"mean": [101325, 0, 0, 9.81], "std": [900, 0.4, 0.4, 0.5]}}
```""",
        accept="the small channels are not used by this variant",
    ),
    Rule(
        "calibration-range-mismatch",
        "warning",
        "Calibration data is scaled unlike real inputs",
        "The activation ranges come from data on a different scale from the evaluation's. Too small: real values are "
        "clipped. Too large: real values share a few of the 256 integers.",
        "Apply the same `preprocess` to the calibration data as to the evaluation data; preferably give both "
        "datasets the same list.",
        proof="The model is quantized again, calibrated with evaluation inputs, and at least half of the loss comes "
        "back on other examples; the same happens with the calibration data rescaled. " + _RECALIBRATE,
        details="""The report shows, for each tensor, the calibrated range and the range on evaluation data, and the
fraction of values that are clipped. If you use the converter alone, in Python, the generator has to do
what the application does:

```python
def representative_dataset():
    for image in calibration_images[:200]:
        yield [(image[np.newaxis].astype(np.float32) / 255.0)]
```""",
        accept="the evaluation data is a stress test with brighter images than in the field",
    ),
    Rule(
        "calibration-degenerate",
        "warning",
        "Calibration data holds next to nothing",
        "The calibration data is one example repeated, constants, or too few examples: broken paths, a generator "
        "that yields the same buffer, a limit of 1. The ranges then say nothing about real inputs.",
        "Give 100 to 500 different real examples. Look at what the dataset or generator really yields.",
        proof="Examples are compared by their hashes, and their variances are looked at; quantized again, calibrated "
        "with evaluation inputs, the model recovers at least half of the loss. " + _RECALIBRATE,
        details="""A common slip is to yield a buffer that is filled again, which makes a list of one example:

```python
def representative_dataset():
    for path in paths:
        load_into(buffer, path)
        yield [buffer.copy()]  # not [buffer]
```""",
        accept="the input is a constant trigger in this model",
    ),
    Rule(
        "calibration-shared",
        "note",
        "Calibration data is evaluated too",
        "Examples of the calibration data are in the evaluation data as well: the ranges fit the very inputs that "
        "the model is judged on, and the figures are better than in real use.",
        "Calibrate on training data, and keep the evaluation data separate. If both are one dataset on purpose, name "
        "the same dataset for both: then nothing is reported.",
        proof="Examples are compared by their hashes, after preprocessing; constants aside.",
        accept="the product sees these very inputs",
    ),
    Rule(
        "calibration-unrepresentative",
        "warning",
        "Calibration data is not like real inputs",
        "The scale is right but the content is not: random noise, one class alone, one sensor, daylight only. "
        "Activation ranges that only the missing inputs reach are clipped.",
        "Take the calibration data at random from what the model will see, with every class and condition in it; the "
        "training set is the usual place.",
        proof="The model is quantized again, calibrated with evaluation inputs, and at least half of the loss comes "
        "back on other examples, while rescaling, removing duplicates or leaving out extremes does not do it. "
        + _RECALIBRATE,
        accept="night images are not supported by this product",
    ),
    Rule(
        "calibration-outliers",
        "warning",
        "A few calibration examples stretch the ranges",
        "A few extreme examples (a sensor fault, a saturated recording, a corrupt image) set the range of most "
        "tensors, so that ordinary values share few integers. More calibration data then makes the model worse.",
        "Remove those examples; or let the calibration clip them, with `clip_percentile`.",
        proof="The model is quantized again without the examples that reach furthest, and at least half of the loss "
        "comes back on examples that did not choose them. If nothing is lost yet, it is reported for an input whose "
        "range is more than eight times as wide with its one to three most extreme examples as without them, of 50 "
        "or more: random halves of the data then disagree by as much at least one time in four.",
        details="""On the variant, where 99.9 keeps the central 99.9 % of each tensor's values:

```json
"calibration_options": {"clip_percentile": 99.9}
```

Heavy tails may be genuine. Then clipping costs exactly the examples that matter, and 16-bit activations (`int16x8`)
are the better answer.""",
        accept="the extremes are real and must not be clipped",
    ),
    Rule(
        "output-outlier",
        "warning",
        "One extreme target sets the output's range",
        "In calibration a few examples give outputs far from all others, which set the output's scale: most answers "
        "share a handful of integers.",
        "Remove the extreme examples from the calibration data, predict a transformed target (its logarithm), or "
        "keep the last operators in float with `keep_float`.",
        proof="The model is quantized again without the examples whose outputs are extreme; distinct output values "
        "multiply and at least half of the loss comes back.",
        accept="the extreme is a real alarm and has to be representable",
    ),
)
