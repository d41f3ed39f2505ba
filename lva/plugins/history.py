"""The embedded default sink: keeps points in a SQLite file and serves them at /NAME/points.

An event of a stream is kept as a point: its series is the event type, and what is no tag is a field. Pictures
are not kept.

It is meant for looking at what the service just did, on a machine without a monitoring system. The file
is bounded in size and age; the oldest points go first. While it cannot be written, as on a full disk, points
wait; when it was moved away, removed or truncated, another one begins, and a damaged one is set aside.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

import trio
from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import to_json
from werkzeug.exceptions import BadRequest, ServiceUnavailable

from lva import (
    BaseBackgroundPlugin,
    BaseEventPlugin,
    PluginApp,
    RetryLaterError,
    query_parameter,
)
from lva.contract import Published
from lva.errors import counted
from lva.settings.user_paths import absolute

T = TypeVar("T")
#: Device and inode of each file that belongs to a database; None for one that is not there.
Files: TypeAlias = tuple[tuple[int, int] | None, ...]

SCHEMA_VERSION = 1
SCHEMA = f"""
    PRAGMA auto_vacuum = INCREMENTAL;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE points (
        id INTEGER PRIMARY KEY,
        series TEXT NOT NULL,
        time REAL NOT NULL,
        tags TEXT NOT NULL,
        fields TEXT NOT NULL
    );
    CREATE INDEX points_by_time ON points (time);
    CREATE INDEX points_by_series ON points (series, id);
    PRAGMA user_version = {SCHEMA_VERSION};
