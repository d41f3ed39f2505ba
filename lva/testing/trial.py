"""One run of the real host with one plugin, in this process, and everything that can be seen of it."""

from __future__ import annotations

import math
import os
import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

import httpx
import trio
from trio.testing import MockClock

from lva.errors import counted
from lva.host.host import Host
from lva.host.life.leaks import all_tasks
from lva.host.life.life import PluginLife
from lva.host.life.states import TRANSITIONS, State
from lva.host.loading.load import LoadedPlugin
from lva.host.receipt import PluginReceipt
from lva.host.runtimes.watched_loop import loop_base
from lva.logs.loggers import current_plugin
from lva.settings import Settings
from lva.testing.blocks import BlockWatch
from lva.testing.captured import CapturedLog
from lva.testing.force import end_by_force
from lva.testing.leftovers import (
    HINTS,
    Origins,
    Snapshot,
    host_leftovers,
    left_since,
    snapshot,
)
from lva.testing.places import coroutine_place, error_place, parsed_place
from lva.testing.probe import CLOSE, INITIALIZE, InjectedError, Plan, Probe
from lva.testing.report import Breach
from lva.testing.unawaited import unawaited
from lva.testing.virtual import VirtualLoop, VirtualTime
from lva.testing.world import World
from lva.web.handling.application import web_application
from lva.web.handling.requests import Requests
from lva.web.resources.access import Access
from lva.web.resources.streams import Shutdown
from lva.web.resources.table import Resources

#: How long, in seconds of the run's own time, the host may take to stop beyond `shutdown_timeout`.
_OVERTIME: Final = 5.0
#: Where the service seems to listen; nothing does.
BASE_URL: Final = "http://127.0.0.1:5240"


@dataclass(slots=True)
class Trial:
    """A host that runs with one plugin.

    Attributes:
        loaded: The plugin.
        settings: The service's settings.
        host: The host.
        probe: What the plugin's methods do.
        client: Sends requests to the service, without a network.
        virtual: Moves virtual time; None if time is real.
        world: The plugin's outside world, if the kit makes it.
        log: What is logged meanwhile, if somebody keeps it.
        worked: How long, in virtual seconds, the plugin was left to its own work.
        problems: What was found wrong, once the trial is over.
    """

    loaded: LoadedPlugin
    settings: Settings
    host: Host
    probe: Probe
    root: str
    client: httpx.AsyncClient
    virtual: VirtualTime | None
    world: World | None = None
    log: CapturedLog | None = None
    worked: float = 0.0
    problems: list[Breach] = field(default_factory=list)

    @property
    def life(self) -> PluginLife:
        """The plugin's life."""
        return self.host.lives[self.loaded.name]

    @property
    def receipt(self) -> PluginReceipt:
        """The plugin's part of the receipt, once the host has stopped."""
        assert self.host.receipt is not None
        return self.host.receipt.plugins[0]

    @property
    def states(self) -> list[State]:
        """The states that the plugin has been in, oldest first."""
        return [transition.state for transition in self.life.record.history]

    async def wait_for(self, *states: State, within: float = 1000.0) -> State:
        """Wait until the plugin is in one of the states; return which.

        Raises:
            trio.TooSlowError: It is in none of them, after so many seconds.
        """
        with trio.fail_after(within):
            state: State = await self.life.state.wait_value(lambda value: value in states)
        return state


def root_of(loaded: LoadedPlugin) -> str:
    """Return what the names of a plugin's files begin with."""
    path = loaded.path
    return f"{path.parent}{os.sep}" if path.name == "__init__.py" else str(path)


@asynccontextmanager
async def trial(
    loaded: LoadedPlugin,
    settings: Settings,
    plan: Plan | None = None,
    watch: BlockWatch | None = None,
    world: World | None = None,
) -> AsyncIterator[Trial]:
    """Run a plugin in the real host; stop it at the end, and look at what it leaves.

    With an autojump clock, time is virtual on the plugin's asyncio loop too.

    Args:
        loaded: The plugin, loaded for this trial alone.
        settings: The service's settings.
        plan: How the plugin's life is disturbed.
        watch: What measures its steps.
        world: The plugin's outside world.

    Resources: a plugin that does not end is ended by force.

    Cancellation: the host is stopped all the same, but the plugin not looked at.

    Errors: what is found goes to `Trial.problems`; nothing is raised but what the body raises.
    """
    root = root_of(loaded)
    if world is not None:
        world.prepare(sys.modules[loaded.classes[0].__module__])
    probe = Probe(loaded, root, plan)
    failure: Exception | None = None
    async with trio.open_nursery() as helpers:
        virtual = await _virtual_time(helpers, world)
        before = snapshot()
        instruments = [probe, *([watch] if watch is not None else [])]
        with (
            Origins(root) as origins,
            _loops_in(virtual, probe, watch),
            unawaited(root) as forgotten,
        ):
            for instrument in instruments:
                trio.lowlevel.add_instrument(instrument)
            async with trio.open_nursery() as nursery:
                run = await _start(nursery, loaded, settings, probe, root, virtual)
                run.world = world
                try:
                    yield run
                except Exception as error:  # noqa: BLE001 - raised below, outside of the nurseries
                    failure = error
                with trio.CancelScope(shield=True):
                    await _end(run, before, origins)
                nursery.cancel_scope.cancel()
            for instrument in instruments:
                trio.lowlevel.remove_instrument(instrument)
            if watch is not None:
                watch.forget()
            run.problems[:] = dict.fromkeys([*run.problems, *forgotten])
        helpers.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _virtual_time(helpers: trio.Nursery, world: World | None) -> VirtualTime | None:
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock) or math.isinf(clock.autojump_threshold):
        return None
    virtual = VirtualTime(clock, world)
    await helpers.start(virtual.run)
    return virtual


