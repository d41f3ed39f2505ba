"""Batching with a partner: one class takes the points, the other has the connection and writes them."""

import logging
from pathlib import Path

import trio
from pydantic import BaseModel

from lva import BaseBackgroundPlugin, BaseEventPlugin, MonitoringPoint


class Config(BaseModel):
    """`[plugins.partners.config]`."""

    path: Path


class Batch:
    """Points on their way from one class to the other, and what became of them."""

    def __init__(self, points: list[MonitoringPoint]) -> None:
        self.points = points
        self.done = trio.Event()
        self.error: Exception | None = None


class Writer(BaseBackgroundPlugin):
    """Owns the file. Defined first, so it is initialized first and closed last."""

    Config = Config

    async def initialize(self) -> None:
        # Made anew for each attempt. No room in it: the points wait in the host, which counts them.
        global send_batch
        send_batch, self.batches = trio.open_memory_channel[Batch](0)

    async def start(self) -> None:
        async with await trio.open_file(self.config.path, "a") as file:
            async for batch in self.batches:
                try:
                    await file.write("".join(f"{p.series} {p.fields}\n" for p in batch.points))
                    await file.flush()
                except OSError as error:
                    batch.error = error
                batch.done.set()


class Taker(BaseEventPlugin):
    """Takes points from the host, and returns only once they are written."""

    eventName = "monitoring_event"
    host_settings = {"batch_size": 1000, "flush_interval": 1.0}

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        batch = Batch(points)
        await send_batch.send(batch)
        await batch.done.wait()
        if batch.error is not None:
            raise batch.error  # the host hands these points over again


send_batch: trio.MemorySendChannel[Batch]
