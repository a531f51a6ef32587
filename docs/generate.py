"""Write docs/manifest.md from the manifest's JSON Schema, docs/rules.md and docs/rules/ from the rules.

--check fails if one is stale.

python docs/generate.py
python docs/generate.py --check
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tflite_guard.manifest.jsontext import MAX_BYTES, MAX_DEPTH, MAX_VALUES
from tflite_guard.manifest.loading import MAX_FIGURES
from tflite_guard.reports import explanation
from tflite_guard.rules import GROUPS, RULES, Rule

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "schemas" / "manifest-v1.schema.json"
PAGE = ROOT / "docs" / "manifest.md"
RULES_PAGE = ROOT / "docs" / "rules.md"
RULES_FOLDER = ROOT / "docs" / "rules"

LIMITS = {"mebibytes": MAX_BYTES >> 20, "values": MAX_VALUES, "depth": MAX_DEPTH, "figures": MAX_FIGURES}
HEAD = """# The manifest

<!-- Generated from schemas/manifest-v1.schema.json by docs/generate.py; edit the schema. -->

A manifest is a JSON file, `tflite-guard.json` by default. `tflite-guard validate` reports everything that is
wrong with one, each problem with its line and column. For completion and hover in an editor, let its
`$schema` point to `schemas/manifest-v1.schema.json`, or write the schema beside it with
`tflite-guard schema manifest > manifest.schema.json`.

A manifest has at most {mebibytes} MiB, {values:,} values (objects, lists and what they hold) and {depth} levels, and
its variants, with all defaults written out, at most {figures:,} metrics and tolerances. Beyond, write several
manifests: without arguments every command takes all of a repository.

## A complete example

```json
{example}
```

## Keys
"""


RULES_HEAD = """# Rules

<!-- Generated from tflite_guard/rules by docs/generate.py; edit the rules. -->

What a report can say besides its figures; each rule has a page, which `tflite-guard explain RULE` prints. A finding of
severity `error` makes its variant at least `fail`, a `warning` at least `warn`; a `note` changes no verdict. A finding
about the reference concerns the whole model.

The cause of a failure is named only if an experiment has proven it: one thing is changed, the model is quantized
again, and at least half of the loss comes back, on examples that played no part in choosing the experiment. The cause
then appears below the failure, with the fraction that came back and its 95 % interval.
[Why a converted model is worse](diagnosis.md) explains how.

Put findings that you have looked at and accept into `ignore`, on the variant or on the model:

```json
"ignore": [{"rule": "partially-quantized", "reason": "the device has a float unit"}]
```

They stay in every report, marked as ignored and with the reason, and make no verdict worse. Verdicts and errors cannot
be ignored; the manifest's tolerances say what is allowed.
"""
RULE_NOTE = "<!-- Generated from tflite_guard/rules by docs/generate.py; edit the rules. -->"


def rules_page() -> str:
    """The index: each rule with its title, by what it is about."""
    return "\n".join([RULES_HEAD, *(_group(name, rules) for name, rules in GROUPS.items())])


def _group(name: str, rules: tuple[Rule, ...]) -> str:
    rows = [f"| [{rule.id}](rules/{rule.id}.md) | {rule.severity} | {rule.title} |" for rule in rules]
    return "\n".join([f"## {name}\n", "| rule | severity | what it says |", "|---|---|---|", *rows]) + "\n"


def rule_page(rule: Rule) -> str:
    """One rule's page."""
    heading, _, rest = explanation.markdown(rule).partition("\n")
    return f"{heading}\n\n{RULE_NOTE}\n{rest}\n[All rules](../rules.md)\n"


def page(schema: dict[str, Any]) -> str:
    """The whole page as Markdown."""
    example, defs = compact(schema["examples"][0]), schema["$defs"]
    parts = [HEAD.format(example=example, **LIMITS), section("The manifest", schema, defs)]
    parts += [section(title(name), found, defs) for name, found in defs.items()]
    return "\n".join(parts)


