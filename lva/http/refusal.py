"""What a request that is none is answered with: a problem document (RFC 9457), and the connection ends."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Final

#: Not in any RFC, but what web servers log when the client went away before it got an answer.
CLIENT_CLOSED_REQUEST: Final = 499
#: Phrases that are not in the standard library, or not the same in all versions of Python.
_PHRASES: Final = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    418: "I'm a Teapot",
    422: "Unprocessable Content",
    CLIENT_CLOSED_REQUEST: "Client Closed Request",
}


def phrase(status: int) -> str:
    """Return a status in words."""
    if status in _PHRASES:
        return _PHRASES[status]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"


class RefusedError(Exception):
    """A request that is not served, and after which nothing on its connection can be.

    Args:
        status: Of the response.
        detail: What is wrong, for people.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status: int = status
        self.detail: str = detail

    def response(self) -> bytes:
        """Return the whole response."""
        title = phrase(self.status)
        document = {
            "type": "about:blank",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            "error_code": title.lower().replace(" ", "_"),
            "request_id": None,
        }
        body = json.dumps(document).encode() + b"\n"
        return (
            f"HTTP/1.1 {self.status} {title}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        ).encode() + body
