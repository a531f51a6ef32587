"""Simulates evaluations that stop when their verdict is certain and prints the table of docs/metrics.md.

Usage: python bench/stopping.py [RUNS]    (1,000 runs a row by default: half an hour)

Every run draws the examples of one set in another random order, in blocks that grow as those of an evaluation do. An
error is a verdict that the whole set does not have. Rows whose true drop is the limit itself, or one example more, are
the hardest: a verdict from a part is a guess there, which the confidence has to keep from being made.
"""

from __future__ import annotations

import sys

import numpy as np

from tflite_guard.engine.sequential import ends
from tflite_guard.metrics.sequential import settled

LIMIT = 0.02
CONFIDENCE = 0.95
BOUNDS = (0.0, 1.0)
ROWS = [
    (size, discordant, drop)
    for size in (1_000, 10_000)
    for discordant, drop in (
        (0.0, 0.0),
        (0.02, 0.0),
        (0.05, 0.01),
        (0.05, 0.018),
        (0.05, LIMIT),
        (0.05, LIMIT + 1 / size),
        (0.05, 0.025),
        (0.10, 0.04),
        (0.20, 0.10),
    )
]
ROWS += [(50_000, 0.0, 0.0), (50_000, 0.02, 0.0), (50_000, 0.05, 0.01)]


def simulated(size: int, discordant: float, drop: float, runs: int) -> tuple[float, list[int]]:
    """The share of wrong verdicts, and how many examples each run used."""
    lost = round(size * (discordant + drop) / 2)
    gained = lost - round(size * drop)
    reference = np.repeat([True, False, True], [lost, gained, size - lost - gained])
    candidate = np.repeat([False, True, True], [lost, gained, size - lost - gained])
    fails = lost - gained > round(size * LIMIT)
    rng = np.random.default_rng(0)
    wrong, used = 0, []
    for _ in range(runs):
        order = rng.permutation(size)
        for seen in ends(size):
            part = {"reference": reference[order[:seen]], "candidate": candidate[order[:seen]]}
            if seen == size or settled(part, BOUNDS, size, {"max_drop": LIMIT}, None, (1 - CONFIDENCE) / 2):
                drops = part["reference"].mean() - part["candidate"].mean()
                wrong += seen < size and (drops > LIMIT) != fails
                used.append(seen)
                break
    return wrong / runs, used


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    print("| examples | discordant | drop | verdict | wrong | examples used, mean | of 10 runs 9 use at most |")
    print("|---|---|---|---|---|---|---|")
    for size, discordant, drop in ROWS:
        wrong, used = simulated(size, discordant, drop, runs)
        verdict = "fail" if round(drop * size) > round(LIMIT * size) else "pass"
        most = int(np.percentile(used, 90))
        row = (
            f"| {size:,} | {discordant:.0%} | {drop:.3%} | {verdict} | {wrong:.3f} | {np.mean(used):,.0f} | {most:,} |"
        )
        print(row, flush=True)


if __name__ == "__main__":
    main()
