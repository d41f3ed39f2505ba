"""The connections of Hypercorn's servers: of our own in clear text, else Hypercorn's, contained.

An error in the server's own work for a connection ends that one alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import hypercorn.protocol
import hypercorn.trio.run
import trio
from hypercorn.events import Closed, RawData
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.typing import ConnectionState

from lva.host.process.forks import hide
from lva.http.connection import ABORT, HttpConnection
from lva.http.cycle import HALF_CLOSED_GRACE
from lva.http.idle import IdleConnections
from lva.server.accepting import Acceptor
from lva.server.connection_errors import ConnectionErrors
from lva.server.http1 import Http1
from lva.server.http2 import Http2
from lva.server.idle import IdleWatch


class Connection(TCPServer):
    """One connection of Hypercorn's, watched by an `IdleWatch`, that the application can cut off.

    Args:
        errors: Takes what its tasks raise.
        idle: Is told when it has no request.
        patience: How long, in seconds, a client that has closed its side waits for a response to begin.
        *args: What Hypercorn's own class is made from.
        begun: What was read of it already.
    """

    def __init__(
        self,
        errors: ConnectionErrors,
        idle: IdleConnections,
        patience: float,
        *args: Any,
        begun: bytes = b"",
    ) -> None:
        super().__init__(*args)
        self._errors = errors
        self._patience = patience
        self._begun = begun
        hide(self.stream.socket)
        self.idle_task: Any = IdleWatch(
            self.config.keep_alive_timeout,
            self.context.terminated.wait,
            self._initiate_server_close,
            idle,
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
            protocol = self.protocol.protocol
            waits = isinstance(protocol, Http1) and protocol.response_awaited
            with trio.move_on_after(self._patience if waits else HALF_CLOSED_GRACE):
                await self.idle_task.wait_for_pause()
            await self.protocol.handle(Closed())
        finally:
            self.idle_task.end()
            protocol = self.protocol.protocol
            if isinstance(protocol, Http2):
                await protocol.release()

    async def _read_all(self) -> None:
        """Hand on what the client sends, until it has closed its side, or is gone."""
        data = self._begun or b"more"
        if self._begun:
            await self.protocol.handle(RawData(data))
        while data:
            try:
                data = bytes(await self.stream.receive_some(MAX_RECV))
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                self.idle_task.end()
                return
            await self.protocol.handle(RawData(data))

    async def _close(self) -> None:
        self.idle_task.end()
        # Not by `send_eof`: while that waits for its turn, the stream is busy for who sends a response.
        with contextlib.suppress(OSError):
            self.stream.socket.shutdown(trio.socket.SHUT_WR)
        await self.stream.aclose()


async def _serve(
    errors: ConnectionErrors,
    idle: IdleConnections,
    patience: float,
    app: Any,
    config: Any,
    *rest: Any,
) -> None:
    """Serve a connection in clear text; what becomes HTTP/2 or a WebSocket is left to Hypercorn."""
    _, state, stream = rest
    hide(stream.socket)

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send, trio.to_thread.run_sync, trio.from_thread.run)

    async def succeed(begun: bytes) -> None:
        await Connection(errors, idle, patience, app, config, *rest, begun=begun).run()

    try:
        await HttpConnection(answer, stream, state, idle, succeed, patience).run()
    except BaseException as error:  # noqa: BLE001 - it is logged, and a cancellation raised again
        errors.contain(error)


@contextlib.contextmanager
def our_connections(
    errors: ConnectionErrors, limit: float, patience: float, own: bool = True
) -> Iterator[None]:
    """Let Hypercorn's servers that are started inside use our connections.

    Args:
        errors: Takes what connections' tasks raise.
        limit: For how long, in seconds, one may have no request.
        patience: How long, in seconds, a client that has closed its side waits for a response to begin.
        own: Whether HTTP/1.1 is served by `HttpConnection`; else by Hypercorn.
    """
    # Hypercorn takes no classes for these; it looks the names up there.
    server: Any = hypercorn.trio.run
    protocols: Any = hypercorn.protocol
    before = server.TCPServer, server.trio, protocols.H11Protocol, protocols.H2Protocol
    idle = IdleConnections()
    server.TCPServer = partial(_serve if own else Connection, errors, idle, patience)
    server.trio = _TrioWith(serve_listeners=Acceptor(errors, idle, limit).serve)
    protocols.H11Protocol, protocols.H2Protocol = Http1, Http2
    try:
        yield
    finally:
        server.TCPServer, server.trio, protocols.H11Protocol, protocols.H2Protocol = before


class _TrioWith:
    """Trio as one module of Hypercorn's sees it: with some functions replaced."""

    def __init__(self, **replaced: Any) -> None:
        vars(self).update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)
