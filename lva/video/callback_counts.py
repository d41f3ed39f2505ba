"""What became of the events of callbacks: for the metrics, the receipt and the listing.

At every moment, ``taken = sent + dropped + queued + in flight``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple, Protocol

from lva.metrics import Metric

#: Longer names are cut.
LONGEST_NAME: Final = 100
#: Why an event of a stream is dropped.
OVERFLOW, AGE, REJECTED, HOST, SHUTDOWN = "overflow", "max_age", "rejected", "host", "shutdown"
_REASONS: Final = (OVERFLOW, AGE, REJECTED, HOST, SHUTDOWN)
_DROPPED: Final = "dropped_"


class Queue(Protocol):
    """The queue of one callback.

    Attributes:
        stream, stream_id: The stream's name, and its id.
    """

    stream: str
    stream_id: str

    @property
    def queued(self) -> int: ...
    @property
    def in_flight(self) -> int: ...


class CallbackMetric(NamedTuple):
    """One metric: what the documentation's table and a scrape are made from."""

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    meaning: str
    values: Callable[[Counter[str], Iterable[Queue]], Mapping[tuple[str, ...], int]]


def _counted(what: str) -> Callable[[Counter[str], Iterable[Queue]], Mapping[tuple[str, ...], int]]:
    return lambda counts, _queues: {(): counts[what]}


_STREAM: Final = ("stream", "stream_id")
METRICS: Final = (
    CallbackMetric(
        "lva_callback_events_taken_total",
        "counter",
        _STREAM,
        "Events that callbacks of the stream asked for; one for each of them.",
        _counted("taken"),
    ),
    CallbackMetric(
        "lva_callback_events_sent_total",
        "counter",
        _STREAM,
        "Events that the receivers accepted.",
        _counted("sent"),
    ),
    CallbackMetric(
        "lva_callback_events_dropped_total",
        "counter",
        (*_STREAM, "reason"),
        "Events that were dropped.",
        # All reasons from the beginning, so that a rate sees the first.
        lambda counts, _queues: {(why,): counts[f"{_DROPPED}{why}"] for why in _REASONS},
    ),
    CallbackMetric(
        "lva_callback_requests_failed_total",
        "counter",
        _STREAM,
        "Requests that failed and are tried again.",
        _counted("failed"),
    ),
    CallbackMetric(
        "lva_callback_events_queued",
        "gauge",
        _STREAM,
        "Events that wait.",
        lambda _counts, queues: {(): sum(queue.queued for queue in queues)},
    ),
    CallbackMetric(
        "lva_callback_events_in_flight",
        "gauge",
        _STREAM,
        "Events that are being sent.",
        lambda _counts, queues: {(): sum(queue.in_flight for queue in queues)},
    ),
)


def metrics_of(accounts: Mapping[str, Counter[str]], queues: Iterable[Queue]) -> list[Metric]:
    """Return what is measured of callbacks now, by stream.

    Args:
        accounts: The counts of each stream, by its id.
        queues: Those of all callbacks; each stream that has counts has one.
    """
    of_stream: dict[str, list[Queue]] = {}
    for queue in queues:
        of_stream.setdefault(queue.stream_id, []).append(queue)
    return [
        Metric(
            each.name,
            each.kind,
            each.meaning,
            each.labels,
            [
                ((queues[0].stream[:LONGEST_NAME], stream_id, *labels), value)
                for stream_id, queues in of_stream.items()
                for labels, value in each.values(accounts[stream_id], queues).items()
            ],
        )
        for each in METRICS
    ]


def account_of(counts: Counter[str]) -> dict[str, Any]:
    """Return counts as the receipt and the listing show them."""
    return {
        "taken": counts["taken"],
        "sent": counts["sent"],
        "failed": counts["failed"],
        "dropped": _dropped(counts),
    }


def _dropped(counts: Counter[str]) -> dict[str, int]:
    return {
        name.removeprefix(_DROPPED): count
        for name, count in counts.items()
        if name.startswith(_DROPPED)
    }
