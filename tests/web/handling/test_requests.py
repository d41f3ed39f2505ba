"""How many requests there are at once, and when their points are published: alone at once, together soon."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lva import MonitoringPoint
from lva.settings import Settings
from lva.web.handling.exchange import Exchange, Observe
from lva.web.handling.gathering import GATHER_COUNT, GATHER_TIME
from lva.web.handling.requests import Requests


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

    def __init__(self, nursery: trio.Nursery, **settings: Any) -> None:
        self.published: list[tuple[float, list[MonitoringPoint]]] = []
        self.gates: dict[str, trio.Event] = {}
        self.statuses: Counter[int] = Counter()
        limits = Settings(active_plugins=(), **settings)
        self.requests = Requests(self, self._publish, limits, nursery)

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
            self.statuses[message.get("status", 0)] += 1
            if message["type"] == "http.response.body":
                ended.set()

        ended = trio.Event()
        scope = {"type": "http", "method": "GET", "path": path, "headers": []}
        await self.requests.handle(scope, receive, send)


@asynccontextmanager
async def beside_a_long_one() -> AsyncIterator[Service]:
    """Yield a service with a request under way, which ends once `/long` may."""
    async with trio.open_nursery() as nursery:
        service = Service(nursery)
        service.gates["/long"] = trio.Event()
        nursery.start_soon(service.request, "/long")
        await wait_all_tasks_blocked()
        yield service
        nursery.cancel_scope.cancel()


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
    async with beside_a_long_one() as service:
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


async def test_many_points_do_not_wait(autojump_clock: MockClock) -> None:
    async with beside_a_long_one() as service:
        begun = trio.current_time()
        for _ in range(GATHER_COUNT):
            await service.request("/short")
        assert [(at, len(points)) for at, points in service.published] == [(begun, GATHER_COUNT)]


async def test_points_that_gather_when_all_ends_are_published(autojump_clock: MockClock) -> None:
    async with beside_a_long_one() as service:
        await service.request("/short")
    assert sum(len(points) for _, points in service.published) >= 2


async def test_requests_that_come_in_one_moment_are_bounded_and_leave_nothing(
    autojump_clock: MockClock,
) -> None:
    """A client makes as many requests at once as it likes; what it can fill is bounded, and given back."""
    async with trio.open_nursery() as nursery, trio.open_nursery() as clients:
        service = Service(nursery, max_requests=10)
        service.gates["/long"] = trio.Event()
        for _ in range(500):
            clients.start_soon(service.request, "/long")
        await wait_all_tasks_blocked()
        assert service.requests.in_flight == 10
        assert service.statuses[503] == 490
        service.gates["/long"].set()
        await trio.sleep(1)
        assert service.requests.in_flight == 0
        assert service.statuses[200] == 10
        kept = [task.name for task in nursery.child_tasks - clients.child_tasks]
        assert set(kept) == {"requests"}
        assert len(kept) <= 64
        assert not any(
            task.child_nurseries[0].child_tasks
            for task in nursery.child_tasks - clients.child_tasks
        )
        assert sum(len(points) for _, points in service.published) == 10 + 2 * 490
        nursery.cancel_scope.cancel()


async def test_a_request_that_is_cancelled_as_it_begins_makes_its_points_too(
    autojump_clock: MockClock,
) -> None:
    """Whenever the server gives a request up, it is accounted for once."""
    async with trio.open_nursery() as nursery:
        service = Service(nursery)
        service.gates["/long"] = trio.Event()
        with trio.CancelScope() as server:
            server.cancel()
            await service.request("/long")
        await trio.sleep(1)
        ((_, points),) = service.published
        assert [point.series for point in points] == ["requests", "errors"]
        assert service.requests.in_flight == 0
        nursery.cancel_scope.cancel()


async def test_a_point_waits_for_no_other_request(autojump_clock: MockClock) -> None:
    """A request that begins while another one ends, at whatever step of its end, may take hours."""
    for steps in [*range(8)] * 8:
        async with trio.open_nursery() as nursery:
            service = Service(nursery)
            service.gates.update({"/long": trio.Event(), "/short": trio.Event()})
            await service.request("/")
            nursery.start_soon(service.request, "/short")
            await wait_all_tasks_blocked()
            service.gates["/short"].set()
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.start_soon(service.request, "/long")
            await trio.sleep(2 * GATHER_TIME)
            assert sum(len(points) for _, points in service.published) == 2, steps
            nursery.cancel_scope.cancel()


def exchange_of(points: list[MonitoringPoint], observe: Observe = lambda *_: None) -> Exchange:
    """Return a request without a server; its points are added to these."""

    async def ignore(_message: Any) -> None:
        pass

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    return Exchange(scope, ignore, points.extend, observe)


@pytest.mark.parametrize("endless", [False, True])
async def test_a_response_without_an_end_does_not_count_among_the_requests(endless: bool) -> None:
    """How long somebody has looked says nothing of the service."""

    async def respond() -> None:
        exchange.endless = endless
        await exchange.send({"type": "http.response.start", "status": 200, "headers": []})
        await exchange.send({"type": "http.response.body", "body": b""})

    points: list[MonitoringPoint] = []
    counted: list[int] = []
    exchange = exchange_of(points, lambda _route, _plugin, status, *_: counted.append(status))
    await exchange.run(respond)
    assert counted == ([] if endless else [200])
    assert len(points) == 1  # what is published of it stays


@pytest.mark.parametrize(("status", "code"), [(200, "client_disconnected"), (404, "not_found")])
async def test_a_client_that_leaves_midway_does_not_hide_what_it_was_told(
    status: int, code: str
) -> None:
    """A status 404 with the error code of a client that left would say two things."""

    async def respond() -> None:
        await exchange.send({"type": "http.response.start", "status": status, "headers": []})
        exchange.gone = True
        exchange.cancel()
        await trio.sleep_forever()

    points: list[MonitoringPoint] = []
    exchange = exchange_of(points)
    async with trio.open_nursery() as nursery:
        exchange.stop = nursery.cancel_scope.cancel
        nursery.start_soon(exchange.run, respond)
    assert [point.tags.get("error_code") for point in points] == [None, code]
    assert {point.tags["status_code"] for point in points} == {status}
