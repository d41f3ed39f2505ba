"""Works on one stream: within its schedule, one worker after the other, until it is done or has failed."""

from __future__ import annotations

from typing import Any, Final

import trio

from lva.errors import counted
from lva.routes.wrong_keys import WrongKeysError
from lva.video.codes import Ended, StreamState
from lva.video.definition import StreamDefinition
from lva.video.processes.process import open_worker
from lva.video.schedule import is_working_time
from lva.video.spec import spec_of
from lva.video.supervision.attempt import WorkerAttempt
from lva.video.supervision.retries import Retries
from lva.video.supervision.stream import Stream
from lva.video.supervision.watch import StallLimit

#: Times that an analytics plugin may end the worker until it is set aside for the stream.
MOST_CRASHES: Final = 3


class Supervisor:
    """The work on a stream, from its beginning or a user's `resume` on.

    Args:
        stream: It.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._retries = Retries(stream)
        self._stall = StallLimit(stream.definition.timeout)
        self._crashes: dict[str, int] = {}

    async def run(self) -> None:
        """Work on the stream until it is done, or has failed and is not restarted.

        Cancellation: ends its worker, within some two seconds; no process is left.
        """
        while await self._until_over() is StreamState.FAILURE:
            if not await self._retries.restart():
                return

    async def _until_over(self) -> StreamState:
        """Let one worker work after the other; return the state in which that ended."""
        while True:
            await self._until_scheduled()
            ended = await self._within_schedule()
            if ended is None:
                continue
            if ended.blamed is not None:
                self._blame(ended.blamed, ended.reason)
                await self._retries.after_blame(ended.code, ended.reason)
                continue
            final = ended.final or self._retries.used_up(ended.code)
            if final is not None:
                self._stream.move(final, ended.reason, ended.code)
                return final
            await self._retries.wait(ended.code, ended.reason)

    async def _until_scheduled(self) -> None:
        stream = self._stream
        while not is_working_time(stream.definition):
            if stream.state is not StreamState.PAUSED:
                stream.move(StreamState.PAUSED, "outside of its schedule")
            await trio.sleep(1)
        if stream.state is StreamState.PAUSED:
            stream.move(StreamState.PENDING, "within its schedule")

    async def _within_schedule(self) -> Ended | None:
        """Let one worker work; return how that ended, None if the schedule did or it is to be replaced.

        Cancellation: the worker is stopped first, see `open_worker`.

        Errors: that no worker can be started is an end like others; a fault of ours is raised.
        """
        found: list[Ended] = []
        async with trio.open_nursery() as nursery:
            self._stream.renewal, self._stream.renewed = "", trio.Event()
            nursery.start_soon(self._end_with_renewal, nursery.cancel_scope)
            if self._stream.definition.schedule:
                nursery.start_soon(self._end_with_schedule, nursery.cancel_scope)
            found.append(await self._one_worker())
            nursery.cancel_scope.cancel()
        if not found and self._stream.renewal:
            self._stream.move(StreamState.PENDING, self._stream.renewal)
        return found[0] if found else None

    async def _end_with_renewal(self, scope: trio.CancelScope) -> None:
        await self._stream.renewed.wait()
        scope.cancel()

    async def _end_with_schedule(self, scope: trio.CancelScope) -> None:
        while is_working_time(self._stream.definition):  # noqa: ASYNC110 - the wall clock tells nobody
            await trio.sleep(1)
        scope.cancel()

    async def _one_worker(self) -> Ended:
        stream, worker = self._stream, None
        try:
            spec = self._spec()
        except WrongKeysError as error:  # deactivated, or reloaded with other parameters
            return Ended("analytics_failed", str(error))
        try:
            async with open_worker(spec, stream.services.forks) as worker:
                stream.worker = worker
                stream.ledger.begin(worker.board)
                return await WorkerAttempt(stream, worker, self._retries, self._stall).run()
        except OSError as error:
            return Ended("worker_crashed", f"no worker process can be started: {error}")
        finally:
            stream.worker = None
            stream.previews.forget()
            if worker is not None:
                stream.look(worker)
                stream.rest()
                stream.ledger.end()
                stream.services.ends[worker.rung or "by itself"] += 1
                worker.board.close()

    def _spec(self) -> dict[str, Any]:
        stream, definition = self._stream, self._stream.definition
        used = stream.services.analytics(self._used(definition))
        level = stream.logger.getEffectiveLevel()
        return spec_of(stream.id, definition, stream.source, used, level)

    def _used(self, definition: StreamDefinition) -> StreamDefinition:
        """Return the definition without the plugins that are set aside."""
        used = [use for use in definition.analytics if use.name not in self._stream.set_aside]
        return definition.model_copy(update={"analytics": used})

    def _blame(self, analytics: str, reason: str) -> None:
        """Count that an analytics plugin ended the worker; the third time it is set aside."""
        count = self._crashes[analytics] = self._crashes.get(analytics, 0) + 1
        if count >= MOST_CRASHES:
            why = f"it ended the worker {counted(count, 'time')}, last: {reason}"
            self._stream.put_aside(analytics, why)
