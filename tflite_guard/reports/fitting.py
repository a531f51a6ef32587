"""Text up to a limit in bytes: whole parts in order, and a count of those that were left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """A part that is there whole or not at all."""

    text: str
    kind: str = ""
    """What it counts as; nothing where nobody would miss it."""


@dataclass(frozen=True)
class Block:
    """Parts between two ends, which are there together as long as one of the parts is."""

    head: str
    parts: Iterable[Item | Block]
    tail: str = ""


class Page:
    """A page that is filled from the top."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._texts: list[str] = []
        self.shown: Counter[str] = Counter()
        """How many items of each kind are on it."""

    @property
    def text(self) -> str:
        """All of the page."""
        return "".join(self._texts)

    def add(self, parts: Iterable[Item | Block]) -> bool:
        """Add parts up to the first that does not fit; whether all of them did."""
        return all(self._block(part) if isinstance(part, Block) else self._item(part) for part in parts)

    def _item(self, item: Item) -> bool:
        fits = self._take(item.text)
        if fits:
            self._texts.append(item.text)
            self.shown[item.kind] += bool(item.kind)
        return fits

    def _block(self, block: Block) -> bool:
        if not self._take(block.head + block.tail):
            return False
        self._texts.append(block.head)
        before = len(self._texts)
        whole = self.add(block.parts)
        if len(self._texts) == before:
            self._texts.pop()
            self._room += size(block.head + block.tail)
        else:
            self._texts.append(block.tail)
        return whole

    def _take(self, text: str) -> bool:
        needed = size(text)
        if needed > self._room:
            return False
        self._room -= needed
        return True


def size(text: str) -> int:
    """Bytes in UTF-8."""
    return len(text.encode())
