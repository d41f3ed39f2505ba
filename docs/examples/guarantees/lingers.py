"""G12: this plugin never returns, nor does what it starts; neither outlives the stream or the service."""

import subprocess
import time

from lva import BaseAnalyticsPlugin
from lva.video.frame import Frame


class Lingers(BaseAnalyticsPlugin):
    def handleFrame(self, frame: Frame) -> None:
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        time.sleep(600)
