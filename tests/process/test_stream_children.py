"""What analytics plugins start: it ends with their worker, and with the service, however that ends."""

from __future__ import annotations

import re
import signal
from typing import Any

import psutil
import pytest

from tests.process.streams import gone, logs, until
from tests.support import ServiceProcess, write_plugin

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow("starts the service, workers and their children"),
]

#: Each way to start a process, of which some leave the group, the session, or their parent.
STARTER = """
import os, signal, subprocess, sys
from lva import AnalyticsEvent, BaseAnalyticsPlugin

SLEEP = ["sleep", "600"]
DAEMON = "import subprocess; print(subprocess.Popen(['sleep', '600'], stdout=2, start_new_session=True).pid)"


def forked(first=lambda: None):
    if pid := os.fork():
        return pid
    first()
    while True:
        signal.pause()

def orphans(count=1, goes_on=True):
    # As daemons do it; neither are the children that are left ours, nor is their session.
    come, gone = os.pipe()
    if not (first := os.fork()):
        os.setsid()
        for _ in range(count):
            if pid := os.fork():
                os.write(gone, b"%d " % pid)
                continue
            while goes_on:
                signal.pause()
            os._exit(0)
        os._exit(0)
    os.waitpid(first, 0)
    pids = [int(pid) for pid in os.read(come, 1000).split()]
    os.close(come)
    os.close(gone)
    return pids

def large():
    global kept
    os.setsid()
    kept = bytearray(os.urandom(1)) * 400_000_000

class Starter(BaseAnalyticsPlugin):
    started = False  # by its first frame, which may be any of the stream

    def handleFrame(self, frame):
        return getattr(self, self.config.get("act", "start"))(frame)

    def start(self, frame):
        if self.started:
            return None
        self.started = True
        pids = {
            "program": subprocess.Popen(SLEEP).pid,
            "group": subprocess.Popen(SLEEP, process_group=0).pid,
            "session": subprocess.Popen(SLEEP, start_new_session=True).pid,
            "daemon": int(subprocess.check_output([sys.executable, "-c", DAEMON])),
            "fork": forked(),
            "session of a fork": forked(os.setsid),
            "orphan": orphans()[0],
            # Nothing in it tells whose it is.
            "unmarked": subprocess.Popen(["/bin/sleep", "600"], start_new_session=True, env={}).pid,
        }
        return AnalyticsEvent("started", {"pids": pids})

    def sessions(self, frame):
        return AnalyticsEvent("started", {"pids": {str(n): forked(os.setsid) for n in range(15)}})

    def orphans(self, frame):
        return AnalyticsEvent("started", {"pids": {str(n): pid for n, pid in enumerate(orphans(15))}})

    def ended(self, frame):
        for _ in range(50):
            os.posix_spawn("/bin/true", ["true"], {})

    def large(self, frame):
        if not self.started:
            self.started = True
            return AnalyticsEvent("started", {"pids": {"large": forked(large)}})

    def short(self, frame):
        for _ in range(3):
            orphans(goes_on=False)
            subprocess.run(["true"])
"""


def post(service: ServiceProcess, name: str, act: str, **more: Any) -> str:
    analytics = [{"name": "starter", "parameters": {"act": act}}]
    body = {"name": name, "source": "test:?rate=10&size=64x64", "analytics": analytics, **more}
    return str(service.request("POST", "/streams", json=body).json()["stream_id"])


def started(service: ServiceProcess, stream_id: str, times: int = 1) -> dict[str, int]:
    """Return the processes that a stream's analytics plugin started the last of so many times."""
    status = until(
        service, stream_id, lambda status: status["events"] >= times and status["worker"]
    )
    event = service.get(f"/streams/{stream_id}/events").json()["events"][0]
    pids: dict[str, Any] = event["data"]["pids"]
    return {**pids, "worker": status["worker"]["pid"]}


