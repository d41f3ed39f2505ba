"""One plugin's life: its states, attempts, restarts and its close."""

from __future__ import annotations

import logging
import math
import textwrap
from collections import Counter
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from lva import BaseBackgroundPlugin, BaseEventPlugin
from lva.errors import counted
from lva.host.life.states import ENDED, TRANSITIONS, State
from lva.host.routing import Gate
from lva.host.runtimes.patience import Patience
from tests.support import (
    RunningHost,
    StubRandom,
    examples,
    journal,
    loaded_plugin,
    numbered,
    run_virtual,
    running,
    running_host,
)

RECORDER = """
    class P(BaseBackgroundPlugin):
        async def initialize(self):
            journal.append("initialize")

        async def start(self):
            journal.append("start")
            await trio.sleep_forever()

        async def close(self):
            journal.append("close")
"""

#: Crashes `crashes` times, each `after` seconds after its start, then works for ever.
CRASHER = """
    crashes, after = 1_000_000, 0.0

    class P(BaseBackgroundPlugin):
        async def initialize(self):
            journal.append("initialize")

        async def start(self):
            global crashes
            await trio.sleep(after)
            if crashes:
                crashes -= 1
                raise ValueError("the camera is gone")
            await trio.sleep_forever()

        async def close(self):
            journal.append("close")
"""


def legal(history: Any) -> bool:
    """Return whether each state may follow the one before it."""
    states = [step.state for step in history]
    return states[0] is State.LOADED and all(
        after in TRANSITIONS[before] for before, after in zip(states, states[1:], strict=False)
    )


def living(
    tmp_path: Path, source: str, rng: Any = None, wait: bool = True, **table: Any
) -> AbstractAsyncContextManager[RunningHost]:
    """Run one plugin, `p`, with these settings of its own; see `running_host`."""
    return running_host(tmp_path, {"p": source}, {"p": table}, rng, wait)


# The state machine


def test_the_table_of_transitions_is_closed():
    assert set(TRANSITIONS) == set(State)
    reached = {State.LOADED}
    while more := {state for known in reached for state in TRANSITIONS[known]} - reached:
        reached |= more
    assert reached == set(State), "every state can be reached"
    for state, following in TRANSITIONS.items():
        assert (State.LOADED in following) == (state in ENDED), "only an ended life has a next one"
    assert all(state not in following for state, following in TRANSITIONS.items())
    for state in ENDED:
        after = {State.ABANDONED, State.LOADED}
        if state is State.FAILED:  # which an operator may leave at that
            after.add(State.STOPPED)
        assert TRANSITIONS[state] <= after, "an end is an end"
    for state in set(State) - ENDED:
        assert TRANSITIONS[state] & (ENDED | {State.STOPPING}), "every life can be ended"


async def test_an_illegal_transition_is_refused(autojump_clock):
    async with running([loaded_plugin("p", BackgroundOnly)]) as host:
        await host.wait_until_running()
        with pytest.raises(AssertionError, match="illegal transition running -> initializing"):
            host.life("p").record.move(State.INITIALIZING, "by hand")
        assert host.states("p")[-1] == "running"


class BackgroundOnly(BaseBackgroundPlugin):
    pass


async def test_every_transition_is_logged_with_its_reason_and_kept_with_its_time(
    tmp_path, autojump_clock, caplog
):
    caplog.set_level("DEBUG")
    source = CRASHER.replace("1_000_000", "1")
    async with running_host(tmp_path, {"p": source}, wait=False) as host:
        await host.wait_for("p", State.BACKOFF)
        await host.wait_for("p", State.RUNNING)
        await host.stop("a test")
        history = list(host.life("p").record.history)
    assert [step.state.value for step in history] == [
        "loaded", "initializing", "running", "backoff", "initializing", "running", "stopping", "stopped",
    ]  # fmt: skip
    logged = [
        (record.state, record.reason)
        for record in caplog.records
        if record.name == "lva.plugin.p" and hasattr(record, "state")
    ]
    assert logged == [(step.state.value, step.reason) for step in history[1:]]
    assert all(step.reason for step in history)
    times = [step.at for step in history]
    assert times == sorted(times)
    assert times[0] > 1.6e9, "Unix seconds"


@pytest.mark.parametrize(
    ("error", "place", "level", "traced"),
    [
        ("ConnectionRefusedError('away')", "initialize", "INFO", False),
        ("ConnectionRefusedError('away')", "initialize", "DEBUG", True),
        ("ValueError('bug')", "initialize", "INFO", True),
        ("ConnectionRefusedError('away')", "start", "INFO", True),
    ],
)
async def test_what_a_plugin_connects_to_may_be_away_without_a_traceback(
    tmp_path, autojump_clock, caplog, error, place, level, traced
):
    source = f"""
        class P(BaseBackgroundPlugin):
            async def {place}(self):
                raise {error}
    """
    caplog.set_level(level, "lva.plugin.p")
    async with running_host(tmp_path, {"p": source}, wait=False) as host:
        await host.wait_for("p", State.BACKOFF)
    (line,) = [record for record in caplog.records if "crashed: " in record.getMessage()]
    assert f"raised {error.partition('(')[0]}: " in line.getMessage()
    assert bool(line.exc_info) == traced


# Starting


