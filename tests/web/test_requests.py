"""When the points of requests are published: alone at once, together soon; and that they share their tags."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lva import MonitoringPoint
from lva.settings import Settings
from lva.web.requests import GATHER_COUNT, GATHER_TIME, Requests


class Ignored:
    """The body of a request that nobody reads."""

    def append(self, data: bytes) -> None:
        pass

    def set_complete(self) -> None:
        pass


class Responder:
    """Answers 200 once it may; a path that is nobody's may at once."""

    body = Ignored()

    def __init__(self, send: Callable[[Any], Awaitable[None]], may: trio.Event | None) -> None:
        self._send = send
        self._may = may

    async def respond(self) -> None:
        if self._may is not None:
            await self._may.wait()
        await self._send({"type": "http.response.start", "status": 200, "headers": []})
        await self._send({"type": "http.response.body", "body": b""})


class Service:
    """Handles requests without a server; keeps what is published, call by call, with the time."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.published: list[tuple[float, list[MonitoringPoint]]] = []
        self.gates: dict[str, trio.Event] = {}
        self._requests = Requests(self, self._publish, Settings(active_plugins=()), nursery)

    def open(self, asgi: Any, send: Callable[[Any], Awaitable[None]]) -> Responder:
        return Responder(send, self.gates.get(asgi["path"]))

    def _publish(self, event: str, points: list[MonitoringPoint]) -> None:
        assert event == "monitoring_event"
        self.published.append((trio.current_time(), points))

    async def request(self, path: str) -> None:
        async def receive() -> dict[str, Any]:
            await ended.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body":
                ended.set()

        ended = trio.Event()
        scope = {"type": "http", "method": "GET", "path": path, "headers": []}
        await self._requests.handle(scope, receive, send)


async def test_the_points_of_a_lone_request_are_published_before_it_is_over() -> None:
    async with trio.open_nursery() as nursery:
        service = Service(nursery)
        for count in (1, 2, 3):
            await service.request("/")
            assert [len(points) for _, points in service.published] == [1] * count
        nursery.cancel_scope.cancel()


async def test_points_of_requests_beside_a_long_one_come_together_and_soon(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        service = Service(nursery)
        service.gates["/long"] = trio.Event()
        nursery.start_soon(service.request, "/long")
        await wait_all_tasks_blocked()
        begun = trio.current_time()
        for _ in range(3):
            await service.request("/short")
        assert service.published == []
        await trio.sleep(2 * GATHER_TIME)
        ((at, points),) = service.published
        assert len(points) == 3
        assert at - begun == pytest.approx(GATHER_TIME)
        assert len({id(point.tags) for point in points}) == 1
        assert len({point.fields["request_id"] for point in points}) == 3
        # The next ones are gathered anew, and the end of the last request does not wait for the time.
        await service.request("/short")
        service.gates["/long"].set()
        await wait_all_tasks_blocked()
        assert [len(points) for _, points in service.published] == [3, 2]
        nursery.cancel_scope.cancel()


async def test_many_points_do_not_wait(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        service = Service(nursery)
        service.gates["/long"] = trio.Event()
        nursery.start_soon(service.request, "/long")
        await wait_all_tasks_blocked()
        begun = trio.current_time()
        for _ in range(GATHER_COUNT):
            await service.request("/short")
        assert [(at, len(points)) for at, points in service.published] == [(begun, GATHER_COUNT)]
        nursery.cancel_scope.cancel()


async def test_points_that_gather_when_all_ends_are_published(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        service = Service(nursery)
        service.gates["/long"] = trio.Event()
        nursery.start_soon(service.request, "/long")
        await wait_all_tasks_blocked()
        await service.request("/short")
        nursery.cancel_scope.cancel()
    assert sum(len(points) for _, points in service.published) >= 2
