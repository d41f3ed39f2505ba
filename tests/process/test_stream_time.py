"""Streams while the machine's clock is set, and while processes stand still: nobody is judged by that."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.process.moments import LONG
from tests.process.streams import logs, unaccounted
from tests.support import ServiceProcess
from tests.video.faulty_source import FaultySource, faulty_source

pytestmark = pytest.mark.process

#: Python imports it first, in the service and its workers: the machine's clock, with an offset from a file.
CLOCK = """
import os, time

seconds, nanoseconds = time.time, time.time_ns


def offset():
    with open(os.environ["TEST_CLOCK"]) as file:
        return int(file.read())


time.time = lambda: seconds() + offset()
time.time_ns = lambda: nanoseconds() + offset() * 10**9
"""


NONE: dict[str, list[str]] = {"test": [], "rtsp": [], "mjpeg": []}


class Scene:
    """A service whose clock can be set, with a stream of each kind of live source.

    Args:
        directory: For its files.
        source: Of RTSP and MJPEG.
    """

    def __init__(self, directory: Path, source: FaultySource) -> None:
        self._offset = directory / "offset"
        self._offset.write_text("0")
        (directory / "sitecustomize.py").write_text(CLOCK)
        env = {"PYTHONPATH": str(directory), "TEST_CLOCK": str(self._offset)}
        self.service = ServiceProcess(directory, ["streams"], env=env)
        self._at_first: dict[str, list[str]] = {}
        self._urls = {
            "test": "test:?rate=25&size=64x48", "rtsp": source.url("good", "rtsp"),
            "mjpeg": source.url("mjpeg/good"),
        }  # fmt: skip

    def begin(self) -> None:
        self.service.wait_until_ready()
        for name, url in self._urls.items():
            body = {
                "name": name,
                "source": url,
                "timeout": 2.0,
                "decode_error_retry": {"delay": 0.1},
            }
            assert self.service.request("POST", "/streams", json=body).status_code == 201
        self.wait_for_more(10)
        self._at_first = self._codes()

    def set_clock(self, seconds: int) -> None:
        """Set the clock that the service and its workers see."""
        after = self._offset.with_suffix(".new")
        after.write_text(str(seconds))
        after.rename(self._offset)

    def clock(self) -> int:
        """Return what the service takes for the time."""
        return int(self.service.get("/livez").headers["Luna-Request-Id"].partition(",")[0])

    def statuses(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.service.get("/streams").json()["streams"]
        for status in found:
            assert unaccounted(status) == 0
        return found

    def wait_for_more(self, frames: int) -> None:
        """Wait until each stream has so many frames more."""
        before = {s["name"]: s["frames"]["analysed"] for s in self.statuses()}
        self.service.wait_until(
            lambda: all(
                s["frames"]["analysed"] >= before[s["name"]] + frames for s in self.statuses()
            )
        )

    def failures(self) -> dict[str, list[str]]:
        """Return the codes of what went wrong since all streams had frames, by stream."""
        return {
            name: codes[: len(codes) - len(self._at_first[name])]
            for name, codes in self._codes().items()
        }

    def _codes(self) -> dict[str, list[str]]:
        """Return the codes in the streams' logs, newest first."""
        return {
            name: [entry["code"] for entry in logs(self.service, name) if entry["code"]]
            for name in self._urls
        }

    def stand_still(self, pids: list[int], seconds: float) -> None:
        """Let processes stand still."""
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        for pid in pids:
            with suppress(ProcessLookupError):  # it was replaced
                os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with faulty_source() as source:
        scene = Scene(tmp_path_factory.mktemp("time"), source)
        with scene.service:
            scene.begin()
            yield scene


@pytest.mark.slow("the clock is set while streams work")
def test_steps_of_the_clock_end_no_stream(scene):
    """The kind is a clock that is put forward and back by an hour, by hand or as a zone's is in autumn."""
    for step in (3600, -3600, 0):
        scene.set_clock(step)
        scene.wait_for_more(20)
        assert abs(scene.clock() - time.time() - step) < 60
    assert scene.failures() == NONE


@pytest.mark.slow("the service stands still for longer than its streams may be silent")
def test_a_service_that_stood_still_judges_nobody_by_that(scene):
    scene.stand_still([scene.service.process.pid], 3.0)
    scene.wait_for_more(20)
    assert scene.failures() == NONE


@pytest.mark.soak
@pytest.mark.timeout(120)
@pytest.mark.parametrize("whose", ["all", "workers", "service"] if LONG else ["all"])
def test_standing_still_for_long_leads_to_no_storm_of_restarts(tmp_path, whose):
    """The kind is a machine that is suspended or swaps, as a whole or in part: one new attempt at most."""
    with faulty_source() as source:
        scene = Scene(tmp_path, source)
        with scene.service:
            scene.begin()
            workers = [status["worker"]["pid"] for status in scene.statuses()]
            service = scene.service.process.pid
            forks = psutil.Process(workers[0]).ppid()
            pids = {"service": [service], "workers": workers, "all": [service, forks, *workers]}
            scene.stand_still(pids[whose], 30.0 if LONG else 6.5)
            scene.service.wait_until(
                lambda: all(status["status"] == "in_progress" for status in scene.statuses())
            )
            scene.wait_for_more(20)
            assert all(len(codes) <= 1 for codes in scene.failures().values()), scene.failures()
            if whose == "service":
                assert scene.failures() == NONE
            assert scene.service.stop() == 0
