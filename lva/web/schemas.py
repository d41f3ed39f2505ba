"""What the service's own resources are asked and answer, for the API document: JSON Schemas, by hand.

The tests hold every answer against these, with no member left undescribed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from lva.contract import RuntimeName
from lva.host.delivery.ledger import AGE, ATTEMPTS, DAMAGED, FAILED, OVERFLOW, SHUTDOWN
from lva.host.delivery.tap import STEPS
from lva.host.life.life import State
from lva.host.watch.uses import Blocked
from lva.web.actions import ACTIONS
from lva.web.problems import MEDIA_TYPE
from lva.web.tap_stream import LINES, MOST_LINES, PARAMETERS

JSON: Final = "application/json"
Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of an operation.

    Args:
        meaning: When it is given, for people.
        schema: The name of its schema among `SCHEMAS`; None for what is not JSON.
        media_type: What it is sent as.
        or_else: Other media types that it may be sent as, not in JSON.
    """

    meaning: str
    schema: str | None
    media_type: str = JSON
    or_else: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One verb of one of the service's own resources.

    Args:
        summary: What it is for, in a few words.
        answers: By status; that any operation may fail needs no mention.
        description: What else there is to know.
        parameters: Those of the query and the headers, as OpenAPI has them; the path's are known.
        needs: What the admin token is for; empty if it makes no difference.
    """

    summary: str
    answers: Mapping[int, Answer]
    description: str = ""
    parameters: Sequence[Schema] = field(default_factory=tuple)
    needs: str = ""


def ref(name: str) -> Schema:
    """Return a reference to a schema of this module."""
    return {"$ref": f"#/components/schemas/{name}"}


def described(schema: Schema, description: str) -> Schema:
    """Return the schema with a description."""
    return {**schema, "description": description}


def record(description: str, /, **members: Schema) -> Schema:
    """Return the schema of an object that always has all of these members."""
    return {
        "type": "object",
        "description": description,
        "properties": members,
        "required": list(members),
    }


def with_optional(description: str, optional: Mapping[str, Schema], /, **members: Schema) -> Schema:
    """Return the schema of an object that has all of these members, and may have the optional ones."""
    schema = record(description, **members)
    return {**schema, "properties": {**members, **optional}}


def listing(items: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def mapping(values: Schema) -> Schema:
    """Return the schema of an object with any names."""
    return {"type": "object", "additionalProperties": values}


def nullable(schema: Schema) -> Schema:
    """Return the schema of what may be null instead."""
    if isinstance(kind := schema.get("type"), str):
        return {**schema, "type": [kind, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


ANYTHING: Final[Schema] = {}
TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
NUMBER: Final[Schema] = {"type": "number"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
STATE: Final[Schema] = {"type": "string", "enum": [state.value for state in State]}
_REASONS: Final = (OVERFLOW, ATTEMPTS, AGE, SHUTDOWN, FAILED, DAMAGED)
_VALUE: Final[Schema] = {"type": ["string", "number"]}
_STEPS: Final = " ".join(f"{step}: {meaning}." for step, meaning in STEPS.items())
_PROBLEM: Final = record(
    "An error (RFC 9457).",
    type=described(TEXT, "Always about:blank: the status says what kind of error it is."),
    title=described(TEXT, "The status in words."),
    status={"type": "integer", "minimum": 400, "maximum": 599},
    detail=described(TEXT, "What happened and what to do, for people."),
    error_code=described(TEXT, "Stable and short, for programs."),
    request_id=described(nullable(TEXT), "The id of the request, as in the log."),
)

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Problem": _PROBLEM,
    "NotReady": {
        **record(
            "Why requests should go elsewhere.",
            **_PROBLEM["properties"],
            reasons=described(mapping(TEXT), "By plugin, or under service."),
        ),
    },
    "Index": record(
        "What there is.",
        service={"const": "luna-video-agent"},
        resources=described(mapping(TEXT), "What each path is for."),
        actions=described(mapping(TEXT), "What a POST to each path does."),
    ),
    "Refused": record(
        "A file or settings that a plugin cannot be loaded from.",
        **_PROBLEM["properties"],
        problems=described(listing(TEXT), "All that is wrong."),
    ),
    "Alive": record("The event loop runs.", status={"const": "alive"}),
    "Ready": record(
        "Every plugin runs that nobody has stopped.",
        status={"const": "ready"},
        plugins=described(listing(TEXT), "Their names, in activation order."),
        stopped=described(listing(TEXT), "Those that an operator has stopped."),
    ),
    "Versions": {
        **record("Versions of the service, of Python, and of packages.", version=TEXT, python=TEXT),
        "additionalProperties": TEXT,
    },
    "Plugins": record("All active plugins.", plugins=listing(ref("Plugin"))),
    "Plugin": with_optional(
        "An active plugin. What the admin token is needed for is null or left out without it.",
        {
            "settings": described(ANYTHING, "The host's keys of its table; of one plugin only."),
            "config": described(
                mapping(ANYTHING),
                "For each class its configuration, secrets masked; of one plugin only.",
            ),
        },
        name=TEXT,
        classes=described(listing(TEXT), "The names of its classes."),
        kind={"type": "string", "enum": ["event", "background", "event+background"]},
        runtime={"type": "string", "enum": list(get_args(RuntimeName))},
        file=described(nullable(TEXT), "The file it was loaded from. Needs the token."),
        sha256={"type": "string", "pattern": "^[0-9a-f]{64}$"},
        file_changed=described(FLAG, "Whether that file is another one now, or gone."),
        state=STATE,
        since=described(TIME, "When that state began."),
        reason=described(nullable(TEXT), "Why it is in that state. Needs the token."),
        lives=described(COUNT, "Each start, restart or reload by an operator begins another."),
        restarts=described(COUNT, "Attempts after the first of each life."),
        critical=described(FLAG, "Whether its failure ends the service."),
        routes=described(listing(ref("Route")), "What it serves."),
        tasks=described(ref("Tasks"), "How many of it run."),
        loop=described(nullable(ref("LoopUse")), "Null if nobody watches the event loop."),
        ledger=described(nullable(ref("Ledger")), "Null for a plugin that takes no points."),
        deliveries=described(listing(ref("Delivery")), "For each event class."),
        last_error=described(nullable(TEXT), "What failed last. Needs the token."),
        last_error_at=described(nullable(TEXT), "When that was (ISO 8601, UTC)."),
        actions=described(
            listing({"type": "string", "enum": ["start", "stop", "restart", "reload"]}),
            "What would not be refused now.",
        ),
        history=described(listing(ref("Transition")), "The last hundred changes of its state."),
    ),
    "Route": record("A route of a plugin.", path=TEXT, methods=listing(TEXT)),
    "Tasks": record(
        "Tasks by event loop.",
        trio=described(COUNT, "On the service's."),
        asyncio=described(COUNT, "On the plugin's own."),
    ),
    "Transition": record("A change of state.", state=STATE, at=TIME, reason=nullable(TEXT)),
    "Ledger": record(
        "What became of the points since the service started: accepted = delivered + rejected +"
        " dropped + queued + in_flight + kept.",
        accepted=described(COUNT, "Entered the channel, those from an earlier run included."),
        delivered=described(COUNT, "Were in a call of handleEvent() that returned."),
        rejected=described(COUNT, "Were called wrong for ever."),
        dropped={
            "type": "object",
            "description": "Will not be delivered, by reason.",
            "properties": dict.fromkeys(_REASONS, COUNT),
        },
        queued=described(COUNT, "Wait in the channel."),
        in_flight=described(COUNT, "Are in a call, or wait for their next attempt."),
        kept=described(COUNT, "Are left in the spool for the next run."),
        recovered=described(COUNT, "Of the accepted, those that an earlier run had left."),
        refused=described(COUNT, "Came when no more were taken; not among the accepted."),
        filtered=described(
            COUNT, "Were not for the plugin, by its settings; not among the accepted."
        ),
        retries=described(COUNT, "Calls that were repeated attempts."),
    ),
    "Delivery": record(
        "The way of points to one event class.",
        **{"class": TEXT},
        event=TEXT,
        ledger=ref("Ledger"),
        batch_sizes=described(ref("Histogram"), "Points in each call of handleEvent()."),
        handle_seconds=described(ref("Histogram"), "Seconds that each call took."),
        circuit=described(
            {"type": "string", "enum": ["closed", "open", "probing"]},
            "open: no calls until the next probe; probing: one call is under way.",
        ),
        next_probe=described(
            nullable(NUMBER),
            "Seconds until one call probes the receiver, while the circuit is open.",
        ),
        spool_bytes=described(COUNT, "Bytes of points that wait on disk."),
    ),
    "LoopUse": record(
        "What a plugin uses of the service's event loop, and what it blocked.",
        share=described(NUMBER, "Of its time, over the last minute; from 0 to 1."),
        cpu_share=described(
            nullable(NUMBER), "Processor time per second of its own thread; null on Trio."
        ),
        blocks=described(
            COUNT,
            "How often it has blocked an event loop or a thread for too long.",
        ),
        last_block=described(nullable(ref("LoopBlock")), "Needs the token."),
        blocked_for=described(
            nullable(NUMBER), "For how many seconds it has blocked something by now, if it does."
        ),
    ),
    "LoopBlock": record(
        "A moment in which nothing else could run.",
        of=described(
            {"type": "string", "enum": list(get_args(Blocked))},
            "What was blocked: the service's event loop, the plugin's own, or a thread of a request.",
        ),
        at=TIME,
        seconds=described(NUMBER, "How long it took."),
        where=described(TEXT, "The line."),
        stack=described(listing(TEXT), "How it got there."),
    ),
    "TaskTree": record("The tasks of a plugin.", plugin=TEXT, at=TIME, tasks=listing(ref("Task"))),
    "Task": record(
        "A task.",
        name=TEXT,
        runtime={"type": "string", "enum": list(get_args(RuntimeName))},
        where=described(TEXT, "What it waits at, the innermost first."),
        children=described(listing(ref("Task")), "Those that it has started."),
    ),
    "Log": record(
        "The newest log records of a plugin.",
        plugin=TEXT,
        records=listing(ref("LogRecord")),
        last_failure=described(nullable(ref("LogRecord")), "The newest with a traceback."),
    ),
    "LogRecord": record(
        "A log record.",
        at=described(NUMBER, "In Unix seconds."),
        level=TEXT,
        logger=TEXT,
        message=TEXT,
        traceback=nullable(TEXT),
    ),
    "Tapped": {
        "description": "One line of the stream.",
        "anyOf": [ref("TappedPoint"), ref("LeftOut"), ref("End")],
    },
    "TappedPoint": record(
        "A point, and what has happened to it.",
        at=described(NUMBER, "When it did, in Unix seconds."),
        step={"type": "string", "enum": list(STEPS), "description": _STEPS},
        plugin=described(
            nullable(TEXT), "Who has published it (null: the service), or was to take it."
        ),
        series=TEXT,
        time=described(NUMBER, "The point's own, in Unix seconds."),
        tags=described(mapping(_VALUE), "Long texts are cut."),
        fields=described(mapping(_VALUE), "Long texts are cut."),
    ),
    "LeftOut": record(
        "How many points were left out since the last such line.",
        at=NUMBER,
        left_out=described(COUNT, "All of them."),
        over_rate=described(COUNT, "Wanted, but more than the rate allows."),
        not_looked_at=described(COUNT, "Too many to look at, or the reader was too slow."),
    ),
    "End": record("The last line.", at=NUMBER, end=described(TEXT, "Why the stream ends.")),
    "Histogram": record(
        "How many values fell into each bucket.",
        bounds=described(listing(NUMBER), "The buckets' upper bounds."),
        counts=described(listing(COUNT), "One more than there are bounds: of all larger values."),
        sum=described(NUMBER, "Of all values."),
    ),
}

_HTML: Final = "text/html; charset=utf-8"
_TAP_PARAMETERS: Final[Mapping[str, Schema]] = {
    "plugin": TEXT,
    "series": listing(TEXT),
    "tag": listing({"type": "string", "pattern": "^[^:]+:"}),
    "rate": {"type": "integer", "minimum": 1, "maximum": MOST_LINES, "default": LINES},
}
_DETAILS: Final = "Details, such as errors, need the admin token."
_WRONG_TOKEN: Final[Mapping[int, Answer]] = {
    401: Answer("The token is the wrong one.", "Problem", MEDIA_TYPE),
    429: Answer("Too many wrong tokens, or too many actions.", "Problem", MEDIA_TYPE),
}
_NO_ACCESS: Final[Mapping[int, Answer]] = {
    **_WRONG_TOKEN,
    401: Answer("The token is missing, or the wrong one.", "Problem", MEDIA_TYPE),
    403: Answer(
        "There is no token, and the request comes from elsewhere; or from another origin's page.",
        "Problem",
        MEDIA_TYPE,
    ),
}
_NO_SUCH_PLUGIN: Final = Answer("No active plugin has this name.", "Problem", MEDIA_TYPE)

#: By path and verb, as in the route table.
OPERATIONS: Final[Mapping[tuple[str, str], Operation]] = {
    ("/", "GET"): Operation(
        "The console, and what there is",
        {200: Answer("The index; to browsers, the console.", "Index", or_else=[_HTML])},
    ),
    ("/livez", "GET"): Operation(
        "Whether the event loop responds",
        {200: Answer("It does.", "Alive")},
        "For liveness probes: says nothing of the plugins.",
    ),
    ("/readyz", "GET"): Operation(
        "Whether requests should be sent here",
        {
            200: Answer("Every active plugin runs.", "Ready"),
            503: Answer("One does not, or the service is stopping.", "NotReady", MEDIA_TYPE),
        },
        "For readiness probes and load balancers.",
    ),
    ("/version", "GET"): Operation("Versions", {200: Answer("They.", "Versions")}),
    ("/plugins", "GET"): Operation(
        "All plugins",
        {200: Answer("In activation order.", "Plugins"), **_WRONG_TOKEN},
        needs=_DETAILS,
    ),
    ("/plugins/<name>", "GET"): Operation(
        "One plugin",
        {200: Answer("It.", "Plugin"), **_WRONG_TOKEN, 404: _NO_SUCH_PLUGIN},
        needs=_DETAILS,
    ),
    **{
        (path, "POST"): Operation(
            f"{meaning[0].upper()}{meaning[1:]}",
            {
                200: Answer("Done; the plugin as it is now.", "Plugin"),
                **_NO_ACCESS,
                404: _NO_SUCH_PLUGIN,
                409: Answer("Not in its present state.", "Problem", MEDIA_TYPE),
                422: Answer(
                    "The file or the settings are wrong; the plugin goes on.", "Refused", MEDIA_TYPE
                ),
            },
            needs="Actions need the admin token.",
        )
        for path, meaning in ACTIONS.items()
    },
    ("/plugins/<name>/tasks", "GET"): Operation(
        "Its tasks, and where they wait",
        {
            200: Answer("Each below the task that started it.", "TaskTree"),
            **_NO_ACCESS,
            404: _NO_SUCH_PLUGIN,
        },
        needs="This needs the admin token.",
    ),
    ("/plugins/<name>/log", "GET"): Operation(
        "Its newest log records",
        {200: Answer("Oldest first.", "Log"), **_NO_ACCESS, 404: _NO_SUCH_PLUGIN},
        needs=_DETAILS,
    ),
    ("/events", "GET"): Operation(
        "How the service is, as it changes",
        {
            200: Answer(
                "Server-sent events: hello, tick, transition, bye.", None, "text/event-stream"
            ),
            **_WRONG_TOKEN,
            503: Answer("Too many streams, or the service is stopping.", "Problem", MEDIA_TYPE),
        },
        "What lva top and the console show. Reasons of changes are null without the token.",
        needs=_DETAILS,
    ),
    ("/console/<path:part>", "GET"): Operation(
        "The parts of the console",
        {
            200: Answer("A part.", None, "*/*"),
            404: Answer("There is no such part.", "Problem", MEDIA_TYPE),
        },
    ),
    ("/tap", "GET"): Operation(
        "Points as they pass",
        {
            200: Answer(
                "One JSON object a line, until the client leaves.", "Tapped", "application/jsonl"
            ),
            400: Answer("The query is malformed.", "Problem", MEDIA_TYPE),
            **_NO_ACCESS,
            404: _NO_SUCH_PLUGIN,
            503: Answer(
                "Too many look already, or the service is stopping.", "Problem", MEDIA_TYPE
            ),
        },
        "Delivery is never slowed down: what there is no time or room for is left out, counted, and reported"
        " in a line of its own, at most once a second. Such a line comes after 15 seconds of silence, too."
        " The last line says why the stream ends.",
        [
            {
                "name": name,
                "in": "query",
                "description": meaning,
                "schema": _TAP_PARAMETERS[name],
            }
            for name, meaning in PARAMETERS.items()
        ],
        needs="Points can hold anything, so this needs the admin token.",
    ),
    ("/openapi.json", "GET"): Operation(
        "This document",
        {200: Answer("As of now: routes come and go with their plugins.", "Document")},
    ),
    ("/docs", "GET"): Operation("API documentation", {200: Answer("A page.", None, _HTML)}),
}
