"""Points per second from `publish()` to a plugin that does nothing, against OpenTelemetry's batch processor.

The plugin file is loaded and run by the real host, in this process. The same points go to the host in
lists of 100, to the host one at a time, and, as log records made beforehand, to OpenTelemetry's
`BatchLogRecordProcessor` with an exporter that does nothing; in turns. OpenTelemetry takes records one
at a time. Everybody gets a buffer that holds all points of a pass, delivers at most 1,000 at once, and
is timed until the last point is delivered.

Goals: in lists of 100 at least 1,000,000 points/s and 5 times OpenTelemetry's rate; one at a time at
least 100,000 points/s.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import trio
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import ReadWriteLogRecord
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
)
from opentelemetry.sdk.resources import Resource

from lva import MonitoringPoint
from lva.host.host import Host
from lva.host.loading import load_plugins
from lva.host.mailbox import Ledger
from lva.settings import PluginSettings, Settings

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "1"))
POINTS = 100_000  # in one pass; a round repeats passes until its time is over
LIST = 100
BATCH = 1000
#: The producer lets others run after this many points.
YIELD = 1000

PLUGIN = """
from lva import BaseEventPlugin

class Nothing(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        pass
"""

Pass = Callable[[], Awaitable[None]]


class NullExporter(LogRecordExporter):
    """Counts the records and forgets them."""

    def __init__(self) -> None:
        self.exported = 0

    def export(self, batch: Sequence[Any]) -> LogRecordExportResult:
        self.exported += len(batch)
        return LogRecordExportResult.SUCCESS

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def make_points() -> list[MonitoringPoint]:
    return [
        MonitoringPoint(
            "requests",
            1_700_000_000.0 + n,
            {"service": "luna-video-agent", "route": "GET:/ping", "status_code": 200},
            {"request_id": f"1700000000,{n:032x}", "execution_time": 0.001},
        )
        for n in range(POINTS)
    ]


def as_record(point: MonitoringPoint, resource: Resource) -> ReadWriteLogRecord:
    record = LogRecord(
        timestamp=int(point.time * 1e9),
        body=point.series,
        attributes={**point.tags, **point.fields},
    )
    return ReadWriteLogRecord(record, resource)


async def rate(one_pass: Pass) -> float:
    """Repeat passes for a round's time; return points per second."""
    passes = 0
    gc.collect()
    begun = time.perf_counter()
    while (taken := time.perf_counter() - begun) < SECONDS or not passes:
        await one_pass()
        passes += 1
    return passes * POINTS / taken


async def settled(ledger: Ledger) -> None:
    while ledger.queued or ledger.in_flight:
        await trio.lowlevel.checkpoint()


async def compare(settings: Settings) -> None:
    points = make_points()
    lists = [points[n : n + LIST] for n in range(0, POINTS, LIST)]
    singles = [[point] for point in points]
    resource = Resource.create({})
    records = [as_record(point, resource) for point in points]
    gc.freeze()

    host = Host(settings, load_plugins(settings))
    exporter = NullExporter()
    processor = BatchLogRecordProcessor(
        exporter, max_queue_size=POINTS, max_export_batch_size=BATCH, schedule_delay_millis=1000
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        while host.not_ready():
            await trio.sleep(0.01)
        delivery = next(iter(host.lives["nothing"].deliveries.values()))
        ledger = delivery.ledger

        def publishing(items: list[list[MonitoringPoint]]) -> Pass:
            step = YIELD // len(items[0])

            async def one_pass() -> None:
                publish = host.publish
                for begin in range(0, len(items), step):
                    for item in items[begin : begin + step]:
                        publish("monitoring_event", item)
                    await trio.lowlevel.checkpoint()
                await settled(ledger)

            return one_pass

        async def emitting() -> None:
            emit = processor.on_emit
            for record in records:
                emit(record)
            processor.force_flush()

        passes: dict[str, Pass] = {
            "opentelemetry": emitting,
            f"lists of {LIST}": publishing(lists),
            "one at a time": publishing(singles),
        }
        for one_pass in passes.values():
            await one_pass()
        before = exporter.exported, ledger.delivered
        rates: dict[str, list[float]] = {name: [] for name in passes}
        for _ in range(ROUNDS):
            for name, one_pass in passes.items():
                rates[name].append(await rate(one_pass))
        exported = exporter.exported - before[0]
        delivered = ledger.delivered - before[1]
        host.request_stop("the measurement is over")
    processor.shutdown()
    report(rates)
    if ledger.lost or not ledger.balanced or exported % POINTS or delivered % POINTS:
        print(f"NOT EVERYTHING ARRIVED: {ledger.as_dict()}; opentelemetry exported {exported}")
    else:
        print(f"nothing was dropped: {delivered} points delivered, {exported} records exported")


def report(rates: dict[str, list[float]]) -> None:
    goals = {f"lists of {LIST}": (1e6, "; goal >= 5"), "one at a time": (1e5, "")}
    for name, seen in rates.items():
        goal = f"; goal >= {goals[name][0]:,.0f}" if name in goals else ""
        print(
            f"{name:14} {median(seen):10,.0f} points/s"
            f"  (min {min(seen):,.0f}, max {max(seen):,.0f}){goal}"
        )
    for name, (_, goal) in goals.items():
        ratios = [b / a for a, b in zip(rates["opentelemetry"], rates[name], strict=True)]
        print(
            f"ratio {name}/opentelemetry: median {median(ratios):.2f}"
            f" (min {min(ratios):.2f}, max {max(ratios):.2f}){goal}"
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        plugins = Path(directory, "plugins")
        plugins.mkdir()
        (plugins / "nothing.py").write_text(PLUGIN)
        settings = Settings(
            active_plugins=("nothing",),
            plugins_dir=(plugins,),
            state_dir=Path(directory, "state"),
            plugins={"nothing": PluginSettings(buffer_limit=2 * POINTS, batch_size=BATCH)},
        )
        trio.run(compare, settings)


if __name__ == "__main__":
    main()
