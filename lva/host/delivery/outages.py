"""Errors that come with a receiver's outages: their message says it all, a traceback would bury it."""

from __future__ import annotations

import logging
import socket
import ssl
from typing import Final

from lva.contract import PartialDeliveryError, PermanentDeliveryError, RetryLaterError

_EXPECTED: Final = (
    RetryLaterError,
    PermanentDeliveryError,
    ConnectionError,
    TimeoutError,
    socket.gaierror,
    ssl.SSLError,
)
#: Base classes of what HTTP clients raise for a status, or for no answer. By name: the host needs no client.
_OF_CLIENTS: Final = frozenset(
    {
        "httpx.HTTPError",
        "aiohttp.client_exceptions.ClientError",
        "requests.exceptions.RequestException",
        "urllib.error.URLError",
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
