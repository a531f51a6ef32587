"""Every file in good/ is valid, every one in bad/ has just the problems written beside it.

After a change of wording, `REWRITE_EXPECTED=1 pytest tests/manifest/test_manifest_examples.py` writes
the expected files anew; read their diff.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("example", sorted((HERE / "good").iterdir()), ids=lambda path: path.stem)
def test_a_good_manifest_is_valid(example: Path, problems: Callable[..., list[str]]) -> None:
    assert problems(example.read_bytes(), allow_code="code" in example.stem) == []


@pytest.mark.parametrize("example", sorted((HERE / "bad").glob("*.json")), ids=lambda path: path.stem)
def test_a_bad_manifest_has_every_problem_at_its_place(
    example: Path, problems: Callable[..., list[str]], project: Path
) -> None:
    found = "".join(f"{line.replace(str(project), 'REPOSITORY')}\n" for line in problems(example.read_bytes()))
    found = found.replace(str(project.parent), "OUTSIDE")
    expected = example.with_suffix(".txt")
    if os.environ.get("REWRITE_EXPECTED"):
        expected.write_text(found, encoding="utf-8")
    assert found == expected.read_text(encoding="utf-8")


def test_the_schema_accepts_its_own_example(problems: Callable[..., Any]) -> None:
    from tflite_guard.manifest.schema import schema

    (example,) = schema("manifest-v1")["examples"]
    assert problems({**example}) == []
