"""Lines of a plugin's own code."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from lva.host.plugin_modules import plugin_entry
from lva.stacks import callers, frames_of_coroutine


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
    return next(_places(callers(frame), root), None)


def coroutine_place(coro: Any, root: str) -> Place | None:
    """Return the innermost line of a plugin at which a suspended coroutine waits."""
    return next(iter([*_places(frames_of_coroutine(coro), root)][::-1]), None)


def _places(frames: Iterable[FrameType], root: str) -> Iterator[Place]:
    """Yield the lines of a plugin among these frames."""
    for frame in frames:
        code = frame.f_code
        if code.co_filename.startswith(root):
            yield Place(code.co_filename, frame.f_lineno, code.co_name)


def error_place(error: BaseException) -> Place | None:
    """Return the innermost line of plugin code that an error came through."""
    if (entry := plugin_entry(error)) is not None:
        code = entry.tb_frame.f_code
        return Place(code.co_filename, entry.tb_lineno, code.co_name)
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
