"""A manifest's text after a merge patch: what it says by RFC 7396, and how it looks."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import EXAMPLES
from tflite_guard.manifest import jsontext
from tflite_guard.manifest.editing import line_of, patched

BROKEN = (EXAMPLES / "digits-broken/tflite-guard.json").read_text()
PREPROCESS = {"preprocess": [{"cast": "float32"}, {"scale": 0.0625}]}


def by_rfc(value: Any, patch: Any) -> Any:
    """MergePatch of RFC 7396, section 2, to the letter."""
    if isinstance(patch, dict):
        if not isinstance(value, dict):
            value = {}
        value = dict(value)
        for name, change in patch.items():
            if change is None:
                if name in value:
                    del value[name]
            else:
                value[name] = by_rfc(value.get(name), change)
        return value
    return patch


# --- what it says

KEYS = st.sampled_from(["a", "b", "c", "name", "a/b", "~", "", "é\u2028", '"\\', "0"]) | st.text(max_size=3)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)


def tree(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
    )


OBJECTS = st.dictionaries(KEYS, tree(SCALARS), max_size=5)


@st.composite
def written(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """An object as somebody may have written it: any white space anywhere, a mark, either line end, escapes."""
    value = draw(OBJECTS)
    style = draw(st.sampled_from(["indented", "tabs", "one line", "minified", "wild"]))
    if style == "wild":
        text = wild(value, draw(st.randoms(use_true_random=False)))
    else:
        indent = {"indented": 2, "tabs": "\t"}.get(style)
        separators = (",", ":") if style == "minified" else None
        text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=draw(st.booleans()))
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    return draw(st.sampled_from(["", "\ufeff"])) + text + draw(st.sampled_from(["", "\n", "\r\n", "\n\n"])), value


def wild(value: Any, chance: random.Random) -> str:
    def space() -> str:
        return "".join(chance.choices([" ", "\t", "\n", "\r\n", "\r"], k=chance.choice([0, 0, 1, 2])))

    if isinstance(value, dict):
        parts = [f"{space()}{json.dumps(k)}{space()}:{space()}{wild(v, chance)}{space()}" for k, v in value.items()]
        return "{" + (",".join(parts) or space()) + "}"
    if isinstance(value, list):
        return "[" + (",".join(f"{space()}{wild(one, chance)}{space()}" for one in value) or space()) + "]"
    return json.dumps(value)


def places(value: Any, at: str = "") -> list[str]:
    """The JSON pointers of everything in a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    below = [
        place
        for key, child in inner
        for place in places(child, f"{at}/{str(key).replace('~', '~0').replace('/', '~1')}")
    ]
    return [at, *below]


def follow(value: Any, pointer: str) -> tuple[Any, list[Any]]:
    way: list[Any] = []
    for token in pointer.split("/")[1:]:
        key: Any = token.replace("~1", "/").replace("~0", "~")
        key = int(key) if isinstance(value, list) else key
        way.append(key)
        value = value[key]
    return value, way


def with_value(whole: Any, way: list[Any], new: Any) -> Any:
    if not way:
        return new
    copy = dict(whole) if isinstance(whole, dict) else list(whole)
    copy[way[0]] = with_value(whole[way[0]], way[1:], new)
    return copy


def read(text: str) -> Any:
    return json.loads(text.removeprefix("\ufeff"))


def exact(value: Any) -> str:
    """A value such that equal means equal in JSON: true is not 1 there."""
    return json.dumps(value, sort_keys=True)


@settings(max_examples=500)
@given(written(), OBJECTS, st.data())
@example(("{}", {}), {"a": None}, None)
@example(('{"a": 1}', {"a": 1}), {"a": True}, None)
@example(('{"a": 1}', {"a": 1}), {"a": {"b": None}}, None)
def test_it_says_what_the_rfc_says_and_the_rest_is_untouched(
    document: tuple[str, dict[str, Any]], patch: dict[str, Any], data: st.DataObject | None
) -> None:
    text, value = document
    target = data.draw(st.sampled_from(places(value))) if data else ""
    found, way = follow(value, target)
    edited = patched(text, target, patch)
    assert exact(read(edited)) == exact(with_value(value, way, by_rfc(found, patch)))
    start, end = span(text, tuple(way))
    assert edited[:start] == text[:start]
    assert edited[len(edited) - len(text) + end :] == text[end:]
    assert patched(edited, target, patch) == edited
    if exact(by_rfc(found, patch)) == exact(found):
        assert edited == text


def span(text: str, way: tuple[Any, ...]) -> tuple[int, int]:
    document = jsontext.parse(text.encode(), "m.json")
    mark = len(text) - len(text.removeprefix("\ufeff"))
    return document.values[way] + mark, document.ends[way] + mark