@contextmanager
def _loops_in(
    virtual: VirtualTime | None, probe: Probe, watch: BlockWatch | None
) -> Iterator[None]:
    """Have the asyncio loops that are made meanwhile run in virtual time, and tell of their turns."""
    if virtual is None:
        yield
        return
    own = {"virtual": virtual, "probe": probe, "watch": watch}
    token = loop_base.set(type("ProbedLoop", (_ProbedLoop,), own))
    try:
        yield
    finally:
        loop_base.reset(token)


class _ProbedLoop(VirtualLoop):
    """Tells of its turns."""

    probe: Probe
    watch: BlockWatch | None

    def turning(self) -> None:
        if self.watch is not None:
            self.watch.begin()

    def turned(self) -> None:
        if self.watch is not None:
            self.watch.end(own_loop=True)
        keeper: Any = getattr(self, "keeper", None)
        if keeper is not None:
            self.probe.after_turn({*list(keeper.tasks.sites), *list(keeper.tasks.calls)})


async def _start(
    nursery: trio.Nursery,
    loaded: LoadedPlugin,
    settings: Settings,
    probe: Probe,
    root: str,
    virtual: VirtualTime | None,
) -> Trial:
    """Put host and web layer together, as the service does."""
    host = Host(settings, [loaded], random.Random(0))  # noqa: S311 - jitter that repeats itself
    access = Access(settings, BASE_URL)
    shutdown = Shutdown(draining=host.stop.requested)
    Resources(host, access, shutdown)
    requests = Requests(
        web_application(host.routes, settings, access.check_admin, shutdown.closing),
        host.publisher.publish,
        settings,
        nursery,
    )
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app=requests.handle, raise_app_exceptions=False),
        base_url=BASE_URL,
        timeout=None,  # noqa: S113 - the test's own time limit holds
    )
    await nursery.start(host.run)
    return Trial(loaded, settings, host, probe, root, client, virtual)


async def _end(run: Trial, before: Snapshot, origins: Origins) -> None:
    """Stop the host, and note what the plugin leaves; then end that by force."""
    if run.world is not None:
        await run.world.look(run.client)
    await run.client.aclose()
    await _stop(run)
    left = await left_since(before, run.root, origins, run.world)
    run.problems = _merged(run.problems, left)
    run.problems = _with_places(run)
    await end_by_force(run.loaded.name)


async def _stop(run: Trial) -> None:
    """Stop the host, and look at how its plugin has ended."""
    host = run.host
    host.stop.request("the trial is over")
    limit = run.settings.shutdown_timeout + _OVERTIME
    with trio.move_on_after(limit):
        await host.stopped.wait()
    if not host.stopped.is_set():
        run.problems.append(
            Breach("G4", f"the host has not stopped within {limit:g} s of being asked to")
        )
    for _ in range(5):
        await trio.lowlevel.checkpoint()  # what the host started ends by itself now
    if host.stopped.is_set():
        run.problems += [*_how_it_ended(run), *_calls_account(run), *_illegal_states(run)]
        run.problems += host_leftovers(host)
        run.problems += _ledgers(run)


