"""Keeps streams over a restart: writes them at once, or as soon as the file can be written again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import trio

from lva.video.registry.store import StoredStream, StoreError, StreamStore

T = TypeVar("T")
#: Seconds between two attempts at a file that cannot be used.
RETRY: Final = 2.0


class Keeper:
    """What streams have of their file. What cannot be written is not forgotten.

    Args:
        store: The file.
        logger: Where it is told that the file cannot be used, and that it can be again.
        not_ready: Told why the service is not ready, or None once it is.

    Attributes:
        trouble: Why the file cannot be used; None if it can, as far as is known.
        tried: Set once that is known.
    """

    def __init__(
        self,
        store: StreamStore,
        logger: logging.Logger,
        not_ready: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self.trouble: str | None = None
        self.tried: trio.Event = trio.Event()
        self._store = store
        self._logger = logger
        self._not_ready = not_ready
        self._late: dict[str, StoredStream] = {}
        self._using = trio.Lock()  # until what follows from it is noted, too

    async def load(self) -> list[StoredStream]:
        """Return all streams that are kept, oldest first; waits for as long as the file cannot be read.

        Cancellation: ends the wait; a file that is being read is read first.
        """
        while True:
            try:
                async with self._using:
                    return await self._do(self._store.load)
            except StoreError:
                await trio.sleep(RETRY)

    async def run(self) -> None:
        """Write what could not be written, once that is possible; until cancelled."""
        while True:
            await trio.sleep(RETRY)
            if self.trouble is not None or self._late:
                await self._catch_up()

    async def _catch_up(self) -> None:
        try:
            for stream_id in [*self._late]:
                async with self._using:
                    if (row := self._late.get(stream_id)) is not None:
                        await self._do(partial(self._store.save, row))
                        if self._late.get(stream_id) is row:
                            del self._late[stream_id]
            async with self._using:
                await self._do(self._store.check)
        except StoreError:
            return  # it is known

    async def save(self, row: StoredStream) -> None:
        """Write a stream.

        Cancellation: takes effect before it is written, or once that is done.

        Raises:
            StoreError: It cannot be written, and will not be.
        """
        async with self._using:
            await self._do(partial(self._store.save, row))
            self._late.pop(row.id, None)

    async def save_now_or_later(self, row: StoredStream) -> None:
        """Write a stream.

        Cancellation: as that of `save`; it is written later all the same.

        Raises:
            StoreError: It cannot be written now; it will be, unless the service ends before.
        """
        self._late[row.id] = row
        await self.save(row)

    async def delete(self, stream_id: str) -> None:
        """Delete a stream.

        Cancellation: takes effect before it is deleted, or once that is done.

        Raises:
            StoreError: It is still there.
        """
        async with self._using:
            await self._do(partial(self._store.delete, stream_id))
            self._late.pop(stream_id, None)

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            done = await trio.to_thread.run_sync(work)
        except StoreError as error:
            self._note(f"streams cannot be kept: {error}")
            raise
        self._note(None)
        return done

    def _note(self, trouble: str | None) -> None:
        before, self.trouble = self.trouble, trouble
        self.tried.set()
        if trouble == before:
            return
        self._not_ready(trouble)
        if trouble is None:
            self._logger.info("the file of streams can be used again")
        else:
            self._logger.error("%s; streams are worked on all the same", trouble)
