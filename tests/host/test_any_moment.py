"""Points are published at any moment: between any two steps of the host's, and of Trio's, in any thread.

That is what a signal handler does, and a finalizer that the garbage collector runs. Here a trace function
takes their place, since it can be called between any two instructions, and every time.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio

import lva.host.delivery.mailbox
from tests.support import RunningHost, numbered, running_host, until

SINK = """
class Sink(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        await trio.lowlevel.checkpoint()
"""
#: What the moments are in.
WHERE = (
    str(Path(lva.host.delivery.mailbox.__file__).parent),
    str(Path(trio.__file__).parent / "_core"),
)
#: A moment comes after so many instructions; each of them has its turn. Fewer would keep the host from
#: getting anywhere, since what comes at a moment takes some, too.
EVERY = 199


@contextmanager
def at_many_moments(act: Callable[[], object], first: int) -> Iterator[None]:
    """Call a function between instructions of the host's code, and of Trio's, in this thread."""
    count = first

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(WHERE):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count % EVERY == 0:
                act()
        return trace

    before = sys.gettrace()
    frame: FrameType | None = sys._getframe()
    touched = []
    while frame is not None:  # Trio's loop, which has begun already
        if frame.f_code.co_filename.startswith(WHERE):
            frame.f_trace, frame.f_trace_opcodes = trace, True
            touched.append(frame)
        frame = frame.f_back
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
        for frame in touched:
            frame.f_trace = None


async def all_settled(host: RunningHost, name: str, count: int) -> Any:
    (delivery,) = host.life(name).deliveries.values()
    ledger = delivery.ledger
    await until(lambda: ledger.accepted >= count and not ledger.waiting, 60)
    return ledger


@pytest.mark.slow("each instruction of a run is such a moment")
@pytest.mark.parametrize(
    "table",
    [{}, {"buffer_limit": 3}, {"spool": "disk"}],
    ids=["memory", "overflowing", "spool"],
)
async def test_a_point_may_be_published_in_the_midst_of_any_step(
    tmp_path: Path, table: dict[str, Any]
) -> None:
    """Kind: calls that are documented for any thread come at any moment, too."""
    point = numbered(1)
    published = 0
    async with running_host(tmp_path, {"sink": SINK}, {"sink": table}) as host:

        def publish() -> None:
            nonlocal published
            published += 1
            host.host.publisher.publish("monitoring_event", point)

        with host.host.publisher.taps.tapped(None) as tap:
            for first in range(EVERY):
                with at_many_moments(publish, first):
                    publish()
                    await trio.lowlevel.checkpoint()
                    await trio.lowlevel.checkpoint()
        assert published > 3 * EVERY
        ledger = await all_settled(host, "sink", published)
        assert ledger.balanced, ledger
        assert ledger.accepted == published
        assert ledger.delivered + ledger.lost == published
        passages, missed = tap.take()
        assert sum(len(passage.points) for passage in passages) + missed == published


async def test_another_thread_does_not_wait_for_itself(tmp_path: Path) -> None:
    """Kind: a lock that the thread that has it waits for, from a finalizer."""
    point = numbered(1)
    published = 0
    async with running_host(tmp_path, {"sink": SINK}) as host:

        def publish() -> None:
            nonlocal published
            published += 1
            host.host.publisher.publish("monitoring_event", point)

        def work() -> None:
            for first in range(EVERY):
                with at_many_moments(publish, first):
                    publish()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        await until(lambda: not thread.is_alive(), 20)
        ledger = await all_settled(host, "sink", published)
        assert ledger.balanced
        assert ledger.accepted == ledger.delivered == published > 2 * EVERY
