"""Points as they pass: which step of which plugin is seen, and that nothing waits for whoever looks."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import trio

from lva.host.delivery.tap import STEPS, Tap, Taps
from tests.support import numbered, running_host
from tests.telling import ASYNCIO_STYLE

SINK = """
class Sink(BaseEventPlugin):
    eventName = "monitoring_event"
    calls = 0

    async def handleEvent(self, points, logger):
        self.calls += 1
        {body}
"""


def seen(tap: Tap) -> list[tuple[str, str | None, list[int]]]:
    """Return what has gathered: step, plugin, numbers."""
    passages, _ = tap.take()
    return [
        (item.step, item.plugin, [point.fields["n"] for point in item.points])
        for item in passages
        if item.points[0].series == "numbers"
    ]


async def test_without_a_plugin_points_are_seen_once_when_they_are_published(
    tmp_path: Path, autojump_clock: Any
) -> None:
    sink = SINK.format(body="pass")
    async with running_host(tmp_path, {"one": sink, "two": sink}) as host:
        with host.host.publisher.taps.tapped(None) as tap:
            host.publish(numbered(2))
            await host.receipt_of("one")
            assert seen(tap) == [("published", None, [0, 1])]


@pytest.mark.parametrize(
    ("body", "steps"),
    [
        ("pass", [("delivered", [0, 1, 2])]),
        ("raise PermanentDeliveryError('no')", [("rejected", [0, 1, 2])]),
        (
            "if self.calls == 1: raise OSError('later')",
            [("failed", [0, 1, 2]), ("delivered", [0, 1, 2])],
        ),
        (
            "raise OSError('never')",
            [("failed", [0, 1, 2]), ("failed", [0, 1, 2]), ("dropped", [0, 1, 2])],
        ),
        (
            "if self.calls == 1: raise PartialDeliveryError('', failed=points[:1], rejected=points[1:2])",
            [("rejected", [1]), ("delivered", [2]), ("failed", [0]), ("delivered", [0])],
        ),
        (
            "raise PartialDeliveryError('none', rejected=points)",
            [("rejected", [0, 1, 2])],
        ),
    ],
    ids=["delivered", "rejected", "retried", "dropped", "partly", "wholly-rejected"],
)
async def test_what_becomes_of_points_on_their_way_to_a_plugin(
    tmp_path: Path, autojump_clock: Any, body: str, steps: list[tuple[str, list[int]]]
) -> None:
    sources = {"sink": SINK.format(body=body), "other": SINK.format(body="pass")}
    async with running_host(tmp_path, sources, {"sink": {"max_attempts": 2}}) as host:
        with host.host.publisher.taps.tapped("sink") as tap:
            host.publish(numbered(3))
            found: list[Any] = []
            with trio.fail_after(100):
                while len(found) < len(steps):
                    await trio.sleep(0.1)
                    found += seen(tap)
        assert found == [(step, "sink", numbers) for step, numbers in steps]
        assert {step for step, _ in steps} <= set(STEPS)


async def test_what_a_plugin_publishes_is_seen_as_its_own(
    tmp_path: Path, autojump_clock: Any
) -> None:
    source = """
    class Source(BaseBackgroundPlugin):
        async def start(self):
            self.app.publish("monitoring_event", [MonitoringPoint("numbers", 1.0, {}, {"n": 7})])
    """
    sources = {"waits": "class W(BaseBackgroundPlugin): pass", "source": source}
    async with running_host(tmp_path, sources, wait=False) as host:
        with (
            host.host.publisher.taps.tapped("source") as own,
            host.host.publisher.taps.tapped("waits") as others,
        ):
            await host.wait_until_running()
            await trio.sleep(1)
            assert seen(own) == [("published", "source", [7])]
            assert seen(others) == []


async def test_points_that_another_thread_publishes_are_seen(tmp_path: Path) -> None:
    source = ASYNCIO_STYLE + (
        "class Source(BaseBackgroundPlugin):\n"
        "    runtime = 'asyncio'\n"
        "    async def start(self):\n"
        "        self.app.publish('monitoring_event', [MonitoringPoint('numbers', 1.0, {}, {'n': 8})])\n"
        "        tell('published')\n"
    )
    async with running_host(tmp_path, {"source": source}, wait=False) as host:
        with host.host.publisher.taps.tapped(None) as tap, trio.fail_after(10):
            found: list[Any] = []
            while not found:
                await trio.sleep(0.01)
                found = seen(tap)
    assert found == [("published", "source", [8])]


def test_what_does_not_fit_is_counted_and_the_rest_is_kept() -> None:
    tap = Tap(None, limit=5)
    for start in (0, 3, 6):
        tap.offer("published", None, numbered(3, start))
    passages, missed = tap.take()
    assert [point.fields["n"] for item in passages for point in item.points] == [0, 1, 2, 3, 4]
    assert missed == 4
    tap.offer("published", None, numbered(5))
    passages, missed = tap.take()
    assert (len(passages[0].points), missed) == (5, 0)


@pytest.mark.slow("threads offer many points")
def test_every_point_is_taken_or_counted_whichever_thread_offers_it() -> None:
    tap = Tap(None, limit=100)
    total = 0
    done = threading.Event()

    def offer() -> None:
        for _ in range(2000):
            tap.offer("published", None, numbered(3))

    threads = [threading.Thread(target=offer) for _ in range(3)]

    def take() -> None:
        nonlocal total
        while not done.is_set():
            passages, missed = tap.take()
            total += missed + sum(len(item.points) for item in passages)

    taker = threading.Thread(target=take)
    for thread in [taker, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    taker.join()
    passages, missed = tap.take()
    assert total + missed + sum(len(item.points) for item in passages) == 3 * 2000 * 3


def test_nothing_is_kept_for_those_who_have_left() -> None:
    taps = Taps()
    assert not taps
    with taps.tapped(None) as tap:
        assert len(taps) == 1
        taps.offer("published", None, numbered(1))
    assert not taps
    taps.offer("published", None, numbered(1))
    assert sum(len(item.points) for item in tap.take()[0]) == 1
