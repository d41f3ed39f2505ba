"""The analytics class of a file that was imported, and whether it is complete."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from lva.contract import BaseAnalyticsPlugin
from lva.errors import Problem, hint, listing
from lva.host.loading.classes import defined
from lva.host.loading.configuration import PluginClass, place_of
from lva.host.loading.finder import PluginFileError


def analytics_class(
    own: Sequence[ModuleType],
    path: Path,
    others: Sequence[PluginClass],
    problems: list[Problem],
) -> type[BaseAnalyticsPlugin] | None:
    """Return the analytics class that these modules define; None if they define none.

    Args:
        own: A plugin's modules.
        path: Its file.
        others: The classes of other kinds that they define; beside an analytics class there may be none.
        problems: Gets what is wrong, also that there is no plugin class at all.
    """
    found: list[type[BaseAnalyticsPlugin]] = defined(own, BaseAnalyticsPlugin)
    if not found:
        if not others and not problems:
            why = (
                "no plugin class in it; define a class derived from BaseEventPlugin, BaseBackgroundPlugin or"
                " BaseAnalyticsPlugin in this very file"
            )
            problems.append(Problem(why, path, code="class"))
        return None
    if len(found) + len(others) > 1:
        names = listing(cls.__name__ for cls in [*found, *others])
        why = f"{names} are in one file; an analytics plugin has a file of its own, whose name streams use"
        problems.append(Problem(why, path, code="class"))
    for cls in found:
        problems += _problems(cls, path)
    return found[0]


def _problems(cls: type[BaseAnalyticsPlugin], path: Path) -> Iterator[Problem]:
    if inspect.isabstract(cls):
        why = f"class {cls.__name__} does not define handleFrame(), which its base class requires"
        yield Problem(why, *place_of(cls, path), "abstract")
    for name in ("open", "handleFrame", "close"):
        method = inspect.unwrap(getattr(cls, name))
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            why = (
                f"{cls.__name__}.{name}() is async; write `def {name}`: methods of analytics plugins run"
                " in the stream's own process and may block"
            )
            yield Problem(why, *place_of(cls, path), "not-async")


def check_defaults(
    name: str, cls: type[BaseAnalyticsPlugin], defaults: Mapping[str, Any], path: Path
) -> None:
    """Refuse keys of a plugin's table that the class does not have; what it leaves out, streams may set.

    Raises:
        PluginFileError: There is such a key.
    """
    known = None if cls.Config is None else cls.Config.model_fields
    for key in defaults:
        if known is not None and key not in known:
            why = f"plugins.{name}.config.{key}: unknown key{hint(key, known)}"
            raise PluginFileError(Problem(why, path, code="config"))
