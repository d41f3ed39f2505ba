"""What it costs to bring points from `publish()` to plugins, and to keep them on disk meanwhile.

Five figures; all of them, or those that are named on the command line. The sides of each take turns;
figures are medians, with the least and the most.

throughput
    Points per second to a plugin that does nothing, in lists of 100 and one at a time, against the
    batching of OpenTelemetry (`BatchLogRecordProcessor` with an exporter that does nothing) and of
    influxdb-client (`WriteApi` with its default kind of batching; its transport is replaced by one that
    answers at once). Both take records one at a time, and get them ready made: log records, and lines of
    bytes. Everybody delivers 1,000 at once, has room for all points of a pass, and is timed until the
    last one is delivered. Goals: lists of 100 at least 10 times each of them.
spool
    The same with a spool on disk, against memory, while the plugin keeps up. Goal: at least 0.3. And
    points per second onto the disk while the receiver is away.
restart
    Time from the start of `lva run` until /readyz says yes, with 1,000,000 points in the spool, and with
    none. Goal: below 2 s.
stalled
    Points per second to a plugin that makes JSON of them, the least that any sink does, beside one that
    never returns, against the same plugin alone. Goal: at least 0.95. The same with a plugin that does
    nothing at all, where each subscriber shows. And the growth of memory while 10,000,000 points flood
    the one that never returns, whose bound is 10,000 points.
requests
    Requests per second of the whole service with four sinks (history, file, webhook, influx, the last
    two to a collector on this machine) against none. Goal: at least 0.95. And the service's CPU time for a
    request, worker threads included, which a busy machine disturbs less.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
import trio
from http_throughput import PLUGIN as PING
from influxdb_client import InfluxDBClient, WriteOptions
from load import run_load, serving
from many_plugins import resident
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import ReadWriteLogRecord
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
)
from opentelemetry.sdk.resources import Resource

from lva import MonitoringPoint
from lva.host.delivery.ledger import Ledger
from lva.host.delivery.spool_file import Row, SpoolFile
from lva.host.host import Host
from lva.host.loading.load import load_plugins
from lva.settings import PluginSettings, Settings

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "1"))
FLOOD = int(os.environ.get("BENCH_FLOOD", "10_000_000"))
SPOOLED = int(os.environ.get("BENCH_SPOOLED", "1_000_000"))
POINTS = 100_000  # in one pass; a round repeats passes until its time is over
LIST = 100
BATCH = 1000
#: For longer than this, in seconds, points do not gather before the sinks send them.
GATHERING = 1.2
#: The producer lets others run after this many points.
YIELD = 1000

SINK = """
import trio

from lva import BaseEventPlugin, RetryLaterError

