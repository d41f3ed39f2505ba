"""The embedded default sink: keeps points in a SQLite file and serves them at /NAME/points.

It is meant for looking at what the service just did, on a machine without a monitoring system. The file
is bounded in size and age; the oldest points go first.
"""

import json
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlencode

import trio
from pydantic import BaseModel, Field
from pydantic_core import to_json
from werkzeug.exceptions import BadRequest

from lva import BaseBackgroundPlugin, BaseEventPlugin, MonitoringPoint, PluginApp

T = TypeVar("T")

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
PARAMETERS = {"series", "since", "until", "tag", "limit", "before"}
MAX_LIMIT = 1000
MAX_ID = 2**53  # beyond what the file can hold, and exact as a float


class Config(BaseModel):
    """`[plugins.history.config]`."""

    path: Path | None = Field(None, description="The file; NAME.sqlite3 in state_dir if left out.")
    max_bytes: int = Field(
        64 * 1024 * 1024, ge=1024 * 1024, description="Bound on the file's size."
    )
    max_age: float = Field(7 * 86_400.0, gt=0, description="Seconds that a point is kept.")
    trim_interval: float = Field(60.0, gt=0, description="Seconds between two checks of the age.")


class History(BaseEventPlugin, BaseBackgroundPlugin):
    """Writes each batch in one transaction, in a worker thread; reads over a connection of its own."""

    eventName = "monitoring_event"
    Config: ClassVar[type[BaseModel] | None] = Config
    # A transaction costs the same for one point as for thousands, so points gather for a moment.
    host_settings: ClassVar[Mapping[str, Any]] = {
        "flush_interval": 0.5,
        "batch_size": 5000,
        "buffer_limit": 50_000,
    }

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None

    async def initialize(self) -> None:
        # One thread for each connection, and none of the threads that other plugins use.
        self._write_limit = trio.CapacityLimiter(1)
        self._read_limit = trio.CapacityLimiter(1)
        path = self.config.path or self.app.settings["state_dir"] / f"{self.app.name}.sqlite3"
        self._writer = await self._in_thread(self._write_limit, lambda: open_database(path))
        self._reader = await self._in_thread(self._read_limit, lambda: connect(path))
        self.addRoute(f"/{self.app.name}/points", self.points)
        self.logger.info("keeping points in %s", path)

    async def start(self) -> None:
        while True:
            await self._write(partial(drop_older, oldest=time.time() - self.config.max_age))
            await trio.sleep(self.config.trim_interval)

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        limit = self.config.max_bytes
        trimmed = await self._write(lambda writer: store(writer, points, limit))
        if trimmed:
            logger.info("the file reached %d bytes: the oldest %d points went", limit, trimmed)

    async def close(self) -> None:
        try:
            for connection, limiter in (
                (self._reader, getattr(self, "_read_limit", None)),
                (self._writer, getattr(self, "_write_limit", None)),
            ):
                if connection is not None:
                    await self._in_thread(limiter, connection.close)
        finally:  # when cut short, at once: no query runs any more; closing again does nothing
            for connection in (self._reader, self._writer):
                if connection is not None:
                    connection.close()
            self._reader = self._writer = None

    async def points(self, request: Any) -> dict[str, Any]:
        """Answer GET /history/points: the newest first, a page at a time."""
        query = Query(request.args)
        reader = self._reader
        assert reader is not None
        rows = await self._in_thread(self._read_limit, lambda: query.run(reader))
        following = None
        if len(rows) == query.limit:
            pairs = [
                (key, value) for key, value in request.args.items(multi=True) if key != "before"
            ]
            following = f"{request.path}?{urlencode([*pairs, ('before', rows[-1]['id'])])}"
        return {"points": rows, "next": following}

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        writer = self._writer
        assert writer is not None
        return await self._in_thread(self._write_limit, lambda: work(writer))

    async def _in_thread(self, limiter: trio.CapacityLimiter | None, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=limiter)


class Query:
    """What /history/points was asked for.

    Args:
        args: The query's parameters: `series`; `since` and `until` in Unix seconds; `tag` as
            ``name:value``, repeatable; `limit`; `before`, a point's id, for the next page.

    Raises:
        BadRequest: A parameter is unknown or malformed.
    """

    def __init__(self, args: Any) -> None:
        if unknown := sorted(set(args) - PARAMETERS):
            raise BadRequest(f"Unknown parameter {unknown[0]!r}; known are {sorted(PARAMETERS)}.")
        self.limit: int = int(_number(args, "limit", 100, at_least=1, at_most=MAX_LIMIT))
        conditions: list[tuple[str, tuple[Any, ...]]] = []
        if series := args.get("series"):
            conditions.append(("series = ?", (series,)))
        for name, operator in (("since", ">="), ("until", "<")):
            if name in args:
                conditions.append((f"time {operator} ?", (_number(args, name, 0),)))
        if "before" in args:
            before = _number(args, "before", 0, at_least=0, at_most=MAX_ID)
            conditions.append(("id < ?", (int(before),)))
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


def connect(path: Path) -> sqlite3.Connection:
    """Open the file; it is used by one thread at a time, though not always by the same."""
    return sqlite3.connect(path, check_same_thread=False, timeout=5.0)


def open_database(path: Path) -> sqlite3.Connection:
    """Open the file, making it if it is not there.

    Raises:
        ValueError: It is something else than this plugin's file.
    """
    try:
        connection = connect(path)
    except sqlite3.Error as error:
        raise ValueError(_unusable(path, str(error))) from error
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if version == 0 and tables == 0:
            connection.executescript(SCHEMA)
        elif version != SCHEMA_VERSION:
            raise ValueError(_unusable(path, f"its version is {version}, not {SCHEMA_VERSION}"))
        connection.execute("SELECT id, series, time, tags, fields FROM points LIMIT 0")
        connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.DatabaseError as error:
        connection.close()
        raise ValueError(_unusable(path, str(error))) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _unusable(path: Path, why: str) -> str:
    return f"{path} cannot be used as a history ({why}); move it away, or set plugins.history.config.path"


def store(connection: sqlite3.Connection, points: Iterable[MonitoringPoint], limit: int) -> int:
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
