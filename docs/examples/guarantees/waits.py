"""G4: a close() that waits for ever is cut short after `close_timeout`."""

import trio

from lva import BaseBackgroundPlugin


class Waits(BaseBackgroundPlugin):
    async def close(self) -> None:
        await trio.sleep_forever()  # stands for a server that never responds
