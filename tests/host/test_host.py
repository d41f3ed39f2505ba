"""All plugins together: starting and stopping in order, publishing, the receipt."""

from __future__ import annotations

import json
import re

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lva import MonitoringPoint
from lva.host.host import Host
from lva.host.life.states import State, Transition
from lva.host.loading.load import load_plugins
from lva.host.receipt import PluginReceipt, Receipt
from tests.support import (
    JOURNALLED,
    host_settings,
    journal,
    numbered,
    running,
    running_host,
    write_plugin,
)

BACKGROUND = """
    NAME = __name__.rpartition(".")[2]

    class P(BaseBackgroundPlugin):
        async def initialize(self):
            journal.append(f"{NAME} initialize")

        async def close(self):
            journal.append(f"{NAME} close")
            await trio.sleep(1)
            journal.append(f"{NAME} closed")
"""
EVENT = """
    NAME = __name__.rpartition(".")[2]

    class P(BaseEventPlugin):
        eventName = "monitoring_event"

        async def initialize(self):
            journal.append(f"{NAME} initialize")

        async def handleEvent(self, points, logger):
            await trio.sleep(0.5)
            journal.append(f"{NAME} got {[point.fields['n'] for point in points]}")

        async def close(self):
            journal.append(f"{NAME} close")
"""
#: Ends in time neither its work nor its close.
HANGING = """
    class P(BaseBackgroundPlugin):
        async def start(self):
            with trio.CancelScope(shield=True):
                await trio.sleep(500)

        async def close(self):
            with trio.CancelScope(shield=True):
                await trio.sleep(500)
"""
HANGING_EVENT = """
    class P(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            with trio.CancelScope(shield=True):
                await trio.sleep(500)

        async def close(self):
            with trio.CancelScope(shield=True):
                await trio.sleep(500)
"""


# Order


async def test_plugins_stop_in_reverse_background_first_then_events(tmp_path, autojump_clock):
    sources = {"ea": EVENT, "ba": BACKGROUND, "eb": EVENT, "bb": BACKGROUND}
    async with running_host(tmp_path, sources) as host:
        assert journal == [f"{name} initialize" for name in sources]
        journal.clear()
        host.publish(numbered(1))
        await host.stop()
        got = [line for line in journal if "got" in line]
        rest = [line for line in journal if "got" not in line]
        assert sorted(got) == ["ea got [0]", "eb got [0]"]
        assert rest == ["bb close", "bb closed", "ba close", "ba closed", "eb close", "ea close"]
        for name in ("ea", "eb"):
            assert journal.index(f"{name} got [0]") < journal.index("eb close")


#: Nothing is left to do for it once its tasks have ended.
NO_CLOSE = """
    class P(BaseBackgroundPlugin):
        async def start(self):
            try:
                await trio.sleep_forever()
            finally:
                journal.append(__name__.rpartition(".")[2])
"""


async def test_a_plugin_without_a_close_has_stopped_before_the_next_begins_to(
    tmp_path, autojump_clock
):
    names = ["a", "b", "c"]
    async with running_host(tmp_path, dict.fromkeys(names, NO_CLOSE)) as host:
        seen: list[tuple[str, str]] = []
        for name in names:
            host.life(name).record.watchers = [
                lambda name, old, step: seen.append((name, step.state.value))
            ]
        receipt = await host.stop()
        assert journal == ["c", "b", "a"]
        assert seen == [
            (name, state) for name in reversed(names) for state in ("stopping", "stopped")
        ]
        assert receipt.exit_code == 0
        assert all(host.life(name).stop_seconds == 0 for name in names)


async def test_points_that_a_background_plugin_publishes_while_it_closes_arrive(
    tmp_path, autojump_clock
):
    source = """
        class P(BaseBackgroundPlugin):
            async def close(self):
                await trio.sleep(1)
                self.app.publish("monitoring_event", [MonitoringPoint("last", 1.0, {}, {"n": 99})])
    """
    async with running_host(tmp_path, {"sink": EVENT, "p": source}) as host:
        receipt = await host.stop()
        assert "sink got [99]" in journal
        assert receipt.exit_code == 0


