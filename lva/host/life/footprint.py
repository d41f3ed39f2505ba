"""How it is told what belongs to a plugin: its name, its file, and what its runtime knows."""

from __future__ import annotations

from typing import Protocol

from lva.host.loading.load import LoadedPlugin
from lva.host.runtimes.loop import LoopThread


class Footprint(Protocol):
    """One life of a plugin, as those see it who look for its tasks and threads.

    Attributes:
        name: The plugin's name.
        loaded: Its file, module and runtime.
    """

    name: str
    loaded: LoadedPlugin

    def left_running(self) -> tuple[list[str], list[str]]:
        """Name the tasks and threads of its runtime that have not ended, once nothing more is tried."""

    def loop_thread(self) -> LoopThread | None:
        """Return the thread of its asyncio loop, while it has one. Any thread may call."""
