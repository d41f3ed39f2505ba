"""The pair that batches, in both styles: what is accepted arrives, together, or is counted as lost."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import asynccontextmanager
from itertools import zip_longest
from typing import Any

import pytest
import trio

from lva.host.life.states import State
from lva.host.loading.load import load_plugins
from tests.plugins.sinks import ledger_of, running_sink
from tests.plugins.test_examples import Collector, collecting
from tests.support import copy_examples, host_settings, numbered, until

TRIO, ASYNCIO = "batching_example", "batching_asyncio"


@pytest.fixture(params=[TRIO, ASYNCIO])
def name(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as it:
        yield it


@asynccontextmanager
async def pair(
    tmp_path, name: str, collector: Collector, wait=True, config=None, shutdown_timeout=25, **table
):
    """Run the pair against a collector; points gather for the fifth part of a second."""
    if name == ASYNCIO:
        copy_examples(tmp_path, name)
    config = {"url": collector.url, "interval": 60, **(config or {})}
    table = {"flush_interval": 0.2, **table}
    async with running_sink(
        tmp_path, name, config, wait, table, shutdown_timeout=shutdown_timeout
    ) as host:
        yield host


def lists(collector: Collector) -> list[list[int]]:
    """Return the numbers of the points in each list, without the plugin's own."""
    for _, _, body in collector.requests:
        assert body[-1]["series"] == "batches"
    return [[point["fields"]["n"] for point in body[:-1]] for _, _, body in collector.requests]


def counts(collector: Collector) -> list[int]:
    """Return what the plugin's own points say of how many were sent."""
    return [body[-1]["fields"]["sent"] for _, _, body in collector.requests]


def test_the_defaults(tmp_path, name):
    if name == ASYNCIO:
        copy_examples(tmp_path, name)
    (loaded,) = load_plugins(host_settings(tmp_path, [name]))
    assert loaded.configs[loaded.classes[1]].model_dump() == {
        "url": "http://127.0.0.1:5020/1/points",
        "interval": 10.0,
        "timeout": 3.0,
    }
    assert loaded.settings.flush_interval == 1.0
    assert loaded.kind == "event+background"


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_points_of_an_interval_go_out_in_one_list(tmp_path, name, collector):
    async with pair(tmp_path, name, collector) as host:
        for point in numbered(5):
            host.publish([point])
        await until(lambda: len(collector.requests) == 2)
        for point in numbered(3, start=5):
            host.publish([point])
        await until(lambda: len(collector.requests) == 3)
        part = await host.receipt_of(name)
    assert lists(collector) == [[], [0, 1, 2, 3, 4], [5, 6, 7], []]
    assert counts(collector) == [0, 5, 8, 8]
    assert (part.state, part.problems, part.points["delivered"]) == ("stopped", [], 8)


async def test_a_full_batch_does_not_wait(tmp_path, name, collector):
    async with pair(tmp_path, name, collector, flush_interval=60, batch_size=4) as host:
        host.publish(numbered(8))
        await until(lambda: len(collector.requests) == 3)
        assert lists(collector) == [[], [0, 1, 2, 3], [4, 5, 6, 7]]


async def test_what_several_calls_hand_over_becomes_one_list(tmp_path, name, collector):
    entered, released = threading.Event(), threading.Event()

    def wait() -> int:
        entered.set()
        released.wait(20)
        return 201

    collector.statuses = [201, wait]
    async with pair(tmp_path, name, collector, batch_size=2, concurrency=4) as host:
        host.publish(numbered(2))
        await until(entered.is_set)
        host.publish(numbered(6, start=2))
        await until(lambda: len(host.module(name).outbox.parcels) == 3)
        released.set()
        part = await host.receipt_of(name)
    first, second, third, last = lists(collector)
    assert (first, second, sorted(third), last) == ([], [0, 1], [2, 3, 4, 5, 6, 7], [])
    assert part.points["delivered"] == 8


async def test_a_stop_waits_for_no_interval(tmp_path, name, collector):
    async with pair(tmp_path, name, collector, flush_interval=60) as host:
        host.publish(numbered(50))
        receipt = await host.stop()
    assert receipt.seconds < 5
    assert receipt.exit_code == 0
    assert receipt.plugins[0].points["delivered"] == 50
    assert lists(collector) == [[], [*range(50)], []]


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_silence_is_broken_by_a_sign_of_life(tmp_path, name, collector):
    async with pair(tmp_path, name, collector, config={"interval": 0.05}) as host:
        collector.statuses = [503]  # one that is lost ends nothing
        await until(lambda: len(collector.requests) == 5)
        assert host.states(name)[-1] == "running"
    assert not any(lists(collector))


