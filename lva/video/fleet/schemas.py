"""What the routes of a fleet take and respond, as JSON Schema: for the API documentation."""

from __future__ import annotations

from typing import Final

from lva.video.reporting.api import Schema, list_of, object_of, or_null

_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_FLAG: Final = {"type": "boolean"}
_NUMBER: Final = {"type": "number"}
AGENT: Final = object_of(
    name=_TEXT,
    address=_TEXT,
    room=_COUNT,
    streams=_COUNT,
    load={**_NUMBER, "description": "Running processes of its machine for each processor."},
    labels=list_of(_TEXT),
    draining=_FLAG,
    alive=_FLAG,
    silent={**_NUMBER, "description": "Seconds since its last sign of life."},
    since={**_NUMBER, "description": "When it has started, in Unix seconds."},
)
FLEET: Final = object_of(
    name=_TEXT,
    agent={**_TEXT, "description": "This one."},
    lease={**_NUMBER, "description": "Seconds."},
    trouble=or_null({**_TEXT, "description": "Why this agent is no part of the fleet now."}),
    agents=list_of(AGENT),
    streams=object_of(total=_COUNT, held=_COUNT, waiting=_COUNT),
    waiting=list_of(object_of(stream_id=_TEXT, reason=_TEXT)),
    broken=list_of(
        object_of(kind={"type": "string", "enum": ["stream", "agent"]}, key=_TEXT, reason=_TEXT)
    ),
)
AGENT_ACTION: Final[Schema] = {
    "type": "object",
    "properties": {"action": {"type": "string", "enum": ["drain", "undrain"]}},
    "required": ["action"],
    "additionalProperties": False,
}
MOVED: Final = object_of(
    moved=list_of(_TEXT),
    left={
        **list_of(object_of(stream_id=_TEXT, reason=_TEXT)),
        "description": "Streams that stay where they are.",
    },
)
AGENT_ACTED: Final = object_of(
    agent=_TEXT,
    draining={**_FLAG, "description": "What is wanted of it from now on."},
    alive={
        **_FLAG,
        "description": "Whether it knows; one that is not alive does so once it is back.",
    },
)
