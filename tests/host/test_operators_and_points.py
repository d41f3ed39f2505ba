"""What an operator does, and sees, while points wait for a receiver that is unreachable."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support import journal, numbered, running_host

AWAY = """
class Sink(BaseEventPlugin):
    eventName = "monitoring_event"
    away = True

    async def handleEvent(self, points, logger):
        journal.append(trio.current_time())
        if Sink.away:
            raise RetryLaterError("away")
"""


@pytest.mark.parametrize("action", ["restart", "start"])
async def test_an_operators_action_has_the_receiver_probed_at_once(
    tmp_path: Path, autojump_clock: Any, caplog: pytest.LogCaptureFixture, action: str
) -> None:
    """Who has mended something does not wait for the circuit."""
    table = {"circuit_failures": 2, "circuit_pause": 3600, "retry_max": 1}
    async with running_host(tmp_path, {"sink": AWAY}, {"sink": table}) as host:
        (delivery,) = host.life("sink").deliveries.values()
        host.publish(numbered(1))
        await trio.sleep(100)
        assert delivery.circuit.state == "open"
        assert re.search(
            r"failed 2 times in a row: circuit open; next probe in \d{4} s", caplog.text
        )
        (status,) = host.host.describe()
        assert status["deliveries"][0]["next_probe"] > 1000
        if action == "start":
            await host.host.changes.stop("sink")
        host.module("sink").Sink.away = False
        await getattr(host.host.changes, action)("sink")
        await trio.sleep(1)
        assert delivery.ledger.delivered == 1
        assert delivery.circuit.state == "closed"
        assert host.host.describe()[0]["deliveries"][0]["next_probe"] is None


async def test_a_probe_after_an_action_that_fails_opens_the_circuit_again(
    tmp_path: Path, autojump_clock: Any
) -> None:
    table = {"circuit_failures": 2, "circuit_pause": 3600, "retry_max": 1}
    async with running_host(tmp_path, {"sink": AWAY}, {"sink": table}) as host:
        host.publish(numbered(1))
        await trio.sleep(100)
        calls = len(journal)
        await host.host.changes.restart("sink")
        await trio.sleep(100)
        assert len(journal) == calls + 1
        (delivery,) = host.life("sink").deliveries.values()
        assert delivery.circuit.state == "open"


async def test_a_stop_says_at_once_what_it_waits_for(
    tmp_path: Path, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running_host(tmp_path, {"sink": AWAY, "other": AWAY}) as host:
        host.publish(numbered(1))
        await trio.sleep(1)
        host.module("other").Sink.away = False
        await trio.sleep(100)
        begun = trio.current_time()
        host.host.stop.request("Ctrl-C")
        while "waiting" not in caplog.text:
            await trio.sleep(0.05)
        assert trio.current_time() - begun < 0.5
    (line,) = [text for text in caplog.messages if text.startswith("waiting")]
    assert re.fullmatch(
        r"waiting up to 1\d s for sink: 1 point; a second Ctrl-C or SIGTERM ends the service now",
        line,
    )


async def test_a_stop_that_waits_for_nothing_says_nothing(
    tmp_path: Path, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running_host(tmp_path, {"sink": AWAY.replace("True", "False")}) as host:
        host.publish(numbered(1))
    assert "waiting" not in caplog.text
