"""The user's own application: outputs that it recorded, and the misuse of scale and zero point that makes them.

Each misuse is replayed with the same file on the same examples, on inputs and outputs, alone and together. One that
gives what was recorded is chosen on some examples and confirmed on others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tflite_guard.diagnosis import evidence
from tflite_guard.diagnosis.causes import Cause
from tflite_guard.diagnosis.experiments import HALF, Bench
from tflite_guard.diagnosis.lab import Array, Arrays, Port, Samples
from tflite_guard.results import Experiment

REPRODUCED = 40.0
"""Decibels that a recording has to a replay at least that is said to have made it."""
BEYOND_OURS = 20.0
"""Decibels that it has at least beyond what it has to the file's own outputs."""
VARIED = 0.1
"""Of the power that varies from example to example, what a replay may leave unexplained: an offset alone proves
nothing."""
MOST_REPLAYED = 256
"""Examples that choose."""
ALIKE = 1.0
"""Decibels by which misuses that explain a recording equally well differ at most."""

Making = Callable[[Array, Port], Array]
Share = tuple[float, tuple[float, float] | None]
"""A fraction with its 95 % interval; without one where it is exact."""


@dataclass(frozen=True)
class Way:
    """One way to fill an input or to read an output, with what is wrong in it."""

    misuses: tuple[str, ...]
    """None of the right way."""
    made: Making
    step: Callable[[Port], float] = lambda port: port.scale
    """Of an output: what one integer more makes of the value that is read."""


@dataclass(frozen=True)
class Pair:
    """How inputs are filled and outputs read."""

    into: Way
    out: Way

    @property
    def misuses(self) -> tuple[str, ...]:
        """What is wrong with it."""
        return (*self.into.misuses, *self.out.misuses)


@dataclass(frozen=True)
class Match:
    """A way that explains what was recorded."""

    pair: Pair
    exact: bool
    sqnr: float


@dataclass(frozen=True)
class Recording:
    """What the application recorded on some examples, beside what the file gives for them."""

    rows: Array
    theirs: Arrays
    """As reals: integers with the file's scale and zero point, floats as they are."""
    ours: Arrays


def _steps(values: Array, port: Port) -> Array:
    return values.astype(np.float32) / np.float32(port.scale)


def _clipped(values: Array, port: Port) -> Array:
    limits = np.iinfo(port.dtype)
    return np.clip(values, limits.min, limits.max).astype(np.int64)


def _wrapped(values: Array, port: Port) -> Array:
    return np.clip(values, -1e15, 1e15).astype(np.int64).astype(port.dtype)


def _exactly(values: Array, port: Port) -> Array:
    """Steps computed in twice the precision, as a language does whose numbers are doubles."""
    return values.astype(np.float64) / port.scale


RIGHT_IN = Way((), lambda x, port: _clipped(np.rint(_steps(x, port)) + port.zero_point, port))
RIGHT_OUT = Way((), lambda q, port: dequantized(q, port))
RIGHT = Pair(RIGHT_IN, RIGHT_OUT)

