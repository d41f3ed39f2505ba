"""`/events` as its readers get it: complete, in order, bounded, and over when the service stops."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trio

from lva.host.life.states import State
from lva.host.watch.uses import Block, LoopUses
from lva.server.connections import ABORT
from lva.web.problems import HttpProblem
from lva.web.resources.event_stream import EventStreams
from lva.web.resources.streams import Shutdown
from lva.web.resources.telemetry import Telemetry
from tests.support import RunningHost, ServiceProcess, running_host, write_plugin

FRAGILE = """
    class Fragile(BaseBackgroundPlugin):
        async def initialize(self):
            self.crash = trio.Event()
            self.addRoute("/crash", self.fail, methods={"post"})

        async def fail(self, request):
            self.crash.set()
            return "it will"

        async def start(self):
            await self.crash.wait()
            raise RuntimeError("the camera is gone")
"""
TOML = """
    max_event_streams = 4

    [plugins.fragile]
    max_restarts = 1000
    backoff_initial = 0.1
    backoff_max = 0.1

    [plugins.history]
    flush_interval = 0.05
"""


class Events:
    """One open stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.iter_lines()

    def next(self) -> tuple[str, Any]:
        """Return the next event's name and data."""
        name = next(self._lines).removeprefix("event: ")
        data = json.loads(next(self._lines).removeprefix("data: "))
        assert next(self._lines) == ""
        return name, data

    def until(self, name: str) -> Any:
        """Return the data of the next event of this name."""
        while True:
            found, data = self.next()
            if found == name:
                return data

    def rest(self) -> list[tuple[str, Any]]:
        """Return all events until the stream ends by itself."""
        events = []
        while True:
            try:
                events.append(self.next())
            except StopIteration:
                return events


@contextmanager
def listening(service: ServiceProcess) -> Iterator[Events]:
    with service.stream("/events") as response:
        yield Events(response)


def start(tmp_path: Path, toml: str = TOML) -> ServiceProcess:
    (tmp_path / "plugins").mkdir()
    write_plugin(tmp_path / "plugins", "fragile", FRAGILE)
    return ServiceProcess(tmp_path, ["history", "fragile"], toml)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with start(tmp_path_factory.mktemp("events")) as process:
        process.wait_until_ready()
        yield process
        assert process.stop() == 0
        assert not [item for item in process.records if item["level"] == "CRITICAL"]


@contextmanager
def listening_at_last(service: ServiceProcess) -> Iterator[Events]:
    """Listen once a stream can be had: those that were closed are noticed a moment later."""
    with ExitStack() as stack:
        had: list[Events] = []

        def is_had() -> bool:
            stack.close()
            had[:] = [stack.enter_context(listening(service))]
            return had[0].response.status_code == 200

        service.wait_until(is_had)
        yield had[0]


@pytest.mark.process
def test_the_first_event_is_all_there_is(service: ServiceProcess) -> None:
    def is_counted() -> bool:
        """A request is counted when it has ended, which is after its response has come."""
        with listening_at_last(service) as events:
            return sum(events.next()[1]["series"]["client_errors"]) > 0

    service.get("/nothing")
    service.wait_until(is_counted)
    with listening_at_last(service) as events:
        assert events.response.headers["content-type"] == "text/event-stream"
        assert events.response.headers["cache-control"] == "no-store"
        name, hello = events.next()
    assert name == "hello"
    assert (hello["v"], hello["ready"], hello["draining"], hello["details"]) == (
        1,
        True,
        False,
        True,
    )
    assert [plugin["name"] for plugin in hello["plugins"]] == ["history", "fragile"]
    for plugin in hello["plugins"]:
        row = dict(zip(hello["columns"], plugin["row"], strict=True))
        assert row["state"] == "running"
        assert row["log"] > 0
    assert len({len(values) for values in hello["series"].values()}) == 1
    steps = [(step["plugin"], step["state"]) for step in hello["timeline"]]
    assert steps[:2] == [("history", "initializing"), ("history", "running")]


@pytest.mark.process
def test_who_asks_for_the_head_gets_no_stream(service: ServiceProcess) -> None:
    answer = service.request("HEAD", "/events")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "text/event-stream"


