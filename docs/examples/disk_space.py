"""A background plugin: measures the free disk space and publishes it as points of its own."""

import shutil
import time

import trio
from pydantic import BaseModel, Field
from trio_util import periodic

from lva import BaseBackgroundPlugin, MonitoringPoint


class Config(BaseModel):
    """`[plugins.disk_space.config]`."""

    path: str = "/"
    interval: float = Field(10.0, gt=0, description="Seconds between two measurements.")


class DiskSpace(BaseBackgroundPlugin):
    Config = Config

    async def start(self) -> None:
        async for _ in periodic(self.config.interval):
            # A disk that hangs blocks this worker thread, not the service.
            usage = await trio.to_thread.run_sync(
                shutil.disk_usage, self.config.path, abandon_on_cancel=True
            )
            point = MonitoringPoint(
                "disk", time.time(), tags={"path": self.config.path}, fields={"free": usage.free}
            )
            self.app.publish("monitoring_event", [point])
