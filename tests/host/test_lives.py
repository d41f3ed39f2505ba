"""An error in a task of the host's own is contained, counted and said: it never ends the host."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from tests.support import numbered, running_host, until

AWAY = """
class Sink(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        raise {error}
"""


@pytest.mark.slow("a spool on disk, in real time")
async def test_a_spool_that_fails_on_a_point_goes_on_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Kind: an error in a task of the host's own, which must never end the host."""
    source = AWAY.format(error="RetryLaterError('away')")
    async with running_host(tmp_path, {"sink": source}, {"sink": {"spool": "disk"}}) as host:
        points = numbered(2)
        host.publish(points)
        dict.__setitem__(points[1].fields, "at", dt.datetime.now(dt.UTC))  # past every check
        await until(lambda: "cannot be written" in caplog.text)
        host.publish(numbered(1, 2))
        part = await host.receipt_of("sink")
        assert not host.host.stop.failed
    assert "datetime is not JSON serializable" in caplog.text
    assert part.points["accepted"] == 3
    assert part.points["dropped"] == {"shutdown": 3}


async def test_dead_letters_that_fail_on_a_point_lose_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = AWAY.format(error="PermanentDeliveryError('no')")
    tables = {"sink": {"dead_letters": True, "flush_interval": 0.05}}
    async with running_host(tmp_path, {"sink": source}, tables) as host:
        points = numbered(1)
        host.publish(points)
        dict.__setitem__(points[0].fields, "at", dt.datetime.now(dt.UTC))
        await until(lambda: "dead letters cannot be written" in caplog.text)
        host.publish(numbered(1, 1))
        part = await host.receipt_of("sink")
        assert "crashed" not in caplog.text
    assert part.points["rejected"] == 2


async def test_a_bug_in_a_task_of_the_host_ends_that_task_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy(what: str) -> None:
        raise ZeroDivisionError(what)

    async with running_host(tmp_path, {"sink": AWAY.format(error="OSError")}) as host:
        for _ in range(2):
            host.host.lives.do(buggy, "oops", name="the test's work")
        await until(lambda: host.host.lives.bugs["the test's work"] == 2)
        assert host.states("sink")[-1] == "running"
    assert "bug in the host: the test's work failed; the service goes on (failure 2" in caplog.text
