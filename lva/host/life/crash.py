"""Why an attempt at running a plugin ended by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lva.logs.loggers import brief

#: What to do about errors that say too little.
_HINTS: Final = {
    "no running event loop": ' (for asyncio code, write `runtime = "asyncio"` on the class)',
    "signal only works in main thread": " (signals are the service's; to clean up, define close())",
}


@dataclass(frozen=True, slots=True)
class Crash:
    """Why an attempt ended by itself.

    Attributes:
        phase: Where: ``"Class.initialize()"``, ``"a task in its nursery"``.
        why: One line for people, without secrets.
        error: What was raised; None if a limit was passed or the work just ended.
        during_startup: Whether `initialize()` was not yet done.
        hopeless: Whether another attempt would end the same way, so that the plugin has failed.
        stuck: Whether code of the plugin does not end, so that the plugin is abandoned.
    """

    phase: str
    why: str
    error: BaseException | None = None
    during_startup: bool = False
    hopeless: bool = False
    stuck: bool = False


def why_over(error: BaseException | None, returned: bool) -> str:
    """Say why a plugin's tasks are over: with what they raised, or whether they returned."""
    if error is None:
        return "has ended" if returned else "was cancelled by the plugin's own code"
    why = f"raised {brief(error)}"
    return why + next((hint for text, hint in _HINTS.items() if text in why), "")
