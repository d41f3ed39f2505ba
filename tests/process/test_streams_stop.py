"""The end of the service with many streams, some blocked inside FFmpeg; and storms of changes."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from tests.support import ServiceProcess

pytestmark = [pytest.mark.process, pytest.mark.slow("starts the service and real workers")]

SMALL = "test:?size=64x48&rate=5"
#: Longest stop, in seconds, of fifty streams.
LONGEST = 2.0


@contextmanager
def silent_server() -> Iterator[str]:
    """Accept connections and say nothing; yield the address."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield f"rtsp://127.0.0.1:{server.getsockname()[1]}/x"


def workers_of(service: ServiceProcess) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children(recursive=True)


def running(service: ServiceProcess, count: int) -> bool:
    """Return whether frames come from all streams that can have some, and the others connect."""
    streams = service.get("/streams", timeout=30).json()["streams"]
    busy = [stream for stream in streams if stream["worker"] is not None]
    coming = [stream for stream in streams if stream["status"] == "in_progress"]
    return len(busy) == len(streams) and len(coming) >= count


def stopped(tmp_path: Any, streams: int, silent: int) -> float:
    """Let the service have streams, some of them blocked, and stop it; return in how many seconds."""
    with silent_server() as address, ServiceProcess(tmp_path, ["streams", "motion"]) as service:
        service.wait_until_ready()
        for number in range(streams):
            source = address if number < silent else SMALL
            body = {"name": f"s{number}", "source": source, "timeout": 60}
            body["analytics"] = [{"name": "motion"}]
            assert service.request("POST", "/streams", json=body).status_code == 201
        service.wait_until(lambda: running(service, streams - silent), timeout=60)
        left = workers_of(service)
        assert len(left) >= streams
        begun = time.monotonic()
        assert service.stop() == 0
        seconds = time.monotonic() - begun
        assert [process for process in left if process.is_running()] == []
        assert service.receipt_of("streams")["leaked_processes"] == []
    return seconds


def test_blocked_streams_stop_with_the_service_and_leave_nothing(tmp_path):
    stopped(tmp_path, 6, 2)


@pytest.mark.soak
@pytest.mark.timeout(120)
def test_fifty_streams_stop_within_two_seconds(tmp_path):
    """The kind is a stop whose steps add up: ten of the streams are in a connect that never ends."""
    seconds = stopped(tmp_path, 50, 10)
    assert seconds < LONGEST


def test_a_storm_of_changes_leaves_one_worker_for_each_stream(tmp_path):
    """The kind is requests that overtake each other: DELETE while a worker starts, PUT, stop and resume."""
    rng = random.Random(1)
    with ServiceProcess(tmp_path, ["streams", "motion"]) as service:
        service.wait_until_ready()
        body = {"name": "door", "source": SMALL}
        paths = [
            service.request("POST", "/streams", json=body).headers["Location"] for _ in range(3)
        ]
        doomed = service.request("POST", "/streams", json=body).headers["Location"]

        def change(path: str) -> int:
            verb = rng.choice(["PUT", "PATCH", "PATCH"])
            asked = body if verb == "PUT" else {"action": rng.choice(["stop", "resume"])}
            return service.request(verb, path, json=asked, timeout=30).status_code

        with ThreadPoolExecutor(8) as threads:
            gone = threads.submit(service.request, "DELETE", doomed)
            codes = set(threads.map(change, paths * 12))
            assert gone.result().status_code == 204
        assert codes <= {200, 409}
        for path in paths:
            service.request("PATCH", path, json={"action": "resume"})
        service.wait_until(lambda: running(service, 3))
        pids = {stream["worker"]["pid"] for stream in service.get("/streams").json()["streams"]}
        assert len(pids) == 3
        (remains,) = psutil.Process(service.process.pid).children()
        (server,) = remains.children()
        assert {process.pid for process in server.children()} == pids
        for path in paths:
            assert service.request("DELETE", path).status_code == 204
        assert server.children() == []
        assert not [record for record in service.records if record["level"] == "ERROR"]