@settings(max_examples=200)
@given(OBJECTS, OBJECTS, st.sampled_from([2, 4, "\t"]), st.booleans())
def test_what_json_dumps_has_laid_out_stays_so(
    value: dict[str, Any], patch: dict[str, Any], indent: int | str, windows: bool
) -> None:
    """A text that is expanded throughout, with something in it to see that by, reads as if it were written anew."""
    value = {"first": {"inner": [1]}} | value
    end = "\r\n" if windows else "\n"

    def laid_out(one: Any) -> str:
        return json.dumps(one, indent=indent, ensure_ascii=False).replace("\n", end)

    assert patched(laid_out(value), "", patch) == laid_out(by_rfc(value, patch))


# --- how it looks


def test_an_array_on_one_line_stays_on_one() -> None:
    edited = patched(BROKEN, "/datasets/calib", PREPROCESS)
    before, after = '"preprocess": [{"cast": "float32"}]\n', '"preprocess": [{"cast": "float32"}, {"scale": 0.0625}]\n'
    assert edited == BROKEN.replace(before, after)
    assert edited != BROKEN


@pytest.mark.parametrize(
    ("text", "target", "patch", "expected"),
    [
        ('{"v": ["int8"]}', "/v/0", {"name": "int8", "k": 1}, '{"v": [{"name": "int8", "k": 1}]}'),
        ('{"v":["int8"]}', "/v/0", {"name": "int8", "k": [1, 2]}, '{"v":[{"name":"int8","k":[1,2]}]}'),
        ('{\n  "v": [\n    "int8"\n  ]\n}\n', "/v/0", {"k": 1}, '{\n  "v": [\n    {\n      "k": 1\n    }\n  ]\n}\n'),
        ('{\n  "v": ["int8"]\n}', "/v/0", {"k": {"r": 1}}, '{\n  "v": [{"k": {"r": 1}}]\n}'),
        ('{\r\n\t"v": 1\r\n}', "", {"w": 2}, '{\r\n\t"v": 1,\r\n\t"w": 2\r\n}'),
        ('{"v": 1, "w": 2, "x": 3}', "", {"v": None}, '{"w": 2, "x": 3}'),
        ('{"v": 1, "w": 2, "x": 3}', "", {"x": None}, '{"v": 1, "w": 2}'),
        ('{\n  "v": 1,\n  "w": 2\n}', "", {"w": None}, '{\n  "v": 1\n}'),
        ('{\n  "v": 1,\n  "w": 2\n}', "", {"v": None}, '{\n  "w": 2\n}'),
        ('{\n  "v": 1\n}', "", {"v": None}, "{}"),
        ('{\n  "v": 1,\n\n  "w": 2\n}', "", {"x": 3}, '{\n  "v": 1,\n\n  "w": 2,\n  "x": 3\n}'),
        ('{\n    "v": {}\n}', "/v", {"x": 3}, '{\n    "v": {\n        "x": 3\n    }\n}'),
        ('{"v" : 1}', "", {"w": "é"}, '{"v" : 1, "w" : "é"}'),
        (
            '{\n  "v": 1, "w": 2,\n  "x": 3, "y": 4\n}',
            "",
            {"z": 5},
            '{\n  "v": 1, "w": 2,\n  "x": 3, "y": 4, "z": 5\n}',
        ),
        ('{\n  "v": [\n    [1]\n  ]\n}', "", {"v": [[1], [2]]}, '{\n  "v": [\n    [1],\n    [2]\n  ]\n}'),
        ('{\n  "w": [7], "v": [\n    [1]\n  ]\n}', "", {"v": [[2]]}, '{\n  "w": [7], "v": [\n    [2]\n  ]\n}'),
        ('{"n": 1.50, "m": 1E2}', "", {"k": 1}, '{"n": 1.50, "m": 1E2, "k": 1}'),
    ],
)
def test_new_lines_look_as_their_neighbours_do(text: str, target: str, patch: dict[str, Any], expected: str) -> None:
    assert patched(text, target, patch) == expected


def test_what_does_not_fit_is_broken() -> None:
    text = '{\n  "a": [1, 2],\n  "b": 1\n}\n'
    long = [{"subtract": [0.123456, 0.234567, 0.345678]}, {"divide": [0.123456, 0.234567, 0.345678]}, {"cast": "int8"}]
    rows = "".join(f"    {json.dumps(one)},\n" for one in long).rstrip(",\n")
    assert patched(text, "", {"c": long}) == f'{{\n  "a": [1, 2],\n  "b": 1,\n  "c": [\n{rows}\n  ]\n}}\n'


def test_the_line_of_a_key() -> None:
    assert line_of(BROKEN, "/datasets/calib", "preprocess") == 16
    assert line_of(BROKEN, "/datasets/calib", "gone") == 12


@pytest.mark.parametrize("target", ["/nothing", "/models/7", "models", "/models/x", "/schema_version/0"])
def test_a_place_that_is_not_there(target: str) -> None:
    with pytest.raises(LookupError):
        patched(BROKEN, target, {"a": 1})
