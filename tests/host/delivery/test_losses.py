"""Any loss of points says so when it begins, every ten seconds while it lasts, and when it is over.

Whatever the reason: a full buffer, age, attempts, a plugin that takes no more, dead letters that make room.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from lva import MonitoringPoint
from lva.host.life.states import State
from tests.support import RunningHost, numbered, running_host, until

STUCK = """
class Sink(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        await trio.sleep_forever()
"""
FAILING = STUCK.replace("await trio.sleep_forever()", "raise {}")
GONE = (
    STUCK
    + """
    async def initialize(self):
        raise ValueError("never")
"""
)


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return level and text of what was said of losses."""
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if "dropped: " in record.getMessage() and "not delivered" not in record.getMessage()
    ]


async def publish_for(host: RunningHost, seconds: int, count: int = 10) -> None:
    for _ in range(seconds):
        host.publish(numbered(count))
        await trio.sleep(1)


@pytest.mark.parametrize(
    ("source", "table", "reason"),
    [
        (STUCK, {"buffer_limit": 10, "handle_timeout": 1000}, "overflow: the buffer is full"),
        (
            FAILING.format("OSError()"),
            {"max_attempts": 1, "circuit_failures": 1000},
            "max_attempts: each attempt failed",
        ),
        (
            FAILING.format("RetryLaterError('', after=3)"),
            {"max_age": 2, "batch_size": 10},
            "max_age: they waited too long",
        ),
        (
            GONE,
            {"startup_error_behavior": "error", "max_restarts": 0},
            "refused: the plugin takes no more",
        ),
    ],
    ids=["overflow", "attempts", "age", "refused"],
)
async def test_a_loss_is_told_from_its_beginning_to_its_end(
    tmp_path: Path,
    autojump_clock: Any,
    caplog: pytest.LogCaptureFixture,
    source: str,
    table: dict[str, Any],
    reason: str,
) -> None:
    """Kind: any loss of points, for whatever reason, is logged while it lasts."""
    caplog.set_level(logging.INFO)
    async with running_host(tmp_path, {"sink": source}, {"sink": table}, wait=False) as host:
        await host.wait_for("sink", State.FAILED if source is GONE else State.RUNNING)
        await publish_for(host, 35)
        await trio.sleep(60)
        first, *middle, last = told(caplog)
        counts = [int(re.search(r"dropped: ([\d,]+) \(", text)[1]) for _, text in told(caplog)]
        (delivery,) = host.life("sink").deliveries.values()
        lost = sum(delivery._losses().values())
    what = "points for sink.Sink.handleEvent are"
    assert first[0] == "WARNING"
    assert re.fullmatch(rf"{what} dropped: \d+ \({reason}\)", first[1])
    assert len(middle) in {3, 4, 5}
    for level, text in middle:
        assert level == "WARNING"
        assert re.fullmatch(
            rf"{what} still dropped: \d+ \({reason}\) since the last report, [\d,]+ in all", text
        )
    assert last[0] == "INFO"
    assert re.fullmatch(rf"{what} no longer dropped: \d+ \({reason}\) within \d+ s", last[1])
    assert sum(counts[:-1]) == counts[-1] == lost > 100


async def test_another_loss_begins_anew_and_the_stop_ends_the_telling(
    tmp_path: Path, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    table = {"buffer_limit": 10, "handle_timeout": 1000}
    async with running_host(tmp_path, {"sink": STUCK}, {"sink": table}) as host:
        await trio.sleep(1)
        for _ in range(2):
            host.publish(numbered(30))
            await trio.sleep(100)
        host.publish([MonitoringPoint("s", 1.0, {}, {})] * 7)
        await trio.sleep(1)
    assert [level for level, _ in told(caplog)] == ["WARNING", "INFO"] * 3


async def test_without_a_loss_nothing_is_told(
    tmp_path: Path, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_host(
        tmp_path, {"sink": STUCK.replace("sleep_forever()", "sleep(0)")}
    ) as host:
        await publish_for(host, 30)
    assert not told(caplog)


async def test_dead_letters_that_make_room_for_newer_ones_are_a_loss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lva.host.delivery.losses.INTERVAL", 0.05)
    caplog.set_level(logging.INFO)
    table = {"dead_letters": True, "dead_letters_bytes": 1024}
    source = FAILING.format("PermanentDeliveryError('no')")
    async with running_host(tmp_path, {"sink": source}, {"sink": table}) as host:
        host.publish(numbered(100))
        await until(lambda: len(told(caplog)) >= 2)
    (path,) = (tmp_path / "state" / "dead_letters").glob("*.jsonl")
    left = len((path.read_text() + Path(f"{path}.1").read_text()).splitlines())
    (level, text), (_, last) = told(caplog)
    assert level == "WARNING"
    assert f"dropped: {100 - left} (dead_letters: the file is full" in text
    assert f"no longer dropped: {100 - left} (" in last


def link(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize("stands_there", [Path.mkdir, os.mkfifo, link])
async def test_what_stands_in_the_place_of_the_dead_letters_holds_nothing_up(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    stands_there: Callable[[Path], object],
) -> None:
    """Kind: a path of ours that leads elsewhere: not written to, not waited for, said with the number."""
    monkeypatch.setattr("lva.host.delivery.losses.INTERVAL", 0.05)
    caplog.set_level(logging.INFO)
    path = tmp_path / "state" / "dead_letters" / "sink.Sink.jsonl"
    path.parent.mkdir(parents=True)
    stands_there(path)
    source = FAILING.format("PermanentDeliveryError('no')")
    async with running_host(tmp_path, {"sink": source}, {"sink": {"dead_letters": True}}) as host:
        host.publish(numbered(3))
        await until(lambda: len(told(caplog)) >= 2)
        path.rmdir() if path.is_dir() else path.unlink()
        host.publish(numbered(2))
        assert (await host.stop()).exit_code == 0
    assert len(path.read_text().splitlines()) == 2
    (_, text), (_, last) = told(caplog)
    assert "dropped: 3 (dead_letters_unwritten: dead letters cannot be written)" in text
    assert "no longer dropped: 3 (" in last
