"""A periodic job: measures how long a server takes to respond, and publishes it."""

import time

import trio
from pydantic import BaseModel, Field

from lva import BaseBackgroundPlugin, MonitoringPoint


class Config(BaseModel):
    """`[plugins.heartbeat.config]`."""

    host: str = "127.0.0.1"
    port: int = 5240
    interval: float = Field(30.0, gt=0, description="Seconds from one measurement to the next.")
    timeout: float = Field(5.0, gt=0, description="Most seconds for one of them.")


class Heartbeat(BaseBackgroundPlugin):
    Config = Config

    async def start(self) -> None:
        beat = trio.current_time()
        while True:  # the host cancels it at the stop
            await self.measure()
            beat += self.config.interval  # keeps time, however long a round takes
            await trio.sleep_until(beat)

    async def measure(self) -> None:
        began = trio.current_time()
        up = 0
        # One server that hangs or refuses is no crash of the plugin: it is what is measured.
        with trio.move_on_after(self.config.timeout):
            try:
                stream = await trio.open_tcp_stream(self.config.host, self.config.port)
                await stream.aclose()
                up = 1
            except OSError as error:
                self.logger.warning("no response: %s", error)
        fields = {"up": up, "seconds": trio.current_time() - began}
        point = MonitoringPoint("heartbeat", time.time(), {"host": self.config.host}, fields)
        self.app.publish("monitoring_event", [point])
