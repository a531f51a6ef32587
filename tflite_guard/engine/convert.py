"""Conversion: one export, one calibration, many quantizations through the TFLiteConverter."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Generic, TypeVar

import numpy.typing as npt
import tensorflow as tf

from tflite_guard.datasets.under_way import Doing, untold
from tflite_guard.engine import feeds
from tflite_guard.engine import graph as graphs
from tflite_guard.engine.calibrate import inject, measured_ranges, without_ranges
from tflite_guard.engine.float_file import FloatFile, equalized
from tflite_guard.engine.reference import Reference, Shapes, fixed_batch, load_reference
from tflite_guard.engine.refusals import UnsupportedError, explain, first_line
from tflite_guard.engine.saved_model import signature_operators
from tflite_guard.engine.surgery import with_float32_constants
from tflite_guard.engine.tflite import Model
from tflite_guard.errors import ConversionError, EvaluationError
from tflite_guard.manifest.types import CalibrationOptions, Conversion, ReferenceSpec
from tflite_guard.protocol import Names

T = TypeVar("T")
Array = npt.NDArray[Any]
Calibration = Callable[[], Iterator[dict[str, Array]]]
"""Called anew for every pass; gives examples as batches of one by canonical input name."""

IO_TYPES = {"float32": tf.float32, "int8": tf.int8, "uint8": tf.uint8, "int16": tf.int16}
INT16X8 = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
FAKE_QUANT = "FakeQuant"
CALIBRATING = "calibrated the model"
QUANTIZING = "quantized the calibrated model"
ANOTHER_TENSORFLOW = "install the TensorFlow that `pip install 'tflite-guard[tensorflow]'` chooses"
LOG = 2
"""The descriptor that TensorFlow prints to."""
LOG_READ = 1 << 20
"""Bytes of the log in which a failed conversion's reason is looked for."""
CALIBRATIONS_KEPT = 4
"""Each is a float model in memory; the variants of a model seldom differ in their calibration."""


def quantize_calibrated(calibrated: bytes, io: str, float_nodes: Sequence[str] = ()) -> bytes:
    """An int8 model from a float flatbuffer that holds ranges: the second half of what the converter does for int8.

    Equal constants are stored more than once. The function is TensorFlow's own but private; ImportError, TypeError and
    AttributeError mean that it has changed.
    """
    from tensorflow.lite.python.convert import mlir_quantize

    options = {"input_data_type": IO_TYPES[io], "output_data_type": IO_TYPES[io]}
    nodes = set(float_nodes) or None
    calibrated = without_ranges(calibrated, float_nodes) if nodes else calibrated
    return _guarded(lambda: mlir_quantize(calibrated, denylisted_nodes=nodes, **options))


def _stored_once(model: bytes) -> bytes:
    """The model with one buffer for equal constants, as the converter writes it."""
    from tensorflow.lite.python.convert import deduplicate_readonly_buffers

    return bytes(deduplicate_readonly_buffers(model))


