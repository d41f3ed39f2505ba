"""Serves /metrics for Prometheus: requests, errors, every plugin and what it measures, the process.

Requests and errors are counted from their monitoring points, under the names and with the buckets that
the original service documents. The rest is read when it is asked for. A scrape shows all of it as of one
moment, which is taken on the event loop; the text is then written in a worker thread.
"""

import gzip
import logging
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar, Final, NamedTuple

import trio
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from pydantic import BaseModel, Field, field_validator

from lva import (
    BaseBackgroundPlugin,
    BaseEventPlugin,
    MonitoringPoint,
    PluginApp,
    PluginResponse,
    pluginHTTPResponse,
)
from lva import Metric as PluginMetric

#: Upper bounds of the buckets of `requests`, in seconds, as documented.
BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0,
    2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
#: The states of a plugin, the reasons for which points are dropped, the states of a circuit. Each is shown
#: from the beginning, at zero, so that a rate sees the first change.
STATES: Final = (
    "loaded", "initializing", "running", "backoff", "stopping", "stopped", "failed", "abandoned",
)  # fmt: skip
REASONS: Final = (
    "overflow", "max_attempts", "max_age", "shutdown", "plugin_failed", "class_removed", "spool_damaged",
)  # fmt: skip
#: What can become of a connection but being served.
CONNECTION_ERRORS: Final = ("connection_failed", "connection_shortage")
CIRCUIT_STATES: Final = ("closed", "open", "probing")
#: Stands for the label values of what came after `max_series` was reached.
OTHER: Final = "other"
#: Longer label values are cut.
LONGEST_VALUE: Final = 200


class Family(NamedTuple):
    """A metric of the service's own: what the documentation's table and a scrape are made from."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str

    def empty(self, more_labels: Iterable[str] = ()) -> Any:
        """Return the client library's object for it, without samples."""
        return _TYPES[self.kind](self.name, self.meaning, labels=(*self.labels, *more_labels))


_TYPES: Final[Mapping[str, Any]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}
_PLUGIN: Final = ("plugin",)
_CLASS: Final = ("plugin", "class")

