"""The routes of a fleet: its agents, and what an operator does with them."""

from __future__ import annotations

from typing import Any, Final

import trio
from pydantic import ValidationError

from lva.boot_clock import boot_time
from lva.contract import RequestProblem
from lva.fleet.rows import AgentRow
from lva.fleet.server import FleetServerError
from lva.routes.wrong_keys import wrong_keys
from lva.video.codes import ENDED
from lva.video.definition import StreamDefinition
from lva.video.fleet.metrics import count_streams
from lva.video.fleet.streams import PATIENCE, FleetStreams, row_of, sorted_agents
from lva.video.registry.store import StoreError, StreamStore

#: Most streams of which it is told why they wait.
MOST_WAITING: Final = 100


def fleet_document(streams: FleetStreams) -> dict[str, Any]:
    """Return what `GET /fleet` responds."""
    fleet, now = streams.fleet, boot_time()
    view = fleet.view
    rows = [*view.rows.values()]
    waiting = [(row.id, reason) for row in rows if (reason := fleet.reason(row)) is not None]
    counts = count_streams(streams)
    return {
        "name": streams.config.name,
        "agent": fleet.name,
        "lease": streams.config.lease,
        "trouble": fleet.trouble,
        "agents": [
            {
                "name": agent.name,
                "address": agent.address,
                "room": agent.room,
                "streams": view.count_of(agent),
                "load": agent.load,
                "labels": sorted(agent.labels),
                "draining": agent.draining,
                "alive": fleet.is_alive(agent),
                "silent": round(max(0.0, now - (view.silent_since(agent.incarnation) or now)), 1),
                "since": agent.since,
            }
            for agent in sorted_agents(view.agents.values())
        ],
        "streams": {"total": len(rows), "held": counts["held"], "waiting": counts["waiting"]},
        "waiting": [
            {"stream_id": stream_id, "reason": reason}
            for stream_id, reason in waiting[:MOST_WAITING]
        ],
        "broken": [
            {"kind": kind, "key": key, "reason": why}
            for kind, broken in (("stream", view.broken), ("agent", view.broken_agents))
            for key, why in sorted(broken.items())
        ],
    }


async def act_on_agent(streams: FleetStreams, name: str, body: Any) -> dict[str, Any]:
    """Let an agent drain, or take streams again.

    Cancellation: ends the wait; the agent may drain all the same.

    Raises:
        RequestProblem: There is no such agent, or the body is wrong.
        StoreError: The server of the fleet cannot be used.
    """
    action = body.get("action") if isinstance(body, dict) and len(body) == 1 else None
    if action not in ("drain", "undrain"):
        raise RequestProblem(400, 'The body is {"action": "drain"} or {"action": "undrain"}.')
    streams.check_joined()
    if name not in streams.fleet.view.agents:
        known = ", ".join(sorted(streams.fleet.view.agents)) or "none"
        raise RequestProblem(
            404, f"there is no agent {name!r}; available: {known}", "unknown_agent"
        )
    try:
        await streams.fleet.drain(name, on=action == "drain")
    except FleetServerError as error:
        raise StoreError(str(error)) from error
    draining = action == "drain"

    def alive() -> AgentRow | None:
        agent = streams.fleet.view.agents.get(name)
        return agent if agent is not None and streams.fleet.is_alive(agent) else None

    # One that is not alive does it once it is back.
    await streams.fleet.until(
        lambda: (agent := alive()) is None or agent.draining == draining, PATIENCE
    )
    return {"agent": name, "draining": draining, "alive": alive() is not None}


async def move_to_fleet(streams: FleetStreams, store: StreamStore) -> dict[str, Any]:
    """Move the streams that this agent kept for itself to its fleet; return what is responded.

    Each is written to the fleet before it is deleted here; one that the fleet has stays as it is. One whose
    definition this version does not understand is left here.

    Cancellation: what was moved is moved, and the others stay; do it again.

    Raises:
        RequestProblem: This agent is no part of the fleet.
        StoreError: They cannot be read, written or deleted; those that were not moved stay here.
    """
    streams.check_joined()
    moved: list[str] = []
    left: list[dict[str, str]] = []
    for kept in await trio.to_thread.run_sync(store.load):
        try:
            definition = StreamDefinition.model_validate_json(kept.definition)
        except ValidationError as error:
            left.append({"stream_id": kept.id, "reason": str(wrong_keys(error))})
            continue
        row = row_of(kept.id, kept.version, definition, kept.created)
        if row.id not in streams.fleet.view.rows:
            await streams.put(row, 0)
            if kept.status in {*ENDED}:
                await streams.want(row.id, "stop", kept.reason or "stopped by a user")
        await trio.to_thread.run_sync(store.delete, kept.id)
        moved.append(kept.id)
    return {"moved": moved, "left": left}
