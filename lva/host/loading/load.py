"""From a name in `ACTIVE_PLUGINS` to a checked file and the plugin classes in it.

Loading is a trust boundary: a file is checked, read once, hashed, and compiled from those bytes; see
`lva.host.loading.finder`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # the stubs leave it out; `signal` is made of it
import contextlib
import inspect
import reprlib
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, TypeAlias, get_args

from lva import luna
from lva.check.loaded import loaded_problems
from lva.contract import BaseBackgroundPlugin, BaseEventPlugin, Plugin, RuntimeName
from lva.errors import ConfigurationError, Problem, counted, hint, listing
from lva.events import EVENT_TYPES
from lva.host import HOST_DIR
from lva.host.delivery.spool_file import open_spool
from lva.host.loading.configuration import PluginClass, configs_of, place_of, with_defaults
from lva.host.loading.finder import (
    PLUGIN_NAME,
    PluginFileError,
    PluginFinder,
    PluginLocation,
    plugin_line,
)
from lva.host.plugin_modules import PACKAGE
from lva.host.process.guard import kept_by
from lva.host.process.starts import imported
from lva.host.process.state import closed_descriptors
from lva.logs import brief, service_logger
from lva.settings import PluginSettings, Settings

__all__ = [
    "SHIPPED_DIR",
    "LoadedPlugin",
    "PluginClass",
    "PluginFileError",
    "PluginFinder",
    "load_plugin",
    "load_plugins",
]

LOGGER: Final = service_logger("lva.service")

Kind: TypeAlias = Literal["event", "background", "event+background"]

SHIPPED_DIR: Final = HOST_DIR.parent / "plugins"
_NO_TABLE: Final = PluginSettings()
#: Plain numbers, and `_signal` asked for their handlers: `signal` makes enum members of them, which takes
#: longer than all of the import of a small file.
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
    def module(self) -> str:
        """The name of the module or package that the plugin was imported as."""
        return self.classes[0].__module__

    @property
    def kind(self) -> Kind:
        """Which kinds of classes it has."""
        event = any(issubclass(cls, BaseEventPlugin) for cls in self.classes)
        background = any(issubclass(cls, BaseBackgroundPlugin) for cls in self.classes)
        return "event+background" if event and background else "event" if event else "background"


def load_plugins(settings: Settings) -> list[LoadedPlugin]:
    """Load every active plugin.

    Plugin modules are executed. Nothing is instantiated.

    Raises:
        ConfigurationError: With the problems of all plugins, not just the first.
    """
    finder = finder_for(settings)
    finder.install()
    luna.install()
    problems = settings_problems(settings, finder)
    loaded = []
    for name in active_names(settings):
        try:
            loaded.append(load_plugin(name, settings, finder))
            problems += spool_problems(settings.state_dir, loaded[-1], loaded[-1].classes)
        except PluginFileError as error:
            problems += [f"plugin {name!r}: {problem}" for problem in error.problems]
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


def finder_for(settings: Settings, *more: Path) -> PluginFinder:
    """Return the finder of the service's plugins; `more` are directories in front of the settings' own."""
    directories = [*more, *settings.plugins_dir, SHIPPED_DIR]
    spelt = {name.lower(): name for name in active_names(settings)}
    instances = {
        spelt.get(table.lower(), table): values.from_
        for table, values in settings.plugins.items()
        if values.from_ is not None
    }
    strict = settings.plugin_file_check == "strict"
    return PluginFinder(directories, strict, instances=instances)


def active_names(settings: Settings) -> list[str]:
    """Return the names of the active plugins, without ``.py``, each once."""
    return list(dict.fromkeys(map(_stem, settings.active_plugins)))


def settings_problems(settings: Settings, finder: PluginFinder) -> list[str]:
    """Return what is wrong with what the settings say of plugins, without looking into the plugins."""
    problems = [
        f"plugins_dir: {directory}: {why}"
        for directory in settings.plugins_dir
        if (why := _directory_problem(directory)) is not None
    ]
    problems += _unused_tables(settings, finder)
    return problems + [
        f"plugin {name!r}: named {counted(count, 'time')} in active_plugins; name it once"
        for name, count in Counter(map(_stem, settings.active_plugins)).items()
        if count > 1
    ]


def _stem(entry: str) -> str:
    return entry.removesuffix(".py") if entry != ".py" else entry


def _directory_problem(directory: Path) -> str | None:
    if not directory.exists():
        return "there is no such directory"
    return None if directory.is_dir() else "is not a directory"


def table_of(name: str, settings: Settings) -> PluginSettings:
    """Return the plugin's table; environment variables cannot tell capitals from small letters."""
    if (exact := settings.plugins.get(name)) is not None:
        return exact
    folded = name.lower()
    alike = (values for table, values in settings.plugins.items() if table.lower() == folded)
    return next(alike, _NO_TABLE)


