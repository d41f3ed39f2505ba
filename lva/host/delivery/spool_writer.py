"""Writes segments of a spool behind, and deletes them, in group commits."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import trio

from lva.host.delivery.mailbox import Books
from lva.host.delivery.segment import Segment
from lva.host.delivery.spool_file import Row, Rows, SpoolFile
from lva.host.process.threads import in_thread
from lva.logs.loggers import brief
from lva.logs.recurring import Recurring

#: Most runs of rows that one commit makes one row of: a commit is to be short.
_RUNS: Final = 10
#: How long, in seconds, points gather before a group commit.
COMMIT_INTERVAL: Final = 0.05
#: How long, in seconds, to wait after a commit that failed.
_RETRY: Final = 1.0

#: Told of segments that were written, each with its size on disk, with the books open.
Written = Callable[[Iterable[tuple[Segment, int]]], None]


class SpoolWriter:
    """What is to be written to a spool's file, and the task that does it.

    Args:
        file: The open file.
        books: Those of the mailbox.
        written: Told of what a commit has written.
        logger: The plugin's logger.

    Attributes:
        open: The last segment, while points are added to it.
        runs: Rows that follow one another, each run to become one.
        writing: Held by who writes.
    """

    def __init__(
        self, file: SpoolFile, books: Books, written: Written, logger: logging.Logger
    ) -> None:
        self.file: SpoolFile = file
        self.open: Segment | None = None
        self.runs: list[Rows] = []
        self.writing: trio.Lock = trio.Lock()
        self._books = books
        self._written = written
        self._logger = logger
        self._unwritten: list[Segment] = []  # which no commit has begun to write, in order
        self._settled: list[Rows] = []  # to be deleted
        self._work = trio.Event()
        self._work_asked = False
        self._token = trio.lowlevel.current_trio_token()
        self._thread = trio.CapacityLimiter(1)
        self._scope = trio.CancelScope()
        self._failures = Recurring(trio.current_time)

    def begin(self, segment: Segment) -> None:
        """Let a new segment be the open one."""
        self.open = segment
        self._unwritten.append(segment)

    def outstanding(self) -> list[Segment]:
        """Return the segments that no commit has begun to write, oldest first."""
        self._unwritten = [segment for segment in self._unwritten if segment.left]
        return self._unwritten

    def ask(self) -> None:
        """Ask for a commit, at any moment."""
        if not self._work_asked:
            self._work_asked = True
            self._token.run_sync_soon(self._begin)

    def _begin(self) -> None:
        self._work.set()

    def delete(self, segment: Segment) -> None:
        """Let the next commit delete a segment that is stored."""
        self._settled.append(segment.rows)
        self._work.set()

    async def run(self) -> None:
        """Commit whenever there is something to, until `stop`.

        Cancellation: a commit that has begun is completed first.

        Errors: of the disk are logged now and then; what was not written is tried again, and stays in memory.
        """
        with self._scope:
            while True:
                await self._work.wait()
                await trio.sleep(COMMIT_INTERVAL)
                self._work = trio.Event()
                self._work_asked = False
                if not await self.commit():
                    await trio.sleep(_RETRY)
                    self._work.set()

    def stop(self) -> None:
        """Begin no more commits."""
        self._scope.cancel()

    async def commit(self) -> bool:
        """Write and delete in one transaction; return whether that worked."""
        async with self.writing:
            with self._books:
                segments = self.outstanding()
                settled, runs = self._settled, self.runs[:_RUNS]
                self.open, self._unwritten, self._settled = None, [], []
            if not segments and not settled:
                return True
            points = {segment: segment.points or () for segment in segments}
            sizes = await self._write(points, settled, runs)
            with self._books:
                if sizes is None:
                    self._unwritten[:0] = segments
                    self._settled += settled
                else:
                    del self.runs[: len(runs)]
                    self._written(zip(segments, sizes, strict=True))
            return sizes is not None

    async def finish(self, rest: Mapping[Segment, Sequence[Any]]) -> tuple[bool, bool]:
        """Write what is left in the place of what is there of it, and close the file.

        To be called by who holds `writing`.

        Returns:
            Whether it was written, and whether the file is sound.
        """
        settled = [*self._settled, *(segment.rows for segment in rest)]
        sizes = await self._write(rest, settled)
        return sizes is not None, await in_thread(self.file.close, self._thread)

    async def write_anew(self, rest: Mapping[Segment, Sequence[Any]]) -> bool:
        """Write what is left to another file, as the one that `finish` has closed is damaged."""
        self._settled = []
        try:
            await in_thread(self.file.begin_anew, self._thread)
        except (OSError, sqlite3.Error) as error:
            self._log_failure(error)
            return False
        return all(await self.finish(rest))

    async def load(self, segment: Segment) -> tuple[list[Any], str]:
        """Read a segment; return its points but for those of damaged rows, and what is wrong with these."""
        try:
            return await in_thread(partial(self.file.load, segment.rows), self._thread)
        except sqlite3.Error as error:
            return [], brief(error)

    async def _write(
        self,
        points: Mapping[Segment, Sequence[Any]],
        settled: Sequence[Rows],
        runs: Sequence[Rows] = (),
    ) -> list[int] | None:
        """Return the sizes of the written segments; None, and log it, if they cannot be written."""
        unix = self.file.clock.wall() - trio.current_time()
        rows = [Row(segment.number, segment.since + unix, part) for segment, part in points.items()]
        work = partial(self.file.commit, rows, settled, runs)
        sizes: list[int] | None = None
        with trio.CancelScope(shield=True):
            try:
                sizes = await in_thread(work, self._thread)
            except Exception as error:  # noqa: BLE001 - logged; whatever it is, points must not get lost
                self._log_failure(error)
        return sizes

    def _log_failure(self, error: Exception) -> None:
        if self._failures.again():
            self._logger.error(
                "the spool cannot be written: %s; points stay in memory, within their limits",
                brief(error),
                exc_info=None if isinstance(error, OSError | sqlite3.Error) else error,
            )
