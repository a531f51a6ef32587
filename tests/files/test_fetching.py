"""Files elsewhere come whole or not at all, from servers that stall, cut short, repeat themselves and lie."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.remote import (
    Answer,
    Server,
    cut,
    other_part,
    serving,
    sha256,
    shorter,
    stall,
    status,
    well,
    without_ranges,
)
from tflite_guard.errors import EvaluationError
from tflite_guard.files import fetching
from tflite_guard.files.fetching import Patience, RemoteFiles

CONTENT = os.urandom(2_000_000)
SHA = sha256(CONTENT)
HASTY = Patience(stall=0.3, tries=2, wait=0.01)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"/model.tflite": CONTENT, "/empty.csv": b""}) as server:
        yield server


@pytest.fixture
def files(tmp_path: Path) -> RemoteFiles:
    return RemoteFiles(tmp_path / "fetched", setting="--cache-dir", patience=HASTY)


def kept(files: RemoteFiles) -> list[str]:
    return sorted(path.name for path in files.folder.iterdir())


def refusal(files: RemoteFiles, uri: str, sha: str = SHA) -> str:
    with pytest.raises(EvaluationError) as caught:
        files.get(uri, sha)
    return str(caught.value)


def test_a_file_is_fetched_once_and_kept_by_its_content(server: Server, files: RemoteFiles) -> None:
    told: list[tuple[int, int]] = []
    signed = "/a%2Fb/model.tflite?credential=a%2Fb%2B&name=~%20c"
    uri = f"{server.root}{signed[1:]}"
    server.files[signed] = server.files["/%C3%BC"] = CONTENT
    path = files.get(uri, SHA, progress=lambda done, total: told.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert path.name == f"{SHA}.tflite"
    assert told[0] == (0, 0)
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert files.get(uri, SHA) == path
    assert RemoteFiles(files.folder, setting="").get(uri, SHA) == path
    assert len(server.asked) == 1
    assert kept(files) == [path.name]
    assert files.get(f"{server.root}empty.csv", sha256(b"")).read_bytes() == b""
    assert files.get(f"{server.root}ü", SHA).name == SHA


@pytest.mark.parametrize(
    ("answers", "later"),
    [
        ([cut(0.5)], [False, True]),
        ([cut(0.5), cut(0.5), cut(0.5)], [False, True, True, True]),
        ([stall(0.5)], [False, True]),
        ([status(500)], [False, False]),
        ([cut(0.5), status(503)], [False, True, True]),
        ([cut(0.5), without_ranges], [False, True]),
        ([cut(0.5), other_part], [False, True, False]),
    ],
    ids=["cut", "cut again and again", "stall", "500", "cut, then 503", "no ranges", "another part"],
)
def test_what_is_missing_is_fetched_from_where_it_broke_off(
    server: Server, files: RemoteFiles, answers: list[Answer], later: list[bool]
) -> None:
    server.answers = answers.copy()
    assert files.get(f"{server.root}model.tflite", SHA).read_bytes() == CONTENT
    starts = [start for _, start in server.asked]
    # What has come last when a connection breaks is lost, so it is not known from which byte on the rest is asked for.
    assert [start > 500_000 for start in starts] == later


def test_a_later_run_goes_on_from_what_an_earlier_one_has_left(server: Server, files: RemoteFiles) -> None:
    server.answers = [cut(0.5), status(500), status(500)]
    told = refusal(files, f"{server.root}model.tflite")
    assert re.fullmatch(
        rf"{server.root}model.tflite: the server answered 500 Internal Server Error after [\d,]+ of 2,000,000 bytes, "
        "and 2 tries in a row brought no more",
        told,
    )
    assert kept(files) == [f"{SHA}.part"]
    assert RemoteFiles(files.folder, setting="").get(f"{server.root}model.tflite", SHA).read_bytes() == CONTENT
    (_, first), *rest = server.asked
    assert first == 0
    assert len({start for _, start in rest}) == 1


@pytest.mark.parametrize("left", [CONTENT[:100_000:-1], CONTENT + b"more", CONTENT])
def test_what_an_earlier_run_has_left_may_be_wrong_or_whole(server: Server, files: RemoteFiles, left: bytes) -> None:
    files.folder.mkdir()
    (files.folder / f"{SHA}.part").write_bytes(left)
    assert files.get(f"{server.root}model.tflite", SHA).read_bytes() == CONTENT
    assert kept(files) == [f"{SHA}.tflite"]
    assert len(server.asked) == (0 if left == CONTENT else 2)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (cut(0.0), "the connection broke after 0 bytes, and 2 tries in a row brought no more"),
        (stall(0.0), "nothing came for 0.3 seconds after 0 bytes, and 2 tries in a row brought no more"),
        (status(302, Location="http://2852039166/"), "is no valid URI (2852039166 - is not a canonical IPv4 address)"),
        (status(404), "there is no such file (404); correct the manifest, or put the file there"),
        (status(401), "access is denied (401); the environment has no credentials that may read it"),
        (status(403), "access is denied (403); the environment has no credentials that may read it"),
        (status(451), "the server refuses (451 Unavailable For Legal Reasons)"),
        (status(429), "the server answered 429 Too Many Requests after 0 bytes, and 2 tries in a row brought no more"),
        (shorter, f"has sha256 {sha256(CONTENT[:1_000_000])} (1,000,000 bytes), where {SHA} is expected; if it was"),
    ],
)
def test_what_cannot_be_had_is_told_with_the_uri(server: Server, files: RemoteFiles, answer: Answer, told: str) -> None:
    server.answers = [answer] * 4
    message = refusal(files, f"{server.root}model.tflite")
    assert message.startswith(f"{server.root}model.tflite: ")
    assert told in message
    assert len(server.asked) <= 2


def test_other_bytes_than_the_manifest_expects_are_not_kept(server: Server, files: RemoteFiles) -> None:
    expected = sha256(b"")
    message = refusal(files, f"{server.root}model.tflite", expected)
    assert f"has sha256 {SHA} (2,000,000 bytes), where {expected} is expected" in message
    assert kept(files) == []


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(b"damaged"), lambda path: (path.unlink(), path.mkdir())]
)
def test_a_damaged_file_of_the_cache_is_fetched_again(
    server: Server, files: RemoteFiles, damage: Callable[[Path], object]
) -> None:
    path = files.get(f"{server.root}model.tflite", SHA)
    damage(path)
    assert RemoteFiles(files.folder, setting="").get(f"{server.root}model.tflite", SHA).read_bytes() == CONTENT


def _pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("nowhere")


@pytest.mark.parametrize("damage", [_pipe, _link, Path.mkdir, lambda path: (path.touch(), path.chmod(0))])
@pytest.mark.parametrize("suffix", [".part", ".tflite"])
def test_whatever_is_in_a_files_place_is_replaced(
    server: Server, files: RemoteFiles, suffix: str, damage: Callable[[Path], object]
) -> None:
    files.folder.mkdir()
    damage(files.folder / f"{SHA}{suffix}")
    assert files.get(f"{server.root}model.tflite", SHA).read_bytes() == CONTENT


@pytest.mark.parametrize("damage", [_pipe, _link, Path.touch])
def test_whatever_is_in_the_folders_place_is_replaced(
    server: Server, files: RemoteFiles, damage: Callable[[Path], object]
) -> None:
    damage(files.folder)
    assert files.get(f"{server.root}model.tflite", SHA).read_bytes() == CONTENT


def test_what_is_larger_than_any_file_is_not_read(server: Server, files: RemoteFiles) -> None:
    files.folder.mkdir()
    for name in (f"{SHA}.part", f"{SHA}.tflite"):
        (files.folder / name).touch()
        os.truncate(files.folder / name, 2**42)
    assert files.get(f"{server.root}model.tflite", SHA).read_bytes() == CONTENT


def test_a_server_that_is_not_there_is_told(files: RemoteFiles) -> None:
    with serving({}) as gone:
        uri = f"{gone.root}model.tflite"
    assert "ClientConnectorError: Cannot connect to host" in refusal(files, uri)


def test_a_file_that_is_too_large_is_refused_before_it_comes(
    server: Server, files: RemoteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "LARGEST", 1_500_000)
    message = refusal(files, f"{server.root}model.tflite")
    assert message == f"{server.root}model.tflite: is larger than 1,500,000 bytes, which is the most"
    server.answers = [lambda handler, content, _: (handler.head(200, None), handler.wfile.write(content))[0]]
    assert "is larger than 1,500,000 bytes" in refusal(files, f"{server.root}model.tflite")


def test_a_disk_without_room_is_told_at_once(server: Server, files: RemoteFiles) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        told = refusal(files, f"{server.root}model.tflite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told.endswith("no space left for what is fetched; free some, or name another folder with --cache-dir")
    assert len(server.asked) == 1


@pytest.mark.parametrize("answer", [well, stall(0.5)])
def test_a_run_that_is_out_of_time_says_how_far_it_was(server: Server, files: RemoteFiles, answer: Answer) -> None:
    server.answers = [answer]
    patient = RemoteFiles(files.folder, setting="", patience=Patience(stall=30))

    def pause() -> None:
        if server.asked:
            raise EvaluationError("timeout", "the time is over")

    with pytest.raises(EvaluationError, match=r"ran out of time after [\d,]+.* bytes; raise --timeout") as caught:
        patient.get(f"{server.root}model.tflite", SHA, pause=pause)
    assert caught.value.kind == "timeout"


def test_several_that_want_the_same_file_fetch_it_once(server: Server, files: RemoteFiles) -> None:
    uri, found = f"{server.root}model.tflite", []
    threads = [threading.Thread(target=lambda: found.append(files.get(uri, SHA))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [files.place(uri, SHA)] * 4
    assert len(server.asked) == 1


def test_one_that_waits_for_another_process_can_be_ended(server: Server, files: RemoteFiles) -> None:
    files.folder.mkdir()
    with (files.folder / f"{SHA}.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        end = time.monotonic() + 0.2

        def pause() -> None:
            if time.monotonic() > end:
                raise EvaluationError("interrupted", "interrupted")

        with pytest.raises(EvaluationError, match="interrupted"):
            files.get(f"{server.root}model.tflite", SHA, pause=pause)
    assert server.asked == []


def test_offline_takes_what_is_here_and_nothing_else(server: Server, files: RemoteFiles) -> None:
    offline = RemoteFiles(files.folder, setting="", offline=True)
    assert refusal(offline, f"{server.root}model.tflite").endswith("is not in the cache, and --offline fetches nothing")
    path = files.get(f"{server.root}model.tflite", SHA)
    assert offline.get(f"{server.root}model.tflite", SHA) == path


def test_a_redirect_may_not_leave_encryption_nor_lead_to_this_machine(
    files: RemoteFiles, server: Server, certificate: tuple[str, str]
) -> None:
    with serving({"/model.tflite": CONTENT, "/moved": b""}, certificate) as safe:
        assert files.get(f"{safe.root}model.tflite", SHA).read_bytes() == CONTENT
        safe.answers = [status(302, Location=f"{server.root}model.tflite")]
        told = refusal(files, f"{safe.root}moved", sha256(b"x"))
        assert told.endswith("is redirected to http://127.0.0.1, which is not encrypted")
        safe.answers = [status(302, Location="/model.tflite")]
        message = refusal(files, f"{safe.root}moved", sha256(b"x"))
        assert f"has sha256 {SHA}" in message, "a redirect that stays is followed"
    with serving({"/moved": b""}, certificate, "127.0.0.2") as named:  # as a name that leads to this machine would
        named.answers = [status(302, Location=f"{server.root.replace('http', 'https')}model.tflite")]
        assert refusal(files, f"{named.root}moved").endswith("is redirected to 127.0.0.1, which is this machine")
        named.answers = [status(302, Location="https://127.0.0.3/model.tflite")]
        assert refusal(files, f"{named.root}moved").endswith("is redirected to 127.0.0.3, which is this machine")
    assert server.asked == []


def test_a_redirect_may_not_lead_from_the_internet_into_a_private_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from yarl import URL

    monkeypatch.setattr("urllib.request.getproxies", dict)

    def connect(way: fetching._Way, host: str) -> None:
        way.socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, 443))).close()

    def redirected(first: str, second: str) -> None:
        way = fetching._Way()
        response = SimpleNamespace(headers={"Location": "https://other/file"})
        connect(way, first)
        asyncio.run(way.check_redirect(None, None, SimpleNamespace(url=URL("https://host/file"), response=response)))
        connect(way, second)

    for first, second in (("8.8.8.8", "9.9.9.9"), ("10.0.0.1", "10.0.0.2"), ("10.0.0.1", "9.9.9.9")):
        redirected(first, second)
    with pytest.raises(fetching._RefusedError, match="is redirected to other, which is in a private network"):
        redirected("8.8.8.8", "10.0.0.2")
    with pytest.raises(fetching._RefusedError, match="is redirected to other, which is this machine"):
        redirected("10.0.0.1", "127.0.0.9")


def test_a_certificate_that_nobody_knows_is_refused(
    files: RemoteFiles, certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with serving({"/model.tflite": CONTENT}, certificate) as unknown:
        told = refusal(files, f"{unknown.root}model.tflite")
        assert "the server's certificate is not to be trusted (" in told
        assert "self-signed certificate" in told
        assert unknown.asked == []


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "[::ffff:a9fe:a9fe]", "100.100.100.200"])
def test_a_machines_own_services_are_not_asked(files: RemoteFiles, host: str) -> None:
    assert "an address for a machine's own services" in refusal(files, f"https://{host}/latest/meta-data")


@pytest.fixture(scope="module")
def _authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate for 127.0.0.1 and its key."""
    import subprocess

    folder = tmp_path_factory.mktemp("certificate")
    certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    more = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1,IP:127.0.0.2", "-days", "2"]
    subprocess.run([*command, *more, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def certificate(_authority: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.setenv("SSL_CERT_FILE", _authority[0])
    return _authority
