"""Publishes the service's points to RabbitMQ, and to the service the points that it takes from a queue.

Each direction is off until it is named: `exchange` or `routing_key` to send, `queue` to consume. They are
one class with one configuration because a service that sent into the queue it consumes would feed itself
for ever. A message is a JSON list of points, or of events of one type, which is the message's type; it is
persistent, and confirmed by the server.

* A lost or stalled connection is a crash: the host restarts the plugin with back-off, `/readyz` says
  why, and the points wait. Nothing in here reconnects, nor does the library's plain connection.
* Both directions are at-least-once. A message whose confirm was lost is sent again; one whose
  acknowledgement was lost comes again.
* Messages are acknowledged once their points came back through this plugin's own mailbox: then every
  other plugin has them in its mailbox too, and its ledger counts them from there. What `publish()`
  returns is not enough: it is False not only at stop, but also for good once some plugin has failed.
* A message that holds no points is logged and rejected, to the queue's dead-letter exchange if it has one.
"""

import asyncio
import json
import logging
import math
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Literal, Self

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError, PublishError
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from yarl import URL

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

#: How long, in seconds, `close()` waits for an acknowledgement under way, for the server's good-bye, and
#: for what is left of a connection that had to be cut.
ACK_GRACE, CLOSE_GRACE, CUT_GRACE = 1.0, 2.5, 0.5
#: How long, in seconds, points may take to come back through the plugin's own mailbox.
HAND_OVER_LIMIT = 60.0
#: From how many bytes of points on messages are made of them in a thread: events may have pictures.
LARGE = 256 * 1024
#: How many points are taken from the queue at once, or a few more.
CHUNK = 1000
#: How often, in seconds, rejected messages are logged.
LOG_INTERVAL = 10.0
#: What the URL may say besides, all of it about TLS.
OPTIONS = {"auth", "cafile", "capath", "certfile", "keyfile", "no_verify_ssl"}


