"""A server that has lost keys, may lose them, or refuses: deletion, eviction, failover, lack of memory."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.fleet.agents import Agent, agent, row, shared, until, will_die
from tests.fleet.history import History
from tests.plugins.redis_server import RedisServer
from tests.process.fleet_scene import Link

pytestmark = pytest.mark.slow("a real server, real time")

KEY = "lva:{test}"


async def begun(redis, one: Agent, two: Agent) -> dict[str, int]:
    """Have four streams worked on; return their epochs."""
    await until(lambda: one.fleet.trouble is None and two.fleet.trouble is None)
    for number in range(4):
        await one.fleet.put(row(f"s{number}"), 0)
    await shared(one, two)
    return epochs(redis)


def epochs(redis) -> dict[str, int]:
    found = redis.client.hgetall(f"{KEY}:leases").items()
    return {stream_id.decode(): int(lease.split()[1]) for stream_id, lease in found}


async def test_streams_whose_leases_are_gone_are_taken_again(redis):
    """The kind is a change that nobody was told of: who believes the old has to find out."""
    history = History()
    async with agent(redis.url, "one", history) as one, agent(redis.url, "two", history) as two:
        before = await begun(redis, one, two)
        redis.client.delete(f"{KEY}:leases")
        await until(lambda: len(epochs(redis)) == 4, 10)
        await until(lambda: len(one.streams | two.streams) == 4, 10)
        assert all(epoch > before[each] for each, epoch in epochs(redis).items())
    assert history.faults([], 0, []) == []


async def test_streams_of_a_dead_agent_whose_leases_are_gone_are_taken(redis):
    history = History()
    async with agent(redis.url, "one", history) as one:
        async with agent(redis.url, "two", history) as two:
            await begun(redis, one, two)
            will_die(two)
        redis.client.delete(f"{KEY}:leases")
        await until(lambda: len(one.streams) == 4, 10)


async def test_an_agent_takes_a_stream_again_whose_lease_is_its_own_or_gone(redis):
    """The kind is an agent that was away: it believes in a lease that nobody has."""
    async with agent(redis.url, "one", History()) as one:
        await until(lambda: one.fleet.trouble is None)
        await one.fleet.put(row("s"), 0)
        await until(lambda: one.streams)
        server, me = one.fleet._work.server, one.fleet._standing.incarnation  # noqa: SLF001
        lease = redis.client.hget(f"{KEY}:leases", "s").decode()
        redis.client.hdel(f"{KEY}:leases", "s")
        assert await server.attempt("claim", me, "s", "other 1", "", 1) == ["taken"]
        assert await server.attempt("claim", me, "s", lease, "", 1) == ["2"]


async def test_no_epoch_comes_twice_when_those_that_were_given_are_gone(redis):
    async with agent(redis.url, "one", History()) as one, agent(redis.url, "two", History()) as two:
        before = await begun(redis, one, two)
        moved = {*two.streams}
        redis.client.delete(f"{KEY}:epochs")
        await one.fleet.drain("two", on=True)
        await until(lambda: len(one.streams) == 4)
        assert all(epochs(redis)[each] > before[each] for each in moved)


async def test_agents_follow_an_address_to_the_server_that_is_written_to_now(redis, tmp_path):
    """The kind is a connection that stays with a server which has become a replica."""
    with RedisServer(tmp_path, "--appendfsync", "no") as other, ExitStack() as stack:
        link = Link(redis.port)
        stack.callback(link.close)
        async with agent(f"redis://127.0.0.1:{link.port}", "one", History()) as one:
            await until(lambda: one.fleet.trouble is None)
            await one.fleet.put(row("s"), 0)
            await until(lambda: one.streams)
            link.lead_to(other.port)
            redis.client.replicaof("127.0.0.1", other.port)
            try:
                await until(lambda: "read only" in "".join(filter(None, one.troubles)))
                await until(lambda: one.fleet.trouble is None and one.streams, 10)
            finally:
                redis.client.replicaof("NO", "ONE")
            assert other.client.hexists(f"{KEY}:leases", "s")


async def test_what_the_server_refuses_is_told_in_a_few_words(redis):
    """The kind is a text of the server's: each script's hash is another, and it may be of any length."""
    async with agent(redis.url, "one", History()) as one:
        await until(lambda: one.fleet.trouble is None)
        redis.client.config_set("maxmemory", 1)
        try:
            await until(lambda: one.fleet.trouble is not None)
            await until(lambda: len(one.troubles) > 1 and not one.fleet.held)
            told = f"{redis.url} refuses: command not allowed when used memory > 'maxmemory'"
            assert one.fleet.trouble == told
        finally:
            redis.client.config_set("maxmemory", 0)
        await until(lambda: one.fleet.trouble is None)


async def test_a_server_that_may_forget_streams_is_told_of(redis, caplog):
    redis.client.config_set("maxmemory-policy", "allkeys-lru")
    redis.client.config_set("maxmemory", "1gb")
    try:
        async with agent(redis.url, "one", History()) as one:
            await until(lambda: one.fleet.trouble is None)
    finally:
        redis.client.config_set("maxmemory", 0)
        redis.client.config_set("maxmemory-policy", "noeviction")
    (told,) = [each for each in caplog.messages if "maxmemory-policy" in each]
    assert "allkeys-lru" in told