async def test_plugins_start_in_activation_order_each_after_the_one_before_it(
    tmp_path, autojump_clock
):
    source = """
        class P(BaseBackgroundPlugin):
            async def initialize(self):
                journal.append((__name__[-1], "enter", trio.current_time()))
                await trio.sleep(1)
                journal.append((__name__[-1], "leave", trio.current_time()))
    """
    async with running_host(tmp_path, dict.fromkeys("bac", source)):
        start = journal[0][2]
    assert [(name, what, at - start) for name, what, at in journal] == [
        ("b", "enter", 0), ("b", "leave", 1),
        ("a", "enter", 1), ("a", "leave", 2),
        ("c", "enter", 2), ("c", "leave", 3),
    ]  # fmt: skip


async def test_start_is_called_once_every_class_of_the_file_is_initialized(
    tmp_path, autojump_clock
):
    source = """
        class A(BaseBackgroundPlugin):
            async def initialize(self):
                journal.append("A.initialize")

            async def start(self):
                journal.append("A.start")

        class B(BaseBackgroundPlugin):
            async def initialize(self):
                await trio.sleep(1)
                journal.append("B.initialize")
    """
    async with running_host(tmp_path, {"p": source}):
        await trio.testing.wait_all_tasks_blocked()
        assert journal == ["A.initialize", "B.initialize", "A.start"]


async def test_a_slow_start_is_reported_with_where_it_waits_and_holds_nobody_up(
    tmp_path, autojump_clock, caplog
):
    slow = """
        class P(BaseBackgroundPlugin):
            async def initialize(self):
                await trio.sleep(10)  # the slow line
    """
    async with running_host(
        tmp_path, {"slow": slow, "other": RECORDER}, slow_start=2.0, wait=False
    ) as host:
        begun = trio.current_time()
        await host.wait_for("other", State.RUNNING)
        assert trio.current_time() - begun == 2
        assert host.states("slow")[-1] == "initializing"
        (warning,) = [record for record in caplog.records if "is slow" in record.getMessage()]
        assert warning.name == "lva.plugin.slow"
        path = host.life("slow").loaded.path
        line = (
            path.read_text().splitlines().index("        await trio.sleep(10)  # the slow line") + 1
        )
        assert f"{path}:{line} in initialize" in warning.getMessage()
        await host.wait_for("slow", State.RUNNING)
        assert trio.current_time() - begun == 10


async def test_initialize_has_a_time_limit_and_what_its_clean_up_raises_is_logged(
    tmp_path, autojump_clock, caplog
):
    source = """
        class P(BaseBackgroundPlugin):
            async def initialize(self):
                try:
                    await trio.sleep_forever()
                finally:
                    raise RuntimeError("half open")

            async def close(self):
                journal.append("close")
    """
    async with living(tmp_path, source, initialize_timeout=5, wait=False) as host:
        begun = trio.current_time()
        await host.wait_for("p", State.BACKOFF)
        assert trio.current_time() - begun == 5
        await trio.testing.wait_all_tasks_blocked()
        assert journal == ["close"]
        reason = host.life("p").record.last.reason
        assert "P.initialize() took longer than 5 s, waiting at" in reason
        assert "p.py:" in reason
        assert "half open" in caplog.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("super().__init__({}['no such key'])", "P.__init__() raised KeyError: 'no such key'"),
        (
            "app or super().__init__(app)",
            "P.__init__() raised TypeError: P.__init__ must call super().__init__(app)",
        ),
    ],
)
async def test_a_constructor_that_fails_is_a_crash(tmp_path, autojump_clock, body, said):
    source = f"""
        class P(BaseBackgroundPlugin):
            def __init__(self, app):
                {body}

            async def initialize(self):
                journal.append("initialize")
    """
    async with living(tmp_path, source, max_restarts=2, wait=False) as host:
        await host.wait_for("p", State.FAILED)
        assert host.life("p").record.last.reason.startswith(said)
        assert host.life("p").record.restarts == 2
        assert journal == []


async def test_a_constructor_that_is_nearly_done_at_the_stop_is_waited_for(tmp_path, monkeypatch):
    """The kind is a busy machine, where a thread gets no processor before its wait is cancelled."""
    monkeypatch.setattr(Patience, "LEAST", 20.0)
    source = """
        import time

        class P(BaseBackgroundPlugin):
            def __init__(self, app):
                super().__init__(app)
                journal.append("begins")
                while "the stop has begun" not in journal:
                    time.sleep(0.001)
    """
    async with running_host(tmp_path, {"p": source}, wait=False) as host:
        while not journal:
            await trio.sleep(0.001)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.stop)
            await trio.testing.wait_all_tasks_blocked()
            assert host.states("p")[-1] == "stopping"
            journal.append("the stop has begun")
    assert host.states("p")[-1] == "stopped"
    assert host.life("p").record.last_error is None


async def test_a_method_that_is_no_coroutine_is_named(tmp_path, autojump_clock):
    source = """
        class P(BaseBackgroundPlugin):
            def initialize(self):
                return journal.append("initialize")

            async def close(self):
                journal.append("close")
    """
    async with living(tmp_path, source, restart="never", wait=False) as host:
        await host.wait_for("p", State.FAILED)
        assert (
            "P.initialize() returned NoneType; write it as `async def`"
            in host.life("p").record.last.reason
        )
        await host.life("p").ended.wait()
        assert journal == ["initialize", "close"]


# Crashes


