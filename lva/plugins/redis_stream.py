"""Appends the service's points to a Redis stream, and publishes points that it reads from another one.

Each direction is off until its stream is named: `stream` to write, `consume` to read. They are one class
with one configuration because they have one server and one fate: a service that wrote to the stream it
reads would feed itself for ever, and only a table that holds both names can refuse that.

An entry has four fields: `series` is plain text, `time` a JSON number, `tags` and `fields` are JSON
objects, so that str, int and float come back as what they were. That of an event of a stream has two:
`event_name`, and `event`, which is its JSON document.

* A lost or stalled connection is a crash: the host restarts the plugin with back-off, and `/readyz` says
  why. The reader notices by itself, for the writer there is a ping.
* Both directions are at-least-once. A batch whose replies were lost is appended again; an entry whose
  acknowledgement was lost is published again.
* Entries are acknowledged once their points came back through this plugin's own channel: `publish()` does
  not tell whether points were taken, and at stop they no longer are. Every other plugin then has them in
  its channel too, and its ledger counts them from there.
* An entry that is no point is logged, copied to `dead_letter` if that is set, and acknowledged.
"""

import asyncio
import json
import logging
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from lva import (
    BaseBackgroundPlugin,
    BaseEventPlugin,
    MonitoringPoint,
    PartialDeliveryError,
    PluginApp,
    RetryLaterError,
)
from lva.contract import Published, RuntimeName
from lva.errors import counted
from lva.settings.redis_server import RedisAddress

Entry: TypeAlias = tuple[bytes, Mapping[bytes, bytes]]

#: How long, in seconds, `close()` waits for an acknowledgement under way, and then for the connections.
CLOSE_GRACE = 1.0
#: From how many bytes of points on entries are made of them in a thread: events may have pictures.
LARGE = 256 * 1024
#: What reading an entry that is no point raises.
MALFORMED = (KeyError, TypeError, ValueError, OverflowError, RecursionError)


