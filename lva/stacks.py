"""Walks over frames: of a thread, of a suspended coroutine, of a task, of an error."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import CoroutineType, FrameType, GeneratorType, TracebackType
from typing import Any


def frames_of_threads() -> dict[int, FrameType]:
    """Return the innermost frame of each thread but the one that calls, by `threading.get_ident()`."""
    frames = sys._current_frames()  # noqa: SLF001 - the documented way to see stacks
    # Or this very frame and they would keep one another alive, and all that others lead to.
    del frames[threading.get_ident()]
    return frames


def callers(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame and those that called it, the outermost last."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def frames_of_coroutine(coro: Any) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine or generator, the innermost last."""
    while coro is not None:
        if type(coro) is CoroutineType:  # most are
            frame, coro = coro.cr_frame, coro.cr_await
        elif type(coro) is GeneratorType:
            frame, coro = coro.gi_frame, coro.gi_yieldfrom
        else:
            frame, coro = getattr(coro, "ag_frame", None), getattr(coro, "ag_await", None)
        if frame is not None:
            yield frame


def entries_of(trace: TracebackType | None) -> Iterator[TracebackType]:
    """Yield the entries of a traceback; the last is where the error was raised."""
    while trace is not None:
        yield trace
        trace = trace.tb_next


def line_of(frame: FrameType) -> str:
    """Return where a frame is, as ``file:line in function``."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
