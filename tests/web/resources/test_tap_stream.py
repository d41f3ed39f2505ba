"""`GET /tap`: what is asked for, what is left out and said to be, and how it ends."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from werkzeug.datastructures import MultiDict

from lva import MonitoringPoint
from lva.host.delivery.tap import Passage
from lva.web.problems import HttpProblem
from lva.web.resources.tap_stream import (
    LARGE,
    LONGEST,
    LOOKS,
    MOST_TAPS,
    MOST_VALUES,
    SILENCE,
    Meter,
    TapQuery,
    _rendered,
    _selected,
    parse_query,
)
from tests.event_samples import CHANGE, JPEG, SEEN
from tests.support import ServiceProcess, numbered, write_plugin


def query(text: str) -> TapQuery:
    """Return what a query string asks for."""
    pairs = [tuple(part.split("=", 1)) for part in text.split("&") if part]
    return parse_query(MultiDict(pairs))


def point(series: str = "numbers", **tags: Any) -> MonitoringPoint:
    return MonitoringPoint(series, 1.0, tags, {"n": 1})


# What is asked for


@pytest.mark.parametrize(
    ("text", "matching", "others"),
    [
        ("", [point(), point("other", a=1)], []),
        ("series=a&series=b", [point("a"), point("b")], [point("c")]),
        ("tag=code:500", [point(code=500), point(code="500")], [point(code=50), point()]),
        ("tag=a:1&tag=b:x:y", [point(a=1, b="x:y")], [point(a=1), point(a=2, b="x:y")]),
        ("series=a&tag=b:1", [point("a", b=1)], [point("a"), point("b", b=1)]),
    ],
)
def test_points_are_filtered(
    text: str, matching: list[MonitoringPoint], others: list[MonitoringPoint]
) -> None:
    wanted = query(text)
    assert [item for item in matching + others if wanted.matches(item)] == matching


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("serie=a", "there is no parameter 'serie'; did you mean 'series'?"),
        ("tag=a", "a tag is NAME:VALUE"),
        ("tag=:a", "a tag is NAME:VALUE"),
        ("rate=0", "rate is 1 to 1000"),
        ("rate=1001", "rate is 1 to 1000"),
        ("rate=x", "rate is 1 to 1000"),
        ("rate=\u0663", "rate is 1 to 1000"),
        (f"rate={'9' * 5000}", "rate is 1 to 1000"),
    ],
)
def test_a_malformed_query_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(HttpProblem) as caught:
        query(text)
    assert caught.value.status == 400
    assert why in caught.value.detail


# What is left out


def sent(passages: list[Passage], wanted: TapQuery, meter: Meter) -> list[int]:
    return [json.loads(line)["fields"]["n"] for line in _selected(passages, wanted, meter)]


def test_no_more_is_sent_than_the_rate_allows_and_the_rest_is_counted() -> None:
    meter = Meter(10, now=0.0)
    flood = [Passage(0.0, "published", None, numbered(25))]
    assert sent(flood, TapQuery(rate=10), meter) == list(range(10))
    assert meter.unsent == 15
    meter.refill(0.5)
    assert len(sent(flood, TapQuery(rate=10), meter)) == 5
    meter.refill(100.0)
    assert len(sent(flood, TapQuery(rate=10), meter)) == 10
    (note,) = meter.notes(100.0)
    assert json.loads(note)["over_rate"] == 15 + 20 + 15
    assert json.loads(note)["left_out"] == 50


def test_no_more_is_looked_at_than_the_event_loop_can_bear() -> None:
    meter = Meter(1000, now=0.0)
    flood = [Passage(0.0, "published", None, numbered(LOOKS - 1)) for _ in range(3)]
    assert sent(flood, TapQuery(series=frozenset({"none"})), meter) == []
    assert meter.missed == 3 * (LOOKS - 1) - LOOKS
    meter.refill(0.1)
    assert meter.looks == LOOKS


def test_notes_come_at_most_once_a_second_and_now_and_then_in_silence() -> None:
    meter = Meter(10, now=0.0)
    assert [*meter.notes(5.0)] == []
    meter.missed = 3
    assert len([*meter.notes(5.1)]) == 1
    meter.missed = 4
    assert [*meter.notes(6.0)] == []
    (note,) = meter.notes(6.2)
    assert json.loads(note)["not_looked_at"] == 4
    assert [*meter.notes(6.1 + SILENCE)] == []
    (note,) = meter.notes(6.3 + SILENCE)
    assert json.loads(note)["left_out"] == 0


def test_an_event_of_a_stream_is_found_by_its_tags_and_shown_without_its_picture() -> None:
    """Kind: what an event has besides texts and numbers is text in the line, and nothing is not there."""
    assert query("series=analytics_event&tag=stream:door&tag=analytics:motion").matches(SEEN)
    assert not query("series=stream_event").matches(SEEN)
    line = json.loads(_rendered(Passage(2.0, "published", "streams", [SEEN]), SEEN))
    assert (line["series"], line["time"], line["tags"]) == ("analytics_event", SEEN.time, SEEN.tags)
    assert line["fields"]["data"] == '{"boxes":[{"x":1,"ü":null}]}'
    assert json.loads(line["fields"]["image"])["size"] == len(JPEG)
    assert (line["fields"]["frame"], line["fields"]["account_id"]) == (3, "acme")
    line = json.loads(_rendered(Passage(2.0, "published", "streams", [CHANGE]), CHANGE))
    assert "account_id" not in line["fields"]
    large = replace(SEEN, data={"x": "x" * LARGE}, image=bytes(10))
    line = json.loads(_rendered(Passage(2.0, "published", "streams", [large]), large))
    assert line["fields"]["data"] == "…"


def test_a_huge_point_makes_a_bounded_line() -> None:
    fields = {f"f{n}": "x" * 1000 for n in range(500)}
    huge = MonitoringPoint("s" * 1000, 1.0, {"t": "y" * 100_000}, fields)
    line = json.loads(_rendered(Passage(0.0, "published", None, [huge]), huge))
    assert len(line["fields"]) == MOST_VALUES
    assert line["fields"]["f0"] == "x" * LONGEST + "…"
    assert line["tags"]["t"] == "y" * LONGEST + "…"
    assert len(line["series"]) == LONGEST


# The real service

SOURCE = """
class Source(BaseBackgroundPlugin):
    async def start(self):
        n = 0
        while True:
            n += 1
            batch = [MonitoringPoint("burst", time.time(), {"half": i % 2}, {"n": n}) for i in range(100)]
            self.app.publish("monitoring_event", batch)
            await trio.sleep(0.02)
