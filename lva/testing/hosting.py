"""A host with a plugin inside a test: what the fixture `lva_host` gives."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import ModuleType
from typing import Any, Final

import httpx
import trio

from lva.contract import Published
from lva.errors import ConfigurationError, counted
from lva.host.delivery.ledger import ATTEMPTS, Ledger
from lva.host.life.states import ENDED, State
from lva.host.receipt import PluginReceipt
from lva.testing.blocks import BLOCK_LIMIT, BlockWatch
from lva.testing.captured import CapturedLog, leaked_secrets, record_place, secrets_of
from lva.testing.delivery_check import numbered_points
from lva.testing.places import error_place
from lva.testing.report import Breach, Report, failed
from lva.testing.runs import Config
from lva.testing.subject import Source, Subject, subject_of
from lva.testing.trial import Trial, crash_problem, root_of, trial
from lva.testing.world import HttpWorld, World

#: How long, in seconds of the run's time, it takes until it is looked again whether points are settled: at
#: first, and at most.
_FIRST_LOOK: Final = 0.01
_LAST_LOOK: Final = 1.0


class LvaHost:
    """A running service with the plugin under test, but for its network.

    Attributes:
        name: The plugin's name.
        client: Sends requests to the service: ``await host.client.get("/cameras")``. Responses that never
            end cannot be read with it.
        log: What is logged and printed meanwhile.
        world: The outside world, if the kit makes it.
    """

    def __init__(self, run: Trial, log: CapturedLog) -> None:
        self._run = run
        self.name: str = run.loaded.name
        self.client: httpx.AsyncClient = run.client
        self.log: CapturedLog = log
        self.world: World | None = run.world

    @property
    def module(self) -> ModuleType:
        """The module that was made from the plugin's file."""
        return sys.modules[self._run.loaded.classes[0].__module__]

    @property
    def plugin(self) -> Any:
        """The instance of the plugin's first class; there once `initialize()` was called."""
        return self.plugins[0]

    @property
    def plugins(self) -> list[Any]:
        """The instances, in the order in which their methods were first called."""
        return self._run.probe.instances

    @property
    def state(self) -> str:
        """The plugin's state."""
        return str(self._run.life.state.value.value)

    @property
    def states(self) -> list[str]:
        """The states that it has been in, oldest first."""
        return [state.value for state in self._run.states]

    @property
    def reason(self) -> str:
        """Why it is in its state."""
        return self._run.life.record.last.reason

    @property
    def calls(self) -> list[str]:
        """The methods of the contract that were called, oldest first, as ``"Pump.initialize()"``."""
        return [call.what for call in self._run.probe.calls]

    @property
    def ledger(self) -> Ledger:
        """The account of the points of the plugin's first event class.

        Raises:
            IndexError: It has none.
        """
        return next(iter(self._run.life.deliveries.values())).ledger

    @property
    def status(self) -> dict[str, Any]:
        """What `/plugins/NAME` shows of the plugin."""
        return dict(self._run.host.describe()[0])

    def publish(self, points: Iterable[Published] | int, event: str = "monitoring_event") -> None:
        """Publish points as the service does; a number stands for so many of the kit's own.

        Args:
            points: They, or events; or how many of the kit's `numbered_points`.
            event: The event type.
        """
        self._run.host.publisher.publish(
            event, numbered_points(points, [event]) if isinstance(points, int) else points
        )

    def crash(self) -> None:
        """Let a task of the plugin fail."""
        self._run.probe.crash()

    async def wait_for(self, *states: str, within: float = 1000.0) -> str:
        """Wait until the plugin is in one of the states; return which.

        Args:
            states: Their names: ``"running"``.
            within: For how many seconds, virtual ones in virtual time.

        Raises:
            trio.TooSlowError: It is in none of them by then.
        """
        state = await self._run.wait_for(*map(State, states), within=within)
        return str(state.value)

    async def settled(self, within: float = 1000.0) -> Ledger:
        """Wait until every published point is delivered, rejected or dropped; return the ledger.

        Raises:
            trio.TooSlowError: Some are not by then.
        """
        pause = _FIRST_LOOK
        with trio.fail_after(within):
            while self.ledger.queued or self.ledger.in_flight:
                await trio.sleep(pause)
                pause = min(2 * pause, _LAST_LOOK)
        return self.ledger

    async def stop(self) -> PluginReceipt:
        """Stop the service; return the plugin's part of the receipt."""
        self._run.host.stop.request("the test stops it")
        await self._run.host.stopped.wait()
        return self._run.receipt


