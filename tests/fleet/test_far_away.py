"""A server that is far away: what an agent does takes a round trip, not one for each of its streams."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.fleet.agents import agent, row, until
from tests.fleet.history import History
from tests.process.fleet_scene import Link

pytestmark = pytest.mark.slow("a real server, real time")
STREAMS = 40


async def test_an_agent_that_ends_hands_over_many_streams_in_time(redis):
    """The kind is an end that is cut off: what is left then has nobody for the time of a lease."""
    with closing(Link(redis.port)) as link:
        far = f"redis://127.0.0.1:{link.port}"
        async with agent(redis.url, "one", History(), lease=2.0) as one:
            await until(lambda: one.fleet.trouble is None)
            await one.fleet.drain("one", on=True)
            async with agent(far, "two", History(), lease=2.0) as two:
                await until(lambda: two.fleet.trouble is None)
                for number in range(STREAMS):
                    await one.fleet.put(row(f"s{number}"), 0)
                await until(lambda: len(two.streams) == STREAMS)
                await one.fleet.drain("one", on=False)
                await until(lambda: not two.fleet.view.agents["one"].draining)
                mine = two.fleet._standing.incarnation.encode()  # noqa: SLF001
                link.delay = 0.05
            leases = redis.client.hvals("lva:{test}:leases")
            assert not [lease for lease in leases if lease.startswith(mine)]
            assert "agent one goes on with it" in two.notes.reasons
            await until(lambda: len(one.streams) == STREAMS)
