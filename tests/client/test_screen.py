"""The screen of `lva top`, from events: what is shown of which model, in every size."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest
from rich.console import Console

from lva.client.model import Model
from lva.client.screen import screen, whole

COLUMNS = [
    "state", "since", "restarts", "accepted", "delivered", "rejected", "dropped", "queued", "in_flight",
    "fill", "rate", "share", "log", "dropping", "probe_at",
]  # fmt: skip
NOW = 1_795_370_460.0


def row(state: str = "running", **values: Any) -> list[Any]:
    """Return a row of the plugins' table as the service sends it."""
    known = {
        **dict.fromkeys(COLUMNS, 0),
        "state": state,
        "since": NOW - 75,
        "fill": 0.0,
        "share": None,
        "rate": 0.0,
        "probe_at": None,
        **values,
    }
    return [known[column] for column in COLUMNS]


def plugin(name: str, state: str = "running", reason: str | None = None, **values: Any) -> Any:
    return {
        "name": name,
        "kind": "event",
        "runtime": "trio",
        "critical": False,
        "unit": "points",
        "reason": reason,
        "row": row(state, **values),
        "spark": [0.0, 1.0, 2.0],
    }


def hello(*plugins: Any, timeline: Any = (), **more: Any) -> dict[str, Any]:
    return {
        "v": 1,
        "at": NOW,
        "ready": True,
        "draining": False,
        "service": {"version": "0.1.0", "started": NOW - 3700},
        "details": True,
        "step": 5,
        "window": 900,
        "series": {
            "at": [NOW - 10, NOW - 5],
            "requests": [1.0, 12.5],
            "client_errors": [0.0, 0.5],
            "server_errors": [0.0, 0.0],
            "p50": [None, 1.25],
            "p95": [None, 20.0],
            "p99": [None, 1500.0],
        },
        "columns": COLUMNS,
        "plugins": [*plugins],
        "timeline": [*timeline],
        **more,
    }


def tick(**more: Any) -> dict[str, Any]:
    known = {
        "at": NOW + 1,
        "ready": True,
        "draining": False,
        "sample": [NOW - 5, 20.0, 0.0, 0.0, 1.0, 2.0, 3.0],
        "rows": {},
        "sparks": {},
        "new_spark": False,
    }
    return {**known, **more}


def known(*events: tuple[str, dict[str, Any]]) -> Model:
    """Return what is known after these events."""
    model = Model()
    for name, data in events:
        model.take(name, data)
    return model


def drawn(model: Model, width: int = 140, height: int = 30, **options: Any) -> list[str]:
    """Return the screen's lines."""
    given = {"scrolled": 0, "trouble": "", "plain": False, **options}
    frame, _ = screen(model, "http://127.0.0.1:5240", width=width, height=height, **given)
    console = Console(
        file=io.StringIO(), width=width, height=height, color_system=None, legacy_windows=False
    )
    console.print(frame)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


# What is known


def test_a_tick_replaces_the_newest_step_or_begins_the_next() -> None:
    model = known(("hello", hello()), ("tick", tick()))
    assert [*model.series["requests"]] == [1.0, 20.0]
    model.take("tick", tick(sample=[NOW, 30.0, 0, 0, None, None, None]))
    assert [*model.series["requests"]] == [1.0, 20.0, 30.0]
    assert model.newest("p50") is None
    for step in range(500):
        model.take("tick", tick(sample=[NOW + step, 1.0, 0, 0, None, None, None]))
    assert len(model.series["at"]) == 180


def test_a_tick_changes_the_rows_that_it_holds_and_the_sparks() -> None:
    model = known(("hello", hello(plugin("a"), plugin("b"))))
    model.take("tick", tick(rows={"a": row(dropped=3)}, sparks={"a": 9.0}, new_spark=True))
    assert model.plugins["a"].row["dropped"] == 3
    assert model.plugins["b"].row["dropped"] == 0
    assert [*model.plugins["a"].spark] == [0.0, 1.0, 2.0, 9.0]
    assert [*model.plugins["b"].spark] == [0.0, 1.0, 2.0, 0]
    model.take("tick", tick(rows={"unknown": row()}, sparks={"unknown": 1.0}))


