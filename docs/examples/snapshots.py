"""Blocking work: a loop in a worker thread that ends when the plugin is stopped."""

import time

import trio

from lva import BaseBackgroundPlugin, PluginApp


class Snapshots(BaseBackgroundPlugin):
    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)  # runs in a worker thread: a slow import or a file may be read here
        self.taken = 0

    async def initialize(self) -> None:
        self.taken = 0

    async def start(self) -> None:
        # Without abandon_on_cancel the host waits for the thread, which looks for the stop itself.
        await trio.to_thread.run_sync(self.take_snapshots)

    def take_snapshots(self) -> None:
        while True:
            trio.from_thread.check_cancelled()  # raises once the plugin is being stopped
            time.sleep(0.05)  # stands for a call of a library that blocks
            self.taken += 1
