"""Agents of a fleet, asked for and shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lva.client.asking import ask, refusal
from lva.client.target import FailedError, Target
from lva.client.words import clean, fine_age, table_with

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def fleet_of(target: Target) -> dict[str, Any]:
    """Return what a service tells of its fleet.

    Raises:
        FailedError: Nothing responds, or the service is no part of a fleet.
    """
    return _asked(target, "GET", "/fleet")


def act_on_agent(target: Target, agent: str, action: str) -> dict[str, Any]:
    """Let an agent drain, or take streams again.

    Args:
        target: Any service of the fleet.
        agent: Its name.
        action: ``drain`` or ``undrain``.

    Raises:
        FailedError: As `fleet_of`; or there is no such agent.
    """
    path = f"/fleet/agents/{quote(agent, safe='')}"
    return _asked(target, "PATCH", path, {"action": action})


def move_to_fleet(target: Target, plugin: str) -> dict[str, Any]:
    """Move the streams that a service kept for itself to its fleet; return their ids, and which are left.

    Raises:
        FailedError: As `fleet_of`; or they cannot be moved.
    """
    path = f"/{quote(plugin, safe='')}/move-to-fleet"
    return _asked(target, "POST", path)


def _asked(
    target: Target, method: str, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    status, found = ask(target, method, path, body=body, patience=60.0)
    # POST to /streams/move-to-fleet is no method of a stream of that name.
    detail = str(found.get("detail", ""))
    if status == 405 or (status == 404 and detail.startswith("There is nothing at")):
        raise FailedError(
            f"the service at {target.address} is no part of a fleet;"
            " set [plugins.streams.config.fleet]"
        )
    if status >= 400:
        raise refusal(status, found)
    return found


def table_of_agents(agents: list[dict[str, Any]]) -> Table:
    """Return agents as a table, a line for each."""
    table = table_with(("AGENT", "STATE"), ("STREAMS", "ROOM", "LOAD", "SILENT"))
    table.add_column("ADDRESS", no_wrap=True)
    table.add_column("LABELS", no_wrap=True, overflow="ellipsis")
    for agent in agents:
        table.add_row(
            clean(agent["name"]),
            _state(agent),
            str(agent["streams"]),
            str(agent["room"]),
            f"{agent['load']:.1f}",
            fine_age(agent["silent"]),
            clean(agent["address"]),
            clean(" ".join(agent["labels"])),
        )
    return table


def _state(agent: dict[str, Any]) -> Text:
    from rich.text import Text

    if not agent["alive"]:
        return Text("not alive", "bold red")
    return Text("draining", "yellow") if agent["draining"] else Text("alive", "green")


def remarks(fleet: dict[str, Any]) -> list[str]:
    """Return what is to be said of a fleet besides its agents, a line for each."""
    streams = fleet["streams"]
    lines = [
        f"{streams['total']} streams: {streams['held']} with an agent, {streams['waiting']} waiting"
    ]
    if fleet["trouble"] is not None:
        lines.append(f"{fleet['agent']} is no part of the fleet now: {fleet['trouble']}")
    lines += [f"{each['stream_id']} waits: {each['reason']}" for each in fleet["waiting"]]
    lines += [
        f"{each['kind']} {each['key']} cannot be read: {each['reason']}" for each in fleet["broken"]
    ]
    return [clean(line) for line in lines]
