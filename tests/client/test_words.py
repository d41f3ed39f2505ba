"""Values in few letters, small pictures, and texts that a terminal must not obey."""

from __future__ import annotations

import pytest

from lva.client.words import age, clean, count, gauge, milliseconds, pairs, spark


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, ""),
        (0, "0"),
        (7.0, "7"),
        (0.256, "0.26"),
        (12.34, "12.3"),
        (9999, "9999"),
        (10_000, "10.0k"),
        (123_456, "123k"),
        (12_345_678, "12.3M"),
        (5e9, "5.0G"),
    ],
)
def test_numbers_are_short(number: float | None, text: str) -> None:
    assert count(number) == text
    assert len(text) <= 5


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "-"), (0.42, "0.4 ms"), (12.3, "12 ms"), (999.0, "999 ms"), (1500, "1.5 s")],
)
def test_times_are_short(number: float | None, text: str) -> None:
    assert milliseconds(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (59.9, "59s"), (61, "1m 01s"), (3700, "1h 01m"), (90_000, "1d 01h")],
)
def test_ages_are_in_their_largest_units(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_a_line_is_scaled_to_its_highest_value() -> None:
    assert spark([0, 1, 2, 4], 4) == "▁▃▅█"
    assert spark([1, 2], 4) == "  ▅█"
    assert spark([5, 0, 1, 2], 2) == "▅█"
    assert spark([None, 0, None], 3) == " ▁ "
    assert spark([], 3) == "   "
    assert spark([0, 7], 2, plain=True) == "_#"


def test_a_bar_shows_a_share() -> None:
    assert gauge(None, 4) == "    "
    assert gauge(0, 4) == "    "
    assert gauge(0.5, 4) == "██  "
    assert gauge(1.5, 4) == "████"
    assert gauge(0.001, 4) == "▏   "
    assert gauge(0.99, 4, plain=True).isascii()


@pytest.mark.parametrize(
    ("hostile", "harmless"),
    [
        ("\x1b[2Jgone", "\ufffd[2Jgone"),
        ("a\nb\tc\r", "a\ufffdb\ufffdc\ufffd"),
        ("\u202eevil", "\ufffdevil"),
        ("\x9b31m", "\ufffd31m"),
        ("plain é ☕", "plain é ☕"),
    ],
)
def test_what_others_say_cannot_steer_the_terminal(hostile: str, harmless: str) -> None:
    assert clean(hostile) == harmless
    assert pairs({hostile: hostile}) == f"{harmless}={harmless}"
