"""Finding plugin files, and importing them under checks.

Modules of the plugin directories live under the synthetic package `lva_plugins`, so that relative imports
between plugin files work and pass through the same checks, and `sys.path` stays as it is. Modules of
installed packages keep their names; all that is imported of such a package passes through the checks too.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

from lva.errors import PluginProblem, hint
from lva.host.loading.installed import InstalledPlugin, find, find_module, installed_plugins
from lva.host.plugin_modules import PACKAGE, LoadsPlugins, is_plugin_module, modules_of
from lva.logs.loggers import brief
from lva.settings.trust import untrusted

PLUGIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_SOURCE: Final = 10 * 1024 * 1024
#: The names of all modules that finders have executed in this process.
_executed: Final[set[str]] = set()


class PluginFileError(Exception):
    """One plugin cannot be used.

    Args:
        *problems: What is wrong, for people.
    """

    def __init__(self, *problems: PluginProblem | str) -> None:
        self.problems: list[PluginProblem] = [
            PluginProblem(item) if isinstance(item, str) else item for item in problems
        ]
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True, slots=True)
class PluginLocation:
    """Where a plugin was found.

    Attributes:
        path: Its file.
        directory: What the file must not lead out of.
        module: The name that it is imported under.
        distribution: The installed package that brings it, with its version; None for a plugin directory.
        original: Of a second instance, the name that the plugin itself is imported under.
    """

    path: Path
    directory: Path
    module: str
    distribution: str | None = None
    original: str | None = None

    def __str__(self) -> str:
        shown = str(self.path)
        if self.distribution is not None:
            shown += f" of the installed package {self.distribution}"
        return f"{shown} (by `from`)" if self.original is not None else shown


class PluginFinder(MetaPathFinder, Loader, LoadsPlugins):
    """Imports plugins from the plugin directories and installed packages, after checking each file.

    Args:
        directories: Searched in order; the shipped ones come last.
        strict: Whether a file that others may write is refused; otherwise it is only reported.
        installed: What installed packages bring along; looked for at the first need if left out.
        instances: Second instances of plugins: for the name of each, the name of the plugin.

    Attributes:
        digests: The SHA-256 of each module's source, by the module's name.
        warnings: What was let pass because `strict` is off.
    """

    def __init__(
        self,
        directories: Sequence[Path],
        strict: bool = True,
        installed: Sequence[InstalledPlugin] | None = None,
        instances: Mapping[str, str] | None = None,
    ) -> None:
        self._directories = list(dict.fromkeys(directories))
        self._strict = strict
        self._installed = installed
        self._instances = dict(instances or {})
        self._packages: dict[str, Path] = {}
        # By the module of each second instance, the one whose source it shares.
        self._originals: dict[str, str] = {}
        self.digests: dict[str, str] = {}
        self.warnings: list[str] = []

    def install(self) -> None:
        """Make this the one finder of plugin modules, forgetting those an earlier one imported."""
        sys.meta_path[:] = [item for item in sys.meta_path if not isinstance(item, PluginFinder)]
        # By their names first: there are more than a thousand others to look at.
        for name, module in [*sys.modules.items()]:
            if (name in _executed or name.startswith(PACKAGE)) and _is_ours(module):
                sys.modules.pop(name, None)
        root = ModuleType(PACKAGE, "Plugins that the service loaded; see lva.host.loading.finder.")
        root.__path__ = []
        sys.modules[PACKAGE] = root
        # Before Python's own, which would find a package's modules, and installed ones, unchecked.
        sys.meta_path.insert(0, self)

    @property
    def installed(self) -> Sequence[InstalledPlugin]:
        """What installed packages bring along."""
        if self._installed is None:
            self._installed = installed_plugins()
        return self._installed

    def available(self) -> set[str]:
        """Return the names for which there is a file, a package or an entry point."""
        found = {plugin.name for plugin in self.installed if PLUGIN_NAME.fullmatch(plugin.name)}
        found |= self._instances.keys()
        for directory in self._directories:
            if directory.is_dir():
                found |= {
                    path.stem for path in directory.glob("*.py") if PLUGIN_NAME.fullmatch(path.stem)
                }
                found |= {path.parent.name for path in directory.glob("*/__init__.py")}
        return found - {"__init__", "__main__"}

    def locate(self, name: str) -> PluginLocation:
        """Return where the plugin is.

        Raises:
            PluginFileError: There is none, or more than one.
        """
        candidates = self.places(name)
        if not candidates:
            source = self._instances.get(name)
            why = self._not_found(name) if source is None else self._no_original(source)
            raise PluginFileError(PluginProblem(why, code="name"))
        if len(candidates) > 1:
            both = " and ".join(map(str, candidates))
            todo = "rename or remove one of them"
            if any(place.original is not None for place in candidates):
                todo = "give the second instance a name that no plugin has"
            elif any(place.distribution is not None for place in candidates):
                todo = "rename the file, or uninstall the package"
            raise PluginFileError(PluginProblem(f"found twice: {both}; {todo}", code="name"))
        return candidates[0]

    def places(self, name: str) -> list[PluginLocation]:
        """Return everything of that name: files, packages, entry points, and the second instance of a plugin.

        Raises:
            PluginFileError: An entry point of that name is broken.
        """
        source = self._instances.get(name)
        copies = () if source is None else self._places(source)
        return [*self._places(name), *(_instance(name, place) for place in copies)]

    def _places(self, name: str) -> list[PluginLocation]:
        places = [
            PluginLocation(path, directory, f"{PACKAGE}.{name}")
            for directory in self._directories
            for path in (directory / f"{name}.py", directory / name / "__init__.py")
            if os.path.lexists(path)
        ]
        for plugin in self.installed:
            if plugin.name == name:
                found = find(plugin)
                if isinstance(found, PluginProblem):
                    raise PluginFileError(found)
                places.append(PluginLocation(*found, plugin.value, plugin.distribution))
        return _without_doubles(places)

    def refusal(self, place: PluginLocation) -> PluginProblem | None:
        """Return why the plugin's file is refused, if it is, without running it."""
        try:
            self._read(place.path, place.directory)
        except PluginFileError as error:
            return error.problems[0]
        return None

    def load(self, place: PluginLocation) -> None:
        """Import a plugin's module, with all that it imports of its own package, after checks.

        Raises:
            PluginFileError: A file is refused, or is not Python.
            BaseException: Whatever the module raises.
        """
        if place.original is not None:
            self._originals[place.module] = place.original
        if place.distribution is not None:
            self._packages[(place.original or place.module).partition(".")[0]] = place.directory
            self._forget(place.module)
        importlib.import_module(place.module)

    def _forget(self, module: str) -> None:
        """Forget a module of an installed package that was imported before without checks."""
        for name, found in modules_of(module).items():
            if not _is_ours(found):
                del sys.modules[name]

    def _not_found(self, name: str) -> str:
        for directory in self._directories:
            if (package := directory / name).is_dir():
                return f"no such plugin: {package} has no __init__.py, which makes it a package"
        places = ", ".join(map(str, self._directories))
        return f"no such plugin in {places}{hint(name, self.available())}"

    def _no_original(self, source: str) -> str:
        if source in self._instances:
            return f"from = {source!r} is a second instance itself; name the plugin that it is made from"
        return f"from = {source!r}: {self._not_found(source)}"

    def _original(self, module: str) -> str:
        """Return the module whose source a module of a second instance shares; any other as it is."""
        for instance, original in self._originals.items():
            if module == instance or module.startswith(f"{instance}."):
                return original + module.removeprefix(instance)
        return module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        original = self._original(fullname)
        package, _, rest = original.partition(".")
        if package in self._packages:
            spec = find_module(original, path)
            if spec is not None:
                spec.name, spec.loader = fullname, self
                spec.loader_state = self._packages[package]
            return spec
        if package != PACKAGE or not rest:
            return None
        below = rest.replace(".", "/")
        specs = (self._spec_in(directory, below, fullname) for directory in self._directories)
        return next(filter(None, specs), None)

    def _spec_in(self, directory: Path, below: str, fullname: str) -> ModuleSpec | None:
        """Return what a module is made from in a directory of plugins, if it is there."""
        base = f"{directory}/{below}"
        if os.path.lexists(package := f"{base}/__init__.py"):
            spec = ModuleSpec(fullname, self, origin=package, loader_state=directory)
            spec.submodule_search_locations = [base]
        elif os.path.lexists(file := f"{base}.py"):
            spec = ModuleSpec(fullname, self, origin=file, loader_state=directory)
        else:
            return None
        spec.has_location = True
        return spec

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin)
        source = self._read(path, spec.loader_state)
        self.digests[module.__name__] = hashlib.sha256(source).hexdigest()
        try:
            code = _compiled(source, str(path))
        except SyntaxError as error:
            text = f"\n    {error.text.strip()}" if error.text else ""
            problem = PluginProblem(f"{error.msg}{text}", path, error.lineno or None, "syntax")
            raise PluginFileError(problem) from error
        except (ValueError, RecursionError, MemoryError) as error:
            problem = PluginProblem(f"not Python source: {brief(error)}", path, code="syntax")
            raise PluginFileError(problem) from error
        _executed.add(module.__name__)
        exec(code, module.__dict__)  # noqa: S102 - running plugin files is what a plugin host does

    def _read(self, path: Path, directory: Path) -> bytes:
        """Check the file and everything from it up to its plugin directory, and read it once.

        The file is opened first, so that what is checked is what is read.
        """
        try:
            real, top = _real_paths(path, directory)
            if not real.is_relative_to(top):
                link = f"is a link to {real}, outside {directory}; copy the file here instead"
                raise PluginFileError(PluginProblem(link, path))
            with open(real, "rb", opener=_open_itself) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise PluginFileError(PluginProblem("is not a regular file", path))
                self._check_trust(real, status, top)
                if status.st_size > _MAX_SOURCE:
                    raise PluginFileError(
                        PluginProblem(f"too large for a plugin ({status.st_size} bytes)", path)
                    )
                return file.read()
        except OSError as error:
            raise PluginFileError(
                PluginProblem(f"cannot be read: {error.strerror}", path)
            ) from error

    def _check_trust(self, real: Path, status: os.stat_result, top: Path) -> None:
        """Refuse a file that others than its owner can change, or put another in place of."""
        if (why := untrusted(real, status)) is not None:
            self._refuse(PluginProblem(why, real, code="trust"))
        for step in _up_to(real, top):
            if (why := untrusted(step)) is not None:
                self._refuse(PluginProblem(why, step, code="trust"))

    def _refuse(self, why: PluginProblem) -> None:
        if self._strict:
            raise PluginFileError(why)
        if str(why) not in self.warnings:
            self.warnings.append(str(why))


