"""Things that may come at any moment, dealt with by one at a time, without a lock that anybody waits for.

A signal handler, or a finalizer that the garbage collector runs, may begin between any two steps of any
thread, also of one that deals with what came. If it waited for its turn, it would wait for itself.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Inbox(Generic[T]):
    """Hands what is put in, one thing after the other, to a function that is never entered twice.

    Args:
        deal_with: That function; it should be quick.
    """

    def __init__(self, deal_with: Callable[[T], None]) -> None:
        self._deal_with = deal_with
        self._items: deque[T] = deque()  # its methods are atomic
        self._turn = threading.Lock()

    def put(self, item: T) -> None:
        """Put something in, at any moment and in any thread. Never waits.

        It has been dealt with on return, unless somebody was just at it, who then does that too.
        """
        self._items.append(item)
        # Looked at again after the release: who came in between has left his to us.
        while self._items and self._turn.acquire(blocking=False):
            try:
                self._deal_with_all()
            finally:
                self._turn.release()

    def alone(self, work: Callable[[], R]) -> R | None:
        """Call a function while nothing is dealt with, but after all that is there.

        Returns:
            What it returned; None, without a call, if somebody is at it.
        """
        if not self._turn.acquire(blocking=False):
            return None
        try:
            self._deal_with_all()
            return work()
        finally:
            self._turn.release()

    def _deal_with_all(self) -> None:
        while self._items:
            self._deal_with(self._items.popleft())
