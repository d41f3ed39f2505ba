"""G7: a thread that is leaked is found and named."""

import threading

from lva import BaseBackgroundPlugin

enough = threading.Event()


class Pump(BaseBackgroundPlugin):
    async def start(self) -> None:
        threading.Thread(target=self.pump, name="pump", daemon=True).start()

    def pump(self) -> None:
        enough.wait()  # which close() should set, and does not
