"""What handlers mostly return, turned into a response without a framework's objects for it.

The same bytes leave as Quart would send for it; whatever is not known here is left to Quart.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from quart import Response
from quart_trio.wrappers import TrioResponse

from lva.contract import PluginResponse
from lva.web.handling.exchange import LARGE, Send

_TEXT: Final = b"text/html; charset=utf-8"
_JSON: Final = b"application/json"


class WholeResponse:
    """A response whose body is known.

    Args:
        status: The HTTP status.
        headers: Names in lower case, and values.
        body: The body.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status: int = status
        self.headers: list[tuple[bytes, bytes]] = headers
        self.body: bytes = body

    def as_quart(self) -> Response:
        """Return it as Quart has responses."""
        made = TrioResponse(self.body, self.status)
        del made.headers["Content-Type"]
        for name, value in self.headers:
            made.headers[name.decode().title()] = value.decode()
        return made

    async def send(self, send: Send) -> None:
        """Send it to an ASGI server."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        body = self.body
        if len(body) > LARGE:  # whether the client took it is then seen before the response ends
            await send({"type": "http.response.body", "body": body, "more_body": True})
            body = b""
        await send({"type": "http.response.body", "body": body, "more_body": False})


def whole_response(result: Any, dumps: Callable[[Any], str]) -> WholeResponse | None:
    """Return the response for a handler's result; None if Quart has to make it.

    Args:
        result: What the handler returned.
        dumps: Writes JSON, as the web application does.

    Raises:
        Exception: The result cannot be JSON, or text in UTF-8.
    """
    kind = type(result)
    if kind is str:
        return _response(200, _TEXT, result.encode())
    if kind is bytes:
        return _response(200, _TEXT, result)
    if kind is dict or kind is list:
        return _response(200, _JSON, dumps(result).encode() + b"\n")
    if kind is PluginResponse:
        return _plugin_response(result)
    return None


def content_of(response: PluginResponse) -> tuple[bytes, str | None]:
    """Return the body of a plugin's response, and its media type if there is one."""
    body = response.body
    if body is None:
        return b"", None
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), "application/octet-stream"
    return json.dumps(body).encode(), "application/json"


def _plugin_response(response: PluginResponse) -> WholeResponse | None:
    given = response.headers
    if type(response.statusCode) is not int or not (
        type(given) is dict
        and all(
            type(name) is str and type(value) is str and value.isprintable()
            for name, value in given.items()
        )
    ):
        return None
    content, media_type = content_of(response)
    headers = {} if media_type is None else {b"content-type": media_type.encode()}
    headers[b"content-length"] = b"%d" % len(content)
    for name, value in given.items():
        headers[name.lower().encode()] = value.encode()
    return WholeResponse(response.statusCode, [*headers.items()], content)


def _response(status: int, media_type: bytes, body: bytes) -> WholeResponse:
    length = b"%d" % len(body)
    return WholeResponse(status, [(b"content-type", media_type), (b"content-length", length)], body)
