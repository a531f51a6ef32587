"""Manifests and files that a link leads out of the repository, and names that are not UTF-8."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tflite_guard.errors import ManifestError, UsageError
from tflite_guard.manifest import load

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def repository(tmp_path: Path, project: Path) -> Path:
    """A copy of the project that a test may change."""
    root = tmp_path / "repo"
    shutil.copytree(project, root, symlinks=True, ignore=shutil.ignore_patterns("pipe.npz"))
    return root


def told(path: str | bytes | Path, **options: Any) -> str:
    """The only problem of a manifest."""
    with pytest.raises(ManifestError) as caught:
        load(os.fsdecode(path), **options)
    (problem,) = caught.value.problems
    assert str(problem).encode(), "can be written anywhere"
    return problem.message


# --- links


def test_a_manifest_that_is_a_link_out_of_the_repository_is_not_read(repository: Path) -> None:
    link = repository / "tflite-guard.json"
    link.symlink_to("/proc/self/environ")
    message = told(link)
    assert message.startswith("leads out of its repository, to /proc/")
    assert message.endswith("put the manifest itself here, or allow that with --data-root")


def test_a_folder_that_is_a_link_out_of_the_repository_holds_no_manifest(repository: Path, manifest: Make) -> None:
    outside = repository.parent / "outside"
    outside.mkdir()
    (outside / "m.json").write_text(json.dumps(manifest()))
    (repository / "linked").symlink_to(outside)
    assert told(repository / "linked/m.json").startswith(f"leads out of its repository, to {outside}/m.json;")


def test_without_git_a_manifest_stays_in_its_folder(tmp_path: Path, manifest: Make) -> None:
    (tmp_path / "outside.json").write_text(json.dumps(manifest()))
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/m.json").symlink_to(tmp_path / "outside.json")
    assert told(tmp_path / "inner/m.json").startswith("leads out of its repository")


def test_a_link_is_followed_inside_the_repository_and_under_a_data_root(repository: Path, manifest: Make) -> None:
    outside = repository.parent / "outside"
    outside.mkdir()
    for target in (repository / "data/m.json", outside / "m.json"):
        target.write_text(json.dumps(manifest()))
        link = repository / f"{target.parent.name}.json"
        link.symlink_to(target)
    assert len(load(str(repository / "data.json")).models) == 1
    assert len(load(str(repository / "outside.json"), data_roots=[str(outside)]).models) == 1


def test_a_manifest_may_be_named_from_anywhere(
    repository: Path, manifest: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "m.json").write_text(json.dumps(manifest()))
    elsewhere = repository.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "checkout").symlink_to(repository)
    monkeypatch.chdir(elsewhere)
    for path in (str(repository / "m.json"), "../repo/m.json", "checkout/m.json"):
        assert len(load(path).models) == 1


# --- names that are not UTF-8


def test_a_folder_on_the_way_to_the_manifest_that_is_not_utf8_is_named(repository: Path, manifest: Make) -> None:
    (repository / "m.json").write_text(json.dumps(manifest()))
    renamed = os.fsencode(repository.parent) + b"/m\xff"
    os.rename(repository, renamed)
    expected = rf"its path {repository.parent}/m\xff/m.json is not UTF-8; rename what is written as \x…"
    assert told(renamed + b"/m.json") == expected
    link = repository.parent / "link"
    os.symlink(renamed, link)
    assert told(link / "m.json") == expected
    assert told(renamed + b"/none.json").startswith("no such file")


@pytest.mark.parametrize("name", [b"f\xff.tflite", b"\xed\xa0\x80.tflite"])
def test_a_link_to_a_file_that_is_not_utf8_is_named(repository: Path, manifest: Make, name: bytes) -> None:
    shutil.copy(repository / "app/digits_int8.tflite", repository / os.fsdecode(name))
    os.symlink(name, os.fsencode(repository) + b"/ok.tflite")
    written = manifest(variants=[{"name": "v", "tflite": "ok.tflite"}])
    (repository / "m.json").write_text(json.dumps(written))
    shown = name.decode("utf-8", "backslashreplace")
    assert told(repository / "m.json") == f"ok.tflite is {repository}/{shown}, whose name is not UTF-8; rename it"


def test_a_link_out_of_the_repository_to_what_is_not_utf8_is_told(repository: Path, manifest: Make) -> None:
    os.symlink(b"../e\xff.npz", os.fsencode(repository) + b"/e.npz")
    written = manifest(datasets={"test": {"source": "npz", "path": "e.npz", "inputs": "image", "labels": "label"}})
    (repository / "m.json").write_text(json.dumps(written))
    assert rf"(it is {repository.parent}/e\xff.npz)" in told(repository / "m.json")


def test_no_name_is_suggested_that_a_manifest_cannot_hold(repository: Path, manifest: Make) -> None:
    shutil.copy(repository / "models/digits.keras", repository / "models" / os.fsdecode(b"digitz\xff.keras"))
    (repository / "m.json").write_text(json.dumps(manifest(reference={"keras": "models/digitz.keras"})))
    assert 'did you mean "digits.keras"?' in told(repository / "m.json")


def test_a_data_root_that_is_not_utf8_is_named(repository: Path, manifest: Make) -> None:
    (repository / "m.json").write_text(json.dumps(manifest()))
    root = os.fsencode(repository.parent) + b"/d\xff"
    os.mkdir(root)
    with pytest.raises(UsageError, match=r"--data-root .*/d\\xff: is not UTF-8"):
        load(str(repository / "m.json"), data_roots=[os.fsdecode(root)])
