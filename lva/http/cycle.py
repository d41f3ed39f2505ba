"""One request and its response: the `receive` and `send` that an ASGI application is called with."""

from __future__ import annotations

from typing import Any, Final

import trio

from lva.http.body import body_of
from lva.http.head import Head
from lva.http.idle import IdleConnections
from lva.http.refusal import RefusedError
from lva.http.reply import Reply
from lva.http.wire import MOST_READ, Wire

#: How long, in seconds, a client that has closed its side is thought to read on in a response that has begun.
#: One that has left altogether looks the same until something is sent to it.
HALF_CLOSED_GRACE: Final = 0.25
#: Most bytes of a body that are copied to go out along with the head.
_MOST_JOINED: Final = 65_536
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_DISCONNECT: Final = "http.disconnect"


class Cycle:
    """A request and its response.

    Args:
        wire: The client's.
        head: Of the request.
        buffer: What was read after it.
        connections: Tells whether they go on after a response.
        patience: How long, in seconds, a client that has closed its side waits for a response to begin.

    Attributes:
        buffer: What was read and is not of this request.
    """

    def __init__(
        self,
        wire: Wire,
        head: Head,
        buffer: bytes,
        connections: IdleConnections,
        patience: float,
    ) -> None:
        self.buffer: bytes = buffer
        self._wire = wire
        self._head = head
        self._connections = connections
        self._patience = patience
        self._body = body_of(head.length)
        self._awaited = head.expects
        self._body_told = False
        self._reply: Reply | None = None
        self._held = b""
        self._complete = False
        self._gone = False
        self._over = trio.Event()
        self._reading = False

    @property
    def begun(self) -> bool:
        """Whether a response has begun, or nobody is there for one."""
        return self._reply is not None or self._gone

    @property
    def body_complete(self) -> bool:
        """Whether all of the request's body was read."""
        return self._body.complete

    @property
    def reusable(self) -> bool:
        """Whether another request may follow on the connection."""
        reply = self._reply
        return self._complete and self._body.complete and reply is not None and reply.keep_alive

    def cut_off(self) -> None:
        """Send what was held back of a response that ends before it is complete."""
        if self._held and not self._gone:
            self._wire.say(self._held)

    async def receive(self) -> dict[str, Any]:
        """Return the next ASGI message: of the body, or that the response is complete or the client gone."""
        if self._over.is_set():
            return {"type": _DISCONNECT}
        if self._body.complete:
            if not self._body_told:
                self._body_told = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await self._end()
            return {"type": _DISCONNECT}
        try:
            data = await self._piece()
        except RefusedError as refused:
            if not self.begun:
                self._wire.say(refused.response())
            data = None
        if data is None:
            self._leave()
            return {"type": _DISCONNECT}
        self._body_told = self._body.complete
        return {"type": "http.request", "body": data, "more_body": not self._body.complete}

    async def _piece(self) -> bytes | None:
        """Return the next of the body; None once the response is complete or the client gone."""
        if self._awaited and self._reply is None:
            self._awaited = False
            await self._wire.write(_CONTINUE)
        while True:
            piece, self.buffer = self._body.take(self.buffer)
            if piece or self._body.complete:
                return piece
            more = await self._read()
            if not more:
                return None
            self.buffer += more

    async def _end(self) -> None:
        """Wait until the response is complete or the client gone."""
        while not self._over.is_set() and len(self.buffer) < MOST_READ:
            more = await self._read()
            if more:
                self.buffer += more
            elif not self._over.is_set():
                await self._outwait()
        if not self._over.is_set():
            await self._over.wait()

    async def _outwait(self) -> None:
        """Give a client that has closed its side time for its response.

        It may be gone, or wait; only sending would tell.
        """
        if not self._wire.broken:
            grace = self._patience if self._reply is None else HALF_CLOSED_GRACE
            with trio.move_on_after(grace):
                await self._over.wait()
        self._leave()

    async def _read(self) -> bytes:
        """Read on; return nothing if the client is gone, or once the response is complete."""
        self._reading = True
        try:
            return await self._wire.read()
        finally:
            self._reading = False

    async def send(self, message: Any) -> None:
        """Take an ASGI message of the response.

        Cancellation: the response is cut off, and the connection ends.

        Raises:
            ValueError: A header has a character that HTTP forbids.
            RuntimeError: Messages are in the wrong order.
        """
        if self._gone:
            await trio.lowlevel.checkpoint()  # or who never ends would keep all others waiting
            return
        kind = message["type"]
        if kind == "http.response.start" and self._reply is None:
            head = self._head
            # The rest of a body may never come; so a response ahead of it says that the connection ends.
            keep_alive = head.keep_alive and self._connections.open and self._body.complete
            reply = self._reply = Reply(message, head.method, head.version, keep_alive)
            if reply.sized or not reply.has_body:
                self._held = reply.head
            else:
                await self._write(reply.head)
        elif kind == "http.response.body" and self._reply is not None and not self._complete:
            last = not message.get("more_body", False)
            await self._write_body(message.get("body", b""), last)
            if last:
                self._complete = not self._gone
                self._set_over()
            else:
                await trio.lowlevel.checkpoint()
        else:
            raise RuntimeError(f"{kind} does not follow what was sent before")

    async def _write_body(self, body: bytes, last: bool) -> None:
        assert self._reply is not None
        data, head = self._reply.framed(body, last), self._held
        self._held = b""
        if head and len(data) > _MOST_JOINED:
            await self._write(head)
            head = b""
        if head or data:
            await self._write(head + data if head else data)

    async def _write(self, data: bytes) -> None:
        if not await self._wire.write(data):
            self._leave()

    def _leave(self) -> None:
        self._gone = not self._complete
        self._set_over()

    def _set_over(self) -> None:
        self._over.set()
        if self._reading:
            self._wire.wake()
