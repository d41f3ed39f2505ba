"""What a client knows of a service, kept up to date by its events."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Final

#: Most steps of the series, points of a spark line, and changes of state that are kept.
_STEPS: Final = 180
_SPARKS: Final = 60
_TIMELINE: Final = 500
SERIES: Final = ("at", "requests", "client_errors", "server_errors", "p50", "p95", "p99")
_TROUBLE: Final = {"failed": 0, "abandoned": 0, "backoff": 1, "initializing": 1}


@dataclass(slots=True)
class PluginRow:
    """One plugin's row.

    Attributes:
        about: What does not change: name, kind, unit.
        row: What does, by the names of the columns.
        spark: Its rates, oldest first.
        reason: Why it is in its state.
        block: How it blocked an event loop in the last minute, if it has.
        failing: How many requests to its routes failed in the last minute.
    """

    about: dict[str, Any]
    row: dict[str, Any]
    spark: deque[float]
    reason: str | None = None
    block: dict[str, Any] | None = None
    failing: int = 0

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.about["name"])

    @property
    def trouble(self) -> int:
        """How much it needs somebody to look at it; 0 most."""
        row = self.row
        full = (row.get("fill") or 0) >= 0.8
        waits = row.get("probe_at") is not None
        trouble = full or waits or row.get("dropping") or self.failing
        return _TROUBLE.get(row["state"], 2 if trouble else 3)


@dataclass(slots=True)
class Model:
    """What is known, from the last `hello` on.

    Attributes:
        at: The service's clock at the last event, in Unix seconds; 0 before the first.
        ready: Whether it is ready.
        draining: Whether it is about to stop.
        service: Its version and when it started.
        series: Parallel lists by name, oldest first.
        plugins: By name, in activation order.
        timeline: Changes of state, oldest first.
    """

    at: float = 0.0
    ready: bool = False
    draining: bool = False
    service: dict[str, Any] = field(default_factory=dict)
    series: dict[str, deque[Any]] = field(default_factory=dict)
    plugins: dict[str, PluginRow] = field(default_factory=dict)
    timeline: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_TIMELINE))
    _columns: list[str] = field(default_factory=list)

    def take(self, name: str, data: dict[str, Any]) -> None:
        """Take an event in; unknown ones change nothing."""
        if name == "hello":
            self._hello(data)
        elif name == "tick":
            self._tick(data)
        elif name == "transition":
            self._transition(data)

    def by_trouble(self) -> list[PluginRow]:
        """Return the plugins, those first that need somebody to look at them."""
        return sorted(self.plugins.values(), key=lambda plugin: plugin.trouble)

    def newest(self, series: str) -> Any:
        """Return the newest value of a series; None if there is none."""
        values = self.series.get(series)
        return values[-1] if values else None

    def _about(self, data: dict[str, Any]) -> None:
        self.at, self.ready, self.draining = data["at"], data["ready"], data["draining"]

    def _hello(self, data: dict[str, Any]) -> None:
        self._about(data)
        self.service = data["service"]
        self.series = {name: deque(data["series"][name], maxlen=_STEPS) for name in SERIES}
        self._columns = data["columns"]
        self.plugins = {
            item["name"]: PluginRow(
                item, self._row(item["row"]), deque(item["spark"], maxlen=_SPARKS), item["reason"]
            )
            for item in data["plugins"]
        }
        self.timeline = deque(data["timeline"], maxlen=_TIMELINE)
        self._note_trouble(data)

    def _tick(self, data: dict[str, Any]) -> None:
        self._about(data)
        sample = dict(zip(SERIES, data["sample"], strict=False))
        same = self.newest("at") == sample["at"]
        for name, value in sample.items():
            if same:
                self.series[name][-1] = value
            else:
                self.series[name].append(value)
        if data["new_spark"]:
            for plugin in self.plugins.values():
                plugin.spark.append(0)
        for name, rate in data["sparks"].items():
            if name in self.plugins and self.plugins[name].spark:
                self.plugins[name].spark[-1] = rate
        for name, row in data["rows"].items():
            if name in self.plugins:
                self.plugins[name].row = self._row(row)
        self._note_trouble(data)

    def _note_trouble(self, data: dict[str, Any]) -> None:
        """Note who blocked an event loop in the last minute, and whose requests failed."""
        blocks = data.get("blocks", {})
        failing = Counter[str]()
        for route in data.get("failing", ()):
            failing[route["plugin"]] += route["recent"]
        for name, plugin in self.plugins.items():
            plugin.block, plugin.failing = blocks.get(name), failing[name]

    def _transition(self, data: dict[str, Any]) -> None:
        self.timeline.append(data)
        self.ready = data.get("ready", self.ready)
        if (plugin := self.plugins.get(data["plugin"])) is not None:
            plugin.reason = data["reason"]
            plugin.row |= {"state": data["state"], "since": data["at"]}

    def _row(self, values: list[Any]) -> dict[str, Any]:
        return dict(zip(self._columns, values, strict=False))
