"""Renderings: each a function of a finished report."""

from __future__ import annotations

from collections.abc import Callable

from tflite_guard.reports import gitlab, json, junit, markdown, sarif, terminal
from tflite_guard.reports.annotations import render as github
from tflite_guard.results import Report

FORMATS: dict[str, Callable[[Report], str]] = {
    "text": terminal.render,
    "json": json.render,
    "github": github,
    "markdown": markdown.render,
    "sarif": sarif.render,
    "junit": junit.render,
    "gitlab": gitlab.render,
}
FILES = {
    "text": "report.txt",
    "json": "report.json",
    "github": "annotations.txt",
    "markdown": "report.md",
    "sarif": "report.sarif",
    "junit": "report.junit.xml",
    "gitlab": "report.gitlab.json",
}
"""The name of each rendering in a report folder."""
