"""What operators do to single plugins: nothing is lost, nobody else notices, every guarantee holds."""

from __future__ import annotations

import sqlite3
from contextlib import closing, nullcontext
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lva.errors import ConfigurationError
from lva.host.changes import ActionRefusedError, UnknownPluginError
from lva.host.life.states import TRANSITIONS, State
from tests.support import RunningHost, journal, numbered, running_host, until

BACKGROUND = """
    class P(BaseBackgroundPlugin):
        def __init__(self, app):
            super().__init__(app)
            journal.append("made")

        async def initialize(self):
            journal.append("initialize")

        async def start(self):
            try:
                await trio.sleep_forever()
            finally:
                journal.append("start ended")

        async def close(self):
            journal.append("close")
"""
SINK = """
    class Sink(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            await trio.sleep(1)
            journal.extend(point.fields["n"] for point in points)
"""
OTHER = """
    class Other(BaseEventPlugin):
        eventName = "monitoring_event"
        got = []

        async def handleEvent(self, points, logger):
            self.got.extend(point.fields["n"] for point in points)
"""
HANGING_CLOSE = """
    class P(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            journal.extend(point.fields["n"] for point in points)

        async def close(self):
            if "hung" not in journal:
                journal.append("hung")
                await trio.sleep_forever()
"""
STUBBORN_CLOSE = """
    class P(BaseEventPlugin):
        eventName = "monitoring_event"
        release = trio.Event()

        async def handleEvent(self, points, logger):
            journal.extend(point.fields["n"] for point in points)

        async def close(self):
            with trio.CancelScope(shield=True):
                await self.release.wait()
"""
CRASHING = """
    class P(BaseEventPlugin, BaseBackgroundPlugin):
        eventName = "monitoring_event"

        async def initialize(self):
            if "mended" not in journal:
                raise OSError("no camera")

        async def handleEvent(self, points, logger):
            journal.extend(point.fields["n"] for point in points)
"""
LIVE = {State.LOADED, State.INITIALIZING, State.RUNNING, State.BACKOFF, State.STOPPING}


def ledger(host: RunningHost, name: str) -> dict[str, Any]:
    total = host.life(name).record.deliveries.total()
    assert total.balanced
    return total.as_dict()


def legal(host: RunningHost) -> bool:
    """Return whether every plugin's history keeps to the table."""
    histories = [[step.state for step in life.record.history] for life in host.host.lives.values()]
    return all(
        after in TRANSITIONS[before]
        for states in histories
        for before, after in zip(states, states[1:], strict=False)
    )


async def test_stop_and_start(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"p": BACKGROUND, "q": BACKGROUND}) as host:
        journal.clear()
        await host.host.changes.stop("p")
        assert host.life("p").state.value is State.STOPPED
        assert journal == ["start ended", "close"]
        assert host.life("p").record.last.reason == "stopped by an operator"
        assert (host.host.not_ready(), host.host.paused()) == ({}, ["p"])
        await host.host.changes.start("p")
        assert host.host.paused() == []
        assert host.life("p").state.value is State.RUNNING
        assert journal[2:] == ["made", "initialize"]
        assert host.life("p").record.lives == 2
        assert host.states("q") == ["loaded", "initializing", "running"]
        assert legal(host)
        receipt = await host.stop()
        assert receipt.exit_code == 0, "an operator's stop is no fault"
        assert journal.count("initialize") + 2 == journal.count("close") == 3


async def test_a_restart_makes_a_new_instance_when_the_old_one_is_closed(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"p": BACKGROUND}) as host:
        before = host.plugin("p")
        journal.clear()
        await host.host.changes.restart("p")
        assert journal == ["start ended", "close", "made", "initialize"]
        assert host.plugin("p") is not before
        assert host.states("p")[3:] == ["stopping", "stopped", "loaded", "initializing", "running"]
        assert host.life("p").record.restarts == 0, "restarts counts what the host does by itself"
        assert (await host.receipt_of("p")).lives == 2


async def test_a_point_goes_to_those_who_are_there_when_it_is_published(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"sink": SINK, "other": OTHER}) as host:
        view = host.plugin("other").app
        for n, change in enumerate((host.host.changes.restart, host.host.changes.stop)):
            assert view.publish("monitoring_event", numbered(1, 2 * n))
            await change("sink")
            assert view.publish("monitoring_event", numbered(1, 2 * n + 1))
        await host.host.changes.start("sink")
        await trio.sleep(100)
        assert host.plugin("other").got == list(range(4))
        assert list(dict.fromkeys(journal)) == list(range(4))
        assert ledger(host, "sink")["delivered"] == ledger(host, "sink")["accepted"] == 4


