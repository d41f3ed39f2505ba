"""Callbacks of streams against real HTTP receivers in this process; sockets need the real clock."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from pydantic import ValidationError

from lva import StreamAnalyticsEvent, StreamEvent
from lva.host.life.states import State
from lva.plugins.callbacks import FORGOTTEN, TELL_INTERVAL
from lva.video.callbacks import WITH_SECRETS, Callback, Conditions, unmasked
from lva.video.definition import StreamDefinition
from lva.video.reporting.callback_counts import METRICS
from tests.event_samples import CHANGE, SEEN, documents
from tests.plugins.test_webhook import Answer, Receiver, receiving
from tests.support import RunningHost, running_host, until

SECRET = "sesame-open-up"


def seen(number: int, stream: str = "7a", picture: int = 0, **data: Any) -> StreamAnalyticsEvent:
    return StreamAnalyticsEvent(
        stream, "door", "motion", "motion_start", number, 1.0, {"n": number, **data}, bytes(picture),
        number=number,
    )  # fmt: skip


def callback(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "http", "url": url, **more}


def of(*callbacks: dict[str, Any]) -> tuple[Callback, ...]:
    """Return callbacks as an event has them of its stream's definition."""
    return tuple(Callback.model_validate(each) for each in callbacks)


@contextmanager
def silent() -> Iterator[str]:
    """A receiver that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/{SECRET}"


@asynccontextmanager
async def running_callbacks(tmp_path: Path, **config: Any) -> AsyncIterator[RunningHost]:
    table = {"callbacks": {"config": {"timeout": 5, **config}}}
    async with running_host(tmp_path, {"callbacks": None}, table, wait=False) as host:
        await host.wait_for("callbacks", State.RUNNING, within=20)
        yield host


def publish(host: RunningHost, *events: Any, to: Sequence[Callback] | None = ()) -> None:
    """Publish events of a stream whose definition has these callbacks."""
    for event in events:
        name = "stream_event" if isinstance(event, StreamEvent) else "analytics_event"
        assert host.host.publisher.publish(name, [replace(event, callbacks=to)])


async def listing(host: RunningHost) -> list[dict[str, Any]]:
    handler = host.host.routes.match("/callbacks").route.verbs["GET"]
    found: list[dict[str, Any]] = (await handler(None))["callbacks"]
    return found


def numbers(receiver: Receiver) -> list[int]:
    return [json.loads(request.body)["data"]["n"] for request in receiver.requests]


async def test_each_event_is_a_request_to_who_asked_for_it_in_order(tmp_path):
    with receiving() as all_, receiving() as some:
        asks = {
            "event_types": ["motion_*"],
            "analytics": ["motion"],
            "where": [{"path": "data.n", "greater": 3}],
        }
        to = of(
            callback(all_.url, headers={"X-Key": SECRET}, params={"token": SECRET, "a": "ü&"}),
            callback(some.url, picture=False, conditions=asks),
        )
        async with running_callbacks(tmp_path) as host:
            events = [CHANGE, SEEN, *(seen(n, picture=10) for n in range(2, 6))]
            publish(host, *events, to=to)
            publish(host, seen(9, "8b"))
            await until(lambda: len(all_.requests) == 6 and len(some.requests) == 2)
            part = await host.receipt_of("callbacks")
    assert [json.loads(request.body) for request in all_.requests] == documents(*events)
    assert all_.requests[0].headers["x-key"] == SECRET
    assert all_.requests[0].headers["content-type"] == "application/json"
    assert all_.requests[0].target.endswith(f"?token={SECRET}&a=%C3%BC%26")
    assert numbers(some) == [4, 5]
    assert "base64" not in json.loads(some.requests[0].body)["image"]
    assert part.points["delivered"] == 7


@pytest.mark.slow("receivers in real time")
async def test_a_dead_callback_costs_no_other_one_anything(tmp_path, caplog):
    """Kind: one that is away, and one that hangs: their events wait within bounds, others' go out."""
    with receiving() as live, silent() as hangs, socket.create_server(("127.0.0.1", 0)) as gone:
        away = f"http://127.0.0.1:{gone.getsockname()[1]}/{SECRET}"
        gone.close()
        dead = [callback(away, headers={"Authorization": SECRET}), callback(hangs)]
        to = of(*dead, callback(live.url))
        async with running_callbacks(tmp_path, queue_limit=10, drain=0.2, timeout=60) as host:
            for start in range(0, 50, 10):
                publish(host, *(seen(n) for n in range(start, start + 10)), to=to)
                await until(lambda: len(live.requests) == start + 10)  # noqa: B023 - awaited here
            await until(lambda: host.plugin("callbacks")._targets["7a", 2].idle)
            first, second, third = await listing(host)
            part = await host.receipt_of("callbacks")
    assert numbers(live) == [*range(50)]
    for each in (first, second):
        waiting = each["queued"] + each["in_flight"]
        assert each["taken"] == 50 == each["dropped"]["overflow"] + waiting
        assert each["queued"] <= 10
    assert first["failures"] >= 1
    assert first["last_error"].startswith("http://127.0.0.1:")
    assert (third["sent"], third["dropped"], third["queued"]) == (50, {}, 0)
    assert (part.state, part.problems) == ("stopped", [])
    assert "events for callbacks were dropped: " in caplog.text
    assert "(shutdown)" in caplog.text
    assert SECRET not in caplog.text + str(first) + str(second)


