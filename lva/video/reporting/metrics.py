"""What is measured of streams, as metrics: one series for each stream that there is now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from lva.metrics import Metric
from lva.video.codes import CODES, StreamState
from lva.video.measures import LONGEST_NAME, STREAM, Measure, Values, measured
from lva.video.supervision.stream import Stream


def _states(_stream: Stream, status: Mapping[str, Any]) -> Values:
    return {(state.value,): int(state.value == status["status"]) for state in StreamState}


def _frames(_stream: Stream, status: Mapping[str, Any]) -> Values:
    frames = status["frames"]
    found: dict[tuple[str, ...], float] = {
        (fate, ""): frames[fate] for fate in ("analysed", "failed")
    }
    for fate in ("skipped", "dropped"):
        for reason, count in frames[fate].items():
            found[fate, reason] = count
    return found


def _ages(_stream: Stream, status: Mapping[str, Any]) -> Values:
    ages = {"0.5": "p50", "0.95": "p95", "1": "max"}
    return {
        (quantile,): age / 1000
        for quantile, key in ages.items()
        if (age := status["frame_age_ms"][key]) is not None
    }


def _reconnects(_stream: Stream, status: Mapping[str, Any]) -> Values:
    counts = status["input"]["reconnects"]
    return {(code,): counts.get(code, 0) for code in CODES}  # so that a rate sees the first


def _of(*keys: str) -> Callable[[Stream, Mapping[str, Any]], Values]:
    def values(_stream: Stream, status: Mapping[str, Any]) -> Values:
        value: Any = status
        for key in keys:
            value = None if value is None else value[key]
        return {} if value is None else {(): value}

    return values


METRICS: Final = (
    Measure(
        "lva_stream_state",
        "gauge",
        (*STREAM, "state"),
        "1 for the state that the stream is in, 0 for all others.",
        _states,
    ),
    Measure(
        "lva_stream_frames_decoded_total",
        "counter",
        STREAM,
        "Frames that were decoded.",
        _of("frames", "decoded"),
    ),
    Measure(
        "lva_stream_frames_total",
        "counter",
        (*STREAM, "fate", "reason"),
        "Frames by what became of them: analysed, failed, skipped, dropped.",
        _frames,
    ),
    Measure(
        "lva_stream_frames_held",
        "gauge",
        STREAM,
        "Frames that wait, or are being looked at.",
        _of("frames", "held"),
    ),
    Measure(
        "lva_stream_fps",
        "gauge",
        STREAM,
        "Frames a second that were decoded in the last five seconds.",
        _of("fps"),
    ),
    Measure(
        "lva_stream_picture_age_seconds",
        "gauge",
        STREAM,
        "Seconds since the newest frame was decoded; there is none before the first.",
        _of("picture_age"),
    ),
    Measure(
        "lva_stream_frame_age_seconds",
        "gauge",
        (*STREAM, "quantile"),
        "Age of frames when they were looked at: 0.5, 0.95 and the most (1); upper ends of classes.",
        _ages,
    ),
    Measure(
        "lva_stream_reconnects_total",
        "counter",
        (*STREAM, "code"),
        "Reconnects, by the code of what ended the connection before.",
        _reconnects,
    ),
    Measure(
        "lva_stream_packets_total",
        "counter",
        STREAM,
        "Packets that were read.",
        _of("input", "packets"),
    ),
    Measure(
        "lva_stream_bytes_total",
        "counter",
        STREAM,
        "Bytes of these packets.",
        _of("input", "bytes"),
    ),
    Measure(
        "lva_stream_decode_errors_total",
        "counter",
        STREAM,
        "Packets that could not be decoded.",
        _of("input", "decode_errors"),
    ),
    Measure(
        "lva_stream_events_total",
        "counter",
        STREAM,
        "Events that analytics plugins saw.",
        _of("events"),
    ),
    Measure(
        "lva_stream_analytics_set_aside",
        "gauge",
        STREAM,
        "Analytics plugins that do not get its frames any more, because they failed.",
        lambda stream, _status: {(): len(stream.set_aside)},
    ),
    Measure(
        "lva_stream_worker_cpu_seconds_total",
        "counter",
        STREAM,
        "Processor time of its workers, read twice a second.",
        lambda stream, _status: {(): stream.cpu_seconds},
    ),
    Measure(
        "lva_stream_worker_memory_bytes",
        "gauge",
        STREAM,
        "Resident memory of its worker, while there is one.",
        _of("worker", "memory"),
    ),
    Measure(
        "lva_stream_worker_memory_limit_bytes",
        "gauge",
        STREAM,
        "How much its worker may have until it is ended.",
        lambda stream, _status: {(): stream.definition.memory_limit},
    ),
)


def metrics_of(streams: Iterable[Stream]) -> list[Metric]:
    """Return what is measured of these streams now."""
    return measured(
        METRICS,
        [
            ((stream.definition.name[:LONGEST_NAME], stream.id), (stream, stream.status()))
            for stream in streams
        ],
    )
