"""A stream's supervisor with real worker processes: whatever a source or an analytics plugin does."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import random
import re
import signal
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest
import trio

from lva.video.definition import StreamDefinition
from lva.video.processes.forks import ForkServer
from lva.video.source import parse_source
from lva.video.supervision.stream import Stream, StreamServices
from lva.video.supervision.supervisor import Supervisor
from tests.support import has_ended, until
from tests.video.faulty_source import faulty_source, video
from tests.video.test_board import balance

pytestmark = pytest.mark.slow("each starts real worker processes")

PLUGIN = """
import ctypes, os, subprocess, sys, time
from lva.contract import AnalyticsEvent, BaseAnalyticsPlugin

class Culprit(BaseAnalyticsPlugin):
    def open(self, stream):
        if self.config.get("open"):
            raise RuntimeError("no model")
        print("opened for", stream.name)

    def handleFrame(self, frame):
        act = self.config.get("act")
        self.seen = getattr(self, "seen", 0) + 1  # a busy machine drops some
        if act == "hold" and self.seen == 3:
            ctypes.PyDLL(None).usleep(6_000_000)  # which does not let go of the interpreter
        if act == "raise" and frame.number % 2:
            raise ValueError("a bad frame")
        if act == "fail":
            raise ValueError("always")
        if frame.number >= 3 and act == "hang":
            while True:
                time.sleep(1)
        if frame.number >= 3 and act == "null":
            ctypes.string_at(0)
        if frame.number >= 3 and act == "forge":
            from lva.video import messages
            os.write(int(sys.argv[1]), messages.encode(self.config["message"]))
        if frame.number >= 3 and act == "exit":
            os._exit(7)
        if act == "sysexit":
            sys.exit(5)
        if act == "grow":
            self.kept = getattr(self, "kept", b"") + os.urandom(1) * 20_000_000
        if act == "list":
            return [1]
        if act == "flood":
            return AnalyticsEvent("seen", {}, bytes(2**20))
        if act == "regions":
            roi, droi = ([r.x, r.y, r.width, r.height] for r in (frame.roi, frame.droi))
            shape = [*frame.image().shape]
            box = dict(zip(("x", "y", "width", "height"), roi))
            seen = AnalyticsEvent("seen", {"roi": roi, "droi": droi, "shape": shape})
            return [AnalyticsEvent("outside", {"box": box}), seen]
        if act == "unsayable":
            return AnalyticsEvent("x", {"a": object()})
        if act == "surrogate":
            print("\\ud800")
            return AnalyticsEvent("x", {"a": "\\ud800"})
        if act == "orphan" and self.seen == 1:
            if not (pid := os.fork()):
                os.setsid()
                time.sleep(60)
                os._exit(0)
            fds = os.popen("ls -l /proc/self/fd").read()
            return AnalyticsEvent("child", {"pid": pid, "descriptors": fds})
        if act == "orphan" and self.seen == 3:
            os._exit(7)
        if act == "spawn" and self.seen == 1:
            child = subprocess.Popen(["sleep", "600"])
            return AnalyticsEvent("child", {"pid": child.pid})
        return AnalyticsEvent("seen", {"mean": float(frame.gray().mean())})

    def close(self):
        print("closed")
