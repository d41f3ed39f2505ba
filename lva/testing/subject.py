"""What is tested: a plugin's file, its name, or its text."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from lva.errors import ConfigurationError
from lva.host.loading.finder import PLUGIN_NAME
from lva.host.loading.installed import InstalledPlugin, installed_plugins
from lva.host.loading.load import LoadedPlugin, load_plugins
from lva.settings import Settings, explain

#: The name of a plugin that is given as text.
SOURCE_NAME: Final = "plugin_under_test"

Source = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Subject:
    """A plugin to test, and a directory for what it leaves.

    Attributes:
        shown: What messages call it.
        name: Its name, as in `ACTIVE_PLUGINS`.
        directories: Where it is looked for, besides where the shipped ones are.
        scratch: An empty directory.
        installed: The plugins of installed packages, which are looked for once.
    """

    shown: str
    name: str
    directories: tuple[Path, ...]
    scratch: Path
    installed: Sequence[InstalledPlugin] = field(default_factory=installed_plugins)

    def settings(
        self,
        config: Mapping[str, Any] | None,
        table: Mapping[str, Any] | None,
        service: Mapping[str, Any] | None = None,
    ) -> Settings:
        """Return settings under which the plugin runs alone, with a state directory of its own.

        Raises:
            ConfigurationError: They are wrong.
        """
        for number in itertools.count():
            state = self.scratch / f"state{number}"
            if not state.exists():
                break
        state.mkdir(mode=0o700)
        own = {**(table or {}), "config": {**(table or {}).get("config", {}), **(config or {})}}
        values = {
            "active_plugins": (self.name,),
            "plugins_dir": self.directories,
            "state_dir": state,
            # Whoever may change the file is for the service to check, where it is deployed.
            "plugin_file_check": "warn",
            "plugins": {self.name: own},
            **(service or {}),
        }
        try:
            return Settings.model_validate(values)
        except ValidationError as error:
            raise ConfigurationError([explain(item, ()) for item in error.errors()]) from error

    def load(self, settings: Settings) -> LoadedPlugin:
        """Load the plugin afresh: each time its modules are executed anew.

        Raises:
            ConfigurationError: It cannot be loaded.
        """
        importlib.invalidate_caches()
        (loaded,) = load_plugins(settings, self.installed)
        return loaded


@contextmanager
def subject_of(source: Source) -> Iterator[Subject]:
    """Find out what is to be tested.

    Args:
        source: A path, a name, or the text of a plugin, which is what has more than one line.

    Raises:
        FileNotFoundError: There is no such file.
    """
    finders, modules = list(sys.meta_path), dict(sys.modules)
    with tempfile.TemporaryDirectory(prefix="lva-testing-") as name:
        scratch = Path(name).resolve()
        try:
            yield _find(source, scratch)
        finally:
            sys.meta_path[:] = finders
            _restore(modules)


def _find(source: Source, scratch: Path) -> Subject:
    if isinstance(source, str) and "\n" in source:
        directory = scratch / "plugins"
        directory.mkdir()
        name = _free_name()
        (directory / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        return Subject("(source text)", name, (directory,), scratch)
    if isinstance(source, str) and PLUGIN_NAME.fullmatch(source):
        return Subject(source, source, (), scratch)
    path = Path(source).absolute()
    if path.name == "__init__.py":
        path = path.parent
    if not path.exists():
        raise FileNotFoundError(f"there is no plugin at {path}")
    return Subject(str(source), path.stem, (path.parent.resolve(),), scratch)


def _free_name() -> str:
    """Return a name for a plugin that is given as text; one of which no thread is left from before."""
    threads = [thread.name for thread in threading.enumerate()]
    for number in itertools.count(1):
        name = SOURCE_NAME if number == 1 else f"{SOURCE_NAME}_{number}"
        if not any(name in thread for thread in threads):
            break
    return name


def _restore(modules: Mapping[str, Any]) -> None:
    """Put back the plugin modules that were there before, and no others."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "lva_plugins"]:
        del sys.modules[name]
    sys.modules.update(
        {name: module for name, module in modules.items() if name.startswith("lva_plugins")}
    )
