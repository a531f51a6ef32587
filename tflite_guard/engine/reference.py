"""The float reference: Keras models and SavedModels, their names, their predictions, their export."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from msgspec.structs import replace

from tflite_guard.engine.feeds import shape_text
from tflite_guard.engine.graph import layer_of
from tflite_guard.engine.refusals import first_line
from tflite_guard.engine.running import Running
from tflite_guard.engine.safety import check_model_file, keras_version
from tflite_guard.engine.saved_model import restores_its_variables, scaling, signature_operators
from tflite_guard.errors import EvaluationError, ModelFileError, NamingError, Place
from tflite_guard.manifest.types import ReferenceSpec
from tflite_guard.protocol import Names, TensorInfo
from tflite_guard.text.plain import instead, plain
from tflite_guard.vocabulary import SERVING_DEFAULT

Array = npt.NDArray[Any]
Serve = Callable[..., dict[str, Any]]
Shapes = dict[str, tuple[int | None, ...]]
LONGEST_NODE = 60
"""Characters of what a message calls a part of a graph."""
# Operators that change a variable; random generators keep their state in one.
CHANGES_VARIABLE = re.compile(
    r"^Assign|^Resource(Scatter|Apply|SparseApply|StridedSliceAssign|CountUpTo)|^StridedSliceAssign|^CountUpTo|"
    r"^Scatter(Nd)?(Update|Add|Sub|Mul|Div|Min|Max)$|^Rng(ReadAndSkip|Skip)|"
    r"^Stateful(Uniform|StandardNormal|TruncatedNormal|RandomBinomial)"
)


@dataclass(frozen=True)
class Source:
    """How a loaded model is called, exported and reset, whichever kind it is of."""

    serve: Serve
    """Inference on tensors, by keyword, to tensors by the signature's names of outputs."""
    save: Callable[[str, Any], None]
    """Writes a SavedModel whose signature is a concrete function."""
    saved_model: str | None
    """The source itself where it is a SavedModel that converts as it is."""
    reset: Callable[[], None] | None
    """Forgets what was carried from earlier calls; None for a model without state."""
    traced: Any = None
    """A `tf.function` of the inputs in order, as `names` has them, traced once for batches of any size; None where
    serving is a graph already."""