def _how_it_ended(run: Trial) -> list[Breach]:
    """Return what the receipt says of a bad end."""
    problems = []
    cut_short = run.probe.plan.cancel is not None and run.probe.plan.cancel[0] == CLOSE
    for text in run.receipt.problems:
        if cut_short and "leaked, now ended" in text:
            continue  # on asyncio the host does what a `close()` does not come to
        if "addRoute(" in text and "is stopping" in text and "was being cancelled" in text:
            continue  # on asyncio a stop may come between a call and its first step
        place = parsed_place(text, run.root)
        if "leaked" in text or "is abandoned" in text:
            thread = "leaked thread" in text
            problems.append(
                Breach("G7", text, place, HINTS["thread"] if thread else "end it in close()")
            )
        elif "ignored its cancellation" in text or "although cancelled" in text:
            hint = "do not swallow cancellation: re-raise it, and shield nothing without a deadline"
            problems.append(Breach("G4", text, place, hint))
        elif "took longer than" in text:
            problems.append(
                Breach("G4", text, place, "give waits in close() a deadline of their own")
            )
        else:
            call = next((c for c in run.probe.calls if c.error and text.startswith(c.what)), None)
            if call is not None and call.error is not None:
                place = error_place(call.error)
            closing = ".close()" in text
            hint = "close() must cope with an initialize() that got half-way" if closing else ""
            problems.append(Breach("G1" if closing else "G6", text, place, hint))
    if run.life.state.value is State.ABANDONED and not problems:
        reason = run.life.record.last.reason
        problems.append(Breach("G4", f"abandoned: {reason}", parsed_place(reason, run.root)))
    return problems


def _calls_account(run: Trial) -> list[Breach]:
    """Compare how often each class was initialized and closed, and whether that was in turn."""
    problems = []
    probe = run.probe
    for cls in run.loaded.classes:
        name = cls.__name__
        entered = [call for call in probe.begun(INITIALIZE) if call.cls == name]
        closed = [call for call in probe.begun(CLOSE) if call.cls == name]
        if own := next((call for call in closed if call.caller is not None), None):
            hint = "the host calls it, once; what is needed elsewhere goes into a method of its own"
            text = f"{name}.close() was called by the plugin itself"
            problems.append(Breach("G1", text, own.caller, hint))
            continue  # the rest follows from it
        overridden = getattr(cls.close, "__wrapped__", None) is not None
        if (
            overridden
            and len(entered) != len(closed)
            and run.life.state.value is not State.ABANDONED
        ):
            problems.append(
                Breach(
                    "G1",
                    f"{name}.initialize() was entered {counted(len(entered), 'time')},"
                    f" {name}.close() {len(closed)}",
                )
            )
        if run.loaded.runtime == "trio":
            early = [other for call in closed for other in call.others if other.endswith("start()")]
            problems += [
                Breach("G1", f"{name}.close() was called while {other} still ran")
                for other in early
            ]
    return problems


def _illegal_states(run: Trial) -> list[Breach]:
    problems = []
    states = run.states
    for old, new in pairwise(states):
        if new not in TRANSITIONS[old]:
            problems.append(Breach("G8", f"an illegal change of state: {old.value} -> {new.value}"))
    if states[-1] not in {State.STOPPED, State.FAILED, State.ABANDONED}:
        problems.append(Breach("G8", f"the plugin ended in the state {states[-1].value}"))
    return problems


def _ledgers(run: Trial) -> list[Breach]:
    return [
        Breach("G5", f"the ledger of {cls.__name__} does not balance: {delivery.ledger.as_dict()}")
        for cls, delivery in run.life.deliveries.items()
        if not delivery.ledger.balanced
    ]


def crash_problem(run: Trial, doing: str) -> Breach:
    """Return why a plugin is not running, as a problem."""
    error = _logged_crash(run) or next(
        (
            call.error
            for call in reversed(run.probe.calls)
            if call.error is not None and not isinstance(call.error, InjectedError | trio.Cancelled)
        ),
        None,
    )
    place = None if error is None else error_place(error)
    reason = run.life.record.last_error or run.life.record.last.reason
    return Breach("start", f"{doing}: {reason}", place or parsed_place(reason, run.root))


def _logged_crash(run: Trial) -> BaseException | None:
    """Return the error of the plugin's last crash, in whichever of its tasks, as the host logged it."""
    for record in reversed(run.log.records if run.log is not None else ()):
        if hasattr(record, "phase") and record.exc_info and record.exc_info[1] is not None:
            return record.exc_info[1]
    return None


def _with_places(run: Trial) -> list[Breach]:
    """Return the problems; one of a task that does not end gets its line, if the host did not know it."""
    alive = [task for task in all_tasks() if task.context.get(current_plugin) == run.loaded.name]
    places = [coroutine_place(task.coro, run.root) for task in alive]
    place = next((place for place in places if place is not None), None)
    return [
        replace(item, place=place) if item.guarantee == "G4" and item.place is None else item
        for item in run.problems
    ]


def _merged(known: list[Breach], left: list[Breach]) -> list[Breach]:
    """Add what the kit has found to what the host has said; nothing is named twice.

    Only the kit knows which line of the plugin has started a thread that is elsewhere now.
    """
    ended_badly = any(item.guarantee in {"G4", "G7"} for item in known)
    merged = list(known)
    for item in left:
        named = f"{item.message.removeprefix('leaked: the ')} (at "
        same = [n for n, other in enumerate(merged) if named in other.message]
        for n in same:
            merged[n] = replace(merged[n], place=merged[n].place or item.place)
        if not same and not (ended_badly and "the task" in item.message):
            merged.append(item)
    return merged