class Remembered(Generic[T]):
    """A property computed once, of which a failure is kept too: it takes as long as a success."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._kept = f"{compute.__name__}, remembered"
        self.__doc__ = compute.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        if self._kept not in instance.__dict__:
            instance.__dict__[self._kept] = outcome(lambda: self._compute(instance))
        kept: T | EvaluationError = instance.__dict__[self._kept]
        return settled(kept)


def outcome(compute: Callable[[], T]) -> T | EvaluationError:
    """What is computed, or the error that says why it cannot be."""
    try:
        return compute()
    except EvaluationError as error:
        return error


def settled(result: T | EvaluationError) -> T:
    """The result of an outcome; raises its error."""
    if isinstance(result, EvaluationError):
        raise result.with_traceback(None)
    return result


class FloatModel:
    """A float model that variants are made from. Loaded, exported and calibrated once, when first needed."""

    def __init__(
        self,
        spec: ReferenceSpec,
        scratch: str,
        *,
        allow_code: bool = False,
        quantizer: Callable[[bytes, str, Sequence[str]], bytes] = quantize_calibrated,
        doing: Doing = untold,
    ) -> None:
        self._spec = spec
        self._scratch = scratch
        self._allow_code = allow_code
        self._quantizer = quantizer
        self._doing = doing
        self._calibrated: dict[tuple[Calibration, CalibrationOptions, tuple[str, ...]], bytes | EvaluationError] = {}
        self._loaded: dict[str, Any] = {}
        self._unsupported: UnsupportedError | None = None
        self._injected: tuple[bytes, Mapping[str, tuple[float, float]], bytes] | None = None

    @Remembered
    def reference(self) -> Reference:
        """The loaded model, where it is one of Keras's or a SavedModel."""
        with self._doing("loaded the model"):
            return load_reference(self._spec, allow_code=self._allow_code)

    @cached_property
    def names(self) -> Names:
        """The names that calibration data goes by."""
        if self._spec.kind != "tflite":
            return self.reference.names
        model = Model.read(self._spec.path, self._spec.signature, place=self._spec.places.get("signature"))
        model.require_main("the converter")
        return model.names

    @Remembered
    def _float32(self) -> bytes:
        if self._spec.kind == "tflite":
            return _float_flatbuffer(self._spec.path)
        return self._convert(_plain)

    @cached_property
    def _flatbuffer(self) -> bytes:
        """The .tflite as the calibrator takes it."""
        return with_float32_constants(self._float32)

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
            raise ConversionError(f'"{quantization}" is not a quantization of the converter')
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
        graphs.refuse_loops(graphs.read(self._float32))
        if calibration is None:
            raise ConversionError(
                f"{quantization} needs calibration data; name a dataset as calibration", "no-calibration"
            )
        return self._int8(conversion, calibration) if quantization == "int8" else self._int16x8(conversion, calibration)

    def rangeable(self, calibration: Calibration) -> bytes:
        """The float flatbuffer in which every activation that can be quantized has a range, whatever range."""
        held = (
            model for (data, _, equalize), model in self._calibrated.items() if data is calibration and not equalize
        )
        return next((model for model in held if isinstance(model, bytes)), None) or self._of_one_example(calibration)

    def _of_one_example(self, calibration: Calibration) -> bytes:
        return self._calibrate(calibration, CalibrationOptions(samples=1))

    def requantize(self, model: bytes, ranges: Mapping[str, tuple[float, float]], float_nodes: Sequence[str]) -> bytes:
        """An int8 model with float inputs and outputs, from a `rangeable` one with these ranges in place of its own."""
        if self._injected is None or self._injected[0] is not model or self._injected[1] is not ranges:
            # Experiments on what to leave in float share their ranges, and packing takes as long as quantizing.
            self._injected = (model, ranges, inject(model, ranges))
        try:
            with self._doing(QUANTIZING):
                return self._quantizer(self._injected[2], "float32", float_nodes)
        except (ImportError, TypeError, AttributeError) as error:  # the private function has moved
            raise ConversionError(f"this TensorFlow cannot quantize a float .tflite; {ANOTHER_TENSORFLOW}") from error

    @cached_property
    def quantization_aware(self) -> bool:
        """Whether the source computes with fake-quantization operators, so that ranges are trained."""
        if self._spec.kind == "tflite":
            return False
        operators = signature_operators(self._export, self.reference.signature)
        return any(operator.startswith(FAKE_QUANT) for operator in operators)

    @Remembered
    def _export(self) -> str:
        return self._exported("export-")

    @Remembered
    def _single_export(self) -> str:
        shapes = {name: info.shape and (1, *info.shape[1:]) for name, info in self.names.inputs.items()}
        return self._exported("export-single-", shapes)

    def _exported(self, prefix: str, shapes: Shapes | None = None) -> str:
        reference = self.reference
        try:
            with self._doing("exported the model for the converter"):
                return reference.export(mkdtemp(prefix=prefix, dir=self._scratch), shapes)
        except (EvaluationError, OSError, MemoryError):
            raise
        except Exception as error:  # Keras and TensorFlow raise every kind here
            raise ConversionError(
                f"{self._spec.path} cannot be exported for the converter: {first_line(error)}; export it as a "
                "SavedModel yourself (model.export) and refer to that"
            ) from error

    def _convert(self, setup: Callable[[Any], None]) -> bytes:
        return self._from_export(lambda folder: self._once(folder, setup))

    def _from_export(self, convert: Callable[[str], bytes]) -> bytes:
        """Convert the export; where a free batch does not convert, export with a batch of one and try again.

        What other conversions needed is not remembered: a variant is the same whichever were made before it.
        """
        if self._unsupported:
            raise self._unsupported.with_traceback(None)
        try:
            with _loading_once(self._loaded):
                return self._either_export(convert)
        except UnsupportedError as error:
            self._unsupported = error
            raise

    def _either_export(self, convert: Callable[[str], bytes]) -> bytes:
        try:
            return self._converted(convert, self._export)
        except ConversionError:
            if fixed_batch(self.names) is not None:
                raise
            return self._converted(convert, self._single_export)

    def _converted(self, convert: Callable[[str], bytes], folder: str) -> bytes:
        with self._doing("converted the model"):
            return convert(folder)

    def _once(self, folder: str, setup: Callable[[Any], None]) -> bytes:
        def convert() -> bytes:
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[self.reference.signature])
            setup(converter)
            return bytes(converter.convert())

        return _guarded(convert, self.names)

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
            raise ConversionError('the source was trained for quantization to 8 bits; set "quantization": "int8"')

        def setup(converter: Any) -> None:
            _optimized(converter)
            _set_io(converter, conversion.io)

        return self._convert(setup)

    def _int16x8(self, conversion: Conversion, calibration: Calibration) -> bytes:
        _refuse_keep_float(conversion)
        _refuse_measured(conversion)
        options = conversion.calibration_options
        if self._spec.kind == "tflite":
            with self._doing(CALIBRATING):
                return _guarded(
                    lambda: _int16x8_flatbuffer(self._flatbuffer, self._listed(calibration, options), conversion.io)
                )

        def setup(converter: Any) -> None:
            _optimized(converter)
            converter.representative_dataset = lambda: self._samples(calibration, options)
            # With the built-in operators beside, what has no int16 kernel stays in float and is reported.
            converter.target_spec.supported_ops = [INT16X8, tf.lite.OpsSet.TFLITE_BUILTINS]
            _set_io(converter, conversion.io)

        return self._convert(setup)

    def _int8(self, conversion: Conversion, calibration: Calibration) -> bytes:
        calibrated = self._calibrate(calibration, conversion.calibration_options, conversion.equalize)
        nodes = graphs.resolve_keep_float(graphs.read(calibrated), conversion.keep_float)
        try:
            with self._doing(QUANTIZING):
                return _stored_once(self._quantizer(calibrated, conversion.io, nodes))
        except (ImportError, TypeError, AttributeError) as error:  # the private function has moved
            return self._int8_public(conversion, calibration, nodes, error)

    def _int8_public(
        self, conversion: Conversion, calibration: Calibration, nodes: list[str], cause: Exception
    ) -> bytes:
        """The same model through public functions: slower, and not from a .tflite nor from measured ranges."""
        _refuse_measured(conversion)
        _refuse_equalize(conversion)
        if self._spec.kind == "tflite":
            raise ConversionError(
                "this TensorFlow cannot quantize a .tflite; refer to the Keras model or SavedModel that it is of"
            ) from cause
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

        return self._from_export(lambda folder: _guarded(lambda: convert(folder), self.names))

    def _calibrate(
        self, calibration: Calibration, options: CalibrationOptions, equalize: tuple[str, ...] = ()
    ) -> bytes:
        """The float flatbuffer with ranges, some of its activations equalized before."""
        graphs.refuse_loops(graphs.read(self._float32))  # the calibrator crashes on them
        key = (calibration, options, equalize)
        if key not in self._calibrated:
            while len(self._calibrated) >= CALIBRATIONS_KEPT:
                del self._calibrated[next(iter(self._calibrated))]
            self._calibrated[key] = outcome(lambda: self._ranged(calibration, options, equalize))
        return settled(self._calibrated[key])

    def _ranged(self, calibration: Calibration, options: CalibrationOptions, equalize: tuple[str, ...]) -> bytes:
        if not equalize and not _measured(options):
            return self._calibrated_once(calibration, options)
        # Variables keep the converter's ranges: they cannot be measured from outside.
        raw = self._calibrate(calibration, CalibrationOptions(samples=options.samples))
        examples = partial(self._samples, calibration, options)
        with self._doing("measured the ranges of activations"):
            model = equalized(FloatFile(raw, examples), equalize).content
            return inject(model, measured_ranges(model, examples, options.clip_percentile))

    def _calibrated_once(self, calibration: Calibration, options: CalibrationOptions) -> bytes:
        if self._spec.kind == "tflite":
            with self._doing(CALIBRATING):
                return _guarded(lambda: _calibrated_flatbuffer(self._flatbuffer, self._listed(calibration, options)))

        def setup(converter: Any) -> None:
            _optimized(converter)
            converter.representative_dataset = lambda: self._samples(calibration, options)
            converter._experimental_calibrate_only = True

        return self._convert(setup)

    def _samples(self, calibration: Calibration, options: CalibrationOptions) -> Iterator[dict[str, Array]]:
        return feeds.calibration_examples(calibration(), self.names.inputs, options.samples)

    def _listed(self, calibration: Calibration, options: CalibrationOptions) -> Callable[[], Iterator[list[Array]]]:
        """Samples in the order of the flatbuffer's inputs, as a file without a signature needs them."""
        graph = graphs.read(self._flatbuffer)
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
        raise ConversionError(
            'keep_float works for int8 with calibration data alone; set "quantization": "int8" with a '
            '"calibration", or leave keep_float out'
        )


