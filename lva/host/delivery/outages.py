"""What is logged of a receiver's outages: often the message says it all, and a traceback would bury it."""

from __future__ import annotations

import logging
import socket
import ssl
from dataclasses import dataclass
from typing import Final

import trio

from lva.contract import PartialDeliveryError, PermanentDeliveryError, RetryLaterError

#: How long, in seconds, a failure like the last one is only counted and not logged again.
_LOG_INTERVAL: Final = 10.0
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


@dataclass(slots=True)
class _Logged:
    """The last failure of a kind that was logged, and how many like it were not."""

    why: str
    quiet_until: float
    unlogged: int = 0


class FailureLog:
    """Logs failed calls: the first of its kind, with its traceback if worth it, then one in a while.

    Args:
        what: What was called, for messages.
        logger: Told of them.
    """

    def __init__(self, what: str, logger: logging.Logger) -> None:
        self._what = what
        self._logger = logger
        self._logged: dict[str, _Logged] = {}

    def note(self, why: str, outcome: str, kind: str, error: BaseException | None) -> None:
        """Log a failure, unless it is like the last one.

        Args:
            why: What the call did.
            outcome: What becomes of the points.
            kind: Of the outcome.
            error: What was raised.
        """
        now = trio.current_time()
        last = self._logged.get(kind)
        new = last is None or last.why != why
        if last is not None and not new and now < last.quiet_until:
            last.unlogged += 1
            return
        traced = new and worth_a_traceback(error, self._logger)
        more = f" ({last.unlogged} more like it were not logged)" if last and last.unlogged else ""
        self._logged[kind] = _Logged(why, now + _LOG_INTERVAL)
        self._logger.warning(
            "%s %s; %s%s",
            self._what,
            why,
            outcome,
            more,
            exc_info=error if traced else None,
            extra={"phase": "handleEvent"},
        )
