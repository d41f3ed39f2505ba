"""Failures of handlers in the log: the first of a kind whole, then their number every ten seconds.

So requests, which anybody can send, cannot fill the log with tracebacks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from lva.logs.loggers import brief, plugin_logger, service_logger
from lva.logs.recurring import Recurring
from lva.web.handling.framing import BadResponseError

LOGGER: Final = service_logger("lva.web")
#: Most kinds that are told apart.
_MOST_KINDS: Final = 500
_EXTRA: Final[dict[str, Any]] = {"phase": "handler"}


class HandlerFailures:
    """Logs failures.

    Args:
        clock: Tells the time, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str | None, str, str], Recurring] = {}

    def log(self, plugin: str | None, what: str, error: BaseException) -> None:
        """Log a failure, or count it.

        Args:
            plugin: Whose it is; None for the service's.
            what: What failed, as ``"the handler of GET /teapot"``; the beginning of a line.
            error: What it raised. The traceback of a `BadResponseError` would show the service's lines only.
        """
        kind = plugin, what, type(error).__name__
        if kind not in self._kinds and len(self._kinds) >= _MOST_KINDS:
            kind = None, "others", ""
        recurring = self._kinds.setdefault(kind, Recurring(self._clock))
        news = recurring.again()
        logger: logging.Logger = LOGGER if plugin is None else plugin_logger(plugin)
        invalid = isinstance(error, BadResponseError)
        said = f"is invalid: {error}" if invalid else f"raised {brief(error)}"
        if recurring.count == 1:
            logger.error("%s %s", what, said, exc_info=None if invalid else error, extra=_EXTRA)
        elif news:
            logger.error("%s %s (failure %d; %d since the last line)", what, said, recurring.count, news,
                         extra=_EXTRA)  # fmt: skip
