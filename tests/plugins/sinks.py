"""A host with one sink, whose calls follow one another quickly, and what became of its points."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from lva import MonitoringPoint
from lva.host.delivery.ledger import Ledger
from lva.host.life.life import PluginLife
from lva.host.life.states import State
from tests.support import RunningHost, running_host, until


@asynccontextmanager
async def running_sink(
    tmp_path: Path,
    name: str,
    config: Mapping[str, Any],
    wait: bool = True,
    table: Any = (),
    **settings: Any,
) -> AsyncIterator[RunningHost]:
    """Run a plugin that ships, with this configuration, more keys of its table, and other settings."""
    tables = {
        name: {
            "flush_interval": 0,
            "backoff_initial": 0.01,
            "backoff_max": 0.05,
            "retry_initial": 0.01,
            "retry_max": 0.05,
            "circuit_pause": 0.05,
            "config": config,
            **dict(table),
        }
    }
    async with running_host(tmp_path, {name: None}, tables, wait=False, **settings) as host:
        if wait:
            await host.wait_for(name, State.RUNNING, within=20)
        yield host


def life_of(host: RunningHost) -> PluginLife:
    """Return the sink's life."""
    (life,) = host.host.lives.values()
    return life


def _delivery(host: RunningHost) -> Any:
    (delivery,) = life_of(host).deliveries.values()
    return delivery


def ledger_of(host: RunningHost) -> Ledger:
    """Return the sink's account, which balances."""
    ledger: Ledger = _delivery(host).ledger
    assert ledger.balanced
    return ledger


def last_error(host: RunningHost) -> str:
    """Return what its last call raised."""
    return _delivery(host).last_error or ""


def reason(host: RunningHost) -> str:
    """Return why it is in its present state."""
    return life_of(host).record.last.reason or ""


async def why_not(host: RunningHost) -> str:
    """Return why it does not start."""
    with trio.fail_after(20):
        await life_of(host).state.wait_value(lambda state: state in {State.BACKOFF, State.RUNNING})
    assert life_of(host).state.value is State.BACKOFF, "it runs"
    return reason(host)


async def settled(host: RunningHost, points: list[MonitoringPoint]) -> Ledger:
    """Publish points as one batch and wait until each is delivered or given up."""
    host.publish(points)
    ledger = ledger_of(host)
    await until(lambda: not ledger.queued and not ledger.in_flight)
    return ledger


async def call(host: RunningHost, points: list[MonitoringPoint]) -> None:
    """Hand the sink a batch as the host does, but let its errors through."""
    life = life_of(host)
    with trio.fail_after(20):
        await host.plugin(life.loaded.name).handleEvent(points, life.logger)
