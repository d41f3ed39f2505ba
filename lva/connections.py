"""Hypercorn's connections, contained, with a cheaper idle limit.

An error in the server's own work for a connection ends that connection alone.

The idle limit is most of what a request costs besides itself:
Hypercorn starts and cancels a task for each pause between two requests of a connection. Here one task
watches the connection for as long as it lasts. (A plain Quart-Trio application is spared that cost by
accident: it cancels the request's task at the moment in which Hypercorn starts the timer, so that its
idle connections are never closed.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Protocol

import hypercorn.protocol
import hypercorn.trio.run
import trio
from hypercorn.events import Closed, RawData
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.typing import ConnectionState

from lva.connection_errors import ConnectionErrors

#: Under this key of the ASGI scope's `state` is what cuts the connection off at once.
ABORT: Final = "lva.abort"
#: How long, in seconds, a client that has closed its side gets to see the rest of the response. One that has
#: gone altogether looks the same until something is sent to it.
HALF_CLOSED_GRACE: Final = 0.25


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
        self._idle = trio.Event()
        self._watching = False

    async def restart(self, task_group: _TaskGroup, _action: object) -> None:
        """Begin a pause."""
        self._idle_since = trio.current_time()
        self._idle.set()
        if not self._watching:
            self._watching = True
            task_group.spawn(self._watch)

    async def stop(self) -> None:
        """End the pause: a request has come."""
        self._idle_since = None
        if self._idle.is_set():
            self._idle = trio.Event()

    async def wait_for_pause(self) -> None:
        """Wait until no request is under way, or the connection is closed."""
        await self._idle.wait()

    def end(self) -> None:
        """End the watch: the connection is closed."""
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
                await self._stopping()
            if self._idle_since is None:
                if not pause.cancelled_caught:
                    return True  # busy: the protocol closes it after the response
            elif (
                not pause.cancelled_caught or trio.current_time() >= self._idle_since + self._limit
            ):
                return False


class Connection(TCPServer):
    """One connection of Hypercorn's, watched by an `IdleWatch`, that the application can cut off.

    Args:
        errors: Takes what its tasks raise.
        *args: What Hypercorn's own class is made from.
    """

    def __init__(self, errors: ConnectionErrors, *args: Any) -> None:
        super().__init__(*args)
        self._errors = errors
        self.idle_task: Any = IdleWatch(
            self.config.keep_alive_timeout,
            self.context.terminated.wait,
            self._initiate_server_close,
        )
        self.state: ConnectionState = ConnectionState({**self.state, ABORT: self._abort})

    async def run(self) -> None:
        """Serve the connection; raise nothing but a cancellation."""
        try:
            await super().run()
        except BaseException as error:  # noqa: BLE001 - it is logged, and a cancellation raised again
            self._errors.contain(error)

    def _abort(self) -> None:
        """Close the socket under whoever reads from it or writes to it: they see the client gone."""
        self.stream.socket.close()

    async def _read_data(self) -> None:
        try:
            await self._read_all()
            # It may be gone, or wait for the rest of the response; only sending would tell.
            with trio.move_on_after(HALF_CLOSED_GRACE):
                await self.idle_task.wait_for_pause()
            await self.protocol.handle(Closed())
        finally:
            self.idle_task.end()
            protocol = self.protocol.protocol
            if isinstance(protocol, Http2):
                await protocol.release()

    async def _read_all(self) -> None:
        """Hand on what the client sends, until it has closed its side, or is gone."""
        data = b"more"
        while data:
            try:
                data = bytes(await self.stream.receive_some(MAX_RECV))
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                self.idle_task.end()
                return
            await self.protocol.handle(RawData(data))

    async def _close(self) -> None:
        self.idle_task.end()
        await super()._close()


class _Streams(dict[int, HTTPStream | WSStream]):
    """The streams of an HTTP/2 connection; one that is over takes what still comes, and forgets it."""

    def __missing__(self, number: int) -> _Over:
        return _Over()


class _Over:
    """An HTTP/2 stream whose response was complete before its request was."""

    async def handle(self, _event: object) -> None:
        """Forget it."""


class Http2(H2Protocol):
    """Hypercorn's HTTP/2, without two of its faults.

    A client may go on sending after an early response, and a response ends when the connection does, also
    if the client never took all of it.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.streams = _Streams()

    async def release(self) -> None:
        """Let those go on who wait for the client to take what is buffered: it will not."""
        for buffer in [*self.stream_buffers.values()]:
            await buffer.close()


@contextlib.contextmanager
def our_connections(errors: ConnectionErrors) -> Iterator[None]:
    """Let Hypercorn's servers that are started inside use `Connection`.

    Args:
        errors: Takes what connections' tasks raise.
    """
    # Hypercorn takes no classes for these; it looks the names up there.
    server: Any = hypercorn.trio.run
    protocols: Any = hypercorn.protocol
    before = server.TCPServer, protocols.H2Protocol
    server.TCPServer, protocols.H2Protocol = partial(Connection, errors), Http2
    try:
        yield
    finally:
        server.TCPServer, protocols.H2Protocol = before
