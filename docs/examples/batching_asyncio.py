"""`batching_example` in asyncio style: points are passed on with a future in place of a Trio event."""

import asyncio
import logging
import time
from collections.abc import Sequence

import httpx
from pydantic import BaseModel, Field

from lva import (
    BaseBackgroundPlugin,
    BaseEventPlugin,
    MonitoringPoint,
    PluginApp,
    RetryLaterError,
)


class Config(BaseModel):
    """`[plugins.batching_asyncio.config]`."""

    url: str = "http://127.0.0.1:5020/1/points"
    interval: float = Field(10.0, gt=0, description="Longest pause between two lists, in seconds.")
    timeout: float = Field(3.0, gt=0, description="Limit on one HTTP request, in seconds.")


Parcel = tuple[Sequence[MonitoringPoint], asyncio.Future[None]]


class Outbox:
    """What the two classes share. Both run on the file's event loop, so no lock is needed."""

    def __init__(self) -> None:
        self.parcels: list[Parcel] = []
        self.filled = asyncio.Event()

    async def send(self, points: Sequence[MonitoringPoint]) -> None:
        """Hand points over; return once they are sent, or raise what sending them raised."""
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.parcels.append((points, sent))
        self.filled.set()
        await sent  # when this is cancelled, so is the future

    def take(self) -> list[Parcel]:
        """Return what was passed on since the last time, but for what was cancelled."""
        parcels, self.parcels = self.parcels, []
        self.filled.clear()
        return [(points, sent) for points, sent in parcels if not sent.done()]


#: One instance of each class lives in the process, so a module's variable is where they meet.
outbox = Outbox()


class BatchCollector(BaseEventPlugin):
    """The event side."""

    runtime = "asyncio"
    eventName = "monitoring_event"
    # The batch's window is the host's, which ends it early when the service stops.
    host_settings = {"flush_interval": 1.0}

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        await outbox.send(points)


class BatchSender(BaseBackgroundPlugin):
    """The background side."""

    runtime = "asyncio"
    Config = Config

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self.client: httpx.AsyncClient | None = None
        self.task: asyncio.Task[None] | None = None
        self.reached = False
        self.sent = 0

    async def initialize(self) -> None:
        self.client = httpx.AsyncClient(timeout=self.config.timeout, trust_env=False)
        await self.post(
            []
        )  # raises while the collector is unreachable: then the host tries again later

    async def start(self) -> None:
        # A task of its own, so that close() can end it before it takes the connection away.
        self.task = asyncio.create_task(self.work())

    async def work(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.config.interval):
                    await outbox.filled.wait()
            except TimeoutError:
                pass  # a sign of life is due
            await self.flush()

    async def flush(self) -> None:
        """Send what was passed on, and report the outcome to those who wait."""
        parcels = outbox.take()
        error: Exception | None = None
        try:
            await self.post([point for points, _ in parcels for point in points])
        except Exception as failure:  # noqa: BLE001 - whatever it is, it is reported to those who wait
            error = failure
        for _, sent in parcels:
            if sent.done():
                continue  # cancelled meanwhile: the host sends the points again
            if error is None:
                sent.set_result(None)
            else:
                sent.set_exception(error)
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
            async with asyncio.timeout(self.config.timeout):
                reply = await self.client.post(self.config.url, json=documents)
        except (httpx.TransportError, TimeoutError) as error:
            raise RetryLaterError(f"the collector does not respond: {error!r}") from error
        if reply.is_server_error:
            raise RetryLaterError(f"the collector responded with {reply.status_code}")
        reply.raise_for_status()
        self.reached = True
        self.sent += len(points)

    async def close(self) -> None:
        # Every point was sent or went back to the host. The task still runs: close() comes first.
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
            self.task = None
        if self.client is None:
            return
        try:
            if self.reached:
                await self.post([])  # the last count
        finally:
            await self.client.aclose()
            self.client = None