async def test_a_cancelled_host_still_stops_in_order(tmp_path, autojump_clock):
    sources = {"sink": EVENT, "a": BACKGROUND, "b": BACKGROUND}
    for name, source in sources.items():
        write_plugin(tmp_path / "plugins", name, source, JOURNALLED)
    settings = host_settings(tmp_path, sources)
    host = Host(settings, load_plugins(settings))
    journal.clear()
    with trio.move_on_after(10) as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(host.run)
            await wait_all_tasks_blocked()
            host.publisher.publish("monitoring_event", numbered(2))
            journal.clear()
    assert scope.cancelled_caught
    assert host.stopped.is_set()
    assert host.receipt.reason == "the host was cancelled"
    assert host.receipt.exit_code == 0
    assert [line for line in journal if "close" in line] == [
        "b close", "b closed", "a close", "a closed", "sink close",
    ]  # fmt: skip
    assert host.receipt.plugins[0].points["delivered"] == 2


async def test_a_cancelled_host_keeps_to_its_deadline(tmp_path, autojump_clock):
    write_plugin(tmp_path / "plugins", "p", HANGING, JOURNALLED)
    settings = host_settings(tmp_path, ["p"], shutdown_timeout=10)
    host = Host(settings, load_plugins(settings))
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await host.run()

        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        begun = trio.current_time()
        scope.cancel()
        await host.stopped.wait()
        assert trio.current_time() - begun <= 10
        assert host.receipt.exit_code == 4


# Isolation


async def test_one_slow_plugin_costs_the_others_nothing(tmp_path, autojump_clock):
    slow = EVENT.replace("0.5", "8")
    fast = EVENT.replace("trio.sleep(0.5)", "trio.sleep(0)")
    tables = {"slow": {"buffer_limit": 3}}
    async with running_host(tmp_path, {"slow": slow, "fast": fast}, tables) as host:
        journal.clear()
        begun = trio.current_time()
        for n in range(10):
            host.publish(numbered(1, n))
            await wait_all_tasks_blocked()
        assert trio.current_time() == begun
        assert [line for line in journal if "fast" in line] == [
            f"fast got [{n}]" for n in range(10)
        ]
        ledgers = {
            name: next(iter(life.deliveries.values())).ledger
            for name, life in host.host.lives.items()
        }
        assert ledgers["fast"].delivered == 10
        assert ledgers["slow"].lost == 6
        assert ledgers["slow"].balanced
        await trio.sleep(100)
        assert [line for line in journal if "slow" in line] == [
            "slow got [0]",
            "slow got [7, 8, 9]",
        ]


async def test_a_plugin_that_cannot_start_or_deliver_harms_no_other(tmp_path, autojump_clock):
    dead = """
        class P(BaseEventPlugin):
            eventName = "monitoring_event"

            async def initialize(self):
                raise SystemExit("down")

            async def handleEvent(self, points, logger):
                raise AssertionError
    """
    failing = EVENT.replace('journal.append(f"{NAME} got', 'raise OSError(f"{NAME} got')
    async with running_host(
        tmp_path, {"dead": dead, "failing": failing, "sink": EVENT}, wait=False
    ) as host:
        begun = trio.current_time()
        await host.wait_for("sink", State.RUNNING)
        assert trio.current_time() == begun, "a failing start holds nobody up"
        host.publish(numbered(3))
        await trio.sleep(2)
        assert "sink got [0, 1, 2]" in journal


# Publishing


async def test_an_unknown_event_is_refused_with_a_hint(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"sink": EVENT}) as host:
        with pytest.raises(ValueError, match="did you mean 'monitoring_event'"):
            host.host.publisher.publish("monitorin_event", numbered(1))
        with pytest.raises(
            ValueError,
            match="unknown event 'x'; available: analytics_event, monitoring_event, stream_event",
        ):
            host.host.publisher.publish("x", [])


