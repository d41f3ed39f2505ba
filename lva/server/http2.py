"""Hypercorn's HTTP/2, without its faults.

A client may go on sending after an early response, and make as many requests on a connection as it likes.
A response that is cut off ends for the client, and one that it never took ends when the connection does.
A client decides neither how much is kept of a frame that is too large, nor how large the table of header
fields becomes.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.frame_buffer import FrameBuffer
from hpack import Encoder
from hypercorn.events import Updated
from hypercorn.protocol.events import Event, StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hyperframe.frame import Frame

#: The size of a frame's head, and of the length that it begins with, in bytes.
_FRAME_HEAD: Final = 9
_FRAME_LENGTH: Final = 3
#: Most bytes of header fields that are kept to be referred to: what the protocol begins with.
_MOST_TABLE: Final = 4096


class Http2(H2Protocol):
    """One HTTP/2 connection."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.streams: _OpenStreams = _OpenStreams()
        self.connection.incoming_buffer = _Frames(server=True)
        self.connection.encoder = _Encoder()

    async def initiate(
        self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None
    ) -> None:
        """Begin, with the request of an upgrade if there is one; without, the connection is idle.

        Hypercorn takes the preface for a request, which would have no end.
        """
        await super().initiate(headers, settings)
        if headers is None:
            await self.send(Updated(idle=True))

    async def stream_send(self, event: Event) -> None:
        """Send a part of a response; tell the client of one that ends before it is complete."""
        if isinstance(event, StreamClosed):
            await self._reset_if_incomplete(event.stream_id)
        await super().stream_send(event)

    async def _reset_if_incomplete(self, number: int) -> None:
        buffer = self.stream_buffers.get(number)
        if buffer is None or buffer._complete:  # noqa: SLF001 - `complete` means that all of it was sent, too
            return
        await buffer.close()
        with contextlib.suppress(ProtocolError):  # of a stream that is closed
            self.connection.reset_stream(number, ErrorCodes.INTERNAL_ERROR)
            await self._flush()
        await self._window_updated(number)  # lets the sending task find it closed

    async def _create_stream(self, request: Any) -> None:
        await super()._create_stream(request)
        # Past its limit, Hypercorn closes the connection under the requests that it has accepted.
        self.keep_alive_requests = 0

    async def release(self) -> None:
        """Let those go on who wait for the client to take what is buffered: it will not."""
        for buffer in [*self.stream_buffers.values()]:
            await buffer.close()


class _OpenStreams(dict[int, HTTPStream | WSStream]):
    """The streams of an HTTP/2 connection; one that is over takes what still comes, and forgets it."""

    def __missing__(self, number: int) -> _Over:
        return _Over()


class _Over:
    """An HTTP/2 stream whose response was complete before its request was."""

    async def handle(self, _event: object) -> None:
        """Forget it."""


class _Frames(FrameBuffer):
    """Refuses a frame that is too large by its head; h2 does when all of it, up to 16 MiB, is there."""

    def __next__(self) -> Frame:
        if len(self._data) >= _FRAME_HEAD:
            self._validate_frame_length(int.from_bytes(self._data[:_FRAME_LENGTH]))
        return super().__next__()


class _Encoder(Encoder):
    """Keeps no more header fields than the usual amount, whatever the client allows."""

    @property
    def header_table_size(self) -> int:
        """The most bytes that are kept."""
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        self.header_table.maxsize = min(value, _MOST_TABLE)
        if self.header_table.resized:
            self.table_size_changes.append(self.header_table.maxsize)