@pytest.mark.slow("receivers in real time")
async def test_many_that_hang_do_not_keep_the_connections(tmp_path):
    """Kind: receivers that hang have a few connections, and others the rest, however many hang."""
    config = {"max_connections": 5, "timeout": 0.1, "max_delay": 0.01, "drain": 0}
    with receiving() as live, silent() as hangs:
        to = of(*[callback(hangs)] * 9, callback(live.url))
        async with running_callbacks(tmp_path, **config) as host:
            publish(host, seen(0), to=to)
            means = host.plugin("callbacks")._means
            await until(lambda: live.requests and not means.well.borrowed_tokens)
            for n in range(1, 10):
                publish(host, seen(n), to=to)
                await until(lambda: n in numbers(live))  # noqa: B023 - awaited here
                assert means.ill.borrowed_tokens <= 1
    # On a busy machine its response may come too late, too; then that event comes again.
    assert [*dict.fromkeys(numbers(live))] == [*range(10)]


async def test_what_a_receiver_says_decides(tmp_path, caplog):
    """Kind: an event that is refused, one that comes too early, a picture that is too large."""

    caplog.set_level("INFO", "lva.plugin.callbacks")

    def quoting(request: Any) -> Answer:
        return Answer(400, body=f"no {request.target} {request.headers['x-key']}".encode())

    with receiving() as receiver:
        receiver.answers = [quoting, Answer(503), Answer(302), Answer()]
        url = f"{receiver.url}/{SECRET}"
        to = of(callback(url, headers={"X-Key": SECRET}))
        async with running_callbacks(tmp_path, max_delay=0.05) as host:
            publish(host, *(seen(n) for n in range(3)), to=to)
            await until(lambda: len(receiver.requests) == 5)
            receiver.limit = 700
            publish(host, seen(3, picture=700), to=to)
            publish(host, seen(4, text="x" * 700), to=to)
            await until(lambda: len(receiver.requests) == 8)
            publish(host, seen(5), to=to)
            await until(lambda: len(receiver.requests) == 9)
            await until(lambda: host.plugin("callbacks")._targets["7a", 0].idle)
            (found,) = await listing(host)
            await host.receipt_of("callbacks")
    assert numbers(receiver) == [0, 1, 1, 1, 2, 3, 3, 4, 5]
    assert found["dropped"] == {"rejected": 2}
    assert (found["pictures_left_out"], found["failures"]) == (1, 0)
    assert "responded with 503; its events wait" in caplog.text
    assert "works again" in caplog.text
    assert SECRET not in caplog.text + str(found)


