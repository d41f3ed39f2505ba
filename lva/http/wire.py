"""A socket that is read and written without a detour where that needs no waiting."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

import trio

#: Most bytes that are read at once.
MOST_READ: Final = 65_536


class Wire:
    """The client's end of a connection.

    Trio's streams pass through the event loop for each call, also when the kernel has data or room; here only
    `read` does, once.

    Args:
        stream: Is closed by `close`.

    Attributes:
        broken: Whether a `read` has found that the client can get nothing any more.
    """

    __slots__ = ("_socket", "broken")

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket
        self.broken: bool = False

    async def read(self) -> bytes:
        """Return what the client sends next; nothing once it has closed its side, is gone, or on `wake`.

        Cancellation: nothing is read.
        """
        while True:
            try:
                if self._socket.fileno() < 0:
                    return b""
                await trio.lowlevel.wait_readable(self._socket)
                return os.read(self._socket.fileno(), MOST_READ)
            except BlockingIOError:
                continue
            except trio.ClosedResourceError:
                return b""
            except OSError:
                self.broken = True
                return b""

    async def write(self, data: bytes) -> bool:
        """Send all of it; return whether the client is still there.

        Cancellation: a part may have been sent, after which the connection is of no use.
        """
        left: bytes | memoryview = data
        while True:
            try:
                sent = os.write(self._socket.fileno(), left)
                if sent == len(left):
                    return True
                left = memoryview(left)[
                    sent:
                ]  # a copy for each step would cost the square of the size
            except BlockingIOError:
                pass
            except OSError:
                return False
            try:
                if self._socket.fileno() < 0:
                    return False
                await trio.lowlevel.wait_writable(self._socket)
            except (OSError, trio.ClosedResourceError):
                return False

    def say(self, data: bytes) -> None:
        """Send as much of it as can be sent at once."""
        with suppress(OSError):
            os.write(self._socket.fileno(), data)

    def finish(self) -> None:
        """Tell the client that nothing more will be sent."""
        with suppress(OSError):
            self._socket.shutdown(trio.socket.SHUT_WR)

    def wake(self) -> None:
        """End the `read` or `write` that waits now, if one does; the connection stays open."""
        trio.lowlevel.notify_closing(self._socket)

    def close(self) -> None:
        """Close it under whoever reads from it or writes to it: they see the client gone."""
        self._socket.close()
