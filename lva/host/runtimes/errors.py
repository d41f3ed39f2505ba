"""What a plugin's code raised, apart from what the host and Trio have added to it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import Any, Final

import trio

from lva.host import HOST_DIR
from lva.logs.error_text import has_text
from lva.stacks import entries_of

_HOST_DIR: Final = str(HOST_DIR)


class NotAwaitableError(TypeError):
    """A method of the contract was written as a plain `def`."""


class OwnCancellationError(Exception):
    """The plugin's own code cancelled a method of the contract."""


def awaitable(what: str, result: Any) -> Awaitable[Any]:
    """Return what a method of the contract returned, which is to be awaited.

    Raises:
        NotAwaitableError: It returned something that cannot be awaited.
    """
    if not inspect.isawaitable(result):
        method = what.removesuffix("()")
        raise NotAwaitableError(
            f"{method}() returned {type(result).__name__}; write it as `async def`"
        )
    return result


def split_cancelled(
    error: BaseException,
) -> tuple[BaseException | None, BaseException | None]:
    """Split an error into Trio's cancellation and the plugin's own part; either may be None."""
    if isinstance(error, trio.Cancelled):
        return error, None
    if has_text(error):  # it was raised in a plugin's own thread, where there is no Trio
        return None, unwrap(error)
    if isinstance(error, BaseExceptionGroup):
        cancelled, own = error.split(trio.Cancelled)
        return cancelled, None if own is None else unwrap(own)
    return None, error


def unwrap(error: BaseException) -> BaseException:
    """Return the one error inside nested groups, or the group if it holds several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def without_host_frames(error: BaseException) -> BaseException:
    """Cut the host's frames off the start of a traceback: its reader wants the plugin's."""
    first = None
    for first in entries_of(error.__traceback__):
        if not first.tb_frame.f_code.co_filename.startswith(_HOST_DIR):
            break
    return error.with_traceback(first)
