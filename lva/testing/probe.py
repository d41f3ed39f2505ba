"""Looks into a plugin's life: which of its methods are called, and each step that its tasks take.

Can disturb it, too: a `Plan` says where a call fails or is cancelled.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Final

import trio

from lva.contract import BaseBackgroundPlugin, BaseEventPlugin
from lva.host.loading.load import LoadedPlugin, PluginClass
from lva.logs.loggers import current_plugin
from lva.testing.places import Place, coroutine_place, frame_place

#: The parts of a life whose steps are counted.
INITIALIZE: Final = "initialize"
START: Final = "start"
CLOSE: Final = "close"
HANDLE: Final = "handleEvent"
_INHERITED: Final = {
    BaseEventPlugin.close,
    BaseBackgroundPlugin.close,
    BaseEventPlugin.initialize,
    BaseBackgroundPlugin.initialize,
    BaseBackgroundPlugin.start,
}


#: Most checkpoints of one part of a life at which a plugin is stopped.
MOST_CHECKPOINTS: Final = 60
#: So many of the first are always among them.
_FIRST: Final = 10
#: After so many steps of a part, no more are looked at.
_MOST_PLACES: Final = 300
#: Whether a task belongs to a call of `handleEvent()`.
_handling: Final[ContextVar[bool]] = ContextVar("lva_testing_handling", default=False)


class InjectedError(OSError):
    """Raised by the kit in place of a plugin's code: the outside world fails."""


@dataclass(slots=True)
class SeenCall:
    """One call of a method.

    Attributes:
        cls: The class's name.
        method: The method's.
        ended: Whether it has ended.
        error: What it raised.
        others: Which calls of the plugin were under way when it began.
        caller: The plugin's line that called it; None if the host did.
    """

    cls: str
    method: str
    ended: bool = False
    error: BaseException | None = None
    others: list[str] = field(default_factory=list)
    caller: Place | None = None

    @property
    def what(self) -> str:
        """The call, for messages."""
        return f"{self.cls}.{self.method}()"


@dataclass(slots=True)
class Plan:
    """Where a plugin's life is disturbed.

    Attributes:
        fail_before: A method whose first call fails before its first line.
        fail_after: A method whose first call fails after its last line.
        cancel: A method, or ``start`` for all of the plugin's tasks, and the checkpoint at which it is
            cancelled.
        on_cancel: Called when the checkpoint is reached, in whatever thread.
        on_step: Called in the plugin's thread after each step, with the part of the life and the number
            of the step in it.
        around: Awaited in place of a `handleEvent`, with what calls the plugin's own and its arguments.
    """

    fail_before: str | None = None
    fail_after: str | None = None
    cancel: tuple[str, int] | None = None
    on_cancel: Callable[[], None] = lambda: None
    on_step: Callable[[str, int], None] | None = None
    around: Callable[..., Awaitable[Any]] | None = None


