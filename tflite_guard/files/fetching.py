"""Files elsewhere: fetched once, verified, and kept by the hash of their content. The only importer of fsspec.

What arrives is appended to `<sha256>.part`, and moved to its place when its hash is right: so a run that is killed
leaves something that the next one goes on from, and nobody meets half of a file. Servers are not trusted: they may
stall, cut short, repeat themselves and lie about lengths, and whatever they send counts for nothing before its hash.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

from tflite_guard.errors import EvaluationError
from tflite_guard.files import adopt, is_full, make_folders, sha256_of, shortage, uris
from tflite_guard.files.removal import clear_way, remove

LARGEST = 8 * 2**30
"""Bytes of a file; a cache holds as many."""
_PART = ".part"
_CHUNK = 2**18
_BLOCK = 2**22
"""Bytes asked for at a time where there is no stream to read from."""
_POLL_SECONDS = 0.1
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,10}")
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)")
_PASSING = (408, 416, 425, 429)
"""Answers of the kind "you are wrong" that may be others at the next try."""


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for."""

    stall: float = 60.0
    """Seconds without a byte."""
    tries: int = 4
    """In a row that bring nothing."""
    wait: float = 1.0
    """Seconds before the second try; twice as many before each further one."""


@dataclass(frozen=True)
class _Piece:
    """Some bytes of a file, where they belong, and how long the file is said to be."""

    start: int
    total: int | None
    data: bytes


class _AgainError(Exception):
    """Something went wrong that may go well at the next try; the message is what, as the end of a sentence."""


class _UnwrittenError(OSError):
    """What came could not be written, so that no further try would help."""


