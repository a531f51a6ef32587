"""The comment on a pull request, against a stand-in for GitHub's API: what people see, and what is never done."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer

from tests.github_api import Comment, Fault, GitHub, Pull, Token, primary_limit, secondary_limit
from tflite_guard.errors import GuardError, UsageError
from tflite_guard.github import (
    LONGEST_COMMENT,
    WORKFLOW_LOGIN,
    Context,
    GitHubError,
    Posted,
    by_hand,
    context,
    post,
)

TOKEN = "ghs_1234567890abcdefSECRET"
SHA, NEWER = "a" * 40, "b" * 40


@pytest.fixture
def github(httpserver: HTTPServer) -> Iterator[GitHub]:
    """A repository with one pull request and a workflow's token."""
    stand_in = GitHub()
    stand_in.tokens[TOKEN] = Token(WORKFLOW_LOGIN)
    stand_in.pulls[7] = Pull(7, SHA)
    yield stand_in.on(httpserver)
    stand_in.check()


def run(github: GitHub, **changes: Any) -> Context:
    """The context of run 50 on pull request 7."""
    ours = Context(
        event="pull_request",
        repository="octo/app",
        api_url=github.url,
        server_url="https://github.com",
        run_url="https://github.com/octo/app/actions/runs/50/attempts/1",
        run_id=50,
        run_attempt=1,
        pull_request=7,
        head_sha=SHA,
        head=None,
        fork=False,
    )
    return replace(ours, **changes)


class Waits(list[float]):
    """Records waits instead of waiting; may do something meanwhile."""

    meanwhile: Callable[[], object] | None = None

    def __call__(self, seconds: float) -> None:
        self.append(seconds)
        if self.meanwhile:
            self.meanwhile()


def say(
    github: GitHub, body: str = "Results", *, token: str = TOKEN, waits: Waits | None = None, **options: Any
) -> Posted:
    """Post as run 50, or as a run that differs from it by the options that a Context has."""
    names = set(Context.__dataclass_fields__)
    changes = {name: options.pop(name) for name in names & set(options)}
    return post(run(github, **changes), token, body, sleep=Waits() if waits is None else waits, **options)


def ours(github: GitHub) -> list[Comment]:
    return github.of(7, WORKFLOW_LOGIN)


# What people see


def test_the_first_run_comments(github: GitHub) -> None:
    posted = say(github, "## Worse\n\ntable")
    [comment] = ours(github)
    assert posted == Posted("created", f"https://github.com/octo/app/pull/7#issuecomment-{comment.id}", "")
    first, rest = comment.body.split("\n", 1)
    assert first.startswith("<!-- tflite-guard id=tflite-guard content=")
    assert first.endswith(" run=50.1 -->")
    assert rest.startswith("## Worse\n\ntable\n\n")
    assert "(https://github.com/octo/app/actions/runs/50/attempts/1)" in rest


def test_a_later_run_changes_the_same_comment(github: GitHub) -> None:
    created = say(github, "Worse")
    posted = say(github, "Better", run_id=51)
    assert posted == Posted("updated", created.url, "")
    [comment] = ours(github)
    assert "Better" in comment.body
    assert "Worse" not in comment.body


def test_equal_results_write_nothing(github: GitHub) -> None:
    """Although the new run has another number and another page."""
    say(github, "Same")
    posted = say(github, "Same", run_id=51, run_url="https://github.com/octo/app/actions/runs/51/attempts/1")
    assert posted.action == "unchanged"
    assert posted.url
    assert len(github.writes) == 1


def test_nothing_to_say_adds_no_comment_but_changes_an_existing_one(github: GitHub) -> None:
    assert say(github, "All well", create=False).action == "skipped"
    assert github.writes == []
    say(github, "Worse")
    assert say(github, "All well", create=False, run_id=51).action == "updated"


def test_the_comment_is_found_among_250(github: GitHub) -> None:
    """On the last of three pages."""
    for number in range(249):
        github.comment(7, "someone", f"comment {number}")
    say(github, "Worse")
    assert say(github, "Better", run_id=51).action == "updated"
    assert len(ours(github)) == 1
    assert {request.query["page"] for request in github.requests("GET") if "page" in request.query} == {"1", "2", "3"}


def test_all_pages_are_asked_of_the_same_server(github: GitHub) -> None:
    """The addresses in Link headers are not followed."""
    for number in range(150):
        github.comment(7, "someone", f"comment {number}")
    say(github)
    assert {request.path for request in github.log if "page" in request.query} == {"/repos/octo/app/issues/7/comments"}


