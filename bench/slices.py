"""Simulates intervals of classes and slices, which are to hold all at once, and prints the tables of docs/metrics.md.

Usage: python bench/slices.py [RUNS]    (2,000 runs a row by default: about five minutes)
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tflite_guard.judgement.intervals import Z, newcombe_paired, simultaneous, student

Array = NDArray[Any]

ACCURACY = 0.9
DISCORDANT = 0.04
LOST = 0.1
"""Of one class, where one has lost."""
COUNTS = (2, 10, 100, 1_000)
SIZES = (10, 20, 50, 200, 1_000)


@cache
def low_and_high(both: int, lost: int, gained: int, neither: int, z: float) -> tuple[float, float]:
    return newcombe_paired(both, lost, gained, neither, z)


def ends(tables: Array, z: float) -> Array:
    """The intervals (m, 2) of tables (m, 4), each distinct one computed once."""
    distinct, index = np.unique(tables, axis=0, return_inverse=True)
    return np.array([low_and_high(*row, z) for row in distinct.tolist()])[index.reshape(-1)]


def rates(drop: float) -> list[float]:
    """Of both right, only the reference, only the variant, neither."""
    lost = DISCORDANT / 2 + drop
    return [ACCURACY - lost, lost, DISCORDANT / 2, 1 - ACCURACY - DISCORDANT / 2]


def classes(runs: int) -> None:
    columns = ["classes", "examples of each", "any excludes 0", "each at 95 %", "largest drop", "its 95 %", "found"]
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    rng = np.random.default_rng(0)
    for count in COUNTS:
        for size in SIZES:
            excluded, singly, largest, found = 0, 0, [], 0
            for _ in range(runs):
                tables = rng.multinomial(size, rates(0.0), count)
                intervals = ends(tables, simultaneous(count))
                excluded += bool(((intervals[:, 0] > 0) | (intervals[:, 1] < 0)).any())
                alone = ends(tables, Z)
                singly += bool(((alone[:, 0] > 0) | (alone[:, 1] < 0)).any())
                largest.append(float((tables[:, 1] - tables[:, 2]).max()) / size)
                lost = rng.multinomial(size, rates(LOST), 1)
                found += bool(ends(lost, simultaneous(count))[0, 0] > 0)
            told = " | ".join(f"{one / runs:.3f}" for one in (excluded, singly))
            middle, high = np.quantile(largest, (0.5, 0.95))
            print(f"| {count:,} | {size:,} | {told} | {middle:.3f} | {high:.3f} | {found / runs:.3f} |", flush=True)


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """How much larger normal errors are by magnitude with some more noise, less what that is on average."""
    error = rng.normal(size=shape)
    return np.abs(error + rng.normal(0, 0.3, shape)) - np.abs(error) - (np.sqrt(1.09) - 1) * np.sqrt(2 / np.pi)


def heavy(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """The same of errors of which a few are very large."""
    return np.abs(rng.standard_t(3, shape)) - np.abs(rng.standard_t(3, shape))


def one_sided(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Differences that are small for most examples and large for few, all to one side."""
    return np.exp(rng.normal(size=shape)) - np.exp(0.5)


def means(runs: int) -> None:
    print("\n| slices | examples of each | normal errors | heavy tails | to one side |")
    print("|---|---|---|---|---|")
    rng = np.random.default_rng(1)
    for count in COUNTS[:3]:
        for size in SIZES[1:]:
            told = []
            for drawn in (normal, heavy, one_sided):
                above = missed = 0
                for _ in range(runs):
                    values = drawn(rng, (count, size))
                    half = student(size - 1, simultaneous(count)) * values.std(1, ddof=1) / np.sqrt(size)
                    above += bool((values.mean(1) - half > 0).any())
                    missed += bool((np.abs(values.mean(1)) > half).any())
                told.append(f"{above / runs:.3f} / {missed / runs:.3f}")
            print(f"| {count:,} | {size:,} | {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    classes(wanted)
    means(wanted)
