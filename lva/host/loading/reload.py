"""Loading a plugin's file anew, beside the modules that run.

The new modules have the names of the old ones, which are put back until the new code takes over. So
nothing changes for the running plugin, whatever becomes of the import. (One exception cannot be helped: an
import statement that the running code executes just then, in a function, finds the new module.)
"""

from __future__ import annotations

import gc
import logging
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Final

import trio
from trio_util import wait_any

from lva.contract import BaseEventPlugin
from lva.errors import ConfigurationError
from lva.host.loading.finder import PluginFileError, PluginFinder
from lva.host.loading.load import LoadedPlugin, load_plugin, spool_problems
from lva.host.plugin_modules import PACKAGE, modules_of
from lva.host.process.threads import AbandonableThread
from lva.logs.loggers import brief, keep_secret, own_logger
from lva.settings import Settings

#: The plugins whose files are being imported; of some the import may never return.
_importing: Final[set[str]] = set()

_Modules = dict[str, ModuleType]
_Handlers = list[tuple[logging.Logger, logging.Handler]]

#: How the names of threads begin that import a plugin's file while the plugin runs.
IMPORT_THREAD: Final = "import of plugin "


@dataclass(frozen=True, slots=True)
class NewCode:
    """A plugin that was loaded anew, and has not taken over yet."""

    loaded: LoadedPlugin
    modules: _Modules
    old_handlers: _Handlers

    def take_over(self) -> None:
        """Put the new modules in the place of the old ones, of which nothing of the host's is left."""
        for logger, handler in self.old_handlers:
            logger.removeHandler(handler)
        _put(self.loaded.name, self.modules)


async def load_beside(
    old: LoadedPlugin, settings: Settings, limit: float, give_up: trio.Event
) -> NewCode:
    """Load and check a plugin as at the start of the service, in a thread, while it runs.

    Resources: a thread that does not return is abandoned; what it still does is undone when it returns.

    Cancellation: as when there is no more time, but the thread puts the old modules back itself.

    Args:
        old: The plugin as it runs.
        settings: The service's settings, as they were at its start.
        limit: For how many seconds, at most, the import may run. Past it, its thread is abandoned.
        give_up: Set when there is no more time for it.

    Raises:
        ConfigurationError: With everything that is wrong; nothing has changed then.
    """
    if old.module.partition(".")[0] != PACKAGE:
        why = "comes from an installed package, which takes a restart of the service"
        raise ConfigurationError([f"plugin {old.name!r}: {old.path}: {why}"])
    if old.name in _importing:
        raise ConfigurationError([f"plugin {old.name!r}: an earlier import has not returned yet"])
    _importing.add(old.name)
    running = modules_of(f"{PACKAGE}.{old.name}")

    def work() -> NewCode | Exception:
        try:
            return _load_aside(old, settings, running)
        except Exception as error:  # handed to who waits
            return error
        finally:
            _importing.discard(old.name)

    try:
        thread = AbandonableThread(work, f"{IMPORT_THREAD}{old.name}")
    except RuntimeError as error:  # no thread left
        _importing.discard(old.name)
        raise ConfigurationError(
            [f"plugin {old.name!r}: {old.path}: cannot be imported now: {error}"]
        ) from error
    with trio.move_on_after(limit):
        await wait_any(thread.done.wait, give_up.wait)
    new = thread.result
    if new is None:
        # The thread is abandoned; what it still does is undone again when it returns.
        _put(old.name, running)
        why = "the service is stopping" if give_up.is_set() else f"took longer than {limit:g} s"
        raise ConfigurationError([f"plugin {old.name!r}: {old.path}: importing it: {why}"])
    if isinstance(new, ConfigurationError):
        raise new
    if isinstance(new, Exception):
        raise RuntimeError(f"plugin {old.name!r} could not be loaded anew") from new
    return new


def collect_old_code() -> None:
    """Free what has been replaced, where nothing else does: at its start, the service freezes what it has.

    Frozen again is what there is now. So nothing should be under way any more that leads to the old code.
    """
    if gc.get_freeze_count():
        gc.unfreeze()
        gc.collect()
        gc.freeze()


def _load_aside(old: LoadedPlugin, settings: Settings, running: _Modules) -> NewCode:
    """Be the thread: import the file under the names of the running modules, and put those back."""
    name = old.name
    handlers = [(logger, handler) for logger in _loggers(name) for handler in logger.handlers]
    _put(name, {})
    try:
        loaded = load_plugin(name, settings, _finder())
        if problems := _problems(loaded, old, settings):
            raise ConfigurationError(problems)
        for config in loaded.configs.values():
            keep_secret(config)
        return NewCode(loaded, modules_of(f"{PACKAGE}.{name}"), handlers)
    except PluginFileError as error:
        raise ConfigurationError([f"plugin {name!r}: {error}"]) from None
    except KeyboardInterrupt as error:  # raised by the file: Ctrl-C is never raised in a thread
        raise ConfigurationError(
            [f"plugin {name!r}: {old.path}: importing it failed with {brief(error)}"]
        ) from None
    finally:
        _put(name, running)


def _problems(new: LoadedPlugin, old: LoadedPlugin, settings: Settings) -> list[str]:
    """Look for what a running service cannot change."""
    names = {cls.__name__ for cls in old.classes if issubclass(cls, BaseEventPlugin)}
    kept = [cls for cls in new.classes if cls.__name__ in names]
    for key in ("spool", "spool_bytes") if kept else ():
        before, after = getattr(old.settings, key), getattr(new.settings, key)
        if before != after:
            change = f"its host_settings change {key} from {before!r} to {after!r}"
            todo = "which takes a restart of the service"
            return [f"plugin {new.name!r}: {new.path}: {change}, {todo}"]
    return spool_problems(settings.state_dir, new, [cls for cls in new.classes if cls not in kept])


def _finder() -> PluginFinder:
    for finder in sys.meta_path:
        if isinstance(finder, PluginFinder):
            return finder
    raise PluginFileError("no plugin was loaded from a file")


def _put(name: str, modules: _Modules) -> None:
    """Let these be the plugin's modules, and no others."""
    for key in modules_of(f"{PACKAGE}.{name}"):
        if key not in modules:
            sys.modules.pop(key, None)
    sys.modules.update(modules)
    root = sys.modules.get(PACKAGE)
    top = modules.get(f"{PACKAGE}.{name}")
    if root is not None and top is not None:
        setattr(root, name, top)
    elif root is not None and hasattr(root, name):
        delattr(root, name)


def _loggers(name: str) -> list[logging.Logger]:
    """Return the plugin's logger, and those named after its modules."""
    top = f"{PACKAGE}.{name}"
    named = [
        logger
        for key, logger in list(logging.Logger.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and (key == top or key.startswith(f"{top}."))
    ]
    return [own_logger(name), *named]
