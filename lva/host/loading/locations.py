"""Where a plugin was found: in a plugin directory, or in an installed package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path


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


def without_doubles(places: Sequence[PluginLocation]) -> list[PluginLocation]:
    """Return the places, without files of plugin directories that are reached by another way too.

    What an installed package brings stays: by its name, other code imports it.
    """
    if len(places) < 2:
        return list(places)
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


def second_instance(name: str, place: PluginLocation) -> PluginLocation:
    """Return the place of a second instance of a plugin: the same file as a module of its own."""
    package = place.module.rpartition(".")[0]
    module = f"{place.module}_as_{name}" if place.distribution else f"{package}.{name}"
    return replace(place, module=module, original=place.module)
