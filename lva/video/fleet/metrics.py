"""What `/metrics` shows of a fleet, as one of its agents sees it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from lva.boot_clock import boot_time
from lva.metrics import Metric
from lva.video.measures import Measure, Values, measured

if TYPE_CHECKING:  # what it imports needs the Redis client
    from lva.video.fleet.streams import FleetStreams


def count_streams(streams: FleetStreams) -> dict[str, int]:
    """Return how many streams an agent works on (``held``), wait for one, or are at rest."""
    now, view = boot_time(), streams.fleet.view
    alive = {row.lease.incarnation for row in view.rows.values() if row.lease is not None}
    alive = {each for each in alive if view.is_alive(each, now)}
    found = Counter(
        "held"
        if row.lease is not None and row.lease.incarnation in alive
        else "waiting"
        if row.to_run
        else "at_rest"
        for row in view.rows.values()
    )
    return {state: found[state] for state in ("held", "waiting", "at_rest")}


def _agents(streams: FleetStreams) -> Values:
    agents = streams.fleet.view.agents.values()
    alive = sum(streams.fleet.is_alive(agent) for agent in agents)
    return {("yes",): alive, ("no",): len(agents) - alive}


METRICS: Final = (
    Measure("lva_fleet_agents", "gauge", ("alive",), "Agents of the fleet.", _agents),
    Measure(
        "lva_fleet_streams",
        "gauge",
        ("state",),
        "Streams of the fleet: held by an agent, waiting for one, or at rest (stopped, done, failed).",
        lambda streams: {(state,): value for state, value in count_streams(streams).items()},
    ),
    Measure(
        "lva_fleet_held",
        "gauge",
        (),
        "Streams that this agent works on.",
        lambda streams: {(): len(streams.fleet.held)},
    ),
    Measure(
        "lva_fleet_joined",
        "gauge",
        (),
        "Whether this agent is a part of its fleet.",
        lambda streams: {(): int(streams.fleet.trouble is None)},
    ),
    Measure(
        "lva_fleet_draining",
        "gauge",
        (),
        "Whether this agent hands its streams over and takes none.",
        lambda streams: {(): int(streams.fleet.draining)},
    ),
    Measure(
        "lva_fleet_commands_total",
        "counter",
        (),
        "Commands sent to the server.",
        lambda streams: {(): streams.fleet.commands},
    ),
    Measure(
        "lva_fleet_late_total",
        "counter",
        (),
        "Changes and events that came after the end of their lease, and were dropped.",
        lambda streams: {(): streams.holder.late},
    ),
)


def fleet_metrics(streams: FleetStreams) -> list[Metric]:
    """Return what is measured of a fleet now."""
    return measured(METRICS, [((), (streams,))])
