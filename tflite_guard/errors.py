"""Everything that can go wrong, as one tree; each kind carries the exit code that a user sees."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec.structs import replace

LONGEST_ERROR = 1_500
LONGEST_END = 400


class GuardError(Exception):
    """An error with a message for people. Its `kind` is stable and appears in reports.

    What it quotes from files may be of any length, so a message that nobody would read keeps its start, which says
    where, and its end, which says what to do.
    """

    exit_code = 3
    kind = "error"

    def __init__(self, message: str) -> None:
        if len(message) > LONGEST_ERROR:
            message = f"{message[: LONGEST_ERROR - LONGEST_END]} … {message[-LONGEST_END:]}"
        super().__init__(message)


class UsageError(GuardError):
    """The command was called in a way that cannot work (wrong option, unknown model name)."""

    exit_code = 2
    kind = "usage"


class Place(msgspec.Struct, frozen=True):
    """Where something stands in a manifest. Lines and columns count from 1, in characters."""

    path: str
    line: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    column: Annotated[int, msgspec.Meta(ge=1, le=2**31)]

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


class ManifestProblem(msgspec.Struct, frozen=True, order=True):
    """One thing wrong with a manifest, at its place. Lines and columns count from 1, in characters."""

    path: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.message}"


class ManifestError(GuardError):
    """A manifest is invalid. Holds the problems found, in the order of the file."""

    exit_code = 2
    kind = "manifest"

    def __init__(self, problems: list[ManifestProblem]) -> None:
        Exception.__init__(self, "\n".join(str(problem) for problem in problems))
        self.problems = problems


MOST_TOLD = 100


def first_of(problems: Iterable[ManifestProblem], *, more: bool = False) -> list[ManifestProblem]:
    """The first problems of a file and how many there are besides; with `more`, others were not looked for."""
    every = sorted({*problems})
    told, rest = every[:MOST_TOLD], len(every) - MOST_TOLD
    if rest > 0:
        message = f"and {'at least ' if more else ''}{rest:,} more; fix those above first"
        told.append(replace(told[-1], message=message))
    return told


class EvaluationError(GuardError):
    """A model could not be evaluated. `kind` says how; the message names the file and what to do.

    `place` is where the manifest says what cannot be, with which the message begins.
    """

    def __init__(self, kind: str, message: str, place: Place | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.place = place
        if kind == ManifestError.kind:
            self.exit_code = ManifestError.exit_code


class NamingError(EvaluationError):
    """A manifest names an input, output or signature that its model does not have, or does not say which is meant."""

    def __init__(self, message: str, place: Place | None) -> None:
        super().__init__(ManifestError.kind, message if place is None else f"{place}: {message}", place)


class ModelFileError(EvaluationError):
    """A model file is not what it should be: truncated, of another format, hostile."""

    def __init__(self, message: str, kind: str = "model-file") -> None:
        super().__init__(kind, message)


class DataError(EvaluationError):
    """Evaluation or calibration data cannot be used as declared."""

    def __init__(self, message: str, kind: str = "data") -> None:
        super().__init__(kind, message)


class ConversionError(EvaluationError):
    """The converter or quantizer could not make the variant."""

    def __init__(self, message: str, kind: str = "conversion") -> None:
        super().__init__(kind, message)
