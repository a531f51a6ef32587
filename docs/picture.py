"""Draw docs/terminal.svg: a finished report as a person sees it in a terminal.

tflite-guard check examples/digits-broken/tflite-guard.json --format json > report.json
python docs/picture.py report.json "tflite-guard check examples/digits-broken/tflite-guard.json"
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tflite_guard.reports.json import read
from tflite_guard.reports.terminal import View

TARGET = Path(__file__).with_name("terminal.svg")


def draw(report: str, command: str) -> str:
    """The report, under the command that gave it, as SVG."""
    console = Console(record=True, width=126, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {command}", style="bold"))
    console.print(View(read(report)))
    drawn = console.export_svg(title="tflite-guard", unique_id="tflite-guard")
    # A picture in a README may load nothing; the reader's own monospace font serves.
    return re.sub(r"@font-face {.*?}\s*", "", drawn, flags=re.DOTALL)


if __name__ == "__main__":
    TARGET.write_text(draw(*sys.argv[1:]), encoding="utf-8")
