"""The newest log records of each plugin, for status pages: bounded, and without secrets."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from lva.logs import NAMES_PLUGIN, redact

#: Most records that are kept of one plugin, and most characters of them together.
RECORDS: Final = 200
CHARACTERS: Final = 64_000
#: Most characters of one record's message, and of its traceback: of the end, which says what was raised.
_MESSAGE: Final = 2_000
_TRACEBACK: Final = 16_000
_FORMATTER: Final = logging.Formatter()


@dataclass(frozen=True, slots=True)
class Told:
    """One record, as it is shown."""

    at: float  # Unix seconds
    level: str
    logger: str
    message: str
    traceback: str | None

    @property
    def size(self) -> int:
        """How many characters it has."""
        return len(self.message) + len(self.traceback or "")

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "at": round(self.at, 3),
            "level": self.level,
            "logger": self.logger,
            "message": self.message,
            "traceback": self.traceback,
        }


class LogTail(logging.Handler):
    """Keeps the newest records of each plugin: its own, and those of libraries that it called."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(NAMES_PLUGIN)
        self._records: dict[str, deque[Told]] = {}
        self._sizes: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._failures: dict[str, Told] = {}

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Get all records that are logged inside."""
        root = logging.getLogger()
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, if it is a plugin's."""
        plugin = getattr(record, "plugin", None)
        if plugin is None:
            return
        try:
            told = _told(record)
        except Exception:  # noqa: BLE001 - as every handler of `logging` does: a record of a plugin may be broken
            self.handleError(record)
            return
        records = self._records.setdefault(plugin, deque())
        records.append(told)
        self._counts[plugin] += 1
        self._sizes[plugin] += told.size
        while len(records) > RECORDS or self._sizes[plugin] > CHARACTERS:
            self._sizes[plugin] -= records.popleft().size
        if told.traceback is not None and record.levelno >= logging.WARNING:
            self._failures[plugin] = told

    def count(self, plugin: str) -> int:
        """Return how many records the plugin has logged."""
        return self._counts[plugin]

    def records(self, plugin: str) -> list[Told]:
        """Return the plugin's newest records, oldest first."""
        with self.lock or contextlib.nullcontext():
            return list(self._records.get(plugin, ()))

    def failure(self, plugin: str) -> Told | None:
        """Return the newest of the plugin's warnings and errors that came with a traceback."""
        return self._failures.get(plugin)


def _told(record: logging.LogRecord) -> Told:
    """Return what is kept of a record. Secrets go first: half a secret would not be found."""
    message = redact(record.getMessage())
    traceback = None
    if record.exc_info and record.exc_info[1] is not None:
        text = redact(record.exc_text or _FORMATTER.formatException(record.exc_info))
        traceback = text if len(text) <= _TRACEBACK else f"…\n{text[-_TRACEBACK:]}"
    if len(message) > _MESSAGE:
        message = f"{message[:_MESSAGE]}…"
    return Told(record.created, record.levelname, record.name, message, traceback)
