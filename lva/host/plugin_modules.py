"""Which modules are plugins'."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType, TracebackType
from typing import Any, Final

from lva.stacks import entries_of

#: The package that plugin modules are imported under.
PACKAGE: Final = "lva_plugins"


class LoadsPlugins:
    """Base of the loader of plugin modules, by which they are known."""


def is_plugin_module(namespace: Mapping[str, Any]) -> bool:
    """Return whether a module's namespace is that of a plugin file, or of a file it imports as its own."""
    if isinstance(namespace.get("__loader__"), LoadsPlugins):
        return True
    name = namespace.get("__name__")
    # Not every name is split: there are more than a thousand modules in a service.
    return isinstance(name, str) and name.startswith(PACKAGE) and name.split(".")[0] == PACKAGE


def package_of(module: str) -> str:
    """Return what the names of a plugin's modules begin with, by that of the one that has its class."""
    package, _, rest = module.partition(".")
    return f"{package}.{rest.partition('.')[0]}" if package == PACKAGE else module


def modules_of(name: str) -> dict[str, ModuleType]:
    """Return the module of this name, if it is there, and those below it, by their names."""
    below = f"{name}."
    return {
        key: module
        for key, module in [*sys.modules.items()]
        if key == name or key.startswith(below)
    }


def plugin_entry(error: BaseException) -> TracebackType | None:
    """Return the innermost entry of an error's traceback that is in code of a plugin, if any."""
    entries = entries_of(error.__traceback__)
    own = [entry for entry in entries if is_plugin_module(entry.tb_frame.f_globals)]
    return own[-1] if own else None
