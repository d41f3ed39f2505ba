"""The life-cycle contract: all that the host may do to a plugin is done to it, each in a run of its own."""

from __future__ import annotations

from typing import Final

import trio

from lva.host.life.states import ENDED, State
from lva.testing.probe import CLOSE, INITIALIZE, MOST_CHECKPOINTS, START, Plan, worth_stopping_at
from lva.testing.report import Breach, Report
from lva.testing.runs import Runs
from lva.testing.trial import Trial, crash_problem
from lva.testing.work import PATIENCE, WORK, crashed_by_itself, leave_to_work, some_minutes

#: How long, in virtual seconds, a plugin works where it is about something else.
_A_MOMENT: Final = 2.0
_SETTLED: Final = frozenset({State.RUNNING, State.BACKOFF, *ENDED})


def check_life(runs: Runs) -> Report:
    """Check a plugin against the life-cycle contract; if it does not start, all but that is left out."""
    with runs:
        first = runs.try_once("start, then stop", "G1", _work_and_stop)
        if first is not None and not runs.report.failures:
            _try_all(runs, first)
    return runs.report


def _try_all(runs: Runs, first: Trial) -> None:
    try_once = runs.try_once
    long = _long(runs, first)
    try_once("stop before it has begun", "G3", _stop_at_once)
    try_once(
        "initialize() fails before its first line", "G1", _restart, Plan(fail_before=INITIALIZE)
    )
    try_once("initialize() fails at its end", "G1", _restart, Plan(fail_after=INITIALIZE))
    for count in range(1, min(first.probe.steps[INITIALIZE], MOST_CHECKPOINTS) + 1):
        name = f"stop at checkpoint {count} of initialize()"
        try_once(name, "G1", _until_stopped, Plan(cancel=(INITIALIZE, count)))
    for count in worth_stopping_at(long.probe, START):
        name = f"stop at checkpoint {count} after initialize()"
        try_once(name, "G4", _until_stopped, Plan(cancel=(START, count)))
    for count in range(1, min(first.probe.steps[CLOSE], MOST_CHECKPOINTS) + 1):
        name = f"close() is cancelled at checkpoint {count}"
        try_once(name, "G7", _work_and_stop, Plan(cancel=(CLOSE, count)))
    try_once("a task crashes; the plugin is restarted", "G6", _crash_and_restart)
    try_once("stop during the back-off after a crash", "G1", _stop_in_backoff)
    try_once("stop while close() runs after a crash", "G1", _stop_in_close)
    try_once("stop twice", "G1", _stop_twice)


def _long(runs: Runs, first: Trial) -> Trial:
    """Let it work for minutes; return that run, or the first one if that showed a fault."""
    name = f"{WORK:g} s of its work"
    if first.world is not None and first.world.own_clock:
        runs.skip(name, "G6", "the clock of its server does not jump")
        return first
    long = runs.try_once(name, "G6", _work)
    if long is None or long.problems:
        return first
    if long.worked < WORK:
        why = f"only {long.worked:.0f} s of them fit into {PATIENCE:g} s of real time"
        runs.skip(name, "G6", why)
    return long


async def _work_and_stop(run: Trial) -> list[Breach]:
    state = await run.wait_for(*_SETTLED)
    if state is not State.RUNNING:
        return [crash_problem(run, "it does not start")]
    await trio.sleep(_A_MOMENT)
    return crashed_by_itself(run)


async def _work(run: Trial) -> list[Breach]:
    await run.wait_for(*_SETTLED)
    return await leave_to_work(run)


async def _stop_at_once(run: Trial) -> list[Breach]:
    run.host.stop.request("at once")
    await run.host.stopped.wait()
    return []


async def _until_stopped(run: Trial) -> list[Breach]:
    """Wait for the stop at a checkpoint; a plugin may also not come to that checkpoint this time."""
    await run.wait_for(State.RUNNING, State.STOPPING, *ENDED)
    with some_minutes():
        await run.host.stop.requested.wait()
    return []


async def _restart(run: Trial) -> list[Breach]:
    """Wait for the attempt after one that the kit has let fail."""
    await run.wait_for(State.BACKOFF, *ENDED)
    return await _runs_again(run)


async def _runs_again(run: Trial) -> list[Breach]:
    if run.life.state.value in ENDED:
        policy = run.life.settings
        if policy.restart == "never" or not policy.max_restarts:
            return []
        why = run.life.record.last.reason
        return [Breach("G6", f"after a failure of the kit's it is not started again: {why}")]
    await run.wait_for(State.INITIALIZING, *ENDED)
    state = await run.wait_for(*_SETTLED)
    if state is State.RUNNING:
        return []
    return [
        Breach(
            "start",
            f"it does not start a second time: {run.life.record.last_error}",
            crash_problem(run, "").place,
            "the instance lives on: initialize() has to set back what an attempt leaves, and close() to"
            " release it",
        )
    ]


async def _crash_and_restart(run: Trial) -> list[Breach]:
    await run.wait_for(*_SETTLED)
    await trio.sleep(_A_MOMENT / 2)
    before = _paths(run)
    await _crash(run)
    problems = await _runs_again(run)
    if not problems and run.life.state.value is State.RUNNING:
        if run.world is None or not run.world.own_clock:
            problems = await leave_to_work(run)
        if missing := before - _paths(run):
            hint = "add routes in initialize(), so that each attempt has them"
            text = f"after a restart the route {', '.join(sorted(missing))} is gone"
            problems.append(Breach("G8", text, None, hint))
    return problems


def _paths(run: Trial) -> set[str]:
    return {route.template for route in run.host.routes.of(run.loaded.name)}


async def _crash(run: Trial) -> None:
    """Let a task of the plugin fail, and wait until the host has noticed."""
    if run.life.state.value is State.RUNNING:
        run.probe.crash()
        await run.wait_for(State.BACKOFF, *ENDED)


async def _stop_in_backoff(run: Trial) -> list[Breach]:
    await run.wait_for(*_SETTLED)
    await _crash(run)
    run.host.stop.request("during the back-off")
    await run.host.stopped.wait()
    return []


async def _stop_in_close(run: Trial) -> list[Breach]:
    await run.wait_for(*_SETTLED)
    token = trio.lowlevel.current_trio_token()

    def on_step(phase: str, _count: int) -> None:
        if phase == CLOSE:
            token.run_sync_soon(run.host.stop.request, "while close() runs")

    run.probe.plan.on_step = on_step
    await _crash(run)
    with trio.move_on_after(_A_MOMENT):
        await run.host.stop.requested.wait()
    return []


async def _stop_twice(run: Trial) -> list[Breach]:
    await run.wait_for(*_SETTLED)
    run.host.stop.request("once")
    run.host.stop.request("twice")
    await run.host.stopped.wait()
    receipt = run.host.receipt
    run.host.stop.request("a third time")
    await trio.lowlevel.checkpoint()
    if receipt is not run.host.receipt:
        return [Breach("G9", "a second stop led to a second receipt")]
    return []
