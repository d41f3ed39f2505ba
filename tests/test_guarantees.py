"""The examples of the guarantees show what the page says of them."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

from lva import MonitoringPoint, StreamAnalyticsEvent
from lva.boot_clock import boot_time
from lva.host.life.states import State
from lva.host.loading.load import load_plugins
from lva.host.receipt import EXIT_UNCLEAN
from lva.video.definition import StreamDefinition
from lva.video.processes.forks import ForkServer
from lva.video.processes.process import worker_spec
from lva.video.source import parse_source
from lva.video.supervision.record import StreamChange
from lva.video.supervision.stream import Stream, StreamServices
from lva.video.supervision.supervisor import Supervisor
from tests.fleet.agents import LEASE, agent, row, will_die
from tests.fleet.history import History
from tests.plugins.redis_server import RedisServer
from tests.support import copy_examples, host_settings, running, until
from tests.video.test_board import balance

DOCS = Path(__file__).parent.parent / "docs"
EXAMPLES = DOCS / "examples" / "guarantees"
PAGE = (DOCS / "guarantees.rst").read_text()


def said(number: int) -> str:
    """Return what the page gives as the example of one guarantee."""
    match = re.search(
        rf"^G{number}: .*?\*Example\.\*(.*?)\*Limits\.\*", PAGE, re.MULTILINE | re.DOTALL
    )
    assert match
    return " ".join(match[1].split())


def examples(tmp_path: Path, *names: str) -> Any:
    """Run some of the examples side by side."""
    settings = host_settings(tmp_path, names)
    copy_examples(tmp_path, *(f"guarantees/{path.stem}" for path in EXAMPLES.glob("*.py")))
    return running(load_plugins(settings), settings)


def messages(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_is_on_the_page_and_of_its_guarantee(path: Path) -> None:
    number = re.match(r'"""G(\d+): ', path.read_text())
    assert number
    assert f"examples/guarantees/{path.name}" in said(int(number[1]))


@pytest.mark.parametrize("number", range(1, 14))
def test_every_guarantee_has_a_file_as_its_example(number: int) -> None:
    assert ".. literalinclude:: examples/guarantees/" in said(number)


async def test_g1_closed_exactly_once(tmp_path: Path, autojump_clock: Any) -> None:
    async with examples(tmp_path, "half_open") as host:
        await host.wait_until_running()
        opened = host.module("half_open").opened
        assert opened == ["opened", "closed", "opened"]
        await host.stop()
        assert opened == ["opened", "closed", "opened", "closed"]


