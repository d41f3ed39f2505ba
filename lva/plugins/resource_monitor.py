"""Publishes what the service itself uses, as points: processor, memory, threads, files, tasks, loop lag.

The loop lag is how late the event loop wakes a task that sleeps, which is how long everything else on it
waits, too. It is sampled `1 / PERIOD` times a second, which costs next to nothing; see `Lag`.
"""

import time
from collections.abc import Callable, Mapping
from typing import ClassVar, Final

import psutil
import trio
from pydantic import BaseModel, Field

from lva import BaseBackgroundPlugin, MonitoringPoint

SERVICE: Final = "luna-video-agent"
#: About how often the loop's lag is sampled, in seconds.
PERIOD: Final = 0.2
#: What the system is asked for each time, by the name of the field.
READINGS: Final[Mapping[str, Callable[[psutil.Process], int]]] = {
    "rss_bytes": lambda process: int(process.memory_info().rss),
    "threads": lambda process: int(process.num_threads()),
    "open_files": lambda process: int(process.num_fds()),
}


class Config(BaseModel):
    """`[plugins.resource_monitor.config]`."""

    interval: float = Field(
        15.0,
        ge=0.1,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds between two measurements.",
    )


class ResourceMonitor(BaseBackgroundPlugin):
    """Publishes one point of the series `resources`, and one of `plugin_tasks` for each plugin."""

    Config: ClassVar[type[BaseModel] | None] = Config

    async def initialize(self) -> None:
        self._unreadable: set[str] = set()

    async def start(self) -> None:
        interval = self.config.interval
        ticks = max(1, round(interval / PERIOD))  # of the sampling, between two measurements
        lag = Lag(interval / ticks)
        measured, cpu = trio.current_time(), time.process_time()
        begun = measured
        tick, report = 0, ticks
        while True:
            due = begun + (tick + 1) * lag.period
            await trio.sleep_until(due)
            now = trio.current_time()
            tick += lag.note(now - due)
            if tick >= report:
                used = time.process_time()
                share = (used - cpu) / (now - measured)
                self._publish({"cpu_share": share, **lag.take(), **self._read()})
                measured, cpu = now, used
                report = tick - tick % ticks + ticks

    def _publish(self, fields: Mapping[str, int | float]) -> None:
        at = time.time()
        points = [MonitoringPoint("resources", at, {"service": SERVICE}, fields)]
        points += [
            MonitoringPoint(
                "plugin_tasks", at, {"service": SERVICE, "plugin": status["name"]}, status["tasks"]
            )
            for status in self.app.plugins()
        ]
        self.app.publish("monitoring_event", points)

    def _read(self) -> dict[str, int]:
        """Ask the system; leave out what it does not tell.

        Takes a tenth of a millisecond, and one for 900 open files: a thread would not be worth it.
        """
        fields = {}
        for name, read in READINGS.items():
            try:
                fields[name] = read(psutil.Process())
            except Exception as error:  # noqa: BLE001 - /proc may be missing, closed, or hold anything
                self._note_unreadable(name, error)
        return fields

    def _note_unreadable(self, name: str, error: Exception) -> None:
        if name not in self._unreadable:
            self._unreadable.add(name)
            why = f"{type(error).__name__}: {error}"
            self.logger.warning("%s is left out, the system does not tell it: %s", name, why)


class Lag:
    """How late a task was woken that wants to be woken regularly.

    When the loop was blocked for long, the times at which it should have been woken meanwhile count, too,
    each with what was left to wait then. Otherwise one long wait would be one sample among many short
    ones, while most of what wanted to run at that time had to wait.

    Args:
        period: How often it wants to be woken, in seconds.
    """

    def __init__(self, period: float) -> None:
        self.period: float = period
        self._max = 0.0
        self._sum = 0.0
        self._count = 0

    def note(self, late: float) -> int:
        """Note that the task was woken so many seconds late; return how many times have come since."""
        late = max(0.0, late)
        missed = int(late / self.period)
        self._max = max(self._max, late)
        self._sum += (missed + 1) * late - self.period * missed * (missed + 1) / 2
        self._count += missed + 1
        return missed + 1

    def take(self) -> dict[str, float]:
        """Return the longest and the mean since the last time, in seconds, as a point's fields."""
        seen = {"loop_lag_max": self._max, "loop_lag_mean": self._sum / max(1, self._count)}
        self._max, self._sum, self._count = 0.0, 0.0, 0
        return seen