@pytest.mark.parametrize(
    ("method", "line", "phase"),
    [
        ("start", "self.nursery.start_soon(self.child)", "a task in its nursery"),
        ("start", "self.nursery.start_soon(self.child_of_child)", "a task in its nursery"),
        ("start", "await self.child()", "P.start()"),
        ("start", "await self.child_of_child()", "a task in its nursery"),
        ("initialize", "self.nursery.start_soon(self.child)", "P.initialize()"),
    ],
)
async def test_a_crash_anywhere_below_a_method_is_a_crash_of_the_plugin(
    tmp_path, autojump_clock, caplog, method, line, phase
):
    source = f"""
        class P(BaseBackgroundPlugin):
            async def {method}(self):
                {line}
                await trio.sleep_forever()

            async def child(self):
                await trio.sleep(1)
                raise LookupError("gone")

            async def child_of_child(self):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.child)

            async def close(self):
                journal.append("close")
    """
    async with running_host(tmp_path, {"p": source, "other": RECORDER}, wait=False) as host:
        await host.wait_for("p", State.BACKOFF)
        assert "raised LookupError: gone" in host.life("p").record.last.reason
        await trio.testing.wait_all_tasks_blocked()
        assert journal.count("close") == 1
        assert host.states("other")[-1] == "running"
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.phase == phase


async def test_every_error_of_one_crash_is_in_the_log(tmp_path, autojump_clock, caplog):
    source = """
        class P(BaseBackgroundPlugin):
            async def start(self):
                self.nursery.start_soon(self.child)
                await trio.sleep(1)
                raise ValueError("the first error")

            async def child(self):
                try:
                    await trio.sleep_forever()
                finally:
                    raise KeyError("the second error")
    """
    async with running_host(tmp_path, {"p": source}) as host:
        await host.wait_for("p", State.BACKOFF)
        await trio.testing.wait_all_tasks_blocked()
        assert "the first error" in caplog.text
        assert "the second error" in caplog.text


BREAKS = {
    "scope": "trio.CancelScope().__enter__()",
    "nursery": "await trio.open_nursery().__aenter__()",
    "both": "trio.CancelScope().__enter__(); await trio.open_nursery().__aenter__()",
}
BREAKER = """
    class P(BaseBackgroundPlugin):
        async def initialize(self):
            journal.append("initialize")
            if when == "in initialize()":
                await self.break_rules()

        async def start(self):
            if when == "in a child":
                self.nursery.start_soon(self.break_rules)
            elif when != "in initialize()":
                await self.break_rules()
            if when == "in a start() that works":
                await trio.sleep_forever()

        async def break_rules(self):
            {}

        async def close(self):
            journal.append("close")
"""


@pytest.mark.parametrize(
    ("when", "what"),
    [
        ("in start()", "scope"), ("in start()", "nursery"), ("in start()", "both"),
        ("in a child", "nursery"), ("in a child", "both"),  # that a scope is left open, Trio does not mind
    ],
)  # fmt: skip
async def test_breaking_trios_nesting_rules_is_a_crash_of_that_plugin_alone(
    tmp_path, autojump_clock, when, what
):
    source = f"when = {when!r}\n" + textwrap.dedent(BREAKER.format(BREAKS[what]))
    tables = {"p": {"restart": "never"}}
    async with running_host(tmp_path, {"p": source, "q": RECORDER}, tables, wait=False) as host:
        await host.wait_for("p", State.FAILED)
        await host.wait_for("q", State.RUNNING)
        assert "stack corrupted" in host.life("p").record.last.reason
        receipt = await host.stop()
    assert [part.state for part in receipt.plugins] == ["failed", "stopped"]
    assert Counter(journal) == {"initialize": 2, "close": 2, "start": 1}


@pytest.mark.parametrize(
    ("when", "what"),
    [
        ("in initialize()", "nursery"), ("in initialize()", "both"),
        ("in a start() that works", "scope"), ("in a start() that works", "nursery"),
        ("in a start() that works", "both"),
    ],
)  # fmt: skip
async def test_broken_nesting_that_shows_at_the_stop_harms_no_other_plugin(
    tmp_path, autojump_clock, when, what
):
    source = f"when = {when!r}\n" + textwrap.dedent(BREAKER.format(BREAKS[what]))
    async with running_host(tmp_path, {"q": RECORDER, "p": source}) as host:
        receipt = await host.stop()
        assert receipt.exit_code == 0
    assert [part.state for part in receipt.plugins] == ["stopped", "stopped"]
    assert any("stack corrupted" in problem for problem in receipt.plugins[1].problems)
    assert Counter(journal) == {"initialize": 2, "close": 2, "start": 1}


async def test_what_start_begins_while_it_is_cancelled_ends_with_the_plugin(
    tmp_path, autojump_clock
):
    source = """
        class P(BaseBackgroundPlugin):
            async def start(self):
                try:
                    await trio.sleep_forever()
                finally:
                    self.nursery.start_soon(self.child)

            async def child(self):
                try:
                    await trio.sleep_forever()
                finally:
                    journal.append("child")

            async def close(self):
                journal.append("close")
    """
    async with running_host(tmp_path, {"p": source}) as host:
        receipt = await host.stop()
    assert journal == ["child", "close"]
    assert receipt.exit_code == 0
    assert receipt.plugins[0].stop_seconds == 0


async def test_a_plugin_that_cancels_its_own_nursery_is_restarted_and_told_so(
    tmp_path, autojump_clock
):
    source = """
        class P(BaseBackgroundPlugin):
            async def start(self):
                self.nursery.cancel_scope.cancel()
    """
    async with running_host(tmp_path, {"p": source}, wait=False) as host:
        await host.wait_for("p", State.BACKOFF)
        assert "cancelled" in host.life("p").record.last.reason


