"""G3: a background plugin stops before the event plugins, so they get its last words."""

import time

from lva import BaseBackgroundPlugin, MonitoringPoint


class Farewell(BaseBackgroundPlugin):
    async def close(self) -> None:
        point = MonitoringPoint("farewell", time.time(), tags={}, fields={"said": "goodbye"})
        self.app.publish("monitoring_event", [point])
