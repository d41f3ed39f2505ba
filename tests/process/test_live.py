"""Live changes of the real service: over HTTP, with signals, and by saving files."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.process.moments import LONG
from tests.process.traffic import Traffic
from tests.support import ServiceProcess, write_plugin

pytestmark = pytest.mark.process

TOKEN = "t0ken-that-is-long-enough"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PLUGIN = """
    VERSION = {version}

    class P(BaseEventPlugin, BaseBackgroundPlugin):
        eventName = "monitoring_event"

        async def initialize(self):
            self.addRoute("/p", lambda request: str(VERSION))

        async def handleEvent(self, points, logger):
            await trio.sleep(0)
"""
#: Counts the classes of `p` that are still in memory.
PROBE = """
    import gc
    import sys
    import weakref

    class Probe(BaseBackgroundPlugin):
        async def initialize(self):
            self.seen = []
            self.addRoute("/probe", self.probe)
            self.addRoute("/collected", self.collected)

        async def collected(self, request):
            gc.collect()  # what a request under way kept from the collection after a reload
            return await self.probe(request)

        async def probe(self, request):
            cls = sys.modules["lva_plugins.p"].P
            if not any(ref() is cls for ref in self.seen):
                self.seen.append(weakref.ref(cls))
            return str(sum(ref() is not None for ref in self.seen))
"""
SLOW = """
    class P(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            pass

        async def close(self):
            await trio.sleep(0.7)
"""


@pytest.mark.soak
def test_reloads_leave_neither_memory_nor_modules_nor_threads(tmp_path: Path) -> None:
    """What the service has loaded at its start, it keeps from the garbage collector: until it is replaced."""
    reloads = 200 if LONG else 24
    write_plugin(tmp_path / "plugins", "p", PLUGIN.format(version=0))
    write_plugin(tmp_path / "plugins", "probe", PROBE)
    with ServiceProcess(tmp_path, ["p", "probe"]) as service:
        service.wait_until_ready()
        process = psutil.Process(service.process.pid)
        with (
            Traffic(service, ["/p", "/livez"]) as traffic,
            httpx.Client(base_url=service.url, trust_env=False, verify=False, timeout=20) as client,
        ):
            assert client.get("/probe").text == "1"
            for number in range(1, reloads + 1):
                write_plugin(tmp_path / "plugins", "p", PLUGIN.format(version=number))
                while (answer := client.post("/plugins/p/reload")).status_code == 429:
                    time.sleep(0.2)
                assert answer.status_code == 200, answer.text
                assert client.get("/p").text == str(number)
                client.get("/probe")
                if number == reloads // 3:
                    before = process.memory_info().rss
                    threads = process.num_threads()
            traffic.wait_for_more(5)
            # Only the class that runs is there.
            service.wait_until(lambda: client.get("/collected").text == "1")
            assert process.memory_info().rss - before < 3_000_000
            assert process.num_threads() <= threads + 2
        assert traffic.errors == []
        assert {answer.status for answer in traffic.answers.values()} == {200}
        assert service.stop() == 0
    part = service.receipt_of("p")
    assert (part["lives"], part["abandoned"], part["restarts"]) == (reloads + 1, 0, 0)
    assert part["points"]["delivered"] == part["points"]["accepted"] > 0


def test_sigterm_in_the_middle_of_a_reload(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path, {"p": SLOW}) as service:
        service.wait_until_ready()
        answers: list[int] = []

        def act() -> None:
            answers.append(service.request("POST", "/plugins/p/reload", timeout=20).status_code)

        thread = threading.Thread(target=act)
        thread.start()
        service.wait_for("running -> stopping")
        code = service.stop()
        thread.join(20)
    part = service.receipt_of("p")
    assert part["state"] == "stopped"
    points = part["points"]
    assert (part["lives"], points["dropped"]) == (2, {}), "the next life delivered what was waiting"
    assert points["queued"] == points["in_flight"] == 0
    assert points["accepted"] == points["delivered"]
    assert (code, answers) == (0, [200])


def test_saving_a_file_reloads_it(tmp_path: Path) -> None:
    plugins = {"p": PLUGIN.format(version=1)}
    with ServiceProcess(tmp_path, plugins, arguments=["--watch"]) as service:
        service.wait_until_ready()
        write_plugin(tmp_path / "plugins", "p", PLUGIN.format(version=2))
        service.wait_until(lambda: service.get("/p").text == "2")
        assert service.stop() == 0
    assert service.receipt_of("p")["lives"] == 2


def test_elsewhere_than_on_loopback_a_token_is_needed(tmp_path: Path) -> None:
    everywhere = {"LUNA_VIDEO_AGENT_BIND": "0.0.0.0:0"}
    with ServiceProcess(tmp_path, {"p": PLUGIN.format(version=1)}, env=everywhere) as service:
        service.wait_until_ready()
        answer = service.request("POST", "/plugins/p/stop", headers=BEARER)
        assert (answer.status_code, answer.json()["error_code"]) == (403, "admin_token_not_set")
        assert service.plugin("p")["file"] is None
    env = {**everywhere, "LUNA_VIDEO_AGENT_ADMIN_TOKEN": TOKEN}
    with ServiceProcess(tmp_path, {"p": PLUGIN.format(version=1)}, env=env) as service:
        service.wait_until_ready()
        assert service.request("POST", "/plugins/p/stop").status_code == 401
        assert service.request("POST", "/plugins/p/stop", headers=BEARER).status_code == 200
        assert service.get("/readyz").json()["stopped"] == ["p"]
        assert service.get("/plugins/p", headers=BEARER).json()["file"]
        service.stop()
        assert TOKEN not in service.output
    (record,) = [item for item in service.records if item.get("action")]
    assert record["logger"] == "lva.admin"
    assert {key: record[key] for key in ("client", "action", "target", "outcome")} == {
        "client": "127.0.0.1", "action": "stop", "target": "p", "outcome": "done",
    }  # fmt: skip
    assert record["request_id"]


def test_through_a_unix_socket_no_token_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "lva.sock"
    with ServiceProcess(
        tmp_path, {"p": PLUGIN.format(version=1)}, env={"LUNA_VIDEO_AGENT_BIND": f"unix:{path}"}
    ) as service:
        service.wait_for("listening on")
        service.wait_until_ready()
        answer = service.request("POST", "/plugins/p/restart")
        assert (answer.status_code, answer.json()["lives"]) == (200, 2)
        refused = service.request("POST", "/plugins/p/stop", headers={"Origin": "http://x"})
        assert refused.status_code == 403
        assert service.stop() == 0
    assert [item["client"] for item in service.records if item.get("action")] == ["unix"]
