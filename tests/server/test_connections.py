"""The idle limit of connections, in virtual time; tests/process has the real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.trio import serve
from hypercorn.trio.worker_context import WorkerContext
from trio.testing import MockClock

from lva.http.connection import ABORT
from lva.http.idle import IdleConnections
from lva.server.connection_errors import ConnectionErrors
from lva.server.connections import Connection, our_connections
from lva.server.idle import IdleWatch
from lva.server.listening import address_of, listen
from lva.server.serve import hypercorn_config
from lva.settings import Settings

LIMIT = 5


class Watched:
    """An `IdleWatch` with a task group and a server that can stop."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.stopping = trio.Event()
        self.closed_at: float | None = None
        self._nursery = nursery
        self.spawned = 0
        self.idle = IdleConnections()
        self.watch = IdleWatch(LIMIT, self.stopping.wait, self._close, self.idle)

    async def _close(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed_at = trio.current_time()

    def spawn(self, func: Callable[..., Any]) -> None:
        self.spawned += 1
        self._nursery.start_soon(func)

    async def pause(self) -> None:
        await self.watch.restart(self, None)


@asynccontextmanager
async def watched() -> AsyncIterator[Watched]:
    """Yield one whose connection is idle; wait for the end of the watch."""
    async with trio.open_nursery() as nursery:
        it = Watched(nursery)
        await it.pause()
        yield it


async def test_each_pause_has_the_whole_limit_and_one_task_watches_all(
    autojump_clock: MockClock,
) -> None:
    async with watched() as it:
        for _ in range(10):
            await trio.sleep(LIMIT - 1)
            await it.watch.stop()
            await trio.sleep(3)
            await it.pause()
        last = trio.current_time()
    assert it.closed_at == last + LIMIT
    assert it.spawned == 1


async def test_a_busy_connection_is_not_closed(autojump_clock: MockClock) -> None:
    async with watched() as it:
        await trio.sleep(1)
        await it.watch.stop()
        await trio.sleep(100 * LIMIT)
        assert it.closed_at is None
        it.watch.end()
    assert it.closed_at is None


@pytest.mark.parametrize(("busy", "closed_at"), [(False, 1), (True, None)])
async def test_when_the_server_stops_a_connection_is_closed_or_left_to_its_response(
    autojump_clock: MockClock, busy: bool, closed_at: float | None
) -> None:
    async with watched() as it:
        await trio.sleep(1)
        if busy:
            await it.watch.stop()
        it.stopping.set()
    assert it.closed_at == closed_at


async def test_where_others_need_room_a_connection_is_closed_once_it_has_been_idle_for_a_while(
    autojump_clock: MockClock,
) -> None:
    async with watched() as it:
        await trio.sleep(1)
        await it.watch.stop()
        it.idle.close_those(0.5)
        await trio.sleep(1)
        assert it.closed_at is None, "it is busy"
        await it.pause()
        it.idle.close_those(0.5)
        await trio.sleep(1)
        assert it.closed_at is None, "perhaps its request is on the way"
        it.idle.close_those(0.5)
    assert it.closed_at == 3


async def test_the_watch_ends_with_the_connection(autojump_clock: MockClock) -> None:
    async with watched() as it:
        await trio.testing.wait_all_tasks_blocked()
        it.watch.end()
    assert it.closed_at is None
    assert trio.current_time() == 0


@pytest.mark.parametrize("own", [True, False], ids=["lva", "hypercorn"])
@pytest.mark.slow("fills the buffers of a connection")
async def test_a_connection_is_cut_off_under_a_client_that_does_not_read(own: bool) -> None:
    aborts: list[Callable[[], None]] = []
    ends: list[str] = []

    async def send_for_ever(send: Any) -> None:
        while True:
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
            await trio.lowlevel.checkpoint()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})
            return
        aborts.append(scope["state"][ABORT])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/endless":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_for_ever, send)
                while (await receive())["type"] != "http.disconnect":
                    pass
                ends.append("disconnected")
                nursery.cancel_scope.cancel()
            return
        await send({"type": "http.response.body", "body": b"well", "more_body": False})

    ignored: list[Any] = []
    listener = listen("127.0.0.1:0")
    url = address_of(listener)
    over = trio.Event()
    with trio.fail_after(20), our_connections(ConnectionErrors(ignored.extend), LIMIT, 0.25, own):
        async with trio.open_nursery() as nursery:
            config = hypercorn_config(Settings(active_plugins=()), listener)
            nursery.start_soon(lambda: serve(app, config, shutdown_trigger=over.wait, mode="asgi"))  # type: ignore[arg-type]
            client = await trio.open_tcp_stream("127.0.0.1", httpx.URL(url).port or 0)
            await client.send_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.receive_some(1)
            await trio.sleep(0.3)  # what is sent now fills the buffers between them
            assert ends == []
            aborts[0]()
            while not ends:
                await trio.sleep(0.01)
            async with httpx.AsyncClient(trust_env=False, verify=False) as other:
                assert (await other.get(f"{url}/")).text == "well"
            over.set()
        await client.aclose()
    assert ends == ["disconnected"]


async def test_who_sends_a_response_while_the_connection_is_closed_is_not_told_that_it_is_busy() -> (
    None
):
    """Kind: an error of the server's own that is put down to the plugin whose response it is."""
    config, told = Config(), []
    ours, theirs = trio.socket.socketpair()
    errors = ConnectionErrors(lambda _points: None)
    connection = Connection(
        errors,
        IdleConnections(),
        5.0,
        None,
        config,
        WorkerContext(None),
        {},
        trio.SocketStream(ours),
    )

    class Protocol:
        async def handle(self, event: object) -> None:
            told.append(type(event))

    connection.protocol = Protocol()  # type: ignore[assignment] # as much of one as is used here
    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection._close)
            for _ in range(3):
                nursery.start_soon(connection.protocol_send, RawData(b"x"))
    assert set(told) <= {Closed}
