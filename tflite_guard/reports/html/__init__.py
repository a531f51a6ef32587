"""The page: one file that needs no network, no script and no font, for reading a report at leisure.

Everything in a report is hostile text. Jinja2 escapes all of it, `plain` goes before that at the one door through which
values leave a template, nothing is marked safe, and the page's own policy forbids whatever is not in it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tflite_guard import rules
from tflite_guard.reports import wording
from tflite_guard.reports.html import choices, examples, histograms, ladder, page, phrases, tensors
from tflite_guard.results import Report
from tflite_guard.text import figures
from tflite_guard.text.plain import plain, unobeyed

LIMIT = 3_000_000
"""Bytes of UTF-8: more takes too long to open, and to send."""
TEMPLATES = Path(__file__).parent / "templates"


def render(report: Report) -> str:
    """The report as a page of at most `LIMIT` bytes; what is left out for that is counted where it is missing."""
    template = _environment().get_template("page.html")
    pages = (template.generate(page=page.page(report, bounds)) for bounds in page.BOUNDS)
    tries = (_within(LIMIT, map(unobeyed, pieces)) for pieces in pages)
    return next(text for text in tries if text is not None)


def _within(limit: int, pieces: Iterator[str]) -> str | None:
    """The pieces together; None as soon as they are more than so many bytes."""
    text, size = io.StringIO(), 0
    for piece in pieces:
        size += len(piece.encode())
        if size > limit:
            return None
        text.write(piece)
    return text.getvalue()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(wording=wording, figures=figures, phrases=phrases, rules=rules)
    environment.globals.update(
        ladder=ladder, tensors=tensors, choices=choices, examples=examples, histograms=histograms
    )
    environment.filters.update(name=phrases.name)
    return environment


def _harmless(value: object) -> object:
    """What a template puts out: text without control and direction characters, on one line, of limited length.

    What is no `str` itself, as the address of a picture, is made here and keeps its length; it is escaped all the same.
    """
    return plain(value, wording.LONGEST_MESSAGE) if type(value) is str else value
