"""The analytics class of a file that was imported, and whether it is complete."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lva.check.analytics import ANALYTICS_METHODS, async_text
from lva.contract import BaseAnalyticsPlugin
from lva.errors import PluginProblem, listing
from lva.host.loading.configuration import PluginClass, place_of


def analytics_class(
    own: Iterable[type],
    path: Path,
    others: Sequence[PluginClass],
    problems: list[PluginProblem],
) -> type[BaseAnalyticsPlugin] | None:
    """Return which of a plugin's own classes is an analytics class; None if none is.

    Args:
        own: The classes that its modules define.
        path: Its file.
        others: The classes of other kinds among them; beside an analytics class there may be none.
        problems: Gets what is wrong, also that there is no plugin class at all.
    """
    found = [cls for cls in own if issubclass(cls, BaseAnalyticsPlugin)]
    if not found:
        if not others and not problems:
            why = (
                "no plugin class in it; define a class derived from BaseEventPlugin, BaseBackgroundPlugin or"
                " BaseAnalyticsPlugin in this very file"
            )
            problems.append(PluginProblem(why, path, code="class"))
        return None
    found = [cls for cls in found if not any(cls in other.__mro__[1:] for other in found)]
    if len(found) + len(others) > 1:
        names = listing(cls.__name__ for cls in [*found, *others])
        why = f"{names} are in one file; an analytics plugin has a file of its own, whose name streams use"
        problems.append(PluginProblem(why, path, code="class"))
    for cls in found:
        problems += _problems(cls, path)
    return found[0]


def _problems(cls: type[BaseAnalyticsPlugin], path: Path) -> Iterator[PluginProblem]:
    if inspect.isabstract(cls):
        why = f"class {cls.__name__} does not define handleFrame(), which its base class requires"
        yield PluginProblem(why, *place_of(cls, path), "abstract")
    for name in ANALYTICS_METHODS:
        method = inspect.unwrap(getattr(cls, name))
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            code = getattr(method, "__code__", None)
            file, line = place_of(cls, path)
            if code is not None:
                file, line = Path(code.co_filename), code.co_firstlineno
            yield PluginProblem(async_text(f"{cls.__name__}.{name}", name), file, line, "async")
