"""What becomes of the points of a batch: delivered, rejected, dropped, or tried again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import trio

from lva.contract import PartialDeliveryError, PermanentDeliveryError
from lva.host.delivery.dead_letters import DeadLetters
from lva.host.delivery.ledger import Ledger
from lva.host.delivery.mailbox import Mailbox
from lva.host.delivery.queue import Batch
from lva.host.delivery.tap import DELIVERED, DROPPED, FAILED, REJECTED, Taps

_WRONG: Final = "rejected"


class Settlement:
    """Accounts for the points of one event class in its ledger, its dead letters, and to who looks on.

    Args:
        mailbox: Where the points are from.
        plugin: The plugin's name.
        taps: Those who look at points as they pass.
        dead_letters: Where points that are given up are written; None for nowhere.

    Attributes:
        lost_letters: How many dead letters were lost, by reason.
    """

    def __init__(
        self, mailbox: Mailbox, plugin: str, taps: Taps, dead_letters: DeadLetters | None
    ) -> None:
        self.mailbox: Mailbox = mailbox
        self.dead_letters: DeadLetters | None = dead_letters
        self._plugin = plugin
        self._taps = taps
        self.lost_letters: Counter[str] = Counter()
        self._to_bury: list[tuple[str, list[Any]]] = []

    @property
    def ledger(self) -> Ledger:
        """The account."""
        return self.mailbox.ledger

    def deliver(self, batch: Batch) -> None:
        """Account for a call that returned."""
        self._show(DELIVERED, batch)
        self.ledger.delivered += len(batch)
        self._settle(batch)

    def deliver_partly(self, batch: Batch, error: BaseException | None) -> None:
        """Account for what an error says of the points; what is to be tried again stays in the batch."""
        if isinstance(error, PermanentDeliveryError):
            self._reject(batch, range(len(batch)))
        elif isinstance(error, PartialDeliveryError):
            own = {id(point) for point in batch}
            rejected, failed = _ids(error, "rejected"), _ids(error, "failed")
            if rejected is None or failed is None or not failed | rejected <= own:
                # Copies were named, or nothing that can be read: better to repeat a point than lose one.
                rejected, failed = (rejected or set()) & own, own
            self._reject(batch, [n for n, point in enumerate(batch) if id(point) in rejected])
            self._show(DELIVERED, [point for point in batch if id(point) not in failed])
            again = [n for n, point in enumerate(batch) if id(point) in failed]
            self.ledger.delivered += len(batch) - len(again)
            self._settle(batch, again)

    def show_failed(self, batch: Batch) -> None:
        """Show what a call did not deliver, and is left in the batch."""
        self._show(FAILED, batch)

    def drop(self, batch: Batch, reason: str, count: int) -> None:
        """Give up the first points of a batch."""
        self._bury_later(batch, range(count), DROPPED, reason)
        self.ledger.dropped[reason] += count
        self.mailbox.lost()

    def drop_at_end(self, batch: Batch, reason: str) -> None:
        """Give up a batch that nobody will deliver any more."""
        self.ledger.dropped[reason] += len(batch)
        self._settle(batch)

    async def bury(self) -> None:
        """Write the dropped points to the dead letters.

        Cancellation: does not reach it.

        Errors: are logged, and the letters counted as lost.
        """
        buried, self._to_bury = self._to_bury, []
        if self.dead_letters is not None and buried:
            with trio.CancelScope(shield=True):
                lost = await self.dead_letters.write(buried)
            if lost:
                self.lost_letters += lost
                self.mailbox.lost()

    def _settle(self, batch: Batch, again: Sequence[int] = ()) -> None:
        self.ledger.in_flight -= len(batch) - len(again)
        self.mailbox.settle(batch, again)

    def _reject(self, batch: Batch, indices: Collection[int]) -> None:
        self.ledger.rejected += len(indices)
        self._bury_later(batch, indices, REJECTED, _WRONG)

    def _bury_later(self, batch: Batch, indices: Collection[int], step: str, reason: str) -> None:
        gone = [batch[index] for index in indices]
        self._show(step, gone)
        if self.dead_letters is not None and gone:
            self._to_bury.append((reason, gone))
        self._settle(batch, sorted(set(range(len(batch))).difference(indices)))

    def _show(self, step: str, points: Iterable[Any]) -> None:
        """Show points, if there are any, to those who look at points as they pass."""
        if self._taps and (shown := tuple(points)):
            self._taps.offer(step, self._plugin, shown)


def _ids(error: PartialDeliveryError, attribute: str) -> set[int] | None:
    """Return which points an error names; None if it cannot be read, as a plugin may derive its own."""
    points: Sequence[Any] | None = getattr(error, attribute, None)
    return {id(point) for point in points} if isinstance(points, list | tuple) else None
