"""Numbers for people, with the same digits wherever they are shown. Standard library only."""

from __future__ import annotations

from tflite_guard.vocabulary import METRICS


def number(value: float | None, metric: str) -> str:
    """A metric's value with as many digits as mean something, in its unit."""
    if value is None:
        return "–"
    if metric == "size_bytes":
        return size(int(value))
    if _unit(metric) == "dB":
        return f"{value:.2f} dB"
    return _figure(value)


def exact(value: float | None, metric: str) -> str:
    """A metric's value for a sentence beside a limit: sizes to the byte."""
    return limit(value, metric) if value is not None and _unit(metric) == "bytes" else number(value, metric)


def limit(value: float, metric: str, kind: str = "") -> str:
    """A limit with the digits that the manifest has, in the metric's unit: `0.97`, `20 dB`, `30,000 bytes`."""
    unit = "" if kind == "max_relative_drop" else _unit(metric)
    digits = str(value).removesuffix(".0")
    if unit == "bytes":
        return f"{int(value):,} bytes" if digits.isdecimal() else f"{digits} bytes"
    return f"{digits} dB" if unit == "dB" else digits


def signed(value: float | None) -> str:
    """A drop or a regression: positive is worse."""
    if value is None:
        return "–"
    return "0" if value == 0 else ("+" if value > 0 else "−") + _figure(abs(value))


def interval(ends: tuple[float, float] | None, metric: str) -> str:
    """[low, high], or a dash."""
    if ends is None:
        return "–"
    return "[" + ", ".join(number(end, metric).split(" ")[0].replace("-", "−") for end in ends) + "]"


def percent(fraction: float) -> str:
    """A fraction in whole per cent: `96 %`; what is not nothing is never `0 %`, and what is huge is `over 999 %`."""
    if 0 < fraction < 0.005:
        return "under 1 %"
    whole = round(100 * min(max(fraction, -10), 10))
    return f"{'over' if whole > 0 else 'under'} {'−' * (whole < 0)}999 %" if abs(whole) > 999 else _minus(f"{whole} %")


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
    return figure.replace("-", "−")


def _unit(metric: str) -> str:
    return METRICS[metric].unit if metric in METRICS else ""


def _figure(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.0001:
        return f"{value:.3g}"
    if 0.9999 < value < 1:
        return f"{value:.6f}"
    return f"{value:.4f}"
