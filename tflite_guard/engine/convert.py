"""Conversion: one export, one calibration, many quantizations through the TFLiteConverter."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from tflite_guard.engine import feeds
from tflite_guard.engine import graph as graphs
from tflite_guard.engine.calibrate import inject, measured_ranges
from tflite_guard.engine.reference import Reference, fixed_batch, load_reference
from tflite_guard.engine.safety import signature_operators
from tflite_guard.engine.tflite import Model, first_line
from tflite_guard.errors import ConversionError, EvaluationError
from tflite_guard.manifest.types import CalibrationOptions, Conversion, ReferenceSpec
from tflite_guard.protocol import Names

Array = npt.NDArray[Any]
Calibration = Callable[[], Iterator[dict[str, Array]]]
"""Called anew for every pass; gives examples as batches of one by canonical input name."""

IO_TYPES = {"float32": tf.float32, "int8": tf.int8, "uint8": tf.uint8, "int16": tf.int16}
INT16X8 = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
FAKE_QUANT = "FakeQuant"
CALIBRATIONS_KEPT = 4
"""Each is a float model in memory; the variants of a model seldom differ in their calibration."""


def quantize_calibrated(calibrated: bytes, io: str, float_nodes: Sequence[str] = ()) -> bytes:
    """An int8 model from a float flatbuffer that holds ranges: the second half of what the converter does for int8.

    The function is TensorFlow's own but private; ImportError, TypeError and AttributeError mean that it has changed.
    """
    from tensorflow.lite.python.convert import deduplicate_readonly_buffers, mlir_quantize

    options = {"input_data_type": IO_TYPES[io], "output_data_type": IO_TYPES[io]}
    nodes = set(float_nodes) or None
    return _guarded(lambda: deduplicate_readonly_buffers(mlir_quantize(calibrated, denylisted_nodes=nodes, **options)))


class FloatModel:
    """A float model that variants are made from. Loaded, exported and calibrated once, when first needed."""

    def __init__(
        self,
        spec: ReferenceSpec,
        scratch: str,
        *,
        allow_code: bool = False,
        quantizer: Callable[[bytes, str, Sequence[str]], bytes] = quantize_calibrated,
    ) -> None:
        self._spec = spec
        self._scratch = scratch
        self._allow_code = allow_code
        self._quantizer = quantizer
        self._calibrated: dict[tuple[Calibration, CalibrationOptions], bytes] = {}

    @cached_property
    def reference(self) -> Reference:
        """The loaded model, where it is one of Keras's or a SavedModel."""
        return load_reference(self._spec, allow_code=self._allow_code)

    @cached_property
    def names(self) -> Names:
        """The names that calibration data goes by."""
        if self._spec.kind != "tflite":
            return self.reference.names
        model = Model.read(self._spec.path, self._spec.signature)
        model.require_main("the converter")
        return model.names

    @cached_property
    def _float32(self) -> bytes:
        if self._spec.kind == "tflite":
            return _float_flatbuffer(self._spec.path)
        return self._convert(_plain)

    def float32(self) -> bytes:
        """The model without quantization; a .tflite's own bytes."""
        return self._float32

    def quantize(self, conversion: Conversion, calibration: Calibration | None) -> bytes:
        """The artifact. Raises ConversionError when it cannot be made.

        Calibration results are kept by the callable itself: pass the same object for the same data.
        """
        quantization = conversion.quantization
        if quantization == "float32":
            return self.float32()
        if quantization in ("float16", "dynamic_range"):
            return self._weights_only(conversion)
        if quantization not in ("int8", "int16x8"):
            raise ConversionError(f'"{quantization}" is no quantization of the converter')
        if self.quantization_aware:
            trained = self._trained(conversion)
            if graphs.integer_compute(graphs.read(trained)):
                return trained
            if calibration is None:
                raise ConversionError(
                    "the source is not quantization-aware-trained throughout: its trained ranges leave every "
                    "convolution and matrix product in float; name a dataset as calibration",
                    "no-calibration",
                )
        self._refuse_loops()
        if calibration is None:
            raise ConversionError(
                f"{quantization} needs calibration data; name a dataset as calibration", "no-calibration"
            )
        return self._int8(conversion, calibration) if quantization == "int8" else self._int16x8(conversion, calibration)

    @cached_property
    def quantization_aware(self) -> bool:
        """Whether the source computes with fake-quantization operators, so that ranges are trained."""
        if self._spec.kind == "tflite":
            return False
        operators = signature_operators(self._export, self.reference.signature)
        return any(operator.startswith(FAKE_QUANT) for operator in operators)

    @cached_property
    def _export(self) -> str:
        return self.reference.export(mkdtemp(prefix="export-", dir=self._scratch))

    @cached_property
    def _single_export(self) -> str:
        shapes = {name: info.shape and (1, *info.shape[1:]) for name, info in self.names.inputs.items()}
        return self.reference.export(mkdtemp(prefix="export-single-", dir=self._scratch), shapes)

    def _convert(self, setup: Callable[[Any], None]) -> bytes:
        return self._from_export(lambda folder: self._once(folder, setup))

    def _from_export(self, convert: Callable[[str], bytes]) -> bytes:
        """Convert the export; where a free batch does not convert, export with a batch of one and try again.

        What other conversions needed is not remembered: a variant is the same whichever were made before it.
        """
        try:
            return convert(self._export)
        except ConversionError:
            if fixed_batch(self.names) is not None:
                raise
            return convert(self._single_export)

    def _once(self, folder: str, setup: Callable[[Any], None]) -> bytes:
        def convert() -> bytes:
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[self.reference.signature])
            setup(converter)
            return bytes(converter.convert())

        return _guarded(convert)

    def _weights_only(self, conversion: Conversion) -> bytes:
        _refuse_keep_float(conversion)
        if self._spec.kind == "tflite":
            raise ConversionError(
                f"the TFLiteConverter cannot make {conversion.quantization} from a .tflite; refer to the Keras model "
                'or SavedModel, or use a recipe such as "dynamic_wi8_afp32"'
            )
        return self._convert(_float16 if conversion.quantization == "float16" else _optimized)

    def _trained(self, conversion: Conversion) -> bytes:
        _refuse_keep_float(conversion)
        if conversion.quantization != "int8":
            raise ConversionError("the source is quantization-aware-trained in 8 bits; use quantization int8")

        def setup(converter: Any) -> None:
            _optimized(converter)
            _set_io(converter, conversion.io)

        return self._convert(setup)

    def _int16x8(self, conversion: Conversion, calibration: Calibration) -> bytes:
        _refuse_keep_float(conversion)
        _refuse_measured(conversion)
        self._refuse_integer_inputs()
        options = conversion.calibration_options
        if self._spec.kind == "tflite":
            return _guarded(
                lambda: _int16x8_flatbuffer(self._float32, self._listed(calibration, options), conversion.io)
            )

        def setup(converter: Any) -> None:
            _optimized(converter)
            converter.representative_dataset = lambda: self._samples(calibration, options)
            # With the built-in operators beside, what has no int16 kernel stays in float and is reported.
            converter.target_spec.supported_ops = [INT16X8, tf.lite.OpsSet.TFLITE_BUILTINS]
            _set_io(converter, conversion.io)

        return self._convert(setup)

    def _refuse_loops(self) -> None:
        """TensorFlow's calibrator does not fail on a loop, it crashes the process (2.21)."""
        if any(op.type == "WHILE" for sub in graphs.read(self._float32).subgraphs for op in sub.operators):
            raise ConversionError(
                "the converter cannot calibrate a model with a loop, which recurrent layers become; "
                "build the model with unroll=True, or use dynamic_range"
            )

    def _refuse_integer_inputs(self) -> None:
        """The converter asks for ranges of integer inputs too, which it never records."""
        integers = [name for name, info in self.names.inputs.items() if not info.dtype.startswith("float")]
        if integers:
            raise ConversionError(
                f"int16x8 cannot be made by the converter for a model with integer inputs ({integers[0]})"
            )

    def _int8(self, conversion: Conversion, calibration: Calibration) -> bytes:
        calibrated = self._calibrate(calibration, conversion.calibration_options)
        nodes = graphs.resolve_keep_float(graphs.read(calibrated), conversion.keep_float)
        try:
            return self._quantizer(calibrated, conversion.io, nodes)
        except (ImportError, TypeError, AttributeError) as error:  # the private function has moved
            return self._int8_public(conversion, calibration, nodes, error)

    def _int8_public(
        self, conversion: Conversion, calibration: Calibration, nodes: list[str], cause: Exception
    ) -> bytes:
        """The same model through public functions: slower, and not from a .tflite nor from measured ranges."""
        _refuse_measured(conversion)
        if self._spec.kind == "tflite":
            raise ConversionError("this TensorFlow cannot quantize a .tflite; refer to the Keras model") from cause
        options = conversion.calibration_options

        def setup(converter: Any) -> None:
            _optimized(converter)
            converter.representative_dataset = lambda: self._samples(calibration, options)
            _set_io(converter, conversion.io)

        return self._convert_keeping(setup, nodes) if nodes else self._convert(setup)

    def _convert_keeping(self, setup: Callable[[Any], None], nodes: list[str]) -> bytes:
        debug = tf.lite.experimental

        def convert(folder: str) -> bytes:
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[self.reference.signature])
            setup(converter)
            options = debug.QuantizationDebugOptions(denylisted_nodes=nodes)
            samples = converter.representative_dataset
            debugger = debug.QuantizationDebugger(converter=converter, debug_dataset=samples, debug_options=options)
            return bytes(debugger.get_nondebug_quantized_model())

        return self._from_export(lambda folder: _guarded(lambda: convert(folder)))

    def _calibrate(self, calibration: Calibration, options: CalibrationOptions) -> bytes:
        """The float flatbuffer with ranges."""
        key = (calibration, options)
        if key not in self._calibrated:
            while len(self._calibrated) >= CALIBRATIONS_KEPT:
                del self._calibrated[next(iter(self._calibrated))]
            self._calibrated[key] = self._ranged(calibration, options)
        return self._calibrated[key]

    def _ranged(self, calibration: Calibration, options: CalibrationOptions) -> bytes:
        if not _measured(options):
            return self._calibrated_once(calibration, options)
        # One example gives every tensor that has a range at all; the measured ones then take their place.
        raw = self._calibrated_once(calibration, replace(options, samples=1))
        examples = partial(self._samples, calibration, options)
        return inject(raw, measured_ranges(raw, examples, options.clip_percentile))

    def _calibrated_once(self, calibration: Calibration, options: CalibrationOptions) -> bytes:
        if self._spec.kind == "tflite":
            return _guarded(lambda: _calibrated_flatbuffer(self._float32, self._listed(calibration, options)))

        def setup(converter: Any) -> None:
            _optimized(converter)
            converter.representative_dataset = lambda: self._samples(calibration, options)
            converter._experimental_calibrate_only = True

        return self._convert(setup)

    def _samples(self, calibration: Calibration, options: CalibrationOptions) -> Iterator[dict[str, Array]]:
        return feeds.calibration_examples(calibration(), self.names.inputs, options.samples)

    def _listed(self, calibration: Calibration, options: CalibrationOptions) -> Callable[[], Iterator[list[Array]]]:
        """Samples in the order of the flatbuffer's inputs, as a file without a signature needs them."""
        graph = graphs.read(self._float32)
        names = {index: name for name, index in graphs.input_indices(graph).items()}
        order = [names[index] for index in graph.main.inputs]
        return lambda: ([sample[name] for name in order] for sample in self._samples(calibration, options))


