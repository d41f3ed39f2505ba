"""The table of streams where its file cannot be written, and where who asks goes away meanwhile."""

import logging
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest
import trio
import trio.testing

from lva import RequestProblem
from lva.video.admission import Admission
from lva.video.store import StoreError, StreamStore
from lva.video.stream import StreamServices
from lva.video.streams import Streams


class Listener:
    def __init__(self):
        self.scope = trio.CancelScope()

    def changed(self, change):
        self.scope.cancel()

    def seen(self, event):
        raise AssertionError(event)


def parameters(definition):
    return [use.parameters for use in definition.analytics]


def body(**changes):
    """Return a stream that is outside of its schedule for days: it needs no worker."""
    day = (datetime.now().astimezone() + timedelta(days=3)).strftime("%a").lower()
    hours = {"begin": "10:00", "end": "11:00", "days": [day]}
    return {"name": "door", "source": "test:", "schedule": [hours], **changes}


@asynccontextmanager
async def table(path, listener):
    services = StreamServices(parameters, listener, logging.getLogger("lva.test"), trio.sleep)
    streams = Streams(path, Admission(["test"], [], parameters), services)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams.run)
        stream = await streams.create(body())  # which waits until they are taken up
        await trio.testing.wait_all_tasks_blocked()
        yield streams, stream
        nursery.cancel_scope.cancel()
    with pytest.raises(RequestProblem, match="started or stopped"):
        await streams.create(body())


async def test_a_file_that_cannot_be_written_leaves_a_stream_in_a_state_that_is_true(tmp_path):
    path = tmp_path / "streams.sqlite3"
    async with table(path, Listener()) as (streams, stream):
        path.write_bytes(b"no database " * 200)
        with pytest.raises(StoreError):
            await streams.replace(stream.id, body(name="gate"))
        assert (stream.version, stream.definition.name) == (1, "door")
        with pytest.raises(RequestProblem, match="not stopped"):  # it is worked on as before
            await streams.resume(stream.id)
        with pytest.raises(StoreError):
            await streams.remove(stream.id)
        assert stream.state == "stop"
        with pytest.raises(StoreError):
            await streams.resume(stream.id)
        with pytest.raises(RequestProblem, match="not stopped"):
            await streams.resume(stream.id)


async def test_a_change_is_made_wholly_though_who_asked_goes_away(tmp_path):
    path, listener = tmp_path / "streams.sqlite3", Listener()
    async with table(path, listener) as (streams, stream):
        with trio.CancelScope() as listener.scope:
            await streams.stop(stream.id)
        assert [row.status for row in StreamStore(path).load()] == ["stop"]


async def test_parameters_that_cannot_be_sent_are_refused(tmp_path):
    async with table(tmp_path / "streams.sqlite3", Listener()) as (streams, _):
        for value, said in ((float("inf"), "Out of range"), ("x" * 2**20, "too large")):
            with pytest.raises(RequestProblem, match=said) as refused:
                await streams.create(
                    body(analytics=[{"name": "motion", "parameters": {"value": value}}])
                )
            assert refused.value.status == 400


async def test_a_stream_is_found_by_its_name_while_that_is_its_own(tmp_path):
    async with table(tmp_path / "streams.sqlite3", Listener()) as (streams, door):
        assert streams.get("door") is streams.get(door.id) is door
        other = await streams.create(body(name=door.id))
        assert streams.get(door.id) is door  # an id goes first
        await streams.replace(other.id, body())
        with pytest.raises(RequestProblem, match=f"{door.id}, {other.id}") as refused:
            streams.get("door")
        assert refused.value.status == 409
        with pytest.raises(RequestProblem, match="no stream 'gate'"):
            streams.get("gate")
        await streams.replace(other.id, body(name="gate"))
        await streams.remove("door")
        await streams.stop("gate")
        assert streams.all() == [other]