async def test_what_waits_at_the_stop_is_sent(tmp_path):
    with receiving() as receiver:
        receiver.answers = [Answer(503)]
        to = of(callback(receiver.url))
        async with running_callbacks(tmp_path) as host:
            publish(host, *(seen(n) for n in range(20)), to=to)
            await until(lambda: receiver.requests)  # it backs off now
            await host.receipt_of("callbacks")
    assert numbers(receiver) == [0, *range(20)]


@pytest.mark.slow("receivers in real time")
async def test_old_events_too_many_bytes_and_hosts_that_are_not_allowed(tmp_path):
    """Kind: what is dropped is counted by its reason, and those with most wait least."""
    with silent() as hangs, silent() as other:
        named = other.replace("127.0.0.1", "localhost")
        to = of(callback(hangs), callback(named))
        config = {"max_age": 0.1, "total_bytes": 12_000, "hosts": ["127.*"], "timeout": 0.3}
        async with running_callbacks(tmp_path, max_delay=0.01, drain=0, **config) as host:
            publish(host, *(seen(n, picture=1000) for n in range(20)), to=to)
            publish(host, seen(1, "8b", picture=1000), to=to[:1])
            await until(lambda: len(host.plugin("callbacks")._targets) == 3)
            first, second, third = await listing(host)
            assert sum(each["bytes"] for each in (first, second, third)) <= 12_000
            assert second["dropped"] == {"host": 20}
            assert "overflow" not in third["dropped"]
            while sum((await listing(host))[0]["dropped"].values()) < 20:
                await trio.sleep(0.02)
            assert (await listing(host))[0]["dropped"].keys() == {"overflow", "max_age"}


async def test_what_a_removed_callback_dropped_is_told(tmp_path, caplog):
    async with running_callbacks(tmp_path, hosts=["127.*"]) as host:
        publish(host, *(seen(n) for n in range(3)), to=of(callback("http://localhost:1/")))
        publish(host, seen(3))
        await until(lambda: host.plugin("callbacks")._leaving)
        part = await host.receipt_of("callbacks")
    assert "events for callbacks were dropped: 3 (host)" in caplog.text
    assert part.account == {"taken": 3, "sent": 0, "failed": 0, "dropped": {"host": 3}}


async def test_a_callback_that_is_changed_or_removed_sends_what_it_has(tmp_path):
    """Kind: nothing of a stream that is no more is left, once it has been sent."""
    with receiving() as old, receiving() as new:
        async with running_callbacks(tmp_path) as host:
            publish(host, seen(1), to=of(callback(old.url)))
            await until(lambda: old.requests)
            publish(host, seen(2), to=of(callback(new.url)))
            await until(lambda: new.requests)
            publish(host, seen(3))
            await until(lambda: not host.plugin("callbacks")._targets)
            await until(lambda: all(each.idle for each in host.plugin("callbacks")._leaving))
            publish(host, seen(4))
            await until(lambda: not host.plugin("callbacks")._leaving)
            assert not host.plugin("callbacks")._of_streams
    assert (numbers(old), numbers(new)) == ([1], [2])


async def test_events_find_their_callbacks_however_often_plugins_are_loaded(tmp_path):
    """Kind: what one plugin tells another must not stand in a table that one of them has lost.

    A stream's events say where they go; nothing is left of the plugin's life before.
    """
    with receiving() as receiver:
        to = of(callback(receiver.url))
        async with running_callbacks(tmp_path) as host:
            publish(host, seen(1), to=to)
            await until(lambda: receiver.requests)
            before = host.plugin("callbacks")
            await host.host.changes.reload("callbacks")
            await host.wait_for("callbacks", State.RUNNING, within=20)
            assert host.plugin("callbacks") is not before
            publish(host, seen(2), to=to)
            await until(lambda: len(receiver.requests) == 2)
    assert numbers(receiver) == [1, 2]


