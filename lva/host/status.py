"""Plugins as status pages, and other plugins, see them: plain values, without secrets."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeAlias

from typing_extensions import TypedDict

from lva.documents import Count, Time, one_of
from lva.host.delivery.circuit import CircuitState
from lva.host.delivery.ledger import LedgerCounts
from lva.host.life.leaks import count_tasks
from lva.host.life.states import State
from lva.host.loading.load import Kind, PluginClass, RunsIn
from lva.host.receipt import total_points
from lva.host.watch.uses import Blocked
from lva.logs.loggers import redact

if TYPE_CHECKING:
    from lva.host.delivery.delivery import Delivery
    from lva.host.delivery.histogram import Histogram
    from lva.host.life.life import PluginLife
    from lva.host.life.record import Record
    from lva.host.watch.uses import LoopUses


StateName: TypeAlias = Annotated[str, one_of(state.value for state in State)]


class RouteStatus(TypedDict):
    """A route of a plugin."""

    path: str
    methods: list[str]


class Tasks(TypedDict):
    """Tasks by event loop."""

    trio: Count
    """On the service's."""
    asyncio: Count
    """On the plugin's own."""


class HistogramCounts(TypedDict):
    """How many values fell into each bucket."""

    bounds: list[float]
    """The buckets' upper bounds."""
    counts: list[Count]
    """One more than there are bounds: of all larger values."""
    sum: float
    """Of all values."""


#: This member's name is a keyword.
_OfClass = TypedDict("_OfClass", {"class": str})


class DeliveryStatus(_OfClass):
    """The way of points to one event class."""

    event: str
    """The class's eventName."""
    events: list[str]
    """The event types that it gets."""
    ledger: LedgerCounts
    batch_sizes: HistogramCounts
    """Points in each call of handleEvent()."""
    handle_seconds: HistogramCounts
    """Seconds that each call took."""
    circuit: CircuitState
    """open: no calls until the next probe; probing: one call is under way."""
    next_probe: float | None
    """Seconds until one call probes the receiver, while the circuit is open."""
    spool_bytes: Count
    """Bytes of points that wait on disk."""


class OpenCircuit(_OfClass):
    """A receiver that an event class cannot reach, or that takes nothing; its points wait."""

    plugin: str
    since: Time
    """When the circuit was opened."""
    reason: str | None
    """How the last call failed. Needs the token."""
    next_probe: float
    """Seconds until one call probes the receiver; 0 while that is under way."""


class LoopBlock(TypedDict):
    """A moment in which nothing else could run."""

    of: Blocked
    """What was blocked: the service's event loop, the plugin's own, or a thread of a request."""
    at: Time
    seconds: float
    """How long it took."""
    where: str
    """The line."""
    stack: list[str]
    """How it got there."""


class LoopUse(TypedDict):
    """What a plugin uses of the service's event loop, and what it blocked."""

    share: float
    """Of its time, over the last minute; from 0 to 1."""
    cpu_share: float | None
    """Processor time per second of its own thread; null on Trio."""
    blocks: Count
    """How often it has blocked an event loop or a thread for too long."""
    last_block: LoopBlock | None
    """Needs the token."""
    blocked_for: float | None
    """For how many seconds it has blocked something by now, if it does."""


class PluginStatus(TypedDict):
    """An active plugin. What the admin token is needed for is null without it."""

    name: str
    classes: list[str]
    """The names of its classes."""
    kind: Kind
    runtime: RunsIn
    """Where its code runs; an analytics plugin's in the worker process of each stream that uses it."""
    file: str | None
    """The file it was loaded from. Needs the token."""
    sha256: str
    file_changed: bool
    """Whether that file is another one now, or gone."""
    state: StateName
    since: Time
    """When that state began."""
    reason: str | None
    """Why it is in that state. Needs the token."""
    lives: Count
    """Each start, restart or reload by an operator begins another."""
    restarts: Count
    """Attempts after the first of each life."""
    critical: bool
    """Whether its failure ends the service."""
    routes: list[RouteStatus]
    """What it serves."""
    tasks: Tasks
    """How many of it run."""
    loop: LoopUse | None
    """Null if nobody watches the event loop."""
    ledger: LedgerCounts | None
    """Null for a plugin that takes no points."""
    deliveries: list[DeliveryStatus]
    """For each event class."""
    last_error: str | None
    """What failed last. Needs the token."""
    last_error_at: Time | None
    """When that was."""


class StateChange(TypedDict):
    """A change of state."""

    state: StateName
    at: Time
    reason: str | None
    """Needs the token."""


class FullStatus(PluginStatus):
    """A status with the history, which is long."""

    history: list[StateChange]
    """The last hundred changes of its state."""


