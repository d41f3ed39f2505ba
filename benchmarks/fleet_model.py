"""A fleet in virtual time: thousands of agents and 100,000 streams, with the decisions of `lva/fleet`.

What each agent knows is what its beats would have told it; the server is a dictionary. Agents are killed,
stand still, lose the server together, end orderly and join, at random moments of a fixed seed.

It prints how long streams lie free, what the server gets to do, and how evenly streams are spread.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
import time
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from lva.fleet import decisions
from lva.fleet.config import SOFT, FleetConfig, hard_end
from lva.fleet.decisions import (
    CLAIMS,
    Seat,
    Waiting,
    hand_over,
    has_too_much,
    mine,
    plan,
    share,
    unreserved,
    why_not,
)
from lva.fleet.view import LATE
from lva.fleet.work import AT_ONCE, EAGER

#: Seconds of a command's way to the server and back, and between two looks at the fleet by all agents.
WAY, LOOK = 0.001, 0.02
#: How many of the streams that have waited for longest an agent looks at, besides its own part.
OLDEST = 50
NOBODY: frozenset[str] = frozenset()
#: Seconds of a Redis server for a command and its parts, as `fleet_redis.py` measures them.
COMMAND, BEAT, LEASE, ROW, OTHER = 40e-6, 40e-6, 0.5e-6, 2.9e-6, 0.4e-6


@dataclass
class Stream:
    """A stream, as the server has it, and when its last worker has begun and ended."""

    waiting: Waiting
    holder: str = ""
    begun: float = -1.0
    ended: float = 0.0
    why: str = "new"


@dataclass
class Agent:
    """An agent.

    `known` says since when it has seen no new beat of those that give none, and `left` are the streams that
    it has leases of and does not work on.
    """

    seat: Seat
    held: set[str] = field(default_factory=set)
    going: set[str] = field(default_factory=set)
    known: dict[str, float] = field(default_factory=dict)
    beaten: float = -1.0
    revision: int = 0
    agents_revision: int = 0
    content: tuple[int, int] = (-1, 0)
    awaits: int = 0
    left: set[str] = field(default_factory=set)
    eager: bool = False
    life: int = 0

    @property
    def name(self) -> str:
        return self.seat.name


@dataclass(frozen=True)
class Looked:
    """What agents see at one moment: the others, the plan, the part of each, and what is taken by nobody."""

    seats: list[Seat]
    planned: Mapping[str, str]
    parts: Mapping[str, list[Waiting]]
    oldest: list[Waiting]
    share: float


class Model:
    """A fleet.

    Args:
        agents: How many; a fifth has the label gpu, and their rooms differ by up to a third.
        streams: How many; a twentieth asks for that label.
        lease: Seconds.
        tick: Seconds.
        seed: Of all that is random.
    """

    def __init__(self, agents: int, streams: int, lease: float, tick: float, seed: int) -> None:
        self.lease, self.tick = lease, tick
        self.now = 0.0
        self.rng = random.Random(seed)
        self.room = max(1, round(streams * 1.4 / agents))
        self.agents: dict[str, Agent] = {}
        self.silent: dict[str, float] = {}
        self.streams: dict[str, Stream] = {}
        self.free: list[str] = []
        self.revision = self.agents_revision = self.number = 0
        self.counts: Counter[str] = Counter()
        self.waits: dict[str, list[float]] = defaultdict(list)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._look: Looked | None = None
        self._looked = -1
        for _ in range(agents):
            self.join()
        for number in range(streams):
            labels = frozenset({"gpu"}) if self.rng.random() < 0.05 else NOBODY
            stream_id = f"{self.rng.getrandbits(32):08x}-{number}"
            self.streams[stream_id] = Stream(Waiting(stream_id, labels))
        self.free = sorted(self.streams)
        self.revision = streams

    # Time.

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Do something at a time."""
        self.number += 1
        heapq.heappush(self._events, (when, self.number, what))

    def run(self, seconds: float) -> None:
        """Let time go on."""
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = until

    # Agents come, beat, and go.

    def join(self) -> None:
        """Let an agent join."""
        name = f"agent{self.counts['joined']:05}"
        self.counts["joined"] += 1
        labels = frozenset({"gpu"}) if self.counts["joined"] % 5 == 1 else NOBODY
        agent = Agent(Seat(name, round(self.room * self.rng.uniform(0.7, 1.3)), 0, labels))
        self.agents[name] = agent
        self.agents_revision += 1
        self._begin(agent, self.rng.uniform(0, self.tick))

    def _begin(self, agent: Agent, delay: float) -> None:
        agent.life += 1
        life = agent.life
        self.silent.pop(agent.name, None)
        self.at(self.now + delay, lambda: self._ticks(agent, life))

    def _ticks(self, agent: Agent, life: int) -> None:
        if agent.life == life:
            self.at(self.now + self.tick, lambda: self._ticks(agent, life))
            self._beat(agent)

    def _beat(self, agent: Agent) -> None:
        self.counts["beats"] += 1
        self.counts["leases"] += len(agent.held)
        self.counts["rows"] += min(self.revision - agent.revision, len(self.streams))
        self.counts["beats of others"] += len(self.agents)
        if agent.agents_revision != self.agents_revision:
            self.counts["agents' rows"] += len(self.agents)
        agent.revision, agent.agents_revision = self.revision, self.agents_revision
        for name, last in self.silent.items():
            if name not in agent.known:
                agent.known[name] = agent.beaten if agent.beaten >= last else self.now
                due = agent.known[name] + self.lease
                life = agent.life
                self.at(due, lambda life=life: self._beat(agent) if agent.life == life else None)
        for name in agent.known.keys() - self.silent.keys():
            del agent.known[name]
        agent.beaten = self.now
        self._act(agent)

    def _seats(self) -> Looked:
        """Return what those see who look within the same 20 ms."""
        look = int(self.now / LOOK)
        if look != self._looked or self._look is None:
            late = {n for n, last in self.silent.items() if self.now - last >= LATE * self.tick}
            seats = [agent.seat for name, agent in self.agents.items() if name not in late]
            # A plan is for the first by id.
            ids = islice(self.free, 4 * CLAIMS * len(self.agents))
            free = unreserved(seats, [self.streams[each].waiting for each in ids], self.now)
            planned, parts = plan(seats, free), defaultdict[str, list[Waiting]](list)
            for stream_id, name in planned.items():
                parts[name].append(self.streams[stream_id].waiting)
            oldest = (self.streams[stream_id].waiting for stream_id in planned)
            late_ones = heapq.nsmallest(OLDEST, oldest, key=lambda stream: stream.since)
            self._looked = look
            self._look = Looked(seats, planned, parts, late_ones, share(seats))
        return self._look

    # What an agent does after a beat.

    def _act(self, agent: Agent) -> None:
        for number, stream_id in enumerate(islice([*agent.left], CLAIMS), 1):
            self.at(self.now + number * WAY, self._resume(agent, stream_id))
        for name, since in agent.known.items():
            if self.now - since >= self.lease - 1e-6 and self.agents[name].held:
                self._reap(self.agents[name])
        if self.free:
            look = self._seats()
            patience = decisions.patience(agent.seat, self.tick, self.rng.random())
            part = look.parts.get(agent.name, [])
            others = [each for each in look.oldest if look.planned[each.id] != agent.name]
            offered = [self.streams[each].waiting for each in self._offered(agent)]
            taken = mine(agent.seat, [*offered, *part, *others], look.planned, self.now, patience)
            room = max(0, agent.seat.room - len(agent.held))
            for number, stream in enumerate(taken[: min(CLAIMS, room)], 1):
                self.at(self.now + number * WAY, self._claim(agent, stream.id))
        self._spread(agent)

    def _reap(self, agent: Agent) -> None:
        """Free the streams of an agent that is dead, for all."""
        self.counts["reaps"] += 1
        for stream_id in [*agent.held]:
            stream = self.streams[stream_id]
            self.counts["two at once"] += stream.ended < stream.begun
            self._release(stream)
            stream.waiting = replace(stream.waiting, since=self.now)

    def _offered(self, agent: Agent) -> Iterable[str]:
        if not agent.awaits:
            return ()
        return [each for each in self.free if self.streams[each].waiting.offered == agent.name]

    def _claim(self, agent: Agent, stream_id: str) -> Callable[[], None]:
        life = agent.life

        def claim() -> None:
            stream = self.streams[stream_id]
            if agent.life != life:
                return
            self.counts["claims"] += 1
            if stream.holder:
                self.counts["claims refused"] += 1
                return
            self.free.pop(bisect_left(self.free, stream_id))
            if (to := stream.waiting.offered) in self.agents:
                self._count(self.agents[to], -1)
                self.agents[to].awaits -= 1
            stream.holder, stream.waiting = agent.name, replace(stream.waiting, offered="")
            agent.held.add(stream_id)
            self._count(agent, 1)
            self._begun(stream)

        return claim

    def _resume(self, agent: Agent, stream_id: str) -> Callable[[], None]:
        def resume() -> None:
            if stream_id in agent.left:
                self.counts["claims"] += 1
                agent.left.discard(stream_id)
                self.revision += 1
                self._begun(self.streams[stream_id])

        return resume

    def _begun(self, stream: Stream) -> None:
        stream.begun = self.now
        self.waits[stream.why].append(self.now - stream.ended)

    def _release(self, stream: Stream) -> None:
        holder = self.agents.get(stream.holder)
        if holder is not None:
            holder.held.discard(stream.waiting.id)
            holder.left.discard(stream.waiting.id)
            if stream.waiting.id in holder.going:
                holder.going.discard(stream.waiting.id)
            else:
                self._count(holder, -1)
        if stream.holder:
            stream.holder = ""
            insort(self.free, stream.waiting.id)

    def _count(self, agent: Agent, change: int) -> None:
        agent.seat = replace(agent.seat, streams=agent.seat.streams + change)
        self.revision += 1

    def _spread(self, agent: Agent) -> None:
        at_once = AT_ONCE if agent.seat.draining else 1
        known = self.revision, self.agents_revision
        if len(agent.going) >= at_once or agent.content == known:
            return
        look = self._seats()
        seats, fair = look.seats, look.share
        if agent.seat.draining or has_too_much(agent.seat, fair):
            mine_now = [agent.seat if seat.name == agent.name else seat for seat in seats]
            for _ in range(at_once - len(agent.going)):
                kept = [self.streams[each].waiting for each in agent.held - agent.going]
                found = hand_over(agent.name, mine_now, kept)
                if found is None:
                    break
                self._offer(agent, *found)
                mine_now = [
                    self.agents[seat.name].seat for seat in seats if seat.name in self.agents
                ]
        agent.content = known

    def _offer(self, agent: Agent, stream_id: str, to: str) -> None:
        """Hand a stream over: the other agent is told, then the worker ends."""
        self.counts["offers"] += 1
        stream, other = self.streams[stream_id], self.agents[to]
        stream.waiting = replace(stream.waiting, offered=to)
        agent.going.add(stream_id)
        self._count(agent, -1)
        self._count(other, 1)
        other.awaits += 1
        life = agent.life

        def release() -> None:
            if agent.life == life and stream.holder == agent.name:
                self.counts["releases"] += 1
                self._ended(stream, "handed over")
                self._release(stream)

        self.at(self.now + 1.1 * self.tick, release)
        self.at(self.now + self.tick, lambda: self._look_often(other))

    def _keep(self, agent: Agent) -> None:
        """Let an agent keep what it was about to hand over."""
        for stream_id in agent.going:
            stream = self.streams[stream_id]
            if (to := stream.waiting.offered) in self.agents:
                self._count(self.agents[to], -1)
                self.agents[to].awaits -= 1
            stream.waiting = replace(stream.waiting, offered="")
            self._count(agent, 1)
        agent.going.clear()

    def _look_often(self, agent: Agent) -> None:
        if not agent.eager and agent.awaits and agent.name not in self.silent:
            agent.eager = True
            self._beat(agent)
            self.at(self.now + EAGER, lambda: self._again(agent))

    def _again(self, agent: Agent) -> None:
        agent.eager = False
        self._look_often(agent)

    def _ended(self, stream: Stream, why: str) -> None:
        stream.ended, stream.why = self.now, why
        stream.waiting = replace(stream.waiting, since=self.now)

    # What happens to agents.

    def up(self) -> list[Agent]:
        """Return the agents that beat."""
        return [agent for name, agent in self.agents.items() if name not in self.silent]

    def kill(self, agent: Agent) -> None:
        """End an agent in the middle of everything; another one joins some time later."""
        agent.life += 1
        self.silent[agent.name] = agent.beaten
        for stream_id in agent.held:
            self._ended(self.streams[stream_id], "killed")
        self.at(self.now + 4 * self.lease, lambda: self._forget(agent))
        self.at(self.now + self.rng.uniform(5, 20), self.join)

    def _forget(self, agent: Agent) -> None:
        for stream_id in [*agent.held]:
            self._release(self.streams[stream_id])
        self.silent.pop(agent.name, None)
        self.agents.pop(agent.name, None)
        self.agents_revision += 1

    def pause(self, agent: Agent, seconds: float) -> None:
        """Let an agent stand still. Its workers end before its leases do."""
        agent.life += 1
        self._keep(agent)
        self.silent[agent.name] = agent.beaten
        ends = agent.beaten + hard_end(self.lease)

        def end() -> None:
            for stream_id in agent.held:
                self._ended(self.streams[stream_id], "stood still")

        if self.now + seconds > ends:
            self.at(ends, end)
        self.at(self.now + seconds, lambda: self._come_back(agent, self.now > ends))

    def _come_back(self, agent: Agent, ended: bool) -> None:
        agent.known.clear()
        if ended:
            agent.left = {*agent.held}
        self._begin(agent, self.rng.uniform(0, 1.5 * self.tick))

    def outage(self, seconds: float) -> None:
        """Take the server away from all agents; they count the silence of others anew afterwards."""
        for agent in self.up():
            agent.life += 1
            self._keep(agent)
            ends = agent.beaten + self.lease * SOFT
            over = self.now + seconds > ends
            if over:
                self.at(ends, self._all_end(agent))
            back = self.now + seconds
            self.at(back, lambda agent=agent, over=over: self._come_back(agent, over))

    def _all_end(self, agent: Agent) -> Callable[[], None]:
        def end() -> None:
            for stream_id in agent.held:
                self._ended(self.streams[stream_id], "server away")

        return end

    def leave(self, agent: Agent) -> None:
        """Let an agent end orderly: it hands over all that it has; another one joins."""
        agent.seat = replace(agent.seat, draining=True)
        self.agents_revision += 1

        def gone() -> None:
            if agent.held or agent.going:
                self.at(self.now + self.tick, gone)
            else:
                agent.life += 1
                self._forget(agent)

        self.at(self.now + self.tick, gone)
        self.at(self.now + self.rng.uniform(5, 20), self.join)

    # What comes of it.

    def imbalance(self) -> float:
        """Return by what part the fullest agent is above its share, not counting one stream."""
        seats = [agent.seat for agent in self.up()]
        fair = share(seats)
        return max(
            (len(agent.held) - 1) / max(1.0, fair * agent.seat.room) - 1
            for agent in self.up()
            if not agent.seat.labels
        )

    def idle(self) -> int:
        """Return how many streams nobody works on though an agent has room."""
        seats = [agent.seat for agent in self.up()]
        ids = [*self.free, *(each for name in self.silent for each in self.agents[name].held)]
        free = sum(why_not(self.streams[each].waiting, seats) is None for each in ids)
        return free + sum(len(agent.left) for agent in self.up())


