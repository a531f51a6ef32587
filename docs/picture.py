"""Draw docs/terminal.svg and docs/comment.svg: a finished report in a terminal, and as the comment on a pull request.

Needs what the tests need.

tflite-guard check examples/digits-broken/tflite-guard.json --format json > report.json
python docs/picture.py report.json "tflite-guard check examples/digits-broken/tflite-guard.json"
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import cmarkgfm
from cmarkgfm.cmark import Options
from lxml import etree, html
from rich.console import Console
from rich.text import Text

from tflite_guard.reports.commit import Commit
from tflite_guard.reports.json import read
from tflite_guard.reports.markdown import render
from tflite_guard.reports.terminal import View

TERMINAL = Path(__file__).with_name("terminal.svg")
COMMENT = Path(__file__).with_name("comment.svg")
WIDTH, HEIGHT = 800, 690
"""Of the comment, in pixels: what the present one fills, with room for a reader's wider font."""
COMMIT = Commit("https://github.com", "tflite-guard/tflite-guard", "0" * 40)
"""That lines of the manifest are linked to."""
STYLE = """
div { font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; color: #1f2328 }
.frame { box-sizing: border-box; height: 100%; overflow: hidden }
.frame { background: #fff; border: 1px solid #d1d9e0; border-radius: 6px }
.head { background: #f6f8fa; border-bottom: 1px solid #d1d9e0; padding: 8px 16px; color: #59636e }
.body { padding: 0 16px }
h2 { font-size: 21px; border-bottom: 1px solid #d1d9e0; padding-bottom: 6px }
h3 { font-size: 17px }
ul { padding-left: 28px }
code, pre { font: 12px ui-monospace, Menlo, Consolas, monospace; background: #eff1f3; border-radius: 6px }
code { padding: 2px 5px } pre { padding: 10px; margin: 6px 0 } pre code { padding: 0 }
a { color: #0969da }
table { border-collapse: collapse } td, th { border: 1px solid #d1d9e0; padding: 5px 11px } sub { color: #59636e }
"""


def terminal(report: str, command: str) -> str:
    """The report, under the command that gave it, as SVG."""
    console = Console(record=True, width=126, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {command}", style="bold"))
    console.print(View(read(report)))
    drawn = console.export_svg(title="tflite-guard", unique_id="tflite-guard")
    # A picture in a README may load nothing; the reader's own monospace font serves.
    return re.sub(r"@font-face {.*?}\s*", "", drawn, flags=re.DOTALL)


def comment(report: str) -> str:
    """The report's Markdown as GitHub shows it, as SVG."""
    written = cmarkgfm.github_flavored_markdown_to_html(render(read(report), commit=COMMIT), Options.CMARK_OPT_UNSAFE)
    body = etree.tostring(html.fragment_fromstring(written, create_parent="div"), encoding="unicode")
    body = body.replace("<div>", '<div class="body">', 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">\n'
        f"<style>{STYLE}</style>\n"
        f'<foreignObject width="{WIDTH}" height="{HEIGHT}"><div xmlns="http://www.w3.org/1999/xhtml" class="frame">\n'
        f'<div class="head"><b>github-actions</b> commented</div>\n{body}</div></foreignObject></svg>\n'
    )


if __name__ == "__main__":
    TERMINAL.write_text(terminal(*sys.argv[1:]), encoding="utf-8")
    COMMENT.write_text(comment(sys.argv[1]), encoding="utf-8")
