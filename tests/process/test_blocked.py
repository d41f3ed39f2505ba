"""What plugins block besides the service's event loop: their own, and worker threads that serve requests."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process.scene import ASYNCIO_STYLE
from tests.support import ServiceProcess, write_plugin

pytestmark = pytest.mark.process

#: Each waits for its gate, which somebody else opens.
WAYS = """
import threading
from collections import defaultdict

gates = defaultdict(threading.Event)


def spin(name):
    while not gates[name].is_set():
        pass


def sleep(name):
    gates[name].wait(600)
"""

OWN_LOOP = """
from . import ways


class Culprit(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute(f"/{self.config['name']}/task", self.begin)
        self.addRoute(f"/{self.config['name']}/thread", self.in_thread)

    async def begin(self, request):
        self.task = asyncio.create_task(self.work())
        return pluginHTTPResponse(body="begun")

    async def work(self):
        await asyncio.sleep(0.01)
        getattr(ways, self.config["how"])(self.config["name"])

    async def in_thread(self, request):
        await asyncio.to_thread(self.call)
        return pluginHTTPResponse(body="done")

    def call(self):
        getattr(ways, self.config["how"])(self.config["name"])
"""

HANDLERS = """
from . import ways


class Handlers(BaseBackgroundPlugin):
    async def initialize(self):
        self.how, self.name = self.config["how"], self.config["name"]
        self.addRoute(f"/{self.name}/plain", self.plain)
        self.addRoute(f"/{self.name}/pieces", self.pieces)
        self.addRoute(f"/{self.name}/in_thread", self.in_thread)

    async def start(self):
        # No client waits for this one.
        await trio.to_thread.run_sync(ways.gates["service"].wait, abandon_on_cancel=True)

    def plain(self, request):
        self.call()
        return "done"

    async def pieces(self, request):
        def produce():
            yield b"one"
            self.call()
            yield b"two"

        return produce()

    async def in_thread(self, request):
        await trio.to_thread.run_sync(self.call)
        return "done"

    def call(self):
        getattr(ways, self.how)(self.name)
"""

KEYS = """
from . import ways


class Keys(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/open/<name>", self.open)

    async def open(self, request, name):
        ways.gates[name].set()
        return "open"
"""

#: By plugin: its source, how it blocks, which route makes it, what is blocked, and the function in question.
CULPRITS = {
    "spinning": (OWN_LOOP, "spin", "task", "its own event loop", "work"),
    "sleeping": (OWN_LOOP, "sleep", "task", "its own event loop", "work"),
    "handing": (OWN_LOOP, "sleep", "thread", "a worker thread of a request", "call"),
    "plainly": (HANDLERS, "spin", "plain", "a worker thread of a request", "call"),
    "piecemeal": (HANDLERS, "sleep", "pieces", "a worker thread of a request", "call"),
    "elsewhere": (HANDLERS, "sleep", "in_thread", "a worker thread of a request", "call"),
}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    plugins = tmp_path / "plugins"
    write_plugin(plugins, "ways", WAYS)
    write_plugin(plugins, "keys", KEYS)
    toml = "loop_block_unready = 0.5\n"
    for name, (source, how, *_) in CULPRITS.items():
        style = {"preamble": ASYNCIO_STYLE} if source is OWN_LOOP else {}
        write_plugin(plugins, name, source, **style)
        toml += f'[plugins.{name}.config]\nname = "{name}"\nhow = "{how}"\n'
    with ServiceProcess(tmp_path, [*CULPRITS, "keys"], toml) as process:
        yield process.wait_until_ready()


def reasons(service: ServiceProcess) -> dict[str, str]:
    found: dict[str, str] = service.get("/readyz").json().get("reasons", {})
    return found


def test_what_plugins_block_for_long_is_named_and_makes_the_service_not_ready(
    service: ServiceProcess, subtests: Any
) -> None:
    """Kind: every loop and thread that runs plugin code; none blocked for ever is "running" and "ready"."""
    with ThreadPoolExecutor() as clients:
        for name, (_, _, route, *_) in CULPRITS.items():
            clients.submit(
                httpx.get,
                f"{service.url}/{name}/{route}",
                timeout=60,
                trust_env=False,
                verify=False,
            )
        service.wait_until(lambda: reasons(service).keys() == CULPRITS.keys())
        why = reasons(service)
        statuses = {name: service.plugin(name) for name in CULPRITS}
        for name in [*CULPRITS, "service"]:
            service.get(f"/open/{name}")
    service.wait_until(lambda: service.get("/readyz").status_code == 200)
    for name, (_, how, _, what, function) in CULPRITS.items():
        with subtests.test(name):
            assert why[name].startswith(f"blocked: {what} for ")
            loop = statuses[name]["loop"]
            assert statuses[name]["state"] == "running"
            assert (loop["blocks"], loop["blocked_for"] >= 0.5) == (1, True)
            place = loop["last_block"]["where"]
            assert f"/{name}.py:" in place
            assert place.endswith(f" in {function}")
            assert why[name].endswith(place)
            assert any(line.endswith(f" in {how}") for line in loop["last_block"]["stack"])
            assert service.plugin(name)["loop"]["blocked_for"] is None
            told = [item for item in service.records if item.get("plugin") == name]
            said = [item for item in told if f"blocked {what} for " in item["message"]]
            assert {item["level"] for item in said} == {"WARNING"}
            assert all(place in item["message"] for item in said)
