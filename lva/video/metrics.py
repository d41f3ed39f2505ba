"""What is measured of streams, as metrics: one series for each stream that there is now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from lva.metrics import Metric
from lva.video.codes import CODES, StreamState
from lva.video.stream import Stream

#: Longer names are cut.
LONGEST_NAME: Final = 100
Values = Iterator[tuple[tuple[str, ...], float]]


class StreamMetric(NamedTuple):
    """One metric: what the documentation's table and a scrape are made from.

    Attributes:
        more_labels: Besides ``stream`` and ``stream_id``.
        values: Yields the values of these labels, with the value, given a stream and its status.
    """

    name: str
    kind: Literal["counter", "gauge"]
    more_labels: tuple[str, ...]
    meaning: str
    values: Callable[[Stream, Mapping[str, Any]], Values]

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels that the plugin gives it."""
        return ("stream", "stream_id", *self.more_labels)


def _states(_stream: Stream, status: Mapping[str, Any]) -> Values:
    for state in StreamState:
        yield (state.value,), int(state.value == status["status"])


def _frames(_stream: Stream, status: Mapping[str, Any]) -> Values:
    frames = status["frames"]
    for fate in ("analysed", "failed"):
        yield (fate, ""), frames[fate]
    for fate in ("skipped", "dropped"):
        for reason, count in frames[fate].items():
            yield (fate, reason), count


def _ages(_stream: Stream, status: Mapping[str, Any]) -> Values:
    for quantile, key in (("0.5", "p50"), ("0.95", "p95"), ("1", "max")):
        if (age := status["frame_age_ms"][key]) is not None:
            yield (quantile,), age / 1000


def _reconnects(_stream: Stream, status: Mapping[str, Any]) -> Values:
    counts = status["input"]["reconnects"]
    for code in CODES:  # from the beginning, so that a rate sees the first
        yield (code,), counts.get(code, 0)


def _of(*keys: str) -> Callable[[Stream, Mapping[str, Any]], Values]:
    def values(_stream: Stream, status: Mapping[str, Any]) -> Values:
        value: Any = status
        for key in keys:
            value = None if value is None else value[key]
        if value is not None:
            yield (), value

    return values


def _cpu(stream: Stream, _status: Mapping[str, Any]) -> Values:
    yield (), stream.cpu_seconds


def _memory_limit(stream: Stream, _status: Mapping[str, Any]) -> Values:
    yield (), stream.definition.memory_limit


def _set_aside(stream: Stream, _status: Mapping[str, Any]) -> Values:
    yield (), len(stream.set_aside)


METRICS: Final = (
    StreamMetric(
        "lva_stream_state",
        "gauge",
        ("state",),
        "1 for the state that the stream is in, 0 for all others.",
        _states,
    ),
    StreamMetric(
        "lva_stream_frames_decoded_total",
        "counter",
        (),
        "Frames that were decoded.",
        _of("frames", "decoded"),
    ),
    StreamMetric(
        "lva_stream_frames_total",
        "counter",
        ("fate", "reason"),
        "Frames by what became of them: analysed, failed, skipped, dropped.",
        _frames,
    ),
    StreamMetric(
        "lva_stream_frames_held",
        "gauge",
        (),
        "Frames that wait, or are being looked at.",
        _of("frames", "held"),
    ),
    StreamMetric(
        "lva_stream_fps",
        "gauge",
        (),
        "Frames a second that were decoded in the last five seconds.",
        _of("fps"),
    ),
    StreamMetric(
        "lva_stream_picture_age_seconds",
        "gauge",
        (),
        "Seconds since the newest frame was decoded; there is none before the first.",
        _of("picture_age"),
    ),
    StreamMetric(
        "lva_stream_frame_age_seconds",
        "gauge",
        ("quantile",),
        "Age of frames when they were looked at: 0.5, 0.95 and the most (1); upper ends of classes.",
        _ages,
    ),
    StreamMetric(
        "lva_stream_reconnects_total",
        "counter",
        ("code",),
        "Reconnects, by the code of what ended the connection before.",
        _reconnects,
    ),
    StreamMetric(
        "lva_stream_packets_total",
        "counter",
        (),
        "Packets that were read.",
        _of("input", "packets"),
    ),
    StreamMetric(
        "lva_stream_bytes_total", "counter", (), "Bytes of these packets.", _of("input", "bytes")
    ),
    StreamMetric(
        "lva_stream_decode_errors_total",
        "counter",
        (),
        "Packets that could not be decoded.",
        _of("input", "decode_errors"),
    ),
    StreamMetric(
        "lva_stream_events_total",
        "counter",
        (),
        "Events that analytics plugins saw.",
        _of("events"),
    ),
    StreamMetric(
        "lva_stream_analytics_set_aside",
        "gauge",
        (),
        "Analytics plugins that do not get its frames any more, because they failed.",
        _set_aside,
    ),
    StreamMetric(
        "lva_stream_worker_cpu_seconds_total",
        "counter",
        (),
        "Processor time of its workers, read twice a second.",
        _cpu,
    ),
    StreamMetric(
        "lva_stream_worker_memory_bytes",
        "gauge",
        (),
        "Resident memory of its worker, while there is one.",
        _of("worker", "memory"),
    ),
    StreamMetric(
        "lva_stream_worker_memory_limit_bytes",
        "gauge",
        (),
        "How much its worker may have until it is ended.",
        _memory_limit,
    ),
)


def metrics_of(streams: Iterable[Stream]) -> list[Metric]:
    """Return what is measured of these streams now."""
    told = [(stream, stream.status()) for stream in streams]
    return [
        Metric(
            each.name,
            each.kind,
            each.meaning,
            each.labels,
            [
                ((stream.definition.name[:LONGEST_NAME], stream.id, *labels), value)
                for stream, status in told
                for labels, value in each.values(stream, status)
            ],
        )
        for each in METRICS
    ]
