"""Errors as problem documents (RFC 9457), with an `error_code` that monitoring can group by."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field
from quart import Response
from quart_trio.wrappers import TrioResponse
from typing_extensions import TypedDict

from lva.host.status import OpenCircuit
from lva.http.refusal import phrase

MEDIA_TYPE: Final = "application/problem+json"


class Problem(TypedDict):
    """An error (RFC 9457)."""

    type: str
    """Always about:blank: the status says what kind of error it is."""
    title: str
    """The status in words."""
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    """What happened and what to do, for people."""
    error_code: str
    """Stable and short, for programs."""
    request_id: str | None
    """The id of the request, as in the log."""


class NotReady(Problem):
    """Why requests should go elsewhere."""

    reasons: dict[str, str]
    """By plugin, or under service."""
    open_circuits: list[OpenCircuit]
    """Receivers that plugins which run cannot reach."""


class Refused(Problem):
    """A file or settings that a plugin cannot be loaded from."""

    problems: list[str]
    """All that is wrong."""


class HttpProblem(Exception):  # noqa: N818 - the RFC's word
    """An error to answer a request with.

    Args:
        status: The HTTP status.
        detail: What happened and what to do, for people.
        error_code: Stable and short, for programs; from the status if left out.
        headers: To set on the response.
        extra: Further members of the document.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        error_code: str | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.error_code: str = error_code or default_code(status)
        self.headers: dict[str, str] = dict(headers or {})
        self.extra = extra

    def body(self, request_id: str | None) -> bytes:
        """Return the document."""
        document: Problem = {
            "type": "about:blank",
            "title": phrase(self.status),
            "status": self.status,
            "detail": self.detail,
            "error_code": self.error_code,
            "request_id": request_id,
        }
        return json.dumps({**document, **self.extra}).encode() + b"\n"

    def response(self, request_id: str | None) -> Response:
        """Return the document as a Quart response."""
        return TrioResponse(
            self.body(request_id), self.status, {"Content-Type": MEDIA_TYPE, **self.headers}
        )


def default_code(status: int) -> str:
    """Return the error code of a status that came without one: ``not_found`` for 404."""
    words = re.sub(r"[^a-z0-9]+", "_", phrase(status).lower().replace("'", "")).strip("_")
    return words or f"status_{status}"
