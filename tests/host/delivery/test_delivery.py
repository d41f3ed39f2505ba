"""From `publish()` to `handleEvent`: batches, retries, overflow, and the account that must add up."""

from __future__ import annotations

import copy
import json
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from lva import MonitoringPoint, PartialDeliveryError, PermanentDeliveryError, RetryLaterError
from lva.host.delivery.dead_letters import DeadLetters
from lva.host.delivery.delivery import Delivery
from lva.host.delivery.losses import UNWRITTEN
from lva.host.delivery.mailbox import Mailbox, MemoryMailbox
from lva.host.delivery.queue import Bounds
from lva.host.life.states import State
from lva.host.runtimes.on_trio import TrioRuntime
from lva.host.runtimes.patience import Patience
from lva.settings import PluginSettings
from tests.support import (
    Number,
    StubRandom,
    examples,
    journal,
    no_room_beyond,
    numbered,
    numbers,
    run_virtual,
    running_host,
    until,
    without_a_host,
)

LOGGER = logging.getLogger("lva.plugin.p")


class Numbers(MemoryMailbox):
    """A mailbox for plain numbers, as points without a size."""

    def offer(self, points: Any, size: int | None = None) -> None:
        super().offer([*map(Number, points)], size)

    def cross(self, points: Any, filtered: int = 0) -> None:
        super().cross([*map(Number, points)], filtered)


def memory(limit: int, overflow: str = "drop_oldest") -> MemoryMailbox:
    return Numbers(Bounds(limit, drop_oldest=overflow == "drop_oldest"))


async def take_all(mailbox: Mailbox) -> list[int]:
    """Take everything that waits, one point at a time."""
    taken: list[int] = []
    while mailbox.ledger.queued:
        taken += await mailbox.take(1)
    return taken


# The mailbox


@pytest.mark.parametrize("size", [1, 99, 100, 101])
async def test_what_was_offered_stays_the_publishers_own(autojump_clock, size):
    mailbox = MemoryMailbox(Bounds(1000))
    first, second = [Number(0)] * size, [Number(1)] * size
    for chunk in (first, second, [Number(2)]):
        mailbox.offer(chunk)
    assert first == [0] * size
    assert second == [1] * size
    assert await mailbox.take(1000) == [*first, *second, 2]


async def test_points_one_at_a_time_are_as_old_as_the_first_of_a_millisecond(autojump_clock):
    mailbox = memory(1000)
    begun = trio.current_time()
    for n in range(4):
        mailbox.offer([n])
        await trio.sleep(0.0006)
    batch = await mailbox.take(10)
    assert batch == [0, 1, 2, 3]
    assert [count for _, count in batch.origins] == [2, 2]
    assert batch.older_than(begun + 0.0011) == 2, "the third came 1.2 ms after the first"


async def test_a_point_joins_no_chunk_that_was_taken(autojump_clock):
    mailbox = memory(1000)
    for n in range(3):
        mailbox.offer([n])
    whole = await mailbox.take(10)
    mailbox.offer([3])
    assert whole == [0, 1, 2]
    mailbox.offer([4])
    assert await mailbox.take(1) == [3]
    mailbox.offer([5])
    assert await mailbox.take(10) == [4, 5]
    assert mailbox.ledger.balanced


async def test_a_full_chunk_takes_no_more_points(autojump_clock):
    mailbox = memory(1000)
    for n in range(250):
        mailbox.offer([n])
    batch = await mailbox.take(1000)
    assert batch == list(range(250))
    assert [count for _, count in batch.origins] == [100, 100, 50]


async def test_whoever_waits_for_a_full_batch_is_woken_by_its_last_point_only(autojump_clock):
    mailbox = memory(100)
    woken: list[int] = []

    async def wait() -> None:
        await mailbox.wait_for(10)
        woken.append(mailbox.ledger.queued)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        for n in range(12):
            assert bool(woken) == (n >= 10)
            mailbox.offer([n])
            await wait_all_tasks_blocked()
    assert woken == [10]


async def test_what_comes_after_the_end_is_refused_one_at_a_time_too(autojump_clock):
    mailbox = memory(100)
    mailbox.offer([0])
    mailbox.close()
    mailbox.offer([1])
    await trio.to_thread.run_sync(mailbox.cross, [2])
    await wait_all_tasks_blocked()
    assert (mailbox.ledger.accepted, mailbox.ledger.refused) == (1, 2)
    assert await mailbox.take(10) == [0]


async def test_take_waits_for_points_and_ends_with_the_mailbox(autojump_clock):
    mailbox = memory(100)
    with trio.move_on_after(5) as scope:
        await mailbox.take(1)
    assert scope.cancelled_caught
    mailbox.offer([1, 2])
    mailbox.close()
    mailbox.offer([3])
    assert await mailbox.take(5) == [1, 2]
    with pytest.raises(trio.EndOfChannel):
        await mailbox.take(5)
    assert mailbox.ledger.accepted == 2


@pytest.mark.parametrize(
    ("overflow", "kept"),
    [("drop_oldest", [3, 4, 5, 6, 7]), ("drop_newest", [0, 1, 2, 3, 4])],
)
@pytest.mark.parametrize("chunks", [[8], [1] * 8, [3, 5], [5, 3], [4, 1, 3], [2, 6]])
async def test_overflow_drops_exactly_what_the_policy_says(autojump_clock, overflow, kept, chunks):
    mailbox = memory(5, overflow)
    points = list(range(8))
    for size in chunks:
        mailbox.offer(points[:size])
        del points[:size]
        assert mailbox.ledger.balanced
        assert mailbox.ledger.queued <= 5
    assert mailbox.ledger.dropped == {"overflow": 3}
    assert await take_all(mailbox) == kept


async def test_drop_rest_counts_what_is_queued_and_closes(autojump_clock):
    mailbox = memory(100)
    mailbox.offer([1, 2, 3])
    mailbox.offer([4])
    await mailbox.take(1)
    assert mailbox.drop_rest("shutdown") == 3
    assert mailbox.ledger.dropped == {"shutdown": 3}
    assert mailbox.ledger.queued == 0
    assert mailbox.ledger.in_flight == 1
    assert mailbox.drop_rest("shutdown") == 0