def test_comments_with_other_ids_live_side_by_side(github: GitHub) -> None:
    say(github, "One", comment_id="app.one")
    say(github, "Two", comment_id="app.one-more")
    say(github, "One again", comment_id="app.one", run_id=51)
    assert [comment.body.split("\n")[1] for comment in ours(github)] == ["One again", "Two"]


def test_of_several_of_ours_the_oldest_is_kept_current(github: GitHub) -> None:
    """Two runs that look at once agree on it, whatever is added later."""
    say(github, "Old")
    oldest = ours(github)[0]
    duplicate = github.comment(7, WORKFLOW_LOGIN, oldest.body)
    say(github, "New", run_id=51)
    assert (oldest.edits, duplicate.edits) == (1, 0)


@pytest.mark.parametrize("login", ["mallory", None])
def test_someone_else_quoting_the_marker_is_never_touched(github: GitHub, login: str | None) -> None:
    say(github, "Ours")
    body = ours(github)[0].body
    github.comments.clear()
    theirs = github.comment(7, login, body)
    assert say(github, "Newer", run_id=51).action == "created"
    assert theirs.body == body
    assert len(ours(github)) == 1


def test_a_marker_inside_a_comment_is_no_marker(github: GitHub) -> None:
    say(github, "Ours")
    marker = ours(github)[0].body.split("\n")[0]
    github.comments.clear()
    report = github.comment(7, WORKFLOW_LOGIN, f"Another tool quotes: {marker}\n{marker}")
    assert say(github, "New", run_id=51).action == "created"
    assert report.edits == 0


def test_a_marker_of_another_version_is_still_ours(github: GitHub) -> None:
    """Otherwise an upgrade would leave a second comment on each open pull request."""
    github.comment(7, WORKFLOW_LOGIN, "<!-- tflite-guard id=tflite-guard shape=2 run=x -->\r\nold")
    assert say(github).action == "updated"


# Who writes


def test_a_person_is_asked_for_by_name(github: GitHub) -> None:
    github.tokens["ghp_person"] = Token("Ada", integration=False)
    for body in ("One", "Two"):
        say(github, body, token="ghp_person")
    assert [comment.edits for comment in github.of(7, "Ada")] == [1]


def test_an_author_that_is_given_is_believed_in_any_case_of_letters(github: GitHub) -> None:
    github.tokens["ghs_app"] = Token("guard[bot]")
    for body in ("One", "Two"):
        say(github, body, token="ghs_app", author="Guard[bot]")
    assert [comment.edits for comment in github.of(7, "guard[bot]")] == [1]
    assert not any(request.path == "/user" for request in github.log)


def test_another_app_is_told_to_name_its_author(github: GitHub) -> None:
    """Else each push would leave a comment, and nobody would know why."""
    github.tokens["ghs_app"] = Token("guard[bot]")
    posted = say(github, token="ghs_app")
    assert posted.action == "created"
    assert "'guard[bot]'" in posted.reason


# Stale runs


def test_a_run_on_an_older_commit_says_nothing(github: GitHub) -> None:
    github.pulls[7].sha = NEWER
    posted = say(github)
    assert posted.action == "skipped"
    assert "newer commit" in posted.reason
    assert github.writes == []


@pytest.mark.parametrize(("earlier", "later"), [((51, 1), (50, 1)), ((50, 2), (50, 1)), ((51, 1), (50, 3))])
def test_an_older_run_never_overwrites_a_newer_one(
    github: GitHub, earlier: tuple[int, int], later: tuple[int, int]
) -> None:
    say(github, "Newer", run_id=earlier[0], run_attempt=earlier[1])
    posted = say(github, "Older", run_id=later[0], run_attempt=later[1])
    assert posted.action == "skipped"
    assert posted.url
    assert "Newer" in ours(github)[0].body


def test_a_second_attempt_of_the_same_run_speaks(github: GitHub) -> None:
    say(github, "One")
    assert say(github, "Two", run_attempt=2).action == "updated"


def test_run_numbers_are_compared_as_numbers(github: GitHub) -> None:
    say(github, "One", run_id=9)
    assert say(github, "Two", run_id=10).action == "updated"