def test_who_held_the_event_loop_is_shown_with_the_line_for_as_long_as_it_is_told() -> None:
    block = {
        "at": NOW,
        "seconds": 0.25,
        "where": "/srv/plugins/a.py:29 in start",
        "what": "the event loop",
    }
    model = known(("hello", hello(plugin("a"), plugin("b"), blocks={"a": block})))
    (line,) = [line for line in drawn(model, width=180) if "blocked the event loop" in line]
    assert line.startswith("a ")
    assert line.rstrip().endswith("blocked the event loop 250 ms at a.py:29 in start")
    model.take("tick", tick(blocks={}))
    assert not any("blocked the event loop" in line for line in drawn(model, width=180))


def test_a_change_of_state_is_shown_at_once() -> None:
    model = known(("hello", hello(plugin("a"))))
    change = {"at": NOW, "plugin": "a", "from": "running", "state": "backoff", "reason": "gone"}
    model.take("transition", change)
    assert model.plugins["a"].row["state"] == "backoff"
    assert model.plugins["a"].reason == "gone"
    text = "\n".join(drawn(model))
    assert "backoff" in text
    assert "gone" in text


def test_a_second_hello_replaces_everything() -> None:
    model = known(("hello", hello(plugin("old"))), ("hello", hello(plugin("new"))))
    assert [*model.plugins] == ["new"]


def test_unknown_events_and_members_change_nothing() -> None:
    model = known(("hello", hello(plugin("a"), more=1)), ("later", {"x": 1}))
    assert [*model.plugins] == ["a"]


# What is shown


def test_the_first_line_says_how_the_service_is() -> None:
    (first, *_) = drawn(known(("hello", hello())))
    assert first.startswith("● ready  lva 0.1.0  http://127.0.0.1:5240  up 1h 01m")
    (first, *_) = drawn(known(("hello", hello(ready=False))))
    assert first.startswith("● not ready")
    (first, *_) = drawn(known(("hello", hello(ready=False, draining=True))))
    assert first.startswith("● stopping")


def test_requests_are_shown_with_errors_and_how_long_they_take() -> None:
    lines = drawn(known(("hello", hello())))
    assert lines[2].split()[:2] == ["requests", "12.5/s"]
    assert lines[2].rstrip().endswith("▂█")
    assert lines[3].split()[:2] == ["4xx", "0.50/s"]
    assert lines[5].split()[:3] == ["latency", "1.2", "ms"]
    assert lines[5].rstrip().endswith("95 % 20 ms  99 % 1.5 s")


def test_a_plugin_is_shown_with_all_that_matters() -> None:
    made = plugin(
        "cam", fill=0.5, queued=3, in_flight=2, dropped=12, restarts=4, share=0.25, rate=7.5
    )
    (line,) = [line for line in drawn(known(("hello", hello(made)))) if line.startswith("cam")]
    assert line.split() == [
        "cam", "running", "1m", "15s", "▁▅█", "7.50/s", "████", "5", "12", "4", "25%",
    ]  # fmt: skip


def test_those_in_trouble_come_first() -> None:
    plugins = [plugin("fine"), plugin("full", fill=0.9), plugin("stopped", "stopped")]
    plugins += [plugin("away", "backoff", "no route"), plugin("dead", "failed", "crashed")]
    model = known(("hello", hello(*plugins)))
    names = [item.name for item in model.by_trouble()]
    assert names == ["dead", "away", "full", "fine", "stopped"]
    lines = drawn(model, width=160)
    assert next(line for line in lines if line.startswith("dead")).rstrip().endswith("crashed")


