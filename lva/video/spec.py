"""The first message to a worker: its stream, source and analytics plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lva.routes.wrong_keys import WrongKey, WrongKeysError
from lva.video import messages
from lva.video.definition import StreamDefinition
from lva.video.source import Source


def spec_of(
    stream_id: str,
    definition: StreamDefinition,
    source: Source,
    analytics: Sequence[Mapping[str, Any]],
    log_level: int,
) -> dict[str, Any]:
    """Return the message.

    Args:
        stream_id: The stream's id.
        definition: What its user asked for.
        source: The definition's.
        analytics: What the worker is sent of the plugins in use.
        log_level: Of the least that the worker logs.

    Raises:
        WrongKeysError: It cannot be sent.
    """
    spec = {
        "stream_id": stream_id,
        "name": definition.name,
        "source": source.as_message(),
        "rate": None if definition.rate is None else definition.rate.model_dump(),
        "roi": None if definition.roi is None else definition.roi.model_dump(),
        "droi": None if definition.droi is None else definition.droi.model_dump(),
        "priority": definition.priority,
        "log_level": log_level,
        "analytics": list(analytics),
    }
    try:
        messages.encode(spec)
    except messages.MessageTooLargeError as error:
        why = f"they are too large: the worker would be sent {error.size} bytes of JSON"
        what = f"{why}; at most {messages.MAX_TEXT} are taken"
        raise WrongKeysError(WrongKey(("analytics",), what)) from None
    except (TypeError, ValueError) as error:
        why = f"their parameters cannot be sent: {error}"
        raise WrongKeysError(WrongKey(("analytics",), why)) from None
    return spec