CAST = "inputs are cast to integers without scale and zero point"
TRUNCATED = "inputs are truncated instead of rounded"
UNCLIPPED = "inputs beyond the range wrap around instead of being clipped"
NO_ZERO_IN = "the input's zero point is ignored"
INPUTS: tuple[Way, ...] = (
    Way((f"{CAST} (wrapping around)",), lambda x, port: _wrapped(np.trunc(x), port)),
    Way((f"{CAST} (wrapping around)",), lambda x, port: _wrapped(np.rint(x), port)),
    Way((f"{CAST} (saturating)",), lambda x, port: _clipped(np.trunc(x), port)),
    Way((f"{CAST} (saturating)",), lambda x, port: _clipped(np.rint(x), port)),
    Way((TRUNCATED,), lambda x, port: _clipped(np.trunc(_steps(x, port) + np.float32(port.zero_point)), port)),
    Way((TRUNCATED,), lambda x, port: _clipped(np.trunc(_exactly(x, port) + port.zero_point), port)),
    Way((TRUNCATED,), lambda x, port: _clipped(np.trunc(_steps(x, port)) + port.zero_point, port)),
    Way((TRUNCATED,), lambda x, port: _clipped(np.trunc(_exactly(x, port)) + port.zero_point, port)),
    Way((TRUNCATED,), lambda x, port: _clipped(np.floor(_steps(x, port)) + port.zero_point, port)),
    Way((UNCLIPPED,), lambda x, port: _wrapped(np.rint(_steps(x, port)) + port.zero_point, port)),
    Way(
        (TRUNCATED, UNCLIPPED),
        lambda x, port: _wrapped(np.trunc(_steps(x, port) + np.float32(port.zero_point)), port),
    ),
    Way((NO_ZERO_IN,), lambda x, port: _clipped(np.rint(_steps(x, port)), port)),
    Way((NO_ZERO_IN,), lambda x, port: _wrapped(np.rint(_steps(x, port)), port)),
    Way(("the input's scale is ignored",), lambda x, port: _clipped(np.rint(x) + port.zero_point, port)),
    Way(
        ("input bytes are of the other signedness (uint8 pixels read as int8, without the −128)",),
        lambda x, port: _flipped(_clipped(np.rint(_steps(x, port)) + port.zero_point, port), port),
    ),
    Way(
        ("inputs are quantized twice",),
        lambda x, port: RIGHT_IN.made(RIGHT_IN.made(x, port).astype(np.float32), port),
    ),
)
"""Wrong ways to fill an input, from reals to integers."""


def _flipped(integers: Array, port: Port) -> Array:
    """The same bits with the other signedness, as numbers that the port's type holds: half of its range apart."""
    limits = np.iinfo(port.dtype)
    size = int(limits.max) - int(limits.min) + 1
    moved = integers.astype(np.int64) - int(limits.min) + size // 2
    return moved % size + int(limits.min)


