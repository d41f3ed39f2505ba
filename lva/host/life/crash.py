"""Why an attempt at running a plugin ended by itself."""

from __future__ import annotations

from dataclasses import dataclass


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
