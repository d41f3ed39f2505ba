"""What the page of fleets says is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from lva.fleet.rows import ReportedState
from tests.fleet.agents import agent, row, until
from tests.fleet.history import History

PAGE = (Path(__file__).parents[2] / "docs" / "fleet.rst").read_text()
pytestmark = pytest.mark.slow("a real server, real time")
OVER = ReportedState("done", True, "the end", None, 1.0, "one", 1)
STOPPED = ReportedState("stop", True, "stopped by a user", None, 1.0, "one", 1)


async def test_the_user_of_the_page_may_do_all_that_agents_do_and_reach_no_other_key(redis):
    (rights,) = re.findall(r"ACL SETUSER lva on >PASSWORD (.*)", PAGE)
    rights = rights.replace("lva:{lva}", "lva:{test}")
    redis.client.execute_command("ACL", "SETUSER", "lva", "on", ">secret", *rights.split())
    more = {"username": "lva", "password": "secret"}
    async with (
        agent(redis.url, "one", History(), **more) as one,
        agent(redis.url, "two", History(), **more) as two,
    ):
        await until(lambda: one.fleet.trouble is None and two.fleet.trouble is None)
        for number in range(4):
            await one.fleet.put(row(f"s{number}"), 0)
        await until(lambda: len(one.streams) == len(two.streams) == 2)
        await one.fleet.drain("two", on=True)
        await until(lambda: len(one.streams) == 4)
        one.notes.end("s0")
        one.fleet.report("s0", OVER, "{}")
        await until(lambda: "s0" not in one.fleet.held)
        assert await one.fleet.logs("s0") == ["{}"]
        await one.fleet.want("s1", "stop", STOPPED, "{}")
        await one.fleet.want("s0", "remove", STOPPED, "{}")
        await until(lambda: "s1" not in one.streams and "s0" not in one.fleet.view.rows)
        redis.client.set("lva:{test}:leases", "another program's")
        await until(lambda: "is a string" in (one.fleet.trouble or ""))
        redis.client.flushall()  # the agents restore it
        await until(lambda: one.fleet.trouble is None)
    with Redis(port=redis.port, username="lva", password="secret") as client:
        for command in (["GET", "another"], ["CONFIG", "GET", "*"], ["FLUSHALL"]):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command)
    redis.client.acl_deluser("lva")
