"""What a SavedModel's graph holds and what running a part of it reaches. Runs nothing, loads no TensorFlow graph."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tflite_guard.errors import ModelFileError

INIT_SIGNATURE = "__saved_model_init_op"
# What tf.saved_model.load calls of an object: tables and other resources are made and filled.
CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
HANDED_ON = frozenset({"Identity", "Cast", "Placeholder", "Sub", "Add", "AddV2", "BiasAdd"})
"""Operators between an input and what scales it."""
LOAD_FUNCTIONS = frozenset({"_create_resource", "_initialize", "_destroy_resource"})


@dataclass(frozen=True)
class Reached:
    """Nodes of the main graph and functions, by name."""

    nodes: frozenset[str]
    functions: frozenset[str]


class MetaGraph:
    """One graph of a SavedModel, with the functions that it calls."""

    def __init__(self, meta: Any) -> None:
        self._meta = meta
        self._functions = {function.signature.name: function for function in meta.graph_def.library.function}
        self._nodes = {node.name: node for node in meta.graph_def.node}
        self._local_initializers = [variable.initializer_name for variable in _variables(meta, "local_variables")]

    def members(self, reached: Reached) -> Iterator[Any]:
        """All nodes, those within functions too."""
        yield from (self._nodes[name] for name in sorted(reached.nodes))
        for name in sorted(reached.functions):
            yield from self._functions[name].node_def

    def defines(self, function: str) -> bool:
        """Whether the file holds a function of this name."""
        return function in self._functions

    def signature(self, name: str) -> Reached:
        """What computing a signature's outputs runs; nothing where there is no such signature."""
        if name not in self._meta.signature_def:
            return self._reached([])
        return self._reached(info.name for info in self._meta.signature_def[name].outputs.values())

    def restoring(self) -> Reached:
        """What gives the variables their saved values."""
        return self._reached([self._meta.saver_def.restore_op_name])

    def loading(self) -> Reached:
        """What loading runs besides: initialization of the graph and of the objects saved with it."""
        init = self._meta.signature_def[INIT_SIGNATURE].outputs if INIT_SIGNATURE in self._meta.signature_def else {}
        # Initializers of tables are named in collections; it does no harm to look at the other collections' nodes too.
        listed = (node for collection in self._meta.collection_def.values() for node in collection.node_list.value)
        return self._reached(
            [*(info.name for info in init.values()), *listed, *self._local_initializers], self._load_functions()
        )

    def unrestored_variables(self, signature: str) -> list[str]:
        """Variables that a signature uses and that neither restoring nor initialization gives a value.

        tf.saved_model.load finds their values among the saved objects, which the converter does not ask.
        """
        filled = self.restoring().nodes | self.loading().nodes
        used = self.signature(signature).nodes - filled
        return sorted(name for name in used if self._nodes[name].op == "VarHandleOp")

    def scaling(self, signature: str) -> list[str]:
        """The nodes that multiply or divide an input of a signature by what is no input, before all else."""
        found: list[str] = []
        seen: set[str] = set()
        given = self._meta.signature_def[signature].inputs.values() if signature in self._meta.signature_def else ()
        pending: list[tuple[Sequence[Any], set[str]]] = [(self._meta.graph_def.node, {_node_of(i.name) for i in given})]
        while pending:
            nodes, inputs = pending.pop()
            for node, places in _at_inputs(nodes, inputs):
                function = self._functions.get(node.attr["f"].func.name) if node.op in CALLS else None
                if function is not None and function.signature.name not in seen:
                    seen.add(function.signature.name)
                    named = function.signature.input_arg
                    pending.append((function.node_def, {named[place].name for place in places if place < len(named)}))
                elif node.op == "Mul" or (node.op in ("RealDiv", "Div") and places == [0]):
                    found.append(node.name)
        return found

    def _load_functions(self) -> Iterator[str]:
        objects = self._meta.object_graph_def.nodes
        for saved in objects:
            called = [child.node_id for child in saved.children if child.local_name in LOAD_FUNCTIONS]
            for saveable in saved.saveable_objects.values():
                called += [saveable.save_function, saveable.restore_function]
            for function in (objects[index] for index in called if 0 <= index < len(objects)):
                yield from function.function.concrete_functions
                yield function.bare_concrete_function.concrete_function_name

    def _reached(self, tensors: Iterable[str], functions: Iterable[str] = ()) -> Reached:
        pending = [_node_of(tensor) for tensor in tensors if tensor]
        reached: set[str] = set()
        called = list(functions)
        while pending:
            name = pending.pop()
            if name not in reached and name in self._nodes:
                reached.add(name)
                pending.extend(_node_of(tensor) for tensor in self._nodes[name].input)
                called.extend(_called(self._nodes[name]))
        return Reached(frozenset(reached), frozenset(self._within(called)))

    def _within(self, pending: list[str]) -> set[str]:
        """Functions and those that they call."""
        reached: set[str] = set()
        while pending:
            name = pending.pop()
            if name not in reached and name in self._functions:
                reached.add(name)
                pending.extend(called for node in self._functions[name].node_def for called in _called(node))
        return reached


