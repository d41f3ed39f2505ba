"""What a stop proves: how each plugin ended, what became of its points, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lva.host.delivery.ledger import LedgerCounts
from lva.logs.loggers import redact

if TYPE_CHECKING:
    from lva.host.life.life import PluginLife

EXIT_CLEAN: Final = 0
EXIT_CONFIGURATION: Final = 2
EXIT_CRITICAL: Final = 3
EXIT_UNCLEAN: Final = 4
EXIT_KILLED: Final = 70


class PluginReceipt(NamedTuple):
    """How one plugin ended.

    Attributes:
        state: Its last state.
        reason: Why it was in that.
        stop_seconds: How long its stop took; None if it was not stopped by the end of the service.
        lives: How many lives it had.
        abandoned: How many of them ended with something leaked.
        restarts: Attempts after the first, of all lives.
        points: The sums of its classes' ledgers.
        leaked_processes: What it had started and not ended, each with its command line and how it was ended.
        problems: What went wrong at its close.
        account: What it says of its work.
    """

    name: str
    state: str
    reason: str
    stop_seconds: float | None
    lives: int
    abandoned: int
    restarts: int
    points: LedgerCounts
    leaked_tasks: Sequence[str]
    leaked_threads: Sequence[str]
    leaked_processes: Sequence[str]
    problems: Sequence[str]
    account: Mapping[str, Any] = MappingProxyType({})

    @property
    def lost(self) -> int:
        """Points that were accepted and neither delivered nor rejected."""
        points = self.points
        return sum(points["dropped"].values()) + points["queued"] + points["in_flight"]

    def as_dict(self) -> dict[str, Any]:
        """Return it as it is logged: plain values for JSON, without secrets."""
        lists = ("leaked_tasks", "leaked_threads", "leaked_processes", "problems")
        return {
            **self._asdict(),
            "reason": redact(self.reason),
            "account": dict(self.account),
            "stop_seconds": None if self.stop_seconds is None else round(self.stop_seconds, 3),
            **{name: [*map(redact, getattr(self, name))] for name in lists},
        }


@dataclass(frozen=True, slots=True)
class Receipt:
    """The one account of a stop.

    Attributes:
        reason: Why the service stopped.
        exit_code: See `docs/guarantees`.
        seconds: From the request to stop until now.
    """

    reason: str
    exit_code: int
    seconds: float
    plugins: Sequence[PluginReceipt]

    def as_dict(self) -> dict[str, Any]:
        """Return the receipt as it is logged: plain values for JSON, without secrets."""
        return {
            "reason": self.reason,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 3),
            "plugins": [plugin.as_dict() for plugin in self.plugins],
        }


def plugin_receipt(life: PluginLife) -> PluginReceipt:
    """Return how one plugin stands now."""
    return PluginReceipt(
        name=life.name,
        state=life.state.value.value,
        reason=life.record.last.reason,
        stop_seconds=life.stop_seconds,
        lives=life.record.lives,
        abandoned=life.record.abandoned,
        restarts=life.record.restarts,
        points=total_points(life),
        leaked_tasks=life.record.leaks.tasks,
        leaked_threads=life.record.leaks.threads,
        leaked_processes=list(life.record.leaked_processes),
        problems=list(life.record.problems),
        account=life.record.account,
    )


def total_points(life: PluginLife) -> LedgerCounts:
    """Return the plugin's ledger: the sums over its event classes, of all its lives."""
    return life.record.deliveries.total().as_dict()


def exit_code(plugins: Sequence[PluginReceipt], critical: str | None, host_failed: bool) -> int:
    """Return the exit code that the end of the plugins calls for."""
    if host_failed:
        return EXIT_KILLED
    if critical is not None:
        return EXIT_CRITICAL
    unclean = any(
        plugin.lost or plugin.leaked_tasks or plugin.leaked_threads
        or plugin.leaked_processes or plugin.abandoned
        for plugin in plugins
    )  # fmt: skip
    return EXIT_UNCLEAN if unclean else EXIT_CLEAN
