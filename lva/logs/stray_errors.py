"""Warnings, and errors that nobody can catch, go to the log: with the plugin's name, and limited in number.

Python itself would write each to standard error, and wait there for a reader.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from types import TracebackType
from typing import Any, Final, TextIO

from lva.logs.records import PLUGIN_PREFIX
from lva.stacks import entries_of

#: What the names of the modules of plugins begin with.
_MODULES: Final = "lva_plugins."


def log_them() -> None:
    """Log warnings, errors in finalizers and errors that end threads, from now on."""
    log_warnings()
    sys.unraisablehook = log_unraisable
    threading.excepthook = log_thread_error


def log_warnings() -> None:
    """Log warnings from now on."""
    warnings.showwarning = log_warning


def log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Be `warnings.showwarning`."""
    if file is not None:
        file.write(warnings.formatwarning(message, category, filename, lineno, line))
        return
    logging.getLogger("py.warnings").warning(
        "%s:%d: %s: %s", filename, lineno, category.__name__, message
    )


def log_unraisable(unraisable: Any) -> None:
    """Be `sys.unraisablehook`."""
    what = unraisable.object
    name = getattr(what, "__qualname__", None) or type(what).__name__
    said = unraisable.err_msg or "exception ignored in"
    _logger_for(unraisable.exc_traceback).error(
        "%s %s", said, name, exc_info=_exc_info(unraisable.exc_value, unraisable.exc_type)
    )


def log_thread_error(args: Any) -> None:
    """Be `threading.excepthook`."""
    if args.exc_type is not SystemExit:
        name = "?" if args.thread is None else args.thread.name
        _logger_for(args.exc_traceback).error(
            "an error ended the thread %s", name, exc_info=_exc_info(args.exc_value, args.exc_type)
        )


def _exc_info(value: BaseException | None, kind: type[BaseException]) -> BaseException:
    return kind() if value is None else value


def _logger_for(trace: TracebackType | None) -> logging.Logger:
    """Return the logger of the plugin in whose files an error was raised; else a general one."""
    for entry in entries_of(trace):
        module = str(entry.tb_frame.f_globals.get("__name__", ""))
        if module.startswith(_MODULES):
            return logging.getLogger(PLUGIN_PREFIX + module.split(".")[1])
    return logging.getLogger("py.errors")
