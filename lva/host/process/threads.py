"""Work in threads: short work of the host's own, and work that may never return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


async def in_thread(work: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    """Do short work that blocks in a worker thread, and wait for it.

    Resources: when the system has no thread left, as after a plugin has used them up, it is done at once
    instead: better that the event loop is blocked than that points are lost.

    Cancellation: takes effect before the work begins; what has begun is waited for.

    Errors: those of the work are raised.

    Args:
        work: What is to be done.
        limiter: How many threads may be used for it.
    """
    begun = False

    def job() -> T:
        nonlocal begun
        begun = True
        return work()

    try:
        return await trio.to_thread.run_sync(job, limiter=limiter)
    except RuntimeError:
        if begun:
            raise
    return work()


class AbandonableThread(Generic[T]):
    """A thread that begins at once, and that nobody has to wait for: nothing can end it but itself.

    Args:
        work: What it does. May not fail.
        name: The thread's.

    Attributes:
        done: Set on the event loop once the work is done.
        finished: Set in the thread, a little sooner.
        result: What the work returned; None before that.

    Raises:
        RuntimeError: The system has no thread left.
    """

    def __init__(self, work: Callable[[], T], name: str) -> None:
        self.done: trio.Event = trio.Event()
        self.finished: threading.Event = threading.Event()
        self.result: T | None = None
        token = trio.lowlevel.current_trio_token()

        def deliver(_outcome: object) -> None:
            self.finished.set()
            with suppress(trio.RunFinishedError):  # the service ended without it
                token.run_sync_soon(self.done.set)

        def run() -> None:
            self.result = work()

        trio.lowlevel.start_thread_soon(run, deliver, name)

    async def wait(self, limit: float, least: float) -> None:
        """Wait until the work is done, for so many seconds at most.

        Cancellation: ends the wait, but no sooner than after `least` seconds.
        """
        with trio.move_on_after(limit):
            with trio.CancelScope(deadline=trio.current_time() + min(limit, least), shield=True):
                await self.done.wait()
            if not self.done.is_set():
                await self.done.wait()
