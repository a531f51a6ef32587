"""report.json: the report itself, as the schema has it, of a size that is read again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from tflite_guard.errors import UsageError
from tflite_guard.manifest.schema import check_numbers, validator
from tflite_guard.results import Report, VariantResult, Verdict

LARGEST_REPORT = 64 * 2**20
MOST_VALUES = 1_200_000
"""Objects, lists and elements of a report, which the schema is held against one by one: as many as 1,000 models
with five variants each have without single examples."""
MOST_PICTURES = 16 * 2**20
"""Bytes of all pictures in a report; a page shows a sixteenth of that at most."""
WANTED = "name a report.json that `tflite-guard check` wrote"


def render(report: Report) -> str:
    """The report as JSON, indented, with a final newline; what does not fit into what `read` takes is left out.

    That is what tells least: of variants that pass first, pictures before figures. Notes say what it was.
    """
    left: list[str] = []
    for passing, whose in _WHOSE:
        if _bytes_of_pictures(report) > MOST_PICTURES:
            report = _each(report, _without_pictures, passing=passing)
            left.append(f"pictures of {whose}")
    written = text(_noted(report, left))
    for passing, whose in _WHOSE:
        if _fits(written.encode()):
            return written
        report = _each(report, _without_details, passing=passing)
        left.append(f"examples, classes, tensors and experiments of {whose}")
        written = text(_noted(report, left))
    return written if _fits(written.encode()) else text(_noted(report, left, readable=False))


def _noted(report: Report, left: list[str], readable: bool = True) -> Report:
    notes = []
    if left:
        notes.append(f"report.json leaves out, for its size: {'; '.join(left)}; check fewer models in one run for all")
    if not readable:
        notes.append(f"report.json has more than {_MOST}, and cannot be read again; check fewer models in one run")
    return replace(report, notes=(*report.notes, *notes))


def _each(report: Report, change: Callable[[VariantResult], VariantResult], *, passing: bool) -> Report:
    """A report with a change of all its variants that pass, or of all others."""

    def changed(one: VariantResult) -> VariantResult:
        return change(one) if (one.verdict is Verdict.PASS) is passing else one

    models = tuple(
        replace(
            model,
            variants=tuple(map(changed, model.variants)),
            float32=None if model.float32 is None else changed(model.float32),
        )
        for model in report.models
    )
    return replace(report, models=models)


def _bytes_of_pictures(report: Report) -> int:
    every = (rung.changed.worst for model in report.models for rung in model.rungs if rung.changed is not None)
    return sum(len(one.picture or "") for worst in every for one in worst)


def _without_pictures(one: VariantResult) -> VariantResult:
    if one.changed is None:
        return one
    return replace(one, changed=replace(one.changed, worst=tuple(replace(e, picture=None) for e in one.changed.worst)))


def _without_details(one: VariantResult) -> VariantResult:
    """Without single examples, classes, tensors and experiments; all that is judged or mends stays."""
    return replace(
        one,
        by_class=None,
        by_slice=(),
        changed=None if one.changed is None else replace(one.changed, worst=()),
        since_baseline=None if one.since_baseline is None else replace(one.since_baseline, worst=()),
        diagnosis=None if one.diagnosis is None else replace(one.diagnosis, tensors=(), tried=(), histograms=()),
    )


_WHOSE = ((True, "variants that pass"), (False, "all other variants"))
_MOST = f"{LARGEST_REPORT >> 20} MiB and {MOST_VALUES:,} values"


def _fits(content: bytes) -> bool:
    """Whether looking through a report of this content is a matter of seconds."""
    return len(content) <= LARGEST_REPORT and sum(map(content.count, (b"{", b"[", b","))) <= MOST_VALUES


def text(value: Any) -> str:
    """Any value as JSON for people and programs, without what the runner of GitHub would obey when it is printed."""
    written = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    # Only a string can hold this, where the escaped form means the same.
    return written.replace("##[", "#\\u0023[") + "\n"


def read(path: str) -> Report:
    """A report from a file, checked against the schema.

    Raises:
        UsageError: the file cannot be read or is not a report.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe may never be written to, a device never end
        raise UsageError(f"{path}: is not a regular file; {WANTED}")
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(LARGEST_REPORT + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {WANTED}") from None
    return parse(content, path)


def parse(content: bytes, path: str) -> Report:
    """A report from the content of what is called so, checked against the schema.

    Raises:
        UsageError: it is not a report, or looking through it would take minutes.
    """
    from jsonschema_rs import ValidationError

    if not _fits(content):
        raise UsageError(f"{path}: is too large for a report, which has at most {_MOST}; check fewer models in one run")
    try:
        raw = msgspec.json.decode(content)
        check_numbers(raw)
        validator("report-v1").validate(raw)
        return msgspec.convert(raw, Report)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _foreign(path, str(error)) from None
    except OverflowError:
        raise _foreign(path, "it holds a number beyond all that a 64-bit float can be") from None
    except ValidationError as error:
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
        raise _foreign(path, f"${place}: {error.message[:300]}") from None


def _foreign(path: str, why: str) -> UsageError:
    return UsageError(f"{path}: is not a report ({why}); {WANTED}")
