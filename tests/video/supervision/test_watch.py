"""The watch over a worker: each thing that it looks for has its own limit. Its sleep is virtual.

What a worker writes on its board is written here; the board's times are of the machine's clock.
"""

from __future__ import annotations

import logging
import os
import time

import pytest
import trio

from lva.video.board import STEPS, new_board
from lva.video.codes import StreamState
from lva.video.definition import StreamDefinition
from lva.video.processes.process import WorkerProcess
from lva.video.source import parse_source
from lva.video.supervision.stream import Stream, StreamServices
from lva.video.supervision.watch import MOST_ENDED, MOST_PROCESSES, StallLimit, Watch

SECOND = 10**9
LIMITS = {"timeout": 3, "analytics_timeout": 10, "memory_limit": 100 * 2**20}


class Worker:
    """What the watch asks of a worker's process."""

    def __init__(self) -> None:
        self.board, descriptor = new_board()
        os.close(descriptor)
        self.pid, self.used, self.hangs = 1, 2**20, False
        self._analytics = ["model", "other"]

    def memory(self):
        return self.used

    def cpu_seconds(self):
        return 0.0

    def culprit(self):
        return "model"

    def step(self):
        step = self.board["step"]
        return ("model", f"model, {STEPS[step]}() at frame 7") if step else None

    grew_most = WorkerProcess.grew_most


class Listener:
    def changed(self, change):
        """Ignore it."""

    def seen(self, event):
        """Ignore it."""


def new_stream(source="test:", **more):
    definition = StreamDefinition.model_validate(
        {"name": "door", "source": source, **LIMITS, **more}
    )
    services = StreamServices(
        lambda _: [], Listener(), logging.getLogger("lva.test"), trio.lowlevel.checkpoint
    )
    stream = Stream("id", definition, parse_source(source), services)
    stream.move(StreamState.PENDING, "created")
    return stream


async def watched(stream, ages, seconds=2.0, **slots):
    """Let the watch look for some seconds at a worker whose board has times of these ages, in seconds."""
    worker = Worker()
    now = time.monotonic_ns()
    for name, age in {"alive": 0, **ages}.items():
        worker.board[name] = int(now - age * SECOND)
    worker.used = slots.pop("memory", worker.used)
    for name, value in slots.items():
        worker.board[name] = value
    with trio.move_on_after(seconds):
        ended = await Watch(stream, worker, StallLimit(stream.definition.timeout)).run()
        assert worker.hangs
        return ended
    assert not worker.hangs
    return None


FRAMES = {"last_packet": 0.1, "last_frame": 0.1, "last_change": 0.1, "reading_since": 0.01}
HANDLE = STEPS.index("handleFrame")


@pytest.mark.parametrize(
    ("source", "ages", "slots", "code"),
    [
        # Connecting: FFmpeg's limit, 3 s, counts twice.
        ("test:", {"reading_since": 6}, {}, None),
        ("test:", {"reading_since": 8}, {}, "timeout"),
        ("test:", {}, {"reading_since": 0}, None),  # it waits to connect
        # Frames come.
        ("test:", FRAMES, {"state": "in_progress"}, None),
        ("test:", {**FRAMES, "last_packet": 2.9}, {"state": "in_progress", "only": 0.05}, None),
        ("test:", {**FRAMES, "last_packet": 3.2}, {"state": "in_progress"}, "stalled"),
        ("test:", {**FRAMES, "last_frame": 8}, {"state": "in_progress"}, None),
        ("test:", {**FRAMES, "last_frame": 9.5}, {"state": "in_progress"}, "stalled"),
        # A file is read no faster than it is looked at: only one read that takes long counts.
        ("test:?live=0", {**FRAMES, "last_packet": 60}, {"state": "in_progress"}, None),
        ("test:?live=0", {**FRAMES, "reading_since": 31}, {"state": "in_progress"}, "stalled"),
        # Analytics: while their file is imported and their instance made, for longer.
        ("test:", {**FRAMES, "step_since": 9}, {"state": "in_progress", "step": HANDLE, "only": 0.6}, None),
        ("test:", {**FRAMES, "step_since": 11}, {"state": "in_progress", "step": HANDLE}, "analytics_hung"),
        ("test:", {**FRAMES, "step_since": 60}, {"state": "in_progress", "step": 1}, None),
        ("test:", {"step_since": 121}, {"step": 1}, "analytics_hung"),
        # The process.
        ("test:", {"alive": 4}, {"only": 0.6}, None),
        ("test:", {"alive": 5.1}, {}, "worker_silent"),
        # A plugin keeps the interpreter from everything else: neither source nor worker is at fault.
        ("test:", {**FRAMES, "alive": 6, "last_packet": 6, "step_since": 6},
         {"state": "in_progress", "step": HANDLE}, None),
        ("test:", {"alive": 9, "step_since": 9}, {"step": 1, "only": 0.6}, None),
        ("test:", {"alive": 11, "step_since": 11}, {"step": 1}, "worker_silent"),
        ("test:", {}, {"memory": 99 * 2**20}, None),
        ("test:", {}, {"memory": 101 * 2**20}, "memory_limit"),
        # What analytics plugins have started.
        ("test:", {}, {"memory": 50 * 2**20, "processes_bytes": 49 * 2**20}, None),
        ("test:", {}, {"memory": 50 * 2**20, "processes_bytes": 51 * 2**20}, "memory_limit"),
        ("test:", {}, {"processes": MOST_PROCESSES, "ended_processes": MOST_ENDED}, None),
        ("test:", {}, {"processes": MOST_PROCESSES + 1}, "process_limit"),
        ("test:", {}, {"ended_processes": MOST_ENDED + 1}, "process_limit"),
    ],
)  # fmt: skip
async def test_each_watchdog_has_its_own_limit(autojump_clock, source, ages, slots, code):
    stream = new_stream(source)
    if slots.pop("state", None):
        stream.move(StreamState.IN_PROGRESS, "frames")
    ended = await watched(stream, ages, slots.pop("only", 2.0), **slots)
    assert (ended and ended.code) == code


