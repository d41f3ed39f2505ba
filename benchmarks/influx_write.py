"""Points per second, and CPU time per point, into a VictoriaMetrics that this starts for itself.

The shipped plugin `influx`, loaded and run by the real host in this process, against the batching writer
of the `influxdb_client` package. Both get the same points, made beforehand in each one's own type, in
lists of 100, write batches of the same size to the same server over `/api/v2/write`, and are timed until
the server has taken the last batch; in turns, with and without compression. CPU time is this process's.
Afterwards the server is asked how many points it holds.

Goals: at least 3 times the points per second, with less CPU time per point.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
import trio
from influxdb_client import InfluxDBClient, Point, WriteOptions

from lva import MonitoringPoint
from lva.app import SWITCH_INTERVAL
from lva.host.host import Host
from lva.host.loading.load import load_plugins
from lva.settings import PluginSettings, Settings

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
POINTS = int(os.environ.get("BENCH_POINTS", "100000"))
LIST = 100
BATCH = 2000
ROUTES = ("GET:/ping", "GET:/cameras/<int:camera>", "POST:/events", "GET:*")
START = 1_700_000_000.0


def contents(run: str, count: int) -> Iterator[tuple[dict[str, str | int], dict[str, str | float]]]:
    """Yield tags and fields like those of the service's own points."""
    for n in range(count):
        yield (
            {
                "service": "luna-video-agent",
                "route": ROUTES[n % 4],
                "status_code": 200,
                "run": run,
            },
            {"request_id": f"1700000000,{n:032x}", "execution_time": 0.001234},
        )


@contextmanager
def victoria_metrics(directory: Path) -> Iterator[str]:
    """Run a server with its data below a directory; yield its URL."""
    program = shutil.which("victoria-metrics") or shutil.which("victoria-metrics-prod")
    if program is None:
        sys.exit("this benchmark needs victoria-metrics in the PATH")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [program, f"-storageDataPath={directory / 'data'}", f"-httpListenAddr={address}"]
    command += ["-retentionPeriod=100y", "-memory.allowedPercent=20"]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        url = f"http://{address}"
        for _ in range(500):
            try:
                if httpx.get(f"{url}/health", trust_env=False).is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.02)
        yield url
    finally:
        process.terminate()
        process.wait()


def stored(url: str, run: str) -> int:
    """Return how many points of a run the server holds."""
    httpx.get(f"{url}/internal/force_flush", trust_env=False)
    match = f'{{__name__="requests_execution_time",run="{run}"}}'
    export = httpx.get(
        f"{url}/api/v1/export", params={"match[]": match}, timeout=60, trust_env=False
    )
    return sum(len(json.loads(line)["values"]) for line in export.text.split("\n") if line)


def client_pass(url: str, run: str, count: int, compress: bool) -> tuple[float, float]:
    """Write through influxdb_client; return seconds and CPU seconds."""
    points = []
    for n, (tags, fields) in enumerate(contents(run, count)):
        point = Point("requests").time(int((START + n / 1000) * 1e9))
        for key, tag in tags.items():
            point.tag(key, tag)
        for key, field in fields.items():
            point.field(key, field)
        points.append(point)
    lists = [points[n : n + LIST] for n in range(0, count, LIST)]
    taken = 0
    all_taken = threading.Event()

    def on_success(_: object, data: bytes | str) -> None:
        nonlocal taken
        taken += data.count(b"\n" if isinstance(data, bytes) else "\n") + 1
        if taken >= count:
            all_taken.set()

    with InfluxDBClient(url, token="none", org="org", enable_gzip=compress) as client:
        writer = client.write_api(WriteOptions(batch_size=BATCH), success_callback=on_success)
        gc.collect()
        begun, cpu = time.perf_counter(), time.process_time()
        for item in lists:
            writer.write("bucket", record=item)
        all_taken.wait(600)
        spent = time.perf_counter() - begun, time.process_time() - cpu
        writer.close()
    return spent


async def host_pass(url: str, run: str, count: int, compress: bool) -> tuple[float, float]:
    """Write through the host; return seconds and CPU seconds."""
    points = [
        MonitoringPoint("requests", START + n / 1000, tags, fields)
        for n, (tags, fields) in enumerate(contents(run, count))
    ]
    lists = [points[n : n + LIST] for n in range(0, count, LIST)]
    config = {"url": url, "bucket": "bucket", "org": "org", "gzip": compress}
    table = PluginSettings(buffer_limit=count, batch_size=BATCH, config=config)
    settings = Settings(
        active_plugins=("influx",), state_dir=Path("/nonexistent"), plugins={"influx": table}
    )
    host = Host(settings, load_plugins(settings))
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        while host.not_ready():
            await trio.sleep(0.01)
        ledger = next(iter(host.lives["influx"].deliveries.values())).ledger
        gc.collect()
        begun, cpu = time.perf_counter(), time.process_time()
        for number, item in enumerate(lists):
            host.publisher.publish("monitoring_event", item)
            if number % 10 == 9:  # the producer lets others run
                await trio.lowlevel.checkpoint()
        while ledger.queued or ledger.in_flight:
            await trio.sleep(0.001)
        spent = time.perf_counter() - begun, time.process_time() - cpu
        host.stop.request("the measurement is over")
    if ledger.delivered != count:
        print(f"NOT EVERYTHING ARRIVED: {ledger.as_dict()}")
    return spent


def spread(seen: list[float], form: str) -> str:
    return f"{median(seen):{form}} (min {min(seen):{form}}, max {max(seen):{form}})"


def main() -> None:
    sys.setswitchinterval(SWITCH_INTERVAL)  # as the service does
    gc.set_threshold(10_000, 20, 50)
    sides = [(name, compress) for compress in (False, True) for name in ("influxdb_client", "lva")]
    rates: dict[tuple[str, bool], list[float]] = {side: [] for side in sides}
    costs: dict[tuple[str, bool], list[float]] = {side: [] for side in sides}
    missing = 0
    with tempfile.TemporaryDirectory() as directory, victoria_metrics(Path(directory)) as url:
        for number in range(-1, ROUNDS):
            for side in sides:
                name, compress = side
                count = POINTS if number >= 0 else BATCH  # the first round warms up
                run = f"{name}-{compress}-{number}"
                if name == "lva":
                    seconds, cpu = trio.run(host_pass, url, run, count, compress)
                else:
                    seconds, cpu = client_pass(url, run, count, compress)
                missing += count - stored(url, run)
                if number >= 0:
                    rates[side].append(count / seconds)
                    costs[side].append(cpu / count * 1e6)
    for side in sides:
        name = f"{side[0]}, {'gzip' if side[1] else 'plain'}"
        rate, cost = spread(rates[side], ",.0f"), spread(costs[side], ".1f")
        print(f"{name:22} {rate} points/s; CPU {cost} us/point")
    for compress in (False, True):
        theirs, ours = ("influxdb_client", compress), ("lva", compress)
        faster = [b / a for a, b in zip(rates[theirs], rates[ours], strict=True)]
        cheaper = [a / b for a, b in zip(costs[theirs], costs[ours], strict=True)]
        print(
            f"ratio lva/influxdb_client, {'gzip' if compress else 'plain'}:"
            f" points/s {spread(faster, '.1f')}; goal >= 3."
            f" CPU time per point is {spread(cheaper, '.1f')} times less; goal > 1"
        )
    print(f"POINTS MISSING FROM THE SERVER: {missing}" if missing else "every point is stored")


if __name__ == "__main__":
    main()
