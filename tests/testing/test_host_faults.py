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


def says(report: Report, guarantee: str, text: str) -> None:
    """Assert that the report has a failure with this guarantee and text."""
    assert not report.ok
    found = [
        step
        for step in report.failures
        if step.guarantee.startswith(f"{guarantee} ") and text in step.message
    ]
    assert found, str(report)


@pytest.mark.slow("the whole contract is checked")
def test_without_a_fault_all_is_well():
    assert contract.check_plugin(BACKGROUND).ok
    assert contract.check_event_contract(EVENT).ok


def test_a_close_that_is_skipped(monkeypatch: pytest.MonkeyPatch):
    async def skip(self: Attempt, member: Any) -> None:
        """Do not call it."""

    monkeypatch.setattr(Attempt, "_close", skip)
    says(contract.check_plugin(BACKGROUND), "G1", "entered 1 time, P.close() 0")


def test_a_close_that_is_called_twice(monkeypatch: pytest.MonkeyPatch):
    close = Attempt._close

    async def twice(self: Attempt, member: Any) -> None:
        await close(self, member)
        await close(self, member)

    monkeypatch.setattr(Attempt, "_close", twice)
    says(contract.check_plugin(BACKGROUND), "G1", "entered 1 time, P.close() 2")


def test_a_close_while_start_still_runs(monkeypatch: pytest.MonkeyPatch):
    run = TrioRuntime.run

    async def hasty(self: TrioRuntime, what: str, fn: Any) -> None:
        self.call("an early close", fn.__self__.close)
        await run(self, what, fn)

    monkeypatch.setattr(TrioRuntime, "follow", hasty)
    says(contract.check_plugin(BACKGROUND), "G1", "P.close() was called while P.start() still ran")


def test_a_point_that_is_lost(monkeypatch: pytest.MonkeyPatch):
    offer = MemoryMailbox.offer

    def lossy(self: MemoryMailbox, points: Any, size: int) -> None:
        offer(self, points[:-1], size)
        self.ledger.accepted += 1

    monkeypatch.setattr(MemoryMailbox, "offer", lossy)
    says(contract.check_event_contract(EVENT), "G5", "does not balance")


def test_a_point_that_is_lost_without_a_trace(monkeypatch: pytest.MonkeyPatch):
    offer = MemoryMailbox.offer
    monkeypatch.setattr(
        MemoryMailbox, "offer", lambda self, points, size: offer(self, points[:-1], size)
    )
    says(contract.check_event_contract(EVENT), "G5", "points published, but only")


def test_points_out_of_order(monkeypatch: pytest.MonkeyPatch):
    offer = MemoryMailbox.offer
    monkeypatch.setattr(
        MemoryMailbox, "offer", lambda self, points, size: offer(self, points[::-1], size)
    )
    says(contract.check_event_contract(EVENT), "G3", "passed on out of order")


@pytest.mark.slow("the whole contract is checked")
def test_points_that_are_never_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Delivery, "drop_rest", lambda self, reason: 0)
    says(contract.check_event_contract(EVENT), "G5", "in no final place at the end")


@pytest.mark.slow("the whole contract is checked")
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


@pytest.mark.slow("the whole contract is checked")
def test_a_cancellation_that_is_swallowed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(TrioCall, "cancel", lambda self: None)
    says(contract.check_plugin(BACKGROUND), "G4", "ignored its cancellation")


def test_a_route_that_stays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(RouteTable, "remove", lambda self, owner: None)
    says(contract.check_plugin(BACKGROUND), "G7", "leaked: the route /mine")


def test_a_state_that_is_wrong(monkeypatch: pytest.MonkeyPatch):
    release = PluginLife._release

    def lying(self: PluginLife) -> None:
        release(self)
        self.record.history.append(Transition(State.RUNNING, 0.0, "never better"))

    monkeypatch.setattr(PluginLife, "_release", lying)
    says(contract.check_plugin(BACKGROUND), "G8", "stopped -> running")


@pytest.mark.slow("the whole contract is checked")
def test_a_plugin_that_is_not_started_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Restarts, "after", lambda *_: (State.FAILED, ""))
    says(contract.check_plugin(BACKGROUND), "G6", "is not started again")
