"""What the endless responses, `/events` and `/tap`, have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from lva.http.connection import ABORT

#: How long, in seconds, readers get to take what comes last.
FAREWELL: Final = 0.5
#: When to come again where too many read already, in seconds, as a header says it.
RETRY_AFTER: Final = "5"


@dataclass(slots=True)
class Shutdown:
    """How far the stop of the service is.

    Attributes:
        draining: Set to make `/readyz` respond with 503.
        closing: Set when the server is about to close its connections, to end the streams.
        reason: Why it stops.
    """

    draining: trio.Event = field(default_factory=trio.Event)
    closing: trio.Event = field(default_factory=trio.Event)
    reason: str = "the server stopped"


def abort_of(request: Any) -> Callable[[], None]:
    """Return what cuts the connection of a request off; nothing where the server has no way to do so."""
    abort: Callable[[], None] = request.scope.get("state", {}).get(ABORT, lambda: None)
    return abort


def stream_headers(content_type: str) -> dict[str, str]:
    """Return the headers of an answer that is passed on piece by piece, and kept by nobody."""
    return {
        "Content-Type": content_type,
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-Accel-Buffering": "no",  # a proxy must pass on what comes as it comes
    }
