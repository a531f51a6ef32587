"""Text from files in HTML that GitHub shows: it stays text."""

from __future__ import annotations

import html
import re
from itertools import groupby

from tflite_guard.reports import wording
from tflite_guard.results import Verdict
from tflite_guard.text.plain import plain, unobeyed

MARKS = {Verdict.PASS: "✅", Verdict.WARN: "⚠️", Verdict.FAIL: "❌", Verdict.ERROR: "❌", None: "–"}
LONGEST_NAME = 100
"""In tables, where a longer name would push the figures out of sight."""
# What GitHub takes for nothing else: plain words and numbers too short to be a commit.
_HARMLESS = re.compile(
    r"[\[(]?([A-Za-z]+(['-][A-Za-z]+)*|\d{1,3}-bit|[+−-]?\d{1,6}([.,]\d{1,6})*(e[+-]\d\d)?|%)[\])]?[.,;:?]?|"
)
_PUNCTUATION = re.compile(r"([.,;:?]+(?: |$))")


def code(text: str, longest: int = LONGEST_NAME) -> str:
    """Text from a file, as it is: no mention, link, formula or markup."""
    return f"<code{direction(text)}>{escaped(plain(text, longest))}</code>"


def prose(text: str) -> str:
    """A sentence with text from files in it: plain words and numbers as they are, all else as code."""
    words = groupby(plain(text, wording.LONGEST_MESSAGE).split(" "), lambda word: bool(_HARMLESS.fullmatch(word)))
    runs = ((harmless, " ".join(run)) for harmless, run in words)
    return " ".join(run if harmless else _coded(run) for harmless, run in runs)


def _coded(words: str) -> str:
    """Words as code, and the punctuation after them, before a space or the end, as it is."""
    parts = _PUNCTUATION.split(words)
    return "".join(
        code(part, wording.LONGEST_MESSAGE) if part and not at % 2 else part for at, part in enumerate(parts)
    )


def linked(shown: str, address: str | None) -> str:
    """HTML as a link; as it is where there is no address."""
    return shown if address is None else f'<a href="{escaped(address)}">{shown}</a>'


def direction(text: str) -> str:
    """Right-to-left text, kept from reordering the figures beside it."""
    return "" if text.isascii() else ' dir="auto"'


def escaped(text: str) -> str:
    """Text as HTML, in which no table of Markdown finds a column either."""
    return unobeyed(html.escape(text).replace("|", "&#124;"))