METRICS: Final = (
    Family(
        "request_count_total",
        "counter",
        ("path", "service", "status_code"),
        "Requests. The path is the method and the template of the route, as in GET:/readyz.",
    ),
    Family(
        "errors_count_total",
        "counter",
        ("error_code", "path", "service"),
        "Requests that failed; they are among the requests, too.",
    ),
    Family(
        "requests", "histogram", ("path", "service", "status_code"), "Seconds that requests took."
    ),
    Family(
        "lva_connection_errors_total",
        "counter",
        ("error_code",),
        "Connections that an error of the server has ended (connection_failed), and moments in which new ones"
        " had to wait because file descriptors ran short (connection_shortage).",
    ),
    Family(
        "lva_label_limit_hits_total",
        "counter",
        (),
        "Requests and errors that were counted under other, because max_series was reached.",
    ),
    Family(
        "lva_plugin_state",
        "gauge",
        ("plugin", "state"),
        "1 for the state that the plugin is in, 0 for all others.",
    ),
    Family("lva_plugin_restarts_total", "counter", _PLUGIN, "Attempts after the first."),
    Family(
        "lva_plugin_tasks",
        "gauge",
        ("plugin", "runtime"),
        "Tasks of the plugin on the service's event loop (trio) and on its own (asyncio).",
    ),
    Family(
        "lva_plugin_loop_share",
        "gauge",
        _PLUGIN,
        "The plugin's part of the service's event loop's time over the last minute, from 0 to 1.",
    ),
    Family(
        "lva_plugin_loop_blocks_total",
        "counter",
        _PLUGIN,
        "How often the plugin has blocked an event loop, or a worker thread of a request, for too long.",
    ),
    Family(
        "lva_plugin_cpu_share",
        "gauge",
        _PLUGIN,
        "Processor time per second, over the last minute, of the thread of a plugin on asyncio.",
    ),
    Family(
        "lva_plugin_points_accepted_total",
        "counter",
        _CLASS,
        "Points that entered the class's mailbox.",
    ),
    Family(
        "lva_plugin_points_delivered_total",
        "counter",
        _CLASS,
        "Points in calls of handleEvent() that returned.",
    ),
    Family(
        "lva_plugin_points_filtered_total",
        "counter",
        _CLASS,
        "Points that the filter of the settings left out; they are not among the accepted.",
    ),
    Family(
        "lva_plugin_points_rejected_total",
        "counter",
        _CLASS,
        "Points that the plugin called wrong for ever.",
    ),
    Family(
        "lva_plugin_points_dropped_total",
        "counter",
        ("plugin", "class", "reason"),
        "Points that were dropped, by reason.",
    ),
    Family(
        "lva_plugin_points_recovered_total",
        "counter",
        _CLASS,
        "Of the accepted points, those that an earlier run had left in the spool.",
    ),
    Family("lva_plugin_points_queued", "gauge", _CLASS, "Points that wait in the mailbox."),
    Family(
        "lva_plugin_points_in_flight",
        "gauge",
        _CLASS,
        "Points in a call of handleEvent(), or waiting for their next attempt.",
    ),
    Family(
        "lva_plugin_points_kept",
        "gauge",
        _CLASS,
        "Points left in the spool for the next run, once the class has ended.",
    ),
    Family(
        "lva_plugin_retries_total",
        "counter",
        _CLASS,
        "Calls of handleEvent() that repeated an earlier attempt.",
    ),
    Family("lva_plugin_batch_size", "histogram", _CLASS, "Points in a call of handleEvent()."),
    Family(
        "lva_plugin_handle_duration_seconds",
        "histogram",
        _CLASS,
        "Seconds that calls of handleEvent() took.",
    ),
    Family("lva_plugin_spool_bytes", "gauge", _CLASS, "Bytes of points that wait on disk."),
    Family(
        "lva_plugin_circuit",
        "gauge",
        ("plugin", "class", "state"),
        "1 for the state of the circuit, 0 for all others; open: delivery is paused.",
    ),
)
#: Names that are the service's own.
_OWN: Final = {family.name for family in METRICS}
#: Labels that have a meaning already.
_TAKEN: Final = {
    *(label for family in METRICS for label in family.labels),
    *("le", "quantile", "generation", "version", "implementation", "major", "minor", "patchlevel"),
}


class Config(BaseModel):
    """`[plugins.prometheus.config]`."""

    extra_labels: dict[str, str] = Field(
        default_factory=dict, description="Labels with constant values, added to every metric."
    )
    process: bool = Field(
        True, description="Whether the process, its garbage collector and Python are shown, too."
    )
    max_series: int = Field(
        500,
        ge=1,
        le=100_000,
        description="Most combinations of labels of requests, and of errors; those that come later are"
        " counted together, under other.",
    )

    max_plugin_series: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Most series of the metrics that one plugin measures itself; the others are left out, and"
        " the log says so.",
    )

    @field_validator("extra_labels")
    @classmethod
    def _check_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for name, value in labels.items():
            if not re.fullmatch(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", name):
                raise ValueError(
                    f"{name!r} is no label name: letters, digits and _, not beginning with a digit or __"
                )
            if name in _TAKEN:
                raise ValueError(f"the label {name!r} has a meaning already; choose another name")
            if any(0xD800 <= ord(character) < 0xE000 for character in value):
                raise ValueError(f"the value of {name!r} is not valid Unicode")
        return labels


class Prometheus(BaseEventPlugin, BaseBackgroundPlugin):
    """Counts requests, and serves GET /metrics.

    The counts are kept over restarts of the plugin: a counter that falls would be taken for a restart
    of the service.
    """

    eventName = "monitoring_event"
    Config: ClassVar[type[BaseModel] | None] = Config

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self._tally = Tally(self.config.max_series)
        self._registry = CollectorRegistry()
        labels = self.config.extra_labels
        self._registry.register(ServiceCollector(self._snapshot, labels))
        self._registry.register(
            PluginCollector(self.app.metrics, labels, self.config.max_plugin_series, self.logger)
        )
        if self.config.process:
            self._registry.register(ProcessCollectors(labels, self.logger))

    async def initialize(self) -> None:
        # Scrapes that come together are answered one after the other.
        self._limit = trio.CapacityLimiter(1)
        self.addRoute("/metrics", self.metrics)

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        for point in points:
            self._tally.add(point)

    async def metrics(self, request: Any) -> PluginResponse:
        """Handle GET /metrics; `name[]` in the query restricts it to samples of these names."""
        render = partial(
            self._render,
            request.headers.get("Accept", ""),
            request.headers.get("Accept-Encoding", ""),
            request.args.getlist("name[]"),
        )
        return await trio.to_thread.run_sync(render, limiter=self._limit)

    def _render(self, accept: str, accept_encoding: str, names: Sequence[str]) -> PluginResponse:
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        registry: Any = self._registry
        body = encode(registry.restricted_registry(names) if names else registry)
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if gzip_accepted(accept_encoding):
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, compresslevel=1)
        return pluginHTTPResponse(body=body, headers=headers)

    def _snapshot(self) -> "Snapshot":
        """Take everything as of one moment. Called in the worker thread that renders."""
        return trio.from_thread.run_sync(lambda: (self._tally.copy(), self.app.plugins()))


