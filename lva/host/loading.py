"""From a name in `ACTIVE_PLUGINS` to a checked file and the plugin classes in it.

Loading is a trust boundary: a file is checked, read once, hashed, and compiled from those bytes.
Plugin modules live under the synthetic package `lva_plugins`, so that relative imports between plugin
files work and pass through the same checks, and `sys.path` stays as it is.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
import stat
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from lva.contract import BaseBackgroundPlugin, BaseEventPlugin
from lva.errors import ConfigurationError, listing, suggestion
from lva.events import EVENT_TYPES
from lva.settings import PluginSettings, Settings, plain
from lva.trust import untrusted

#: The package that plugin modules are imported under.
PACKAGE: Final = "lva_plugins"
SHIPPED_DIR: Final = Path(__file__).parent.parent / "plugins"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_SOURCE: Final = 10 * 1024 * 1024

PluginClass = type[BaseEventPlugin] | type[BaseBackgroundPlugin]


class PluginFileError(Exception):
    """One plugin file cannot be used; the message is for people."""


@dataclass(frozen=True, slots=True)
class LoadedPlugin:
    """A plugin whose file was checked, imported and found complete; no instance exists yet.

    Attributes:
        name: As in `ACTIVE_PLUGINS`, without ``.py``.
        path: Its file, or the ``__init__.py`` of its package.
        sha256: Of the bytes that were compiled, in hexadecimal.
        classes: The concrete plugin classes defined there, in the order of their definition.
        settings: The host's keys, with the plugin's own defaults below the user's.
        configs: What each class sees as `self.config`.
    """

    name: str
    path: Path
    sha256: str
    classes: tuple[PluginClass, ...]
    settings: PluginSettings
    configs: Mapping[PluginClass, Any]

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
    loaded = []
    names = [_stem(entry) for entry in settings.active_plugins]
    problems += _unused_tables(settings, finder, names)
    for name, count in Counter(names).items():
        try:
            if count > 1:
                raise PluginFileError(f"named {count} times in active_plugins; name it once")
            table = (
                settings.plugins.get(name) or settings.plugins.get(name.lower()) or PluginSettings()
            )
            loaded.append(_load(name, finder, table))
        except PluginFileError as error:
            problems.append(f"plugin {name!r}: {error}")
    if problems:
        raise ConfigurationError(problems)
    return loaded


def _stem(entry: str) -> str:
    return entry.removesuffix(".py") if entry != ".py" else entry


def _directory_problem(directory: Path) -> str | None:
    if not directory.exists():
        return "there is no such directory"
    return None if directory.is_dir() else "is not a directory"


def _unused_tables(settings: Settings, finder: PluginFinder, names: Sequence[str]) -> Iterator[str]:
    """Report a `[plugins.NAME]` for which no plugin exists: most likely a slip of the pen."""
    known = {*finder.available(), *names}
    folded = {name.lower() for name in known}
    for table in settings.plugins:
        if table.lower() not in folded:
            hint = suggestion(table, known) or f"; found are {listing(known)}"
            yield f"plugins.{table}: there is no plugin of that name{hint}"


def _load(name: str, finder: PluginFinder, table: PluginSettings) -> LoadedPlugin:
    if not _NAME.fullmatch(name):
        raise PluginFileError(
            "not a plugin name; give the file's name without its directory: letters, digits and"
            " underscores, not starting with a digit, with or without .py"
        )
    path = finder.locate(name)
    module = _import(name, path)
    classes = _plugin_classes(module, path)
    try:
        table = table.over({k: v for cls in classes for k, v in cls.host_settings.items()})
    except ValidationError as error:
        raise PluginFileError(f"{path}: host_settings: {_validation_lines(error)}") from error
    configs = {cls: _config(name, cls, table.config) for cls in classes}
    return LoadedPlugin(name, path, finder.digests[module.__name__], classes, table, configs)


def _import(name: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(f"{PACKAGE}.{name}")
    except SyntaxError as error:
        place = f"{error.filename or path}:{error.lineno}"
        source = f"\n    {error.text.strip()}" if error.text else ""
        raise PluginFileError(f"{place}: {error.msg}{source}") from error
    except PluginFileError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise PluginFileError(_import_failure(error, path)) from error


def _import_failure(error: BaseException, path: Path) -> str:
    """Name the line of the plugin's own code that failed, and for a missing package what to do."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(path.parent)
    ]
    place = f"{own[-1].filename}:{own[-1].lineno}" if own else str(path)
    line = f"\n    {own[-1].line}" if own and own[-1].line else ""
    hint = ""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith(PACKAGE):
        hint = f"; install the package that provides {error.name!r} where the service runs"
    return f"{place}: importing it failed with {type(error).__name__}: {error}{hint}{line}"


