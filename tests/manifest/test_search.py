"""Which manifests are meant: here, below, in a folder, by a glob, or by what has changed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tflite_guard.errors import UsageError
from tflite_guard.manifest import search
from tflite_guard.manifest.search import find


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two manifests in folders, each with files of its own and one that both name."""
    folder = tmp_path / "repository"
    for name in ("audio", "vision"):
        manifest(folder / name / "tflite-guard.json", f"{name}.tflite", "data/test.npz", "../other/weights.h5")
    (folder / "vision/tflite-guard.baseline.json").write_text('{"models": {"m": {"variants": {}}}}')
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    monkeypatch.chdir(folder)
    return folder


def manifest(path: Path, *files: str, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets = {str(number): {"path": file, **more} for number, file in enumerate(files)}
    path.write_text(json.dumps({"datasets": datasets, "models": [{"variants": []}]}))


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


AUDIO, VISION = "audio/tflite-guard.json", "vision/tflite-guard.json"


def changed(files: Sequence[str]) -> list[str]:
    """The manifests that a change concerns of files that are all there."""
    for one in files:
        if "*" not in one and not Path(one).exists():
            Path(one).parent.mkdir(parents=True, exist_ok=True)
            Path(one).touch()
    return search.changed(files)


def test_the_one_here_comes_before_those_that_git_tracks_below(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest(place / "untracked/tflite-guard.json")
    assert find() == [AUDIO, VISION]
    monkeypatch.chdir("vision")
    assert find() == ["tflite-guard.json"]
    monkeypatch.chdir(place)
    manifest(place / "tflite-guard.json")
    assert find() == ["tflite-guard.json"]


def test_what_is_tracked_and_deleted_is_not_meant(place: Path) -> None:
    Path(AUDIO).unlink()
    assert find() == [VISION]


@pytest.mark.parametrize(
    ("named", "found"),
    [
        (["vision"], [VISION]),
        (["vision/", "./vision", VISION], ["vision/tflite-guard.json"]),
        (["*/tflite-guard.json"], [AUDIO, VISION]),
        (["**/tflite-guard.json"], [AUDIO, VISION]),
        (["*"], [AUDIO, VISION]),
        (["*/"], [AUDIO, VISION]),
        (["**"], [AUDIO, VISION]),
        (["vision/*.json"], [VISION]),
        (["{here}/v*/*.json"], ["{here}/" + VISION]),
        ([AUDIO, "a*"], [AUDIO]),
        (["nothing.json"], ["nothing.json"]),
    ],
)
def test_a_folder_means_the_manifest_in_it_and_globs_are_expanded(
    place: Path, named: list[str], found: list[str]
) -> None:
    assert find([one.format(here=place) for one in named]) == [one.format(here=place) for one in found]


def test_a_name_with_the_marks_of_a_glob_is_a_name(place: Path) -> None:
    manifest(place / "[1]/tflite-guard.json")
    assert find(["[1]/tflite-guard.json"]) == ["[1]/tflite-guard.json"]


def test_where_none_is_found_it_says_where_it_looked_and_what_lies_near(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(place, "rm", "--quiet", "--cached", "-r", ".")
    with pytest.raises(UsageError) as raised:
        find()
    assert str(raised.value) == (
        f"no manifest: there is no tflite-guard.json in {place}, and git tracks none below; "
        f"found nearby: {AUDIO}, {VISION}; name one, or write one: tflite-guard init MODEL DATA"
    )
    (place / "vision/deeper").mkdir()
    monkeypatch.chdir(place / "vision/deeper")
    with pytest.raises(UsageError, match=r"found nearby: ../tflite-guard.json; name it"):
        find()
    (tmp_path / "elsewhere").mkdir()
    manifest(tmp_path / "elsewhere/quality.json")
    (tmp_path / "elsewhere/package.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"git lists none below; found nearby: quality.json; name it"):
        find()
    with pytest.raises(
        UsageError, match=r"other/\*\.json: matches no manifest in .*elsewhere; found nearby: quality.json"
    ):
        find(["other/*.json"])
    (tmp_path / "elsewhere/empty").mkdir()
    with pytest.raises(UsageError, match=r"empty: this folder has no tflite-guard.json; name one, or write one"):
        find(["empty"])


@pytest.mark.parametrize(
    ("files", "concerned"),
    [
        (["vision/data/test.npz"], [VISION]),
        (["vision/vision.tflite", "audio/audio.tflite"], [AUDIO, VISION]),
        ([VISION], [VISION]),
        (["vision/tflite-guard.baseline.json"], [VISION]),
        (["vision/data/test.npz.dvc"], [VISION]),
        (["vision/data.dvc"], [VISION]),
        (["other/weights.h5"], [AUDIO, VISION]),
        (["vision/data/test.npz/part", "vision/vision.tflite"], [VISION]),
        (["vision/vision.tflite", ".pre-commit-config.yaml"], [AUDIO, VISION]),
        (["vision/data/unnamed.npz"], [AUDIO, VISION]),
        (["vision"], [VISION]),
        (["a*/*.json", "vision/vision.tflite"], [AUDIO, VISION]),
    ],
)
def test_a_change_concerns_the_manifests_that_name_the_file(
    place: Path, files: list[str], concerned: list[str]
) -> None:
    assert sorted(changed(files)) == concerned


def test_a_change_of_a_shard_concerns_the_manifest_that_means_it_by_a_pattern(place: Path) -> None:
    manifest(place / VISION, "data/train-*-of-00002.tfrecord")
    assert changed(["vision/data/train-00001-of-00002.tfrecord"]) == [VISION]


def test_a_changed_manifest_of_another_name_is_meant_and_other_json_is_not(place: Path) -> None:
    manifest(place / "quality.json", "quality.tflite")
    (place / "vision/data").mkdir()
    (place / "vision/vision.tflite").write_text("{}")
    assert changed(["quality.json", "vision/vision.tflite"]) == ["quality.json", VISION]


def test_one_that_cannot_be_read_or_runs_code_depends_on_anything(place: Path) -> None:
    manifest(place / AUDIO, "package:function", source="python")
    assert changed(["vision/vision.tflite"]) == [AUDIO, VISION]
    (place / AUDIO).write_text("{")
    assert changed(["vision/vision.tflite"]) == [AUDIO, VISION]


def test_beside_one_at_the_top_those_below_are_concerned_by_their_files(place: Path) -> None:
    manifest(place / "tflite-guard.json", "top.tflite")
    git(place, "add", "--all")
    assert changed(["top.tflite"]) == ["tflite-guard.json"]
    assert changed(["vision/vision.tflite"]) == [VISION]


def test_what_is_no_file_is_told_and_not_taken_for_one_that_changed(place: Path) -> None:
    for wrong in ("vision/vison.tflite", "visoin/", "tflite-guard.jsn"):
        with pytest.raises(UsageError, match=f"{wrong}: there is no such file"):
            search.changed([VISION, wrong])
