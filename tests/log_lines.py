"""The service's logging in this process, for the length of a test."""

from __future__ import annotations

import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lva.logs import loggers as logs
from lva.logs.records import entry_of


class Lines:
    """A writer that keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str, keep: bool = False) -> None:
        self.lines.append(line)

    def flush(self, seconds: float) -> None:
        pass

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines of the JSON form."""
        return [json.loads(line) for line in self.lines]

    @property
    def messages(self) -> list[str]:
        """What they say."""
        return [record["message"] for record in self.records]


def names_plugin(record: logging.LogRecord) -> bool:
    """Mark a record with whose it is and which request it is about, as the service would; a filter."""
    entry = entry_of(record)
    record.plugin, record.request_id = entry.plugin, entry.request_id
    return True


@contextmanager
def kept_lines() -> Iterator[Lines]:
    """Yield what `logs.set_up` can be given; put back afterwards what it and plugins may change."""
    root, manager = logging.getLogger(), logging.Logger.manager
    handlers, level, disabled = root.handlers[:], root.level, manager.disable
    levels = {name: logging.getLogger(name).level for name in logs.CHATTY}
    factory, kind = logging.getLogRecordFactory(), logging.getLoggerClass()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_output", None)
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        patch.setattr(sys, "unraisablehook", sys.unraisablehook)
        patch.setattr(threading, "excepthook", threading.excepthook)
        try:
            yield Lines()
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
            root.disabled = False
            logging.disable(disabled)
            logging.setLogRecordFactory(factory)
            logging.setLoggerClass(kind)
            for name, value in levels.items():
                logging.getLogger(name).setLevel(value)
            for logger in manager.loggerDict.values():
                if isinstance(logger, logging.Logger):
                    logger.disabled = False
