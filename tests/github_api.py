"""A stand-in for the part of GitHub's REST API that comments need, on a real HTTP server.

It answers as GitHub does: statuses, messages, pages with Link headers, redirects of renamed repositories, limits.
Faults are queued and hit the next requests.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

DOCUMENTATION = "https://docs.github.com/rest"
LONGEST_BODY = 65_536
REPOSITORY_ID = 1300192
Json = Any


@dataclass
class Token:
    """What a token may do and whose it is."""

    login: str
    writes: bool = True
    integration: bool = True
    """Of an app or a workflow: it may not ask for its user."""


@dataclass
class Comment:
    """A comment of a conversation."""

    id: int
    number: int
    login: str | None
    body: str
    edits: int = 0


@dataclass
class Pull:
    """A pull request; `repository` is where its head lies, None when that is deleted."""

    number: int
    sha: str
    repository: str | None = "octo/app"
    branch: str = "feature"
    state: str = "open"
    locked: bool = False

    @property
    def owner(self) -> str | None:
        return self.repository.split("/")[0] if self.repository else None


@dataclass
class Fault:
    """How a request goes wrong. With `after` it takes effect first; with `drop` the connection breaks."""

    status: int = 502
    message: str = "Server Error"
    headers: dict[str, str] = field(default_factory=dict)
    methods: tuple[str, ...] = ("GET", "POST", "PATCH")
    path: str = ""
    after: bool = False
    drop: bool = False


@dataclass
class Logged:
    """A request that came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    json: Json