def _float_flatbuffer(path: str) -> bytes:
    graph = graphs.read(path)
    quantized = [t.name for t in graph.main.tensors if t.dtype in ("int8", "uint8", "int16") and t.scale.size]
    if quantized:
        raise ConversionError(f"{path} is quantized already ({quantized[0]}); name a float .tflite to quantize")
    return Path(path).read_bytes()


def _calibrated_flatbuffer(model: bytes, samples: Callable[[], Iterator[list[Array]]]) -> bytes:
    from tensorflow.lite.python.optimize import calibrator

    return bytes(calibrator.Calibrator(calibrator.add_intermediate_tensors(model)).calibrate(samples))


def _int16x8_flatbuffer(model: bytes, samples: Callable[[], Iterator[list[Array]]], io: str) -> bytes:
    from tensorflow.lite.python.optimize import calibrator

    made = calibrator.Calibrator(calibrator.add_intermediate_tensors(model))
    return bytes(made.calibrate_and_quantize(samples, IO_TYPES[io], IO_TYPES[io], True, tf.int16, tf.int64))


def _plain(_converter: Any) -> None:
    """No quantization."""


def _optimized(converter: Any) -> None:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]


def _float16(converter: Any) -> None:
    _optimized(converter)
    converter.target_spec.supported_types = [tf.float16]


