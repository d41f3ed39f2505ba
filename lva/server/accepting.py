"""Accepting connections while the process has file descriptors to spare.

The last ones are for the plugins and for the service's own files: a client waits until another one has left.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import trio

from lva.http.idle import IdleConnections
from lva.logs.loggers import service_logger
from lva.logs.recurring import Recurring
from lva.server.connection_errors import SHORTAGE, ConnectionErrors

LOGGER: Final = service_logger("lva.service")
#: How many descriptors connections leave to everybody else: this part of all, and at most so many.
_KEPT_SHARE: Final = 0.25
_MOST_KEPT: Final = 100
#: Stands for no limit.
_NO_LIMIT: Final = 2**31
#: How long, in seconds, nothing is accepted when descriptors are short, unless a connection is closed before.
_PAUSE: Final = 0.1
#: A connection that has been idle for so long, in seconds, is closed when others wait.
_IDLE: Final = 0.25
#: What the system says when it has nothing left for another connection.
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

Handler = Callable[[trio.SocketStream], Awaitable[object]]


class Acceptor:
    """Accepts connections, within bounds.

    Args:
        errors: Counts what could not be accepted.
        idle: The connections without a request, of which some are closed when others wait.
        limit: For how long, in seconds, a connection may be without one.
    """

    def __init__(self, errors: ConnectionErrors, idle: IdleConnections, limit: float) -> None:
        self._idle_limit = limit
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._limit = descriptors
        self._most = descriptors - min(_MOST_KEPT, int(descriptors * _KEPT_SHARE))
        self._errors = errors
        self._idle = idle
        self._open = 0
        self._one_closed = trio.Event()
        self._shortage = Recurring()

    async def serve(
        self,
        handler: Handler,
        listeners: list[trio.SocketListener],
        *,
        handler_nursery: trio.Nursery,
    ) -> NoReturn:
        """Serve connections until cancelled; in place of `trio.serve_listeners`.

        Resources: the listeners are closed at the end, each connection when its handler returns.

        Cancellation: ends it at once; connections are the nursery's.

        Errors: one of a handler ends this; that the system has nothing left for a connection does not.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._idle.close_after, self._idle_limit)
                for listener in listeners:
                    nursery.start_soon(self._serve_one, handler, listener, handler_nursery)
        finally:
            self._idle.close()
        raise AssertionError("unreachable")

    async def _serve_one(
        self, handler: Handler, listener: trio.SocketListener, nursery: trio.Nursery
    ) -> NoReturn:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in _SHORTAGES:
                        raise
                    self._say(f"the system has no more for the service ({error.strerror})")
                    await self._wait_for_room()
                    continue
                self._open += 1
                nursery.start_soon(self._handle, handler, stream)
                while self._open and _lowest_free(listener) >= self._most:
                    self._say(f"{self._open} leave few of {self._limit} file descriptors to others")
                    await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        """Wait for a connection to be closed, for a moment; else see to it that idle ones are."""
        with trio.move_on_after(_PAUSE):
            await self._one_closed.wait()
            return
        self._idle.close_those(_IDLE)

    async def _handle(self, handler: Handler, stream: trio.SocketStream) -> None:
        try:
            await handler(stream)
        finally:
            await trio.aclose_forcefully(stream)
            self._open -= 1
            self._one_closed.set()
            self._one_closed = trio.Event()

    def _say(self, why: str) -> None:
        self._errors.count(SHORTAGE)
        if self._shortage.again():
            LOGGER.warning("new connections wait: %s; raise the limit (ulimit -n)", why)


def _lowest_free(listener: trio.SocketListener) -> int:
    """Return the number that the system would give to the next descriptor: all below are taken."""
    try:
        number = os.dup(listener.socket.fileno())
    except OSError:
        return _NO_LIMIT
    os.close(number)
    return number
