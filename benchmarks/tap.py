"""What it costs the delivery of points when somebody looks at them with `lva tap`.

Points per second from `publish()` to a plugin that makes JSON of them, the least that any sink does, and
to one that does nothing: alone, with a reader that gets as much as there may be, and with one whose filter
matches nothing, so that all its time goes into looking. A round's reader gets its lines, but for the HTTP.
Per second of processor time, since everything runs in one thread. Goal: at least 0.95 of alone, with a sink
that does something.
"""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import trio
from delivery import (
    ENCODING,
    LIST,
    NOTHING,
    POINTS,
    ROUNDS,
    SECONDS,
    Pass,
    Rates,
    compare,
    ledger_of,
    make_points,
    publishing,
    report,
    running,
)

from lva.settings import Settings
from lva.web.resources.access import Access
from lva.web.resources.tap_stream import MOST_LINES, TapQuery, TapStreams

Beside = Callable[[], AbstractAsyncContextManager[None]]
EVERYTHING = TapQuery(rate=MOST_LINES)
NOTHING_OF_IT = TapQuery(series=frozenset({"none"}), rate=MOST_LINES)


@asynccontextmanager
async def nobody() -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def reader(streams: TapStreams, query: TapQuery) -> AsyncIterator[None]:
    """Have somebody look, while inside."""

    async def read() -> None:
        async for _ in streams._lines(query, lambda: None):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.sleep(0.2)  # the first second's worth may come at once
        yield
        nursery.cancel_scope.cancel()


async def rate(one_pass: Pass) -> float:
    """Repeat passes for a round's time; return points per second of processor time."""
    passes = 0
    gc.collect()
    begun = time.process_time()
    while (taken := time.process_time() - begun) < SECONDS or not passes:
        await one_pass()
        passes += 1
    return passes * POINTS / taken


async def in_turns(one_pass: Pass, besides: Mapping[str, Beside]) -> Rates:
    """Measure the pass beside each of these once in every round, after one that does not count."""
    await one_pass()
    rates: Rates = {name: [] for name in besides}
    for _ in range(ROUNDS):
        for name, beside in besides.items():
            async with beside():
                rates[name].append(await rate(one_pass))
    return rates


async def main() -> None:
    points = make_points()
    lists = [points[n : n + LIST] for n in range(0, POINTS, LIST)]
    gc.freeze()
    for what, source in (("a sink that encodes", ENCODING), ("one that does nothing", NOTHING)):
        print(what)
        async with running({"sink": (source, {"buffer_limit": 2 * POINTS})}) as host:
            streams = TapStreams(host, trio.Event(), Access(Settings(), None))
            rates = await in_turns(
                publishing(host, "sink", lists),
                {
                    "alone": nobody,
                    "tapped": partial(reader, streams, EVERYTHING),
                    "tapped, nothing matches": partial(reader, streams, NOTHING_OF_IT),
                },
            )
            if ledger_of(host, "sink").lost:
                print(f"  NOT EVERYTHING ARRIVED: {ledger_of(host, 'sink')}")
        report(rates)
        compare(rates, "tapped", "alone", "0.95" if source is ENCODING else "")
        compare(rates, "tapped, nothing matches", "alone", "0.95" if source is ENCODING else "")


if __name__ == "__main__":
    trio.run(main)