def _plugin_classes(module: ModuleType, path: Path) -> tuple[PluginClass, ...]:
    """Return the concrete plugin classes that the module, or a module of its package, defines."""
    own = [
        value
        for key, value in sys.modules.items()
        if key == module.__name__ or key.startswith(f"{module.__name__}.")
    ]
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
        event = getattr(cls, "eventName", None)
        if event not in EVENT_TYPES:
            hint = suggestion(event, EVENT_TYPES) if isinstance(event, str) else ""
            said = "sets no eventName" if event is None else f"has the unknown eventName {event!r}"
            raise PluginFileError(
                f"{path}: class {cls.__name__} {said}{hint or f'; known are {listing(EVENT_TYPES)}'}"
            )


def _config(name: str, cls: PluginClass, values: Mapping[str, Any]) -> Any:
    model = cls.Config
    if model is None:
        return dict(values)
    if not (inspect.isclass(model) and issubclass(model, BaseModel)):
        raise PluginFileError(f"{cls.__name__}.Config must be a pydantic model, not {model!r}")
    unknown = [
        f"plugins.{name}.config.{key}: unknown key{suggestion(key, keys) or f'; known are {listing(keys)}'}"
        for keys in [_keys(model)]
        for key in values
        if key not in keys and model.model_config.get("extra") != "allow"
    ]
    try:
        config = model.model_validate(
            {k: v for k, v in values.items() if k in _keys(model)}
            | (dict(values) if model.model_config.get("extra") == "allow" else {})
        )
    except ValidationError as error:
        unknown += [f"plugins.{name}.config.{line}" for line in _validation_items(error)]
    if unknown:
        raise PluginFileError("\n  ".join(["its configuration is wrong:", *unknown]))
    return config


def _up_to(path: Path, directory: Path) -> Iterator[Path]:
    """Yield the directories above a path, up to and with the given one."""
    for parent in path.parents:
        yield parent
        if parent == directory:
            return


def _keys(model: type[BaseModel]) -> set[str]:
    return {
        key
        for field_name, field in model.model_fields.items()
        for key in (field_name, field.alias, field.validation_alias)
        if isinstance(key, str)
    }


def _validation_items(error: ValidationError) -> list[str]:
    """Return pydantic's errors with the key's path; the values are left out, they may be secrets."""
    return [
        f"{'.'.join(map(str, item['loc'])) or '(whole)'}: {plain(item['msg'])}"
        for item in error.errors(include_input=False, include_context=False)
    ]


def _validation_lines(error: ValidationError) -> str:
    return "; ".join(_validation_items(error))


