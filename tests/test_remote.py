"""A manifest that names its files by URI: what is fetched, what is shown, and what is refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import EXAMPLES, Manifest, run_cli, write_manifest
from tests.remote import Server, serving, sha256
from tests.test_cli import modules_after
from tflite_guard.errors import EvaluationError, ManifestError, UsageError
from tflite_guard.files.fetching import Patience, RemoteFiles
from tflite_guard.manifest import load

NETWORK = {"fsspec", "aiohttp", "s3fs", "asyncio"}
DIGITS = EXAMPLES / "digits"
MODEL = (DIGITS / "app/digits_int8.tflite").read_bytes()
DATA = (DIGITS / "data/evaluation.npz").read_bytes()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"/digits/int8.tflite": MODEL, "/digits/broken.tflite": b"no model"}) as server:
        yield server


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """An S3-compatible server, as the environment that leads to it; its bucket `models` holds data and outputs."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    client = boto3.Session("key", "secret", region_name="us-east-1").client("s3", endpoint_url=address)
    client.create_bucket(Bucket="models")
    client.put_object(Bucket="models", Key="digits/evaluation.npz", Body=DATA)
    client.put_object(Bucket="models", Key="digits/large", Body=bytes(9_000_000))
    client.put_object(Bucket="models", Key="digits/outputs.npz", Body=outputs())
    yield keys | {"AWS_ENDPOINT_URL": address}
    server.stop()


def outputs() -> bytes:
    """Recorded outputs of a model that is always right."""
    from io import BytesIO

    with np.load(DIGITS / "data/evaluation.npz") as data:
        labels = data["label"]
    recorded = BytesIO()
    np.savez(recorded, probabilities=np.eye(10, dtype=np.float32)[labels] * 0.9 + 0.01)
    return recorded.getvalue()


def named(uri: str, content: bytes, key: str = "path") -> dict[str, str]:
    return {key: uri, "sha256": sha256(content)}


def manifest(data: dict[str, str], reference: dict[str, str], *variants: dict[str, str]) -> Manifest:
    steps = [{"cast": "float32"}, {"scale": 0.0625}]
    test = {"source": "npz", **data, "inputs": {"image": "image"}, "labels": "label", "preprocess": steps}
    model = {"name": "digits", "reference": reference, "evaluation": "test", "variants": list(variants)}
    return {"schema_version": 1, "datasets": {"test": test}, "models": [model]}


def test_files_elsewhere_are_checked_as_if_they_were_here_and_then_need_no_network(
    tmp_path: Path, server: Server, bucket: dict[str, str]
) -> None:
    path = write_manifest(
        tmp_path,
        manifest(
            named("s3://models/digits/evaluation.npz", DATA),
            named("s3://models/digits/outputs.npz", outputs(), "outputs"),
            {"name": "shipped", **named(f"{server.root}digits/int8.tflite", MODEL, "tflite")},
            {"name": "broken", **named(f"{server.root}digits/broken.tflite", b"no model", "tflite")},
        ),
    )
    roots = ("--data-root", "s3://models/digits/", "--data-root", server.root)
    cached = ("check", path, *roots, "--cache-dir", tmp_path / "cache", "--diagnose", "never")
    finished = run_cli(*cached, "--format", "json", env=bucket)
    assert finished.code == 3, finished.err
    assert finished.report["models"][0]["reference"]["path"] == "s3://models/digits/outputs.npz"
    assert finished.variant("shipped")["verdict"] == "pass"
    assert finished.metric("shipped", "accuracy")["examples"] == 897
    assert f"{server.root}digits/broken.tflite" in finished.variant("broken")["error"]["message"]
    assert str(tmp_path / "cache") not in finished.out + finished.err
    assert server.asked == [("/digits/int8.tflite", 0), ("/digits/broken.tflite", 0)]

    gone = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    again = (*cached, "--variant", "shipped")
    assert run_cli(*again, env=gone).code == 0
    assert not NETWORK & modules_after(*again)
    assert len(server.asked) == 2


