"""A real server behind the proxy: what each behaviour does to connections, and what a report says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from lva.testing import Behaviour, HttpWorld, ServerWorld, World, contract
from lva.testing.world import mark

POINTS = mark(1).encode() * 4


@asynccontextmanager
async def before_echo(behaviour: Behaviour) -> AsyncIterator[tuple[ServerWorld, bytearray]]:
    """A world before a server that says everything again; and what that server has got."""
    got = bytearray()

    async def echo(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):  # the client has left
            async with stream:
                async for data in stream:
                    got.extend(data)
                    await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, echo, [listener])
        async with ServerWorld(listener.socket.getsockname()[:2]) as world:
            world.behaviour = behaviour
            yield world, got
        nursery.cancel_scope.cancel()


async def said(world: ServerWorld, data: bytes) -> bytes:
    """Send something over a new connection; return what comes back, or that it was reset or hangs."""
    stream = await trio.open_tcp_stream(world.host, world.port)
    async with stream:
        try:
            await stream.send_all(data)
            with trio.move_on_after(0.3):
                return bytes(await stream.receive_some())
        except trio.BrokenResourceError:
            return b"reset"
    return b"hangs"


@pytest.mark.slow("the proxy waits in real time")
@pytest.mark.parametrize(
    ("behaviour", "answers", "got"),
    [
        (Behaviour.SUCCEED, [POINTS] * 3, POINTS * 3),
        (Behaviour.SOMETIMES, [b"reset", b"reset", b"reset", POINTS], POINTS * 2),
        (Behaviour.FAIL, [b"reset"] * 3, b""),
        (Behaviour.PARTLY, [b"reset", b"reset", POINTS], POINTS[: len(POINTS) // 2] * 2 + POINTS),
        (Behaviour.HANG, [b"hangs"] * 2, b""),
    ],
    ids=lambda value: value.name if isinstance(value, Behaviour) else "",
)
async def test_a_behaviour_shows_once_points_come_by(
    behaviour: Behaviour, answers: list[bytes], got: bytes
):
    async with before_echo(behaviour) as (world, received):
        assert await said(world, b"hello") == b"hello"
        del received[:]
        assert [await said(world, POINTS) for _ in answers] == answers
        if behaviour not in {
            Behaviour.SOMETIMES,
            Behaviour.PARTLY,
        }:  # there, what was cut may be lost
            assert received == got


async def test_a_mark_that_two_chunks_share_is_seen():
    async with before_echo(Behaviour.FAIL) as (world, _):
        stream = await trio.open_tcp_stream(world.host, world.port)
        async with stream:
            await stream.send_all(b"lva-poi")
            assert await stream.receive_some() == b"lva-poi"
            await stream.send_all(b"nt-17-")
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()


async def test_an_answer_that_never_comes_is_not_waited_for_for_ever():
    async with before_echo(Behaviour.SUCCEED) as (world, _):
        world._patience = 0.5
        assert await said(world, b"hello") == b"hello"
        assert not world.owes


SINK = """
    from lva import BaseEventPlugin

    class Sink(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            pass
"""


@pytest.mark.slow("the whole contract is checked")
def test_a_report_says_who_failed_and_what_was_left_out():
    report = contract.check_event_contract(SINK)
    assert "handleEvent() is made to hang" in [step.name for step in report.steps]
    assert len(report.skipped) == 3
    assert "3 skipped" in str(report)
    assert "whether points arrive: there is no world" in str(report)
    assert report.as_dict()["steps"][-1]["skipped"] is False


def test_a_sink_that_sends_nothing_anywhere_is_seen_by_a_world():
    report = contract.check_event_contract(SINK, world=World)
    assert not report.ok
    assert "only 0 arrived" in str(report)


@pytest.mark.parametrize(
    "world", [HttpWorld, lambda: ServerWorld(("127.0.0.1", 1))], ids=["http", "server"]
)
async def test_a_world_that_cannot_listen_leaves_no_nursery_open(monkeypatch, world):
    async def no_address(*_args, **_options):
        raise OSError("cannot assign requested address")

    monkeypatch.setattr(trio, "open_tcp_listeners", no_address)
    mine = trio.lowlevel.current_task()
    before = len(mine.child_nurseries)
    there = world()
    with pytest.raises(OSError, match="cannot assign"):
        await there.__aenter__()
    left = len(mine.child_nurseries) - before
    if left:  # or nothing could end
        await there.__aexit__(None, None, None)
    assert not left
