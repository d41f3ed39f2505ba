"""The SQLite file of one event class, append-only: rows of points, each with its checksum."""

from __future__ import annotations

import json
import operator
import sqlite3
import time
import zlib
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from lva.errors import ConfigurationError, counted
from lva.events import types as events
from lva.host.delivery.machine_clock import PLAUSIBLE, STEP, MachineClock, told
from lva.logs.loggers import service_logger
from lva.settings import PluginSettings

LOGGER: Final = service_logger("lva.host")


#: Written into each file, so that another format is recognized.
_APPLICATION: Final = 0x4C564153
VERSION: Final = 1
#: How long, in seconds, to wait for a file that another process uses.
_LOCK_TIMEOUT: Final = 1.0
_JSON: Final = json.JSONEncoder(
    separators=(",", ":"), allow_nan=False, ensure_ascii=False, check_circular=False
)
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


@dataclass(frozen=True, slots=True)
class Row:
    """A segment as it is to be stored; `since` in Unix seconds."""

    number: int
    since: float
    points: Sequence[Any]


class SpoolFile:
    """The file of one event class. Its methods block; one thread at a time uses them.

    Resources: the file is open, and locked for other processes, until `close`.

    Args:
        path: The file; its directory is made private.
        clock: Tells how old its points are.

    Attributes:
        index: Of each row in the file its number, when its oldest point was accepted (Unix
            seconds), how many points it has and how many bytes.

    Raises:
        ConfigurationError: The file was made by another version of the service, or cannot be opened.
    """

    def __init__(self, path: Path, clock: MachineClock | None = None) -> None:
        self.path = path
        self.clock: MachineClock = clock or MachineClock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = self._open()
        except OSError as error:
            why = error.strerror or str(error)
            raise ConfigurationError([f"spool {path}: cannot be opened: {why}"]) from error
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
                    "spool %s: deleted: %s, so damaged that the number of points is unknown",
                    self.path,
                    counted(damaged, "segment"),
                )
            self._files = self._files_now()
            self._sizes = self._sizes_now()
        except BaseException:
            connection.close()
            raise
        self._truncated = False
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

    def _sizes_now(self) -> list[int]:
        """Return the sizes of this file and of SQLite's log beside it, which never become smaller in use."""
        paths = self.path, Path(f"{self.path}-wal")
        return [path.stat().st_size if path.exists() else 0 for path in paths]

    def _follow(self) -> None:
        """Put the file back, with all that it holds, if it was moved away or removed, or its log was."""
        now, sizes = self._files_now(), self._sizes_now()
        if now == self._files:
            self._truncated |= any(map(operator.lt, sizes, self._sizes))
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
                    "spool %s: %s from before the clock was set; the age of their points counts from now",
                    self.path,
                    counted(unknown, "segment"),
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
            "spool %s: the clock was set %s; the age of the points in %s is unchanged",
            self.path,
            told(jump),
            counted(moved, "segment"),
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
        self._sizes = self._sizes_now()
        return [len(body) for body in bodies]

    def load(self, rows: Rows) -> tuple[list[Any], str]:
        """Read the points of some rows; return those of whole rows, and what is wrong with another.

        Raises:
            sqlite3.Error: The file is damaged.
        """
        points: list[Any] = []
        why = "it is missing"
        for _, count, crc, body in self._connection.execute(_SELECT, rows):
            try:
                points += _checked(count, crc, body)
            except ValueError as error:
                why = str(error)
        return points, why

    def close(self) -> bool:
        """Close the file, and leave no log behind; return whether the next run will be able to read it."""
        self._connection.close()
        truncated = self._truncated
        try:
            self._open().close()
        except sqlite3.OperationalError:
            pass  # it cannot be opened now, which says nothing of what is in it
        except sqlite3.DatabaseError:
            return False
        return not truncated

    def begin_anew(self) -> None:
        """Set the file aside, which is closed and damaged, and begin another one."""
        self._set_aside("truncated or overwritten")
        self._connection = self._open()


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


def _checked(count: int, crc: Any, body: Any) -> list[Any]:
    """Return the points of a row; raise ValueError if it is not what was written."""
    if not _is_whole(crc, body):
        raise ValueError("its checksum is wrong")
    points = decode(body)
    if len(points) != count:
        raise ValueError(f"it has {counted(len(points), 'point')} instead of {count}")
    return points


def _other_version(path: Path, application: int, version: int) -> str:
    if application != _APPLICATION:
        return f"spool {path}: is not a spool of this service; move it away"
    return (
        f"spool {path}: has version {version}, and this service reads version {VERSION}; run the"
        " version that wrote it until the spool is empty, or move the file away"
    )


def encode(points: Iterable[Any]) -> bytes:
    """Return points, or events, as they are stored: JSON, which every later version can read."""
    return _JSON.encode([*map(events.encode, points)]).encode()


def decode(body: bytes) -> list[Any]:
    """Return the points that `encode` was given.

    Raises:
        ValueError: The bytes are damaged.
    """
    try:
        return [*map(events.decode, json.loads(body))]
    except (TypeError, LookupError) as error:
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
