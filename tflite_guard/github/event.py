"""What a workflow run tells of itself: its variables, and the event that started it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tflite_guard.errors import UsageError
from tflite_guard.github.values import at, same_name
from tflite_guard.text.plain import plain

API_URL = "https://api.github.com"
SERVER_URL = "https://github.com"

_LARGEST_EVENT = 25 * 2**20  # GitHub's own limit for what it sends to webhooks.
_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_DIGITS = re.compile(r"[0-9]{1,18}")
_INSIDE = "Run inside a GitHub Actions workflow, or give both --repository and --pull-request."


@dataclass(frozen=True)
class Context:
    """What a workflow run tells of itself and of its pull request."""

    event: str
    """`pull_request`, `workflow_run`, `push`, …"""
    repository: str
    """`owner/name`, where the comment goes."""
    api_url: str
    server_url: str
    run_url: str | None
    """The page of the run that judged; None outside a workflow."""
    run_id: int
    """Of the run that judged: for `workflow_run` the one that triggered. 0 outside a workflow."""
    run_attempt: int
    pull_request: int | None
    """None where the event has none, or where only the API knows (`workflow_run`)."""
    head_sha: str | None
    """The commit that was judged, as the pull request has it; None where it is not known, and then not compared."""
    head: str | None
    """`owner:branch` of the judged run, for `workflow_run`."""
    fork: bool
    """The commit comes from another repository."""


def context(environ: Mapping[str, str]) -> Context:
    """Read a run's `GITHUB_*` variables and its event file.

    Raises:
        UsageError: a variable or the event file is missing or broken; the message says which and what to do.
    """
    event, repository = _variable(environ, "GITHUB_EVENT_NAME"), _variable(environ, "GITHUB_REPOSITORY")
    server_url = (environ.get("GITHUB_SERVER_URL") or SERVER_URL).rstrip("/")
    run = _count(environ, "GITHUB_RUN_ID"), _count({"GITHUB_RUN_ATTEMPT": "1"} | dict(environ), "GITHUB_RUN_ATTEMPT")
    payload = _event(_variable(environ, "GITHUB_EVENT_PATH"))
    number = head_sha = head = None
    fork = False
    if event.startswith("pull_request"):
        number, head_sha = _number(payload, "pull_request", "number"), _commit(payload, "pull_request", "head", "sha")
        fork = not same_name(at(payload, "pull_request", "head", "repo", "full_name"), repository)
    elif event == "issue_comment" and at(payload, "issue", "pull_request") is not None:
        number = _number(payload, "issue", "number")
    elif event == "workflow_run":
        run = _number(payload, "workflow_run", "id"), _number(payload, "workflow_run", "run_attempt")
        head_sha, head = _commit(payload, "workflow_run", "head_sha"), _head(at(payload, "workflow_run"))
        fork = not same_name(at(payload, "workflow_run", "head_repository", "full_name"), repository)
    return Context(
        event=event,
        repository=repository,
        api_url=(environ.get("GITHUB_API_URL") or API_URL).rstrip("/"),
        server_url=server_url,
        run_url=f"{server_url}/{repository}/actions/runs/{run[0]}/attempts/{run[1]}",
        run_id=run[0],
        run_attempt=run[1],
        pull_request=number,
        head_sha=head_sha,
        head=head,
        fork=fork,
    )


def by_hand(
    repository: str, pull_request: int, *, api_url: str | None = None, server_url: str | None = None
) -> Context:
    """A pull request that is named, outside a workflow: neither run nor commit are known, so neither is compared."""
    return Context(
        event="",
        repository=repository,
        api_url=(api_url or API_URL).rstrip("/"),
        server_url=(server_url or SERVER_URL).rstrip("/"),
        run_url=None,
        run_id=0,
        run_attempt=0,
        pull_request=pull_request,
        head_sha=None,
        head=None,
        fork=False,
    )


def _variable(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise UsageError(f"{name} is not set. {_INSIDE}")
    return value


def _count(environ: Mapping[str, str], name: str) -> int:
    value = _variable(environ, name)
    if not _DIGITS.fullmatch(value):
        raise UsageError(f"{name} is not a number: {plain(value, 80)!r}. {_INSIDE}")
    return int(value)


def _event(path: str) -> object:
    """The event file, any JSON."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST_EVENT + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"The event file {plain(path)!r} cannot be read ({plain(str(error))}). {_INSIDE}") from None
    if len(content) > _LARGEST_EVENT:
        raise UsageError(f"The event file {plain(path)!r} is over {_LARGEST_EVENT // 2**20} MiB. {_INSIDE}")
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise UsageError(f"The event file {plain(path)!r} is not JSON. {_INSIDE}") from None


def _number(payload: object, *keys: str) -> int:
    value = at(payload, *keys)
    if type(value) is not int or not 0 < value < 10**18:
        raise UsageError(f"The event file has no number at {'.'.join(keys)}. {_INSIDE}")
    return value


def _commit(payload: object, *keys: str) -> str:
    value = at(payload, *keys)
    if not isinstance(value, str) or not _SHA.fullmatch(value):
        raise UsageError(f"The event file has no commit at {'.'.join(keys)}. {_INSIDE}")
    return value


def _head(run: object) -> str | None:
    """`owner:branch` of a workflow run; None when the fork has been deleted."""
    owner, branch = at(run, "head_repository", "owner", "login"), at(run, "head_branch")
    if not (isinstance(owner, str) and isinstance(branch, str) and owner and branch):
        return None
    # JSON can hold halves of characters, which no address can.
    return f"{owner}:{branch}".encode(errors="replace").decode()
