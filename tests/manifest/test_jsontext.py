from __future__ import annotations

import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tflite_guard.errors import ManifestError, ManifestProblem
from tflite_guard.manifest import jsontext


def told(data: bytes) -> list[str]:
    """The problems of a text as `line:column: message`."""
    with pytest.raises(ManifestError) as caught:
        jsontext.parse(data, "m.json")
    assert {problem.path for problem in caught.value.problems} == {"m.json"}
    return [f"{found.line}:{found.column}: {found.message}" for found in caught.value.problems]


# --- what is wrong, at its place and in plain words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "1:1: the file is empty; tflite-guard init MODEL writes a first manifest"),
        (b"\xef\xbb\xbf \r\n\t", "1:1: the file is empty; tflite-guard init MODEL writes a first manifest"),
        (b'{"a": 1,}', "1:8: a comma after the last item; JSON allows none"),
        (b'{"a": [1,\n 2 ,\n ]}', "2:4: a comma after the last item; JSON allows none"),
        (b'{"a": 1, // one\n}', "1:10: JSON has no comments; remove this one"),
        (b'/* one */ {"a": 1}', "1:1: JSON has no comments; remove this one"),
        (b'{\n# one\n"a": 1}', "2:1: JSON has no comments; remove this one"),
        (b'{"a": 1}\n// end', "2:1: JSON has no comments; remove this one"),
        (b"{'a': 1}", '1:2: strings and keys are written in straight double quotes: "…"'),
        ('{"a": “b”}'.encode(), '1:7: strings and keys are written in straight double quotes: "…"'),
        (b'{"a": True}', "1:7: JSON writes true, not True"),
        (b'{"a": None}', "1:7: JSON writes null, not None"),
        (b'{"a": 007}', "1:8: a number has no leading zeros in JSON"),
        (b'{"a": .5}', "1:7: a value is expected here, not .5"),
        (b'{"a" 1}', '1:6: a ":" is missing between the key and 1'),
        (b'{"a": 1 "b": 2}', '1:9: a "," is missing before "'),
        (b'{"a": [1 2]}', '1:10: a "," is missing before 2'),
        (b"{a: 1}", "1:2: a key in double quotes is expected here, not a"),
        (b'{"a": [1,,]}', "1:10: a value is expected here, not ,"),
        (b'{"a": ,}', "1:7: a value is expected here, not ,"),
        ('{"a":\u00a01}'.encode(), "1:6: a value is expected here, not the character U+00A0"),
        (b'{"a": 1}}', "1:9: the manifest ends before this; remove }"),
        (b'{"a": "b', '1:7: this string has no closing "'),
        (
            b'{"a": "b\n"}',
            '1:9: a line break inside a string; a closing " may be missing (in a string, write \\n or \\t)',
        ),
        (b'{"a": "C:\\d"}', "1:10: no such escape in JSON; a backslash itself is written \\\\"),
        (b'{"a": {\n"b": 1,\n', '3:1: the file ends too early; the "{" on line 1 is not closed'),
        (b'{"a": [{}, "]"', '1:15: the file ends too early; the "[" on line 1 is not closed'),
        (b'{"a": 1, "a": 2}', '1:10: duplicate key "a", first on line 1'),
        (b'{"a": 1,\r\n\t"\\u0061": 2}', '2:2: duplicate key "a", first on line 1'),
        (b'{"a": NaN}', "1:7: NaN is not a number in JSON"),
        (b'{"a": 1e999}', "1:7: 1e999 is too large for a number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "1:7: 99999999999999999999… is too large for a number"),
        (b'{"\\ud800": 1}', "1:2: half of a surrogate pair (\\ud800 to \\udfff) is not a character"),
        (b"[1]", "1:1: a manifest is an object {…}, not an array"),
        (b'\n "x"', "2:2: a manifest is an object {…}, not a string"),
        (b"3", "1:1: a manifest is an object {…}, not a number"),
        (b"null", "1:1: a manifest is an object {…}, not null"),
        ('{"é": "\n'.encode() + b'\xff"}', "2:1: byte 0xff is not UTF-8; save the file as UTF-8"),
        (b'{"a": "\xc3', "1:8: byte 0xc3 is not UTF-8; save the file as UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "1:1: the text is UTF-16 or UTF-32; save it as UTF-8"),
        ('{"a": 1}'.encode("utf-16-le"), "1:1: the text is UTF-16 or UTF-32; save it as UTF-8"),
        ('{"a": 1}'.encode("utf-32"), "1:1: the text is UTF-16 or UTF-32; save it as UTF-8"),
    ],
)
def test_each_mistake_is_told_where_it_is(text: bytes, expected: str) -> None:
    assert told(text) == [expected]


