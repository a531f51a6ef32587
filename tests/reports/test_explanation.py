"""A rule's page says what to do, in Markdown and in a terminal, and what it shows to write is valid."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest

from tests.conftest import ROOT, Run
from tflite_guard.manifest.schema import schema
from tflite_guard.reports import explanation
from tflite_guard.rules import GROUPS, RULES, Rule

PAGES = {rule.id: explanation.markdown(rule) for rule in RULES.values()}


def blocks(language: str) -> list[tuple[str, str]]:
    found = {rule: re.findall(rf"```{language}\n(.*?)\n```", page, re.DOTALL) for rule, page in PAGES.items()}
    return [(rule, block) for rule, those in found.items() for block in those]


def test_every_rule_is_in_one_group_and_has_an_id_of_its_own() -> None:
    assert len(RULES) == sum(map(len, GROUPS.values()))


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_a_rule_says_what_it_means_and_what_to_do_in_sentences(rule: Rule) -> None:
    for sentence in (rule.meaning, rule.advice, rule.proof or "."):
        assert sentence.endswith("."), sentence
        assert sentence.count("`") % 2 == 0, sentence
    assert not rule.title.endswith(".")
    assert rule.accept != Rule("", "note", "", "", "").accept or not rule.finding
    assert rule.details.count("```") % 2 == 0


@pytest.mark.parametrize("rule", GROUPS["Causes in the data"] + GROUPS["Causes in the network"], ids=lambda one: one.id)
def test_a_cause_says_how_it_is_proven(rule: Rule) -> None:
    assert rule.proof
    assert "## How it is proven" in PAGES[rule.id]


@pytest.mark.parametrize(("rule", "block"), blocks("python"))
def test_the_python_that_is_shown_compiles(rule: str, block: str) -> None:
    compile(block, rule, "exec")


@pytest.mark.parametrize(("rule", "block"), blocks("json"))
def test_the_json_that_is_shown_is_what_a_manifest_takes(rule: str, block: str) -> None:
    """Either an entry of a variant, or one step or variant a line."""
    definitions = schema("manifest-v1")["$defs"]
    if block.startswith('"'):
        for key, value in json.loads(f"{{{block}}}").items():
            check(value, definitions["variant"]["properties"][key])
        return
    for line in block.splitlines():
        value = json.loads(line)
        kind = "variant" if "name" in value else "step"
        for one in value if isinstance(value, list) else [value]:
            check(one, definitions[kind])


def check(value: object, kind: dict[str, object]) -> None:
    jsonschema.Draft202012Validator({**kind, "$defs": schema("manifest-v1")["$defs"]}).validate(value)


def test_a_finding_says_how_to_accept_it_and_a_verdict_that_it_cannot() -> None:
    assert '"ignore": [{"rule": "weight-outliers", "reason": "' in PAGES["weight-outliers"]
    assert "cannot be ignored" in PAGES["tolerance-exceeded"]


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_a_terminal_shows_the_same_words(rule: Rule) -> None:
    def words(text: str) -> list[str]:
        return re.sub(r"```\w*|^##? (?=[A-Z])", "", text, flags=re.MULTILINE).lower().split()

    shown = explanation.text(rule, 60)
    head = f"{rule.id}: {rule.title}"
    assert shown.startswith(f"{head}\n")
    told = words(PAGES[rule.id])
    assert words(shown)[len(head.split()) :] == told[2 + len(rule.title.split()) :]
    prose = [line for line in shown.splitlines()[1:] if not line.startswith("      ")]
    assert max(map(len, prose)) <= 60


def test_explain_prints_a_page_and_lists_all(run: Run) -> None:
    finished = run("explain", "channel-imbalance")
    assert (finished.code, finished.out) == (0, explanation.text(RULES["channel-imbalance"]))
    finished = run("explain")
    assert finished.code == 0
    assert [line.split()[0] for line in finished.out.splitlines() if line.startswith("  ")] == list(RULES)


def test_explain_takes_the_name_that_alerts_have() -> None:
    assert explanation.find("could-not-evaluate/crash") is RULES["could-not-evaluate"]
    assert explanation.find("could-not-evaluate/unassigned-variables") is RULES["unassigned-variables"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("chanel-imbalance", "did you mean channel-imbalance"),
        ("calibration", "calibration-outliers"),
        ("\x1b[31m", "`tflite-guard explain` lists all"),
    ],
)
def test_explain_of_an_unknown_rule_names_the_nearest(run: Run, name: str, hint: str) -> None:
    finished = run("explain", name)
    assert finished.code == 2
    assert hint in finished.err
    assert "\x1b" not in finished.err


def test_every_rule_has_its_page() -> None:
    pages = {path.stem for path in (ROOT / "docs/rules").glob("*.md")}
    assert pages == set(RULES)
    index = (ROOT / "docs/rules.md").read_text()
    assert all(f"(rules/{rule}.md)" in index for rule in RULES)


def test_a_rule_within_a_sentence_begins_small_but_for_names() -> None:
    assert RULES["reference-suspect"].brief == "the reference looks broken"
    assert RULES["nan-output"].brief == "NaN or infinity"
