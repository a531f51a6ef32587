"""What a terminal shows of a run: its first and its last screen, how much is folded, and how wide it is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.sample import accuracy, diagnosed, fixed, full, metric, variant
from tflite_guard.reports.terminal import Extent, shown
from tflite_guard.results import ErrorInfo, Finding, ModelResult, Report, Verdict

GOLDEN = Path(__file__).parents[1] / "golden"
SCREEN = 24
NAMES = [
    "keyword",
    "person",
    "digits",
    "gestures",
    "anomaly",
    "denoise",
    "wake",
    "depth",
    "masks",
    "text",
    "toys",
    "pose",
]


def passing(name: str) -> ModelResult:
    """With three variants, of which int8 loses most."""
    agreement = metric("agreement", 0.99, Verdict.PASS, tolerance={"min": 0.97})
    drops = {"float16": 0.0, "int8": 0.002, "dynamic_range": 0.001}
    variants = tuple(
        variant(quantization, Verdict.PASS, agreement, accuracy(0.98 - drop, (-0.002, 0.004), Verdict.PASS))
        for quantization, drop in drops.items()
    )
    return replace(fixed().models[2], name=name, variants=variants, float32=None)


def failing(name: str) -> ModelResult:
    broken = variant(
        "odd", Verdict.ERROR, artifact=None, error=ErrorInfo("conversion", "an operator " + "without a kernel " * 12)
    )
    return replace(
        fixed().models[0],
        name=name,
        variants=(diagnosed(fixed().models[0].variants[1]), *passing("").variants[1:], broken),
        verdict=Verdict.ERROR,
    )


def run_of(failed: int) -> Report:
    """Twelve models, of which so many fail."""
    models = (failing(name) if position < failed else passing(name) for position, name in enumerate(NAMES))
    return replace(fixed(), models=tuple(models), verdict=Verdict.ERROR if failed else Verdict.PASS, notes=())


@pytest.mark.parametrize("width", [80, 110, 160])
def test_the_terminal_is_the_one_that_was_read(width: int) -> None:
    path = GOLDEN / f"report.{width}.txt"
    rendered = shown(full(), width)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(rendered)
    assert rendered == path.read_text()


@pytest.mark.parametrize("width", [80, 110, 160])
@pytest.mark.parametrize("extent", ["all", "folded", "failures"])
def test_of_twelve_models_what_two_fail_of_is_on_the_first_and_on_the_last_screen(width: int, extent: Extent) -> None:
    lines = shown(run_of(2), width, extent).splitlines()
    assert len(lines) > 2 * SCREEN
    for screen in (lines[:SCREEN], lines[-SCREEN:]):
        together = " ".join(line.strip() for line in screen)
        assert "keyword / int8" in together
        assert "0.9100" in together
        assert "calibration-range-mismatch" in together
        assert "keyword / odd" in together
    last = " ".join(line.strip() for line in lines[-SCREEN:])
    for told in (
        "person / int8",
        "person / odd",
        "Fix: calibrate on 'train'",
        "accuracy 0.9800 → 0.9100 (max_drop 0.02)",
    ):
        assert told in last
    assert any(line.startswith("✗ error  12 models, 38 variants: 2 could not") for line in lines[-2:])


@pytest.mark.parametrize("width", [50, 80])
def test_however_many_fail_the_end_fits_a_screen_and_counts_the_rest(width: int) -> None:
    lines = shown(run_of(12), width).splitlines()
    end = lines[lines.index("What did not pass") :]
    assert len(end) < SCREEN
    told = sum(" / " in line for line in end)
    assert f"… and {24 - told} more, at the top" in end


def test_models_that_pass_have_a_row_each_and_v_opens_them() -> None:
    text = shown(run_of(2), 80)
    rows = [line.split() for line in text.splitlines() if line.startswith("✓  ")]
    assert [row[1] for row in rows] == NAMES[2:]
    assert rows[0][2:] == ["accuracy", "0.9800", "0.9780", "0.0020", "int8", "(of", "3)", "24.0", "kB"]
    assert "-v shows all of their figures" in text
    assert shown(run_of(2), 80, "all").count("agreement") == 3 * 10 + 2 * 2


def test_a_row_says_where_chance_may_have_let_a_model_pass() -> None:
    unsure = accuracy(0.97, (-0.01, 0.03), Verdict.PASS, conclusive=False)
    open_one = replace(passing("unsure"), variants=(variant("int8", Verdict.PASS, unsure),))
    lines = shown(replace(run_of(0), models=(passing("sure"), open_one)), 80).splitlines()
    assert [line.split()[:3] for line in lines if line.startswith("✓ ")][:2] == [
        ["✓", "sure", "accuracy"],
        ["✓", "?", "unsure"],
    ]
    assert "? the interval contains the limit: with other examples the verdict could differ" in lines


def test_notes_of_models_that_are_folded_are_counted() -> None:
    noted = replace(passing("noted"), findings=(Finding("state-reset", "note", "its state is reset"),), notes=("slow",))
    report = replace(fixed(), models=(passing("calm"), noted), verdict=Verdict.PASS, notes=())
    assert "-v shows all of their figures and 2 notes" in shown(report)


def test_a_row_says_what_changed_since_the_baseline_and_how_much_more_did() -> None:
    since = {"baseline": 0.9800, "regression": 0.001}
    changed = accuracy(0.979, (-0.01, 0.01), Verdict.PASS, **since)
    other = metric("agreement", 0.99, Verdict.PASS, baseline=0.98, regression=-0.01)
    same = metric("sqnr", 30.0, Verdict.PASS, baseline=30.0, regression=0.0)
    moved = replace(passing("moved"), variants=(variant("int8", Verdict.PASS, changed, other, same),))
    still = replace(moved, name="still", variants=(variant("int8", Verdict.PASS, same),))
    text = shown(replace(fixed(), models=(moved, still), verdict=Verdict.PASS, notes=()), 80)
    assert "was 0.9800" in text
    assert "was 30" not in text
    assert "-v shows all of their figures, 2 of which changed since the baseline\n" in text


def test_a_lone_model_and_one_that_nothing_is_asked_of_are_shown_whole() -> None:
    alone = replace(fixed(), models=(passing("alone"),), verdict=Verdict.PASS, notes=())
    assert shown(alone).count("[−0.0020, 0.0040]") == 3
    measured = replace(passing("measured"), variants=(variant("int8", Verdict.PASS, metric("sqnr", 30.0, None)),))
    assert "30.00 dB" in shown(replace(alone, models=(passing("one"), measured)))


def test_only_failures_leaves_out_models_variants_and_notes_that_pass() -> None:
    text = shown(replace(full(), models=(*full().models, passing("fine"))), extent="failures")
    for passed in ("fine", "healthy", "\nfloat16 ", "\ndynamic_range ", "\nfloat32 ", "-v shows", "underpowered"):
        assert passed not in text.partition("What did not pass")[0], passed
    for failed in ("digits  keras", "suspect  keras", "worse", "proof", "partially-quantized"):
        assert failed in text


def test_quiet_shows_what_does_not_pass_and_the_verdict() -> None:
    lines = shown(run_of(2), 80, "quiet").splitlines()
    assert not any("─" in line or "What did not pass" in line for line in lines)
    assert sum(line.startswith("✗ ") for line in lines) == 2 * 4 + 1
    assert shown(run_of(0), 80, "quiet") == "✓ pass  12 models, 36 variants: 36 within tolerance\n"


@pytest.mark.parametrize(("width", "wide"), [(109, False), (110, True), (131, True)])
def test_the_wide_table_comes_with_110_columns(width: int, wide: bool) -> None:
    text = shown(fixed(), width)
    assert bool(re.search(r"^variant +size +metric +float", text, re.MULTILINE)) == wide
    assert bool(re.search(r"^metric +float +variant", text, re.MULTILINE)) != wide


def test_sizes_stand_under_their_own_header_or_by_their_own_name() -> None:
    lines = shown(fixed(), 110).splitlines()
    head = next(line for line in lines if line.startswith("variant "))
    at = next(position for position, line in enumerate(lines) if line.startswith("int8 "))
    place = head.index("size")
    assert lines[at][place:].startswith("24.0 kB       accuracy ")
    assert lines[at + 1][place:].startswith("3.5× smaller  sqnr ")
    assert "✗ int8  size 24.0 kB, 3.5× smaller" in shown(fixed(), 80).splitlines()


def test_a_rung_that_nobody_asked_for_says_what_it_is_there_for() -> None:
    report = replace(fixed(), models=fixed().models[2:])
    for width in (110, 160):
        assert re.search(r"^float32 +84\.0 kB .*\n\(comparison\) +sqnr", shown(report, width), re.MULTILINE)
    assert "✓ float32 (comparison)  size 84.0 kB" in shown(report, 80)


def test_of_very_many_results_a_terminal_shows_some_and_counts_the_rest() -> None:
    bad = variant("bad", Verdict.FAIL, accuracy(0.91, (0.05, 0.09), Verdict.FAIL), metric("sqnr", 9.0, None))
    variants = tuple(
        replace(bad, name=f"v{number}", findings=(Finding("select-ops", "note", f"remark {number}"),))
        for number in range(600)
    )
    huge = replace(fixed().models[0], name="huge", variants=variants, verdict=Verdict.FAIL)
    beyond = (replace(huge, name=f"beyond{number}", variants=variants[:1]) for number in range(3))
    lines = shown(replace(run_of(0), models=(huge, *beyond), verdict=Verdict.FAIL), 120).splitlines()
    assert sum(line.startswith("✗ ") and "accuracy went from" in line for line in lines) == 200
    assert "… and 403 more, in report.json" in lines
    assert sum(line.split()[-4:-3] == ["sqnr"] or " sqnr " in line for line in lines) == 500
    # 100 variants, the remarks of the 500 that have rows, and three models.
    assert "… and 603 more models, variants, figures and remarks, in report.json" in lines
    assert "… and 589 more, at the top" in lines
    assert lines[-1].startswith("✗ fail  4 models, 603 variants: 603 out of tolerance")


@pytest.mark.parametrize("width", [80, 110])
def test_names_of_any_length_leave_room_for_what_failed(width: int) -> None:
    name = "a-model-of-a-long-path-" * 10
    bad = [variant(name + end, Verdict.FAIL, accuracy(0.91, (0.05, 0.09), Verdict.FAIL)) for end in "xy"]
    model = replace(fixed().models[0], name=name, variants=tuple(bad), verdict=Verdict.FAIL)
    lines = shown(replace(run_of(0), models=(model,), verdict=Verdict.FAIL), width).splitlines()
    assert not any(line.strip() in ("✗", "!") for line in lines[: lines.index("", 2)])
    end = lines[lines.index("What did not pass") + 1 : -1]
    assert [line for line in end if line.startswith("✗ a-model-of")] == end[::2]
    assert end[1::2] == ["  accuracy 0.9800 → 0.9100 (max_drop 0.02)"] * 2
    assert end[0].endswith("x")
    assert end[2].endswith("y")


def test_what_is_told_once_more_is_cut_only_where_there_is_no_room_for_it() -> None:
    def end(failed: int) -> str:
        return shown(run_of(failed), 80).partition("What did not pass\n")[2]

    assert "…" not in end(1)
    assert re.search(r"\S …$", end(4), re.MULTILINE)
    assert "  …" not in end(4)


def test_of_warnings_alone_the_end_says_that_they_are_warnings() -> None:
    unsure = variant("int8", Verdict.WARN, accuracy(0.91, (0.05, 0.09), Verdict.WARN))
    model = replace(fixed().models[2], variants=(unsure,), verdict=Verdict.WARN)
    text = shown(replace(run_of(0), models=(model,), verdict=Verdict.WARN))
    assert "\nWarnings\n! " in text
    assert "did not pass" not in text


@pytest.mark.parametrize("width", [80, 132])
def test_variants_without_a_figure_have_no_table(width: int) -> None:
    lost = replace(fixed().models[0], variants=fixed().models[0].variants[-1:])
    lines = shown(replace(run_of(0), models=(lost,), verdict=Verdict.ERROR), width).splitlines()
    assert "✗ lost  could not be evaluated" in lines
    assert not any("─" in line for line in lines)