def test_all_problems_of_a_sound_syntax_are_told_at_once() -> None:
    assert told(b'{"a": NaN,\n "a": [Infinity], "b": {"c": 1, "c": 2}}') == [
        "1:7: NaN is not a number in JSON",
        '2:2: duplicate key "a", first on line 1',
        "2:8: Infinity is not a number in JSON",
        '2:33: duplicate key "c", first on line 2',
    ]


def test_a_key_written_three_times_refers_to_the_first() -> None:
    assert told(b'{"a": 1,\n "a": 2,\n "a": 3}') == [
        '2:2: duplicate key "a", first on line 1',
        '3:2: duplicate key "a", first on line 1',
    ]


def test_nesting_is_allowed_to_64_levels() -> None:
    deepest = b'{"a":' + b"[" * 63 + b"]" * 63 + b"}"
    assert jsontext.parse(deepest, "m.json").value
    assert told(b'{"a":\n' + b"[" * 64 + b"]" * 64 + b"}") == ["2:64: nested more than 64 levels deep"]


@pytest.mark.parametrize("text", [b"[" * 10_000_000, b'{"a":' * 2_000_000, b'\\"' * 5_000_000, b'"\\' * 5_000_000])
def test_ten_megabytes_of_nonsense_are_told_soon(text: bytes) -> None:
    start = time.process_time()
    assert len(told(text)) == 1
    assert time.process_time() - start < 5


def test_more_values_than_can_be_placed_in_seconds_are_refused_before_they_are() -> None:
    few = b'{"a": [' + b"{}," * 99_990 + b"7]}"
    assert len(jsontext.parse(few, "m.json").value["a"]) == 99_991
    many = told(few.replace(b"7", b"[], 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20"))
    assert many == ["1:1: more than 200,000 values are too many for a manifest; split it into several"]


def test_brackets_in_strings_nest_nothing() -> None:
    assert jsontext.parse(json.dumps({"a": "[" * 1000, "b": '\\"[' * 99}).encode(), "m.json").value["a"] == "[" * 1000


# --- positions


def test_positions_count_characters_from_one() -> None:
    text = '\ufeff{\r\n\t"größe": [1, {"k": "v"}],\r\n  "日本": {"\\u0061": true}\r\n}'
    document = jsontext.parse(text.encode(), "m.json")
    assert document.at_value(()) == (1, 1)
    assert document.at_key(("größe",)) == (2, 2)
    assert document.at_value(("größe",)) == (2, 11)
    assert document.at_value(("größe", 1)) == (2, 15)
    assert document.at_key(("größe", 1)) == (2, 15)
    assert document.at_key(("größe", 1, "k")) == (2, 16)
    assert document.at_value(("日本",)) == (3, 9)
    assert document.at_key(("日本", "a")) == (3, 10)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=5)
SPACE = st.text("  \t\n", max_size=3).map(lambda text: text.replace("\n", "\r\n")) | st.text(" \t\n", max_size=3)


