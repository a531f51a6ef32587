"""A document as nodes that know their place, without the parts that the schema has rejected.

What is left conforms to the schema, so its meaning can be checked in the same run: a typo in one
model does not hide a missing file in another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from typing import Any

import msgspec

from tflite_guard.errors import ManifestProblem, Place
from tflite_guard.manifest.jsontext import Document, Pointer


class Node(msgspec.Struct, frozen=True):
    """A value of the manifest and where it stands."""

    document: Document
    pointer: Pointer
    content: Any
    """A scalar, a dict of nodes, or a list of nodes."""
    removed: frozenset[str | int] = msgspec.field(default_factory=frozenset)
    """Keys or indices that the manifest has here but the schema rejected."""

    def get(self, key: str) -> Node | None:
        """A member of an object; None when absent, or when this is no object."""
        return self.content.get(key) if isinstance(self.content, dict) else None

    def members(self) -> Iterator[tuple[str, Node]]:
        """The members of an object; none when this is something else."""
        if isinstance(self.content, dict):
            yield from self.content.items()

    def elements(self) -> list[Node]:
        """The elements of an array; none when this is something else."""
        return self.content if isinstance(self.content, list) else []

    def value(self) -> Any:
        """The JSON value that this node stands for."""
        if isinstance(self.content, dict):
            return {key: node.value() for key, node in self.content.items()}
        if isinstance(self.content, list):
            return [node.value() for node in self.content]
        return self.content

    @property
    def line(self) -> int:
        """The line of the key, or of the value where there is no key, from 1."""
        return self.document.at_key(self.pointer)[0]

    @property
    def place(self) -> Place:
        """Where the value begins."""
        return Place(self.document.name, *self.document.at_value(self.pointer))

    @property
    def key_place(self) -> Place:
        """Where its key begins, or the value where there is no key."""
        return Place(self.document.name, *self.document.at_key(self.pointer))

    def problem(self, message: str) -> ManifestProblem:
        """A problem at this value."""
        return ManifestProblem(self.document.name, *self.document.at_value(self.pointer), message)

    def key_problem(self, message: str) -> ManifestProblem:
        """A problem at this value's key."""
        return ManifestProblem(self.document.name, *self.document.at_key(self.pointer), message)


def tree_of(document: Document, rejected: Set[Pointer] = frozenset()) -> Node | None:
    """The document without the rejected values; None when the top itself is rejected."""
    return None if () in rejected else _node(document, document.value, (), rejected)


def without_rejected(
    document: Document, judge: Callable[[Node], list[tuple[Pointer, ManifestProblem | None]]]
) -> tuple[Node | None, list[ManifestProblem]]:
    """Remove what `judge` rejects until it rejects nothing; gives the rest and the first round's problems.

    Later rounds reject only what earlier removals left incomplete, so their problems would be noise.
    """
    rejected: set[Pointer] = set()
    problems: list[ManifestProblem] = []
    while (tree := tree_of(document, rejected)) is not None and (found := judge(tree)):
        if not rejected:
            problems = [problem for _, problem in found if problem]
        rejected |= {pointer for pointer, _ in found}
    return tree, problems


def _node(document: Document, value: Any, pointer: Pointer, rejected: Set[Pointer]) -> Node:
    if not isinstance(value, dict | list):
        return Node(document, pointer, value)
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    sound = [(key, child) for key, child in pairs if (*pointer, key) not in rejected]
    kept = {key: _node(document, child, (*pointer, key), rejected) for key, child in sound}
    removed = frozenset(key for key, _ in pairs if key not in kept)
    return Node(document, pointer, kept if isinstance(value, dict) else list(kept.values()), removed)
