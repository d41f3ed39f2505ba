"""G8: as long as this plugin does not run, the service is not ready, and says why."""

from lva import BaseBackgroundPlugin


class Gone(BaseBackgroundPlugin):
    async def initialize(self) -> None:
        raise OSError("camera gone")
