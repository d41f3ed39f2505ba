"""Hypercorn's connections with a cheaper idle limit, which is most of what a request costs besides itself.

Hypercorn starts and cancels a task for each pause between two requests of a connection. Here one task
watches the connection for as long as it lasts. (A plain Quart-Trio application is spared that cost by
accident: it cancels the request's task at the moment in which Hypercorn starts the timer, so that its
idle connections are never closed.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import hypercorn.trio.run
import trio
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ConnectionState

#: Under this key of the ASGI scope's `state` is what cuts the connection off at once.
ABORT: Final = "lva.abort"


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
    """

    def __init__(self, limit: float, stopping: Callable[[], Any], close: Callable[[], Any]) -> None:
        self._limit = limit
        self._stopping = stopping
        self._close = close
        self._scope = trio.CancelScope()
        self._idle_since: float | None = None
        self._watching = False

    async def restart(self, task_group: _TaskGroup, _action: object) -> None:
        """Begin a pause."""
        self._idle_since = trio.current_time()
        if not self._watching:
            self._watching = True
            task_group.spawn(self._watch)

    async def stop(self) -> None:
        """End the pause: a request has come."""
        self._idle_since = None

    def end(self) -> None:
        """End the watch: the connection is closed."""
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
                await self._stopping()
            if self._idle_since is None:
                if not pause.cancelled_caught:
                    return True  # busy: the protocol closes it after the response
            elif (
                not pause.cancelled_caught or trio.current_time() >= self._idle_since + self._limit
            ):
                return False


class Connection(TCPServer):
    """One connection of Hypercorn's, watched by an `IdleWatch`, that the application can cut off."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.idle_task: Any = IdleWatch(
            self.config.keep_alive_timeout,
            self.context.terminated.wait,
            self._initiate_server_close,
        )
        self.state: ConnectionState = ConnectionState({**self.state, ABORT: self._abort})

    def _abort(self) -> None:
        """Close the socket under whoever reads from it or writes to it: they see the client gone."""
        self.stream.socket.close()

    async def _read_data(self) -> None:
        try:
            await super()._read_data()
        finally:
            self.idle_task.end()


@contextlib.contextmanager
def watched_connections() -> Iterator[None]:
    """Let Hypercorn's servers that are started inside use `Connection`."""
    # The ignores: Hypercorn does not export the name, its server just looks it up there.
    before = hypercorn.trio.run.TCPServer  # type: ignore[attr-defined] # see above
    hypercorn.trio.run.TCPServer = Connection  # type: ignore[attr-defined] # see above
    try:
        yield
    finally:
        hypercorn.trio.run.TCPServer = before  # type: ignore[attr-defined] # see above
