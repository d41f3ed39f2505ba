"""Streams follow their plugins: those that are worked on, and no others."""

from __future__ import annotations

import logging

import pytest
import trio

from lva.contract import AnalyticsInfo
from lva.video.codes import StreamState
from lva.video.definition import StreamDefinition
from lva.video.registry.renewal import LOOK, follow
from lva.video.source import parse_source
from lva.video.supervision.stream import Stream, StreamServices


class Listener:
    def __init__(self):
        self.changes = []

    def changed(self, change):
        self.changes.append((change.status.value, change.code))


def plugin():
    return AnalyticsInfo("eye", type("Eye", (), {}), "eye", "eye.py", {}, {})


@pytest.fixture
def stream():
    services = StreamServices(
        lambda _: [], Listener(), logging.getLogger("lva.test"), trio.lowlevel.checkpoint
    )
    definition = StreamDefinition.model_validate(
        {"name": "door", "source": "test:", "analytics": [{"name": "eye"}]}
    )
    stream = Stream("id", definition, parse_source("test:"), services)
    stream.move(StreamState.PENDING, "created")
    return stream


@pytest.mark.parametrize("state", StreamState)
async def test_a_plugin_that_is_stopped_is_set_aside_where_it_is_at_work(
    autojump_clock, stream, state
):
    """The kind is a stream that has ended: why it has stays, and nobody is told of its end again."""
    plugins = [plugin()]
    if state is not StreamState.PENDING:
        stream.move(state, "so it is")
    before = list(stream.services.listener.changes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, lambda: plugins, lambda: [stream])
        await trio.sleep(LOOK / 2)
        plugins = []
        await trio.sleep(4 * LOOK)
        told = stream.services.listener.changes[len(before) :]
        if state.value in {"stop", "done", "failure"}:
            assert (told, stream.change.reason) == ([], "so it is")
        else:
            assert told == [(state.value, "analytics_failed")]
            assert stream.set_aside == {"eye": "the plugin is not running"}
        plugins = [plugin()]
        await trio.sleep(2 * LOOK)
        assert stream.set_aside == {}
        nursery.cancel_scope.cancel()
