"""Sends points to an OpenTelemetry Collector, or to what takes OTLP over HTTP, as logs or as metrics.

Requests are in OTLP's binary form, which every receiver takes; some do not take its JSON.

*Logs*: a point is one record with its tags and fields as attributes, so nothing of it is lost.

*Metrics*: tags are the attributes, and numbers in fields the metrics ``series.field``. What `histograms`
names is added up in histograms; other numbers are gauges; points without a number are counted in a sum
named like their series. Texts in fields have no place in metrics and are left out. What is added up are
totals since the service started. A batch enters them once it was taken, so one that is sent again counts
once.
"""

import gzip
import logging
import math
import re
import ssl
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeAlias

import httpx
import trio
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1 import logs_pb2 as logs
from opentelemetry.proto.metrics.v1 import metrics_pb2 as metrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from lva import (
    BaseEventPlugin,
    MonitoringPoint,
    PartialDeliveryError,
    PermanentDeliveryError,
    PluginApp,
    RetryLaterError,
    __version__,
)
from lva.errors import counted
from lva.http_replies import beginning, is_page, not_about_points, one_line, retry_after, root_of

BINARY: Final = "application/x-protobuf"
#: The statuses after which OTLP allows a request to be sent again.
RETRYABLE: Final = frozenset({429, 502, 503, 504})
#: What is wrong between plugin and receiver and has nothing to do with the points: they wait.
CHECK: Final = {
    401: " (check headers)",
    403: " (check headers, and what they allow)",
    404: " (check url)",
    405: " (check url)",
}
#: Most bytes of points in a request, roughly, unless it holds a single one: receivers have limits.
MOST_BYTES: Final = 2 * 1024 * 1024
#: Most bytes of an answer that are read.
MOST_ANSWER: Final = 64 * 1024
#: In how many bytes of it a page is known as one.
MOST_PAGE: Final = 4096
#: Headers that are the plugin's own.
OWN_HEADERS: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "transfer-encoding",
    }
)
#: A receiver that calls points too large makes the requests that follow smaller, down to this.
LEAST_BYTES: Final = 64 * 1024
#: How long, in seconds, a call goes on with the next request of a batch; the rest is then tried again.
SEND_TIME: Final = 4.0
#: Others get a turn after as many points as this have been encoded.
SLICE: Final = 100
#: Most totals; what has further attributes is added up together, as OpenTelemetry's own library does.
MOST_TOTALS: Final = 10_000
#: The bounds that OpenTelemetry advises for durations.
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
CUMULATIVE: Final = metrics.AGGREGATION_TEMPORALITY_CUMULATIVE
SCOPE: Final = InstrumentationScope(name="lva", version=__version__)

Value: TypeAlias = str | bool | int | float
#: A request, the points in it, and those that have no form in OTLP.
Encoded: TypeAlias = tuple[Message, list[MonitoringPoint], list[MonitoringPoint]]