@pytest.mark.slow("receivers in real time")
async def test_the_queues_are_measured_and_what_is_dropped_at_the_stop_is_in_the_receipt(tmp_path):
    """Kind: an event that a callback asked for is sent, dropped, queued or in flight, and nothing else."""
    with receiving() as live, silent() as hangs:
        async with running_callbacks(tmp_path, drain=0.1, queue_limit=3, timeout=60) as host:
            to = of(callback(hangs), callback(live.url))
            for n in range(9):
                publish(host, seen(n), to=to)
                await until(lambda: len(live.requests) == n + 1)  # noqa: B023 - awaited here
            publish(host, seen(1, "8b"), to=of(callback(live.url)))
            publish(host, StreamAnalyticsEvent.from_dict(seen(2).as_dict()), to=None)
            await until(lambda: len(live.requests) == 10)
            await until(lambda: host.plugin("callbacks")._targets["8b", 0].idle)
            metrics = {each.name: each for each in host.host.metrics()["callbacks"]}
            part = await host.receipt_of("callbacks")
    assert [*metrics] == [metric.name for metric in METRICS]
    found = {
        (name.removeprefix("lva_callback_"), stream_id, *more): value
        for name, metric in metrics.items()
        for (stream, stream_id, *more), value in metric.samples
        if stream == "door"
    }
    assert found["events_taken_total", "7a"] == 18
    whole = ["events_sent_total", "events_queued", "events_in_flight"]
    whole_of_a = sum(found[name, "7a"] for name in whole)
    assert whole_of_a + found["events_dropped_total", "7a", "overflow"] == 18
    assert found["events_sent_total", "8b"] == found["events_taken_total", "8b"] == 1
    assert part.account is not None
    dropped = part.account["dropped"]
    assert dropped["not_known"] == 1
    assert dropped["shutdown"] == found["events_queued", "7a"] + found["events_in_flight", "7a"]
    assert part.account["taken"] == 20 == part.account["sent"] + sum(dropped.values())


async def test_a_stream_that_is_no_more_is_forgotten(tmp_path, mock_clock):
    """Kind: counts and clients of a removed stream must not stay until the end of the service."""
    mock_clock.rate = 1.0  # certificates are read in a thread, in real time
    async with running_callbacks(tmp_path, hosts=["127.*"]) as host:
        publish(host, seen(1), to=of(callback("http://localhost:1/")))
        plugin = host.plugin("callbacks")
        await until(lambda: plugin._targets)
        mock_clock.jump(FORGOTTEN - TELL_INTERVAL - 1)
        await trio.testing.wait_all_tasks_blocked()
        assert plugin._targets
        mock_clock.jump(TELL_INTERVAL + 1)
        await until(lambda: not plugin._targets)
        mock_clock.jump(TELL_INTERVAL)
        await until(lambda: not (plugin._leaving or plugin._of_streams))


# The definition


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ({"path": "data.area", "greater": 0.1}, True),
        ({"path": "data.area", "greater": 0.1, "less": 0.2}, False),
        ({"path": "data.boxes.1.x", "equals": 5}, True),
        ({"path": "data.boxes.2.x", "equals": 5}, False),
        ({"path": "data.boxes.-1.x", "equals": 5}, False),
        ({"path": "data.on", "equals": True}, True),
        ({"path": "data.on", "equals": 1}, False),
        ({"path": "data.on", "greater": 0}, False),
        ({"path": "data.none", "equals": None}, True),
        ({"path": "data.missing", "equals": None}, False),
        ({"path": "data.text", "less": 9}, False),
        ({"path": "frame", "less": 9}, True),
        ({"path": "image.size", "greater": 2}, True),
        ({"path": "image.base64", "equals": "AAAA"}, False),
    ],
)
def test_a_condition_looks_at_the_document(where, holds):
    data = {"area": 0.25, "boxes": [{"x": 1}, {"x": 5}], "on": True, "none": None, "text": "5"}
    event = StreamAnalyticsEvent("7", "d", "m", "e", 3, 1.0, data, bytes(3))
    assert Conditions.model_validate({"where": [where]}).hold(event) is holds


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ({}, True),
        ({"event_types": ["stream_*"]}, True),
        ({"event_types": ["motion_*", "stream_done"]}, False),
        ({"analytics": ["motion"]}, False),
        ({"where": [{"path": "code", "equals": "timeout"}]}, True),
    ],
)
def test_a_condition_on_changes_of_a_stream(conditions, holds):
    assert Conditions.model_validate(conditions).hold(CHANGE) is holds


