"""One connection, over a real socket, with an application that does what the path says."""

from __future__ import annotations

import os
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lva.http.connection import HttpConnection
from lva.http.idle import IdleConnections
from lva.http.wire import Wire

Messages = list[dict[str, Any]]
KEPT = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"


class Served:
    """A connection and its client."""

    def __init__(self, client: trio.SocketStream, idle: IdleConnections) -> None:
        self.client = client
        self.idle = idle
        self.scopes: list[dict[str, Any]] = []
        self.received: Messages = []
        self.succeeded: list[bytes] = []
        self.gate = trio.Event()
        self.ended = trio.Event()

    async def app(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        self.scopes.append(scope)
        start: dict[str, Any] = {"type": "http.response.start", "status": 200}
        match scope["path"].strip("/").split("/"):
            case ["read"]:
                while not self.received or self.received[-1].get("more_body", False):
                    self.received.append(await receive())
                await send({**start, "headers": [(b"content-length", b"2")]})
                await send({"type": "http.response.body", "body": b"ok"})
            case ["stream"]:
                await send(start)
                for part in (b"a", b"", b"bcd"):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body"})
            case ["status", status]:
                await send({**start, "status": int(status)})
                await send({"type": "http.response.body"})
            case ["framed", *lengths]:
                both = [(b"content-length", length.encode()) for length in lengths]
                await send({**start, "headers": [*both, (b"transfer-encoding", b"chunked")]})
                await send({"type": "http.response.body", "body": b"ok"})
            case ["header"]:
                await send({**start, "headers": [(b"x", b"a\r\nb: c")]})
            case ["wait"]:
                self.received += [await receive(), await receive()]
            case ["endless"]:
                await send(start)
                while True:
                    await send(
                        {"type": "http.response.body", "body": b"x" * 999, "more_body": True}
                    )
            case ["held"]:
                await self.gate.wait()
                await send({**start, "headers": [(b"content-length", b"2")]})
                await send({"type": "http.response.body", "body": b"ok"})
            case ["raise"]:
                raise LookupError(scope["path"])
            case ["nothing"]:
                return
            case _:
                await send({**start, "headers": [(b"content-length", b"2")]})
                await send({"type": "http.response.body", "body": b"ok"})

    async def say(self, data: bytes) -> None:
        await self.client.send_all(data)

    async def get(self, path: str, *lines: str, body: bytes = b"") -> bytes:
        """Send a request, then read until nothing more comes or the connection ends."""
        await self.say(
            "\r\n".join((f"GET {path} HTTP/1.1", "Host: x", *lines, "", "")).encode() + body
        )
        return await self.read()

    async def read(self) -> bytes:
        reply = b""
        while True:
            await wait_all_tasks_blocked(0.005)
            try:
                data = os.read(self.client.socket.fileno(), 1 << 20)
            except BlockingIOError:
                return reply
            if not data:
                return reply
            reply += data


@asynccontextmanager
async def served() -> AsyncIterator[Served]:
    ours, theirs = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    idle = IdleConnections()
    it = Served(trio.SocketStream(trio.socket.from_stdlib_socket(theirs)), idle)

    async def succeed(begun: bytes) -> None:
        it.succeeded.append(begun)

    async def run() -> None:
        try:
            await HttpConnection(it.app, stream, {"key": 1}, idle, succeed).run()
        except (LookupError, ValueError) as error:
            it.received.append({"raised": str(error)})
        it.ended.set()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield it
            await it.client.aclose()
            nursery.cancel_scope.cancel()


async def test_requests_follow_one_another_and_some_come_ahead() -> None:
    async with served() as it:
        assert (await it.get("/a%20b?c=d", "X-Y: z")).startswith(KEPT)
        scope = it.scopes[0]
        assert (scope["path"], scope["raw_path"], scope["query_string"]) == (
            "/a b",
            b"/a%20b",
            b"c=d",
        )
        assert scope["headers"] == [(b"host", b"x"), (b"x-y", b"z")]
        assert scope["state"]["key"] == 1
        await it.say(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        assert (await it.read()).count(KEPT) == 3
        assert [scope["path"] for scope in it.scopes[1:]] == ["/1"] * 3
        assert not it.ended.is_set()


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
)
async def test_a_body_is_the_same_however_it_arrives(body: bytes) -> None:
    async with served() as it:
        for byte in b"POST /read HTTP/1.1\r\nHost: x\r\n" + body:
            await it.say(bytes([byte]))
            await wait_all_tasks_blocked()
        assert (await it.read()).startswith(KEPT)
        assert b"".join(message["body"] for message in it.received) == b"hello"
        assert [message["more_body"] for message in it.received][-1] is False
        assert (await it.get("/")).startswith(KEPT)


async def test_a_client_that_waits_is_told_to_go_on() -> None:
    async with served() as it:
        head = (
            b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        await it.say(head)
        assert await it.read() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await it.say(b"hi")
        assert (await it.read()).startswith(KEPT)


async def test_a_response_of_unknown_length_goes_in_chunks_or_ends_with_the_connection() -> None:
    async with served() as it:
        head, _, body = (await it.get("/stream")).partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert body == b"1\r\na\r\n3\r\nbcd\r\n0\r\n\r\n"
        await it.say(b"GET /stream HTTP/1.0\r\n\r\n")
        head, _, body = (await it.read()).partition(b"\r\n\r\n")
        assert b"connection: close" in head
        assert body == b"abcd"
        await it.ended.wait()


@pytest.mark.parametrize(
    ("path", "method"), [("/status/204", "GET"), ("/status/304", "GET"), ("/", "HEAD")]
)
async def test_some_responses_have_no_body(path: str, method: str) -> None:
    async with served() as it:
        for _ in range(2):
            await it.say(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            reply = await it.read()
            assert reply.endswith(b"\r\n\r\n")
            assert b"chunked" not in reply
            assert (b"content-length" in reply) is (method == "HEAD")


@pytest.mark.parametrize("path", ["/raise", "/nothing"])
@pytest.mark.slow("the connection lingers in real time")
async def test_an_application_that_does_not_respond_is_answered_for(path: str) -> None:
    async with served() as it:
        reply = await it.get(path)
        assert reply.startswith(b"HTTP/1.1 500 Internal Server Error")
        assert b"application/problem+json" in reply
        await it.ended.wait()


async def test_no_header_breaks_out_of_its_line() -> None:
    async with served() as it:
        reply = await it.get("/header")
        assert reply.startswith(b"HTTP/1.1 500 ")
        assert b"b: c" not in reply
        assert it.received == [
            {"raised": "a header of the response has a character that HTTP forbids"}
        ]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01", 400),
        (b"GET / HTTP/1.1\nHost: x\n", 400),
        (b"GET /" + b"x" * 20_000, 414),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 4000, 431),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
    ids=[400, "tls", "lf", 414, 431, 505, 501, "chunk"],
)
async def test_what_is_refused_gets_a_problem_and_the_end(data: bytes, status: int) -> None:
    async with served() as it:
        await it.say(data)
        head, _, body = (await it.read()).partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"connection: close" in head
        assert f'"status": {status}'.encode() in body


async def test_a_head_that_does_not_arrive_in_time_is_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with served() as it:
        await it.say(b"GET / HTTP/1.1\r\nHo")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.idle.close_after, 5)
            await it.ended.wait()
            assert trio.current_time() == pytest.approx(5)
            assert (await it.read()).startswith(b"HTTP/1.1 408 ")
            nursery.cancel_scope.cancel()


