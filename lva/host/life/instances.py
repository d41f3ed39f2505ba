"""Calling a plugin's classes: each has one instance for all attempts of a life."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

from lva import contract
from lva.contract import BaseBackgroundPlugin, BaseEventPlugin
from lva.host.life.crash import Crash
from lva.host.life.view import PluginView
from lva.host.loading.load import LoadedPlugin, PluginClass
from lva.host.runtimes.runtime import Constructed, Runtime
from lva.logs.loggers import brief

Plugin: TypeAlias = BaseEventPlugin | BaseBackgroundPlugin


class Instances:
    """The instances of a plugin's classes, made one by one where the plugin's code runs.

    Args:
        loaded: The plugin.
        runtime: Where its code runs.
        views: What each class gets as `self.app`.

    Attributes:
        members: Those that there are, by class, in the order of the file.
        unfinished: The call of a class that has not returned, for messages.
    """

    def __init__(
        self, loaded: LoadedPlugin, runtime: Runtime, views: Mapping[PluginClass, PluginView]
    ) -> None:
        self.members: dict[PluginClass, Plugin] = {}
        self.unfinished: str | None = None
        self._loaded = loaded
        self._runtime = runtime
        self._views = views

    async def make(self) -> Crash | None:
        """Make the instances that do not exist yet; return what keeps one from being made.

        Cancellation: a call that does not return is abandoned with its thread, and `unfinished` says which.

        Errors: what a class raises is in the crash that is returned.
        """
        for cls in self._loaded.classes:
            if cls not in self.members and (crash := await self._make(cls)) is not None:
                return crash
        return None

    async def _make(self, cls: PluginClass) -> Crash | None:
        what = self.unfinished = f"{cls.__name__}.__init__()"
        limit = self._loaded.settings.initialize_timeout
        make = partial(_instance, cls, self._views[cls])
        if _has_own_constructor(cls):
            made = await self._runtime.construct(f"{self._loaded.name}.{what}", make, limit)
        else:
            made = Constructed(make())
        if made is None:
            why = f"took longer than {limit:g} s, in a thread that is abandoned"
            return Crash(what, why, stuck=True)
        self.unfinished = None
        if made.error is not None:
            return Crash(what, f"raised {brief(made.error)}", made.error)
        self.members[cls] = made.instance
        return None


def _has_own_constructor(cls: PluginClass) -> bool:
    """Return whether calling the class runs code of its author, which may take long or fail."""
    return (
        cls.__init__ is not contract.Plugin.__init__
        or cls.__new__ is not object.__new__
        or type(cls) is not ABCMeta
    )


def _instance(cls: Callable[[Any], Plugin], view: PluginView) -> Plugin:
    """Call the plugin's class, and check that it called its base class."""
    instance = cls(view)
    if getattr(instance, "app", None) is None:
        raise TypeError(f"{type(instance).__name__}.__init__ must call super().__init__(app)")
    return instance
