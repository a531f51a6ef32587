"""The comment and the page as people see them: real runs, GitHub's parser and style sheet, a real browser."""

from __future__ import annotations

import html
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cmarkgfm import markdown_to_html_with_extensions
from cmarkgfm.cmark import Options
from msgspec.structs import replace
from PIL import Image

from tests.conftest import EXAMPLES, Run
from tests.diagnosed import diagnosed
from tests.e2e.node import install
from tests.sample import COMMANDS, full, named
from tflite_guard.reports import html as report_page
from tflite_guard.reports.json import read
from tflite_guard.reports.markdown import COMMENT_LIMIT, render

WIDTH = 760
"""Of a comment on GitHub in a window of a usual size, in pixels."""
BACKGROUND = {"light": (255, 255, 255), "dark": (13, 17, 23)}
EXTENSIONS = ["table", "autolink", "strikethrough", "tagfilter", "tasklist"]
PAGE = """<!doctype html><html><head><meta charset="utf-8"><style>{css}</style>
<style>body {{ margin: 0; background: rgb{background} }}
article {{ box-sizing: border-box; width: {width}px; padding: 16px; font-size: 14px !important }}</style></head>
<body><article class="markdown-body">{body}</article><script>{script}</script></body></html>"""
MEASURE = """
const article = document.querySelector("article");
const all = (selector) => [...article.querySelectorAll(selector)];
const text = (element) => element.innerText.replace(/\\s+/g, " ").trim();
function marks(pre) {
  const found = [], walker = document.createTreeWalker(pre, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    [...node.data].forEach((character, position) => {
      if (!"┃╂●├┤".includes(character)) return;
      const range = document.createRange();
      range.setStart(node, position);
      range.setEnd(node, position + 1);
      const {x, y} = range.getBoundingClientRect();
      found.push({character, x: Math.round(x * 10) / 10, y: Math.round(y)});
    });
  }
  return found;
}
const rules = "https://github.com/tflite-guard/tflite-guard/blob/main/docs/rules/";
const inSight = all("h2, p, ul, li, pre, table").filter((element) => !element.closest("details"));
const folds = all("details");
const measured = {
  title: text(all("h2")[0]),
  sideways: inSight.filter((element) => element.scrollWidth > element.clientWidth).map((element) => element.tagName),
  folded: folds.map((details) => !details.open),
  height: article.scrollHeight,
  strangers: all("a, img, script, style, input, iframe").filter((element) => !(element.href || "").startsWith(rules))
    .map((element) => element.outerHTML),
};
folds.forEach((details) => { details.open = true; });
measured.tables = all("table").map((table) => [...table.rows].map((row) => [...row.cells].map(text)));
measured.overflow = all("table").map((table) => table.scrollWidth - article.clientWidth);
measured.charts = all("pre").map(marks);
folds.forEach((details) => { details.open = false; });
document.body.append(Object.assign(document.createElement("output"), {textContent: JSON.stringify(measured)}));
"""


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GitHub's style sheets."""
    return install("page", tmp_path_factory.mktemp("npm")) / "node_modules/github-markdown-css"


def browse(page: Path, *arguments: str) -> str:
    browser = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *arguments]
    own = f"--user-data-dir={page.parent / 'profile'}"
    return subprocess.run(
        [*command, own, page.as_uri()], capture_output=True, text=True, check=True, timeout=120
    ).stdout


def show(markdown: str, style: Path, folder: Path, theme: str = "light", width: int = WIDTH) -> tuple[Any, Image.Image]:
    """What a browser measures of a page, and its picture."""
    body = markdown_to_html_with_extensions(markdown, options=Options.CMARK_OPT_UNSAFE, extensions=EXTENSIONS)
    css = (style / f"github-markdown-{theme}.css").read_text()
    page, picture = folder / "page.html", folder / f"{theme}.png"
    page.write_text(PAGE.format(css=css, background=BACKGROUND[theme], width=width, body=body, script=MEASURE))
    dom = browse(page, f"--window-size={WIDTH},2000", "--dump-dom")
    measured = json.loads(html.unescape(dom.rpartition("<output>")[2].partition("</output>")[0]))
    browse(page, f"--window-size={WIDTH},{measured['height']}", f"--screenshot={picture}")
    return measured, Image.open(io.BytesIO(picture.read_bytes())).convert("RGB")