class Reference(Running):
    """A loaded float model. Predictions come from the model itself, never from its export."""

    def __init__(self, path: str, signature: str, names: Names, source: Source) -> None:
        """`names` has the dimensions that the manifest fixes."""
        fixed = fixed_batch(names)
        super().__init__(path, names.inputs, stateful=source.reset is not None, fixed_batch=fixed)
        self.signature = signature
        self.names = names
        self._source = source
        self._compiled = source.traced or tf.function(_positional(source.serve, list(names.inputs)))

    def call(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of one call by canonical name: float32, integers as they are."""
        try:
            outputs = self._compiled(*(tf.constant(tensors[name]) for name in self.names.inputs))
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise EvaluationError("run", f"{self.path} cannot be run: {_reason(error)}") from error
        return {self.names.output(name): _plain(values.numpy()) for name, values in outputs.items()}

    def restart(self) -> None:
        """Forget what earlier calls left."""
        if self._source.reset is not None:
            self._source.reset()

    def export(self, folder: str, shapes: Shapes | None = None) -> str:
        """Write a SavedModel into the folder and return where it is.

        `shapes` replaces the input shapes, with the batch axis. A SavedModel that converts as it is is used in place.
        """
        if shapes is None and self._source.saved_model is not None:
            return self._source.saved_model
        self.restart()  # what earlier calls left would become the export's initial state
        if shapes is None and self._source.traced is not None:
            function = self._source.traced
        else:
            function = _with_signature(self._source.serve, self.names.inputs, shapes or {})
        self._source.save(folder, function)
        return folder


LAYER_FAILED = re.compile(r"Exception encountered when calling ([^\n]+?)\.?\n\s*\x1b\[1m(.+?)\x1b\[0m", re.DOTALL)
"""How Keras tells an exception in a layer."""


def _reason(error: Exception) -> str:
    """The exception's own words, behind what TensorFlow prints of the user's code."""
    if of_layer := LAYER_FAILED.search(str(error)):
        return f"{of_layer[1]}: {first_line(of_layer[2])}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [place for place, line in enumerate(lines) if re.match(r"\w*(Error|Exception)\b.*:|.*\[Op:", line)]
    if not told:
        return first_line(error)
    # The last line may name only the node; what went wrong is above it.
    at = told[-1] - (told[-1] > 0 and lines[told[-1]].startswith("[["))
    return first_line(lines[at])


def _with_signature(serve: Serve, inputs: Mapping[str, TensorInfo], shapes: Shapes) -> Any:
    """A `tf.function` of the inputs in order; `shapes` replaces shapes of theirs."""
    specs = [tf.TensorSpec(shapes.get(name, info.shape), info.dtype, name=name) for name, info in inputs.items()]
    return tf.function(_positional(serve, list(inputs)), input_signature=specs)


def _positional(serve: Serve, names: Sequence[str]) -> Callable[..., dict[str, Any]]:
    def call(*tensors: Any) -> dict[str, Any]:
        return serve(**dict(zip(names, tensors, strict=True)))

    return call


def _plain(values: Array) -> Array:
    return values if values.dtype.kind in "iub" else values.astype(np.float32)


def fixed_batch(names: Names) -> int | None:
    """The batch that the model's inputs prescribe (for whole examples: their first axis), or None when it is free."""
    sizes = [info.shape[0] for info in names.inputs.values() if info.shape]
    return next((size for size in sizes if size is not None), None)


def load_reference(spec: ReferenceSpec, *, allow_code: bool = False) -> Reference:
    """The reference of kind `keras` or `saved_model`, checked before it is loaded.

    Raises ModelFileError for a file that cannot be or must not be loaded.
    """
    check_model_file(spec, allow_code=allow_code)
    if spec.kind == "saved_model":
        return _from_saved_model(spec)
    return _from_keras(spec, allow_code)


def _from_saved_model(spec: ReferenceSpec) -> Reference:
    loaded = _loaded_saved_model(spec.path)
    signature = spec.signature or SERVING_DEFAULT
    function = _signature_function(loaded, spec.path, signature, spec.places.get("signature"))
    inputs = {name: _info(tensor) for name, tensor in function.structured_input_signature[1].items()}
    outputs = {name: _info(tensor) for name, tensor in function.structured_outputs.items()}
    scaled = tuple(plain(layer_of(name) or name, LONGEST_NODE) for name in scaling(spec.path, signature))
    names = _fixed(Names(inputs, outputs, signature=signature, scaling=scaled), spec)
    _refuse_strings(names, spec.path)

    def save(folder: str, concrete: Any) -> None:
        module = tf.Module()
        module.source = loaded  # keeps its variables and tables
        module.serve = concrete
        tf.saved_model.save(module, folder, signatures={signature: concrete})

    source = Source(
        serve=lambda **tensors: function(**tensors),
        save=save,
        saved_model=spec.path if names.inputs == inputs and restores_its_variables(spec.path, signature) else None,
        reset=_restorer(function, spec.path, signature),
    )
    return Reference(spec.path, signature, names, source)


def _restorer(function: Any, path: str, signature: str) -> Callable[[], None] | None:
    """Gives the variables of a signature that changes some the values that the file has; None when it changes none."""
    changing = sorted(filter(CHANGES_VARIABLE.search, signature_operators(path, signature)))
    if not changing:
        return None
    # Which of them change is not told; assigning a tensor shares its memory, so the weights cost next to nothing.
    saved = [(variable, tf.constant(variable.numpy())) for variable in function.variables]
    if not saved:
        raise ModelFileError(
            f"{path} changes state ({changing[0]}) that cannot be reset between examples; "
            "keep it in a tf.Variable of the model"
        )

    def restore() -> None:
        for variable, value in saved:
            variable.assign(value)

    return restore


def _loaded_saved_model(path: str) -> Any:
    try:
        return tf.saved_model.load(path)
    except Exception as error:  # TensorFlow raises anything from KeyError to OpError here
        raise ModelFileError(
            f"{path} cannot be loaded as a SavedModel: {first_line(error)}; export it again"
        ) from error


def _signature_function(loaded: Any, path: str, signature: str, place: Place | None) -> Any:
    # Signatures without outputs save, train or initialize.
    signatures = {name: function for name, function in loaded.signatures.items() if function.structured_outputs}
    if not signatures:
        raise ModelFileError(f"{path} has no signature that gives outputs; export it with one, as model.export() does")
    if signature not in signatures:
        there = instead(signature, sorted(signatures), 'name one of these as "signature":')
        raise NamingError(f"{path} has no signature {signature!r}{there}", place)
    return signatures[signature]


def _info(tensor: Any) -> TensorInfo:
    if tensor.shape.rank is None:
        return TensorInfo((None,), tensor.dtype.name)
    return TensorInfo(tuple(tensor.shape.as_list()), tensor.dtype.name)


def _fixed(names: Names, spec: ReferenceSpec) -> Names:
    """The names with the manifest's `input_shapes` in place of unknown dimensions, the batch axis left free.

    A lone axis of more than one is no batch but a waveform's.
    """
    wanted = {names.input(name): shape for name, shape in spec.input_shapes.items()}
    unknown = [name for name in wanted if name not in names.inputs]
    if unknown:
        written = next(name for name in spec.input_shapes if names.input(name) == unknown[0])
        raise NamingError(
            f"{spec.path}: 'input_shapes': the model has no input {written!r}"
            f"{instead(written, names.inputs, 'its inputs are')}",
            spec.places.get(f"input_shapes/{written}"),
        )
    inputs = {name: _with_shape(name, info, wanted.get(name), spec.path) for name, info in names.inputs.items()}
    return replace(names, inputs=inputs)


def _with_shape(name: str, info: TensorInfo, wanted: Sequence[int] | None, path: str) -> TensorInfo:
    if wanted is None:
        return info
    agrees = len(wanted) == len(info.shape) and all(s in (None, w) for s, w in zip(info.shape, wanted, strict=True))
    if not agrees:
        raise ModelFileError(
            f"{path}: input_shapes gives {name} {shape_text(wanted)}, but the model has {shape_text(info.shape)}; "
            "give the same number of dimensions, and another size only where the model has none",
            "input-shapes",
        )
    waveform = len(wanted) == 1 and wanted[0] != 1
    return TensorInfo(tuple(wanted) if waveform else (info.shape[0], *wanted[1:]), info.dtype)


def _refuse_strings(names: Names, path: str) -> None:
    for name, info in (*names.inputs.items(), *names.outputs.items()):
        if info.dtype in ("string", "resource", "variant"):
            raise ModelFileError(
                f"{path}: {name} holds {info.dtype}s, which cannot be evaluated; export the model without that part",
                "unsupported-type",
            )


def _from_keras(spec: ReferenceSpec, allow_code: bool) -> Reference:
    keras, model = _loaded_keras(spec.path, allow_code)
    if not isinstance(model, keras.Model):
        raise ModelFileError(
            f"{spec.path} holds a {type(model).__name__}, not a model; save the whole model (model.save)"
        )
    flat = _tensors(keras, model.inputs)
    if not flat:
        raise ModelFileError(f"{spec.path} has no defined inputs; export it as a SavedModel and refer to that")
    labels = _unique([_label(tensor) for tensor in flat])
    inputs = {label: _keras_info(tensor) for label, tensor in zip(labels, flat, strict=True)}
    serve = _keras_serve(keras, model, labels)
    given = _fixed(Names(inputs, {}, _input_aliases(keras, model, labels), signature=SERVING_DEFAULT), spec)
    traced = _with_signature(serve, given.inputs, {})
    outputs, aliases = _output_names(keras, model, _outputs(traced, spec.path))
    names = replace(given, outputs=outputs, output_aliases=aliases, scaling=_scaling(keras, model))
    _refuse_strings(names, spec.path)

    def save(folder: str, concrete: Any) -> None:
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint(SERVING_DEFAULT, concrete)
        concrete.get_concrete_function()
        archive.write_out(folder, **({"verbose": False} if keras.__name__ == "keras" else {}))

    return Reference(spec.path, SERVING_DEFAULT, names, Source(serve, save, None, _resetter(model), traced))


def _scaling(keras: Any, model: Any) -> tuple[str, ...]:
    """The names of the layers that scale inputs, in nested models too."""
    kinds = (keras.layers.Rescaling, keras.layers.Normalization)
    return tuple(layer.name for layer in model._flatten_layers() if isinstance(layer, kinds))


def _loaded_keras(path: str, allow_code: bool) -> tuple[Any, Any]:
    """The Keras that reads the file, and the model: Keras 3, else Keras 2 (tf_keras) for .h5."""
    import keras

    try:
        return keras, keras.saving.load_model(path, compile=False, safe_mode=not allow_code)
    except Exception as error:  # Keras raises every kind here
        if Path(path).suffix == ".keras":
            raise _unloadable(path, error) from error
        return _loaded_keras2(path, error)


def _loaded_keras2(path: str, first: Exception) -> tuple[Any, Any]:
    try:
        import tf_keras
    except ImportError:
        version = keras_version(path) or "2"
        message = f"{path} was saved by Keras {version}, which needs tf-keras: pip install 'tflite-guard[tensorflow]'"
        raise ModelFileError(message, "missing-package") from first
    try:
        return tf_keras, tf_keras.models.load_model(path, compile=False)
    except Exception as error:
        raise _unloadable(path, first if CUSTOM_OBJECT.search(str(first)) else error) from error


CUSTOM_OBJECT = re.compile(
    r"(?:Could not locate (?:class|function)|Unknown (?:layer|object|\w+ function|\w+)):? ['\"]([^'\"]+)['\"]"
)


def _unloadable(path: str, error: Exception) -> ModelFileError:
    custom = CUSTOM_OBJECT.search(str(error))
    if custom:
        return ModelFileError(
            f"{path} needs the custom object {custom[1]}, whose code is not in the file; "
            "export the model as a SavedModel (model.export) and refer to that",
            "custom-object",
        )
    return ModelFileError(f"{path} cannot be loaded by Keras: {first_line(error)}; save it again")


def _tensors(keras: Any, structure: Any) -> list[Any]:
    return list(_tree(keras).flatten(structure)) if structure is not None else []


def _tree(keras: Any) -> Any:
    return keras.tree if keras.__name__ == "keras" else tf.nest


def _label(tensor: Any) -> str:
    """A name that a SavedModel's signature keeps as it is."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", tensor.name.split(":")[0])


def _unique(labels: Sequence[str]) -> list[str]:
    return [label if label not in labels[:i] else f"{label}_{i}" for i, label in enumerate(labels)]


def _keras_info(tensor: Any) -> TensorInfo:
    dtype = tensor.dtype if isinstance(tensor.dtype, str) else tensor.dtype.name
    return TensorInfo(tuple(tensor.shape), dtype)


def _keras_serve(keras: Any, model: Any, labels: Sequence[str]) -> Serve:
    """The model in inference mode; outputs by their key in a dictionary, else output_0, output_1, …"""
    structure = _input_structure(model)

    def serve(**tensors: Any) -> dict[str, Any]:
        packed = _tree(keras).pack_sequence_as(structure, [tensors[label] for label in labels])
        outputs = model(packed, training=False)
        if isinstance(outputs, dict):
            return {name: tensor for key, value in outputs.items() for name, tensor in _named(str(key), value)}
        return {f"output_{i}": tensor for i, tensor in enumerate(tf.nest.flatten(outputs))}

    return serve


def _named(key: str, value: Any) -> list[tuple[str, Any]]:
    """The tensors below one key of a dictionary of outputs; a lone one goes by the key itself."""
    tensors = tf.nest.flatten(value)
    return [(key, tensors[0])] if len(tensors) == 1 else [(f"{key}_{i}", t) for i, t in enumerate(tensors)]


def _input_structure(model: Any) -> Any:
    for owner in (model, getattr(model, "_functional", None)):
        for attribute in ("_inputs_struct", "_nested_inputs"):
            structure = getattr(owner, attribute, None)
            if structure is not None:
                return structure
    return model.inputs[0] if len(model.inputs) == 1 else model.inputs


def _outputs(traced: Any, path: str) -> dict[str, TensorInfo]:
    try:
        outputs = traced.get_concrete_function().structured_outputs
    except Exception as error:  # a model's layers raise every kind
        raise ModelFileError(
            f"{path} can be loaded, but not called: {_reason(error)}; mend the model and save it again"
        ) from error
    return {name: _info(tensor) for name, tensor in outputs.items()}


def _input_aliases(keras: Any, model: Any, labels: Sequence[str]) -> dict[str, str]:
    structure = _input_structure(model)
    layers = [tensor.name.split(":")[0] for tensor in _tensors(keras, structure)]
    keys = sorted(structure) if isinstance(structure, dict) and len(structure) == len(labels) else []
    named = (*zip(layers, labels, strict=True), *zip(keys, labels, strict=False))
    return {alias: label for alias, label in named if alias not in labels}


def _output_names(
    keras: Any, model: Any, outputs: dict[str, TensorInfo]
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The outputs by the names that their author gave: keys of a dictionary, else layers; and their other names.

    `outputs` has the signature's names, which stay where layers have none that are unique.
    """
    last = [layer.name for layer in model.layers[-1:]] if isinstance(model, keras.Sequential) else []
    layers = list(getattr(model, "output_names", None) or last)
    if len(layers) != len(outputs) or len(set(layers)) != len(layers):
        return outputs, {}
    keyed = isinstance(getattr(model, "output", None), dict)
    pairs = list(zip(layers, sorted(outputs) if keyed else sorted(outputs, key=_natural), strict=True))
    if keyed or set(layers) & set(outputs):
        return outputs, {layer: name for layer, name in pairs if layer not in outputs}
    return {layer: outputs[name] for layer, name in pairs}, {name: layer for layer, name in pairs}


def _natural(name: str) -> tuple[int, str]:
    number = re.search(r"\d+$", name)
    return (int(number.group()) if number else 0, name)


def _resetter(model: Any) -> Callable[[], None] | None:
    stateful = [layer for layer in _all_layers(model) if getattr(layer, "stateful", False)]
    resettable = [layer for layer in stateful if hasattr(layer, "reset_state") or hasattr(layer, "reset_states")]
    if not resettable:
        return None

    def reset() -> None:
        for layer in resettable:
            (getattr(layer, "reset_state", None) or layer.reset_states)()

    return reset


def _all_layers(model: Any) -> list[Any]:
    return list(model._flatten_layers()) if hasattr(model, "_flatten_layers") else list(model.layers)
