"""Runs one plugin again and again, each time with a new host, and reports what was found."""

from __future__ import annotations

import gc
import math
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Self

import trio
from trio.testing import MockClock

from lva.errors import ConfigurationError
from lva.testing.blocks import BlockWatch
from lva.testing.captured import CapturedLog, leaked_secrets, secrets_of
from lva.testing.places import Place
from lva.testing.probe import CLOSE, HANDLE, START, Plan
from lva.testing.report import Breach, Report, failed, passed, skipped
from lva.testing.subject import Subject
from lva.testing.trial import Trial, crash_problem, root_of, trial
from lva.testing.world import World

#: A plugin's configuration, or what makes it for a world.
Config = Mapping[str, Any] | Callable[[Any], Mapping[str, Any]] | None
Act = Callable[[Trial], Awaitable[Iterable[Breach]]]


class Runs:
    """Runs of one plugin, and the report on them.

    Use as a context manager; at its end, what is looked at in all runs together is reported.

    Args:
        subject: The plugin.
        config: Its configuration.
        table: The host's keys of its table.
        block_limit: How long one step may block an event loop, in seconds.
        make_world: Makes the outside world for each run; None if there is none.

    Attributes:
        report: What was found so far.
    """

    def __init__(
        self,
        subject: Subject,
        config: Config,
        table: Mapping[str, Any] | None,
        block_limit: float,
        make_world: Callable[[], World] | None,
    ) -> None:
        self.report: Report = Report(subject.shown, subject.name)
        self._subject = subject
        self._config = config
        self._table = table
        self._block_limit = block_limit
        self._make_world = make_world
        self._watch: BlockWatch | None = None
        self._said: set[tuple[str, str, Place | None]] = set()
        self._secrets: list[Breach] = []
        self._on_asyncio = False

    @property
    def has_world(self) -> bool:
        """Whether the plugin's outside world is in the kit's hands."""
        return self._make_world is not None

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self.report.failures or self._on_asyncio:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()  # what the plugin left goes here, and not in somebody's test
        if self._watch is not None:
            self._watch.__exit__()
            self._note("how long its steps take", "loop", self._watch.confirmed())
            self._note("what it logs and prints", "secret", self._secrets)
        self.report.seconds = time.perf_counter() - self._began

    def try_once(
        self,
        name: str,
        guarantee: str,
        act: Act,
        plan: Plan | None = None,
        after: Callable[[Trial], Iterable[Breach]] = lambda _run: (),
    ) -> Trial | None:
        """Run the plugin once, do something to it, and report how it bore that.

        Args:
            name: What is done, for the report.
            guarantee: Which guarantee it is about.
            act: Does it, and returns what is wrong.
            plan: How the plugin is disturbed meanwhile.
            after: Looks at the run when it is over.

        Returns:
            The run; None if the plugin could not be loaded.
        """
        with warnings.catch_warnings():
            # What is left open is found by looking, and not when it is freed.
            warnings.simplefilter("ignore", ResourceWarning)
            clock = MockClock(rate=1.0)
            result = trio.run(self._once, plan or Plan(), act, clock, clock=clock)
        if isinstance(result, list):
            self._note("load", "load", result)
            return None
        self._on_asyncio = result.loaded.runtime == "asyncio"
        problems = [*result.problems, *after(result)]
        cancel = result.probe.plan.cancel
        if problems or cancel is None or result.probe.reached:
            self._note(name, guarantee, problems)
        else:
            self.skip(name, guarantee, "this time it did not come to that checkpoint")
        return result

    def skip(self, name: str, guarantee: str, why: str) -> None:
        """Report a step that shows nothing."""
        self.report.steps.append(skipped(name, guarantee, why))

    async def _once(self, plan: Plan, act: Act, clock: MockClock) -> Trial | list[Breach]:
        async with AsyncExitStack() as stack:
            world = None if self._make_world is None else self._make_world()
            if world is not None:
                await stack.enter_async_context(world)
            log = stack.enter_context(CapturedLog(alone=True))
            config = self._config(world) if callable(self._config) else self._config
            try:
                settings = self._subject.settings(config, self._table)
                loaded = self._subject.load(settings)
            except ConfigurationError as error:
                return [_load_problem(text) for text in error.problems]
            log.hear(loaded.module)
            if self._watch is None:
                self._watch = BlockWatch(root_of(loaded), self._block_limit)
                self._watch.__enter__()
            token = trio.lowlevel.current_trio_token()
            stack.enter_context(_virtual(clock))
            async with trial(loaded, settings, plan, self._watch, world) as run:
                run.log = log
                plan.on_cancel = _stopper(run, plan, token)
                try:
                    found = list(await act(run))
                except trio.TooSlowError:
                    found = [crash_problem(run, "it does not get on")]
            run.problems += found
            self._secrets += leaked_secrets(log, loaded.name, root_of(loaded), secrets_of(loaded))
            return run

    def _note(self, name: str, guarantee: str, problems: Iterable[Breach]) -> None:
        """Add a step to the report; what was said before is not said again."""
        problems = list(problems)
        if not problems:
            self.report.steps.append(passed(name, guarantee))
        for problem in problems:
            key = (problem.guarantee, _without_numbers(problem.message), problem.place)
            if key not in self._said:
                self._said.add(key)
                self.report.steps.append(failed(name, problem))


def _stopper(run: Trial, plan: Plan, token: trio.lowlevel.TrioToken) -> Callable[[], None]:
    """Return what begins a stop at the plan's checkpoint, of a plugin on either loop."""
    why = "the kit stops it at a checkpoint"

    def stop() -> None:
        run.host.stop.request(why)
        if plan.cancel is not None and plan.cancel[0] == START:
            # Together with the stop, so that the tasks are cancelled at this very checkpoint.
            for instance in run.probe.instances:
                instance.nursery.cancel_scope.cancel()

    def stop_soon() -> None:
        token.run_sync_soon(run.host.stop.request, why)

    if plan.cancel is not None and plan.cancel[0] in {CLOSE, HANDLE}:
        return lambda: None
    return stop_soon if run.loaded.runtime == "asyncio" else stop


def _load_problem(text: str) -> Breach:
    """Return what a configuration error says as a problem, with the line that it names."""
    for word in text.replace("\n", " ").split():
        file, _, line = word.rstrip(":,").rpartition(":")
        if file.endswith(".py") and line.isdigit():
            return Breach("load", text, Place(file, int(line)))
    return Breach("load", text)


def _without_numbers(text: str) -> str:
    """Return a message without what differs from run to run."""
    return "".join("#" if char.isdigit() else char for char in text)


@contextmanager
def _virtual(clock: MockClock) -> Iterator[None]:
    """Let time jump; before and after it is real, since a world may wait for a server."""
    clock.rate, clock.autojump_threshold = 0.0, 0.0
    try:
        yield
    finally:
        clock.rate, clock.autojump_threshold = 1.0, math.inf
