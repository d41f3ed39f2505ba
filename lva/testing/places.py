"""Lines of a plugin's own code."""

from __future__ import annotations

import linecache
import traceback
from dataclasses import dataclass
from types import FrameType
from typing import Any

from lva.host.plugin_modules import is_plugin_module


@dataclass(frozen=True, slots=True)
class Place:
    """A line of code.

    Attributes:
        file: The file's path.
        line: Its number, from 1.
        function: What it is in, if that is known.
    """

    file: str
    line: int
    function: str = ""

    @property
    def code(self) -> str:
        """The line itself, without its indentation."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}"
        return f"{where} in {self.function}" if self.function else where


def frame_place(frame: FrameType | None, root: str) -> Place | None:
    """Return the innermost line of a plugin on a stack.

    Args:
        frame: The innermost frame.
        root: What the names of the plugin's files begin with.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith(root):
            return Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return None


def coroutine_place(coro: Any, root: str) -> Place | None:
    """Return the innermost line of a plugin at which a suspended coroutine waits."""
    place = None
    while coro is not None:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None)
        frame = frame or getattr(coro, "ag_frame", None)
        if frame is not None and frame.f_code.co_filename.startswith(root):
            place = Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        coro = (
            getattr(coro, "cr_await", None)
            or getattr(coro, "gi_yieldfrom", None)
            or getattr(coro, "ag_await", None)
        )
    return place


def error_place(error: BaseException) -> Place | None:
    """Return the innermost line of plugin code that an error came through."""
    places = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        if is_plugin_module(frame.f_globals):
            places.append(Place(frame.f_code.co_filename, line, frame.f_code.co_name))
    if places:
        return places[-1]
    causes = list(error.exceptions) if isinstance(error, BaseExceptionGroup) else []
    for cause in (*causes, error.__cause__, error.__context__):
        if cause is not None and (place := error_place(cause)) is not None:
            return place
    return None


def parsed_place(text: str, root: str) -> Place | None:
    """Return the first line of a plugin that a text names as ``file:line in function``."""
    start = text.find(root)
    if start < 0:
        return None
    place, _, rest = text[start:].partition(" in ")
    file, _, line = place.split(" ")[0].split(",")[0].rstrip(");").rpartition(":")
    function = rest.split(" ")[0].rstrip(",;)")
    return Place(file, int(line), function) if line.isdigit() else None
