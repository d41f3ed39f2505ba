"""Plugins' own loops that do not come round."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lva.host.watch.pulse import LoopsOfPlugins, Pulse, Watched
from lva.host.watch.reports import Reporter
from lva.host.watch.uses import Block, LoopUses


class OwnLoop:
    """An asyncio loop in a thread, with a gate for what blocks it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.gate = threading.Event()
        self.blocked = threading.Event()
        self.pulse = Pulse(self.loop.call_soon_threadsafe, OwnLoop._main.__code__)
        self.thread = threading.Thread(target=self._main)
        self.begun = threading.Event()
        self.thread.start()
        self.begun.wait()

    def _main(self) -> None:
        self.pulse.begin()
        self.loop.call_soon(self.begun.set)
        self.loop.run_forever()
        self.loop.close()

    def block(self) -> None:
        self.blocked.set()
        self.gate.wait()

    def watched(self) -> dict[str, Watched]:
        return {"a": Watched("acme", self.pulse)}

    def waits(self) -> bool:
        return self.pulse.waits(sys._current_frames()[self.pulse.ident])


@pytest.fixture
def own_loop() -> Iterator[OwnLoop]:
    made = OwnLoop()
    yield made
    made.gate.set()
    made.loop.call_soon_threadsafe(made.loop.stop)
    made.thread.join()


def until(condition: Callable[[], Any]) -> None:
    while not condition():
        pass


class Looks:
    """What is seen of a plugin's own loop."""

    def __init__(self) -> None:
        self.uses = LoopUses()
        self.loops = LoopsOfPlugins(0.02, Reporter(self.uses))

    def look(self, plugins: dict[str, Watched]) -> Block | None:
        """Look once; return the block that goes on."""
        self.loops.look(plugins, sys._current_frames())
        return self.uses.longest_open("a")

    def look_until_blocked(self, own_loop: OwnLoop) -> None:
        own_loop.loop.call_soon_threadsafe(own_loop.block)
        own_loop.blocked.wait()
        until(lambda: self.look(own_loop.watched()))


def test_a_loop_that_is_blocked_is_reported_until_it_comes_round(own_loop, caplog):
    looks = Looks()
    looks.look_until_blocked(own_loop)
    block = looks.look(own_loop.watched())
    assert block.of == "plugin"
    assert any(line.endswith(" in block") for line in block.stack)
    own_loop.gate.set()
    until(lambda: not looks.look(own_loop.watched()))
    assert looks.uses.of("a").blocks == 1
    assert caplog.messages[-1].startswith("blocked its own event loop for ")


def test_a_loop_that_is_gone_blocks_no_longer(own_loop):
    looks = Looks()
    looks.look_until_blocked(own_loop)
    assert looks.look({"a": Watched("acme", None)}) is None
    assert looks.uses.of("a").last_block.seconds >= 0.02, (
        "until it was gone, since it never answered"
    )


def test_an_idle_loop_is_not_asked(own_loop):
    looks = Looks()
    until(own_loop.waits)
    answered = own_loop.pulse.answered
    for _ in range(20):
        looks.look(own_loop.watched())
    assert own_loop.pulse.silent_since is None
    assert own_loop.pulse.answered == answered


def test_a_question_is_answered_by_whatever_the_loop_does_later(own_loop):
    pulse = own_loop.pulse
    number = pulse.begin_question()
    assert pulse.silent_for() >= 0
    assert pulse.silent_since is not None
    later = pulse.begin_question()
    pulse.answer(number - 1)
    assert pulse.silent_since is not None
    pulse.answer(later)
    assert pulse.silent_since is None


def test_a_loop_that_has_ended_is_not_waited_for():
    loop = asyncio.new_event_loop()
    loop.close()
    pulse = Pulse(loop.call_soon_threadsafe, OwnLoop._main.__code__)
    pulse.ask()
    assert pulse.silent_since is None
    assert pulse.silent_for() == 0
