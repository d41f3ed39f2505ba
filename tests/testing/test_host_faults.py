"""The kit watches the host as well: faults put into the host are noticed.

This is the one place where our own code is replaced in tests: by what it must never become.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio

from lva.host.delivery.delivery import Delivery
from lva.host.delivery.mailbox import MemoryMailbox
from lva.host.life import attempt, leaks
from lva.host.life.attempt import Attempt
from lva.host.life.life import PluginLife
from lva.host.life.restarts import Restarts
from lva.host.life.states import State, Transition
from lva.host.routing import RouteTable
from lva.host.runtimes.calls import TrioCall
from lva.host.runtimes.on_trio import TrioRuntime
from lva.testing import contract
from lva.testing.report import Report

pytestmark = pytest.mark.slow("the whole contract is checked")

BACKGROUND = """
import trio
from lva import BaseBackgroundPlugin

class P(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/mine", self.get)
        await trio.sleep(0.1)

    async def get(self, request):
        return "mine"

    async def start(self):
        await trio.sleep_forever()

    async def close(self):
        await trio.sleep(0.1)
"""
EVENT = """
import trio
from lva import BaseEventPlugin

class P(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        await trio.sleep(0.1)

    async def close(self):
        await trio.sleep(0.1)
"""


close, run, offer, release = (
    Attempt._close,
    TrioRuntime.run,
    MemoryMailbox.offer,
    PluginLife._release,
)


async def skip(self: Attempt, member: Any) -> None:
    """Do not call it."""


async def twice(self: Attempt, member: Any) -> None:
    await close(self, member)
    await close(self, member)


async def hasty(self: TrioRuntime, what: str, fn: Any) -> None:
    self.call("an early close", fn.__self__.close)
    await run(self, what, fn)


def lossy(self: MemoryMailbox, points: Any, size: int) -> None:
    offer(self, points[:-1], size)
    self.ledger.accepted += 1


def lying(self: PluginLife) -> None:
    release(self)
    self.record.history.append(Transition(State.RUNNING, 0.0, "never better"))


#: What is replaced by what, the plugin that shows it, and what the kit says.
FAULTS: dict[str, tuple[type, str, Any, str, str, str]] = {
    "a close that is skipped": (
        Attempt, "_close", skip, BACKGROUND, "G1", "entered 1 time, P.close() 0"),
    "a close that is called twice": (
        Attempt, "_close", twice, BACKGROUND, "G1", "entered 1 time, P.close() 2"),
    "a close while start still runs": (
        TrioRuntime, "follow", hasty, BACKGROUND, "G1",
        "P.close() was called while P.start() still ran"),
    "a point that is lost": (MemoryMailbox, "offer", lossy, EVENT, "G5", "does not balance"),
    "a point that is lost without a trace": (
        MemoryMailbox, "offer", lambda self, points, size: offer(self, points[:-1], size), EVENT,
        "G5", "points published, but only"),
    "points out of order": (
        MemoryMailbox, "offer", lambda self, points, size: offer(self, points[::-1], size), EVENT,
        "G3", "passed on out of order"),
    "points that are never given up": (
        Delivery, "drop_rest", lambda self, reason: 0, EVENT, "G5", "in no final place at the end"),
    "a cancellation that is swallowed": (
        TrioCall, "cancel", lambda self: None, BACKGROUND, "G4", "ignored its cancellation"),
    "a route that stays": (
        RouteTable, "remove", lambda self, owner: None, BACKGROUND, "G7", "leaked: the route /mine"),
    "a state that is wrong": (PluginLife, "_release", lying, BACKGROUND, "G8", "stopped -> running"),
    "a plugin that is not started again": (
        Restarts, "after", lambda *_: (State.FAILED, ""), BACKGROUND, "G6", "is not started again"),
}  # fmt: skip


def says(report: Report, guarantee: str, text: str) -> None:
    """Assert that the report has a failure with this guarantee and text."""
    assert not report.ok
    found = [
        step
        for step in report.failures
        if step.guarantee.startswith(f"{guarantee} ") and text in step.message
    ]
    assert found, str(report)


def test_without_a_fault_all_is_well():
    assert contract.check_plugin(BACKGROUND).ok
    assert contract.check_event_contract(EVENT).ok


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch):
    owner, attribute, wrong, plugin, guarantee, text = FAULTS[name]
    monkeypatch.setattr(owner, attribute, wrong)
    check = contract.check_event_contract if plugin is EVENT else contract.check_plugin
    says(check(plugin), guarantee, text)


def test_a_task_that_is_leaked(monkeypatch: pytest.MonkeyPatch):
    call = TrioRuntime.call

    def leaky(self: TrioRuntime, what: str, fn: Any, *args: Any) -> Any:
        if what.endswith("close()"):
            call(self, f"{what} (leaked)", trio.sleep_forever)
        return call(self, what, fn, *args)

    monkeypatch.setattr(TrioRuntime, "call", leaky)

    async def nothing(_lives: object) -> dict[str, object]:
        return {}

    monkeypatch.setattr(attempt, "lasting_leaks", nothing)
    monkeypatch.setattr("lva.host.host.lasting_leaks", nothing)
    assert leaks.lasting_leaks is not attempt.lasting_leaks
    says(contract.check_plugin(BACKGROUND), "G7", "leaked: the task")
