"""What the routes of streams take and respond, as JSON Schema: for the API documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lva.video.board import DROPPED, SKIPPED
from lva.video.codes import CODES, StreamState
from lva.video.definition import StreamDefinition

Schema = Mapping[str, Any]


def _object(**members: Schema) -> Schema:
    """Return the schema of an object that has all of these."""
    return {"type": "object", "properties": members, "required": [*members]}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _described(schema: Schema, text: str) -> Schema:
    return {**schema, "description": text}


_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "number"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_TIME: Final = _described(_NUMBER, "In Unix seconds.")
_STATUS: Final = {"type": "string", "enum": [state.value for state in StreamState]}
_CODE: Final = _or_null({"type": "string", "enum": [*CODES]})
_COUNTS: Final = {"type": "object", "additionalProperties": _COUNT}

#: The body of POST and of PUT, which may name the version that it follows.
DEFINITION: Final[type[StreamDefinition]] = StreamDefinition
IDENTITY: Final = _object(stream_id=_TEXT, version={"type": "integer", "minimum": 1})
ACTION: Final[Schema] = {
    "type": "object",
    "properties": {"action": {"type": "string", "enum": ["stop", "resume"]}},
    "required": ["action"],
    "additionalProperties": False,
}
ACTED: Final = _object(stream_id=_TEXT, status=_STATUS)
STREAM: Final = _object(
    stream_id=_TEXT,
    name=_TEXT,
    version={"type": "integer", "minimum": 1},
    source=_described(_TEXT, "Without a password."),
    status=_STATUS,
    reason=_or_null(_TEXT),
    code=_CODE,
    since=_or_null(_TIME),
    video=_or_null({"type": "object", "description": "Codec, width, height, declared_fps."}),
    frames=_object(
        decoded=_COUNT,
        analysed=_COUNT,
        failed=_COUNT,
        skipped=_object(**dict.fromkeys(SKIPPED, _COUNT)),
        dropped=_object(**dict.fromkeys(DROPPED, _COUNT)),
        held=_COUNT,
    ),
    input=_object(
        packets=_COUNT,
        bytes=_COUNT,
        decode_errors=_COUNT,
        time_jumps=_COUNT,
        size_changes=_COUNT,
        reconnects=_described(_COUNTS, "By code."),
    ),
    frame_age_ms=_object(p50=_or_null(_NUMBER), p95=_or_null(_NUMBER), max=_or_null(_NUMBER)),
    fps=_described(_NUMBER, "Frames a second in the last five seconds."),
    picture_age=_or_null(_described(_NUMBER, "Seconds since the newest frame was decoded.")),
    worker=_or_null(
        _object(
            pid=_COUNT,
            memory=_described(_or_null(_COUNT), "In bytes, with that of what its plugins started."),
            processes=_described(_COUNT, "That its plugins started."),
        )
    ),
    analytics=_list(_object(name=_TEXT, set_aside=_or_null(_TEXT))),
    events=_COUNT,
)
STREAMS: Final = _object(streams=_list(STREAM), total=_COUNT)
LOGS: Final = _object(
    logs=_list(
        _object(time=_TIME, status=_STATUS, before=_or_null(_STATUS), code=_CODE, reason=_TEXT)
    )
)
EVENTS: Final = _object(
    events=_list(
        _object(
            number={"type": "integer", "minimum": 1},
            event_type=_TEXT,
            stream_id=_TEXT,
            analytics=_TEXT,
            frame=_COUNT,
            time=_TIME,
            data={"type": "object"},
        )
    ),
    next=_or_null(_described(_TEXT, "The address of the next page.")),
)
ANALYTICS: Final = _object(
    analytics=_list(_object(name=_TEXT, description=_TEXT, schema={"type": "object"}))
)
