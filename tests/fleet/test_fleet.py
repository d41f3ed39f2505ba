"""Agents on a real server: who works on what, whatever happens to them and to it."""

from __future__ import annotations

import math

import pytest
import trio

from lva.boot_clock import boot_time
from lva.fleet.fleet import GoneError, OtherVersionError
from lva.fleet.rows import AgentRow, ReportedState
from lva.fleet.server import FleetServerError
from tests.fleet.agents import LEASE, agent, row, shared, until, will_die
from tests.fleet.history import History

pytestmark = pytest.mark.slow("real servers, real time: a lease lasts as long as it does")


async def test_streams_are_shared_by_all_agents_and_none_has_two(redis):
    history = History()
    async with (
        agent(redis.url, "one", history) as one,
        agent(redis.url, "two", history) as two,
    ):
        for number in range(10):
            await until(lambda: one.fleet.trouble is None)
            await one.fleet.put(row(f"s{number}"), 0)
        await until(lambda: len(one.streams) == len(two.streams) == 5)
        assert one.streams.isdisjoint(two.streams)
    assert history.faults([], 0, []) == []


STOPPED = ReportedState("stop", True, "stopped by a user", None, 1_800_000_000.0, "one")


async def some(one, count, *labels):
    await until(lambda: one.fleet.trouble is None)
    for number in range(count):
        await one.fleet.put(row(f"s{number}", 1, *labels), 0)


async def test_the_streams_of_an_agent_that_dies_are_taken_over_once_its_lease_is_over(redis):
    """The kind is an agent that gives no sign of life any more: it is cut off in the middle of everything."""
    history = History()
    async with agent(redis.url, "two", history) as two, trio.open_nursery() as nursery:
        died = trio.Event()

        async def other() -> None:
            async with agent(redis.url, "one", history) as one:
                await some(one, 6)
                await shared(one, two)
                will_die(one)
                died.set()

        nursery.start_soon(other)
        await died.wait()
        assert len(two.streams) == 3
        kept = redis.client.hgetall("lva:{test}:epochs")
        wanted = {n.decode(): int(kept[n]) + (n.decode() not in two.streams) for n in kept}
        await until(lambda: len(two.streams) == 6)
        assert {name: epoch for name, (epoch, _) in two.notes.running.items()} == wanted


async def test_an_agent_that_ends_hands_over_first(redis):
    history = History()
    async with agent(redis.url, "two", history) as two:
        async with agent(redis.url, "one", history) as one:
            await some(one, 6)
            await until(lambda: len(one.streams) == 3)
        await until(lambda: len(two.streams) == 6)
        assert set(one.notes.reasons) == {"agent two goes on with it"}
        ended = {spell.stream: spell.ended for spell in history.spells}
        gaps = [two.notes.running[stream][1] - when for stream, when in ended.items()]
        assert len(gaps) >= 3
        assert all(0 <= gap < 1 for gap in gaps), gaps
        await until(lambda: [*two.fleet.view.agents] == ["two"])


async def test_an_agent_that_joins_gets_its_share(redis):
    history = History()
    async with agent(redis.url, "one", history, room=20) as one:
        await some(one, 9)
        await until(lambda: len(one.streams) == 9)
        async with (
            agent(redis.url, "two", history, room=20) as two,
            agent(redis.url, "three", history, room=20) as three,
        ):
            await until(
                lambda: sorted(map(len, (one.streams, two.streams, three.streams))) == [3, 3, 3]
            )
            await trio.sleep(5 * one.fleet.tick)
            assert sorted(map(len, (one.streams, two.streams, three.streams))) == [3, 3, 3]
    assert history.faults([], 0, []) == []


async def test_a_draining_agent_gives_up_its_streams_and_takes_none(redis):
    history = History()
    async with agent(redis.url, "one", history) as one, agent(redis.url, "two", history) as two:
        await some(one, 4)
        await until(lambda: len(two.streams) == 2)
        await one.fleet.drain("two", on=True)
        await until(lambda: not two.streams and len(one.streams) == 4)
        await one.fleet.put(row("more"), 0)
        await until(lambda: "more" in one.streams)
        await one.fleet.drain("two", on=False)
        await until(lambda: len(two.streams) == 2)