@asynccontextmanager
async def running_plugin(
    source: Source,
    config: Config = None,
    settings: Mapping[str, Any] | None = None,
    *,
    until: str | None = "running",
    world: Callable[[], World] | None = None,
    service: Mapping[str, Any] | None = None,
    tolerate: Collection[str] = (),
    block_limit: float = BLOCK_LIMIT,
) -> AsyncIterator[LvaHost]:
    """Run the real host with a plugin; stop it at the end, and assert that it ended well.

    In virtual time if Trio's clock is an autojump clock; then on the plugin's asyncio loop, too.

    Resources: the host, the world, and a temporary directory; a plugin that does not end is ended by force.

    Cancellation: the plugin is stopped all the same, but not looked at.

    Args:
        source: The path of a file or package, a plugin's name, or the text of a plugin.
        config: What `[plugins.NAME.config]` holds, or a function that makes it for the world.
        settings: The host's keys of `[plugins.NAME]`.
        until: The state to wait for before the block is entered; None for not waiting.
        world: Makes the outside world; without one, it is an `HttpWorld` if `config` is a function.
        service: Settings of the service.
        tolerate: The guarantees, as ``"G7"``, of which breaches are no failure: for a test of a plugin that
            is to misbehave. ``"G5"`` are points that were dropped after all attempts, ``"route"`` handlers
            with an exception that they do not handle.
        block_limit: How long, in real seconds, one step may block an event loop.

    Raises:
        RuntimeError: Called on another event loop than Trio's.
        AssertionError: The plugin does not load or does not come to that state, with the cause; or it
            has not ended well.
    """
    _check_on_trio()
    make_world = world if world is not None else HttpWorld if callable(config) else None
    async with AsyncExitStack() as stack:
        subject = stack.enter_context(subject_of(source))
        outside = None if make_world is None else await stack.enter_async_context(make_world())
        log = stack.enter_context(CapturedLog())
        values = config(outside) if callable(config) else config
        try:
            chosen = subject.settings(values, settings, service)
            loaded = subject.load(chosen)
        except ConfigurationError as error:
            raise AssertionError(f"{subject.shown} does not load:\n{error}") from error
        log.hear(loaded.module)
        watch = stack.enter_context(BlockWatch(root_of(loaded), block_limit))
        async with trial(loaded, chosen, watch=watch, world=outside) as run:
            if until is not None:
                await _come_to(run, State(until))
            yield LvaHost(run, log)
        problems = run.problems + watch.all() + _dropped(run) + _failed_handlers(log)
        problems += leaked_secrets(log, loaded.name, root_of(loaded), secrets_of(loaded))
        _assert_well(subject, [item for item in problems if item.guarantee not in tolerate])


def _check_on_trio() -> None:
    """Refuse a test that somebody else's pytest plugin runs, before anything is captured."""
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            "the host needs Trio's event loop, and this test runs on another: pytest-asyncio in auto mode"
            " takes every async test, and anyio runs one on each of its backends. Set asyncio_mode ="
            " strict, and trio_mode = true or @pytest.mark.trio; with anyio, have the fixture"
            " anyio_backend return 'trio'"
        )


async def _come_to(run: Trial, wanted: State) -> None:
    started = wanted in {State.RUNNING, State.INITIALIZING}
    failures = {*ENDED, *([State.BACKOFF] if started else [])} - {wanted}
    state = await run.wait_for(wanted, *failures)
    if state is not wanted:
        problem = crash_problem(run, f"it does not come to the state {wanted.value!r}")
        cause = next((call.error for call in reversed(run.probe.calls) if call.error), None)
        raise AssertionError(f"the plugin {run.loaded.name} {failed('start', problem)}") from cause


def _dropped(run: Trial) -> list[Breach]:
    """Return the points that were dropped after all attempts: nobody else would see that in a test."""
    calls = [call.error for call in run.probe.calls if call.error and "handleEvent" in call.what]
    return [
        Breach(
            "G5",
            f"{counted(count, 'point')} for {cls.__name__} dropped, each attempt failed:"
            f" {delivery.last_error}",
            error_place(calls[-1]) if calls else None,
            'if that is meant, tolerate=["G5"]',
        )
        for cls, delivery in run.life.deliveries.items()
        if (count := delivery.ledger.dropped[ATTEMPTS])
    ]


def _failed_handlers(log: CapturedLog) -> list[Breach]:
    """Return the exceptions that handlers of routes did not handle, which their clients got as status 500."""
    return [
        Breach(
            "route",
            record.getMessage(),
            record_place(record),
            'if that is meant, tolerate=["route"]',
        )
        for record in log.records
        if getattr(record, "phase", None) == "handler" and record.levelno >= logging.ERROR
    ]


def _assert_well(subject: Subject, problems: Iterable[Breach]) -> None:
    steps = [failed("in this test", problem) for problem in problems]
    if steps:
        raise AssertionError(str(Report(subject.shown, subject.name, steps)))
