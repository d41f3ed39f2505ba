"""Work of the host's own: an error in it is the host's bug, and must end neither a plugin nor the service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from lva.logs.loggers import service_logger

LOGGER: Final = service_logger("lva.host")


class Bugs:
    """Contains errors of the host's own, logs and counts them.

    Attributes:
        seen: How many there were, by what failed.
    """

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    async def contain(self, what: str, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Await some work.

        Cancellation: reaches the work, and passes.

        Errors: end only the work; they are logged and counted.
        """
        try:
            await work(*args)
        except Exception:
            self.seen[what] += 1
            LOGGER.critical(
                "bug in the host: %s failed; the service goes on (failure %d of this kind)",
                what,
                self.seen[what],
                exc_info=True,
            )