async def test_a_cancelled_that_a_plugin_keeps_and_raises_again_stays_its_own_problem(
    tmp_path, autojump_clock
):
    source = """
        class P(BaseBackgroundPlugin):
            async def start(self):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    try:
                        await trio.sleep(0)
                    except trio.Cancelled as error:
                        self.kept = error
                raise self.kept
    """
    async with running_host(tmp_path, {"p": source, "other": RECORDER}, wait=False) as host:
        await host.wait_for("p", State.BACKOFF)
        assert host.states("other")[-1] == "running"


# Restarts


async def test_returning_from_start_is_no_crash_by_default(tmp_path, autojump_clock):
    source = "class P(BaseBackgroundPlugin):\n    async def start(self): journal.append('start')\n"
    async with running_host(tmp_path, {"p": source}) as host:
        await trio.sleep(1000)
        assert host.states("p") == ["loaded", "initializing", "running"]
        assert journal == ["start"]


async def test_always_restarts_a_plugin_whose_work_has_ended(tmp_path, autojump_clock):
    source = """
        class P(BaseBackgroundPlugin):
            async def initialize(self):
                journal.append("initialize")

            async def start(self):
                self.nursery.start_soon(trio.sleep, 5)

            async def close(self):
                journal.append("close")
    """
    async with living(tmp_path, source, restart="always", backoff_initial=1, backoff_max=1) as host:
        begun = trio.current_time()
        await host.wait_for("p", State.BACKOFF)
        assert trio.current_time() - begun == 5, "the children of start() are part of the work"
        await host.wait_for("p", State.RUNNING)
        assert journal == ["initialize", "close", "initialize"]
        assert "has ended" in host.life("p").record.history[3].reason


async def test_never_does_not_restart_after_a_crash(tmp_path, autojump_clock):
    async with living(tmp_path, CRASHER, restart="never", wait=False) as host:
        await host.wait_for("p", State.FAILED)
        await trio.sleep(1000)
        assert journal == ["initialize", "close"]
        assert "restart policy is 'never'" in host.life("p").record.last.reason
        assert host.life("p").record.restarts == 0


async def test_back_off_doubles_up_to_its_cap_and_jitters_over_the_full_range(
    tmp_path, autojump_clock
):
    rng = StubRandom(share=0.5)
    limits = {"max_restarts": 8, "backoff_initial": 1, "backoff_max": 20, "restart_window": 1000}
    async with living(tmp_path, CRASHER, rng, wait=False, **limits) as host:
        begun = trio.current_time()
        await host.wait_for("p", State.FAILED)
        assert rng.bounds == [1, 2, 4, 8, 16, 20, 20, 20]
        assert trio.current_time() - begun == sum(rng.bounds) / 2
        assert "raised ValueError" in host.life("p").record.history[3].reason


async def test_the_reason_of_a_back_off_tells_how_long_it_is(tmp_path, autojump_clock):
    async with living(tmp_path, CRASHER, backoff_initial=7, rng=StubRandom(), wait=False) as host:
        await host.wait_for("p", State.BACKOFF)
        assert host.life("p").record.last.reason.endswith("; next attempt in 7.0 s")
        assert host.life("p").owner.retry_after() == 7
        await trio.sleep(3)
        assert host.life("p").owner.retry_after() == 4


@pytest.mark.parametrize("limit", [0, 1, 5])
async def test_quarantine_after_more_than_max_restarts_in_the_window(
    tmp_path, autojump_clock, limit
):
    async with living(tmp_path, CRASHER, max_restarts=limit, wait=False) as host:
        await host.wait_for("p", State.FAILED)
        await trio.sleep(1000)
        life = host.life("p")
        assert life.record.restarts == limit
        assert Counter(journal) == {"initialize": limit + 1, "close": limit + 1}
        assert f"that is more than {counted(limit, 'restart')} in 60 s" in life.record.last.reason
        assert "the camera is gone" in life.record.last.reason
        assert host.host.not_ready().keys() == {"p"}


@pytest.mark.parametrize(
    ("runs", "max_restarts", "bounds"),
    [("20, 61.0", 1, [1] * 20), ("4, 59.0", 5, [1, 2, 4, 8])],
    ids=["healthy", "short"],
)
async def test_a_run_as_long_as_the_window_lets_quarantine_and_back_off_begin_anew(
    tmp_path, autojump_clock, runs, max_restarts, bounds
):
    source = CRASHER.replace("1_000_000, 0.0", runs)
    rng, tables = StubRandom(), {"p": {"max_restarts": max_restarts}}
    async with running_host(tmp_path, {"p": source}, tables, rng=rng) as host:
        await trio.sleep(3000)
        assert host.states("p")[-1] == "running"
        assert rng.bounds == bounds


FAILING_START = """
    failures = 10

    class P(BaseBackgroundPlugin):
        async def initialize(self):
            global failures
            journal.append("initialize")
            if failures:
                failures -= 1
                raise OSError("the sink is down")

        async def close(self):
            journal.append("close")
"""


async def test_a_failing_initialize_is_retried_for_as_long_as_it_takes(tmp_path, autojump_clock):
    rng = StubRandom()
    async with living(tmp_path, FAILING_START, max_restarts=1, backoff_max=8, rng=rng) as host:
        assert rng.bounds == [1, 2, 4, 8, 8, 8, 8, 8, 8, 8]
        assert host.life("p").record.restarts == 10
        assert journal == ["initialize", "close"] * 10 + ["initialize"]