def sized(*sizes: int, start: int = 0) -> list[MonitoringPoint]:
    """Return numbered points of these sizes in bytes."""
    return [
        MonitoringPoint("numbers", 1.0, {}, {"n": n, "x": "x" * (size - 25)})
        for n, size in enumerate(sizes, start)
    ]


@pytest.mark.parametrize(
    ("overflow", "left"), [("drop_oldest", [3, 4, 5]), ("drop_newest", [0, 1, 2])]
)
async def test_bytes_are_bounded_exactly_by_policy(autojump_clock, overflow, left):
    box = MemoryMailbox(Bounds(100, 300, overflow == "drop_oldest"))
    for point in sized(*[100] * 6):
        box.offer([point])
    assert numbers(await box.take(10)) == left
    assert box.ledger.dropped == {"overflow": 3}


async def test_a_point_that_fits_nowhere_drives_out_no_other(autojump_clock):
    box = MemoryMailbox(Bounds(100, 300))
    box.offer(sized(100, 100))
    box.offer(sized(301, 100, start=2))
    assert numbers(await box.take(10)) == [0, 1, 3]
    assert box.ledger.dropped == {"overflow": 1}


@pytest.mark.slow("a machine of states with many steps")
@given(
    limit=st.integers(1, 12),
    max_bytes=st.one_of(st.integers(30, 400), st.just(math.inf)),
    overflow=st.sampled_from(["drop_oldest", "drop_newest"]),
    crossing=st.booleans(),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("offer"), st.lists(st.integers(26, 200), min_size=1, max_size=15)),
            st.tuples(st.just("take"), st.integers(1, 15)),
        ),
        max_size=30,
    ),
)
@examples(30)
def test_bounds_in_points_and_bytes_do_what_a_plain_list_would_do(
    limit, max_bytes, overflow, crossing, steps
):
    def bounded(points: list[MonitoringPoint]) -> list[MonitoringPoint]:
        """Return the most of the newest, or oldest, that fit."""
        chosen: list[MonitoringPoint] = []
        for point in reversed(points) if overflow == "drop_oldest" else points:
            if len(chosen) == limit or sum(p.size for p in [*chosen, point]) > max_bytes:
                break
            chosen.append(point)
        return chosen[::-1] if overflow == "drop_oldest" else chosen

    async def main() -> None:
        box = MemoryMailbox(Bounds(limit, max_bytes, overflow == "drop_oldest"))
        model: list[MonitoringPoint] = []
        made = dropped = 0
        for step, value in steps:
            if step == "offer":
                new = sized(*value, start=made)
                made += len(new)
                if crossing:
                    box.cross(new)
                    box.arrive()
                else:
                    box.offer(new)
                fitting = [point for point in new if point.size <= max_bytes]
                if crossing:
                    fitting = bounded(fitting)
                before = len(model) + len(new)
                if (
                    sum(p.size for p in [*model, *fitting]) > max_bytes
                    or len(model) + len(fitting) > limit
                ):
                    model = bounded([*model, *fitting])
                else:
                    model = [*model, *fitting]
                dropped += before - len(model)
            elif model:
                batch = await box.take(value)
                assert numbers(batch) == numbers(model[:value])
                del model[:value]
                box.settle(batch)
            assert box.ledger.balanced
            assert box.ledger.accepted == made
            assert box.ledger.queued == len(model)
            assert box.ledger.lost == dropped

    run_virtual(main)


async def test_what_other_threads_publish_is_bounded_before_it_arrives(autojump_clock):
    box = MemoryMailbox(Bounds(10, 1000))
    for n in range(100):
        box.cross(sized(200, 100, start=2 * n))
    assert (box._crossing.points, box._crossing.bytes) == (7, 1000)
    box.arrive()
    assert box.ledger.accepted == 200
    assert box.ledger.dropped == {"overflow": 193}
    assert numbers(await box.take(10)) == list(range(193, 200))


# The delivery


class Delivering:
    """A delivery that runs, as the lifecycle runs it."""

    def __init__(
        self, handle: Callable[..., Awaitable[Any]], nursery: trio.Nursery, delivery: Delivery
    ) -> None:
        self.delivery = delivery
        self.ledger = delivery.ledger
        self.stuck: Any = None
        self._runtime = TrioRuntime("p", nursery)
        self._nursery = nursery
        self._handle = handle
        self._scope = trio.CancelScope()
        self._over = trio.Event()

    def offer(self, points: Any) -> None:
        self.delivery.mailbox.offer(points)

    async def begin(self) -> None:
        """Run the delivery, as an attempt of the plugin does."""
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._nursery.start_soon(self._run)
        await wait_all_tasks_blocked()

    async def _run(self) -> None:
        with self._scope:
            self.stuck = await self.delivery.run(self._runtime, self._handle)
        self._over.set()

    async def cancel(self) -> None:
        """Cancel the delivery, as a crash does."""
        self._scope.cancel()
        await self._over.wait()


@asynccontextmanager
async def delivering(
    handle: Callable[..., Awaitable[Any]],
    rng: random.Random | None = None,
    dead_letters: DeadLetters | None = None,
    **given_settings: Any,
) -> AsyncIterator[Delivering]:
    async with trio.open_nursery() as nursery:
        made = Delivery(
            "p.P.handleEvent",
            PluginSettings(**given_settings),
            without_a_host(rng),
            Patience(),
            dead_letters=dead_letters,
        )
        it = Delivering(handle, nursery, made)
        await it.begin()
        yield it
        nursery.cancel_scope.cancel()


class Calls:
    """A handler that notes its calls, and how many there are at once; each does what the script says."""

    def __init__(self, *script: Any, otherwise: Any = None) -> None:
        self.batches: list[list[int]] = []
        self.times: list[float] = []
        self.now = self.most = 0
        self._script = list(script)
        self._otherwise = otherwise

    @property
    def delays(self) -> list[float]:
        """The times between the beginnings of two calls."""
        return [after - before for before, after in pairwise(self.times)]

    async def __call__(self, points: list[Any], logger: logging.Logger) -> None:
        assert logger is LOGGER
        assert type(points) is list
        self.batches.append(numbers(points))
        self.times.append(trio.current_time())
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            step = self._script.pop(0) if self._script else self._otherwise
            if step is not None:
                await step(points)
        finally:
            self.now -= 1


