"""A scrape of /metrics with 100 plugins: how long the event loop is held, and the whole.

Half of the plugins are background plugins, half take points. The scrape goes through the plugin's own
handler, not over HTTP. "Held" is what it takes on the event loop to take everything as of one moment: no
other plugin and no request runs meanwhile. The text is then written in a worker thread. Requests on 100
routes with two status codes each have been counted.

Goals: held below 10 ms, the whole below 0.5 s; at one scrape in 15 s that is 3 % of a core.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import trio
from werkzeug.datastructures import Headers, MultiDict

from lva import MonitoringPoint
from lva.app import SWITCH_INTERVAL
from lva.host.host import Host
from lva.host.loading.load import load_plugins
from lva.settings import Settings

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "20"))
PLUGINS = int(os.environ.get("BENCH_PLUGINS", "100"))

BACKGROUND = """
import trio

from lva import BaseBackgroundPlugin

class P{number}(BaseBackgroundPlugin):
    async def start(self):
        self.nursery.start_soon(trio.sleep_forever)
        await trio.sleep_forever()
"""
EVENT = """
from lva import BaseEventPlugin

class P{number}(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        pass
"""


def requests() -> list[MonitoringPoint]:
    """Return points of requests on 100 routes, with two status codes each."""
    return [
        MonitoringPoint(
            "requests",
            1.0,
            {"service": "luna-video-agent", "route": f"GET:/cameras/{n}", "status_code": status},
            {"request_id": "x", "execution_time": 0.001 * n},
        )
        for n in range(100)
        for status in (200, 404)
    ]


async def measure(directory: Path) -> None:
    names = []
    for number in range(PLUGINS):
        source = EVENT if number % 2 else BACKGROUND
        path = directory / f"p{number}.py"
        path.write_text(source.format(number=number))
        path.chmod(0o644)
        names.append(f"p{number}")
    settings = Settings(
        active_plugins=("prometheus", *names),
        plugins_dir=(directory,),
        state_dir=directory / "state",
    )
    host = Host(settings, load_plugins(settings))
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        while host.not_ready():
            await trio.sleep(0.01)
        for _ in range(10):
            host.publisher.publish("monitoring_event", requests())
            await trio.sleep(0.01)
        plugin = next(iter(host.lives["prometheus"]._instances.members.values()))
        wholes, helds = [], []
        for accept in ("", "application/openmetrics-text;version=1.0.0"):
            request = SimpleNamespace(headers=Headers({"Accept": accept}), args=MultiDict())
            for _ in range(ROUNDS):
                begun = time.perf_counter()
                answer = await plugin.metrics(request)
                wholes.append(time.perf_counter() - begun)
                begun = time.perf_counter()
                plugin._tally.copy()
                plugin.app.plugins()
                helds.append(time.perf_counter() - begun)
        samples = sum(not line.startswith(b"#") for line in answer.body.splitlines())
        print(f"{PLUGINS} plugins: {samples} samples, {len(answer.body) / 1024:.0f} KiB")
        for what, seen, goal in (("held", helds, 10), ("whole", wholes, 500)):
            print(
                f"{what:6} median {median(seen) * 1e3:.1f} ms (min {min(seen) * 1e3:.1f},"
                f" max {max(seen) * 1e3:.1f}); goal < {goal}"
            )
        host.stop.request("the measurement is over")


def main() -> None:
    sys.setswitchinterval(SWITCH_INTERVAL)  # as the service does
    with tempfile.TemporaryDirectory() as directory:
        trio.run(measure, Path(directory))


if __name__ == "__main__":
    main()