def test_a_push_while_we_wait_makes_the_run_stale(github: GitHub) -> None:
    """Two runs race: the older one is held up by a rate limit, and meanwhile the newer one comments."""

    def push() -> None:
        github.pulls[7].sha = NEWER
        say(github, "Newer", run_id=51, head_sha=NEWER)

    waits = Waits()
    waits.meanwhile = push
    github.faults.append(secondary_limit(5, methods=("POST",)))
    assert say(github, "Older", waits=waits).action == "skipped"
    [comment] = ours(github)
    assert "Newer" in comment.body


def test_by_hand_needs_no_workflow(github: GitHub) -> None:
    """Neither run nor commit are known, so the results that are passed are the newest."""
    say(github, "From a workflow")
    hand = by_hand("octo/app", 7, api_url=github.url)
    assert post(hand, TOKEN, "By hand", sleep=Waits()).action == "updated"
    assert ours(github)[0].body.endswith("By hand\n")
    assert by_hand("octo/app", 7).api_url == "https://api.github.com"


# Which pull request


def workflow_run(github: GitHub, head: str | None, **changes: Any) -> Context:
    return run(github, event="workflow_run", pull_request=None, head=head, **changes)


def test_a_fork_is_found_by_its_branch_and_commit(github: GitHub) -> None:
    """A branch's name may hold what means something in an address."""
    branch = "fix/a+b&c#d %ü"
    github.pulls[8] = Pull(8, NEWER, "ada/app", branch)
    github.pulls[9] = Pull(9, NEWER, "eve/app", branch)
    posted = post(workflow_run(github, f"Ada:{branch}", head_sha=NEWER, fork=True), TOKEN, "Results", sleep=Waits())
    assert posted.action == "created"
    assert [comment.number for comment in github.comments] == [8]
    listed = next(request for request in github.log if request.path == "/repos/octo/app/pulls")
    assert (listed.query["head"], listed.query["state"]) == (f"Ada:{branch}", "open")


@pytest.mark.parametrize(
    "pull",
    [
        Pull(8, SHA, "ada/app", "fix", state="closed"),
        Pull(8, NEWER, "ada/app", "fix"),
        Pull(8, SHA, "eve/app", "fix"),
        Pull(8, SHA, "ada/app", "other"),
        Pull(8, SHA, None, "fix"),
    ],
    ids=["closed", "pushed since", "another fork", "another branch", "fork deleted"],
)
@pytest.mark.parametrize("filters", [True, False], ids=["filtered", "unfiltered"])
def test_no_other_pull_request_is_taken_for_it(github: GitHub, pull: Pull, filters: bool) -> None:
    """Not even where GitHub ignores the filter and lists all."""
    github.pulls, github.filters = {8: pull}, filters
    posted = post(workflow_run(github, "ada:fix", fork=True), TOKEN, "Results", sleep=Waits())
    assert posted.action == "skipped"
    assert github.comments == []


def test_a_filter_that_github_ignores_finds_nothing_wrong(github: GitHub) -> None:
    """`head=:main` is answered with all pull requests."""
    posted = post(workflow_run(github, ":feature"), TOKEN, "Results", sleep=Waits())
    assert posted.action == "skipped"
    assert github.comments == []


def test_two_pull_requests_with_one_head_are_not_guessed_between(github: GitHub) -> None:
    github.pulls = {8: Pull(8, SHA, "ada/app", "fix"), 9: Pull(9, SHA, "ada/app", "fix")}
    posted = post(workflow_run(github, "ada:fix"), TOKEN, "Results", sleep=Waits())
    assert posted.action == "skipped"
    assert "Several" in posted.reason


def test_a_push_belongs_to_no_pull_request(github: GitHub) -> None:
    posted = say(github, event="push", pull_request=None)
    assert posted.action == "skipped"
    assert "'push'" in posted.reason
    assert github.log == []


def test_a_deleted_fork_is_told(github: GitHub) -> None:
    assert "gone" in post(workflow_run(github, None), TOKEN, "Results", sleep=Waits()).reason


# What goes wrong


@pytest.mark.parametrize("fork", [True, False])
def test_a_read_only_token_is_explained_at_once(github: GitHub, fork: bool) -> None:
    github.tokens[TOKEN].writes = False
    waits = Waits()
    with pytest.raises(GitHubError) as caught:
        say(github, fork=fork, waits=waits)
    message = str(caught.value)
    assert "workflow_run" in message
    assert "pull-requests: write" in message
    assert ("of a fork or of Dependabot" in message) is not fork
    assert (caught.value.kind, caught.value.exit_code) == ("github", 3)
    assert waits == []
    assert len(github.writes) == 1