class Config(RedisAddress):
    """`[plugins.redis_stream.config]`. Times are in seconds."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    stream: str | None = Field(
        None, min_length=1, description="The stream to write to; without it, nothing is written."
    )
    maxlen: int = Field(
        1_000_000, ge=1, description="About how many entries a stream that is written to keeps."
    )
    consume: str | None = Field(
        None, min_length=1, description="The stream to read; without it, nothing is read."
    )
    group: str = Field("lva", min_length=1, description="The consumer group; made if missing.")
    consumer: str | None = Field(
        None,
        min_length=1,
        description="This service's name in the group; the machine's name if left out.",
    )
    batch: int = Field(500, ge=1, le=10_000, description="Most entries read at once.")
    max_rate: float = Field(
        5000.0, gt=0, description="Most entries read a second, so that a backlog floods no plugin."
    )
    claim_idle: float = Field(
        60.0,
        gt=0,
        le=86_400,
        description="After how long the entries that a consumer left are claimed.",
    )
    dead_letter: str | None = Field(
        None, min_length=1, description="The stream that gets the entries that are no points."
    )
    timeout: float = Field(
        5.0, ge=0.1, le=3600, description="Limit on connecting and on each reply of the server."
    )

    @model_validator(mode="after")
    def _check_streams(self) -> Self:
        if not self.stream and not self.consume:
            raise ValueError("set stream to write points, consume to publish a stream's, or both")
        named = [name for name in (self.stream, self.consume, self.dead_letter) if name]
        if len(set(named)) < len(named):
            raise ValueError(
                "stream, consume and dead_letter must differ: what is written to the stream that is"
                " consumed would come back for ever"
            )
        return self


class RedisStream(BaseEventPlugin, BaseBackgroundPlugin):
    """Writes each batch in one round trip; reads as one consumer of a group."""

    runtime: ClassVar[RuntimeName] = "asyncio"
    eventName = "monitoring_event"
    otherEvents: ClassVar[Sequence[str]] = ("stream_event", "analytics_event")
    Config: ClassVar[type[BaseModel] | None] = Config
    # A server that comes and goes is no reason to give up, and once it is back it is soon in use.
    host_settings: ClassVar[Mapping[str, Any]] = {"max_restarts": 1000, "backoff_max": 10.0}

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self._server = connect(self.config)
        self._consumer = (self.config.group, self.config.consumer or socket.gethostname())
        self._work: asyncio.Task[None] | None = None
        self._awaited: MonitoringPoint | None = None
        self._came_back = asyncio.Event()
        self._acknowledging = asyncio.Lock()

    async def initialize(self) -> None:
        if self.config.consume and self.eventName not in self.app.events:
            raise RuntimeError(f"consume is for points: name {self.eventName} in events, too")
        await self._server.ping()
        if self.config.consume:
            try:  # from the oldest entry on, so that none is left out
                await self._server.xgroup_create(
                    self.config.consume, self.config.group, "0", mkstream=True
                )
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):  # the group exists
                    raise

    async def start(self) -> None:
        """Read, or ping if there is nothing to read, for ever. `close()` cancels it; an error is a crash."""
        self._work = asyncio.create_task(self._consume() if self.config.consume else self._watch())
        await asyncio.wait([self._work])
        if not self._work.cancelled():
            await self._work

    async def handleEvent(self, points: list[Published], logger: logging.Logger) -> None:
        """Append the points, in order. Without all the replies it may have appended some.

        Raises:
            RetryLaterError: The server is unreachable, or takes nothing for a reason of its own.
            PartialDeliveryError: It refused some.
        """
        if self._awaited in points:
            self._came_back.set()
        if not self.config.stream:
            return
        try:
            replies = await self._append(self.config.stream, await to_entries(points))
        except (RedisError, OSError) as error:
            raise RetryLaterError(str(error)) from error
        refusals = [(n, reply) for n, reply in enumerate(replies) if isinstance(reply, Exception)]
        if refusals:
            # It may be a replica that was the master: the next connection may lead to the new one.
            with suppress(RedisError, OSError):
                await self._server.connection_pool.disconnect(inuse_connections=False)
            why = refusals[-1][1]
            message = f"{counted(len(refusals), 'point')} refused; the last: {why}"
            if len(refusals) == len(points) and is_state(why):
                raise RetryLaterError(message) from why
            after = 0.0 if is_state(why) else None
            failed = [points[n] for n, _ in refusals]
            raise PartialDeliveryError(message, failed=failed, after=after) from why

    async def close(self) -> None:
        """Let an acknowledgement under way end, unless the server stalls; then stop and disconnect."""
        if self._work is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_GRACE), self._acknowledging:
                    pass
            while not self._work.done():  # `wait_for` of Python 3.11 may swallow a cancellation
                self._work.cancel()
                await asyncio.wait([self._work], timeout=CLOSE_GRACE / 10)
            self._work = None
        with suppress(TimeoutError, RedisError, OSError):
            async with asyncio.timeout(CLOSE_GRACE):
                await self._server.aclose()

    # Writing

    async def _append(self, stream: str, entries: Iterable[dict[Any, Any]]) -> list[Any]:
        """Append entries in one round trip; return for each its id, or why the server refused it."""
        pipeline = self._server.pipeline(transaction=False)
        for entry in entries:
            pipeline.xadd(stream, entry, maxlen=self.config.maxlen, approximate=True)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    async def _watch(self) -> None:
        """Ping for ever; no answer is a crash."""
        while True:
            await asyncio.sleep(self.config.timeout)
            await self._server.ping()

    # Reading

    async def _consume(self) -> None:
        """Take what this consumer has left, now and then what others have, and what is new, for ever."""
        clock = asyncio.get_running_loop().time
        position, cursor, claim_at = b"0", b"0-0", clock()
        while True:
            if clock() >= claim_at:
                cursor, entries = await self._claim(cursor)
                if cursor == b"0-0":  # that was all
                    claim_at = clock() + self.config.claim_idle / 2
            else:
                entries = await self._read(position)
                if position != b">":
                    position = entries[-1][0] if entries else b">"
            await self._take(entries)
            await asyncio.sleep(len(entries) / self.config.max_rate)

    async def _claim(self, cursor: bytes) -> tuple[bytes, Sequence[Entry]]:
        """Claim entries that their consumer has left for long; return where to go on, and them."""
        config, idle = self.config, int(self.config.claim_idle * 1000)
        reply: Any = await self._server.xautoclaim(
            config.consume, *self._consumer, min_idle_time=idle, start_id=cursor, count=config.batch
        )
        return reply[0], reply[1]

    async def _read(self, position: bytes) -> Sequence[Entry]:
        """Return this consumer's entries after an id, or wait for new ones with ``>``."""
        config = self.config
        # Half of the limit, in milliseconds: a server that is silent for longer has stalled.
        wait = int(config.timeout / 2 * 1000)
        reply: Any = await self._server.xreadgroup(
            *self._consumer, {config.consume: position}, count=config.batch, block=wait
        )
        return reply[0][1] if reply else []

    async def _take(self, entries: Sequence[Entry]) -> None:
        """Publish the points among the entries, put away the others, and acknowledge."""
        points, done, malformed = [], [], []
        for id_, fields in entries:
            try:
                points.append(to_point(fields))
                done.append(id_)
            except MALFORMED as error:
                malformed.append((id_, fields, f"{type(error).__name__}: {error}"))
        if points and not await self._hand_over(points):
            return
        async with self._acknowledging:
            if malformed:
                done += await self._put_away(malformed)
            if done:
                await self._server.xack(self.config.consume, self.config.group, *done)

    async def _hand_over(self, points: Sequence[MonitoringPoint]) -> bool:
        """Publish points; return whether they were taken, seen from the last one's coming back."""
        self._awaited = points[-1]
        self._came_back.clear()
        self.app.publish("monitoring_event", points)
        try:
            async with asyncio.timeout(self.config.claim_idle / 2):
                await self._came_back.wait()
        except TimeoutError:
            self.logger.warning(
                "%s did not come back through this plugin's channel and will stay pending",
                counted(len(points), "point"),
            )
            return False
        return True

    async def _put_away(self, malformed: Sequence[tuple[bytes, Any, str]]) -> list[bytes]:
        """Log entries that are no points, copy them to `dead_letter`; return those that are done."""
        id_, _, why = malformed[0]
        self.logger.warning(
            "entries of %s that are not points: %d; the first is %s: %s",
            self.config.consume, len(malformed), id_.decode(), why,
        )  # fmt: skip
        ids = [id_ for id_, _, _ in malformed]
        if not self.config.dead_letter:
            return ids
        copies = [{**fields, b"id": id_, b"error": why} for id_, fields, why in malformed]
        replies = await self._append(self.config.dead_letter, copies)
        if refused := [reply for reply in replies if isinstance(reply, Exception)]:
            self.logger.error("%d of them stay pending: %s", len(refused), refused[-1])
        return [id_ for id_, reply in zip(ids, replies, strict=True) if reply not in refused]


