"""What the console plots: requests, plugins and changes of state of the last fifteen minutes.

Memory is bounded: a fixed number of steps, histograms with a fixed number of buckets, one spark line for each
plugin. A request costs one dictionary entry; everything else is done once a second.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import trio
from typing_extensions import TypedDict

from lva.host.delivery.delivery import Delivery
from lva.host.delivery.ledger import Ledger
from lva.host.host import Host
from lva.host.life.life import PluginLife
from lva.host.life.states import Transition
from lva.host.loading.load import Kind, RunsIn
from lva.host.watch.uses import WHAT
from lva.logs.loggers import redact
from lva.routes.pages import console_page
from lva.web.resources.failing_routes import FailingRoute, FailingRoutes

#: Seconds that one value of the series stands for.
STEP: Final = 5.0
#: How many of them are kept: fifteen minutes.
STEPS: Final = 180
#: How many steps one value of a plugin's spark line stands for.
STEPS_PER_SPARK: Final = 3
SPARKS: Final = STEPS // STEPS_PER_SPARK
#: How many changes of state are kept: of all plugins together.
TIMELINE: Final = 500
#: Over how many samples, one a second, it is told what a plugin drops, and over how many steps what fails.
RECENT: Final = 60
_RECENT_STEPS: Final = 12
#: For how long, in seconds, a block of an event loop is told.
BLOCKED_FOR: Final = 60.0
#: Over how many of the newest samples a plugin's rate is taken.
_RATE_SAMPLES: Final = 5
#: Samples come once a second, nearly; a step ends with the one that comes closest.
_JITTER: Final = 0.5
#: Buckets of latencies: 32 for each doubling, so that a percentile is right within 2 %.
_SUB_BITS: Final = 5

#: What a row of a plugin holds, in this order.
COLUMNS: Final = (
    "state",
    "since",
    "restarts",
    "accepted",
    "delivered",
    "rejected",
    "dropped",
    "queued",
    "in_flight",
    "fill",
    "rate",
    "share",
    "log",
    "dropping",
    "probe_at",
)
SERIES: Final = ("at", "requests", "client_errors", "server_errors", "p50", "p95", "p99")

#: The columns from `accepted` to `fill` of a plugin that takes no points.
_NO_POINTS: Final = (None,) * 7

#: A plugin's values by `COLUMNS`.
Row: TypeAlias = tuple[Any, ...]
#: A step's values by `SERIES`.
Sample: TypeAlias = tuple[float | None, ...]

#: This member's name is a keyword.
_From = TypedDict("_From", {"from": str})


class ToldTransition(_From):
    """A plugin's change of state."""

    at: float
    """In Unix seconds."""
    plugin: str
    state: str
    reason: str | None
    """Null for those who may not see details."""


class Tick(TypedDict):
    """What is new since the last second."""

    sample: Sample
    rows: dict[str, Row]
    """Of the plugins of which something changed."""
    sparks: dict[str, float]
    """The newest value of each spark line that changed."""
    new_spark: bool
    """Whether that value is another one than the second before."""
    failing: list[FailingRoute]


class PluginAbout(TypedDict):
    """What there is to know of a plugin at first."""

    name: str
    kind: Kind
    runtime: RunsIn
    critical: bool
    unit: str | None
    """What its throughput counts; null if there is nothing to count."""
    page: str | None
    """The title of the page that it adds to the console, at ``/console/NAME`` while it runs."""
    reason: str | None
    """Null for those who may not see details."""
    row: Row
    spark: list[float]
    """Oldest first."""


class NewestBlock(TypedDict):
    """The newest time that a plugin blocked an event loop."""

    at: float
    """In Unix seconds."""
    seconds: float
    where: str
    what: str
    """What was blocked, for people."""


def bucket_of(seconds: float) -> int:
    """Return the number of the bucket that counts a duration; microseconds are the finest."""
    micros = int(seconds * 1e6)
    shift = max(0, micros.bit_length() - _SUB_BITS - 1)
    return (shift << _SUB_BITS) + (micros >> shift)


def seconds_of(bucket: int) -> float:
    """Return the middle of a bucket, in seconds."""
    shift = max(0, (bucket >> _SUB_BITS) - 1)
    return ((bucket - (shift << _SUB_BITS) + 0.5) * (1 << shift)) / 1e6


def percentiles(buckets: Mapping[int, int], shares: Iterable[float]) -> list[float | None]:
    """Return the durations, in seconds, below which the shares (rising, 0 to 1) of all counted ones are."""
    total = sum(buckets.values())
    if not total:
        return [None for _ in shares]
    ordered = iter(sorted(buckets.items()))
    bucket, seen = next(ordered)
    found: list[float | None] = []
    for share in shares:
        while seen < share * total:
            bucket, count = next(ordered)
            seen += count
        found.append(seconds_of(bucket))
    return found