async def test_labels_and_room_decide_and_what_is_missing_is_told(redis):
    history = History()
    async with agent(redis.url, "one", history, room=1) as one:
        await some(one, 1, "gpu")
        await until(
            lambda: one.fleet.reason(one.fleet.view.rows["s0"]) == "no agent with label gpu"
        )
        async with agent(redis.url, "two", history, room=1, labels=["gpu"]) as two:
            await until(lambda: two.streams == {"s0"})
            await one.fleet.put(row("plain"), 0)
            await until(lambda: one.streams == {"plain"})
            await one.fleet.put(row("late"), 0)
            await until(lambda: one.fleet.reason(one.fleet.view.rows["late"]) == "no room")
            assert one.fleet.reason(one.fleet.view.rows["plain"]) is None


async def test_a_change_reaches_the_agent_that_works_on_the_stream(redis):
    history = History()
    async with agent(redis.url, "one", history) as one, agent(redis.url, "two", history) as two:
        await some(one, 2)
        await until(lambda: len(two.streams) == 1)
        (stream,) = two.streams
        await one.fleet.put(row(stream, 2), 1)
        await until(lambda: two.notes.versions[stream] == 2)
        with pytest.raises(OtherVersionError) as caught:
            await one.fleet.put(row(stream, 2), 1)
        assert caught.value.version == 2
        await one.fleet.want(stream, "stop", STOPPED, "")
        await until(lambda: not two.streams)
        await until(lambda: one.fleet.view.rows[stream].state is not None)
        await until(lambda: one.fleet.view.rows[stream].lease is None)
        assert one.fleet.view.rows[stream].state.status == "stop"
        await one.fleet.want(stream, "run", STOPPED, "")
        await until(lambda: stream in one.streams | two.streams)
        await one.fleet.want(stream, "remove", STOPPED, "")
        await until(lambda: stream not in one.fleet.view.rows and stream not in two.fleet.view.rows)
        assert stream not in one.streams | two.streams
        with pytest.raises(GoneError):
            await one.fleet.want(stream, "stop", STOPPED, "")
    assert history.faults([], 0, []) == []


async def test_what_is_over_is_not_worked_on_again(redis):
    history = History()
    async with agent(redis.url, "one", history) as one:
        await some(one, 1)
        await until(lambda: one.streams == {"s0"})
        one.notes.end("s0")
        one.fleet.report(
            "s0", ReportedState("done", True, "the end", None, 1.0, "one", 1), '{"a":1}'
        )
        await until(lambda: not one.fleet.held)
        await trio.sleep(3 * one.fleet.tick)
        assert not one.streams
        assert await one.fleet.logs("s0") == ['{"a":1}']
        await one.fleet.put(row("s0", 2), 1)
        await until(lambda: one.streams == {"s0"})


async def test_streams_end_in_time_while_the_server_is_away(redis):
    """The kind is an agent that cannot renew: killed server, and one that does not respond."""
    history = History()
    async with agent(redis.url, "one", history) as one:
        await some(one, 3)
        for away, back in ((redis.pause, redis.resume), (redis.kill, redis.start)):
            await until(lambda: one.streams >= {"s0", "s1", "s2"} and one.fleet.trouble is None)
            away()
            await until(lambda: not one.streams)
            assert boot_time() < one.notes.until
            assert "its lease cannot be renewed: redis://" in one.notes.reasons[-1]
            assert one.troubles[-1] is not None
            with pytest.raises(FleetServerError):
                await one.fleet.put(row("more"), 0)
            back()
        await until(lambda: one.streams >= {"s0", "s1", "s2"})
        assert one.troubles[-1] is None


