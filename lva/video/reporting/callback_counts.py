"""What became of the events of callbacks: for the metrics, the receipt and the listing.

At every moment, ``taken = sent + dropped + queued + in flight``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from lva.metrics import Metric
from lva.video.measures import LONGEST_NAME, STREAM, Measure, Values, measured

#: Why an event of a stream is dropped.
OVERFLOW, AGE, REJECTED, HOST, SHUTDOWN = "overflow", "max_age", "rejected", "host", "shutdown"
_REASONS: Final = (OVERFLOW, AGE, REJECTED, HOST, SHUTDOWN)
_DROPPED: Final = "dropped_"


class CallbackQueue(Protocol):
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


def _counted(what: str) -> Callable[[Counter[str], Iterable[CallbackQueue]], Values]:
    return lambda counts, _queues: {(): counts[what]}


METRICS: Final = (
    Measure(
        "lva_callback_events_taken_total",
        "counter",
        STREAM,
        "Events that callbacks of the stream asked for; one for each of them.",
        _counted("taken"),
    ),
    Measure(
        "lva_callback_events_sent_total",
        "counter",
        STREAM,
        "Events that the receivers accepted.",
        _counted("sent"),
    ),
    Measure(
        "lva_callback_events_dropped_total",
        "counter",
        (*STREAM, "reason"),
        "Events that were dropped.",
        # All reasons from the beginning, so that a rate sees the first.
        lambda counts, _queues: {(why,): counts[f"{_DROPPED}{why}"] for why in _REASONS},
    ),
    Measure(
        "lva_callback_requests_failed_total",
        "counter",
        STREAM,
        "Requests that failed and are tried again.",
        _counted("failed"),
    ),
    Measure(
        "lva_callback_events_queued",
        "gauge",
        STREAM,
        "Events that wait.",
        lambda _counts, queues: {(): sum(queue.queued for queue in queues)},
    ),
    Measure(
        "lva_callback_events_in_flight",
        "gauge",
        STREAM,
        "Events that are being sent.",
        lambda _counts, queues: {(): sum(queue.in_flight for queue in queues)},
    ),
)


def metrics_of(
    accounts: Mapping[str, Counter[str]], queues: Iterable[CallbackQueue]
) -> list[Metric]:
    """Return what is measured of callbacks now, by stream.

    Args:
        accounts: The counts of each stream, by its id.
        queues: Those of all callbacks; each stream that has counts has one.
    """
    of_stream: dict[str, list[CallbackQueue]] = {}
    for queue in queues:
        of_stream.setdefault(queue.stream_id, []).append(queue)
    return measured(
        METRICS,
        [
            ((queues[0].stream[:LONGEST_NAME], stream_id), (accounts[stream_id], queues))
            for stream_id, queues in of_stream.items()
        ],
    )


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
