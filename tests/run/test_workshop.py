"""Large files that nobody has touched since they were read are known again, and all others are read."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from tflite_guard.run.cache import Cache
from tflite_guard.run.jobs import Options
from tflite_guard.run.workshop import LARGE, Hashes, Workshop


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "evaluation.npz"
    path.write_bytes(b"a" * LARGE)
    return path


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some seconds after all files were written."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 5 * 10**9)


def asked(path: Path, cache: Cache | None) -> tuple[str, bool]:
    """What a new run takes for the hash of a file, and whether it has read the file for that."""
    pauses: list[None] = []
    found = Hashes((), cache)(str(path), lambda: pauses.append(None))
    return found, len(pauses) > 1


def test_a_large_file_that_nobody_touched_is_read_once(cache: Cache, large: Path, later: None) -> None:
    sha256 = hashlib.sha256(large.read_bytes()).hexdigest()
    assert [asked(large, cache), asked(large, cache)] == [(sha256, True), (sha256, False)]


def test_one_that_was_written_with_the_old_time_and_size_is_read(cache: Cache, large: Path, later: None) -> None:
    before, times = asked(large, cache)[0], (large.stat().st_atime_ns, large.stat().st_mtime_ns)
    with large.open("r+b") as file:
        file.write(b"b")
    os.utime(large, ns=times)
    assert asked(large, cache) == (hashlib.sha256(large.read_bytes()).hexdigest(), True) != (before, True)


def test_one_in_the_place_of_another_is_read(cache: Cache, large: Path, later: None) -> None:
    asked(large, cache)
    other = large.with_name("other")
    other.write_bytes(b"b" * LARGE)
    os.utime(other, ns=(large.stat().st_atime_ns, large.stat().st_mtime_ns))
    other.rename(large)
    assert asked(large, cache) == (hashlib.sha256(b"b" * LARGE).hexdigest(), True)


def test_one_that_was_changed_just_before_is_read_again(cache: Cache, large: Path) -> None:
    assert [asked(large, cache)[1], asked(large, cache)[1]] == [True, True]


def test_what_is_read_quickly_is_always_read(cache: Cache, tmp_path: Path, later: None) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"a")
    assert [asked(small, cache)[1], asked(small, cache)[1]] == [True, True]


def test_a_damaged_entry_or_a_cache_that_cannot_be_written_has_it_read(
    cache: Cache, large: Path, tmp_path: Path, later: None
) -> None:
    sha256, _ = asked(large, cache)
    for index in cache.folder.glob("??/*/entry.json"):
        index.write_bytes(index.read_bytes().replace(sha256.encode(), b"0" * 64))
    assert asked(large, cache) == (sha256, True)
    (tmp_path / "file").write_bytes(b"")
    assert asked(large, Cache(tmp_path / "file")) == (sha256, True)
    assert asked(large, None) == (sha256, True)


def test_runs_that_share_a_machine_share_its_cores() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = []
    for share in (1, cores, 2 * cores):
        with Workshop([], Options(jobs=1, share=share)) as workshop:
            threads.append(workshop.threads)
    assert threads == [cores, 1, 1]
