"""Blocking work of the host's own, in a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def in_thread(work: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    """Do short work that blocks in a worker thread, and wait for it; a cancellation does not end that.

    When the system has no thread left, as after a plugin has used them up, it is done at once instead: better
    that the event loop is blocked than that points are lost.

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