WRONG = [
    ({"type": "ftp"}, "callbacks.0.type"),
    ({"url": f"ftp://x/{SECRET}"}, "callbacks.0.url"),
    ({"url": f"http://user:{SECRET}@x/"}, "callbacks.0.url"),
    ({"url": "***"}, "callbacks.0.url"),
    ({"headers": {"Host": SECRET}}, "callbacks.0.headers"),
    ({"headers": {"X-A": f"{SECRET}\n"}}, "callbacks.0.headers"),
    ({"params": {"a": SECRET * 1000}}, "callbacks.0.params"),
    ({"colour": SECRET}, "callbacks.0.colour"),
    ({"conditions": {"where": [{"path": "x"}]}}, "callbacks.0.conditions.where.0"),
    ({"conditions": {"where": [{"path": "x", "like": 1}]}}, "callbacks.0.conditions.where.0.like"),
    ({"conditions": {"where": [{"path": "x", "equals": 1, "less": 2}]}}, "callbacks.0.conditions.where.0"),
    ({"conditions": {"where": [{"path": "x", "greater": "y"}]}}, "callbacks.0.conditions.where.0.greater"),
    ({"conditions": {"event_types": [""]}}, "callbacks.0.conditions.event_types.0"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "path"), WRONG)
def test_a_wrong_callback_is_refused_with_its_key_and_without_its_value(wrong, path):
    body = {"name": "d", "source": "test:", "callbacks": [callback("http://x/") | wrong]}
    with pytest.raises(ValidationError) as raised:
        StreamDefinition.model_validate(body)
    found = raised.value.errors(include_input=False, include_context=False, include_url=False)
    assert [".".join(map(str, each["loc"])) for each in found] == [path]
    assert SECRET not in str(found)
    with pytest.raises(ValidationError, match="at most 10"):
        StreamDefinition.model_validate({**body, "callbacks": [callback("http://x/")] * 11})


def test_a_definition_shows_no_secret_and_is_kept_with_all():
    secret: dict[str, Any] = {"headers": {"X-A": SECRET}, "params": {"k": SECRET}}
    secret["conditions"] = {"where": [{"path": "a", "equals": None}, {"path": "b", "less": 1}]}
    body = {"name": "d", "source": "test:", "callbacks": [callback(f"http://x/{SECRET}", **secret)]}
    definition = StreamDefinition.model_validate(body)
    for shown in (definition.model_dump(), definition.model_dump_json(), repr(definition)):
        assert SECRET not in str(shown)
    kept = definition.model_dump_json(context=WITH_SECRETS)
    assert StreamDefinition.model_validate_json(kept) == definition
    shown = definition.model_dump(mode="json")["callbacks"]
    same = unmasked(shown, definition.callbacks)
    assert [Callback.model_validate(each) for each in same] == definition.callbacks
    for told in (
        unmasked(shown, []),
        unmasked([shown[0] | {"url": "http://y/"}], definition.callbacks),
    ):
        with pytest.raises(ValidationError, match="masked value"):
            Callback.model_validate(told[0])
    assert unmasked("x", definition.callbacks) == "x"
    assert unmasked([{"url": []}, 5], definition.callbacks * 2) == [{"url": []}, 5]
