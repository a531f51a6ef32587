"""A check on a Dask cluster: a shard a task, done by whatever worker is free, and one report of all.

What travels is text and bytes, and an answer is read as strictly as a report's file. But Dask itself pickles what calls
them: whoever can reach a scheduler can run code on it, on its workers and on its clients.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from tflite_guard import checking
from tflite_guard.errors import EvaluationError, GuardError, ManifestError, UsageError
from tflite_guard.files import uris
from tflite_guard.judgement.baseline import Baseline
from tflite_guard.manifest import jsontext, load
from tflite_guard.reports.json import parse, render
from tflite_guard.results import Report, Shard
from tflite_guard.run import merging, pipeline, sharding
from tflite_guard.run.jobs import Job, Options, jobs
from tflite_guard.run.steps import TOOL_NAME, Event, tool_version

if TYPE_CHECKING:
    from distributed import Client, Worker

    from tflite_guard.run.steps import OnEvent

POLL = 1.0
"""Seconds between two looks at whether there are workers."""
PATIENCE = 300.0
"""Seconds without any worker after which nobody is expected to start one."""
_ADDRESS = re.compile(r"(tcp|tls)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}")


@dataclass(frozen=True)
class _Request:
    """What all shards of a run have in common."""

    manifests: tuple[tuple[str, str], ...]
    """The absolute path and the text of each. Only files that it names need be where the worker is."""
    baselines: dict[str, Baseline]
    """By those paths."""
    options: Options
    own_cache: bool
    """Keep results in the cache folder of the worker's own user, whatever the options name."""


def check(
    manifests: Sequence[str],
    options: Options,
    scheduler: str,
    *,
    baseline: str | None = None,
    on_event: OnEvent | None = None,
) -> Report:
    """Check the models of some manifests on the workers of a Dask cluster, as `checking.check` does here.

    Raises:
        ManifestError: a manifest is invalid.
        UsageError: as `checking.check`; and where `scheduler` is no address, or a worker has other versions than this
            machine.
        EvaluationError: the cluster cannot be reached, is lost or has no workers, or one cannot do its part.
    """
    _require_address(scheduler)
    if options.shard is not None:
        raise UsageError("a shard is one machine's part; leave it out where a scheduler divides the run")
    if options.costs is not None:
        raise UsageError("costs make shards even; a scheduler gives them out as workers are free, so leave costs out")
    loaded = checking.load_all(manifests, options.data_roots, options.allow_code)
    recorded = checking.recorded([one.path for one in loaded], baseline, options.data_roots)
    work = jobs(loaded, options, recorded)
    request = _Request(
        tuple((os.path.abspath(one.path), jsontext.read(one.path, options.data_roots).decode()) for one in loaded),
        {os.path.abspath(path): found for path, found in recorded.items()},
        # A piece's scores are files beside a report, and a worker's report is all that travels.
        replace(options, data_roots=tuple(map(_absolute, options.data_roots)), scores=None),
        own_cache=options.cache_dir is not None and options.cache_dir == checking.cache_folder(None),
    )
    reports: dict[str, Report] = {}
    with _connected(scheduler) as client:
        crew = _Crew(client, scheduler)
        of = sharding.suited(work, crew.slots())
        plan, parts = sharding.plan(work), sharding.parts(work, of)
        for number, worker, content in _answers(crew, request, of):
            part = parts[number - 1]
            reports[f"shard {number} by {worker}"] = _verified(content, worker, Shard(number, of, plan), part)
            if on_event is not None:
                on_event(Event(scheduler, None, "shards", len(reports), of))
    return merging.merged(reports)


def shard_report(versions: bytes, request: bytes, number: int, of: int) -> tuple[str, bytes]:
    """What a worker does: its address, and the report of a shard, or of a run that came to nothing, as JSON.

    Nothing is done for a machine with other versions, whose request may not even be readable.
    """
    from distributed import get_worker

    worker = get_worker()
    try:
        if msgspec.json.decode(versions) != merging.versions():
            raise UsageError("the versions differ")  # which do, the other side sees
        asked = msgspec.json.decode(zlib.decompress(request), type=_Request)
        report = _done(
            asked, (number, of), worker.state.nthreads, partial(_require_need, worker, worker.get_current_task())
        )
    except ManifestError as error:
        first, *others = error.problems
        more = f" (and {len(others)} more)" if others else ""
        advice = "a worker must see the files that manifests name, at the same paths as here or by URI"
        report = checking.without_results(UsageError(f"{first}{more}; {advice}"))
    except GuardError as error:
        report = checking.without_results(error)
    return worker.address, render(report).encode()


def _done(request: _Request, shard: tuple[int, int], share: int, pause: Callable[[], None]) -> Report:
    options = replace(request.options, shard=shard, share=share)
    if request.own_cache:
        options = replace(options, cache_dir=checking.cache_folder(None))
    loaded = [
        load(path, data_roots=options.data_roots, allow_code=options.allow_code, content=text.encode())
        for path, text in request.manifests
    ]
    return pipeline.run(loaded, options, baselines=request.baselines, pause=pause)


def _require_need(worker: Worker, key: Any) -> None:
    """Raise EvaluationError once nobody waits for a task that a worker does: the client has gone, or the scheduler."""
    task = worker.state.tasks.get(key)
    if task is None or task.state != "executing" or worker.status.name in ("closing", "closed", "failed"):
        raise EvaluationError("cancelled", "nobody waits for this shard any more")