def storm(model: Model, seconds: float, faults: int) -> None:
    """Let so many things happen within some seconds, then let it come to rest."""
    end = model.now + seconds
    for _ in range(faults):
        what = model.rng.choice(["kill", "pause", "leave"])

        def happen(what: str = what) -> None:
            able = [each for each in model.up() if not each.seat.draining]
            if sum(bool(each.seat.labels) for each in able) <= 3:  # somebody is to have the label
                able = [each for each in able if not each.seat.labels]
            agent = model.rng.choice(able)
            if what == "kill":
                model.kill(agent)
            elif what == "leave":
                model.leave(agent)
            else:
                model.pause(agent, model.rng.uniform(0.2, 2) * model.lease)

        model.at(model.now + model.rng.uniform(0, seconds), happen)
    model.run(end - model.now)


def commands(model: Model, before: Counter[str], seconds: float, what: str) -> None:
    """Print what the server got to do."""
    more = model.counts - before
    sent = sum(more[each] for each in ("beats", "reaps", "claims", "offers", "releases"))
    rows, fields = more["rows"], more["beats of others"] + more["agents' rows"]
    work = (sent - more["beats"]) * COMMAND + more["beats"] * BEAT + rows * ROW + fields * OTHER
    work += more["leases"] * LEASE
    print(
        f"  server, {what:20} {sent / seconds:8,.0f} commands/s ({sent / seconds / len(model.agents):.1f} an"
        f" agent); replies have {rows / seconds:11,.0f} rows of streams and {fields / seconds:11,.0f}"
        f" beats and agents a second; {more['claims refused']:,} of {more['claims']:,} claims refused;"
        f" one core of a server needs {work:,.1f} s for it, {work / seconds:.0%}"
    )


