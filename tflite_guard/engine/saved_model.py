"""What a SavedModel's graph holds and what running a part of it reaches. Runs nothing, loads no TensorFlow graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tflite_guard.errors import ModelFileError

INIT_SIGNATURE = "__saved_model_init_op"
# What tf.saved_model.load calls of an object: tables and other resources are made and filled.
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