"""


class Listener:
    def __init__(self):
        self.changes, self.events = [], []

    def changed(self, change):
        self.changes.append(change)

    def seen(self, event):
        self.events.append(event)


async def no_pace():
    await trio.lowlevel.checkpoint()


@pytest.fixture(scope="module")
def server():
    with faulty_source() as source:
        yield source


@pytest.fixture(scope="module")
def forks():
    """The process that all workers here are forked from, as in the service; of many event loops."""
    forks = ForkServer()
    trio.run(forks.__aenter__)
    yield forks
    trio.run(forks.__aexit__, None, None, None)


@pytest.fixture
def new_stream(tmp_path, forks):
    path = tmp_path / "culprit.py"
    path.write_text(PLUGIN)
    files = {str(path): hashlib.sha256(path.read_bytes()).hexdigest()}

    def analytics(definition):
        return [
            {
                "name": use.name, "path": str(path), "files": files, "module": "lva_plugins.culprit",
                "class_module": "lva_plugins.culprit", "class": "Culprit", "parameters": use.parameters,
            }
            for use in definition.analytics
        ]  # fmt: skip

    def make(source, *acts, **more):
        quick = {"delay": 0.1}
        definition = StreamDefinition.model_validate(
            {
                "name": "door", "source": source, "eof_retry": quick, "decode_error_retry": quick,
                "analytics": [{"name": f"a{n}", "parameters": act} for n, act in enumerate(acts)],
                **more,
            }
        )  # fmt: skip
        return Stream(
            "id",
            definition,
            parse_source(source, directories=[tmp_path]),
            StreamServices(
                analytics,
                Listener(),
                logging.getLogger("lva.test"),
                no_pace,
                random.Random(1),
                forks=forks,
            ),
        )

    return make


@asynccontextmanager
async def running(stream):
    """Let a stream run; at the end it is cancelled, and no process of it is left."""
    stream.move(stream.state, "created")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Supervisor(stream).run)
        yield stream
        pid = stream.worker.pid if stream.worker else None
        nursery.cancel_scope.cancel()
    assert pid is None or not psutil.pid_exists(pid)
    assert stream.worker is None
    assert balance(stream.ledger) == stream.ledger.frames()["held"] == 0


def states(stream):
    return [change.status.value for change in stream.services.listener.changes]


def codes(stream):
    return [change.code for change in stream.services.listener.changes if change.code]


async def test_frames_are_looked_at_and_a_killed_worker_is_replaced(new_stream, caplog):
    caplog.set_level(logging.INFO)
    stream = new_stream("test:?rate=25", {})
    async with running(stream):
        await until(lambda: len(stream.events) >= 3)
        frame = stream.events[-1]
        assert (frame.event_type, frame.analytics, frame.stream) == ("seen", "a0", "door")
        assert 0 < frame.data["mean"] < 255
        first = stream.worker.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: stream.worker and stream.worker.pid != first)
        await until(lambda: stream.state.value == "in_progress")
        assert states(stream) == [
            "pending", "in_progress", "restart", "pending", "in_progress",
        ]  # fmt: skip
        assert codes(stream) == ["worker_crashed"]
        assert not stream.set_aside
    assert "stream door: opened for door" in caplog.text
    assert stream.ledger.reconnects == {"worker_crashed": 1}


async def test_a_file_is_looked_at_whole_and_is_done(new_stream, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(video(48))
    stream = new_stream(str(path), {}, rate={"unit": "frame", "value": 2})
    stream.move(stream.state, "created")
    with trio.fail_after(20):
        await Supervisor(stream).run()
    frames = stream.ledger.frames()
    assert states(stream) == ["pending", "in_progress", "done"]
    assert (frames["decoded"], frames["analysed"], frames["skipped"]["rate"]) == (48, 24, 24)
    assert (frames["dropped"], frames["held"]) == ({"busy": 0, "stale": 0, "stop": 0}, 0)
    assert [event.frame for event in stream.events] == list(range(1, 49, 2))


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, "not_found"), (b"no video " * 500, "invalid_data"), (b"", "invalid_data")],
)
async def test_a_file_that_cannot_be_read_has_failed_and_is_not_tried_again(
    new_stream, tmp_path, content, code
):
    """The kind is a source that another attempt does not make better."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"")
    stream = new_stream(str(path), {})
    path.unlink() if content is None else path.write_bytes(content)
    stream.move(stream.state, "created")
    with trio.fail_after(20):
        await Supervisor(stream).run()
    assert states(stream) == ["pending", "failure"]
    assert stream.change.code == code
    assert "a file is not tried again" in stream.change.reason


async def test_what_analytics_raise_costs_a_frame_or_the_plugin(new_stream, caplog):
    """The kind is an error of an analytics plugin in each of its methods, and results that are none."""
    stream = new_stream(
        "test:?live=0", {}, {"act": "raise"}, {"act": "fail"}, {"open": True}, {"act": "list"},
        {"act": "unsayable"}, {"act": "sysexit"}, {"act": "surrogate"},
    )  # fmt: skip
    async with running(stream):
        await until(lambda: len(stream.set_aside) == 6 and len(stream.events) > 40)
        assert stream.state.value == "in_progress"
        assert set(stream.set_aside) == {"a2", "a3", "a4", "a5", "a6", "a7"}
        assert "no model" in stream.set_aside["a3"]
        assert {event.analytics for event in stream.events} == {"a0", "a1"}
        assert "a3 is set aside: " in stream.status()["reason"]
        assert stream.ledger.frames()["failed"] >= 10
    assert "a1 failed in handleFrame() at frame 1: ValueError: a bad frame" in caplog.text
    assert "not int" in caplog.text
    assert "data.a is a object, which JSON cannot say" in caplog.text


