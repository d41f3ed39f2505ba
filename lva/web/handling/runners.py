"""Nurseries in which requests run, each one request at a time, and which are kept for the next.

Code that breaks Trio's nesting rules breaks the nursery that its task is in; so no two requests share one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from lva.host.runtimes.errors import split_cancelled

#: How many are kept for later.
_MOST_FREE: Final = 64

#: Takes what is raised as a task ends, after all of its own code.
Failed = Callable[[BaseException], None]


class Runner:
    """A nursery for one request at a time, in a task of its own."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None
        self._first: Callable[[], Awaitable[None]] | None = None
        self._failed: Failed | None = None
        self._ended = False

    def start(self, work: Callable[[], Awaitable[None]], failed: Failed) -> None:
        """Run `work` as a task; `failed` takes what the end of the task raises."""
        self._failed = failed
        if self._nursery is None:
            self._first = work
        else:
            self._nursery.start_soon(work, name="request")

    @property
    def usable(self) -> bool:
        """Whether nothing is left of the last request."""
        nursery = self._nursery
        return nursery is not None and not (
            nursery.cancel_scope.cancel_called or nursery.child_tasks
        )

    def end(self) -> None:
        """End it, with what is left of the request; that it begins, it notices still."""
        self._ended = True
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def run(self) -> None:
        """Be the task.

        Resources: the nursery that `start` puts requests in, until `end`; a request that ignores its
        cancellation keeps it open.

        Cancellation: ends it, with the request that is in it.

        Errors: go to `failed` of the last request; only a cancellation is raised.
        """
        try:
            async with trio.open_nursery() as self._nursery:
                if self._first is not None:
                    self._nursery.start_soon(self._first, name="request")
                    self._first = None
                if self._ended:
                    self.end()
                await trio.sleep_forever()
        except BaseException as error:  # noqa: BLE001 - it is told, and a cancellation raised again
            cancelled, own = split_cancelled(error)
            if own is not None and self._failed is not None:
                self._failed(own)
            if cancelled is not None:
                raise cancelled from None


class Runners:
    """All runners.

    Args:
        nursery: Where they are; must tolerate tasks that never end.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._free: list[Runner] = []

    def take(self) -> Runner:
        """Return one that is free, or a new one."""
        while self._free:
            runner = self._free.pop()
            if runner.usable:
                return runner
            runner.end()
        runner = Runner()
        self._nursery.start_soon(runner.run, name="requests")
        return runner

    def give_back(self, runner: Runner) -> None:
        """Keep one for another request, unless something is left of the last."""
        if runner.usable and len(self._free) < _MOST_FREE:
            self._free.append(runner)
        else:
            runner.end()
