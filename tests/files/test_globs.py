"""Globs as a shell expands them, wherever none has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tflite_guard.errors import UsageError
from tflite_guard.files.globs import expanded


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in folders, some of them hidden, with a folder that links lead to in a loop and from beside."""
    folder = tmp_path / "place"
    for name in ("top.json", "a/one.json", "a/two.txt", "a/b/three.json", "a/.hidden/four.json", ".git/x/five.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "a/b/loop").symlink_to(folder)
    (folder / "link").symlink_to(folder / "a")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("glob", "meant"),
    [
        ("*.json", ["top.json"]),
        ("a/*", ["a/b", "a/one.json", "a/two.txt"]),
        ("a/*/", ["a/b"]),
        ("./a/[ot]??.json", ["a/one.json"]),
        ("**/*.json", ["a/b/three.json", "a/one.json", "top.json"]),
        ("a/**/three.json", ["a/b/three.json"]),
        ("**/**/one.json", ["a/one.json"]),
        ("a**.json", []),
        ("**", [".", "a", "a/b"]),
        ("*/one.json", ["a/one.json", "link/one.json"]),
        ("link/**/*.json", ["link/b/three.json", "link/one.json"]),
        ("a/.*/*.json", ["a/.hidden/four.json"]),
        ("../p*/top.json", ["../place/top.json"]),
        ("{here}/*.json", ["{here}/top.json"]),
        ("a/one.json/*", []),
        ("*.json/**", []),
        ("nowhere/*", []),
    ],
)
def test_a_glob_means_what_it_means_in_a_shell_and_loops_of_links_end(place: Path, glob: str, meant: list[str]) -> None:
    if meant:
        assert expanded([glob.format(here=place)]) == [one.format(here=place) for one in meant]
        return
    with pytest.raises(UsageError) as raised:
        expanded([glob])
    assert str(raised.value) == f"{glob}: matches nothing in {place}"


def test_names_stay_in_their_order_and_one_with_the_marks_of_a_glob_is_a_name() -> None:
    Path("[a].json").touch()
    assert expanded(["nothing.json", "[a].json", "a/*.json"]) == ["nothing.json", "[a].json", "a/one.json"]


def test_a_folder_that_cannot_be_read_is_passed_over(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: str) -> object:
        if Path(path).resolve() == place / "a/b":
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert expanded(["**/*.json"]) == ["a/one.json", "top.json"]
