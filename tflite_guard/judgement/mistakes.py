"""Which examples a variant gets wrong: told in a line for a baseline, and compared with what a baseline says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from msgspec.structs import replace

from tflite_guard.protocol import Evaluation, Mistakes
from tflite_guard.results import MOST_WRONG, SinceBaseline, VariantResult, WrongExamples

MOST_TOLD = 20
LONGEST = 16 * MOST_WRONG
"""Characters of a line of rows."""
_ROWS = re.compile(r"(?:[0-9]{1,15}(?:-[0-9]{1,15})?(?: (?!$)|$))*", re.ASCII)


def with_mistakes(
    result: VariantResult, evaluation: Evaluation | None, then: WrongExamples | None = None
) -> VariantResult:
    """A variant's result with what it gets wrong, beside what it got `then`, as a baseline says."""
    found = None if evaluation is None else evaluation.mistakes
    if evaluation is None or found is None or evaluation.data is None or not _is_possible(found):
        return result
    rows = written([one.example for one in found.every])
    now = WrongExamples(found.metric, evaluation.data, found.examples, found.of, rows)
    return replace(result, wrong=now, since_baseline=_since(found, now, then))


def _since(found: Mistakes, now: WrongExamples, then: WrongExamples | None) -> SinceBaseline | None:
    if then is None or (then.metric, then.data, then.of) != (now.metric, now.data, now.of):
        return None
    before, after = read(then.rows), {one.example: one for one in found.every}
    # Behind the last one that is recorded, nothing is known of a side that was cut.
    ends = [rows[-1] for one, rows in ((then, before), (now, [*after])) if one.examples < one.of and rows]
    wrong = {row for row in before if not ends or row <= min(ends)}
    worse = [one for row, one in after.items() if row not in wrong and (not ends or row <= min(ends))]
    worse.sort(key=lambda one: (-(one.margin or 0.0), one.example))
    return SinceBaseline(
        metric=now.metric,
        examples=min(now.examples, then.examples),
        of=now.of,
        worse=len(worse),
        better=sum(row not in after for row in wrong),
        worst=tuple(worse[:MOST_TOLD]),
    )


def _is_possible(found: Mistakes) -> bool:
    """Whether an untrusted child can have seen this: rows that ascend, no more than are kept."""
    rows = [one.example for one in found.every]
    ascending = all(0 <= row < after for row, after in pairwise([*rows, 10**15]))
    return ascending and len(rows) <= MOST_WRONG and len(rows) <= found.examples <= found.of


def written(rows: Sequence[int]) -> str:
    """Ascending rows in a line, runs joined by a hyphen."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def read(line: str) -> list[int]:
    """The rows in a line. Raises ValueError unless they ascend and are no more than `MOST_WRONG`."""
    if len(line) > LONGEST or not _ROWS.fullmatch(line):
        raise ValueError("no rows, as 3 17-19 40")
    runs = [[int(end) for end in run.split("-")] for run in line.split()]
    if sum(run[-1] - run[0] + 1 for run in runs) > MOST_WRONG:
        raise ValueError(f"more than {MOST_WRONG:,} rows")
    if any(run[0] > run[-1] for run in runs) or any(one[-1] >= after[0] for one, after in pairwise(runs)):
        raise ValueError("rows that do not ascend")
    return [row for run in runs for row in range(run[0], run[-1] + 1)]