def connect(config: Config) -> Redis:
    """Return a client that retries nothing by itself: that is the host's task, which says so."""
    return Redis.from_url(
        config.url,
        socket_timeout=config.timeout,
        socket_connect_timeout=config.timeout,
        health_check_interval=config.timeout,
        retry=Retry(NoBackoff(), 0),
        **config.client_options(),
    )


def is_state(refusal: Exception) -> bool:
    """Return whether a refusal is about the server: it has another code than the general ``ERR``."""
    return type(refusal) is not ResponseError or bool(re.match(r"[A-Z]+ ", str(refusal)))


async def to_entries(points: Sequence[Published]) -> Sequence[dict[str, str]]:
    """Return points as entries; of large ones in a thread, so that the connection is served meanwhile."""
    if sum(point.size for point in points) > LARGE:
        return await asyncio.to_thread(lambda: [*map(to_entry, points)])
    return [*map(to_entry, points)]


def to_entry(point: Published) -> dict[str, str]:
    """Return a point, or an event, as the fields of an entry."""
    if not isinstance(point, MonitoringPoint):
        document = json.dumps(point.as_dict(), ensure_ascii=False, separators=(",", ":"))
        return {"event_name": point.series, "event": document}
    return {
        "series": point.series,
        "time": json.dumps(point.time),
        "tags": json.dumps(point.tags, ensure_ascii=False),
        "fields": json.dumps(point.fields, ensure_ascii=False),
    }


def to_point(fields: Mapping[bytes, bytes]) -> MonitoringPoint:
    """Return the point that an entry's fields say; raises one of `MALFORMED` if they do not."""
    tags, values = json.loads(fields[b"tags"]), json.loads(fields[b"fields"])
    if not isinstance(tags, dict) or not isinstance(values, dict):
        raise TypeError("tags and fields must be JSON objects")
    return MonitoringPoint(fields[b"series"].decode(), json.loads(fields[b"time"]), tags, values)