async def test_a_failing_initialize_counts_as_a_crash_if_told_so(tmp_path, autojump_clock):
    async with living(
        tmp_path, FAILING_START, startup_error_behavior="error", max_restarts=3, wait=False
    ) as host:
        await host.wait_for("p", State.FAILED)
        await trio.testing.wait_all_tasks_blocked()
        assert journal == ["initialize", "close"] * 4
        assert (
            "P.initialize() raised OSError: the sink is down" in host.life("p").record.last.reason
        )


async def test_each_attempt_has_a_fresh_nursery(tmp_path, autojump_clock):
    source = """
        class P(BaseBackgroundPlugin):
            async def initialize(self):
                journal.append(self.nursery)

            async def start(self):
                if len(journal) == 1:
                    raise ValueError
    """
    async with running_host(tmp_path, {"p": source}, wait=False) as host:
        await host.wait_for("p", State.BACKOFF)
        await host.wait_for("p", State.RUNNING)
        first, second = journal
        assert first is not second
        with pytest.raises(RuntimeError, match="closed"):
            first.start_soon(trio.sleep, 0)


# Stopping


async def test_start_and_children_have_ended_before_close(tmp_path, autojump_clock):
    source = """
        class P(BaseBackgroundPlugin):
            async def start(self):
                self.nursery.start_soon(self.child)
                try:
                    await trio.sleep_forever()
                finally:
                    journal.append("start ended")

            async def child(self):
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await trio.sleep(2)
                    journal.append("child ended")

            async def close(self):
                journal.append("close")
                await trio.sleep(1)
                journal.append("closed")
    """
    async with running_host(tmp_path, {"p": source}) as host:
        await trio.testing.wait_all_tasks_blocked()
        part = await host.receipt_of("p")
        assert journal == ["start ended", "child ended", "close", "closed"]
        assert part.state == "stopped"
        assert part.stop_seconds == 3


async def test_several_classes_close_in_reverse_order_only_what_was_entered(
    tmp_path, autojump_clock
):
    source = """
        class Base(BaseBackgroundPlugin):
            async def initialize(self):
                journal.append(f"{type(self).__name__}.initialize")
                if type(self).__name__ == fails:
                    raise OSError("down")

            async def close(self):
                journal.append(f"{type(self).__name__}.close")
                raise RuntimeError("close fails too")

        class A(Base): pass
        class B(Base): pass
        class C(Base): pass

        del Base
        fails = "B"
    """
    async with running_host(tmp_path, {"p": source}, wait=False) as host:
        await host.wait_for("p", State.BACKOFF)
        await trio.testing.wait_all_tasks_blocked()
        assert journal == ["A.initialize", "B.initialize", "B.close", "A.close"]
        host.module("p").fails = ""
        journal.clear()
        await host.wait_for("p", State.RUNNING)
        part = await host.receipt_of("p")
        assert journal == [
            "A.initialize", "B.initialize", "C.initialize", "C.close", "B.close", "A.close",
        ]  # fmt: skip
        assert len(part.problems) == 5, "those of the first attempt, too"
        assert part.state == "stopped"


async def test_no_code_of_an_abandoned_plugin_is_begun_after_its_close(tmp_path, autojump_clock):
    source = """
        class A(BaseBackgroundPlugin):
            async def initialize(self):
                journal.append("A.initialize")
                with trio.CancelScope(shield=True):
                    await trio.sleep(100)

            async def start(self):
                journal.append("A.start")

            async def close(self):
                journal.append("A.close")

        class B(BaseBackgroundPlugin):
            async def initialize(self):
                journal.append("B.initialize")

            async def close(self):
                journal.append("B.close")
    """
    async with living(tmp_path, source, initialize_timeout=1, wait=False) as host:
        await host.wait_for("p", State.ABANDONED)
        await trio.sleep(200)
        assert journal == ["A.initialize", "A.close"]


async def test_an_initialize_that_ignores_its_time_limit_and_returns_late_is_not_started(
    tmp_path, autojump_clock
):
    source = """
        class P(BaseBackgroundPlugin):
            async def initialize(self):
                journal.append("initialize")
                with trio.CancelScope(shield=True):
                    await trio.sleep(3)

            async def start(self):
                journal.append("start")

            async def close(self):
                journal.append("close")
    """
    async with living(tmp_path, source, initialize_timeout=1, wait=False) as host:
        await host.wait_for("p", State.BACKOFF)
        await host.wait_for("p", State.INITIALIZING)
        assert journal[:2] == ["initialize", "close"]
        assert "start" not in journal
        assert not host.life("p").record.problems


async def test_a_task_that_ignores_its_cancellation_is_abandoned_and_close_still_called(
    tmp_path, autojump_clock
):
    source = """
        class P(BaseBackgroundPlugin):
            async def start(self):
                with trio.CancelScope(shield=True):
                    await trio.sleep(100)

            async def close(self):
                journal.append("close")
    """
    async with living(tmp_path, source, stop_timeout=3) as host:
        await trio.testing.wait_all_tasks_blocked()
        receipt = await host.stop()
        (part,) = receipt.plugins
        assert part.state == "abandoned"
        assert part.stop_seconds == 3
        assert journal == ["close"]
        assert receipt.exit_code == 4
        assert any("p.py:" in task for task in part.leaked_tasks)
        assert any("ignored its cancellation" in problem for problem in part.problems)


