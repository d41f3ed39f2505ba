"""The head of a response as bytes, and how its body is framed (RFC 9112)."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

#: Statuses of responses without a body.
_BODILESS: Final = frozenset({204, 304})
#: What ends a body in chunks.
LAST_CHUNK: Final = b"0\r\n\r\n"


class Reply:
    """A response's head, made from the ASGI message that begins it.

    Args:
        message: Of the type ``http.response.start``.
        method: Of the request.
        version: Of the request's HTTP.
        keep_alive: Whether the connection may go on afterwards.

    Attributes:
        head: The bytes.
        has_body: Whether a body may be sent at all.
        chunked: Whether it goes in chunks.
        sized: Whether its length stands in the head.
        keep_alive: Whether the connection may go on afterwards, as the head says.

    Raises:
        ValueError: A header has a character that HTTP forbids.
    """

    __slots__ = ("chunked", "has_body", "head", "keep_alive", "sized")

    def __init__(self, message: Any, method: str, version: str, keep_alive: bool) -> None:
        status: int = message["status"]
        parts = [_status_line(status)]
        length = b""
        dated = encoded = False
        for name, value in message.get("headers", ()):
            lowered = name.lower()
            if lowered == b"content-length":
                length = value
            elif lowered == b"transfer-encoding":
                encoded = True
            elif lowered == b"connection":
                keep_alive = keep_alive and b"close" not in value.lower()
            else:
                dated = dated or lowered == b"date"
                parts.append(b"%b: %b\r\n" % (name, value))
        # Where both are given, the length need not be that of the body (RFC 9112, section 6.2).
        self.sized: bool = bool(length) and not encoded
        if self.sized:
            parts.append(b"content-length: %b\r\n" % length)
        bodiless = status in _BODILESS
        self.has_body: bool = not bodiless and method != "HEAD"
        self.chunked: bool = not bodiless and not self.sized and version == "1.1"
        # Without a length or chunks, the end of the connection is the end of the body.
        self.keep_alive: bool = keep_alive and (self.sized or self.chunked or bodiless)
        if self.chunked:
            parts.append(b"transfer-encoding: chunked\r\n")
        if not dated:
            parts.append(_date(int(time.time())))
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        self.head: bytes = b"".join(parts)
        lines = len(parts)
        if self.head.count(b"\n") != lines or self.head.count(b"\r") != lines or 0 in self.head:
            raise ValueError("a header of the response has a character that HTTP forbids")

    def framed(self, body: bytes, last: bool) -> bytes:
        """Return what is sent for a part of the body."""
        if not self.has_body:
            return b""
        if not self.chunked:
            return body
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return chunk + LAST_CHUNK if last else chunk


@lru_cache(maxsize=128)
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    return b"date: " + formatdate(second, usegmt=True).encode() + b"\r\n"
