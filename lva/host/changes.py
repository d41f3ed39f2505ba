"""What operators do to single plugins while the service runs: start, stop, restart, reload.

An action ends one life of a plugin and begins the next, or does one of the two. Points wait in the plugin's
mailbox meanwhile; everybody else goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, TypeAlias, get_args

import trio
from trio_util import wait_any

from lva.errors import ConfigurationError, suggestion
from lva.host.life.leaks import Leaks, find_leaks
from lva.host.life.life import PluginLife
from lva.host.life.states import BEGINNING, Ending, State
from lva.host.lives import Lives
from lva.host.loading.load import LoadedPlugin
from lva.host.loading.reload import collect_old_code, load_beside
from lva.logs.loggers import brief, service_logger
from lva.settings import Settings

LOGGER: Final = service_logger("lva.host")

#: How often, in seconds, to look whether what an ended life has left is gone.
_LOOK_AGAIN: Final = 0.05
#: How long, in seconds, after a reload what it replaced is freed.
_OVER: Final = 1.0


Verb: TypeAlias = Literal["start", "stop", "restart", "reload"]


class UnknownPluginError(LookupError):
    """No active plugin has this name."""


class ActionRefusedError(Exception):
    """An action is not possible now; the message says why and what is."""


@dataclass(slots=True)
class _Action:
    """One action under way.

    Attributes:
        verb: ``start``, ``stop``, ``restart`` or ``reload``.
        done: Set when it is over.
        error: Why it did not come to its end, if so.
    """

    verb: str
    done: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None


class Changes:
    """Operators' actions on the plugins of a host; one at a time for each plugin.

    Each method returns when its effect is there, within the plugin's own limits.

    Cancellation: only the caller's wait ends. An action that has begun is completed in a task of its own.

    Errors: what the method says, after which the plugin is as it was, or has ended. A bug in the action is
    raised to the caller, too.

    Args:
        lives: The plugins.
        settings: The service's settings.
    """

    def __init__(self, lives: Lives, settings: Settings) -> None:
        self._lives = lives
        self._settings = settings
        self._under_way: dict[str, _Action] = {}
        self._loading = trio.Lock()
        self._reloads = 0

    async def start(self, name: str) -> None:
        """Start a plugin that was stopped or has given up; return once it runs, or has crashed.

        Raises:
            UnknownPluginError: There is no such plugin.
            ActionRefusedError: It has not ended, or something of it is still alive, or the service stops.
            ConfigurationError: Its spool cannot be opened.
        """
        await self._do(name, "start", self._start)

    async def stop(self, name: str) -> None:
        """Stop a plugin; return once it has ended. Its points wait for its next start.

        One that has failed has ended already, and given up its points; from then on it counts as stopped by
        an operator.

        Raises:
            UnknownPluginError: There is no such plugin.
            ActionRefusedError: It is stopped already, or was abandoned, or the service stops.
        """
        await self._do(name, "stop", self._stop)

    async def restart(self, name: str) -> None:
        """Stop a plugin if it has not ended, and start it; return once it runs, or has crashed.

        Raises:
            UnknownPluginError: There is no such plugin.
            ActionRefusedError: The service stops, or something of the plugin's last life is still alive.
            ConfigurationError: Its spool cannot be opened.
        """
        await self._do(name, "restart", self._restart)

    async def reload(self, name: str, reason: str = "reloaded by an operator") -> None:
        """Load a plugin's file anew, and let the new code take the place of the old.

        The file is checked first, as at the start of the service. If it is broken, the plugin goes on as
        it is.

        Args:
            name: The plugin's name.
            reason: Why, for people.

        Raises:
            UnknownPluginError: There is no such plugin.
            ActionRefusedError: The service stops, or something of the plugin's last life is still alive.
            ConfigurationError: The file, or the plugin's configuration for it, is wrong: with all problems.
        """
        await self._do(name, "reload", partial(self._reload, reason=reason))

    def possible(self, name: str) -> list[Verb]:
        """Return the actions that would not be refused now."""
        return [verb for verb in get_args(Verb) if self._why_not(name, verb) is None]

    async def done(self, name: str) -> None:
        """Wait until no action on the plugin is under way."""
        while (action := self._under_way.get(name)) is not None:
            await action.done.wait()

    async def all_done(self) -> None:
        """Wait until no action is under way."""
        for name in list(self._under_way):
            await self.done(name)

    # The actions

    async def _start(self, life: PluginLife) -> None:
        await self._begin(life, life.loaded, "started by an operator")

    async def _stop(self, life: PluginLife) -> None:
        await self._end(life, Ending.PAUSE, "stopped by an operator")
        self._lives.look_at_end(life)
        life.set_aside("stopped by an operator")
        await life.forgo_next()

    async def _restart(self, life: PluginLife) -> None:
        await self._end(life, Ending.HANDOVER, "restarted by an operator")
        await self._begin(life, life.loaded, "restarted by an operator")

    async def _reload(self, life: PluginLife, reason: str) -> None:
        limit = life.settings.initialize_timeout
        async with self._loading:  # since plugins may import one another
            new = await load_beside(life.loaded, self._settings, limit, self._lives.stop.requested)
        await self._end(life, Ending.HANDOVER, reason)
        if self._in_the_way(life) is None:
            await life.record.deliveries.remove_others(new.loaded.classes)
            new.take_over()
        await self._begin(life, new.loaded, reason)

    async def _end(self, life: PluginLife, ending: Ending, reason: str) -> None:
        if life.state.value is State.RUNNING:
            await wait_any(
                partial(life.finish_calls, ending),
                partial(life.state.wait_value, lambda state: state is not State.RUNNING),
                self._lives.stop.requested.wait,
            )
        life.begin_ending(ending, reason)
        await life.ended.wait()
        await self._leftovers_gone(life)
        life.record.note_leaks(find_leaks([life]).get(life.name, Leaks()), life)

    async def _leftovers_gone(self, life: PluginLife) -> None:
        """Give threads that the plugin's handlers have left a moment: nobody can wait for a thread."""
        with trio.move_on_after(life.settings.stop_timeout):
            while not self._lives.stop.requested.is_set() and find_leaks([life]):  # noqa: ASYNC110 - a thread tells nobody
                await trio.sleep(_LOOK_AGAIN)

    async def _begin(self, life: PluginLife, loaded: LoadedPlugin, reason: str) -> None:
        """Begin the plugin's next life, if nothing of this one is in the way."""
        why = self._in_the_way(life)
        try:
            if why is None:
                await life.record.deliveries.open_spools(loaded.classes, loaded.settings)
                why = self._in_the_way(life)  # which may have changed meanwhile
            if why is not None:
                life.record.deliveries.close_spools()
                await life.forgo_next()
                self._lives.look_at_end(life)
                raise ActionRefusedError(why)
            after = self._lives.begin_next(loaded, life.record, reason)
        except ConfigurationError as error:
            life.record.note_error(str(error))
            await life.forgo_next()
            raise
        await after.state.wait_value(lambda state: state not in BEGINNING)

    def _collect_later(self) -> None:
        """Free what a reload has replaced, once the requests that saw it are over."""
        self._reloads += 1
        self._lives.do(self._collect_old_code, self._reloads, name="old code")

    async def _collect_old_code(self, reload: int) -> None:
        stop = self._lives.stop.requested
        with trio.move_on_after(_OVER):
            await stop.wait()
        if reload == self._reloads and not stop.is_set():  # of several, the last one serves all
            self._lives.services.routes.forget_removed()
            collect_old_code()

    def _in_the_way(self, life: PluginLife) -> str | None:
        """Say what forbids another life of the plugin."""
        leaks = find_leaks([life]).get(life.name)
        if leaks is not None:
            return f"plugin {life.name!r} is not started: of its last life are still alive: {leaks}"
        if life.owner.calls:
            return f"plugin {life.name!r} is not started: a handler of its last life has not ended"
        # Once the service stops, only a sink that is between two lives is worth another: for its points.
        last_points = life.record.ending is Ending.HANDOVER and life.record.deliveries.open
        if self._lives.stop.requested.is_set() and not last_points:
            return f"plugin {life.name!r} is not started: the service is stopping"
        return None

    # Doing them

    def _why_not(self, name: str, verb: str) -> str | None:
        """Say why an action would be refused now."""
        if self._lives.stop.requested.is_set():
            return "the service is stopping"
        if name in self._under_way:
            return f"another action on plugin {name!r} is under way: {self._under_way[name].verb}"
        life = self._lives[name]
        state = life.state.value.value
        if verb == "start" and not life.ended.is_set():
            return f"plugin {name!r} is {state}; to begin anew, restart it"
        if verb == "stop" and life.ended.is_set() and (life.record.paused or state == "abandoned"):
            return f"plugin {name!r} has ended already: it is {state}"
        return None

    async def _do(
        self, name: str, verb: str, work: Callable[[PluginLife], Awaitable[None]]
    ) -> None:
        if name not in self._lives:
            hint = suggestion(name, self._lives)
            raise UnknownPluginError(f"no active plugin is named {name!r}{hint}")
        if (why := self._why_not(name, verb)) is not None:
            raise ActionRefusedError(why)
        action = self._under_way[name] = _Action(verb)
        self._lives.do(self._carry_out, name, action, work, name=f"{name} ({verb})")
        await action.done.wait()
        if action.error is not None:
            raise action.error

    async def _carry_out(
        self, name: str, action: _Action, work: Callable[[PluginLife], Awaitable[None]]
    ) -> None:
        """Be the action's task; a bug in it, too, is told to who asked."""
        try:
            await work(self._lives[name])
            if action.verb == "reload":
                self._collect_later()
        except (ActionRefusedError, ConfigurationError) as error:
            LOGGER.warning("%s of plugin %s was not completed: %s", action.verb, name, error)
            action.error = error
        except Exception as error:
            LOGGER.critical(
                "bug in the host: %s of plugin %s failed: %s", action.verb, name, brief(error),
                exc_info=error,
            )  # fmt: skip
            action.error = error
        finally:
            del self._under_way[name]
            action.done.set()