@pytest.mark.process
def test_a_tick_comes_each_second_with_what_changed(service: ServiceProcess) -> None:
    with listening_at_last(service) as events:
        first = events.until("tick")
        for _ in range(20):
            service.get("/version")
        ticks = [events.until("tick") for _ in range(2)]
    times = [tick["at"] for tick in (first, *ticks)]
    assert [b - a for a, b in zip(times, times[1:], strict=False)] == [
        pytest.approx(1, abs=0.5)
    ] * 2
    assert any("history" in tick["rows"] for tick in ticks)
    assert any(tick["sparks"].get("history") for tick in ticks)
    assert any(tick["sample"][1] > 0 for tick in ticks)  # the other may be the first of a step


@pytest.mark.process
def test_a_crash_is_told_as_it_happens(service: ServiceProcess) -> None:
    with listening_at_last(service) as events:
        events.until("tick")
        service.request("POST", "/crash")
        steps = [events.until("transition") for _ in range(3)]
    assert [(step["from"], step["state"]) for step in steps] == [
        ("running", "backoff"),
        ("backoff", "initializing"),
        ("initializing", "running"),
    ]
    assert {step["plugin"] for step in steps} == {"fragile"}
    assert "RuntimeError: the camera is gone" in steps[0]["reason"]
    answer = service.get("/plugins/fragile/log").json()
    assert answer["last_failure"]["traceback"].endswith("RuntimeError: the camera is gone")
    assert answer["records"][-1]["message"] == "initializing -> running: initialized"


@pytest.mark.process
def test_streams_past_the_cap_are_told_to_come_later(service: ServiceProcess) -> None:
    with ExitStack() as stack:
        opened: list[Events] = []

        def four_are_open() -> bool:
            """Those of other tests are noticed to be closed a moment later."""
            while len(opened) < 4:
                with ExitStack() as attempt:
                    events = attempt.enter_context(listening(service))
                    if events.response.status_code != 200:
                        return False
                    opened.append(events)
                    stack.push(attempt.pop_all())
            return True

        service.wait_until(four_are_open)
        refused = service.get("/events")
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "5"
    assert refused.json()["error_code"] == "too_many_streams"
    assert "max_event_streams" in refused.json()["detail"]
    with listening_at_last(service):
        pass  # there is room again


class Streams:
    """Event streams whose readers are read by the test, in virtual time, without a server."""

    def __init__(self, host: RunningHost, most: int = 10, details: bool = True) -> None:
        shutdown = Shutdown(reason="because")
        self.closing = shutdown.closing
        self.aborted = 0
        self.over = trio.Event()
        self.details = details
        self.has_token = True
        self.streams = EventStreams(
            Telemetry(host.host),
            host.host,
            self,  # type: ignore[arg-type] # what decides who may see details
            shutdown,
            most,
        )

    def sees_details(self, _request: object) -> bool:
        return self.details

    def _abort(self) -> None:
        self.aborted += 1

    async def open(self) -> AsyncGenerator[bytes]:
        """Return the events of a new stream."""
        request = SimpleNamespace(method="GET", scope={"state": {ABORT: self._abort}})
        response = await self.streams.open(request, self.over.is_set)
        return self._events(response)

    async def _events(self, response: Any) -> AsyncGenerator[bytes]:
        async with response.response as body:
            async for event in body:
                yield event


async def test_a_reader_that_does_not_keep_up_is_cut_off(
    tmp_path: Path, autojump_clock: object
) -> None:
    async with running_host(tmp_path, {}) as host, trio.open_nursery() as nursery:
        it = Streams(host, most=2)
        nursery.start_soon(it.streams.run)
        slow, quick = await it.open(), await it.open()
        with pytest.raises(HttpProblem):
            await it.open()
        async with aclosing(quick):
            for _ in range(30):
                await anext(quick)
            assert it.aborted == 1
            late = await it.open()  # there is room again
        assert len([event async for event in slow]) == 16  # what had been sent is all it gets
        it.closing.set()
        assert (await anext(late)).startswith(b"event: hello")
        await late.aclose()


