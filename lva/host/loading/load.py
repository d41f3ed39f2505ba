"""From a name in `ACTIVE_PLUGINS` to a checked file and the plugin classes in it.

Loading is a trust boundary: a file is checked, read once, hashed, and compiled from those bytes; see
`lva.host.loading.finder`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, TypeAlias

from lva import luna
from lva.check.loaded import loaded_problems
from lva.contract import AnalyticsInfo, BaseBackgroundPlugin, BaseEventPlugin, RuntimeName
from lva.errors import ConfigurationError, PluginProblem, counted, hint
from lva.host.delivery.spool_file import open_spool
from lva.host.loading.analytics import analytics_class
from lva.host.loading.classes import (
    check_event_loop,
    check_events,
    collecting,
    own_classes,
    plugin_classes,
    runtime_of,
)
from lva.host.loading.configuration import PluginClass, configs_of, defaults_of, with_defaults
from lva.host.loading.finder import PLUGIN_NAME, PluginFileError, PluginFinder, PluginLocation
from lva.host.loading.guarded_import import SHIPPED_DIR, import_plugin
from lva.host.loading.installed import InstalledPlugin
from lva.host.plugin_modules import modules_of
from lva.host.process.guard import state_now
from lva.host.process.state import ProcessState
from lva.logs.loggers import service_logger
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

Kind: TypeAlias = Literal["event", "background", "event+background", "analytics"]
#: Where a plugin's code runs: `RuntimeName`, or the worker process of each stream that uses it.
RunsIn: TypeAlias = Literal["trio", "asyncio", "worker"]

_NO_TABLE: Final = PluginSettings()


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
        analytics: Its analytics class, which has the file alone; streams' workers make its instances.
    """

    name: str
    path: Path
    sha256: str
    classes: tuple[PluginClass, ...]
    settings: PluginSettings
    configs: Mapping[PluginClass, Any]
    runtime: RuntimeName = "trio"
    files: Mapping[Path, str] = field(default_factory=dict)
    analytics: AnalyticsInfo | None = None

    @property
    def module(self) -> str:
        """The name of the module or package that the plugin was imported as."""
        return (self.classes[0] if self.analytics is None else self.analytics.cls).__module__

    @property
    def runs_in(self) -> RunsIn:
        """Where its code runs: ``worker`` is the process of each stream that uses it."""
        return self.runtime if self.analytics is None else "worker"

    @property
    def kind(self) -> Kind:
        """Which kinds of classes it has."""
        if self.analytics is not None:
            return "analytics"
        event = any(issubclass(cls, BaseEventPlugin) for cls in self.classes)
        background = any(issubclass(cls, BaseBackgroundPlugin) for cls in self.classes)
        return "event+background" if event and background else "event" if event else "background"


def load_plugins(
    settings: Settings, installed: Sequence[InstalledPlugin] | None = None
) -> list[LoadedPlugin]:
    """Load every active plugin.

    Plugin modules are executed. Nothing is instantiated.

    Args:
        settings: They name the plugins.
        installed: The plugins of installed packages; they are looked for if left out.

    Raises:
        ConfigurationError: With the problems of all plugins, not just the first.
    """
    finder = finder_for(settings, installed=installed)
    finder.install()
    luna.install()
    problems = settings_problems(settings, finder)
    state = state_now()  # once, since to take note of it costs more than to import a small file
    loaded = []
    for name in active_names(settings):
        try:
            loaded.append(load_plugin(name, settings, finder, state))
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


def finder_for(
    settings: Settings, *more: Path, installed: Sequence[InstalledPlugin] | None = None
) -> PluginFinder:
    """Return the finder of the service's plugins; `more` are directories in front of the settings' own."""
    directories = [*more, *settings.plugins_dir, SHIPPED_DIR]
    spelt = {name.lower(): name for name in active_names(settings)}
    instances = {
        spelt.get(table.lower(), table): values.from_
        for table, values in settings.plugins.items()
        if values.from_ is not None
    }
    strict = settings.plugin_file_check == "strict"
    return PluginFinder(directories, strict, installed, instances)


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
    known = set(active_names(settings))
    if {table.lower() for table in settings.plugins} <= {name.lower() for name in known}:
        return  # to look for all that there is takes longer than to load a plugin
    known |= finder.available()
    folded = {name.lower() for name in known}
    for table in settings.plugins:
        if table.lower() not in folded:
            yield f"plugins.{table}: there is no plugin of that name{hint(table, known)}"


def load_plugin(
    name: str, settings: Settings, finder: PluginFinder, state: ProcessState | None = None
) -> LoadedPlugin:
    """Load one plugin: its module is executed, nothing is instantiated.

    Args:
        name: As in `ACTIVE_PLUGINS`, without ``.py``.
        settings: With its table.
        finder: An installed one.
        state: Of the process; the module may not change it. As it is now, if left out.

    Raises:
        PluginFileError: With everything that is wrong with the plugin.
    """
    if not PLUGIN_NAME.fullmatch(name):
        why = (
            "not a plugin name; give the file's name without its directory: letters, digits and"
            " underscores, not starting with a digit, with or without .py"
        )
        raise PluginFileError(PluginProblem(why, code="name"))
    place = finder.locate(name)
    path = place.path
    problems: list[PluginProblem] = []
    import_plugin(name, place, finder, state)
    own = _modules_at(place)
    defined = own_classes(own)
    classes = plugin_classes(defined, path, problems)
    analytics = analytics_class(defined, path, classes, problems)
    problems += loaded_problems(
        [*classes, *([analytics] if analytics is not None else [])], defined
    )
    table = table_of(name, settings)
    configs: Mapping[PluginClass, Any] = {}
    defaults: Mapping[str, Any] = {}
    runtime: RuntimeName = "trio"
    with collecting(problems):
        table = with_defaults(table, classes, path)
    with collecting(problems):
        if analytics is None:
            configs = configs_of(name, classes, table.config, path, settings.bind)
        else:
            defaults = defaults_of(name, analytics, table.config, path)
    with collecting(problems):
        runtime = runtime_of(classes, path)
        check_event_loop(table, runtime)
    with collecting(problems):
        check_events(table, classes)
    if problems:
        raise PluginFileError(*problems)
    files = _files(own, finder)
    info = None
    if analytics is not None:
        digests = {str(file): digest for file, digest in files.items()}
        info = AnalyticsInfo(name, analytics, place.module, str(path), digests, defaults)
    return LoadedPlugin(name, path, files[path], classes, table, configs, runtime, files, info)


def _modules_at(place: PluginLocation) -> list[ModuleType]:
    """Return the modules of a plugin that was imported; a file has one, which is found without a search."""
    if place.path.name == "__init__.py":
        return [*modules_of(place.module).values()]
    module = sys.modules.get(place.module)
    return [] if module is None else [module]


def _files(own: Iterable[ModuleType], finder: PluginFinder) -> dict[Path, str]:
    """Return the files that modules were made from, each with its SHA-256."""
    return {
        Path(str(source.__file__)): finder.digests[source.__name__]
        for source in own
        if source.__name__ in finder.digests  # a directory without __init__.py has no file
    }
