from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from engine_models import Case, edited, without_signature
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tflite_guard.engine import graph
from tflite_guard.errors import ConversionError, EvaluationError, ModelFileError


@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_tensors_are_those_that_litert_reports(conv: Case, quantization: str) -> None:
    path = conv.tflite(quantization)
    interpreter = Interpreter(model_path=path)
    told = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    for index, tensor in enumerate(graph.read(path).main.tensors):
        assert tensor.name == told[index]["name"]
        assert np.dtype(tensor.dtype) == told[index]["dtype"]
        np.testing.assert_array_equal(tensor.scale, told[index]["quantization_parameters"]["scales"])
        np.testing.assert_array_equal(tensor.zero_point, told[index]["quantization_parameters"]["zero_points"])


def test_operators_signature_and_constants(conv: Case) -> None:
    read = graph.read(conv.tflite("float32"))
    kinds = [operator.type for operator in read.main.operators]
    assert kinds[0] == "CONV_2D"
    assert kinds[-1] == "SOFTMAX"
    assert list(read.signatures) == ["serving_default"]
    assert list(read.signatures["serving_default"].inputs) == ["image"]
    image = read.main.tensors[read.main.inputs[0]]
    assert image.shape_signature == (None, 8, 8, 1)
    assert not image.constant
    kernel = read.main.tensors[read.main.operators[0].inputs[1]]
    assert kernel.constant


def test_bytes_and_path_read_alike(conv: Case) -> None:
    path = conv.tflite("float32")
    assert graph.read(Path(path).read_bytes()).signatures == graph.read(path).signatures


def test_an_operator_left_in_float_is_named(sine: Case) -> None:
    [left] = graph.float_operators(graph.read(sine.tflite("int8")))
    assert left.startswith("SIN (")


def test_integer_models_have_no_float_operators(conv: Case) -> None:
    assert graph.float_operators(graph.read(conv.tflite("int8"))) == []
    assert graph.float_operators(graph.read(conv.tflite("int8", "int8"))) == []


def test_hybrid_operators_count_as_float(conv: Case) -> None:
    read = graph.read(conv.tflite("dynamic_range"))
    assert any(name.startswith("FULLY_CONNECTED") for name in graph.float_operators(read))
    assert len(graph.float_operators(read)) == graph.computing_operators(read) == 4


def test_operators_on_activations_are_counted_and_those_on_shapes_are_not(conv: Case) -> None:
    assert graph.computing_operators(graph.read(conv.tflite("int8"))) == 4
    assert graph.computing_operators(graph.read(conv.tflite("float32"))) == 4


def test_state_is_seen(conv: Case, stateful: Case) -> None:
    assert not graph.has_state(graph.read(conv.tflite("float32")))
    assert graph.has_state(graph.read(stateful.tflite("float32")))


@pytest.mark.parametrize(
    "pattern", ["scores", "scor*", "*/scores*/*", "*scores*MatMul*", "sequential*/scores*/MatMul*"]
)
def test_keep_float_takes_a_tensor_with_producer_and_consumers(conv: Case, pattern: str) -> None:
    read = graph.read(conv.tflite("float32"))
    names = graph.resolve_keep_float(read, [pattern])
    by_name = {read.main.tensors[op.outputs[0]].name: op.type for op in read.main.operators}
    assert [by_name[name] for name in names] == ["FULLY_CONNECTED", "SOFTMAX"]


def test_keep_float_matches_every_part_of_a_fused_name(conv: Case) -> None:
    read = graph.read(conv.tflite("float32"))
    fused = read.main.tensors[read.main.operators[0].outputs[0]].name
    assert ";" in fused
    for part in fused.split(";"):
        assert fused in graph.resolve_keep_float(read, [part])


def test_keep_float_without_match_lists_near_names(conv: Case) -> None:
    with pytest.raises(ConversionError, match=r'"scroes" matches no tensor.*near names:.*scores'):
        graph.resolve_keep_float(graph.read(conv.tflite("float32")), ["first", "scroes"])


def test_names_without_a_signature_are_the_tensors(conv: Case, tmp_path: Path) -> None:
    bare = without_signature(conv.tflite("float32"), tmp_path / "m.tflite")
    signature = graph.choose_signature(graph.read(bare), bare)
    inputs, outputs = signature.inputs, signature.outputs
    assert list(inputs) == ["image"]
    assert list(outputs) == ["StatefulPartitionedCall"]
    with pytest.raises(EvaluationError, match='has no signatures; leave out "day"'):
        graph.choose_signature(graph.read(bare), bare, "day")


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 64, b"\x1c\0\0\0TFL3" + b"\xff" * 64])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"m\.tflite is (not a|a damaged) \.tflite model"):
        graph.read(str(path))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ModelFileError, match=r"nowhere.tflite cannot be read: No such file"):
        graph.read("nowhere.tflite")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_ends_in_an_error_or_a_graph(conv: Case, data: st.DataObject) -> None:
    content = bytearray(Path(conv.tflite("int8")).read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(8, len(content)))
    try:
        graph.read(bytes(content[:cut]))
    except ModelFileError as error:
        assert "damaged" in str(error)  # noqa: PT017 - either outcome is right


def test_old_files_that_set_only_the_deprecated_code(conv: Case, tmp_path: Path) -> None:
    def age(content: object) -> None:
        for code in content.operatorCodes:  # type: ignore[attr-defined]
            code.deprecatedBuiltinCode, code.builtinCode = code.builtinCode, 0

    old = graph.read(edited(conv.tflite("float32"), tmp_path / "old.tflite", age))
    assert [op.type for op in old.main.operators] == [
        op.type for op in graph.read(conv.tflite("float32")).main.operators
    ]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("functional_1_1/dense_6_1/MatMul;functional_1_1/dense_6_1/BiasAdd", "dense_6"),
        ("model/block/conv/Conv2D", "conv"),
        ("StatefulPartitionedCall:0", None),
        ("tfl.pseudo_qconst3", None),
        ("add", None),
    ],
)
def test_a_layer_is_told_by_a_tensors_name(name: str, layer: str | None) -> None:
    assert graph.layer_of(name) == layer
