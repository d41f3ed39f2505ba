"""All streams of one agent: made, changed, stopped, resumed, removed, and kept over a restart.

Cancellation takes effect before a change is begun, and never midway: its client may go away meanwhile.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Container, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import trio
from pydantic import ValidationError

from lva.contract import RequestProblem
from lva.routes.wrong_keys import WrongKeysError, wrong_keys
from lva.video.callbacks import WITH_SECRETS
from lva.video.codes import ENDED, Ended, StreamState
from lva.video.definition import StreamDefinition
from lva.video.registry.admission import Admission, SilentFilesError
from lva.video.registry.elsewhere import Elsewhere
from lva.video.registry.keeper import Keeper
from lva.video.registry.revision import revised
from lva.video.registry.store import StoredStream, StoreError, StreamStore
from lva.video.source import Source, no_source
from lva.video.supervision.stream import Stream, StreamServices
from lva.video.supervision.tasks import StreamTasks

#: How long, in seconds, a change waits for those streams that are kept to be taken up.
START_PATIENCE: Final = 5.0
#: Connections that may be made at once, and the seconds between more.
BURST: Final = 8
SPACING: Final = 0.1

#: How the reason of a stream ends that has ended before.
_BEFORE: Final = "; this was before the service was restarted"


class Pace:
    """Lets connections be made a few at once, and more of them one after the other.

    Fifty cameras that come back after a power cut do not all connect in the same second.
    """

    def __init__(self) -> None:
        self._free = 0.0

    async def __call__(self) -> None:
        """Wait for the turn of one connection."""
        now = trio.current_time()
        self._free = max(self._free, now - BURST * SPACING) + SPACING
        await trio.sleep(max(0.0, self._free - now))


class Streams:
    """The table of streams, and their supervisors' tasks.

    Args:
        path: The file in which they are kept.
        admission: Says which definitions are allowed.
        services: What they use of the plugin that has them.
        most: Most streams.
    """

    def __init__(
        self, path: Path, admission: Admission, services: StreamServices, most: int = 100
    ) -> None:
        self._streams: dict[str, Stream] = {}
        self._tasks = StreamTasks(self._keep_end, services.logger)
        self._keeper = Keeper(StreamStore(path), services.logger, services.not_ready)
        self._admission = admission
        self._services = services
        self._logger = services.logger
        self._most = most
        self._begun = trio.Event()

    async def run(self) -> None:
        """Take up the streams that are kept, once their file can be read; work on all until cancelled.

        Cancellation: ends all workers; none is left then.

        Errors: a stream that cannot be taken up is logged; a fault in the work on one ends that one alone.
        """
        stored = await self._keeper.load()
        async with trio.open_nursery() as nursery:
            self._tasks.begin_in(nursery)
            await self._take_up_all(stored)
            self._begun.set()
            try:
                await self._keeper.run()
            finally:
                self._tasks.begin_in(None)

    async def _take_up_all(self, stored: Sequence[StoredStream]) -> None:
        """Take up all, oldest first; the file systems of all sources are waited for at the same time."""
        found: dict[str, tuple[StreamDefinition, Source, Ended | None]] = {}

        async def look(row: StoredStream) -> None:
            try:
                definition = StreamDefinition.model_validate_json(row.definition)
            except ValidationError as error:
                self._not_taken_up(row, wrong_keys(error))
                return
            source, wrong = no_source(definition.source), None
            try:
                source = await self._admission.source(definition)
            except WrongKeysError as error:  # the settings are others now
                wrong = Ended("forbidden", str(error))
            except SilentFilesError as error:
                wrong = Ended("timeout", str(error))
            found[row.id] = definition, source, wrong

        async with trio.open_nursery() as nursery:
            for row in stored:
                nursery.start_soon(look, row)
        for row in stored:
            if row.id in found:
                self._take_up(row, *found[row.id])

    def _take_up(
        self,
        row: StoredStream,
        definition: StreamDefinition,
        source: Source,
        wrong: Ended | None,
    ) -> None:
        try:
            state = StreamState(row.status)
        except ValueError:  # what a newer version of LVA has written
            self._not_taken_up(row, f"its state is {row.status!r}, which is not known")
            return
        stream = self._streams[row.id] = Stream(row.id, definition, source, self._services)
        stream.version, stream.created = row.version, row.created
        if state in ENDED:
            reason = f"{row.reason}{_BEFORE}".removeprefix("; ")
            stream.move(state, reason, row.code)
        elif wrong is not None:
            stream.move(StreamState.FAILURE, wrong.reason, wrong.code)
        else:
            again = "" if source.live else "; the file starts again"
            stream.move(StreamState.PENDING, f"the service was restarted{again}")
            self._tasks.begin(stream)

    def _not_taken_up(self, row: StoredStream, why: object) -> None:
        self._logger.error("stream %s is kept, and not taken up: %s", row.id, why)

    def here(self) -> list[Stream]:
        """Return all streams, oldest first: each is worked on here."""
        return list(self._streams.values())

    def search(self, status: str | None, name: str | None, analytics: str | None) -> list[str]:
        """Return the ids of the streams that are in a state, have a name and use a plugin, oldest first."""
        return [
            stream.id
            for stream in self._streams.values()
            if (status is None or stream.state.value == status)
            and (name is None or stream.definition.name == name)
            and (analytics is None or analytics in stream.definition.analytics_names)
        ]

    def last_here(self, stream_id: str) -> Stream | None:
        """Return a stream that was worked on here last."""
        return self._streams.get(stream_id)

    def status(self, stream: Stream | Elsewhere) -> dict[str, Any]:
        """Return what `/streams/ID` shows."""
        return stream.status()

    async def logs(self, stream: Stream | Elsewhere) -> list[dict[str, Any]]:
        """Return a stream's changes, newest first."""
        await trio.lowlevel.checkpoint()
        return list(reversed(self._streams[stream.id].log))

    def check_known(self) -> None:
        """Refuse to tell of streams as long as the file in which they are cannot be read.

        Raises:
            RequestProblem: It cannot.
        """
        if not self._begun.is_set() and self._keeper.trouble is not None:
            raise unavailable(self._keeper.trouble)

    def get(self, key: str) -> Stream:
        """Return the stream of an id, or else the one of a name.

        Raises:
            RequestProblem: There is none, or several have this name.
        """
        if key in self._streams:
            return self._streams[key]
        named = [stream.id for stream in self._streams.values() if stream.definition.name == key]
        if not named:
            self.check_known()
        return self._streams[the_only(named, key)]

    async def create(self, body: Any) -> Stream:
        """Make a stream and begin to work on it; once this returns, it is kept.

        Raises:
            RequestProblem: The definition is wrong, or there are too many streams.
            StoreError: It cannot be kept.
        """
        definition, source = await self._admission.admit(body)
        stream = Stream(str(uuid.uuid4()), definition, source, self._services)
        async with self._change(stream):
            if len(self._streams) >= self._most:
                what = f"there are {self._most} streams, the most allowed (max_streams)"
                raise RequestProblem(409, what, "too_many_streams")
            self._streams[stream.id] = stream
            try:
                await self._keeper.save(self._row(stream))
            except BaseException:
                del self._streams[stream.id]
                raise
            stream.move(StreamState.PENDING, "created")
            self._tasks.begin(stream)
        return stream

    async def replace(self, key: str, body: Any, versions: Container[int] | None = None) -> Stream:
        """Give a stream another definition, of the next version; it begins anew if it is not stopped.

        Args:
            key: Its id or name.
            body, versions: As `lva.video.registry.revision.revised` takes them.

        Raises:
            RequestProblem, StoreError: As `create`; and it has another version, 412 or 409.
        """
        async with self._change_of(key) as stream:
            before = stream.definition, stream.source
            definition, source = await revised(
                self._admission, body, stream.version, before, versions
            )
            stream.definition, stream.source = definition, source
            stream.version += 1
            stopped = stream.state is StreamState.STOP
            next_state = StreamState.STOP if stopped else StreamState.PENDING
            try:
                await self._keeper.save(self._row(stream, next_state))
            except StoreError:
                stream.definition, stream.source = before
                stream.version -= 1
                raise
            await self._tasks.end(stream)
            if not stopped:
                stream.move(StreamState.PENDING, f"version {stream.version}")
                self._tasks.begin(stream)
        return stream

    async def stop(self, key: str) -> Stream:
        """Stop a stream; once this returns, its worker has ended.

        Raises:
            RequestProblem: There is none of this id or name, or it is not worked on.
            StoreError: That it is stopped cannot be kept yet; it is stopped all the same.
        """
        async with self._change_of(key) as stream:
            if stream.state in ENDED:
                what = (
                    f"the stream is {stream.state.value}; only one that is worked on can be stopped"
                )
                status = stream.state.value
                raise RequestProblem(409, what, "stream_not_in_progress", stream_status=status)
            await self._tasks.end(stream)
            stream.move(StreamState.STOP, "stopped by a user")
            await self._keeper.save_now_or_later(self._row(stream))
        return stream

    async def resume(self, key: str) -> Stream:
        """Resume a stream that is stopped, done or has failed.

        Raises:
            RequestProblem: There is none of this id or name, or it is worked on.
            StoreError: That it is resumed cannot be kept yet; it is resumed all the same.
        """
        async with self._change_of(key) as stream:
            if stream.state not in ENDED:
                what = f"the stream is {stream.state.value}, not stopped"
                status = stream.state.value
                raise RequestProblem(409, what, "stream_not_stopped", stream_status=status)
            await self._tasks.end(stream)
            _, stream.source = await self._admission.admit(stream.definition)
            stream.move(StreamState.PENDING, "resumed by a user")
            try:
                await self._keeper.save_now_or_later(self._row(stream))
            finally:
                self._tasks.begin(stream)
        return stream

    async def remove(self, key: str) -> None:
        """Stop a stream and forget it.

        Raises:
            RequestProblem: There is none of this id or name.
            StoreError: It is still in the file; it is stopped.
        """
        async with self._change_of(key) as stream:
            await self._tasks.end(stream)
            try:
                await self._keeper.delete(stream.id)
            except StoreError:
                stream.move(StreamState.STOP, "stopped, and could not be removed")
                raise
            if stream.state not in ENDED:
                stream.move(StreamState.STOP, "removed by a user")
            stream.events.clear()
            del self._streams[stream.id]

    @asynccontextmanager
    async def _change_of(self, key: str) -> AsyncIterator[Stream]:
        """Let one change at a time be made to a stream that is there."""
        await self._until_begun()
        stream = self.get(key)
        async with self._change(stream):
            if stream.id not in self._streams:  # removed while this waited
                raise unknown(key)
            yield stream

    async def _until_begun(self) -> None:
        with trio.move_on_after(START_PATIENCE):  # routes are there a moment before
            await self._keeper.tried.wait()
            if self._keeper.trouble is None:
                await self._begun.wait()

    @asynccontextmanager
    async def _change(self, stream: Stream) -> AsyncIterator[None]:
        """Let one change at a time be made to a stream, and each wholly: its client may go away meanwhile."""
        await self._until_begun()
        async with stream.changing:
            if not self._tasks.open:
                self.check_known()
                raise unavailable("streams are being started or stopped; try again")
            with trio.CancelScope(shield=True):
                yield

    async def _keep_end(self, stream: Stream) -> None:
        """Keep that a stream is done or has failed, unless it was changed meanwhile, or removed."""
        async with stream.changing:
            if stream.id in self._streams and stream.state in ENDED:
                with suppress(StoreError):  # it is logged, and written later
                    await self._keeper.save_now_or_later(self._row(stream))

    def _row(self, stream: Stream, state: StreamState | None = None) -> StoredStream:
        why = stream.change if state is None else None
        return StoredStream(
            stream.id,
            stream.version,
            (state or stream.state).value,
            stream.created,
            stream.definition.model_dump_json(context=WITH_SECRETS),
            None if why is None else why.code,
            "" if why is None else why.reason.removesuffix(_BEFORE),
        )


def the_only(named: list[str], key: str) -> str:
    """Return the id of the only stream of a name.

    Args:
        named: The ids of all that have it.
        key: It.

    Raises:
        RequestProblem: There is none, or there are several.
    """
    if not named:
        raise unknown(key)
    if len(named) > 1:
        what = f"several streams are named {key!r}; use an id: {', '.join(named)}"
        raise RequestProblem(409, what, "name_is_ambiguous")
    return named[0]


def unknown(key: str) -> RequestProblem:
    """Return the problem that there is no such stream."""
    return RequestProblem(404, f"there is no stream {key!r}", "unknown_stream")


def unavailable(what: str) -> RequestProblem:
    """Return the problem that streams cannot be told of, or changed, now."""
    return RequestProblem(503, what, "streams_unavailable", {"Retry-After": "1"})
