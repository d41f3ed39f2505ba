"""What a thread is doing, and which plugin's code that is."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

import trio

from lva.stacks import callers

#: Trio's own function that runs one step after the other: what is below it is no task's.
_LOOP: Final = (str(Path(trio.__file__).parent / "_core" / "_run.py"), "unrolled_run")
#: The module whose code the interpreter runs in between, which is no part of what is going on.
_MEANWHILE: Final = "lva.host.watch.alarm"
#: How many lines of a stack are kept: the innermost.
_MOST_LINES: Final = 40


class Line(NamedTuple):
    """One line of a stack.

    Attributes:
        plugin: Whose file it is in, if it is a plugin's.
    """

    file: str
    number: int
    function: str
    plugin: str | None

    def __str__(self) -> str:
        return f"{self.file}:{self.number} in {self.function}"


def stack_of(frame: FrameType | None, modules: Mapping[str, str]) -> list[Line]:
    """Return the lines of a task's step, or of a whole thread; the innermost first.

    Args:
        frame: The innermost frame.
        modules: The plugins' names, by that of their module or package.
    """
    return [
        Line(
            frame.f_code.co_filename,
            frame.f_lineno or 0,
            frame.f_code.co_name,
            _plugin_of(frame, modules),
        )
        for frame in islice(_frames(frame), _MOST_LINES)
    ]


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    for each in callers(frame):
        if (each.f_code.co_filename, each.f_code.co_name) == _LOOP:
            return
        if each.f_globals.get("__name__") != _MEANWHILE:
            yield each


def _plugin_of(frame: FrameType, modules: Mapping[str, str]) -> str | None:
    module = str(frame.f_globals.get("__name__"))
    while module and module not in modules:
        module = module.rpartition(".")[0]
    return modules.get(module)


def owner_of(named: str | None, stack: Sequence[Line], plugins: Container[str]) -> str | None:
    """Return the plugin that a step belongs to; None if it is the service's own.

    Args:
        named: The plugin that is named in the task's context. It is the plugin's step, also while that is
            in a library, or in the service's code on the plugin's behalf.
        stack: What it is doing. Without a name, it belongs to the plugin of the innermost line that is in
            a plugin's file.
        plugins: Those there are.
    """
    if named in plugins:
        return named
    return next((line.plugin for line in stack if line.plugin in plugins), None)


def without_callers(stack: Sequence[Line], plugin: str | None) -> Sequence[Line]:
    """Cut off what called the plugin, if the plugin's own code is in it."""
    outermost = max((at for at, line in enumerate(stack) if line.plugin == plugin), default=-1)
    return stack if plugin is None or outermost < 0 else stack[: outermost + 1]


def formatted(stack: Sequence[Line]) -> str:
    """Return a stack with its lines of source, in the form of a traceback: the innermost last."""
    for file in {line.file for line in stack}:
        linecache.checkcache(file)
    lines = [(line.file, line.number, line.function, None) for line in reversed(stack)]
    return "".join(("Stack (most recent call last):\n", *traceback.format_list(lines))).rstrip()
