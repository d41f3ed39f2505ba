"""The attempts of a stream: how many, and how long before each. Time is virtual."""

from __future__ import annotations

import logging
import random

import pytest
import trio

from lva.video.codes import StreamState
from lva.video.definition import StreamDefinition
from lva.video.registry.streams import BURST, SPACING, Pace
from lva.video.source import parse_source
from lva.video.supervision.retries import Retries
from lva.video.supervision.stream import Stream, StreamServices


class Ignored:
    def changed(self, change):
        """Ignore it."""

    def seen(self, event):
        """Ignore it."""


class Longest(random.Random):
    """No jitter: each delay is as long as it may be."""

    def uniform(self, a, b):
        return b


def new_retries(**more):
    definition = StreamDefinition.model_validate({"name": "d", "source": "test:", **more})
    services = StreamServices(
        lambda _: [], Ignored(), logging.getLogger("lva.test"), trio.sleep, Longest()
    )
    stream = Stream("id", definition, parse_source("test:"), services)
    stream.move(stream.state, "created")
    return Retries(stream), stream


async def delays(retries, code, count):
    """Return how long is waited before each attempt."""
    found = []
    for _ in range(count):
        assert retries.used_up(code) is None
        begun = trio.current_time()
        await retries.wait(code, "why")
        found.append(round(trio.current_time() - begun, 2))
    return found


@pytest.mark.parametrize(
    ("code", "more", "expected"),
    [
        ("connection_failed", {}, [1, 2, 4, 8, 16, 32, 60, 60]),
        ("end_of_stream", {"eof_retry": {"delay": 0.5}}, [0.5, 1, 2]),
        ("auth_failed", {}, [10, 20, 40, 60]),
        ("not_found", {"decode_error_retry": {"delay": 30}}, [30, 60, 60]),
        ("worker_crashed", {}, [0.1, 2, 4]),
        ("timeout", {"decode_error_retry": {"delay": 300}}, [300, 300]),
    ],
)
async def test_the_back_off_of_each_code(autojump_clock, code, more, expected):
    retries, stream = new_retries(**more)
    assert await delays(retries, code, len(expected)) == expected
    assert stream.ledger.reconnects == {code: len(expected)}


@pytest.mark.parametrize(
    ("code", "key", "final"),
    [
        ("end_of_stream", "eof_retry", "done"),
        ("connection_failed", "decode_error_retry", "failure"),
        ("worker_crashed", "decode_error_retry", "failure"),
    ],
)
async def test_attempts_that_are_used_up_end_the_stream(autojump_clock, code, key, final):
    retries, stream = new_retries(**{key: {"attempt_count": 2}})
    await delays(retries, code, 2)
    assert stream.log[-2]["reason"].startswith("attempt to reconnect 2 of 2 in ")
    assert retries.used_up(code) == final


async def test_the_two_kinds_of_attempts_are_counted_apart(autojump_clock):
    retries, _ = new_retries(
        eof_retry={"attempt_count": 1}, decode_error_retry={"attempt_count": 1}
    )
    await delays(retries, "end_of_stream", 1)
    await delays(retries, "timeout", 1)
    assert retries.used_up("end_of_stream") == "done"
    assert retries.used_up("timeout") == "failure"


@pytest.mark.parametrize(("seconds", "final"), [(11, None), (9, "failure")])
async def test_a_success_resets_the_counter_once_it_has_lasted(autojump_clock, seconds, final):
    retries, _ = new_retries(decode_error_retry={"attempt_count": 1})
    await delays(retries, "timeout", 1)
    retries.frames_come()
    await trio.sleep(seconds)
    assert retries.used_up("timeout") == final


async def test_autorestart_counts_until_a_success_has_lasted(autojump_clock):
    more = {"attempt_count": 1, "delay": 30}
    retries, stream = new_retries(decode_error_retry={"attempt_count": 0}, autorestart=more)
    for lasts in (True, False):
        assert retries.used_up("timeout") == "failure"
        stream.move(StreamState.FAILURE, "no attempt is left", "timeout")
        begun = trio.current_time()
        assert await retries.restart()
        assert trio.current_time() - begun == 30
        assert [entry["status"] for entry in stream.log][-2:] == ["restart", "pending"]
        if lasts:
            retries.frames_come()
            await trio.sleep(11)
    assert retries.used_up("timeout") == "failure"
    assert not await retries.restart()


async def test_fifty_cameras_that_come_back_do_not_connect_at_once(autojump_clock):
    """The kind is a power cut: all fail in the same moment, and would be tried again in the same."""
    pace, connected = Pace(), []

    async def camera(seed: int) -> None:
        retries, stream = new_retries()
        object.__setattr__(stream.services, "rng", random.Random(seed))
        for _ in range(4):
            assert retries.used_up("connection_failed") is None
            await retries.wait("connection_failed", "no route")
            await pace()
            connected.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for seed in range(50):
            nursery.start_soon(camera, seed)
    begun = sorted(connected)
    assert len(begun) == 200
    most = max(sum(1 for time in begun if at <= time < at + 1) for at in begun)
    assert most <= BURST + 1 / SPACING + 1


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        ("worker_crashed", "the worker died (SIGKILL)", "the worker died (SIGKILL)"),
        ("end_of_stream", "the source ended", "the source ended"),
        ("stalled", "no data for 5.0 s", "no data for 5.0 s"),
        ("not_found", "404", "there is no such stream or file (404)"),
    ],
)
async def test_what_happened_is_said_once(code, reason, words, autojump_clock):
    """The kind is a sentence that has the meaning of a code and, in brackets, the same again."""
    retries, stream = new_retries()
    retries.used_up(code)
    await retries.wait(code, reason)
    assert stream.log[1]["reason"].endswith(f" s: {words}")
    await retries.after_blame(code, reason)
    assert stream.log[3]["reason"] == f"the worker is started again: {words}"