def left(pids: dict[str, int], seconds: float = 2.0) -> list[str]:
    return [what for what, pid in pids.items() if not gone(pid, seconds)]


def zombies(service: ServiceProcess) -> list[str]:
    """Return the processes below the service that have ended, and nobody has reaped."""
    below = psutil.Process(service.process.pid).children(recursive=True)
    return [str(each) for each in below if each.status() == psutil.STATUS_ZOMBIE]


def test_what_a_plugin_starts_ends_with_its_worker_and_with_the_service(tmp_path):
    """The kinds are a program, in a group or session of its own, a daemon and forks; a stop and kills."""
    write_plugin(tmp_path / "plugins", "starter", STARTER, "")
    with ServiceProcess(tmp_path, ["streams", "starter"]) as service:
        service.wait_until_ready()
        stopped, other = (post(service, name, "start") for name in ("stopped", "other"))
        its, others = started(service, stopped), started(service, other)
        service.request("PATCH", f"/streams/{stopped}", json={"action": "stop"})
        assert not left(its)
        service.wait_until(lambda: not zombies(service))
        assert [what for what, pid in others.items() if gone(pid, 0.01)] == []
        forks = psutil.Process(others["worker"]).parent()
        forks.kill()  # the process that workers are forked from, and then the one that watches it
        assert not left(others)
        others = started(service, other, 2)
        psutil.Process(others["worker"]).parent().parent().kill()
        assert not left(others)
        others = started(service, other, 3)
        service.signal(signal.SIGKILL)
        service.wait()
        assert not left(others, 1.0)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    path = tmp_path_factory.mktemp("limits")
    write_plugin(path / "plugins", "starter", STARTER, "")
    with ServiceProcess(path, ["streams", "starter"]) as service:
        service.wait_until_ready()
        yield service


LIMITS = {
    "sessions": ("process_limit", r"started \d+ processes, more than 64 at once"),
    "orphans": ("process_limit", r"started \d+ processes, more than 64 at once"),
    "ended": ("process_limit", r"did not wait for \d+ processes that have ended"),
    "large": ("memory_limit", r"more than 300 MiB; \d+ of them of processes"),
}


@pytest.mark.parametrize(
    "acts", [["orphans"], pytest.param(["sessions", "ended", "large"], marks=pytest.mark.soak)]
)
def test_what_a_plugin_starts_is_counted_and_bounded_while_its_stream_runs(service, acts):
    """Kind: processes that leave the worker's session or their parent, and so nobody's account."""
    ids = {act: post(service, act, act, memory_limit=300 * 2**20) for act in acts}
    for act, stream_id in ids.items():
        code, said = LIMITS[act]
        reasons = until_ended(service, stream_id, code)
        assert re.search(said, reasons[0])
        events = service.get(f"/streams/{stream_id}/events").json()["events"]
        service.request("DELETE", f"/streams/{stream_id}")
        for event in events:
            assert not left(event["data"]["pids"])


def until_ended(service: ServiceProcess, stream_id: str, code: str) -> list[str]:
    """Wait until a worker ended with a code; return the reasons."""
    reasons: list[str] = []

    def ended() -> list[str]:
        entries = logs(service, stream_id)
        reasons[:] = [entry["reason"] for entry in entries if entry["code"] == code]
        return reasons

    service.wait_until(ended, 60)
    return reasons


@pytest.mark.soak
def test_what_ends_soon_is_no_matter(service):
    """The kind is a program that is run for each frame, and a daemon whose parent is no more."""
    stream_id = post(service, "short", "short")
    status = until(service, stream_id, lambda status: status["frames"]["analysed"] > 25)
    assert status["input"]["reconnects"] == {}
    below = psutil.Process(status["worker"]["pid"]).children(recursive=True)
    assert len(below) < 60  # of 75 daemons; those of the last second may not be reaped yet
    service.request("DELETE", f"/streams/{stream_id}")