def full_statuses(lives: Iterable[PluginLife], loop_uses: LoopUses | None) -> list[FullStatus]:
    """Return what `GET /plugins` shows: the statuses with the histories, which are long."""
    lives = list(lives)
    return [
        {**status, "history": _history(life)}
        for life, status in zip(lives, statuses(lives, loop_uses), strict=True)
    ]


def statuses(lives: Iterable[PluginLife], loop_uses: LoopUses | None) -> list[PluginStatus]:
    """Describe plugins, all as of one moment. In Trio's thread only.

    Args:
        lives: The plugins.
        loop_uses: What they use of the event loop; None if nobody watches.
    """
    lives = list(lives)
    tasks = count_tasks(lives)
    return [_status(life, tasks[life.name], loop_uses) for life in lives]


def open_circuits(lives: Iterable[PluginLife]) -> list[OpenCircuit]:
    """Return the open circuits of the plugins that run; of others, the state says why points wait."""
    return [
        {
            "plugin": life.name,
            "class": cls.__name__,
            "since": timestamp(circuit.opened_at),
            "reason": redact(delivery.last_error or ""),
            "next_probe": round(circuit.seconds_left or 0.0, 1),
        }
        for life in lives
        if life.state.value is State.RUNNING
        for cls, delivery in life.deliveries.items()
        if (circuit := delivery.circuit).opened_at is not None
    ]


def _status(life: PluginLife, trio_tasks: int, loop_uses: LoopUses | None) -> PluginStatus:
    loaded, thread = life.loaded, life.loop_thread()
    failed_at, last_error = max(
        (item.last_error_at, item.last_error or "") for item in _failing(life)
    )
    return {
        "name": life.name,
        "classes": [cls.__name__ for cls in loaded.classes],
        "kind": loaded.kind,
        "runtime": loaded.runs_in,
        "file": str(loaded.path),
        "sha256": loaded.sha256,
        "file_changed": life.files.changed,
        "state": life.state.value.value,
        "since": timestamp(life.record.last.at),
        "reason": redact(life.record.last.reason),
        "lives": life.record.lives,
        "restarts": life.record.restarts,
        "critical": life.settings.critical,
        "routes": [
            {"path": route.template, "methods": route.allowed}
            for route in life.owner.routes.values()
            if route.verbs
        ],
        "tasks": {"trio": trio_tasks, "asyncio": 0 if thread is None else thread.count_tasks()},
        "loop": None if loop_uses is None else _loop(life.name, loop_uses),
        "ledger": total_points(life) if life.is_event_plugin else None,
        "deliveries": [_delivery(cls, item) for cls, item in life.deliveries.items()],
        "last_error": redact(last_error) if last_error else None,
        "last_error_at": timestamp(failed_at) if last_error else None,
    }


def _failing(life: PluginLife) -> list[Record | Delivery]:
    """Return what of a plugin may have failed."""
    return [life.record, *life.deliveries.values()]


def _loop(plugin: str, uses: LoopUses) -> LoopUse:
    use = uses.of(plugin)
    block, going_on = use.last_block, uses.longest_open(plugin)
    processor = uses.processor_share(plugin)
    return {
        "share": round(uses.share(plugin), 4),
        "cpu_share": None if processor is None else round(processor, 4),
        "blocks": use.blocks,
        "last_block": None
        if block is None
        else {
            "at": timestamp(block.at),
            "seconds": round(block.seconds, 3),
            "where": redact(block.where),
            "stack": [redact(line) for line in block.stack],
            "of": block.of,
        },
        "blocked_for": None if going_on is None else round(going_on.seconds, 3),
    }


def _delivery(cls: PluginClass, delivery: Delivery) -> DeliveryStatus:
    return {
        "class": cls.__name__,
        "event": cls.eventName,  # type: ignore[union-attr] # only event classes have deliveries
        "events": list(delivery.intake.events),
        "ledger": delivery.ledger.as_dict(),
        "batch_sizes": _histogram(delivery.batch_sizes),
        "handle_seconds": _histogram(delivery.durations),
        "circuit": delivery.circuit.state,
        "next_probe": _rounded(delivery.circuit.seconds_left),
        "spool_bytes": delivery.mailbox.stored_bytes,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _histogram(histogram: Histogram) -> HistogramCounts:
    return {
        "bounds": list(histogram.bounds),
        "counts": list(histogram.counts),
        "sum": histogram.sum,
    }


def _history(life: PluginLife) -> list[StateChange]:
    return [
        {
            "state": transition.state.value,
            "at": timestamp(transition.at),
            "reason": redact(transition.reason),
        }
        for transition in life.record.history
    ]


def timestamp(seconds: float) -> str:
    """Return a Unix time as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
