"""Hypercorn's HTTP/1, which sends the head of a response along with the first of its body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import h11
import trio
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Body, EndBody, Response
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import WSStream

#: Most bytes of a body that are copied to go out along with the head.
_MOST_JOINED: Final = 65_536


class Http1(H11Protocol):
    """One HTTP/1 connection.

    A response of known length leaves in one packet where Hypercorn sends two, which would cost a tenth of
    what the request does. The head of one of unknown length, a stream, is sent at once.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._write: Callable[[Event], Awaitable[None]] = self.send
        self._head = b""
        self._holds_head = False
        self._refusing: trio.lowlevel.Task | None = None  # a WebSocket's handshake
        self.send: Callable[[Event], Awaitable[None]] = self._send

    @property
    def response_awaited(self) -> bool:
        """Whether a whole request was read whose response has not begun."""
        connection = self.connection
        if not isinstance(connection, h11.Connection):
            return False  # a WebSocket
        whole = connection.their_state in {h11.DONE, h11.MUST_CLOSE, h11.CLOSED}
        return whole and connection.our_state is h11.SEND_RESPONSE

    async def stream_send(self, event: StreamEvent) -> None:
        """Send a part of a response; keep a head that something follows; end with a refused WebSocket."""
        if isinstance(self.stream, WSStream) and isinstance(event, Response):
            self._refusing = self._refusing or trio.lowlevel.current_task()
        elsewhere = self._refusing not in {None, trio.lowlevel.current_task()}
        if elsewhere and isinstance(event, Response | Body | EndBody):
            return  # data behind a handshake: two tasks refuse it, each in its way
        self._holds_head = (
            isinstance(event, Response)
            and not isinstance(self.stream, WSStream)
            and any(name == b"content-length" for name, _ in event.headers)
        )
        await super().stream_send(event)
        if isinstance(event, EndBody) and isinstance(self.stream, WSStream):
            await self.send(Closed())  # a handshake is refused; Hypercorn leaves some of these open

    async def _send(self, event: Event) -> None:
        if self._holds_head and isinstance(event, RawData):
            self._head = event.data
            return
        if isinstance(event, RawData) and not event.data and not self._head:
            return  # the end of a response whose length was told: to write nothing costs as much as any write
        if self._head:
            head, self._head = self._head, b""
            if isinstance(event, RawData) and len(event.data) <= _MOST_JOINED:
                event = RawData(head + event.data)
            else:
                await self._write(RawData(head))
        await self._write(event)
