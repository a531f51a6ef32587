"""report.json: the report itself, as the schema has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tflite_guard.errors import UsageError
from tflite_guard.manifest.schema import schema
from tflite_guard.results import Report

LARGEST_REPORT = 256 * 2**20


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
    import jsonschema

    try:
        if Path(path).stat().st_size > LARGEST_REPORT:
            raise UsageError(f"{path}: is too large for a report")
        raw = msgspec.json.decode(Path(path).read_bytes())
        _check_numbers(raw)
        jsonschema.Draft202012Validator(schema("report-v1")).validate(raw)
        return msgspec.convert(raw, Report)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _foreign(path, str(error)) from None
    except OverflowError:
        raise _foreign(path, "it holds a number beyond all that a 64-bit float can be") from None
    except jsonschema.ValidationError as error:
        raise _foreign(path, f"{error.json_path}: {error.message[:300]}") from None


def _check_numbers(value: Any) -> None:
    """Raise OverflowError for a whole number that no double holds; the decoder has refused such a fraction already."""
    if isinstance(value, int):
        float(value)
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_numbers(inner)


def _foreign(path: str, why: str) -> UsageError:
    return UsageError(f"{path}: is not a report ({why}); name a report.json that `tflite-guard check` wrote")