@dataclass(slots=True)
class Durations:
    """How many requests took how long.

    Attributes:
        counts: By bucket; the last one has no bound.
        sum: In seconds.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    sum: float = 0.0

    def copy(self) -> "Durations":
        """Return a copy that stays as it is."""
        return Durations(self.counts[:], self.sum)


Key = tuple[str, str, str]


class Tally:
    """Counts requests and errors by their labels.

    Args:
        limit: Most combinations of labels, of each.

    Attributes:
        requests: By path, service and status code.
        errors: How many, by error code, path and service.
        connections: How many were not served, by error code.
        limit_hits: How many were counted under `OTHER`.
    """

    def __init__(self, limit: int) -> None:
        self.requests: dict[Key, Durations] = {}
        self.errors: Counter[Key] = Counter()
        self.connections: Counter[str] = Counter()
        self.limit_hits: int = 0
        self._limit = limit

    def add(self, point: MonitoringPoint) -> None:
        """Count a point, unless it is none of these series or lacks what they have."""
        tags = point.tags
        try:
            if point.series == "requests":
                taken = float(point.fields["execution_time"])
                key = (str(tags["route"]), str(tags["service"]), str(tags["status_code"]))
                durations = self._durations(key)
                durations.counts[bisect_left(BUCKETS, taken)] += 1
                durations.sum += max(0.0, taken)  # the sum is a counter: it must not fall
            elif point.series == "errors":
                key = (str(tags["error_code"]), str(tags["route"]), str(tags["service"]))
                self.errors[self._bounded(key, self.errors)] += 1
            elif point.series == "connection_errors":
                self.connections[str(tags["error_code"])] += int(point.fields["count"])
        except (KeyError, ValueError):
            return  # somebody else's series of the same name

    def _durations(self, key: Key) -> Durations:
        found = self.requests.get(key)
        if found is None:
            found = self.requests.setdefault(self._bounded(key, self.requests), Durations())
        return found

    def _bounded(self, key: Key, known: Mapping[Key, Any]) -> Key:
        if key in known:
            return key
        cut = (key[0][:LONGEST_VALUE], key[1][:LONGEST_VALUE], key[2][:LONGEST_VALUE])
        if cut in known or len(known) < self._limit:
            return cut
        self.limit_hits += 1
        return (OTHER, OTHER, OTHER)

    def copy(self) -> "Tally":
        """Return a copy that stays as it is."""
        other = Tally(self._limit)
        other.requests = {key: durations.copy() for key, durations in self.requests.items()}
        other.errors = self.errors.copy()
        other.connections = self.connections.copy()
        other.limit_hits = self.limit_hits
        return other


#: What a scrape shows of the service as of one moment: the counts, and each plugin's description.
Snapshot = tuple[Tally, Sequence[Mapping[str, Any]]]


class ServiceCollector:
    """Makes the samples of `METRICS`.

    Args:
        take: Called for each scrape.
        extra_labels: Added to every sample.
    """

    def __init__(self, take: Callable[[], Snapshot], extra_labels: Mapping[str, str]) -> None:
        self._take = take
        self._extra_labels = extra_labels

    def describe(self) -> list[Metric]:
        """Tell the names, for the registry."""
        return [family.empty() for family in METRICS]

    def collect(self) -> Iterable[Metric]:
        """Return all metrics as they are now."""
        tally, plugins = self._take()
        samples = _Samples(self._extra_labels)
        samples.add_tally(tally)
        for status in plugins:
            samples.add_plugin(status)
        return samples.families.values()


class _Samples:
    """The metrics of one scrape as they are filled."""

    def __init__(self, extra_labels: Mapping[str, str]) -> None:
        self.families = {family.name: family.empty(extra_labels) for family in METRICS}
        self._more = tuple(extra_labels.values())

    def add(self, name: str, labels: Sequence[str], value: float) -> None:
        self.families[name].add_metric((*labels, *self._more), value)

    def add_histogram(
        self,
        name: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        counts: Sequence[int],
        total: float,
    ) -> None:
        texts = [*(str(float(bound)) for bound in bounds), "+Inf"]
        buckets = [*zip(texts, accumulate(counts), strict=True)]
        self.families[name].add_metric((*labels, *self._more), buckets, total)

    def add_states(
        self, name: str, labels: Sequence[str], states: Iterable[str], current: str
    ) -> None:
        for state in states:
            self.add(name, (*labels, state), int(state == current))

    def add_tally(self, tally: Tally) -> None:
        for key, durations in tally.requests.items():
            self.add("request_count_total", key, sum(durations.counts))
            self.add_histogram("requests", key, BUCKETS, durations.counts, durations.sum)
        for key, count in tally.errors.items():
            self.add("errors_count_total", key, count)
        for code in CONNECTION_ERRORS:
            self.add("lva_connection_errors_total", (code,), tally.connections[code])
        self.add("lva_label_limit_hits_total", (), tally.limit_hits)

    def add_plugin(self, status: Mapping[str, Any]) -> None:
        plugin = status["name"]
        self.add_states("lva_plugin_state", (plugin,), STATES, status["state"])
        self.add("lva_plugin_restarts_total", (plugin,), status["restarts"])
        for runtime, count in status["tasks"].items():
            self.add("lva_plugin_tasks", (plugin, runtime), count)
        self.add_loop((plugin,), status["loop"])
        for delivery in status["deliveries"]:
            self.add_delivery((plugin, delivery["class"]), delivery)

    def add_loop(self, labels: Sequence[str], loop: Mapping[str, Any] | None) -> None:
        if loop is None:
            return  # nobody watches the event loop
        self.add("lva_plugin_loop_share", labels, loop["share"])
        self.add("lva_plugin_loop_blocks_total", labels, loop["blocks"])
        if loop["cpu_share"] is not None:
            self.add("lva_plugin_cpu_share", labels, loop["cpu_share"])

    def add_delivery(self, labels: Sequence[str], delivery: Mapping[str, Any]) -> None:
        ledger = delivery["ledger"]
        for count in ("accepted", "filtered", "delivered", "rejected", "recovered"):
            self.add(f"lva_plugin_points_{count}_total", labels, ledger[count])
        for count in ("queued", "in_flight", "kept"):
            self.add(f"lva_plugin_points_{count}", labels, ledger[count])
        for reason, count in {**dict.fromkeys(REASONS, 0), **ledger["dropped"]}.items():
            self.add("lva_plugin_points_dropped_total", (*labels, reason), count)
        self.add("lva_plugin_retries_total", labels, ledger["retries"])
        for name, key in (
            ("lva_plugin_batch_size", "batch_sizes"),
            ("lva_plugin_handle_duration_seconds", "handle_seconds"),
        ):
            seen = delivery[key]
            self.add_histogram(name, labels, seen["bounds"], seen["counts"], seen["sum"])
        self.add("lva_plugin_spool_bytes", labels, delivery["spool_bytes"])
        self.add_states("lva_plugin_circuit", labels, CIRCUIT_STATES, delivery["circuit"])


class PluginCollector:
    """Makes the samples of what plugins measure themselves; each has the label ``plugin``.

    Args:
        take: Called for each scrape; returns the metrics by plugin.
        extra_labels: Added to every sample.
        limit: Most samples of one plugin.
        logger: Is told, once, of what is left out.
    """

    def __init__(
        self,
        take: Callable[[], Mapping[str, Sequence[PluginMetric]]],
        extra_labels: Mapping[str, str],
        limit: int,
        logger: logging.Logger,
    ) -> None:
        self._take = take
        self._extra_labels = extra_labels
        self._limit = limit
        self._logger = logger
        self._left_out: set[str] = set()

    def describe(self) -> list[Metric]:
        """Tell nothing: names come and go with the plugins."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Return all metrics as they are now."""
        families: dict[str, tuple[PluginMetric, Any]] = {}
        for plugin, metrics in self._take().items():
            room = self._limit
            for metric in metrics:
                family = self._family(plugin, metric, families)
                if family is None:
                    continue
                if len(metric.samples) > room:
                    self._leave_out(plugin, f"{metric.name}: more than {self._limit} series")
                for values, value in metric.samples[:room]:
                    labels = (plugin, *(text[:LONGEST_VALUE] for text in values))
                    family.add_metric((*labels, *self._extra_labels.values()), value)
                room -= min(room, len(metric.samples))
        return [family for _, family in families.values()]

    def _family(
        self, plugin: str, metric: PluginMetric, families: dict[str, tuple[PluginMetric, Any]]
    ) -> Any:
        """Return the client library's object for a metric; None if its name is another one's."""
        first, family = families.get(metric.name, (metric, None))
        if family is None:
            labels = (*_PLUGIN, *metric.labels, *self._extra_labels)
            if metric.name in _OWN or len(set(labels)) < len(labels):
                return self._leave_out(plugin, f"{metric.name}: the name, or a label, is taken")
            family = _TYPES[metric.kind](metric.name, metric.meaning, labels=labels)
            families[metric.name] = metric, family
        elif (first.kind, *first.labels) != (metric.kind, *metric.labels):
            return self._leave_out(
                plugin, f"{metric.name}: another plugin has it with other labels"
            )
        return family

    def _leave_out(self, plugin: str, why: str) -> None:
        if (said := f"{plugin}: {why}") not in self._left_out:
            self._left_out.add(said)
            self._logger.warning("of /metrics is left out what plugin %s", said)


