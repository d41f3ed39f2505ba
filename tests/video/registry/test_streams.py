"""The table of streams where its file cannot be written, and where who asks goes away meanwhile."""

import logging
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event
from typing import ClassVar

import pytest
import trio
import trio.testing

from lva import RequestProblem
from lva.video import messages
from lva.video.codes import ENDED, StreamState
from lva.video.definition import StreamDefinition
from lva.video.registry.admission import Admission
from lva.video.registry.store import StoredStream, StoreError, StreamStore
from lva.video.registry.streams import Streams
from lva.video.supervision.stream import StreamServices


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
async def table(path, listener, not_ready=lambda _: None):
    services = StreamServices(
        parameters, listener, logging.getLogger("lva.test"), trio.sleep, not_ready=not_ready
    )
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


async def test_what_could_not_be_written_is_written_once_it_can_be(tmp_path, monkeypatch, caplog):
    """The kind is a full disk or a broken file: streams go on, readiness tells, and no change is lost."""
    monkeypatch.setattr("lva.video.registry.keeper.RETRY", 0.01)
    path, said = tmp_path / "streams.sqlite3", []
    async with table(path, Listener(), said.append) as (streams, stream):
        whole = path.read_bytes()
        path.write_bytes(b"no database " * 200)
        with pytest.raises(StoreError):
            await streams.stop(stream.id)
        assert stream.state == "stop"
        assert "streams cannot be kept" in said[-1]
        path.write_bytes(whole)
        with trio.fail_after(5):
            while said[-1] is not None:
                await trio.sleep(0.01)
        assert [row.status for row in StreamStore(path).load()] == ["stop"]
    assert caplog.text.count("streams are worked on all the same") == 1


async def test_a_file_that_cannot_be_read_is_waited_for_and_not_touched(tmp_path, monkeypatch):
    """The kind is a file of a newer version, or a broken one: what is in it is not lost."""
    monkeypatch.setattr("lva.video.registry.keeper.RETRY", 0.01)
    path, said = tmp_path / "streams.sqlite3", []
    broken = b"no database " * 200
    path.write_bytes(broken)
    services = StreamServices(
        parameters, Listener(), logging.getLogger("lva.test"), trio.sleep, not_ready=said.append
    )
    streams = Streams(path, Admission(["test"], [], parameters), services)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams.run)
        for asked in (partial(streams.create, body()), partial(streams.stop, "door")):
            with pytest.raises(
                RequestProblem, match="file is not a database; move it away"
            ) as refused:
                await asked()
            assert refused.value.status == 503
        with pytest.raises(RequestProblem, match="file is not a database"):
            streams.check_known()
        assert path.read_bytes() == broken
        path.unlink()
        with trio.fail_after(5):
            while said[-1] is not None:
                await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked()
        streams.check_known()
        assert (await streams.create(body())).state == "pending"
        nursery.cancel_scope.cancel()


async def test_a_new_definition_of_a_stream_that_was_done_is_begun_after_a_restart(tmp_path):
    """The kind is a state in the file that is older than the stream's."""
    path = tmp_path / "streams.sqlite3"
    async with table(path, Listener()) as (streams, stream):
        await streams.stop(stream.id)
        stream.move(StreamState.PENDING, "as if resumed")
        stream.move(StreamState.DONE, "as if it had ended")
        await streams.replace(stream.id, body(name="gate"))
        assert [row.status for row in StreamStore(path).load()] == ["pending"]


@pytest.mark.parametrize(
    ("changes", "status", "kept", "state", "said"),
    [
        ({}, "in_progress", "pending", "paused", "the service was restarted"),
        ({"source": "test:?live=0"}, "in_progress", "pending", "paused", "the file starts again"),
        ({}, "stop", "stop", "stop", "why; this was before the service was restarted"),
        ({}, "done", "done", "done", "why; this was before the service was restarted"),
        ({}, "failure", "failure", "failure", "why; this was before the service was restarted"),
        ({"source": "rtsp://a/1"}, "pending", "failure", "failure", "scheme 'rtsp' is not allowed"),
    ],
)
async def test_what_is_taken_up_after_a_restart(tmp_path, changes, status, kept, state, said):
    """The kind is each state in which a service may have ended, and settings that have changed since."""
    path = tmp_path / "streams.sqlite3"
    text = StreamDefinition.model_validate(body(**changes)).model_dump_json()
    StreamStore(path).save(StoredStream("a", 3, status, 1.0, text, "timeout", "why"))
    StreamStore(path).save(StoredStream("b", 1, "a state of a newer version", 2.0, text))
    StreamStore(path).save(StoredStream("c", 1, "pending", 3.0, "{}"))
    async with table(path, Listener()) as (streams, _):
        stream = streams.get("a")
        assert (stream.version, stream.state) == (3, state)
        assert stream.log[0]["status"] == kept
        assert said in stream.log[0]["reason"]
        assert (stream.change.code == "timeout") is (status == state)
        assert len(streams.here()) == 2
    assert {"b", "c"} < {
        row.id for row in StreamStore(path).load()
    }  # what is not understood is not lost


async def test_why_a_stream_has_ended_is_kept(tmp_path):
    path = tmp_path / "streams.sqlite3"
    for times in (1, 2):  # and not said once more each time
        async with table(path, Listener()) as (streams, stream):
            stream = streams.here()[0]
            if times == 1:
                await streams.stop(stream.id)
            assert [(row.code, row.reason) for row in StreamStore(path).load()][0] == (
                None,
                "stopped by a user",
            )
            assert stream.change.reason.count("before the service was restarted") == times - 1


