"""What is committed, as real git writes it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_guard.files.git import tracked


def git(folder: Path, *arguments: str) -> None:
    names = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "protocol.file.allow=always")
    subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True)


def repository(folder: Path, *init: str) -> Path:
    folder.mkdir()
    git(folder, "init", "--quiet", *init)
    for name in ("a", ".cach", ".cache/v1/entry", ".cachet/x", "deep/er/.cache/y", "zz" * 100):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize("version", ["2", "3", "4"])
@pytest.mark.parametrize("kind", ["sha1", "sha256"])
def test_committed_folders_are_told_from_others(tmp_path: Path, version: str, kind: str) -> None:
    root = repository(tmp_path / "r", f"--object-format={kind}")
    git(root, "config", "index.version", version)
    git(root, "add", "a", ".cach", ".cachet", "deep", "z" * 200)
    if version == "3":
        git(root, "add", "--intent-to-add", ".cache/v1")
        git(root, "reset", "--quiet", ".cache")
        (root / "later").write_text("")
        git(root, "add", "--intent-to-add", "later")
    assert [tracked(str(root / name)) for name in (".cache", ".cachet", "deep/er", "deep")] == [False, True, True, True]
    git(root, "add", "--force", ".cache")
    assert tracked(str(root / ".cache")) is True
    assert tracked(str(root / ".cache/v1")) is True
    assert tracked(str(root / ".cache/v2")) is False
    assert tracked(str(root)) is True


def test_worktrees_and_submodules_have_indexes_of_their_own(tmp_path: Path) -> None:
    inner = repository(tmp_path / "inner")
    git(inner, "add", ".")
    git(inner, "commit", "--quiet", "-m", "all")
    git(inner, "worktree", "add", "--quiet", str(tmp_path / "tree"))
    outer = repository(tmp_path / "outer")
    git(outer, "submodule", "add", "--quiet", str(inner), "sub")
    for folder in (tmp_path / "tree/.cache", outer / "sub/.cache", outer / "sub"):
        assert tracked(str(folder)) is True
    assert tracked(str(outer / ".cache")) is False


def test_what_cannot_be_known_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert tracked(str(tmp_path / "plain")) is None
    root = repository(tmp_path / "r")
    git(root, "add", ".")
    git(root, "update-index", "--split-index")
    assert tracked(str(root / ".cache")) is None
    git(root, "update-index", "--no-split-index")
    assert tracked(str(root / ".cache")) is True
    whole = (root / ".git/index").read_bytes()
    (root / ".git/index").write_bytes(whole[: len(whole) // 2])
    assert tracked(str(root / ".cache")) in (None, True)
    (root / ".git/index").write_bytes(b"")
    assert tracked(str(root / ".cache")) is None


def extensions(root: Path) -> list[bytes]:
    """The names of the extensions in an index of version 2, as they follow one another from the first on."""
    content = (root / ".git/index").read_bytes()
    known = (b"TREE", b"REUC", b"link", b"UNTR", b"FSMN", b"EOIE", b"IEOT", b"sdir")
    position = min(content.find(name) for name in known if name in content)
    names = []
    while position < len(content) - 20:
        names.append(content[position : position + 4])
        position += 8 + int.from_bytes(content[position + 4 : position + 8], "big")
    return names


def test_a_split_index_and_a_sparse_one_are_known_by_any_of_their_extensions(tmp_path: Path) -> None:
    root = repository(tmp_path / "r")
    git(root, "config", "core.untrackedCache", "true")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "all")
    git(root, "status")
    assert extensions(root)[0] == b"TREE"
    assert tracked(str(root / ".cache")) is True
    git(root, "sparse-checkout", "set", "--cone", "--sparse-index", "deep")
    assert b"sdir" in extensions(root)[1:]
    for folder in (".cache", "deep", "unknown"):
        assert tracked(str(root / folder)) is None
    git(root, "sparse-checkout", "disable")
    assert tracked(str(root / ".cache")) is True
    whole = (root / ".git/index").read_bytes()
    for extension, known in ((b"NEW1", True), (b"new1", None), (b"link", None), (b"1new", None)):
        added = whole[:-20] + extension + (3).to_bytes(4, "big") + b"abc" + whole[-20:]
        (root / ".git/index").write_bytes(added)
        assert tracked(str(root / ".cache")) is known
    (root / ".git/index").write_bytes(whole[:-20] + b"NEW1" + (300).to_bytes(4, "big") + b"abc" + whole[-20:])
    assert tracked(str(root / ".cache")) is None


@given(st.binary(max_size=200), st.integers(2, 4), st.integers(0, 3))
def test_an_index_of_any_bytes_is_read_or_not_known(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, version: int, count: int
) -> None:
    root = tmp_path_factory.mktemp("r")
    (root / ".git").mkdir()
    (root / ".git/index").write_bytes(b"DIRC" + version.to_bytes(4, "big") + count.to_bytes(4, "big") + tail)
    assert tracked(str(root / "cache")) in (None, True, False)
