"""What HTTP asks of a response, checked before the server sees it.

A server that finds a response wrong midway has a connection that it can no longer use for anything, not even
for an error; and it may leave the client waiting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_is_name: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_has_control: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
_is_length: Final = re.compile(rb"[0-9]{1,20}").fullmatch
#: Statuses of responses without a body, for which a length would be that of another response.
_BODILESS: Final = frozenset({204, 304})


class BadResponseError(ValueError):
    """A response that HTTP does not allow. Whoever made it is to blame."""


def sendable(status: int, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return headers without a Content-Length where the status leaves no body to have one.

    Frameworks set that of the body that a handler gave. HTTP forbids it with 204; to clients of HTTP/2 it is
    an error; and caches would note the wrong one of 304.
    """
    if status not in _BODILESS:
        return [*headers]
    return [item for item in headers if item[0].lower() != b"content-length"]


class Framing:
    """One response's head, and how its body keeps to it.

    Args:
        method: Of the request.
        status: Of the response.
        headers: Names and values.

    Raises:
        BadResponseError: No server could send this.
    """

    def __init__(self, method: str, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if not 200 <= status <= 999:
            raise BadResponseError(f"{status} is not the status of a response: 200 to 999 are")
        self.sent: int = 0
        self._expected: int | None = None
        chunked = False
        for name, value in headers:
            if not _is_name(name) or _has_control(value):
                raise BadResponseError(f"the header {name!r} has a character that HTTP forbids")
            lowered = name.lower()
            if lowered == b"content-length":
                self._expect(value)
            elif lowered == b"transfer-encoding":
                if value.lower() != b"chunked":
                    raise BadResponseError("of Transfer-Encoding, only chunked is supported")
                chunked = True
        if chunked or method == "HEAD" or status in _BODILESS:
            self._expected = None

    def _expect(self, value: bytes) -> None:
        if not _is_length(value) or self._expected not in {None, int(value)}:
            raise BadResponseError(f"the Content-Length {value.decode('latin-1')!r} is wrong")
        self._expected = int(value)

    def take(self, size: int, last: bool) -> None:
        """Count a part of the body, before it is sent.

        Raises:
            BadResponseError: The body has become longer than its Content-Length, or ends before it.
        """
        self.sent += size
        expected = self._expected
        if expected is not None and (self.sent > expected or (last and self.sent < expected)):
            is_ = "ended after" if self.sent < expected else "has at least"
            raise BadResponseError(
                f"the body {is_} {self.sent} bytes; its Content-Length is {expected}"
            )
