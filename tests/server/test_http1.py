"""What leaves of a response together, and what at once."""

from __future__ import annotations

import h11
import pytest
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Body, EndBody, Response, StreamClosed
from hypercorn.trio.worker_context import WorkerContext

from lva.server.http1 import Http1

LENGTH = (b"content-length", b"4")


class Connection:
    """An HTTP/1 connection that has had one request, and what it has sent, by packet."""

    def __init__(self, method: bytes = b"GET") -> None:
        self.sent: list[bytes] = []
        self.closed = False
        context = WorkerContext(None)
        self.http = Http1(None, Config(), context, None, {}, False, None, None, self._take)
        self.http.connection.receive_data(method + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
        while self.http.connection.next_event() is not h11.PAUSED:
            if self.http.connection.their_state is h11.DONE:
                break

    async def _take(self, event: Event) -> None:
        if isinstance(event, RawData):
            self.sent.append(event.data)
        self.closed = self.closed or isinstance(event, Closed)

    async def begin(self, *headers: tuple[bytes, bytes]) -> None:
        await self.http.stream_send(Response(1, [*headers], 200))


async def test_a_response_of_known_length_leaves_in_one_packet() -> None:
    it = Connection()
    await it.begin(LENGTH)
    assert it.sent == []
    await it.http.stream_send(Body(1, b"pong"))
    (packet,) = it.sent
    assert packet.startswith(b"HTTP/1.1 200")
    assert packet.endswith(b"\r\n\r\npong")


async def test_the_end_of_a_response_of_known_length_writes_nothing() -> None:
    """To write no bytes costs the event loop as much as to write some."""
    it = Connection()
    await it.begin(LENGTH)
    await it.http.stream_send(Body(1, b"pong"))
    await it.http.stream_send(EndBody(1))
    assert len(it.sent) == 1


async def test_what_is_large_is_not_copied_for_that() -> None:
    it = Connection()
    await it.begin((b"content-length", b"100000"))
    await it.http.stream_send(Body(1, bytes(100_000)))
    assert [len(packet) for packet in it.sent][1:] == [100_000]


async def test_the_head_of_a_stream_does_not_wait_for_its_first_piece() -> None:
    it = Connection()
    await it.begin()
    assert it.sent[0].startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("end", [EndBody(1), StreamClosed(1)])
async def test_a_head_that_no_body_follows_is_sent_all_the_same(
    end: EndBody | StreamClosed,
) -> None:
    """Of a HEAD request, and of a response that is cut off, after which the connection is closed."""
    it = Connection(b"HEAD")
    await it.begin(LENGTH)
    await it.http.stream_send(end)
    assert it.sent[0].startswith(b"HTTP/1.1 200")
    assert it.closed is isinstance(end, StreamClosed)
