"""The OpenTelemetry sink: what a real receiver makes of it, and one that answers as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

import lva
from lva import MonitoringPoint
from lva.errors import ConfigurationError
from lva.host.life.states import State
from lva.host.loading.load import load_plugins
from lva.plugins import otlp
from lva.plugins.otlp import BOUNDS, Config, Logs
from tests.plugins.metric_servers import (
    Answer,
    OtlpReceiver,
    Request,
    StandIn,
    attributes_of,
    standing_in,
)
from tests.plugins.sinks import last_error, ledger_of, running_sink, settled
from tests.support import (
    RunningHost,
    examples,
    host_settings,
    numbered,
    run_virtual,
    until,
)

# When a connection breaks while a request is sent, httpx leaves its iterator to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*async_generator object ByteStream.__aiter__:pytest.PytestUnraisableExceptionWarning"
)

START = 1_700_000_000.123452
NS = 1_700_000_000_123_452_000
CUMULATIVE = 2  # by the specification


def sink(
    tmp_path: Path, url: str, wait: bool = True, table: Any = (), **config: Any
) -> AbstractAsyncContextManager[RunningHost]:
    """Run the plugin."""
    return running_sink(tmp_path, "otlp", {"url": url, **config}, wait, table)


@pytest.fixture
def receiver() -> Iterator[StandIn]:
    with standing_in() as it:
        it.answer = lambda _: (200, {"Content-Type": "application/x-protobuf"}, b"")
        yield it


# What the receiver reads


def value_of(pair: KeyValue) -> Any:
    return getattr(pair.value, pair.value.WhichOneof("value"))


def read(pairs: Any) -> dict[str, Any]:
    found = {pair.key: value_of(pair) for pair in pairs}
    assert len(found) == len(pairs)
    return found


def records_of(request: Request) -> list[LogRecord]:
    assert request.path == "/v1/logs"
    (resource,) = ExportLogsServiceRequest.FromString(request.body).resource_logs
    assert read(resource.resource.attributes)["service.name"]
    (scope,) = resource.scope_logs
    assert (scope.scope.name, scope.scope.version) == ("lva", lva.__version__)
    return list(scope.log_records)


def metrics_of(request: Request) -> dict[str, Metric]:
    assert request.path == "/v1/metrics"
    (resource,) = ExportMetricsServiceRequest.FromString(request.body).resource_metrics
    assert read(resource.resource.attributes)["service.name"]
    (scope,) = resource.scope_metrics
    found = {metric.name: metric for metric in scope.metrics}
    assert len(found) == len(scope.metrics)
    return found


def request_point(n: int, took: float = 0.02, **tags: Any) -> MonitoringPoint:
    tags = {"route": "GET:/a", "status_code": 200, **tags}
    return MonitoringPoint(
        "requests", START + n, tags, {"request_id": f"{n}", "execution_time": took}
    )


def error_point(**tags: Any) -> MonitoringPoint:
    return MonitoringPoint("errors", START, {"error_code": "x", **tags}, {"request_id": "7"})


# A real receiver


@pytest.fixture(scope="module")
def running_agent(tmp_path_factory) -> Iterator[OtlpReceiver]:
    with OtlpReceiver(tmp_path_factory.mktemp("receiver")) as server:
        yield server


@pytest.fixture
def agent(running_agent) -> OtlpReceiver:
    running_agent.forget()
    return running_agent


TAGS = {"route": "GET:/<a>", "status_code": 200, "share": 0.5, "yes": True}
FIELDS = {"text": "a\n\0é😀", "most": 2**63 - 1, "least": -(2**63), "tiny": 5e-324, "no": False}


@pytest.mark.slow("talks to a real receiver")
async def test_a_receiver_decodes_logs_as_they_were_meant(tmp_path, agent):
    points = [MonitoringPoint("doors", START + n, TAGS, {**FIELDS, "n": n}) for n in range(500)]
    resource = {"service.name": "cam", "site": 3}
    async with sink(tmp_path, agent.url, resource=resource) as host:
        ledger = await settled(host, points)
    assert (ledger.delivered, ledger.retries) == (500, 0)
    ((attributes, scope),) = agent.scopes("logs")
    assert attributes == resource
    assert scope["scope"] == {"name": "lva", "version": lva.__version__}
    for record, point in zip(scope["log_records"], points, strict=True):
        assert record["event_name"] == record["body"]["string_value"] == "doors"
        assert record["severity_text"] == "INFO"
        assert int(record["time_unix_nano"]) == NS + int(point.fields["n"]) * 10**9
        found, expected = attributes_of(record), {**TAGS, **point.fields}
        assert found == expected
        assert [type(found[key]) for key in expected] == [*map(type, expected.values())]


async def test_a_receiver_decodes_metrics_as_they_were_meant(tmp_path, agent):
    disk = MonitoringPoint("disk", START, TAGS, FIELDS)
    async with sink(tmp_path, agent.url, signal="metrics") as host:
        ledger = await settled(
            host, [disk, request_point(0, 0.005), request_point(1, 99), error_point()]
        )
    assert (ledger.delivered, ledger.retries) == (4, 0)
    ((_, scope),) = agent.scopes("metrics")
    found = {metric["name"]: metric for metric in scope["metrics"]}
    gauges = {
        name: metric["gauge"]["data_points"] for name, metric in found.items() if "gauge" in metric
    }
    for (data,) in gauges.values():
        assert attributes_of(data) == TAGS
        assert int(data["time_unix_nano"]) == NS
    most, least = (int(gauges[f"disk.{name}"][0]["as_int"]) for name in ("most", "least"))
    assert (most, least) == (2**63 - 1, -(2**63))
    assert gauges["disk.tiny"][0]["as_double"] == 5e-324
    assert int(gauges["disk.no"][0]["as_int"]) == 0
    took, errors = found["requests.execution_time"], found["errors"]
    for kind in (took["histogram"], errors["sum"]):
        assert kind["aggregation_temporality"] == "AGGREGATION_TEMPORALITY_CUMULATIVE"
    (data,) = took["histogram"]["data_points"]
    assert attributes_of(data) == {"route": "GET:/a", "status_code": 200}
    assert (took["unit"], int(data["count"]), data["sum"]) == ("s", 2, pytest.approx(99.005))
    assert tuple(data["explicit_bounds"]) == BOUNDS
    (data,) = errors["sum"]["data_points"]
    assert (attributes_of(data), int(data["as_int"])) == ({"error_code": "x"}, 1)


# Logs


async def test_a_point_becomes_a_record_with_everything_in_it(tmp_path, receiver):
    tags = {"route": "GET:/<a>", "status_code": 200, "share": 0.5, "yes": True, "n": "tag"}
    fields = {"text": "a\n\0é😀", "most": 2**63 - 1, "least": -(2**63), "no": False, "n": 7}
    before = time.time_ns()
    async with sink(tmp_path, receiver.url, resource={"service.name": "cam", "site": 3}) as host:
        await settled(host, [MonitoringPoint("doors", START, tags, fields), error_point()])
    empty, request = receiver.requests
    assert records_of(empty) == []
    record, error = records_of(request)
    assert record.time_unix_nano == NS
    assert before <= record.observed_time_unix_nano <= time.time_ns()
    assert (record.event_name, record.body.string_value) == ("doors", "doors")
    assert (record.severity_text, record.severity_number) == ("INFO", 9)
    assert (error.severity_text, error.severity_number) == ("ERROR", 17)
    expected = {**tags, **fields, "n": "tag", "fields.n": 7}
    found = read(record.attributes)
    assert found == expected
    assert {key: type(value) for key, value in found.items()} == {
        key: type(value) for key, value in expected.items()
    }
    (resource,) = ExportLogsServiceRequest.FromString(request.body).resource_logs
    assert read(resource.resource.attributes) == {"service.name": "cam", "site": 3}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
values = (
    texts
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
)
dictionaries = st.dictionaries(texts.filter(bool), values, max_size=4)


@pytest.mark.slow("talks to a real receiver")
@examples(75)
@given(
    st.lists(
        st.builds(
            MonitoringPoint, texts.filter(bool), st.floats(-10, 2e10), dictionaries, dictionaries
        ),
        max_size=4,
    )
)
def test_any_point_comes_back_or_is_named(points):
    async def main() -> None:
        request, sent, unfit = await Logs(Config()).encode(points)
        decoded = ExportLogsServiceRequest.FromString(request.SerializeToString())
        records = decoded.resource_logs[0].scope_logs[0].log_records
        assert sent == [point for point in points if 0 <= point.time < 18446744073]
        assert unfit == [point for point in points if not 0 <= point.time < 18446744073]
        for record, point in zip(records, sent, strict=True):
            assert abs(record.time_unix_nano - Fraction(point.time) * 10**9) < 2500
            assert record.body.string_value == point.series
            fields = {
                f"fields.{key}" if key in point.tags else key: value
                for key, value in point.fields.items()
            }
            found = {pair.key: value_of(pair) for pair in record.attributes}
            assert found == {**point.tags, **fields}

    run_virtual(main)


# Metrics


async def test_numbers_become_gauges(tmp_path, receiver):
    point = MonitoringPoint(
        "disk", START, {"path": "/a"}, {"free": 7, "share": 0.25, "full": True, "note": "x"}
    )
    async with sink(tmp_path, receiver.url, signal="metrics") as host:
        ledger = await settled(host, [point, MonitoringPoint("disk", START + 1, {}, {"free": 8})])
    assert ledger.delivered == 2
    assert metrics_of(receiver.requests[0]) == {}
    found = metrics_of(receiver.requests[1])
    assert sorted(found) == ["disk.free", "disk.full", "disk.share"]
    first, second = found["disk.free"].gauge.data_points
    assert (first.as_int, first.time_unix_nano, read(first.attributes)) == (7, NS, {"path": "/a"})
    assert (second.as_int, second.time_unix_nano, read(second.attributes)) == (8, NS + 10**9, {})
    assert found["disk.share"].gauge.data_points[0].as_double == 0.25
    assert found["disk.full"].gauge.data_points[0].as_int == 1


async def test_durations_of_requests_become_a_histogram_of_all_requests_so_far(tmp_path, receiver):
    before = time.time_ns()
    async with sink(tmp_path, receiver.url, signal="metrics") as host:
        await settled(
            host, [request_point(0, 0.005), request_point(1, 0.006), request_point(2, 99)]
        )
        await settled(host, [request_point(3, 0.25), request_point(4, 1, status_code=404)])
        await settled(host, [request_point(5, 2.0)])
    metrics = [metrics_of(request)["requests.execution_time"] for request in receiver.requests[1:]]
    assert {metric.unit for metric in metrics} == {"s"}
    assert {metric.histogram.aggregation_temporality for metric in metrics} == {CUMULATIVE}
    found = [list(metric.histogram.data_points) for metric in metrics]
    assert [len(points) for points in found] == [1, 2, 1]  # what changed
    first, (second, other), (third,) = found[0][0], found[1], found[2]
    assert read(third.attributes) == {"route": "GET:/a", "status_code": 200}
    assert read(other.attributes) == {"route": "GET:/a", "status_code": 404}
    assert [(p.count, p.sum) for p in (first, second, other, third)] == [
        (3, pytest.approx(99.011)),
        (4, pytest.approx(99.261)),
        (1, 1),
        (5, pytest.approx(101.261)),
    ]
    assert tuple(third.explicit_bounds) == BOUNDS
    by_bound = dict(zip([*BOUNDS, "more"], third.bucket_counts, strict=True))
    counted = {bound: count for bound, count in by_bound.items() if count}
    assert counted == {0.005: 1, 0.01: 1, 0.25: 1, 2.5: 1, "more": 1}
    starts = {point.start_time_unix_nano for points in found for point in points}
    assert len(starts) == 1
    assert before <= starts.pop() < first.time_unix_nano < third.time_unix_nano


async def test_a_number_that_makes_a_sum_infinite_is_rejected_and_spoils_no_other(
    tmp_path, receiver
):
    async with sink(tmp_path, receiver.url, signal="metrics") as host:
        ledger = await settled(host, [request_point(n, 1.7e308) for n in range(2)])
        assert (ledger.delivered, ledger.rejected) == (1, 1)
        ledger = await settled(host, [request_point(2, 0.25), request_point(3, 1e308)])
        assert (ledger.delivered, ledger.rejected) == (2, 2)
    (data,) = metrics_of(receiver.requests[-1])["requests.execution_time"].histogram.data_points
    assert (data.count, data.sum) == (2, 1.7e308)


async def test_a_histogram_of_numbers_below_zero_has_no_sum(tmp_path, receiver):
    async with sink(tmp_path, receiver.url, signal="metrics") as host:
        for took in (0.25, -0.5, 2):
            await settled(host, [request_point(0, took)])
    found = [
        metrics_of(request)["requests.execution_time"].histogram.data_points[0]
        for request in receiver.requests[1:]
    ]
    assert [(data.count, data.HasField("sum")) for data in found] == [
        (1, True), (2, False), (3, False)
    ]  # fmt: skip
    assert found[0].sum == 0.25
    assert found[2].bucket_counts[0] == 1


async def test_points_without_numbers_are_counted(tmp_path, receiver):
    async with sink(tmp_path, receiver.url, signal="metrics") as host:
        await settled(host, [error_point(), error_point(), error_point(route="GET:/b")])
        await settled(host, [error_point()])
    totals = []
    for request in receiver.requests[1:]:
        (metric,) = metrics_of(request).values()
        assert (metric.name, metric.sum.is_monotonic) == ("errors", True)
        assert metric.sum.aggregation_temporality == CUMULATIVE
        totals.append({len(p.attributes): p.as_int for p in metric.sum.data_points})
    assert totals == [{1: 2, 2: 1}, {1: 3}]


async def test_the_order_of_tags_makes_no_difference_and_their_types_do(tmp_path, receiver):
    tags = [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1.0, "b": 2}, {"a": "1", "b": 2}]
    async with sink(tmp_path, receiver.url, signal="metrics") as host:
        await settled(host, [MonitoringPoint("errors", START, item, {}) for item in tags])
    (metric,) = metrics_of(receiver.requests[1]).values()
    assert sorted(point.as_int for point in metric.sum.data_points) == [1, 1, 2]


async def test_what_is_added_up_can_be_chosen(tmp_path, receiver):
    histograms = {"doors.opened": "mm"}
    async with sink(tmp_path, receiver.url, signal="metrics", histograms=histograms) as host:
        point = MonitoringPoint("doors", START, {}, {"opened": 3, "closed": 4})
        await settled(host, [point, request_point(0)])
    found = metrics_of(receiver.requests[1])
    assert found["doors.opened"].histogram.data_points[0].sum == 3
    assert found["doors.opened"].unit == "mm"
    assert found["doors.closed"].WhichOneof("data") == "gauge"
    assert found["requests.execution_time"].WhichOneof("data") == "gauge"


async def test_a_batch_that_is_sent_again_counts_once(tmp_path, receiver):
    receiver.say(200, 0, 503, 200, 503, 200)  # the first batch arrives, and its answer does not
    async with sink(tmp_path, receiver.url, signal="metrics") as host:
        await settled(host, [*(error_point() for _ in range(5)), request_point(1)])
        await settled(host, [error_point(), request_point(2)])
    found = [metrics_of(request) for request in receiver.requests[1:]]
    counts = [metrics["errors"].sum.data_points[0].as_int for metrics in found]
    assert counts == [5, 5, 5, 6, 6]
    durations = [metrics["requests.execution_time"].histogram.data_points[0] for metrics in found]
    assert [point.count for point in durations] == [1, 1, 1, 2, 2]
    assert [max(point.bucket_counts) for point in durations] == [1, 1, 1, 2, 2]


async def test_a_batch_that_was_refused_does_not_count(tmp_path, receiver):
    receiver.say(200, 400, 200, 200)
    async with sink(tmp_path, receiver.url, signal="metrics") as host:
        await settled(host, [error_point() for _ in range(5)])
        ledger = await settled(host, [error_point()])
    assert (ledger.rejected, ledger.delivered) == (5, 1)
    points = metrics_of(receiver.requests[-1])["errors"].sum.data_points
    assert points[0].as_int == 1


@pytest.mark.slow("many requests")
async def test_totals_are_right_with_many_calls_at_once(tmp_path, receiver):
    table = {"concurrency": 8, "batch_size": 1}
    async with sink(tmp_path, receiver.url, signal="metrics", table=table) as host:
        await settled(host, [error_point() for _ in range(30)])
    totals = [metrics_of(request)["errors"].sum.data_points for request in receiver.requests[1:]]
    assert [points[0].as_int for points in totals] == [*range(1, 31)]


async def test_the_number_of_totals_is_bounded(tmp_path, receiver):
    async with sink(tmp_path, receiver.url, signal="metrics") as host:
        host.module("otlp").MOST_TOTALS = 3
        for n in range(5):
            await settled(host, [error_point(camera=n)])
        await settled(host, [error_point(camera=0)])
    found = [metrics_of(request)["errors"].sum.data_points[0] for request in receiver.requests[1:]]
    cameras = [read(point.attributes).get("camera") for point in found]
    assert cameras == [0, 1, 2, None, None, 0]
    assert [point.as_int for point in found] == [1, 1, 1, 1, 2, 2]
    assert read(found[4].attributes) == {"otel.metric.overflow": True}


# Answers


def has_points(request: Request) -> bool:
    return bool(records_of(request))


@pytest.mark.slow("talks to a stand-in server, in real time")
@pytest.mark.parametrize("status", [400, 422, 500, 501])
async def test_points_are_not_sent_again_when_it_is(tmp_path, receiver, status):
    statuses = [status, 200]
    receiver.answer = lambda request: (
        statuses.pop(0) if has_points(request) else 200,
        {},
        b"said so",
    )
    async with sink(tmp_path, receiver.url) as host:
        ledger = await settled(host, numbered(3))
        assert f"/v1/logs responded with {status} said so" in last_error(host)
        await settled(host, numbered(2))
    assert (ledger.delivered, ledger.rejected, ledger.retries) == (2, 3, 0)
    assert [*map(has_points, receiver.requests)] == [False, True, False, True]


@pytest.mark.slow("talks to a stand-in server, in real time")
@pytest.mark.parametrize("status", [400, 413, 500])
async def test_points_wait_while_a_request_without_any_is_refused_too(tmp_path, receiver, status):
    receiver.say(200, *[status] * 6, 200, text=b"unsupported path")
    async with sink(tmp_path, receiver.url, table={"max_attempts": 1}) as host:
        ledger = await settled(host, numbered(3))
        error = last_error(host)
    assert f"responded with {status} unsupported path, whether there are points or not" in error
    assert (ledger.delivered, ledger.rejected, ledger.retries) == (3, 0, 3)


async def test_points_wait_while_a_page_answers(tmp_path, receiver):
    html, text = "text/html; charset=utf-8", b"Who\0 are  you?"
    answers: list[Answer] = [
        (200, {}, b""),
        (200, {"Content-Type": html}, text),
        (500, {"Content-Type": html}, text),
        (200, {}, b"<!-- --><html>\n\t" + text),
        (200, {}, b""),
    ]
    receiver.answer = lambda _: answers.pop(0)
    async with sink(tmp_path, receiver.url, table={"max_attempts": 1}) as host:
        ledger = await settled(host, numbered(3))
        assert "responded with 200 <!-- --><html> Who are you? (a page; check url)" in last_error(
            host
        )
    assert (ledger.delivered, ledger.retries) == (3, 3)


async def test_the_message_of_an_error_is_shown(tmp_path, receiver):
    status = b"\x08\x03\x12\x0bbad cameras\x1a\x03abc"  # google.rpc.Status
    receiver.answer = lambda request: (
        400 if has_points(request) else 200,
        {"Content-Type": "application/x-protobuf"},
        status if has_points(request) else b"",
    )
    async with sink(tmp_path, receiver.url) as host:
        await settled(host, numbered(1))
        assert "responded with 400 bad cameras" in last_error(host)


@pytest.mark.parametrize("signal", ["logs", "metrics"])
@pytest.mark.parametrize(("refused", "rejected"), [(3, 3), (10, 10), (15, 10), (-1, 0)])
async def test_points_that_were_refused_are_counted(
    tmp_path, receiver, signal, refused, rejected, caplog
):
    answer: Any
    if signal == "logs":
        answer = ExportLogsServiceResponse()
        answer.partial_success.rejected_log_records = refused
    else:
        answer = ExportMetricsServiceResponse()
        answer.partial_success.rejected_data_points = refused
    answer.partial_success.error_message = "too old"
    content = answer.SerializeToString()
    receiver.answer = lambda _: (200, {"Content-Type": "application/x-protobuf"}, content)
    async with sink(tmp_path, receiver.url, signal=signal) as host:
        ledger = await settled(host, numbered(10))
    assert (ledger.rejected, ledger.delivered, ledger.retries) == (rejected, 10 - rejected, 0)
    assert "too old" in caplog.text
    assert len(receiver.requests) == 2


async def test_a_remark_is_logged_once(tmp_path, receiver, caplog):
    answer = ExportLogsServiceResponse()
    answer.partial_success.error_message = "slow\n down\0a bit" + "!" * 1000
    content = answer.SerializeToString()
    receiver.answer = lambda _: (200, {}, content)
    async with sink(tmp_path, receiver.url) as host:
        for _ in range(3):
            ledger = await settled(host, numbered(2))
    assert (ledger.delivered, ledger.rejected) == (6, 0)
    assert caplog.text.count("slow down a bit!") == 1
    assert "!" * 200 not in caplog.text


@pytest.mark.parametrize("content", [b"", b"{}", b'{"partialSuccess":{}}', b"OK", b"\xff\xfe"])
async def test_success_may_be_said_in_other_ways(tmp_path, receiver, content):
    receiver.answer = lambda _: (200, {"Content-Type": "text/plain"}, content)
    async with sink(tmp_path, receiver.url) as host:
        ledger = await settled(host, numbered(3))
    assert ledger.delivered == 3


async def test_points_that_have_no_form_are_rejected_and_the_others_sent(tmp_path, receiver):
    early = MonitoringPoint("s", -1.0, {}, {"n": 1})
    late = MonitoringPoint("s", 1e308, {}, {})
    for signal in ("logs", "metrics"):
        async with sink(tmp_path, receiver.url, signal=signal) as host:
            ledger = await settled(host, [early, *numbered(2), late])
            assert (ledger.delivered, ledger.rejected) == (2, 2)
            requests = len(receiver.requests)
            ledger = await settled(host, [early])
            assert (ledger.delivered, ledger.rejected) == (2, 3)
            assert len(receiver.requests) == requests


# Receivers that are away, busy or shut


async def test_wrong_headers_are_known_before_the_first_point(tmp_path, receiver, caplog):
    receiver.say(401, 403, 200, 200, text=b"who are you?")
    headers = {"Authorization": "Bearer open-sesame", "X-Scope": "the-cave"}
    async with sink(tmp_path, receiver.url, wait=False, headers=headers) as host:
        host.publish(numbered(2))
        await host.wait_for("otlp", State.RUNNING, within=20)
        await until(lambda: ledger_of(host).delivered == 2)
        history = repr(host.life("otlp").record.history)
        shown = history + repr(host.plugin("otlp").config)
    assert "responded with 401 who are you?" in history
    for request in receiver.requests:
        assert request.headers["Authorization"] == "Bearer open-sesame"
        assert request.headers["X-Scope"] == "the-cave"
    assert "sesame" not in caplog.text + shown
    assert "the-cave" not in caplog.text + shown


def large(count: int) -> list[MonitoringPoint]:
    """Return points of which two fit into a request."""
    return [MonitoringPoint("large", START, {}, {"n": n, "x": "x" * 900_000}) for n in range(count)]


def sent(receiver: StandIn) -> list[list[int]]:
    """Return the numbers in each request but the first, which has none."""
    return [
        [read(record.attributes)["n"] for record in records_of(request)]
        for request in receiver.requests[1:]
    ]


async def test_a_large_batch_goes_out_in_requests_that_receivers_take(tmp_path, receiver):
    async with sink(tmp_path, receiver.url) as host:
        ledger = await settled(host, large(5))
    assert ledger.delivered == 5
    assert sent(receiver) == [[0, 1], [2, 3], [4]]


async def test_what_a_busy_receiver_took_of_a_large_batch_is_not_sent_again(tmp_path, receiver):
    receiver.say(200, 200, 503, 200, 200)
    async with sink(tmp_path, receiver.url, table={"max_attempts": 1}) as host:
        ledger = await settled(host, large(5))
    assert (ledger.delivered, ledger.retries) == (5, 1)
    assert sent(receiver) == [[0, 1], [2, 3], [2, 3], [4]]


@pytest.mark.slow("makes and compresses megabytes of points")
async def test_of_a_large_batch_only_what_was_refused_is_rejected(tmp_path, receiver):
    receiver.say(200, 200, 400, 200, 200, text=b"no")
    async with sink(tmp_path, receiver.url) as host:
        ledger = await settled(host, large(5))
        assert "2 points rejected, 0 to be sent again" in last_error(host)
    assert (ledger.delivered, ledger.rejected) == (3, 2)
    assert sent(receiver) == [[0, 1], [2, 3], [], [4]]


async def test_requests_become_as_small_as_the_receiver_wants_them(tmp_path, receiver):
    receiver.answer = lambda request: (
        413 if len(request.raw) > 1024 * 1024 else 200, {}, b"too large"
    )  # fmt: skip
    async with sink(tmp_path, receiver.url, gzip=False) as host:
        await settled(host, large(4))
        ledger = await settled(host, large(3))
    assert (ledger.delivered, ledger.rejected, ledger.retries) == (7, 0, 0)
    taken = [[0], [1], [2], [3], [0], [1], [2]]
    assert [numbers for numbers in sent(receiver) if len(numbers) == 1] == taken
    assert sum(len(numbers) > 1 for numbers in sent(receiver)) == 2


async def test_only_a_point_that_is_too_large_alone_is_rejected(tmp_path, receiver):
    receiver.answer = lambda request: (413 if b"heavy" in request.raw else 200, {}, b"")
    points = [*numbered(40), MonitoringPoint("heavy", START, {}, {"n": -1}), *numbered(60, 40)]
    async with sink(tmp_path, receiver.url, gzip=False) as host:
        ledger = await settled(host, points)
        assert "1 point rejected, 0 to be sent again" in last_error(host)
        requests = len(receiver.requests)
        await settled(host, numbered(100))
    assert (ledger.delivered, ledger.rejected, ledger.retries) == (200, 1, 0)
    assert len(receiver.requests) == requests + 1  # one point makes no later request smaller


async def test_an_endless_answer_is_not_read(tmp_path, monkeypatch):
    chunks = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal chunks
        while True:
            chunks += 1
            yield b"x" * 16_384
            await trio.lowlevel.checkpoint()

    client = httpx.AsyncClient
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=endless()))
    monkeypatch.setattr(
        otlp.httpx, "AsyncClient", lambda **options: client(**options, transport=transport)
    )
    async with sink(tmp_path, "http://virtual", timeout=20) as host:
        ledger = await settled(host, numbered(3))
    assert (ledger.delivered, chunks) == (3, 8)  # in two answers


@pytest.mark.slow("talks to a stand-in server, in real time")
async def test_a_call_that_waits_for_another_is_not_to_blame(tmp_path, receiver):
    stalled = threading.Event()

    def answer(request: Request) -> Any:
        if metrics_of(request):
            stalled.wait(20)
        return 200, {}, b""

    receiver.answer = answer
    # Each call has time for its own request, and would not have it for those of all others.
    table = {
        "concurrency": 8, "batch_size": 1, "max_attempts": 1, "handle_timeout": 0.5,
        "circuit_failures": 100,
    }  # fmt: skip
    config = {"signal": "metrics", "timeout": 0.15}
    async with sink(tmp_path, receiver.url, table=table, **config) as host:
        host.publish([error_point() for _ in range(8)])
        ledger = ledger_of(host)
        await until(lambda: ledger.retries >= 8)
        stalled.set()
        await until(lambda: ledger.delivered == 8)
    assert not ledger.rejected
    assert not ledger.dropped


async def test_a_large_batch_goes_on_later_when_it_takes_long(tmp_path, receiver, monkeypatch):
    async with sink(tmp_path, receiver.url, table={"max_attempts": 1}) as host:
        (cls,) = host.life("otlp").loaded.classes
        monkeypatch.setitem(cls.handleEvent.__globals__, "SEND_TIME", 0.0)
        ledger = await settled(host, large(5))
    assert (ledger.delivered, ledger.retries) == (5, 2)
    assert sent(receiver) == [[0, 1], [2, 3], [4]]


# The wire


@pytest.mark.parametrize("signal", ["logs", "metrics"])
async def test_others_get_a_turn_while_a_large_batch_is_encoded(signal):
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        encoder = otlp.Logs(Config()) if signal == "logs" else otlp.Metrics(Config())
        await encoder.encode(numbered(2000))
        nursery.cancel_scope.cancel()
    assert turns >= 15


# The configuration


def load(tmp_path, **config: Any) -> Any:
    (loaded,) = load_plugins(host_settings(tmp_path, ["otlp"], {"otlp": {"config": config}}))
    return loaded


def test_a_call_has_time_for_its_requests(tmp_path):
    loaded = load(tmp_path)
    assert loaded.settings.flush_interval == 1.0
    assert loaded.settings.handle_timeout > otlp.SEND_TIME + 3 * 20


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"url": "grpc://host:4317"}, "url: this is no URL of the form http://host:port"),
        ({"url": "http://host:port"}, "url: this is no URL"),
        ({"url": "http://u:very-secret@host"}, "a user and a password stand in headers"),
        ({"signal": "traces"}, "signal: "),
        ({"headers": {"Authorization": "very-secret\n"}}, "headers: 'Authorization': names and"),
        ({"headers": {"Authorization": "very-secret-é"}}, "headers: 'Authorization': names and"),
        ({"headers": {"a b": "very-secret"}}, "headers: 'a b': names and values"),
        ({"headers": {"content-type": "very-secret"}}, "'content-type' is set by the plugin"),
        ({"headers": {"X-A": "very-secret", "x-a": "b"}}, "a header is there twice"),
        ({"resource": {"a": []}}, "resource.a"),
        ({"timeout": 21}, "timeout: "),
        ({"endpoint": "x"}, "endpoint: unknown key"),
    ],
)
def test_a_wrong_configuration_is_refused_without_its_secrets(tmp_path, config, message):
    with pytest.raises(ConfigurationError, match=message) as error:
        load(tmp_path, **config)
    assert "very-secret" not in str(error.value)