def write(value: Any, draw: Any, pointer: tuple[Any, ...], out: list[str], places: dict[Any, int]) -> None:
    """Write JSON with random white space and escapes, and note where each key and value begins."""

    def put(text: str) -> None:
        out.append(text)

    put(draw(SPACE))
    places["value", pointer] = sum(map(len, out))
    if isinstance(value, dict | list):
        put("{" if isinstance(value, dict) else "[")
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for index, (key, child) in enumerate(pairs):
            put("," if index else "")
            if isinstance(value, dict):
                put(draw(SPACE))
                places["key", (*pointer, key)] = sum(map(len, out))
                put(json.dumps(key, ensure_ascii=draw(st.booleans())) + draw(SPACE) + ":")
            write(child, draw, (*pointer, key), out, places)
            put(draw(SPACE))
        put(draw(SPACE) + ("}" if isinstance(value, dict) else "]"))
    else:
        put(json.dumps(value, ensure_ascii=draw(st.booleans())))


def counted(text: str, offset: int) -> tuple[int, int]:
    """Line and column of an offset, one character at a time."""
    line, column = 1, 1
    for char in text[:offset]:
        line, column = (line + 1, 1) if char == "\n" else (line, column + 1)
    return line, column


@given(value=OBJECTS, data=st.data(), mark=st.booleans())
def test_values_and_positions_agree_with_a_brute_force_oracle(value: dict[str, Any], data: Any, mark: bool) -> None:
    out: list[str] = []
    places: dict[Any, int] = {}
    write(value, data.draw, (), out, places)
    text = "".join(out) + data.draw(SPACE)
    document = jsontext.parse((b"\xef\xbb\xbf" if mark else b"") + text.encode(), "m.json")
    assert document.value == json.loads(text)
    assert len(document.values) + len(document.keys) == len(places)
    for (kind, pointer), offset in places.items():
        found = document.at_value(pointer) if kind == "value" else document.at_key(pointer)
        assert found == counted(text, offset)


TOKENS = st.sampled_from(
    [
        *("{", "}", "[", "]", ":", ",", '"a"', '"', "\\", "'", "1", "0", "-", "1e999", "NaN", "true", "nul", "//"),
        *("#", " ", "\n", "\r\n", "\t", "\ufeff", "é", "😀", "\\ud800"),
    ]
)


@settings(max_examples=500)
@given(st.binary(max_size=60) | st.lists(TOKENS, max_size=20).map(lambda parts: "".join(parts).encode()))
def test_any_bytes_give_a_document_or_a_manifest_error(data: bytes) -> None:
    found = outcome(data)
    content = data.removeprefix(b"\xef\xbb\xbf")
    if not isinstance(found, list):
        assert found.value == json.loads(content)
        return
    lines = content.decode("utf-8", "replace").split("\n")
    assert found
    for problem in found:
        assert problem.message
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1


def outcome(data: bytes) -> jsontext.Document | list[ManifestProblem]:
    try:
        return jsontext.parse(data, "m.json")
    except ManifestError as error:
        return error.problems


# --- files


def unreadable(path: str) -> str:
    with pytest.raises(ManifestError) as caught:
        jsontext.read(path)
    (problem,) = caught.value.problems
    assert (problem.path, problem.line, problem.column) == (path, 1, 1)
    return problem.message


def test_a_missing_manifest_names_the_command_that_writes_one(tmp_path: Path) -> None:
    expected = "no such file; tflite-guard init MODEL writes a first manifest"
    assert unreadable(str(tmp_path / "none.json")) == expected
    (tmp_path / "file").touch()
    assert unreadable(str(tmp_path / "file" / "none.json")) == expected


def test_a_folder_a_pipe_and_a_nameless_path_are_no_manifest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "folder" in unreadable(str(tmp_path))
    assert unreadable(str(tmp_path / "pipe")) == "this is not a regular file; name the manifest itself"
    assert "null byte" in unreadable("a\0b")
    assert unreadable(str(tmp_path / ("x" * 300))).startswith("cannot be read: File name too long")


def test_a_hundred_megabytes_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    tracemalloc.start()
    message = unreadable(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message == "100,000,000 bytes are too many for a manifest (at most 4,194,304); is it another file?"
    assert peak < 1_000_000


def test_an_unreadable_manifest_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "closed.json"
    path.write_bytes(b"{}")

    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    # Mode bits do not stop root, who may well run the tests.
    monkeypatch.setattr(Path, "open", refuse)
    assert unreadable(str(path)) == "cannot be read: Permission denied"
