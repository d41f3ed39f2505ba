"""The newest log records of each plugin, for status pages: bounded, and without secrets."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from contextlib import AbstractContextManager
from typing import Final

from typing_extensions import TypedDict

from lva.logs.loggers import hearing
from lva.logs.records import Entry

#: Most records that are kept of one plugin, and most characters of them together.
RECORDS: Final = 200
CHARACTERS: Final = 64_000
#: Most characters of one record's message, and of its traceback: of the end, which says what was raised.
_MESSAGE: Final = 2_000
_TRACEBACK: Final = 16_000


class LogRecord(TypedDict):
    """A log record."""

    at: float
    """In Unix seconds."""
    level: str
    logger: str
    message: str
    traceback: str | None


class LogTail:
    """Keeps the newest records of each plugin: its own, and those of libraries that it called."""

    def __init__(self) -> None:
        # Re-entrant: a finalizer may log while an entry is being kept.
        self._lock = threading.RLock()
        self._records: dict[str, deque[LogRecord]] = {}
        self._sizes: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._failures: dict[str, LogRecord] = {}

    def installed(self) -> AbstractContextManager[None]:
        """Get all records that are logged inside."""
        return hearing(self.keep)

    def keep(self, entry: Entry) -> None:
        """Keep an entry, if it is a plugin's."""
        plugin = entry.plugin
        if plugin is None:
            return
        told = _told(entry)
        with self._lock:
            records = self._records.setdefault(plugin, deque())
            records.append(told)
            self._counts[plugin] += 1
            self._sizes[plugin] += _size(told)
            while len(records) > RECORDS or self._sizes[plugin] > CHARACTERS:
                self._sizes[plugin] -= _size(records.popleft())
            if told["traceback"] is not None and entry.level >= logging.WARNING:
                self._failures[plugin] = told

    def count(self, plugin: str) -> int:
        """Return how many records the plugin has logged."""
        return self._counts[plugin]

    def records(self, plugin: str) -> list[LogRecord]:
        """Return the plugin's newest records, oldest first."""
        with self._lock:
            return list(self._records.get(plugin, ()))

    def failure(self, plugin: str) -> LogRecord | None:
        """Return the newest of the plugin's warnings and errors that came with a traceback."""
        return self._failures.get(plugin)


def _told(entry: Entry) -> LogRecord:
    """Return what is kept of an entry."""
    message, traceback = entry.message, entry.traceback
    if len(message) > _MESSAGE:
        message = f"{message[:_MESSAGE]}…"
    if traceback is not None and len(traceback) > _TRACEBACK:
        traceback = f"…\n{traceback[-_TRACEBACK:]}"
    return {
        "at": round(entry.at, 3),
        "level": entry.level_name,
        "logger": entry.logger,
        "message": message,
        "traceback": traceback,
    }


def _size(told: LogRecord) -> int:
    """Return how many characters a record has."""
    return len(told["message"]) + len(told["traceback"] or "")