async def test_g2_contained(
    tmp_path: Path, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with examples(tmp_path, "divides", "loses") as host:
        await host.wait_until_running()
        await host.wait_for("divides", State.BACKOFF)
        assert (
            host.life("divides").owner.gate.value == "waiting"
        )  # which the web layer answers with 503
        await host.wait_for("divides", State.RUNNING)
        assert "crashed: Divides.start() raised ZeroDivisionError" in messages(caplog)
        assert "crashed: Divides.start() raised ZeroDivisionError" in said(2)
        assert host.states("loses").count("initializing") <= 2


async def test_g3_order(tmp_path: Path, autojump_clock: Any) -> None:
    # The event plugin starts first and, were it not for the order, would stop at the same time.
    async with examples(tmp_path, "hears", "farewell") as host:
        await host.wait_until_running()
        receipt = await host.stop()
        assert host.module("hears").heard == ["farewell"]
    assert receipt.exit_code == 0


async def test_g4_bounded_stop(tmp_path: Path, autojump_clock: Any) -> None:
    async with examples(tmp_path, "hears", "waits") as host:
        await host.wait_until_running()
        began = trio.current_time()
        receipt = await host.stop()
        assert 5 <= trio.current_time() - began < 6
    assert receipt.exit_code == EXIT_UNCLEAN
    assert [plugin.state for plugin in receipt.plugins] == ["stopped", "abandoned"]


async def test_g5_conservation(tmp_path: Path, autojump_clock: Any) -> None:
    async with examples(tmp_path, "down") as host:
        await host.wait_until_running()
        for n in range(250):
            host.publish([MonitoringPoint("numbers", 1.0, {}, {"n": n})])
            await trio.sleep(1)
            balanced(host.host.describe()[0]["ledger"], n + 1)
        ledger = host.host.describe()[0]["ledger"]
        assert ledger["queued"] == 100
        assert ledger["dropped"] == {"overflow": 150 - ledger["in_flight"]}
        part = await host.receipt_of("down")
    balanced(part.points, 250)
    assert part.points["delivered"] == 0


def balanced(points: Any, accepted: int) -> None:
    """Assert that every point is in one place of the ledger."""
    places = ("delivered", "rejected", "queued", "in_flight")
    found = sum(points[place] for place in places) + sum(points["dropped"].values())
    assert found == points["accepted"] == accepted


async def test_g6_no_silent_death(
    tmp_path: Path, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with examples(tmp_path, "loses") as host:
        await host.wait_until_running()
        await host.wait_for("loses", State.BACKOFF)
        await host.wait_for("loses", State.RUNNING)
    crashes = [record for record in caplog.records if "crashed: " in record.getMessage()]
    assert crashes
    text = messages(caplog) + "".join(str(record.exc_text or record.exc_info) for record in crashes)
    assert "the connection is lost" in text


async def test_g7_nothing_left(tmp_path: Path, autojump_clock: Any) -> None:
    async with examples(tmp_path, "pump") as host:
        await host.wait_until_running()
        with trio.fail_after(1000):
            while not any(thread.name == "pump" for thread in threading.enumerate()):
                await trio.sleep(0.01)
        try:
            part = await host.receipt_of("pump")
        finally:
            host.module("pump").enough.set()
    (named,) = part.leaked_threads
    assert part.state == "abandoned"
    line = re.search(r"pump\.py:(\d+)", named)
    assert line
    assert f"thread pump (at …/plugins/pump.py:{line[1]})" in said(7)


async def test_g8_truthful_status(tmp_path: Path, autojump_clock: Any) -> None:
    async with examples(tmp_path, "hears", "gone") as host:
        await host.wait_for("hears", State.RUNNING)
        await host.wait_for("gone", State.BACKOFF)
        reasons = host.host.not_ready()
        assert list(reasons) == ["gone"]
        reason = re.sub(r"in \S+ s$", "", reasons["gone"])
        assert reason == "backoff: Gone.initialize() raised OSError: camera gone; next attempt "
        assert reason.strip() in said(8)


async def test_g9_receipt_and_exit_code(tmp_path: Path, autojump_clock: Any) -> None:
    async with examples(tmp_path, "dropper") as host:
        await host.wait_until_running()
        host.publish([MonitoringPoint("numbers", 1.0, {}, {"n": 1})])
        with trio.fail_after(1000):
            while host.host.describe()[0]["ledger"]["dropped"] == {}:
                await trio.sleep(1)
        receipt = await host.stop()
    assert receipt.plugins[0].points["dropped"] == {"max_attempts": 1}
    assert receipt.exit_code == EXIT_UNCLEAN
    assert '"dropped": {"max_attempts": …}' in said(9)


async def test_g10_one_instance(tmp_path: Path, autojump_clock: Any) -> None:
    async with examples(tmp_path, "reuses", "loses") as host:
        await host.wait_until_running()
        shown = {item["name"]: item["classes"] for item in host.host.describe()}
        assert shown == {"reuses": ["Reuses"], "loses": ["Loses"]}
        assert host.module("reuses").Loses is host.module("loses").Loses
        first = host.plugin("loses")
        await host.wait_for("loses", State.BACKOFF)
        await host.wait_for("loses", State.RUNNING)
        assert host.plugin("loses") is first


@asynccontextmanager
async def stream_with(tmp_path: Path, example: str, source: str) -> AsyncIterator[Stream]:
    """Work on a stream with one of the examples; at the end the stream is stopped."""
    async with examples(tmp_path, example) as host, ForkServer() as forks:
        (plugin,) = host.host.analytics()
        services = StreamServices(
            lambda _: [worker_spec(plugin, {})],
            Ignored(),
            logging.getLogger("lva.test"),
            trio.lowlevel.checkpoint,
            forks=forks,
        )
        definition = StreamDefinition.model_validate(
            {"name": "door", "source": source, "analytics": [{"name": example}]}
        )
        stream = Stream("id", definition, parse_source(source), services)
        stream.move(stream.state, "created")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Supervisor(stream).run)
            yield stream
            nursery.cancel_scope.cancel()


class Ignored:
    """Gets what happens to a stream."""

    def changed(self, change: StreamChange) -> None:
        """Ignore it."""

    def seen(self, event: StreamAnalyticsEvent) -> None:
        """Ignore it."""


@pytest.mark.slow("a worker is started")
async def test_g11_frames_are_conserved(tmp_path: Path) -> None:
    source = "test:?live=0&rate=30&seconds=1&size=64x48"
    async with stream_with(tmp_path, "every_third", source) as stream:
        await until(lambda: stream.state == "done")
    frames = stream.ledger.frames()
    assert balance(stream.ledger) == 0
    for name in ("decoded", "analysed", "failed"):
        assert f"``{name}: {frames[name]}``" in said(11)


@pytest.mark.slow("a worker is started")
async def test_g12_no_worker_is_left(tmp_path: Path) -> None:
    async with stream_with(tmp_path, "lingers", "test:?live=0&size=64x48") as stream:
        await until(lambda: stream.worker and psutil.Process(stream.worker.pid).children())
        assert stream.worker is not None
        worker = psutil.Process(stream.worker.pid)
        processes = [worker, *worker.children()]
    await until(lambda: not any(process.is_running() for process in processes))
    assert len(processes) == 2
    assert stream.services.ends == {"SIGTERM": 1}


@pytest.mark.slow("a lease lasts as long as it does")
async def test_g13_one_agent_works_on_a_stream(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    streams, history = [f"s{number}" for number in range(6)], History()
    with RedisServer(tmp_path, "--appendfsync", "no") as server:
        async with agent(server.url, "two", history) as two:
            async with agent(server.url, "one", history) as one:
                await until(lambda: one.fleet.trouble is None and two.fleet.trouble is None)
                for stream in streams:
                    await one.fleet.put(row(stream), 0)
                await until(lambda: len(one.streams) == len(two.streams) == 3)
                await until(lambda: not any(row.offered for row in one.fleet.view.rows.values()))
                will_die(one)
            died = boot_time()
            for stream in [*one.notes.running]:
                one.notes.end(stream)
            await until(lambda: len(two.streams) == 6)
            waited = boot_time() - died
    assert waited >= LEASE - 2 * one.fleet.tick
    assert history.faults([], 0, []) == []
    assert f"lease of {LEASE:g} s" in said(13)
    async with examples(tmp_path, "refuses_late") as host:
        await host.wait_until_running()
        events = [
            StreamAnalyticsEvent("id", "door", "motion", "start", 1, 1.0, epoch=epoch)
            for epoch in (1, 2, 1, 2)
        ]
        host.host.publisher.publish("analytics_event", events)
        plugin = host.plugin("refuses_late")
        await until(lambda: len(plugin.taken) == 3)
    assert "an event of epoch 1 is late" in messages(caplog)
    assert "``an event of epoch 1 is late``" in said(13)
