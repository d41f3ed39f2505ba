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
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final

from lva.errors import Problem, hint
from lva.host.loading.installed import InstalledPlugin, find, find_module, installed_plugins
from lva.host.loading.locations import PluginLocation, second_instance, without_doubles
from lva.host.loading.source import PluginFileError, read_checked
from lva.host.plugin_modules import PACKAGE, LoadsPlugins, is_plugin_module
from lva.logs import brief

PLUGIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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
        for name, module in list(sys.modules.items()):
            if _is_ours(module):
                del sys.modules[name]
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
            raise PluginFileError(Problem(why, code="name"))
        if len(candidates) > 1:
            both = " and ".join(map(str, candidates))
            todo = "rename or remove one of them"
            if any(place.original is not None for place in candidates):
                todo = "give the second instance a name that no plugin has"
            elif any(place.distribution is not None for place in candidates):
                todo = "rename the file, or uninstall the package"
            raise PluginFileError(Problem(f"found twice: {both}; {todo}", code="name"))
        return candidates[0]

    def places(self, name: str) -> list[PluginLocation]:
        """Return everything of that name: files, packages, entry points, and the second instance of a plugin.

        Raises:
            PluginFileError: An entry point of that name is broken.
        """
        source = self._instances.get(name)
        copies = () if source is None else self._places(source)
        return [*self._places(name), *(second_instance(name, place) for place in copies)]

    def _places(self, name: str) -> list[PluginLocation]:
        places = [
            PluginLocation(Path(path), directory, f"{PACKAGE}.{name}")
            for directory in self._directories
            for path in (f"{directory}/{name}.py", f"{directory}/{name}/__init__.py")
            if os.path.lexists(path)  # of a string, since most are not there
        ]
        for plugin in self.installed:
            if plugin.name == name:
                found = find(plugin)
                if isinstance(found, Problem):
                    raise PluginFileError(found)
                places.append(PluginLocation(*found, plugin.value, plugin.distribution))
        return without_doubles(places)

    def refusal(self, place: PluginLocation) -> Problem | None:
        """Return why the plugin's file is refused, if it is, without running it."""
        try:
            read_checked(place.path, place.directory, self._refuse)
        except PluginFileError as error:
            return error.problems[0]
        return None

    def load(self, place: PluginLocation) -> ModuleType:
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
        return importlib.import_module(place.module)

    def _forget(self, module: str) -> None:
        """Forget a module of an installed package that was imported before without checks."""
        for name in [key for key in sys.modules if f"{key}.".startswith(f"{module}.")]:
            if not _is_ours(sys.modules[name]):
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
        for directory in self._directories:
            base = f"{directory}/{below}"
            for file, is_package in ((f"{base}/__init__.py", True), (f"{base}.py", False)):
                if os.path.lexists(file):
                    spec = ModuleSpec(
                        fullname, self, origin=file, is_package=is_package, loader_state=directory
                    )
                    spec.has_location = True
                    if is_package:
                        spec.submodule_search_locations = [base]
                    return spec
        return None

    def create_module(self, spec: ModuleSpec) -> None:
        """Let the import system make the module."""

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin)
        source = read_checked(path, spec.loader_state, self._refuse)
        self.digests[module.__name__] = hashlib.sha256(source).hexdigest()
        try:
            code = compile(source, str(path), "exec", dont_inherit=True)
        except SyntaxError as error:
            text = f"\n    {error.text.strip()}" if error.text else ""
            problem = Problem(f"{error.msg}{text}", path, error.lineno or None, "syntax")
            raise PluginFileError(problem) from error
        except (ValueError, RecursionError, MemoryError) as error:
            problem = Problem(f"not Python source: {brief(error)}", path, code="syntax")
            raise PluginFileError(problem) from error
        exec(code, module.__dict__)  # noqa: S102 - running plugin files is what a plugin host does

    def _refuse(self, why: Problem) -> None:
        if self._strict:
            raise PluginFileError(why)
        if str(why) not in self.warnings:
            self.warnings.append(str(why))


def _is_ours(module: object) -> bool:
    """Return whether something in `sys.modules` is a module of a plugin; there may be anything in it."""
    return isinstance(module, ModuleType) and is_plugin_module(vars(module))


def plugin_line(error: BaseException) -> traceback.FrameSummary | None:
    """Return the innermost line of plugin code that an error came through, if any."""
    trace = error.__traceback__
    frames = zip(traceback.walk_tb(trace), traceback.extract_tb(trace), strict=True)
    lines = [line for (frame, _), line in frames if is_plugin_module(frame.f_globals)]
    return lines[-1] if lines else None
