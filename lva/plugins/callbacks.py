"""Posts the events of streams to the callbacks in their definitions: one request for each event, as JSON.

Each callback has a queue, a back-off and counters of its own, so that a receiver that is unreachable, slow or
wrong costs no other one anything. What waits is in memory, within bounds, and dropped events are counted by
reason, in the receipt too. For receivers that have to get every event there is `webhook`, which can spool to
disk.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Annotated, Any, ClassVar

import httpx
import trio
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FilePath
from pydantic_core import to_json

from lva import (
    BaseBackgroundPlugin,
    BaseEventPlugin,
    PermanentDeliveryError,
    PluginApp,
    RetryLaterError,
    StreamAnalyticsEvent,
)
from lva.http_replies import beginning, is_page, not_about_points, one_line, retry_after, root_of
from lva.http_targets import new_client, origin, private_words
from lva.settings.user_paths import absolute
from lva.video.callbacks import MOST, Callback, Event
from lva.video.reporting.callback_counts import (
    AGE,
    HOST,
    OVERFLOW,
    REJECTED,
    SHUTDOWN,
    account_of,
    metrics_of,
)

#: How much of a response's text is read, in bytes and in seconds, and how many characters are shown.
READ_BYTES, READ_SECONDS, SHOWN = 4096, 1.0, 200
#: The back-off, in seconds: the first, which is doubled with each failure.
FIRST_DELAY = 1.0
#: Seconds between two lines of the log about dropped events.
TELL_INTERVAL = 10.0
#: An event of more bytes is made JSON of in a thread.
LARGE = 64 * 1024
#: After how many seconds without an event the callbacks of a stream are forgotten: it may be no more.
FORGOTTEN = 3600.0
#: The event came from a document, such as one in a spool, which does not have its callbacks.
NOT_KNOWN = "not_known"


class Config(BaseModel):
    """`[plugins.callbacks.config]`. Times are in seconds."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    timeout: float = Field(10.0, gt=0, le=600, description="Limit on one request.")
    queue_limit: int = Field(1000, ge=1, description="Most events that wait for one callback.")
    queue_bytes: int = Field(
        16 * 1024 * 1024, ge=1, description="Most bytes of events that wait for one callback."
    )
    total_bytes: int = Field(
        64 * 1024 * 1024, ge=1, description="Most bytes of events that wait for all of them."
    )
    max_age: float = Field(300.0, gt=0, description="Events that wait for longer are dropped.")
    max_delay: float = Field(60.0, gt=0, le=3600, description="Longest back-off of a callback.")
    drain: float = Field(
        3.0, ge=0, description="Limit on sending what waits at the stop; less than close_timeout."
    )
    max_connections: int = Field(
        100,
        ge=2,
        le=10_000,
        description="Most requests at once; a fifth of them to receivers whose last one failed.",
    )
    hosts: list[str] = Field(
        [],
        description="Patterns (* ? [abc]) of hosts that events may go to; any, if there is none.",
    )
    ca_file: Annotated[FilePath | None, BeforeValidator(absolute)] = Field(
        None, description="Certificates (PEM) to trust instead of the public authorities'."
    )


@dataclass(frozen=True, slots=True)
class CallbackMeans:
    """What all targets send with.

    Attributes:
        client: Posts.
        well: Limits requests to receivers that took the last one.
        ill: Limits requests to the others, which so cannot keep all connections.
        threads: Limits threads in which JSON is made of large events.
    """

    client: httpx.AsyncClient
    well: trio.CapacityLimiter
    ill: trio.CapacityLimiter
    threads: trio.CapacityLimiter


