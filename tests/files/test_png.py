"""Small pictures: what another library reads of them, and what comes through of a text from anybody."""

from __future__ import annotations

import base64
import io
import random
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tflite_guard.files import png


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def file(width: int, height: int, rows: bytes, *, depth: int = 8, kind: int = 0, more: bytes = b"") -> str:
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + more + chunk(b"IEND", b"")
    return base64.b64encode(png.SIGNATURE + parts).decode()


@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from([1, 3]), st.integers(0, 1000))
def test_pillow_reads_the_pixels_that_were_written(height: int, width: int, channels: int, seed: int) -> None:
    pixels = random.Random(seed).randbytes(height * width * channels)
    written = png.picture(pixels, height, width, channels)
    read = Image.open(io.BytesIO(base64.b64decode(written)))
    assert (read.size, read.mode) == ((width, height), {1: "L", 3: "RGB"}[channels])
    assert read.tobytes() == pixels
    assert png.redrawn(written) == written


def test_the_largest_picture_of_noise_is_within_the_bound() -> None:
    written = png.picture(random.Random(2).randbytes(64 * 64 * 3), 64, 64, 3)
    assert len(base64.b64decode(written)) <= png.LARGEST


def test_nothing_but_pixels_comes_through() -> None:
    hidden = chunk(b"tEXt", b"Comment\0<script>alert(1)</script>")
    given = file(2, 1, b"\0\x07\x09", more=hidden)
    assert png.redrawn(given) == png.picture(b"\x07\x09", 1, 2, 1)
    trailing = base64.b64encode(base64.b64decode(png.picture(b"\x07", 1, 1, 1)) + b"<script>").decode()
    assert png.redrawn(trailing) == png.picture(b"\x07", 1, 1, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "é" * 8,
        file(65, 1, b"\0" + bytes(65)),
        file(1, 65, b"\0\0" * 65),
        file(0, 1, b""),
        file(2, 1, b"\0\x07"),
        file(2, 1, b"\1\x07\x09"),
        file(2, 1, b"\0\x07\x09", depth=16),
        file(2, 1, b"\0\x07\x09", kind=3),
        file(64, 64, bytes(10_000_000)).replace("iVBOR", "AAAAA"),
        png.picture(b"\x07", 1, 1, 1)[:-40],
        png.picture(b"\x07", 1, 1, 1)[:50],
        "A" * 1_000_000,
    ],
)
def test_any_other_text_is_no_picture(text: str) -> None:
    assert png.redrawn(text) is None


def test_a_bomb_is_unpacked_no_further_than_its_pixels() -> None:
    bomb = file(1, 1, b"\0\x07" + bytes(8_000_000))
    assert len(bomb) < 16_000
    assert png.redrawn(bomb) == png.picture(b"\x07", 1, 1, 1)
