"""G2: what one plugin gets wrong is its own affair: it is logged once, and restarted."""

from typing import Any

import trio

from lva import BaseBackgroundPlugin


class Divides(BaseBackgroundPlugin):
    async def initialize(self) -> None:
        self.addRoute("/divides", self.show)

    async def start(self) -> None:
        await trio.sleep(10)
        print(1 / 0)

    async def show(self, request: Any) -> str:
        return "not yet"