class Config(BaseModel):
    """`[plugins.rabbitmq.config]`. Times are in seconds."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    url: str = Field(
        "amqp://127.0.0.1:5672/",
        description="The server: amqp://host:port/vhost, or amqps:// for TLS.",
    )
    username: str | None = Field(None, description="The user; guest if left out.")
    password: SecretStr | None = Field(None, description="The user's password.")
    exchange: str | None = Field(
        None, min_length=1, max_length=127, description="The exchange that points are sent to."
    )
    exchange_type: Literal["direct", "fanout", "topic", "headers"] | None = Field(
        None,
        description="Declares the exchange, durable, as direct, fanout, topic or headers; without it,"
        " it has to exist.",
    )
    routing_key: str | None = Field(
        None,
        min_length=1,
        max_length=127,
        description="The routing key of what is sent; without exchange, the queue it goes to.",
    )
    mandatory: bool = Field(
        True, description="Whether points that no queue takes count as rejected, not as delivered."
    )
    message_points: int = Field(
        100, ge=1, le=100_000, description="Most points in a message that is sent."
    )
    message_bytes: int = Field(
        1024 * 1024, ge=1024, le=1 << 27, description="Most bytes of a message, sent or consumed."
    )
    queue: str | None = Field(
        None, min_length=1, max_length=127, description="The queue that is consumed."
    )
    queue_type: Literal["classic", "quorum"] | None = Field(
        None,
        description="Declares the queue, durable, as classic or quorum; without it, it has to exist.",
    )
    prefetch: int = Field(
        100, ge=1, le=65_535, description="Most messages of the queue not yet acknowledged."
    )
    max_rate: float = Field(
        5000.0, gt=0, description="Most points consumed a second, so that none floods a plugin."
    )
    timeout: float = Field(
        5.0,
        ge=0.1,
        le=3600,
        description="Limit on connecting, and on a confirm; less than handle_timeout.",
    )
    heartbeat: int = Field(
        10, ge=1, le=3600, description="A server silent for about three times as long has stalled."
    )

    @model_validator(mode="after")
    def _take_credentials_out_of_url(self) -> Self:
        """Make `url` fit to be shown: a password in it becomes `password`, which is a secret."""
        try:
            url = URL(self.url)
            right = url.scheme in {"amqp", "amqps"} and url.host and set(url.query) <= OPTIONS
        except ValueError:  # whose text may quote the password
            right = False
        if not right:
            raise ValueError(
                "url is amqp://host:port/vhost or amqps://host:port/vhost, with no options but"
                f" {', '.join(sorted(OPTIONS))}; special characters in a password are percent-encoded"
            )
        if url.user or url.password:
            if self.username or self.password:
                raise ValueError("the user is named in url and beside it; keep one of the two")
            self.username, self.password = url.user, SecretStr(url.password or "")
        self.url = str(url.with_user(None))
        return self

    @model_validator(mode="after")
    def _check_directions(self) -> Self:
        if not (self.exchange or self.routing_key or self.queue):
            raise ValueError(
                "set exchange or routing_key to send points, queue to consume, or both"
            )
        if (self.exchange_type and not self.exchange) or (self.queue_type and not self.queue):
            raise ValueError("exchange_type and queue_type need the name of what to declare")
        if self.queue and not self.exchange and self.routing_key == self.queue:
            raise ValueError(
                f"points are sent to the queue {self.queue!r}, which is also consumed: each would"
                " come back for ever"
            )
        return self


class RabbitMQ(BaseEventPlugin, BaseBackgroundPlugin):
    """Sends and consumes over a connection each: a server short of memory blocks those that send."""

    runtime: ClassVar[RuntimeName] = "asyncio"
    eventName = "monitoring_event"
    otherEvents: ClassVar[Sequence[str]] = ("stream_event", "analytics_event")
    Config: ClassVar[type[BaseModel] | None] = Config
    # A server that comes and goes is no reason to give up, and once it is back it is soon in use. What
    # waits for it needs some room.
    host_settings: ClassVar[Mapping[str, Any]] = {
        "max_restarts": 1000,
        "backoff_max": 10.0,
        "buffer_limit": 50_000,
    }

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        url = URL(self.config.url)
        port = url.port or (5671 if url.scheme == "amqps" else 5672)
        self._server = f"RabbitMQ at {url.host}:{port}"
        self._origin = f"lva-{uuid.uuid4().hex}"
        self._feedback: str | None = None
        self._links: list[Link] = []
        self._lost: asyncio.Future[Exception]
        self._exchange: AbstractExchange | None = None
        self._unconfirmed = False
        self._inbox: asyncio.Queue[AbstractIncomingMessage]
        self._work: asyncio.Task[None] | None = None
        self._acknowledging = asyncio.Lock()
        self._awaited: MonitoringPoint | None = None
        self._came_back = asyncio.Event()
        self._rejected = 0
        self._quiet_until = -math.inf

    async def initialize(self) -> None:
        """Connect, and find or declare what is named. Cancelled, it leaves the rest to `close()`."""
        if self._feedback:
            raise RuntimeError(self._feedback)
        config = self.config
        if config.queue and self.eventName not in self.app.events:
            raise RuntimeError(
                f"a queue is consumed for points: name {self.eventName} in events, too"
            )
        self._lost = asyncio.get_running_loop().create_future()
        self._inbox = asyncio.Queue()
        with self._named():
            async with asyncio.timeout(config.timeout):
                if config.exchange or config.routing_key:
                    self._exchange = await self._open_exchange(await self._open_channel())
                if config.queue:
                    await self._open_queue(await self._open_channel())

    async def start(self) -> None:
        """Take messages, if any come, until the connection is lost, which is a crash. `close()` ends it."""
        work = self._work = asyncio.create_task(self._consume())
        ends: list[asyncio.Future[Any]] = [self._lost, work]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self._lost.done():
            raise self._lost.result()
        if not work.cancelled():
            await work

    async def handleEvent(self, points: list[Published], logger: logging.Logger) -> None:
        """Send the points, in order, and wait for the confirms. Cancelled, it may have sent some.

        Raises:
            RetryLaterError: None was confirmed: the server is unreachable, stalls, or refuses them.
            PartialDeliveryError: Some were not confirmed, for the same reasons; or are too large, or went
                to no queue.
        """
        if self._awaited in points:
            self._came_back.set()
        if self._exchange is None:
            return
        self._unconfirmed = True
        parcels, rejected = await packed(
            points, self.config.message_points, self.config.message_bytes
        )
        replies = await asyncio.gather(
            *(self._send(self._exchange, body, type_of(part[0])) for body, part in parcels),
            return_exceptions=True,
        )
        failed: list[Published] = []
        cause = "too large"
        for (_, part), reply in zip(parcels, replies, strict=True):
            if isinstance(reply, BaseException):
                (rejected if isinstance(reply, PublishError) else failed).extend(part)
                cause = text_of(reply)
            if isinstance(reply, TimeoutError):
                cause = f"no confirm within {self.config.timeout:g} s"
                lose(self._lost, f"{self._server} sent {cause}")
        if len(failed) == len(points):
            raise RetryLaterError(f"{self._server}: {cause}")
        self._unconfirmed = bool(failed)
        if failed or rejected:
            raise PartialDeliveryError(
                f"{self._server}: {counted(len(failed), 'point')} not confirmed, {len(rejected)} can never be"
                f" sent; for one: {cause}",
                failed=failed,
                rejected=rejected,
                after=0.0 if failed else None,
            )

    async def close(self) -> None:
        """Let an acknowledgement under way end, then stop and disconnect; a server that stalls is cut off."""
        if self._work is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(ACK_GRACE), self._acknowledging:
                    pass
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
            self._work = None
        links, self._links = self._links, []
        await asyncio.gather(*(link.shut() for link in links))

    # Connecting

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Have errors name the server, and say what a timeout means."""
        try:
            yield
        except TimeoutError:
            limit = self.config.timeout
            raise TimeoutError(f"{self._server} did not respond within {limit:g} s") from None
        except (AMQPError, ChannelInvalidStateError, OSError) as error:
            raise ConnectionError(f"{self._server}: {text_of(error)}") from None

    async def _open_channel(self) -> AbstractChannel:
        """Return a channel of a connection of its own, whose loss ends `start()`."""
        config, lost = self.config, self._lost
        url = URL(config.url).update_query(heartbeat=config.heartbeat, name="lva")
        if config.username or config.password:
            secret = config.password.get_secret_value() if config.password else ""
            url = url.with_user(config.username or "guest").with_password(secret)

        def closed(_sender: Any, error: BaseException | None) -> None:
            silent = error is None or isinstance(error, asyncio.CancelledError)
            lose(lost, f"{self._server} {'fell silent' if silent else f'is lost: {error}'}")

        link = Link(url)
        self._links.append(link)
        await link.open()
        channel = link.connection.channel(on_return_raises=True)
        await channel.initialize()
        channel.close_callbacks.add(closed)
        return channel

    async def _open_exchange(self, channel: AbstractChannel) -> AbstractExchange:
        name, kind = self.config.exchange, self.config.exchange_type
        if not name:
            return channel.default_exchange
        if kind is None:
            return await channel.get_exchange(name)
        return await channel.declare_exchange(name, kind, durable=True)

    async def _open_queue(self, channel: AbstractChannel) -> None:
        """Begin to consume."""
        config, lost, inbox = self.config, self._lost, self._inbox
        await channel.set_qos(prefetch_count=config.prefetch)
        queue = await channel.declare_queue(
            config.queue,
            durable=True,
            passive=config.queue_type is None,
            arguments={"x-queue-type": "quorum"} if config.queue_type == "quorum" else {},
        )
        why = f"{self._server} has cancelled the consumer of {config.queue!r}"
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _frame: lose(lost, why))
        await queue.consume(inbox.put)

    # Sending

    async def _send(self, exchange: AbstractExchange, body: bytes, kind: str) -> None:
        message = aio_pika.Message(
            body,
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=uuid.uuid4().hex,
            type=kind,
            app_id=self._origin,
        )
        key, limit = self.config.routing_key or "", self.config.timeout
        await exchange.publish(message, key, mandatory=self.config.mandatory, timeout=limit)

    # Consuming

    async def _consume(self) -> None:
        """Take messages as they come, some at a time, for ever."""
        while True:
            message: AbstractIncomingMessage | None = await self._inbox.get()
            last: AbstractIncomingMessage | None = None
            points: list[MonitoringPoint] = []
            with self._named():
                while message is not None:
                    if await self._unpack(message, points):
                        last = message
                    more = len(points) < CHUNK and not self._inbox.empty()
                    message = self._inbox.get_nowait() if more else None
                if points:
                    await self._hand_over(points)
                if last is not None:
                    async with self._acknowledging, asyncio.timeout(self.config.timeout):
                        await last.ack(multiple=True)
            await asyncio.sleep(len(points) / self.config.max_rate)

    async def _unpack(
        self, message: AbstractIncomingMessage, points: list[MonitoringPoint]
    ) -> bool:
        """Add the message's points, or reject it; return whether it is to be acknowledged.

        Raises:
            RuntimeError: This plugin sent it.
        """
        if message.app_id == self._origin:
            self._feedback = (
                f"the queue {self.config.queue!r} gets what is sent to the exchange"
                f" {self.config.exchange!r}: each point would come back for ever; change one of the two"
            )
            raise RuntimeError(self._feedback)
        try:
            points += unpack(message.body, self.config.message_bytes)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            self._rejected += 1
            if (now := time.monotonic()) >= self._quiet_until:
                self._quiet_until = now + LOG_INTERVAL
                self.logger.warning(
                    "messages of %s without points, rejected so far: %d; the last (id %.40s): %.200s",
                    self.config.queue, self._rejected, message.message_id, error,
                )  # fmt: skip
            async with asyncio.timeout(self.config.timeout):
                await message.reject(requeue=False)
            return False
        return True

    async def _hand_over(self, points: Sequence[MonitoringPoint]) -> None:
        """Publish points, and wait until they are taken, seen from the last one's coming back.

        That takes as long as this plugin's own points cannot be sent; nothing is consumed meanwhile.
        """
        self._awaited = points[-1]
        self._came_back.clear()
        self.app.publish(self.eventName, points)
        while not self._came_back.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(HAND_OVER_LIMIT):
                    await self._came_back.wait()
                    break
            if not self._unconfirmed:
                raise RuntimeError(
                    f"{counted(len(points), 'point')} did not come back through this plugin's own channel"
                    f" within {HAND_OVER_LIMIT:g} s; still in the queue"
                )
        self._awaited = None