def meta_graphs(path: str) -> list[MetaGraph]:
    """The graphs of a SavedModel; one in all but rare cases. Raises ModelFileError for a damaged one."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        model = saved_model_pb2.SavedModel.FromString((Path(path) / "saved_model.pb").read_bytes())
        graphs = [MetaGraph(meta) for meta in model.meta_graphs]
    except (DecodeError, OSError) as error:
        raise ModelFileError(f"{path}: saved_model.pb is truncated or damaged; export the model again") from error
    if not graphs:
        raise ModelFileError(f"{path}: saved_model.pb holds no graph; export the model again")
    return graphs


def signature_operators(path: str, signature: str) -> set[str]:
    """The operators that computing a SavedModel's signature reaches, in whatever function."""
    return {node.op for graph in meta_graphs(path) for node in graph.members(graph.signature(signature))}


def restores_its_variables(path: str, signature: str) -> bool:
    """Whether a SavedModel's restoring fills all variables that the signature uses, as a conversion needs."""
    return not any(graph.unrestored_variables(signature) for graph in meta_graphs(path))


def scaling(path: str, signature: str) -> tuple[str, ...]:
    """What scales a signature's inputs before all else, as the graph calls it."""
    return tuple(name for graph in meta_graphs(path) for name in graph.scaling(signature))


def _at_inputs(nodes: Sequence[Any], inputs: set[str]) -> Iterator[tuple[Any, list[int]]]:
    """The nodes that alone take an input as it is, or cast and shifted, and at which places; all such calls, too."""
    given = {node.name: [_node_of(ref) for ref in node.input if not ref.startswith("^")] for node in nodes}
    kinds = {node.name: node.op for node in nodes}
    readers: dict[str, list[str]] = {}
    for name, refs in given.items():
        for ref in refs:
            readers.setdefault(ref, []).append(name)
    depending = _following(inputs, readers, given)
    alone = {ref for ref, names in readers.items() if sum(kinds[name] != "Shape" for name in names) == 1}
    single = {
        name
        for name, refs in given.items()
        if len(read := [r for r in refs if r in depending]) == 1 and read[0] in alone
    }
    carried = _following(inputs, readers, {node.name for node in nodes if node.op in HANDED_ON} & single)
    for node in nodes:
        places = [place for place, ref in enumerate(given[node.name]) if ref in carried]
        if places and (node.name in single or node.op in CALLS):
            yield node, places


def _following(start: Collection[str], readers: Mapping[str, Sequence[str]], among: Collection[str]) -> set[str]:
    """Nodes with those that read them, and those that read these, as far as they are among some."""
    known, pending = {*start}, [*start]
    while pending:
        more = {name for name in readers.get(pending.pop(), ()) if name in among} - known
        known |= more
        pending += more
    return known


def _variables(meta: Any, collection: str) -> Iterator[Any]:
    from tensorflow.core.framework import variable_pb2

    if collection in meta.collection_def:
        for raw in meta.collection_def[collection].bytes_list.value:
            yield variable_pb2.VariableDef.FromString(raw)


def _called(node: Any) -> list[str]:
    values = list(node.attr.values())
    single = [value.func.name for value in values if value.func.name]
    return [node.op, *single, *(function.name for value in values for function in value.list.func)]


def _node_of(tensor: str) -> str:
    return tensor.lstrip("^").split(":")[0]
