"""Numbers for people, with the same digits wherever they are shown. Standard library only."""

from __future__ import annotations

import math
from decimal import Decimal

from tflite_guard.vocabulary import METRICS

MINUS = "−"
"""U+2212, in every figure that people read. What is to be copied into code or a manifest has a hyphen."""
MOST_DECIMALS = 12
NOISE = 1e-12
"""Of the values themselves: what subtracting one from another leaves where they are the same."""


def number(value: float | None, metric: str, *beside: float | None) -> str:
    """A metric's value with as many digits as mean something, in its unit.

    `beside` are values that stand next to it: digits are added until it looks unlike those that it differs from.
    """
    if value is None:
        return "–"
    if _unit(metric) == "bytes":
        return size(int(value))
    if metric == "macs":
        return f"{int(value):,}"
    decibels = _unit(metric) == "dB"
    others = [one for one in (*beside, *(() if decibels else (1.0,))) if one is not None and not _same(one, value)]
    for decimals in range(2 if decibels else 4, MOST_DECIMALS):
        shown = _decibels(value, decimals) if decibels else _figure(value, decimals)
        if all((_decibels(one, decimals) if decibels else _figure(one, decimals)) != shown for one in others):
            break
    return shown


def exact(value: float | None, metric: str, *beside: float | None) -> str:
    """A metric's value for a sentence beside a limit: sizes to the byte."""
    if value is not None and _unit(metric) == "bytes":
        return limit(value, metric)
    return number(value, metric, *beside)


def limit(value: float, metric: str, kind: str = "") -> str:
    """A limit with the digits that the manifest has, in the metric's unit: `0.97`, `20 dB`, `30,000 bytes`."""
    unit = "" if kind == "max_relative_drop" else _unit(metric)
    digits = str(value).removesuffix(".0")
    if "e-" in digits and abs(value) >= 10**-MOST_DECIMALS:
        digits = f"{Decimal(digits):f}"
    if unit == "bytes":
        return f"{int(value):,} bytes" if digits.isdecimal() else f"{digits} bytes"
    return _minus(f"{digits} dB" if unit == "dB" else digits)


def worse_by(drop: float | None, *values: float | None, beside: float | None = None) -> str:
    """How much worse one of two values is: below zero where it is better, and 0 where rounding alone parts them.

    `beside` is a limit that it is compared with.
    """
    if drop is None:
        return "–"
    largest = max((abs(one) for one in values if one is not None), default=1.0)
    return "0" if abs(drop) <= NOISE * largest else number(drop, "", beside)


def signed(value: float) -> str:
    """A place on an axis of drops: positive is worse."""
    return ("+" if value > 0 else "") + number(value, "")


def interval(ends: tuple[float, float] | None, metric: str) -> str:
    """[low, high], or a dash."""
    if ends is None:
        return "–"
    largest = max(map(abs, ends))
    shown = (0.0 if abs(end) <= NOISE * largest else end for end in ends)
    return "[" + ", ".join(number(end, metric).split(" ")[0] for end in shown) + "]"


def real(value: float, digits: int = 6) -> str:
    """Any number to so many significant digits."""
    return _minus(f"{value:.{digits}g}")


def percent(fraction: float) -> str:
    """A fraction in whole per cent: `96 %`; what is not nothing is never `0 %`, and what is huge is `over 999 %`."""
    if 0 < fraction < 0.005:
        return "under 1 %"
    whole = round(100 * min(max(fraction, -10), 10))
    return (
        f"{'over' if whole > 0 else 'under'} {MINUS * (whole < 0)}999 %" if abs(whole) > 999 else _minus(f"{whole} %")
    )


def span(ends: tuple[float, float]) -> str:
    """A range of values: `−0.5 to 6.2`."""
    return " to ".join(_minus(f"{end:.4g}") for end in ends)


def size(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return "–"
    if count < 1000:
        return f"{count} B"
    for unit, scale in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if count < scale * 1000 or unit == "GB":
            return f"{count / scale:.1f} {unit}"
    raise AssertionError


def _minus(figure: str) -> str:
    return figure.replace("-", MINUS)


def _unit(metric: str) -> str:
    return METRICS[metric].unit if metric in METRICS else ""


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= NOISE * max(abs(one), abs(other))


def _decibels(value: float, decimals: int) -> str:
    return _minus(f"{value:.{decimals}f} dB")


def _figure(value: float, decimals: int) -> str:
    """Four decimals where there are so many before the point as well, else the digits that mean something."""
    magnitude = abs(value)
    if magnitude == 0:
        return "0"
    if not 1e-6 <= magnitude < 1e15:
        digits, _, exponent = f"{value:.{decimals - 2}e}".partition("e")
        return _minus(f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}")
    if magnitude < 0.0001:
        places = decimals - 2 - math.floor(math.log10(magnitude))
        return _minus(f"{value:.{places}f}".rstrip("0"))
    return _minus(f"{value:,.{decimals if magnitude < 10_000 else decimals - 4}f}")