async def test_there_are_no_more_streams_than_allowed(tmp_path):
    path = tmp_path / "streams.sqlite3"
    services = StreamServices(parameters, Listener(), logging.getLogger("lva.test"), trio.sleep)
    streams = Streams(path, Admission(["test"], [], parameters), services, most=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams.run)
        made = []

        async def create():
            with suppress(RequestProblem):
                made.append(await streams.create(body()))

        async with trio.open_nursery() as creating:
            for _ in range(5):
                creating.start_soon(create)
        assert len(made) == len(streams.here()) == len(StreamStore(path).load()) == 2
        with pytest.raises(RequestProblem, match="there are 2 streams") as refused:
            await streams.create(body())
        assert (refused.value.status, refused.value.error_code) == (409, "too_many_streams")
        await streams.remove(made[0].id)
        await streams.create(body())
        nursery.cancel_scope.cancel()


async def test_a_stream_that_is_resumed_begins_with_all_its_plugins(tmp_path):
    """The kind is a plugin that was set aside, and that its author has mended since."""
    async with table(tmp_path / "streams.sqlite3", Listener()) as (streams, stream):
        stream.put_aside("motion", "failed too often")
        await streams.stop(stream.id)
        assert stream.set_aside
        await streams.resume(stream.id)
        assert not stream.set_aside


@pytest.mark.slow("a storm of changes")
async def test_many_changes_at_once_leave_one_work_on_a_stream(tmp_path):
    """The kind is a storm of requests: each is carried out or refused, and nothing of them is left."""
    path = tmp_path / "streams.sqlite3"
    async with table(path, Listener()) as (streams, stream):
        refused = []

        async def change(work):
            try:
                await work()
            except RequestProblem as problem:
                refused.append(problem.status)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(change, partial(streams.stop, stream.id))
                nursery.start_soon(change, partial(streams.resume, stream.id))
                changed = partial(streams.replace, stream.id, body(name=f"n{number}"), {1})
                nursery.start_soon(change, changed)
        assert refused.count(412) == 9
        assert stream.version == 2
        assert len(streams._tasks) == (stream.state not in ENDED)
        async with trio.open_nursery() as nursery:
            for work in (streams.remove, streams.stop, streams.remove, streams.resume):
                nursery.start_soon(change, partial(work, stream.id))
        assert streams.here() == []
        assert not len(streams._tasks)


async def test_a_stream_may_end_by_itself_while_it_is_being_removed(tmp_path):
    """The kind is what waits behind a removal: it finds that the stream is no more, and harms nobody."""
    path = tmp_path / "streams.sqlite3"
    async with table(path, Listener()) as (streams, stream):
        async with trio.open_nursery() as nursery, stream.changing:
            for work in (
                partial(streams.remove, stream.id),
                partial(streams._keep_end, stream),
            ):
                nursery.start_soon(work)
                await trio.testing.wait_all_tasks_blocked()
        assert StreamStore(path).load() == streams.here() == []


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
        assert streams.here() == [other]


class Mount(type(Path())):
    """A directory on a server that does not respond until it is told to."""

    responds: ClassVar[Event] = Event()

    def resolve(self, strict: bool = False) -> Path:
        self.responds.wait()
        return super().resolve(strict)


async def test_a_file_system_that_does_not_respond_keeps_nobody_but_its_own_streams(
    tmp_path, monkeypatch
):
    """The kind is a mount whose server is away: a look at a path on it never returns."""
    monkeypatch.setattr("lva.video.registry.admission.PATIENCE", 0.05)
    path, listener = tmp_path / "streams.sqlite3", Listener()
    store = StreamStore(path)
    for name, source in (("file", "/mnt/away/x.mp4"), ("test", "test:")):
        kept = StreamDefinition.model_validate(body(name=name, source=source)).model_dump_json()
        store.save(StoredStream(name, 1, "stop", 1.0, kept, None, ""))
        store.save(StoredStream(f"{name} works", 1, "pending", 2.0, kept, None, ""))
    services = StreamServices(parameters, listener, logging.getLogger("lva.test"), trio.sleep)
    admission = Admission(["test", "file"], [Mount("/mnt/away")], parameters)
    streams = Streams(path, admission, services)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(streams.run)
            assert (await streams.create(body())).state == "pending"
            with pytest.raises(RequestProblem, match="did not respond within 0.05 s") as refused:
                await streams.create(body(source="file:///mnt/away/y.mp4"))
            assert refused.value.status == 503
            found = {each.id: each for each in streams.here()}
            assert [*found][:4] == ["file", "test", "file works", "test works"]
            assert (found["file works"].state, found["file works"].change.code) == (
                "failure",
                "timeout",
            )
            assert (found["file"].state, found["test works"].state) == ("stop", "paused")
            nursery.cancel_scope.cancel()
    finally:
        Mount.responds.set()


async def test_a_definition_that_no_worker_could_be_sent_is_refused(tmp_path):
    """The kind is what passes each check by itself, and is too large with all that goes with it."""
    admission = Admission(["test"], [], parameters)
    for size, taken in ((messages.MAX_TEXT - 2000, True), (messages.MAX_TEXT - 200, False)):
        whole = body(analytics=[{"name": "a", "parameters": {"x": "x" * size}}])
        if taken:
            await admission.admit(whole)
            continue
        with pytest.raises(RequestProblem, match="at most 1048576 are taken") as refused:
            await admission.admit(whole)
        assert refused.value.members["errors"][0]["key"] == "analytics"
