"""Says when points begin to be dropped, how many while that lasts, and when it is over: for each reason."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from lva.host.delivery.ledger import AGE, ATTEMPTS, DAMAGED, OVERFLOW
from lva.host.delivery.shared import Shared

#: How long, in seconds, from one line of the log to the next; and how long without a loss until it is over.
INTERVAL: Final = 10.0
#: Points that came when the plugin took no more; dead letters that made room for newer ones, or failed.
REFUSED: Final = "refused"
CUT: Final = "dead_letters"
UNWRITTEN: Final = "dead_letters_unwritten"
_WHY: Final = {
    OVERFLOW: "the buffer is full",
    ATTEMPTS: "each attempt failed",
    AGE: "they waited too long",
    DAMAGED: "the spool is damaged",
    REFUSED: "the plugin takes no more",
    CUT: "the file is full, the oldest dead letters are deleted",
    UNWRITTEN: "dead letters cannot be written",
}


class LossLog:
    """Tells of one account's losses, in a task of the host's while they last.

    Args:
        what: Whose points they are, for messages.
        logger: Told of them.
        counts: Returns how many there were so far, by reason.
        shared: The host's part in it.
    """

    def __init__(
        self, what: str, logger: logging.Logger, counts: Callable[[], Counter[str]], shared: Shared
    ) -> None:
        self._what = what
        self._logger = logger
        self._counts = counts
        self._shared = shared
        self._noticed = False
        self._last: Counter[str] = Counter()
        self._token = trio.lowlevel.current_trio_token()

    def notice(self) -> None:
        """Take note of a loss; at any moment and in any thread."""
        if not self._noticed:
            self._noticed = True
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._shared.start, self._tell, f"{self._what} (losses)")

    async def _tell(self) -> None:
        """Tell of a loss that has begun, until it is over or nothing more is to be told."""
        begun = trio.current_time()
        total = new = self._new()
        if new:
            self._logger.warning("points for %s are dropped: %s", self._what, _listed(new))
        while new and not self._shared.over.is_set():
            with trio.move_on_after(INTERVAL):
                await self._shared.over.wait()
            new = self._new()
            total += new
            if new:
                self._logger.warning(
                    "points for %s are still dropped: %s since the last report, %s in all",
                    self._what,
                    _listed(new),
                    f"{total.total():,}",
                )
        self._noticed = False  # what comes from here on begins anew
        if not new and total:
            self._logger.info(
                "points for %s are no longer dropped: %s within %.0f s",
                self._what,
                _listed(total),
                trio.current_time() - begun,
            )

    def _new(self) -> Counter[str]:
        counts = self._counts()
        if self._shared.stopping.is_set():
            del counts[REFUSED]
        new, self._last = counts - self._last, counts
        return new


def _listed(counts: Counter[str]) -> str:
    """Return counts with their reasons: ``"1,200 (overflow: the buffer is full)"``."""
    return ", ".join(
        f"{count:,} ({reason}{f': {_WHY[reason]}' if reason in _WHY else ''})"
        for reason, count in counts.items()
    )
