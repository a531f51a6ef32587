"""The comment on a pull request.

It is found again by a hidden marker at its start together with its author, so a run changes one comment instead of
adding another.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tflite_guard.errors import UsageError
from tflite_guard.github.api import Api, GitHubError, RefusedError, clean_token
from tflite_guard.github.event import Context
from tflite_guard.github.values import at, same_name
from tflite_guard.text.plain import plain

LONGEST_COMMENT = 65_536
"""Characters that GitHub takes, marker and footer included."""
WORKFLOW_LOGIN = "github-actions[bot]"
"""Who writes with the token that a workflow gets by itself."""

_COMMENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REPOSITORY = re.compile(r"[A-Za-z0-9_-]+/(?!\.{1,2}$)[A-Za-z0-9._-]+")
_MARKER = re.compile(r"<!-- tflite-guard ((?:[a-z]+=[A-Za-z0-9._-]+ )+)-->")
_RUN = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})")


@dataclass(frozen=True)
class Posted:
    """What became of the comment."""

    action: Literal["created", "updated", "unchanged", "skipped"]
    url: str | None
    """The comment's page; None when there is no comment."""
    reason: str
    """One sentence for people; empty when there is nothing to add."""


def post(
    context: Context,
    token: str,
    body: str,
    content: str | None = None,
    *,
    comment_id: str = "tflite-guard",
    create: bool = True,
    author: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Posted:
    """Write the comment, or change it where its content is another than before.

    Args:
        context: the run and its pull request.
        token: may read the pull request and write comments on it.
        body: Markdown, as it is to be read; a marker and a link to the run are put around it.
        content: what of the body makes it another one, without what differs between equal results; None means all.
        comment_id: tells this comment from others of the same author, `[A-Za-z0-9._-]`, at most 64 characters.
        create: False changes an existing comment and adds none.
        author: the login that the token writes as; None finds out, which works for people and for workflows' own
            tokens, not for those of other apps.
        sleep: waits some seconds between tries.

    Raises:
        UsageError: something that was passed cannot work.
        GitHubError: GitHub refused, or could not be reached in several tries, or the comment is too long for it.
    """
    if not _COMMENT_ID.fullmatch(comment_id):
        raise UsageError(f"The comment id {plain(comment_id, 80)!r} is not 1 to 64 letters, digits, '.', '_' or '-'.")
    if not _REPOSITORY.fullmatch(context.repository):
        raise UsageError(f"The repository {plain(context.repository, 80)!r} is not of the form OWNER/NAME.")
    digest = hashlib.sha256((body if content is None else content).encode()).hexdigest()
    marker = _Marker(comment_id, digest, (context.run_id, context.run_attempt))
    text = _compose(marker, body, context.run_url)
    with Api(context, clean_token(token), sleep) as api:
        number = context.pull_request
        if number is None:
            found = _pull_request(api, context)
            if isinstance(found, Posted):
                return found
            number = found
        comment = _Comment(api, number, context.head_sha, marker, text, create, author or _login(api))
        return api.patiently(comment.put)


def _compose(marker: _Marker, body: str, run_url: str | None) -> str:
    """Marker, content, footer. The footer is not part of the hash: a new run with equal results changes nothing."""
    footer = f"\n\n[The run with these results]({run_url})" if run_url else ""
    text = f"{marker}\n{body}{footer}\n"
    if len(text) > LONGEST_COMMENT:
        raise GitHubError(f"The comment has {len(text)} characters, where GitHub takes {LONGEST_COMMENT}.")
    return text


@dataclass(frozen=True)
class _Marker:
    """The hidden first line. A key that is missing or of another form does not hide the comment from us."""

    comment_id: str
    content: str | None
    run: tuple[int, int]
    """Id and attempt; (0, 0) where they are not known."""

    def __str__(self) -> str:
        return f"<!-- tflite-guard id={self.comment_id} content={self.content} run={self.run[0]}.{self.run[1]} -->"

    @staticmethod
    def of(text: object) -> _Marker | None:
        """The marker that a text starts with."""
        found = _MARKER.match(text) if isinstance(text, str) else None
        if found is None:
            return None
        values = dict(pair.split("=", 1) for pair in found[1].split())
        run = _RUN.fullmatch(values.get("run", ""))
        return _Marker(values.get("id", ""), values.get("content"), (int(run[1]), int(run[2])) if run else (0, 0))


@dataclass
class _Comment:
    """One comment to be brought up to date."""

    api: Api
    number: int
    head_sha: str | None
    marker: _Marker
    text: str
    create: bool
    author: str
    tried: Literal["created", "updated"] | None = None

    def put(self) -> Posted:
        """Look, decide, write. The whole of it is repeated when the write fails in a way that may pass: a write that
        seemed to fail may have worked, and while we waited a newer run or a push may have come.
        """
        found = self._existing()
        earlier, url = _Marker.of(at(found, "body")), _url(found)
        if earlier is not None and earlier.content == self.marker.content:
            if self.tried and earlier.run == self.marker.run:
                return Posted(self.tried, url, "")
            return Posted("unchanged", url, "The comment says the same already.")
        if earlier is None and not self.create:
            return Posted("skipped", None, "There is nothing to say, and no earlier comment to change.")
        if earlier is not None and self.marker.run[0] and earlier.run > self.marker.run:
            return Posted("skipped", url, "A newer run has commented already.")
        if self._outdated():
            return Posted("skipped", url, "The pull request has a newer commit than the one that was checked.")
        return self._write(found)

    def _existing(self) -> object:
        """The oldest of ours: two runs that look at the same time then agree, whatever is added meanwhile."""
        for comment in self.api.pages(f"/issues/{self.number}/comments"):
            marker = _Marker.of(at(comment, "body"))
            ours = marker is not None and marker.comment_id == self.marker.comment_id
            if ours and same_name(at(comment, "user", "login"), self.author):
                return comment
        return None

    def _outdated(self) -> bool:
        if self.head_sha is None:
            return False
        pull = self.api.get(f"/pulls/{self.number}")
        return bool(at(pull, "head", "sha") != self.head_sha)

    def _write(self, found: object) -> Posted:
        if found is None:
            self.tried = "created"
            answer = self.api.send("POST", f"/issues/{self.number}/comments", {"body": self.text})
        else:
            self.tried = "updated"
            answer = self.api.send("PATCH", f"/issues/comments/{at(found, 'id')}", {"body": self.text})
        login = at(answer, "user", "login")
        if same_name(login, self.author):
            return Posted(self.tried, _url(answer), "")
        name = plain(str(login), 80)
        settings = "--author, or the input comment-author"
        hint = (
            f"GitHub says that {name!r} wrote it: name it with {settings}, or the next run will not find the comment."
        )
        return Posted(self.tried, _url(answer), hint)


def _pull_request(api: Api, context: Context) -> int | Posted:
    """The number of the pull request that a `workflow_run` judged, from the API alone.

    An artifact could name any pull request, and the list that the event carries is empty for forks.
    """
    if context.event != "workflow_run":
        return Posted("skipped", None, f"The event {plain(context.event, 80)!r} belongs to no pull request.")
    if context.head is None or context.head_sha is None:
        return Posted("skipped", None, "The repository or the branch that the run belongs to is gone.")
    owner, branch = context.head.split(":", 1)
    # GitHub ignores a filter that it does not understand, so each answer is compared as well.
    numbers = [
        at(pull, "number")
        for pull in api.pages("/pulls", state="open", head=context.head)
        if at(pull, "head", "sha") == context.head_sha
        and at(pull, "head", "ref") == branch
        and same_name(at(pull, "head", "repo", "owner", "login"), owner)
    ]
    if len(numbers) == 1 and type(numbers[0]) is int:
        return numbers[0]
    if numbers:
        return Posted("skipped", None, "Several open pull requests have this commit as their head: name one of them.")
    return Posted("skipped", None, "No open pull request has the commit that was checked as its head.")


def _login(api: Api) -> str:
    """Who the token writes as. Tokens of workflows may not ask."""
    try:
        login = at(api.get("/user", whole=True), "login")
    except RefusedError as refused:
        if refused.status not in (401, 403, 404):
            raise
        return WORKFLOW_LOGIN
    return login if isinstance(login, str) else WORKFLOW_LOGIN


def _url(comment: object) -> str | None:
    url = at(comment, "html_url")
    return plain(url, 2000) if isinstance(url, str) else None
