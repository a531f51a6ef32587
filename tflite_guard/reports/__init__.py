"""Renderings: each a function of a finished report."""

from __future__ import annotations

from collections.abc import Callable

from tflite_guard.reports import json, text
from tflite_guard.results import Report

FORMATS: dict[str, Callable[[Report], str]] = {"text": text.render, "json": json.render}
FILES = {"text": "report.txt", "json": "report.json"}
"""The name of each rendering in a report folder."""
