"""Where code on a plugin's own loop is, for messages: its lines, without the machinery's."""

from __future__ import annotations

import asyncio
import os
import selectors
import threading
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Final

from lva.host import HOST_DIR
from lva.stacks import callers, frames_of_threads, line_of

#: How many lines of a stack are shown.
_STACK_LINES: Final = 4
ASYNCIO_DIR: Final = f"{Path(asyncio.__file__).parent}{os.sep}"
#: Files whose frames say nothing about what a plugin is doing.
MACHINERY: Final = (
    ASYNCIO_DIR,
    f"{HOST_DIR}{os.sep}",
    selectors.__file__,
    threading.__file__,
)


def frames_of_thread(thread: threading.Thread) -> list[FrameType]:
    """Return the frames of another thread, the innermost last; none if it does not run."""
    return [*callers(frames_of_threads().get(thread.ident or 0))][::-1]


def place_of(thread: threading.Thread) -> str:
    """Say where another thread is."""
    return lines_of(frames_of_thread(thread))


def lines_of(frames: Iterable[FrameType]) -> str:
    """Say where code is: its innermost lines, innermost first, without asyncio's and the host's own."""
    frames = list(frames)
    own = [frame for frame in frames if not frame.f_code.co_filename.startswith(MACHINERY)]
    lines = [line_of(frame) for frame in own[-_STACK_LINES:] or frames[-1:]]
    return " < ".join(reversed(lines)) or "not started"
