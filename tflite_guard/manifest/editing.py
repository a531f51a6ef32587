"""A manifest's text changed by a merge patch (RFC 7396) as a person would change it: everything else stays as it is.

Each key that the patch sets or removes is one edit of the text, at the place where the reader found it. What is new is
laid out as its surroundings are: on a line of its own or not, with the same indentation, separators and line ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tflite_guard.manifest import jsontext
from tflite_guard.manifest.jsontext import Document, Pointer

WIDTH = 100
"""Columns up to which an object or array is written on one line."""
_MARK = "\ufeff"


def patched(text: str, target: str, patch: Mapping[str, Any]) -> str:
    """A text with a merge patch applied to the value at a JSON pointer (RFC 6901); what holds already stays unedited.

    Raises:
        ManifestError: the text, or the edited text on the way, is no JSON object.
        LookupError: there is no such value.
    """
    body = text.removeprefix(_MARK)
    mark = text[: len(text) - len(body)]
    return mark + _merged(body, _Text(body).pointer(target), patch)


def line_of(text: str, target: str, key: str) -> int:
    """The line of a key of the object at a JSON pointer; of the object itself where it has no such key."""
    found = _Text(text.removeprefix(_MARK))
    pointer = found.pointer(target)
    inner = (*pointer, key)
    return found.document.at_key(inner if inner in found.document.values else pointer)[0]


def merged(value: Any, patch: Any) -> Any:
    """A value with a merge patch applied."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), change)
    return result