class Callbacks(BaseEventPlugin, BaseBackgroundPlugin):
    """Hands each event to the targets that ask for it, and tells how they are at /NAME."""

    eventName = "analytics_event"
    otherEvents: ClassVar[Sequence[str]] = ("stream_event",)
    Config: ClassVar[type[BaseModel] | None] = Config
    host_settings: ClassVar[Mapping[str, Any]] = {"events": ["stream_event", "analytics_event"]}

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self._means: CallbackMeans | None = None
        self._targets: dict[tuple[str, int], CallbackTarget] = {}
        #: Of definitions that are no more; they send what they have.
        self._leaving: set[CallbackTarget] = set()
        self._sending = False
        self._total: Counter[str] = Counter()
        self._of_streams: dict[str, Counter[str]] = {}

    async def initialize(self) -> None:
        kept = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        connect = partial(new_client, self.config.ca_file, {}, limits=kept)
        # In a thread, because reading certificates takes a while.
        client = await trio.to_thread.run_sync(connect)
        ill = max(1, self.config.max_connections // 5)
        limits = (self.config.max_connections - ill, ill, 2)
        self._means = CallbackMeans(client, *map(trio.CapacityLimiter, limits))
        self.app.addMetrics(lambda: metrics_of(self._of_streams, self._targets_with_leaving()))
        self.addRoute(f"/{self.app.name}", self.listing)

    async def start(self) -> None:
        self._sending = True
        for target in self._targets_with_leaving():
            self._begin(target)
        while True:
            await trio.sleep(TELL_INTERVAL)
            self._tell_dropped()
            self._forget_quiet()
            self._forget_done()

    async def handleEvent(self, events: list[Event], logger: logging.Logger) -> None:
        for event in events:
            if event.callbacks is None:
                self._total["taken"] += 1
                self._total[f"dropped_{NOT_KNOWN}"] += 1
                continue
            self._leave(event.stream_id, len(event.callbacks))
            for number, callback in enumerate(event.callbacks):
                if callback.conditions.hold(event):
                    bare = event if callback.picture else without_picture(event)
                    self._target(event, number, callback).offer(bare)
        self._keep_total()
        self._forget_done()

    async def close(self) -> None:
        """Send what waits, as far as there is time; what is left is dropped."""
        self._sending = False
        targets = self._targets_with_leaving()
        if self._means is None:
            return
        try:
            with trio.move_on_after(self.config.drain):
                async with trio.open_nursery() as nursery:
                    for target in targets:
                        nursery.start_soon(target.drain, self._means)
        finally:
            self._tell_dropped()
            self.app.forReceipt(account_of(self._total))
            client, self._means = self._means.client, None
            await client.aclose()

    def _target(self, event: Event, number: int, callback: Callback) -> CallbackTarget:
        """Return the target of a stream's callback, new if that is another one now."""
        key = (event.stream_id, number)
        target = self._targets.get(key)
        if target is None or target.callback != callback:
            if target is not None:
                self._let_go(key)
            accounts = self._total, self._of_streams.setdefault(event.stream_id, Counter())
            target = CallbackTarget(*key, callback, self.config, self.logger, accounts)
            self._targets[key] = target
            if self._sending:
                self._begin(target)
        target.stream = event.stream
        return target

    def _targets_with_leaving(self) -> list[CallbackTarget]:
        return [*self._targets.values(), *self._leaving]

    def _let_go(self, key: tuple[str, int]) -> None:
        """Let a target send what it has, and get no more."""
        target = self._targets.pop(key)
        target.leaves = True
        target.wake()
        self._leaving.add(target)

    def _leave(self, stream_id: str, count: int) -> None:
        """Let go of the targets of a stream whose definition has only so many callbacks now."""
        for number in range(count, MOST):
            if (stream_id, number) in self._targets:
                self._let_go((stream_id, number))

    def _forget_quiet(self) -> None:
        """Let go of the targets of streams of which nothing is heard any more."""
        before = trio.current_time() - FORGOTTEN
        for key in [key for key, each in self._targets.items() if each.idle and each.last < before]:
            self._let_go(key)

    def _begin(self, target: CallbackTarget) -> None:
        assert self._means is not None
        self.nursery.start_soon(target.run, self._means, name=target.what)

    def _keep_total(self) -> None:
        """Let those that have most drop their oldest, until all is within its bound."""
        targets = self._targets_with_leaving()
        while sum(target.bytes for target in targets) > self.config.total_bytes:
            max(targets, key=lambda target: target.bytes).drop_oldest(OVERFLOW)

    def _forget_done(self) -> None:
        """Forget callbacks that are no more, once they have nothing to send or tell, and their streams."""
        self._leaving = {each for each in self._leaving if not each.idle or each.untold}
        there = {target.stream_id for target in self._targets_with_leaving()}
        for stream_id in self._of_streams.keys() - there:
            del self._of_streams[stream_id]

    def _tell_dropped(self) -> None:
        dropped: Counter[str] = Counter()
        for target in self._targets_with_leaving():
            dropped += target.untold
            target.untold.clear()
        if dropped:
            reasons = ", ".join(f"{count:,} ({reason})" for reason, count in dropped.items())
            self.logger.warning("events for callbacks were dropped: %s", reasons)

    async def listing(self, request: Any) -> dict[str, Any]:
        """Answer GET /NAME: each callback that has had events, and how it is."""
        return {"callbacks": [target.status() for target in self._targets.values()]}


class CallbackTarget:
    """One callback of a stream: what waits for it, and how its receiver is.

    Args:
        stream_id: The stream's id.
        number: The callback's place in its definition, from 0 on.
        callback: It.
        config: The plugin's.
        logger: The plugin's.
        accounts: Count what becomes of its events, too: that of the stream, and that of all.

    Attributes:
        stream, stream_id: The stream's name, and its id.
        counts: What became of its events.
        last: When the last one came, by Trio's clock.
        bytes: Those of the events that wait.
        leaves: Whether no more events come.
        untold: Drops of which the log has not told, by reason.
    """

    def __init__(
        self,
        stream_id: str,
        number: int,
        callback: Callback,
        config: Config,
        logger: logging.Logger,
        accounts: Sequence[Counter[str]],
    ) -> None:
        self.stream = ""
        self.stream_id = stream_id
        self.counts: Counter[str] = Counter()
        self.last: float = trio.current_time()
        self.callback = callback
        self.bytes: int = 0
        self.leaves = False
        self.untold: Counter[str] = Counter()
        self._accounts = (self.counts, *accounts)
        self._number = number
        self._config = config
        self._logger = logger
        url = httpx.URL(callback.url.get_secret_value())
        params = {key: value.get_secret_value() for key, value in callback.params.items()}
        self._url = url.copy_merge_params(params) if params else url
        self._headers = {key: each.get_secret_value() for key, each in callback.headers.items()}
        self._private = private_words(self._url, [*self._headers.values(), *params.values()])
        self._allowed = not config.hosts or any(fnmatchcase(url.host, one) for one in config.hosts)
        self._waiting: deque[tuple[Event, float]] = deque()  # each with when it came
        self._current: tuple[Event, float] | None = None
        self._arrived = trio.Event()
        self._failures = 0
        self._next_at: float | None = None
        self._last_error: tuple[float, str] | None = None

    @property
    def what(self) -> str:
        """What it is called in messages."""
        return f"callbacks[{self._number}] of stream {self.stream_id}"

    @property
    def idle(self) -> bool:
        """Whether it has nothing to send."""
        return not self.queued and not self.in_flight

    @property
    def queued(self) -> int:
        """How many events wait."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """How many are being sent."""
        return int(self._current is not None)

    def offer(self, event: Event) -> None:
        """Take an event; the oldest go if there is no room."""
        self._count("taken")
        self.last = trio.current_time()
        if not self._allowed:
            self._drop(HOST)
            return
        if event.size > self._config.queue_bytes:
            self._drop(OVERFLOW)
            return
        self._waiting.append((event, self.last))
        self.bytes += event.size
        while (
            len(self._waiting) > self._config.queue_limit or self.bytes > self._config.queue_bytes
        ):
            self.drop_oldest(OVERFLOW)
        self.wake()

    def drop_oldest(self, reason: str) -> None:
        """Drop the event that waits longest, other than one that is being sent."""
        event, _ = self._waiting.popleft()
        self.bytes -= event.size
        self._drop(reason)

    def _drop(self, reason: str) -> None:
        self._count(f"dropped_{reason}")
        self.untold[reason] += 1

    def _count(self, what: str) -> None:
        for account in self._accounts:
            account[what] += 1

    def wake(self) -> None:
        """Have it look again what there is to do."""
        self._arrived.set()

    async def run(self, means: CallbackMeans) -> None:
        """Send what comes, until it leaves; cancelled, an event that is being sent waits again."""
        while not (self.leaves and self.idle):
            if not self._waiting:
                self._arrived = trio.Event()
                await self._arrived.wait()
                continue
            if not await self._send_next(means):
                await self._back_off()

    async def drain(self, means: CallbackMeans) -> None:
        """Send what waits while the receiver takes it; cancelled or refused, the rest is dropped."""
        try:
            while self._waiting and await self._send_next(means):
                pass
        finally:
            while self._waiting:
                self.drop_oldest(SHUTDOWN)

    async def _back_off(self) -> None:
        pause = min(self._config.max_delay, FIRST_DELAY * 2.0 ** min(self._failures - 1, 16))
        pause *= random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        now = trio.current_time()
        self._next_at = max(self._next_at or 0.0, now + pause)
        await trio.sleep_until(self._next_at)
        self._next_at = None

    async def _send_next(self, means: CallbackMeans) -> bool:
        """Send the oldest event; return whether the receiver can take another."""
        event, since = self._waiting.popleft()
        self.bytes -= event.size
        if trio.current_time() - since > self._config.max_age:
            self._drop(AGE)
            return True
        self._current = (event, since)
        try:
            async with means.ill if self._failures else means.well:
                await self._send(means, event)
        except PermanentDeliveryError as error:
            self._current = None
            self._drop(REJECTED)
            self._note(str(error))
        except RetryLaterError as error:
            self._failed(str(error), error.after)
            return False
        except Exception as error:
            self._logger.exception("%s: a fault of the plugin", self.what)
            self._failed(type(error).__name__, None)
            return False
        else:
            self._current = None
            self._count("sent")
        finally:
            if self._current is not None:  # failed, or cancelled
                self._waiting.appendleft(self._current)
                self.bytes += event.size
                self._current = None
        if self._failures:
            self._failures = 0
            self._logger.info("%s: %s works again", self.what, origin(self._url))
        return True

    def _failed(self, why: str, after: float | None) -> None:
        self._count("failed")
        self._failures += 1
        if self._failures == 1:
            self._logger.warning("%s: %s; its events wait", self.what, why)
        self._note(why)
        if after:
            self._next_at = trio.current_time() + min(after, self._config.max_delay)

    def _note(self, why: str) -> None:
        self._last_error = (time.time(), why)

    async def _send(self, means: CallbackMeans, event: Event) -> None:
        """Post an event; without its picture if that is too large.

        Raises:
            RetryLaterError: The receiver cannot be reached, or cannot take it now.
            PermanentDeliveryError: It refuses the event.
        """
        status = await self._post(means, event)
        if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            bare = without_picture(event)
            if bare is not event:
                self._count("pictures_left_out")
            if bare is event or await self._post(means, bare) == status:
                raise PermanentDeliveryError(f"{origin(self._url)} responded with {status}")

    async def _post(self, means: CallbackMeans, event: Event) -> int:
        """Post an event; return 413, or a status of success."""
        receiver = origin(self._url)
        body = await document_of(event, means.threads)
        headers = {"Content-Type": "application/json", **self._headers}
        try:
            with trio.fail_after(self._config.timeout):
                request = means.client.build_request(
                    "POST", self._url, content=body, headers=headers
                )
                reply = await means.client.send(request, stream=True)
                with trio.CancelScope(shield=True):  # what was taken is not sent again for its text
                    text = one_line(
                        (await beginning(reply, READ_BYTES, READ_SECONDS)).decode(errors="replace")
                    )
        except trio.TooSlowError:
            limit = f"{self._config.timeout:g} s"
            raise RetryLaterError(f"{receiver} did not respond within {limit}") from None
        except httpx.HTTPError as error:
            said = self._private.sub("***", f"{root_of(error)!r}")[:SHOWN]
            raise RetryLaterError(f"{receiver}: {said}") from error
        status = reply.status_code
        if (reply.is_success and not is_page(text)) or status == 413:
            return status
        why = (
            f"{receiver} responded with {status} {self._private.sub('***', text)[:SHOWN]}".rstrip()
        )
        remark = not_about_points(status, reply.headers, text)
        if remark is None:
            raise PermanentDeliveryError(why)
        raise RetryLaterError(why + remark, after=retry_after(reply.headers))

    def status(self) -> dict[str, Any]:
        """Return how it is, without secrets."""
        at, why = self._last_error or (None, None)
        left = None if self._next_at is None else max(0.0, self._next_at - trio.current_time())
        return {
            "stream_id": self.stream_id,
            "stream": self.stream,
            "number": self._number,
            "type": self.callback.type,
            "receiver": origin(self._url),
            **account_of(self.counts),
            "queued": self.queued,
            "in_flight": self.in_flight,
            "bytes": self.bytes,
            "pictures_left_out": self.counts["pictures_left_out"],
            "failures": self._failures,
            "next_attempt": None if left is None else round(left, 1),
            "last_error": why,
            "last_error_at": at,
        }


def without_picture(event: Event) -> Event:
    """Return an event without its picture, if it has one."""
    return event.without_picture() if isinstance(event, StreamAnalyticsEvent) else event


async def document_of(event: Event, threads: trio.CapacityLimiter) -> bytes:
    """Return an event as JSON."""
    if event.size > LARGE:
        return await trio.to_thread.run_sync(lambda: to_json(event.as_dict()), limiter=threads)
    return to_json(event.as_dict())
