"""What the endless answers, `/events` and `/tap`, have in common."""

from __future__ import annotations

from typing import Final

#: How long, in seconds, readers get to take what comes last.
FAREWELL: Final = 0.5
#: When to come again where too many read already, in seconds, as a header says it.
RETRY_AFTER: Final = "5"


def stream_headers(content_type: str) -> dict[str, str]:
    """Return the headers of an answer that is passed on piece by piece, and kept by nobody."""
    return {
        "Content-Type": content_type,
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-Accel-Buffering": "no",  # a proxy must pass on what comes as it comes
    }