async def test_one_wrong_item_and_nothing_is_published(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"sink": EVENT}) as host:
        with pytest.raises(TypeError, match="takes MonitoringPoint objects, not dict"):
            host.publish([*numbered(3), {"series": "x"}])

        def broken():
            yield from numbered(2)
            raise KeyError("the generator")

        with pytest.raises(KeyError):
            host.publish(broken())
        part = await host.receipt_of("sink")
        assert part.points["accepted"] == 0


async def test_every_subscriber_gets_the_same_immutable_point(tmp_path, autojump_clock):
    source = """
        class P(BaseEventPlugin):
            eventName = "monitoring_event"

            async def handleEvent(self, points, logger):
                journal.append(points[0])
                points.clear()
    """
    async with running_host(tmp_path, {"a": source, "b": source}) as host:
        (point,) = numbered(1)
        host.publish(iter([point]))
        await wait_all_tasks_blocked()
        assert len(journal) == 2
        assert all(got is point for got in journal)


async def test_publish_works_from_any_thread(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"sink": EVENT}) as host:
        await trio.to_thread.run_sync(host.publish, numbered(3))
        await trio.to_thread.run_sync(
            host.plugin("sink").app.publish, "monitoring_event", numbered(2)
        )
        with pytest.raises(TypeError):
            await trio.to_thread.run_sync(host.publish, [1])
        part = await host.receipt_of("sink")
        assert part.points["delivered"] == 5


async def test_publish_after_the_end_is_harmless(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"sink": EVENT}) as host:
        await host.stop()
        host.publish(numbered(3))
        await trio.to_thread.run_sync(host.publish, numbered(3))
        await wait_all_tasks_blocked()
        assert host.host.account().plugins[0].points["accepted"] == 0


async def test_points_published_while_plugins_start_wait_for_them(tmp_path, autojump_clock):
    slow = EVENT.replace('journal.append(f"{NAME} initialize")', "await trio.sleep(20)")
    async with running_host(tmp_path, {"slow": slow, "behind": EVENT}, wait=False) as host:
        host.publish(numbered(3))
        await host.wait_until_running()
        await trio.sleep(1)
        assert "slow got [0, 1, 2]" in journal
        assert "behind got [0, 1, 2]" in journal


async def test_a_plugin_sees_its_config_settings_and_logger(tmp_path, autojump_clock, caplog):
    source = """
        from pydantic import BaseModel

        class P(BaseBackgroundPlugin):
            class Config(BaseModel):
                camera: int
                name: str = "front"

            async def initialize(self):
                journal.append((self.config.camera, self.config.name))
                journal.append(self.app.settings["shutdown_timeout"])
                journal.append("plugins" in self.app.settings)
                self.logger.warning("hello")
                self.app.ctx.mine = 7
    """
    tables = {"p": {"config": {"camera": "12"}}}
    async with running_host(tmp_path, {"p": source}, tables) as host:
        assert journal == [(12, "front"), 25.0, False]
        assert host.plugin("p").app.ctx.mine == 7
        with pytest.raises(TypeError):
            host.plugin("p").app.settings["bind"] = "0.0.0.0:1"
    (record,) = [record for record in caplog.records if record.getMessage() == "hello"]
    assert record.name == "lva.plugin.p"


# The receipt


async def test_the_receipt_of_a_clean_stop(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"sink": EVENT, "b": BACKGROUND}) as host:
        await trio.sleep(5)
        host.publish(numbered(4))
        receipt = await host.stop("received SIGTERM")
        assert all(life.ended.is_set() for life in host.host.lives.values())
    values = json.loads(json.dumps(receipt.as_dict()))
    assert values["reason"] == "received SIGTERM"
    assert values["exit_code"] == 0
    assert values["seconds"] == pytest.approx(1.0)
    sink, background = values["plugins"]
    assert sink["points"] == {
        "accepted": 4, "delivered": 4, "rejected": 0, "dropped": {}, "queued": 0, "in_flight": 0,
        "kept": 0, "filtered": 0, "recovered": 0, "refused": 0, "retries": 0,
    }  # fmt: skip
    assert (sink["name"], sink["state"], sink["restarts"]) == ("sink", "stopped", 0)
    assert (background["name"], background["state"], background["stop_seconds"]) == (
        "b",
        "stopped",
        1.0,
    )
    assert sink["leaked_tasks"] == sink["leaked_threads"] == sink["problems"] == []


