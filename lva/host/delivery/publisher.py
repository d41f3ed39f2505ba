"""From `publish()` to the mailboxes: who gets an event's points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from threading import get_ident
from typing import Any, Final, TypeAlias

import trio

from lva.errors import counted, listing, suggestion
from lva.events.types import EVENT_TYPES, EventType
from lva.host.delivery.delivery import Delivery
from lva.host.delivery.intake import Intake, handling
from lva.host.delivery.mailbox import Mailbox
from lva.host.delivery.queue import size_of
from lva.host.delivery.tap import PUBLISHED, Taps
from lva.host.process import forks
from lva.logs.loggers import service_logger

LOGGER: Final = service_logger("lva.host")

_Way: TypeAlias = tuple[EventType, tuple[tuple[Mailbox, Intake], ...]]


class Publisher:
    """Hands points to every plugin that asked for their event.

    Args:
        stopping: Whether the plugins are to stop.

    Attributes:
        taps: Those who look at points as they pass.
    """

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self.taps: Taps = Taps()
        self._stopping = stopping
        # By event: what its points are, and who gets them, as `Lives` says by `connect`. Replaced as a whole,
        # never changed, since other threads read it too.
        self._ways: Mapping[str, _Way] = {name: (event, ()) for name, event in EVENT_TYPES.items()}
        self._thread = 0

    def at_home(self) -> None:
        """Say that this thread is the one in which mailboxes are emptied."""
        self._thread = get_ident()

    def connect(self, deliveries: Iterable[tuple[str, Delivery]]) -> list[Delivery]:
        """Let each event's points go to these from now on; return those with a mailbox that is new.

        Args:
            deliveries: Each with the name of its event; once for each, if it has several.
        """
        known = {mailbox for _, takers in self._ways.values() for mailbox, _ in takers}
        found: dict[str, list[tuple[Mailbox, Intake]]] = {name: [] for name in EVENT_TYPES}
        new = []
        for event, delivery in deliveries:
            found[event].append((delivery.mailbox, delivery.intake))
            if delivery.mailbox not in known:
                known.add(delivery.mailbox)
                new.append(delivery)
        self._ways = {name: (EVENT_TYPES[name], tuple(found[name])) for name in EVENT_TYPES}
        return new

    def publish(self, event: str, points: Iterable[Any], source: str | None = None) -> bool:
        """Hand points to every plugin that asked for the event; never waits.

        Any thread may call it, at any moment: in a signal handler, or in a finalizer, too.

        Args:
            event: The event's name.
            points: The points, or events, to publish.
            source: The plugin that they come from; None for the service itself.

        Returns:
            Whether all of these plugins take points; at the end of the service some do not any more.

        Raises:
            ValueError: There is no such event.
            TypeError, ValueError: A point, or a value in it, is wrong; none is published.
        """
        try:
            kind, takers = self._ways[event]
        except KeyError:
            raise _unknown(event) from None
        batch = tuple(points)
        if forks.in_child:
            forks.refuse(len(batch))
        if not batch:
            return True
        item = kind.item
        for point in batch:
            if type(point) is not item:
                batch = _whole(kind, batch)
                break
        try:
            size = size_of(batch)
        except AttributeError:  # a point was made without its constructor
            batch = _whole(kind, batch)
            size = size_of(batch)
        if self.taps.open:
            self.taps.offer(PUBLISHED, source, batch)
        at_home = get_ident() == self._thread
        call = handling.get() if source is not None else None
        own = None if call is None else call.publishes(source)  # which does not get them back
        try:
            # In this thread, and not in the midst of its books, a mailbox takes them at once; else at Trio's
            # next step. `sift` does either with what a filter has left.
            for mailbox, intake in takers:
                if intake is own or intake.filter is not None:
                    wanted = intake.wanted(batch, intake is own)
                    mailbox.sift(wanted, len(batch) - len(wanted), at_home)
                elif at_home and not mailbox.books.depth:
                    mailbox.offer(batch, size)
                else:
                    mailbox.cross(batch)
        except trio.RunFinishedError:
            LOGGER.warning(
                "published after the end of the service: %s", counted(len(batch), "point")
            )
            return False
        # Looked at last: what closed in between has refused the points. A plugin that has failed is no
        # reason for others to stop publishing.
        if not self._stopping():
            return True
        return not any(mailbox.closed.is_set() for mailbox, _ in takers)


def _unknown(event: object) -> ValueError:
    hint = suggestion(str(event), EVENT_TYPES)
    return ValueError(f"unknown event {event!r}{hint}; available: {listing(EVENT_TYPES)}")


def _whole(kind: EventType, points: Iterable[Any]) -> tuple[Any, ...]:
    """Return points that are not all of the event's own class, checked one by one."""
    checked = []
    for point in points:
        if not isinstance(point, kind.item):
            raise TypeError(
                f"{kind.name} takes {kind.item.__name__} objects, not {type(point).__name__}"
            )
        checked.append(kind.whole(point))
    return tuple(checked)