async def test_points_wait_for_the_next_life_and_arrive_in_order(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"sink": SINK, "other": OTHER}) as host:
        host.publish(numbered(10))
        await wait_all_tasks_blocked()
        await host.host.changes.stop("sink")
        host.publish(numbered(10, 10))
        await trio.sleep(100)
        assert ledger(host, "sink")["queued"] + ledger(host, "sink")["in_flight"] >= 10
        assert host.plugin("other").got == list(range(20))
        await host.host.changes.start("sink")
        await trio.sleep(10)
        assert list(dict.fromkeys(journal)) == list(range(20))
        assert ledger(host, "sink")["delivered"] == ledger(host, "sink")["accepted"] == 20
        assert (await host.stop()).exit_code == 0


async def test_calls_that_an_operator_s_change_cuts_short_are_not_held_against_the_batch(
    tmp_path, autojump_clock
):
    source = """
        class Sink(BaseEventPlugin):
            eventName = "monitoring_event"

            async def handleEvent(self, points, logger):
                journal.append("called")
                if len(journal) <= 3:
                    await trio.sleep_forever()
                if len(journal) == 4:
                    raise OSError("a moment, please")
                journal.extend(point.fields["n"] for point in points)
    """
    tables = {"sink": {"max_attempts": 2}}
    async with running_host(tmp_path, {"sink": source}, tables) as host:
        host.publish(numbered(3))
        for _ in range(3):
            await trio.sleep(1)
            await host.host.changes.restart("sink")
        await trio.sleep(100)
        assert journal == ["called"] * 5 + [0, 1, 2]
        assert ledger(host, "sink")["delivered"] == 3
        assert (await host.stop()).exit_code == 0


async def test_points_of_a_stopped_plugin_keep_to_its_bounds_and_are_accounted_for(
    tmp_path, autojump_clock
):
    tables = {"sink": {"buffer_limit": 5}}
    async with running_host(tmp_path, {"sink": SINK}, tables) as host:
        await host.host.changes.stop("sink")
        host.publish(numbered(8))
        assert ledger(host, "sink")["dropped"] == {"overflow": 3}
        part = await host.receipt_of("sink")
        assert part.points["dropped"] == {"overflow": 3, "shutdown": 5}
        assert part.points["queued"] == 0
        assert part.state == "stopped"
        assert host.host.receipt is not None
        assert host.host.receipt.exit_code == 4


@pytest.mark.slow("a disk and threads keep real time")
async def test_points_of_a_stopped_plugin_with_a_spool_are_kept(tmp_path):
    tables = {"sink": {"spool": "disk"}}
    async with running_host(tmp_path, {"sink": SINK}, tables) as host:
        await host.host.changes.stop("sink")
        host.publish(numbered(8))
        part = await host.receipt_of("sink")
        assert part.points["kept"] == 8
        assert host.host.receipt is not None
        assert host.host.receipt.exit_code == 0
    async with running_host(tmp_path, {"sink": SINK}, tables) as host:
        await until(lambda: ledger(host, "sink")["delivered"] == 8)
        assert journal == list(range(8))


async def test_what_is_impossible_is_refused_with_a_reason(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"pump": BACKGROUND}) as host:
        changes = host.host.changes
        with pytest.raises(UnknownPluginError, match=r"'pum'; did you mean 'pump'\?"):
            await changes.stop("pum")
        with pytest.raises(ActionRefusedError, match="'pump' is running; to begin anew, restart"):
            await changes.start("pump")
        assert "start" not in changes.possible("pump")
        assert {"stop", "restart"} <= set(changes.possible("pump"))
        await changes.stop("pump")
        with pytest.raises(ActionRefusedError, match="has ended already: it is stopped"):
            await changes.stop("pump")
        assert "stop" not in changes.possible("pump")
        assert {"start", "restart"} <= set(changes.possible("pump"))
        await host.stop()
        with pytest.raises(ActionRefusedError, match="the service is stopping"):
            await changes.start("pump")
        assert changes.possible("pump") == []


