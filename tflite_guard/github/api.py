"""GitHub's REST API as one token sees it; the only HTTP of this package.

httpx is loaded when it is needed: most commands never are.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from tflite_guard.errors import GuardError, UsageError
from tflite_guard.github.event import Context
from tflite_guard.github.values import at
from tflite_guard.text.plain import plain

if TYPE_CHECKING:
    from types import TracebackType

    import httpx

_PER_PAGE = 100
_MOST_PAGES = 100  # GitHub closes a conversation at 2,500 comments.
_TRIES = 5
_LONGEST_WAIT = 120.0
_RATE_LIMIT_PAUSE = 60.0  # What GitHub asks for where it names no time.
_MOST_REDIRECTS = 3
_LOCAL = ("localhost", "127.0.0.1", "::1")
_DIGITS = re.compile(r"[0-9]{1,18}")

_T = TypeVar("_T")


class GitHubError(GuardError):
    """GitHub did not do what it was asked. The message says what to do, and never holds the token."""

    kind = "github"


class RefusedError(GitHubError):
    """An answer that will not change."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class PassingError(Exception):
    """A failure that may pass. `pause` is doubled at each try, unless GitHub named the seconds to `wait`."""

    def __init__(self, message: str, pause: float = 1.0, wait: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause
        self.wait = wait


class Api:
    """GitHub's REST API as one token sees it: pages, retries, and failures in words."""

    def __init__(self, context: Context, token: str, sleep: Callable[[float], None]) -> None:
        self._context = context
        self._token = token
        self._sleep = sleep
        self._patience = _LONGEST_WAIT
        self._base = _base(context.api_url)
        self._http = _client(self._base, token)

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, *, whole: bool = False, **query: str | int) -> object:
        """The JSON of an address below the repository, or of a whole path."""
        return self._parsed(self._get(path, whole, query))

    def pages(self, path: str, **query: str | int) -> Iterator[object]:
        """The items of a list, page by page.

        Pages are counted, not followed: an address from an answer could lead elsewhere. A short page is not taken for
        the last one where GitHub announces another, because it leaves out what is hidden after cutting the pages.
        """
        for page in range(1, _MOST_PAGES + 1):
            response = self._get(path, False, {**query, "per_page": _PER_PAGE, "page": page})
            items = self._parsed(response)
            if not isinstance(items, list):
                raise GitHubError(self._strange())
            yield from items
            if len(items) < _PER_PAGE and "next" not in response.links:
                return
        raise GitHubError(f"{path} has more than {_MOST_PAGES} pages of {_PER_PAGE}, which is more than is read.")

    def send(self, method: str, path: str, content: dict[str, str]) -> object:
        """Write once. Whoever calls repeats it, after a look at whether it worked.

        Raises:
            PassingError: it may work later, and may have worked.
        """
        return self._parsed(self._answer(method, self._address(path), content))

    def patiently(self, action: Callable[[], _T]) -> _T:
        """Do something until it works or cannot work, with waits that GitHub names or that double."""
        for tried in range(1, _TRIES + 1):
            try:
                return action()
            except PassingError as passing:
                failure = passing
            seconds = failure.pause * 2 ** (tried - 1) if failure.wait is None else failure.wait
            if tried == _TRIES or seconds > self._patience:
                break
            self._patience -= seconds
            self._sleep(seconds)
        asked = f" It asks to wait {failure.wait:.0f} s." if failure.wait is not None else ""
        tries = f"{tried} tries" if tried > 1 else "one try"
        raise GitHubError(f"{failure}{asked} Gave up after {tries}; run the job again later.")

    def _get(self, path: str, whole: bool, query: Mapping[str, str | int]) -> httpx.Response:
        address = self._address(path, whole).copy_merge_params(query)
        return self.patiently(lambda: self._answer("GET", address, None))

    def _address(self, path: str, whole: bool = False) -> httpx.URL:
        below = path if whole else f"/repos/{self._context.repository}{path}"
        return self._base.copy_with(path=self._base.path.rstrip("/") + below)

    def _answer(self, method: str, address: httpx.URL, content: dict[str, str] | None) -> httpx.Response:
        """A good answer, after redirects on the same host: a renamed repository has them."""
        followed = (301, 302, 307, 308) if method == "GET" else (307, 308)
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._once(method, address, content)
            if response.is_success:
                return response
            if response.status_code not in followed:
                raise self._failure(response)
            address = self._target(address, response)
        raise GitHubError(f"{self._base.host} redirects without end.")

    def _once(self, method: str, address: httpx.URL, content: dict[str, str] | None) -> httpx.Response:
        import httpx

        try:
            return self._http.request(method, address, json=content)
        except httpx.TimeoutException:
            problem = "did not answer in time"
        except httpx.ConnectError as error:
            problem = f"cannot be reached ({self._harmless(str(error))})"
        except httpx.HTTPError as error:
            problem = f"broke the connection ({type(error).__name__})"
        # Outside the handlers, so that no request with its headers hangs on the error.
        raise PassingError(f"{self._base.host} {problem}.")

    def _target(self, address: httpx.URL, response: httpx.Response) -> httpx.URL:
        import httpx

        try:
            target = address.join(response.headers.get("Location", ""))
        except httpx.InvalidURL:
            raise GitHubError(self._strange()) from None
        if (target.scheme, target.host, target.port) != (self._base.scheme, self._base.host, self._base.port):
            where = self._harmless(target.host)
            raise GitHubError(
                f"{self._base.host} redirects to another server ({where}), which is not given the token: "
                "set GITHUB_API_URL to the right address."
            )
        return target

    def _failure(self, response: httpx.Response) -> Exception:
        status, said = response.status_code, self._said(response)
        answered = f"{self._base.host} answered {status}" + (f": {said}." if said else ".")
        if status == 403 and "resource not accessible" in said.lower():
            return RefusedError(status, self._forbidden(said))
        limited = "rate limit" in said.lower() or response.headers.get("x-ratelimit-remaining") == "0"
        if status == 429 or (status == 403 and (limited or "retry-after" in response.headers)):
            return PassingError(answered, _RATE_LIMIT_PAUSE, _wait(response))
        if status >= 500:
            return PassingError(answered, wait=_wait(response))
        return RefusedError(status, f"{answered} {_ADVICE.get(status, '')}".rstrip())

    def _forbidden(self, said: str) -> str:
        normal = (
            "That is normal" if self._context.fork else "For a pull request of a fork or of Dependabot that is normal"
        )
        return (
            f"The token may not write comments on {self._context.repository} (403: {said}). {normal}: "
            "comment from a workflow_run workflow, as docs/github-action.md shows. "
            "Otherwise give the job `permissions: pull-requests: write`."
        )

    def _said(self, response: httpx.Response) -> str:
        """The words of an answer that failed: its message, then what its errors say."""
        try:
            answer = json.loads(response.content)
        except (ValueError, RecursionError):
            return self._harmless(response.reason_phrase)
        errors = at(answer, "errors")
        words = [at(answer, "message")]
        for error in errors if isinstance(errors, list) else []:
            words.append(at(error, "message") or error)
        return self._harmless(", ".join(str(word) for word in words if word).rstrip("."))

    def _harmless(self, text: str) -> str:
        return plain(text.replace(self._token, "***"), 300)

    def _parsed(self, response: httpx.Response) -> object:
        try:
            return json.loads(response.content)
        except (ValueError, RecursionError):
            raise GitHubError(self._strange()) from None

    def _strange(self) -> str:
        return f"{self._base.host} does not answer as GitHub's API does: is GITHUB_API_URL right, is there a proxy?"