@pytest.fixture
def broken(run: Run, tmp_path: Path) -> str:
    """The comment on the example whose calibration is wrong."""
    assert run("check", EXAMPLES / "digits-broken/tflite-guard.json", "--report-dir", "report").code == 1
    return render(read(str(tmp_path / "report/report.json")), COMMENT_LIMIT)


@pytest.mark.parametrize("theme", list(BACKGROUND))
def test_a_regression_is_seen_at_once(broken: str, style: Path, tmp_path: Path, theme: str) -> None:
    measured, picture = show(broken, style, tmp_path, theme)
    lost = "int8 of digits lost 3.0 points of accuracy (allowed 1.0)"
    assert measured["title"] == f"❌ {lost}: calibration data is scaled unlike real inputs"
    head, *rows = measured["tables"][0]
    assert head == ["variant", "metric", "float", "quantized", "worse by", "tolerance"]
    assert [row[0].split()[0] for row in rows[:3]] == ["❌", "❌", "–"], "what has no tolerance has no verdict"
    assert rows[0][0].startswith("❌ int8 ")
    assert rows[0][1] == "❌ accuracy"
    assert rows[0][4].startswith("0.0")
    assert all(measured["folded"])
    assert measured["overflow"][0] <= 0, "the table is wider than a comment"
    assert measured["strangers"] == []
    assert picture.size == (WIDTH, measured["height"])
    assert picture.getpixel((0, 0)) == BACKGROUND[theme]
    red, green, blue = np.moveaxis(np.asarray(picture.crop((0, 0, WIDTH, 60))), -1, 0)
    assert np.sum((red > 200) & (green < 90) & (blue < 90)) > 50, "the title has no red cross"


def test_the_limits_of_a_chart_are_one_line(broken: str, style: Path, tmp_path: Path) -> None:
    (chart,) = show(broken, style, tmp_path)[0]["charts"]
    limits = [mark for mark in chart if mark["character"] in "┃╂"]
    assert len({mark["y"] for mark in limits}) == 2, "one for each variant"
    assert len({mark["x"] for mark in limits}) == 1
    (_, failed) = [mark for mark in chart if mark["character"] == "●"]
    assert failed["x"] > limits[0]["x"]


def test_what_failed_fits_a_phone(broken: str, style: Path, tmp_path: Path) -> None:
    for place, markdown in enumerate((broken, render(full()), render(named("a-long-name-without-a-break" * 20)))):
        (tmp_path / str(place)).mkdir()
        measured, _ = show(markdown, style, tmp_path / str(place), width=390)
        assert set(measured["sideways"]) <= {"TABLE"}, "of the models that pass"


def test_hostile_names_change_nothing_but_text(style: Path, tmp_path: Path) -> None:
    for name, text in (("harmless", "harmless"), ("hostile", " ".join(one[:90] for one in COMMANDS))):
        (tmp_path / name).mkdir()
        measured, _ = show(render(named(text)), style, tmp_path / name)
        shape = [[len(row) for row in table] for table in measured["tables"]]
        assert measured["strangers"] == []
        if name == "harmless":
            expected = shape, measured["folded"], [[m["character"] for m in chart] for chart in measured["charts"]]
    assert (shape, measured["folded"], [[m["character"] for m in chart] for chart in measured["charts"]]) == expected


def test_text_from_right_to_left_does_not_turn_the_figures(style: Path, tmp_path: Path) -> None:
    name = "العربية 123"
    measured, _ = show(render(named(name)), style, tmp_path)
    assert [name in row[0] for row in measured["tables"][1][1:3]] == [True, True]
    for chart in measured["charts"]:
        for line in {mark["y"] for mark in chart}:
            drawn = [mark for mark in chart if mark["y"] == line]
            assert [mark["x"] for mark in drawn] == sorted(mark["x"] for mark in drawn)


# The page

