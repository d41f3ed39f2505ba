"""From a name in `ACTIVE_PLUGINS` to a checked file and the plugin classes in it.

Loading is a trust boundary: a file is checked, read once, hashed, and compiled from those bytes; see
`lva.host.finder`.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import reprlib
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final, get_args

from lva import luna
from lva.contract import BaseBackgroundPlugin, BaseEventPlugin, Plugin, RuntimeName
from lva.errors import ConfigurationError, hint, listing
from lva.events import EVENT_TYPES
from lva.host.configuration import PluginClass, configs_of, with_defaults
from lva.host.finder import PACKAGE, PLUGIN_NAME, PluginFileError, PluginFinder, plugin_line
from lva.host.spool import open_spool
from lva.logs import brief
from lva.settings import PluginSettings, Settings

__all__ = [
    "PACKAGE",
    "SHIPPED_DIR",
    "LoadedPlugin",
    "PluginClass",
    "PluginFileError",
    "PluginFinder",
    "load_plugins",
]

LOGGER: Final = logging.getLogger("lva.service")

SHIPPED_DIR: Final = Path(__file__).parent.parent / "plugins"
#: Plain numbers, which are looked up faster than the enum's members.
_SIGNALS: Final = sorted(map(int, signal.valid_signals()))


@dataclass(frozen=True, slots=True)
class LoadedPlugin:
    """A plugin whose file was checked, imported and found complete; no instance exists yet.

    Attributes:
        name: As in `ACTIVE_PLUGINS`, without ``.py``.
        path: Its file, or the ``__init__.py`` of its package.
        sha256: Of the bytes that were compiled, in hexadecimal.
        classes: The concrete plugin classes defined there, in the order of their definition.
        runtime: Where its coroutines run: ``trio`` or ``asyncio``.
        files: The SHA-256 of each file that it was made from.
        settings: The host's keys, with the plugin's own defaults below the user's.
        configs: What each class sees as `self.config`.
    """

    name: str
    path: Path
    sha256: str
    classes: tuple[PluginClass, ...]
    settings: PluginSettings
    configs: Mapping[PluginClass, Any]
    runtime: RuntimeName = "trio"
    files: Mapping[Path, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """``event``, ``background`` or ``event+background``."""
        kinds = [
            kind
            for kind, base in (("event", BaseEventPlugin), ("background", BaseBackgroundPlugin))
            if any(issubclass(cls, base) for cls in self.classes)
        ]
        return "+".join(kinds)


def load_plugins(settings: Settings) -> list[LoadedPlugin]:
    """Load every active plugin.

    Plugin modules are executed. Nothing is instantiated.

    Raises:
        ConfigurationError: With the problems of all plugins, not just the first.
    """
    problems = [
        f"plugins_dir: {directory}: {why}"
        for directory in settings.plugins_dir
        if (why := _directory_problem(directory)) is not None
    ]
    finder = PluginFinder(
        [*settings.plugins_dir, SHIPPED_DIR], settings.plugin_file_check == "strict"
    )
    finder.install()
    luna.install()
    loaded = []
    names = [_stem(entry) for entry in settings.active_plugins]
    problems += _unused_tables(settings, finder, names)
    for name, count in Counter(names).items():
        try:
            if count > 1:
                raise PluginFileError(f"named {count} times in active_plugins; name it once")
            loaded.append(load_plugin(name, settings, finder))
            problems += spool_problems(settings.state_dir, loaded[-1], loaded[-1].classes)
        except PluginFileError as error:
            problems.append(f"plugin {name!r}: {error}")
    for warning in finder.warnings:
        LOGGER.warning("plugin_file_check = 'warn' lets this pass: %s", warning)
    if problems:
        raise ConfigurationError(problems)
    return loaded


def spool_problems(
    state_dir: Path, plugin: LoadedPlugin, classes: Iterable[PluginClass]
) -> list[str]:
    """Look whether the spools of classes of a plugin can be used; set aside what is damaged."""
    try:
        for cls in classes:
            if issubclass(cls, BaseEventPlugin):
                spool = open_spool(state_dir, plugin.name, cls, plugin.settings)
                if spool is not None:
                    spool.close()
    except (ConfigurationError, OSError) as error:
        return [f"plugin {plugin.name!r}: {error}"]
    return []


def _stem(entry: str) -> str:
    return entry.removesuffix(".py") if entry != ".py" else entry


def _directory_problem(directory: Path) -> str | None:
    if not directory.exists():
        return "there is no such directory"
    return None if directory.is_dir() else "is not a directory"


def _table_of(name: str, settings: Settings) -> PluginSettings:
    """Return the plugin's table; environment variables cannot tell capitals from small letters."""
    tables = {table.lower(): values for table, values in settings.plugins.items()}
    return tables.get(name.lower(), PluginSettings())


