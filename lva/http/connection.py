"""One connection in clear text: its requests one after the other, in the connection's own task.

The application is called in the task that reads from the socket: `receive` reads, and `send`, which may come
from any task, writes. So a request costs no task and no channel of the server's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import unquote

import trio

from lva.http.cycle import Cycle
from lva.http.head import END, MOST_HEAD, Head, read_head, unfinished
from lva.http.idle import IdleConnections
from lva.http.refusal import RefusedError
from lva.http.wire import Wire

Application = Callable[[Any, Any, Any], Awaitable[None]]
#: Serves what is no HTTP/1.1 any more, given what was read of it.
Successor = Callable[[bytes], Awaitable[object]]

#: Under this key of the ASGI scope's `state` is what cuts the connection off at once.
ABORT: Final = "lva.abort"
#: Protocols that an `Upgrade` is passed on to, and how HTTP/2 begins without one.
_UPGRADES: Final = frozenset({b"h2c", b"websocket"})
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\n"
#: How long, in seconds, and for how many bytes a client may go on with a body that nobody wants: closed at
#: once, the connection would take the response with it.
_LINGER: Final = 0.5
_MOST_LINGERED: Final = 4 * 1024 * 1024
_PATIENCE: Final = 5.0


class HttpConnection:
    """A connection.

    Args:
        app: The ASGI application.
        stream: What the client connected to.
        state: What is in the state of each request's scope.
        idle: Is told when it has no request, and closes it then if need be.
        successor: Serves it once it becomes HTTP/2 or a WebSocket.
        patience: How long, in seconds, a client that has closed its side waits for a response to begin.
    """

    def __init__(
        self,
        app: Application,
        stream: trio.SocketStream,
        state: Mapping[str, Any],
        idle: IdleConnections,
        successor: Successor,
        patience: float = _PATIENCE,
    ) -> None:
        self._app = app
        self._wire = Wire(stream)
        self._state = {**state, ABORT: self._wire.close}
        self._idle = idle
        self._successor = successor
        self._patience = patience
        self._waiting = False
        self._hurried = False
        self._buffer = b""
        self._client = _address(stream.socket.getpeername)
        self._server = _address(stream.socket.getsockname)

    async def run(self) -> None:
        """Serve requests until one of both sides ends the connection, and close it.

        Cancellation: the request that is under way is cancelled, and the connection closed.

        Raises:
            Exception: The application raised it.
        """
        try:
            await self._serve()
        except RefusedError as refused:
            self._say(refused)
            await self._linger()
        finally:
            self._idle.remove(self)
            self._wire.finish()
            self._wire.close()

    def hurry(self) -> None:
        """Close the connection now, if it is idle."""
        if self._waiting:
            self._hurried = True
            self._wire.wake()

    def _say(self, refused: RefusedError) -> None:
        self._wire.say(refused.response())

    async def _serve(self) -> None:
        reusable = True
        while reusable and (raw := await self._next_head()):
            if raw == _PREFACE:
                await self._successor(raw + self._buffer)
                return
            head = read_head(raw)
            if head.upgrade in _UPGRADES and head.length == 0:
                await self._successor(raw + self._buffer)
                return
            reusable = await self._exchange(head)

    async def _next_head(self) -> bytes:
        """Return the head of the next request; nothing if the connection is to be closed."""
        if not self._idle.add(self, trio.current_time()):
            return b""
        self._waiting = True  # no longer: what is closed must not be a request
        end = await self._end_of_head()
        self._waiting = False
        if self._hurried and not end and self._buffer:
            self._say(RefusedError(408, "The request's head did not arrive in time."))
        self._idle.remove(self)
        head, self._buffer = self._buffer[:end], self._buffer[end:]
        return head

    async def _end_of_head(self) -> int:
        """Read on until there is a head in the buffer; return where it ends, 0 if it does not come."""
        data = self._buffer
        while (end := data.find(END)) < 0:
            if data:
                unfinished(data)
            if self._hurried or not (more := await self._wire.read()):
                return 0
            self._buffer = data = data + more
        end += len(END)
        if end > MOST_HEAD:
            unfinished(data[:end])
        return end

    async def _exchange(self, head: Head) -> bool:
        """Have the application answer a request; return whether another may follow."""
        cycle = Cycle(self._wire, head, self._buffer, self._idle, self._patience)
        try:
            await self._app(self._scope_of(head), cycle.receive, cycle.send)
        except Exception:
            if not cycle.begun:
                self._say(RefusedError(500, "The application failed."))
            raise
        finally:
            self._buffer = cycle.buffer
            cycle.cut_off()
        if not cycle.begun:
            raise RefusedError(500, "The application sent no response.")
        if not cycle.body_complete:
            await self._linger()
        return cycle.reusable

    async def _linger(self) -> None:
        """Let the client finish what it sends, within limits, so that it gets to read the response."""
        self._wire.finish()
        left = _MOST_LINGERED
        with trio.move_on_after(_LINGER):
            while left > 0 and (data := await self._wire.read()):
                left -= len(data)

    def _scope_of(self, head: Head) -> dict[str, Any]:
        path, _, query = head.target.partition(b"?")
        text = path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "http_version": head.version,
            "method": head.method,
            "scheme": "http",
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": head.headers,
            "client": self._client,
            "server": self._server,
            "state": {**self._state},
            "extensions": {},
        }


def _address(name: Callable[[], Any]) -> Any:
    """Return an address as ASGI has it; None for a Unix socket."""
    with suppress(OSError):
        found = name()
        if isinstance(found, tuple):
            return found[:2]
    return None