async def test_an_idle_connection_is_closed_and_one_with_a_request_is_not() -> None:
    async with served() as busy, served() as free:
        await busy.say(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_all_tasks_blocked()
        busy.idle.close()
        free.idle.close()
        await free.ended.wait()
        await wait_all_tasks_blocked()
        assert not busy.ended.is_set()


class _CloseAsARequestComes(trio.abc.Instrument):
    """Closes idle connections once the event loop has seen what one was sent, before its task has."""

    def __init__(self, idle: IdleConnections) -> None:
        self._idle = idle

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name.endswith("served.<locals>.run"):
            self._idle.close()


async def test_a_request_that_comes_just_as_its_connection_is_closed_is_answered() -> None:
    async with served() as it:
        await it.get("/")
        instrument = _CloseAsARequestComes(it.idle)
        trio.lowlevel.add_instrument(instrument)
        try:
            reply = await it.get("/stream")
        finally:
            trio.lowlevel.remove_instrument(instrument)
        assert [scope["path"] for scope in it.scopes] == ["/", "/stream"]
        assert reply.endswith(b"0\r\n\r\n")
        assert b"connection: close\r\n" in reply
        await it.ended.wait()


async def test_a_response_that_begins_while_the_server_stops_says_that_the_connection_ends() -> (
    None
):
    """What a head says is what holds when it is sent, not when the request came."""
    async with served() as it:
        await it.get("/held")
        it.idle.close()
        it.gate.set()
        reply = await it.read()
        assert reply.startswith(KEPT)
        assert b"connection: close\r\n" in reply
        await it.ended.wait()


@pytest.mark.parametrize("lengths", ["", "/1", "/2", "/9"])
async def test_a_response_with_two_framings_has_one(lengths: str) -> None:
    async with served() as it:
        head, _, body = (await it.get("/framed" + lengths)).partition(b"\r\n\r\n")
        assert b"content-length" not in head
        assert head.count(b"transfer-encoding: chunked") == 1
        assert body == b"2\r\nok\r\n0\r\n\r\n"


async def test_what_is_sent_in_many_steps_is_not_copied_for_each() -> None:
    ours, theirs = map(trio.socket.from_stdlib_socket, socket.socketpair())
    data = bytes(16 * 1024 * 1024)
    tracemalloc.start()
    try:
        with ours, theirs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Wire(trio.SocketStream(ours)).write, data)
                left = len(data)
                while left:
                    left -= len(await theirs.recv(65_536))
        assert tracemalloc.get_traced_memory()[1] < len(data) // 4
    finally:
        tracemalloc.stop()


async def test_a_client_that_leaves_is_told_to_the_application(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """One that has closed its side may wait for its response; only after a while it counts as gone."""
    async with served() as it:
        await it.say(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await it.client.aclose()
        await it.ended.wait()
        assert [message["type"] for message in it.received] == ["http.request", "http.disconnect"]
        assert trio.current_time() == pytest.approx(5)


async def test_a_response_without_an_end_keeps_nobody_waiting_once_its_client_has_left() -> None:
    async with served() as it:
        await it.say(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        await it.client.receive_some(1)
        await it.client.aclose()
        for _ in range(20):
            await trio.sleep(0.001)


@pytest.mark.slow("the connection lingers in real time")
async def test_a_response_before_the_end_of_the_body_is_read_by_who_goes_on_sending() -> None:
    async with served() as it:
        await it.say(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n" + bytes(1_000_000)
        )
        reply = await it.read()
        assert reply.startswith(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n")
        assert b"connection: close\r\n" in reply
        await it.ended.wait()


@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nmore",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\n\r\n",
    ],
    ids=["http2", "websocket", "h2c"],
)
async def test_another_protocol_is_left_to_its_server_with_all_that_was_read(data: bytes) -> None:
    async with served() as it:
        await it.get("/")
        await it.say(data)
        await it.ended.wait()
        assert it.succeeded == [data]