def sleeping(seconds: float) -> Any:
    async def step(_points: list[Any]) -> None:
        await trio.sleep(seconds)

    return step


def raising(error: BaseException) -> Any:
    async def step(_points: list[Any]) -> None:
        raise error

    return step


async def test_an_idle_plugin_gets_points_at_once_a_busy_one_in_batches(autojump_clock):
    calls = Calls(sleeping(1))
    async with delivering(calls, batch_size=5) as it:
        for n in range(13):
            it.offer(numbered(1, n))
            await wait_all_tasks_blocked()
        assert calls.batches == [[0]]
        await trio.sleep(2)
        assert calls.batches == [[0], [1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12]]
        assert it.ledger.delivered == 13
        assert it.ledger.retries == 0


async def test_flush_interval_lets_points_gather_from_the_first_one_on(autojump_clock):
    calls = Calls()
    async with delivering(calls, flush_interval=10, batch_size=100) as it:
        await trio.sleep(50)
        begun = trio.current_time()
        it.offer(numbered(1))
        await trio.sleep(4)
        it.offer(numbered(1, 1))
        await trio.sleep(100)
        assert calls.batches == [[0, 1]]
        assert calls.times[0] - begun == 10


async def test_a_full_batch_does_not_wait_for_the_flush_interval(autojump_clock):
    calls = Calls()
    async with delivering(calls, flush_interval=10, batch_size=3) as it:
        it.offer(numbered(2))
        await trio.sleep(1)
        it.offer(numbered(5, 2))
        await wait_all_tasks_blocked()
        assert calls.batches == [[0, 1, 2], [3, 4, 5]]
        await trio.sleep(20)
        assert calls.batches[2:] == [[6]]


async def test_a_full_buffer_does_not_wait_for_the_flush_interval(autojump_clock):
    calls = Calls()
    async with delivering(calls, flush_interval=10, batch_size=100, buffer_limit=4) as it:
        for n in range(12):
            it.offer(numbered(1, n))
            await wait_all_tasks_blocked()
        await trio.sleep(20)
        assert it.ledger.lost == 0, "the plugin was idle while points were dropped"
        assert it.ledger.delivered == 12


async def test_closing_flushes_at_once(autojump_clock):
    calls = Calls()
    async with delivering(calls, flush_interval=1000) as it:
        it.offer(numbered(3))
        await wait_all_tasks_blocked()
        begun = trio.current_time()
        it.delivery.mailbox.close()
        await it.delivery.finished.wait()
        assert trio.current_time() == begun
        assert calls.batches == [[0, 1, 2]]


async def test_a_failed_batch_is_tried_again_after_growing_delays(autojump_clock, caplog):
    calls = Calls(*[raising(OSError("down"))] * 5)
    rng = StubRandom(share=0.5)
    async with delivering(calls, rng, retry_initial=1, retry_max=5, circuit_failures=9) as it:
        it.offer(numbered(2))
        await trio.sleep(100)
        assert calls.batches == [[0, 1]] * 6
        assert rng.bounds == [1, 2, 4, 5, 5]
        assert calls.delays == [0.5, 1, 2, 2.5, 2.5]
        assert it.ledger.delivered == 2
        assert it.ledger.retries == 5
        assert it.delivery.last_error == "p.P.handleEvent raised OSError: down"
    assert sum(bool(record.exc_info) for record in caplog.records) == 1, "one traceback, not five"


@pytest.mark.parametrize("limit", [1, 3])
async def test_a_batch_is_dropped_after_max_attempts_and_the_next_begins_anew(
    autojump_clock, caplog, limit
):
    calls = Calls(*[raising(OSError("down"))] * (2 * limit - 1))
    async with delivering(calls, max_attempts=limit) as it:
        it.offer(numbered(4))
        await wait_all_tasks_blocked()
        it.offer(numbered(1, 4))
        await trio.sleep(100)
        assert calls.batches == [[0, 1, 2, 3]] * limit + [[4]] * limit
        assert it.ledger.dropped == {"max_attempts": 4}
        assert it.ledger.delivered == 1
    assert f"4 points dropped after {limit} attempt{'s' * (limit > 1)}\n" in caplog.text


def partly(failed: Any = (), rejected: Any = (), copies: bool = False) -> Any:
    async def step(points: list[Any]) -> None:
        chosen = [copy.copy(point) for point in points] if copies else points
        raise PartialDeliveryError(
            "some", failed=[chosen[n] for n in failed], rejected=[chosen[n] for n in rejected]
        )

    return step


class BareRetryLaterError(RetryLaterError):
    """Leaves its base's constructor out, and so all attributes."""

    def __init__(self) -> None:
        pass


class BarePartialDeliveryError(PartialDeliveryError):
    def __init__(self) -> None:
        pass


async def greedy(points: list[Any]) -> None:
    points.clear()
    raise OSError


async def cancel_itself(_points: list[Any]) -> None:
    raise trio.Cancelled._create(source="unknown")