class _Crew:
    """The workers of a cluster, waited for while there are none."""

    def __init__(self, client: Client, address: str) -> None:
        self.client, self.address = client, address
        self._last_seen = time.monotonic()

    def present(self) -> int:
        """How many tasks they do at a time. Raises EvaluationError where nobody has been there for long."""
        try:
            threads: dict[str, int] = self.client.nthreads()
        except OSError:
            raise _lost(self.address) from None
        if threads:
            self._last_seen = time.monotonic()
        elif time.monotonic() - self._last_seen > PATIENCE:
            why = f"has had no worker for {PATIENCE:g} seconds; start some: dask worker {self.address}"
            raise _failed(self.address, why)
        return sum(threads.values())

    def slots(self) -> int:
        """How many tasks they do at a time, once there are any.

        Raises UsageError where one has not this tflite-guard: a worker ends over a call of what it cannot import.
        """
        while not (found := self.present()):
            time.sleep(POLL)
        told = self.client.run(importlib.metadata.version, TOOL_NAME, on_error="return")
        for worker, version in told.items():
            absent = isinstance(version, importlib.metadata.PackageNotFoundError)
            if absent or (isinstance(version, str) and version != tool_version()):
                has = "no tflite-guard" if absent else f"tflite-guard {version}"
                raise UsageError(f"the worker {worker} has {has}; install {tool_version()} there, as here")
        return found


def _answers(crew: _Crew, request: _Request, of: int) -> Iterator[tuple[int, str, bytes]]:
    """The number of each shard as it is done, with what its worker sent."""
    given = msgspec.json.encode(merging.versions()), zlib.compress(msgspec.json.encode(request))
    executor = crew.client.get_executor(pure=False)
    numbers = {executor.submit(shard_report, *given, number, of): number for number in range(1, of + 1)}
    waiting: set[Future[tuple[str, bytes]]] = {*numbers}
    while waiting:
        done, waiting = wait(waiting, timeout=POLL, return_when=FIRST_COMPLETED)
        if not done:
            crew.present()
        for future in done:
            yield numbers[future], *_result(crew.address, numbers[future], of, future)


def _result(address: str, number: int, of: int, future: Future[tuple[str, bytes]]) -> tuple[str, bytes]:
    from distributed import KilledWorker

    which = f"shard {number} of {of}"
    try:
        return msgspec.convert(future.result(), tuple[str, bytes])
    except CancelledError:
        raise _lost(address) from None
    except KilledWorker as error:
        times = error.allowed_failures + 1
        raise EvaluationError(
            "worker",
            f"{which}: {times} workers have ended over it, the last one {error.last_worker.address}; see in their logs "
            "what ended them (memory, another tflite-guard?)",
        ) from None
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise EvaluationError(
            "worker",
            f"{which}: a worker or the scheduler {address} could not do it "
            f"({type(error).__name__}: {first}); have the same tflite-guard on all machines",
        ) from None


def _verified(content: bytes, worker: str, shard: Shard, part: Sequence[Job]) -> Report:
    """What a worker sent as the report of a part of this run, whose manifests are called as here.

    Without git, what a manifest is called depends on where a process runs.
    """
    try:
        report = parse(content, worker)
    except UsageError:
        advice = "have the same tflite-guard there and here"
        raise EvaluationError("worker", f"the worker {worker} sent what is no report; {advice}") from None
    merging.require_versions(f"the worker {worker}", report)
    if report.shard is None:
        raise EvaluationError("worker", f"the worker {worker}: {'; '.join(report.notes)}")
    asked = [(one.manifest.sha256, one.model.name, [variant.name for variant in one.model.variants]) for one in part]
    told = [(one.manifest.sha256, one.name, list(one)) for one in report.models]
    if (report.shard.number, report.shard.of, told) != (shard.number, shard.of, asked):
        raise EvaluationError(
            "worker",
            f"the worker {worker}: did another part of the run than it was asked for, as where files have other sizes "
            "than here; have it see the same files",
        )
    models = tuple(replace(model, manifest=one.manifest) for model, one in zip(report.models, part, strict=True))
    return replace(report, models=models, shard=shard)


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    """A connection to a scheduler; what is asked and not done by its end is cancelled."""
    try:
        from distributed import Client, Security
    except ImportError as error:
        message = f"--scheduler needs what is not installed ({error}); run: pip install 'tflite-guard[dask]'"
        raise EvaluationError("missing-dependency", message) from None
    log = logging.getLogger("distributed.client")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it tells of a lost scheduler by a traceback
    try:
        try:
            security = Security()  # as Dask's configuration has it
            if address.startswith("tls:") and security.get_connection_args("client")["ssl_context"] is None:
                raise UsageError(f"{address} needs a certificate: set DASK_DISTRIBUTED__COMM__TLS__CA_FILE and others")
            client = Client(address, security=security, set_as_default=False)
        except (OSError, ImportError, RuntimeError) as error:  # the last where only encryption is allowed
            raise _failed(address, f"cannot be reached ({error})") from None
        try:
            yield client
        finally:
            client.close()
    finally:
        log.setLevel(level)


def _lost(address: str) -> EvaluationError:
    return _failed(address, "was lost; what its workers have in their caches serves the next run")


def _failed(address: str, why: str) -> EvaluationError:
    return EvaluationError("scheduler", f"the scheduler {address} {why}")


def _require_address(address: str) -> None:
    if not _ADDRESS.fullmatch(address):
        raise UsageError(f"{address!r} is no scheduler's address, such as tcp://10.0.0.5:8786 or tls://10.0.0.5:8786")


def _absolute(root: str) -> str:
    return root if uris.is_uri(root) else os.path.abspath(root)
