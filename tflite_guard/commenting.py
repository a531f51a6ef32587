"""The comment on a pull request, rendered from a report: whether there is to be one, where, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tflite_guard import github
from tflite_guard.reports import markdown
from tflite_guard.reports.commit import Commit
from tflite_guard.results import Report, Verdict

REST = "The log of the run holds everything, and so does its report.json."


def body(report: Report, commit: Commit | None = None) -> str:
    """What the comment says, within GitHub's limit; with links to the lines of the commit that was checked."""
    return markdown.render(report, markdown.COMMENT_LIMIT, REST, commit)


def comment(
    report: Report, context: github.Context, token: str, *, when: str, comment_id: str, author: str | None
) -> github.Posted:
    """Post or update the comment on a pull request.

    An existing comment is always brought up to date; `when` says whether there is to be a new one: `always`, on
    `failures`, or `auto`, where anything failed, warned or changed since the baseline.

    Raises:
        UsageError, GitHubError: as `github.post`.
    """
    failed = report.verdict in (Verdict.FAIL, Verdict.ERROR)
    create = {"always": True, "failures": failed, "auto": markdown.has_news(report)}[when]
    # Its links change with each commit; equal results still write nothing.
    text = body(report, Commit.known(context.server_url, context.repository, context.head_sha))
    return github.post(context, token, text, body(report), comment_id=comment_id, create=create, author=author)


def context(environ: Mapping[str, str], repository: str | None, pull_request: int | None) -> github.Context:
    """Where to comment: as the workflow's run says, or as named, which needs no workflow at all.

    Raises:
        UsageError: neither says enough.
    """
    if not environ.get("GITHUB_EVENT_NAME") and repository and pull_request:
        api, server = environ.get("GITHUB_API_URL"), environ.get("GITHUB_SERVER_URL")
        return github.by_hand(repository, pull_request, api_url=api, server_url=server)
    found = github.context({**environ, "GITHUB_REPOSITORY": repository} if repository else environ)
    if pull_request in (None, found.pull_request):
        return found
    return replace(found, pull_request=pull_request, head_sha=None, head=None)
