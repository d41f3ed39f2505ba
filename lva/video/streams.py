"""All streams of one agent: made, changed, stopped, resumed, removed, and kept over a restart."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import trio
from pydantic import ValidationError

from lva.video import messages
from lva.video.codes import StreamState
from lva.video.definition import StreamDefinition
from lva.video.source import SourceError, parse_source
from lva.video.store import StoredStream, StoreError, StreamStore
from lva.video.stream import Stream, StreamServices
from lva.video.supervisor import Supervisor

T = TypeVar("T")
#: How long, in seconds, a change waits for those streams that are kept to be taken up.
START_PATIENCE: Final = 5.0
#: Connections that may be made at once, and the seconds between more.
BURST: Final = 8
SPACING: Final = 0.1


class StreamRequestError(Exception):
    """A request that cannot be carried out.

    Args:
        status: For HTTP: 400, 404, 409 or 503.
        message: What to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status: int = status


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
        schemes: Schemes of sources that are allowed.
        directories: Below which files are.
        services: What they use of the plugin that has them.
        most: Most streams.
    """

    def __init__(
        self,
        path: Path,
        schemes: Sequence[str],
        directories: Sequence[Path],
        services: StreamServices,
        most: int = 100,
    ) -> None:
        self._streams: dict[str, Stream] = {}
        self._scopes: dict[str, tuple[trio.CancelScope, trio.Event]] = {}
        self._created: dict[str, float] = {}
        self._store = StreamStore(path)
        self._thread = trio.CapacityLimiter(1)
        self._schemes = schemes
        self._directories = directories
        self._services = services
        self._logger = services.logger
        self._most = most
        self._changing = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self._begun = trio.Event()

    async def run(self) -> None:
        """Take up the streams that are kept, and work on all streams until cancelled.

        Cancellation ends all workers; none is left then.

        Raises:
            StoreError: The file cannot be used.
        """
        stored = await self._in_thread(self._store.load)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for row in stored:
                self._take_up(row)
            self._begun.set()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def _take_up(self, row: StoredStream) -> None:
        try:
            definition = StreamDefinition.model_validate_json(row.definition)
            stream = self._new(row.id, definition)
        except (ValidationError, StreamRequestError) as error:
            self._logger.error("stream %s is not taken up: %s", row.id, error)
            return
        stream.version = row.version
        self._created[row.id] = row.created
        state = StreamState(row.status)
        if state in {StreamState.STOP, StreamState.DONE, StreamState.FAILURE}:
            stream.move(state, "as before the restart of the service")
            return
        again = "" if stream.source.live else "; the file starts again"
        stream.move(StreamState.PENDING, f"the service was restarted{again}")
        self._begin(stream)

    def all(self) -> list[Stream]:
        """Return all streams, oldest first."""
        return list(self._streams.values())

    def get(self, key: str) -> Stream:
        """Return the stream of an id, or else the one of a name.

        Raises:
            StreamRequestError: There is none, or several have this name.
        """
        if key in self._streams:
            return self._streams[key]
        named = [stream for stream in self._streams.values() if stream.definition.name == key]
        if len(named) > 1:
            ids = ", ".join(stream.id for stream in named)
            raise StreamRequestError(409, f"several streams are named {key!r}; use an id: {ids}")
        if not named:
            raise StreamRequestError(404, f"there is no stream {key!r}")
        return named[0]

    async def create(self, body: Any) -> Stream:
        """Make a stream and begin to work on it; once this returns, it is kept.

        Raises:
            StreamRequestError: The definition is wrong, or there are too many streams.
            StoreError: It cannot be kept.
        """
        definition = self._checked(body)
        async with self._change():
            if len(self._streams) >= self._most:
                raise StreamRequestError(
                    409, f"there are {self._most} streams, the most allowed (max_streams)"
                )
            stream = self._new(str(uuid.uuid4()), definition)
            self._created[stream.id] = time.time()
            try:
                await self._keep(stream)
            except BaseException:
                del self._streams[stream.id]
                raise
        stream.move(StreamState.PENDING, "created")
        self._begin(stream)
        return stream

    async def replace(self, key: str, body: Any) -> Stream:
        """Give a stream another definition, of the next version; it begins anew if it is not stopped.

        Raises:
            StreamRequestError, StoreError: As `create`.
        """
        definition = self._checked(body)
        source = self._source(definition)
        async with self._change():
            stream = self.get(key)
            before = stream.definition, stream.source
            stream.definition, stream.source = definition, source
            stream.version += 1
            try:
                await self._keep(stream)
            except StoreError:
                stream.definition, stream.source = before
                stream.version -= 1
                raise
            await self._end(stream)
            stream.set_aside.clear()
            if stream.state is not StreamState.STOP:
                stream.move(StreamState.PENDING, f"version {stream.version}")
                self._begin(stream)
        return stream

    async def stop(self, key: str) -> Stream:
        """Stop a stream; once this returns, its worker has ended.

        Raises:
            StreamRequestError: There is none of this id or name, or it is stopped.
            StoreError: That it is stopped cannot be kept; it is stopped all the same.
        """
        async with self._change():
            stream = self.get(key)
            if stream.state is StreamState.STOP:
                raise StreamRequestError(409, "the stream is stopped already")
            await self._end(stream)
            stream.move(StreamState.STOP, "stopped by a user")
            await self._keep(stream)
        return stream

    async def resume(self, key: str) -> Stream:
        """Resume a stream that is stopped, done or has failed.

        Raises:
            StreamRequestError: There is none of this id or name, or it is worked on.
            StoreError: That it is resumed cannot be kept; it is resumed all the same.
        """
        async with self._change():
            stream = self.get(key)
            if stream.id in self._scopes:
                raise StreamRequestError(409, f"the stream is {stream.state.value}, not stopped")
            stream.move(StreamState.PENDING, "resumed by a user")
            try:
                await self._keep(stream)
            finally:
                self._begin(stream)
        return stream

    async def remove(self, key: str) -> None:
        """Stop a stream and forget it.

        Raises:
            StreamRequestError: There is none of this id or name.
            StoreError: It is still in the file; it is stopped.
        """
        async with self._change():
            stream = self.get(key)
            await self._end(stream)
            try:
                await self._in_thread(partial(self._store.delete, stream.id))
            except StoreError:
                stream.move(StreamState.STOP, "stopped, and could not be removed")
                raise
            del self._streams[stream.id]
            stream.events.clear()
            self._created.pop(stream.id, None)

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[None]:
        """Let one change at a time be made, and each wholly: its client may go away meanwhile."""
        async with self._changing:
            with trio.move_on_after(START_PATIENCE):  # routes are there a moment before
                await self._begun.wait()
            if self._nursery is None:
                raise StreamRequestError(503, "streams are being started or stopped; try again")
            with trio.CancelScope(shield=True):
                yield

    def _checked(self, body: Any) -> StreamDefinition:
        try:
            definition = StreamDefinition.model_validate(body)
            messages.encode({"analytics": self._services.analytics(definition)})  # what can be sent
        except ValidationError as error:
            raise StreamRequestError(400, "; ".join(_lines(error))) from None
        except (LookupError, ValueError) as error:
            raise StreamRequestError(400, str(error.args[0] if error.args else error)) from None
        self._source(definition)
        return definition

    def _source(self, definition: StreamDefinition) -> Any:
        try:
            return parse_source(definition.source, self._schemes, self._directories)
        except SourceError as error:
            raise StreamRequestError(400, str(error)) from None

    def _new(self, stream_id: str, definition: StreamDefinition) -> Stream:
        stream = self._streams[stream_id] = Stream(
            stream_id, definition, self._source(definition), self._services
        )
        return stream

    def _begin(self, stream: Stream) -> None:
        if self._nursery is None:
            return  # the service stops; the stream is taken up when it starts again
        scope, ended = self._scopes[stream.id] = trio.CancelScope(), trio.Event()
        name = f"stream {stream.definition.name}"
        self._nursery.start_soon(self._supervise, stream, scope, ended, name=name)

    async def _supervise(self, stream: Stream, scope: trio.CancelScope, ended: trio.Event) -> None:
        try:
            with scope:
                await Supervisor(stream).run()
        except Exception:
            self._logger.exception("stream %s: its supervisor failed", stream.definition.name)
            stream.move(StreamState.FAILURE, "a fault of the service; its log says more")
        finally:
            del self._scopes[stream.id]
            ended.set()
        if not scope.cancelled_caught:
            try:
                await self._keep(stream)
            except StoreError as error:
                self._logger.error(
                    "stream %s: its end is not kept: %s", stream.definition.name, error
                )

    async def _end(self, stream: Stream) -> None:
        """End the work on a stream; afterwards no process of it is left."""
        if (running := self._scopes.get(stream.id)) is not None:
            scope, ended = running
            scope.cancel()
            await ended.wait()

    async def _keep(self, stream: Stream) -> None:
        row = StoredStream(
            stream.id,
            stream.version,
            stream.state.value,
            self._created[stream.id],
            stream.definition.model_dump_json(),
        )
        await self._in_thread(partial(self._store.save, row))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._thread)


def _lines(error: ValidationError) -> list[str]:
    """Return what is wrong with the path of each key, without values, which may be secret."""
    return [
        f"{'.'.join(map(str, item['loc'])) or 'the body'}: {item['msg']}"
        for item in error.errors(include_input=False, include_context=False, include_url=False)
    ]
