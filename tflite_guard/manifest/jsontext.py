"""JSON with positions. The standard library decides what is JSON; this adds where everything stands.

Every problem of the text itself is told here, at its place and in plain words: encoding, syntax,
duplicate keys, numbers that JSON does not have, nesting that nobody writes by hand.
"""

from __future__ import annotations

import bisect
import json
import math
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tflite_guard.errors import ManifestError, ManifestProblem, first_of
from tflite_guard.manifest.location import displayed, strays, utf8

Pointer = tuple[str | int, ...]
"""The way to a value from the top: keys and indices from 0."""

MAX_BYTES = 4 << 20
MAX_DEPTH = 64
MAX_VALUES = 200_000
"""Objects, arrays and elements, whose places are noted one by one: some hundred thousand a second."""

_SPACE = re.compile(r"[ \t\n\r]*")
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_WORD = re.compile(r"[\w.+-]+")
_DIGITS_MAX = 400  # more than a double holds, less than Python's own limit on int()
_LITERALS = {"True": "true", "False": "false", "None": "null", "undefined": "null", "nil": "null"}


class Document(msgspec.Struct, frozen=True):
    """A JSON object with the place of every key and value, as offsets into the text by pointer."""

    name: str
    value: dict[str, Any]
    keys: dict[Pointer, int]
    values: dict[Pointer, int]
    ends: dict[Pointer, int]
    """The offset past each value."""
    line_starts: list[int]

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both from 1; a tab is one column."""
        return _position(self.line_starts, offset)

    def at_value(self, pointer: Pointer) -> tuple[int, int]:
        """Line and column where a value begins."""
        return self.position(self.values[pointer])

    def at_key(self, pointer: Pointer) -> tuple[int, int]:
        """Line and column of a member's key; of the value where it has none (an array's element, the top)."""
        return self.position(self.keys.get(pointer, self.values[pointer]))


def read(path: str, data_roots: Sequence[str] = ()) -> bytes:
    """The bytes of a manifest.

    Raises ManifestError when there is no such file, none of a sensible size, or only a link that leads out of its
    repository and the data roots.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise _error(path, "no such file; tflite-guard init MODEL writes a first manifest") from None
    except (OSError, ValueError) as error:
        raise _error(path, f"cannot be read: {_reason(error)}") from None
    if stat.S_ISDIR(status.st_mode):
        raise _error(path, "this is a folder; name the manifest in it, such as tflite-guard.json")
    if not stat.S_ISREG(status.st_mode):
        raise _error(path, "this is not a regular file; name the manifest itself")
    for place in (os.path.abspath(path), os.path.realpath(path)):
        if not utf8(place):
            raise _error(path, f"its path {displayed(place)} is not UTF-8; rename what is written as \\x…")
    if (real := strays(path, data_roots)) is not None:
        message = (
            f"leads out of its repository, to {real}; put the manifest itself here, or allow that with --data-root"
        )
        raise _error(path, message)
    if status.st_size > MAX_BYTES:
        raise _error(
            path, f"{status.st_size:,} bytes are too many for a manifest (at most {MAX_BYTES:,}); is it another file?"
        )
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _error(path, f"cannot be read: {_reason(error)}") from None


def parse(data: bytes, name: str) -> Document:
    """Read a JSON object. Raises ManifestError, never anything else, with each problem at its place.

    Lines end with LF or CR LF. Columns count characters, a tab is one, a byte-order mark none.
    """
    text = _decode(data, name)
    starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def problem(offset: int, message: str) -> ManifestProblem:
        return ManifestProblem(name, *_position(starts, offset), message)

    if not text.strip(" \t\r\n"):
        raise _error(name, "the file is empty; tflite-guard init MODEL writes a first manifest")
    if (deep := _too_deep(text)) is not None:
        raise ManifestError([problem(deep, f"nested more than {MAX_DEPTH} levels deep")])
    if sum(map(text.count, "{[,")) > MAX_VALUES:
        raise _error(name, f"more than {MAX_VALUES:,} values are too many for a manifest; split it into several")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ManifestError([problem(*_explain(text, error, starts))]) from None
    walk = _Walk(text, starts)
    walk.value(0, ())
    if walk.problems:
        raise ManifestError(first_of(problem(*found) for found in walk.problems))
    if not isinstance(value, dict):
        raise ManifestError([problem(walk.values[()], f"a manifest is an object {{…}}, not {kind_of(value)}")])
    return Document(name, value, walk.keys, walk.values, walk.ends, starts)