class GitHub:
    """One repository with its pull requests, comments and tokens."""

    def __init__(self, repository: str = "octo/app", former: str | None = None) -> None:
        self.repository = repository
        self.former = former
        """The name before a renaming, which redirects."""
        self.tokens: dict[str, Token] = {}
        self.pulls: dict[int, Pull] = {}
        self.comments: list[Comment] = []
        self.faults: list[Fault] = []
        self.log: list[Logged] = []
        self.errors: list[BaseException] = []
        self.longest_body = LONGEST_BODY
        self.filters = True
        """Whether `head` is understood."""
        self.url = ""
        self._next_id = 1000

    @contextmanager
    def serve(self, host: str = "127.0.0.1", port: int = 0) -> Iterator[GitHub]:
        """Answer at `self.url` until the end of the block."""
        with HTTPServer(host=host, port=port) as server:
            yield self.on(server)
        self.check()

    def on(self, server: HTTPServer) -> GitHub:
        """Answer on a server that runs already."""
        server.expect_request(re.compile(".*")).respond_with_handler(self._respond)
        self.url = f"http://{'127.0.0.1' if server.host == '0.0.0.0' else server.host}:{server.port}"
        return self

    def check(self) -> None:
        """Raise what went wrong in here, which a client only saw as a server error."""
        if self.errors:
            raise self.errors[0]

    def comment(self, number: int, login: str | None, body: str) -> Comment:
        """Someone comments."""
        self._next_id += 1
        added = Comment(self._next_id, number, login, body)
        self.comments.append(added)
        return added

    def of(self, number: int, login: str) -> list[Comment]:
        """The comments of one author."""
        return [comment for comment in self.comments if comment.number == number and comment.login == login]

    def requests(self, *methods: str) -> list[Logged]:
        """What came in with these methods."""
        return [request for request in self.log if request.method in methods]

    @property
    def writes(self) -> list[Logged]:
        return self.requests("POST", "PATCH", "PUT", "DELETE")

    def _respond(self, request: Request) -> Response:
        try:
            self.log.append(_logged(request))
            return self._faulty(request)
        except BaseException as error:
            self.errors.append(error)
            raise

    def _faulty(self, request: Request) -> Response:
        hit = (f for f in self.faults if request.method in f.methods and f.path in request.path)
        fault = next(hit, None)
        if fault is None:
            return self._answer(request)
        self.faults.remove(fault)
        if fault.after:
            self._answer(request)
        if fault.drop:
            request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return _reply(fault.status, _problem(fault.message, fault.status), fault.headers)

    def _answer(self, request: Request) -> Response:
        if not request.headers.get("User-Agent"):
            return Response("Request forbidden by administrative rules.", 403)
        kind, _, secret = request.headers.get("Authorization", "").partition(" ")
        token = self.tokens.get(secret) if kind.lower() in ("bearer", "token") else None
        if token is None:
            return _refusal(401, "Bad credentials")
        if request.path == "/user" and request.method == "GET":
            return _inaccessible() if token.integration else _reply(200, {"login": token.login, "type": "User"})
        repository = re.match(r"/repos/([^/]+/[^/]+)|/repositories/(\d+)", request.path)
        if repository is None:
            return _refusal(404, "Not Found")
        rest = request.path[repository.end() :]
        if self.former and repository[1] == self.former:
            return self._moved(request, rest)
        if (repository[1] or "").lower() != self.repository.lower() and repository[2] != str(REPOSITORY_ID):
            return _refusal(404, "Not Found")
        for method, pattern, answer in self._routes():
            found = re.fullmatch(pattern, rest)
            if found and request.method == method:
                return answer(request, token, *map(int, found.groups()))
        return _refusal(404, "Not Found")

    def _routes(self) -> list[tuple[str, str, Callable[..., Response]]]:
        return [
            ("GET", r"/pulls", self._list_pulls),
            ("GET", r"/pulls/(\d+)", self._get_pull),
            ("GET", r"/issues/(\d+)/comments", self._list_comments),
            ("POST", r"/issues/(\d+)/comments", self._create_comment),
            ("PATCH", r"/issues/comments/(\d+)", self._update_comment),
        ]

    def _moved(self, request: Request, rest: str) -> Response:
        query = f"?{request.query_string.decode()}" if request.query_string else ""
        target = f"{request.host_url}repositories/{REPOSITORY_ID}{rest}{query}"
        status, message = (301, "Moved Permanently") if request.method == "GET" else (307, "Temporary Redirect")
        return _reply(status, {"message": message, "url": target}, {"Location": target})

    def _list_pulls(self, request: Request, token: Token) -> Response:
        state = request.args.get("state", "open")
        owner, colon, branch = request.args.get("head", "").partition(":")
        found = [pull for pull in self.pulls.values() if state in ("all", pull.state)]
        if self.filters and owner and colon and branch:  # Else the filter is ignored.
            wanted = (owner.lower(), branch)
            found = [pull for pull in found if ((pull.owner or "").lower(), pull.branch) == wanted]
        return _page(request, [self._pull(pull) for pull in reversed(found)], "/pulls")

    def _get_pull(self, request: Request, token: Token, number: int) -> Response:
        pull = self.pulls.get(number)
        return _reply(200, self._pull(pull)) if pull else _refusal(404, "Not Found")

    def _pull(self, pull: Pull) -> Json:
        head = {"ref": pull.branch, "sha": pull.sha, "label": f"{pull.owner or 'unknown'}:{pull.branch}", "repo": None}
        if pull.repository:
            head["repo"] = {"full_name": pull.repository, "owner": {"login": pull.owner}}  # type: ignore[assignment]
        return {"number": pull.number, "state": pull.state, "head": head}

    def _list_comments(self, request: Request, token: Token, number: int) -> Response:
        if number not in self.pulls:
            return _refusal(404, "Not Found")
        found = [self._comment(comment) for comment in self.comments if comment.number == number]
        return _page(request, found, f"/issues/{number}/comments")

    def _create_comment(self, request: Request, token: Token, number: int) -> Response:
        pull = self.pulls.get(number)
        if pull is None:
            return _refusal(404, "Not Found")
        if problem := self._unwritable(request, token):
            return problem
        if pull.locked:
            return _refusal(403, "Unable to create comment because issue is locked.")
        return _reply(201, self._comment(self.comment(number, token.login, _sent(request)["body"])))

    def _update_comment(self, request: Request, token: Token, comment_id: int) -> Response:
        comment = next((c for c in self.comments if c.id == comment_id), None)
        if comment is None:
            return _refusal(404, "Not Found")
        if problem := self._unwritable(request, token):
            return problem
        # Whoever may write to the repository may edit anyone's comment.
        comment.body = _sent(request)["body"]
        comment.edits += 1
        return _reply(200, self._comment(comment))

    def _unwritable(self, request: Request, token: Token) -> Response | None:
        """Why a comment's body is not accepted."""
        if not token.writes:
            return _inaccessible()
        sent = _sent(request)
        if not isinstance(sent, dict):
            return _refusal(400, "Problems parsing JSON")
        body = sent.get("body")
        if not isinstance(body, str) or not body.strip():
            error = {"resource": "IssueComment", "code": "missing_field", "field": "body"}
        elif len(body) > self.longest_body:
            message = f"Body is too long (maximum is {self.longest_body} characters)"
            error = {"resource": "IssueComment", "code": "unprocessable", "field": "data", "message": message}
        else:
            return None
        return _reply(422, {**_problem("Validation Failed", 422), "errors": [error]})

    def _comment(self, comment: Comment) -> Json:
        return {
            "id": comment.id,
            "html_url": f"https://github.com/{self.repository}/pull/{comment.number}#issuecomment-{comment.id}",
            "user": None if comment.login is None else {"login": comment.login},
            "created_at": "2026-01-01T00:00:00Z",
            "body": comment.body,
        }


