"""What is known of one stream: its definition, state, log, events, account of frames and preview."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import trio

from lva.events.streams import StreamAnalyticsEvent
from lva.video.board import FrameLedger
from lva.video.codes import TRANSITIONS, StreamState
from lva.video.definition import StreamDefinition
from lva.video.processes.forks import ForkServer
from lva.video.processes.process import WorkerProcess
from lva.video.source import Source
from lva.video.supervision.freshness import Freshness
from lva.video.supervision.kept import KeptEvents, KeptPictures
from lva.video.supervision.pacing import EVENTS
from lva.video.supervision.previews import Previews
from lva.video.supervision.record import Listener, StreamChange

#: Entries of a stream's log that are kept.
LOG_LENGTH: Final = 500
FindAnalytics: TypeAlias = Callable[[StreamDefinition], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class StreamServices:
    """What streams use of who has them.

    Attributes:
        analytics: Given a definition, what the worker is sent of the plugins in use; raises WrongKeysError
            for unknown ones and wrong parameters.
        listener: Gets changes and events.
        logger: Where what happens, and what plugins log, is logged.
        pace: Waited for before each connection: not all streams connect in the same second.
        rng: Source of the jitter.
        forks: The process that workers are forked from; without it, each is a program of its own.
        not_ready: Told why the service is not ready because of streams, or None once it is.
        path: Below which the routes of streams are.
        account_id: Whose streams these are, for their events.
        pictures: Those of the events of all streams.
        events_per_second: Most events that are taken of a worker, for long.
        ends: How many workers ended in which way: by ``message``, ``SIGTERM``, ``SIGKILL``, or ``by itself``.
    """

    analytics: FindAnalytics
    listener: Listener
    logger: logging.Logger
    pace: Callable[[], Awaitable[None]]
    rng: random.Random = field(default_factory=random.Random)  # noqa: S311 - jitter
    not_ready: Callable[[str | None], None] = lambda _: None
    forks: ForkServer | None = None
    path: str = "/streams"
    account_id: str | None = None
    pictures: KeptPictures = field(default_factory=KeptPictures)
    events_per_second: float = EVENTS
    ends: Counter[str] = field(default_factory=Counter)


class Stream:
    """One stream; `lva.video.supervision.supervisor` works on it.

    Args:
        stream_id: Its id.
        definition: What the user asked for.
        source: The definition's, which is allowed.
        services: What it uses of who has it.

    Attributes:
        version: Of its definition, from 1 on.
        created: When it was made, in Unix seconds.
        changing: Held by who changes its definition or begins or ends the work on it.
        epoch: Of this agent's lease of it, in a fleet; each holder's is higher than those before.
        ledger: The account of its frames.
        freshness: How many a second there are now, and how old the newest is.
        cpu_seconds: Processor time of all of its workers.
        log: Its changes, oldest first.
        events: The newest events, oldest first, and their pictures.
        event_count: How many there were.
        set_aside: Why analytics plugins do not get its frames any more, by name.
        worker: Its process, while there is one.
        renewal: Why it is to be replaced, if it is; `renewed` is set then.
        video: Codec, size and declared rate of what is read, once connected.
        previews: Pictures of its newest frame, for who asks.
    """

    def __init__(
        self,
        stream_id: str,
        definition: StreamDefinition,
        source: Source,
        services: StreamServices,
    ) -> None:
        self.id: str = stream_id
        self.definition: StreamDefinition = definition
        self.source: Source = source
        self.services: StreamServices = services
        self.version: int = 1
        self.created: float = time.time()
        self.changing: trio.Lock = trio.Lock()
        self.epoch: int | None = None
        self.state: StreamState = StreamState.PENDING
        self.change: StreamChange | None = None
        self.ledger: FrameLedger = FrameLedger()
        self.freshness: Freshness = Freshness()
        self.cpu_seconds: float = 0.0
        self._cpu_before = 0.0
        self.log: deque[dict[str, Any]] = deque(maxlen=LOG_LENGTH)
        self.events: KeptEvents = KeptEvents(services.pictures)
        self.event_count: int = 0
        self.set_aside: dict[str, str] = {}
        self.worker: WorkerProcess | None = None
        self.renewal: str = ""
        self.renewed: trio.Event = trio.Event()
        self.video: dict[str, Any] = {}
        self.previews: Previews = Previews()

    @property
    def logger(self) -> logging.Logger:
        """Where what happens to it, and what plugins log, is logged."""
        return self.services.logger

    def move(self, state: StreamState, reason: str, code: str | None = None) -> None:
        """Enter a state, for a reason.

        Raises:
            ValueError: It cannot follow the one before.
        """
        before = self.change.status if self.change is not None else None
        if before is not None and state != before and state not in TRANSITIONS[before]:
            raise ValueError(f"{before} cannot become {state}")
        self.state = state
        definition, now = self.definition, time.time()
        change = StreamChange(
            self.id, definition.name, now, before, state, code, reason, self.epoch,
            tuple(definition.callbacks),
        )  # fmt: skip
        self.change = change
        self.log.append(change.as_dict())
        level = logging.WARNING if code and code != "end_of_stream" else logging.INFO
        self.logger.log(level, "stream %s: %s: %s", self.definition.name, state.value, reason)
        self.services.listener.changed(change)

    def look(self, worker: WorkerProcess) -> None:
        """Note how many frames there are now; to be called from time to time while a worker works."""
        self.freshness.note(self.ledger.decoded, worker.board["last_frame"])
        self.cpu_seconds = self._cpu_before + worker.cpu_seconds()

    def rest(self) -> None:
        """Note that its worker has ended."""
        self.freshness.pause()
        self._cpu_before = self.cpu_seconds

    def see(self, message: Mapping[str, Any], image: bytes) -> None:
        """Take an event that the worker sent.

        Raises:
            KeyError, TypeError, ValueError: It is none.
        """
        number = self.event_count + 1
        event = StreamAnalyticsEvent(
            self.id,
            self.definition.name,
            message["analytics"],
            message["event_type"],
            message["frame"],
            message["time"],
            message["data"],
            image,
            f"{self.services.path}/{self.id}/events/{number}.jpg" if image else "",
            number=number,
            account_id=self.services.account_id,
            epoch=self.epoch,
            callbacks=tuple(self.definition.callbacks),
        )
        self.event_count = number
        self.events.add(event)
        self.services.listener.seen(event)

    def put_aside(self, analytics: str, why: str) -> None:
        """Give an analytics plugin none of the frames any more."""
        self.set_aside[analytics] = why
        reason = f"analytics plugin {analytics} is set aside: {why}"
        self.move(self.state, reason, "analytics_failed")

    def take_back(self, analytics: str) -> None:
        """Give an analytics plugin the frames again, if it was set aside: it is another now."""
        self.set_aside.pop(analytics, None)

    def renew(self, reason: str) -> None:
        """Let the worker, if there is one, be replaced by one with the plugins as they are now."""
        if self.worker is not None and not self.renewal:
            self.renewal = reason
            self.renewed.set()

    def status(self) -> dict[str, Any]:
        """Return what `/streams/ID` shows."""
        worker, change = self.worker, self.change
        reason, code = self._why()
        return {
            "stream_id": self.id,
            "name": self.definition.name,
            "version": self.version,
            "source": self.source.shown,
            "status": self.state.value,
            "reason": reason,
            "code": code,
            "since": None if change is None else round(change.time, 3),
            "video": self.video or None,
            "frames": self.ledger.frames(),
            "input": self.ledger.source(),
            "frame_age_ms": self.ledger.ages(),
            "fps": self.freshness.fps,
            "picture_age": self.freshness.age,
            "preview": None if (newest := self.previews.newest) is None else round(newest.time, 3),
            "worker": None if worker is None else worker.shown(),
            "analytics": [
                {"name": use.name, "set_aside": self.set_aside.get(use.name)}
                for use in self.definition.analytics
            ],
            "events": self.event_count,
            "pictures": {
                "bytes": self.events.picture_bytes,
                "dropped": self.events.pictures_dropped,
            },
            "fleet": None,
        }

    def _why(self) -> tuple[str | None, str | None]:
        """Return reason and code of its state now; while frames come, also that not all plugins get them."""
        change = self.change
        if change is None:
            return None, None
        if not self.set_aside or self.state is not StreamState.IN_PROGRESS:
            return change.reason, change.code
        aside = [f"{name} is set aside: {why}" for name, why in self.set_aside.items()]
        if change.code not in {None, "analytics_failed"}:
            aside.insert(0, change.reason)
        return f"analytics: {'; '.join(aside)}", change.code or "analytics_failed"

    def defined(self) -> dict[str, Any]:
        """Return its definition for JSON, the source without a password."""
        return {**self.definition.model_dump(mode="json"), "source": self.source.shown}