def test_the_receipt_tells_no_secrets():
    """Not even where no log formatter masks them: the terminator writes it by itself."""
    said = "poll http://gate:sesame-open@camera"
    part = PluginReceipt("p", "abandoned", said, None, 1, 1, 0, {}, [said], [said], [said], [said])
    written = json.dumps(Receipt("told to", 4, 1.0, [part]).as_dict())
    assert written.count("poll http://***@camera") == 5
    assert "sesame" not in written


async def test_no_plugins_at_all(autojump_clock):
    async with running([]) as host:
        assert host.host.not_ready() == {}
        receipt = await host.stop()
        assert receipt.exit_code == 0
        assert list(receipt.plugins) == []


async def test_lost_points_are_exit_code_4(tmp_path, autojump_clock):
    slow = EVENT.replace("0.5", "9")
    async with running_host(tmp_path, {"sink": slow}, {"sink": {"batch_size": 1}}) as host:
        host.publish(numbered(10))
        receipt = await host.stop()
        (part,) = receipt.plugins
        assert receipt.exit_code == 4
        assert receipt.seconds <= 25
        assert part.state == "stopped"
        assert part.points["delivered"] + part.points["dropped"]["shutdown"] == 10
        assert part.lost == part.points["dropped"]["shutdown"] > 0
        assert part.points["queued"] == part.points["in_flight"] == 0


async def test_an_overflow_long_before_the_stop_is_a_loss_too(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"sink": EVENT}, {"sink": {"buffer_limit": 1}}) as host:
        host.publish(numbered(5))
        await trio.sleep(100)
        assert (await host.stop()).exit_code == 4


async def test_rejected_points_are_no_loss(tmp_path, autojump_clock):
    source = """
        class P(BaseEventPlugin):
            eventName = "monitoring_event"

            async def handleEvent(self, points, logger):
                raise PermanentDeliveryError("no")
    """
    async with running_host(tmp_path, {"sink": source}) as host:
        host.publish(numbered(5))
        receipt = await host.stop()
        assert receipt.exit_code == 0
        assert receipt.plugins[0].points["rejected"] == 5


async def test_the_first_request_to_stop_counts(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"b": BACKGROUND}) as host:
        host.host.stop.request("first")
        assert (await host.stop("second")).reason == "first"


async def test_a_bug_of_the_host_itself_is_exit_code_70_and_stops_the_rest_in_order(
    tmp_path, autojump_clock, caplog
):
    async with running_host(tmp_path, {"a": BACKGROUND, "b": BACKGROUND}) as host:
        host.life("b").owner.cancel_calls = None  # whatever the bug may be
        receipt = await host.stop()
        assert receipt.exit_code == 70
        assert "a closed" in journal
    assert "bug in the host" in caplog.text


async def test_a_bug_of_the_host_when_a_plugin_without_a_close_ends_is_contained_too(
    tmp_path, autojump_clock, caplog
):
    def fail(name: str, old: str, step: Transition) -> None:
        if step.state is State.STOPPED:
            raise LookupError("whatever the bug may be")

    async with running_host(tmp_path, {"a": NO_CLOSE, "b": NO_CLOSE}) as host:
        host.life("b").record.watchers = [fail]
        receipt = await host.stop()
        assert receipt.exit_code == 70
        assert journal == ["b", "a"]
        assert host.life("a").state.value.value == "stopped"
    assert "bug in the host: the supervisor of b failed" in caplog.text


# Nothing is left


async def test_a_system_task_that_a_plugin_left_is_named(tmp_path, autojump_clock):
    source = """
        async def forgotten():
            await trio.sleep(100)

        class P(BaseBackgroundPlugin):
            async def start(self):
                trio.lowlevel.spawn_system_task(forgotten)
    """
    async with running_host(tmp_path, {"p": source}) as host:
        await wait_all_tasks_blocked()
        receipt = await host.stop()
        (part,) = receipt.plugins
        assert any("forgotten" in task for task in part.leaked_tasks)
        assert part.state == "abandoned"
        assert receipt.exit_code == 4