def _page(request: Request, items: list[Json], path: str) -> Response:
    """30 a page, at most 100; links only where there is more than one page."""
    size = min(int(request.args.get("per_page", 30)), 100)
    page, last = int(request.args.get("page", 1)), max(1, -(-len(items) // size))
    wanted = {"prev": page - 1, "next": page + 1, "last": last, "first": 1}
    kept = {"prev", "first"} if page > 1 else set()
    kept |= {"next", "last"} if page < last else set()
    links = [
        f'<{request.host_url}repositories/{REPOSITORY_ID}{path}?{urlencode({**request.args, "page": at})}>; rel="{rel}"'
        for rel, at in wanted.items()
        if rel in kept
    ]
    headers = {"Link": ", ".join(links)} if links else {}
    return _reply(200, items[(page - 1) * size : page * size], headers)


def _inaccessible() -> Response:
    headers = {"X-Accepted-GitHub-Permissions": "issues=write; pull_requests=write"}
    return _reply(403, _problem("Resource not accessible by integration", 403), headers)


def _refusal(status: int, message: str) -> Response:
    return _reply(status, _problem(message, status))


def _problem(message: str, status: int) -> Json:
    return {"message": message, "documentation_url": DOCUMENTATION, "status": str(status)}


def _reply(status: int, content: Json, headers: dict[str, str] | None = None) -> Response:
    limits = {"x-ratelimit-limit": "1000", "x-ratelimit-remaining": "900", "x-ratelimit-reset": "2000000000"}
    return Response(json.dumps(content), status, limits | (headers or {}), content_type="application/json")


def _sent(request: Request) -> Json:
    try:
        return json.loads(request.get_data())
    except ValueError:
        return None


def _logged(request: Request) -> Logged:
    return Logged(request.method, request.path, dict(request.args), dict(request.headers), _sent(request))


def secondary_limit(retry_after: int | None = None, **settings: Any) -> Fault:
    """Too many requests in a short time. GitHub does not always say how long to wait."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
    return Fault(403, message, headers, **settings)


def primary_limit(reset: int, **settings: Any) -> Fault:
    """All requests of the hour are used up."""
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(reset)}
    return Fault(403, "API rate limit exceeded for installation ID 1.", headers, **settings)