@pytest.mark.parametrize(
    ("act", "code", "said"),
    [
        pytest.param(
            "hang",
            "analytics_hung",
            r"a1, handleFrame\(\) at frame \d+ took longer than 2 s",
            marks=pytest.mark.soak,
        ),
        ("null", "worker_crashed", r"\(SIGSEGV\) in a1, handleFrame\(\) at frame \d+"),
        ("exit", "worker_crashed", r"\(exit code 7\) in a1, handleFrame\(\) at frame \d+"),
        pytest.param("grow", "memory_limit", "MiB of memory", marks=pytest.mark.soak),
    ],
)
async def test_what_ends_the_worker_is_blamed_and_set_aside(new_stream, act, code, said):
    """The kind is a plugin that takes its process with it: the stream goes on with the other plugins.

    The source is not at fault: no attempt is used up.
    """
    limits = {"analytics_timeout": 2 if act == "hang" else 30, "memory_limit": 200 * 2**20}
    stream = new_stream(
        "test:?rate=50", {}, {"act": act}, **limits, decode_error_retry={"attempt_count": 0}
    )
    async with running(stream):
        await until(lambda: "a1" in stream.set_aside, 40)
        await until(lambda: stream.state.value == "in_progress")
        count = len(stream.events)
        await until(lambda: len(stream.events) > count)
        assert set(stream.set_aside) == {"a1"}
        # What is wrong is told for as long as it is, not only at the moment.
        status = stream.status()
        assert (status["status"], status["code"]) == ("in_progress", "analytics_failed")
        assert status["reason"].startswith(
            "analytics: a1 is set aside: it ended the worker 3 times"
        )
        assert codes(stream).count(code) >= 3
        assert any(re.search(said, change.reason) for change in stream.services.listener.changes)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"type": "event"},
        {"type": "event", "event_type": "x", "analytics": "a0", "frame": 1, "time": 1, "data": 5},
        {"type": "log", "level": "high", "text": "x"},
    ],
)
async def test_what_a_plugin_writes_to_the_service_itself_ends_its_worker_alone(
    new_stream, message
):
    stream = new_stream("test:?rate=50", {"act": "forge", "message": message})
    async with running(stream):
        await until(lambda: "worker_crashed" in codes(stream))
        await until(lambda: states(stream).count("pending") >= 2)


async def test_a_flood_of_events_waits_in_its_worker(new_stream):
    """The kind is a plugin that yields more than can be taken: it costs frames of its own stream alone."""
    stream = new_stream("test:?rate=50", {"act": "flood"})
    stream.services = dataclasses.replace(stream.services, events_per_second=0.5)
    async with running(stream):
        await until(
            lambda: stream.event_count, 20
        )  # until the plugin is open, frames are dropped, too
        before = stream.ledger.frames()["dropped"]["busy"]
        await until(lambda: stream.ledger.frames()["dropped"]["busy"] > before + 5, 20)
        assert stream.state.value == "in_progress"
    assert stream.event_count <= 5


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
async def test_a_silent_server_is_left_long_before_its_limit(new_stream, server, scheme):
    """The kind is a call that blocks inside FFmpeg while the stream is stopped."""
    stream = new_stream(server.url("silent", scheme), timeout=300)
    with trio.fail_after(30):
        async with running(stream):
            await until(lambda: stream.worker and stream.worker.board["reading_since"])


async def test_a_server_that_is_away_is_tried_again_more_and_more_slowly(new_stream):
    stream = new_stream("rtsp://127.0.0.1:1/x")
    async with running(stream):
        await until(lambda: codes(stream).count("connection_failed") >= 3)
        pid = stream.worker.pid
        assert stream.ledger.reconnects == {"connection_failed": 3}
        assert stream.worker.pid == pid  # the very worker goes on
    assert "in_progress" not in states(stream)


