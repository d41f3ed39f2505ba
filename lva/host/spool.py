"""A mailbox whose points outlive the process: an append-only store in SQLite, written behind.

Points go to the plugin straight from memory. Whatever has not been delivered by the next group commit is
written then, in segments, and deleted by the first commit after its delivery; so a plugin that keeps up
costs the disk nearly nothing. After a crash the segments that are still there are delivered again, in
order, before what is new: at least once.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from lva.errors import ConfigurationError
from lva.host.mailbox import DAMAGED, OVERFLOW, Batch, Mailbox, bytes_of
from lva.logs import brief
from lva.points import MonitoringPoint
from lva.settings import PluginSettings

LOGGER: Final = logging.getLogger("lva.host")

#: Written into each file, so that another format is recognized.
_APPLICATION: Final = 0x4C564153
VERSION: Final = 1
#: Most points of one segment.
_SEGMENT: Final = 1000
#: How long, in seconds, points gather before a group commit.
COMMIT_INTERVAL: Final = 0.05
#: How long, in seconds, to wait after a commit that failed, and until it is logged again.
_RETRY: Final = 1.0
_LOG_INTERVAL: Final = 10.0

_SCHEMA: Final = f"""
    PRAGMA application_id = {_APPLICATION};
    PRAGMA user_version = {VERSION};
    CREATE TABLE segments (
        number INTEGER PRIMARY KEY,
        since REAL NOT NULL,
        points INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        body BLOB NOT NULL
    );
"""


@dataclass(eq=False, slots=True)
class Segment:
    """A run of points that is stored, or will be, as one row.

    Attributes:
        number: Its place in the order.
        since: When its oldest point was accepted, in Trio time.
        count: How many points it has.
        size: Its size in bytes, of the encoded points once it is stored.
        left: How many of the points are not settled yet.
        points: The points, or None while they are only on disk.
        taken: How many points have been taken from it.
        stored: Whether it is on disk.
    """

    number: int
    since: float
    count: int
    size: int
    left: int
    points: list[Any] | None = field(default_factory=list)
    taken: int = 0
    stored: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A segment as it is to be stored; `since` in Unix seconds."""

    number: int
    since: float
    points: Sequence[MonitoringPoint]