def test_a_file_that_cannot_be_had_is_an_error_of_its_model(tmp_path: Path, server: Server) -> None:
    written = manifest(
        {"path": "evaluation.npz"},
        named(f"{server.root}digits/int8.tflite", b"another", "tflite"),
        {"name": "shipped", "tflite": "int8.tflite"},
    )
    missing = written["models"][0] | {"name": "missing", "reference": named(f"{server.root}none", b"", "tflite")}
    written["models"].append(missing)
    shutil.copy(DIGITS / "data/evaluation.npz", tmp_path)
    (tmp_path / "int8.tflite").write_bytes(MODEL)
    path = write_manifest(tmp_path, written)
    finished = run_cli("check", path, "--data-root", server.root, "--no-cache", "--format", "json")
    assert finished.code == 3
    other, missing = (model["error"] for model in finished.report["models"])
    assert other["kind"] == missing["kind"] == "fetch"
    uri = f"{server.root}digits/int8.tflite"
    assert other["message"].startswith(f"{uri}: has sha256 {sha256(MODEL)} ({len(MODEL):,} bytes), where ")
    assert missing["message"].startswith(f"{server.root}none: there is no such file (404)")
    offline = run_cli("check", path, "--data-root", server.root, "--offline", "--no-cache")
    assert offline.code == 3
    assert f"{uri}: is not in the cache, and --offline fetches nothing" in " ".join(offline.out.split())


def test_nothing_is_fetched_without_leave_nor_to_validate(tmp_path: Path, server: Server) -> None:
    data = named(f"{server.root}data.npz", DATA)
    reference = named(f"{server.root}digits/int8.tflite", MODEL, "tflite")
    path = write_manifest(tmp_path, manifest(data, reference, {"name": "same", **reference}))
    for roots in [], [f"{server.root}digit"], [str(tmp_path)]:
        with pytest.raises(ManifestError) as caught:
            load(str(path), data_roots=roots)
        told = (
            f'"{server.root}digits/int8.tflite" is elsewhere; only --data-root URI can allow that, such as --data-root'
        )
        assert str(caught.value).count(f"{told} {server.root}digits/\n") == 1
        assert len(caught.value.problems) == 3
    assert run_cli("validate", path, "--data-root", server.root).code == 0
    with pytest.raises(UsageError, match=r"--data-root https://…@example\.org/: holds a user name or a password"):
        load(str(path), data_roots=["https://user:secret@example.org/"])
    assert server.asked == []


@pytest.fixture
def files(tmp_path: Path, bucket: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> RemoteFiles:
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    return RemoteFiles(tmp_path / "fetched", setting="--cache-dir", patience=Patience(tries=1))


def test_an_object_comes_in_blocks_and_from_where_it_broke_off(files: RemoteFiles) -> None:
    content = bytes(9_000_000)
    files.folder.mkdir()
    (files.folder / f"{sha256(content)}.part").write_bytes(content[:5_000_000])
    told: list[tuple[int, int]] = []
    path = files.get("s3://models/digits/large", sha256(content), progress=lambda *bytes: told.append(bytes))
    assert path.read_bytes() == content
    assert told == [(5_000_000, 0), (9_000_000, 9_000_000)]


def test_an_object_that_is_not_there_is_told(files: RemoteFiles) -> None:
    with pytest.raises(EvaluationError, match=r"^s3://models/digits: there is no such file \(404\)"):
        files.get("s3://models/digits", sha256(b""))


def test_a_bucket_of_google_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(5_000_000)
    about = b'{"kind": "storage#object", "name": "digits/large", "bucket": "models", "size": "5000000"}'
    place = "storage/v1/b/models/o/digits%2Flarge"
    with serving({f"/{place}": about, f"/download/{place}?alt=media": content}) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.root.rstrip("/"))
        files = RemoteFiles(tmp_path / "fetched", setting="", patience=Patience(tries=1))
        assert files.get("gs://models/digits/large", sha256(content)).read_bytes() == content
        with pytest.raises(EvaluationError, match="gs://models/none: there is no such file"):
            files.get("gs://models/none", sha256(content[1:]))


def test_missing_credentials_are_told(files: RemoteFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(EvaluationError, match="the environment has no credentials that may read it"):
        files.get("s3://models/digits/large", sha256(b""))


@pytest.mark.parametrize(("uri", "extra"), [("https://a.example/x", "https"), ("s3://a/x", "s3"), ("gs://a/x", "gs")])
def test_a_missing_library_is_told_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, extra: str
) -> None:
    for module in ("aiohttp", "fsspec.implementations.http", "s3fs", "gcsfs", "gcsfs.core"):
        monkeypatch.setitem(sys.modules, module, None)
    from fsspec.registry import _registry

    for name in list(_registry):
        monkeypatch.delitem(_registry, name)
    with pytest.raises(EvaluationError) as caught:
        RemoteFiles(tmp_path, setting="").get(uri, sha256(b""))
    assert caught.value.kind == "missing-dependency"
    assert str(caught.value).endswith(f"run: pip install 'tflite-guard[{extra}]'")