@pytest.mark.parametrize(
    ("script", "batches", "rejected"),
    [
        ([partly(failed=[3, 1], rejected=[0]), partly(failed=[1])], [[0, 1, 2, 3], [1, 3], [3]], 1),
        ([partly(rejected=[1])], [[0, 1, 2]], 1),
        ([partly()], [[0, 1, 2]], 0),
        ([partly(failed=[0, 1], rejected=[1])], [[0, 1], [0]], 1),
        ([partly(failed=[1], copies=True)], [[0, 1, 2]] * 2, 0),
        ([partly(rejected=[1], copies=True)], [[0, 1, 2]] * 2, 0),
        ([partly(rejected=[0])], [[0, 0]], 2),
        ([raising(PermanentDeliveryError("no such bucket"))], [[0, 1, 2]], 3),
        ([raising(BareRetryLaterError())], [[0]] * 2, 0),
        ([raising(BarePartialDeliveryError())], [[0]] * 2, 0),
        ([greedy], [[0, 1, 2]] * 2, 0),
        ([cancel_itself], [[0, 1]] * 2, 0),
    ],
    ids=[
        "only what failed, in order", "some are wrong", "nothing has failed", "failed and wrong is wrong",
        "failed copies", "wrong copies", "a point that is there twice", "all are wrong",
        "no attributes", "no lists", "its list is changed", "cancelled by itself",
    ],
)  # fmt: skip
async def test_what_a_call_says_decides_which_points_come_again(
    autojump_clock, script, batches, rejected
):
    calls = Calls(*script)
    known = numbered(6)
    async with delivering(calls) as it:
        it.offer([known[n] for n in batches[0]])
        await trio.sleep(100)
        assert calls.batches == batches
        assert it.ledger.rejected == rejected
        assert it.ledger.delivered == len(batches[0]) - rejected
        assert it.ledger.balanced


async def test_handle_timeout_cancels_the_call_and_the_batch_is_tried_again(autojump_clock):
    calls = Calls(sleeping(1000))
    async with delivering(calls, handle_timeout=7, retry_initial=1) as it:
        it.offer(numbered(2))
        await trio.sleep(100)
        assert calls.batches == [[0, 1], [0, 1]]
        assert calls.times[1] - calls.times[0] == 8
        assert it.delivery.last_error == "p.P.handleEvent took longer than 7 s"
        assert it.ledger.delivered == 2


async def test_a_handler_cut_short_that_returns_all_the_same_has_delivered(autojump_clock):
    async def late(_points: list[Any]) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(12)

    calls = Calls(late)
    async with delivering(calls, handle_timeout=10, stop_timeout=5) as it:
        it.offer(numbered(2))
        await trio.sleep(100)
        assert calls.batches == [[0, 1]]
        assert it.ledger.delivered == 2


async def test_a_handler_that_ignores_its_cancellation_ends_the_delivery(autojump_clock):
    async def stubborn(_points: list[Any]) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    calls = Calls(stubborn)
    async with delivering(calls, handle_timeout=10, stop_timeout=5) as it:
        it.offer(numbered(2))
        it.offer(numbered(1, 2))
        await trio.sleep(14)
        assert it.stuck is None
        await trio.sleep(2)
        assert it.stuck is not None
        assert it.ledger.in_flight == 3
        it.delivery.drop_rest("shutdown")
        assert it.ledger.dropped == {"plugin_failed": 3}
        assert it.ledger.balanced
        await trio.sleep(200)
        assert calls.batches == [[0, 1, 2]], "it is not called again"
        assert it.ledger.delivered == 0, "what is dropped stays dropped"


@pytest.mark.parametrize(
    ("says", "delivered", "rejected", "left"),
    [
        (None, 4, 0, []),
        (raising(PermanentDeliveryError("no")), 0, 4, []),
        (partly(failed=[2, 3], rejected=[0]), 1, 1, [2, 3]),
    ],
)
async def test_what_a_call_says_while_it_is_being_cancelled_holds(
    autojump_clock, says, delivered, rejected, left
):
    async def busy(points: list[Any]) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        if says is not None:
            await says(points)

    calls = Calls(busy)
    async with delivering(calls) as it:
        it.offer(numbered(4))
        await wait_all_tasks_blocked()
        await it.cancel()
        assert (it.ledger.delivered, it.ledger.rejected) == (delivered, rejected)
        assert it.ledger.in_flight == len(left)
        assert it.ledger.balanced
        await it.begin()
        assert calls.batches[1:] == ([left] if left else [])


async def test_attempts_count_on_over_a_restart_of_the_plugin(autojump_clock):
    calls = Calls(*[raising(OSError())] * 10)
    async with delivering(calls, max_attempts=2, retry_initial=50, retry_max=50) as it:
        it.offer(numbered(1))
        await wait_all_tasks_blocked()
        await it.cancel()
        await it.begin()
        assert len(calls.batches) == 2
        assert it.ledger.dropped == {"max_attempts": 1}


# Points that are too old


async def test_points_that_have_waited_too_long_are_dropped(autojump_clock):
    calls = Calls(sleeping(10))
    async with delivering(calls, max_age=5, handle_timeout=100) as it:
        it.offer(numbered(1))
        await trio.sleep(4)
        it.offer(numbered(2, 1))
        await trio.sleep(3)
        it.offer(numbered(2, 3))
        await trio.sleep(10)
        assert calls.batches == [[0], [3, 4]], "the first was in its call, which is no waiting"
        assert it.ledger.dropped == {"max_age": 2}


async def test_points_grow_too_old_between_two_attempts(autojump_clock):
    calls = Calls(*[raising(OSError())] * 100)
    async with delivering(
        calls, max_age=50, retry_initial=10, retry_max=10, max_attempts=100
    ) as it:
        it.offer(numbered(1))
        await trio.sleep(35)
        it.offer(numbered(1, 1))
        await trio.sleep(21)
        assert calls.batches[0] == [0]
        assert it.ledger.dropped == {"max_age": 1}
        assert calls.batches[-1] == [1], "what is younger has its own time"
        assert len(calls.batches) < 10, "the circuit is open"
        await trio.sleep(100)
        assert it.ledger.dropped == {"max_age": 2}
        assert it.ledger.balanced


# A receiver that is unreachable


async def test_attempts_for_which_the_receiver_is_to_blame_do_not_count(autojump_clock):
    calls = Calls(
        *[raising(RetryLaterError("away"))] * 20, raising(OSError()), raising(RetryLaterError()),
        raising(OSError()), raising(OSError()),
    )  # fmt: skip
    async with delivering(calls, max_attempts=3, retry_max=1, circuit_failures=1000) as it:
        it.offer(numbered(2))
        await trio.sleep(100)
        assert calls.batches == [[0, 1]] * 24
        assert it.ledger.dropped == {"max_attempts": 2}
        assert it.ledger.retries == 23


