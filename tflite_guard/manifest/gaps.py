"""What a manifest leaves open: texts in place of values, which say what to put there."""

from __future__ import annotations

from collections.abc import Iterator

from tflite_guard.errors import ManifestProblem
from tflite_guard.manifest.jsontext import Pointer
from tflite_guard.manifest.tree import Node

MARK = "FILL IN: "


def gap(asked: str) -> str:
    """What stands in place of a value that cannot be known; `asked` says what to put there."""
    return MARK + asked


def gaps(tree: Node) -> Iterator[tuple[Pointer, ManifestProblem]]:
    """The gaps of a manifest, each with what to say of it."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node.content, str) and node.content.startswith(MARK):
            yield node.pointer, node.problem(f"left open; put here {node.content.removeprefix(MARK)}")
        pending += [inner for _, inner in node.members()] + node.elements()
