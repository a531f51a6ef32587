"""What a schema validator finds, in the words of a person, with the nearest valid name for a typo."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any

from tflite_guard.errors import ManifestProblem
from tflite_guard.manifest.jsontext import Pointer, kind_of, quoted
from tflite_guard.manifest.schema import schema
from tflite_guard.manifest.tree import Node
from tflite_guard.vocabulary import ALSO_CALLED, METRICS, RECIPES

Rejection = tuple[Pointer, ManifestProblem | None]
"""A value that does not conform and what to say of it; None when another problem says it already."""

Error = Any  # a jsonschema ValidationError; its stubs allow "unset" for every attribute

_TYPES = {
    "object": "an object",
    "array": "an array",
    "string": "a string",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}
_WORD_MAX = 100
_NAMES_MAX = 2000


class _Effort:
    """What is left for looking for near names, in comparisons of characters; difflib's time grows with them."""

    def __init__(self, left: float) -> None:
        self._left = left

    def spend(self, units: int) -> bool:
        """Whether there was so much left."""
        self._left -= units
        return not self.spent

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return self._left < 0


_EFFORT: ContextVar[_Effort] = ContextVar("effort")
_EFFORT_MAX = 2_000_000  # a second or two; some thousand typos in names of usual length


@contextmanager
def limited_effort() -> Iterator[None]:
    """Near names are looked for as long as that is quick; what is beyond is told without a suggestion."""
    token = _EFFORT.set(_Effort(_EFFORT_MAX))
    try:
        yield
    finally:
        _EFFORT.reset(token)