async def test_a_worker_that_waits_to_connect_is_alive(new_stream, monkeypatch):
    """The kind is a back-off that is longer than a worker may be silent: it is not killed for that."""
    monkeypatch.setattr("lva.video.supervision.watch.SILENT", 1.5)
    stream = new_stream("rtsp://127.0.0.1:1/x", decode_error_retry={"delay": 4})
    async with running(stream):
        await until(lambda: codes(stream).count("connection_failed") >= 2)
        assert set(codes(stream)) == {"connection_failed"}


async def test_attempts_may_be_limited(new_stream):
    stream = new_stream(
        "rtsp://127.0.0.1:1/x", decode_error_retry={"attempt_count": 1, "delay": 0.1}
    )
    stream.move(stream.state, "created")
    with trio.fail_after(20):
        await Supervisor(stream).run()
    assert states(stream) == ["pending", "restart", "pending", "failure"]
    assert "no attempt is left" in stream.change.reason
    assert stream.log[1]["reason"].startswith("attempt to reconnect 1 of 1 in ")


async def test_a_stream_that_failed_begins_anew_as_often_as_it_may(new_stream):
    stream = new_stream(
        "rtsp://127.0.0.1:1/x",
        decode_error_retry={"attempt_count": 0},
        autorestart={"attempt_count": 2, "delay": 0.1},
    )
    stream.move(stream.state, "created")
    with trio.fail_after(20):
        await Supervisor(stream).run()
    assert states(stream) == ["pending", *["failure", "restart", "pending"] * 2, "failure"]
    assert stream.log[2]["reason"].startswith("autorestart 1 of 2 in 0.")


async def test_analytics_get_the_regions_and_the_worker_its_priority(new_stream):
    """The kind is a key of the definition that has to reach the worker and the plugin."""
    half = {"mode": "percent", "x": 50, "width": 50, "height": 100}
    stream = new_stream(
        "test:?live=0&size=320x200", {"act": "regions"}, priority=7, roi=half,
        droi={**half, "x": 75, "width": 25},
    )  # fmt: skip
    async with running(stream):
        await until(lambda: stream.events)
        assert stream.events[0].data == {
            "roi": (160, 0, 160, 200), "droi": (240, 0, 80, 200), "shape": (200, 160, 3),
        }  # fmt: skip
        niceness = psutil.Process().nice() + 7
        assert psutil.Process(stream.worker.pid).nice() == niceness
        session = Path(f"/proc/{stream.worker.pid}/autogroup")  # its own, shared with nobody
        if session.exists():
            await until(lambda: session.read_text().endswith(f" nice {niceness}\n"))


@pytest.mark.parametrize("region", ["roi", "droi"])
async def test_a_region_outside_of_the_picture_fails_at_once(new_stream, region):
    """The kind is what no other attempt can mend: it is told, and not tried for ever."""
    outside = {"x": 400, "width": 10, "height": 10}
    stream = new_stream("test:?size=320x200", **{region: outside})
    stream.move(stream.state, "created")
    with trio.fail_after(20):
        await Supervisor(stream).run()
    assert states(stream) == ["pending", "failure"]
    assert f"{region}: " in stream.change.reason
    assert "outside of the picture of 320x200" in stream.change.reason
    assert stream.change.code == "wrong_region"


async def test_a_live_source_that_ends_is_connected_again(new_stream, server):
    stream = new_stream(server.url("short"), {})
    async with running(stream):
        await until(lambda: stream.ledger.reconnects.get("end_of_stream", 0) >= 2)
        assert states(stream)[:5] == ["pending", "in_progress", "restart", "pending", "in_progress"]


async def test_a_source_that_stalls_is_noticed(new_stream, server):
    """The kind is a connection that is open and silent: the watch or FFmpeg's own limit sees it.

    Frames are numbered on over the connections of a worker, however one of them has ended.
    """
    stream = new_stream(server.url("stalls"), {}, timeout=0.5)
    async with running(stream):
        await until(lambda: {"timeout", "stalled", "connection_failed"} & {*codes(stream)})
        assert stream.ledger.frames()["decoded"] >= 10
        await until(lambda: states(stream).count("in_progress") == 2 and stream.event_count > 10)
        numbers = [event.frame for event in stream.services.listener.events]
        assert numbers == sorted({*numbers})