async def test_stop_during_initialize_closes_what_was_entered(tmp_path, autojump_clock):
    source = """
        class P(BaseBackgroundPlugin):
            async def initialize(self):
                journal.append("initialize")
                try:
                    await trio.sleep_forever()
                finally:
                    journal.append("cancelled")

            async def start(self):
                journal.append("start")

            async def close(self):
                journal.append("close")
    """
    async with running_host(tmp_path, {"p": source}, wait=False) as host:
        await trio.sleep(1)
        part = await host.receipt_of("p")
        assert journal == ["initialize", "cancelled", "close"]
        assert host.states("p") == ["loaded", "initializing", "stopping", "stopped"]
        assert part.stop_seconds == 0


async def test_stop_during_back_off_does_not_wait_for_it_to_end(tmp_path, autojump_clock):
    async with living(
        tmp_path, CRASHER, backoff_initial=500, backoff_max=500, rng=StubRandom(), wait=False
    ) as host:
        await host.wait_for("p", State.BACKOFF)
        await trio.sleep(1)
        part = await host.receipt_of("p")
        assert part.stop_seconds == 0
        assert host.states("p")[-2:] == ["stopping", "stopped"]
        assert journal == ["initialize", "close"]


@pytest.mark.parametrize("turn", ["to come", "comes together with the stop"])
async def test_stop_while_waiting_for_its_turn_never_initializes(tmp_path, autojump_clock, turn):
    first = """
        class P(BaseBackgroundPlugin):
            async def initialize(self):
                await trio.sleep_forever()
    """
    async with running_host(
        tmp_path, {"first": first, "p": RECORDER}, wait=False, slow_start=100
    ) as host:
        await trio.sleep(1)
        if turn != "to come":
            host.life("p").turn.set()
            host.life("p").begin_stop(trio.current_time() + 10)
        receipt = await host.stop()
        assert journal == []
        assert host.states("p") == ["loaded", "stopping", "stopped"]
        assert receipt.exit_code == 0


async def test_a_task_that_raises_while_it_is_stopped_does_not_die_in_silence(
    tmp_path, autojump_clock, caplog
):
    source = """
        class P(BaseBackgroundPlugin):
            async def start(self):
                try:
                    await trio.sleep_forever()
                finally:
                    raise LookupError("while stopping")
    """
    async with running_host(tmp_path, {"p": source}) as host:
        await trio.testing.wait_all_tasks_blocked()
        part = await host.receipt_of("p")
        assert part.state == "stopped"
        assert any("LookupError: while stopping" in problem for problem in part.problems)
    assert any(record.exc_info for record in caplog.records)


async def test_the_receipt_lists_only_the_newest_problems(tmp_path, autojump_clock):
    source = """
        class P(BaseBackgroundPlugin):
            async def start(self):
                raise ValueError("so that it is started again")

            async def close(self):
                journal.append("close")
                raise OSError(f"close number {len(journal)}")
    """
    async with living(tmp_path, source, max_restarts=29, backoff_max=1, wait=False) as host:
        await host.wait_for("p", State.FAILED)
        await host.life("p").ended.wait()
        assert len(journal) == 30
        (part,) = (await host.stop()).as_dict()["plugins"]
    assert part["problems"] == [
        f"P.close() raised OSError: close number {n}" for n in range(11, 31)
    ]


@pytest.mark.parametrize("what", ["close", "task"])
async def test_a_stop_during_the_clean_up_after_a_crash_keeps_to_its_own_deadline(
    tmp_path, autojump_clock, what
):
    source = f"""
        class P(BaseBackgroundPlugin):
            async def start(self):
                self.nursery.start_soon(self.child)
                await trio.sleep(1)
                raise ValueError

            async def child(self):
                with trio.CancelScope(shield={what == "task"}):
                    await trio.sleep(300)

            async def close(self):
                await trio.sleep({300 if what == "close" else 0})
    """
    async with living(tmp_path, source, stop_timeout=200, close_timeout=200) as host:
        await trio.sleep(2)
        begun = trio.current_time()
        await host.stop()
        assert trio.current_time() - begun <= 25


# Stops and crashes at the same moment


