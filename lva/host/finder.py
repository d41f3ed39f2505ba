"""Finding plugin files, and importing them under checks.

Plugin modules live under the synthetic package `lva_plugins`, so that relative imports between plugin
files work and pass through the same checks, and `sys.path` stays as it is.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final

from lva.errors import hint
from lva.logs import brief
from lva.trust import untrusted

#: The package that plugin modules are imported under.
PACKAGE: Final = "lva_plugins"
PLUGIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_SOURCE: Final = 10 * 1024 * 1024


class PluginFileError(Exception):
    """One plugin file cannot be used; the message is for people."""


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
        root = ModuleType(PACKAGE, "Plugins that the service loaded; see lva.host.finder.")
        root.__path__ = []
        sys.modules[PACKAGE] = root
        sys.meta_path.insert(0, self)  # or Python's own would find a package's modules, unchecked

    def available(self) -> set[str]:
        """Return the names for which there is a file or package in one of the directories."""
        found = set()
        for directory in self._directories:
            if directory.is_dir():
                found |= {
                    path.stem for path in directory.glob("*.py") if PLUGIN_NAME.fullmatch(path.stem)
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
            if os.path.lexists(path)
        ]
        if not candidates:
            raise PluginFileError(self._not_found(name))
        if len(candidates) > 1:
            both = " and ".join(map(str, candidates))
            raise PluginFileError(f"found twice: {both}; rename or remove one of them")
        return candidates[0]

    def _not_found(self, name: str) -> str:
        for directory in self._directories:
            if (package := directory / name).is_dir():
                return f"no such plugin: {package} has no __init__.py, which makes it a package"
        places = ", ".join(map(str, self._directories))
        return f"no such plugin in {places}{hint(name, self.available(), 'found')}"

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
                if os.path.lexists(file):
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
        except SyntaxError as error:
            line = f":{error.lineno}" if error.lineno else ""
            text = f"\n    {error.text.strip()}" if error.text else ""
            raise PluginFileError(f"{path}{line}: {error.msg}{text}") from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise PluginFileError(f"{path}: not Python source: {brief(error)}") from error
        exec(code, module.__dict__)  # noqa: S102 - running plugin files is what a plugin host does

    def _read(self, path: Path, directory: Path) -> bytes:
        """Check the file and everything from it up to its plugin directory, and read it once.

        The file is opened first, so that what is checked is what is read.
        """
        try:
            real, top = path.resolve(strict=True), directory.resolve(strict=True)
            if not real.is_relative_to(top):
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
                for step in _up_to(real, top):
                    if (why := untrusted(step)) is not None:
                        self._refuse(f"{step}: {why}")
                if status.st_size > _MAX_SOURCE:
                    raise PluginFileError(
                        f"{path}: too large for a plugin ({status.st_size} bytes)"
                    )
                return file.read()
        except RuntimeError as error:  # a loop of symlinks, before Python 3.13
            why = os.strerror(errno.ELOOP)
            raise PluginFileError(f"{path}: cannot be read: {why}") from error
        except OSError as error:
            raise PluginFileError(f"{path}: cannot be read: {error.strerror}") from error

    def _refuse(self, why: str) -> None:
        if self._strict:
            raise PluginFileError(why)
        if why not in self.warnings:
            self.warnings.append(why)


def _up_to(path: Path, directory: Path) -> Iterator[Path]:
    """Yield the directories above a path, up to and with the given one."""
    for parent in path.parents:
        yield parent
        if parent == directory:
            return


def plugin_line(error: BaseException) -> traceback.FrameSummary | None:
    """Return the innermost line of plugin code that an error came through, if any."""
    trace = error.__traceback__
    frames = zip(traceback.walk_tb(trace), traceback.extract_tb(trace), strict=True)
    lines = [
        line
        for (frame, _), line in frames
        if str(frame.f_globals.get("__name__")).startswith(f"{PACKAGE}.")
    ]
    return lines[-1] if lines else None
