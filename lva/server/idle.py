"""The pauses of one of Hypercorn's connections.

Hypercorn starts and cancels a task for each pause between two requests of a connection. Here one task
watches the connection for as long as it lasts. (A plain Quart-Trio application is spared that cost by
accident: it cancels the request's task at the moment in which Hypercorn starts the timer, so that its
idle connections are never closed.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import trio

from lva.http.idle import IdleConnections


class _TaskGroup(Protocol):
    def spawn(self, func: Callable[..., Any], *args: Any) -> None: ...


class IdleWatch:
    """Closes a connection that was idle for too long, or is idle when the server stops.

    Takes the place of Hypercorn's `TrioSingleTask`, whose `restart` begins a pause and whose `stop`
    ends it.

    Args:
        limit: Longest pause, in seconds.
        stopping: Waits until the server stops.
        close: Closes the connection.
        idle: Is told when it is idle and when not.
    """

    def __init__(
        self,
        limit: float,
        stopping: Callable[[], Any],
        close: Callable[[], Any],
        idle: IdleConnections,
    ) -> None:
        self._limit = limit
        self._stopping = stopping
        self._close = close
        self._all = idle
        self._pause: trio.CancelScope | None = None
        self._scope = trio.CancelScope()
        self._idle_since: float | None = None
        self._idle = trio.Event()
        self._watching = False

    async def restart(self, task_group: _TaskGroup, _action: object) -> None:
        """Begin a pause."""
        self._idle_since = trio.current_time()
        self._all.add(self, self._idle_since)
        self._idle.set()
        if not self._watching:
            self._watching = True
            task_group.spawn(self._watch)

    async def stop(self) -> None:
        """End the pause: a request has come."""
        self._idle_since = None
        self._all.remove(self)
        if self._idle.is_set():
            self._idle = trio.Event()

    async def wait_for_pause(self) -> None:
        """Wait until no request is under way, or the connection is closed."""
        await self._idle.wait()

    def hurry(self) -> None:
        """Close the connection now, if it is idle."""
        self._limit = 0
        if self._pause is not None:
            self._pause.cancel()

    def end(self) -> None:
        """End the watch: the connection is closed."""
        self._all.remove(self)
        self._idle.set()
        self._scope.cancel()

    async def _watch(self) -> None:
        with self._scope:
            if not await self._outlasts_a_pause():
                self._scope.shield = True
                await self._close()

    async def _outlasts_a_pause(self) -> bool:
        """Return False once the connection is to be closed."""
        while True:
            now = trio.current_time()
            begun = now if self._idle_since is None else self._idle_since
            with trio.move_on_at(begun + self._limit) as pause:
                self._pause = pause
                await self._stopping()
            if self._idle_since is None:
                if not pause.cancelled_caught:
                    return True  # busy: the protocol closes it after the response
            elif (
                not pause.cancelled_caught or trio.current_time() >= self._idle_since + self._limit
            ):
                return False
