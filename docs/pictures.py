"""Takes the pictures of the documentation: ``python docs/pictures.py [MINUTES]``, twelve unless given.

A real service runs with plugins that have trouble on purpose and gets requests for so long; Debian's Chromium
takes pictures of it. Needs the extra ``test``, and port 5240.
"""

from __future__ import annotations

import contextlib
import math
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
URL = "http://127.0.0.1:5240"

PLUGINS = {
    "cameras": '''
import random

import trio
from lva import BaseBackgroundPlugin
from werkzeug.exceptions import NotFound


class Cameras(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/cameras/<int:camera>", self.frame)

    async def frame(self, request, camera):
        """The newest frame of a camera."""
        await trio.sleep(random.expovariate(200))
        if camera > 95:
            raise NotFound(f"There is no camera {camera}.")
        if camera == 7:
            raise OSError("camera 7 does not respond")
        return {"camera": camera}
''',
    "detector": """
import random

import trio
from lva import BaseBackgroundPlugin


class Detector(BaseBackgroundPlugin):
    async def start(self):
        for _ in range(random.randint(100, 300)):
            sum(range(100_000))
            await trio.sleep(0.2)
        raise RuntimeError("the model gave no result")
""",
    "warehouse": """
import random
import time

import trio
from lva import BaseEventPlugin, PermanentDeliveryError


class Warehouse(BaseEventPlugin):
    eventName = "monitoring_event"
    host_settings = {"series": ["requests"], "max_attempts": 1, "circuit_failures": 1000}

    async def handleEvent(self, points, logger):
        await trio.sleep(random.expovariate(100))
        chance = random.random()
        if chance < 0.01:
            time.sleep(0.18)
        if chance > 0.985:
            raise PermanentDeliveryError("the warehouse does not know this shelf")
        if chance > 0.97:
            raise OSError("the warehouse is busy")
""",
    "alerts": """
from lva import BaseEventPlugin


class Alerts(BaseEventPlugin):
    eventName = "monitoring_event"
    host_settings = {"series": ["requests"], "buffer_limit": 8000}

    async def initialize(self):
        raise ConnectionRefusedError("no response from the pager at 10.1.2.3:8443")

    async def handleEvent(self, points, logger):
        pass
""",
}
SETTINGS = """
plugins_dir = ["plugins"]
active_plugins = [
    "history", "resource_monitor", "prometheus", "cameras", "warehouse", "detector", "alerts", "streams",
    "motion",
]

[plugins.detector]
max_restarts = 100
backoff_initial = 20
backoff_max = 60

[plugins.alerts]
max_restarts = 100
backoff_initial = 120
backoff_max = 300
"""


#: The streams, with what becomes of each.
STREAMS = [
    {"name": "front door", "source": "test:testsrc2?rate=10&size=640x360", "analytics": [{"name": "motion"}]},
    {"name": "gate", "source": "test:smptebars?rate=5&size=640x360"},
    {"name": "yard", "source": "rtsp://viewer:secret@127.0.0.1:9/1"},
    {"name": "hall", "source": "test:testsrc?rate=10&size=640x360", "rate": {"unit": "fps", "value": 5},
     "roi": {"x": 120, "y": 60, "width": 400, "height": 240}, "analytics": [{"name": "motion"}]},
    {"name": "dock", "source": "test:rgbtestsrc?rate=5&seconds=60", "eof_retry": {"delay": 600}},
    {"name": "lift", "source": "test:testsrc?rate=5&size=320x240"},
]  # fmt: skip


def streams(client: httpx.Client) -> None:
    """Make the streams; look at one that ends, and stop another."""
    for stream in STREAMS:
        client.post("/streams", json=stream).raise_for_status()
    time.sleep(50)
    for name in ("dock", "lift"):
        client.get(f"/streams/{name}/preview.jpg?size=480&quality=60")
    client.patch("/streams/lift", json={"action": "stop"})


def requests(over: threading.Event) -> None:
    """Send requests, at a rate that rises and falls, to existing cameras and to others."""
    begin = time.monotonic()
    with httpx.Client(base_url=URL, trust_env=False) as client:
        while not over.is_set():
            passed = time.monotonic() - begin
            client.get(f"/cameras/{random.randint(1, 100)}")
            rate = 20 + 12 * math.sin(passed / 60) + 6 * math.sin(passed / 23)
            time.sleep(random.expovariate(rate))


def take(page: Page, path: str, name: str, height: int) -> None:
    """Photograph what stands in a window of this height, once it stands."""
    page.goto(URL + path)
    page.wait_for_timeout(4000)  # the next two events, and pictures
    page.screenshot(
        path=IMAGES / name, clip={"x": 0, "y": 0, "width": width(page), "height": height}
    )


def width(page: Page) -> int:
    """Return the width of a page's window."""
    assert page.viewport_size is not None
    return page.viewport_size["width"]


def wait_for_service() -> None:
    """Wait until the service has streams; a minute at most."""
    for _ in range(240):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{URL}/streams", trust_env=False).is_success:
                return
        time.sleep(0.25)
    raise TimeoutError("the service has no streams")


def stream_id(name: str) -> str:
    """Return the id of a stream."""
    return str(httpx.get(f"{URL}/streams/{name}", trust_env=False).json()["stream_id"])


def pictures(browser: Browser) -> None:
    """Take all of them."""
    desk = browser.new_page(viewport={"width": 1200, "height": 1400}, color_scheme="light")
    take(desk, "/", "console.png", 1010)
    dark = browser.new_page(viewport={"width": 1200, "height": 1400}, color_scheme="dark")
    take(dark, "/#/plugins/warehouse", "console-plugin.png", 930)
    phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="light")
    take(phone, "/", "console-phone.png", 844)
    take(desk, "/console/streams", "console-streams.png", 800)
    take(dark, f"/console/streams#/{stream_id('front door')}", "console-stream.png", 900)
    api = browser.new_page(viewport={"width": 1080, "height": 620}, color_scheme="light")
    api.goto(f"{URL}/docs")
    restart = api.locator("details", has_text="/plugins/{name}/restart").first
    restart.evaluate(
        "node => { node.open = true; node.scrollIntoView(); window.scrollBy(0, -180); }"
    )
    api.screenshot(path=IMAGES / "api-docs.png")


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 12.0
    with tempfile.TemporaryDirectory(prefix="lva-") as place:
        root = Path(place)
        (root / "plugins").mkdir()
        for name, text in PLUGINS.items():
            (root / "plugins" / f"{name}.py").write_text(text.lstrip())
        (root / "lva.toml").write_text(f'state_dir = "{place}/state"\n{SETTINGS}')
        with (root / "log").open("w") as log:
            service = subprocess.Popen(
                ["lva", "run", "--config", "lva.toml"], cwd=place, stderr=log
            )
        wait_for_service()
        over = threading.Event()
        traffic = threading.Thread(target=requests, args=(over,))
        traffic.start()
        try:
            end = time.monotonic() + 60 * minutes
            with httpx.Client(base_url=URL, trust_env=False) as client:
                streams(client)
            time.sleep(max(0.0, end - time.monotonic()))
            with sync_playwright() as playwright:
                chromium = shutil.which("chromium")
                pictures(
                    playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                )
        finally:
            over.set()
            traffic.join()
            service.terminate()
            service.wait()


if __name__ == "__main__":
    main()