def _open_itself(path: str, flags: int) -> int:
    """Open a file that is no link, and wait for nobody: a pipe may have no writer."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


@lru_cache(maxsize=8)
def _compiled(source: bytes, path: str) -> CodeType:
    """Return a file's code: `lva.testing` loads one file over and over, and a tenth of that was this."""
    return compile(source, path, "exec", dont_inherit=True)


def _without_doubles(places: Sequence[PluginLocation]) -> list[PluginLocation]:
    """Return the places, without files of plugin directories that are reached by another way too.

    What an installed package brings stays: by its name, other code imports it.
    """
    seen = {_identity(place.path) for place in places if place.distribution is not None}
    kept = []
    for place in places:
        identity = _identity(place.path)
        if place.distribution is not None or identity not in seen:
            kept.append(place)
            seen.add(identity)
    return kept


def _identity(path: Path) -> object:
    """Return what two paths of one file have in common."""
    try:
        status = path.stat()
    except OSError:
        return path
    return (status.st_dev, status.st_ino)


def _instance(name: str, place: PluginLocation) -> PluginLocation:
    """Return the place of a second instance of a plugin: the same file as a module of its own."""
    package = place.module.rpartition(".")[0]
    module = f"{place.module}_as_{name}" if place.distribution else f"{package}.{name}"
    return replace(place, module=module, original=place.module)


def _real_paths(path: Path, directory: Path) -> tuple[Path, Path]:
    """Return where a file and its plugin directory really are.

    What is no link, and stands in the directory itself, cannot lead out of it.
    """
    if path.parent == directory and not path.is_symlink():
        return path, directory
    # A loop of links is an `OSError` here, and not in `Path.resolve` of every Python.
    return Path(os.path.realpath(path, strict=True)), Path(os.path.realpath(directory, strict=True))


def _up_to(path: Path, directory: Path) -> Iterator[Path]:
    """Yield the directories above a path, up to and with the given one."""
    while path != directory:
        path = path.parent
        yield path


def _is_ours(module: object) -> bool:
    """Return whether something in `sys.modules` is a module of a plugin; there may be anything in it."""
    return isinstance(module, ModuleType) and is_plugin_module(vars(module))
