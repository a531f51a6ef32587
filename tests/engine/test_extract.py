"""One operator cut out of two files: whatever its inputs and outputs are, or an error that says why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from engine_models import Case, edited, normal

from tflite_guard.engine import graph
from tflite_guard.engine.extract import save_operator
from tflite_guard.engine.lab import integer_holders
from tflite_guard.engine.surgery import operator_alone
from tflite_guard.errors import ConversionError
from tflite_guard.protocol import SavedOperator

L = keras.layers


@pytest.fixture(scope="session")
def mixed(make_case: Callable[..., Case]) -> Case:
    """A sum of two convolutions, a square of one tensor, and a split that is joined again."""
    keras.utils.set_random_seed(11)
    image = keras.Input((6, 6, 2), name="image")
    one, two = L.Conv2D(4, 3, name="one")(image), L.Conv2D(4, 3, name="two")(image)
    summed = L.Add(name="summed")([one, two])
    squared = L.Multiply(name="squared")([summed, summed])
    first, second = keras.ops.split(squared, 2, axis=-1)
    joined = L.Concatenate(name="joined")([second, first])
    return make_case(
        "mixed", keras.Model(image, L.Dense(3, name="out")(L.Flatten()(joined))), {"image": normal(6, 6, 2)}
    )


def read(case: Case, io: str = "float32") -> tuple[bytes, bytes]:
    return Path(case.tflite("float32")).read_bytes(), Path(case.tflite("int8", io)).read_bytes()


def examples(case: Case, count: int = 3) -> Iterator[dict[str, Any]]:
    return ({name: values[i : i + 1] for name, values in case.data.items()} for i in range(count))


def result_of(model: bytes, kind: str) -> str:
    """What the only operator of a type gives first."""
    main = graph.read(model).main
    return next(main.tensors[op.outputs[0]].name for op in main.operators if op.type == kind)


def extracted(case: Case, kind: str, folder: Path) -> SavedOperator:
    exact, quantized = read(case)
    return save_operator(exact, quantized, result_of(quantized, kind), examples(case), str(folder))


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs"),
    [("ADD", 2, 1), ("MUL", 1, 1), ("SPLIT", 1, 2), ("CONCATENATION", 2, 1), ("FULLY_CONNECTED", 1, 1)],
)
def test_operators_of_every_shape_run_by_themselves(
    mixed: Case, tmp_path: Path, kind: str, inputs: int, outputs: int
) -> None:
    told = extracted(mixed, kind, tmp_path)
    assert (told.type, len(told.inputs), len(told.outputs), told.examples) == (kind, inputs, outputs, 3)
    assert told.sqnr is None or told.sqnr > 25
    for file, side in (("operator", "float"), ("operator_int8", "quantized")):
        content = (tmp_path / f"{file}.tflite").read_bytes()
        alone = graph.read(content)
        assert [op.type for op in alone.main.operators] == [kind]
        assert not alone.signatures
        used = {*alone.main.operators[0].inputs, *alone.main.operators[0].outputs} - {-1}
        assert len(alone.main.tensors) == len(used)
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        given, wanted = np.load(tmp_path / "inputs.npz"), np.load(tmp_path / "outputs.npz")
        for row in range(3):
            for place, detail in enumerate(interpreter.get_input_details()):
                interpreter.set_tensor(detail["index"], given[f"{side}_{place}"][row])
            interpreter.invoke()
            for place, detail in enumerate(interpreter.get_output_details()):
                np.testing.assert_array_equal(interpreter.get_tensor(detail["index"]), wanted[f"{side}_{place}"][row])


def test_the_last_operator_is_found_behind_its_conversion_to_float(mixed: Case) -> None:
    exact, quantized = (graph.read(one).main for one in read(mixed))
    holders = integer_holders(quantized, exact)
    ends = {side: exact.tensors[index].name for side, index in (("in", exact.inputs[0]), ("out", exact.outputs[0]))}
    kinds = {op.outputs[0]: op.type for op in quantized.operators}
    assert kinds[holders[ends["in"]]] == "QUANTIZE"
    assert kinds[holders[ends["out"]]] == "FULLY_CONNECTED"


def test_examples_of_other_shapes_than_the_first_are_left_out(mixed: Case, tmp_path: Path) -> None:
    """Of a batch, since what is saved is of one shape."""
    exact, quantized = read(mixed)
    values = mixed.data["image"]
    given = ({"image": values[:count]} for count in (2, 2, 1, 2))
    told = save_operator(exact, quantized, result_of(quantized, "ADD"), given, str(tmp_path))
    assert (told.examples, told.inputs[0].shape) == (2, (2, 4, 4, 4))


def test_what_does_not_correspond_is_an_error_that_says_so(mixed: Case, conv: Case, tmp_path: Path) -> None:
    exact, quantized = read(mixed)
    with pytest.raises(ConversionError, match="no operator of both files computes nothing"):
        save_operator(exact, quantized, "nothing", examples(mixed), str(tmp_path))
    with pytest.raises(ConversionError, match="no operator of both files computes"):
        save_operator(read(conv)[0], quantized, result_of(quantized, "ADD"), examples(conv), str(tmp_path))
    with pytest.raises(ConversionError, match="the float model calls its inputs image, not other"):
        save_operator(exact, quantized, result_of(quantized, "ADD"), [{"other": mixed.data["image"]}], str(tmp_path))

    def swap(content: Any) -> None:
        """Another operator computes what the float model's sum does."""
        main = content.subgraphs[0]
        kinds = [op.type for op in graph.read(quantized).main.operators]
        add, mul = main.operators[kinds.index("ADD")], main.operators[kinds.index("MUL")]
        add.outputs, mul.outputs = mul.outputs, add.outputs

    path = edited(mixed.tflite("int8"), tmp_path / "swapped.tflite", swap)
    with pytest.raises(ConversionError, match="do not correspond: ADD of 2 inputs and MUL of 1 inputs"):
        save_operator(exact, Path(path).read_bytes(), result_of(quantized, "ADD"), examples(mixed), str(tmp_path))
    assert not (tmp_path / "operator.tflite").exists()


def test_a_loop_is_nothing_by_itself(looped: Case) -> None:
    model = Path(looped.tflite("float32")).read_bytes()
    place = [op.type for op in graph.read(model).main.operators].index("WHILE")
    with pytest.raises(ConversionError, match="WHILE refers to other graphs or variables of the file"):
        operator_alone(model, place, {})
