"""The service is ended at any moment of ten streams: no process is left, no frame is unaccounted for."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.process.moments import LONG, moment
from tests.process.streams import gone, unaccounted
from tests.support import ServiceProcess, write_plugin
from tests.video.faulty_source import FaultySource, faulty_source

pytestmark = pytest.mark.process

MOMENTS = 25 if LONG else 2  # of each of the two kinds

#: It blocks now and then, and starts a process that outlives nothing.
BUSY = """
import subprocess, time
from lva import BaseAnalyticsPlugin


class Busy(BaseAnalyticsPlugin):
    def open(self, stream):
        subprocess.Popen(["sleep", "600"], start_new_session=True)

    def handleFrame(self, frame):
        time.sleep(0.2 if frame.number % 20 == 0 else 0)
"""


def sources(server: FaultySource) -> list[str]:
    """Return ten sources: some live, some that end, some that never say anything."""
    return [
        "test:?rate=25&size=64x48", "test:?rate=25&size=64x48", "test:?rate=25&size=64x48",
        "test:?live=0&seconds=1&size=64x48", "test:?live=0&seconds=3000&size=64x48",
        server.url("good", "rtsp"), server.url("ts/stalls"), server.url("silent", "rtsp"),
        server.url("ts/silent"), "rtsp://127.0.0.1:1/nobody",
    ]  # fmt: skip


def below(service: ServiceProcess) -> set[int]:
    """Return all processes that the service has started."""
    try:
        return {child.pid for child in psutil.Process(service.process.pid).children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


class Storm:
    """The service with ten streams, which are posted while it goes on, and a signal at some moment."""

    def __init__(self, directory: Path, server: FaultySource) -> None:
        write_plugin(directory / "plugins", "busy", BUSY)
        self.service = ServiceProcess(directory, ["streams", "busy"], "shutdown_timeout = 15\n")
        self._sources = sources(server)
        self.processes: set[int] = set()

    def run(self, number: int, after: float) -> int:
        """Run until a signal is sent so many seconds after the service listens; return the exit code."""
        with self.service as service:
            service.wait_until(lambda: service.get("/readyz").status_code == 200)
            timer = threading.Timer(after, self._signal, [number])
            timer.start()
            posting = threading.Thread(target=self._post)
            posting.start()
            code = service.wait()
            timer.join()
            posting.join()
        return code

    def _signal(self, number: int) -> None:
        self.processes |= below(self.service)
        self.service.signal(number)

    def _post(self) -> None:
        for index, source in enumerate(self._sources):
            body = {
                "name": f"s{index}", "source": source, "timeout": 1.0, "analytics": [{"name": "busy"}],
                "decode_error_retry": {"delay": 0.1},
            }  # fmt: skip
            try:
                self.service.request("POST", "/streams", json=body)
            except Exception:
                return  # it has been stopped


def account(service: ServiceProcess) -> dict[str, Any]:
    found: dict[str, Any] = service.receipt_of("streams")["account"]
    return found


def check_balance(service: ServiceProcess) -> None:
    """Check that what became of each frame is in the receipt, and no process was leaked."""
    found = account(service)
    assert unaccounted(found) == found["frames"]["held"] == 0
    counts = json.dumps(found["frames"])
    assert "-" not in counts, counts
    assert service.receipt_of("streams")["leaked_processes"] == []


@pytest.mark.soak
@pytest.mark.parametrize("number", range(MOMENTS))
def test_sigterm_at_any_moment(tmp_path: Path, number: int) -> None:
    with faulty_source() as server:
        storm = Storm(tmp_path, server)
        code = storm.run(signal.SIGTERM, moment("SIGTERM", "the service was ready", number, 3.0))
        assert code == 0, storm.service.output
        check_balance(storm.service)
        assert [pid for pid in storm.processes if not gone(pid, 1.0)] == []


@pytest.mark.soak
@pytest.mark.parametrize("number", range(MOMENTS))
def test_kill_at_any_moment(tmp_path: Path, number: int) -> None:
    with faulty_source() as server:
        storm = Storm(tmp_path, server)
        storm.run(signal.SIGKILL, moment("SIGKILL", "the service was ready", number, 3.0))
        assert [pid for pid in storm.processes if not gone(pid, 1.0)] == []


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_memory_is_flat_over_an_hour_of_frames(tmp_path: Path) -> None:
    """The kind is a little that each frame, or each event, leaves behind, in the worker or in the service."""
    seconds = 3600 if LONG else 120
    with ServiceProcess(tmp_path, ["streams", "motion"]) as service:
        service.wait_until_ready()
        source = f"test:?live=0&seconds={seconds}&rate=25&size=320x240"
        body = {"name": "hour", "source": source, "analytics": [{"name": "motion"}]}
        stream_id = service.request("POST", "/streams", json=body).json()["stream_id"]
        seen: list[tuple[int, int, int]] = []

        def done() -> bool:
            status = service.get(f"/streams/{stream_id}").json()
            if (status["worker"] or {}).get("memory"):
                size = psutil.Process(service.process.pid).memory_info().rss
                seen.append((status["frames"]["decoded"], status["worker"]["memory"], size))
            return bool(status["status"] == "done")

        service.wait_until(done, 500)
        warm = [sizes for frames, *sizes in seen if frames > seconds * 25 // 4]
        for first, last in zip(warm[0], warm[-1], strict=True):
            assert last - first < 8 * 1024**2, seen
        assert service.stop() == 0
        assert account(service)["frames"]["analysed"] == seconds * 25
