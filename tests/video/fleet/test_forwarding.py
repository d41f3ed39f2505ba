"""What responds at the address of another agent: it may be anything, and what it says is shown here."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from lva.contract import RequestProblem
from lva.video.fleet import forwarding
from lva.video.fleet.forwarding import Forwarding


@asynccontextmanager
async def responding(*pieces: bytes) -> AsyncIterator[str]:
    """A server that sends the same to everybody, and then nothing more; yield its address."""

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.receive_some()
            for piece in pieces:
                await stream.send_all(piece)
            if pieces:
                await stream.send_eof()
            await stream.receive_some()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


def response(status: str, kind: str, body: bytes = b"x", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def test_what_an_agent_responds_is_passed_on_and_no_other_header() -> None:
    more = "ETag: 7\r\nSet-Cookie: a=b\r\nLocation: http://elsewhere\r\n"
    async with responding(response("200 OK", "image/jpeg", b"\xff\xd8", more)) as address:
        found = await Forwarding("one").get(address, "/streams/a/preview.jpg")
    assert (found.statusCode, found.body) == (200, b"\xff\xd8")
    assert found.headers == {"content-type": "image/jpeg", "etag": "7"}
    problem = response("503 Service Unavailable", "application/problem+json; charset=utf-8", b"{}")
    async with responding(problem) as address:
        assert (await Forwarding("one").get(address, "/streams/a/events")).statusCode == 503


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (response("200 OK", "text/html", b"<script>"), "no agent: status 200, text/html"),
        (response("200 OK", "image/svg+xml"), "no agent: status 200, image/svg"),
        (response("302 Found", "image/jpeg", more="Location: /\r\n"), "no agent: status 302"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "no agent: status 204, nothing"),
        (response("999 What", "application/json"), "no agent: status 999"),
        (b"HTTP/1.1 101 Upgraded\r\n\r\n", "cannot be reached|no agent: status 101"),
        (b"SSH-2.0-OpenSSH\r\n", "cannot be reached"),
        (response("200 OK", "image/jpeg")[:-1], "cannot be reached"),
        (response("200 OK", "image/jpeg", bytes(2000)), "too large"),
        (b"", "cannot be reached"),
    ],
)
async def test_what_is_no_agent_is_said_and_not_passed_on(monkeypatch, sent, said) -> None:
    """The kind is a response that a browser would take for this service's own."""
    monkeypatch.setattr(forwarding, "MAX_BODY", 1000)
    async with responding(sent) as address:
        with pytest.raises(RequestProblem, match=said) as caught:
            await Forwarding("one").get(address, "/streams/a/preview.jpg")
    assert caught.value.status == 502


async def test_an_agent_that_does_not_respond_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(forwarding, "LIMIT", 0.05)
    async with responding() as address:
        with pytest.raises(RequestProblem, match="does not respond in time"):
            await Forwarding("one").get(address, "/streams/a")


async def test_certificates_are_read_once_and_only_where_they_matter(monkeypatch) -> None:
    """The kind is work for each picture that holds up all else: to read them takes 20 ms."""
    read = []
    make = ssl.create_default_context
    monkeypatch.setattr(
        ssl, "create_default_context", lambda *args, **more: read.append(1) or make(*args, **more)
    )
    forwarding._trusted.cache_clear()
    async with responding(response("200 OK", "image/jpeg")) as address:
        for each in (address, address.replace("http:", "https:")) * 2:
            with suppress(RequestProblem):
                await Forwarding("one").get(each, "/streams/a")
    assert len(read) == 1
