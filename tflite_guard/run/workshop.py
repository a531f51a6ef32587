"""What jobs share while they run: the cache, the children, content hashes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tflite_guard.errors import EvaluationError, UsageError
from tflite_guard.files import Identity, Known, make_folders, sha256_of
from tflite_guard.manifest.types import FileSpec, FunctionSpec
from tflite_guard.run.cache import Cache, key_of
from tflite_guard.run.jobs import Job, Options, named_files
from tflite_guard.run.workers import Confinement, OnLog, WorkerPool, memory_limit, readable_paths, require_children

if TYPE_CHECKING:
    from tflite_guard.files.fetching import RemoteFiles

LARGE = 16 * 2**20
"""Bytes of a file from which on reading it takes longer than looking whether it is known."""


class LargeFiles(Known):
    """Hashes of files, those of large ones kept in a cache: what has not been touched since need not be read again.

    A change of content sets the time of change of state, which nobody can set back; on another machine, or in another
    checkout, it differs. Windows has no such time.
    """

    def __init__(self, cache: Cache) -> None:
        super().__init__()
        self._cache = cache

    def find(self, identity: Identity) -> str | None:
        """The hash of a file, if this run or one before has read it."""
        found = super().find(identity)
        if found is not None or not _is_large(identity):
            return found
        entry = self._cache.peek(_file_key(identity))
        kept = None if entry is None else entry.meta.get("sha256")
        return kept if isinstance(kept, str) else None

    def keep(self, identity: Identity, sha256: str, settled: bool) -> None:
        """Remember a hash, for later runs only where the file is large and settled."""
        super().keep(identity, sha256, settled)
        if settled and _is_large(identity):
            with suppress(EvaluationError):  # a cache that cannot be written makes the next run slower, and no more
                self._cache.put(_file_key(identity), {}, {"sha256": sha256})


def _is_large(identity: Identity) -> bool:
    return os.name == "posix" and identity[2] >= LARGE


def _file_key(identity: Identity) -> str:
    return key_of("file", identity)


class Hashes:
    """Content hashes of the files of a run, each read once. Links in folders may lead to `roots` alone."""

    def __init__(self, roots: Sequence[str], cache: Cache | None = None) -> None:
        """`cache` is where hashes of large files are kept for later runs."""
        self._roots = roots
        self._known: dict[str, str] = {}
        self._files = Known() if cache is None else LargeFiles(cache)
        self._lock = threading.Lock()

    def __call__(self, path: str, pause: Callable[[], None] = lambda: None) -> str:
        """The hash of a file or folder; `pause` is called now and then, and may end the work by raising."""
        with self._lock:
            if path not in self._known:
                try:
                    self._known[path] = sha256_of(path, self._roots, self._files, pause)
                except OSError as error:
                    raise EvaluationError("file", f"{path}: cannot be read ({error.strerror})") from None
            return self._known[path]


class Workshop:
    """A run's cache and child processes, which see the files of its jobs and nothing else."""

    def __init__(self, jobs: Sequence[Job], options: Options, on_log: OnLog | None = None) -> None:
        require_children()  # before a folder is made for their results
        self.options = options
        roots = tuple(dict.fromkeys(root for job in jobs for root in job.data_roots))
        readable, places = readable_paths(_needed(jobs, options, roots)), readable_paths(roots)
        lasting = None
        if options.cache_dir is not None:
            _make_folder(options.cache_dir)
            lasting = Cache(options.cache_dir)
            readable, places = (*readable, *lasting.closed()), (*places, options.cache_dir)
        limit = options.memory_bytes if options.memory_bytes is not None else memory_limit()
        self.pool = WorkerPool(Confinement(readable, places, roots, limit, options.allow_code), on_log)
        self.passing = Cache(Path(self.pool.scratch) / "store", setting="TMPDIR")
        """For results that no later run could take: those of the user's own code, which is not hashed."""
        self.cache = lasting or self.passing
        self.hashes = Hashes(roots, lasting)
        every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cores = max(1, every // options.share)
        self.jobs = options.jobs or max(1, min(len(jobs), cores // 2))
        self.threads = max(1, cores // self.jobs)

    @cached_property
    def remote(self) -> RemoteFiles:
        """Files from elsewhere; loaded only for manifests that name some, and not where all is known."""
        from tflite_guard.files.fetching import RemoteFiles

        return RemoteFiles(self.cache.fetched, setting=self.cache.setting, offline=self.options.offline)

    def remarks(self) -> list[str]:
        """What is to be said of the cache: that something in it was not what it should be, which nobody saw happen."""
        fetched = self.remote.refused if "remote" in self.__dict__ else ()
        if not (count := len({*self.cache.refused, *fetched})):
            return []
        told = "an entry of the cache was" if count == 1 else f"{count:,} entries of the cache were"
        again = "it was" if count == 1 else "they were"
        return [f"{told} damaged or not written by tflite-guard; nothing of that was used, and {again} made anew"]

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.pool.kill()
        self.pool.close()
        if self.options.cache_dir is not None:
            self.cache.prune()


def _needed(jobs: Sequence[Job], options: Options, roots: Sequence[str]) -> list[str]:
    """What children may read for some jobs, links aside; whole folders only where code of the user's reads data."""
    named = [one for job in jobs for one in named_files(job.model)]
    found = [one.path for one in named if isinstance(one, FileSpec) and one.uri is None]
    if options.allow_code:
        found += [one.root for one in named if isinstance(one, FunctionSpec)]
        found += roots if any(_reads_by_code(job) for job in jobs) else ()
    return found


def _reads_by_code(job: Job) -> bool:
    calibrations = (variant.conversion.calibration for variant in job.model.variants)
    return any(data is not None and data.function is not None for data in (job.model.evaluation, *calibrations))


def _make_folder(path: str) -> None:
    try:
        make_folders(path)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(
            f"{path}: the cache needs a folder, and a file is in its place; name another --cache-dir"
        ) from None
    except OSError as error:
        raise EvaluationError("cache", f"{path}: cannot be made ({error.strerror}); name another --cache-dir") from None
