"""report.json: the report itself, as the schema has it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from tflite_guard.errors import UsageError
from tflite_guard.manifest.schema import check_numbers, validator
from tflite_guard.results import Report

LARGEST_REPORT = 64 * 2**20
MOST_VALUES = 500_000
"""Objects, lists and elements of a report, which the schema is held against one by one: some 400 diagnosed models."""
WANTED = "name a report.json that `tflite-guard check` wrote"


def render(report: Report) -> str:
    """The report as JSON, indented, with a final newline."""
    return text(report)


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

    values = sum(map(content.count, (b"{", b"[", b",")))
    if len(content) > LARGEST_REPORT or values > MOST_VALUES:
        most = f"{LARGEST_REPORT >> 20} MiB and {MOST_VALUES:,} values"
        raise UsageError(f"{path}: is too large for a report, which has at most {most}; check fewer models in one run")
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