class Sink(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        {body}
"""
NOTHING = SINK.format(body="pass")
ENCODING = "import json\n" + SINK.format(
    body="json.dumps([(p.series, p.time, p.tags, p.fields) for p in points])"
)
STALLED = SINK.format(body="await trio.sleep_forever()")
AWAY = SINK.format(body="raise RetryLaterError('away', after=3600)")

Pass = Callable[[], Awaitable[None]]
Rates = dict[str, list[float]]


def make_points(count: int = POINTS) -> list[MonitoringPoint]:
    return [make_point(n) for n in range(count)]


def make_point(n: int) -> MonitoringPoint:
    return MonitoringPoint(
        "requests",
        1_700_000_000.0 + n,
        {"service": "luna-video-agent", "route": "GET:/ping", "status_code": 200},
        {"request_id": f"1700000000,{n:032x}", "execution_time": 0.001},
    )


@asynccontextmanager
async def running(plugins: dict[str, tuple[str, dict[str, Any]]]) -> AsyncIterator[Host]:
    """Run plugins, given by their sources and tables, in a host."""
    with tempfile.TemporaryDirectory() as directory:
        settings = settings_for(Path(directory), plugins)
        host = Host(settings, load_plugins(settings))
        async with trio.open_nursery() as nursery:
            await nursery.start(host.run)
            while host.not_ready():
                await trio.sleep(0.01)
            yield host
            host.stop.request("the measurement is over")


def settings_for(directory: Path, plugins: dict[str, tuple[str, dict[str, Any]]]) -> Settings:
    (directory / "plugins").mkdir()
    for name, (source, _) in plugins.items():
        (directory / "plugins" / f"{name}.py").write_text(source)
    return Settings(
        active_plugins=tuple(plugins),
        plugins_dir=(directory / "plugins",),
        state_dir=directory / "state",
        shutdown_timeout=5,
        plugins={name: PluginSettings(**table) for name, (_, table) in plugins.items()},
    )


def ledger_of(host: Host, name: str) -> Ledger:
    (delivery,) = host.lives[name].deliveries.values()
    return delivery.ledger


def publishing(host: Host, sink: str, items: Sequence[Sequence[MonitoringPoint]]) -> Pass:
    """Return a pass that publishes the lists and waits until the sink has got all of them."""
    step = max(1, YIELD // len(items[0]))
    ledger = ledger_of(host, sink)

    async def one_pass() -> None:
        publish = host.publisher.publish
        for begin in range(0, len(items), step):
            for item in items[begin : begin + step]:
                publish("monitoring_event", item)
            await trio.lowlevel.checkpoint()
        while ledger.queued or ledger.in_flight:
            await trio.lowlevel.checkpoint()

    return one_pass


async def rate(one_pass: Pass) -> float:
    """Repeat passes for a round's time; return points per second."""
    passes = 0
    gc.collect()
    begun = time.perf_counter()
    while (taken := time.perf_counter() - begun) < SECONDS or not passes:
        await one_pass()
        passes += 1
    return passes * POINTS / taken


async def in_turns(passes: dict[str, Pass]) -> Rates:
    """Measure each pass once in every round, after one that does not count."""
    for one_pass in passes.values():
        await one_pass()
    rates: Rates = {name: [] for name in passes}
    for _ in range(ROUNDS):
        for name, one_pass in passes.items():
            rates[name].append(await rate(one_pass))
    return rates


def report(rates: Rates, unit: str = "points/s") -> None:
    for name, seen in rates.items():
        print(
            f"  {name:28} {median(seen):12,.0f} {unit}  (min {min(seen):,.0f}, max {max(seen):,.0f})"
        )


def compare(rates: Rates, one: str, other: str, goal: str = "") -> None:
    ratios = [a / b for a, b in zip(rates[one], rates[other], strict=True)]
    print(
        f"  {one} / {other}: median {median(ratios):.3g}"
        f" (min {min(ratios):.3g}, max {max(ratios):.3g}){f'; goal >= {goal}' if goal else ''}"
    )


# Throughput


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


def as_record(point: MonitoringPoint, resource: Resource) -> ReadWriteLogRecord:
    record = LogRecord(
        timestamp=int(point.time * 1e9),
        body=point.series,
        attributes={**point.tags, **point.fields},
    )
    return ReadWriteLogRecord(record, resource)


def as_line(point: MonitoringPoint) -> bytes:
    """Return line protocol; nothing in these points needs escaping."""
    tags = "".join(f",{name}={value}" for name, value in point.tags.items())
    fields = ",".join(f"{name}={json.dumps(value)}" for name, value in point.fields.items())
    return f"{point.series}{tags} {fields} {int(point.time * 1e9)}".encode()


class NullWriteService:
    """Takes batches in place of the HTTP service of influxdb-client."""

    def __init__(self) -> None:
        self.written = 0

    def post_write(self, body: bytes, **_: Any) -> None:
        self.written += body.count(b"\n") + 1


async def throughput() -> None:
    points = make_points()
    lists = [points[n : n + LIST] for n in range(0, POINTS, LIST)]
    singles = [[point] for point in points]
    resource = Resource.create({})
    records = [as_record(point, resource) for point in points]
    lines = [as_line(point) for point in points]
    gc.freeze()
    exporter, service = NullExporter(), NullWriteService()
    processor = BatchLogRecordProcessor(
        exporter, max_queue_size=POINTS, max_export_batch_size=BATCH, schedule_delay_millis=1000
    )
    client = InfluxDBClient("http://127.0.0.1:9", token="-", org="-")
    writer = client.write_api(write_options=WriteOptions(batch_size=BATCH, flush_interval=1000))
    writer._write_service = service

    async def emitting() -> None:
        emit = processor.on_emit
        for record in records:
            emit(record)
        processor.force_flush()

    async def writing() -> None:
        goal = service.written + POINTS
        for begin in range(0, POINTS, LIST):
            writer.write("bucket", record=lines[begin : begin + LIST])
        while service.written < goal:
            time.sleep(0.0005)

    async with running({"sink": (NOTHING, {"buffer_limit": 2 * POINTS})}) as host:
        ledger = ledger_of(host, "sink")
        rates = await in_turns(
            {
                "OpenTelemetry": emitting,
                "influxdb-client": writing,
                f"lists of {LIST}": publishing(host, "sink", lists),
                "one at a time": publishing(host, "sink", singles),
            }
        )
    processor.shutdown()
    writer.close()
    report(rates)
    for other in ("OpenTelemetry", "influxdb-client"):
        compare(rates, f"lists of {LIST}", other, "10")
        compare(rates, "one at a time", other)
    if ledger.lost or not ledger.balanced or exporter.exported % POINTS or service.written % POINTS:
        print(f"  NOT EVERYTHING ARRIVED: {ledger}, {exporter.exported}, {service.written}")


# Spool


async def spool() -> None:
    points = make_points()
    lists = [points[n : n + LIST] for n in range(0, POINTS, LIST)]
    gc.freeze()
    table = {"buffer_limit": 2 * POINTS}
    async with (
        running({"memory": (NOTHING, table)}) as memory,
        running({"disk": (NOTHING, {**table, "spool": "disk"})}) as disk,
    ):
        rates = await in_turns(
            {
                "memory": publishing(memory, "memory", lists),
                "disk": publishing(disk, "disk", lists),
            }
        )
        for host, name in ((memory, "memory"), (disk, "disk")):
            if ledger_of(host, name).lost or not ledger_of(host, name).balanced:
                print(f"  NOT EVERYTHING ARRIVED: {name}: {ledger_of(host, name)}")
    report(rates)
    compare(rates, "disk", "memory", "0.3")
    written: Rates = {"onto the disk, receiver away": [], "bytes of a point": []}
    for _ in range(ROUNDS):
        async with running({"away": (AWAY, {**table, "spool": "disk"})}) as host:
            (delivery,) = host.lives["away"].deliveries.values()
            mailbox: Any = delivery.mailbox
            begun = time.perf_counter()
            for item in lists:
                host.publisher.publish("monitoring_event", item)
                await trio.lowlevel.checkpoint()
            while mailbox._writer.outstanding() or mailbox._writer.writing.locked():
                await trio.sleep(0.001)
            written["onto the disk, receiver away"].append(POINTS / (time.perf_counter() - begun))
            written["bytes of a point"].append(mailbox.stored_bytes / POINTS)
            if delivery.ledger.lost:
                print(f"  NOT EVERYTHING WAS WRITTEN: {delivery.ledger}")
    report({"onto the disk, receiver away": written["onto the disk, receiver away"]})
    report({"bytes of a point": written["bytes of a point"]}, "bytes")


# Restart


async def restart() -> None:
    times: Rates = {f"{SPOOLED:,} points spooled": [], "none": []}
    opened = []
    for _ in range(ROUNDS):
        for name, seen in times.items():
            with tempfile.TemporaryDirectory() as directory:
                settings = settings_for(Path(directory), {"away": (AWAY, {"spool": "disk"})})
                path = settings.state_dir / "spool" / "away.Sink.sqlite3"
                if name != "none":
                    fill(path)
                    opened.append(time_to_open(path))
                seen.append(time_until_ready(Path(directory)))
    report({name: [1000 * s for s in seen] for name, seen in times.items()}, "ms until ready")
    report({"opening the file alone": [1000 * s for s in opened]}, "ms")
    print("  goal: below 2,000 ms")


def fill(path: Path) -> None:
    points = make_points(1000)
    file = SpoolFile(path)
    for first in range(1, SPOOLED // 1000 + 1, 100):
        file.commit([Row(n, time.time(), points) for n in range(first, first + 100)], [])
    file.close()


def time_to_open(path: Path) -> float:
    begun = time.perf_counter()
    SpoolFile(path).close()
    return time.perf_counter() - begun


def time_until_ready(directory: Path) -> float:
    command = [sys.executable, "-m", "lva", "run", "--bind", "127.0.0.1:5344", "--plugins-dir"]
    command += [str(directory / "plugins"), "--active", "away"]
    env = {
        **os.environ,
        "LUNA_VIDEO_AGENT_STATE_DIR": str(directory / "state"),
        "LUNA_VIDEO_AGENT_PLUGINS__AWAY__SPOOL": "disk",
        "LUNA_VIDEO_AGENT_PLUGINS__AWAY__SPOOL_BYTES": str(1 << 40),
    }
    begun = time.perf_counter()
    child = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(trust_env=False) as client:
            while True:
                try:
                    if client.get("http://127.0.0.1:5344/readyz").status_code == 200:
                        return time.perf_counter() - begun
                except httpx.HTTPError:
                    pass
                time.sleep(0.005)
    finally:
        child.kill()
        child.wait()


# Stalled


async def stalled() -> None:
    points = make_points()
    lists = [points[n : n + LIST] for n in range(0, POINTS, LIST)]
    gc.freeze()
    table = {"buffer_limit": 2 * POINTS}
    stuck = (STALLED, {"handle_timeout": 86_400})
    async with (
        running({"encoding": (ENCODING, table)}) as alone,
        running({"encoding_beside_stuck": (ENCODING, table), "stuck": stuck}) as beside,
        running({"nothing": (NOTHING, table)}) as alone_nothing,
        running({"nothing_beside_stuck": (NOTHING, table), "stuck_too": stuck}) as beside_nothing,
    ):
        hosts = {
            "encoding": alone,
            "encoding_beside_stuck": beside,
            "nothing": alone_nothing,
            "nothing_beside_stuck": beside_nothing,
        }
        rates = await in_turns(
            {name: publishing(host, name, lists) for name, host in hosts.items()}
        )
        report(rates)
        compare(rates, "encoding_beside_stuck", "encoding", "0.95")
        compare(rates, "nothing_beside_stuck", "nothing")
        await flood(beside_nothing, "stuck_too")


async def flood(host: Host, stuck: str) -> None:
    """Publish many new points, and look how far memory grows."""
    gc.collect()
    before = most = resident()
    for n in range(0, FLOOD, LIST):
        host.publisher.publish("monitoring_event", [make_point(n + i) for i in range(LIST)])
        await trio.lowlevel.checkpoint()
        if n % 100_000 == 0:
            most = max(most, resident())
    ledger = ledger_of(host, stuck)
    print(
        f"  {FLOOD:,} points: {ledger.lost:,} dropped, {ledger.queued:,} waiting; memory grew by"
        f" {(most - before) / 2**20:.1f} MiB at most"
    )
    if not ledger.balanced or ledger.queued > 10_000:
        print(f"  NOT WITHIN BOUNDS: {ledger}")


# Requests

COLLECTOR = """
import asyncio, sys

async def serve(reader, writer):
    while True:
        try:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
        except asyncio.IncompleteReadError:
            return
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\\r\\n")[1:-2])
        if fields.get(b"expect") == b"100-continue":
            writer.write(b"HTTP/1.1 100 Continue\\r\\n\\r\\n")
        if b"content-length" in fields:
            await reader.readexactly(int(fields[b"content-length"]))
        else:
            while (size := int(await reader.readline(), 16)):
                await reader.readexactly(size + 2)
            await reader.readline()
        writer.write(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), limit=1 << 20)
    await server.serve_forever()

asyncio.run(main())
"""

SINKS = """
active_plugins = ["ping", "history", "file", "webhook", "influx"]

[plugins.webhook.config]
url = "http://127.0.0.1:5349/hook"

[plugins.influx.config]
url = "http://127.0.0.1:5349"
bucket = "b"
org = "o"
token = "long-enough"
"""


@contextmanager
def service(directory: Path, name: str, toml: str, port: int) -> Iterator[psutil.Process]:
    config = directory / f"{name}.toml"
    config.write_text(toml)
    config.chmod(0o600)
    command = [sys.executable, "-m", "lva", "run", "--bind", f"127.0.0.1:{port}"]
    command += ["--config", str(config), "--plugins-dir", str(directory / "plugins")]
    command += ["--log-level", "WARNING"]
    with serving(command, port, LUNA_VIDEO_AGENT_STATE_DIR=str(directory / name)) as child:
        yield psutil.Process(child.pid)


def requests() -> None:
    rates: Rates = {"no sink": [], "four sinks": []}
    costs: Rates = {"no sink": [], "four sinks": []}
    ports = {"no sink": 5345, "four sinks": 5346}
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        (directory / "plugins").mkdir()
        (directory / "plugins" / "ping.py").write_text(PING)
        collector = subprocess.Popen([sys.executable, "-c", COLLECTOR, "5349"])
        try:
            with (
                service(directory, "none", "active_plugins = ['ping']", ports["no sink"]) as none,
                service(directory, "four", SINKS, ports["four sinks"]) as four,
            ):
                children = {"no sink": none, "four sinks": four}
                for _ in range(ROUNDS):
                    for name, port in ports.items():
                        # What gathers is on its way from the beginning, and is no concern of the other.
                        before = processor_time(children[name])
                        run_up = run_load(port, "/ping", GATHERING)
                        measured = run_load(port, "/ping", 3 * SECONDS)
                        time.sleep(GATHERING)
                        used = processor_time(children[name]) - before
                        rates[name].append(measured.rate)
                        costs[name].append(1e6 * used / (run_up.requests + measured.requests))
                url = f"http://127.0.0.1:{ports['four sinks']}/plugins"
                for plugin in httpx.get(url, trust_env=False).json()["plugins"]:
                    if (ledger := plugin.get("ledger")) is not None:
                        said = {key: ledger[key] for key in ("accepted", "delivered", "dropped")}
                        print(f"  {plugin['name']}: {said}")
        finally:
            collector.kill()
            collector.wait()
    report(rates, "requests/s")
    compare(rates, "four sinks", "no sink", "0.95")
    report(costs, "us of CPU for a request")
    compare(costs, "four sinks", "no sink")


def processor_time(child: psutil.Process) -> float:
    times = child.cpu_times()
    return times.user + times.system


FIGURES: dict[str, Callable[[], Any]] = {
    "throughput": lambda: trio.run(throughput),
    "spool": lambda: trio.run(spool),
    "restart": lambda: trio.run(restart),
    "stalled": lambda: trio.run(stalled),
    "requests": requests,
}


def main() -> None:
    logging.disable(logging.WARNING)  # what fails on purpose
    for name in sys.argv[1:] or FIGURES:
        print(f"{name}:", flush=True)
        if len(sys.argv) == 2:
            FIGURES[name]()
        else:  # each in a process of its own: what one leaves in memory is no concern of the next
            subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    main()