async def test_a_list_that_was_refused_is_sent_again(tmp_path, name, collector):
    collector.statuses = [201, 503, 500]
    async with pair(tmp_path, name, collector) as host:
        host.publish(numbered(3))
        part = await host.receipt_of(name)
    assert lists(collector) == [[], [0, 1, 2], [0, 1, 2], [0, 1, 2], []]
    assert counts(collector)[-1] == 3
    assert (part.points["delivered"], part.points["retries"]) == (3, 2)


@pytest.mark.slow("talks to a server in real time")
async def test_a_collector_that_does_not_answer_is_given_up_and_asked_again(
    tmp_path, name, collector
):
    released = threading.Event()

    def hang() -> int:
        released.wait(20)
        return 500

    collector.statuses = [201, hang]
    async with pair(tmp_path, name, collector, config={"timeout": 1}) as host:
        host.publish(numbered(3))
        part = await host.receipt_of(name)
        released.set()
    assert lists(collector) == [[], [0, 1, 2], [0, 1, 2], []]
    assert (part.points["delivered"], part.points["retries"]) == (3, 1)


async def test_points_wait_for_a_collector_that_is_not_there_yet(tmp_path, name, collector):
    collector.statuses = [503, 503]
    async with pair(tmp_path, name, collector, wait=False) as host:
        host.publish(numbered(3))
        await host.wait_for(name, State.RUNNING, within=20)
        assert host.life(name).record.restarts == 2
        part = await host.receipt_of(name)
    assert lists(collector) == [[], [], [], [0, 1, 2], []]
    assert (part.points["delivered"], part.problems) == (3, [])


@pytest.mark.slow("talks to a server in real time")
async def test_what_never_arrives_is_counted(tmp_path, name, collector):
    collector.statuses = [201, *[503] * 1000]
    async with pair(tmp_path, name, collector, max_attempts=1, shutdown_timeout=1.5) as host:
        host.publish(numbered(3))
        receipt = await host.stop()
    (part,) = receipt.plugins
    assert (part.points["delivered"], part.points["dropped"]) == (0, {"shutdown": 3})
    assert part.state == "stopped"
    assert receipt.exit_code == 4


async def test_a_list_that_the_collector_calls_wrong_is_given_up(tmp_path, name, collector):
    collector.statuses = [201, 400, 400]
    async with pair(tmp_path, name, collector, max_attempts=2) as host:
        host.publish(numbered(3))
        part = await host.receipt_of(name)
    assert part.points["dropped"] == {"max_attempts": 3}
    assert lists(collector) == [[], [0, 1, 2], [0, 1, 2]]


@pytest.mark.slow("talks to a server in real time")
async def test_a_call_that_was_cut_off_does_not_leave_its_points_behind(tmp_path, name, collector):
    entered, released = threading.Event(), threading.Event()

    def hang() -> int:
        entered.set()
        released.wait(20)
        return 201

    collector.statuses = [201, hang]
    async with pair(tmp_path, name, collector, config={"interval": 0.05}, handle_timeout=1) as host:
        await until(entered.is_set)  # a sign of life is under way, so the next parcel has to wait
        host.publish(numbered(3))
        await until(lambda: ledger_of(host).retries)
        released.set()
        await until(lambda: [0, 1, 2] in lists(collector))
        part = await host.receipt_of(name)
    assert [numbers for numbers in lists(collector) if numbers] == [[0, 1, 2]]
    assert part.points["delivered"] == 3


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_a_crash_of_the_background_side_loses_nothing(tmp_path, name, collector):
    async with pair(tmp_path, name, collector) as host:
        outbox = host.module(name).outbox
        take, outbox.take = outbox.take, None  # start() raises TypeError: not callable
        host.publish(numbered(3))
        await host.wait_for(name, State.BACKOFF, within=20)
        outbox.take = take
        await host.wait_for(name, State.RUNNING, within=20)
        part = await host.receipt_of(name)
    assert [numbers for numbers in lists(collector) if numbers] == [[0, 1, 2]]
    assert part.points["delivered"] == part.points["accepted"] == 3


@pytest.mark.slow("talks to a server in real time")
async def test_nothing_is_lost_while_the_collector_fails_now_and_then(tmp_path, name, collector):
    statuses = [201, *random.Random(7).choices([201, 500, 503], weights=[6, 1, 1], k=40)]
    collector.statuses = [*statuses]
    table = {"flush_interval": 0.01, "batch_size": 300}
    async with pair(tmp_path, name, collector, **table) as host:
        for start in range(0, 10_000, 100):
            host.publish(numbered(100, start))
            await trio.sleep(0.002)
        part = await host.receipt_of(name)
    taken = [
        n
        for numbers, status in zip_longest(lists(collector), statuses, fillvalue=201)
        if status == 201
        for n in numbers
    ]
    assert part.points["retries"] > 2
    assert taken == [*range(10_000)]
    assert part.points["delivered"] == part.points["accepted"] == 10_000