class SpoolFile:
    """The file of one event class. Its methods block; one thread at a time uses them.

    Args:
        path: The file; its directory is made private.

    Raises:
        ConfigurationError: The file was made by another version of the service, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._connection = self._open()
        except sqlite3.OperationalError as error:
            why = "another running service uses it" if "locked" in str(error) else str(error)
            raise ConfigurationError([f"spool {path}: cannot be opened: {why}"]) from error
        except sqlite3.DatabaseError as error:
            self._set_aside(str(error))
            self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # one service, one spool
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                connection.executescript(_SCHEMA)
            elif (application, version) != (_APPLICATION, VERSION):
                raise ConfigurationError([_other_version(self.path, application, version)])
            self.path.chmod(0o600)
            self.index = [
                tuple(row)
                for row in connection.execute(
                    "SELECT number, since, points, bytes FROM segments ORDER BY number"
                )
            ]
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self, why: str) -> None:
        """Move a damaged file out of the way, with what belongs to it."""
        stamp = time.strftime("%Y%m%dT%H%M%S")
        for suffix in ("", "-wal", "-shm"):
            part = Path(f"{self.path}{suffix}")
            if part.exists():
                part.rename(f"{self.path}.damaged-{stamp}{suffix}")
        LOGGER.error(
            "spool %s: is damaged (%s); it was set aside with .damaged-%s at the end of its name, and a"
            " new one begins",
            self.path,
            why,
            stamp,
        )

    def commit(self, rows: Sequence[Row], settled: Iterable[int]) -> list[int]:
        """Write segments and delete others, in one transaction that reaches the disk.

        Returns:
            The size of each written segment, in bytes.
        """
        bodies = [encode(row.points) for row in rows]
        with closing(self._connection.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                cursor.executemany(
                    "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        (row.number, row.since, len(row.points), len(body), zlib.crc32(body), body)
                        for row, body in zip(rows, bodies, strict=True)
                    ],
                )
                cursor.executemany(
                    "DELETE FROM segments WHERE number = ?", [(number,) for number in settled]
                )
                cursor.execute("COMMIT")
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
        return [len(body) for body in bodies]

    def load(self, number: int) -> list[MonitoringPoint]:
        """Read the points of a segment.

        Raises:
            ValueError: They are damaged.
            sqlite3.Error: The file is.
        """
        row = self._connection.execute(
            "SELECT crc, body FROM segments WHERE number = ?", (number,)
        ).fetchone()
        if row is None:
            raise ValueError("it is missing")
        crc, body = row
        if zlib.crc32(body) != crc:
            raise ValueError("its checksum is wrong")
        return decode(body)

    def close(self) -> None:
        """Close the file; an empty one leaves no log behind."""
        self._connection.close()


def _other_version(path: Path, application: int, version: int) -> str:
    if application != _APPLICATION:
        return f"spool {path}: is not a spool of this service; move it away"
    return (
        f"spool {path}: has version {version}, and this service reads version {VERSION}; run the"
        " version that wrote it until the spool is empty, or move the file away"
    )


def encode(points: Iterable[MonitoringPoint]) -> bytes:
    """Return points as they are stored: JSON, which every later version can read."""
    return json.dumps(
        [(point.series, point.time, point.tags, point.fields) for point in points],
        separators=(",", ":"),
        allow_nan=False,
    ).encode()


def decode(body: bytes) -> list[MonitoringPoint]:
    """Return the points that `encode` was given.

    Raises:
        ValueError: The bytes are damaged.
    """
    try:
        return [MonitoringPoint(*values) for values in json.loads(body)]
    except TypeError as error:
        raise ValueError(str(error)) from error


def open_spool(
    state_dir: Path, plugin: str, cls: type, settings: PluginSettings
) -> SpoolFile | None:
    """Open the spool of one event class of a plugin; None if it has none.

    Raises:
        ConfigurationError: See `SpoolFile`.
    """
    if settings.spool == "memory":
        return None
    return SpoolFile(state_dir / "spool" / f"{plugin}.{cls.__name__}.sqlite3")


class SpooledMailbox(Mailbox):
    """A mailbox over a spool file.

    The limits on waiting points and bytes bound what is in memory; on disk there are `max_stored` bytes at
    most, in whole segments.

    Args:
        file: The open file; what it holds is delivered first.
        limit: Most points in memory.
        overflow: ``drop_oldest`` or ``drop_newest``.
        enough: As for `Mailbox`.
        max_bytes: Most bytes of points in memory.
        max_stored: Most bytes on disk.
        logger: The plugin's logger.
    """

    def __init__(
        self,
        file: SpoolFile,
        limit: int,
        overflow: str,
        enough: int,
        max_bytes: float,
        max_stored: int,
        logger: logging.Logger,
    ) -> None:
        super().__init__(limit, overflow, enough, max_bytes, bytes_of)
        self._file = file
        self._max_stored = max_stored
        self._logger = logger
        self._stored = 0
        self._points_in_memory = 0
        self._number = 0
        self._front: Segment | None = None
        self._tail: Segment | None = None
        self._unwritten: deque[Segment] = deque()
        self._settled: list[int] = []
        self._work = trio.Event()
        self._thread = trio.CapacityLimiter(1)
        self._taking = trio.Lock()
        self._writing = trio.Lock()
        self._writer = trio.CancelScope()
        self._quiet_until = -math.inf
        self._recover()

    def _recover(self) -> None:
        """Put what an earlier run has left first."""
        now, unix = trio.current_time(), time.time()
        for number, since, count, size in self._file.index:
            self._number = number
            self._stored += size
            age = max(0.0, unix - since)
            self._send.send_nowait(
                Segment(number, now - age, count, size, count, None, stored=True)
            )
            self.ledger.recovered += count
        self.ledger.accepted = self.ledger.queued = self.ledger.recovered
        if self.ledger.queued >= self._enough_points:
            self._enough.set()
        if self.ledger.recovered:
            self._logger.info("%d points are left from the last run", self.ledger.recovered)

    # Accepting

    def _accept(self, points: Sequence[Any], size: int) -> None:
        excess = self._points_in_memory + len(points) - self._limit
        if excess > 0 or self._bytes + size > self._max_bytes:
            points = self._relieve_memory(points, size)
            size = self._measure(points)
        self._relieve_disk(size)
        if self._stored + size > self._max_stored:
            self._drop(OVERFLOW, len(points))
            return
        done = 0
        while done < len(points):
            tail = self._tail
            if tail is None or tail.points is None or tail.count >= _SEGMENT:
                tail = self._new_segment()
            part = points[done : done + _SEGMENT - tail.count]
            assert tail.points is not None
            tail.points.extend(part)
            part_size = size if len(part) == len(points) else self._measure(part)
            tail.count += len(part)
            tail.left += len(part)
            tail.size += part_size
            done += len(part)
        self.ledger.queued += len(points)
        self._points_in_memory += len(points)
        self._bytes += size
        self._work.set()

    def _new_segment(self) -> Segment:
        self._number += 1
        self._tail = tail = Segment(self._number, trio.current_time(), 0, 0, 0)
        self._unwritten.append(tail)
        self._send.send_nowait(tail)
        return tail

    def _relieve_memory(self, points: Sequence[Any], size: int) -> Sequence[Any]:
        """Drop by policy what the disk could not take in time; return what is left of the new points."""
        if self._drop_oldest:
            for segment in [*self._unwritten]:
                if (
                    self._points_in_memory + len(points) <= self._limit
                    and self._bytes + size <= self._max_bytes
                ):
                    break
                self._drop_untaken(segment)
        excess = self._points_in_memory + len(points) - self._limit
        return self._trim(points, max(0, excess), self._max_bytes - self._bytes)

    def _relieve_disk(self, size: int) -> None:
        """Make room on disk: the oldest segments go."""
        while self._drop_oldest and self._stored + size > self._max_stored:
            front = self._front or self._next_segment()
            if front is None:
                return
            self._front = None
            self._drop_untaken(front)

    def _drop_untaken(self, segment: Segment, reason: str = OVERFLOW) -> int:
        """Drop the points of a segment that wait."""
        waiting = segment.count - segment.taken
        taken = None if segment.points is None else segment.points[: segment.taken]
        self._release_memory(segment)
        if not segment.stored:  # what is in flight may still have to be written
            segment.points, segment.count = taken, segment.taken
        segment.taken = segment.count
        self.ledger.queued -= waiting
        self._drop(reason, waiting)
        self._let_go(segment, waiting)
        return waiting

    def _release_memory(self, segment: Segment) -> None:
        """Take the waiting points of a segment out of memory."""
        if segment is self._tail:
            self._tail = None
        if segment.points is not None:
            self._points_in_memory -= segment.count - segment.taken
            self._bytes -= self._measure(segment.points[segment.taken :])
            segment.points = None

    def _let_go(self, segment: Segment, count: int) -> None:
        """Note that points of a segment are settled; once all are, it is deleted."""
        segment.left -= count
        if segment.left == 0 and segment.stored:
            self._stored -= segment.size
            self._settled.append(segment.number)
            self._work.set()

    # Taking

    async def take(self, size: int) -> Batch:
        async with self._taking:
            batch = Batch()
            while not batch:
                await self.wait_for_points()
                await self._fill(batch, size)
        self._taken(len(batch))
        return batch

    async def _fill(self, batch: Batch, size: int) -> None:
        """Move what waits into the batch, up to the first segment that would have to be read for it."""
        while len(batch) < size:
            front = self._front = self._front or self._next_segment()
            if front is None:
                return
            if front.points is None and front.taken < front.count:
                if batch:
                    return
                await self._load(front)
            self._take_from(front, size - len(batch), batch)
            if front.taken == front.count:
                self._front = None

    def _take_from(self, segment: Segment, size: int, batch: Batch) -> None:
        if segment.points is None or segment.taken == segment.count:
            return
        part = segment.points[segment.taken : segment.taken + size]
        batch.add(part, segment)
        segment.taken += len(part)
        self._points_in_memory -= len(part)
        self._bytes -= self._measure(part)
        if segment.taken == segment.count:
            if segment is self._tail:
                self._tail = None
            if segment.stored:
                segment.points = None

    def _next_segment(self) -> Segment | None:
        try:
            segment: Segment = self._receive.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return None
        return segment

    async def wait_for_points(self) -> None:
        while self._front is None or self._front.taken == self._front.count:
            self._front = None
            self._front = await self._receive.receive()

    async def _load(self, segment: Segment) -> None:
        """Read a segment into memory; drop it if it is damaged."""
        try:
            points = await self._in_thread(partial(self._file.load, segment.number))
            if len(points) != segment.count:
                raise ValueError(f"it has {len(points)} points instead of {segment.count}")
        except (ValueError, sqlite3.Error) as error:
            dropped = self._drop_untaken(segment, DAMAGED)
            self._logger.error(
                "segment %d of the spool cannot be read: %s; %d points dropped",
                segment.number,
                brief(error),
                dropped,
            )
            return
        if segment.taken < segment.count:  # not dropped meanwhile
            segment.points = points
            self._points_in_memory += segment.count - segment.taken
            self._bytes += self._measure(points[segment.taken :])

    # Settling

    def settle(self, batch: Batch, again: Sequence[int] = ()) -> None:
        for segment, count in batch.keep_only(again):
            self._let_go(segment, count)

    @property
    def stored_bytes(self) -> int:
        return self._stored

    # Writing

    async def write_behind(self) -> None:
        with self._writer:
            while True:
                await self._work.wait()
                await trio.sleep(COMMIT_INTERVAL)
                self._work = trio.Event()
                if not await self._commit():
                    await trio.sleep(_RETRY)
                    self._work.set()

    async def _commit(self) -> bool:
        """Write and delete in one transaction; return whether that worked."""
        async with self._writing:
            segments = [segment for segment in self._unwritten if segment.left]
            self._unwritten.clear()
            self._tail = None
            settled, self._settled = self._settled, []
            if not segments and not settled:
                return True
            try:
                sizes = await self._write(
                    [(segment, segment.points or ()) for segment in segments], settled
                )
            except (OSError, sqlite3.Error) as error:
                self._unwritten.extendleft(reversed(segments))
                self._settled += settled
                self._log_failure(error)
                return False
            for segment, size in zip(segments, sizes, strict=True):
                self._stored_now(segment, size)
            return True

    async def _write(
        self, segments: Iterable[tuple[Segment, Sequence[Any]]], settled: Sequence[int]
    ) -> list[int]:
        unix = time.time() - trio.current_time()
        rows = [Row(segment.number, segment.since + unix, points) for segment, points in segments]
        with trio.CancelScope(shield=True):
            sizes: list[int] = await self._in_thread(partial(self._file.commit, rows, settled))
        return sizes

    def _stored_now(self, segment: Segment, size: int) -> None:
        segment.stored = True
        segment.size = size
        if segment.left == 0:
            self._settled.append(segment.number)
            self._work.set()
            return
        self._stored += size
        crowded = 2 * self._points_in_memory > self._limit or 2 * self._bytes > self._max_bytes
        if crowded and segment is not self._front:
            self._release_memory(segment)
        elif segment.taken == segment.count:
            segment.points = None

    def _log_failure(self, error: Exception) -> None:
        now = trio.current_time()
        if now >= self._quiet_until:
            self._quiet_until = now + _LOG_INTERVAL
            self._logger.error(
                "the spool cannot be written: %s; points stay in memory, within their limits",
                brief(error),
            )

    # Ending

    async def keep(self, batches: Sequence[Batch]) -> bool:
        """Write everything that is not delivered, and close the file."""
        self.close()
        self._writer.cancel()
        async with self._writing:
            rest: dict[Segment, list[Any]] = {}
            for batch in batches:
                first = 0
                for segment, count in batch.origins:
                    rest.setdefault(segment, []).extend(batch[first : first + count])
                    first += count
            front = self._front
            if front is not None and front.points is not None:
                rest.setdefault(front, []).extend(front.points[front.taken :])
            for segment in self._unwritten:
                if segment.left and segment not in rest:
                    rest[segment] = list(segment.points or ())
            try:
                await self._write(rest.items(), self._settled)
                await self._in_thread(self._file.close)
            except (OSError, sqlite3.Error) as error:
                self._log_failure(error)
                return False
        self._front = None
        while self._next_segment() is not None:
            pass  # it is on disk
        ledger = self.ledger
        ledger.kept = ledger.queued + ledger.in_flight
        ledger.queued = ledger.in_flight = 0
        return True

    def drop_rest(self, reason: str) -> int:
        self.close()
        self._writer.cancel()
        dropped = 0
        while front := self._front or self._next_segment():
            self._front = None
            dropped += self._drop_untaken(front, reason)
        return dropped

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await trio.to_thread.run_sync(work, limiter=self._thread)