@pytest.mark.parametrize("ticks", range(14))
@pytest.mark.parametrize("moment", ["initialize", "start", "child", "initialized", "handleEvent"])
def test_a_stop_at_the_very_moment_of_a_crash_is_a_clean_stop(moment, ticks):
    counts: Counter[str] = Counter()

    class P(BaseBackgroundPlugin):
        async def initialize(self):
            counts["initialize"] += 1
            if moment in {"initialize", "initialized"}:
                await go.wait()
            if moment == "initialize":
                raise ValueError("crash")

        async def start(self):
            if moment == "child":
                self.nursery.start_soon(self.crash)
                return
            await self.crash()

        async def crash(self):
            await go.wait()
            if moment in {"start", "child"}:
                raise ValueError("crash")
            await trio.sleep_forever()

        async def close(self):
            counts["close"] += 1

    class E(P, BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            await go.wait()
            raise ValueError("crash")

    async def main():
        nonlocal go
        go = trio.Event()
        cls = E if moment == "handleEvent" else P
        async with running([loaded_plugin("p", cls), loaded_plugin("behind", P)]) as host:
            await trio.testing.wait_all_tasks_blocked()
            if moment == "handleEvent":
                host.publish(numbered(1))
                await trio.testing.wait_all_tasks_blocked()
            go.set()
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()
            host.host.stop.request("now")
            receipt = await host.stop()
            assert receipt.exit_code in ({0, 4} if moment == "handleEvent" else {0})
            for life in host.host.lives.values():
                assert legal(life.record.history)
                assert life.state.value is State.STOPPED
            assert counts["initialize"] == counts["close"]

    go: Any = None
    run_virtual(main)


@pytest.mark.parametrize("kind", ["background", "event"])
async def test_a_stop_before_anything_has_begun(tmp_path, autojump_clock, kind):
    source = RECORDER
    if kind == "event":
        source = RECORDER.replace("P(", "P(BaseEventPlugin, ") + """
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            pass
    """  # fmt: skip
    async with running_host(tmp_path, {"a": source, "b": source}, wait=False) as host:
        receipt = await host.stop()
        assert receipt.exit_code == 0
        assert all(legal(life.record.history) for life in host.host.lives.values())
        assert journal.count("initialize") == journal.count("close")


# Routes


ROUTES = """
    attempt = 0

    async def answer(request):
        return "answer"

    class P(BaseBackgroundPlugin):
        async def initialize(self):
            global attempt
            attempt += 1
            self.addRoute("/both", answer)
            self.addRoute(f"/only/{attempt}", answer)

        async def start(self):
            await trio.sleep(10)
            raise ValueError
"""


async def test_a_restart_keeps_renews_and_drops_routes(tmp_path, autojump_clock):
    async with living(tmp_path, ROUTES, backoff_initial=4, rng=StubRandom()) as host:
        match = host.host.routes.match
        assert match("/both").route.owner.gate is Gate.OPEN
        first = match("/both").route
        await host.wait_for("p", State.BACKOFF)
        assert match("/both").route is first
        assert match("/both").route.owner.gate is Gate.WAITING
        assert match("/only/1").route.owner.gate is Gate.WAITING
        await host.wait_for("p", State.RUNNING)
        assert match("/both").route is not first
        assert match("/both").route.owner.gate is Gate.OPEN
        assert match("/only/1") is None
        assert match("/only/2") is not None
        await host.stop()
        assert match("/both") is None


async def test_quarantine_takes_the_routes_away(tmp_path, autojump_clock):
    async with living(tmp_path, ROUTES, max_restarts=0) as host:
        await host.wait_for("p", State.FAILED)
        assert host.host.routes.match("/both") is None


async def test_a_route_added_later_by_the_job_or_a_thread_is_served(tmp_path, autojump_clock):
    source = """
        class P(BaseBackgroundPlugin):
            async def start(self):
                self.addRoute("/job", print)
                self.nursery.start_soon(trio.to_thread.run_sync, self.addRoute, "/thread", print)
    """
    async with running_host(tmp_path, {"p": source}) as host:
        with trio.fail_after(1e9):
            while host.host.routes.match("/thread") is None:
                await trio.sleep(0)
        assert host.host.routes.match("/job") is not None


async def test_routes_cannot_be_added_outside_the_life(tmp_path, autojump_clock):
    source = """
        class P(BaseBackgroundPlugin):
            async def start(self):
                await trio.sleep(1)
                raise ValueError

            async def close(self):
                try:
                    self.addRoute("/late", print)
                except RuntimeError as error:
                    journal.append(str(error))
    """
    async with running_host(tmp_path, {"p": source}) as host:
        await host.wait_for("p", State.BACKOFF)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match=r"addRoute\('/late'\): plugin 'p' is backoff"):
            host.plugin("p").addRoute("/late", print)
        await host.stop()
        with pytest.raises(RuntimeError, match="is stopped; add routes in initialize"):
            host.plugin("p").addRoute("/late", print)
        assert len(journal) == 1
        assert host.host.routes.match("/late") is None


async def test_a_route_added_in_the_constructor_is_refused_since_a_restart_would_lose_it(tmp_path):
    source = """
        class P(BaseBackgroundPlugin):
            def __init__(self, app):
                super().__init__(app)
                self.addRoute("/early", print)
    """
    async with living(tmp_path, source, restart="never", wait=False) as host:
        await host.wait_for("p", State.FAILED, within=10)
        assert "addRoute('/early')" in host.life("p").record.last.reason


@pytest.mark.parametrize("style", ["trio", "asyncio"])
async def test_a_bad_route_fails_the_plugin_that_adds_it_at_once(tmp_path, style):
    second = ROUTES.replace("Plugin):\n", f"Plugin):\n        runtime = {style!r}\n")
    async with running_host(tmp_path, {"first": ROUTES, "second": second}, wait=False) as host:
        await host.wait_for("second", State.FAILED, within=20)
        assert host.life("second").record.restarts == 0
        assert (
            "the path '/both' belongs to plugin 'first'" in host.life("second").record.last.reason
        )
        assert host.host.routes.match("/both").route.owner.name == "first"


async def test_a_plugin_that_says_that_it_cannot_run_has_failed_at_once_in_one_line(
    tmp_path, autojump_clock, caplog
):
    """The kind is what no other attempt brings: no retries, no traceback, and `close()` as always."""
    source = """
        from lva import CannotRunError

        class P(BaseBackgroundPlugin):
            async def initialize(self):
                raise CannotRunError("there is no libfoo; install it")

            async def close(self):
                journal.append("close")
    """
    async with running_host(tmp_path, {"p": source}, wait=False) as host:
        await host.wait_for("p", State.FAILED)
        assert "there is no libfoo; install it" in host.life("p").record.last.reason
    assert journal == ["close"]
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is None
    assert "\n" not in record.getMessage()