@dataclass(slots=True)
class _SeriesStep:
    """The requests that ended within one step."""

    at: float  # Unix seconds
    begun: float  # Trio time
    requests: int = 0
    client_errors: int = 0
    server_errors: int = 0
    latencies: dict[int, int] = field(default_factory=dict)

    def values(self, now: float) -> Sample:
        """Return rates per second and percentiles in milliseconds, by `SERIES`."""
        elapsed = max(now - self.begun, 1e-3)
        middle = percentiles(self.latencies, (0.5, 0.95, 0.99))
        return (
            round(self.at, 3),
            _short(self.requests / elapsed),
            _short(self.client_errors / elapsed),
            _short(self.server_errors / elapsed),
            *(None if value is None else _short(value * 1e3) for value in middle),
        )


class _PluginMeter:
    """How much a plugin gets done: points delivered, or requests served."""

    def __init__(self, total: int, now: float) -> None:
        self.rate: float = 0
        self._totals: deque[tuple[float, int]] = deque([(now, total)], maxlen=_RATE_SAMPLES + 1)
        self._spark_begun = (now, total)
        self._spark: deque[float] = deque([0], maxlen=SPARKS)
        self._told: float = 0

    def sample(self, total: int, now: float) -> None:
        """Take a count as of now; a smaller one than before, as after a reload, counts something else."""
        if total < self._totals[-1][1]:
            self._totals = deque([(now, total)], maxlen=_RATE_SAMPLES + 1)
            self._spark_begun = (now, total)
        self._totals.append((now, total))
        begun, before = self._totals[0]
        since, at_begin = self._spark_begun
        self._spark[-1] = _short((total - at_begin) / max(now - since, 1e-3))
        self.rate = _short((total - before) / max(now - begun, 1e-3))

    def begin_spark(self) -> None:
        """Begin the next value of the spark line."""
        self._spark_begun = self._totals[-1]
        self._spark.append(0)
        self._told = 0

    def news(self) -> float | None:
        """Return the newest value of the spark line, if it is another than the last time."""
        if self._spark[-1] == self._told:
            return None
        self._told = self._spark[-1]
        return self._told

    def spark(self) -> list[float]:
        """Return the spark line, oldest first."""
        return list(self._spark)