@pytest.mark.parametrize(
    ("after", "delay"),
    [(7.5, 7.5), (300, 300), (0.1, 2), (None, 2), (-4, 2), ("9", 2), (float("nan"), 2), (float("inf"), 500)],
)  # fmt: skip
async def test_the_receiver_is_left_alone_for_as_long_as_it_asked(autojump_clock, after, delay):
    calls = Calls(raising(RetryLaterError("busy", after=after)), raising(OSError()))
    table = {"retry_initial": 2, "retry_max": 2, "max_age": 500}
    async with delivering(calls, **table) as it:
        it.offer(numbered(1))
        await trio.sleep(600)
        assert calls.times[1] - calls.times[0] == delay
        if delay < 500:
            assert calls.times[2] - calls.times[1] == 2, "it asked once"
        else:
            assert it.ledger.dropped == {"max_age": 1}


async def test_what_is_left_of_a_batch_may_have_to_wait_without_blame(autojump_clock):
    def one_more(after: float | None) -> Any:
        async def step(points: list[Any]) -> None:
            raise PartialDeliveryError("busy", failed=points[1:], after=after)

        return step

    calls = Calls(*[one_more(7.0)] * 5, *[one_more(0)] * 3, one_more(None), one_more(None))
    table = {"max_attempts": 2, "retry_initial": 2, "retry_max": 2}
    async with delivering(calls, **table) as it:
        it.offer(numbered(20))
        await trio.sleep(100)
        assert calls.batches == [list(range(n, 20)) for n in range(10)]
        assert calls.delays == [7.0] * 5 + [2.0] * 4
        assert it.ledger.delivered == 10
        assert it.ledger.dropped == {"max_attempts": 10}
        assert it.delivery.circuit.state == "closed"


@pytest.mark.parametrize(("asked", "pace"), [(None, 0.2), (0.5, 0.5), (300, 1.0)])
async def test_at_a_stop_a_receiver_is_tried_soon_but_not_as_often_if_it_asked_for_a_pause(
    autojump_clock, asked, pace
):
    calls = Calls(*[raising(RetryLaterError("busy", after=asked))] * 4)
    table = {"retry_initial": 60, "retry_max": 60, "circuit_failures": 100}
    async with delivering(calls, **table) as it:
        it.offer(numbered(1))
        await wait_all_tasks_blocked()
        it.delivery.mailbox.close()
        await it.delivery.finished.wait()
        assert it.ledger.delivered == 1
    assert calls.delays == pytest.approx([pace] * 4)


async def test_a_poison_batch_does_not_block_what_comes_behind_it(autojump_clock):
    async def picky(points: list[Any]) -> None:
        if 0 in numbers(points):
            raise ValueError("poison")

    calls = Calls(*[picky] * 100)
    async with delivering(calls, batch_size=2, max_attempts=4, circuit_failures=2) as it:
        it.offer(numbered(6))
        await trio.sleep(1000)
        assert calls.batches == [[0, 1]] * 4 + [[2, 3], [4, 5]]
        assert it.ledger.dropped == {"max_attempts": 2}
        assert it.ledger.delivered == 4
        assert it.delivery.circuit.state == "closed"


# The circuit


async def test_the_circuit_opens_after_failures_in_a_row_and_probes_with_one_call(
    autojump_clock, caplog
):
    calls = Calls(raising(OSError()), None, *[raising(OSError())] * 4, sleeping(3))
    caplog.set_level(logging.INFO)
    table = {"retry_initial": 1, "retry_max": 1, "circuit_failures": 3, "circuit_pause": 60}
    async with delivering(calls, **table) as it:
        circuit = it.delivery.circuit
        it.offer(numbered(1))
        await trio.sleep(5)
        assert circuit.state == "closed", "a success in between begins the count anew"
        it.offer(numbered(1, 1))
        await trio.sleep(2.5)
        assert len(calls.times) == 5
        assert circuit.state == "open"
        await trio.sleep(59)
        assert len(calls.times) == 5, "the circuit is open"
        assert circuit.seconds_left == pytest.approx(1.0, abs=0.5)
        await trio.sleep(1)
        assert len(calls.times) == 6, "the probe, which fails"
        assert circuit.state == "open"
        await trio.sleep(61)
        assert len(calls.times) == 7
        assert circuit.state == "probing"
        await trio.sleep(3)
        assert circuit.state == "closed"
        assert it.ledger.delivered == 2
    lines = [record.message for record in caplog.records]
    assert (
        sum("failed 3 times in a row: circuit open; next probe in 60 s" in line for line in lines)
        == 1
    )
    assert sum("p.P.handleEvent works again" in line for line in lines) == 1


@pytest.mark.parametrize("answer", [partly(rejected=[0]), raising(PermanentDeliveryError("no"))])
async def test_a_receiver_that_refuses_points_is_not_dead(autojump_clock, answer):
    calls = Calls(*[raising(OSError()), answer] * 10)
    table = {"retry_initial": 1, "retry_max": 1, "circuit_failures": 2, "batch_size": 1}
    async with delivering(calls, **table) as it:
        it.offer(numbered(10))
        await trio.sleep(15)
        assert it.ledger.rejected == 10


async def test_a_stop_does_not_wait_for_the_circuit(autojump_clock):
    calls = Calls(raising(OSError()))
    async with delivering(calls, circuit_failures=1, circuit_pause=3600) as it:
        it.offer(numbered(3))
        await trio.sleep(100)
        assert it.delivery.circuit.state == "open"
        begun = trio.current_time()
        it.delivery.mailbox.close()
        await it.delivery.finished.wait()
        assert trio.current_time() - begun < 1
        assert it.ledger.delivered == 3


async def test_a_cancelled_probe_says_nothing_and_the_next_attempt_probes(autojump_clock):
    calls = Calls(raising(OSError()), sleeping(1000))
    async with delivering(calls, circuit_failures=1, circuit_pause=10, handle_timeout=5000) as it:
        it.offer(numbered(1))
        await trio.sleep(20)
        assert it.delivery.circuit.state == "probing"
        await it.cancel()
        assert it.delivery.circuit.state == "open"
        await it.begin()
        await trio.sleep(1)
        assert it.delivery.circuit.state == "closed"
        assert it.ledger.delivered == 1