def _other(integers: Array, port: Port) -> Array:
    """The integers' bits read with the other signedness."""
    size = 1 << (8 * np.dtype(port.dtype).itemsize)
    bits = integers.astype(np.int64) % size
    return bits if np.dtype(port.dtype).kind == "i" else np.where(bits >= size // 2, bits - size, bits)


def _unit(_port: Port) -> float:
    return 1.0


RAW = "raw integers of the output are taken as reals, without scale and zero point"
OTHER_OUT = "bytes of the output are read with the other signedness (int8 as uint8, or uint8 as int8)"
OUTPUTS: tuple[Way, ...] = (
    Way((RAW,), lambda q, _: q.astype(np.float64), _unit),
    Way(("the output's zero point is ignored",), lambda q, port: q * port.scale),
    Way(("the output's scale is ignored",), lambda q, port: q.astype(np.float64) - port.zero_point, _unit),
    Way((OTHER_OUT,), lambda q, port: dequantized(_other(q, port), port)),
    Way((OTHER_OUT, RAW), lambda q, port: _other(q, port).astype(np.float64), _unit),
    Way(
        ("outputs are dequantized twice",),
        lambda q, port: (dequantized(q, port) - port.zero_point) * port.scale,
        lambda port: port.scale**2,
    ),
)
"""Wrong ways to read an output, from integers to reals."""


def dequantized(integers: Array, port: Port) -> Array:
    """The reals that integers stand for."""
    return (integers.astype(np.float64) - port.zero_point) * port.scale


def recorded(bench: Bench, rows: Array) -> Arrays | None:
    """What the application recorded on some examples, as reals; None without a recording."""
    observed = bench.lab.observed
    if observed is None:
        return None
    ports = bench.lab.ports.outputs
    return {
        name: dequantized(values[rows], ports[name]).astype(np.float32)
        if values.dtype.kind in "iu" and ports[name].quantized
        else values[rows].astype(np.float32)
        for name, values in observed.items()
    }


def misuse(bench: Bench) -> tuple[Cause | None, str]:
    """The misuse that makes what the application recorded; else why none is named."""
    rows = bench.choosing[:MOST_REPLAYED]
    recording = _recording(bench, rows)
    if recording is None:
        return None, "the application recorded no finite outputs"
    replays = _Replays(bench, recording)
    if replays.explains(RIGHT):
        return None, "on the examples that choose, the application recorded what the file itself gives"
    pairs = [*replays.pairs()]
    if not pairs:
        return None, "the file's inputs and outputs are float, so no scale or zero point can be misused"
    found = _best([match for pair in pairs if (match := replays.match(pair)) is not None])
    told = _confirmed(bench, [one.pair for one in found]) if found else None
    if told is not None:
        return _cause(bench, *told), ""
    return None, (
        f"{len(pairs)} ways to misuse scale and zero point were replayed, and none reproduces the recorded outputs; "
        "compare the order of the examples, the application's preprocessing and its kernels"
    )


def _recording(bench: Bench, rows: Array) -> Recording | None:
    theirs = recorded(bench, rows)
    if theirs is None or not all(np.isfinite(values).all() for values in theirs.values()):
        return None
    lab = bench.lab
    return Recording(rows, theirs, lab.outputs(lab.artifact, lab.evaluation.take(rows), lab.kernels))


class _Replays:
    """A recording beside what each way makes of the same examples; the file runs once for each way to fill inputs."""

    def __init__(self, bench: Bench, recording: Recording) -> None:
        self._lab = bench.lab
        self._recording = recording
        self._samples: Samples = bench.lab.evaluation.take(recording.rows)
        self._right = self._fed(RIGHT_IN)
        self._runs = {_key(self._right): self._integers(recording.ours)}
        self._own = _decibels(recording.theirs, recording.ours)

    def pairs(self) -> Iterator[Pair]:
        """Every way that is not right and makes a difference: on inputs, on outputs, and on both."""
        ports = self._lab.ports
        into = INPUTS if any(one.quantized for one in ports.inputs.values()) else ()
        out = OUTPUTS if any(one.quantized for one in ports.outputs.values()) else ()
        right = _key(self._right)
        different = [RIGHT_IN, *(way for way in into if _key(self._fed(way)) != right)]
        yield from (
            Pair(one, other) for one in different for other in (RIGHT_OUT, *out) if one.misuses or other.misuses
        )

    def _fed(self, way: Way) -> Arrays:
        ports = self._lab.ports.inputs
        return {
            name: way.made(values, ports[name]).astype(ports[name].dtype) if ports[name].quantized else values
            for name, values in self._samples.inputs.items()
        }

    def _integers(self, reals: Arrays) -> Arrays:
        """Outputs as integers again, where they stand for reals."""
        ports = self._lab.ports.outputs
        return {
            name: np.rint(values.astype(np.float64) / ports[name].scale).astype(np.int64) + ports[name].zero_point
            if ports[name].quantized
            else values
            for name, values in reals.items()
        }

    def outputs(self, pair: Pair) -> Arrays:
        """What the application would record."""
        ports, fed = self._lab.ports.outputs, self._fed(pair.into)
        key = _key(fed)
        if key not in self._runs:
            self._runs[key] = self._integers(self._lab.fed(fed))
        return {
            name: pair.out.made(values, ports[name]) if ports[name].quantized else values
            for name, values in self._runs[key].items()
        }

    def explains(self, pair: Pair) -> bool:
        """Whether a way gives just what was recorded."""
        return self._same(self._recording.theirs, self.outputs(pair), pair)

    def match(self, pair: Pair) -> Match | None:
        """Whether a way explains what was recorded, and far better than the right one does."""
        outputs, theirs = self.outputs(pair), self._recording.theirs
        if self._same(self._recording.ours, outputs, pair) or not _follows(theirs, outputs):
            return None
        if self._same(theirs, outputs, pair):
            return Match(pair, True, np.inf)
        found = _decibels(theirs, outputs)
        return Match(pair, False, found) if found >= max(REPRODUCED, self._own + BEYOND_OURS) else None

    def _same(self, reals: Arrays, replayed: Arrays, pair: Pair) -> bool:
        """Equal values, or within half of what one integer makes."""
        ports = self._lab.ports.outputs
        return all(
            bool(np.all(np.abs(reals[name] - values) < pair.out.step(ports[name]) / 2))
            if ports[name].quantized
            else np.array_equal(reals[name], values.astype(np.float32))
            for name, values in replayed.items()
        )


def _key(arrays: Arrays) -> bytes:
    return hashlib.sha256(b"".join(np.ascontiguousarray(values).tobytes() for values in arrays.values())).digest()


def _follows(theirs: Arrays, replayed: Arrays) -> bool:
    """Whether a replay follows the recording from example to example, and not by an offset alone.

    What is the same for all examples says nothing about how the inputs were filled.
    """
    exact = {name: values.astype(np.float64) for name, values in replayed.items()}
    varied = sum(float(np.square(values - values.mean(0)).sum()) for values in exact.values())
    left = sum(float(np.square(theirs[name] - values).sum()) for name, values in exact.items())
    return left < VARIED * varied


def _decibels(recorded: Arrays, replayed: Arrays) -> float:
    """SQNR of a recording to what may have made it, nothing centred; infinite where they are equal."""
    if all(np.array_equal(recorded[name], values) for name, values in replayed.items()):
        return np.inf
    found = evidence.sqnr(recorded, replayed)
    return -np.inf if found is None else found


def _best(matches: Sequence[Match]) -> list[Match]:
    """Those that explain most with the least: exact before near, one misuse before two."""
    if not matches:
        return []
    rank = min((not one.exact, len(one.pair.misuses)) for one in matches)
    equal = [one for one in matches if (not one.exact, len(one.pair.misuses)) == rank]
    most = max(one.sqnr for one in equal)
    return [one for one in equal if one.exact or one.sqnr >= most - ALIKE]


def _confirmed(bench: Bench, pairs: Sequence[Pair]) -> tuple[list[Match], Experiment] | None:
    """The misuses that explain the confirming examples too, with how much of the difference they account for."""
    recording = _recording(bench, bench.confirming)
    if recording is None:
        return None
    replays = _Replays(bench, recording)
    found = _best([match for pair in pairs if (match := replays.match(pair)) is not None])
    if not found:
        return None
    share = _share(bench, recording, replays.outputs(found[0].pair), exact=found[0].exact)
    if share is None:
        return None
    return found, Experiment(f"{_phrase(found)}: replayed and corrected", *share)


def _share(bench: Bench, recording: Recording, replayed: Arrays, *, exact: bool) -> Share | None:
    """How much of what the application loses a misuse accounts for: of the metric where that is worse, else of noise.

    None where it is less than half, or may be nothing.
    """
    weights = evidence.weights_drawn(len(recording.rows))
    ours, theirs, given = (
        _metric(bench, outputs, recording.rows, weights) for outputs in (recording.ours, recording.theirs, replayed)
    )
    lost, mended = np.stack([ours, theirs], 1), np.stack([ours, theirs + ours - given], 1)
    found = evidence.recovered(None, lost, mended, higher_is_better=bench.case.higher_is_better)
    if found is None or found[1] is None:
        return (1.0, None) if exact else _quieter(recording, replayed, weights)
    value, (low, high) = found[0], found[1]
    return (round(value, 4), (round(low, 4), round(high, 4))) if value >= HALF and low > 0 else None


def _metric(bench: Bench, outputs: Arrays, rows: Array, weights: Array) -> Array:
    plain = {name: values.astype(np.float32) for name, values in outputs.items()}
    return bench.lab.statistic(bench.lab.scores(plain, rows), weights)[:, 1]


def _quieter(recording: Recording, replayed: Arrays, weights: Array) -> Share | None:
    """The share of the difference's power that a replay accounts for, with its bootstrap interval."""
    powers = [_powers(recording.theirs, outputs) for outputs in (recording.ours, replayed)]
    before, after = (weights @ power for power in powers)
    shares = 1.0 - after[before > 0] / before[before > 0]
    low, high = np.percentile(shares, (2.5, 97.5))
    # Rounded down: all of it is what an exact replay alone accounts for.
    value, low, high = (float(np.floor(1e4 * one) / 1e4) for one in (shares[0], low, high))
    return (value, (low, high)) if low > 0 else None


def _powers(recorded: Arrays, outputs: Arrays) -> Array:
    """The power of the difference by example."""
    each: list[Array] = [
        np.square(recorded[name].astype(np.float64) - values).reshape(len(values), -1).sum(1)
        for name, values in outputs.items()
    ]
    total: Array = np.sum(each, axis=0)
    return total


def _cause(bench: Bench, found: list[Match], experiment: Experiment) -> Cause:
    lab = bench.lab
    inputs = any(one.pair.into.misuses for one in found)
    outputs = any(one.pair.out.misuses for one in found)
    lines = _code(lab.ports.inputs.values() if inputs else (), lab.ports.outputs.values() if outputs else ())
    phrase = _phrase(found)
    how = "value for value" if found[0].exact else f"to {found[0].sqnr:.1f} dB"
    return Cause(
        "io-quantization-misuse",
        f"The application misuses quantized values: {phrase}. Replayed with the same file on the same examples, that "
        f"gives what it recorded {how}. Write instead, in Python: {'; '.join(lines['python'])}",
        experiment,
        evidence={"misuse": phrase, **{language: "\n".join(own) for language, own in lines.items()}},
    )


def _phrase(found: Sequence[Match]) -> str:
    """The misuse in words; where several give the same, their class."""
    told = list(dict.fromkeys(" and ".join(one.pair.misuses) for one in found))
    plain = [one.split(" (")[0] for one in told]
    kept = [short if plain.count(short) > 1 else long for long, short in zip(told, plain, strict=True)]
    return ", or ".join(dict.fromkeys(kept))


def _code(inputs: Iterable[Port], outputs: Iterable[Port]) -> dict[str, list[str]]:
    """The right way in each language, a line for each input and output that is quantized."""
    told = [_filled(port, index) for index, port in enumerate(inputs) if port.quantized]
    told += [_read(port, index) for index, port in enumerate(outputs) if port.quantized]
    return {language: [lines[language] for lines in told] for language in ("python", "cpp", "kotlin")}


def _filled(port: Port, index: int) -> dict[str, str]:
    """How reals become an input's integers."""
    scale, zero = str(np.float32(port.scale)), _added(port.zero_point)
    limits = np.iinfo(port.dtype)
    low, high = int(limits.min), int(limits.max)
    put, to = ("put", "toByte") if limits.bits == 8 else ("putShort", "toShort")
    return {
        "python": f"q = np.clip(np.round(x / {scale}){zero}, {low}, {high}).astype(np.{port.dtype})",
        "cpp": f"interpreter.input({index})->data.{_field(port)}[i] = static_cast<{port.dtype}_t>("
        f"std::clamp(std::lround(x[i] / {scale}f){zero}, {low}L, {high}L));",
        "kotlin": f"input.{put}((Math.round(x[i] / {scale}f){zero}).coerceIn({low}, {high}).{to}())",
    }


def _read(port: Port, index: int) -> dict[str, str]:
    """How an output's integers become reals."""
    scale, zero = str(np.float32(port.scale)), _added(-port.zero_point)
    whole = {"int8": "output.get(i).toInt()", "uint8": "(output.get(i).toInt() and 0xFF)"}
    integer = whole.get(port.dtype, "output.getShort(2 * i).toInt()")
    return {
        "python": f"y = (q.astype(np.float32){zero}) * {scale}",
        "cpp": f"const float y = (interpreter.output({index})->data.{_field(port)}[i]{zero}) * {scale}f;",
        "kotlin": f"val y = ({integer}{zero}) * {scale}f",
    }


def _added(number: int) -> str:
    return "" if number == 0 else f" {'+' if number > 0 else '-'} {abs(number)}"


def _field(port: Port) -> str:
    """What C++ calls the integers of a tensor."""
    return {"int16": "i16"}.get(port.dtype, port.dtype)