class ProcessCollectors:
    """The client library's own collectors: of the process, its garbage collector, and Python.

    Args:
        extra_labels: Added to every sample.
        logger: Told, once, of what cannot be read.
    """

    def __init__(self, extra_labels: Mapping[str, str], logger: logging.Logger) -> None:
        self._extra_labels = extra_labels
        self._logger = logger
        self._failed: set[str] = set()
        elsewhere = CollectorRegistry()  # theirs; ours asks them itself
        self._collectors = (
            ProcessCollector(registry=elsewhere),
            GCCollector(registry=elsewhere),
            PlatformCollector(registry=elsewhere),
        )

    def collect(self) -> Iterator[Metric]:
        """Yield what can be read; the rest is left out."""
        for collector in self._collectors:
            try:
                families = [*collector.collect()]
            except Exception as error:  # noqa: BLE001 - they read files of the system, of any content
                self._note(type(collector).__name__, error)
                continue
            for family in families:
                yield self._labelled(family)

    describe = collect

    def _labelled(self, family: Metric) -> Metric:
        made = Metric(family.name, family.documentation, family.type, family.unit)
        made.samples = [
            sample._replace(labels={**sample.labels, **self._extra_labels})
            for sample in family.samples
        ]
        return made

    def _note(self, what: str, error: Exception) -> None:
        if what not in self._failed:
            self._failed.add(what)
            self._logger.warning("%s is left out of /metrics: %s", what, error)