class CuttableTransport(TransportFactory):
    """Opens a connection's transport as the library does, and keeps it so that it can be cut."""

    def __init__(self) -> None:
        self._writer: asyncio.StreamWriter | None = None

    async def create(
        self, url: URL, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, self._writer = await factory.create(url, **options)
        return reader, self._writer

    @property
    def is_up(self) -> bool:
        """Whether there is a transport."""
        return self._writer is not None

    def cut(self) -> None:
        """Give up what is not yet sent."""
        if self._writer is not None:
            self._writer.transport.abort()


class Link:
    """A connection that can be shut at any moment, also while it is being opened."""

    def __init__(self, url: URL) -> None:
        self.connection: aio_pika.Connection = aio_pika.Connection(url)
        self._wire = self.connection.kwargs["transport_factory"] = CuttableTransport()
        self._opening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect. Cancelled, it leaves the rest to `shut()`.

        The library forgets a connection, and the tasks of it, when it is cancelled as they are made.
        """
        self._opening = asyncio.create_task(self.connection.connect())
        await asyncio.shield(self._opening)

    async def shut(self) -> None:
        """Say good-bye; cut the connection if the server does not answer, as the library would wait on."""
        closing = asyncio.create_task(self._close())
        await asyncio.wait([closing], timeout=CLOSE_GRACE)
        if not closing.done():
            self._wire.cut()
            await asyncio.wait([closing], timeout=CUT_GRACE)

    async def _close(self) -> None:
        if self._opening is not None:
            if not self._wire.is_up:
                self._opening.cancel()  # nothing is made yet, and an address may never answer
            await asyncio.gather(self._opening, return_exceptions=True)
        await asyncio.gather(self.connection.close(), return_exceptions=True)


def lose(lost: asyncio.Future[Exception], why: str) -> None:
    """Note why a connection is of no more use; the first reason counts."""
    if not lost.done():
        lost.set_result(ConnectionError(why))


def text_of(error: BaseException) -> str:
    """Return what an error says, without the addresses of objects, so that like errors look alike."""
    if isinstance(error, ChannelInvalidStateError):
        return "the channel is closed"
    return str(error) or type(error).__name__


async def packed(
    points: Sequence[Published], most_points: int, most_bytes: int
) -> tuple[list[tuple[bytes, list[Published]]], list[Published]]:
    """Do as `pack`, in a thread if the points are large, so that the connections are served meanwhile."""
    if sum(point.size for point in points) > LARGE:
        return await asyncio.to_thread(pack, points, most_points, most_bytes)
    return pack(points, most_points, most_bytes)


def pack(
    points: Sequence[Published], most_points: int, most_bytes: int
) -> tuple[list[tuple[bytes, list[Published]]], list[Published]]:
    """Return the bodies of messages, each with its points, of one type; and the points too large for any."""
    parcels: list[tuple[list[bytes], list[Published]]] = []
    too_large: list[Published] = []
    room = 0
    kind = ""
    for point in points:
        text = encode(point)
        need = len(text) + 1  # for the comma, or the closing bracket
        if need + 1 > most_bytes:
            too_large.append(point)
            continue
        if need > room or len(parcels[-1][0]) == most_points or type_of(point) != kind:
            parcels.append(([], []))
            room = most_bytes - 1
            kind = type_of(point)
        room -= need
        parcels[-1][0].append(text)
        parcels[-1][1].append(point)
    return [(b"[%s]" % b",".join(texts), part) for texts, part in parcels], too_large


def type_of(point: Published) -> str:
    """Return the type of the message that a point, or an event, is in."""
    return "monitoring_event" if isinstance(point, MonitoringPoint) else point.series


def encode(point: Published) -> bytes:
    """Return a point, or an event with its picture, as a JSON object."""
    return json.dumps(point.as_dict(), ensure_ascii=False, separators=(",", ":")).encode()


def unpack(body: bytes, most_bytes: int) -> list[MonitoringPoint]:
    """Return the points of a message: of a JSON list, or the one of a JSON object.

    Raises:
        ValueError, TypeError, OverflowError, RecursionError: It is something else, or too large.
    """
    if len(body) > most_bytes:
        raise ValueError(f"{len(body)} bytes; message_bytes is {most_bytes}")
    document = json.loads(body)
    points = []
    for item in document if isinstance(document, list) else [document]:
        if not isinstance(item, dict):
            raise TypeError(f"a point is a JSON object, not {type(item).__name__}")
        if not all(isinstance(item.get(key), dict) for key in ("tags", "fields")):
            raise TypeError("tags and fields are JSON objects")
        points.append(MonitoringPoint(**item))
    return points
