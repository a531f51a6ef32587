"""The commit that was checked, for links to its files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

_SERVER = re.compile(r"https?://[A-Za-z0-9.:-]+")
_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Commit:
    """A commit on GitHub."""

    server: str
    """`https://github.com`, or that of an Enterprise Server."""
    repository: str
    """`owner/name`."""
    sha: str

    @staticmethod
    def known(server: str | None, repository: str | None, sha: str | None) -> Commit | None:
        """The commit, where all of it is known and has its form."""
        parts = (_SERVER, server), (_REPOSITORY, repository), (_SHA, sha)
        known = [part for form, part in parts if part is not None and form.fullmatch(part)]
        return Commit(*known) if len(known) == len(parts) else None

    def line(self, path: str, line: int) -> str | None:
        """The address of a line of a file; None for a path that would lead a browser out of the commit."""
        parts = path.split("/")
        if line < 1 or any(part in ("", ".", "..") for part in parts):
            return None
        name = quote(path, safe="/", errors="replace")
        return f"{self.server}/{self.repository}/blob/{self.sha}/{name}#L{line}"
