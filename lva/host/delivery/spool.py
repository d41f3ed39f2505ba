"""A mailbox whose points outlive the process: an append-only store in SQLite, written behind.

Points go to the plugin straight from memory. Whatever has not been delivered by the next group commit is
written then, in segments, and deleted by the first commit after its delivery; so a plugin that keeps up
costs the disk nearly nothing. While the receiver is unreachable, small
segments that follow one another become one.
After a crash the segments that are still there are delivered again, in
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import trio

from lva.errors import ConfigurationError, counted
from lva.host.delivery.clock import PLAUSIBLE, STEP, Clock, told
from lva.host.delivery.mailbox import DAMAGED, OVERFLOW, Batch, Bounds, Mailbox
from lva.host.process.threads import in_thread
from lva.logs import brief, service_logger
from lva.points import MonitoringPoint
from lva.settings import PluginSettings

LOGGER: Final = service_logger("lva.host")

#: Written into each file, so that another format is recognized.
_APPLICATION: Final = 0x4C564153
VERSION: Final = 1
#: How long, in seconds, to wait for a file that another process uses.
_LOCK_TIMEOUT: Final = 1.0
#: Most points of one segment, and roughly most bytes.
_SEGMENT: Final = 1000
_SEGMENT_BYTES: Final = 1024 * 1024
#: Most seconds between the first and the last point of segments that become one: they grow old together.
_SPAN: Final = 10.0
#: Most runs of rows that one commit makes one row of: a commit is to be short.
_RUNS: Final = 10
_JSON: Final = json.JSONEncoder(
    separators=(",", ":"), allow_nan=False, ensure_ascii=False, check_circular=False
)
#: How long, in seconds, points gather before a group commit.
COMMIT_INTERVAL: Final = 0.05
#: How long, in seconds, to wait after a commit that failed, and until it is logged again.
_RETRY: Final = 1.0
_LOG_INTERVAL: Final = 10.0

_SCHEMA: Final = f"""
    BEGIN;
    PRAGMA application_id = {_APPLICATION};
    PRAGMA user_version = {VERSION};
    CREATE TABLE segments (
        number INTEGER PRIMARY KEY,
        since REAL NOT NULL,
        points INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        body BLOB NOT NULL
    );
    COMMIT;
"""
#: Where a row is as it was written, as far as that is seen without reading its body.
_SOUND: Final = """
    typeof(since) = 'real' AND typeof(points) = 'integer' AND points BETWEEN 1 AND length(body)
"""
_INDEX: Final = f"""
    SELECT number, since, points, length(body) FROM segments WHERE {_SOUND} ORDER BY number
"""  # noqa: S608 - made of constants
_SELECT: Final = """
    SELECT since, points, crc, body FROM segments WHERE number BETWEEN ? AND ? ORDER BY number
"""
_INSERT: Final = "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?)"
#: To which clock the times of the rows conform: in which run of the machine, when that began by the wall
#: clock, and which row was the first of it.
_CLOCK: Final = """
    CREATE TABLE IF NOT EXISTS clock (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        boot TEXT NOT NULL,
        began REAL NOT NULL,
        first INTEGER NOT NULL
    )
