"""Which URIs a manifest may name, and what lies under one that the command line allows."""

from __future__ import annotations

import pytest

from tflite_guard.files.uris import folder_of, is_uri, lies_under, name_of, refused, refused_prefix


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("https://a.example/b.npz", True),
        ("S3://a/b", True),
        ("file:///etc/passwd", True),
        ("simplecache::s3://a/b", True),
        ("data/a.npz", False),
        ("C:\\data\\a.npz", False),
        ("a::b.npz", False),
        ("data:a.npz", False),
    ],
)
def test_a_uri_is_told_from_a_path(written: str, meant: bool) -> None:
    assert is_uri(written) == meant


@pytest.mark.parametrize(
    "uri",
    [
        "https://models.example.org/digits.keras",
        "HTTPS://models.example.org:8443/a%20b/digits.keras?version=3",
        "s3://bucket/folder/my model.tflite",
        "gs://bucket_with_underscores/ü.npz",
        "http://localhost:8000/digits.keras",
        "http://[::1]:8000/digits.keras",
        "https://[2001:db8::1]/a...b/.hidden",
    ],
)
def test_what_can_be_fetched(uri: str) -> None:
    assert refused(uri) is None


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("http://models.example.org/a.keras", "is not encrypted; use https (http is for localhost alone)"),
        ("http://localhost.example.org/a.keras", "is not encrypted; use https (http is for localhost alone)"),
        ("http://127.0.0.1@example.org/a", "is not encrypted; use https (http is for localhost alone)"),
        ("file:///etc/passwd", "has the scheme file, which is not read; https, s3 and gs are"),
        ("ftp://a.example/b", "has the scheme ftp, which is not read; https, s3 and gs are"),
        ("github://org:repo@/a", "has the scheme github, which is not read; https, s3 and gs are"),
        ("simplecache::https://a.example/b", "is a chain of URIs; name the file itself"),
        ("zip://a::https://a.example/b", "is no valid URI"),
        ("https://user:secret@a.example/b", "holds a user name or a password, which everybody can read there; cred"),
        ("https://token@a.example/b", "holds a user name or a password, which everybody can read there; cred"),
        ("s3://key:secret@bucket/b", "holds a user name or a password, which everybody can read there; cred"),
        ("https:///b", "names no host"),
        ("s3:///b", "names no bucket"),
        ("https://a.example", "names no single file; give the whole address of one"),
        ("s3://bucket/folder/", "names no single file; give the whole address of one"),
        ("https://[::1/b", "is no valid URI"),
        ("https://a.example:port/b", "is no valid URI"),
        ("https://a.example/b/../../c", 'has "." or ".." in its path'),
        ("https://a.example/b/%2e%2E/c", 'has "." or ".." in its path'),
        ("https://a.example/b%2f..%5Cc", 'has "." or ".." in its path'),
        ("s3://bucket/./c", 'has "." or ".." in its path'),
        ("https://a.example\\@b.example/c", "holds a backslash or a control character"),
        ("https://a.example/b\u202ec", "holds a backslash or a control character"),
        ("https://a.example/b c", "holds a space; write %20"),
        ("https://a.example/b#c", "has a fragment (#…), which no server is sent; leave it out"),
        ("s3://bucket/b?versionId=3", 'has "?" or "#" in it, and only the key of an object can be named'),
    ],
)
def test_what_is_refused(uri: str, told: str) -> None:
    why = refused(uri)
    assert why is not None
    assert why.startswith(told)


@pytest.mark.parametrize("prefix", ["https://a.example", "https://a.example/", "s3://bucket", "gs://bucket/folder/"])
def test_a_data_root_may_be_a_whole_host_or_bucket(prefix: str) -> None:
    assert refused_prefix(prefix) is None
    assert refused_prefix("https://") == "names no host"


@pytest.mark.parametrize(
    ("uri", "root", "inside"),
    [
        ("https://a.example/b/c", "https://a.example", True),
        ("https://a.example/b/c", "https://A.example:443/b/", True),
        ("https://a.example:443/b/c", "https://a.example/b", True),
        ("https://a.example/b/c?d", "https://a.example/b/c", True),
        ("https://a.example/bc", "https://a.example/b", False),
        ("https://a.example:8443/b/c", "https://a.example/", False),
        ("https://a.example.org/b", "https://a.example", False),
        ("http://localhost/b", "https://localhost/", False),
        ("s3://bucket/b", "s3://bucket", True),
        ("s3://bucket-of-others/b", "s3://bucket", False),
        ("s3://a.example/b", "https://a.example/", False),
        ("https://a.example/B/c", "https://a.example/b/", False),
    ],
)
def test_what_lies_under_a_root(uri: str, root: str, inside: bool) -> None:
    assert lies_under(uri, [root]) == inside
    assert not lies_under(uri, [])


def test_a_file_has_a_name_and_a_folder() -> None:
    assert name_of("https://a.example/b/c.npz?d=e/f") == "c.npz"
    assert folder_of("https://a.example/b/c.npz?d=e/f") == "https://a.example/b/"