async def sleep_and_fail(_points: list[Any]) -> None:
    await trio.sleep(1)
    raise OSError("down")


async def test_one_probe_at_a_time_whatever_the_concurrency(autojump_clock):
    receiver = Calls(otherwise=sleep_and_fail)
    table = {"concurrency": 4, "batch_size": 1, "retry_initial": 0.1, "retry_max": 0.1}
    async with delivering(
        receiver, circuit_failures=4, circuit_pause=10, max_attempts=1000, **table
    ) as it:
        it.offer(numbered(20))
        await trio.sleep(2)
        assert receiver.most == 4
        receiver.most = 0
        count = len(receiver.times)
        await trio.sleep(1000)
        assert receiver.most == 1
        assert 80 <= len(receiver.times) - count <= 95, "one in 11 seconds"
        assert len({got[0] for got in receiver.batches[count:]}) == 4, "each worker has its turn"


async def test_a_call_from_before_the_circuit_opened_does_not_let_another_probe_in(autojump_clock):
    async def late(_points: list[Any]) -> None:
        await trio.sleep(12)  # fails while the probe is out
        raise OSError

    receiver = Calls(late, sleep_and_fail, sleep_and_fail, sleeping(100), otherwise=sleeping(1))
    table = {"concurrency": 3, "batch_size": 1, "retry_initial": 0.1, "handle_timeout": 1000}
    async with delivering(receiver, circuit_failures=2, circuit_pause=10, **table) as it:
        it.offer(numbered(3))
        await trio.sleep(11.5)
        assert it.delivery.circuit.state == "probing"
        await trio.sleep(50)
        assert it.delivery.circuit.state == "probing"
        assert len(receiver.times) == 4, "three calls, and one probe"
        await trio.sleep(100)
        assert it.delivery.circuit.state == "closed"
        assert it.ledger.delivered == 3


async def test_a_late_success_closes_the_circuit_for_all_at_once(autojump_clock):
    receiver = Calls(sleeping(5), sleep_and_fail, sleep_and_fail)
    table = {"concurrency": 3, "batch_size": 1, "retry_initial": 0.1, "handle_timeout": 1000}
    async with delivering(receiver, circuit_failures=2, circuit_pause=3600, **table) as it:
        it.offer(numbered(3))
        await trio.sleep(4)
        assert it.delivery.circuit.state == "open"
        await trio.sleep(1.5)
        assert it.delivery.circuit.state == "closed"
        assert it.ledger.delivered == 3


# Several calls at once


@pytest.mark.parametrize("flush_interval", [0, 2])
async def test_at_most_so_many_calls_are_made_at_once_and_every_point_arrives(
    autojump_clock, flush_interval
):
    receiver = Calls(otherwise=sleeping(1))
    async with delivering(
        receiver, concurrency=4, batch_size=5, flush_interval=flush_interval
    ) as it:
        it.offer(numbered(103))
        await trio.sleep(2.5)
        assert it.ledger.in_flight == 20
        await trio.sleep(20)
        assert receiver.most == 4
        assert sorted(n for got in receiver.batches for n in got) == list(range(103))
        assert it.ledger.delivered == 103


async def test_each_batch_gathers_for_its_own_time_whatever_the_concurrency(autojump_clock):
    calls = Calls()
    async with delivering(calls, concurrency=3, flush_interval=10, batch_size=100) as it:
        for n in range(5):
            it.offer(numbered(1, n))
            await trio.sleep(6)
        await trio.sleep(20)
        assert calls.batches == [[0, 1], [2, 3], [4]]
        assert calls.delays == [12, 12]


async def test_a_slow_batch_holds_up_no_other(autojump_clock):
    receiver = Calls(sleeping(100), otherwise=sleeping(1))
    async with delivering(receiver, concurrency=2, batch_size=1, handle_timeout=1000) as it:
        it.offer(numbered(11))
        await trio.sleep(11)
        assert it.ledger.delivered == 10
        assert it.ledger.in_flight == 1


async def test_a_restart_delivers_all_outstanding_batches_again(autojump_clock):
    receiver = Calls(otherwise=sleeping(5))
    async with delivering(receiver, concurrency=3, batch_size=2) as it:
        it.offer(numbered(8))
        await trio.sleep(1)
        await it.cancel()
        assert (it.ledger.in_flight, it.ledger.queued) == (6, 2)
        await it.begin()
        await trio.sleep(20)
        assert receiver.most == 3
        assert (
            sorted(receiver.batches[:3])
            == sorted(receiver.batches[3:6])
            == [[0, 1], [2, 3], [4, 5]]
        )
        assert receiver.batches[6:] == [[6, 7]]
        assert it.ledger.delivered == 8
        assert it.ledger.retries == 3


async def test_the_end_comes_when_the_last_call_has_returned(autojump_clock):
    receiver = Calls(sleeping(10), raising(OSError()), otherwise=sleeping(1))
    async with delivering(receiver, concurrency=3, batch_size=1, handle_timeout=100) as it:
        it.offer(numbered(4))
        it.delivery.mailbox.close()
        begun = trio.current_time()
        await it.delivery.finished.wait()
        assert trio.current_time() - begun == 10
        assert it.ledger.delivered == 4


async def test_a_call_that_does_not_end_ends_all_others(autojump_clock):
    async def stubborn(_points: list[Any]) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(1000)

    receiver = Calls(stubborn, otherwise=sleeping(100))
    table = {"handle_timeout": 10, "stop_timeout": 5, "retry_initial": 0.1}
    async with delivering(receiver, concurrency=3, batch_size=1, **table) as it:
        it.offer(numbered(10))
        await trio.sleep(16)
        assert it.stuck is not None
        assert not it.delivery.finished.is_set()
        assert receiver.now == 1, "the stubborn one"
        assert it.ledger.balanced
        assert it.delivery.drop_rest("shutdown") == 10
        assert it.ledger.dropped == {"plugin_failed": 1, "shutdown": 9}


# Dead letters


