"""What happened to the streams of a fleet, and whether it keeps what is promised."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Spell:
    """A worker of a stream, from its beginning to its end, in seconds of one clock."""

    stream: str
    agent: str
    epoch: int
    begun: float
    ended: float


@dataclass(frozen=True)
class Seen:
    """An event of a stream, when it was published."""

    stream: str
    epoch: int
    time: float


@dataclass
class History:
    """All of a run.

    Attributes:
        spells: The workers.
        events: The events.
        room: Spans in which an agent had room, in seconds.
    """

    spells: list[Spell] = field(default_factory=list)
    events: list[Seen] = field(default_factory=list)

    def faults(
        self,
        streams: Iterable[str],
        limit: float,
        spans: Iterable[tuple[float, float]],
        deaths: Iterable[float] = (),
    ) -> list[str]:
        """Return what does not keep the promises, in words.

        Args:
            streams: Those that were to be worked on.
            limit: For how long, in seconds, one may be without a worker while an agent has room.
            spans: When an agent had room.
            deaths: When agents have died, or were as good as dead: one that had just taken a stream is found
                dead after the time of a lease, as each one.
        """
        of_stream: dict[str, list[Spell]] = defaultdict(list)
        for spell in self.spells:
            of_stream[spell.stream].append(spell)
        return [
            *self._overlaps(of_stream),
            *(
                fault
                for stream in streams
                for fault in _idle(stream, of_stream[stream], limit, spans, [*deaths])
            ),
            *self._epochs(of_stream),
        ]

    def _overlaps(self, of_stream: dict[str, list[Spell]]) -> Iterable[str]:
        for stream, spells in of_stream.items():
            spells.sort(key=lambda spell: spell.begun)
            for before, after in zip(spells, spells[1:], strict=False):
                if after.begun < before.ended:
                    yield (
                        f"{stream}: {before.agent} works until {before.ended:.3f}, and {after.agent} from"
                        f" {after.begun:.3f} on"
                    )

    def _epochs(self, of_stream: dict[str, list[Spell]]) -> Iterable[str]:
        for stream, spells in of_stream.items():
            for before, after in zip(spells, spells[1:], strict=False):
                if after.epoch < before.epoch or (
                    after.epoch == before.epoch and after.agent != before.agent
                ):
                    yield (
                        f"{stream}: epoch {after.epoch} of {after.agent} follows {before.epoch} of"
                        f" {before.agent}"
                    )
        highest: dict[str, int] = {}
        for event in sorted(self.events, key=lambda event: event.time):
            if event.epoch < highest.get(event.stream, 0):
                before = highest[event.stream]
                yield f"{event.stream}: an event of epoch {event.epoch} follows one of {before}"
            highest[event.stream] = max(event.epoch, highest.get(event.stream, 0))


def _idle(
    stream: str,
    spells: list[Spell],
    limit: float,
    spans: Iterable[tuple[float, float]],
    deaths: list[float],
) -> Iterable[str]:
    """Yield the times in which nobody works on a stream for too long within a span."""
    for begin, end in spans:
        at = begin
        gaps: list[tuple[float, float]] = []
        for spell in sorted(spells, key=lambda spell: spell.begun):
            if spell.ended > at and spell.begun < end:
                gaps.append((at, spell.begun))
                at = spell.ended
        gaps.append((at, end))
        for gap, until in gaps:
            since = max([gap, *(death for death in deaths if gap < death < until)])
            if until - since > limit:
                yield f"{stream}: no worker from {since:.3f} to {until:.3f}"