def kind_of(value: Any) -> str:
    """What a JSON value is, in words with their article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


class _Walk:
    """One pass over text known to be JSON of bounded depth, which notes where keys begin, and values begin and end."""

    def __init__(self, text: str, starts: list[int]) -> None:
        self.text = text
        self.starts = starts
        self.keys: dict[Pointer, int] = {}
        self.values: dict[Pointer, int] = {}
        self.ends: dict[Pointer, int] = {}
        self.problems: list[tuple[int, str]] = []

    def value(self, at: int, pointer: Pointer) -> int:
        """Note the value that begins at or after an offset; gives the offset past it."""
        at = _past_space(self.text, at)
        self.values[pointer] = at
        if self.text[at] == "{":
            end = self._object(at, pointer)
        elif self.text[at] == "[":
            end = self._array(at, pointer)
        else:
            end = self._scalar(at)[1]
        self.ends[pointer] = end
        return end

    def _object(self, at: int, pointer: Pointer) -> int:
        first: dict[str, int] = {}
        at = _past_space(self.text, at + 1)
        while self.text[at] != "}":
            at = _past_space(self.text, at + 1) if self.text[at] == "," else at
            key, end = self._scalar(at)
            if key in first:
                line = _position(self.starts, first[key])[0]
                self.problems.append((at, f"duplicate key {quoted(key)}, first on line {line}"))
            first.setdefault(key, at)
            self.keys[(*pointer, key)] = at
            at = self.value(_past_space(self.text, end) + 1, (*pointer, key))
            at = _past_space(self.text, at)
        return at + 1

    def _array(self, at: int, pointer: Pointer) -> int:
        index = 0
        at = _past_space(self.text, at + 1)
        while self.text[at] != "]":
            at = self.value(at + 1 if self.text[at] == "," else at, (*pointer, index))
            at = _past_space(self.text, at)
            index += 1
        return at + 1

    def _scalar(self, at: int) -> tuple[Any, int]:
        value, end = _DECODER.raw_decode(self.text, at)
        if isinstance(value, float) and not math.isfinite(value):
            self.problems.append((at, _not_finite(self.text[at:end])))
        if isinstance(value, str) and not _encodable(value):
            self.problems.append((at, "half of a surrogate pair (\\ud800 to \\udfff) is not a character"))
        return value, end


def quoted(value: Any, limit: int = 60) -> str:
    """A value as JSON, shortened for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _integer(digits: str) -> float:
    number = int(digits) if len(digits) <= _DIGITS_MAX else math.inf
    return number if abs(number) <= sys.float_info.max else math.inf


_DECODER = json.JSONDecoder(parse_int=_integer)