def test_a_read_only_token_is_told_even_when_no_requests_are_left(github: GitHub) -> None:
    github.faults.append(
        Fault(403, "Resource not accessible by integration", {"x-ratelimit-remaining": "0"}, methods=("POST",))
    )
    with pytest.raises(GitHubError, match="may not write comments"):
        say(github)


def test_a_wrong_token_is_told(github: GitHub) -> None:
    with pytest.raises(GitHubError, match=r"401: Bad credentials.*GITHUB_TOKEN"):
        say(github, token="ghs_other")


def test_an_unknown_pull_request_is_told(github: GitHub) -> None:
    with pytest.raises(GitHubError, match=r"404: Not Found.*does not exist"):
        say(github, pull_request=8)


def test_a_locked_conversation_is_told(github: GitHub) -> None:
    github.pulls[7].locked = True
    with pytest.raises(GitHubError, match="issue is locked"):
        say(github)


def test_what_github_does_not_accept_is_told_in_its_words(github: GitHub) -> None:
    """Here a body that is longer than our own limit says, as if GitHub had lowered its."""
    github.longest_body = 50
    with pytest.raises(GitHubError, match=r"422: Validation Failed, Body is too long \(maximum is 50 characters\)"):
        say(github)


def test_a_comment_of_the_greatest_length_is_accepted(github: GitHub) -> None:
    room = LONGEST_COMMENT - len(_text_around(github))
    assert say(github, "ü" * room).action == "created"
    with pytest.raises(GitHubError, match="65537 characters"):
        say(github, "ü" * (room + 1))


def _text_around(github: GitHub) -> str:
    say(github, "x", comment_id="tflite-guard")
    text = ours(github)[0].body.replace("\nx\n", "\n\n")
    github.comments.clear()
    return text