def waits(model: Model) -> None:
    """Print how long streams had no worker, by why."""
    for why, found in model.waits.items():
        found.sort()
        print(
            f"  without a worker, {why:12} {len(found):8,} times: median {statistics.median(found):6.2f} s,"
            f" 99 % below {found[int(len(found) * 0.99)]:6.2f} s, longest {found[-1]:6.2f} s"
        )
    model.waits.clear()


def main() -> None:
    """Hand out all streams, be idle, have a storm, lose the server."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", type=int, default=2000)
    parser.add_argument("--streams", type=int, default=100_000)
    parser.add_argument("--lease", type=float, default=10.0)
    parser.add_argument("--tick", type=float)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    tick = options.tick or FleetConfig(lease=options.lease).tick
    begun = time.monotonic()
    model = Model(options.agents, options.streams, options.lease, tick, options.seed)
    print(
        f"{options.agents:,} agents with room for {sum(a.seat.room for a in model.agents.values()):,},"
        f" {options.streams:,} streams, lease {options.lease:g} s, tick {tick:g} s"
    )
    before = model.counts.copy()
    while model.free and model.now < 1000:
        model.run(tick)
    print(f"hand-out of all: {model.now:.1f} s")
    commands(model, before, model.now, "during it")
    waits(model)
    for what, seconds, happen in (
        ("idle", 30.0, lambda: None),
        ("storm", 60.0, lambda: storm(model, 60.0, max(20, options.agents // 20))),
        ("after it", 6 * options.lease, lambda: None),
        ("server away", 6 * options.lease, lambda: model.outage(2 * options.lease)),
    ):
        before, started = model.counts.copy(), model.now
        happen()
        model.run(max(0.0, started + seconds - model.now))
        print(
            f"{what}: {model.idle()} streams without a worker, {model.counts['two at once']} with two,"
            f" imbalance {model.imbalance():.0%}"
        )
        commands(model, before, seconds, what)
        waits(model)
    print(f"this took {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
