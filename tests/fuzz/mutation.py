"""Inputs made wrong, each the same for the same seed: bytes, JSON values, zip members, the text of tables."""

from __future__ import annotations

import copy
import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

HUGE = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
TEXTS = (
    "", " ", ".", "..", "../../etc/passwd", "/dev/zero", "#0", "\0", "a\0b", "\ud800", "\u202e", "\x1b[31m",
    "::error::x", "##[error]x", "a\nb", "x" * 20_000, "é" * 300, "٣", "²", "NaN", "Infinity", "-1", "1" * 400, "{}",
    "%s%n", "$(id)",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, 5e-324, [], {}, [[]],
    [{}], [None], {"": None}, *TEXTS,
)  # fmt: skip
DEEP = "@deep@"
LONG = "@long@"


def flipped(rng: Random, content: bytes, *others: bytes) -> bytes:
    """Some bytes, a few times wrong; `others` are what pieces may be taken from."""
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        content = rng.choice(BYTE_FAULTS)(rng, content, (content, *others))
    return content


def _bit(rng: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(content) or 1)
    return content[:at] + bytes(byte ^ 1 << rng.randrange(8) for byte in content[at : at + 1]) + content[at + 1 :]


def _byte(rng: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(content) or 1)
    return content[:at] + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))]) + content[at + 1 :]


def _number(rng: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """A number in its place that is much too large, or a small one, as counts and offsets are."""
    width, letter = rng.choice(((2, "H"), (4, "I"), (8, "Q")))
    at = rng.randrange(max(len(content) - width, 1))
    at -= at % rng.choice((1, width))
    value = (rng.choice(HUGE) + rng.choice((-1, 0, 0, 1))) % 256**width
    return content[:at] + struct.pack(rng.choice("<>") + letter, value) + content[at + width :]


def _cut(rng: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    return content[: rng.choice((rng.randrange(len(content) + 1), max(len(content) - rng.randrange(1, 40), 0)))]


def _dropped(rng: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + content[at + rng.choice((1, 4, rng.randrange(1, 200))) :]


def _doubled(rng: Random, content: bytes, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(content) + 1)
    piece = content[at : at + rng.choice((1, 4, rng.randrange(1, 200)))]
    return content[:at] + piece * rng.choice((1, 1, 1, 500)) + content[at:]


def _spliced(rng: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    start, at = rng.randrange(len(other) + 1), rng.randrange(len(content) + 1)
    piece = other[start : start + rng.randrange(1, 400)]
    return content[:at] + piece + content[at + rng.choice((0, len(piece))) :]


BYTE_FAULTS: tuple[Callable[[Random, bytes, Sequence[bytes]], bytes], ...] = (
    _bit, _bit, _byte, _byte, _number, _number, _number, _cut, _dropped, _doubled, _spliced,
)  # fmt: skip


def jumbled(rng: Random, value: Any) -> bytes:
    """A JSON value as text, with some of what it holds of another type, gone, moved, or there many times."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        value = _changed(rng, value)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 2)))
    depth = rng.choice((100, 600, 5_000, 200_000))
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")))
    text = text.replace(f'"{DEEP}"', opening * depth + "1" + closing * depth)
    text = text.replace(f'"{LONG}"', rng.choice(("9" * 5_000, "1e999", "-1e999", "0." + "1" * 9_000, "1E-400")))
    if rng.random() < 0.1 and "{" in text:
        text = text.replace("{", '{"a": 1, "a": 2, ', 1)
    content = text.encode("utf-8", "surrogatepass")
    return flipped(rng, content) if rng.random() < 0.1 else content


def _changed(rng: Random, value: Any) -> Any:
    places = list(_places(value))
    if not places:
        return rng.choice((*VALUES, DEEP))
    holder, key = rng.choice(places)
    match rng.randrange(8):
        case 0 | 1 | 2:
            holder[key] = rng.choice((*VALUES, DEEP, LONG))
        case 3:
            other, place = rng.choice(places)
            holder[key] = copy.deepcopy(other[place])
        case 4:
            del holder[key]
        case 5 if isinstance(holder, dict):
            holder[rng.choice(TEXTS)] = holder.pop(key)
        case 6 if isinstance(holder, dict):
            holder[rng.choice((*TEXTS, "name", "path", "kind"))] = rng.choice((*VALUES, DEEP))
        case _:
            small = len(repr(holder[key])) < 40 and holder[key] not in (DEEP, LONG)
            holder[key] = [holder[key]] * rng.choice((1, 2, 3_000 if small else 3))
    return value


def _places(value: Any) -> Any:
    pending = [value]
    while pending:
        holder = pending.pop()
        keys = holder if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in list(keys):
            yield holder, key
            pending.append(holder[key])


def rezipped(rng: Random, members: Mapping[str, bytes], change: Callable[[Random, str, bytes], bytes]) -> bytes:
    """A zip file of members, one of which `change` has made wrong; or with what is wrong in the file itself."""
    listed = list(members.items())
    at = rng.randrange(len(listed))
    name, content = listed[at]
    match rng.randrange(10):
        case 0:
            listed.append((name, flipped(rng, content)))
        case 1:
            listed[at] = (rng.choice((*TEXTS, f"../{name}", f"/{name}", f"{name}/", "C:\\x.npy")), content)
        case 2:
            del listed[at]
        case 3:
            listed += [(f"{number}.npy", content[:64]) for number in range(3_000)]
        case _:
            listed[at] = (name, change(rng, name, content))
    packed = zipped(listed)
    return flipped(rng, packed) if rng.random() < 0.3 else packed


def zipped(members: Sequence[tuple[str, bytes]]) -> bytes:
    """A zip file, the same bytes for the same members; a name may be there twice, or be none."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members:
            entry = zipfile.ZipInfo("x")
            entry.filename = name.encode("utf-8", "replace").decode()
            entry.compress_type = zipfile.ZIP_DEFLATED if len(content) > 200 else zipfile.ZIP_STORED
            archive.NameToInfo.pop(entry.filename, None)  # which would warn
            archive.writestr(entry, content)
    return target.getvalue()


def unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(rng: Random, text: str) -> bytes:
    """A text of lines and cells with some of these wrong."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(rng.choice((1, 1, 2, 5))):
        row = rng.choice(rows)
        at = rng.randrange(len(row) or 1)
        match rng.randrange(6):
            case 0 | 1:
                row[at : at + 1] = [rng.choice((*TEXTS, "1e999", "-inf", "0x10", "1_000", '"', '"a""b', "1,2"))]
            case 2:
                del row[at : at + 1]
            case 3:
                rows.insert(rng.randrange(len(rows)), list(row))
            case 4:
                row += row * rng.choice((1, 2_000))
            case 5:
                rows[0] = list(rng.choice(rows))
    content = rng.choice(("\n", "\n", "\r\n", "\r", "\0\n")).join(map(",".join, rows)).encode("utf-8", "surrogatepass")
    content = rng.choice((b"", b"", b"\xef\xbb\xbf", b"\xff\xfe")) + content
    return flipped(rng, content) if rng.random() < 0.3 else content
