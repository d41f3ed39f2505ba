"""What is begun with the server and interrupted, and what comes late: nothing of it is lost or does harm."""

from __future__ import annotations

import pytest
import trio

from lva.contract import RequestProblem
from lva.fleet.rows import ReportedState
from lva.fleet.server import FleetServerError, OldServerError
from lva.video.fleet.forwarding import Forwarding
from tests.fleet.agents import agent, row, until
from tests.fleet.history import History

pytestmark = pytest.mark.slow("real servers, real time: a lease lasts as long as it does")


async def test_a_restore_that_is_interrupted_is_done_again(redis):
    """The kind is a server that loses its data, and fails again before an agent has written all of it."""
    async with agent(redis.url, "one", History()) as one:
        await until(lambda: one.fleet.trouble is None)
        await one.fleet.put(row("s"), 0)
        await until(lambda: one.streams)
        standing, run, failed = one.fleet._standing, one.fleet._standing.server.run, []  # noqa: SLF001

        async def fail_once(script, *arguments):
            if script == "restore" and not failed:
                failed.append(script)
                raise FleetServerError("cut")
            return await run(script, *arguments)

        standing.server.run = fail_once
        redis.client.flushall()
        await until(lambda: failed and one.fleet.trouble is None)
        await until(lambda: redis.client.hexists("lva:{test}:streams", "s"), 3)


async def test_a_run_of_the_server_that_a_claim_meets_first_is_opened_too(redis):
    """The kind is news that only one caller of a connection gets: others have opened this run already."""
    async with agent(redis.url, "one", History()) as one:
        await until(lambda: one.fleet.trouble is None)
        standing, opened = one.fleet._standing, []  # noqa: SLF001
        run = standing.server.run

        async def noted(script, *arguments):
            if script == "claim" and not opened:
                opened.append("")
                raise OldServerError("the server was started again")
            if script == "open":
                opened.append(script)
            return await run(script, *arguments)

        standing.server.run = noted
        await one.fleet.put(row("s"), 0)
        await until(lambda: one.streams)
        assert opened == ["", "open"]


async def test_a_report_of_an_earlier_lease_does_not_end_a_later_one(redis):
    """The kind is a report that could not be sent in the lease that it is of."""
    async with agent(redis.url, "one", History()) as one:
        await until(lambda: one.fleet.trouble is None)
        await one.fleet.put(row("s"), 0)
        await until(lambda: one.streams)
        reports = one.fleet._work.reports  # noqa: SLF001
        insist, blocked = reports._server.insist, [True]  # noqa: SLF001

        async def cut(script, *arguments):
            return False if blocked[0] else await insist(script, *arguments)

        reports._server.insist = cut  # noqa: SLF001
        one.fleet.report("s", ReportedState("done", True, "end", None, 1.0, "one", 1))
        await trio.sleep(0.05)
        await one.fleet._work.give_up("the network is cut")  # noqa: SLF001
        await until(lambda: one.streams)
        assert one.notes.running["s"][0] == 2
        blocked[0] = False
        await trio.sleep(3 * one.fleet.tick)
        assert one.streams == {"s"} == {*one.fleet.held}
        assert redis.client.hget("lva:{test}:leases", "s").split()[-1] in ("2", b"2")


async def test_what_was_removed_meanwhile_is_not_restored(redis):
    """The kind is an agent that was away when a stream was removed, and writes again what it knows."""
    async with (
        agent(redis.url, "one", History()) as one,
        agent(redis.url, "two", History(), room=0) as two,
    ):
        await until(lambda: one.fleet.trouble is None is two.fleet.trouble)
        await one.fleet.put(row("s"), 0)
        await until(lambda: one.streams and two.fleet.view.rows)
        await one.fleet.want("s", "remove", ReportedState("stop", True, "", None, 1.0, "one"), "")
        old = two.fleet.view.rows["s"]
        await until(lambda: not one.fleet.view.rows and not two.fleet.view.rows)
        two.fleet.view.put(old)
        await two.fleet._work.restore(two.fleet._work.server)  # noqa: SLF001
        assert not redis.client.hexists("lva:{test}:streams", "s")


async def test_leases_that_the_server_has_dropped_are_taken_again(redis):
    """The kind is a key that is gone without a word: evicted, or deleted by a person."""
    async with agent(redis.url, "one", History()) as one:
        await until(lambda: one.fleet.trouble is None)
        await one.fleet.put(row("s"), 0)
        await until(lambda: one.streams)
        redis.client.delete("lva:{test}:leases")
        await until(lambda: one.notes.reasons)
        await until(lambda: one.notes.running.get("s", (0, 0))[0] == 2, 4)


@pytest.mark.parametrize("text", ["\ud800", "\x00"])
async def test_any_text_of_a_report_is_taken(redis, text):
    async with agent(redis.url, "one", History()) as one:
        await until(lambda: one.fleet.trouble is None)
        await one.fleet.put(row("s"), 0)
        await until(lambda: one.streams)
        one.fleet.report("s", ReportedState("in_progress", False, text, None, 1.0, "one", 1), text)
        await until(lambda: redis.client.hget("lva:{test}:states", "s"), 3)
        await until(lambda: one.fleet.view.rows["s"].state is not None)
        assert one.fleet.view.rows["s"].state.status == "in_progress"
        assert one.fleet.view.broken == {}