def _unused_tables(settings: Settings, finder: PluginFinder, names: Sequence[str]) -> Iterator[str]:
    """Report a `[plugins.NAME]` for which no plugin exists: most likely a slip of the pen."""
    known = {*finder.available(), *names}
    folded = {name.lower() for name in known}
    for table in settings.plugins:
        if table.lower() not in folded:
            yield f"plugins.{table}: there is no plugin of that name{hint(table, known, 'found')}"


def load_plugin(name: str, settings: Settings, finder: PluginFinder) -> LoadedPlugin:
    """Import and check one plugin.

    Raises:
        PluginFileError: It cannot be used.
    """
    if not PLUGIN_NAME.fullmatch(name):
        raise PluginFileError(
            "not a plugin name; give the file's name without its directory: letters, digits and"
            " underscores, not starting with a digit, with or without .py"
        )
    path = finder.locate(name)
    with _signals_kept(path):
        module = _import(name, path)
    own = _own_modules(module)
    classes = _plugin_classes(own, path)
    table = with_defaults(_table_of(name, settings), classes, path)
    configs = configs_of(name, classes, table.config, path)
    runtime = _runtime_of(classes, path)
    _check_event_loop(table, runtime)
    files = {
        Path(str(source.__file__)): finder.digests[source.__name__]
        for source in own
        if source.__name__ in finder.digests  # a directory without __init__.py has no file
    }
    return LoadedPlugin(name, path, files[path], classes, table, configs, runtime, files)


@contextlib.contextmanager
def _signals_kept(path: Path) -> Iterator[None]:
    """Refuse a file that takes a signal away from the service while it is imported."""
    before = [*map(signal.getsignal, _SIGNALS)]
    yield
    after = [*map(signal.getsignal, _SIGNALS)]
    if after == before:
        return
    was = dict(zip(_SIGNALS, before, strict=True))
    taken = [number for number, now in zip(_SIGNALS, after, strict=True) if now != was[number]]
    for number in taken:
        signal.signal(number, was[number])
    names = listing(signal.Signals(number).name for number in taken)
    raise PluginFileError(
        f"{path}: sets a handler for {names}; signals are the service's: to clean up at the end,"
        " define close()"
    )


