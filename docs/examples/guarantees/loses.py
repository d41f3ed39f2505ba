"""G6: a task that fails is noticed, although nobody waits for it."""

import trio

from lva import BaseBackgroundPlugin


class Loses(BaseBackgroundPlugin):
    async def start(self) -> None:
        self.nursery.start_soon(self.listen)  # and start() returns

    async def listen(self) -> None:
        await trio.sleep(10)
        raise ConnectionResetError("the connection is lost")