def _unused_tables(settings: Settings, finder: PluginFinder) -> Iterator[str]:
    """Report a `[plugins.NAME]` for which no plugin exists: most likely a slip of the pen."""
    known = {*finder.available(), *active_names(settings)}
    folded = {name.lower() for name in known}
    for table in settings.plugins:
        if table.lower() not in folded:
            yield f"plugins.{table}: there is no plugin of that name{hint(table, known)}"


def load_plugin(name: str, settings: Settings, finder: PluginFinder) -> LoadedPlugin:
    """Load one plugin: its module is executed, nothing is instantiated.

    Args:
        name: As in `ACTIVE_PLUGINS`, without ``.py``.
        settings: With its table.
        finder: An installed one.

    Raises:
        PluginFileError: With everything that is wrong with the plugin.
    """
    if not PLUGIN_NAME.fullmatch(name):
        why = (
            "not a plugin name; give the file's name without its directory: letters, digits and"
            " underscores, not starting with a digit, with or without .py"
        )
        raise PluginFileError(Problem(why, code="name"))
    place = finder.locate(name)
    path = place.path
    problems: list[Problem] = []
    with kept_by(name), imported(name), _signals_kept(path), _descriptors_kept(path):
        module = _import(finder, place)
    own = _own_modules(module)
    classes = _plugin_classes(own, path, problems)
    problems += loaded_problems(classes, own)
    table = table_of(name, settings)
    configs: Mapping[PluginClass, Any] = {}
    runtime: RuntimeName = "trio"
    with _collecting(problems):
        table = with_defaults(table, classes, path)
    with _collecting(problems):
        configs = configs_of(name, classes, table.config, path)
    with _collecting(problems):
        runtime = _runtime_of(classes, path)
        _check_event_loop(table, runtime)
    if problems:
        raise PluginFileError(*problems)
    files = {
        Path(str(source.__file__)): finder.digests[source.__name__]
        for source in own
        if source.__name__ in finder.digests  # a directory without __init__.py has no file
    }
    return LoadedPlugin(name, path, files[path], classes, table, configs, runtime, files)


@contextlib.contextmanager
def _collecting(problems: list[Problem]) -> Iterator[None]:
    """Note the problems of one check, and go on to the next."""
    try:
        yield
    except PluginFileError as error:
        problems += error.problems


@contextlib.contextmanager
def _signals_kept(path: Path) -> Iterator[None]:
    """Refuse a file that takes a signal away from the service while it is imported.

    Off the main thread, as at a reload, a file cannot; what changes meanwhile is another plugin's doing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [*map(_signal.getsignal, _SIGNALS)]
    yield
    after = [*map(_signal.getsignal, _SIGNALS)]
    if after == before:
        return
    was = dict(zip(_SIGNALS, before, strict=True))
    taken = [number for number, now in zip(_SIGNALS, after, strict=True) if now != was[number]]
    for number in taken:
        signal.signal(number, was[number])
    names = listing(signal.Signals(number).name for number in taken)
    why = f"sets a handler for {names}; signals are the service's: to clean up at the end, define close()"
    raise PluginFileError(Problem(why, path, code="signal"))


@contextlib.contextmanager
def _descriptors_kept(path: Path) -> Iterator[None]:
    """Refuse a file that closes what is not its own while it is imported."""
    before = closed_descriptors()
    yield
    if closed_descriptors() != before:
        why = "closes file descriptors of the service, as os.closerange() does; close only your own"
        raise PluginFileError(Problem(why, path, code="import"))


def _import(finder: PluginFinder, place: PluginLocation) -> ModuleType:
    try:
        return finder.load(place)
    except (PluginFileError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginFileError(_import_failure(error, place.path)) from error


def _import_failure(error: BaseException, path: Path) -> Problem:
    """Name the line of the plugin's own code that failed, and for a missing module what to do."""
    line = plugin_line(error)
    file = Path(line.filename) if line else path
    source = f"\n    {line.line}" if line and line.line else ""
    todo = ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        todo = _missing_module(error.name, file.parent)
    elif isinstance(error, ImportError) and error.name in luna.MODULES:
        todo = f"; available there: {listing(luna.MODULES[error.name])}"
    said = f"importing it failed with {brief(error)}{todo}{source}"
    return Problem(said, file, line.lineno if line else None, "import")