class Probe(trio.abc.Instrument):
    """Watches one plugin.

    Args:
        loaded: The plugin; its classes are changed, so it has to be loaded for this alone.
        root: What the names of its files begin with.
        plan: How it is disturbed.

    Attributes:
        calls: What was called, in order.
        steps: How many steps there were in each part of the life.
        places: The plugin's lines at which it waited, in order, without repetitions.
        instances: The plugin's instances, once a method of theirs was called.
        reached: Whether the plan's checkpoint was reached.
    """

    def __init__(self, loaded: LoadedPlugin, root: str, plan: Plan | None = None) -> None:
        self._name = loaded.name
        self._root = root
        self._asyncio = loaded.runtime == "asyncio"
        self.plan: Plan = plan or Plan()
        self.calls: list[SeenCall] = []
        self.steps: Counter[str] = Counter()
        self.places: dict[str, dict[Place | None, int]] = {
            part: {} for part in (INITIALIZE, START, CLOSE, HANDLE)
        }
        self.instances: list[Any] = []
        self.reached: bool = False
        self._cancel: dict[str, Callable[[], object]] = {}
        self._failed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._crashing: asyncio.Task[None] | None = None
        self._classes: frozenset[type] = frozenset(loaded.classes)
        for cls in loaded.classes:
            self._wrap(cls)

    # Calls

    def begun(self, method: str) -> list[SeenCall]:
        """Return the calls of a method that were entered."""
        return [call for call in self.calls if call.method == method]

    def under_way(self) -> list[SeenCall]:
        """Return the calls that have not ended."""
        return [call for call in self.calls if not call.ended]

    def _wrap(self, cls: PluginClass) -> None:
        for method in (INITIALIZE, START, CLOSE, HANDLE):
            static = inspect.getattr_static(cls, method, None)
            if static is None or (method == CLOSE and static in _INHERITED):
                continue  # the host looks whether `close` is the inherited one, and does not call it
            setattr(cls, method, self._wrapper(cls, method, static))

    def _wrapper(self, cls: PluginClass, method: str, static: Any) -> Callable[..., Any]:
        def wrapper(instance: Any, *args: Any, **kwargs: Any) -> Any:
            if type(instance) is not cls and type(instance) in self._classes:
                # By `super()`, or inherited: a part of the call of the derived class's own method.
                return static.__get__(instance, type(instance))(*args, **kwargs)
            call = SeenCall(cls.__name__, method, others=[call.what for call in self.under_way()])
            if (caller := sys._getframe(1)).f_code.co_filename.startswith(self._root):  # noqa: SLF001 - documented
                call.caller = frame_place(caller, self._root)
            self.calls.append(call)
            if not any(known is instance for known in self.instances):
                self.instances.append(instance)
            if self.plan.fail_before == method and self._may_fail():
                call.ended = True
                raise InjectedError(f"the kit lets {method}() fail before its first line")
            bound = static.__get__(instance, type(instance))
            result: Any
            try:
                if method == HANDLE and self.plan.around is not None:
                    result = self.plan.around(bound, *args, **kwargs)
                else:
                    result = bound(*args, **kwargs)
            except BaseException as error:
                call.ended, call.error = True, error
                raise
            if not inspect.isawaitable(result):
                call.ended = True
                return result
            return self._follow(call, result)

        return wraps(getattr(static, "__func__", static))(wrapper) if callable(static) else wrapper

    def _may_fail(self) -> bool:
        before, self._failed = self._failed, True
        return not before

    def crash(self) -> None:
        """Let a task of the plugin fail. In Trio's thread."""
        if self._loop is None:
            self.instances[0].nursery.start_soon(_crash, name="a task of the kit that fails")
        else:
            self._loop.call_soon_threadsafe(self._crash_on_loop)

    def _crash_on_loop(self) -> None:
        assert self._loop is not None
        self._crashing = self._loop.create_task(_crash(), name="a task of the kit that fails")

    async def _follow(self, call: SeenCall, result: Awaitable[Any]) -> Any:
        if self._asyncio:
            self._loop = asyncio.get_running_loop()
        _handling.set(call.method == HANDLE)
        try:
            if self.plan.cancel is not None and self.plan.cancel[0] == call.method != START:
                value = await self._cancellable(call, result)
            else:
                value = await result
            if self.plan.fail_after == call.method and self._may_fail():
                raise InjectedError(f"the kit lets {call.method}() fail at its end")
        except BaseException as error:
            call.error = error
            raise
        else:
            return value
        finally:
            call.ended = True

    async def _cancellable(self, call: SeenCall, result: Awaitable[Any]) -> Any:
        """Await a call so that it can be cancelled at exactly one of its checkpoints.

        After that, an `initialize()` waits for the host to end it, as if the stop had cancelled it, and a
        `handleEvent()` has failed.
        """
        value, cut = None, False
        if self._asyncio:
            task = asyncio.current_task()
            assert task is not None
            self._cancel[call.method] = task.cancel
            before = self.reached
            try:
                value = await result
            except asyncio.CancelledError:
                if before or not self.reached:
                    raise
                task.uncancel()
            cut = self.reached and not before
            if cut and call.method == INITIALIZE:
                await asyncio.Event().wait()
        else:
            with trio.CancelScope() as scope:
                self._cancel[call.method] = scope.cancel
                value = await result
            cut = scope.cancelled_caught
            if scope.cancel_called and call.method == INITIALIZE:
                await trio.sleep_forever()
        if cut and call.method == HANDLE:
            raise InjectedError("the kit cancelled handleEvent()")
        return value

    # Steps

    @property
    def phase(self) -> str | None:
        """The part of the life that the plugin is in, as far as its steps are counted."""
        under_way = {call.method for call in self.under_way()}
        if CLOSE in under_way:
            return CLOSE
        if INITIALIZE in under_way:
            return INITIALIZE
        return START if self.begun(INITIALIZE) and not self.begun(CLOSE) else None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count a step of the plugin's on Trio."""
        if task.context.get(current_plugin) == self._name and not self._asyncio:
            self._stepped(task.coro, task.context.get(_handling, False))

    def after_turn(self, tasks: set[asyncio.Task[Any]]) -> None:
        """Count a turn of the plugin's asyncio loop. In its thread."""
        handling = any(call.method == HANDLE for call in self.under_way())
        places = (coroutine_place(task.get_coro(), self._root) for task in tasks)
        self._stepped(next((place for place in places if place is not None), None), handling)

    def _stepped(self, where: Any, handling: bool) -> None:
        if handling:
            self._count(HANDLE, where)
        if (phase := self.phase) is not None:
            self._count(phase, where)

    def _count(self, phase: str, where: Any) -> None:
        self.steps[phase] += 1
        count = self.steps[phase]
        if count > _MOST_PLACES:
            return
        place = where if isinstance(where, Place) else coroutine_place(where, self._root)
        self.places[phase].setdefault(place, count)
        if self.plan.on_step is not None:
            self.plan.on_step(phase, count)
        if self.plan.cancel == (phase, count) and not self.reached:
            self.reached = True
            self._cancel.get(phase, lambda: None)()
            self.plan.on_cancel()


async def _crash() -> None:
    raise InjectedError("the kit lets a task fail")


def worth_stopping_at(probe: Probe, part: str) -> list[int]:
    """Return the first checkpoints of a part of a life that may go on for ever, and those at new lines."""
    last = probe.steps[part]
    counts = set(range(1, _FIRST + 1))
    for count in probe.places[part].values():
        counts |= {count, count + 1}
    return sorted(count for count in counts if count <= last)[:MOST_CHECKPOINTS]