def near(word: str, names: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The valid name that a wrong one most likely meant, or None. `cutoff` is difflib's, from 0 to 1 (the same)."""
    effort = _EFFORT.get(None) or _Effort(math.inf)
    if len(word) > _WORD_MAX or effort.spent:
        return None
    known = [name for name in islice(names, _NAMES_MAX) if len(name) <= _WORD_MAX]
    folded = {_fold(name): name for name in reversed(known)}
    likely = _likely(_fold(word), folded, cutoff, effort)
    found = difflib.get_close_matches(_fold(word), likely, n=1, cutoff=cutoff)
    return folded[found[0]] if found else None


def _likely(word: str, names: Iterable[str], cutoff: float, effort: _Effort) -> list[str]:
    """The names that are worth a full comparison, as far as the effort goes."""
    matcher = difflib.SequenceMatcher(b=word)
    likely = []
    for name in names:
        matcher.set_seq1(name)
        if not effort.spend(len(word) + len(name)):
            break
        if matcher.real_quick_ratio() < cutoff or matcher.quick_ratio() < cutoff:
            continue
        if not effort.spend(len(word) * len(name)):
            break
        likely.append(name)
    return likely


def did_you_mean(word: str, names: Collection[str], *, known: str = "known") -> str:
    """The end of a message about an unknown name: `; did you mean "x"?`, else what is known."""
    if (name := near(word, names)) is not None:
        return f"; did you mean {quoted(name)}?"
    return f"; {known}: {listed(names)}" if names else ""


def listed(names: Iterable[str], limit: int = 16) -> str:
    """Names in quotes with commas, at most so many."""
    first = list(islice(names, limit + 1))
    return ", ".join(map(quoted, first[:limit])) + (", …" if len(first) > limit else "")


def in_words(error: Error, tree: Node) -> Iterator[Rejection]:
    """Each problem of a validator's error with the pointer of what to leave out to be rid of it."""
    node = _at(tree, error.absolute_path)
    if error.validator in ("anyOf", "oneOf"):
        yield from _alternatives(error, tree, node)
    elif "propertyNames" in error.relative_schema_path:
        yield from _bad_key(error, node)
    elif error.validator == "additionalProperties":
        yield from _unknown_keys(error, node)
    else:
        sentence = _sentence(error, node)
        yield node.pointer, node.problem(sentence) if sentence else None


def _alternatives(error: Error, tree: Node, node: Node) -> Iterator[Rejection]:
    """Only the alternative that the value was meant to be; the others' complaints are noise."""
    if all(set(branch) == {"required"} for branch in error.validator_value):
        choice = _exactly_one(error, node) if isinstance(node.content, dict) else None
        yield node.pointer, node.problem(choice) if choice else None
        return
    branches: dict[Any, list[Error]] = {}
    for cause in error.context or ():
        branches.setdefault(cause.relative_schema_path[0], []).append(cause)
    meant = [causes for causes in branches.values() if not any(map(_wrong_type, causes))]
    if not meant:
        types = list(dict.fromkeys(cause.validator_value for cause in error.context if _wrong_type(cause)))
        expected = " or ".join(_TYPES[one] for one in types)
        told = f"{_subject(node)} should be {expected}, not {kind_of(node.value())}{_instead(node, types)}"
        yield node.pointer, node.problem(told)
    if (steps := _steps_by_key(node)) is not None:
        yield node.pointer, node.problem(f'"preprocess" is a list of steps: write [{steps}]')
        return
    for cause in meant[0] if meant else ():
        yield from in_words(cause, tree)


def _exactly_one(error: Error, node: Node) -> str | None:
    names = [name for branch in error.validator_value for name in branch["required"]]
    given = [name for name in names if node.get(name) is not None]
    choice = ", ".join(map(quoted, names[:-1])) + f" or {quoted(names[-1])}"
    if given:
        return f"{_subject(node)} has {' and '.join(map(quoted, given))}, but takes exactly one of {choice}"
    if any(near(name, _strangers(error, node)) for name in names):
        return None
    return f"{_subject(node)} needs one of {choice}"


def _unknown_keys(error: Error, node: Node) -> Iterator[Rejection]:
    known = [name for name in error.schema.get("properties", {}) if name != "$schema"]
    for key in _strangers(error, node):
        hint = did_you_mean(key, known, known="known here")
        child = node.content[key]
        yield child.pointer, child.key_problem(f"unknown key {quoted(key)}{hint}")


def _strangers(error: Error, node: Node) -> list[str]:
    known = error.schema.get("properties", {})
    return [key for key, _ in node.members() if known and key not in known]


def _bad_key(error: Error, node: Node) -> Iterator[Rejection]:
    child = node.content[error.instance]
    yield child.pointer, child.key_problem(_length(error, "this name"))


def _sentence(error: Error, node: Node) -> str | None:
    subject, value, rule = _subject(node), error.instance, error.validator_value
    match error.validator:
        case "type":
            needs = error.schema.get("required", ()) if rule == "object" else ()
            wanted = _TYPES[rule] + (f" with {' and '.join(map(quoted, needs))}" if needs else "")
            return f"{subject} should be {wanted}, not {kind_of(value)}{_instead(node, [rule])}"
        case "required":
            return _missing(error, node)
        case "enum" | "const":
            return _not_among(error, subject)
        case "pattern":
            return f"{subject} should be {error.schema['title']}, not {quoted(value)}"
        case "minLength" | "maxLength":
            return _length(error, subject)
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            return f"{subject} is {quoted(value)}, but must be {_BOUNDS[error.validator]} {rule}"
        case "minItems" | "maxItems" | "minProperties" | "maxProperties":
            return _count(error, subject)
        case "dependentRequired":
            return _alone(error, node)
    return f"{subject}: {error.message}"


def _instead(node: Node, types: Collection[str]) -> str:
    """The end of a message about a value that is of none of these types: what to write, where that is known."""
    written, key = node.value(), node.pointer[-1] if node.pointer else ""
    number = _as_number(written)
    meant: Any = None
    if "object" in types and isinstance(written, str) and key in ("reference", "source"):
        # A model's path, where an object says of which kind it is.
        kind = next((kind for suffix, kind in _MODELS.items() if written.lower().endswith(suffix)), "saved_model")
        meant = {kind: written}
    elif "object" in types and number is not None and node.pointer[-2:-1] == ("tolerances",):
        meant = {_limit(str(key), number): number}
    elif "number" in types and number is not None:
        meant = number
    elif key == "resize" and isinstance(number, int):
        meant = [number, number]
    elif [*types] == ["array"] and isinstance(written, str | dict) and written:
        meant = [written]
    return "" if meant is None else f"; write {_shown(meant)}"


_MODELS = {".keras": "keras", ".h5": "keras", ".tflite": "tflite", ".npz": "outputs"}
_NUMBER = re.compile(
    r"\s*([+-]?\d{1,15}(?:\.\d{0,15})?(?:e[+-]?\d{1,2})?)\s*(?:/\s*(\d{1,15}(?:\.\d{1,15})?)|(%|\w+))?\s*", re.A | re.I
)
_UNITS = {None: 1, "%": 0.01, "dB": 1, "B": 1, "bytes": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6}
LARGE_SHARE = 0.5
"""Of a metric that is at most 1: whoever writes so much hardly means a drop."""


def _as_number(written: Any) -> float | None:
    """The number that a value is or stands for: 2, `"2"`, `"1/255"`, `"1 %"`, `"20 dB"`."""
    if isinstance(written, int | float):
        return None if isinstance(written, bool) else written
    found = _NUMBER.fullmatch(written) if isinstance(written, str) and len(written) <= _WORD_MAX else None
    if found is None or found[3] not in _UNITS or (found[2] and float(found[2]) == 0):
        return None
    value = float(f"{float(found[1]) / float(found[2] or 1) * _UNITS[found[3]]:.15g}")
    return int(value) if value.is_integer() else value


def _limit(name: str, number: float) -> str:
    """The limit that a number alone is most likely meant as, by the name of its metric."""
    traits = METRICS.get(name)
    if traits is None or (traits.needs_labels and not (traits.higher_is_better and number >= LARGE_SHARE)):
        return "max_drop"
    return "min" if traits.higher_is_better else "max"


def _steps_by_key(node: Node) -> str | None:
    """The list of steps that an object of steps was meant to be; None where it is something else."""
    if not node.pointer or node.pointer[-1] != "preprocess" or not isinstance(node.content, dict) or not node.content:
        return None
    steps = schema("manifest-v1")["$defs"]["step"]["properties"]
    if any(key not in steps or (isinstance(one.content, list) and key not in _LISTS) for key, one in node.members()):
        return None
    return ", ".join(_shown({key: value}) for key, value in node.value().items())


_LISTS = ("resize", "center_crop", "pad", "letterbox", "reshape", "transpose")
"""Steps whose arguments are lists, as those of an input that bears such a name would be."""


def _shown(value: Any) -> str:
    """JSON to write, of a length that a message may have."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _WORD_MAX else text[: _WORD_MAX - 1] + "…"


def _missing(error: Error, node: Node) -> str | None:
    """What is lacking; None when an unknown key beside it, told anyway, is that one misspelt."""
    strangers = _strangers(error, node)
    absent = [name for name in error.validator_value if node.get(name) is None and near(name, strangers) is None]
    source = node.get("source") if "then" in error.absolute_schema_path else None
    because = f", which source {quoted(source.value())} needs" if source else ""
    return f"{_subject(node)} lacks {' and '.join(map(quoted, absent))}{because}" if absent else None


def _not_among(error: Error, subject: str) -> str:
    allowed = error.validator_value if error.validator == "enum" else [error.validator_value]
    what = error.schema.get("title")
    start = f"unknown {what} {quoted(error.instance)}" if what else f"{subject} is {quoted(error.instance)}"
    if isinstance(error.instance, str):
        return start + (_by_another_name(error.instance, what, allowed) or did_you_mean(error.instance, allowed))
    return f"{start}; known: {listed(allowed)}"


def _by_another_name(word: str, what: str | None, allowed: Collection[str]) -> str | None:
    """The end of a message about a name that is right elsewhere: `; write "float16"`."""
    if what == "quantization" and word in RECIPES:
        return f'; it is a recipe: write {{"name": {quoted(word)}, "recipe": {quoted(word)}}}'
    if what not in ("quantization", "data type"):
        return None
    known = (
        written
        for written, others in ALSO_CALLED.items()
        if _fold(word).replace("_", "") in {one.replace("_", "") for one in others}
    )
    names = [one for one in known if what == "quantization" or one.strip('"') in allowed]
    return f"; write {names[0]}" if names else None


def _length(error: Error, subject: str) -> str:
    if not error.instance:
        return f"{subject} is empty"
    return f"{subject} has {len(error.instance)} characters, more than {error.validator_value}"


def _count(error: Error, subject: str) -> str:
    if not error.instance:
        return f"{subject} is empty"
    if isinstance(error.instance, dict) and error.validator_value == 1:
        steps = ", ".join(_shown({key: value}) for key, value in error.instance.items())
        return f"{subject} has {len(error.instance)} keys, and a step has one: write {steps}"
    if "title" in error.schema:
        return f"{subject} should be {error.schema['title']}, not {_entries(len(error.instance))}"
    bound = "at least" if str(error.validator).startswith("min") else "at most"
    return f"{subject} takes {bound} {_entries(error.validator_value)}, not {len(error.instance)}"


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


def _alone(error: Error, node: Node) -> str:
    pairs = ((key, need) for key, needs in error.validator_value.items() for need in needs)
    alone = [(key, need) for key, need in pairs if node.get(key) is not None and node.get(need) is None]
    return "; ".join(f"{quoted(key)} applies only beside {quoted(need)}" for key, need in alone)


def _wrong_type(error: Error) -> bool:
    return error.validator == "type" and not error.relative_path


def _subject(node: Node) -> str:
    if not node.pointer:
        return "the manifest"
    last = node.pointer[-1]
    if isinstance(last, str):
        return quoted(last)
    return f"item {last + 1} of {quoted(node.pointer[-2])}"


def _at(tree: Node, path: Iterable[str | int]) -> Node:
    node = tree
    for step in path:
        node = node.content[step]
    return node


def _fold(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")
