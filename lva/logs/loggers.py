"""Logging: text for people or JSON for machines, with the plugin's name and without secrets.

What the service itself says goes from a `ServiceLogger` straight to the output. What plugins and libraries
log comes by a handler of the root logger, within the limits of `lva.logs.limits`. Nothing that plugin code
does to `logging` reaches the first way; `lva.host.process.logs` looks after the second.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from lva.errors import counted
from lva.logs.error_text import brief
from lva.logs.limits import LogLimits
from lva.logs.masking import keep_secret, masked, redact, secret_texts
from lva.logs.records import (
    PLUGIN_PREFIX,
    Entry,
    Form,
    coloured_form,
    current_plugin,
    current_request,
    entry_of,
    json_form,
    plugin_of,
    text_form,
)
from lva.logs.standard_streams import hand_over, print_whole_lines
from lva.logs.stray_errors import log_them
from lva.logs.writer import PATIENCE, STDERR, Descriptor, LogWriter, Writes, flush_all

__all__ = [
    "CHATTY",
    "Output",
    "ProcessHandler",
    "ServiceLogger",
    "brief",
    "current_plugin",
    "current_request",
    "flush",
    "hearing",
    "keep_secret",
    "masked",
    "output",
    "own_logger",
    "plugin_logger",
    "redact",
    "secret_texts",
    "service_logger",
    "set_up",
]

#: Loggers that are heard from WARNING on: a line for each request of a plugin's own HTTP client would drown
#: what matters.
CHATTY: Final = ("httpx", "httpcore", "hpack", "h2")


class Output:
    """Where everything that is logged ends: who listens, and the writer.

    Args:
        level: The minimum level of what the service itself says.
        form: Makes a line.
        writer: Takes the lines.
        limits: How much plugins may log.
        tables: Whether people read it at a terminal, for whom a table is better than JSON.

    Attributes:
        listeners: Called with each entry, in the thread that logs it.
        handler: The root logger's.
    """

    def __init__(
        self, level: int, form: Form, writer: Writes, limits: LogLimits, tables: bool = False
    ) -> None:
        self.level: int = level
        self.form: Form = form
        self.writer: Writes = writer
        self.tables: bool = tables
        self.listeners: list[Callable[[Entry], None]] = []
        self.handler: ProcessHandler = ProcessHandler(self.take_limited)
        self._limits = limits

    def take(self, record: logging.LogRecord) -> None:
        """Take a record of the service's own. Never raises."""
        with contextlib.suppress(Exception):  # what is said must not fail what it is about
            entry = entry_of(record)
            self._tell(entry)
            self.writer.write(self.form(entry))

    def take_limited(self, record: logging.LogRecord) -> None:
        """Take a record of a plugin or a library, or count it. Never raises."""
        with contextlib.suppress(Exception):
            plugin, severe = plugin_of(record), record.levelno >= logging.WARNING
            if self._limits.admits(plugin, severe):
                entry = entry_of(record)
                self._tell(entry)
                line = self.form(entry)
                self._limits.spend(plugin, severe, len(line))
                self.writer.write(line)

    def _tell(self, entry: Entry) -> None:
        for listener in self.listeners:
            listener(entry)

    def report_suppressed(self, everything: bool = False) -> float | None:
        """Log how many records were suppressed in windows that are over, or in all.

        Returns:
            In how many seconds there is more to tell; None if nothing is suppressed.
        """
        with contextlib.suppress(Exception):
            for plugin, severe, number in self._limits.over(float("inf") if everything else None):
                kind = " (warnings and errors)" if severe else ""
                logger = LOGGER if plugin is None else plugin_logger(plugin)
                said = counted(number, "more log record") + kind
                logger.warning("%s suppressed: too many in 10 s", said)
        return self._limits.due


#: There once `set_up` was called: until then, and in tests, records go the ways of `logging`.
_output: Output | None = None


def output() -> Output | None:
    """Return the service's output, if it has one."""
    return _output


