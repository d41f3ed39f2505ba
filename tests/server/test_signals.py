"""One signal is one wish, in whatever order the thread and the handler get to it."""

from __future__ import annotations

import signal

import pytest

from lva.server import signals
from lva.server.signals import Signals

TERM = signal.SIGTERM


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> tuple[Signals, list[str]]:
    """Return signals that take any two for two wishes, however close, and what they ask for."""
    monkeypatch.setattr(signals, "_SAME_WISH", 0.0)
    heard: list[str] = []
    subject = Signals()
    subject.on_first = lambda number: heard.append(f"first {number}")
    subject.on_second = lambda number: heard.append(f"second {number}")
    return subject, heard


@pytest.mark.parametrize("order", ["thread, handler", "handler, thread"])
def test_a_signal_that_is_heard_and_handled_far_apart_is_one(
    told: tuple[Signals, list[str]], order: str
) -> None:
    """Either may wait for the interpreter for longer than two signals of one wish are apart."""
    subject, heard = told
    ways = {
        "thread": lambda: subject._note_heard(TERM),
        "handler": lambda: subject._handle(TERM, None),
    }
    for way in order.split(", "):
        ways[way]()
    assert heard == [f"first {TERM}"]
    for way in order.split(", "):
        ways[way]()
    assert heard == [f"first {TERM}", f"second {TERM}"]


def test_where_only_one_of_them_sees_signals_each_counts(told: tuple[Signals, list[str]]) -> None:
    """A plugin may have taken the wake-up descriptor, or a handler."""
    subject, heard = told
    subject._handle(TERM, None)
    subject._note_heard(signal.SIGINT)
    assert heard == [f"first {TERM}", f"second {signal.SIGINT}"]