async def test_a_frozen_picture_is_told_and_ends_nothing(new_stream):
    stream = new_stream("test:black?rate=25", same_picture_limit=1)
    async with running(stream):
        await until(lambda: "same_picture" in codes(stream))
        assert (states(stream)[-1], stream.ledger.reconnects) == ("in_progress", {})


async def test_a_changed_file_is_not_run(new_stream, tmp_path):
    stream = new_stream("test:?rate=25", {})
    path = Path(tmp_path, "culprit.py")
    path.write_text(path.read_text() + "\n# changed\n")
    async with running(stream):
        await until(lambda: "a0" in stream.set_aside)
        assert "was changed since the service checked it" in stream.set_aside["a0"]
    assert not stream.events


async def test_outside_of_its_schedule_a_stream_is_paused(new_stream):
    now = datetime.now()  # noqa: DTZ005 - local time is meant
    begin, end = now + timedelta(hours=2), now + timedelta(hours=3)
    interval = {"begin": begin.strftime("%H:%M"), "end": end.strftime("%H:%M")}
    stream = new_stream("test:", schedule=[interval])
    async with running(stream):
        await until(lambda: stream.state.value == "paused")
        assert stream.worker is None


async def test_the_end_of_its_schedule_pauses_a_stream_in_its_midst(new_stream):
    now = datetime.now()  # noqa: DTZ005 - local time is meant
    begin, end = now - timedelta(hours=1), now + timedelta(seconds=3)
    stream = new_stream(
        "test:?rate=25", schedule=[{"begin": f"{begin:%H:%M}", "end": f"{end:%H:%M:%S}"}]
    )
    async with running(stream):
        await until(lambda: stream.state.value == "paused")
        assert stream.worker is None
        assert states(stream) == ["pending", "in_progress", "paused"]


async def test_a_stopped_worker_is_replaced_once(new_stream):
    """The kind is SIGSTOP: one restart, no storm of them."""
    stream = new_stream("test:?rate=25", {})
    async with running(stream):
        await until(lambda: len(stream.events) >= 3)
        pid = stream.worker.pid
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: stream.worker and stream.worker.pid != pid)
        await until(lambda: stream.state.value == "in_progress")
        assert codes(stream) == ["worker_silent"]
        assert not psutil.pid_exists(pid)


@pytest.mark.soak
async def test_native_code_that_keeps_the_interpreter_is_no_silence(new_stream):
    """The kind is a healthy computation that keeps the worker from saying that it lives."""
    stream = new_stream("test:?rate=25", {"act": "hold"})
    async with running(stream):
        await until(lambda: len(stream.events) > 10)
        assert codes(stream) == []
        assert stream.ledger.frames()["dropped"]["stop"] == 0


async def test_what_a_plugin_starts_ends_with_the_worker(new_stream):
    stream = new_stream("test:?live=0", {"act": "spawn"})
    async with running(stream):
        await until(lambda: any(event.event_type == "child" for event in stream.events))
        (child,) = (e.data["pid"] for e in stream.events if e.event_type == "child")
    with trio.fail_after(5):
        while not has_ended(child):
            await trio.sleep(0.01)


async def test_the_end_of_a_worker_is_noticed_though_others_have_its_connection(new_stream):
    """The kind is a process that a plugin forked; it ends with the worker. Programs inherit nothing of it."""
    stream = new_stream("test:?rate=25", {"act": "orphan"})
    async with running(stream):
        await until(lambda: "worker_crashed" in codes(stream))
    (event, *_) = stream.services.listener.events
    with suppress(ProcessLookupError):
        os.kill(event.data["pid"], signal.SIGKILL)
    assert "lva-stream" not in event.data["descriptors"]
    assert "socket:" not in event.data["descriptors"]


async def test_a_failed_connection_does_not_tell_the_password(new_stream, caplog):
    stream = new_stream("http://admin:hunter2@127.0.0.1:1/x?pwd=hunter3")
    async with running(stream):
        await until(lambda: stream.state.value == "restart")
        assert "Connection refused" in stream.change.reason
        assert "hunter" not in f"{stream.log} {stream.status()}"
    assert "hunter" not in caplog.text
