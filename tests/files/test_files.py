from __future__ import annotations

import hashlib
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from tflite_guard import files

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (POINTER, "lfs-pointer"),
        (b"\x1c\0\0\0TFL3....", "tflite"),
        (b"\x89HDF\r\n\x1a\n....", "hdf5"),
        (b"\x93NUMPY\x01\0", "npy"),
        (b"\x80\x04\x95....", "pickle"),
        (b"PK\x03\x04 cut short", "broken-zip"),
        (b"PK\x05\x06" + b"\0" * 18, "zip"),
        (b"TFL3", "unknown"),
        (b"hello", "unknown"),
    ],
)
def test_a_file_is_what_its_first_bytes_say(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    assert files.sniff(str(path)) == kind
    assert files.lfs_pointer(str(path)) == (kind == "lfs-pointer")


@pytest.mark.parametrize(
    ("member", "kind"),
    [("config.json", "keras"), ("image.npy", "npz"), ("archive/data.pkl", "pickle"), ("readme", "zip")],
)
def test_a_zip_is_what_it_holds(tmp_path: Path, member: str, kind: str) -> None:
    path = tmp_path / "file"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "x")
    assert files.sniff(str(path)) == kind
    assert files.zip_members(str(path)) == [member]


def test_a_folder_is_a_saved_model_when_it_holds_a_graph(tmp_path: Path) -> None:
    assert files.sniff(str(tmp_path)) == "folder"
    (tmp_path / "saved_model.pb").touch()
    assert files.sniff(str(tmp_path)) == "saved_model"


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert files.sniff(str(tmp_path / "pipe")) == "special"
    assert not files.lfs_pointer(str(tmp_path / "pipe"))
    assert not files.holds(str(tmp_path / "pipe"), b"x")
    assert files.why_absent(tmp_path / "pipe") == "is a device, a pipe or a socket; name a file"


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.sniff(str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        files.sha256_of(str(tmp_path / "none"))


def test_a_large_file_that_begins_like_a_pointer_is_none(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(POINTER + b"x" * 2000)
    assert not files.lfs_pointer(str(path))


def test_the_hash_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = bytes(range(256)) * 10_000
    path.write_bytes(content)
    assert files.sha256_of(str(path)) == hashlib.sha256(content).hexdigest()


def folder_of(root: Path) -> Path:
    for name, content in {"b": b"1", "a/z": b"2", "a.txt": b"3", "a/é": b"", "B": b"4"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_the_hash_of_a_folder_is_what_the_shell_says(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    command = "find -L * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    result = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=True)
    assert files.sha256_of(str(folder)) == result.stdout.split()[0]


def test_the_hash_of_a_folder_sees_names_content_and_linked_content(tmp_path: Path) -> None:
    base = files.sha256_of(str(folder_of(tmp_path / "1")))
    assert files.sha256_of(str(folder_of(tmp_path / "2"))) == base
    (tmp_path / "2/b").rename(tmp_path / "2/c")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x").write_bytes(b"1")
    seen = {base, files.sha256_of(str(tmp_path / "2"))}
    (tmp_path / "2/linked").symlink_to(tmp_path / "outside")
    roots = [str(tmp_path / "outside")]
    seen.add(files.sha256_of(str(tmp_path / "2"), roots))
    (tmp_path / "outside/x").write_bytes(b"2")
    seen.add(files.sha256_of(str(tmp_path / "2"), roots))
    assert len(seen) == 4


@pytest.mark.parametrize("target", ["..", "/", "/dev/zero", "../secret"])
def test_a_link_out_of_a_folder_is_not_followed(tmp_path: Path, target: str) -> None:
    folder = folder_of(tmp_path / "model")
    (tmp_path / "secret").touch()
    (folder / "link").symlink_to(target)
    with pytest.raises(OSError, match="link leads out of the folder, to /") as caught:
        files.sha256_of(str(folder))
    assert "--data-root" in str(caught.value)


def test_links_within_a_folder_are_followed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    (folder / "link").symlink_to("a/z")
    (folder / "again").symlink_to("a")
    found = ["B", "a.txt", "a/z", "a/é", "again/z", "again/é", "b", "link"]
    assert sorted(files.files_below(str(folder))) == found


def test_what_was_read_is_not_taken_for_a_file_that_is_another_by_now(tmp_path: Path) -> None:
    class Noted(files.Known):
        def keep(self, identity: files.Identity, sha256: str, settled: bool) -> None:
            kept.append(sha256)
            super().keep(identity, sha256, settled)

    kept: list[str] = []
    known = Noted()
    path = tmp_path / "data"
    path.write_bytes(b"before")
    (tmp_path / "link").symlink_to("data")
    assert files.sha256_of(str(path), known=known) == files.sha256_of(str(tmp_path / "link"), known=known)
    assert len(kept) == 1
    path.write_bytes(b"afterwards")
    assert files.sha256_of(str(path), known=known) == hashlib.sha256(b"afterwards").hexdigest()


def test_only_files_are_hashed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    os.mkfifo(folder / "a/pipe")
    for path, roots in ((folder, ()), (folder / "a/pipe", ()), ("/dev/zero", ())):
        with pytest.raises(OSError, match="is a device, a pipe or a socket, not a file"):
            files.sha256_of(str(path), roots)
    (folder / "a/pipe").unlink()
    (folder / "zero").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="zero is a device"):
        files.sha256_of(str(folder), ["/dev"])
    (folder / "zero").unlink()
    (folder / "gone").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match="gone leads to nothing"):
        files.sha256_of(str(folder))


def test_a_file_that_many_links_lead_to_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"content")
    for number in range(400):
        (tmp_path / str(number)).symlink_to("file")
    made = []
    monkeypatch.setattr(hashlib, "sha256", lambda *a, sha256=hashlib.sha256: made.append(a) or sha256(*a))
    files.sha256_of(str(tmp_path))
    assert len(made) == 2  # the file's and the folder's


def test_hashing_is_ended_by_whoever_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.truncate(tmp_path / "file", 2**42)
    calls = iter(range(3))
    with pytest.raises(StopIteration):
        files.sha256_of(str(tmp_path), pause=lambda: print(next(calls)))


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    (folder / "a/back").symlink_to(folder)
    assert sorted(files.files_below(str(folder))) == ["B", "a.txt", "a/z", "a/é", "b"]


def test_a_link_that_leads_elsewhere_is_seen_wherever_the_folders_are_met_first(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    hashes = set()
    for target in ("a", "z1"):
        (folder / "z1").mkdir(exist_ok=True)
        (folder / "z1/z").write_bytes(b"another")
        for link in (folder / "m", folder / "B1/deep"):
            link.parent.mkdir(exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(folder / target)
            hashes.add(files.sha256_of(str(folder)))
    assert len(hashes) == 4


def test_links_to_folders_of_links_do_not_multiply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = 0

    def counting(folder: str) -> list[os.DirEntry[str]]:
        nonlocal listed
        entries = real(folder)
        listed += len(entries)
        assert listed < 50_000
        return entries

    real = files._entries
    monkeypatch.setattr(files, "_entries", counting)
    for level in range(5):
        (tmp_path / f"model/{level}").mkdir(parents=True)
        for number in range(300):
            (tmp_path / f"model/{level}/{number}").symlink_to(tmp_path / f"model/{level + 1}")
    (tmp_path / "model/5").mkdir()
    with pytest.raises(OSError, match="more than 100 links lead to folders met before; remove some"):
        files.sha256_of(str(tmp_path / "model"))


def test_containment_is_judged_after_links(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "root-other"
    root.mkdir()
    other.mkdir()
    (other / "secret").touch()
    (root / "link").symlink_to(other / "secret")
    (root / "inside").touch()
    (tmp_path / "alias").symlink_to(root)
    assert files.contained(str(root / "inside"), [str(root)])
    assert files.contained(str(root), [str(root)])
    assert files.contained(str(root / "inside"), [str(tmp_path / "alias")])
    assert files.contained(str(root / "not/yet/there"), [str(root)])
    assert not files.contained(str(root / "link"), [str(root)])
    assert files.contained(str(root / "link"), [str(root), str(other)])
    assert not files.contained(str(root / "../root-other/secret"), [str(root)])
    assert not files.contained(str(other / "secret"), [str(root)])
    assert files.contained("/etc", ["/"])


def test_the_root_is_the_nearest_repository(tmp_path: Path) -> None:
    inner = tmp_path / "repo/a/b"
    inner.mkdir(parents=True)
    assert files.find_root(str(inner)) == os.path.realpath(inner)
    (tmp_path / "repo/.git").mkdir()
    assert files.find_root(str(inner)) == os.path.realpath(tmp_path / "repo")
    (tmp_path / "repo/a/.git").write_text("gitdir: elsewhere")
    assert files.find_root(str(inner)) == os.path.realpath(tmp_path / "repo/a")


def test_bytes_are_found_anywhere_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "graph"
    path.write_bytes(b"x" * 5_000_000 + b"FakeQuant" + b"x" * 10)
    assert files.holds(str(path), b"FakeQuant")
    assert not files.holds(str(path), b"FakeQuantum")
    path.write_bytes(b"")
    assert not files.holds(str(path), b"FakeQuant")
    assert not files.holds(str(tmp_path / "none"), b"FakeQuant")


def test_what_root_makes_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    owner = 12345 if os.geteuid() == 0 else os.geteuid()
    os.chown(tmp_path, owner, -1)
    files.make_folders(tmp_path / "cache/v1/ab")
    files.write_atomically(str(tmp_path / "cache/v1/report.json"), b"{}")
    assert {path.stat().st_uid for path in tmp_path.rglob("*")} == {owner}


def test_folders_are_made_beside_others_that_make_them_and_never_over_a_file(tmp_path: Path) -> None:
    files.make_folders(tmp_path / "a/b")
    files.make_folders(tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError):
        files.make_folders(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_link_is_written_through_or_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    files.write_atomically(str(tmp_path / "link"), b"through")
    assert (tmp_path / "target").read_text() == "through"
    files.write_atomically(str(tmp_path / "link"), b"replaced", follow=False)
    assert (tmp_path / "target").read_text() == "through"
    assert not (tmp_path / "link").is_symlink()


def test_a_path_is_named_as_its_repository_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "repository/models/vision"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert files.repository_path("tflite-guard.json") == "tflite-guard.json"
    monkeypatch.chdir(tmp_path)
    assert files.repository_path(str(folder / "tflite-guard.json")) == "repository/models/vision/tflite-guard.json"
    (tmp_path / "repository/.git").mkdir()
    for path in (folder / "tflite-guard.json", "repository/models/../models/vision/tflite-guard.json"):
        assert files.repository_path(str(path)) == "models/vision/tflite-guard.json"


def test_everything_lies_under_the_root_of_the_disk() -> None:
    assert files.under("/a", "/")
    assert files.under("/a/b", "/a")
    assert files.under("/a", "/a")
    assert not files.under("/ab", "/a")


def test_a_zip_of_more_members_than_can_be_listed_in_time_is_told_by_its_directory(tmp_path: Path) -> None:
    many = tmp_path / "many.npz"
    with zipfile.ZipFile(many, "w") as archive:
        for index in range(40_000):
            archive.writestr(f"{index}.npy", b"")
    assert files.zip_members(str(many)) is None
    assert files.sniff(str(many)) == "broken-zip"
    with pytest.raises(zipfile.BadZipFile, match="longer than 2 MiB"), files.open_zip(str(many)):
        pass


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_longer_than_a_directory_may_be_is_read_whole(tmp_path: Path, compression: int) -> None:
    content = os.urandom(5 << 20)
    with zipfile.ZipFile(tmp_path / "one.zip", "w", compression) as archive:
        archive.writestr("a", content)
        archive.comment = b"a comment"
    with files.open_zip(str(tmp_path / "one.zip")) as archive:
        assert archive.read("a") == content


def test_a_pattern_means_the_files_of_a_folder_by_name_and_notices_a_shard_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"t/train-{number:05}-of-00003.tfrecord" for number in range(3)]
    Path("t").mkdir()
    for name in ("t/[a].tfrecord", "t/.train-00000-of-00003.tfrecord", "t/test-00000-of-00001.tfrecord", *names):
        Path(name).touch()
    pattern = "t/train-*-of-00003.tfrecord"
    assert files.matching(pattern) == names
    assert files.matching("nowhere/*") == []
    assert [files.is_pattern(one) for one in (pattern, "t/[a].tfrecord", "t/[b].tfrecord", "t*/x")] == [
        True, False, True, False,
    ]  # fmt: skip
    assert (files.shards_of(names[1]), files.shards_of("t/train.tfrecord")) == (pattern, None)
    assert (files.pattern_of(names[::-1]), files.pattern_of(names[:2])) == (pattern, None)
    assert files.missing_shard(names, pattern) is None
    assert files.missing_shard([names[0], names[2]], "t/*") == names[1]
    assert files.missing_shard(names[:2], "t/train-0000[01]*") is None, "it is not meant"


def test_the_hash_of_some_files_is_that_of_a_folder_that_holds_them_alone(tmp_path: Path) -> None:
    for name in "ba":
        (tmp_path / name).write_text(name)
    paths = [str(tmp_path / name) for name in "ba"]
    assert files.sha256_of_files(paths) == files.sha256_of(str(tmp_path))
