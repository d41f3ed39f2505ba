"""A request as Trio-style handlers see it: what cannot be read of it is the client's mistake (400)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quart_trio.wrappers import TrioRequest
from werkzeug.datastructures import Headers
from werkzeug.exceptions import BadRequest

from lva.web.handling.json_bodies import read_json


class ServiceRequest(TrioRequest):
    """Quart's request, whose errors in reading a body are all `BadRequest`."""

    _json: Any = ...

    @property
    def content_length(self) -> int | None:
        """The length of the body in bytes, if the client said it. Quart asks for it of each request."""
        for name, value in self.scope["headers"]:
            if name == b"content-length" and value.isdigit():
                return int(value)
        return None

    async def get_data(
        self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False
    ) -> Any:
        """Return the body; see Quart.

        Raises:
            BadRequest: It is wanted as text, and is not UTF-8; or its form is malformed.
        """
        try:
            return await super().get_data(cache, as_text, parse_form_data)
        except UnicodeDecodeError as error:
            raise BadRequest(f"The request's body is not UTF-8: {error}.") from error

    async def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """Return the body as JSON, or None if its type is another; see Quart.

        Raises:
            BadRequest: It is not JSON; with `silent`, None is returned.
        """
        if not (force or self.is_json):
            return None
        try:
            if not cache or self._json is ...:
                self._json = read_json(await self.get_data(cache=cache))
        except BadRequest:
            if silent:
                return None
            raise
        return self._json

    async def _load_form_data(self) -> None:
        try:
            await super()._load_form_data()
        except (ValueError, LookupError) as error:  # encodings, boundaries, names of encodings
            raise BadRequest(f"The request's form is malformed: {error}.") from error


def request_headers(asgi: Mapping[str, Any]) -> Headers:
    """Return the headers of an ASGI scope as Quart has them, with the client's address among them.

    The server has checked them; to add each by itself would check it again.
    """
    headers = Headers()
    items = [
        (name.decode("latin1").title(), value.decode("latin1")) for name, value in asgi["headers"]
    ]
    client = (asgi.get("client") or ["<local>"])[0]
    headers._list = [("Remote-Addr", client), *items]  # noqa: SLF001 - to copy them is slow
    if asgi["http_version"] < "1.1":
        headers.setdefault("Host", "")
    return headers