async def test_who_hangs_or_grows_is_named(autojump_clock):
    ended = await watched(new_stream(), {"step_since": 11}, step=HANDLE)
    assert ended.blamed == "model"
    assert ended.reason == "model, handleFrame() at frame 7 took longer than 10 s"
    ended = await watched(new_stream(), {"alive": 11, "step_since": 11}, step=1)
    assert ended.blamed == "model"
    assert ended.reason.endswith("of the worker for 10 s, in model, loading() at frame 7")


MIB = 2**20


@pytest.mark.parametrize(
    ("slots", "blamed"),
    [
        # The look is between two frames.
        ({"grown_1": 60 * MIB}, ("other", 60)),
        ({"grown_0": 20 * MIB, "grown_1": 60 * MIB}, ("other", 60)),
        ({"grown_0": 40 * MIB, "grown_1": 45 * MIB}, None),
        ({"grown_1": 40 * MIB}, None),  # it is the decoder's
        ({}, None),
        ({"memory_begun": 0, "grown_1": 54 * MIB}, None),
        # It is within a call: what that has added so far is its plugin's.
        ({"step": HANDLE, "step_memory": 50 * MIB}, ("model", 60)),
        ({"step": HANDLE, "step_memory": 70 * MIB, "grown_0": 30 * MIB}, ("model", 70)),
        ({"step": HANDLE, "step_memory": 100 * MIB, "grown_1": 70 * MIB}, ("other", 70)),
        ({"step": HANDLE, "step_memory": 100 * MIB}, None),
        # A plugin that writes where it should not has written there.
        ({"grown_7": 60 * MIB}, None),
        ({"step": HANDLE, "step_analytics": -3, "step_memory": 0}, None),
    ],
)  # fmt: skip
async def test_the_plugin_in_whose_calls_most_memory_was_added_is_named(
    autojump_clock, slots, blamed
):
    """The kind is a worker that grows too large, whenever it is looked at: of 110 MiB, 100 were added."""
    slots = {"memory_begun": 10 * MIB, "memory": 110 * MIB, **slots}
    ended = await watched(new_stream(), {"step_since": 1}, **slots)
    size = "110 MiB of memory, more than 100 MiB"
    named = (
        (None, size)
        if blamed is None
        else (blamed[0], f"{size}; {blamed[1]} MiB of it in {blamed[0]}")
    )
    assert (ended.code, ended.blamed, ended.reason) == ("memory_limit", *named)


@pytest.mark.parametrize(
    ("more", "age", "warned"),
    [({}, 61, True), ({}, 59, False), ({"same_picture_limit": 5}, 6, True),
     ({"same_picture_limit": None}, 600, False), ({"source": "test:?live=0"}, 600, False)],
)  # fmt: skip
async def test_a_picture_that_stays_the_same_is_a_warning_once(autojump_clock, more, age, warned):
    """The kind is a camera that sends frames, all of them the same: nothing is ended for that."""
    stream = new_stream(**more)
    stream.move(StreamState.IN_PROGRESS, "frames")
    assert await watched(stream, {**FRAMES, "last_change": age}) is None
    codes = [entry["code"] for entry in stream.log]
    assert codes == [None, None, *["same_picture"] * warned]
    assert stream.state == "in_progress"


def seen(limit, *intervals):
    """Let a limit see packets with these intervals between them, in seconds."""
    at = SECOND
    limit.note_packet(at)
    for interval in intervals:
        at += int(interval * SECOND)
        limit.note_packet(at)
    return limit.seconds


def test_the_limit_of_a_stall_is_several_of_the_intervals_that_were_seen():
    limit = StallLimit(3)
    assert seen(limit, 0.5, 0.5) == 3
    assert seen(limit, 60) == 240  # one frame a minute is no stall
    limit.note_stall()
    assert limit.seconds == 240


def test_a_slow_stream_is_not_ended_for_ever_and_a_quick_one_is_judged_as_before():
    limit = StallLimit(3)
    found = []
    for _ in range(7):
        limit.note_stall()
        found.append(limit.seconds)
    assert found == [6, 12, 24, 48, 75, 75, 75]
    assert seen(limit, *[0.5] * 19) == 75
    assert seen(limit, *[0.5] * 20) == 3
    patient = StallLimit(600)
    patient.note_stall()
    assert patient.seconds == 600
