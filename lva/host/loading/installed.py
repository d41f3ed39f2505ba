"""Plugins that installed packages bring along, by their entry points of the group `lva.plugins`.

    [project.entry-points."lva.plugins"]
    doorbell = "acme_lva.doorbell"

The module keeps its real name, so that imports within its package work as everywhere. Looking for a plugin
runs no code of the package.
"""

from __future__ import annotations

import configparser
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import Final

from lva.errors import PluginProblem
from lva.logs.loggers import service_logger

LOGGER: Final = service_logger("lva.service")
#: The entry-point group.
GROUP: Final = "lva.plugins"


@dataclass(frozen=True, slots=True)
class InstalledPlugin:
    """One entry point.

    Attributes:
        name: The plugin's name, as in `ACTIVE_PLUGINS`.
        value: The module, by its full name, if the entry is well-formed.
        distribution: Who brings it: the distribution's name and version.
    """

    name: str
    value: str
    distribution: str


def installed_plugins() -> list[InstalledPlugin]:
    """Return all entry points of the group, the malformed ones too, in the order of `sys.path`."""
    found: dict[InstalledPlugin, None] = {}
    for distribution in distributions():
        for entry in _entries(distribution):
            whose = f"{distribution.name} {distribution.version}"
            found[InstalledPlugin(entry.name, entry.value, whose)] = None
    return list(found)


def find(plugin: InstalledPlugin) -> tuple[Path, Path] | PluginProblem:
    """Return the module's file and the directory that its top-level package is in, or what is wrong.

    Nothing is imported.
    """
    where = f"the entry point {plugin.name!r} of the installed package {plugin.distribution}"
    parts = plugin.value.split(".")
    if not all(part.isidentifier() for part in parts):
        return PluginProblem(
            f"{where} is {plugin.value!r}; it must name a module, as in 'acme_lva.doorbell',"
            " without a class: the classes are found in it",
            code="entry-point",
        )
    spec = _top(parts[0])
    name = parts[0]
    for part in parts[1:]:
        if spec is None or spec.submodule_search_locations is None:
            break
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    if spec is None or name != plugin.value:
        return PluginProblem(
            f"{where} names the module {plugin.value!r}, which does not exist; reinstall the package",
            code="entry-point",
        )
    if spec.origin is None or not spec.origin.endswith(".py"):
        return PluginProblem(
            f"{where} names {plugin.value!r}, which is no Python source file", code="entry-point"
        )
    file = Path(spec.origin)
    depth = len(parts) + (file.name == "__init__.py")
    return file, file.parents[depth - 1]


def find_module(fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """Return the spec of a source module of a plugin's package, as Python itself would find it."""
    spec = _top(fullname) if path is None else PathFinder.find_spec(fullname, path)
    return spec if spec and spec.origin and spec.origin.endswith(".py") else None


def _top(name: str) -> ModuleSpec | None:
    """Return the spec of a top-level module, from any finder: editable installs bring their own."""
    for finder in sys.meta_path:
        if type(finder).__module__.partition(".")[0] == "lva":
            continue
        if hasattr(finder, "find_spec") and (spec := finder.find_spec(name, None)) is not None:
            return spec
    return None


def _entries(distribution: Distribution) -> Iterable[EntryPoint]:
    """Return the entry points of our group; those of a broken distribution are left out, and logged."""
    try:
        text = distribution.read_text("entry_points.txt")
        if not text or GROUP not in text:  # most have none: parsing them all takes long
            return []
        return distribution.entry_points.select(group=GROUP)
    except (OSError, ValueError, TypeError, AttributeError, configparser.Error) as error:
        LOGGER.warning("the entry points of %s cannot be read: %s", distribution.name, error)
        return []
