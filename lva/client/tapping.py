"""`lva tap`: points as they pass through a running service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from lva.client.asking import streaming
from lva.client.target import Target
from lva.client.words import clean, clock, pairs
from lva.errors import counted

if TYPE_CHECKING:
    from rich.text import Text

#: The service says something at least every 15 seconds.
_SILENCE: Final = 40.0
_STEP_STYLES: Final = {
    "published": "cyan",
    "delivered": "green",
    "failed": "yellow",
    "rejected": "red",
    "dropped": "bold red",
}


def tapped_lines(
    target: Target, query: Iterable[tuple[str, str]], opened: Callable[[], None]
) -> Iterator[str]:
    """Go through the lines of the service's stream as they come.

    Args:
        target: The service.
        query: What of the points is wanted.
        opened: Called once the service has accepted that: from then on no point is missed.

    Raises:
        FailedError: Nothing responds, the service refuses, or it went away.
    """
    with streaming(target, "/tap", query, _SILENCE) as lines:
        opened()
        yield from lines


def shown(item: dict[str, Any]) -> Text:
    """Return a point as a line for people."""
    from rich.text import Text

    step = clean(item["step"])
    return Text.assemble(
        (clock(item["at"]), "dim"),
        " ",
        (f"{step:<9}", _STEP_STYLES.get(step, "")),
        " ",
        clean(item["plugin"]) if item["plugin"] else ("the service", "dim"),
        " ",
        (clean(item["series"]), "bold"),
        "  ",
        pairs(item["tags"]),
        "  ",
        (pairs(item["fields"]), "dim"),
    )


def note(item: dict[str, Any], rate: int) -> str:
    """Return what a line about points that were left out says, for people; nothing if none were."""
    reasons = []
    if over := item["over_rate"]:
        reasons.append(f"{counted(over, 'point')} left out (more than --rate {rate})")
    if unseen := item["not_looked_at"]:
        reasons.append(f"{counted(unseen, 'point')} not looked at (too many, or read too slowly)")
    return ", ".join(reasons)
