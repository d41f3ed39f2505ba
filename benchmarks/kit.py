"""How long the checks of `lva.testing` take.

The limit: `check_plugin` on a typical plugin takes under a second.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

from lva.testing import contract
from lva.testing.report import Report

LIMIT = 1.0
ROUNDS = 5

BACKGROUND = """
import trio
from lva import BaseBackgroundPlugin, MonitoringPoint

class Pump(BaseBackgroundPlugin):
    async def initialize(self):
        self.strokes = 0
        self.addRoute("/pump", self.get)
        await trio.sleep(0.1)

    async def get(self, request):
        return {"strokes": self.strokes}

    async def start(self):
        while True:
            await trio.sleep(1)
            self.strokes += 1
            point = MonitoringPoint("pump", trio.current_time(), {}, {"strokes": self.strokes})
            self.app.publish("monitoring_event", [point])

    async def close(self):
        await trio.sleep(0.1)
"""
SINK = """
import httpx
from lva import BaseEventPlugin

class Sink(BaseEventPlugin):
    eventName = "monitoring_event"
    client = None

    async def initialize(self):
        self.client = httpx.AsyncClient(trust_env=False)

    async def handleEvent(self, points, logger):
        documents = [{"tags": point.tags, "fields": point.fields} for point in points]
        (await self.client.post(self.config["url"], json=documents)).raise_for_status()

    async def close(self):
        if self.client is not None:
            await self.client.aclose()
            self.client = None
"""
ASYNCIO = """
import asyncio
from lva import BaseBackgroundPlugin

class Pump(BaseBackgroundPlugin):
    runtime = "asyncio"
    task = None

    async def initialize(self):
        await asyncio.sleep(0.1)

    async def start(self):
        self.task = asyncio.create_task(self.work())

    async def work(self):
        while True:
            await asyncio.sleep(1)

    async def close(self):
        if self.task is not None:
            self.task.cancel()
"""


def url(world: object) -> dict[str, str]:
    return {"url": getattr(world, "url", "")}


CASES: dict[str, Callable[[], Report]] = {
    "check_plugin, a background plugin with a route": lambda: contract.check_plugin(BACKGROUND),
    "check_plugin, an HTTP sink": lambda: contract.check_plugin(SINK, url),
    "check_plugin, an asyncio-style plugin": lambda: contract.check_plugin(ASYNCIO),
    "check_event_contract, an HTTP sink": lambda: contract.check_event_contract(SINK, config=url),
}


def main() -> int:
    """Print the figures; return whether one is over the limit."""
    late = False
    print(f"median and worst of {ROUNDS} rounds, in seconds")
    for name, check in CASES.items():
        reports = [check().raise_if_failed() for _ in range(ROUNDS)]
        seconds = [report.seconds for report in reports]
        median = statistics.median(seconds)
        over = name.startswith("check_plugin") and median > LIMIT
        late = late or over
        print(
            f"{name:50} {len(reports[0].steps):3} steps  {median:6.3f}  {max(seconds):6.3f}"
            f"{'  over the limit' if over else ''}"
        )
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