def _set_io(converter: Any, io: str) -> None:
    converter.inference_input_type = converter.inference_output_type = IO_TYPES[io]


def _measured(options: CalibrationOptions) -> bool:
    return options.ranges == "measured" or options.clip_percentile is not None


def _refuse_keep_float(conversion: Conversion) -> None:
    if conversion.keep_float:
        raise ConversionError("keep_float needs quantization int8 with calibration data")


def _refuse_measured(conversion: Conversion) -> None:
    if _measured(conversion.calibration_options):
        raise ConversionError(
            "measured ranges and clip_percentile need quantization int8 and this TensorFlow's quantizer"
        )


def _guarded(convert: Callable[[], bytes]) -> bytes:
    """Run the converter; its exceptions become one short message."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they concern whoever wrote the library, not its user's user
            return bytes(convert())
    except (EvaluationError, ImportError, TypeError, AttributeError, MemoryError):
        raise
    except Exception as error:  # the converter raises every kind
        if isinstance(error.__context__, EvaluationError):
            raise error.__context__ from None
        raise ConversionError(explain(str(error) or type(error).__name__)) from error


def explain(message: str) -> str:
    """The converter's failure in one sentence."""
    flex = re.search(r"TF Select ops: (.+)", message)
    if flex:
        return f"the converter has no built-in operator for {flex[1].strip()}; replace it in the model"
    custom = re.search(r"Custom ops: (.+)", message)
    if custom:
        return f"the converter has no operator for {custom[1].strip()}; replace it in the model"
    return f"the converter failed: {first_line(message)}"