POLICY = 'http-equiv="Content-Security-Policy"'
MEASURE_PAGE = """
const measure = () => [document.documentElement.scrollWidth, innerWidth, document.documentElement.scrollHeight];
const folded = measure();
document.querySelectorAll("details").forEach((one) => { one.open = true; });
const scrolling = [...document.querySelectorAll("[role=region]")].filter((one) => one.scrollWidth > one.clientWidth);
const small = [...document.querySelectorAll("svg text")].map((one) => one.getBoundingClientRect().height);
const measured = {folded, open: measure(), scrolling: scrolling.length, smallest: Math.min(...small),
                  outside: [...document.querySelectorAll("svg text")].filter((one) => {
                    const {left, right} = one.getBoundingClientRect();
                    return left < 0 || right > innerWidth;
                  }).map((one) => one.textContent)};
parent.postMessage(JSON.stringify(measured), "*");
"""
FRAME = """<!doctype html><iframe src="report.html" style="width: {width}px; height: 900px; border: 0"></iframe><script>
addEventListener("message", ({{data}}) =>
  document.body.append(Object.assign(document.createElement("output"), {{textContent: data}})));</script>"""
"""Windows of a browser are never as narrow as a phone."""


def measured_page(text: str, folder: Path, width: int) -> Any:
    """What a script measures in the page, which has to give up its policy for that."""
    assert POLICY in text
    scripted = text.replace(POLICY, "name=policy").replace("</body>", f"<script>{MEASURE_PAGE}</script></body>")
    (folder / "report.html").write_text(scripted)
    (folder / "frame.html").write_text(FRAME.format(width=width))
    dom = browse(folder / "frame.html", "--window-size=1400,1000", "--virtual-time-budget=10000", "--dump-dom")
    return json.loads(html.unescape(dom.rpartition("<output>")[2].partition("</output>")[0]))


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("name", ["sample", "hostile"])
def test_the_page_never_scrolls_sideways(tmp_path: Path, width: int, name: str) -> None:
    report = diagnosed() if name == "sample" else named("x" * 5000 + " ".join(one[:90] for one in COMMANDS))
    measured = measured_page(report_page.render(report), tmp_path, width)
    for across, window, _ in (measured["folded"], measured["open"]):
        assert window == width
        assert across <= window
    assert measured["open"][2] > measured["folded"][2]
    assert measured["outside"] == []
    if width == 360:
        assert measured["scrolling"] > 0, "wide tables scroll inside themselves"
    if name == "sample":
        assert measured["smallest"] >= 12, "text in charts keeps its size on a phone"


@pytest.mark.parametrize(("scheme", "background"), [(0, (13, 17, 23)), (1, (255, 255, 255))])
def test_the_page_is_dark_where_the_reader_wants_it_so(
    tmp_path: Path, scheme: int, background: tuple[int, int, int]
) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    page.write_text(report_page.render(diagnosed()))
    chosen = f"--blink-settings=preferredColorScheme={scheme}"
    browse(page, "--window-size=1280,900", chosen, f"--screenshot={picture}")
    assert Image.open(picture).convert("RGB").getpixel((2, 2)) == background


def test_the_policy_of_the_page_lets_no_script_run(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    script = "<script>document.body.append(document.createElement('output'))</script>"
    page.write_text(report_page.render(diagnosed()).replace("</body>", f"{script}</body>"))
    assert "<output>" not in browse(page, "--dump-dom")
    page.write_text(page.read_text().replace(POLICY, "name=policy"))
    assert "<output>" in browse(page, "--dump-dom")


@pytest.mark.parametrize(("policy", "shown"), [("img-src data:", True), ("img-src 'none'", False)])
def test_pictures_are_seen_under_the_policy_of_the_page(tmp_path: Path, policy: str, shown: bool) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    report = replace(diagnosed(), models=diagnosed().models[:1])
    page.write_text(report_page.render(report).replace("img-src data:", policy))
    browse(page, "--window-size=1280,9000", f"--screenshot={picture}")
    red, green, blue = np.moveaxis(np.asarray(Image.open(picture).convert("RGB")), -1, 0)
    magenta = int(((red == 255) & (green == 0) & (blue == 255)).sum())
    assert magenta == (78 * 78 // 2 if shown else 0), "half of a picture within its border"