async def test_a_thread_that_a_plugin_left_is_named(tmp_path, autojump_clock, caplog):
    source = """
        release = threading.Event()

        class P(BaseBackgroundPlugin):
            async def start(self):
                self.thread = threading.Thread(target=self.work, name="forgotten", daemon=True)
                self.thread.start()

            def work(self):
                release.wait(30)
    """
    async with running_host(tmp_path, {"p": source, "other": BACKGROUND}) as host:
        await wait_all_tasks_blocked()
        receipt = await host.stop()
        host.module("p").release.set()
        host.plugin("p").thread.join()
        part, other = receipt.plugins
        (thread,) = part.leaked_threads
        assert re.fullmatch(r"forgotten \(at .*/p\.py:\d+\)", thread)
        assert receipt.exit_code == 4
        assert not other.leaked_threads
        assert "leaked after its close: thread forgotten" in caplog.text


async def test_a_thread_left_in_a_library_is_named_by_the_task_that_called_it(tmp_path):
    source = """
        barrier = threading.Barrier(2)

        class P(BaseBackgroundPlugin):
            async def start(self):
                await trio.to_thread.run_sync(barrier.wait, 30, abandon_on_cancel=True)
    """
    async with running_host(tmp_path, {"p": source}) as host:
        while not host.module("p").barrier.n_waiting:
            await trio.sleep(0.001)
        receipt = await host.stop()
        host.module("p").barrier.wait()
        assert len(receipt.plugins[0].leaked_threads) == 1
        assert receipt.exit_code == 4


@pytest.mark.slow("many threads")
async def test_worker_threads_that_are_done_are_no_leaks(tmp_path):
    source = """
        class P(BaseBackgroundPlugin):
            async def initialize(self):
                for _ in range(50):
                    await trio.to_thread.run_sync(time.sleep, 0)

            async def close(self):
                async with trio.open_nursery() as nursery:
                    for _ in range(5):
                        nursery.start_soon(trio.to_thread.run_sync, time.sleep, 0)
    """
    for _ in range(10):
        async with running_host(tmp_path, {"p": source}) as host:
            receipt = await host.stop()
            assert not receipt.plugins[0].leaked_threads
            assert receipt.exit_code == 0


async def test_a_plugin_that_leaks_at_a_crash_is_not_started_again(tmp_path, autojump_clock):
    source = """
        release = threading.Event()

        class P(BaseBackgroundPlugin):
            async def start(self):
                threading.Thread(target=self.work, daemon=True).start()
                raise ValueError

            def work(self):
                release.wait(30)
    """
    async with running_host(tmp_path, {"p": source}, wait=False) as host:
        await host.wait_for("p", State.ABANDONED)
        await trio.sleep(100)
        assert host.life("p").record.restarts == 0
        host.module("p").release.set()


# The budget


@pytest.mark.parametrize("limit", [2, 10, 25])
@pytest.mark.parametrize(
    "kinds", [[HANGING] * 3, [HANGING_EVENT] * 3, [HANGING, HANGING_EVENT, HANGING, HANGING_EVENT]]
)
async def test_several_hanging_plugins_stay_within_the_budget(
    tmp_path, autojump_clock, kinds, limit
):
    sources = {f"p{number}": source for number, source in enumerate(kinds)}
    async with running_host(
        tmp_path, {"first": BACKGROUND, **sources}, shutdown_timeout=limit
    ) as host:
        host.publish(numbered(3))
        await wait_all_tasks_blocked()
        begun = trio.current_time()
        receipt = await host.stop()
        assert trio.current_time() - begun <= limit
        assert receipt.seconds <= limit
        assert receipt.exit_code == 4
        states = {part.name: part.state for part in receipt.plugins}
        first = states.pop("first")
        assert set(states.values()) == {"abandoned"}
        if limit > 2:
            assert first == "stopped"
            assert "first closed" in journal


