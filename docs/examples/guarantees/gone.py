"""G8: as long as this plugin is not running, the service is not ready, and says why."""

from lva import BaseBackgroundPlugin


class Gone(BaseBackgroundPlugin):
    async def initialize(self) -> None:
        raise OSError("camera gone")
