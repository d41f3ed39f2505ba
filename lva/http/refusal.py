"""What a request that is none is answered with: a problem document (RFC 9457), and the connection ends."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Final

#: Phrases that are not in the standard library, or not the same in all versions of Python.
_PHRASES: Final = {413: "Content Too Large", 414: "URI Too Long"}


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
        title = _PHRASES.get(self.status) or HTTPStatus(self.status).phrase
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