def test_who_drops_points_or_fails_requests_or_has_a_circuit_open_comes_first_and_says_so() -> None:
    """Kind: a running plugin that needs somebody all the same."""
    rows = [plugin("a"), plugin("b", dropping=7, dropped=9), plugin("c", probe_at=NOW), plugin("d")]
    failing = [
        {"plugin": "d", "recent": 1},
        {"plugin": "d", "recent": 0},
        {"plugin": None, "recent": 2},
    ]
    model = known(("hello", hello(*rows, failing=failing)))
    lines = [line for line in drawn(model, width=160) if line.startswith(("a ", "b ", "c ", "d "))]
    assert [line[0] for line in lines] == ["b", "c", "d", "a"]
    assert lines[0].rstrip().endswith("7 points dropped in the last minute")
    assert lines[1].rstrip().endswith("circuit open")
    assert lines[2].rstrip().endswith("1 request failed in the last minute")
    model.take("tick", tick(failing=[]))
    assert not model.plugins["d"].failing


def test_what_counts_nothing_has_no_rate() -> None:
    """Kind: a zero for a number that there is not."""
    (line,) = [
        line
        for line in drawn(known(("hello", hello({**plugin("idle"), "unit": None}))))
        if line.startswith("idle")
    ]
    assert "/s" not in line


def test_a_background_plugin_has_no_points() -> None:
    nothing = dict.fromkeys(["accepted", "delivered", "dropped", "queued", "in_flight", "fill"])
    made = plugin("job", **nothing, rate=None)
    (line,) = [line for line in drawn(known(("hello", hello(made)))) if line.startswith("job")]
    assert line.split() == ["job", "running", "1m", "15s", "▁▅█", "0/s", "0"]


def test_names_and_reasons_cannot_steer_the_terminal() -> None:
    evil = "\x1b[2J\u202e"
    change = {"at": NOW, "plugin": evil, "from": "x", "state": evil, "reason": evil}
    model = known(("hello", hello(plugin(evil, "failed", evil), timeline=[change])))
    for line in drawn(model, width=160, trouble=evil):
        assert line.isprintable()


def test_scrolling_ends_at_the_last_plugin() -> None:
    model = known(("hello", hello(*[plugin(f"p{n:03}") for n in range(100)])))
    assert "1 to 20 of 100 plugins" in drawn(model, height=30)[-1]
    lines = drawn(model, height=30, scrolled=1000)
    assert "81 to 100 of 100 plugins" in lines[-1]
    assert any(line.startswith("p099") for line in lines)
    assert not any(line.startswith("p000") for line in lines)


@pytest.mark.slow("many sizes")
def test_every_size_of_window_is_filled_and_not_exceeded() -> None:
    rng = random.Random(7)
    long = "a reason that is longer than any window could be wide " * 5
    changes = [
        {"at": NOW, "plugin": f"p{n}", "from": "a", "state": "backoff", "reason": long}
        for n in range(20)
    ]
    for _ in range(60):
        width, height = rng.randint(20, 240), rng.randint(8, 70)
        made = [
            plugin(f"plugin_with_a_long_name_{n}", "backoff", long, dropped=10**9, rate=1e12)
            for n in range(rng.choice([0, 1, 5, 100]))
        ]
        model = known(("hello", hello(*made, timeline=changes[: rng.choice([0, 1, 20])])))
        lines = drawn(
            model, width, height, trouble=rng.choice(["", long]), plain=rng.random() < 0.5
        )
        assert len(lines) <= max(height, 14), (width, height)
        assert max(map(len, lines)) <= width, (width, height)


@pytest.mark.parametrize("count", [0, 1, 30])
def test_all_of_it_fits_where_nobody_scrolls(count: int) -> None:
    changes = [{"at": NOW, "plugin": "p0", "from": "a", "state": "backoff", "reason": None}] * count
    model = known(("hello", hello(*[plugin(f"p{n}") for n in range(count)], timeline=changes)))
    lines = drawn(model, height=whole(model))
    assert sum(line.startswith("p") for line in lines) == count
    assert lines[-1].startswith("q quit")


def test_a_terminal_without_block_elements_gets_letters() -> None:
    model = known(("hello", hello(plugin("a", fill=0.5))))
    body = "\n".join(drawn(model, plain=True)[1:-1])
    assert body.isascii()
