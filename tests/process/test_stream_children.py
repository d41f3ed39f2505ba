"""What analytics plugins start: it ends with their worker, and with the service, however that ends."""

from __future__ import annotations

import signal
from typing import Any

import psutil
import pytest

from tests.process.test_streams import gone, until
from tests.support import ServiceProcess, write_plugin

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow("starts the service, workers and their children"),
]

#: Each way to start a process, of which some leave the group, the session, or their parent.
STARTER = """
import os, subprocess, sys
from lva import AnalyticsEvent, BaseAnalyticsPlugin

SLEEP = ["sleep", "600"]
DAEMON = "import subprocess; print(subprocess.Popen(['sleep', '600'], stdout=2, start_new_session=True).pid)"


class Starter(BaseAnalyticsPlugin):
    def handleFrame(self, frame):
        if frame.number > 1:
            return None
        pids = {
            "program": subprocess.Popen(SLEEP).pid,
            "group": subprocess.Popen(SLEEP, process_group=0).pid,
            "session": subprocess.Popen(SLEEP, start_new_session=True).pid,
            "daemon": int(subprocess.check_output([sys.executable, "-c", DAEMON])),
            "fork": os.fork(),
        }
        if self.config:  # what nobody can know as the worker's: one that stays, one that ends later
            for name, seconds in (("unknown", "600"), ("short", "0.1")):
                sleep = ["/bin/sleep", seconds]
                pids[name] = subprocess.Popen(sleep, start_new_session=True, env={}).pid
        if not pids["fork"]:
            while True:
                signal.pause()
        return AnalyticsEvent("started", {"pids": pids})
"""


def started(service: ServiceProcess, name: str, **parameters: bool) -> tuple[str, dict[str, int]]:
    """Return the id of a new stream, and the processes that its analytics plugin started."""
    use = {"name": "starter", "parameters": parameters}
    body = {"name": name, "source": "test:?rate=5", "analytics": [use]}
    stream_id = service.request("POST", "/streams", json=body).json()["stream_id"]
    worker = until(service, stream_id, lambda status: status["events"])["worker"]["pid"]
    (event,) = service.get(f"/streams/{stream_id}/events").json()["events"]
    pids: dict[str, Any] = event["data"]["pids"]
    return stream_id, {**pids, "worker": worker}


def left(pids: dict[str, int], seconds: float = 2.0) -> list[str]:
    return [what for what, pid in pids.items() if not gone(pid, seconds)]


def zombies(service: ServiceProcess) -> list[str]:
    """Return the processes below the service that have ended, and nobody has reaped."""
    below = psutil.Process(service.process.pid).children(recursive=True)
    return [str(each) for each in below if each.status() == psutil.STATUS_ZOMBIE]


def test_what_a_plugin_starts_ends_with_its_worker_and_with_the_service(tmp_path):
    """The kinds are a program, in a group or session of its own, a daemon and a fork; a stop and a kill."""
    write_plugin(tmp_path / "plugins", "starter", STARTER, "import signal\n")
    with ServiceProcess(tmp_path, ["streams", "starter"]) as service:
        service.wait_until_ready()
        stopped, its = started(service, "stopped", unknown=True)
        others = {"unknown": its.pop("unknown")}
        others |= started(service, "other")[1]
        service.request("PATCH", f"/streams/{stopped}", json={"action": "stop"})
        assert not left(its)
        service.wait_until(lambda: not zombies(service))
        assert [what for what, pid in others.items() if gone(pid, 0.01)] == []
        service.signal(signal.SIGKILL)
        service.wait()
        assert not left(others, 1.0)
