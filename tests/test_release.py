"""The release, each of its steps run as the runner does: what it refuses, what it pins, which tags it makes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.workflows import DECLARED, PROJECT, own, valid

RELEASE = {step["name"]: step for source in own() if source.label == "release.yml" for step in source.steps()}


def release(step: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a step of the release as the runner does."""
    script = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", RELEASE[step]["run"]]
    env = os.environ | environment
    return subprocess.run(script, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("action.yml", "pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_a_release_pins_the_image_and_changes_nothing_else(checkout: Path) -> None:
    image, digest = "ghcr.io/tflite-guard/tflite-guard", "sha256:" + "5e" * 32
    finished = release("Pin the image in action.yml", checkout, IMAGE=image, DIGEST=digest)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    valid("vendor.github-actions", checkout / "action.yml")
    pinned = YAML(typ="safe").load((checkout / "action.yml").read_text())
    assert pinned == DECLARED | {"runs": DECLARED["runs"] | {"image": f"docker://{image}@{digest}"}}


@pytest.mark.parametrize("digest", ["", "latest", "sha256:" + "5e" * 31, "sha256:" + "5e" * 32 + "|w /tmp/x"])
def test_a_release_without_a_digest_stops(checkout: Path, digest: str) -> None:
    finished = release("Pin the image in action.yml", checkout, IMAGE="ghcr.io/tflite-guard/x", DIGEST=digest)
    assert finished.returncode != 0
    assert (checkout / "action.yml").read_text() == (ROOT / "action.yml").read_text()


def test_a_release_needs_one_version_everywhere(checkout: Path) -> None:
    step, output = "See that the tag, the package and the changelog name one version", checkout / "output"
    changelog = checkout / "CHANGELOG.md"
    version = PROJECT["version"]

    def finished(tag: str) -> subprocess.CompletedProcess[str]:
        return release(step, checkout, GITHUB_REF_NAME=tag, GITHUB_OUTPUT=str(output))

    changelog.write_text("# Changelog\n\n## Unreleased\n")
    assert "::error::CHANGELOG.md has no section" in finished(f"release-{version}").stdout
    changelog.write_text(f"# Changelog\n\n## {version} (2026-12-01)\n\n- Something.\n\n## 0.0.1\n\n- Older.\n")
    assert "::error::pyproject.toml is not of 9.9.9" in finished("release-9.9.9").stdout
    assert not output.exists()
    assert finished(f"release-{version}").returncode == 0
    assert output.read_text() == f"version={version}\n"


GH = """#!/usr/bin/env python3
import os, sys
arguments = sys.argv[1:]
with open(os.environ["CALLS"], "a") as calls:
    print("\\t".join(arguments), file=calls)
called = " ".join(arguments)
if "--jq" in arguments:
    tags = os.environ["TAGS"].split()
    print("\\n".join(f"refs/tags/{tag}" for tag in tags) if "matching-refs" in called else "5e" * 20)
if "PATCH" in arguments:
    sys.exit(os.environ["MAJOR_EXISTS"] != "yes")
"""


@pytest.mark.parametrize(
    ("version", "tags", "exists", "moved"),
    [
        ("1.10.0", "v1.2.0 v1.9.3 v1.10.0", "yes", True),
        ("1.0.0", "v1.0.0", "no", True),
        ("1.1.9", "v1.1.9 v1.2.0", "yes", False),
    ],
)
def test_a_release_moves_the_major_tag_to_the_highest_version(
    checkout: Path, version: str, tags: str, exists: str, moved: bool
) -> None:
    program, calls = checkout / "bin/gh", checkout / "calls"
    program.parent.mkdir()
    program.write_text(GH)
    program.chmod(0o755)
    finished = release(
        "Commit it and tag the commit",
        checkout,
        PATH=f"{program.parent}:{os.environ['PATH']}",
        CALLS=str(calls),
        TAGS=tags,
        MAJOR_EXISTS=exists,
        VERSION=version,
        GITHUB_REPOSITORY="tflite-guard/tflite-guard",
        GITHUB_SHA="0" * 40,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    written = calls.read_text()
    assert f"ref=refs/tags/v{version}\t--raw-field\tsha={'5e' * 20}" in written
    assert ("PATCH" in written) == moved
    assert ("ref=refs/tags/v1\t" in written) == (exists == "no")


def test_the_notes_of_a_release_are_its_section_of_the_changelog(checkout: Path) -> None:
    sections = "## Unreleased\n\n- New.", "## 1.2.0 (2026-12-01)\n\n### Added\n\n- This.", "## 1.1.0\n\n- Old."
    (checkout / "CHANGELOG.md").write_text("\n\n".join(["# Changelog", *sections]))
    program = checkout / "bin/gh"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    finished = release("Create the release", checkout, PATH=path, VERSION="1.2.0", RUNNER_TEMP=str(checkout))
    assert finished.returncode == 0, finished.stderr
    assert (checkout / "notes.md").read_text().strip() == "### Added\n\n- This."