class _Text:
    """A text with the places of what is in it, and the ways in which it is written."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.document: Document = jsontext.parse(text.encode("utf-8", "surrogatepass"), "the manifest")

    def pointer(self, written: str) -> Pointer:
        """The place that a JSON pointer names. Raises LookupError."""
        if written and not written.startswith("/"):
            raise LookupError(f"{written}: a JSON pointer begins with /")
        found: list[str | int] = []
        for token in written.split("/")[1:]:
            name = token.replace("~1", "/").replace("~0", "~")
            found.append(int(name) if isinstance(self.at(tuple(found)), list) and name.isdecimal() else name)
        if tuple(found) not in self.document.values:
            raise LookupError(f"{written}: there is no such value")
        return tuple(found)

    def at(self, pointer: Pointer) -> Any:
        """The value at a place; None where there is none."""
        value: Any = self.document.value
        for step in pointer:
            try:
                value = value[step]
            except (LookupError, TypeError):
                return None
        return value

    def span(self, pointer: Pointer) -> tuple[int, int]:
        """Where a value begins and ends."""
        return self.document.values[pointer], self.document.ends[pointer]

    def written(self, pointer: Pointer) -> str:
        """A value as it is written."""
        start, end = self.span(pointer)
        return self.text[start:end]

    def replaced(self, start: int, end: int, by: str) -> str:
        """The text with something else between two offsets."""
        return self.text[:start] + by + self.text[end:]

    def indent(self, offset: int) -> str:
        """The white space that the line of an offset begins with."""
        line = self.text[self._line_start(offset) : offset]
        return line[: len(line) - len(line.lstrip(" \t"))]

    def column(self, offset: int) -> int:
        """How many characters of its line are before an offset."""
        return offset - self._line_start(offset)

    def begins_line(self, offset: int) -> bool:
        """Whether nothing but white space is before an offset on its line."""
        return offset > 0 and "\n" in self.text[:offset] and not self.text[self._line_start(offset) : offset].strip()

    def _line_start(self, offset: int) -> int:
        return self.text.rfind("\n", 0, offset) + 1

    @cached_property
    def style(self) -> _Style:
        """How the text is written, as far as it can be seen."""
        inside = self.written(())
        broken = "\n" in inside
        newline = ("\r\n" if re.search(r"\r\n", inside) else "\n") if broken else ""
        return _Style(newline, self._unit(), self._colon(broken), self._all_broken())

    def _unit(self) -> str:
        for key in self.document.value:
            at = self.document.keys[(key,)]
            if self.begins_line(at) and (unit := self.indent(at)):
                return unit
        return "  "

    def _colon(self, broken: bool) -> str:
        if not self.document.value:
            return ": "
        pointer: Pointer = (next(iter(self.document.value)),)
        between = self.text[_past_string(self.text, self.document.keys[pointer]) : self.document.values[pointer]]
        return between if between in (":", ": ", " : ") else ": " if broken else ":"

    def _all_broken(self) -> bool:
        containers = [pointer for pointer in self.document.values if self.at(pointer) and self._is_container(pointer)]
        return all("\n" in self.written(pointer) for pointer in containers)

    def _is_container(self, pointer: Pointer) -> bool:
        return self.text[self.document.values[pointer]] in "[{"


@dataclass(frozen=True)
class _Style:
    newline: str
    """Empty where everything is on one line."""
    unit: str
    colon: str
    expanded: bool
    """Every object and array that holds something is written over several lines."""

    @property
    def comma(self) -> str:
        return "," if self.colon == ":" and not self.newline else ", "

    def line(self, value: Any) -> str:
        """A value on one line."""
        return json.dumps(value, ensure_ascii=False, separators=(self.comma, self.colon))

    def laid_out(self, value: Any, indent: str, column: int, broken: bool = False) -> str:
        """A value that begins in some column, on one line where the text does that and it fits."""
        line = self.line(value)
        fits = not self.expanded and not broken and column + len(line) <= WIDTH
        if not isinstance(value, dict | list) or not value or not self.newline or fits:
            return line
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        inner = indent + self.unit
        rows = f",{self.newline}".join(inner + row for row in self._rows(value, inner))
        return f"{opening}{self.newline}{rows}{self.newline}{indent}{closing}"

    def _rows(self, value: dict[str, Any] | list[Any], indent: str) -> Iterator[str]:
        named = (
            [("", one) for one in value] if isinstance(value, list) else [(self._key(k), v) for k, v in value.items()]
        )
        for key, one in named:
            yield key + self.laid_out(one, indent, len(indent) + len(key))

    def _key(self, key: str) -> str:
        return self.line(key) + self.colon


def _merged(text: str, pointer: Pointer, patch: Mapping[str, Any]) -> str:
    found = _Text(text)
    if not isinstance(found.at(pointer), dict):
        return _with_value(found, pointer, merged(None, patch))
    for key, value in patch.items():
        text = _with(text, (*pointer, key), value)
    return text


def _with(text: str, pointer: Pointer, value: Any) -> str:
    found = _Text(text)
    if pointer not in found.document.values:
        return text if value is None else _with_member(found, pointer, merged(None, value))
    if value is None:
        return _without_member(found, pointer)
    if isinstance(value, Mapping):
        return _merged(text, pointer, value)
    return text if _same(found.at(pointer), value) else _with_value(found, pointer, value)


def _with_value(found: _Text, pointer: Pointer, value: Any) -> str:
    start, end = found.span(pointer)
    broken = isinstance(found.at(pointer), dict | list) and "\n" in found.text[start:end]
    return found.replaced(start, end, found.style.laid_out(value, found.indent(start), found.column(start), broken))


def _with_member(found: _Text, pointer: Pointer, value: Any) -> str:
    """Append a member to an object, as its last one is set apart from the one before."""
    parent, name = pointer[:-1], str(pointer[-1])
    start, end = found.span(parent)
    if not found.at(parent):
        laid_out = found.style.laid_out({name: value}, found.indent(start), found.column(start))
        return found.replaced(start, end, laid_out)
    separator = _separator(found, parent)
    last = (*parent, list(found.at(parent))[-1])
    key = found.style.line(name) + found.style.colon
    at = found.document.ends[last]
    lead = separator + key
    # Beside its neighbours on a line, only what is long by itself is broken.
    column = len(lead.rpartition("\n")[2])
    indent = found.indent(found.document.keys[last])
    return found.replaced(at, at, lead + found.style.laid_out(value, indent, column))


def _separator(found: _Text, parent: Pointer) -> str:
    """What is written between two members, without empty lines."""
    *before, last = [(*parent, key) for key in found.at(parent)]
    at = found.document.keys[last]
    if before:
        between = found.text[found.document.ends[before[-1]] : at]
        return re.sub(r"(?:\r?\n[ \t\r]*)+(?=\r?\n)", "", between)
    return f",{found.style.newline}{found.indent(at)}" if found.begins_line(at) else found.style.comma


def _without_member(found: _Text, pointer: Pointer) -> str:
    """Remove a member with the comma that set it apart."""
    parent = pointer[:-1]
    keys = list(found.at(parent))
    place = keys.index(pointer[-1])
    if place:
        return found.replaced(found.document.ends[(*parent, keys[place - 1])], found.document.ends[pointer], "")
    if len(keys) > 1:
        return found.replaced(found.document.keys[pointer], found.document.keys[(*parent, keys[1])], "")
    start, end = found.span(parent)
    return found.replaced(start, end, "{}")


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON; in Python true is 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _past_string(text: str, at: int) -> int:
    _, end = json.JSONDecoder().raw_decode(text, at)
    return int(end)