def letters(path: Path) -> list[tuple[str, int]]:
    """Return the reason and the number of each line."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["reason"], line["fields"]["n"]) for line in lines]


async def test_points_that_are_given_up_are_written_down_with_the_reason(tmp_path):
    path = tmp_path / "dead" / "p.jsonl"
    calls = Calls(
        raising(PermanentDeliveryError("no")), partly(rejected=[1]), raising(OSError()), raising(OSError())
    )  # fmt: skip
    written = DeadLetters(path, 1 << 20, LOGGER)
    async with delivering(
        calls, None, written, batch_size=2, max_attempts=2, retry_initial=0.01
    ) as it:
        it.offer(numbered(8))
        await until(
            lambda: it.ledger.accepted == it.ledger.lost + it.ledger.rejected + it.ledger.delivered
        )
        await until(lambda: len(letters(path)) == 5)
        assert letters(path) == [
            ("rejected", 0), ("rejected", 1), ("rejected", 3), ("max_attempts", 4), ("max_attempts", 5),
        ]  # fmt: skip
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        line = json.loads(path.read_text().splitlines()[0])
        assert abs(line.pop("at") - time.time()) < 60
        assert line == {
            "reason": "rejected", "series": "numbers", "time": 1.0, "tags": {}, "fields": {"n": 0}
        }  # fmt: skip


@pytest.mark.slow("waits in real time")
async def test_points_that_grew_too_old_are_written_down_at_once(tmp_path):
    path = tmp_path / "p.jsonl"
    calls = Calls(raising(OSError()))
    table = {"max_age": 0.1, "retry_initial": 0.2, "flush_interval": 0.15}
    async with delivering(calls, StubRandom(), DeadLetters(path, 1 << 20, LOGGER), **table) as it:
        it.offer(numbered(1))
        await until(lambda: path.exists() and path.stat().st_size)
        assert letters(path) == [("max_age", 0)], "gone in the queue"
        it.delivery.mailbox.close()
        await it.delivery.finished.wait()
    path.unlink()
    table["flush_interval"] = 0
    async with delivering(calls, StubRandom(), DeadLetters(path, 1 << 20, LOGGER), **table) as it:
        it.offer(numbered(1, 1))
        await until(lambda: path.exists() and path.stat().st_size)
        assert letters(path) == [("max_age", 1)], "gone in a back-off"


async def test_what_there_was_no_room_or_time_for_is_no_dead_letter(tmp_path):
    path = tmp_path / "p.jsonl"
    calls = Calls(raising(OSError()))
    async with delivering(
        calls, None, DeadLetters(path, 1 << 20, LOGGER), buffer_limit=2, retry_initial=1000
    ) as it:
        it.offer(numbered(5))
        await wait_all_tasks_blocked()
        await it.cancel()
        it.delivery.drop_rest("shutdown")
        await it.delivery.settlement.bury()
        assert it.ledger.dropped == {"overflow": 3, "shutdown": 2}
        assert not path.exists()


async def test_dead_letters_are_bounded_and_the_newest_whole_lines_are_left(tmp_path):
    path = tmp_path / "p.jsonl"
    written = DeadLetters(path, 4000, LOGGER)
    older = Path(f"{path}.1")
    for n in range(0, 300, 7):
        await written.write([("rejected", numbered(7, n))])
        assert path.stat().st_size <= 2000
        assert not older.exists() or older.stat().st_size <= 2000
    both = letters(older) + letters(path)
    assert both == [("rejected", n) for n in range(301 - len(both), 301)]
    assert 15 < len(both) < 40
    assert older.stat().st_mode & 0o777 == 0o600
    await written.write([("rejected", numbered(500, 301))])
    both = letters(older) + letters(path)
    assert both == [("rejected", n) for n in range(801 - len(both), 801)]
    assert 15 < len(both) < 40


async def test_a_point_larger_than_the_dead_letters_is_left_out(tmp_path, caplog):
    path = tmp_path / "p.jsonl"
    written = DeadLetters(path, 4000, LOGGER)
    given_up = [("rejected", [*numbered(1), *sized(3000, start=1), *numbered(1, 2)])]
    assert await written.write(given_up) == {UNWRITTEN: 1}
    assert letters(path) == [("rejected", 0), ("rejected", 2)]
    assert "dead letters cannot be written: some are larger than" in caplog.text


async def test_a_disk_that_fills_up_leaves_no_half_line_behind(tmp_path, caplog):
    path = tmp_path / "p.jsonl"
    written = DeadLetters(path, 1 << 20, LOGGER)
    await written.write([("rejected", numbered(3))])
    size = path.stat().st_size
    with no_room_beyond(size + 50):
        assert await written.write([("rejected", numbered(3, 3))]) == {UNWRITTEN: 3}
    assert path.stat().st_size == size
    assert "dead letters cannot be written: OSError" in caplog.text
    assert not await written.write([("rejected", numbered(1, 6))])
    assert letters(path) == [("rejected", n) for n in (0, 1, 2, 6)]


# A plugin's delivery, in a host


async def test_a_crash_of_the_plugin_delivers_the_batch_after_its_restart(tmp_path, autojump_clock):
    source = """
        crash = trio.Event()

        class Sink(BaseEventPlugin, BaseBackgroundPlugin):
            eventName = "monitoring_event"

            async def start(self):
                global crash
                await crash.wait()
                crash = trio.Event()
                raise ValueError

            async def handleEvent(self, points, logger):
                journal.append([point.fields["n"] for point in points])
                if len(journal) == 1:
                    await trio.sleep(5)
    """
    async with running_host(tmp_path, {"sink": source}) as host:
        host.publish(numbered(3))
        await wait_all_tasks_blocked()
        host.module("sink").crash.set()
        await host.wait_for("sink", State.BACKOFF)
        host.publish(numbered(1, 3))
        await host.wait_for("sink", State.RUNNING)
        part = await host.receipt_of("sink")
        assert journal == [[0, 1, 2], [0, 1, 2], [3]]
        assert part.points["delivered"] == 4


async def test_a_stuck_handler_abandons_the_plugin(tmp_path, autojump_clock):
    source = """
        class Sink(BaseEventPlugin):
            eventName = "monitoring_event"

            async def handleEvent(self, points, logger):
                with trio.CancelScope(shield=True):
                    await trio.sleep(200)

            async def close(self):
                journal.append("close")
    """
    async with running_host(tmp_path, {"sink": source}) as host:
        host.publish(numbered(3))
        await wait_all_tasks_blocked()
        host.publish(numbered(2))
        await host.wait_for("sink", State.ABANDONED)
        await host.life("sink").ended.wait()
        assert journal == ["close"]
        receipt = await host.stop()
        assert receipt.exit_code == 4
        assert receipt.plugins[0].points["dropped"] == {"plugin_failed": 5}
        assert receipt.plugins[0].leaked_tasks


# The law

outcomes = st.one_of(
    st.just(("return",)),
    st.just(("return",)),
    st.tuples(st.just("sleep"), st.floats(0, 15)),
    st.just(("raise",)),
    st.just(("permanent",)),
    st.tuples(st.just("partial"), st.integers(0, 7), st.integers(0, 7), st.booleans()),
    st.tuples(st.just("shielded"), st.floats(0, 4)),
)
steps = st.one_of(
    st.tuples(st.just("publish"), st.integers(1, 12)),
    st.tuples(st.just("publish"), st.integers(1, 12)),
    st.tuples(st.just("wait"), st.floats(0, 12)),
    st.just(("restart", 0)),
)


@pytest.mark.slow("random examples, each with a host")
@given(
    script=st.lists(outcomes, max_size=15),
    plan=st.lists(steps, max_size=15),
    end=st.sampled_from(["drain", "drop"]),
    overflow=st.sampled_from(["drop_oldest", "drop_newest"]),
    flush=st.sampled_from([0.0, 3.0]),
    limit=st.integers(1, 20),
    size=st.integers(1, 10),
    attempts=st.integers(1, 3),
)
@examples(50)
def test_every_point_is_in_exactly_one_place_at_every_moment(
    script, plan, end, overflow, flush, limit, size, attempts
):
    todo = list(script)
    seen = {"delivered": 0, "rejected": 0}
    order: list[int] = []

    async def main() -> None:
        async def handle(points: list[Any], _logger: logging.Logger) -> None:
            check()
            assert 0 < len(points) <= size
            assert it.ledger.in_flight == len(points)
            order.extend(numbers(points))
            kind, *values = todo.pop(0) if todo else ("return",)
            if kind == "raise":
                raise OSError
            if kind == "permanent":
                seen["rejected"] += len(points)
                raise PermanentDeliveryError
            if kind == "partial":
                failed = [p for p in points if p.fields["n"] & values[0] == 0]
                rejected = [p for p in points if p.fields["n"] & values[1] == 0]
                named = [copy.copy(p) for p in failed] if values[2] else failed
                again = points if values[2] and failed else failed
                again = [p for p in again if p not in rejected]
                seen["rejected"] += len(rejected)
                seen["delivered"] += len(
                    [p for p in points if p not in again and p not in rejected]
                )
                raise PartialDeliveryError("some", failed=named, rejected=rejected)
            if kind == "sleep":
                await trio.sleep(values[0])
            if kind == "shielded":
                with trio.CancelScope(shield=True):
                    await trio.sleep(values[0])
            seen["delivered"] += len(points)

        def check() -> None:
            ledger = it.ledger
            assert ledger.balanced
            assert min(ledger.queued, ledger.in_flight, ledger.delivered, ledger.rejected) >= 0
            assert ledger.queued <= limit
            assert ledger.accepted == published

        published = 0
        async with delivering(
            handle, batch_size=size, buffer_limit=limit, overflow=overflow, max_attempts=attempts,
            flush_interval=flush, handle_timeout=10, stop_timeout=5, retry_initial=2,
        ) as it:  # fmt: skip
            for step, value in plan:
                if step == "publish":
                    published += value
                    it.offer(numbered(value, published - value))
                elif step == "wait":
                    await trio.sleep(value)
                else:
                    await it.cancel()
                    check()
                    await it.begin()
                check()
                await wait_all_tasks_blocked()
                check()
            ledger = it.ledger
            if end == "drain":
                it.delivery.mailbox.close()
                with trio.fail_after(10_000):
                    await it.delivery.finished.wait()
            else:
                await it.cancel()
                before = ledger.lost
                rest = ledger.queued + ledger.in_flight
                assert it.delivery.drop_rest("shutdown") == rest
                assert ledger.lost == before + rest
            check()
            assert ledger.queued == ledger.in_flight == 0
            assert ledger.delivered == seen["delivered"]
            assert ledger.rejected == seen["rejected"]
            first_time = list(dict.fromkeys(order))
            assert first_time == sorted(first_time), "points come in the order of their publishing"
            if end == "drain" and not ledger.lost:
                assert first_time == list(range(published))

    run_virtual(main)


async def test_a_failure_that_repeats_is_logged_now_and_then(autojump_clock, caplog):
    calls = Calls(*[raising(TypeError("no"))] * 100)
    async with delivering(calls, batch_size=1, max_attempts=1, circuit_failures=1000) as it:
        for point in numbered(100):
            it.offer([point])
            await trio.sleep(0.2)
        await wait_all_tasks_blocked()
        assert it.ledger.lost == 100
    lines = [record for record in caplog.records if "raised TypeError" in record.message]
    assert len(lines) == 2
    assert [bool(record.exc_info) for record in lines] == [True, False]
    assert any(f"({count} more like it were not logged)" in lines[1].message for count in (49, 50))


@pytest.mark.parametrize(
    "error", [PermanentDeliveryError("no"), RetryLaterError("away"), ConnectionRefusedError("away")]
)
async def test_an_outage_is_one_line_in_the_log_but_a_traceback_for_those_who_look(
    autojump_clock, caplog, error
):
    for level, traced in ((logging.INFO, False), (logging.DEBUG, True)):
        caplog.clear()
        caplog.set_level(level, LOGGER.name)
        async with delivering(Calls(raising(error))) as it:
            it.offer(numbered(1))
            await wait_all_tasks_blocked()
        (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert f"{type(error).__name__}: {error}" in line.message
        assert bool(line.exc_info) == traced
