"""Simulates confidence intervals of a drop of accuracy and prints the tables of docs/metrics.md.

Usage: python bench/intervals.py [DRAWS]    (100,000 draws by default: about two minutes)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tflite_guard.judgement.intervals import Z, newcombe_paired
from tflite_guard.metrics.bootstrap import percentile_interval, replicates

Array = NDArray[Any]
Ends = tuple[Array, Array]

ACCURACY = 0.9
SIZES = (100, 1_000, 10_000)


def drawn(n: int, discordant: float, drop: float, draws: int) -> tuple[Array, Array]:
    """Distinct tables (m, 4) of both right, only the reference, only the variant, neither; and how often each came."""
    only_reference, only_variant = (discordant + drop) / 2, (discordant - drop) / 2
    both = ACCURACY - only_reference
    rates = [both, only_reference, only_variant, 1 - both - only_reference - only_variant]
    tables = np.random.default_rng(0).multinomial(n, rates, draws)
    return np.unique(tables, axis=0, return_counts=True)


def newcombe(tables: Array) -> Ends:
    ends = np.array([newcombe_paired(*(int(count) for count in table)) for table in tables])
    return ends[:, 0], ends[:, 1]


def wald(tables: Array) -> Ends:
    _, b, c, _ = tables.T.astype(float)
    n = tables[0].sum()
    half = Z * np.sqrt(b + c - (b - c) ** 2 / n) / n
    return (b - c) / n - half, (b - c) / n + half


def tango(tables: Array) -> Ends:
    """Tango 1998 (Statistics in Medicine 17:891), by bisection of its score statistic."""
    _, b, c, _ = tables.T.astype(float)
    n = tables[0].sum()

    def end(outermost: float, sign: int) -> Array:
        inside, outside = (b - c) / n, np.full(len(b), outermost)
        for _ in range(60):
            delta = (inside + outside) / 2
            second = -b - c + (2 * n - b + c) * delta
            root = np.sqrt(np.maximum(second**2 + 8 * n * c * delta * (1 - delta), 0))
            variance = n * ((root - second) / (2 * n) + delta * (1 - delta))
            within = sign * (b - c - n * delta) <= Z * np.sqrt(np.maximum(variance, 0))
            inside, outside = np.where(within, delta, inside), np.where(within, outside, delta)
        return np.asarray(inside)

    return end(-1 + 1e-9, 1), end(1 - 1e-9, -1)


METHODS: dict[str, Callable[[Array], Ends]] = {"Newcombe": newcombe, "Tango": tango, "Wald": wald}


def misses(ends: Ends, truth: float, times: Array) -> float:
    low, high = ends
    return float(np.average((truth < low) | (truth > high), weights=times))


def width(ends: Ends, times: Array) -> float:
    return float(np.average(ends[1] - ends[0], weights=times))


def proportions(draws: int) -> None:
    columns = ["n", "discordant", "drop", "Newcombe", "Tango", "Wald", "mean width", "to Tango's", "to Wald's"]
    print("| " + " | ".join(columns) + " |")
    print("|---|---|---|---|---|---|---|---|---|")
    for n in SIZES:
        for discordant, drop in ((0.01, 0), (0.02, 0), (0.05, 0), (0.1, 0), (0.02, 0.01), (0.04, 0.02), (0.1, 0.05)):
            tables, times = drawn(n, discordant, drop, draws)
            ends = {name: method(tables) for name, method in METHODS.items()}
            outside = " | ".join(f"{misses(one, drop, times):.4f}" for one in ends.values())
            widths = {name: width(one, times) for name, one in ends.items()}
            ratios = " | ".join(f"{widths['Newcombe'] / widths[name]:.3f}" for name in ("Tango", "Wald"))
            print(f"| {n:,} | {discordant:.0%} | {drop:.0%} | {outside} | {widths['Newcombe']:.5f} | {ratios} |")


def groups(runs: int) -> None:
    """No true change; examples of a group share their rates (Dirichlet, intra-class correlation 0.5)."""
    print("\n| groups of 50 | resampling groups | Newcombe over examples |")
    print("|---|---|---|")
    rng = np.random.default_rng(1)
    for count in (5, 10, 20, 40):
        index, excluded = np.arange(count), np.zeros(2)
        for seed in range(runs):
            counts = np.stack([rng.multinomial(50, rate) for rate in rng.dirichlet([0.6, 0.2, 0.2], count)])
            drops = (counts[:, 1] - counts[:, 2]) / 50

            def statistic(weights: Array, drops: Array = drops) -> Array:
                return np.repeat((weights @ drops / weights.sum(1))[:, None], 2, axis=1)

            interval = percentile_interval(replicates(statistic, count, index, seed)[:, 1], count) or (0.0, 0.0)
            a, b, c = (int(total) for total in counts.sum(0))
            excluded += [low > 0 or high < 0 for low, high in (interval, newcombe_paired(a, b, c, 0))]
        print(f"| {count} | {excluded[0] / runs:.3f} | {excluded[1] / runs:.3f} |")


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    proportions(wanted)
    groups(max(100, wanted // 50))