async def test_one_action_at_a_time(tmp_path, autojump_clock):
    slow = BACKGROUND.replace('journal.append("close")', "await trio.sleep(2)")
    async with (
        running_host(tmp_path, {"p": slow, "q": slow}) as host,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(host.host.changes.restart, "p")
        await wait_all_tasks_blocked()
        with pytest.raises(ActionRefusedError, match="'p' is under way: restart"):
            await host.host.changes.stop("p")
        assert host.host.changes.possible("p") == []
        begun = trio.current_time()
        await host.host.changes.restart("q")  # another plugin's does not wait
        assert trio.current_time() - begun == 2


async def test_an_action_goes_on_when_who_asked_for_it_is_gone(tmp_path, autojump_clock):
    slow = BACKGROUND.replace('journal.append("close")', "await trio.sleep(2)")
    async with running_host(tmp_path, {"p": slow}) as host:
        with trio.move_on_after(1):
            await host.host.changes.restart("p")
        assert host.life("p").state.value is State.STOPPING
        await host.host.changes.done("p")
        assert host.life("p").state.value is State.RUNNING
        assert host.life("p").record.lives == 2


async def test_a_plugin_that_waits_for_its_turn_or_its_next_attempt_can_be_stopped(
    tmp_path, autojump_clock
):
    slow = BACKGROUND.replace('journal.append("initialize")', "await trio.sleep(20)")
    failing = BACKGROUND.replace('journal.append("initialize")', "raise OSError")
    sources = {"slow": slow, "next": BACKGROUND, "failing": failing}
    async with running_host(tmp_path, sources, wait=False) as host:
        await wait_all_tasks_blocked()
        assert host.life("next").state.value is State.LOADED
        await host.host.changes.stop("next")
        await host.host.changes.stop("slow")
        await host.wait_for("failing", State.BACKOFF)
        await host.host.changes.stop("failing")
        assert host.host.not_ready() == {}
        await host.host.changes.restart("failing")
        assert host.life("failing").state.value is State.BACKOFF, "the effect is there"
        assert legal(host)


# Plugins that have given up


@pytest.mark.parametrize("verb", ["stop", "restart"])
async def test_a_change_of_a_plugin_that_waits_for_its_turn_lets_nobody_jump_the_queue(
    tmp_path, autojump_clock, verb
):
    slow = BACKGROUND.replace('journal.append("initialize")', "await trio.sleep(1)")
    last = BACKGROUND.replace('append("initialize")', "append(trio.current_time())")
    async with running_host(
        tmp_path, {"slow": slow, "p": BACKGROUND, "last": last}, wait=False
    ) as host:
        begun = trio.current_time()
        await trio.sleep(0.3)
        await getattr(host.host.changes, verb)("p")
        await trio.sleep(0.3)
        assert host.states("last") == ["loaded"]
        await host.wait_for("last", State.RUNNING)
        assert host.states("slow")[-1] == "running"
        assert next(at for at in journal if isinstance(at, float)) - begun == pytest.approx(1)


async def test_a_stop_of_the_service_while_the_turn_of_a_stopped_plugin_has_not_come(
    tmp_path, autojump_clock
):
    hanging = BACKGROUND.replace('journal.append("initialize")', "await trio.sleep_forever()")
    sources = {"hanging": hanging, "p": BACKGROUND, "last": BACKGROUND}
    async with running_host(tmp_path, sources, wait=False) as host:
        await trio.sleep(1)
        await host.host.changes.stop("p")
        receipt = await host.stop()
        assert receipt.exit_code == 0
        assert host.states("last") == ["loaded", "stopping", "stopped"]


async def test_a_failed_plugin_is_started_again_and_takes_points_again(tmp_path, autojump_clock):
    tables = {"p": {"restart": "never"}}
    async with running_host(tmp_path, {"p": CRASHING}, tables, wait=False) as host:
        host.publish(numbered(3))
        await host.wait_for("p", State.FAILED)
        host.publish(numbered(2, 3))
        before = ledger(host, "p")
        assert (before["dropped"].get("plugin_failed", 0), before["refused"]) == (3, 2)
        journal.append("mended")
        await host.host.changes.start("p")
        assert host.life("p").state.value is State.RUNNING
        host.publish(numbered(4, 10))
        await trio.sleep(1)
        assert journal[1:] == [10, 11, 12, 13]
        assert ledger(host, "p")["delivered"] == 4
        assert ledger(host, "p")["accepted"] == 7
        part = await host.receipt_of("p")
        assert (part.state, part.lives, part.lost) == ("stopped", 2, 3)
        assert legal(host)


async def test_a_failed_plugin_that_is_stopped_is_not_waited_for_any_more(tmp_path, autojump_clock):
    tables = {"p": {"restart": "never"}}
    sources = {"p": CRASHING, "other": BACKGROUND}
    async with running_host(tmp_path, sources, tables, wait=False) as host:
        host.publish(numbered(3))
        await host.wait_for("p", State.FAILED)
        await host.life("p").ended.wait()
        await host.wait_for("other", State.RUNNING)
        error = host.life("p").record.last_error
        assert host.host.changes.possible("p") == ["start", "stop", "restart", "reload"]
        assert list(host.host.not_ready()) == ["p"]
        await host.host.changes.stop("p")
        assert (host.host.not_ready(), host.host.paused()) == ({}, ["p"])
        assert host.life("p").record.last[::2] == (State.STOPPED, "stopped by an operator")
        assert host.life("p").record.last_error == error
        assert host.host.changes.possible("p") == ["start", "restart", "reload"]
        with pytest.raises(ActionRefusedError, match="ended already: it is stopped"):
            await host.host.changes.stop("p")
        journal.append("mended")
        await host.host.changes.start("p")
        await host.host.changes.stop("p")
        part = await host.receipt_of("p")
        assert (part.state, part.lives, part.lost) == ("stopped", 2, 3)
        assert legal(host)


async def test_a_critical_plugin_that_has_failed_is_stopped_while_it_closes_and_stays_critical(
    tmp_path, autojump_clock
):
    closing = CRASHING + "\n        async def close(self):\n            await trio.sleep(2)\n"
    tables = {"p": {"restart": "never", "critical": True}}
    async with running_host(tmp_path, {"p": closing}, tables, wait=False) as host:
        host.publish(numbered(1))
        await host.wait_for("p", State.FAILED)
        assert not host.life("p").ended.is_set()
        await host.host.changes.stop("p")
        assert host.host.paused() == ["p"]
        assert legal(host)
        assert host.host.stop.critical == "p"
        assert (await host.stop()).exit_code == 3


@pytest.mark.slow("a disk and threads keep real time")
async def test_a_failed_plugin_gets_its_points_back_from_a_spool_that_opens_beside_the_event_loop(
    tmp_path,
):
    """A file that is locked for a moment holds up the start, and nothing else."""
    tables = {"p": {"restart": "never", "spool": "disk"}}
    async with running_host(tmp_path, {"p": CRASHING}, tables, wait=False) as host:
        host.publish(numbered(3))
        await host.wait_for("p", State.FAILED)
        with trio.fail_after(10):
            await host.life("p").ended.wait()
        assert ledger(host, "p")["kept"] == 3
        (path,) = tmp_path.rglob("p.P.sqlite3")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(ConfigurationError, match="another running service uses it"):
                await host.host.changes.start("p")
            journal.append("mended")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(host.host.changes.start, "p")
                await trio.sleep(0.1)
                other.close()  # which this task would not come to, were the file opened on the loop
        assert host.life("p").state.value is State.RUNNING
        await until(lambda: ledger(host, "p")["delivered"] == 3)
        assert journal[1:] == [0, 1, 2]
        assert legal(host)
        assert (await host.receipt_of("p")).points["accepted"] == 3
        assert host.host.receipt is not None
        assert host.host.receipt.exit_code == 0


async def test_an_operator_s_start_gives_a_plugin_all_its_restarts_again(tmp_path, autojump_clock):
    tables = {"p": {"startup_error_behavior": "error"}}
    async with running_host(tmp_path, {"p": CRASHING}, tables, wait=False) as host:
        await host.wait_for("p", State.FAILED)
        count = host.life("p").record.restarts
        await host.host.changes.restart("p")
        assert host.life("p").state.value is State.BACKOFF
        await host.wait_for("p", State.FAILED)
        assert host.life("p").record.restarts == 2 * count


async def test_restart_when_close_hangs(tmp_path, autojump_clock):
    """The old life is abandoned, but nothing of it is alive: the new one begins, with the points."""
    async with running_host(tmp_path, {"p": HANGING_CLOSE}) as host:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.host.changes.restart, "p")
            await wait_all_tasks_blocked()
            host.publish(numbered(5))
            assert ledger(host, "p")["queued"] == 5
        assert host.states("p")[3:] == [
            "stopping", "abandoned", "loaded", "initializing", "running",
        ]  # fmt: skip
        await trio.sleep(1)
        assert journal == ["hung", 0, 1, 2, 3, 4]
        part = await host.receipt_of("p")
        assert (part.state, part.abandoned) == ("stopped", 1)
        assert "took longer than 5 s" in part.problems[0]
        assert host.host.receipt is not None
        assert host.host.receipt.exit_code == 4, "every life counts"


