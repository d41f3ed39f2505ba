"""What of a plugin outlives its lives: its state and history, its routes' owner, the account of its points.

A plugin has one life after another when an operator stops, starts, restarts or reloads it. Each life is
an object of its own (`lva.host.life.life.PluginLife`), so that nothing of the last one gets into the next;
what is meant to go on is here.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from trio_util import AsyncValue

from lva.host.delivery.deliveries import Deliveries
from lva.host.life.leaks import Footprint, Leaks
from lva.host.life.states import TRANSITIONS, Ending, State, Transition
from lva.host.life.tasks import TaskNode, task_tree
from lva.host.process.children import end_children
from lva.host.process.starts import importing
from lva.host.routing import Owner
from lva.logs.loggers import plugin_logger
from lva.metrics import ReadMetrics

#: How many problems the receipt lists of one plugin: the newest.
_PROBLEMS: Final = 20


#: Told of a plugin's change of state: its name, the state before, and the change. Must not raise.
Watcher = Callable[[str, str, Transition], None]


class Record:
    """What goes on from one life of a plugin to the next.

    Args:
        name: The plugin's name.
        deliveries: What delivers points to its event classes.
        watchers: Told of each change of state.

    Attributes:
        state: The plugin's state now.
        history: The newest transitions of all its lives.
        not_ready: Why the plugin, which runs, says that the service is not ready.
        account: What the receipt tells of its work.
        metrics: What reads its metrics.
        ending: What comes after the life that is now.
        lives: How many lives there have been, with this one.
        restarts: Attempts after the first, of all lives: what the host tried again by itself.
        abandoned: How many lives ended with something of the plugin leaked.
        last_error: What failed last.
        last_error_at: When that was, in Unix seconds.
        problems: What went wrong at the ends of its lives; the newest.
        leaks: What was alive of it when that was last looked for.
        leaked_processes: What it started, did not end, and was ended for it; the newest.
        owner: Of its routes; these stay, at 503, from one life to the next.
    """

    def __init__(self, name: str, deliveries: Deliveries, watchers: Iterable[Watcher] = ()) -> None:
        self.name: str = name
        self.logger: logging.Logger = plugin_logger(name)
        self.state: AsyncValue[State] = AsyncValue(State.LOADED)
        self.history: deque[Transition] = deque(
            [Transition(State.LOADED, time.time(), "waiting for its turn")], maxlen=100
        )
        self.not_ready: str | None = None
        self.account: dict[str, Any] = {}
        self.metrics: list[ReadMetrics] = []
        self.ending: Ending = Ending.FOR_GOOD
        self.lives: int = 1
        self.restarts: int = 0
        self.abandoned: int = 0
        self.last_error: str | None = None
        self.last_error_at: float = 0.0
        self.problems: deque[str] = deque(maxlen=_PROBLEMS)
        self.leaks: Leaks = Leaks()
        self.leaked_processes: deque[str] = deque(maxlen=_PROBLEMS)
        self.owner: Owner = Owner(name)
        self.deliveries: Deliveries = deliveries
        self.watchers: Iterable[Watcher] = watchers

    @property
    def last(self) -> Transition:
        """The newest transition."""
        return self.history[-1]

    def move(self, state: State, reason: str, quiet: bool = False) -> None:
        """Change the state, keep and log the change.

        Args:
            state: The new state.
            reason: Why, for people.
            quiet: The caller has just logged the reason; only debug logs repeat it.
        """
        old = self.state.value
        if state not in TRANSITIONS[old]:
            raise AssertionError(
                f"plugin {self.name}: illegal transition {old.value} -> {state.value}"
            )
        transition = Transition(state, time.time(), reason)
        self.history.append(transition)
        level = logging.DEBUG if quiet else logging.INFO
        if self.logger.isEnabledFor(level):
            extra = {"state": state.value, "reason": reason}
            self.logger.log(level, "%s -> %s: %s", old.value, state.value, reason, extra=extra)
        self.state.value = state
        if state is State.ABANDONED:
            self.abandoned += 1
        for watcher in self.watchers:
            watcher(self.name, old.value, transition)

    def begin_life(self, reason: str) -> None:
        """Note that another life begins."""
        self.move(State.LOADED, reason)
        self.ending = Ending.FOR_GOOD
        self.lives += 1
        self.leaks = Leaks()

    @property
    def paused(self) -> bool:
        """Whether an operator has stopped the plugin, or is stopping it."""
        return self.ending is Ending.PAUSE and self.state.value in {State.STOPPING, State.STOPPED}

    # What went wrong

    def note_error(self, error: str) -> None:
        """Note what failed last."""
        self.last_error = error
        self.last_error_at = time.time()

    def note_problem(self, phase: str, why: str, error: BaseException | None = None) -> None:
        """Log what failed while the plugin ends, and list it in the receipt."""
        problem = f"{phase} {why}"
        self.problems.append(problem)
        self.note_error(problem)
        self.logger.error("%s", problem, exc_info=error, extra={"phase": phase})

    def abandon(self, why: str, tasks: list[TaskNode]) -> None:
        """Note that something of the plugin does not end.

        Args:
            why: What, and where.
            tasks: The plugin's tasks at that time, for the log.
        """
        if why in self.problems and self.state.value is State.ABANDONED:
            return
        extra = {"tasks": tasks}
        self.note_error(why)
        self.problems.append(why)
        if self.state.value is not State.ABANDONED:
            self.logger.error("abandoned: %s", why, extra=extra)
            self.move(State.ABANDONED, why, quiet=True)
        else:
            self.logger.error("%s", why, extra=extra)

    async def end_children(self, most: float, plugin: Footprint) -> None:
        """End the processes that the plugin has started and left, and note them.

        Cancellation: does not reach it.

        Args:
            most: How long SIGTERM may take to work, in seconds.
            plugin: The life that is over.
        """
        await self._end_children(self.name, "close()", most, plugin)

    async def end_children_of_import(self, most: float, plugin: Footprint) -> None:
        """End what the plugin's file has started while it was imported, as `end_children` does."""
        await self._end_children(importing(self.name), "the import", most, plugin)

    async def _end_children(self, name: str, phase: str, most: float, plugin: Footprint) -> None:
        found, left = await end_children(name, most)
        if found:
            self.leaked_processes += found
            self.note_problem(phase, f"leaked, now ended: {'; '.join(found)}")
        if left:
            self.abandon(f"a process of it does not end: {'; '.join(left)}", task_tree(plugin))

    def note_leaks(self, leaks: Leaks, plugin: Footprint) -> None:
        """Log and keep what of the plugin is still alive after its close."""
        if leaks and leaks != self.leaks:
            self.leaks = leaks
            self.logger.error("leaked after its close: %s", leaks)
            if self.state.value is not State.ABANDONED:
                self.abandon(f"it leaked {leaks}", task_tree(plugin))
