"""The states of a plugin's life, which may follow which, and what comes after a life."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

from lva.host.routing import Gate


class State(enum.Enum):
    """Where a plugin is in its life."""

    LOADED = "loaded"
    INITIALIZING = "initializing"
    RUNNING = "running"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    ABANDONED = "abandoned"


#: The states that may follow each state. Anything else is a bug of the host.
TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.LOADED: frozenset({State.INITIALIZING, State.STOPPING}),
    State.INITIALIZING: frozenset(
        {State.RUNNING, State.BACKOFF, State.FAILED, State.STOPPING, State.ABANDONED}
    ),
    State.RUNNING: frozenset({State.BACKOFF, State.FAILED, State.STOPPING, State.ABANDONED}),
    State.BACKOFF: frozenset({State.INITIALIZING, State.STOPPING, State.ABANDONED}),
    State.STOPPING: frozenset({State.STOPPED, State.ABANDONED}),
    # From here an operator leads to the next life, or leaves what has failed at that.
    State.FAILED: frozenset({State.ABANDONED, State.LOADED, State.STOPPED}),
    State.STOPPED: frozenset({State.ABANDONED, State.LOADED}),
    State.ABANDONED: frozenset({State.LOADED}),
}
#: States in which a life has not yet shown what becomes of it.
BEGINNING: Final = frozenset({State.LOADED, State.INITIALIZING})
#: States that end a life.
ENDED: Final = frozenset({State.STOPPED, State.FAILED, State.ABANDONED})


class Ending(enum.Enum):
    """What comes after a life."""

    FOR_GOOD = "for good"  # nothing: the service stops, or the plugin was given up
    PAUSE = "pause"  # an operator stopped it: its points wait for a start, its routes answer 503
    HANDOVER = "handover"  # the next life: points and routes wait for it

    @property
    def gate_before(self) -> Gate:
        """What a request finds while the life ends."""
        return Gate.HELD if self is Ending.HANDOVER else Gate.WAITING

    @property
    def gate_after(self) -> Gate:
        """What a request finds once the life has ended."""
        return _GATE_AFTER[self]


_GATE_AFTER: Final = {
    Ending.FOR_GOOD: Gate.GONE,
    Ending.PAUSE: Gate.STOPPED,
    Ending.HANDOVER: Gate.HELD,
}


class Transition(NamedTuple):
    """A change of state: to what, when (Unix seconds) and why."""

    state: State
    at: float
    reason: str
