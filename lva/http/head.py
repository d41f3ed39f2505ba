"""The head of a request, read strictly (RFC 9112): what could be understood in two ways is refused."""

from __future__ import annotations

import re
from typing import Final

import httptools

from lva.http.refusal import RefusedError

#: Most bytes of a head, its end included.
MOST_HEAD: Final = 16_384
#: What ends a head.
END: Final = b"\r\n\r\n"

_request_line: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])\r\n"
).match
_lone_line_feed: Final = re.compile(rb"(?<!\r)\n").search
#: Bytes that no request begins with, such as those of TLS.
_begins_wrongly: Final = re.compile(rb"[^!#$%&'*+.^_`|~0-9A-Za-z-]").match
_is_length: Final = re.compile(rb"[0-9]{1,18}").fullmatch
#: What the parser is given in place of the request line, of which it knows a few methods only.
_SOME_LINE: Final = b"GET / HTTP/1.1\r\n"


class Head:
    """The head of a request.

    Attributes:
        method: As it was sent.
        target: What it asks for: a path and query, or another form of RFC 9112, section 3.2.
        version: ``1.0`` or ``1.1``.
        headers: Names in lower case, and values, in their order.
        length: Bytes of the body; None if it comes in chunks.
        keep_alive: Whether another request may follow it.
        expects: Whether the client waits for 100 (Continue) until it sends the body.
        upgrade: To which protocol, in lower case, the client would like to change; empty if to none.
    """

    __slots__ = (
        "expects",
        "headers",
        "keep_alive",
        "length",
        "method",
        "target",
        "upgrade",
        "version",
    )

    def __init__(self, method: str, target: bytes, version: str) -> None:
        self.method: str = method
        self.target: bytes = target
        self.version: str = version
        self.headers: list[tuple[bytes, bytes]] = []
        self.length: int | None = 0
        self.keep_alive: bool = version == "1.1"
        self.expects: bool = False
        self.upgrade: bytes = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header from the parser."""
        self.headers.append((name.lower(), value.rstrip(b" \t")))


def read_head(data: bytes) -> Head:
    """Read a head that is complete, `END` included.

    Raises:
        RefusedError: It is malformed (400), or of what is not supported here (501, 505).
    """
    line = _request_line(data)
    if line is None:
        raise RefusedError(400, "The request line is malformed.")
    method, target, major, minor = line.groups()
    if major != b"1" or minor not in {b"0", b"1"}:
        raise RefusedError(505, "Only HTTP/1.0 and HTTP/1.1 are supported here.")
    head = Head(method.decode(), target, f"1.{minor.decode()}")
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(_SOME_LINE + data[line.end() :])
    except httptools.HttpParserUpgrade:
        pass  # the rest of the connection is of the new protocol, if it is one that is known
    except httptools.HttpParserError as error:
        raise RefusedError(400, f"The request is malformed: {error}.") from None
    _understand(head)
    return head


def unfinished(data: bytes) -> None:
    """Look at the beginning of a head whose end has not come yet.

    Raises:
        RefusedError: It is larger than `MOST_HEAD` (414, 431), or can become no head any more (400).
    """
    if _begins_wrongly(data) or _lone_line_feed(data):
        raise RefusedError(400, "This is not a request of HTTP/1.1.")
    if len(data) > MOST_HEAD:
        if b"\r\n" not in data[2:]:
            raise RefusedError(414, f"The request line is longer than {MOST_HEAD} bytes.")
        raise RefusedError(431, f"The request's head is larger than {MOST_HEAD} bytes.")


def _understand(head: Head) -> None:
    """Set what the headers say of the body and the connection."""
    hosts = lengths = 0
    encodings: list[bytes] = []
    upgrades: list[bytes] = []
    options = b""
    for name, value in head.headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            lengths += 1
            if not _is_length(value):
                raise RefusedError(400, "The Content-Length is malformed.")
            head.length = int(value)
        elif name == b"transfer-encoding":
            encodings.append(value.lower())
        elif name == b"connection":
            options += b"," + value.lower()
        elif name == b"expect":
            head.expects = value.lower() == b"100-continue" and head.version == "1.1"
        elif name == b"upgrade":
            upgrades.append(value.lower())
    if hosts > 1 or (not hosts and head.version == "1.1"):
        raise RefusedError(400, "A request has one Host header.")
    if lengths > 1:
        raise RefusedError(400, "A request has one Content-Length header at most.")
    if encodings:
        if encodings != [b"chunked"]:
            raise RefusedError(501, "Of Transfer-Encoding, only chunked is supported.")
        if head.version == "1.0" or lengths:
            raise RefusedError(400, "The request's Transfer-Encoding contradicts the rest of it.")
        head.length = None
    if options:
        wanted = {option.strip() for option in options.split(b",")}
        head.keep_alive = head.keep_alive and b"close" not in wanted
        if b"upgrade" in wanted or upgrades == [b"h2c"]:
            head.upgrade = upgrades[0] if len(upgrades) == 1 else b""
