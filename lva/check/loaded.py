"""What the source of loaded classes shows to fail for certain, so that the service does not start them.

The classes decide which functions the host would call; whether it can call them, the text tells, by the same
functions as for `lva check`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Final

from lva.check.analytics import (
    ANALYTICS_METHODS,
    analytics_constructor_problems,
    analytics_method_problems,
)
from lva.check.contract import (
    METHODS,
    constructor_problems,
    is_wrapped,
    method_problems,
    verb_problems,
)
from lva.check.source import Function, PluginSource
from lva.contract import (
    BaseAnalyticsPlugin,
    BaseBackgroundHandler,
    BaseBackgroundPlugin,
    BaseEventPlugin,
    Plugin,
)
from lva.errors import PluginProblem
from lva.host.routing import VERBS

_BASES: Final = {"": object, "event": BaseEventPlugin, "background": BaseBackgroundPlugin}


def loaded_problems(classes: Iterable[type], own: Iterable[type]) -> Iterator[PluginProblem]:
    """Yield what is wrong with the methods that the host would call.

    A plain `def` that must be a coroutine, a signature that cannot be called, an `__init__` that leaves out
    its base class's. Methods from elsewhere, decorated ones, and those without source are let pass.

    Args:
        classes: The plugin's concrete classes.
        own: All classes that its modules define; handler classes are looked at too.
    """
    classes = [*classes]
    suspects = [(function, name, _problems) for function, name in _of_plugins(classes)]
    suspects += [(function, name, _problems) for function, name in _of_handlers(own)]
    suspects += [(function, name, _analytics_problems) for function, name in _of_analytics(classes)]
    sources: dict[str, PluginSource | None] = {}
    for function, name, judge in dict.fromkeys(suspects):
        path = function.__code__.co_filename
        if path not in sources:
            sources[path] = _source(path)
        source = sources[path]
        if source is None or (inner := _in(source, function)) is None:
            continue
        for problem in judge(source, inner, name):
            if not source.ignores(problem.line, problem.code):
                yield problem


def _problems(source: PluginSource, function: Function, name: str) -> Iterator[PluginProblem]:
    """Yield what is wrong with a function that the host would call by this name."""
    if name in METHODS:
        return method_problems(source, function, name)
    judge = constructor_problems if name == "__init__" else verb_problems
    return judge(source, function)


def _analytics_problems(
    source: PluginSource, function: Function, name: str
) -> Iterator[PluginProblem]:
    """Yield what is wrong with a function that a worker would call by this name."""
    if name == "__init__":
        return analytics_constructor_problems(source, function)
    return analytics_method_problems(source, function, name)


def _of_analytics(classes: Iterable[type]) -> Iterator[tuple[FunctionType, str]]:
    calls = {**ANALYTICS_METHODS, "__init__": ("config", "logger")}
    for cls in classes:
        if not issubclass(cls, BaseAnalyticsPlugin):
            continue
        for name, given in calls.items():
            function, bound = _own(cls, name)
            if function is None:
                continue
            right = name != "__init__" or "__init__" in function.__code__.co_names
            right = right and not inspect.iscoroutinefunction(function)
            if not right or not _takes(function, bound + len(given)):
                yield function, name


def _of_plugins(classes: Iterable[type]) -> Iterator[tuple[FunctionType, str]]:
    for cls in classes:
        if not issubclass(cls, Plugin):
            continue
        for name, (given, kind) in METHODS.items():
            function, bound = _own(cls, name)
            if function is None or not issubclass(cls, _BASES[kind]):
                continue
            if not inspect.iscoroutinefunction(function) or not _takes(
                function, bound + len(given)
            ):
                yield function, name
        function, bound = _own(cls, "__init__")
        if function is not None:
            names = function.__code__.co_names
            right = "__init__" in names or "app" in names
            if not right or inspect.iscoroutinefunction(function) or not _takes(function, 2):
                yield function, "__init__"


def _of_handlers(classes: Iterable[type]) -> Iterator[tuple[FunctionType, str]]:
    for cls in classes:
        if not issubclass(cls, BaseBackgroundHandler):
            continue
        for name in map(str.lower, VERBS):
            function, bound = _own(cls, name)
            if function is not None and not _takes(function, bound + 1):
                yield function, name


def _own(cls: type, name: str) -> tuple[FunctionType | None, int]:
    """Return the function behind a method, unless it is the contract's own or no function at all.

    With it, how many arguments come before the caller's: none with a static method.
    """
    value = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
    bound = 0 if isinstance(value, staticmethod) else 1
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if not isinstance(value, FunctionType) or value.__module__.partition(".")[0] == "lva":
        return None, bound
    return value, bound


def _takes(function: FunctionType, count: int) -> bool:
    """Return whether a function can be called with so many arguments, by position."""
    code, optional = function.__code__, function.__defaults__ or ()
    named = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    enough = code.co_argcount - len(optional) <= count
    fits = count <= code.co_argcount or bool(code.co_flags & inspect.CO_VARARGS)
    return enough and fits and {*named} <= {*(function.__kwdefaults__ or ())}


def _source(path: str) -> PluginSource | None:
    try:
        return PluginSource(Path(path), Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # changed since it was imported, or nested too deeply: it shows when it runs


def _in(source: PluginSource, function: FunctionType) -> Function | None:
    code = function.__code__
    for inner in source.functions:
        first = min([inner.node.lineno, *(item.lineno for item in inner.node.decorator_list)])
        if inner.node.name == code.co_name and first == code.co_firstlineno:
            return None if inner.owner is None or is_wrapped(inner) else inner
    return None
