"""The store that later runs trust: whole or absent, verified, safe with many writers and with a kill."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Run, run_cli
from tflite_guard.errors import EvaluationError
from tflite_guard.run.cache import Cache, key_of

KEY = key_of("something", 1)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"model" * 1000)
    return path


def test_what_was_put_is_got(cache: Cache, source: Path) -> None:
    cache.put(KEY, {"model.tflite": source}, {"size": 5000})
    entry = cache.get(KEY)
    assert entry is not None
    assert entry.meta == {"size": 5000}
    assert (entry.folder / "model.tflite").read_bytes() == source.read_bytes()


def test_an_unknown_key_is_absent(cache: Cache) -> None:
    assert cache.get(KEY) is None


@pytest.mark.parametrize("damage", [b"", b"model" * 999 + b"modeL", b"longer" * 5000])
def test_a_damaged_file_counts_as_absent_and_can_be_stored_again(cache: Cache, source: Path, damage: bytes) -> None:
    entry = cache.put(KEY, {"model.tflite": source}, {})
    (entry.folder / "model.tflite").write_bytes(damage)
    assert cache.get(KEY) is None
    cache.put(KEY, {"model.tflite": source}, {})
    assert cache.get(KEY) is not None


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text.replace("0.98", "0.99"),
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"check":"', '"check":"0'),
    ],
)
def test_an_edited_index_counts_as_absent(cache: Cache, source: Path, edit: object) -> None:
    entry = cache.put(KEY, {"model.tflite": source}, {"accuracy": 0.98})
    index = entry.folder / "entry.json"
    index.write_text(edit(index.read_text()))  # type: ignore[operator]
    assert cache.peek(KEY) is None


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def put_in_place(path: Path, kind: str) -> None:
    """Something else where a file or folder was."""
    kept = path.with_name("kept")
    path.rename(kept)
    match kind:
        case "link":
            path.symlink_to(kept)
        case "dangling":
            path.symlink_to("nowhere")
        case "pipe":
            os.mkfifo(path)
        case "file":
            path.write_text("{}")
        case "folder":
            path.mkdir()
    if kind not in ("link",):
        remove(kept)


@pytest.mark.parametrize("kind", ["missing", "link", "dangling", "pipe", "file", "folder"])
@pytest.mark.parametrize("place", ["entry.json", "model.tflite", ".", "..", "../.."])
def test_whatever_is_in_an_entrys_place_counts_as_absent_and_is_made_again(
    cache: Cache, source: Path, place: str, kind: str
) -> None:
    entry = cache.put(KEY, {"model.tflite": source}, {"size": 5000})
    above = {".": entry.folder, "..": entry.folder.parent, "../..": cache.folder}
    put_in_place(above.get(place, entry.folder / place), kind)
    if kind != "link" or ".." not in place:  # the same entry, verified
        assert cache.get(KEY) is None
    cache.put(KEY, {"model.tflite": source}, {"size": 5000})
    found = cache.get(KEY)
    assert found is not None
    assert (found.folder / "model.tflite").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b'{"files": {}, "meta": {"a": "\xff"}, "check": ""}',
        b"[" * 100_000,
        b'{"files": {}, "meta": {"a": ' + b"[" * 100_000,
        b'{"files": [], "meta": {}, "check": ""}',
        b'{"files": {"model.tflite": 1}, "meta": {}, "check": ""}',
        b'{"files": {}, "meta": [], "check": ""}',
        b'{"files": {}, "meta": {}, "check": 1}',
        b'{"files": {}, "meta": {}}',
        b"null",
        b'{"content": {}, "check": ""}',
        b'{"content": ' + b"[" * 100_000,
        b'{"content": {"files": {}, "meta": {"a": ' + b"9" * 400 + b'}}, "check": ""}',
        b'{"content": {"files": {}, "meta": {"a": 1e999}}, "check": ""}',
        b"{" + b" " * 40 * 2**20 + b"}",
    ],
)
def test_an_index_of_anything_counts_as_absent_and_is_made_again(cache: Cache, source: Path, content: bytes) -> None:
    entry = cache.put(KEY, {"model.tflite": source}, {})
    (entry.folder / "entry.json").write_bytes(content)
    cache.put(KEY, {"model.tflite": source}, {})  # not looked up before
    assert cache.get(KEY) is not None
    (entry.folder / "entry.json").write_bytes(content)
    assert cache.get(KEY) is None
    assert not entry.folder.exists()


@pytest.mark.parametrize("place", ["entry.json", "model.tflite"])
def test_a_file_that_has_grown_beyond_measure_is_not_read(cache: Cache, source: Path, place: str) -> None:
    entry = cache.put(KEY, {"model.tflite": source}, {})
    os.truncate(entry.folder / place, 2**42)
    assert cache.get(KEY) is None
    cache.put(KEY, {"model.tflite": source}, {})
    assert cache.get(KEY) is not None


def test_every_flipped_bit_of_an_index_counts_as_absent(cache: Cache, source: Path) -> None:
    entry = cache.put(KEY, {"model.tflite": source}, {"accuracy": 0.98, "name": "ü"})
    whole = (entry.folder / "entry.json").read_bytes()
    kept = entry.folder.with_name("kept")
    entry.folder.rename(kept)
    for place in range(len(whole)):
        shutil.copytree(kept, entry.folder)
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        (entry.folder / "entry.json").write_bytes(flipped)
        found = cache.get(KEY)
        assert found is None or found.meta == entry.meta, bytes(flipped)
        shutil.rmtree(entry.folder, ignore_errors=True)


UNPRIVILEGED = """
import os, sys
from tflite_guard.run.cache import Cache, key_of
cache, source, key = Cache(sys.argv[1]), sys.argv[2], key_of("x")
entry = cache.put(key, {"model.tflite": source}, {})
place = {".": entry.folder, "..": entry.folder.parent}.get(sys.argv[3], entry.folder / sys.argv[3])
os.chmod(place, 0)
assert cache.get(key) is None
cache.put(key, {"model.tflite": source}, {})
assert cache.get(key) is not None
assert not list(cache.folder.glob("tmp-*"))
"""


@pytest.mark.parametrize("place", ["entry.json", "model.tflite", ".", "..", "../.."])
def test_what_may_not_be_read_counts_as_absent_and_is_made_again(tmp_path: Path, source: Path, place: str) -> None:
    # root is let through everywhere, unless it gives that power up
    powerless = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*powerless, sys.executable, "-c", UNPRIVILEGED, str(tmp_path / "c"), str(source), place]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_an_entry_moved_to_another_key_counts_as_absent(cache: Cache, source: Path) -> None:
    entry = cache.put(KEY, {"model.tflite": source}, {})
    other = key_of("another")
    place = entry.folder.parent.parent / other[:2] / other
    place.parent.mkdir(parents=True, exist_ok=True)
    entry.folder.rename(place)
    assert cache.get(other) is None


def test_a_link_left_by_a_child_is_not_followed(cache: Cache, source: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/etc/passwd")
    with pytest.raises(EvaluationError):
        cache.put(KEY, {"model.tflite": link}, {})
    assert cache.get(KEY) is None


def test_many_writers_of_one_key_leave_one_whole_entry(tmp_path: Path, source: Path) -> None:
    code = (
        "import sys; from tflite_guard.run.cache import Cache, key_of\n"
        "for n in range(30): Cache(sys.argv[1]).put(key_of('x', n), {'m': sys.argv[2]}, {'n': n})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "c"), str(source)]) for _ in range(4)]
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    cache = Cache(tmp_path / "c")
    entries = [cache.get(key_of("x", n)) for n in range(30)]
    assert [entry.meta["n"] if entry else None for entry in entries] == list(range(30))
    assert not list(cache.folder.glob("tmp-*"))


def test_a_writer_killed_at_any_moment_leaves_only_whole_entries(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(2**20))
    code = (
        "import sys, itertools; from tflite_guard.run.cache import Cache, key_of\n"
        "print(flush=True)\n"
        "for n in itertools.count(): Cache(sys.argv[1]).put(key_of('x', n), {'m': sys.argv[2]}, {'n': n})"
    )
    for delay in (0.003, 0.01, 0.02, 0.04):
        writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "c"), str(big)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    cache = Cache(tmp_path / "c")
    places = list(cache.folder.glob("??/*"))
    assert all(json.loads((place / "entry.json").read_text()) and cache.get(place.name) for place in places)


def test_a_full_disk_is_said_and_leaves_nothing(cache: Cache, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EvaluationError, match=r"no space left.*--cache-dir") as raised:
        cache.put(KEY, {"model.tflite": source}, {})
    assert raised.value.kind == "disk-full"
    assert cache.get(KEY) is None
    assert not list(cache.folder.glob("tmp-*"))


def test_a_result_with_holes_takes_no_more_room_than_it_did(cache: Cache, tmp_path: Path) -> None:
    holes = bytes(2**25)
    for name, written in (("inside", b"a" * 3_000 + holes + b"z"), ("only", holes), ("zeros", bytes(5)), ("none", b"")):
        source = tmp_path / name
        with source.open("wb") as stream:
            stream.write(written[:3_000])
            stream.truncate(len(written))
            stream.seek(max(len(written) - 5, 0))
            stream.write(written[-5:])
        entry = cache.put(key_of(name), {"m": source}, {})
        kept = entry.folder / "m"
        assert kept.read_bytes() == written
        assert kept.stat().st_blocks * 512 < 2**21
        assert cache.get(key_of(name)) is not None


def test_reading_a_result_without_end_is_ended_by_whoever_waits_for_it(cache: Cache, tmp_path: Path) -> None:
    source = tmp_path / "endless"
    with source.open("wb") as stream:
        stream.truncate(2**43)

    def over() -> None:
        raise EvaluationError("timeout", "over")

    with pytest.raises(EvaluationError, match="over"):
        cache.put(KEY, {"m": source}, {}, pause=over)
    assert cache.get(KEY) is None
    assert not list(cache.folder.glob("tmp-*"))
    source.write_bytes(b"ends")
    cache.put(KEY, {"m": source}, {})
    with pytest.raises(EvaluationError, match="over"):
        cache.get(KEY, pause=over)


def test_pruning_drops_what_was_unused_for_longest_and_what_killed_writers_left(tmp_path: Path, source: Path) -> None:
    source.write_bytes(os.urandom(50_000))
    cache = Cache(tmp_path / "c", max_bytes=150_000)
    keys = [key_of("x", n) for n in range(4)]
    old = time.time() - 10 * 24 * 3600
    for age, key in enumerate(keys):
        entry = cache.put(key, {"m": source}, {})
        os.utime(entry.folder, (old + age, old + age))
    abandoned = cache.folder / "tmp-abandoned"
    abandoned.mkdir()
    os.utime(abandoned, (old, old))
    cache.prune()
    assert [cache.peek(key) is not None for key in keys] == [False, False, True, True]
    assert not abandoned.exists()


def test_pruning_counts_files_from_elsewhere_with_the_entries(tmp_path: Path, source: Path) -> None:
    source.write_bytes(os.urandom(50_000))
    cache = Cache(tmp_path / "c", max_bytes=120_000)
    old = time.time() - 10 * 24 * 3600
    entry = cache.put(KEY, {"m": source}, {})
    os.utime(entry.folder, (old + 2, old + 2))
    cache.fetched.mkdir()
    for age, name in (0, "a.npz"), (1, "b.part"), (3, "c.npz"):
        shutil.copy(source, cache.fetched / name)
        os.utime(cache.fetched / name, (old + age, old + age))
    cache.prune()
    assert cache.peek(KEY) is not None
    assert [path.name for path in cache.fetched.iterdir()] == ["c.npz"]


@given(JSON, JSON)
def test_keys_are_equal_exactly_when_what_they_stand_for_is(one: object, other: object) -> None:
    assert (key_of(one) == key_of(other)) == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))


def test_keys_do_not_depend_on_the_order_of_a_dictionary() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of("ab", "c") != key_of("a", "bc")


def test_what_is_kept_is_told_and_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    (tmp_path / "model.tflite").write_bytes(b"x" * 10_000)
    cache.put(key_of("one"), {"model.tflite": tmp_path / "model.tflite"}, {})
    cache.put(key_of("two"), {}, {})
    told = run_cli("cache", "info", "--cache-dir", tmp_path).out
    assert told.startswith(f"{tmp_path}: 2 results, ")
    assert run_cli("cache", "clear", "--cache-dir", tmp_path).out.startswith(f"{tmp_path}: removed 2 results, ")
    assert cache.usage().entries == 0
    assert (tmp_path / "model.tflite").exists()
    assert cache.put(key_of("one"), {}, {}).files == {}


def test_a_damaged_entry_is_said_once_and_made_anew(run: Run, light_digits: Path) -> None:
    asked = ("check", light_digits, "--cache-dir", light_digits / "kept", "--diagnose", "never", "--format", "json")
    whole = json.loads(run(*asked).out)
    for index in light_digits.glob("kept/v1/??/*/entry.json"):
        index.write_text(index.read_text().replace('"check"', '"cheque"'))
    again, once_more = (json.loads(run(*asked).out) for _ in range(2))
    (note,) = again["notes"]
    assert "of the cache were damaged or not written by tflite-guard; nothing of that was used" in note
    assert again["models"][0]["variants"][0]["metrics"] == whole["models"][0]["variants"][0]["metrics"]
    assert (again["models"][0]["variants"][0]["cached"], once_more["models"][0]["variants"][0]["cached"]) == (
        False,
        True,
    )
    assert whole["notes"] == once_more["notes"] == []


def test_an_entry_that_another_process_removes_is_not_called_damaged(cache: Cache, source: Path) -> None:
    entry = cache.put(KEY, {"one": source, "two": source}, {})
    assert cache.get(KEY, pause=lambda: shutil.rmtree(entry.folder, ignore_errors=True)) is None
    assert not cache.refused
    entry = cache.put(KEY, {"one": source}, {})
    (entry.folder / "one").unlink()
    assert cache.get(KEY) is None
    assert cache.refused == {entry.folder}
