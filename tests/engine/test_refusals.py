"""Why a model cannot be converted or run: the type or shape that has no kernel, and a cure that is one."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from tflite_guard.engine.graph import Graph, Operator, Subgraph, Tensor
from tflite_guard.engine.refusals import explain, not_prepared
from tflite_guard.protocol import Names, TensorInfo

FREE = Names({"image": TensorInfo((None, None, None, 3), "float32")}, {})


def listing(*details: str, kind: str = "TF Select") -> str:
    """What TensorFlow raises: the operators' names, and each with its operands."""
    names = ", ".join(sorted({detail.split("(")[0] for detail in details}))
    listed = "\n\t".join(f"tf.{detail} : {{device = {chr(34) * 2}}}" for detail in details)
    return f"<unknown>:0: error: failed while converting: 'main': \n{kind} ops: {names}\nDetails:\n\t{listed}\n"


REJECTED = {
    "MatMul(tensor<?x8xi64>, tensor<4x8xi64>) -> (tensor<?x4xi64>)": (
        "the converter has no built-in MatMul for int64; cast to float32 before it, and back after it"
    ),
    "MatMul(tensor<?x8xi32>, tensor<4x8xi32>) -> (tensor<?x4xi32>)": (
        "the converter has no built-in MatMul for int32; cast to float32 before it, and back after it"
    ),
    "Mul(tensor<?x8xui16>, tensor<ui16>) -> (tensor<?x8xui16>)": "no built-in Mul for uint16; cast to float32",
    "Sin(tensor<?x8xf64>) -> (tensor<?x8xf64>)": "computes in float64, .* (Sin); compute in float32",
    "MatMul(tensor<?x8xcomplex<f32>>, tensor<4x8xcomplex<f32>>) -> (tensor<?x4xcomplex<f32>>)": (
        "no built-in MatMul for complex64; .*the real and the imaginary part in float32, each by itself"
    ),
    "IFFT(tensor<?x8xcomplex<f32>>) -> (tensor<?x8xcomplex<f32>>)": (
        "no built-in operator for IFFT; RFFT and RFFT2D, of real values, are all that it has; compute it outside"
    ),
    "DecodePng(tensor<!tf_type.string>) -> (tensor<?x?x3xui8>)": (
        "few built-in operators for strings, and none for DecodePng; do this before the model is run"
    ),
    "SpaceToBatchND(tensor<?x4x4x4x1xf32>, tensor<3xi32>, tensor<3x2xi32>) -> (tensor<?x2x2x2x1xf32>)": (
        "no built-in SpaceToBatchND for 5 dimensions; reshape to fewer before it, or split it"
    ),
    "MatMul(tensor<*xf32>, tensor<4x8xf32>) -> (tensor<*xf32>)": (
        "cannot convert MatMul while the shapes of its inputs are unknown (float32 of any shape, float32 [4, 8]); "
        "give it a shape with tf.reshape before"
    ),
    "ResizeBilinear(tensor<?x4x4x1xf32>, tensor<2xi32>) -> (tensor<?x9x9x1xf32>)": (
        'as it is used here (float32 [?, 4, 4, 1], int32 [2]; device = ""); change how it is used, or replace it'
    ),
    "Cholesky(tensor<?x3x3xf32>) -> (tensor<?x3x3xf32>)": "no built-in operator for Cholesky; replace it in the model",
    "PrintV2(tensor<!tf_type.string>) -> ()": "PrintV2 only prints, .*; remove it from the model",
    "LookupTableFindV2(tensor<!tf_type.resource>, tensor<?xi64>) -> (tensor<?xi64>)": "looks up in a table; look up",
}


def matching(sentence: str) -> str:
    """A sentence as a pattern, in which only `.*` is one."""
    return ".*".join(re.escape(part) for part in sentence.split(".*"))


@pytest.mark.parametrize("detail", REJECTED)
def test_the_cause_is_the_type_or_the_shape_and_the_cure_is_one(detail: str) -> None:
    told = str(explain(listing(detail)))
    assert re.search(matching(REJECTED[detail]), told), told
    assert REJECTED[detail].endswith("replace it in the model") or "replace it in the model" not in told


def test_dimensions_that_the_manifest_can_fix_are_told_with_it() -> None:
    detail = "Conv2D(tensor<?x?x?x3xf32>, tensor<3x3x3x2xf32>) -> (tensor<?x?x?x2xf32>)"
    assert '"input_shapes": {"image": [1, ?, ?, 3]}' in str(explain(listing(detail), names=FREE))


def test_operators_of_several_causes_are_told_with_their_own() -> None:
    message = listing(
        "Sin(tensor<?x8xf64>) -> (tensor<?x8xf64>)",
        "Cos(tensor<?x8xf64>) -> (tensor<?x8xf64>)",
        "Cholesky(tensor<?x3x3xf32>) -> (tensor<?x3x3xf32>)",
    ) + listing("PyFunc(tensor<?x8xf32>) -> (tensor<*xf32>)", kind="Custom")
    told = str(explain(message))
    assert "the model computes in float64, for which the converter has no built-in operators (Cos, Sin)" in told
    assert "no built-in operator for Cholesky; replace it in the model" in told
    assert "PyFunc runs Python code, which a converted model cannot; write it with TensorFlow's operators" in told


def test_names_alone_are_told_too() -> None:
    assert str(explain("TF Select ops: Erfinv\n")).endswith("no built-in operator for Erfinv; replace it in the model")


def test_a_loop_over_tensors_of_unknown_size_is_told_as_one() -> None:
    told = str(explain("'tf.TensorListReserve' op requires element_shape to be static during TF Lite transformation"))
    assert "a loop over tensors of unknown size" in told
    assert "fixed shapes" in told


PLAIN = Tensor("x", (1, 4), (1, 4), "float32", np.empty(0, np.float32), np.empty(0, np.int64), 0, False, False)
REFUSED = "tflite/kernels/elementwise.cc:144 {}Node number 0 (SQUARE) failed to prepare."


def squared(source: Tensor, result: Tensor) -> Graph:
    return Graph((Subgraph((source, result), (Operator("SQUARE", (0,), (1,)),), (0,), (1,)),))


def test_types_without_a_kernel_are_told() -> None:
    message = REFUSED.format("input->type != output->type (INT16 != FLOAT32)")
    told = not_prepared(message, squared(replace(PLAIN, dtype="int16"), PLAIN))
    assert told is not None
    assert "operator SQUARE (number 0) of int16 [1, 4] giving float32 [1, 4]: tflite/kernels/elementwise.cc:144" in told
    assert told.endswith("no kernel for these types: choose another quantization, or replace the operator")


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"shape_signature": (1, None)}, "unknown dimensions fixed, by input_shapes in the manifest"),
        ({"dtype": "complex64"}, "the real and the imaginary part in float32, each by itself"),
        ({}, "these shapes have no kernel: change that part of the model"),
    ],
)
def test_what_cannot_be_prepared_has_the_advice_that_fits(change: dict[str, object], advice: str) -> None:
    told = not_prepared(REFUSED.format("num_elements (5 != 0)"), squared(replace(PLAIN, **change), PLAIN))  # type: ignore[arg-type]
    assert told is not None
    assert told.endswith(advice)


def test_another_message_is_left_alone() -> None:
    assert not_prepared("out of memory") is None