def _refuse_measured(conversion: Conversion) -> None:
    if _measured(conversion.calibration_options):
        raise ConversionError(
            "measured ranges and clip_percentile need quantization int8 and a TensorFlow whose quantizer takes ranges; "
            f"leave them out of calibration_options, or {ANOTHER_TENSORFLOW}"
        )


def _refuse_equalize(conversion: Conversion) -> None:
    if conversion.equalize:
        raise ConversionError(
            f"equalize needs a function that this TensorFlow does not have; leave it out, or {ANOTHER_TENSORFLOW}"
        )


@contextmanager
def _loading_once(loaded: dict[str, Any]) -> Iterator[None]:
    """Within, the converter takes a SavedModel from `loaded`, by its path, or puts it there.

    By itself it loads one twice a conversion, for its signatures and for where its operators come from in Python, which
    is two thirds of a conversion's time. The name is TensorFlow's own; without it every conversion loads for itself.
    """
    from tensorflow.lite.python import lite

    load = getattr(lite, "_load", None)

    def once(path: str, *others: Any) -> Any:
        if path not in loaded:
            assert load is not None
            loaded[path] = load(path, *others)
        return loaded[path]

    if load is None:
        yield
        return
    lite._load = once
    try:
        yield
    finally:
        lite._load = load


def _guarded(convert: Callable[[], bytes], names: Names | None = None) -> bytes:
    """Run the converter; its exceptions become one short message."""
    start = _log_size()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they concern whoever wrote the library, not its user's user
            return bytes(convert())
    except (EvaluationError, ImportError, TypeError, AttributeError, MemoryError):
        raise
    except Exception as error:  # the converter raises every kind
        if isinstance(error.__context__, EvaluationError):
            raise error.__context__ from None
        raise explain(str(error) or type(error).__name__, _logged(start), names) from error


def _log_size() -> int:
    return os.fstat(LOG).st_size


def _logged(start: int) -> str:
    """What was printed since the log had this many bytes, from C++ too. Nothing where the log is no file."""
    if not stat.S_ISREG(os.fstat(LOG).st_mode):
        return ""
    try:
        return os.pread(LOG, LOG_READ, start).decode("utf-8", "replace")
    except OSError:  # open for writing only
        return ""
