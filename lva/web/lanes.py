"""Nurseries in which requests run one at a time, so that one request cannot break another's.

Code that breaks Trio's nesting rules, as by entering a nursery and not leaving it, breaks the nursery
that its task is in. With a nursery for each request that would be harmless, but not cheap; so nurseries are
used again, as long as they are whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from lva.host.runtimes import split_cancelled


class Lane:
    """A nursery for one request at a time, in a task of its own."""

    def __init__(self) -> None:
        self.nursery: trio.Nursery | None = None
        self._broken: Callable[[BaseException], None] | None = None

    @property
    def is_free(self) -> bool:
        """Whether the last request has ended and left the nursery whole."""
        nursery = self.nursery
        return (
            nursery is not None
            and not nursery.child_tasks
            and not nursery.cancel_scope.cancel_called
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the lane's task, until it is cancelled or broken."""
        try:
            async with trio.open_nursery() as self.nursery:
                task_status.started()
                await trio.sleep_forever()
        except BaseException as error:
            cancelled, own = split_cancelled(error)
            if own is not None and self._broken is not None:
                self._broken(own)
            if cancelled is not None or own is None or self._broken is None:
                raise

    def start(
        self, work: Callable[[], Awaitable[None]], broken: Callable[[BaseException], None]
    ) -> None:
        """Run a request here.

        Args:
            work: What handles it.
            broken: Told the error if the request breaks the lane.
        """
        assert self.nursery is not None
        self._broken = broken
        self.nursery.start_soon(work, name="request")


class Lanes:
    """As many lanes as there are requests at once.

    Args:
        nursery: Where the lanes' tasks run; must tolerate tasks that never end.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._free: list[Lane] = []

    async def take(self) -> Lane:
        """Return a lane that is free and whole, a new one if there is none."""
        while self._free:
            lane = self._free.pop()
            if lane.is_free:
                return lane
        lane = Lane()
        await self._nursery.start(lane.run)
        return lane

    def give_back(self, lane: Lane) -> None:
        """Let another request use the lane, if this one has ended there and left it whole."""
        self._free.append(lane)
