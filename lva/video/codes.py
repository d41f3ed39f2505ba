"""States of a stream, which may follow which, and the codes of what ends a connection or a stream.

The states are in the words of the LUNA Video Agent's manuals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class StreamState(StrEnum):
    """Where a stream stands."""

    PENDING = "pending"  # created, or resumed; its worker is being started, or connects
    IN_PROGRESS = "in_progress"  # frames come
    PAUSED = "paused"  # by its schedule
    STOP = "stop"  # by a user
    RESTART = "restart"  # waits for the next attempt
    DONE = "done"  # a file's end
    FAILURE = "failure"  # gave up


#: Nobody works on the stream, and nobody will but a user resumes it.
ENDED: Final = frozenset({StreamState.STOP, StreamState.DONE, StreamState.FAILURE})

_S = StreamState
TRANSITIONS: Final[Mapping[StreamState, frozenset[StreamState]]] = MappingProxyType(
    {
        _S.PENDING: frozenset(
            {_S.IN_PROGRESS, _S.PAUSED, _S.STOP, _S.RESTART, _S.DONE, _S.FAILURE}
        ),
        _S.IN_PROGRESS: frozenset(
            {_S.PENDING, _S.PAUSED, _S.STOP, _S.RESTART, _S.DONE, _S.FAILURE}
        ),
        _S.PAUSED: frozenset({_S.PENDING, _S.STOP, _S.FAILURE}),
        _S.STOP: frozenset({_S.PENDING}),
        _S.RESTART: frozenset(
            {_S.PENDING, _S.IN_PROGRESS, _S.PAUSED, _S.STOP, _S.DONE, _S.FAILURE}
        ),
        _S.DONE: frozenset({_S.PENDING, _S.STOP}),
        _S.FAILURE: frozenset({_S.PENDING, _S.RESTART, _S.STOP}),
    }
)

#: What ends a connection, a worker or a stream; the code and what it means.
CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "connection_failed": "the source could not be reached, or the connection broke",
        "auth_failed": "the source refused the user or password",
        "not_found": "there is no such stream or file",
        "timeout": "the source sent nothing in time",
        "stalled": "data or frames stopped coming",
        "same_picture": "frames come, but their picture does not change",
        "no_video": "there is no video in it",
        "unsupported": "there is no decoder for its video, or no demuxer for it",
        "wrong_region": "nothing of its picture is within roi or droi",
        "invalid_data": "what it sends is not video",
        "end_of_stream": "the source ended",
        "forbidden": "the service may not open this source",
        "analytics_failed": "an analytics plugin could not be opened, or failed too often",
        "analytics_hung": "an analytics plugin did not return",
        "worker_crashed": "the worker process died",
        "worker_silent": "the worker process did not respond",
        "memory_limit": "the worker process needs more memory than it may",
        "process_limit": "analytics plugins started more processes than they may",
    }
)

#: Their reasons are sentences of their own, which need no more words.
_SAID: Final = frozenset(
    {"stalled", "analytics_hung", "worker_crashed", "worker_silent", "process_limit"}
)


def in_words(code: str, reason: str) -> str:
    """Return what happened, said once: the meaning of a code, and the reason as far as that says more."""
    meaning = CODES[code]
    return reason if code in _SAID or reason == meaning else f"{meaning} ({reason})"


#: These do not get better at all: only another definition helps.
LASTING: Final = frozenset({"wrong_region"})
#: These will not get better within seconds: the back-off begins at its longer end.
SLOW: Final = frozenset({"auth_failed", "not_found", "no_video", "unsupported", "forbidden"})


@dataclass(frozen=True, slots=True)
class Ended:
    """How the work of one worker ended.

    Attributes:
        code: Of `CODES`.
        reason: In words.
        blamed: The analytics plugin that is to blame.
        final: The stream's state, if it is not to go on.
    """

    code: str
    reason: str
    blamed: str | None = None
    final: StreamState | None = None
