"""A stream of the fleet that another agent works on, or nobody: what the fleet's table says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lva.fleet.rows import AgentRow, StreamRow
from lva.video.codes import StreamState
from lva.video.definition import StreamDefinition
from lva.video.source import Source


@dataclass(frozen=True, slots=True)
class ToldState:
    """How a stream is, as its row says.

    Attributes:
        status: Its state.
        reason, code: Of it.
        since: In Unix seconds; None if that is not known.
    """

    status: StreamState
    reason: str
    code: str | None = None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A stream that is not in this process.

    Attributes:
        row: What the fleet's table says of it.
        definition: What the user asked for.
        source: The definition's.
        standing: How it is.
        agent: Who works on it, or was the last to do so; None if that is not known any more.
        reachable: Whether that agent gives signs of life.
        waiting: Why nobody works on it.
    """

    row: StreamRow
    definition: StreamDefinition
    source: Source
    standing: ToldState
    agent: AgentRow | None
    reachable: bool
    waiting: str | None

    @property
    def id(self) -> str:
        """Its id."""
        return self.row.id

    @property
    def version(self) -> int:
        """Of its definition."""
        return self.row.version

    @property
    def state(self) -> StreamState:
        """Its state."""
        return self.standing.status

    @property
    def created(self) -> float:
        """When it was made, in Unix seconds."""
        return self.row.created

    def status(self) -> dict[str, Any]:
        """Return what `/streams` shows of it: what only its agent knows is null."""
        found = self.standing
        unknown = (
            "video",
            "frames",
            "input",
            "frame_age_ms",
            "fps",
            "picture_age",
            "preview",
            "worker",
        )
        return {
            "stream_id": self.id,
            "name": self.definition.name,
            "version": self.version,
            "source": self.source.shown,
            "status": found.status.value,
            "reason": found.reason,
            "code": found.code,
            "since": found.since,
            **dict.fromkeys(unknown),
            "analytics": [
                {"name": use.name, "set_aside": None} for use in self.definition.analytics
            ],
            "events": None,
            "pictures": None,
            "fleet": fleet_part(self.row, self.agent, self.waiting, reachable=self.reachable),
        }

    def defined(self) -> dict[str, Any]:
        """Return its definition for JSON, the source without a password."""
        return {**self.definition.model_dump(mode="json"), "source": self.source.shown}


def fleet_part(
    row: StreamRow, agent: AgentRow | None, waiting: str | None, *, reachable: bool
) -> dict[str, Any]:
    """Return what a stream's status says of the fleet."""
    return {
        "agent": None if row.lease is None or agent is None else agent.name,
        "address": None if agent is None else agent.address,
        "alive": reachable,
        "epoch": row.epoch,
        "waiting": waiting,
    }


def standing_of(
    row: StreamRow, agent: AgentRow | None, waiting: str | None, *, held: bool
) -> ToldState:
    """Return how a stream is.

    Args:
        row: What the fleet's table says of it.
        agent: Who works on it.
        waiting: Why nobody can.
        held: Whether its agent gives signs of life.
    """
    state = row.state
    if state is not None and (held or state.over):
        return ToldState(_known(state.status), state.reason, state.code, state.since)
    if row.wanted != "run" and not held:
        return ToldState(StreamState.STOP, "stopped by a user")
    name = "that holds it" if agent is None else agent.name
    if held:
        reason = f"taken by agent {name}"
    elif waiting is not None:
        reason = f"waits for an agent: {waiting}"
    elif row.lease is not None:
        reason = f"agent {name} gives no sign of life; another one takes over"
    else:
        reason = "waits for an agent"
    return ToldState(StreamState.PENDING, reason)


def last_known_of(row: StreamRow) -> ToldState:
    """Return how a stream was, as this agent knew it before it lost its fleet."""
    reason = "as last known: this agent is no part of its fleet now"
    if row.wanted != "run":
        return ToldState(StreamState.STOP, reason)
    if row.state is None:
        return ToldState(StreamState.PENDING, reason)
    return ToldState(_known(row.state.status), reason, row.state.code, row.state.since)


def _known(status: str) -> StreamState:
    try:
        return StreamState(status)
    except ValueError:  # what a newer version of LVA has written
        return StreamState.PENDING