async def test_long_limits_of_plugins_do_not_stretch_the_stop(tmp_path, autojump_clock):
    tables = {
        name: {
            "stop_timeout": 300,
            "close_timeout": 300,
            "handle_timeout": 300,
            "initialize_timeout": 300,
        }
        for name in ("a", "b", "sink")
    }
    async with running_host(
        tmp_path, {"a": HANGING, "b": HANGING, "sink": HANGING_EVENT}, tables
    ) as host:
        host.publish(numbered(3))
        await wait_all_tasks_blocked()
        begun = trio.current_time()
        await host.stop()
        assert trio.current_time() - begun <= 25


async def test_a_deadline_of_the_caller_is_kept(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"a": HANGING, "b": HANGING}) as host:
        await wait_all_tasks_blocked()
        begun = trio.current_time()
        host.host.stop.request("hurry", begun + 3)
        await host.stop()
        assert trio.current_time() - begun <= 3


async def test_a_hanging_plugin_does_not_keep_those_behind_it_from_a_full_close(
    tmp_path, autojump_clock
):
    close = BACKGROUND.replace("trio.sleep(1)", "trio.sleep(4)")
    async with running_host(tmp_path, {"a": close, "b": close, "hang": HANGING}) as host:
        await wait_all_tasks_blocked()
        receipt = await host.stop()
        assert [part.state for part in receipt.plugins] == ["stopped", "stopped", "abandoned"]
        assert {"a closed", "b closed"} <= set(journal)


async def test_status_tells_the_truth_from_start_to_stop(tmp_path, autojump_clock):
    slow = BACKGROUND.replace('journal.append(f"{NAME} initialize")', "await trio.sleep(5)")
    async with running_host(tmp_path, {"slow": slow, "b": BACKGROUND}, wait=False) as host:
        await wait_all_tasks_blocked()
        assert host.host.not_ready() == {
            "slow": "initializing: starting", "b": "loaded: waiting for its turn",
        }  # fmt: skip
        await trio.sleep(3)
        assert host.host.not_ready().keys() == {"slow"}
        await trio.sleep(3)
        assert host.host.not_ready() == {}
        await host.stop()
        assert host.host.not_ready().keys() == {"slow", "b"}


def test_points_are_shared_not_copied_by_type():
    """A subclass of the event's type is as good as the type itself."""

    class Special(MonitoringPoint):
        pass

    host = Host(host_settings_without_plugins(), [])
    publish = host.publisher.publish
    publish("monitoring_event", [Special("s", 1.0, {}, {})])
    with pytest.raises(TypeError):
        publish("monitoring_event", ["s"])


def host_settings_without_plugins():
    from lva.settings import Settings

    return Settings(active_plugins=())


async def test_points_that_come_too_late_are_refused_and_the_publisher_is_told(
    tmp_path, autojump_clock
):
    source = """
    class Both(BaseEventPlugin, BaseBackgroundPlugin):
        eventName = "monitoring_event"

        async def start(self):
            while True:
                journal.append(self.app.publish("monitoring_event", numbered(1)))
                await trio.sleep(1)

        async def handleEvent(self, points, logger):
            await trio.sleep(3.5)
    """
    source = "    from tests.support import numbered\n" + source
    async with running_host(tmp_path, {"both": source}) as host:
        await trio.sleep(5)
        points = (await host.receipt_of("both")).points
    assert points["refused"] == journal.count(False) > 0
    assert points["accepted"] == points["delivered"] == journal.count(True)


async def test_a_plugin_that_has_failed_does_not_stop_others_from_publishing(
    tmp_path, autojump_clock
):
    failing = """
    class Failing(BaseEventPlugin, BaseBackgroundPlugin):
        eventName = "monitoring_event"

        async def start(self):
            raise OSError

        async def handleEvent(self, points, logger):
            pass
    """
    tables = {"failing": {"restart": "never"}}
    async with running_host(tmp_path, {"failing": failing}, tables, wait=False) as host:
        await host.wait_for("failing", State.FAILED)
        assert host.host.publisher.publish("monitoring_event", numbered(2))
        assert (await host.receipt_of("failing")).points["refused"] == 2
