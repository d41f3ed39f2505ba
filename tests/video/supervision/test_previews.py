"""Previews: many who look cost a worker no more than two pictures a second."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from lva.video.supervision.previews import FRESH, Previews


class Worker:
    """Takes the orders of a stream; its next frame is asked for by the test."""

    def __init__(self) -> None:
        self.orders: list[dict[str, Any]] = []

    async def send(self, message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        self.orders.append(message)


async def test_who_asks_soon_after_another_gets_the_same(autojump_clock: Any) -> None:
    """The kind: what those who look at a stream cost it."""
    previews, worker = Previews(), Worker()

    async def ask(edge: int = 640) -> float:
        found = await previews.take(worker, edge, 75, 3.0)  # type: ignore[arg-type] # it sends
        assert found is not None
        return found.time

    def frame(at: float) -> None:
        previews.arrived({**worker.orders[-1], "time": at}, b"jpeg")

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        frame(1.0)
    assert len(worker.orders) == 1
    assert await ask() == 1.0
    assert len(worker.orders) == 1
    await trio.sleep(FRESH)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        frame(2.0)
    assert await ask() == 2.0
    assert len(worker.orders) == 2
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, 320)  # another size is another picture
        await trio.testing.wait_all_tasks_blocked()
        frame(3.0)
    assert [order["edge"] for order in worker.orders] == [640, 640, 320]


async def test_without_patience_the_newest_is_sent_and_the_next_is_asked_for(
    autojump_clock: Any,
) -> None:
    previews, worker = Previews(), Worker()
    previews.arrived({"edge": 640, "quality": 75, "time": 1.0}, b"jpeg")
    await trio.sleep(10)
    began = trio.current_time()
    found = await previews.take(worker, 640, 75, 0.0)  # type: ignore[arg-type] # it sends
    assert found is not None
    assert (found.time, trio.current_time()) == (1.0, began)
    assert len(worker.orders) == 1


async def test_who_leaves_before_anything_was_asked_leaves_nobody_waiting(
    autojump_clock: Any,
) -> None:
    """The kind: an order that was noted as sent, and was not."""
    previews, worker = Previews(), Worker()
    with trio.CancelScope() as scope:
        scope.cancel()
        await previews.take(worker, 640, 75, 3.0)  # type: ignore[arg-type] # it sends
    assert scope.cancelled_caught
    assert not worker.orders
    async with trio.open_nursery() as nursery:
        nursery.start_soon(previews.take, worker, 640, 75, 3.0)
        await trio.testing.wait_all_tasks_blocked()
        assert len(worker.orders) == 1
        previews.arrived({**worker.orders[0], "time": 1.0}, b"jpeg")