@pytest.mark.parametrize(
    ("fault", "waited"),
    [
        (secondary_limit(7), 7),
        (secondary_limit(), 60),
        (secondary_limit(0), 1),
        (Fault(429, "Too many requests", {"Retry-After": "3"}), 3),
        (Fault(403, "You have triggered an abuse detection mechanism.", {"Retry-After": "9"}), 9),
        (Fault(502, "Server Error"), 1),
        (Fault(503, "Unavailable", {"Retry-After": "4"}), 4),
        (Fault(drop=True), 1),
    ],
    ids=["secondary", "secondary without a time", "now", "429", "abuse", "502", "503", "broken connection"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_passes_is_waited_for(github: GitHub, fault: Fault, waited: float, method: str) -> None:
    github.faults.append(replace(fault, methods=(method,)))
    waits = Waits()
    assert say(github, waits=waits).action == "created"
    assert waits == [waited]
    assert len(ours(github)) == 1


def test_the_hourly_limit_is_waited_for_until_its_reset(github: GitHub) -> None:
    github.faults.append(primary_limit(int(time.time()) + 30))
    waits = Waits()
    assert say(github, waits=waits).action == "created"
    assert 20 < waits[0] <= 30


def test_waits_double_and_end(github: GitHub) -> None:
    github.faults += [Fault(500)] * 9
    waits = Waits()
    with pytest.raises(GitHubError, match=r"500: Server Error.*5 tries"):
        say(github, waits=waits)
    assert waits == [1, 2, 4, 8]


@pytest.mark.parametrize(
    "fault",
    [secondary_limit(3000), primary_limit(2_000_000_000), secondary_limit(10**17)],
    ids=["an hour", "next century", "for ever"],
)
def test_a_wait_that_is_too_long_is_not_begun(github: GitHub, fault: Fault) -> None:
    github.faults.append(fault)
    waits = Waits()
    with pytest.raises(GitHubError, match="asks to wait"):
        say(github, waits=waits)
    assert waits == []


def test_all_waiting_together_is_limited(github: GitHub) -> None:
    github.faults += [secondary_limit(50, methods=("GET",))] * 2 + [secondary_limit(50, methods=("POST",))]
    waits = Waits()
    with pytest.raises(GitHubError, match="Gave up"):
        say(github, waits=waits)
    assert waits == [50, 50]


@pytest.mark.parametrize("drop", [True, False])
def test_a_write_that_worked_and_seemed_to_fail_makes_no_duplicate(github: GitHub, drop: bool) -> None:
    github.faults.append(Fault(502, after=True, drop=drop, methods=("POST",)))
    assert say(github, "One").action == "created"
    assert len(ours(github)) == 1
    assert len(github.requests("POST")) == 1
    github.faults.append(Fault(502, after=True, drop=drop, methods=("PATCH",)))
    assert say(github, "Two", run_id=51).action == "updated"
    assert ours(github)[0].edits == 1


def test_a_server_that_is_not_there_is_told(github: GitHub) -> None:
    waits = Waits()
    with pytest.raises(GitHubError, match="cannot be reached"):
        post(run(github, api_url="http://127.0.0.1:9"), TOKEN, "Results", sleep=waits)
    assert waits == [1, 2, 4, 8]


@pytest.mark.parametrize(
    "message",
    ["evil\n::error::x", "\x1b[31mred", "\u202egnp", "##[add-mask]x" * 1000],
    ids=["command", "color", "direction", "long"],
)
def test_the_servers_words_are_made_harmless(github: GitHub, message: str) -> None:
    github.faults.append(Fault(418, message))
    with pytest.raises(GitHubError) as caught:
        say(github)
    assert not set("\n\x1b\u202e") & set(str(caught.value))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "content", ["<html>", "{}", "null", "[" * 100_000, "\xff"], ids=["page", "object", "null", "deep", "no text"]
)
def test_what_is_no_api_is_told(content: str, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/repos/octo/app/issues/7/comments").respond_with_data(content.encode("latin-1"))
    with pytest.raises(GitHubError, match="GITHUB_API_URL"):
        post(by_hand("octo/app", 7, api_url=httpserver.url_for("/")), TOKEN, "x", author="a", sleep=Waits())


def test_pages_without_end_are_left(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/repos/octo/app/issues/7/comments").respond_with_json(
        [], headers={"Link": '<http://example.org/>; rel="next"'}
    )
    with pytest.raises(GitHubError, match="pages"):
        post(by_hand("octo/app", 7, api_url=httpserver.url_for("/")), TOKEN, "x", author="a", sleep=Waits())
    assert len(httpserver.log) == 100


# The token


def test_a_renamed_repository_is_followed_for_reading_and_writing(github: GitHub) -> None:
    github.former = "octo/old"
    for body in ("One", "Two"):
        say(github, body, repository="octo/old")
    assert [comment.edits for comment in ours(github)] == [1]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_token_follows_no_redirect_to_another_server(github: GitHub, status: int, method: str, host: str) -> None:
    """Another port is another server, too."""
    assert github.url.startswith("http://localhost:")
    elsewhere = GitHub()
    with elsewhere.serve(host):
        target = {"Location": f"{elsewhere.url}/repos/octo/app/issues/7/comments"}
        github.faults.append(Fault(status, "Moved", target, methods=(method,), path="/repos"))
        with pytest.raises(GitHubError):
            say(github)
    assert elsewhere.log == []
    assert github.comments == []


@pytest.mark.parametrize("location", ["", "//", "http://[", "https://127.0.0.1:{port}/", "/loop", "ftp://x"])
def test_strange_redirects_end(github: GitHub, location: str) -> None:
    target = location.format(port=github.url.rsplit(":", 1)[1])
    github.faults += [Fault(301, "Moved", {"Location": target}, path="/")] * 20
    with pytest.raises(GitHubError):
        say(github)
    assert len(github.log) < 10


@pytest.mark.parametrize(
    "api_url",
    [
        "http://api.github.com",
        "http://127.0.0.1.example.org",
        "http://localhost.example.org",
        "http://10.0.0.1",
        "ftp://localhost",
        "api.github.com",
        "https://user:hunter2@api.github.com",
        "https://",
        "http://[::1",
        "",
        "\x00",
    ],
)
def test_the_token_goes_to_no_address_in_clear(github: GitHub, api_url: str) -> None:
    with pytest.raises(UsageError, match="GITHUB_API_URL") as caught:
        say(github, api_url=api_url)
    assert "hunter2" not in str(caught.value)


def test_an_enterprise_servers_path_is_kept(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/api/v3/user").respond_with_json({"login": "ada"})
    httpserver.expect_request("/api/v3/repos/octo/app/issues/7/comments", method="GET").respond_with_json([])
    httpserver.expect_request("/api/v3/repos/octo/app/issues/7/comments", method="POST").respond_with_json(
        {"html_url": "https://ghe.example/c", "user": {"login": "ada"}}, status=201
    )
    posted = post(by_hand("octo/app", 7, api_url=httpserver.url_for("/api/v3/")), TOKEN, "x", sleep=Waits())
    assert posted == Posted("created", "https://ghe.example/c", "")


def test_each_request_says_who_asks_and_in_which_version(github: GitHub) -> None:
    say(github)
    for request in github.log:
        assert request.headers["User-Agent"].startswith("tflite-guard/")
        assert request.headers["X-Github-Api-Version"] == "2022-11-28"
        assert request.headers["Accept"] == "application/vnd.github+json"
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"


def test_a_newline_after_the_token_does_no_harm(github: GitHub) -> None:
    assert say(github, token=f"{TOKEN}\n").action == "created"


@pytest.mark.parametrize("token", ["", " \n", "ghs\nx", "ghs x", "ghs_é", "ghs_\x00"])
def test_what_is_no_token_is_told_without_being_shown(github: GitHub, token: str) -> None:
    with pytest.raises(UsageError, match="GITHUB_TOKEN") as caught:
        say(github, token=token)
    assert not token.strip() or token not in str(caught.value)
    assert github.log == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500, f"echo Bearer {TOKEN}"),
        Fault(422, f"echo {TOKEN}"),
        Fault(403, f"Resource not accessible {TOKEN}"),
        Fault(drop=True),
        Fault(301, "Moved", {"Location": f"https://{TOKEN}.example.org/"}),
    ],
    ids=["retried", "refused", "forbidden", "broken", "redirected"],
)
@pytest.mark.parametrize("path", ["/user", "/pulls", "/comments"])
def test_no_error_and_no_log_holds_the_token(
    github: GitHub, fault: Fault, path: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    github.faults += [replace(fault, path=path)] * 9
    shown = ""
    try:
        shown += repr(say(github))
    except GuardError as error:
        chain: BaseException | None = error
        shown += "".join(traceback.TracebackException.from_exception(error, capture_locals=False).format())
        while chain is not None:
            shown += f"{chain!r} {chain.args} {vars(chain)}"
            chain = chain.__cause__ or chain.__context__
    assert shown
    captured = capfd.readouterr()
    records = "".join(record.getMessage() for record in caplog.records if "werkzeug" not in record.name)
    assert TOKEN not in shown + records + captured.out + captured.err


# Settings


@pytest.mark.parametrize("comment_id", ["", "a b", "x-->", "x" * 65, "é", "a\n", "<script>"])
def test_a_comment_id_is_letters_and_digits(github: GitHub, comment_id: str) -> None:
    with pytest.raises(UsageError, match="comment id"):
        say(github, comment_id=comment_id)


@pytest.mark.parametrize(
    "repository", ["", "octo", "octo/app/x", "octo/..", "../app", "octo/a?b", "octo/app\n", "a/b#"]
)
def test_a_repository_is_an_owner_and_a_name(github: GitHub, repository: str) -> None:
    with pytest.raises(UsageError, match="OWNER/NAME"):
        say(github, repository=repository)
    assert github.log == []


@pytest.mark.parametrize(
    ("name", "value"), [("HTTPS_PROXY", "gopher://u:hunter2@h"), ("SSL_CERT_FILE", "/nowhere"), ("ALL_PROXY", "x://[")]
)
def test_a_proxy_that_cannot_work_is_told(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=name) as caught:
        post(by_hand("octo/app", 7, api_url="https://localhost:9"), TOKEN, "x", author="a", sleep=Waits())
    assert "hunter2" not in str(caught.value)


def test_a_proxy_is_used_but_never_in_clear(github: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is asked for a tunnel, in which it would see nothing."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with HTTPServer() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url_for("/"))
        assert say(github).action == "created"
        assert proxy.log == []
        with pytest.raises(GitHubError):
            post(run(github, api_url="https://api.example.org"), TOKEN, "x", author="a", sleep=Waits())
        asked = {(request.method, "Authorization" in request.headers) for request, _ in proxy.log}
    assert asked == {("CONNECT", False)}


def test_a_reset_that_has_passed_is_waited_for_a_second(github: GitHub) -> None:
    github.faults.append(primary_limit(1))
    waits = Waits()
    say(github, waits=waits)
    assert waits == [1]


def test_httpx_is_loaded_for_a_comment_only() -> None:
    code = "import sys, tflite_guard.github; print('httpx' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(
    comment_id=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
    body=st.text(st.characters(codec="utf-8"), min_size=1, max_size=500),
    number=st.integers(1, 10**17),
    attempt=st.integers(1, 10**9),
)
def test_whatever_was_posted_is_found_again(
    github: GitHub, comment_id: str, body: str, number: int, attempt: int
) -> None:
    github.comments.clear()
    settings: dict[str, Any] = {"comment_id": comment_id, "author": WORKFLOW_LOGIN, "run_attempt": attempt}
    assert say(github, body, run_id=number, **settings).action == "created"
    assert say(github, body, run_id=number + 1, **settings).action == "unchanged"
    assert say(github, body + "!", run_id=number - 1, **settings).action == ("updated" if number == 1 else "skipped")
    assert say(github, body + "?", run_id=number + 1, **settings).action == "updated"
    assert len(github.comments) == 1


# What a run tells of itself


def environ(folder: Path, event: str, payload: object, **changes: str) -> dict[str, str]:
    """A runner's variables with an event file."""
    file = folder / "event.json"
    file.write_text(payload if isinstance(payload, str) else json.dumps(payload))
    variables = {
        "GITHUB_EVENT_NAME": event,
        "GITHUB_EVENT_PATH": str(file),
        "GITHUB_REPOSITORY": "octo/app",
        "GITHUB_API_URL": "https://ghe.example/api/v3",
        "GITHUB_SERVER_URL": "https://ghe.example",
        "GITHUB_RUN_ID": "50",
        "GITHUB_RUN_ATTEMPT": "2",
        "GITHUB_SHA": "c" * 40,
    }
    return variables | changes


PULL_EVENT: dict[str, dict[str, Any]] = {
    "pull_request": {"number": 7, "head": {"sha": SHA, "repo": {"full_name": "octo/app"}}}
}
RUN_EVENT: dict[str, dict[str, Any]] = {
    "workflow_run": {
        "id": 40,
        "run_attempt": 3,
        "head_sha": SHA,
        "head_branch": "fix/it",
        "head_repository": {"full_name": "ada/app", "owner": {"login": "ada"}},
    }
}


@pytest.mark.parametrize("event", ["pull_request", "pull_request_target", "pull_request_review"])
def test_a_pull_request_is_read_from_its_event(tmp_path: Path, event: str) -> None:
    """GITHUB_SHA is the merge, which is not the head."""
    assert context(environ(tmp_path, event, PULL_EVENT)) == Context(
        event=event,
        repository="octo/app",
        api_url="https://ghe.example/api/v3",
        server_url="https://ghe.example",
        run_url="https://ghe.example/octo/app/actions/runs/50/attempts/2",
        run_id=50,
        run_attempt=2,
        pull_request=7,
        head_sha=SHA,
        head=None,
        fork=False,
    )


@pytest.mark.parametrize("repo", [{"full_name": "ada/app"}, None])
def test_a_fork_is_known_by_its_repository(tmp_path: Path, repo: object) -> None:
    payload = {"pull_request": {"number": 7, "head": {"sha": SHA, "repo": repo}}}
    assert context(environ(tmp_path, "pull_request", payload)).fork


def test_workflow_run_tells_of_the_run_that_judged(tmp_path: Path) -> None:
    found = context(environ(tmp_path, "workflow_run", RUN_EVENT))
    assert (found.run_id, found.run_attempt, found.head_sha, found.head) == (40, 3, SHA, "ada:fix/it")
    assert found.run_url == "https://ghe.example/octo/app/actions/runs/40/attempts/3"
    assert found.fork
    assert found.pull_request is None


def test_a_branch_that_is_no_text_finds_nothing(github: GitHub, tmp_path: Path) -> None:
    payload = {"workflow_run": RUN_EVENT["workflow_run"] | {"head_branch": "\ud800"}}
    found = context(environ(tmp_path, "workflow_run", payload))
    assert post(replace(found, api_url=github.url), TOKEN, "Results", sleep=Waits()).action == "skipped"


def test_workflow_run_of_a_deleted_fork(tmp_path: Path) -> None:
    payload = {"workflow_run": RUN_EVENT["workflow_run"] | {"head_repository": None}}
    found = context(environ(tmp_path, "workflow_run", payload))
    assert found.head is None
    assert found.fork


def test_a_comment_on_a_pull_request_names_it(tmp_path: Path) -> None:
    on_pull = {"issue": {"number": 7, "pull_request": {"url": "…"}}}
    assert context(environ(tmp_path, "issue_comment", on_pull)).pull_request == 7
    assert context(environ(tmp_path, "issue_comment", {"issue": {"number": 7}})).pull_request is None


@pytest.mark.parametrize("event", ["push", "schedule", "workflow_dispatch", "merge_group"])
def test_other_events_have_no_pull_request(tmp_path: Path, event: str) -> None:
    found = context(environ(tmp_path, event, {"after": SHA}))
    assert (found.pull_request, found.head_sha, found.head) == (None, None, None)


@pytest.mark.parametrize(
    "name", ["GITHUB_EVENT_NAME", "GITHUB_EVENT_PATH", "GITHUB_REPOSITORY", "GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT"]
)
def test_what_is_missing_or_broken_is_named(tmp_path: Path, name: str) -> None:
    variables = environ(tmp_path, "pull_request", PULL_EVENT)
    if name != "GITHUB_RUN_ATTEMPT":
        with pytest.raises(UsageError, match=f"{name} is not set"):
            context(variables | {name: ""})
    if name.startswith("GITHUB_RUN"):
        for value in ("x", "-1", "1.5", "٣", "9" * 5000):
            with pytest.raises(UsageError, match=f"{name} is not a number"):
                context(variables | {name: value})


def test_github_itself_is_meant_where_no_server_is_named(tmp_path: Path) -> None:
    variables = environ(tmp_path, "pull_request", PULL_EVENT)
    for name in ("GITHUB_API_URL", "GITHUB_SERVER_URL", "GITHUB_RUN_ATTEMPT"):
        del variables[name]
    found = context(variables)
    assert (found.api_url, found.server_url, found.run_attempt) == ("https://api.github.com", "https://github.com", 1)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe{}", b"[" * 200_000, b"9" * 5000, b"{}" + b" " * 25 * 2**20],
    ids=["empty", "cut", "no text", "deep", "long number", "large"],
)
def test_a_broken_event_file_is_told(tmp_path: Path, content: bytes) -> None:
    variables = environ(tmp_path, "pull_request", PULL_EVENT)
    (tmp_path / "event.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"event file.*event\.json"):
        context(variables)


@pytest.mark.parametrize("number", [0, -7, True, 7.0, "7", None, 10**30, [7]])
def test_a_pull_requests_number_is_a_number(tmp_path: Path, number: object) -> None:
    payload = {"pull_request": PULL_EVENT["pull_request"] | {"number": number}}
    with pytest.raises(UsageError, match=r"no number at pull_request\.number"):
        context(environ(tmp_path, "pull_request", payload))


@pytest.mark.parametrize("sha", ["main", "a" * 39, "A" * 40, SHA + "\n", "", None, 5, "../" + SHA])
def test_a_head_is_a_commit(tmp_path: Path, sha: object) -> None:
    payload = {"pull_request": {"number": 7, "head": {"sha": sha}}}
    with pytest.raises(UsageError, match=r"no commit at pull_request\.head\.sha"):
        context(environ(tmp_path, "pull_request", payload))


@pytest.mark.parametrize("path", ["missing.json", ".", "\x00"])
def test_an_event_file_that_cannot_be_read_is_told(tmp_path: Path, path: str) -> None:
    with pytest.raises(UsageError, match="event file"):
        context(environ(tmp_path, "push", {}, GITHUB_EVENT_PATH=str(tmp_path / path)))


KEYS = st.sampled_from(["number", "head", "sha", "repo", "full_name", "id", "run_attempt", "owner", "login"])
TEXTS = st.text(st.characters(), max_size=20)  # Surrogates too: JSON can hold them.
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | TEXTS, inner, max_size=4),
    max_leaves=20,
)