async def test_who_does_not_take_the_last_event_is_cut_off_soon(
    tmp_path: Path, autojump_clock: object
) -> None:
    async with running_host(tmp_path, {}) as host, trio.open_nursery() as nursery:
        it = Streams(host)
        nursery.start_soon(it.streams.run)
        deaf, quick = await it.open(), await it.open()
        await trio.sleep(3.5)
        begun = trio.current_time()
        it.closing.set()
        events = [event async for event in quick]
        while not it.aborted:
            await trio.sleep(0.01)
        assert trio.current_time() - begun < 0.6
        with pytest.raises(HttpProblem) as refused:
            await it.open()
    assert events[-1].startswith(b"event: bye\ndata: {")
    assert b'"reason":"because"' in events[-1]
    assert it.aborted == 1
    assert refused.value.status == 503
    assert deaf is not None


async def test_a_stream_that_never_began_takes_no_place(
    tmp_path: Path, autojump_clock: object
) -> None:
    async with running_host(tmp_path, {}) as host:
        it = Streams(host, most=1)
        await it.open()
        with pytest.raises(HttpProblem):
            await it.open()
        it.over.set()
        assert await it.open()


async def test_each_event_is_one_object_for_all(tmp_path: Path, autojump_clock: object) -> None:
    async with running_host(tmp_path, {}) as host, trio.open_nursery() as nursery:
        it = Streams(host)
        nursery.start_soon(it.streams.run)
        streams = [await it.open() for _ in range(3)]
        await trio.sleep(2.5)
        it.closing.set()
        first, *others = [[event async for event in stream] for stream in streams]
    assert [event.split(b"\n")[0] for event in first] == [
        b"event: hello",
        b"event: tick",
        b"event: tick",
        b"event: bye",
    ]
    for other in others:
        assert all(a is b for a, b in zip(first, other, strict=True))


async def test_who_may_not_see_details_gets_no_reasons(
    tmp_path: Path, autojump_clock: object
) -> None:
    crashing = FRAGILE.replace("await self.crash.wait()", "await trio.sleep(5)")
    async with (
        running_host(tmp_path, {"fragile": crashing}) as host,
        trio.open_nursery() as nursery,
    ):
        host.host.loop_uses = LoopUses()
        block = Block(time.time(), 0.3, "/srv/lens.py:7 in start", [])
        host.host.loop_uses.note_block("fragile", block)
        it = Streams(host, details=False)
        nursery.start_soon(it.streams.run)
        public = await it.open()
        it.details = True
        full = await it.open()
        await host.wait_for("fragile", State.BACKOFF)
        await trio.sleep(2)
        late_full = await it.open()
        it.details = False
        late_public = await it.open()
        await trio.sleep(1)
        it.closing.set()
        told = [
            b"".join([event async for event in stream]).decode()
            for stream in (public, late_public, full, late_full)
        ]
    for text in told[:2]:
        assert '"state":"backoff"' in text
        assert "camera" not in text
        assert "lens.py" not in text
        assert '"details":false' in text
    for text in told[2:]:
        assert "the camera is gone" in text
        assert text.count('"where":"/srv/lens.py:7 in start"') >= 2  # in `hello` and in each `tick`
        assert '"details":true' in text


@pytest.mark.process
def test_open_consoles_do_not_delay_the_stop(tmp_path: Path) -> None:
    readers = 20
    # Requests in flight would have 30 s of it.
    toml = "shutdown_timeout = 100\n" + TOML.replace("= 4", "= 20")
    with start(tmp_path, toml) as service:
        service.wait_until_ready()
        ends: list[Any] = []

        def read() -> None:
            with listening(service) as events:
                ends.append(events.next()[0])
                ends.append(events.rest()[-1])

        threads = [threading.Thread(target=read) for _ in range(readers)]
        for thread in threads:
            thread.start()
        service.wait_until(lambda: ends.count("hello") == readers)
        assert service.stop(timeout=20) == 0
        for thread in threads:
            thread.join(10)
    byes = [end for end in ends if end != "hello"]
    assert [name for name, _ in byes] == ["bye"] * readers
    assert {data["reason"] for _, data in byes} <= {"received SIGTERM"}


@pytest.mark.process
def test_during_the_drain_window_streams_go_on_and_say_so(tmp_path: Path) -> None:
    with start(tmp_path, f"drain_window = 1.5\n{TOML}") as service:
        service.wait_until_ready()
        with listening(service) as events:
            events.until("tick")
            service.signal()
            rest = events.rest()
        assert service.wait() == 0
    assert [data["draining"] for name, data in rest if name == "tick"][-1] is True
    assert [data["ready"] for name, data in rest if name == "tick"][-1] is False
    assert rest[-1][0] == "bye"
