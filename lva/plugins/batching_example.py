"""The documented pair: an event plugin and a background plugin that send points in batches together.

The event side hands its points over and waits until they are sent, so that the host's ledger stays exact.
The background side has the connection: it sends what was passed on and, every so often, a sign of life.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import httpx
import trio
from pydantic import BaseModel, Field

from lva import (
    BaseBackgroundPlugin,
    BaseEventPlugin,
    MonitoringPoint,
    PluginApp,
    RetryLaterError,
)


class Config(BaseModel):
    """`[plugins.batching_example.config]`."""

    url: str = Field(
        "http://127.0.0.1:5020/1/points", description="Where lists of points are posted to."
    )
    interval: float = Field(
        10.0,
        gt=0,
        description="Longest pause between two lists, in seconds: when no points come, a list goes"
        " out with only the plugin's own point, as a sign of life.",
    )
    timeout: float = Field(
        3.0,
        gt=0,
        description="Limit on one HTTP request, in seconds; less than close_timeout, and than half"
        " of handle_timeout.",
    )


class Parcel:
    """The points of one `handleEvent` call, and what became of them."""

    def __init__(self, points: Sequence[MonitoringPoint]) -> None:
        self.points = points
        self.settled: trio.Event = trio.Event()
        self.error: Exception | None = None


class Outbox:
    """What the two classes share. Both run on the service's event loop, so no lock is needed."""

    def __init__(self) -> None:
        self.parcels: list[Parcel] = []
        self.filled: trio.Event = trio.Event()

    async def send(self, points: Sequence[MonitoringPoint]) -> None:
        """Hand points over; return once they are sent, or raise what sending them raised."""
        parcel = Parcel(points)
        self.parcels.append(parcel)
        self.filled.set()
        try:
            await parcel.settled.wait()
        finally:
            if parcel in self.parcels:
                self.parcels.remove(parcel)  # cancelled before it was sent: the host has the points
        if parcel.error is not None:
            raise parcel.error

    def take(self) -> list[Parcel]:
        """Return what was passed on since the last time."""
        parcels, self.parcels = self.parcels, []
        self.filled = trio.Event()
        return parcels


#: One instance of each class lives in the process, so a module's variable is where they meet.
outbox: Outbox = Outbox()


class BatchCollector(BaseEventPlugin):
    """The event side."""

    eventName = "monitoring_event"
    # The batch's window is the host's, which ends it early when the service stops.
    host_settings: ClassVar[Mapping[str, Any]] = {"flush_interval": 1.0}

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        await outbox.send(points)


class BatchSender(BaseBackgroundPlugin):
    """The background side."""

    Config: ClassVar[type[BaseModel] | None] = Config

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self.client: httpx.AsyncClient | None = None
        self.reached: bool = False
        self.sent: int = 0

    async def initialize(self) -> None:
        self.client = httpx.AsyncClient(timeout=self.config.timeout, trust_env=False)
        await self.post(
            []
        )  # raises while the collector is unreachable: then the host tries again later

    async def start(self) -> None:
        while True:
            with trio.move_on_after(self.config.interval):
                await outbox.filled.wait()
            await self.flush()

    async def flush(self) -> None:
        """Send what was passed on, and report the outcome to those who wait."""
        parcels = outbox.take()
        error: Exception | None = None
        try:
            await self.post([point for parcel in parcels for point in parcel.points])
        except Exception as failure:  # noqa: BLE001 - whatever it is, those who wait are told
            error = failure
        for parcel in parcels:
            parcel.error = error
            parcel.settled.set()
        if error is not None and not parcels:  # else the host logs it
            self.logger.warning("no sign of life could be sent: %r", error)

    async def post(self, points: Sequence[MonitoringPoint]) -> None:
        """Post one list: the points, and one about the traffic itself.

        Raises:
            RetryLaterError: The collector is unreachable, for which the points are not to blame.
            httpx.HTTPStatusError: It refused the list.
        """
        assert self.client is not None
        self.reached = False
        own = MonitoringPoint("batches", time.time(), {}, {"sent": self.sent + len(points)})
        documents = [
            {"series": p.series, "time": p.time, "tags": p.tags, "fields": p.fields}
            for p in (*points, own)
        ]
        try:  # httpx limits each step of a request, not the whole
            with trio.fail_after(self.config.timeout):
                reply = await self.client.post(self.config.url, json=documents)
        except (httpx.TransportError, trio.TooSlowError) as error:
            raise RetryLaterError(f"the collector does not respond: {error!r}") from error
        if reply.is_server_error:
            raise RetryLaterError(f"the collector responded with {reply.status_code}")
        reply.raise_for_status()
        self.reached = True
        self.sent += len(points)

    async def close(self) -> None:
        # By now no task of the plugin runs, and every point was sent or went back to the host.
        if self.client is None:
            return
        try:
            if self.reached:
                await self.post([])  # the last count
        finally:
            await self.client.aclose()
            self.client = None
