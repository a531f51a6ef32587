"""Renderings: each a function of a finished report, whose module is loaded when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tflite_guard.results import Report


@dataclass(frozen=True)
class Format:
    """One rendering: a module of this package whose `render` takes a report."""

    name: str
    file: str
    """The name of its file in a report folder; of several files, of the one that is printed."""
    module: str

    def files(self, report: Report) -> dict[str, str]:
        """Its files, name to text. A `render` gives the text of the only one, or all of them so."""
        rendered: str | dict[str, str] = import_module(f"{__name__}.{self.module}").render(report)
        return {self.file: rendered} if isinstance(rendered, str) else rendered

    def text(self, report: Report) -> str:
        """What is printed."""
        return self.files(report)[self.file]


FORMATS = {
    one.name: one
    for one in (
        Format("text", "report.txt", "terminal"),
        Format("json", "report.json", "json"),
        Format("github", "annotations.txt", "annotations"),
        Format("markdown", "report.md", "markdown"),
        Format("html", "report.html", "html"),
        Format("sarif", "report.sarif", "sarif"),
        Format("junit", "report.junit.xml", "junit"),
        Format("gitlab", "report.gitlab.json", "gitlab"),
    )
}
"""By name, in the order in which they are offered."""
