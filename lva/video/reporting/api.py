"""What the routes of streams take and respond, as JSON Schema: for the API documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lva.video.board import DROPPED, SKIPPED
from lva.video.codes import CODES, StreamState
from lva.video.definition import StreamDefinition

Schema = Mapping[str, Any]


def object_of(**members: Schema) -> Schema:
    """Return the schema of an object that has all of these."""
    return {"type": "object", "properties": members, "required": [*members]}


def list_of(items: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def or_null(schema: Schema) -> Schema:
    """Return the schema of what may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def _described(schema: Schema, text: str) -> Schema:
    return {**schema, "description": text}


_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "number"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_TIME: Final = _described(_NUMBER, "In Unix seconds.")
_STATUS: Final = {"type": "string", "enum": [state.value for state in StreamState]}
_CODE: Final = or_null({"type": "string", "enum": [*CODES]})
_COUNTS: Final = {"type": "object", "additionalProperties": _COUNT}

#: The body of POST and of PUT, which may name the version that it follows.
DEFINITION: Final[type[StreamDefinition]] = StreamDefinition
IDENTITY: Final = object_of(stream_id=_TEXT, version={"type": "integer", "minimum": 1})
ACTION: Final[Schema] = {
    "type": "object",
    "properties": {"action": {"type": "string", "enum": ["stop", "resume"]}},
    "required": ["action"],
    "additionalProperties": False,
}
ACTED: Final = object_of(stream_id=_TEXT, status=_STATUS)
STREAM: Final = object_of(
    stream_id=_TEXT,
    name=_TEXT,
    version={"type": "integer", "minimum": 1},
    source=_described(_TEXT, "Without a password."),
    status=_STATUS,
    reason=or_null(_TEXT),
    code=_CODE,
    since=or_null(_TIME),
    video=or_null({"type": "object", "description": "Codec, width, height, declared_fps."}),
    frames=or_null(
        object_of(
            decoded=_COUNT,
            analysed=_COUNT,
            failed=_COUNT,
            skipped=object_of(**dict.fromkeys(SKIPPED, _COUNT)),
            dropped=object_of(**dict.fromkeys(DROPPED, _COUNT)),
            held=_COUNT,
        )
    ),
    input=or_null(
        object_of(
            packets=_COUNT,
            bytes=_COUNT,
            decode_errors=_COUNT,
            time_jumps=_COUNT,
            size_changes=_COUNT,
            reconnects=_described(_COUNTS, "By code."),
        )
    ),
    frame_age_ms=or_null(
        object_of(p50=or_null(_NUMBER), p95=or_null(_NUMBER), max=or_null(_NUMBER))
    ),
    fps=or_null(_described(_NUMBER, "Frames a second in the last five seconds.")),
    picture_age=or_null(_described(_NUMBER, "Seconds since the newest frame was decoded.")),
    worker=or_null(
        object_of(
            pid=_COUNT,
            memory=_described(or_null(_COUNT), "In bytes, with that of what its plugins started."),
            processes=_described(_COUNT, "That its plugins started."),
        )
    ),
    analytics=list_of(object_of(name=_TEXT, set_aside=or_null(_TEXT))),
    events=or_null(_COUNT),
    fleet=or_null(
        _described(
            object_of(
                agent=or_null(_described(_TEXT, "Who works on it.")),
                address=or_null(_TEXT),
                alive={"type": "boolean"},
                epoch=_COUNT,
                waiting=or_null(_described(_TEXT, "Why nobody works on it.")),
            ),
            "Null without a fleet. What only its agent knows is null where that one is not asked.",
        )
    ),
)
STREAMS: Final = object_of(streams=list_of(STREAM), total=_COUNT)
LOGS: Final = object_of(
    logs=list_of(
        object_of(time=_TIME, status=_STATUS, before=or_null(_STATUS), code=_CODE, reason=_TEXT)
    )
)
EVENTS: Final = object_of(
    events=list_of(
        object_of(
            number={"type": "integer", "minimum": 1},
            event_type=_TEXT,
            stream_id=_TEXT,
            analytics=_TEXT,
            frame=_COUNT,
            time=_TIME,
            data={"type": "object"},
        )
    ),
    next=or_null(_described(_TEXT, "The address of the next page.")),
)
ANALYTICS: Final = object_of(
    analytics=list_of(object_of(name=_TEXT, description=_TEXT, schema={"type": "object"}))
)