class Telemetry:
    """Collects what the console shows.

    Args:
        host: The plugins.
        ignored: Templates of routes whose requests say nothing about the service, as probes and its console.
        log_count: Tells how many records a plugin has logged.
        clock: Tells Unix seconds.
    """

    def __init__(
        self,
        host: Host,
        ignored: Iterable[str] = (),
        log_count: Callable[[str], int] = lambda _name: 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.timeline: deque[ToldTransition] = deque(maxlen=TIMELINE)
        self._rows: dict[str, Row] = {}
        self._host = host
        self._ignored = frozenset(ignored)
        self._log_count = log_count
        self._clock = clock
        self._served: dict[str, int] = {}
        self._meters: dict[str, _PluginMeter] = {}
        self._lost: dict[str, deque[int]] = {}
        self._failing = FailingRoutes(STEPS, _RECENT_STEPS, clock)
        self._steps: deque[Sample] = deque(maxlen=STEPS)
        self._open = self._new_step()
        self._steps_of_spark = 0

    def observe(
        self, template: str, plugin: str | None, status: int, error: str | None, seconds: float
    ) -> None:
        """Count a request that has ended, unless its route is ignored.

        Args:
            template: The path of its route.
            plugin: The plugin that served it, if one did.
            status: Of the response.
            error: The error code, if it failed.
            seconds: How long it took.
        """
        if template in self._ignored:
            return
        step = self._open
        step.requests += 1
        bucket = bucket_of(seconds)
        step.latencies[bucket] = step.latencies.get(bucket, 0) + 1
        failed = status >= 500 or error == "response_aborted"
        self._failing.observe((template, plugin), (error or str(status)) if failed else None)
        if failed:
            step.server_errors += 1
        elif status >= 400 or error is not None:
            step.client_errors += 1
        if plugin is not None:
            self._served[plugin] = self._served.get(plugin, 0) + 1

    def note(self, plugin: str, before: str, transition: Transition) -> ToldTransition:
        """Keep a plugin's change of state; return it as it is told."""
        told: ToldTransition = {
            "at": round(transition.at, 3),
            "plugin": plugin,
            "from": before,
            "state": transition.state.value,
            "reason": redact(transition.reason),
        }
        self.timeline.append(told)
        return told

    def sample(self) -> Tick:
        """Take a sample, once a second; return what is new: the members of a `tick`."""
        now = trio.current_time()
        if new_spark := self._steps_of_spark == STEPS_PER_SPARK:
            self._steps_of_spark = 0
            for meter in self._meters.values():
                meter.begin_spark()
        rows = {name: self._sampled(life, now) for name, life in self._host.lives.items()}
        changed = {name: row for name, row in rows.items() if row != self._rows.get(name)}
        self._rows = rows
        sparks = {name: value for name in rows if (value := self._meters[name].news()) is not None}
        sample = self._open.values(now)
        if now - self._open.begun >= STEP - _JITTER:
            self._steps.append(sample)
            self._open = self._new_step()
            self._failing.begin_step()
            self._steps_of_spark += 1
        return {
            "sample": sample,
            "rows": changed,
            "sparks": sparks,
            "new_spark": new_spark,
            "failing": self.failing(),
        }

    def _sampled(self, life: PluginLife, now: float) -> Row:
        """Take a plugin's sample; return its row."""
        ledger = _ledger(life)
        total = self._served.get(life.name, 0) if ledger is None else ledger.delivered
        meter = self._meters.get(life.name)
        if meter is None:
            meter = self._meters[life.name] = _PluginMeter(total, now)
        meter.sample(total, now)
        if ledger is not None:
            self._lost.setdefault(life.name, deque([0], RECENT + 1)).append(ledger.lost)
        return self._row(life, ledger)

    def failing(self) -> list[FailingRoute]:
        """Return the routes that failed in the last fifteen minutes, the newest failure first."""
        return self._failing.told()

    def series(self) -> dict[str, list[float | None]]:
        """Return the series of the requests, as parallel lists, oldest first."""
        steps = [*self._steps, self._open.values(trio.current_time())]
        return dict(zip(SERIES, map(list, zip(*steps, strict=True)), strict=True))

    def plugins(self) -> list[PluginAbout]:
        """Return what there is to know of each plugin, in activation order."""
        return [
            {
                "name": name,
                "kind": life.loaded.kind,
                "runtime": life.loaded.runs_in,
                "critical": life.settings.critical,
                "unit": self.unit(life),
                "page": None if (page := console_page(life.loaded.classes)) is None else page.title,
                "reason": redact(life.record.last.reason),
                "row": self._row(life, _ledger(life)),
                "spark": self._meters[name].spark() if name in self._meters else [],
            }
            for name, life in self._host.lives.items()
        ]

    def blocks(self) -> dict[str, NewestBlock]:
        """Return the newest block of each plugin that blocked an event loop in the last minute."""
        uses = self._host.loop_uses
        if uses is None:
            return {}
        newest = {name: uses.of(name).last_block for name in self._host.lives}
        since = self._clock() - BLOCKED_FOR
        return {
            name: {
                "at": round(block.at, 3),
                "seconds": round(block.seconds, 3),
                "where": redact(block.where),
                "what": WHAT[block.of],
            }
            for name, block in newest.items()
            if block is not None and block.at + block.seconds > since
        }

    def unit(self, life: PluginLife) -> str | None:
        """Return what the plugin's throughput counts; None if there is nothing to count."""
        if life.is_event_plugin:
            return "points"
        return "requests" if life.owner.routes or life.name in self._served else None

    def _new_step(self) -> _SeriesStep:
        return _SeriesStep(self._clock(), trio.current_time())

    def _row(self, life: PluginLife, ledger: Ledger | None) -> Row:
        meter = self._meters.get(life.name)
        return (
            life.state.value.value,
            round(life.record.last.at, 3),
            life.record.restarts,
            *(_NO_POINTS if ledger is None else _points(life, ledger)),
            0 if meter is None else meter.rate,
            _loop_share(self._host, life.name),
            self._log_count(life.name),
            self._dropping(life, ledger),
            self._probe_at(life),
        )

    def _dropping(self, life: PluginLife, ledger: Ledger | None) -> int | None:
        """Return how many points the plugin has dropped in the last minute."""
        before = self._lost.get(life.name)
        return None if ledger is None else max(0, ledger.lost - before[0]) if before else 0

    def _probe_at(self, life: PluginLife) -> float | None:
        """Return when the receiver is probed next, in Unix seconds; None while no circuit is open."""
        times = [delivery.circuit.probes_at for delivery in life.deliveries.values()]
        known = [time for time in times if time is not None]
        return round(self._clock() + min(known) - trio.current_time()) if known else None


def _ledger(life: PluginLife) -> Ledger | None:
    """Return the account of all the plugin's points, if it takes any."""
    return life.record.deliveries.total() if life.deliveries else None


def _points(life: PluginLife, ledger: Ledger) -> tuple[float, ...]:
    """Return the columns of the ledger, and how full the plugin's buffer is."""
    return (
        ledger.accepted,
        ledger.delivered,
        ledger.rejected,
        ledger.lost,
        ledger.queued,
        ledger.in_flight,
        round(max(_fill(life, delivery) for delivery in life.deliveries.values()), 3),
    )


def _fill(life: PluginLife, delivery: Delivery) -> float:
    if life.settings.spool == "disk":
        return delivery.mailbox.stored_bytes / life.settings.spool_bytes
    return delivery.ledger.queued / life.settings.buffer_limit


def _loop_share(host: Host, name: str) -> float | None:
    """Return the plugin's share of the event loop's time over the last minute, if it is measured."""
    return None if host.loop_uses is None else round(host.loop_uses.share(name), 3)


def _short(value: float) -> float:
    """Return the value with the few digits that a plot can show."""
    return float(f"{value:.3g}") if value else 0