"""
SINK = """
class Sink(BaseEventPlugin):
    eventName = "monitoring_event"
    async def handleEvent(self, points, logger):
        if any(point.series == "burst" for point in points):
            raise PermanentDeliveryError("none of these")
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    tmp_path = tmp_path_factory.mktemp("tap")
    write_plugin(tmp_path / "plugins", "source", SOURCE)
    write_plugin(tmp_path / "plugins", "sink", SINK)
    with ServiceProcess(tmp_path, ["history", "sink", "source"]) as process:
        process.wait_until_ready()
        yield process


@contextmanager
def tapped(service: ServiceProcess, text: str) -> Iterator[Iterator[Any]]:
    """Yield the objects of a stream."""
    with service.stream(f"/tap?{text}") as answer:
        assert answer.status_code == 200, answer.read()
        yield (json.loads(line) for line in answer.iter_lines())


@pytest.mark.process
def test_points_are_streamed_and_what_exceeds_the_rate_is_told(service: ServiceProcess) -> None:
    with tapped(service, "series=burst&tag=half:1&rate=20") as lines:
        points = []
        for line in lines:
            if "left_out" in line:
                break
            points.append(line)
    assert line["over_rate"] > 1000  # 2500 a second match
    assert 20 <= len(points) <= 60
    for item in points:
        assert (item["step"], item["plugin"]) == ("published", "source")
        assert (item["series"], item["tags"]) == ("burst", {"half": 1})
        assert item["at"] >= item["time"] - 0.01


@pytest.mark.process
def test_a_plugin_is_seen_with_what_becomes_of_its_points(service: ServiceProcess) -> None:
    with tapped(service, "plugin=sink&series=burst&rate=1") as lines:
        line = next(lines)
    assert (line["step"], line["plugin"]) == ("rejected", "sink")
    with tapped(service, "plugin=history&series=burst&rate=1") as lines:
        assert next(lines)["step"] == "delivered"


@pytest.mark.process
@pytest.mark.parametrize("path", ["/tap", "/events"])
def test_a_reader_that_leaves_is_no_error(service: ServiceProcess, path: str) -> None:
    with service.stream(path) as answer:
        next(answer.iter_lines())
    query = f"/history/points?tag=route:GET:{path}&tag=status_code:200"
    service.wait_until(lambda: service.get(query).json()["points"])
    assert {item["series"] for item in service.get(query).json()["points"]} == {"requests"}


@pytest.mark.process
def test_an_unknown_plugin_is_refused_with_a_hint(service: ServiceProcess) -> None:
    answer = service.get("/tap?plugin=sinc")
    assert (answer.status_code, answer.json()["error_code"]) == (404, "unknown_plugin")
    assert "did you mean 'sink'?" in answer.json()["detail"]


@pytest.mark.process
def test_readers_are_few_and_make_room_when_they_leave(service: ServiceProcess) -> None:
    with ExitStack() as stack:
        # Kept, because a stream whose iterator is gone is closed.
        streams = [tapped_at_last(service, stack) for _ in range(MOST_TAPS)]
        for stream in streams:
            next(stream)
        refused = service.get("/tap")
        assert (refused.status_code, refused.json()["error_code"]) == (503, "too_many_streams")
        assert refused.headers["retry-after"] == "5"
    service.wait_until(lambda: can_tap(service))


def tapped_at_last(service: ServiceProcess, stack: ExitStack) -> Iterator[Any]:
    """Tap once there is room: readers that have left are noticed a moment later."""
    had: list[Iterator[Any]] = []

    def is_had() -> bool:
        with suppress(AssertionError):
            had.append(stack.enter_context(tapped(service, "rate=1")))
        return bool(had)

    service.wait_until(is_had)
    return had[0]


def can_tap(service: ServiceProcess) -> bool:
    """Return whether there is room for another reader."""
    with service.stream("/tap") as answer:
        return answer.status_code == 200


@pytest.mark.process
def test_a_stop_ends_the_stream_and_waits_for_no_reader(tmp_path: Path) -> None:
    source = SOURCE.replace('{"n": n}', '{f"f{k}": "x" * 400 for k in range(20)}')
    write_plugin(tmp_path / "plugins", "source", source)
    # Requests in flight would have 30 s of it.
    with ServiceProcess(tmp_path, ["source"], "shutdown_timeout = 100") as service:
        service.wait_until_ready()
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            stalled.sendall(b"GET /tap?rate=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with tapped(service, "rate=1") as lines:
                # Within a second, what lies between the service and the reader that does not read is
                # full: some eight megabytes.
                while "left_out" not in next(lines):
                    pass
                service.signal()
                *_, last = lines
                assert last["end"] == "the service is stopping"
            assert service.wait(timeout=20) == 0
