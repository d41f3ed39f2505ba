"""HTTP within one server: what an HLS playlist names is fetched from there, and redirects stay there.

FFmpeg would follow both anywhere, with the service's rights on the network. Certificates are not verified,
as FFmpeg does not: cameras sign their own.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from lva.video.worker.failures import ConnectionLostError

_PORTS: Final = {"http": 80, "https": 443}
_CODES: Final = {401: "auth_failed", 403: "auth_failed", 404: "not_found", 410: "not_found"}


class SameServer:
    """The server of a source's address, and no other.

    Args:
        url: The source's; user and password in it are used for all that is fetched.
        timeout: Seconds without data.
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        self._place = _place(parts)
        self._timeout = timeout
        self._login = parts.netloc.rpartition("@")[0]
        passwords = request.HTTPPasswordMgrWithDefaultRealm()
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        if self._login:
            passwords.add_password(None, _without_login(parts._replace(path="/")), user, password)
        # A default context would read the system's certificates first, to look at none.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._opener = request.build_opener(
            _Redirects(self._check),
            request.HTTPSHandler(context=context),
            request.HTTPBasicAuthHandler(passwords),
            request.HTTPDigestAuthHandler(passwords),
        )

    def io_open(self, url: str, flags: int, options: Mapping[str, str]) -> Any:
        """Open what a demuxer asks for; for PyAV.

        Raises:
            ConnectionLostError: It is elsewhere, or cannot be had.
        """
        return _ResponseBody(self._get(url, _range(options)))

    def landing(self, url: str) -> str:
        """Return the address to which the server redirects within itself; the same if it does not.

        Raises:
            ConnectionLostError: It redirects elsewhere, or does not respond.
        """
        with self._get(url, {}) as response:
            parts = urlsplit(response.url)
        login = f"{self._login}@" if self._login else ""
        found: str = urlunsplit(parts._replace(netloc=login + parts.netloc))
        return found

    def _get(self, url: str, headers: Mapping[str, str]) -> Any:
        self._check(url)
        wanted = request.Request(_without_login(urlsplit(url)), headers=dict(headers))  # noqa: S310 - checked
        try:
            return self._opener.open(wanted, timeout=self._timeout)
        except HTTPError as error:
            error.close()
            other = (
                "forbidden" if error.code < 400 else "connection_failed"
            )  # a redirect, not followed
            code = _CODES.get(error.code, other)
            raise ConnectionLostError(code, f"HTTP {error.code} {_phrase(error.code)}") from None
        except URLError as error:
            raise _failure(error.reason) from None
        except OSError as error:
            raise _failure(error) from None

    def _check(self, url: str) -> None:
        parts = urlsplit(url)
        if (place := _place(parts)) != self._place:
            where = f"{place[0]}://{place[1]}" if place[1] else f"{place[0]}:"
            raise ConnectionLostError(
                "forbidden", f"the source names {where}, which is not its own server"
            )


class _Redirects(request.HTTPRedirectHandler):
    """Follows redirects to addresses that pass a check."""

    def __init__(self, check: Any) -> None:
        self._check = check

    def redirect_request(
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str
    ) -> Any:
        try:
            self._check(newurl)  # of the header Location, or of URI, which means the same here
        except ConnectionLostError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _ResponseBody:
    """A response's body, as PyAV reads it."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def read(self, count: int) -> bytes:
        """Return up to so many bytes, as soon as there are any."""
        try:
            read: bytes = self._response.read1(count)
        except OSError as error:
            raise _failure(error) from None
        return read

    def close(self) -> None:
        """Close the connection."""
        self._response.close()


def _place(parts: SplitResult) -> tuple[str, str, int | None]:
    try:
        port = parts.port
    except ValueError:
        port = None
    return parts.scheme, (parts.hostname or "").lower(), port or _PORTS.get(parts.scheme)


def _without_login(parts: SplitResult) -> str:
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _range(options: Mapping[str, str]) -> dict[str, str]:
    """Return the header for a part of a file, as a playlist with byte ranges asks for it."""
    first, end = options.get("offset"), options.get("end_offset")
    if first is None and end is None:
        return {}
    return {"Range": f"bytes={int(first or 0)}-{int(end) - 1 if end else ''}"}


def _failure(error: object) -> ConnectionLostError:
    if isinstance(error, ConnectionLostError):
        return error
    if isinstance(error, TimeoutError):
        return ConnectionLostError("timeout", "the server sent nothing in time")
    text = getattr(error, "strerror", None) or type(error).__name__
    return ConnectionLostError("connection_failed", str(text))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