def _missing_module(name: str, directory: Path) -> str:
    top = name.partition(".")[0]
    if top == PACKAGE:
        return ""
    if (directory / f"{top}.py").exists() or (directory / top / "__init__.py").exists():
        return f"; a file beside it is imported relatively: from . import {top}"
    if top in luna.TOP_NAMES:
        return (
            f"; of the original service's modules there are {listing(luna.MODULES)}; a helper of your own is"
            " put beside the plugin and imported relatively: from . import NAME"
        )
    return f"; install the package that provides {name!r} where the service runs"


def _own_modules(module: ModuleType) -> list[ModuleType]:
    """Return a plugin's module, and those of its package that it has imported."""
    own = [module]
    if hasattr(module, "__path__"):  # only a package has modules below it
        below = f"{module.__name__}."
        own += [value for key, value in list(sys.modules.items()) if key.startswith(below)]
    return own


def _plugin_classes(
    own: Sequence[ModuleType], path: Path, problems: list[Problem]
) -> tuple[PluginClass, ...]:
    """Return the concrete plugin classes that these modules define.

    With them those that are abstract by mistake, so that the rest of them is looked at too.
    """
    found: dict[PluginClass, None] = {}
    for source in own:
        for value in list(vars(source).values()):
            if (
                inspect.isclass(value)
                and value.__module__ == source.__name__
                and issubclass(value, BaseEventPlugin | BaseBackgroundPlugin)
            ):
                found[value] = None
    meant = []
    for cls in found:
        before = len(problems)
        with _collecting(problems):
            _check_class(cls, [*found], path)
        if not inspect.isabstract(cls) or len(problems) > before:
            meant.append(cls)
    if not meant:
        why = (
            "no plugin class in it; define a class derived from BaseEventPlugin or"
            " BaseBackgroundPlugin in this very file"
        )
        problems.append(Problem(why, path, code="class"))
    return tuple(meant)


def _runtime_of(classes: Sequence[PluginClass], path: Path) -> RuntimeName:
    """Return where the classes of a file run, on which they have to agree."""
    chosen = {cls.__name__: _style(cls, path) for cls in classes}
    if len(set(chosen.values())) > 1:
        said = " and ".join(f"{cls} is {style}-style" for cls, style in chosen.items())
        why = (
            f"{said}; the classes of one file share one runtime: give them all the same,"
            " or put them into two files"
        )
        raise PluginFileError(Problem(why, path, code="runtime"))
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
        raise PluginFileError(Problem(why, *place_of(cls, path), "runtime"))
    mixed = len(set(inherited.values())) > 1 if own is None else own == "trio"
    if mixed and "asyncio" in inherited.values():
        said = [f"{base.__name__} is {style}-style" for base, style in inherited.items()]
        said += [f"it sets runtime = {own!r} itself"] if own is not None else []
        why = (
            f"class {cls.__name__} mixes both styles of plugin: {', '.join(said)}; import all"
            ' bases from lva and set runtime = "asyncio" on the class, or import them all from'
            " luna_plugins"
        )
        raise PluginFileError(Problem(why, *place_of(cls, path), "runtime"))
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
            why = f"class {cls.__name__} does not define {listing(missing)}, which its base class requires"
            raise PluginFileError(Problem(why, *place_of(cls, path), "abstract"))
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
    # Names of other products' events are alike by their ending; only a slip of the pen is one.
    todo = hint(event if isinstance(event, str) else "", EVENT_TYPES, cutoff=0.8)
    why = f"class {cls.__name__} {said}{todo}"
    raise PluginFileError(Problem(why, *place_of(cls, path), "event-name"))
