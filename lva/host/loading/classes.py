"""The plugin classes of a file that was imported, and whether each is complete."""

from __future__ import annotations

import contextlib
import inspect
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import get_args

from lva.contract import BaseBackgroundPlugin, BaseEventPlugin, Plugin, RuntimeName
from lva.errors import PluginProblem, hint, listing
from lva.events.types import EVENT_TYPES
from lva.host.loading.configuration import PluginClass, place_of
from lva.host.loading.finder import PluginFileError
from lva.routes.pages import ConsolePage
from lva.settings import PluginSettings


@contextlib.contextmanager
def collecting(problems: list[PluginProblem]) -> Iterator[None]:
    """Note the problems of one check, and go on to the next."""
    try:
        yield
    except PluginFileError as error:
        problems += error.problems


def own_classes(modules: Iterable[ModuleType]) -> list[type]:
    """Return the classes that these modules define, each once, in their order."""
    found: dict[type, None] = {}
    for module in modules:
        for value in list(vars(module).values()):
            if isinstance(value, type) and value.__module__ == module.__name__:
                found[value] = None
    return [*found]


def plugin_classes(
    own: Iterable[type], path: Path, problems: list[PluginProblem]
) -> tuple[PluginClass, ...]:
    """Return those of a plugin's own classes that are concrete classes of event and background plugins.

    With them those that are abstract by mistake, so that the rest of them is looked at too.
    """
    found: list[PluginClass] = [
        cls for cls in own if issubclass(cls, BaseEventPlugin | BaseBackgroundPlugin)
    ]
    meant = []
    for cls in found:
        before = len(problems)
        with collecting(problems):
            _check_class(cls, found, path)
        if not inspect.isabstract(cls) or len(problems) > before:
            meant.append(cls)
    return tuple(meant)


def runtime_of(classes: Sequence[PluginClass], path: Path) -> RuntimeName:
    """Return where the classes of a file run, on which they have to agree."""
    chosen = {cls.__name__: _style(cls, path) for cls in classes}
    if len(set(chosen.values())) > 1:
        said = " and ".join(f"{cls} is {style}-style" for cls, style in chosen.items())
        why = (
            f"{said}; the classes of one file share one runtime: give them all the same,"
            " or put them into two files"
        )
        raise PluginFileError(PluginProblem(why, path, code="runtime"))
    return next(iter(chosen.values()), "trio")


def _style(cls: type, path: Path) -> RuntimeName:
    """Return what a class, or the bases it was derived from, say of its runtime."""
    bases = [base for base in cls.__bases__ if issubclass(base, Plugin)]
    inherited = {base: _style(base, path) for base in bases if base is not Plugin}
    own: RuntimeName | None = vars(cls).get("runtime")
    if own is not None and own not in get_args(RuntimeName):
        why = (
            f"class {cls.__name__} has the unknown runtime {reprlib.repr(own)}"
            f"{hint(str(own), get_args(RuntimeName))}"
        )
        raise PluginFileError(PluginProblem(why, *place_of(cls, path), "runtime"))
    mixed = len(set(inherited.values())) > 1 if own is None else own == "trio"
    if mixed and "asyncio" in inherited.values():
        said = [f"{base.__name__} is {style}-style" for base, style in inherited.items()]
        said += [f"it sets runtime = {own!r} itself"] if own is not None else []
        why = (
            f"class {cls.__name__} mixes both styles of plugin: {', '.join(said)}; import all"
            ' bases from lva and set runtime = "asyncio" on the class, or import them all from'
            " luna_plugins"
        )
        raise PluginFileError(PluginProblem(why, *place_of(cls, path), "runtime"))
    return own if own is not None else next(iter(inherited.values()), "trio")


def check_event_loop(table: PluginSettings, runtime: RuntimeName) -> None:
    """Refuse a choice of event loop that cannot be had."""
    if table.event_loop == "uvloop" and runtime == "trio":
        raise PluginFileError(
            "event_loop = 'uvloop' is for asyncio-style plugins; this one is Trio-style"
        )
    if table.event_loop == "uvloop" and find_spec("uvloop") is None:
        raise PluginFileError(
            "event_loop = 'uvloop', but uvloop is not installed: pip install '/path/to/lva[uvloop]'"
        )


def check_events(table: PluginSettings, classes: Sequence[PluginClass]) -> None:
    """Refuse event types in a plugin's table that none of its classes can take."""
    if table.events is None:
        return
    taken: set[object] = set()
    for cls in classes:
        if issubclass(cls, BaseEventPlugin):
            with contextlib.suppress(TypeError):  # they are wrong, which is told by themselves
                taken |= {getattr(cls, "eventName", None), *cls.otherEvents}
    if wrong := [name for name in table.events if name not in taken]:
        raise PluginFileError(
            f"events: {', '.join(map(repr, wrong))}: the plugin does not take that; it takes:"
            f" {listing(name for name in EVENT_TYPES if name in taken)}"
        )


def _check_class(cls: PluginClass, siblings: Sequence[PluginClass], path: Path) -> None:
    if inspect.isabstract(cls):
        missing = cls.__abstractmethods__
        declares_its_own = any(name in vars(cls) for name in missing)
        is_a_base = any(other is not cls and issubclass(other, cls) for other in siblings)
        if not declares_its_own and not is_a_base:
            why = f"class {cls.__name__} does not define {listing(missing)}, which its base class requires"
            raise PluginFileError(PluginProblem(why, *place_of(cls, path), "abstract"))
        return
    if issubclass(cls, BaseEventPlugin):
        _check_event(cls, path)
    page: object = getattr(cls, "consolePage", None)
    if not isinstance(page, ConsolePage | None):
        why = f"class {cls.__name__} has a consolePage that is no lva.ConsolePage: {reprlib.repr(page)}"
        raise PluginFileError(PluginProblem(why, *place_of(cls, path), "console-page"))


def _check_event(cls: type[BaseEventPlugin], path: Path) -> None:
    event: object = getattr(cls, "eventName", None)
    if isinstance(event, str) and event in EVENT_TYPES:
        _check_other_events(cls, path)
        return
    said = "sets no eventName"
    if event is not None:
        said = f"has the unknown eventName {reprlib.repr(event)}"
    # Names of other products' events are alike by their ending; only a slip of the pen is one.
    todo = hint(event if isinstance(event, str) else "", EVENT_TYPES, cutoff=0.8)
    why = f"class {cls.__name__} {said}{todo}"
    raise PluginFileError(PluginProblem(why, *place_of(cls, path), "event-name"))


def _check_other_events(cls: type[BaseEventPlugin], path: Path) -> None:
    others: object = cls.otherEvents
    if not isinstance(others, tuple | list) or not all(isinstance(name, str) for name in others):
        why = f"class {cls.__name__} has otherEvents that are no tuple of names: {reprlib.repr(others)}"
        raise PluginFileError(PluginProblem(why, *place_of(cls, path), "event-name"))
    for name in others:
        if name not in EVENT_TYPES:
            todo = hint(name, EVENT_TYPES)
            why = f"class {cls.__name__} has the unknown event type {name!r} in otherEvents{todo}"
            raise PluginFileError(PluginProblem(why, *place_of(cls, path), "event-name"))