class PluginFinder(MetaPathFinder, Loader):
    """Imports `lva_plugins.*` from the plugin directories, after checking each file.

    Args:
        directories: Searched in order; the shipped ones come last.
        strict: Whether a file that others may write is refused; otherwise it is only reported.

    Attributes:
        digests: The SHA-256 of each module's source, by the module's name.
        warnings: What was let pass because `strict` is off.
    """

    def __init__(self, directories: Sequence[Path], strict: bool = True) -> None:
        self._directories = list(dict.fromkeys(directories))
        self._strict = strict
        self.digests: dict[str, str] = {}
        self.warnings: list[str] = []

    def install(self) -> None:
        """Make this the one finder of plugin modules, forgetting those an earlier one imported."""
        sys.meta_path[:] = [item for item in sys.meta_path if not isinstance(item, PluginFinder)]
        for name in [key for key in sys.modules if key.partition(".")[0] == PACKAGE]:
            del sys.modules[name]
        root = ModuleType(PACKAGE, "Plugins that the service loaded; see lva.host.loading.")
        root.__path__ = []
        sys.modules[PACKAGE] = root
        sys.meta_path.append(self)

    def available(self) -> set[str]:
        """Return the names for which there is a file or package in one of the directories."""
        found = set()
        for directory in self._directories:
            if directory.is_dir():
                found |= {
                    path.stem for path in directory.glob("*.py") if _NAME.fullmatch(path.stem)
                }
                found |= {path.parent.name for path in directory.glob("*/__init__.py")}
        return found - {"__init__", "__main__"}

    def locate(self, name: str) -> Path:
        """Return the file of the plugin.

        Raises:
            PluginFileError: There is none, or more than one.
        """
        candidates = [
            path
            for directory in self._directories
            for path in (directory / f"{name}.py", directory / name / "__init__.py")
            if path.is_symlink() or path.exists()
        ]
        if not candidates:
            known = self.available()
            places = ", ".join(map(str, self._directories))
            hint = suggestion(name, known) or f"; found are {listing(known)}"
            raise PluginFileError(f"no such plugin in {places}{hint}")
        if len(candidates) > 1:
            both = " and ".join(map(str, candidates))
            raise PluginFileError(f"found twice: {both}; rename or remove one of them")
        return candidates[0]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, rest = fullname.partition(".")
        if package != PACKAGE or not rest:
            return None
        for directory in self._directories:
            base = directory.joinpath(*rest.split("."))
            for file, is_package in (
                (base / "__init__.py", True),
                (base.with_suffix(".py"), False),
            ):
                if file.is_symlink() or file.exists():
                    spec = ModuleSpec(
                        fullname,
                        self,
                        origin=str(file),
                        is_package=is_package,
                        loader_state=directory,
                    )
                    spec.has_location = True
                    if is_package:
                        spec.submodule_search_locations = [str(base)]
                    return spec
        return None

    def create_module(self, spec: ModuleSpec) -> None:
        """Let the import system make the module."""

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin)
        source = self._read(path, spec.loader_state)
        self.digests[module.__name__] = hashlib.sha256(source).hexdigest()
        try:
            code = compile(source, str(path), "exec", dont_inherit=True)
        except ValueError as error:
            raise PluginFileError(f"{path}: not Python source: {error}") from error
        exec(code, module.__dict__)  # noqa: S102 - running plugin files is what a plugin host does

    def _read(self, path: Path, directory: Path) -> bytes:
        """Check the file and everything from it up to its plugin directory, and read it once.

        The file is opened first, so that what is checked is what is read.
        """
        try:
            real = path.resolve(strict=True)
            if not real.is_relative_to(directory.resolve(strict=True)):
                raise PluginFileError(
                    f"{path}: is a link to {real}, outside {directory}; copy the file here instead"
                )
            descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:  # noqa: PTH123 - there is a descriptor, not a path
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise PluginFileError(f"{path}: is not a regular file")
                if (why := untrusted(real, status)) is not None:
                    self._refuse(f"{real}: {why}")
                for step in _up_to(real, directory.resolve()):
                    if (why := untrusted(step)) is not None:
                        self._refuse(f"{step}: {why}")
                if status.st_size > _MAX_SOURCE:
                    raise PluginFileError(
                        f"{path}: too large for a plugin ({status.st_size} bytes)"
                    )
                return file.read()
        except RuntimeError as error:  # a loop of symlinks, before Python 3.13
            raise PluginFileError(f"{path}: cannot be read: {error}") from error
        except OSError as error:
            raise PluginFileError(f"{path}: cannot be read: {error.strerror}") from error

    def _refuse(self, why: str) -> None:
        if self._strict:
            raise PluginFileError(why)
        if why not in self.warnings:
            self.warnings.append(why)
