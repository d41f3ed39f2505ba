"""A request as Trio-style handlers see it: what cannot be read of it is the client's mistake (400)."""

from __future__ import annotations

from typing import Any

from quart_trio.wrappers import TrioRequest
from werkzeug.exceptions import BadRequest


class ServiceRequest(TrioRequest):
    """Quart's request, whose errors in reading a body are all `BadRequest`."""

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
        try:
            return await super().get_json(force, silent, cache)
        except (BadRequest, RecursionError) as error:
            if silent:
                return None
            if isinstance(error, BadRequest):
                raise
            raise BadRequest("The request's body is not JSON: it is nested too deeply.") from error

    def on_json_loading_failed(self, error: Exception) -> Any:
        """Refuse it."""
        raise BadRequest(f"The request's body is not JSON: {error}.") from error

    async def _load_form_data(self) -> None:
        try:
            await super()._load_form_data()
        except (ValueError, LookupError) as error:  # encodings, boundaries, names of encodings
            raise BadRequest(f"The request's form is malformed: {error}.") from error