async def test_nothing_is_started_while_the_old_life_is_still_alive(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"p": STUBBORN_CLOSE}) as host:
        old = host.plugin("p")
        with pytest.raises(ActionRefusedError, match=r"still alive: task p\.P\.close"):
            await host.host.changes.restart("p")
        assert host.life("p").state.value is State.ABANDONED
        assert host.host.not_ready().keys() == {"p"}
        host.publish(numbered(2))
        assert ledger(host, "p")["refused"] == 2
        with pytest.raises(ActionRefusedError, match="still alive"):
            await host.host.changes.start("p")
        old.release.set()
        await wait_all_tasks_blocked()
        await host.host.changes.start("p")
        assert host.life("p").state.value is State.RUNNING
        host.publish(numbered(2))
        await trio.sleep(1)
        assert journal == [0, 1]
        assert legal(host)
        assert (await host.stop()).exit_code == 4


@pytest.mark.parametrize("verb", ["stop", "restart"])
async def test_a_critical_plugin_that_an_operator_leaves_abandoned_ends_the_service(
    tmp_path, autojump_clock, verb
):
    tables = {"p": {"critical": True}}
    async with running_host(tmp_path, {"p": STUBBORN_CLOSE}, tables) as host:
        old = host.plugin("p")
        refused = pytest.raises(ActionRefusedError) if verb == "restart" else nullcontext()
        with refused:
            await getattr(host.host.changes, verb)("p")
        old.release.set()
        assert host.life("p").state.value is State.ABANDONED
        assert host.host.stop.gave_up.is_set()
        assert (await host.stop()).exit_code == 3