def _decode(data: bytes, name: str) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4]:
        raise _error(name, "the text is UTF-16 or UTF-32; save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        message = f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ManifestError([ManifestProblem(name, line, column, message)]) from None


def _too_deep(text: str) -> int | None:
    """The offset of the first bracket below the greatest depth. Linear, and before anything recurses."""
    depth = 0
    for match in _brackets(text):
        depth += 1 if match.group() in "[{" else -1
        if depth > MAX_DEPTH:
            return match.start()
    return None


def _brackets(text: str) -> Iterator[re.Match[str]]:
    return (match for match in _STRING_OR_BRACKET.finditer(text) if match.group() in ("[", "]", "{", "}"))


def _explain(text: str, error: json.JSONDecodeError, starts: list[int]) -> tuple[int, str]:
    """Where the text stops being JSON, and why in plain words (the decoder's own vary between Pythons)."""
    if error.msg.startswith("Unterminated string"):
        return error.pos, 'this string has no closing "'
    if error.msg.startswith("Invalid control character"):
        inside = f"{_character(text[error.pos])} inside a string"
        return error.pos, f'{inside}; a closing " may be missing (in a string, write \\n or \\t)'
    if error.msg.startswith("Invalid \\"):
        return error.pos, "no such escape in JSON; a backslash itself is written \\\\"
    at = _past_space(text, error.pos)
    if place := _trailing_comma(text, at) or _unclosed(text, at, starts):
        return place
    return at, _foreign(text, at) or _expected(text, at, error)


def _trailing_comma(text: str, at: int) -> tuple[int, str] | None:
    """Decoders complain at the comma itself (Python 3.13) or at the bracket after it."""
    before = text[:at].rstrip(" \t\n\r")
    if text[at : at + 1] in ("]", "}") and before.endswith(","):
        comma = len(before) - 1
    elif text.startswith(",", at) and text.startswith(("]", "}"), _past_space(text, at + 1)):
        comma = at
    else:
        return None
    item = text[:comma].rstrip(" \t\n\r")[-1:]
    return None if item in ("", ":", ",", "[", "{") else (comma, "a comma after the last item; JSON allows none")


def _unclosed(text: str, at: int, starts: list[int]) -> tuple[int, str] | None:
    if at < len(text):
        return None
    opened: list[re.Match[str]] = []
    for match in _brackets(text):
        if match.group() in "[{":
            opened.append(match)
        elif opened:
            opened.pop()
    if not opened:
        return at, "the file ends too early"
    line = _position(starts, opened[-1].start())[0]
    return at, f'the file ends too early; the "{opened[-1].group()}" on line {line} is not closed'


def _foreign(text: str, at: int) -> str | None:
    """What other languages allow and JSON does not."""
    if text.startswith(("//", "/*", "#"), at):
        return "JSON has no comments; remove this one"
    if text[at] in "'`“”‘’":  # the last four are a word processor's
        return 'strings and keys are written in straight double quotes: "…"'
    if (word := _word(text, at)) in _LITERALS:
        return f"JSON writes {_LITERALS[word]}, not {word}"
    if at and text[at].isdigit() and text[at - 1] == "0":
        return "a number has no leading zeros in JSON"
    return None


def _expected(text: str, at: int, error: json.JSONDecodeError) -> str:
    found = _word(text, at)[:40] or _character(text[at])
    for start, message in (
        ("Extra data", f"the manifest ends before this; remove {found}"),
        ("Expecting ',' delimiter", f'a "," is missing before {found}'),
        ("Expecting ':' delimiter", f'a ":" is missing between the key and {found}'),
        ("Expecting property name", f"a key in double quotes is expected here, not {found}"),
    ):
        if error.msg.startswith(start):
            return message
    return f"a value is expected here, not {found}"


def _word(text: str, at: int) -> str:
    match = _WORD.match(text, at)
    return match.group() if match else ""


def _character(char: str) -> str:
    names = {"\n": "a line break", "\r": "a line break", "\t": "a tab"}
    shown = char if char.isprintable() and char.isascii() else f"the character U+{ord(char):04X}"
    return names.get(char, shown)


def _not_finite(token: str) -> str:
    if token.lstrip("-")[:1].isdigit():
        return f"{token[:20]}{'…' if len(token) > 20 else ''} is too large for a number"
    return f"{token} is not a number in JSON"


def _encodable(value: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in value) if not value.isascii() else True


def _past_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _position(starts: list[int], offset: int) -> tuple[int, int]:
    line = bisect.bisect_right(starts, offset)
    return line, offset - starts[line - 1] + 1


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _error(name: str, message: str) -> ManifestError:
    return ManifestError([ManifestProblem(displayed(name), 1, 1, message)])