"""
_SET_CLOCK: Final = "INSERT OR REPLACE INTO clock VALUES (1, ?, ?, ?)"
_DELETE_UNSOUND: Final = f"DELETE FROM segments WHERE NOT ({_SOUND})"  # noqa: S608 - made of constants


#: The first and the last of some rows that follow one another.
Rows: TypeAlias = tuple[int, int]


@dataclass(eq=False, slots=True)
class Segment:
    """A run of points that is stored, or will be, as one row, or as a few that follow one another.

    Attributes:
        number: Its place in the order, and the number of its first row.
        last: The number of its last row.
        since: When its oldest point was accepted, in Trio time.
        count: How many points it has.
        size: Its size in bytes, of the encoded points once it is stored.
        left: How many of the points are not settled yet.
        points: The points, or None while they are only on disk or no longer needed. Never None while a
            part of them is taken and a part is not.
        taken: How many points have been taken from it.
        stored: Whether it is on disk.
    """

    number: int
    since: float
    count: int = 0
    size: int = 0
    left: int = 0
    points: list[Any] | None = field(default_factory=list)
    taken: int = 0
    stored: bool = False
    last: int = 0

    def __post_init__(self) -> None:
        self.last = self.number

    def add(self, points: Sequence[Any], size: int) -> None:
        """Append points, none of which is settled, to those in memory."""
        assert self.points is not None
        self.points.extend(points)
        self.count += len(points)
        self.left += len(points)
        self.size += size

    @property
    def waiting(self) -> int:
        """How many points can still be taken from it."""
        return self.count - self.taken

    @property
    def rows(self) -> Rows:
        """The numbers of its first and its last row."""
        return self.number, self.last


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
        clock: Tells how old its points are.

    Attributes:
        index: Of each row in the file its number, when its oldest point was accepted (Unix
            seconds), how many points it has and how many bytes.

    Raises:
        ConfigurationError: The file was made by another version of the service, or cannot be opened.
    """

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.path = path
        self.clock: Clock = clock or Clock()
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
        connection = sqlite3.connect(
            self.path, timeout=_LOCK_TIMEOUT, check_same_thread=False, isolation_level=None
        )
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # one service, one spool
            # Nothing is changed before it is known that the file is one of ours.
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if not tables:
                connection.executescript(_SCHEMA)
            elif (application, version) != (_APPLICATION, VERSION):
                raise ConfigurationError([_other_version(self.path, application, version)])
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            self.path.chmod(0o600)
            self._know_the_time(connection)
            self.index: list[tuple[int, float, int, int]] = connection.execute(_INDEX).fetchall()
            damaged = connection.execute(_DELETE_UNSOUND).rowcount
            if damaged:
                LOGGER.error(
                    "spool %s: %d segments are so damaged that nobody knows how many points they had;"
                    " they were deleted",
                    self.path,
                    damaged,
                )
        except BaseException:
            connection.close()
            raise
        self._files = self._files_now()
        return connection

    def _files_now(self) -> list[tuple[int, int] | None]:
        """Return which files are in the places of this one and of SQLite's log beside it."""
        found: list[tuple[int, int] | None] = []
        for path in (self.path, Path(f"{self.path}-wal")):
            try:
                status = path.stat()
            except FileNotFoundError:
                found.append(None)
            else:
                found.append((status.st_dev, status.st_ino))
        return found

    def _follow(self) -> None:
        """Put the file back, with all that it holds, if it was moved away or removed, or its log was."""
        now = self._files_now()
        if now == self._files:
            return
        if now[0] != self._files[0]:
            if now[0] is not None:
                self._set_aside("another file is in its place")
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with closing(sqlite3.connect(self.path)) as copy:
                    self._connection.backup(copy)
            except BaseException:
                self.path.unlink(missing_ok=True)  # half of it is worth nothing
                raise
        self._connection.close()  # moves what stands in the log to the file
        self._connection = self._open()
        self.index = []
        LOGGER.warning("spool %s: was moved away or removed; it was put back", self.path)

    def _know_the_time(self, connection: sqlite3.Connection) -> None:
        """Let the times of the rows conform to the wall clock as it is now, as far as that can be known."""
        connection.execute(_CLOCK)
        now, began = self.clock.wall(), self.clock.offset()
        known = connection.execute("SELECT boot, began, first FROM clock").fetchone()
        if known is not None and known[0] and known[0] == self.clock.boot:
            self._began, self._first = known[1:]
            self._follow_the_clock(connection)
            return
        (last,) = connection.execute("SELECT coalesce(max(number), 0) FROM segments").fetchone()
        self._began, self._first = began, last + 1
        connection.execute(_SET_CLOCK, (self.clock.boot, began, self._first))
        if now >= PLAUSIBLE:
            age = "UPDATE segments SET since = ? WHERE since < ?"
            if unknown := connection.execute(age, (now, PLAUSIBLE)).rowcount:
                LOGGER.warning(
                    "spool %s: the points of %d segments came before the clock was set; their age counts"
                    " from now",
                    self.path,
                    unknown,
                )

    def _follow_the_clock(self, connection: sqlite3.Connection) -> None:
        """If the wall clock was set since, move the times of what came in this run of the machine with it."""
        jump = self.clock.offset() - self._began
        if abs(jump) <= STEP:
            return
        self._began += jump
        connection.execute(_SET_CLOCK, (self.clock.boot, self._began, self._first))
        move = "UPDATE segments SET since = since + ? WHERE number >= ?"
        moved = connection.execute(move, (jump, self._first)).rowcount
        LOGGER.warning(
            "spool %s: the clock was set %s; the points of %d segments are as old as before",
            self.path,
            told(jump),
            moved,
        )

    def _set_aside(self, why: str) -> None:
        """Move a damaged file out of the way, with what belongs to it."""
        stamp = time.strftime("%Y%m%dT%H%M%S")
        for suffix in ("", "-wal", "-journal"):
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

    def commit(
        self, rows: Sequence[Row], settled: Sequence[Rows], runs: Sequence[Rows] = ()
    ) -> list[int]:
        """Delete rows, make one of each run of rows, and write others, in one transaction on the disk.

        Returns:
            The size of each written row, in bytes.
        """
        bodies = [encode(row.points) for row in rows]
        self._follow()
        began = self._began
        with closing(self._connection.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                self._follow_the_clock(self._connection)
                cursor.executemany("DELETE FROM segments WHERE number BETWEEN ? AND ?", settled)
                for run in runs:
                    _join_rows(cursor, run)
                cursor.executemany(
                    _INSERT,
                    [
                        (row.number, row.since, len(row.points), zlib.crc32(body), body)
                        for row, body in zip(rows, bodies, strict=True)
                    ],
                )
                cursor.execute("COMMIT")
            except BaseException:
                self._began = began
                if self._connection.in_transaction:  # SQLite may have ended it itself
                    cursor.execute("ROLLBACK")
                raise
        return [len(body) for body in bodies]

    def load(self, rows: Rows) -> tuple[list[MonitoringPoint], str]:
        """Read the points of some rows; return those of whole rows, and what is wrong with another.

        Raises:
            sqlite3.Error: The file is damaged.
        """
        points: list[MonitoringPoint] = []
        why = "it is missing"
        for _, count, crc, body in self._connection.execute(_SELECT, rows):
            try:
                points += _checked(count, crc, body)
            except ValueError as error:
                why = str(error)
        return points, why

    def close(self) -> None:
        """Close the file, and leave no log behind."""
        self._connection.close()


def _join_rows(cursor: sqlite3.Cursor, run: Rows) -> None:
    """Make one row of some; leave them as they are if one is damaged, or if they are gone."""
    found = cursor.execute(_SELECT, run).fetchall()
    if len(found) > 1 and all(_is_whole(crc, body) for _, _, crc, body in found):
        # Each is a list in JSON, so what stands between the brackets goes into one.
        body = b"[%b]" % b",".join(body[1:-1] for _, _, _, body in found)
        since, points = found[0][0], sum(points for _, points, _, _ in found)
        cursor.execute("DELETE FROM segments WHERE number BETWEEN ? AND ?", run)
        cursor.execute(_INSERT, (run[0], since, points, zlib.crc32(body), body))


def _is_whole(crc: Any, body: Any) -> bool:
    return isinstance(body, bytes) and zlib.crc32(body) == crc


def _checked(count: int, crc: Any, body: Any) -> list[MonitoringPoint]:
    """Return the points of a row; raise ValueError if it is not what was written."""
    if not _is_whole(crc, body):
        raise ValueError("its checksum is wrong")
    points = decode(body)
    if len(points) != count:
        raise ValueError(f"it has {len(points)} points instead of {count}")
    return points


def _other_version(path: Path, application: int, version: int) -> str:
    if application != _APPLICATION:
        return f"spool {path}: is not a spool of this service; move it away"
    return (
        f"spool {path}: has version {version}, and this service reads version {VERSION}; run the"
        " version that wrote it until the spool is empty, or move the file away"
    )


def encode(points: Iterable[MonitoringPoint]) -> bytes:
    """Return points as they are stored: JSON, which every later version can read."""
    values = [(point.series, point.time, point.tags, point.fields) for point in points]
    return _JSON.encode(values).encode()


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

    Its bounds are those of memory. Past them, what is stored is forgotten and read again when its turn
    comes; only what the disk could not take in time is dropped.

    Args:
        file: The open file; what it holds is delivered first.
        bounds: On the points and bytes that wait in memory.
        enough: As for `Mailbox`.
        max_stored: Most bytes on disk; past them whole segments are dropped.
        logger: The plugin's logger.
    """

    outlasts = True

    def __init__(
        self,
        file: SpoolFile,
        bounds: Bounds,
        enough: int,
        max_stored: int,
        logger: logging.Logger,
    ) -> None:
        super().__init__(bounds, enough)
        self._file = file
        self._max_stored = max_stored
        self._logger = logger
        self._most = max(1, min(_SEGMENT, bounds.points // 10))  # points of a segment
        self._segments: deque[Segment] = deque()  # those with points that wait
        self._resident: deque[Segment] = (
            deque()
        )  # of these, what is stored and in memory all the same
        self._unwritten: list[Segment] = []
        self._open: Segment | None = None  # the last of these, while points are added to it
        self._tail: Segment | None = None  # the last that is stored; small ones become part of it
        self._settled: list[Rows] = []  # to be deleted
        self._runs: list[Rows] = []  # each to become one row
        self._stored = 0
        self._points_in_memory = 0
        self._bytes_in_memory = 0
        self._number = 0
        self._work = trio.Event()
        self._work_asked = False
        self._thread = trio.CapacityLimiter(1)
        self._writing = trio.Lock()
        self._writer = trio.CancelScope()
        self._quiet_until = -math.inf
        self._recover()

    def _recover(self) -> None:
        """Put what an earlier run has left first."""
        now, unix = trio.current_time(), self._file.clock.wall()
        index, self._file.index = self._file.index, []
        for number, since, count, size in index:
            age = max(0.0, unix - since)
            segment = Segment(number, now - age, count, size, left=count, points=None, stored=True)
            if not self._join(segment):
                self._segments.append(segment)
            self._number = number
            self._stored += size
            self.ledger.recovered += count
        self.ledger.accepted = self.ledger.queued = self.ledger.recovered
        if self.ledger.recovered:
            self._logger.info("left from the last run: %s", counted(self.ledger.recovered, "point"))

    # Accepting

    def offer(self, points: Sequence[Any], size: int | None = None) -> None:
        with self.books:
            if self._accepts:
                self._accept(points, self._bounds.measure(points) if size is None else size)
            else:
                self._refuse(len(points))

    def _accept(self, points: Sequence[Any], size: int) -> None:
        ledger = self.ledger
        ledger.accepted += len(points)
        if not self._fit_in_memory(len(points), size) or self._stored + size > self._max_stored:
            points, size = self._make_room(points, size)
        segment = self._open
        if (
            segment is not None
            and segment.count + len(points) <= self._most
            and segment.size + size <= _SEGMENT_BYTES
        ):
            segment.add(points, size)
        else:
            self._share_out(points, size)
        ledger.queued += len(points)
        self._points_in_memory += len(points)
        self._bytes_in_memory += size
        self._stored += size
        if not self._work_asked:
            self._work_asked = True
            self._token.run_sync_soon(self._begin_work)
        if ledger.queued >= self._awaited:
            self._wake_soon()

    def _share_out(self, points: Sequence[Any], size: int) -> None:
        """Add points to the open segment, and to new ones once that is full."""
        # By the average size, so that no point has to be looked at.
        most = max(1, min(self._most, _SEGMENT_BYTES * len(points) // max(1, size)))
        done = 0
        while done < len(points):
            segment = self._open
            if segment is None or segment.count >= most:
                segment = self._begin_segment()
            part = points[done : done + most - segment.count]
            segment.add(part, size if len(part) == len(points) else self._bounds.measure(part))
            done += len(part)

    def _begin_segment(self) -> Segment:
        self._number += 1
        self._open = segment = Segment(self._number, trio.current_time())
        self._segments.append(segment)
        self._unwritten.append(segment)
        return segment

    def _fit_in_memory(self, count: int, size: int) -> bool:
        return (
            self._points_in_memory + count <= self._bounds.points
            and self._bytes_in_memory + size <= self._bounds.bytes
        )

    def _make_room(self, points: Sequence[Any], size: int) -> tuple[Sequence[Any], int]:
        """Drop points until there is room for the new ones; return what is left of those, and its size."""
        bounds, came = self._bounds, len(points)
        if size > bounds.bytes:
            points = bounds.without_giants(points)
            size = bounds.measure(points)
        if bounds.drop_oldest:
            self._relieve_disk(size)
        self._forget_stored(len(points), size)
        if bounds.drop_oldest:
            self._drop_unwritten(len(points), size)
        room = bounds.points - self._points_in_memory
        bytes_room = min(bounds.bytes - self._bytes_in_memory, self._max_stored - self._stored)
        if len(points) > room or size > bytes_room:
            points = bounds.fitting(points, room, bytes_room)
            size = bounds.measure(points)
        self._drop(OVERFLOW, came - len(points))
        return points, size

    def _relieve_disk(self, size: int = 0) -> None:
        """Drop segments by policy until there is room for so many bytes more on disk."""
        while self._stored + size > self._max_stored and self._segments:
            self._discard(self._segments[0 if self._bounds.drop_oldest else -1], OVERFLOW)

    def _forget_stored(self, count: int = 0, size: int = 0) -> None:
        """Make room in memory without loss: what is stored can be read again. What comes last goes first."""
        while self._resident and not self._fit_in_memory(count, size):
            segment = self._resident.pop()
            if not segment.taken:
                self._forget(segment)

    def _drop_unwritten(self, count: int, size: int) -> None:
        """Make room in memory: drop what the disk has not taken in time, oldest first."""
        self._unwritten = [segment for segment in self._unwritten if segment.left]
        for segment in self._unwritten:
            if self._fit_in_memory(count, size):
                return
            if segment.waiting:
                self._discard(segment, OVERFLOW)

    def _discard(self, segment: Segment, reason: str) -> int:
        """Drop the points of a segment that wait; return how many."""
        waiting = segment.waiting
        taken = (segment.points or [])[: segment.taken]
        self._forget(segment)
        self._segments.remove(segment)
        if segment in self._resident:
            self._resident.remove(segment)
        if not segment.stored:  # what is in flight may still have to be written
            segment.points = taken
        segment.taken = segment.count
        self.ledger.queued -= waiting
        self._drop(reason, waiting)
        self._let_go(segment, waiting)
        return waiting

    def _forget(self, segment: Segment) -> None:
        """Take the waiting points of a segment out of memory."""
        if segment is self._open:
            self._open = None
        if segment.points is not None:
            self._points_in_memory -= segment.waiting
            self._bytes_in_memory -= self._bounds.measure(segment.points[segment.taken :])
            segment.points = None

    # Taking

    async def take(self, size: int) -> Batch:
        batch = Batch()
        while not batch:
            await self.wait_for_points()
            with self.books:
                forgotten = self._forgotten(size)
            for segment in forgotten:
                await self._load(segment)
            with self.books:
                self._fill(batch, size)
                self._taken(len(batch))
        return batch

    def _forgotten(self, size: int) -> list[Segment]:
        """Return the segments that have to be read for a batch of this size."""
        forgotten = []
        room = self._bounds.bytes  # what is in flight has to fit into memory, too
        for segment in self._segments:
            if size <= 0 or room <= 0:
                break
            if segment.points is None:
                forgotten.append(segment)
            size -= segment.waiting
            room -= segment.size
        return forgotten

    def _fill(self, batch: Batch, size: int) -> None:
        """Move what waits, and is in memory, into the batch."""
        while len(batch) < size and self._segments:
            front = self._segments[0]
            if front.points is None:
                return
            part = front.points[front.taken : front.taken + size - len(batch)]
            batch.add(part, front)
            front.taken += len(part)
            self._points_in_memory -= len(part)
            self._bytes_in_memory -= self._bounds.measure(part)
            if not front.waiting:
                self._emptied(front)

    def _emptied(self, front: Segment) -> None:
        """Let go of the first segment, of which nothing waits any longer."""
        self._segments.popleft()
        if self._resident and self._resident[0] is front:
            self._resident.popleft()
        if self._open is front:
            self._open = None
        if front.stored:
            front.points = None

    async def _load(self, segment: Segment) -> None:
        """Read a segment into memory; drop what of it is damaged."""
        count = segment.count
        try:
            points, why = await self._in_thread(partial(self._file.load, segment.rows))
        except sqlite3.Error as error:
            points, why = [], brief(error)
        if not segment.waiting or segment.count != count:
            return  # dropped meanwhile, or grown
        with self.books:
            lost = self._lose(segment, count - len(points)) if len(points) < count else 0
            if segment.waiting:
                segment.points = points
                self._points_in_memory += segment.waiting
                self._bytes_in_memory += self._bounds.measure(points)
                self._forget_stored()
        if lost:
            self._logger.error(
                "segment %d of the spool cannot be read: %s; %s dropped",
                segment.number,
                why,
                counted(lost, "point"),
            )

    def _lose(self, segment: Segment, count: int) -> int:
        """Drop points of a segment that cannot be read; return how many."""
        if count == segment.count:
            return self._discard(segment, DAMAGED)
        segment.count -= count
        segment.left -= count
        self.ledger.queued -= count
        self._drop(DAMAGED, count)
        return count

    # Settling

    def settle(self, batch: Batch, again: Sequence[int] = ()) -> None:
        with self.books:
            for segment, count in batch.keep_only(again):
                self._let_go(segment, count)

    def _let_go(self, segment: Segment, count: int) -> None:
        """Note that points of a segment are settled; once all are, it is deleted."""
        segment.left -= count
        if not segment.left:
            self._stored -= segment.size
            segment.points = None
            if segment.stored:
                self._settled.append(segment.rows)
                self._work.set()

    @property
    def stored_bytes(self) -> int:
        return self._stored

    # Writing

    def _begin_work(self) -> None:
        self._work.set()

    async def write_behind(self) -> None:
        with self._writer:
            while True:
                await self._work.wait()
                await trio.sleep(COMMIT_INTERVAL)
                self._work = trio.Event()
                self._work_asked = False
                if not await self._commit():
                    await trio.sleep(_RETRY)
                    self._work.set()

    async def _commit(self) -> bool:
        """Write and delete in one transaction; return whether that worked."""
        async with self._writing:
            with self.books:
                segments = [segment for segment in self._unwritten if segment.left]
                settled, runs = self._settled, self._runs[:_RUNS]
                self._open, self._unwritten, self._settled = None, [], []
            if not segments and not settled:
                return True
            try:
                sizes = await self._write(
                    {segment: segment.points or () for segment in segments}, settled, runs
                )
            except Exception as error:  # noqa: BLE001 - logged; whatever it is, points must not get lost
                with self.books:
                    self._unwritten[:0] = segments
                    self._settled += settled
                self._log_failure(error)
                return False
            with self.books:
                del self._runs[: len(runs)]
                for segment, size in zip(segments, sizes, strict=True):
                    self._written(segment, size)
                self._relieve_disk()  # what is encoded may be larger than it was in memory
            return True

    async def _write(
        self,
        points: Mapping[Segment, Sequence[Any]],
        settled: Sequence[Rows],
        runs: Sequence[Rows] = (),
    ) -> list[int]:
        unix = self._file.clock.wall() - trio.current_time()
        rows = [Row(segment.number, segment.since + unix, part) for segment, part in points.items()]
        with trio.CancelScope(shield=True):
            sizes: list[int] = await self._in_thread(
                partial(self._file.commit, rows, settled, runs)
            )
        return sizes

    def _written(self, segment: Segment, size: int) -> None:
        segment.stored = True
        if not segment.left:
            self._settled.append(segment.rows)
            self._work.set()
            return
        self._stored += size - segment.size
        segment.size = size
        if not segment.waiting:
            segment.points = None
        elif self._join(segment):
            _remove_last(self._segments, segment)
        else:
            self._resident.append(segment)

    def _join(self, segment: Segment) -> bool:
        """Make a stored segment part of the one before it, if both are small and nothing of them is taken.

        A receiver that is unreachable for long, while few points come at a time, would leave one a commit:
        that costs memory, and time at the next start.
        """
        tail = self._tail
        if tail is None or not self._fit_together(tail, segment):
            if tail is not None and tail.left and tail.last > tail.number:
                self._runs.append(tail.rows)
            self._tail = segment
            return False
        if tail.points is None:
            self._forget(segment)
        else:
            tail.points += segment.points or ()
        tail.last = segment.last
        tail.count += segment.count
        tail.left += segment.left
        tail.size += segment.size
        return True

    def _fit_together(self, tail: Segment, segment: Segment) -> bool:
        return (
            tail.last + 1 == segment.number
            and tail.left == tail.waiting == tail.count
            and segment.left == segment.waiting == segment.count
            and tail.count + segment.count <= self._most
            and tail.size + segment.size <= _SEGMENT_BYTES
            and segment.since - tail.since <= _SPAN
        )

    def _log_failure(self, error: Exception) -> None:
        now = trio.current_time()
        if now >= self._quiet_until:
            self._quiet_until = now + _LOG_INTERVAL
            self._logger.error(
                "the spool cannot be written: %s; points stay in memory, within their limits",
                brief(error),
                exc_info=None if isinstance(error, OSError | sqlite3.Error) else error,
            )

    # Ending

    async def keep(self, batches: Sequence[Batch]) -> None:
        """Write everything that is not delivered, and close the file; what is on disk then is kept.

        If that cannot be written, it stays with the mailbox and the batches.
        """
        self.close()
        self._writer.cancel()
        async with self._writing:
            rest = self._unsettled(batches)
            try:
                await self._write(rest, [*self._settled, *(segment.rows for segment in rest)])
            except Exception as error:  # noqa: BLE001 - as above
                self._log_failure(error)
            else:
                for segment in rest:
                    segment.stored = True
            await self._in_thread(self._file.close)
        for batch in batches:
            origins = [segment for segment, count in batch.origins for _ in range(count)]
            batch.keep_only([n for n, segment in enumerate(origins) if not segment.stored])
        self._segments = deque(segment for segment in self._segments if not segment.stored)
        ledger = self.ledger
        queued, in_flight = sum(item.waiting for item in self._segments), sum(map(len, batches))
        ledger.kept = ledger.queued + ledger.in_flight - queued - in_flight
        ledger.queued, ledger.in_flight = queued, in_flight
        if ledger.kept:
            self._logger.info("kept for the next run: %s", counted(ledger.kept, "point"))

    def _unsettled(self, batches: Sequence[Batch]) -> dict[Segment, list[Any]]:
        """Return what each segment that is not on disk as it now is should have there."""
        rest: dict[Segment, list[Any]] = {}
        for batch in batches:
            first = 0
            for segment, count in batch.origins:
                rest.setdefault(segment, []).extend(batch[first : first + count])
                first += count
        for segment in self._segments:
            if segment.points is not None and (segment.taken or not segment.stored):
                rest.setdefault(segment, []).extend(segment.points[segment.taken :])
        return rest

    def drop_rest(self, reason: str) -> int:
        self.close()
        self._writer.cancel()
        dropped = 0
        with self.books:
            while self._segments:
                dropped += self._discard(self._segments[0], reason)
        return dropped

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await in_thread(work, self._thread)


def _remove_last(segments: deque[Segment], segment: Segment) -> None:
    """Remove a segment that is near the end."""
    behind = []
    while (last := segments.pop()) is not segment:
        behind.append(last)
    segments.extend(reversed(behind))