def compact(written: Any, indent: str = "") -> str:
    """JSON with what fits on a line kept on one."""
    line = json.dumps(written, ensure_ascii=False)
    if not isinstance(written, dict | list) or len(indent) + len(line) <= 100:
        return line
    inner, pair = indent + "  ", isinstance(written, dict)
    named = written.items() if isinstance(written, dict) else (("", element) for element in written)
    rows = [inner + (f"{json.dumps(key)}: " if pair else "") + compact(element, inner) for key, element in named]
    opening, closing = "{}" if pair else "[]"
    return f"{opening}\n" + ",\n".join(rows) + f"\n{indent}{closing}"


def section(heading: str, schema: dict[str, Any], defs: dict[str, Any]) -> str:
    """One object or list of the schema: its description and a table of its keys."""
    lines = [f"### {heading}", "", schema["description"], ""]
    if "properties" in schema:
        required = schema.get("required", [])
        lines += ["| key | value | meaning |", "|---|---|---|"]
        lines += [row(key, found, key in required, defs) for key, found in schema["properties"].items()]
    else:
        lines.append(f"Value: {value(schema)}.")
    return "\n".join(lines) + "\n"


def row(key: str, schema: dict[str, Any], required: bool, defs: dict[str, Any]) -> str:
    """One line of a table. Of a referenced object, only the first sentence; its own section has the rest."""
    meaning = schema.get("description")
    if meaning is None:
        meaning = defs[schema["$ref"].rpartition("/")[2]]["description"].split(". ")[0].rstrip(".") + "."
    return f"| `{key}`{' (required)' if required else ''} | {value(schema)} | {meaning.replace('|', chr(92) + '|')} |"


def value(schema: dict[str, Any]) -> str:
    """What a value may be, in a few words."""
    if "$ref" in schema:
        return link(schema)
    if "anyOf" in schema:
        return " or ".join(value(branch) for branch in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema["type"] == "array":
        of = value(schema["items"])
        return f"list of {of.replace('string', 'strings').replace('number', 'numbers')}"
    return of_object(schema) if schema["type"] == "object" else scalar(schema)


def of_object(schema: dict[str, Any]) -> str:
    """An object inside a table: a map, or a few keys."""
    if "properties" in schema:
        return "object with " + ", ".join(f"`{key}`" for key in schema["properties"])
    return f"map from name to {value(schema['additionalProperties'])}"


def scalar(schema: dict[str, Any]) -> str:
    """A string, number or boolean with its bounds."""
    names = {"integer": "whole number", "boolean": "`true` or `false`"}
    bounds = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most"}
    named = [f"{text} {schema[key]}" for key, text in bounds.items() if key in schema and abs(schema[key]) < 2**31 - 1]
    return schema.get("title") or ", ".join([names.get(schema["type"], schema["type"]), *named])


def link(schema: dict[str, Any]) -> str:
    """A link to the section of a referenced definition."""
    name = schema["$ref"].rpartition("/")[2]
    return f"[{title(name)}](#{name.replace('_', '-')})"


def title(name: str) -> str:
    """A definition's name as a heading."""
    return name.replace("_", " ").capitalize()


def main(arguments: list[str]) -> str | None:
    """Write the pages, or with --check say which are stale."""
    pages = {PAGE: page(json.loads(SCHEMA.read_text(encoding="utf-8"))), RULES_PAGE: rules_page()}
    pages |= {RULES_FOLDER / f"{rule.id}.md": rule_page(rule) for rule in RULES.values()}
    foreign = sorted(set(RULES_FOLDER.glob("*.md")) - set(pages))
    if arguments == ["--check"]:
        stale = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
        names = ", ".join(str(path.relative_to(ROOT)) for path in [*stale, *foreign])
        return f"{names} stale: run python docs/generate.py" if names else None
    RULES_FOLDER.mkdir(exist_ok=True)
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    for path in foreign:
        path.unlink()
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