class RemoteFiles:
    """The files that a run has fetched, in a folder that any number of processes may share."""

    def __init__(
        self, folder: str | Path, *, setting: str, offline: bool = False, patience: Patience | None = None
    ) -> None:
        """`setting` is what a user sets to have another folder, for messages."""
        self.folder = Path(folder)
        self._setting = setting
        self._offline = offline
        self._patience = patience or Patience()
        self._verified: set[Path] = set()
        self.refused: set[Path] = set()
        """Where a file was that is another than it should be."""

    def place(self, uri: str, sha256: str) -> Path:
        """Where a file is once it is fetched. Some readers go by the end of its name, so that stays."""
        suffix = os.path.splitext(uris.name_of(uri))[1]
        return self.folder / (sha256 + (suffix if _SUFFIX.fullmatch(suffix) else ""))

    def get(
        self,
        uri: str,
        sha256: str,
        *,
        pause: Callable[[], None] = lambda: None,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Path:
        """The path of a file with this content, fetched where it is not here.

        `pause` is called now and then, and may end the work by raising; `progress` with the bytes that are here and,
        where it is known, how many there will be.

        Raises EvaluationError where it cannot be had, or is another file than it should be.
        """
        place = self.place(uri, sha256)
        try:
            if place not in self._verified and not self._holds(place, sha256, pause):
                if self._offline:
                    raise EvaluationError("offline", f"{uri}: is not in the cache, and --offline fetches nothing")
                self._fetch(uri, sha256, place, pause, progress)
        except OSError as error:
            raise self._unwritable(error) from None
        with contextlib.suppress(OSError):  # a read-only cache still answers
            os.utime(place)
        self._verified.add(place)
        return place

    def _holds(self, place: Path, sha256: str, pause: Callable[[], None]) -> bool:
        """Whether a file is in its place and whole. What is damaged is removed."""
        if not os.path.lexists(place):
            return False
        with contextlib.suppress(OSError):  # what cannot be read is damaged, too
            if _is_file(place) and place.stat().st_size <= LARGEST and sha256_of(str(place), pause=pause) == sha256:
                return True
        self.refused.add(place)
        remove(place)
        return False

    def _fetch(
        self, uri: str, sha256: str, place: Path, pause: Callable[[], None], progress: Callable[[int, int], None]
    ) -> None:
        clear_way(self.folder)
        make_folders(self.folder)
        with _locked(self.folder / f"{sha256}{_PART}", pause) as (path, file):
            if self._holds(place, sha256, pause):  # another process was first
                path.unlink()
                return
            part = _Part(file, pause)
            progress(part.size, 0)
            work = _Work(uri, part, progress, self._patience)
            try:
                _complete(work, sha256, pause)
            except EvaluationError as error:
                if error.kind == "timeout":
                    raise EvaluationError("timeout", f"{uri}: {_out_of_time(work)}") from None
                raise
            if part.sha256 != sha256:
                path.unlink()
                raise EvaluationError("fetch", f"{uri}: {_another(part, sha256)}")
            os.fsync(file.fileno())
            adopt(path)
            path.rename(place)

    def _unwritable(self, error: OSError) -> EvaluationError:
        if told := shortage(error):
            return EvaluationError("limit", told)
        if is_full(error):
            advice = f"free some, or name another folder with {self._setting}"
            return EvaluationError("disk-full", f"{self.folder}: no space left for what is fetched; {advice}")
        why = f"cannot be written ({error.strerror}); name another folder with {self._setting}"
        return EvaluationError("cache", f"{self.folder}: {why}")


class _Part:
    """What has come of a file so far, and its hash."""

    def __init__(self, file: FileIO, pause: Callable[[], None]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0
        if os.fstat(file.fileno()).st_size > LARGEST:
            file.truncate(0)
        while block := file.read(_BLOCK):
            self._count(block)
            pause()
        self.resumed = self.size > 0
        """Some of it came before, from who knows where."""

    @property
    def sha256(self) -> str:
        """The hash of all that has come."""
        return self._digest.hexdigest()

    def append(self, data: bytes) -> None:
        """Add what comes next. Raises OSError."""
        with _writing():
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        self._count(data)

    def restart(self) -> None:
        """Forget what has come. Raises OSError."""
        with _writing():
            self._file.seek(0)
            self._file.truncate()
        self._digest = hashlib.sha256()
        self.size, self.resumed = 0, False

    def _count(self, data: bytes) -> None:
        self._digest.update(data)
        self.size += len(data)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _UnwrittenError(error.errno, error.strerror) from None


@dataclass
class _Work:
    """A file to fetch, and what has come of it."""

    uri: str
    part: _Part
    progress: Callable[[int, int], None]
    patience: Patience
    total: int | None = None

    def take(self, piece: _Piece) -> None:
        """Add a piece. Raises EvaluationError where the file is too large, OSError where it cannot be written."""
        if piece.start != self.part.size:
            self.part.restart()  # the server knows nothing of parts, or of this one
            if piece.start:
                raise _AgainError("the server sent another part than was asked for")
        self.total = piece.total
        if max(self.part.size + len(piece.data), self.total or 0) > LARGEST:
            raise EvaluationError("fetch", f"{self.uri}: is larger than {LARGEST:,} bytes, which is the most")
        self.part.append(piece.data)
        self.progress(self.part.size, self.total or 0)

    @property
    def reached(self) -> str:
        """How far it is, as the end of a sentence."""
        return f"after {self.part.size:,}{f' of {self.total:,}' if self.total else ''} bytes"


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


@contextlib.contextmanager
def _locked(path: Path, pause: Callable[[], None]) -> Iterator[tuple[Path, FileIO]]:
    """A file to write, made where it is not there, that no other process or thread writes to meanwhile.

    Some network file systems lock nothing; then the hash tells where two have written at the same time.
    """
    while True:
        if os.path.lexists(path) and not (_is_file(path) and os.access(path, os.R_OK | os.W_OK)):
            remove(path)  # nothing that a run has left; to open a pipe could wait for ever
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            while not _lock(descriptor):
                pause()
                time.sleep(_POLL_SECONDS)
            if _is_at(descriptor, path):
                yield path, file
                return


def _lock(descriptor: int) -> bool:
    import fcntl  # Windows has none

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has its name: who had it locked may have moved or removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _complete(work: _Work, sha256: str, pause: Callable[[], None]) -> None:
    """Fetch what is missing; all of it where what was there before turns out to be of another file."""
    if work.part.resumed and work.part.sha256 == sha256:
        return
    _run(_all_of(work), pause)
    if work.part.resumed and work.part.sha256 != sha256:
        work.part.restart()
        _run(_all_of(work), pause)


def _run(work: Coroutine[Any, Any, None], pause: Callable[[], None]) -> None:
    """Do something in a thread of its own: this one may be a notebook's, in which an event loop runs already."""
    stopped = threading.Event()

    def check() -> None:
        if stopped.is_set():
            raise EvaluationError("interrupted", "interrupted")
        pause()

    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as thread:
        try:
            thread.submit(asyncio.run, _watched(work, check)).result()
        finally:
            stopped.set()


async def _watched(work: Coroutine[Any, Any, None], pause: Callable[[], None]) -> None:
    """Do something that `pause` may end at any time."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_POLL_SECONDS)
            pause()
        task.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


async def _all_of(work: _Work) -> None:
    """Fetch the rest of a file, in as many tries as bring something."""
    async with _source(work.uri) as pieces:
        idle = 0
        while True:
            before = work.part.size
            try:
                await _rest_of(work, pieces)
                return
            except (EvaluationError, ImportError, _UnwrittenError):
                raise
            except Exception as error:
                if _status(error) == 416:  # what is here is longer than the file there
                    work.part.restart()
                if (final := _final(error)) is not None:
                    raise EvaluationError("fetch", f"{work.uri}: {final}") from None
                idle = 0 if work.part.size > before else idle + 1
                if idle == work.patience.tries:
                    message = f"{work.uri}: {_told(error)} {work.reached}, and {idle} tries in a row brought no more"
                    raise EvaluationError("fetch", message) from None
            await asyncio.sleep(work.patience.wait * 2**idle / 2)


async def _rest_of(work: _Work, pieces: Callable[[int], AsyncGenerator[_Piece, None]]) -> None:
    async with contextlib.aclosing(pieces(work.part.size)) as coming:
        while True:
            try:
                piece = await asyncio.wait_for(anext(coming), work.patience.stall)
            except StopAsyncIteration:
                break
            except TimeoutError:
                raise _AgainError(f"nothing came for {work.patience.stall:g} seconds") from None
            work.take(piece)
    if work.total is not None and work.part.size < work.total:
        raise _AgainError("the connection ended")


@contextlib.asynccontextmanager
async def _source(uri: str) -> AsyncIterator[Callable[[int], AsyncGenerator[_Piece, None]]]:
    """What gives the pieces of a file from a byte on. Raises EvaluationError where a library for it is missing."""
    scheme = uri.partition(":")[0].lower()
    extra = "https" if scheme == "http" else scheme
    try:
        system = _system(extra, uri)
    except ImportError as error:
        message = f"{uri}: fetching it needs what is not installed ({error}); run: pip install 'tflite-guard[{extra}]'"
        raise EvaluationError("missing-dependency", message) from None
    session = await (system._set_session() if extra == "gs" else system.set_session())
    try:
        yield partial(_streamed if extra == "https" else _in_blocks, system, uri)
    finally:
        await session.close()


def _system(scheme: str, uri: str) -> Any:
    """The file system of a scheme; endpoints and credentials are the environment's, as its library reads them."""
    settings: dict[str, Any] = {"asynchronous": True, "skip_instance_cache": True}
    if scheme == "gs":  # fsspec's own choice asks Google for what kind of bucket it is, which takes another permission
        from gcsfs.core import GCSFileSystem

        return GCSFileSystem(**settings)
    import fsspec

    if scheme == "https":  # what is encoded stays as it is, since it may be signed
        settings |= {"get_client": _client, "encoded": uri.isascii()}
    return fsspec.filesystem(scheme, **settings)


async def _streamed(system: Any, uri: str, start: int) -> AsyncGenerator[_Piece, None]:
    """A file of a web server from a byte on, or from the first where the server does not know of ranges.

    By the session itself: fsspec 2026.9 leaves out the headers of a file that it opens as a stream.
    """
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    session = await system.set_session()
    async with session.get(system.encode_url(uri), headers=headers) as response:
        response.raise_for_status()
        position, total = _extent(response)
        while data := await response.content.read(_CHUNK):
            yield _Piece(position, total, data)
            position += len(data)


def _extent(response: Any) -> tuple[int, int | None]:
    """Where an answer begins in the file, and how long it says that the file is."""
    if response.status == 206 and (told := _RANGE.fullmatch(response.headers.get("Content-Range", ""))):
        return int(told[1]), None if told[2] == "*" else int(told[2])
    return 0, response.content_length


async def _in_blocks(system: Any, uri: str, start: int) -> AsyncGenerator[_Piece, None]:
    """An object of a bucket from a byte on."""
    about = await system._info(uri)
    if about["type"] != "file":
        raise FileNotFoundError(uri)
    for position in range(start, about["size"], _BLOCK):
        end = min(position + _BLOCK, about["size"])
        data = await system._cat_file(uri, start=position, end=end)
        if len(data) != end - position:
            raise _AgainError("the server sent another part than was asked for")
        yield _Piece(position, about["size"], data)


async def _client(**settings: Any) -> Any:
    """A session for web servers, with the proxies and the .netrc of the environment.

    What arrives is kept as it is: the hash is that of the file, not of what a server makes of it on its way.
    """
    import ssl

    import aiohttp

    way = _Way()
    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(way.begin)
    trace.on_request_redirect.append(way.check_redirect)
    return aiohttp.ClientSession(
        **settings,
        connector=aiohttp.TCPConnector(socket_factory=way.socket, ssl=ssl.create_default_context()),
        trace_configs=[trace],
        trust_env=True,
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None),
    )


class _RefusedError(Exception):
    """An address that is not to be asked; the message is why, as the end of a sentence."""


class _Way:
    """Where the requests of a session lead, one file's: never to what is a machine's own."""

    def __init__(self) -> None:
        self._left: str | None = None
        """The host that the present request was redirected to, if that is another than was asked."""
        self._public = False
        """Whether the host that was asked is one of the public internet."""

    async def begin(self, *_: Any) -> None:
        """Ask for the file, of the host that the manifest names."""
        self._left = None

    async def check_redirect(self, _session: Any, _context: Any, step: Any) -> None:
        """Refuse to be sent from an encrypted connection to one that is not, or from elsewhere to this machine."""
        headers = step.response.headers
        target = step.url.join(type(step.url)(headers.get("Location") or headers.get("URI") or ""))
        here = step.url.host in uris.LOOPBACK
        if target.scheme != "https" and not (here and step.url.scheme == "http"):
            raise _RefusedError(f"is redirected to {target.scheme}://{target.host}, which is not encrypted")
        if target.host in uris.LOOPBACK and not here:
            raise _this_machine(target.host)
        if not here and target.host != step.url.host:
            self._left = target.host

    def socket(self, address: Any) -> Any:
        """A socket for an address that a name has led to, unless that is where clouds keep credentials of machines.

        A name that a server has chosen may lead to this machine under any address of its own, or from the public
        internet into a private network. Where there is a proxy, the address is the proxy's.
        """
        import ipaddress
        import socket
        from urllib.request import getproxies

        family, kind, protocol, _, where = address
        ip = ipaddress.ip_address(where[0].partition("%")[0])
        mapped = getattr(ip, "ipv4_mapped", None) or ip
        if mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified or ip in _metadata_services():
            raise _RefusedError(f"leads to {ip}, an address for a machine's own services")
        if self._left is None:
            self._public = mapped.is_global
        elif mapped.is_loopback and not getproxies():
            raise _this_machine(self._left)
        elif self._public and not mapped.is_global and not getproxies():
            raise _RefusedError(f"is redirected to {self._left}, which is in a private network")
        return socket.socket(family, kind, protocol)


def _this_machine(host: str) -> _RefusedError:
    return _RefusedError(f"is redirected to {host}, which is this machine")


def _metadata_services() -> tuple[Any, ...]:
    """Those of clouds that have no link-local address."""
    import ipaddress

    return ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")


def _final(error: Exception) -> str | None:
    """Why no further try would bring a file, as the end of a sentence; None where one may."""
    if isinstance(error, _RefusedError):
        return str(error)
    if (untrusted := getattr(error, "certificate_error", None)) is not None:
        return f"the server's certificate is not to be trusted ({untrusted})"
    if isinstance(error, ValueError):
        return f"is no valid URI ({error})"
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return "there is no such file (404); correct the manifest, or put the file there"
    credentials = "the environment has no credentials that may read it"
    if isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in type(error).__name__:
        return f"access is denied{f' ({status})' if status else ''}; {credentials}"
    if 400 <= status < 500 and status not in _PASSING:
        return f"the server refuses ({status} {getattr(error, 'message', '')})"
    return None


def _status(error: Exception) -> int:
    """What a server has answered; 0 where that is not what went wrong."""
    found = getattr(error, "status", None) or getattr(error, "code", None)
    return found if isinstance(found, int) else 0


def _told(error: Exception) -> str:
    """What went wrong, for people."""
    if isinstance(error, _AgainError):
        return str(error)
    if status := _status(error):
        return f"the server answered {status} {getattr(error, 'message', '')}".rstrip()
    if type(error).__name__ == "ClientPayloadError":
        return "the connection broke"
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}{f': {first[0][:200]}' if first else ''}"


def _out_of_time(work: _Work) -> str:
    return f"ran out of time {work.reached}; raise --timeout (the next run goes on from there if the cache is kept)"


def _another(part: _Part, sha256: str) -> str:
    advice = "if it was changed on purpose, write that into the manifest"
    return f"has sha256 {part.sha256} ({part.size:,} bytes), where {sha256} is expected; {advice}"
