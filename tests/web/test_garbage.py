"""What a request had is gone when it is over, however it ended, and does not wait for the garbage collector.

That counts objects, not bytes: a few that lead to large bodies may wait for long.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio

from lva.host.watch.clock import StepClock
from lva.host.watch.doubts import OthersWaits
from lva.host.watch.loop_watch import LoopWatch
from lva.host.watch.readings import own_reader
from lva.host.watch.uses import LoopUses
from tests.support import running_host
from tests.telling import Told, listening, serving

HANDLERS = """
import weakref
from tests.telling import tell

class Owned:
    pass

refs = []

def own(request):
    owned = Owned()
    refs.append(weakref.ref(owned, lambda _, path=request.path: tell(f"{path} has left nothing")))
    tell(request.path)
    return owned

async def returns(request):
    owned = own(request)
    return "fine"

async def raises(request):
    owned = own(request)
    raise RuntimeError("on purpose")

async def breaks_off(request):
    async def body():
        owned = own(request)
        yield b"x"
        raise RuntimeError("on purpose")
    return body()

async def waits(request):
    owned = own(request)
    await trio.sleep_forever()

class P(BaseBackgroundPlugin):
    async def initialize(self):
        for handler in (returns, raises, breaks_off, waits):
            self.addRoute(f"/{handler.__name__}", handler)
"""


@pytest.fixture
def told() -> Iterator[Told]:
    with listening() as it:
        yield it


async def test_nothing_of_a_request_outlives_it(
    tmp_path: Path, told: Told, no_collection: None
) -> None:
    async def ask(path: str) -> None:
        with contextlib.suppress(httpx.RemoteProtocolError):  # the response breaks off
            await client.get(path)

    async with running_host(tmp_path, {"p": HANDLERS}) as host, serving(host) as client:
        for path in ("/raises", "/breaks_off"):
            await ask(
                path
            )  # the first failure of a kind is logged with its traceback, which pytest keeps
        for path in ("/returns", "/raises", "/breaks_off", "/waits"):
            told.items.clear()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, path)
                await told.wait_for(path)
                if path == "/waits":
                    nursery.cancel_scope.cancel()
            await told.wait_for(f"{path} has left nothing")


def test_who_looks_at_the_stacks_of_threads_keeps_nothing_of_them(no_collection: None) -> None:
    """Stacks lead to all that runs; that of who looks is among them."""

    class Owned:
        pass

    def look() -> weakref.ref[Owned]:
        owned = Owned()
        waits = OthersWaits(threading.get_native_id())
        with contextlib.closing(own_reader()) as reader, contextlib.closing(waits):
            watch = LoopWatch(0.1, 10.0, LoopUses(), dict)
            watch._others_waits = waits
            watch._clock = StepClock(0.1, reader.read, print)
            watch._look(reader)
        return weakref.ref(owned)

    assert look()() is None