async def test_a_stream_that_is_wanted_again_is_not_removed(redis):
    """The kind is an agent that removes a stream by what it knows, while a user has it run again."""
    async with agent(redis.url, "one", History(), room=0) as one:
        await until(lambda: one.fleet.trouble is None)
        await one.fleet.put(row("s"), 0)
        server = one.fleet._work.server  # noqa: SLF001
        assert await server.attempt("remove", "s", "", "", "me") is None
        assert redis.client.hexists("lva:{test}:streams", "s")


async def test_an_address_that_no_resolver_takes_is_an_agent_that_cannot_be_reached():
    with pytest.raises(RequestProblem, match="cannot be reached"):
        await Forwarding("one").get("http://..", "/streams")


STOPPED = ReportedState("stop", True, "", None, 1.0, "one")


async def test_a_stream_whose_lease_is_lost_while_it_is_stopped_is_let_go(redis):
    """The kind is an end of which nothing is told: the room that it takes would never be free again."""
    async with agent(redis.url, "one", History()) as one:
        await until(lambda: one.fleet.trouble is None)
        await one.fleet.put(row("s"), 0)
        await until(lambda: one.streams)

        async def unreported(stream_id: str, why: str) -> None:
            await trio.sleep(3 * one.fleet.tick)
            await one.notes.let_go(stream_id, why)

        one.notes.stop = unreported
        await one.fleet.want("s", "stop", STOPPED, "")
        await until(lambda: one.fleet.held["s"].going)
        redis.client.hset("lva:{test}:leases", "s", "other 77")
        await until(lambda: not one.fleet.held, 4)


async def test_a_stream_that_is_resumed_before_its_stop_is_told_runs(redis):
    """The kind is a report that overtakes nothing: it is older than what a user wants now."""
    async with agent(redis.url, "one", History()) as one:
        await until(lambda: one.fleet.trouble is None)
        await one.fleet.put(row("s"), 0)
        await until(lambda: one.streams)
        server, gate = one.fleet._work.reports._server, trio.Event()  # noqa: SLF001
        insist = server.insist

        async def late(script, *arguments):
            if script == "report":
                await gate.wait()
            return await insist(script, *arguments)

        server.insist = late
        await one.fleet.want("s", "stop", STOPPED, "")
        await until(lambda: not one.streams)
        await one.fleet.want("s", "run", STOPPED, "")
        gate.set()
        await until(lambda: one.streams, 4)


DONE = ReportedState("done", True, "the end", None, 1.0, "one", 1)


async def late_end(one, redis, change, *, twice: bool = False):
    """Let a stream come to its end, and tell of that after a change; return what is kept of its state then.

    Args:
        one: The agent that works on it.
        redis: The server.
        change: What its users do meanwhile.
        twice: Whether it was told before, too, and the response was lost.
    """
    await until(lambda: one.fleet.trouble is None)
    await one.fleet.put(row("s"), 0)
    await until(lambda: one.streams)
    server, gate = one.fleet._work.reports._server, trio.Event()  # noqa: SLF001
    insist, sent = server.insist, []

    async def late(script, *arguments):
        if script == "report":
            if twice:
                await insist(script, *arguments)
            sent.append(script)
            await gate.wait()
        return await insist(script, *arguments)

    server.insist = late
    one.notes.end("s")
    one.fleet.report("s", DONE, '{"old": 1}')
    await until(lambda: sent)
    await change()
    await one.fleet.until(lambda: one.fleet.view.rows["s"].state is None, 3)
    gate.set()
    await until(lambda: one.streams, 4)
    await trio.sleep(3 * one.fleet.tick)
    assert one.streams == {"s"} == {*one.fleet.held}
    assert one.notes.running["s"][0] == 2
    assert await one.fleet.logs("s") == ['{"old": 1}'] * (1 + twice)
    assert redis.client.hget("lva:{test}:states", "s") is None
    assert one.fleet.view.rows["s"].state is None


async def test_the_end_of_an_earlier_version_does_not_end_a_later_one(redis):
    """The kind is a report that was under way when users changed what they want."""
    async with agent(redis.url, "one", History()) as one:
        await late_end(one, redis, lambda: one.fleet.put(row("s", 2), 1))
        assert one.notes.versions["s"] == 2


async def test_the_end_of_a_run_that_is_told_once_more_does_not_end_a_resumed_one(redis):
    async with agent(redis.url, "one", History()) as one:
        await late_end(one, redis, lambda: one.fleet.want("s", "run", STOPPED, ""), twice=True)


async def test_what_was_resumed_comes_to_its_own_end(redis):
    async with agent(redis.url, "one", History()) as one:
        await late_end(one, redis, lambda: one.fleet.want("s", "run", STOPPED, ""))
        one.notes.end("s")
        one.fleet.report("s", DONE)
        await until(lambda: not one.fleet.held)
        assert one.fleet.view.rows["s"].state == DONE
