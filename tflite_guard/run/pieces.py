"""What shards have scored of pieces of evaluation data: as files beside their reports, for `merge` to join.

A report names the file of each piece by its hash, and that file names those of the scores by theirs. They may come
from another machine: no more is read than their sizes and hashes say, the file of a piece is decoded strictly, and
scores are looked at by a child alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tflite_guard.errors import EvaluationError, UsageError
from tflite_guard.files import is_full, make_folders, write_atomically
from tflite_guard.files.removal import remove_own
from tflite_guard.judgement.judging import Outcome
from tflite_guard.protocol import COLLECTED
from tflite_guard.results import ReferenceResult, Report, ScoredPiece
from tflite_guard.run.cache import Cache, Stored, key_of, regular
from tflite_guard.run.jobs import Job, hidden_rungs
from tflite_guard.vocabulary import DiagnoseUse

FOLDER = "scores"
"""Beside a report."""
LARGEST_PIECE = 16 * 2**20
"""Bytes of what is said of a piece, without scores."""
LARGEST_SCORES = 2 * 2**30
"""Bytes of one variant's scores on a piece."""


class Rung(msgspec.Struct, frozen=True):
    """A variant, or a hidden rung, on a piece."""

    subject: str
    """The hash of what is evaluated on which data."""
    outcome: Outcome
    """Without measurements. Neither an evaluation nor an error where the piece has no examples."""
    seconds: dict[str, float]
    scores: Stored | None
    """The file of what was collected; None where there is nothing."""


class Piece(msgspec.Struct, frozen=True):
    """A piece of a model's evaluation data, scored."""

    job: Job
    reference: ReferenceResult
    """Unjudged."""
    rungs: tuple[Rung, ...]
    """The model's hidden ones, then its variants."""
    asked: dict[str, tuple[str, ...]] | None
    """The models that its manifest asks for, with their variants; None where the run was asked for some alone."""
    diagnose: DiagnoseUse
    """What was asked for, and is not done on a piece."""

    @property
    def error(self) -> str | None:
        """Why a rung could not be evaluated."""
        return next((one.outcome.error.message for one in self.rungs if one.outcome.error is not None), None)


class Found(msgspec.Struct, frozen=True):
    """A piece that was read, with where it was."""

    report: str
    """The path of the report."""
    processor: str | None
    """What it was scored on."""
    piece: Piece

    @property
    def number(self) -> int:
        """Which piece it is."""
        assert self.piece.job.piece is not None
        return self.piece.job.piece.number

    def scores(self, rung: Rung) -> str:
        """The path of a rung's scores; empty where it has none."""
        if rung.scores is None:
            return ""
        return os.path.join(os.path.dirname(self.report), FOLDER, f"{rung.scores.sha256}.npz")


def forget(folder: str) -> None:
    """Remove the scores of an earlier run from their folder, and a link in its place."""
    remove_own(folder, (".json", ".npz"))


def write(folder: str, piece: Piece, scores: Sequence[Path]) -> ScoredPiece:
    """Write a piece with the files of its rungs' scores; what a report says of it.

    Raises EvaluationError where they cannot be written, or would not be read again.
    """
    try:
        make_folders(folder)
        for path in scores:
            _write(folder, path.read_bytes(), "npz", LARGEST_SCORES, piece)
        content = msgspec.json.encode(piece)
        _write(folder, content, "json", LARGEST_PIECE, piece)
    except OSError as error:
        why = "no space left" if is_full(error) else f"cannot be written ({error.strerror})"
        raise EvaluationError("file", f"{folder}: {why}; write elsewhere") from None
    assert piece.job.piece is not None
    return ScoredPiece(
        manifest=piece.job.manifest.repository_path,
        model=piece.job.model.name,
        number=piece.job.piece.number,
        of=piece.job.piece.of,
        variants=tuple(one.name for one in piece.job.model.variants),
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        error=piece.error,
    )


def _write(folder: str, content: bytes, kind: str, most: int, piece: Piece) -> None:
    if len(content) > most:
        raise EvaluationError(
            "limit",
            f"model {piece.job.model.name!r}: what was scored on a piece has {len(content):,} bytes, more than the "
            f"{most:,} that `merge` reads; use more shards, or leave out metrics of large outputs",
        )
    write_atomically(os.path.join(folder, f"{hashlib.sha256(content).hexdigest()}.{kind}"), content, follow=False)


def kept(path: str, scores: Stored, cache: Cache) -> Path:
    """A copy, for children, of a file of scores. Raises UsageError where it is another than its piece says."""
    try:
        with regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {_AGAIN}") from None
    if size == scores.size <= LARGEST_SCORES:
        entry = cache.put(key_of("scores", scores), {COLLECTED: path}, {})
        if entry.files[COLLECTED] == scores:
            return entry.folder / COLLECTED
    raise UsageError(f"{path}: is not what the shard wrote; {_AGAIN}")


def read(path: str, report: Report) -> Iterator[Found]:
    """The pieces that a report is of, from the files beside it. Raises UsageError where they are not those it names."""
    for told in () if report.shard is None else report.shard.pieces:
        place = os.path.join(os.path.dirname(path), FOLDER, f"{told.sha256}.json")
        try:
            piece = msgspec.json.decode(_content(place, told), type=Piece)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UsageError(f"{place}: is no piece of an evaluation ({error}); {_AGAIN}") from None
        processor = report.environment.get("processor")
        yield Found(path, processor if isinstance(processor, str) else None, _of(place, piece, told))


_AGAIN = f"copy the shard's whole report folder, with `{FOLDER}` in it, or run that shard again"


def _content(place: str, told: ScoredPiece) -> bytes:
    try:
        with regular(place) as stream:
            content = stream.read(min(told.size, LARGEST_PIECE) + 1)
    except OSError as error:
        raise UsageError(f"{place}: cannot be read ({error.strerror}); {_AGAIN}") from None
    if len(content) != told.size or hashlib.sha256(content).hexdigest() != told.sha256:
        raise UsageError(f"{place}: is not what the shard wrote; {_AGAIN}")
    return content


def _of(place: str, piece: Piece, told: ScoredPiece) -> Piece:
    """The piece itself. Raises UsageError where it is another than its report says."""
    job = piece.job
    number = None if job.piece is None else (job.piece.number, job.piece.of)
    own = job.manifest.repository_path, job.model.name, number, tuple(one.name for one in job.model.variants)
    rungs = len(hidden_rungs(job.model)) + len(job.model.variants)
    if len(piece.rungs) != rungs or own != (told.manifest, told.model, (told.number, told.of), told.variants):
        raise UsageError(f"{place}: is of another piece than its report says; {_AGAIN}")
    return piece
