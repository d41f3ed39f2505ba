"""The text of an error, made where the code of the error may run.

`str()` of an exception, of its notes and of its causes is code of whoever defined them. Whoever catches an
error in a plugin's own thread keeps its text there with `keep_text`; the service, which logs it later from
its event loop, then needs no such code any more.
"""

from __future__ import annotations

import contextlib
import traceback
from typing import Final, NamedTuple

from lva.logs.masking import cut, cut_front, redact

#: Most characters of a traceback: of the end, which says what was raised.
LONGEST_TRACEBACK: Final = 32_000
_LONGEST_MESSAGE: Final = 2_000
_BRIEF: Final = 300
_ATTRIBUTE: Final = "_lva_text"


class _Text(NamedTuple):
    message: str
    traceback: str


def keep_text(error: BaseException) -> None:
    """Make the text of an error, and of the only one in a group, in this thread, for whoever asks later."""
    while True:
        text = _Text(_message_of(error), _traceback_of(error))
        with contextlib.suppress(AttributeError, TypeError):  # of a class that has no room for it
            # Not `setattr`, which may be the plugin's code.
            object.__setattr__(error, _ATTRIBUTE, text)
        if not isinstance(error, BaseExceptionGroup) or len(error.exceptions) != 1:
            return
        error = error.exceptions[0]


def has_text(error: BaseException) -> bool:
    """Return whether the text of an error was kept."""
    return _kept(error) is not None


def brief(error: BaseException) -> str:
    """Return ``Type: message`` on one line, redacted and cut at 300 characters."""
    kept = _kept(error)
    message = " ".join((_message_of(error) if kept is None else kept.message).split())
    text = redact(f"{type(error).__name__}: {message}" if message else type(error).__name__)
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 1]}…"


def traceback_text(error: BaseException) -> str:
    """Return the traceback with the error's causes, redacted and of bounded length."""
    kept = _kept(error)
    return _traceback_of(error) if kept is None else kept.traceback


def _kept(error: BaseException) -> _Text | None:
    try:
        text = object.__getattribute__(error, _ATTRIBUTE)
    except AttributeError:
        return None
    return text if isinstance(text, _Text) else None


def _message_of(error: BaseException) -> str:
    try:
        return cut(str(error), _LONGEST_MESSAGE)
    except BaseException as broken:  # noqa: BLE001 - an error of a plugin may even fail to describe itself
        return f"(its message cannot be read: {type(broken).__name__})"


def _traceback_of(error: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(error)).rstrip("\n")
    except BaseException as broken:  # noqa: BLE001 - as above
        text = "".join(traceback.format_tb(error.__traceback__))
        text += f"{type(error).__name__} (its traceback cannot be written: {type(broken).__name__})"
    return cut_front(text, LONGEST_TRACEBACK)
