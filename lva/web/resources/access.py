"""Who may act on plugins and see their details.

With an admin token, whoever sends it. Without one, everybody who reaches a service that listens on the
loopback interface or a Unix socket only, but for web pages of other origins; and nobody anywhere else.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
from typing import Any, Final
from urllib.parse import quote, urlsplit

import trio

from lva.logs.loggers import service_logger
from lva.logs.recurring import Recurring
from lva.settings import ENV_PREFIX, MIN_TOKEN_LENGTH, Settings
from lva.web.problems import HttpProblem
from lva.web.resources.buckets import Buckets

LOGGER: Final = service_logger("lva.admin")

TOKEN_VARIABLE: Final = f"{ENV_PREFIX}ADMIN_TOKEN"
#: Of one client: actions at once, and per second; and as many wrong tokens, which are counted apart.
LIMIT: Final = (20, 5.0)
#: Headers that a proxy adds: such a request comes from elsewhere.
_PROXY_HEADERS: Final = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")


class Access:
    """Decides for each request.

    Args:
        settings: The service's settings.
        address: Where the service listens, as a URL or ``unix:path``; None if that is not known, as under
            a foreign server.
    """

    def __init__(self, settings: Settings, address: str | None) -> None:
        token = settings.admin_token
        self._token = None if token is None else _digest(token.get_secret_value().encode())
        self._unknown = address is None
        self._unix = address is not None and address.startswith("unix:")
        self._local = self._unix or (
            address is not None and _is_loopback(urlsplit(address).hostname)
        )
        self._buckets = Buckets(*LIMIT)
        self._failures_since_logged = 0
        self._refusals = Recurring(trio.current_time)

    @property
    def has_token(self) -> bool:
        """Whether there is a token, which lets in who sends it."""
        return self._token is not None

    @property
    def off(self) -> bool:
        """Whether nobody can be let in, because there is no token."""
        return self._token is None and not self._local

    def check_action(self, request: Any) -> None:
        """Let a request act on a plugin, or not.

        Raises:
            HttpProblem: 401 without the right token, 403 from a place that may not, 429 too often.
        """
        self.check_admin(request)
        if wait := self._buckets.take(f"actions of {client(request)}"):
            raise _too_often("Too many actions", wait)

    def check_admin(self, request: Any) -> None:
        """Let a request do what only an administrator may, or not: as `check_action`, but any number of them.

        For routes of plugins, which know what their handlers cost: fifty streams may be made in a row.

        Raises:
            HttpProblem: 401 without the right token, which is limited; 403 from a place that may not.
        """
        try:
            self._check(request)
        except HttpProblem as problem:
            self._log_refusal(request, problem)
            raise

    def check_details(self, request: Any) -> None:
        """Let a request see plugins' details, or not.

        Raises:
            HttpProblem: As `check_action`.
        """
        self._check(request)

    def sees_details(self, request: Any) -> bool:
        """Return whether a request may see plugins' details.

        Raises:
            HttpProblem: 401: it has a token, but the wrong one; 429: for too many times.
        """
        if self._token is not None and _bearer(request) is None:
            return False
        try:
            self._check(request)
        except HttpProblem as problem:
            if problem.status == 403:
                return False
            raise
        return True

    def _check(self, request: Any) -> None:
        if self.off:
            raise HttpProblem(403, self._no_token(), "admin_token_not_set")
        _check_origin(request)
        if self._token is not None:
            self._check_token(request, self._token)
        else:
            _check_direct(request)
            if not self._unix:  # which no name leads to
                _check_host(request)

    def _no_token(self) -> str:
        if self._unknown:
            why = "it cannot know where the server that runs it listens"
        else:
            why = "it does not listen on the loopback interface only"
        return (
            f"This needs an admin token, and none is set. Without one nobody is let in, since {why};"
            f" set {TOKEN_VARIABLE}, of {MIN_TOKEN_LENGTH} or more characters."
        )

    def _check_token(self, request: Any, token: bytes) -> None:
        given = _bearer(request)
        if given is None:
            raise _unauthorized("This needs the admin token, as Authorization: Bearer TOKEN.")
        if hmac.compare_digest(_digest(given), token):
            return  # whatever others have sent from there: a proxy has one address for all
        self._failures_since_logged += 1
        problem = _unauthorized("This is not the admin token.")
        if wait := self._buckets.take(f"wrong tokens of {client(request)}"):
            problem = _too_often("Too many wrong tokens", wait)
        self._log_refusal(request, problem)
        raise problem

    def _log_refusal(self, request: Any, problem: HttpProblem) -> None:
        """Log that a request was refused, now and then, and how many wrong tokens there were since."""
        if self._refusals.again():
            path = quote(request.path, errors="replace")  # which may hold line breaks
            wrong, self._failures_since_logged = self._failures_since_logged, 0
            LOGGER.warning(
                "%s %.200s from %s was refused: %s%s", request.method, path, client(request),
                problem.detail, f" ({wrong} wrong tokens since the last such record)" if wrong > 1 else "",
                extra={"client": client(request), "outcome": problem.error_code, "wrong_tokens": wrong},
            )  # fmt: skip


def _digest(token: bytes) -> bytes:
    """Return what is compared: of the same length whatever was sent."""
    return hashlib.sha256(token).digest()


def client(request: Any) -> str:
    """Return the address that a request comes from; ``unix`` for a Unix socket."""
    address = request.scope.get("client")
    return str(address[0]) if address and address[0] else "unix"


def _check_origin(request: Any) -> None:
    """Refuse a browser that acts for a page of another origin."""
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    origin = request.headers.get("Origin")
    foreign = origin is not None and _authority(origin) != request.headers.get("Host", "").lower()
    if foreign or site not in {"same-origin", "none"}:
        raise HttpProblem(403, "Web pages of other origins may not do this.", "foreign_origin")


def _authority(origin: str) -> str:
    """Return the host and port of an origin as a Host header has them; of ``null``, nothing."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _check_direct(request: Any) -> None:
    """Refuse what a proxy has brought here from elsewhere."""
    if any(name in request.headers for name in _PROXY_HEADERS):
        raise HttpProblem(
            403,
            f"Through a proxy this needs an admin token, and the service has none; set {TOKEN_VARIABLE}.",
            "admin_token_not_set",
        )


def _check_host(request: Any) -> None:
    """Refuse what reached the loopback interface by a name that leads here by a trick."""
    host = request.headers.get("Host", "")
    if not is_local_name(host):
        raise HttpProblem(
            403,
            f"Under the host name {_name(host)!r} this needs an admin token, and the service has none; use"
            f" localhost, or set {TOKEN_VARIABLE}.",
            "foreign_host",
        )


def is_local_name(host: str) -> bool:
    """Return whether a Host header has a name of the loopback interface."""
    name = _name(host)
    return name == "localhost" or _is_loopback(name)


def _name(host: str) -> str | None:
    """Return a Host header without the port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _bearer(request: Any) -> bytes | None:
    """Return the token that a request brings; other schemes are not the service's."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    return str(token).strip().encode("latin-1", "replace")


def _unauthorized(detail: str) -> HttpProblem:
    return HttpProblem(401, detail, headers={"WWW-Authenticate": 'Bearer realm="lva"'})


def _too_often(what: str, wait: float) -> HttpProblem:
    seconds = math.ceil(wait)
    return HttpProblem(
        429, f"{what}; try again in {seconds} s.", headers={"Retry-After": str(seconds)}
    )