class Config(BaseModel):
    """`[plugins.otlp.config]`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    url: str = Field(
        "http://127.0.0.1:4318",
        description="The receiver, with what stands before /v1/logs or /v1/metrics in its paths.",
    )
    signal: Literal["logs", "metrics"] = Field("logs", description="What points are sent as.")
    headers: dict[str, SecretStr] = Field(
        default_factory=dict, description="Headers of each request, such as Authorization."
    )
    resource: dict[str, Value] = Field(
        default_factory=dict,
        description="Attributes of the resource; service.name is luna-video-agent unless given.",
    )
    histograms: dict[str, str] = Field(
        {"requests.execution_time": "s"},
        description="Which numbers, as series.field, are added up in histograms, and their units.",
    )
    gzip: bool = Field(True, description="Whether requests are compressed.")
    timeout: float = Field(5.0, gt=0, le=20, description="Limit on one HTTP request, in seconds.")

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        try:
            url = httpx.URL(value)
        except httpx.InvalidURL:
            url = httpx.URL()
        if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment:
            raise ValueError("this is no URL of the form http://host:port/path")
        if url.userinfo:
            raise ValueError("a user and a password stand in headers, not in url")
        return value.rstrip("/")

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            text = value.get_secret_value()
            printable = text.isascii() and text.isprintable() and text == text.strip()
            if not printable or not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
                raise ValueError(f"{name!r}: names and values have printable ASCII characters only")
            if name.lower() in OWN_HEADERS:
                raise ValueError(f"{name!r} is set by the plugin")
        if len({name.lower() for name in headers}) < len(headers):
            raise ValueError("a header is there twice: upper and lower case are the same")
        return headers


class RequestTooLargeError(PermanentDeliveryError):
    """The receiver takes no request of this size."""


class Otlp(BaseEventPlugin):
    """Sends each batch in one request, or in more if it is large."""

    eventName = "monitoring_event"
    Config: ClassVar[type[BaseModel] | None] = Config
    # A request costs the same for one point as for hundreds, so points gather for a moment.
    host_settings: ClassVar[Mapping[str, Any]] = {
        "flush_interval": 1.0,
        "buffer_limit": 50_000,
        # More than SEND_TIME and three times what `timeout` may be: for the turn, for a request, and for
        # the one without points.
        "handle_timeout": 70.0,
    }

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        config = self.config
        self._client: httpx.AsyncClient | None = None
        self._signal: Logs | Metrics = Logs(config) if config.signal == "logs" else Metrics(config)
        self._target = config.url + self._signal.path
        self._warning = ""
        self._most_bytes = MOST_BYTES
        # Reading the system's certificates takes a moment; this is a worker thread.
        self._tls = ssl.create_default_context() if config.url.startswith("https") else False

    async def initialize(self) -> None:
        """Send nothing: receivers answer that with success if they are there and know the headers."""
        self._limit = trio.CapacityLimiter(1)  # no other plugin's threads
        self._turn = trio.Lock()
        headers = {name: value.get_secret_value() for name, value in self.config.headers.items()}
        headers |= {"Content-Type": BINARY, "Accept-Encoding": "identity"}
        if self.config.gzip:
            headers["Content-Encoding"] = "gzip"
        self._client = httpx.AsyncClient(
            headers=headers,
            verify=self._tls,
            trust_env=False,  # no proxy
            timeout=None,  # noqa: S113 - `_post` limits the whole
        )
        await self._post(self._signal.request([]))
        self.logger.info("sending points as %s to %s", self.config.signal, self._target)

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        """Send the points. Cancelled, or without a response, it may have sent them.

        Raises:
            PartialDeliveryError: Some have no form in OTLP, or are refused. A receiver that refuses a part of
                a request says how many, not which: the last ones stand for them.
            RetryLaterError: The receiver takes none now.
        """
        waiting = pieces(points, self._most_bytes)
        rejected: list[MonitoringPoint] = []
        after: float | None = None
        cause: Exception | None = None
        until = trio.current_time() + SEND_TIME
        while waiting and after is None:
            piece = waiting.pop(0)
            try:
                await self._send(piece, logger)
            except RetryLaterError as error:
                waiting.insert(0, piece)
                if sum(map(len, waiting)) == len(points):
                    raise
                after, cause = error.after or 0.0, error
                break
            except RequestTooLargeError as error:
                cause = error
                if len(piece) == 1:
                    rejected += piece
                else:
                    half = sum(point.size for point in piece) // 2
                    self._most_bytes = min(self._most_bytes, max(half, LEAST_BYTES))
                    waiting[:0] = pieces(piece, half)
            except PermanentDeliveryError as error:
                rejected += piece
                cause = error
            except PartialDeliveryError as error:
                rejected += error.rejected
                cause = error
            if waiting and trio.current_time() > until:
                after = 0.0
        failed = [point for piece in waiting for point in piece]
        if failed or rejected:
            why = f"{counted(len(rejected), 'point')} rejected, {len(failed)} to be sent again"
            raise PartialDeliveryError(
                f"{why}; the last: {cause}" if cause else why,
                failed=failed,
                rejected=rejected,
                after=after,
            )

    async def _send(self, points: Sequence[MonitoringPoint], logger: logging.Logger) -> None:
        """Send points in one request.

        Raises:
            PartialDeliveryError: Some have no form in OTLP, or are refused.
            RequestTooLargeError, PermanentDeliveryError, RetryLaterError: As `_export` says.
        """
        if self.config.signal == "logs":
            await self._send_now(points, logger)
            return
        # Totals go on from those of the request before, so there is one at a time.
        try:
            with trio.fail_after(self.config.timeout):
                await self._turn.acquire()
        except trio.TooSlowError:
            raise RetryLaterError("the request before has no response yet") from None
        try:
            await self._send_now(points, logger)
        finally:
            self._turn.release()

    async def _send_now(self, points: Sequence[MonitoringPoint], logger: logging.Logger) -> None:
        encoded, sent, rejected = await self._signal.encode(points)
        why, refused = "points have no form in OTLP", 0
        if sent:
            answer = await self._export(encoded)
            self._signal.taken()
            refused, text = partial_success(answer)
            if refused:
                why = f"{self._target} took only a part: {text}"
            elif text and text != self._warning:
                logger.warning("%s took all points but says: %s", self._target, text)
            self._warning = text
        rejected += sent[max(0, len(sent) - refused) :]
        if rejected:
            raise PartialDeliveryError(why, rejected=rejected)

    async def _export(self, request: Message) -> bytes:
        """Send a request with points; return the answer, which is one of success.

        The receiver took the request without points when the plugin initialized. If it does not any more,
        then a refusal is not the points' fault.

        Raises:
            RequestTooLargeError, PermanentDeliveryError, RetryLaterError: As `_post` says, but for that.
        """
        try:
            return await self._post(request)
        except PermanentDeliveryError as error:
            try:
                await self._post(self._signal.request([]))
            except PermanentDeliveryError:
                raise RetryLaterError(f"{error}, whether there are points or not") from None
            raise

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def _post(self, request: Message) -> bytes:
        """Send a request; return the answer, which is one of success.

        Raises:
            RetryLaterError: There was no answer, or one that is not about the request.
            RequestTooLargeError: It says that the request is too large.
            PermanentDeliveryError: Any other answer.
        """
        assert self._client is not None
        content = request.SerializeToString()
        if self.config.gzip:
            content = await trio.to_thread.run_sync(gzip.compress, content, 1, limiter=self._limit)
        built = self._client.build_request("POST", self._target, content=content)
        try:
            with trio.fail_after(self.config.timeout):
                reply = await self._client.send(built, stream=True)
                body = await beginning(reply, MOST_ANSWER)
        except trio.TooSlowError:
            why = f"no response from {self._target} within {self.config.timeout:g} s"
            raise RetryLaterError(why) from None
        except httpx.HTTPError as error:
            why = f"no response from {self._target}: {root_of(error)!r}"
            raise RetryLaterError(why) from None
        kind = reply.headers.get("Content-Type", "")
        page = kind.startswith("text/html") or is_page(body[:MOST_PAGE].decode(errors="replace"))
        if reply.is_success and not page:
            return body
        status = reply.status_code
        text = message(body, kind)
        why = f"{self._target} responded with {status} {text}".rstrip()
        if page and status != 413:
            remark: str | None = " (a page; check url)"
        else:
            remark = CHECK.get(status) or not_about_points(status, reply.headers, text)
        if remark is not None and (page or status < 500 or status in RETRYABLE):
            raise RetryLaterError(why + remark, after=retry_after(reply.headers))
        raise RequestTooLargeError(why) if status == 413 else PermanentDeliveryError(why)


def message(body: bytes, kind: str) -> str:
    """Return what an answer of failure says."""
    text = body.decode(errors="replace")
    if kind.startswith(BINARY):
        with suppress(DecodeError):
            # This google.rpc.Status begins as the other message does: with a number and a text.
            text = logs_service.ExportLogsPartialSuccess.FromString(body).error_message
    return one_line(text)


def pieces(points: Sequence[MonitoringPoint], most: int) -> list[list[MonitoringPoint]]:
    """Return the points in as few requests as possible of `most` bytes, or of a single point."""
    made: list[list[MonitoringPoint]] = []
    room = 0
    for point in points:
        room -= point.size
        if room < 0 or not made:
            made.append([])
            room = most - point.size
        made[-1].append(point)
    return made


def partial_success(answer: bytes) -> tuple[int, str]:
    """Return how many records or data points a receiver did not take, and its remark."""
    try:
        # The answers for logs and for metrics are the same on the wire.
        partial = logs_service.ExportLogsServiceResponse.FromString(answer).partial_success
    except DecodeError:  # success, said in another way
        return 0, ""
    return max(0, partial.rejected_log_records), one_line(partial.error_message)


# What points become


class Attributes(NamedTuple):
    """Tags as attributes, and a key that is the same for the same tags."""

    pairs: list[KeyValue]
    key: bytes


@dataclass(slots=True)
class Total:
    """What was added up for some attributes."""

    pairs: list[KeyValue]
    sum: float = 0
    signed: bool = False
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def add(self, value: float) -> None:
        """Add a number."""
        self.sum += value
        self.signed |= value < 0
        self.buckets[bisect_left(BOUNDS, value)] += 1


class Logs:
    """Points as log records."""

    path = "/v1/logs"

    def __init__(self, config: Config) -> None:
        self._resource = resource(config)

    def request(self, records: Iterable[logs.LogRecord]) -> Message:
        """Return a request with these records."""
        scope = logs.ScopeLogs(scope=SCOPE, log_records=records)
        holder = logs.ResourceLogs(resource=self._resource, scope_logs=[scope])
        return logs_service.ExportLogsServiceRequest(resource_logs=[holder])

    async def encode(self, points: Sequence[MonitoringPoint]) -> Encoded:
        """Return a request for the points that have a form in OTLP, these, and the others."""
        records: list[logs.LogRecord] = []
        now = time.time_ns()
        sent, unfit = await each(points, lambda point: records.append(_record(point, now)))
        return self.request(records), sent, unfit

    def taken(self) -> None:
        """Note that the last request was taken."""


class Metrics:
    """Points as gauges, histograms and sums."""

    path = "/v1/metrics"

    def __init__(self, config: Config) -> None:
        self._resource = resource(config)
        self._units: Mapping[str, str] = config.histograms
        self._begun = time.time_ns()
        self._totals: dict[tuple[str, bytes], Total] = {}
        self._changed: dict[tuple[str, bytes], Total] = {}  # by the last request

    def request(self, found: Iterable[metrics.Metric]) -> Message:
        """Return a request with these metrics."""
        scope = metrics.ScopeMetrics(scope=SCOPE, metrics=found)
        holder = metrics.ResourceMetrics(resource=self._resource, scope_metrics=[scope])
        return metrics_service.ExportMetricsServiceRequest(resource_metrics=[holder])

    async def encode(self, points: Sequence[MonitoringPoint]) -> Encoded:
        """Return a request for the points that have a form in OTLP, these, and the others."""
        self._changed = {}
        gauges: dict[str, metrics.Metric] = {}
        sent, unfit = await each(points, lambda point: self._add(point, gauges))
        sums: dict[str, metrics.Metric] = {}
        now = max(time.time_ns(), self._begun)
        for (name, _), total in self._changed.items():
            metric = sums.setdefault(
                name, metrics.Metric(name=name, unit=self._units.get(name, ""))
            )
            when = {
                "attributes": total.pairs,
                "start_time_unix_nano": self._begun,
                "time_unix_nano": now,
            }
            if name in self._units:
                metric.histogram.aggregation_temporality = CUMULATIVE
                metric.histogram.data_points.add(
                    count=sum(total.buckets),
                    # A sum that may fall looks like a restart to who reads it, so OTLP leaves it out.
                    sum=None if total.signed else total.sum,
                    bucket_counts=total.buckets,
                    explicit_bounds=BOUNDS,
                    **when,
                )
            else:
                metric.sum.aggregation_temporality = CUMULATIVE
                metric.sum.is_monotonic = True
                metric.sum.data_points.add(as_int=int(total.sum), **when)
        return self.request([*gauges.values(), *sums.values()]), sent, unfit

    def taken(self) -> None:
        """Note that the last request was taken: the next goes on from its totals."""
        self._totals |= self._changed

    def _add(self, point: MonitoringPoint, gauges: dict[str, metrics.Metric]) -> None:
        moment = nanoseconds(point)
        tags = attributes(*point.tags, *point.tags.values())
        numbers = {key: value for key, value in point.fields.items() if not isinstance(value, str)}
        for key, value in numbers.items():
            name = f"{point.series}.{key}"
            # Looked at before anything is added, since the point then is none of those that are sent.
            if name in self._units and not math.isfinite(self._total(name, tags).sum + value):
                raise ValueError("the sum of a histogram would be infinite, and stay so")
        if not numbers:
            self._total(point.series, tags).add(1)
        for key, value in numbers.items():
            name = f"{point.series}.{key}"
            if name in self._units:
                self._total(name, tags).add(value)
                continue
            gauge = gauges.setdefault(name, metrics.Metric(name=name)).gauge
            data = gauge.data_points.add(attributes=tags.pairs, time_unix_nano=moment)
            if isinstance(value, float):
                data.as_double = value
            else:
                data.as_int = int(value)

    def _total(self, name: str, tags: Attributes) -> Total:
        """Return a total that may be added to; the one that counts is changed by `taken()`."""
        if len(self._totals) >= MOST_TOTALS and (name, tags.key) not in self._totals:
            tags = OVERFLOW
        key = name, tags.key
        if key not in self._changed:
            old = self._totals.get(key)
            self._changed[key] = replace(old, buckets=[*old.buckets]) if old else Total(tags.pairs)
        return self._changed[key]


async def each(
    points: Sequence[MonitoringPoint], encode: Callable[[MonitoringPoint], None]
) -> tuple[list[MonitoringPoint], list[MonitoringPoint]]:
    """Encode points, with turns for others; return those that could be, and those that could not."""
    sent: list[MonitoringPoint] = []
    unfit: list[MonitoringPoint] = []
    for number, point in enumerate(points):
        if number % SLICE == SLICE - 1:
            await trio.lowlevel.checkpoint()
        try:
            encode(point)
            sent.append(point)
        except ValueError:
            unfit.append(point)
    return sent, unfit


def resource(config: Config) -> Resource:
    """Return what the points come from."""
    known = {"service.name": "luna-video-agent", **config.resource}
    return Resource(attributes=map(attribute, known, known.values()))


def _record(point: MonitoringPoint, now: int) -> logs.LogRecord:
    tags = point.tags
    failed = point.series == "errors"
    record = logs.LogRecord(
        time_unix_nano=nanoseconds(point),
        observed_time_unix_nano=now,
        severity_number=logs.SEVERITY_NUMBER_ERROR if failed else logs.SEVERITY_NUMBER_INFO,
        severity_text="ERROR" if failed else "INFO",
        event_name=point.series,
        body=AnyValue(string_value=point.series),
        attributes=attributes(*tags, *tags.values()).pairs,
    )
    for key, value in point.fields.items():
        # An attribute has one value, and a field may be named like a tag.
        record.attributes.append(attribute(f"fields.{key}" if key in tags else key, value))
    return record


def nanoseconds(point: MonitoringPoint) -> int:
    """Return a point's time.

    Raises:
        ValueError: It is before 1970, or does not fit into 64 bits.
    """
    # A Unix time as a float is exact to the microsecond and no further.
    if not 0 <= point.time < 2**64 / 1e9:
        raise ValueError("the time has no form in OTLP")
    return round(point.time * 1_000_000) * 1000


@lru_cache(maxsize=2048, typed=True)  # typed, since 1 == 1.0 == True
def attributes(*keys_and_values: Any) -> Attributes:
    """Return tags as attributes; most points have those of an earlier one."""
    count = len(keys_and_values) // 2
    tags = sorted(zip(keys_and_values[:count], keys_and_values[count:], strict=True))
    pairs = [attribute(key, value) for key, value in tags]
    return Attributes(pairs, b"".join(pair.SerializeToString() for pair in pairs))


def attribute(key: str, value: Value) -> KeyValue:
    """Return an attribute of the value's type."""
    if isinstance(value, str):
        return KeyValue(key=key, value=AnyValue(string_value=value))
    if isinstance(value, bool):
        return KeyValue(key=key, value=AnyValue(bool_value=value))
    if isinstance(value, float):
        return KeyValue(key=key, value=AnyValue(double_value=value))
    return KeyValue(key=key, value=AnyValue(int_value=int(value)))


OVERFLOW: Final = attributes("otel.metric.overflow", True)
