"""What plugin code changes of the process's logging is put back, and said once with the plugin's name.

Many libraries set up logging with `logging.config`, which takes the root logger's handlers off and disables
the loggers there are. Handlers that a plugin adds stay, but for those that write to standard error, where the
service writes already; what a handler or a record factory raises is contained.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import trio

from lva import logs, stray_errors
from lva.log_records import PLUGIN_PREFIX
from lva.logs import Output, ProcessHandler

#: How often it is looked, in seconds, while plugins run.
INTERVAL: Final = 1.0
_said: set[tuple[str | None, str]] = set()


def check(plugin: str | None) -> None:
    """Put back what was changed of the process's logging, and say so once.

    Args:
        plugin: The plugin whose code ran since the last check; None if that is not known.
    """
    output = logs.output()
    if output is None:
        return
    for change in [*put_back(output)]:
        if (plugin, change) not in _said and len(_said) < 1000:
            _said.add((plugin, change))
            logger = logs.LOGGER if plugin is None else logs.plugin_logger(plugin)
            who = "a plugin" if plugin is None else "it"
            logger.warning("%s changed the logging of the whole process: %s", who, change)


async def keep_checking() -> None:
    """Check again and again, until cancelled."""
    while True:
        await trio.sleep(INTERVAL)
        check(None)


def put_back(output: Output) -> Iterator[str]:
    """Put back what was changed; yield each change in words. Cheap when there is none."""
    root = logging.getLogger()
    manager = logging.Logger.manager
    kept = [handler for handler in root.handlers if not _writes_to_stderr(handler)]
    if not any(isinstance(handler, ProcessHandler) for handler in kept):
        kept.insert(0, output.handler)
        yield "it removed the service's handler; it is back"
    if len(kept) < len(root.handlers):
        yield "it added a handler that writes to standard error, where the service writes; it was removed"
    if kept != root.handlers:
        root.handlers[:] = kept
    if output.handler.level != logging.NOTSET:
        output.handler.setLevel(logging.NOTSET)
        yield "it set the level of the service's handler; it was reset"
    if root.level != output.level:
        root.setLevel(output.level)
        yield "it set the level of the root logger; it was reset (see the setting log_level)"
    if manager.disable > logging.NOTSET:
        logging.disable(logging.NOTSET)
        yield "it called logging.disable(); this was undone"
    yield from _loggers(root)
    yield from _kinds(output)
    for handler in kept:
        if not isinstance(handler, ProcessHandler):
            _contain(handler)


def _loggers(root: logging.Logger) -> Iterator[str]:
    """Put back loggers that others than their owners need."""
    own = [root]
    for name, logger in list(logging.Logger.manager.loggerDict.items()):
        needed = name in {"lva", "lva.plugin", "py.warnings"} or name.startswith(PLUGIN_PREFIX)
        if needed and isinstance(logger, logging.Logger):
            own.append(logger)
    if any(logger.disabled for logger in own):
        for logger in [root, *logging.Logger.manager.loggerDict.values()]:
            if isinstance(logger, logging.Logger):
                logger.disabled = False
        yield "it disabled loggers; they are enabled again (see disable_existing_loggers)"
    if not all(logger.propagate for logger in own):
        for logger in own:
            logger.propagate = True
        yield "it set propagate to False on a plugin's logger; this was undone"


def _kinds(output: Output) -> Iterator[str]:
    """Put back what decides of which kind new loggers and records are, and where warnings go."""
    if logging.getLoggerClass() is not logging.Logger:
        logging.setLoggerClass(logging.Logger)
        yield "it called logging.setLoggerClass(); this was undone"
    factory = logging.getLogRecordFactory()
    if factory is not logging.LogRecord and not isinstance(factory, _ContainedFactory):
        logging.setLogRecordFactory(_ContainedFactory(factory))
        yield "it called logging.setLogRecordFactory(); if that factory fails, plain records are made"
    # What `logging.captureWarnings` sets is as good: it logs them, too.
    logs_them = {stray_errors.log_warning, getattr(logging, "_showwarning", None)}
    if warnings.showwarning not in logs_them:
        warnings.showwarning = stray_errors.log_warning
        yield "it replaced warnings.showwarning; this was undone"


def _writes_to_stderr(handler: logging.Handler) -> bool:
    if type(handler) not in {logging.StreamHandler, type(logging.lastResort)}:
        return False
    stream = getattr(handler, "stream", None)
    return stream in {sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__}


class _ContainedFactory:
    """Makes records by a plugin's factory, and plain ones where that fails."""

    def __init__(self, factory: Callable[..., logging.LogRecord]) -> None:
        self._factory = factory

    def __call__(self, *args: Any, **options: Any) -> logging.LogRecord:
        try:
            record = self._factory(*args, **options)
            if isinstance(record, logging.LogRecord):
                return record
        except Exception:  # noqa: BLE001, S110 - a plugin's; the record matters more
            pass
        return logging.LogRecord(*args, **options)


def _contain(handler: logging.Handler) -> None:
    """Keep from other plugins what a handler on the root logger raises; say the first."""
    if "handle" in vars(handler):
        return
    handle = handler.handle
    failed = threading.Event()

    def contained(record: logging.LogRecord) -> Any:
        try:
            return handle(record)
        except Exception as error:  # noqa: BLE001 - a plugin's handler may raise anything
            if not failed.is_set():
                failed.set()
                kind = type(handler).__qualname__
                logs.LOGGER.error("a handler on the root logger, %s, failed", kind, exc_info=error)
            return False

    handler.handle = contained  # type: ignore[method-assign] # `logging` calls it by this name