"""
#: Values of a row, and rows of a statement; together below the oldest limit of SQLite, 999.
COLUMNS, ROWS = 4, 200
#: Share of the points, the oldest, that goes when the file is full.
TRIM_SHARE = 0.1
#: What makes SQLite fail that has nothing to do with the points; and what says that the file is no history.
FILE_ERRORS = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
}
NOT_OURS = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
#: How long, in seconds, a reader waits at most for what was published before; after how long it looks at the
#: latest; and how long after `handleEvent`, so that what it has done is in the host's account.
CATCH_UP, LOOK_AGAIN, SETTLING = 2.0, 0.25, 0.002
MAX_LIMIT = 1000
MAX_ID = 2**53 - 1  # beyond what the file can hold; above it, floats are not exact


class Config(BaseModel):
    """`[plugins.history.config]`."""

    path: Annotated[Path | None, BeforeValidator(absolute)] = Field(
        None, description="The file; NAME.sqlite3 in state_dir if left out."
    )
    max_bytes: int = Field(
        64 * 1024 * 1024, ge=1024 * 1024, description="Bound on the file's size."
    )
    max_age: float = Field(
        7 * 86_400.0, gt=0, description="Age, in seconds, at which a point is deleted."
    )
    trim_interval: float = Field(60.0, gt=0, description="Seconds between two checks of the age.")


class History(BaseEventPlugin, BaseBackgroundPlugin):
    """Writes each batch in one transaction, in a worker thread; reads over a connection of its own."""

    eventName = "monitoring_event"
    otherEvents: ClassVar[Sequence[str]] = ("stream_event", "analytics_event")
    Config: ClassVar[type[BaseModel] | None] = Config
    # A transaction costs the same for one point as for thousands, so points gather for a moment.
    host_settings: ClassVar[Mapping[str, Any]] = {
        "flush_interval": 0.2,
        "batch_size": 5000,
        "buffer_limit": 50_000,
    }

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self._writer: Store | None = None
        self._reader: Store | None = None

    async def initialize(self) -> None:
        # One thread for each connection, and none of the threads that other plugins use.
        self._write_limit = trio.CapacityLimiter(1)
        self._read_limit = trio.CapacityLimiter(1)
        self._handled = trio.Event()
        path = self.config.path or self.app.settings["state_dir"] / f"{self.app.name}.sqlite3"
        setting = f"plugins.{self.app.name}.config.path"
        self._writer = Store(path, partial(open_database, setting=setting), self.logger)
        self._reader = Store(path, connect, self.logger)
        await self._write(lambda _: None)
        self.addRoute(f"/{self.app.name}/points", self.points)
        self.logger.info("keeping points in %s", path)

    async def start(self) -> None:
        while True:
            try:
                await self._write(partial(drop_older, oldest=time.time() - self.config.max_age))
            except FileError as error:  # the next batch says so too, and waits
                self.logger.warning("old points were not deleted: %s", error)
            await trio.sleep(self.config.trim_interval)

    async def handleEvent(self, points: list[Published], logger: logging.Logger) -> None:
        limit = self.config.max_bytes
        try:
            trimmed = await self._write(lambda writer: store(writer, points, limit))
        except FileError as error:
            raise RetryLaterError(str(error)) from error
        finally:
            self._handled.set()
            self._handled = trio.Event()
        if trimmed:
            logger.info(
                "the file reached %d bytes: oldest removed: %s", limit, counted(trimmed, "point")
            )

    async def close(self) -> None:
        if self._reader is None or self._writer is None:
            return
        try:
            await self._in_thread(self._read_limit, self._reader.close)
            await self._in_thread(self._write_limit, self._writer.close)
        finally:  # when cut short, at once: no query runs any more; closing again does nothing
            self._reader.close()
            self._writer.close()
            self._reader = self._writer = None

    @query_parameter("series", "Only points of this series.")
    @query_parameter("since", "Only points from this time on, in Unix seconds.", {"type": "number"})
    @query_parameter("until", "Only points from before this time.", {"type": "number"})
    @query_parameter(
        "tag",
        "Only points with this tag, as name:value; repeat it to ask for several at once.",
        {"type": "array", "items": {"type": "string", "pattern": ":"}},
    )
    @query_parameter(
        "limit",
        "Points in the response.",
        {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 100},
    )
    @query_parameter(
        "before",
        "Only points with a smaller id: the next page.",
        {"type": "integer", "minimum": 0, "maximum": MAX_ID},
    )
    async def points(self, request: Any) -> dict[str, Any]:
        """Handle GET /NAME/points: the newest first, a page at a time.

        A first page has all that was published before it was asked for, unless that takes too long.
        """
        query = HistoryQuery(request.args)
        if not query.continues:
            await self._caught_up()
        try:
            rows = await self._read(query)
        except FileError as error:
            raise ServiceUnavailable(str(error)) from error
        following = None
        if len(rows) == query.limit:
            pairs = [
                (key, value) for key, value in request.args.items(multi=True) if key != "before"
            ]
            following = f"{request.path}?{urlencode([*pairs, ('before', rows[-1]['id'])])}"
        return {"points": rows, "next": following}

    async def _caught_up(self) -> None:
        """Wait until what has been published by now is in the file, or is not going to be soon."""
        goal, settled = self._account()
        with trio.move_on_after(CATCH_UP):
            while settled < goal:
                with trio.move_on_after(LOOK_AGAIN):
                    await self._handled.wait()
                await trio.sleep(SETTLING)
                _, settled = self._account()

    def _account(self) -> tuple[int, int]:
        """Return how many points the plugin has got, and how many of them nothing is to be waited for."""
        (own,) = [item for item in self.app.plugins() if item["name"] == self.app.name]
        ledger = own["ledger"]
        waiting = ledger["queued"] + ledger["in_flight"]
        stands = any(delivery["circuit"] != "closed" for delivery in own["deliveries"])
        return ledger["accepted"], ledger["accepted"] - (0 if stands else waiting)

    async def _read(self, query: HistoryQuery) -> list[dict[str, Any]]:
        reader = self._reader
        assert reader is not None
        if await self._in_thread(self._read_limit, reader.is_stale):
            await self._write(lambda _: None)  # which makes the file if it is gone
        return await self._in_thread(self._read_limit, lambda: reader.use(query.run))

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        writer, reader = self._writer, self._reader
        assert writer is not None
        assert reader is not None
        if await self._in_thread(self._write_limit, writer.is_stale):
            # The last connection to a file that is gone removes the log of the one in its place.
            await self._in_thread(self._read_limit, reader.close)
        return await self._in_thread(self._write_limit, lambda: writer.use(work))

    async def _in_thread(self, limiter: trio.CapacityLimiter, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=limiter)


class HistoryQuery:
    """What /history/points was asked for.

    Args:
        args: The query's parameters: `series`; `since` and `until` in Unix seconds; `tag` as
            ``name:value``, repeatable; `limit`; `before`, a point's id, for the next page.

    Raises:
        BadRequest: A parameter is malformed.
    """

    def __init__(self, args: Any) -> None:
        self.limit: int = _integer(args, "limit", 100, at_least=1, at_most=MAX_LIMIT)
        conditions: list[tuple[str, tuple[Any, ...]]] = []
        if series := args.get("series"):
            conditions.append(("series = ?", (series,)))
        for name, operator in (("since", ">="), ("until", "<")):
            if name in args:
                conditions.append((f"time {operator} ?", (_number(args, name, 0),)))
        self.continues: bool = "before" in args
        if self.continues:
            before = _integer(args, "before", 0, at_least=0, at_most=MAX_ID)
            conditions.append(("id < ?", (before,)))
        for tag in args.getlist("tag"):
            name, colon, value = tag.partition(":")
            if not colon:
                raise BadRequest(f"tag is name:value, as in status_code:200, not {tag!r}.")
            conditions.append(
                (
                    "EXISTS (SELECT 1 FROM json_each(tags) WHERE key = ? AND CAST(value AS TEXT) = ?)",
                    (name, value),
                )
            )
        self._where = " AND ".join(condition for condition, _ in conditions) or "1"
        self._values = [value for _, values in conditions for value in values]

    def run(self, connection: sqlite3.Connection) -> list[dict[str, Any]]:
        """Return the points; runs in a worker thread."""
        rows = connection.execute(
            "SELECT id, series, time, tags, fields FROM points"  # noqa: S608 - conditions are fixed text
            f" WHERE {self._where} ORDER BY id DESC LIMIT ?",
            (*self._values, self.limit),
        )
        return [
            {
                "id": id_,
                "series": series,
                "time": at,
                "tags": json.loads(tags),
                "fields": json.loads(fields),
            }
            for id_, series, at, tags, fields in rows
        ]


def _integer(args: Any, name: str, default: int, at_least: int, at_most: int) -> int:
    number = float(_number(args, name, default, at_least, at_most))
    if not number.is_integer():
        raise BadRequest(f"{name} must be an integer, not {args[name]!r}.")
    return int(number)


def _number(
    args: Any, name: str, default: float, at_least: float = -math.inf, at_most: float = math.inf
) -> float:
    text = args.get(name)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (at_least <= number <= at_most and math.isfinite(number)):
        bounds = f" from {at_least:g} to {at_most:g}" if math.isfinite(at_most) else ""
        raise BadRequest(f"{name} must be a number{bounds}, not {text!r}.")
    return number


# What runs in the worker threads


class FileError(Exception):
    """The file cannot be used now: the disk is full, for example, or it is gone."""


class Store:
    """A connection to the file, made anew when the file is another one by now. One thread at a time uses it.

    Args:
        path: The file.
        open_: Returns a connection.
        logger: Told when the file is another one.
    """

    def __init__(
        self, path: Path, open_: Callable[[Path], sqlite3.Connection], logger: logging.Logger
    ) -> None:
        self._path = path
        self._open = open_
        self._logger = logger
        self._connection: sqlite3.Connection | None = None
        self._files: Files = ()
        self._log_size = 0

    def is_stale(self) -> bool:
        """Return whether there is no connection, or file or log were moved away, removed or truncated."""
        if self._connection is None or self._files != files_of(self._path):
            return True
        return not size_of(self._path) or size_of(log_of(self._path)) < self._log_size

    def use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what comes of work with the connection.

        Raises:
            FileError: The file cannot be used now.
        """
        try:
            if self.is_stale():
                if self._connection is not None:
                    self._logger.warning(
                        "%s was moved away, removed or truncated: opening it anew", self._path
                    )
                    self._save()
                    self.close()
                self._connection = self._open(self._path)
                self._files = files_of(self._path)
            assert self._connection is not None
            done = work(self._connection)
            self._log_size = size_of(log_of(self._path))  # SQLite never makes it smaller
            return done
        except sqlite3.DatabaseError as error:
            if (code := primary_code(error)) not in FILE_ERRORS and "no such table" not in str(
                error
            ):
                raise
            was_ours = self._connection is not None
            if code != sqlite3.SQLITE_FULL:
                self.close()  # opening it again may help
            if was_ours and code in NOT_OURS:
                self._set_aside(error)
            raise FileError(f"{self._path}: {error}") from error

    def _set_aside(self, error: sqlite3.Error) -> None:
        """Move the file, which is damaged, out of the way, unless that was done already."""
        if files_of(self._path)[0] != self._files[0]:
            return
        stamp = f".damaged-{time.strftime('%Y%m%dT%H%M%S')}"
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                Path(f"{self._path}{suffix}").rename(f"{self._path}{stamp}{suffix}")
        self._logger.error(
            "%s is damaged (%s): it was set aside with %s at the end of its name",
            self._path,
            error,
            stamp,
        )

    def _save(self) -> None:
        """Move what only stands in SQLite's log to the file, wherever they are now."""
        assert self._connection is not None
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.DatabaseError as error:
            self._logger.warning("%s: its last points are lost: %s", self._path, error)

    def close(self) -> None:
        """Close the connection; `use` makes another."""
        connection, self._connection = self._connection, None
        self._log_size = 0
        if connection is not None:
            connection.close()


