"""Log records as plain text and values, and the two forms in which they are written.

A record is made into an `Entry` in the thread that logs it, since its arguments may run code of whoever made
them. Afterwards nothing of a plugin is in it, its length is bounded, and it can go anywhere.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from lva.logs.error_text import traceback_text
from lva.logs.masking import cut, cut_front, redact

#: The name of the plugin whose code is running; inherited by every task and worker thread it starts.
current_plugin: Final[ContextVar[str | None]] = ContextVar("lva_plugin", default=None)
#: The id of the request being handled.
current_request: Final[ContextVar[str | None]] = ContextVar("lva_request", default=None)

PLUGIN_PREFIX: Final = "lva.plugin."
#: Most characters of a message, and of all that is logged beside it. The receipt is exempt.
LONGEST_MESSAGE: Final = 16_000
LONGEST_EXTRA: Final = 64_000
#: What every record has; anything else was given as `extra`.
_PLAIN: Final = frozenset(
    {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "plugin", "request_id"}
)
#: ANSI colours of the levels at a terminal; the first that is not above the record's.
_COLOURS: Final = ((logging.ERROR, "31"), (logging.WARNING, "33"))

#: Makes an entry a line.
Form: TypeAlias = Callable[["Entry"], str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One log record: plain, of bounded length and without secrets, but for `extra`.

    Attributes:
        at: When, in Unix seconds.
        plugin: Whose it is: the plugin's own, or a library's on its behalf.
        traceback: Of the error that it is about.
        stack: Where the code was, if that was asked for.
        extra: What else was logged, as it was given.
    """

    at: float
    level: int
    level_name: str
    logger: str
    plugin: str | None
    request_id: str | None
    message: str
    traceback: str | None = None
    stack: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def entry_of(record: logging.LogRecord) -> Entry:
    """Return a record's content. Never raises, whatever is in the record."""
    return Entry(
        record.created,
        record.levelno,
        f"{record.levelname}",
        record.name,
        plugin_of(record),
        current_request.get(),
        _message(record),
        _traceback(record),
        None if record.stack_info is None else cut_front(record.stack_info, LONGEST_MESSAGE),
        {key: value for key, value in record.__dict__.items() if key not in _PLAIN},
    )


def plugin_of(record: logging.LogRecord) -> str | None:
    """Return the name of the plugin that logs a record, or that a library logs it for, in this context."""
    if record.name.startswith(PLUGIN_PREFIX):
        return record.name.removeprefix(PLUGIN_PREFIX)
    return None if record.name.startswith("lva.") else current_plugin.get()


def _message(record: logging.LogRecord) -> str:
    try:
        return cut(record.getMessage(), LONGEST_MESSAGE)
    except BaseException as error:  # noqa: BLE001 - arguments of a plugin may do anything
        why = f"(its arguments cannot be written: {type(error).__name__})"
        return cut(
            f"{record.msg if type(record.msg) is str else type(record.msg)} {why}", LONGEST_MESSAGE
        )


def _traceback(record: logging.LogRecord) -> str | None:
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if error is not None:
        return traceback_text(error)
    return cut_front(record.exc_text, LONGEST_MESSAGE) if record.exc_text else None


def text_form(entry: Entry) -> str:
    """Return one line for people: time, level, plugin or logger, message; below it the rest."""
    clock = time.strftime("%H:%M:%S", time.localtime(entry.at))
    where = entry.logger
    if entry.plugin is not None:
        own = entry.logger.startswith(PLUGIN_PREFIX)
        where = entry.plugin if own else f"{entry.plugin}/{entry.logger}"
    head = f"{clock}.{int(entry.at % 1 * 1000):03d} {entry.level_name:<8} {where}  {entry.message}"
    rest = [text for text in (entry.traceback, entry.stack) if text]
    with contextlib.suppress(KeyError, TypeError):  # it may be something of a plugin's by that name
        rest += _indented(entry.extra.get("tasks", ()))
    return redact("\n".join([head, *rest]))


def coloured_form(entry: Entry) -> str:
    """Return `text_form` for a terminal: warnings are yellow, errors red."""
    text = text_form(entry)
    for level, colour in _COLOURS:
        if entry.level >= level:
            head, newline, rest = text.partition("\n")
            return f"\x1b[{colour}m{head}\x1b[0m{newline}{rest}"
    return text


def _indented(tasks: Iterable[Mapping[str, Any]], indent: str = "  ") -> Iterator[str]:
    """Yield a line for each task of a tree."""
    for task in tasks:
        yield f"{indent}task {task['name']} at {task['where']}"
        yield from _indented(task["children"], indent + "  ")


def json_form(entry: Entry) -> str:
    """Return one JSON object on one line."""
    document: dict[str, Any] = {
        "time": entry.at,
        "level": entry.level_name,
        "logger": redact(entry.logger),
        "message": entry.message,
        **({} if entry.plugin is None else {"plugin": entry.plugin}),
        **({} if entry.request_id is None else {"request_id": redact(entry.request_id)}),
        **({} if entry.traceback is None else {"exception": entry.traceback}),
        **({} if entry.stack is None else {"stack_info": entry.stack}),
    }
    if not entry.extra:
        return json.dumps(document)
    try:
        extra = {key: _masked(value) for key, value in entry.extra.items() if key not in document}
        text = json.dumps({**document, **extra}, default=_plain)
    except BaseException as error:  # noqa: BLE001 - values of a plugin may do anything
        document["extra"] = f"(cannot be written as JSON: {type(error).__name__})"
        return json.dumps(document)
    if len(text) > LONGEST_EXTRA + LONGEST_MESSAGE and "receipt" not in entry.extra:
        document["extra"] = f"(cut: {len(text):,} characters)"
        return json.dumps(document)
    return text


def _masked(value: Any) -> Any:
    """Return a value without secrets in its texts; keys stay, and what is no JSON is left to `_plain`."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    """Return a value that JSON has not as one that it has."""
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return cut(str(value), LONGEST_MESSAGE)
