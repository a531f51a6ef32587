"""A rule's page, for a terminal and for `docs/rules`: what it means, how it is proven, how to fix or accept it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from difflib import get_close_matches

from tflite_guard.errors import UsageError
from tflite_guard.results import Severity
from tflite_guard.rules import GROUPS, RULES, Rule, explained_by
from tflite_guard.text.plain import plain

WIDTH = 100
FENCE = "```"
_EFFECTS: dict[Severity, str] = {
    "error": "An error: what it is about fails.",
    "warning": "A warning: what it is about is at least `warn`.",
    "note": "A note: it changes no verdict.",
}
_ACCEPTED = (
    "It then stays in every report, marked as ignored and with the reason, and makes no verdict worse. On the variant, "
    "or on the model for its reference and all of its variants:"
)
_NEVER = "It cannot be ignored: the manifest's tolerances say what is allowed."


def find(name: str) -> Rule:
    """A rule by its id, as reports show it.

    Raises:
        UsageError: there is none; it names the nearest.
    """
    rule = explained_by(name)
    if rule is None:
        near = get_close_matches(name, RULES, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`tflite-guard explain` lists all"
        raise UsageError(f"there is no rule {plain(name)!r}; {hint}")
    return rule


def listing() -> str:
    """All rules with their titles, by what they are about."""
    longest = max(map(len, RULES))
    groups = (
        [name, *(f"  {rule.id:{longest}}  {rule.severity:7}  {rule.title}" for rule in rules)]
        for name, rules in GROUPS.items()
    )
    return "\n\n".join("\n".join(lines) for lines in groups) + "\n"


def markdown(rule: Rule) -> str:
    """The page as Markdown."""
    sections = "".join(f"\n## {heading}\n\n{body}\n" for heading, body in _sections(rule))
    return f"# {rule.id}\n\n{rule.title}. {_EFFECTS[rule.severity]}\n\n{rule.meaning}\n{sections}"


def text(rule: Rule, width: int = WIDTH) -> str:
    """The page as plain text, no line of prose longer than `width`."""
    parts = [f"{rule.id}: {rule.title}", _wrapped(_EFFECTS[rule.severity], width), _wrapped(rule.meaning, width)]
    for heading, body in _sections(rule):
        parts += [heading.upper(), textwrap.indent(_wrapped(body, width - 2), "  ")]
    return "\n\n".join(parts) + "\n"


def _sections(rule: Rule) -> Iterator[tuple[str, str]]:
    if rule.proof:
        yield "How it is proven", rule.proof
    yield "How to fix it", f"{rule.advice}\n\n{rule.details}".rstrip()
    yield "If this is known", _accepting(rule) if rule.finding else _NEVER


def _accepting(rule: Rule) -> str:
    entry = json.dumps({"rule": rule.id, "reason": rule.accept}, ensure_ascii=False)
    return f'{_ACCEPTED}\n\n{FENCE}json\n"ignore": [{entry}]\n{FENCE}'


def _wrapped(body: str, width: int) -> str:
    """Paragraphs and list items filled anew, code as it is and indented."""
    parts, code = [], False
    for part in body.split(FENCE):
        if code:
            parts.append(textwrap.indent(part.partition("\n")[2].rstrip(), "    "))
        else:
            parts += [_filled(block, width) for block in part.strip().split("\n\n") if block]
        code = not code
    return "\n\n".join(parts)


def _filled(block: str, width: int) -> str:
    """One paragraph, or a list."""
    items = block.split("\n- ") if block.startswith("- ") else [block]
    items[0] = items[0].removeprefix("- ")
    marked = "- " if block.startswith("- ") else ""
    return "\n".join(
        textwrap.fill(
            " ".join(item.split()),
            width,
            initial_indent=marked,
            subsequent_indent=" " * len(marked),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for item in items
    )