class ServiceLogger(logging.Logger):
    """A logger of the service's own, which `logging` does not know.

    Its level, handlers, filters and record class are not those of `logging`, and it cannot be disabled:
    plugin code that sets up logging does not change what the service says. Without an output, it stands for
    the logger of that name in `logging`.
    """

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        if _output is None:
            return logging.getLogger(self.name).isEnabledFor(level)
        return level >= max(self.level, _output.level)

    def getEffectiveLevel(self) -> int:  # noqa: N802 - logging's name
        if _output is None:
            return logging.getLogger(self.name).getEffectiveLevel()
        return max(self.level, _output.level)

    def makeRecord(  # noqa: N802 - logging's name
        self,
        name: str,
        level: int,
        fn: str,
        lno: int,
        msg: object,
        args: Any,
        exc_info: Any,
        func: str | None = None,
        extra: Mapping[str, object] | None = None,
        sinfo: str | None = None,
    ) -> logging.LogRecord:
        """Make a plain record, whatever kind `logging` makes."""
        record = logging.LogRecord(name, level, fn, lno, msg, args, exc_info, func, sinfo)
        record.__dict__.update(extra or {})
        return record

    def handle(self, record: logging.LogRecord) -> None:
        if _output is None:
            logging.getLogger(self.name).handle(record)
        else:
            _output.take(record)

    def tell(self, level: int, message: str, extra: Mapping[str, object]) -> None:
        """Log whatever the level is, whole, and wait a moment until it is written: for the receipt."""
        record = self.makeRecord(self.name, level, "", 0, message, (), None, extra=extra)
        if _output is None:
            logging.getLogger(self.name).handle(record)
            return
        entry = replace(entry_of(record), message=redact(message))
        _output.writer.write(_output.form(entry), keep=True)
        _output.writer.flush(PATIENCE)


_service_loggers: dict[str, ServiceLogger] = {}


def service_logger(name: str) -> ServiceLogger:
    """Return the service's own logger of this name."""
    return _service_loggers.setdefault(name, ServiceLogger(name))


def plugin_logger(name: str) -> ServiceLogger:
    """Return the logger by which the service speaks of a plugin; `own_logger` is the plugin's."""
    return service_logger(f"{PLUGIN_PREFIX}{name}")


def own_logger(name: str) -> logging.Logger:
    """Return the logger that a plugin gets. What it does to it is its own affair."""
    return logging.getLogger(f"{PLUGIN_PREFIX}{name}")


LOGGER: Final = service_logger("lva.service")


class ProcessHandler(logging.Handler):
    """On the root logger: hands on what plugins and libraries log.

    It formats in the thread that logs, under no lock, never raises, and cannot be closed.

    Args:
        take: Takes the records.
    """

    def __init__(self, take: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._take = take

    def createLock(self) -> None:  # noqa: N802 - logging's name
        self.lock: threading.RLock | None = None

    def handle(self, record: logging.LogRecord) -> bool:
        self._take(record)
        return True

    def close(self) -> None:
        """Do nothing: `logging.config` closes the handlers that it finds."""


@contextlib.contextmanager
def hearing(listener: Callable[[Entry], None]) -> Iterator[None]:
    """Let a function get each entry that is logged inside, in the thread that logs it."""
    if _output is not None:
        _output.listeners.append(listener)
        yield
        _output.listeners.remove(listener)
        return
    handler = ProcessHandler(lambda record: listener(entry_of(record)))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def set_up(level: str, form: str, writer: Writes | None = None) -> Output:
    """Write what the process logs to standard error in the chosen form.

    Args:
        level: The minimum level that is written.
        form: ``text`` or ``json``.
        writer: Where to instead.
    """
    global _output
    tables = form == "text" and writer is None and _at_terminal()
    chosen: Form = coloured_form if tables and _wants_colours() else text_form
    number = logging.getLevelNamesMapping()[level]
    if writer is None:
        writer = LogWriter(Descriptor(), _loss, _report_suppressed)
        writer.start()
        hand_over(writer)
    chosen = json_form if form == "json" else chosen
    _output = Output(number, chosen, writer, LogLimits(), tables)
    root = logging.getLogger()
    root.handlers[:] = [_output.handler]
    root.setLevel(number)
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(max(logging.WARNING, number))
    log_them()
    print_whole_lines()
    return _output


def _wants_colours() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _at_terminal() -> bool:
    try:
        return os.isatty(STDERR)
    except OSError:
        return False


def flush(seconds: float = PATIENCE) -> None:
    """Wait until what was logged is written, for at most so long."""
    if _output is not None:
        _output.report_suppressed(everything=True)
    flush_all(seconds)


def _report_suppressed() -> float | None:
    return None if _output is None else _output.report_suppressed()


def _loss(count: int) -> str:
    """Return the line that says how many lines were dropped."""
    message = "%s dropped: nobody read standard error"
    record = LOGGER.makeRecord(
        LOGGER.name, logging.WARNING, "", 0, message, (counted(count, "log line"),), None
    )
    return (text_form if _output is None else _output.form)(entry_of(record))
