"""What an agent tells its fleet of the streams that it works on."""

from __future__ import annotations

import logging
import math

import trio

from lva.fleet.rows import StreamRow
from lva.video.codes import StreamState
from lva.video.fleet.holder import FleetHolder
from lva.video.processes.forks import ForkServer
from lva.video.registry.admission import Admission
from lva.video.supervision.stream import StreamServices


class Listener:
    def changed(self, change) -> None: ...
    def seen(self, event) -> None: ...


async def test_a_definition_that_comes_when_a_stream_is_over_waits_for_the_next_lease():
    """The kind is a change beside an end of which is told already: that gives the lease back."""
    told = []
    holder = FleetHolder("one", Admission([], [], lambda _: []), Listener(), ForkServer())
    services = StreamServices(
        lambda _: [], holder, logging.getLogger("streams"), trio.lowlevel.checkpoint
    )
    holder.begin(
        services,
        lambda stream_id, state, entry="", version=None: told.append((state.status, version)),
    )
    await holder.renewed(math.inf)
    first, second = (StreamRow("s", n, {"name": "door", "source": "test:"}, 1.0) for n in (1, 2))
    holder.take(first, 1)
    stream = holder.streams["s"]
    stream.move(StreamState.IN_PROGRESS, "frames come")
    stream.move(StreamState.DONE, "the end")
    await holder.change(second)
    assert told == [("pending", 1), ("in_progress", 1), ("done", 1)]
    assert stream.version == 1