_ADVICE = {
    401: "The token is wrong or has expired: pass a valid one as GITHUB_TOKEN, in the action as `github-token`.",
    403: "The token needs `permissions: pull-requests: write`, and the conversation must not be locked.",
    404: "The repository or the pull request does not exist, or the token may not see it: "
    "give the job `permissions: pull-requests: write` and check the names.",
}


def _wait(response: httpx.Response) -> float | None:
    """Seconds that an answer asks to wait; None where it names none."""
    after = response.headers.get("retry-after", "")
    if _DIGITS.fullmatch(after):
        return max(1.0, float(after))
    reset = response.headers.get("x-ratelimit-reset", "")
    if response.headers.get("x-ratelimit-remaining") == "0" and _DIGITS.fullmatch(reset):
        return max(1.0, float(reset) - time.time())
    return None


def _base(api_url: str) -> httpx.URL:
    """The API's address. A token is sent in clear to nobody but this very machine."""
    import httpx

    try:
        url = httpx.URL(api_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.host and not url.userinfo and (url.scheme == "https" or (url.scheme == "http" and url.host in _LOCAL)):
        return url.copy_with(query=None, fragment=None)
    # The value stays out of the message: it may hold a password.
    raise UsageError("GITHUB_API_URL is not the https:// address of GitHub's API, as https://api.github.com is.")


def _client(base: httpx.URL, token: str) -> httpx.Client:
    import httpx

    headers = {
        "Accept": "application/vnd.github+json",
        "Authorization": f"Bearer {token}",
        "User-Agent": f"tflite-guard/{_version()}",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    # Proxies and certificates of self-hosted runners; but a proxy would see the token where nothing is encrypted.
    trusting = base.scheme == "https"
    try:
        return httpx.Client(headers=headers, timeout=httpx.Timeout(20, connect=10), trust_env=trusting)
    except (httpx.InvalidURL, ValueError, OSError, ImportError):
        names = "HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
    raise UsageError(f"The proxy or the certificates of this environment cannot be used: check {names}.")


def clean_token(token: str) -> str:
    """A token as a header can hold it. httpx would name a wrong one in its error.

    Raises:
        UsageError: there is none, or it cannot be one.
    """
    token = token.strip()
    if not token:
        raise UsageError("There is no token to comment with: set GITHUB_TOKEN, in the action `github-token`.")
    if not all("!" <= character <= "~" for character in token):
        raise UsageError("The token has characters that no token has: is GITHUB_TOKEN set to something else?")
    return token


def _version() -> str:
    from importlib.metadata import version

    return version("tflite-guard")
