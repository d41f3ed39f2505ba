"""Errors of the server itself in its work for one connection: contained, logged once, counted.

Some are faults of a server library that only a certain order of bytes brings out. What a client sends must
end nothing but its own connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from lva.errors import counted
from lva.events.points import CONNECTION_ERRORS, SERVICE, MonitoringPoint
from lva.host.runtimes.errors import split_cancelled
from lva.logs.loggers import brief, service_logger
from lva.logs.recurring import Recurring
from lva.stacks import entries_of

LOGGER: Final = service_logger("lva.service")
#: The error code of a connection that an error of the server has ended.
FAILED: Final = "connection_failed"
#: The error code of connections that have to wait, as nothing is left for them.
SHORTAGE: Final = "connection_shortage"
#: Most kinds of errors that are told apart.
_MOST_KINDS: Final = 100


class ConnectionErrors:
    """Takes the errors of all connections.

    Args:
        publish: Takes a point of the series `CONNECTION_ERRORS` for each.
    """

    def __init__(self, publish: Callable[[Iterable[MonitoringPoint]], object]) -> None:
        self._publish = publish
        self._kinds: dict[str, Recurring] = {}

    def contain(self, error: BaseException) -> None:
        """Log and count what a connection's task has raised.

        Raises:
            trio.Cancelled: It, or a part of it, is Trio's cancellation.
        """
        cancelled, own = split_cancelled(error)
        if own is not None:
            self._log(_first(own))
            self.count(FAILED)
        if cancelled is not None:
            raise cancelled

    def count(self, code: str) -> None:
        """Publish a point with this error code."""
        tags = {"service": SERVICE, "error_code": code}
        self._publish([MonitoringPoint(CONNECTION_ERRORS, time.time(), tags, {"count": 1})])

    def _log(self, error: BaseException) -> None:
        where = _where(error)
        kind = f"{type(error).__name__} at {where}"
        if kind not in self._kinds and len(self._kinds) >= _MOST_KINDS:
            kind = "other"
        recurring = self._kinds.setdefault(kind, Recurring())
        news = recurring.again()
        if recurring.count == 1:
            LOGGER.error(
                "a client is not served: the HTTP server raised %s (%s)",
                brief(error),
                where,
                exc_info=error,
            )
        elif news:
            LOGGER.error("not served: %s: %s", counted(news, "more client"), kind)


def _first(error: BaseException) -> BaseException:
    """Return the first error in nested groups: others are mostly its consequences."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _where(error: BaseException) -> str:
    entries = [*entries_of(error.__traceback__)]
    if not entries:
        return "an unknown place"
    return f"{entries[-1].tb_frame.f_code.co_filename}:{entries[-1].tb_lineno}"