async def test_an_agent_may_go_on_alone(redis):
    history = History()
    async with agent(redis.url, "one", history, when_away="go_on") as one:
        await some(one, 3)
        await until(lambda: len(one.streams) == 3)
        redis.kill()
        await until(lambda: one.notes.until == math.inf)
        assert len(one.streams) == 3
        redis.start()
        await until(lambda: one.notes.until < math.inf)
        assert {epoch for epoch, _ in one.notes.running.values()} == {1}


async def test_a_server_that_has_lost_everything_is_told_it_again(redis):
    """The kind is data that Redis did not keep: nobody loses a stream, and no epoch falls."""
    history = History()
    calm = {"lease": 4.0}  # no lease ends because the machine is busy
    async with (
        agent(redis.url, "one", history, **calm) as one,
        agent(redis.url, "two", history, **calm) as two,
    ):
        await some(one, 4)
        await shared(one, two)
        running = [dict(each.notes.running) for each in (one, two)]
        history.spells.clear()
        redis.client.flushall()
        await until(lambda: len(redis.client.hgetall("lva:{test}:leases")) == 4)
        await until(lambda: redis.client.hget("lva:{test}", "settled") == b"1")
        await trio.sleep(3 * one.fleet.tick)
        assert history.spells == []
        assert redis.client.hlen("lva:{test}:streams") == 4
        assert [each.notes.running for each in (one, two)] == running
        epochs = {name: epoch for each in running for name, (epoch, _) in each.items()}
        kept = redis.client.hgetall("lva:{test}:epochs")
        assert {name.decode(): int(epoch) for name, epoch in kept.items()} == epochs
        await one.fleet.put(row("more"), 0)
        await until(lambda: "more" in one.streams | two.streams)


async def test_of_two_agents_with_one_name_the_second_waits(redis):
    history = History()
    async with agent(redis.url, "one", history) as first:
        await some(first, 1)
        await until(lambda: len(first.streams) == 1)
        async with agent(redis.url, "one", History()) as second:
            await until(lambda: "already" in (second.fleet.trouble or ""))
            await trio.sleep(2 * LEASE)
            assert not second.streams
            assert len(first.streams) == 1


@pytest.mark.soak  # a part of a lease is measured
async def test_an_agent_that_joins_takes_streams_of_one_whose_end_it_has_not_seen(redis):
    """The kind is an empty agent that all plan for, and that has not waited for a whole lease itself."""
    lease, history = 3.0, History()
    async with agent(redis.url, "two", history, lease=lease) as two:
        died = trio.Event()
        async with trio.open_nursery() as nursery:

            async def other() -> None:
                async with agent(redis.url, "one", history, lease=lease) as one:
                    await some(one, 6)
                    await shared(one, two)
                    will_die(one)
                    died.set()

            nursery.start_soon(other)
        await died.wait()
        rows = two.fleet.view.rows
        await until(lambda: all(row.lease for row in rows.values()))
        left = {*rows} - two.streams
        (dead,) = {row.lease.incarnation for row in rows.values() if row.id in left}
        await until(lambda: boot_time() - two.fleet.view.silent_since(dead) > 0.6 * lease)
        async with agent(redis.url, "three", history, lease=lease, room=500) as three:
            await until(lambda: three.streams & left)
            assert three.fleet.view.is_alive(dead, boot_time())


async def test_an_agent_that_never_comes_back_is_forgotten(redis, monkeypatch):
    """The kind is what grows with each agent that has a new name, as that of a pod."""
    monkeypatch.setattr("lva.fleet.view.SHOWN", 2.0)
    async with agent(redis.url, "one", History()) as one:
        await until(lambda: one.fleet.trouble is None)
        dead = AgentRow("dead", "d" * 32, "http://dead:5200", 5, frozenset())
        redis.client.hset("lva:{test}:agents", "dead", f"{'d' * 32} {dead.as_json()}")
        redis.client.hset("lva:{test}:beats", "d" * 32, "7")
        redis.client.hincrby("lva:{test}", "agents", 1)
        await until(lambda: "dead" in one.fleet.view.agents)
        await until(lambda: [*one.fleet.view.agents] == ["one"])
        assert redis.client.hlen("lva:{test}:beats") == 1
