"""`lva status`: how a running service is, at one look."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lva.client.asking import ask, refusal
from lva.client.target import Target
from lva.client.words import STATE_STYLES, age, clean, count, table_with

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def read_status(target: Target) -> dict[str, Any]:
    """Return what the service says of itself.

    Raises:
        FailedError: Nothing responds, or it refuses to.
    """
    status, ready = ask(target, "GET", "/readyz")
    if status not in {200, 503} or (status == 503 and "reasons" not in ready):
        raise refusal(status, ready)
    _, versions = ask(target, "GET", "/version")
    status, plugins = ask(target, "GET", "/plugins")
    if status != 200:
        raise refusal(status, plugins)
    return {
        "address": target.address,
        "ready": ready.get("status") == "ready",
        "reasons": ready.get("reasons", {}),
        "open_circuits": ready.get("open_circuits", []),
        "version": versions.get("version"),
        "plugins": plugins["plugins"],
    }


def show_status(status: dict[str, Any], console: Console) -> None:
    """Print it: a line for the service, and one for each plugin."""
    from rich.text import Text

    word = Text("ready", "bold green") if status["ready"] else Text("not ready", "bold red")
    where = f"  lva {clean(status['version'])} at {status['address']}"
    console.print(Text.assemble(word, where), soft_wrap=True)
    for name, reason in status["reasons"].items():
        line = Text.assemble("  ", (clean(name), "bold"), f": {clean(reason)}")
        console.print(line, soft_wrap=True)
    for circuit in status["open_circuits"]:
        name = clean(f"{circuit['plugin']}.{circuit['class']}")
        said = clean(f": circuit open since {circuit['since']}, {_probe(circuit)}")
        console.print(Text.assemble("  ", (name, "bold"), said), soft_wrap=True)
    if status["plugins"]:
        console.print()
        console.print(_table(status["plugins"]))


def _probe(circuit: dict[str, Any]) -> str:
    """Say when an open circuit's receiver is probed, and what came of the last call."""
    seconds, reason = circuit["next_probe"], circuit["reason"]
    when = f"next probe in {seconds:.0f} s" if seconds else "a probe is under way"
    return when if reason is None else f"{when}: {reason}"


def _table(plugins: list[dict[str, Any]]) -> Table:
    from rich.text import Text

    numbers = ("RESTARTS", "DELIVERED", "QUEUE", "DROPPED")
    table = table_with(("PLUGIN", "STATE", "FOR"), numbers)
    now = time.time()
    for plugin in plugins:
        ledger = plugin["ledger"]
        points = ["", "", ""]
        if ledger is not None:
            lost = sum(ledger["dropped"].values())
            points = [
                count(ledger["delivered"]),
                count(ledger["queued"] + ledger["in_flight"]),
                count(lost),
            ]
        state = clean(plugin["state"])
        table.add_row(
            clean(plugin["name"]),
            Text(state, STATE_STYLES.get(state, "")),
            age(now - datetime.fromisoformat(plugin["since"]).timestamp()),
            count(plugin["restarts"]),
            *points,
        )
    return table