async def test_a_plugin_that_runs_may_say_that_it_is_not_ready(tmp_path, autojump_clock):
    """The kind is a state of a plugin's own; it does not outlast the attempt."""
    source = """
        class P(BaseBackgroundPlugin):
            async def start(self):
                self.app.notReady("the disk is full")
                await trio.sleep(1)
                self.app.notReady(None)
                await trio.sleep(1)
                self.app.notReady("the disk is full")
                raise OSError("enough")
    """
    async with living(tmp_path, source, restart="never") as host:
        await trio.testing.wait_all_tasks_blocked()
        assert host.host.not_ready() == {"p": "not ready: the disk is full"}
        await trio.sleep(1.5)
        assert host.host.not_ready() == {}
        await host.wait_for("p", State.FAILED)
        assert "enough" in host.host.not_ready()["p"]


async def test_a_plugin_may_say_what_the_receipt_tells_of_its_work(tmp_path, autojump_clock):
    """The kind is an account of a plugin's own: the last word counts, and what is no JSON is refused."""
    source = """
        class P(BaseBackgroundPlugin):
            async def initialize(self):
                self.app.forReceipt({"done": 1})
                for wrong in ({"a": object()}, {"a": float("nan")}, {"a": "x" * 20_000}):
                    try:
                        self.app.forReceipt(wrong)
                    except (TypeError, ValueError) as error:
                        journal.append(type(error).__name__)

            async def close(self):
                self.app.forReceipt({"done": 2})
    """
    async with running_host(tmp_path, {"p": source, "q": source.replace(": 2}", ": [2]}")}) as host:
        assert journal == ["TypeError", "ValueError", "ValueError"] * 2
        receipt = (await host.stop()).as_dict()
    assert [part["account"] for part in receipt["plugins"]] == [{"done": 2}, {"done": [2]}]


# Whatever happens

#: What an attempt does: how long initialize() takes and how it ends, how long the work takes and how.
attempts = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 40.0]),
        st.sampled_from(["return", "raise"]),
        st.sampled_from([0.0, 1.0, 70.0, math.inf]),
        st.sampled_from(["raise", "child raises", "return", "cancel"]),
    ),
    max_size=8,
)


@pytest.mark.slow("random examples, each with a host")
@given(
    scripts=st.lists(attempts, min_size=1, max_size=3),
    stop_after=st.floats(0, 200),
    restart=st.sampled_from(["on-failure", "always", "never"]),
    behavior=st.sampled_from(["retry", "error"]),
    share=st.floats(0, 1),
    close_raises=st.booleans(),
)
@examples(40)
def test_whatever_happens_states_are_legal_and_each_initialize_has_its_close(
    scripts, stop_after, restart, behavior, share, close_raises
):
    log: list[tuple[str, str]] = []

    def plugin(name: str, script: list[Any]) -> Any:
        class P(BaseBackgroundPlugin):
            made = 0

            def __init__(self, app):
                super().__init__(app)
                P.made += 1
                self.script = iter(script)
                self.alive = 0

            async def initialize(self):
                log.append((name, "initialize"))
                self.plan = next(self.script, (0.0, "return", math.inf, "return"))
                await trio.sleep(self.plan[0])
                if self.plan[1] == "raise":
                    raise ValueError("initialize")

            async def start(self):
                self.alive += 1
                try:
                    if self.plan[3] == "child raises":
                        self.nursery.start_soon(self.work)
                        await trio.sleep_forever()
                    await self.work()
                finally:
                    self.alive -= 1

            async def work(self):
                self.alive += 1
                try:
                    await trio.sleep(self.plan[2])
                    if self.plan[3] == "cancel":
                        self.nursery.cancel_scope.cancel()
                    elif self.plan[3] != "return":
                        raise ValueError("work")
                finally:
                    self.alive -= 1

            async def close(self):
                assert not self.alive
                log.append((name, "close"))
                if close_raises:
                    raise ValueError("close")

        return P

    classes = {f"p{number}": plugin(f"p{number}", script) for number, script in enumerate(scripts)}

    async def main() -> None:
        loaded = [
            loaded_plugin(
                name, cls, restart=restart, startup_error_behavior=behavior, max_restarts=3
            )
            for name, cls in classes.items()
        ]
        async with running(loaded, rng=StubRandom(share)) as host:
            await trio.sleep(stop_after)
            receipt = await host.stop()
            assert receipt.exit_code == 0
            assert receipt.seconds <= 25
            for name, life in host.host.lives.items():
                assert legal(life.record.history)
                assert life.state.value in {State.STOPPED, State.FAILED}
                own = [what for who, what in log if who == name]
                assert own == ["initialize", "close"] * (len(own) // 2)
                assert classes[name].made <= 1
                failed = [problem for problem in life.record.problems if "P.close()" in problem]
                assert len(failed) == (own.count("close") if close_raises else 0)
            assert all(life.ended.is_set() for life in host.host.lives.values())

    run_virtual(main)


async def test_a_plugin_that_starts_again_still_says_why_it_had_to(tmp_path, autojump_clock):
    source = """
    class Sink(BaseBackgroundPlugin):
        async def initialize(self):
            if journal:
                await trio.sleep_forever()
            journal.append(1)
            raise OSError("the server is away")
    """
    tables = {"sink": {"initialize_timeout": 1000.0}}
    async with running_host(tmp_path, {"sink": source}, tables, wait=False) as host:
        await host.wait_for("sink", State.BACKOFF)
        await host.wait_for("sink", State.INITIALIZING)
        assert "initializing" in host.host.not_ready()["sink"]
        assert "OSError: the server is away" in host.host.not_ready()["sink"]