def _import(name: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(f"{PACKAGE}.{name}")
    except (PluginFileError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginFileError(_import_failure(error, path)) from error


def _import_failure(error: BaseException, path: Path) -> str:
    """Name the line of the plugin's own code that failed, and for a missing module what to do."""
    line = plugin_line(error)
    place = f"{line.filename}:{line.lineno}" if line else str(path)
    source = f"\n    {line.line}" if line and line.line else ""
    todo = ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        todo = _missing_module(error.name, Path(line.filename if line else path).parent)
    return f"{place}: importing it failed with {brief(error)}{todo}{source}"


def _missing_module(name: str, directory: Path) -> str:
    top = name.partition(".")[0]
    if top == PACKAGE:
        return ""
    if (directory / f"{top}.py").exists() or (directory / top / "__init__.py").exists():
        return f"; a file beside it is imported relatively: from . import {top}"
    return f"; install the package that provides {name!r} where the service runs"


def _own_modules(module: ModuleType) -> list[ModuleType]:
    """Return a plugin's module, and those of its package that it has imported."""
    own = [module]
    if hasattr(module, "__path__"):  # only a package has modules below it
        below = f"{module.__name__}."
        own += [value for key, value in list(sys.modules.items()) if key.startswith(below)]
    return own


def _plugin_classes(own: Sequence[ModuleType], path: Path) -> tuple[PluginClass, ...]:
    """Return the concrete plugin classes that these modules define."""
    found: dict[PluginClass, None] = {}
    for source in own:
        for value in list(vars(source).values()):
            if (
                inspect.isclass(value)
                and issubclass(value, BaseEventPlugin | BaseBackgroundPlugin)
                and value.__module__ == source.__name__
            ):
                found[value] = None
    concrete = tuple(cls for cls in found if not inspect.isabstract(cls))
    for cls in found:
        _check_class(cls, [*found], path)
    if not concrete:
        raise PluginFileError(
            f"{path}: no plugin class in it; define a class derived from BaseEventPlugin or"
            " BaseBackgroundPlugin in this very file"
        )
    return concrete


def _runtime_of(classes: Sequence[PluginClass], path: Path) -> RuntimeName:
    """Return where the classes of a file run, on which they have to agree."""
    chosen = {cls.__name__: _style(cls, path) for cls in classes}
    if len(set(chosen.values())) > 1:
        said = " and ".join(f"{cls} is {style}-style" for cls, style in chosen.items())
        raise PluginFileError(
            f"{path}: {said}; the classes of one file share one runtime: give them all the same,"
            " or put them into two files"
        )
    return next(iter(chosen.values()))


def _style(cls: type, path: Path) -> RuntimeName:
    """Return what a class, or the bases it was derived from, say of its runtime."""
    bases = [base for base in cls.__bases__ if issubclass(base, Plugin)]
    inherited = {base: _style(base, path) for base in bases if base is not Plugin}
    own: RuntimeName | None = vars(cls).get("runtime")
    if own is not None and own not in get_args(RuntimeName):
        raise PluginFileError(
            f"{path}: class {cls.__name__} has the unknown runtime {reprlib.repr(own)}"
            f"{hint(str(own), get_args(RuntimeName))}"
        )
    mixed = len(set(inherited.values())) > 1 if own is None else own == "trio"
    if mixed and "asyncio" in inherited.values():
        said = [f"{base.__name__} is {style}-style" for base, style in inherited.items()]
        said += [f"it sets runtime = {own!r} itself"] if own is not None else []
        raise PluginFileError(
            f"{path}: class {cls.__name__} mixes both styles of plugin: {', '.join(said)}; import all"
            ' bases from lva and set runtime = "asyncio" on the class, or import them all from'
            " luna_plugins"
        )
    return own if own is not None else next(iter(inherited.values()), "trio")


def _check_event_loop(table: PluginSettings, runtime: RuntimeName) -> None:
    """Refuse a choice of event loop that cannot be had."""
    if table.event_loop == "uvloop" and runtime == "trio":
        raise PluginFileError(
            "event_loop = 'uvloop' is for asyncio-style plugins; this one is Trio-style"
        )
    if table.event_loop == "uvloop" and find_spec("uvloop") is None:
        raise PluginFileError(
            "event_loop = 'uvloop', but uvloop is not installed; run: pip install 'lva[uvloop]'"
        )


def _check_class(cls: PluginClass, siblings: Sequence[PluginClass], path: Path) -> None:
    if inspect.isabstract(cls):
        missing = cls.__abstractmethods__
        declares_its_own = any(name in vars(cls) for name in missing)
        is_a_base = any(other is not cls and issubclass(other, cls) for other in siblings)
        if not declares_its_own and not is_a_base:
            raise PluginFileError(
                f"{path}: class {cls.__name__} does not define {listing(missing)}, which its base"
                " class requires"
            )
        return
    if issubclass(cls, BaseEventPlugin):
        _check_event(cls, path)


def _check_event(cls: type[BaseEventPlugin], path: Path) -> None:
    event: object = getattr(cls, "eventName", None)
    if isinstance(event, str) and event in EVENT_TYPES:
        return
    said = "sets no eventName"
    if event is not None:
        said = f"has the unknown eventName {reprlib.repr(event)}"
    todo = hint(event if isinstance(event, str) else "", EVENT_TYPES)
    raise PluginFileError(f"{path}: class {cls.__name__} {said}{todo}")