async def test_a_critical_plugin_may_be_stopped_and_restarted(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"p": HANGING_CLOSE}, {"p": {"critical": True}}) as host:
        await host.host.changes.restart("p")
        await host.host.changes.stop("p")
        assert not host.host.stop.gave_up.is_set()


@pytest.mark.slow("a disk and threads keep real time")
async def test_a_thread_that_a_handler_left_may_still_end(tmp_path):
    source = """
        class P(BaseBackgroundPlugin):
            async def start(self):
                if not journal:
                    await trio.to_thread.run_sync(self.work, abandon_on_cancel=True)

            def work(self):
                journal.append("at work")
                time.sleep(0.3)
    """
    async with running_host(tmp_path, {"p": source}) as host:
        await until(lambda: journal)
        await host.host.changes.restart("p")
        assert host.life("p").state.value is State.RUNNING
        assert (await host.stop()).plugins[0].abandoned == 0


# Shutdown in the middle of an action

SLOW = """
    class P(BaseEventPlugin, BaseBackgroundPlugin):
        eventName = "monitoring_event"

        async def initialize(self):
            await trio.sleep(1)
            journal.append("initialize")

        async def handleEvent(self, points, logger):
            await trio.sleep(0.5)
            journal.extend(point.fields["n"] for point in points)

        async def close(self):
            await trio.sleep(1)
            journal.append("close")
"""
SLOW_BACKGROUND = SLOW.replace("BaseEventPlugin, ", "")


@pytest.mark.parametrize("after", [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3])
@pytest.mark.parametrize("verb", ["stop", "start", "restart"])
@pytest.mark.parametrize("kind", ["event", "background"])
async def test_shutdown_in_the_middle_of_an_action(tmp_path, autojump_clock, verb, kind, after):
    source = SLOW if kind == "event" else SLOW_BACKGROUND
    outcome: list[BaseException | None] = []

    async def act() -> None:
        try:
            await getattr(host.host.changes, verb)("p")
            outcome.append(None)
        except ActionRefusedError as error:
            outcome.append(error)

    async with running_host(tmp_path, {"first": BACKGROUND, "p": source}) as host:
        if verb == "start":
            await host.host.changes.stop("p")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(act)
            await wait_all_tasks_blocked()
            if kind == "event":
                host.publish(numbered(3))
            await trio.sleep(after)
            begun = trio.current_time()
            receipt = await host.stop()
            assert host.host.changes._under_way == {}, "the receipt is that of the end"
        assert trio.current_time() - begun <= 25
        assert len(outcome) == 1, "who asked is told"
        assert legal(host)
        assert all(life.ended.is_set() for life in host.host.lives.values())
        assert journal.count("initialize") <= journal.count("close") + 1
        part = next(part for part in receipt.plugins if part.name == "p")
        assert part.state == "stopped"
        if kind == "event":
            assert host.life("p").record.deliveries.total().balanced
            assert part.points["queued"] == part.points["in_flight"] == 0
            # Only an operator's stop, and a start that came too late, leave points to nobody.
            if verb == "restart":
                assert part.lost == 0
                assert sorted({item for item in journal if type(item) is int}) == [0, 1, 2]
            assert receipt.exit_code == (4 if part.lost else 0)
        else:
            assert receipt.exit_code == 0
