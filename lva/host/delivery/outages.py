"""What is logged of a receiver's outages: often the message says it all, and a traceback would bury it."""

from __future__ import annotations

import logging
import socket
import ssl
from typing import Final

import trio

from lva.contract import PartialDeliveryError, PermanentDeliveryError, RetryLaterError
from lva.logs.recurring import Recurring

_EXPECTED: Final = (
    RetryLaterError,
    PermanentDeliveryError,
    ConnectionError,
    TimeoutError,
    socket.gaierror,
    ssl.SSLError,
)
#: Base classes of what clients raise for a status, for no answer, or for that of another server. By name: the
#: host needs no client.
_OF_CLIENTS: Final = frozenset(
    {
        "httpx.HTTPError",
        "aiohttp.client_exceptions.ClientError",
        "requests.exceptions.RequestException",
        "urllib.error.URLError",
        "redis.exceptions.ConnectionError",
        "redis.exceptions.TimeoutError",
        "redis.exceptions.InvalidResponse",
    }
)


def worth_a_traceback(error: BaseException | None, logger: logging.Logger) -> bool:
    """Return whether to log an error with its traceback; at level DEBUG all have it."""
    return not is_expected(error) or logger.isEnabledFor(logging.DEBUG)


def is_expected(error: BaseException | None) -> bool:
    """Return whether an error of a plugin is one of an outage, rather than of its code.

    A `PartialDeliveryError` is what its cause is, if it has one: it may stand for any error.
    """
    if isinstance(error, PartialDeliveryError):
        return error.__cause__ is None or is_expected(error.__cause__)
    if isinstance(error, _EXPECTED):
        return True
    return any(f"{cls.__module__}.{cls.__qualname__}" in _OF_CLIENTS for cls in type(error).__mro__)


class FailureLog:
    """Logs failed calls: the first of its kind, with its traceback if worth it, then one in a while.

    Args:
        what: What was called, for messages.
        logger: Told of them.
    """

    def __init__(self, what: str, logger: logging.Logger) -> None:
        self._what = what
        self._logger = logger
        self._last: dict[str, tuple[str, Recurring]] = {}  # why, by the kind of the outcome

    def note(self, why: str, outcome: str, kind: str, error: BaseException | None) -> None:
        """Log a failure, unless it is like the last one.

        Args:
            why: What the call did.
            outcome: What becomes of the points.
            kind: Of the outcome.
            error: What was raised.
        """
        last, recurring = self._last.get(kind, ("", None))
        if recurring is None or last != why:
            recurring = Recurring(trio.current_time)
            self._last[kind] = why, recurring
        news = recurring.again()
        if not news:
            return
        traced = recurring.count == 1 and worth_a_traceback(error, self._logger)
        more = f" ({news - 1} more like it were not logged)" if news > 1 else ""
        self._logger.warning(
            "%s %s; %s%s",
            self._what,
            why,
            outcome,
            more,
            exc_info=error if traced else None,
            extra={"phase": "handleEvent"},
        )