def _with(payload: Any, path: list[str], value: object) -> Any:
    """A copy with one place replaced."""
    if not path:
        return value
    return {**payload, path[0]: _with(payload[path[0]], path[1:], value)}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(
    event=st.sampled_from(["pull_request", "workflow_run", "issue_comment", "push"]),
    value=ANY_JSON,
    path=st.sampled_from(
        [
            "",
            "pull_request",
            "pull_request number",
            "pull_request head",
            "pull_request head sha",
            "pull_request head repo",
            "workflow_run",
            "workflow_run id",
            "workflow_run run_attempt",
            "workflow_run head_sha",
            "workflow_run head_branch",
            "workflow_run head_repository",
            "workflow_run head_repository owner",
        ]
    ),
)
def test_any_json_as_an_event_gives_a_context_or_a_usage_error(
    tmp_path: Path, event: str, value: object, path: str
) -> None:
    payload = _with(PULL_EVENT | RUN_EVENT, path.split(), value)
    try:
        found = context(environ(tmp_path, event, payload))
    except UsageError:
        return
    assert found.pull_request is None or (type(found.pull_request) is int and found.pull_request > 0)
    assert type(found.run_id) is int
    assert found.head_sha is None or len(found.head_sha) in (40, 64)
    assert found.head is None or b":" in found.head.encode()