def log_of(path: Path) -> Path:
    """Return where SQLite has its log of a file."""
    return Path(f"{path}-wal")


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; 0 if it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def files_of(path: Path) -> Files:
    """Return which files are at the path, and in the places of SQLite's own beside it."""
    found: list[tuple[int, int] | None] = []
    for suffix in ("", "-wal", "-shm"):
        try:
            status = Path(f"{path}{suffix}").stat()
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino))
    return tuple(found)


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's code without what makes it more exact; 0 if there is none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, which is there; it is used by one thread at a time, though not always by the same.

    Resources: the connection is the caller's; if it cannot be used, it is closed.

    Raises:
        sqlite3.DatabaseError: It cannot be opened, or is no database.
    """
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw", uri=True, check_same_thread=False, timeout=5.0
    )
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema")  # until then, nothing is opened
    except BaseException:
        connection.close()
        raise
    return connection


def open_database(path: Path, setting: str) -> sqlite3.Connection:
    """Open the file, making it if it is not there.

    Args:
        path: The file.
        setting: What is set to have it elsewhere.

    Resources: the connection is the caller's; if the file cannot be used, it is closed.

    Raises:
        FileError: It is something else than this plugin's file.
        sqlite3.OperationalError: It cannot be opened.
    """
    connection = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if version == 0 and tables == 0:
            connection.executescript(SCHEMA)
        elif version != SCHEMA_VERSION:
            raise ValueError(f"its version is {version}, not {SCHEMA_VERSION}")
        connection.execute("SELECT id, series, time, tags, fields FROM points LIMIT 0")
        connection.execute("PRAGMA synchronous = NORMAL")
    except (sqlite3.DatabaseError, ValueError) as error:
        connection.close()
        if isinstance(error, sqlite3.Error) and primary_code(error) in FILE_ERRORS - NOT_OURS:
            raise
        why = f"{path} cannot be used as a history ({error}); move it away, or set {setting}"
        raise FileError(why) from error
    except BaseException:
        connection.close()
        raise
    return connection


def store(connection: sqlite3.Connection, points: Iterable[Published], limit: int) -> int:
    """Add the points in one transaction; return how many old ones had to go for the size."""
    values: list[str | float] = []
    for point in points:
        values += point.series, float(point.time), _text(point.tags), _text(point.fields)
    with connection:
        # Many rows in a statement: Python's lock changes hands at each, which the event loop would feel.
        for first in range(0, len(values), COLUMNS * ROWS):
            part = values[first : first + COLUMNS * ROWS]
            rows = ", ".join(["(?, ?, ?, ?)"] * (len(part) // COLUMNS))
            connection.execute(
                f"INSERT INTO points (series, time, tags, fields) VALUES {rows}",  # noqa: S608 - fixed text
                part,
            )
    trimmed = 0
    while _used_bytes(connection) > limit:
        with connection:
            gone = connection.execute(
                "DELETE FROM points WHERE id <="
                " (SELECT min(id) + max(1, CAST(count(*) * ? AS INTEGER)) FROM points)",
                (TRIM_SHARE,),
            ).rowcount
        connection.execute("PRAGMA incremental_vacuum")
        trimmed += gone
        if not gone:
            break
    return trimmed


def drop_older(connection: sqlite3.Connection, oldest: float) -> int:
    """Delete the points from before a Unix time; return how many."""
    with connection:
        return connection.execute("DELETE FROM points WHERE time < ?", (oldest,)).rowcount


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _text(values: Mapping[str, Any]) -> str:
    return to_json(dict(values)).decode()  # a plain dict is encoded twice as fast
