"""Plugins as status pages, and other plugins, see them: plain values, without secrets."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lva.host.life.leaks import count_tasks
from lva.host.receipt import total_points
from lva.logs import redact

if TYPE_CHECKING:
    from lva.host.delivery.delivery import Delivery, Histogram
    from lva.host.life.life import PluginLife
    from lva.host.life.record import Record
    from lva.host.loading.load import PluginClass
    from lva.host.watch.uses import LoopUses


def full_statuses(lives: Iterable[PluginLife], loop_uses: LoopUses | None) -> list[dict[str, Any]]:
    """Return what `GET /plugins` shows: the statuses with the histories, which are long."""
    lives = list(lives)
    return [
        {**status, "history": _history(life)}
        for life, status in zip(lives, statuses(lives, loop_uses), strict=True)
    ]


def statuses(lives: Iterable[PluginLife], loop_uses: LoopUses | None) -> list[dict[str, Any]]:
    """Describe plugins, all as of one moment. In Trio's thread only.

    Args:
        lives: The plugins.
        loop_uses: What they use of the event loop; None if nobody watches.
    """
    lives = list(lives)
    tasks = count_tasks(lives)
    return [
        {
            **_status(life, tasks[life.name]),
            "loop": None if loop_uses is None else _loop(life.name, loop_uses),
        }
        for life in lives
    ]


def _status(life: PluginLife, trio_tasks: int) -> dict[str, Any]:
    loaded = life.loaded
    failed_at, last_error = max(
        (item.last_error_at, item.last_error or "") for item in _failing(life)
    )
    return {
        "name": life.name,
        "classes": [cls.__name__ for cls in loaded.classes],
        "kind": loaded.kind,
        "runtime": loaded.runtime,
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
        "tasks": {"trio": trio_tasks, "asyncio": life.asyncio_tasks()},
        "ledger": total_points(life) if life.is_event_plugin else None,
        "deliveries": [_delivery(cls, item) for cls, item in life.deliveries.items()],
        "last_error": redact(last_error) if last_error else None,
        "last_error_at": timestamp(failed_at) if last_error else None,
    }


def _failing(life: PluginLife) -> list[Record | Delivery]:
    """Return what of a plugin may have failed."""
    return [life.record, *life.deliveries.values()]


def _loop(plugin: str, uses: LoopUses) -> dict[str, Any]:
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


def _delivery(cls: PluginClass, delivery: Delivery) -> dict[str, Any]:
    return {
        "class": cls.__name__,
        "event": cls.eventName,  # type: ignore[union-attr] # only event classes have deliveries
        "ledger": delivery.ledger.as_dict(),
        "batch_sizes": _histogram(delivery.batch_sizes),
        "handle_seconds": _histogram(delivery.durations),
        "circuit": delivery.circuit.state,
        "next_probe": _rounded(delivery.circuit.seconds_left),
        "spool_bytes": delivery.mailbox.stored_bytes,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _histogram(histogram: Histogram) -> dict[str, Any]:
    """Return the buckets' upper bounds and counts, of which there is one more: of all larger values."""
    return {
        "bounds": list(histogram.bounds),
        "counts": list(histogram.counts),
        "sum": histogram.sum,
    }


def _history(life: PluginLife) -> list[dict[str, Any]]:
    return [
        {"state": step.state.value, "at": timestamp(step.at), "reason": redact(step.reason)}
        for step in life.record.history
    ]


def timestamp(seconds: float) -> str:
    """Return a Unix time as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
