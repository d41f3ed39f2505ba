"""The process's logging as state that plugins change: pieces for `lva.host.process.state`.

Many libraries set up logging with `logging.config`, which takes the root logger's handlers off and disables
the loggers there are. Handlers that a plugin adds stay, but for those that write to standard error, where the
service writes already; what a handler of all plugins' records, or a record factory, raises is contained.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

from lva.host.process.pieces import Piece
from lva.logs import loggers as logs
from lva.logs import stray_errors
from lva.logs.loggers import Output, ProcessHandler
from lva.logs.records import PLUGIN_PREFIX

#: Loggers that others than their owners need, besides those of plugins.
_SHARED: Final = frozenset({"lva", "lva.plugin", "py.warnings", "py.errors"})
#: Loggers whose handlers get the records of all plugins; the first is the root's.
_COMMON: Final = ("", "lva", "lva.plugin")


def logging_pieces() -> Iterator[Piece]:
    """Yield the pieces; none where the service does not write the log."""
    output = logs.output()
    if output is None:
        return
    root = logging.getLogger()
    yield _deviation(
        "the root logger's handlers (the service's was removed)",
        lambda: output.handler not in root.handlers,
        lambda: root.handlers.insert(0, output.handler),
    )
    yield _deviation(
        "the root logger's handlers (with one to standard error or output)",
        lambda: any(map(_writes_to_a_stream, root.handlers)),
        lambda: _drop_stream_handlers(root),
    )
    yield from _levels(output, root)
    yield _deviation("loggers, which were disabled", _some_disabled, _enable_all)
    yield _deviation("the propagation of loggers", _some_do_not_propagate, _propagate_all)
    yield Piece("the class of loggers", logging.getLoggerClass, logging.setLoggerClass)
    yield _deviation("the log record factory (contained)", _has_foreign_factory, _contain_factory)
    yield _deviation("warnings.showwarning", _warnings_are_not_logged, stray_errors.log_warnings)
    # Never said to be changed: handlers of a plugin's own may stay, once they are contained.
    yield Piece("contained handlers", _contain_handlers, lambda _: None)


def _deviation(name: str, deviates: Callable[[], bool], put_back: Callable[[], object]) -> Piece:
    """Return a piece that is as it should be or not."""
    return Piece(name, deviates, lambda _: put_back(), shown=False)


def _levels(output: Output, root: logging.Logger) -> Iterator[Piece]:
    yield Piece(
        "the root logger's level", lambda: root.level, lambda _: root.setLevel(output.level)
    )
    yield Piece(
        "the level of the service's log handler",
        lambda: output.handler.level,
        lambda _: output.handler.setLevel(logging.NOTSET),
    )
    yield Piece(
        "the level of logging.disable()", lambda: logging.Logger.manager.disable, logging.disable
    )


def _writes_to_a_stream(handler: logging.Handler) -> bool:
    if type(handler) not in {logging.StreamHandler, type(logging.lastResort)}:
        return False
    stream = getattr(handler, "stream", None)
    return stream in {sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__}


def _drop_stream_handlers(root: logging.Logger) -> None:
    root.handlers[:] = [item for item in root.handlers if not _writes_to_a_stream(item)]


def _needed() -> Iterator[logging.Logger]:
    """Yield the loggers that others than their owners need."""
    yield logging.getLogger()
    for name, logger in list(logging.Logger.manager.loggerDict.items()):
        needed = name in _SHARED or name.startswith(PLUGIN_PREFIX)
        if needed and isinstance(logger, logging.Logger):
            yield logger


def _some_disabled() -> bool:
    return any(logger.disabled for logger in _needed())


def _enable_all() -> None:
    for logger in [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger):
            logger.disabled = False


def _some_do_not_propagate() -> bool:
    return not all(logger.propagate for logger in _needed())


def _propagate_all() -> None:
    for logger in _needed():
        logger.propagate = True


def _warnings_are_not_logged() -> bool:
    # What `logging.captureWarnings` sets is as good: it logs them, too.
    good = {stray_errors.log_warning, getattr(logging, "_showwarning", None)}
    return warnings.showwarning not in good


class _ContainedFactory:
    """Makes records by a plugin's factory, and plain ones where that fails."""

    def __init__(self, factory: Callable[..., logging.LogRecord]) -> None:
        self._factory = factory

    def __call__(self, *args: Any, **options: Any) -> logging.LogRecord:
        try:
            record = self._factory(*args, **options)
            if isinstance(record, logging.LogRecord):
                return record
        except BaseException:  # noqa: BLE001, S110 - a plugin's; the record matters more
            pass
        return logging.LogRecord(*args, **options)


def _has_foreign_factory() -> bool:
    factory = logging.getLogRecordFactory()
    return factory is not logging.LogRecord and not isinstance(factory, _ContainedFactory)


def _contain_factory() -> None:
    logging.setLogRecordFactory(_ContainedFactory(logging.getLogRecordFactory()))


def _contain_handlers() -> None:
    """Contain what is new on the loggers through which all plugins' records pass."""
    for logger in map(logging.getLogger, _COMMON):
        for handler in logger.handlers:
            if not isinstance(handler, ProcessHandler) and "handle" not in vars(handler):
                _contain(handler, f"the logger {logger.name!r}")


def _contain(handler: logging.Handler, place: str) -> None:
    """Keep from other plugins what a handler raises; log the first."""
    handle = handler.handle
    failed = threading.Event()

    def contained(record: logging.LogRecord) -> Any:
        try:
            return handle(record)
        except BaseException as error:  # noqa: BLE001 - a plugin's handler may raise anything
            if not failed.is_set():
                failed.set()
                kind = type(handler).__qualname__
                logs.LOGGER.error("a handler on %s, %s, failed", place, kind, exc_info=error)
            return False

    handler.handle = contained  # type: ignore[method-assign] # `logging` calls it by this name
