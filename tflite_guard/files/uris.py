"""URIs of files elsewhere: which are taken, and whether they lie under one that the command line allows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import SplitResult, unquote, urlsplit

SCHEMES = ("https", "s3", "gs")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that may be asked without encryption: what is sent to them stays on this machine."""
_URI = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]+://")
_PORTS = {"https": 443, "http": 80}


def is_uri(written: str) -> bool:
    """Whether a text is meant as a URI, of whatever scheme, and not as a path."""
    return _URI.match(written) is not None


def folders(roots: Sequence[str]) -> list[str]:
    """The data roots that are folders."""
    return [root for root in roots if not is_uri(root)]


def prefixes(roots: Sequence[str]) -> list[str]:
    """The data roots that are URIs."""
    return [root for root in roots if is_uri(root)]


def refused(uri: str) -> str | None:
    """Why a URI cannot be that of a file to fetch, as the end of a sentence; None where it can."""
    if why := refused_prefix(uri):
        return why
    path = urlsplit(uri).path
    return "names no single file; give the whole address of one" if path.endswith("/") or not path else None


def refused_prefix(uri: str) -> str | None:
    """Why a URI cannot be a data root; None where it can."""
    if "::" in uri.partition("://")[0]:
        return "is a chain of URIs; name the file itself"
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is no valid URI"
    if (why := _wrong_scheme(parts)) or (why := _wrong_text(uri, parts)):
        return why
    if parts.username is not None:
        return "holds a user name or a password, which everybody can read there; credentials come from the environment"
    if not host:
        return f"names no {'host' if parts.scheme in _PORTS else 'bucket'}"
    if ".." in re.split(r"[/\\]", unquote(parts.path)) or "." in re.split(r"[/\\]", unquote(parts.path)):
        return 'has "." or ".." in its path; write the address that it leads to'
    return None


def lies_under(uri: str, roots: Sequence[str]) -> bool:
    """Whether a URI is one of some prefixes or lies below it, by whole parts of its path; all of them not refused."""
    own = _normal(uri)
    starts = [_normal(root).rstrip("/") for root in roots]
    return any(own == start or own.startswith((f"{start}/", f"{start}?")) for start in starts)


def name_of(uri: str) -> str:
    """The last part of a URI's path: what its file is called."""
    return urlsplit(uri).path.rpartition("/")[2]


def without_secrets(uri: str) -> str:
    """A URI as it may be shown, also where it holds a user name and a password."""
    return re.sub(r"//[^/?#]*@", "//…@", uri, count=1)


def folder_of(uri: str) -> str:
    """A URI up to the last slash of its path."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}{parts.path.rpartition('/')[0]}/"


def _wrong_scheme(parts: SplitResult) -> str | None:
    if parts.scheme == "http":
        return None if parts.hostname in LOOPBACK else "is not encrypted; use https (http is for localhost alone)"
    known = f"{', '.join(SCHEMES[:-1])} and {SCHEMES[-1]}"
    return None if parts.scheme in SCHEMES else f"has the scheme {parts.scheme}, which is not read; {known} are"


def _wrong_text(uri: str, parts: SplitResult) -> str | None:
    if any(not character.isprintable() or character == "\\" for character in uri):
        return "holds a backslash or a control character"
    if parts.scheme not in _PORTS:
        return 'has "?" or "#" in it, and only the key of an object can be named' if "?" in uri or "#" in uri else None
    if " " in uri:
        return "holds a space; write %20"
    return "has a fragment (#…), which no server is sent; leave it out" if parts.fragment else None


def _normal(uri: str) -> str:
    """A URI as it can be compared: scheme and host in lower case, no port that the scheme implies."""
    parts = urlsplit(uri)
    port = "" if parts.port in (None, _PORTS.get(parts.scheme)) else f":{parts.port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path or '/'}{query}"
