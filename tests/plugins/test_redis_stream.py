"""The Redis plugin against a real server: what arrives, what survives, what is acknowledged."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from lva import MonitoringPoint
from lva.errors import ConfigurationError
from lva.events.types import name_of
from lva.host.life.states import State
from lva.host.loading.load import load_plugins
from lva.plugins import redis_stream
from tests.event_samples import ITEMS, documents
from tests.plugins.redis_server import RedisServer
from tests.support import (
    RunningHost,
    ServiceProcess,
    host_settings,
    journal,
    numbered,
    running_host,
    until,
    write_plugin,
)
from tests.test_docs import _tables, page

NAME = "redis_stream"
#: Keeps, in the journal, the points of every series that it sees.
SINK = """
    class Sink(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            journal.extend(points)
"""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


#: Quick to try again.
QUICK = {
    "backoff_initial": 0.1, "backoff_max": 0.3, "retry_initial": 0.05, "retry_max": 0.2, "circuit_pause": 0.2
}  # fmt: skip


def config_of(server: RedisServer, **config: Any) -> dict[str, Any]:
    """Return the plugin's configuration, with a short limit."""
    return {"url": server.url, "timeout": 0.5, **config}


def running(
    tmp_path: Path,
    server: RedisServer,
    table: Any = (),
    wait: bool = True,
    sink: str = SINK,
    shutdown_timeout: float = 25.0,
    **config: Any,
) -> AbstractAsyncContextManager[RunningHost]:
    """Run the plugin, and one that keeps the points if it consumes."""
    sources = {"sink": sink, NAME: None} if "consume" in config else {NAME: None}
    whole = {**QUICK, "config": config_of(server, **config), **dict(table)}
    limit = {"shutdown_timeout": shutdown_timeout}
    return running_host(tmp_path, sources, {NAME: whole}, wait=wait, **limit)


def toml(server: RedisServer, **config: Any) -> str:
    """Return the plugin's tables for a service in a process of its own."""
    values = config_of(server, **config)
    return "\n".join(
        [
            f"[plugins.{NAME}]",
            # A service publishes faster than a server is missed: what waits for it meanwhile has room.
            "buffer_limit = 1000000",
            *(f"{key} = {value}" for key, value in QUICK.items()),
            f"[plugins.{NAME}.config]",
            *(f"{key} = {json.dumps(value)}" for key, value in values.items()),
        ]
    )


def numbers(server: RedisServer, stream: str = "points") -> list[int]:
    """Return the numbers of the numbered points in a stream, in its order."""
    entries = [redis_stream.to_point(fields) for _, fields in server.client.xrange(stream)]
    return [point.fields["n"] for point in entries if point.series == "numbers"]


def add(server: RedisServer, points: list[MonitoringPoint], stream: str = "in") -> list[bytes]:
    """Append points to a stream; return the entries' ids."""
    pipeline = server.client.pipeline(transaction=False)
    for point in points:
        pipeline.xadd(stream, redis_stream.to_entry(point))
    return list(pipeline.execute())


def pending(server: RedisServer, stream: str = "in") -> int:
    return int(server.client.xpending(stream, "lva")["pending"])


def received() -> list[int]:
    """Return the numbers of the points that `SINK` was called with."""
    return [point.fields["n"] for point in journal]


async def clean_end(host: RunningHost, **points: int) -> None:
    """Stop the host; nothing is lost, abandoned or wrong."""
    receipt = await host.stop()
    (part,) = [part for part in receipt.plugins if part.name == NAME]
    assert (part.state, [*part.problems], [*part.leaked_tasks]) == ("stopped", [], [])
    assert receipt.exit_code == 0
    assert {key: part.points[key] for key in points} == points


# Writing


@pytest.mark.slow("talks to a real server")
async def test_points_arrive_in_order_in_the_documented_form(tmp_path, redis):
    async with running(tmp_path, redis, stream="points") as host:
        host.publish([MonitoringPoint("door", 7, {"side": "ü"}, {"open": 1, "angle": 1.0})])
        host.publish(numbered(2500))
        await until(lambda: redis.client.xlen("points") == 2501)
        (_, first), *_ = redis.client.xrange("points")
        assert first == {
            b"series": b"door",
            b"time": b"7",
            b"tags": '{"side": "ü"}'.encode(),
            b"fields": b'{"open": 1, "angle": 1.0}',
        }
        assert numbers(redis) == list(range(2500))
        await clean_end(host, delivered=2501, retries=0)


@pytest.mark.parametrize(
    "value",
    ["", "ü\n\0\u2028", "1", 0, -(2**63), 2**63 - 1, 1.0, -0.0, 1e-300, 0.1 + 0.2],
)
def test_a_point_comes_back_as_it_was(value):
    point = MonitoringPoint("s ü", 1700000000.123456, {"tag": value}, {"field": value})
    entry = redis_stream.to_entry(point)
    back = redis_stream.to_point({key.encode(): text.encode() for key, text in entry.items()})
    assert back == point
    assert [type(back.tags["tag"]), type(back.fields["field"])] == [type(value)] * 2
    assert repr(back.fields["field"]) == repr(value)


@pytest.mark.slow("talks to a real server")
async def test_the_stream_is_trimmed(tmp_path, redis):
    async with running(tmp_path, redis, stream="points", maxlen=300) as host:
        host.publish(numbered(3000))
        await until(lambda: numbers(redis)[-1:] == [2999])
        kept = numbers(redis)
        assert kept == list(range(3000 - len(kept), 3000))
        assert 300 <= len(kept) <= 500  # whole nodes of 100 entries go
        await clean_end(host, delivered=3000)


@pytest.mark.slow("talks to a real server")
@pytest.mark.parametrize(
    ("begin", "end", "why"),
    [
        (
            "CONFIG SET maxmemory 1",
            "CONFIG SET maxmemory 0",
            "command not allowed when used memory",
        ),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "against a read only replica"),
        ("SET points 1", "DEL points", "WRONGTYPE"),
    ],
)
async def test_a_server_that_takes_nothing_gets_the_points_later(tmp_path, redis, begin, end, why):
    async with running(tmp_path, redis, {"max_attempts": 2}, stream="points") as host:
        redis.client.execute_command(begin)
        (delivery,) = host.life(NAME).deliveries.values()
        host.publish(numbered(5))
        await until(lambda: delivery.ledger.retries >= 4)  # more than max_attempts
        assert why in (delivery.last_error or "")
        # Another connection each time: behind the same name there may be another server by now.
        assert redis.client.info("stats")["total_connections_received"] > 4
        redis.client.execute_command(end)
        await until(lambda: delivery.ledger.delivered == 5)
        assert numbers(redis) == [0, 1, 2, 3, 4]
        await clean_end(host, delivered=5, rejected=0)


def leave_room(server: RedisServer, count: int) -> None:
    """Let the stream take this many points and refuse those after them."""
    server.client.xadd("points", {"the": "last"}, id=f"{2**64 - 1}-{2**64 - 1 - count}")


async def test_only_refused_points_are_sent_again(tmp_path, redis):
    leave_room(redis, 2)
    async with running(tmp_path, redis, stream="points") as host:
        (delivery,) = host.life(NAME).deliveries.values()
        host.publish(numbered(5))
        await until(lambda: delivery.ledger.delivered == 2)
        assert "3 points refused; the last: The stream has exhausted" in delivery.last_error
        redis.client.delete("points")
        await until(lambda: delivery.ledger.delivered == 5)
        assert numbers(redis) == [2, 3, 4]
        await clean_end(host, delivered=5)


async def test_points_that_are_refused_for_ever_are_counted_and_hold_up_nothing(tmp_path, redis):
    leave_room(redis, 1)
    async with running(tmp_path, redis, {"max_attempts": 3}, stream="points") as host:
        (delivery,) = host.life(NAME).deliveries.values()
        host.publish(numbered(4))
        await until(lambda: delivery.ledger.dropped["max_attempts"] == 3)
        redis.client.delete("points")
        host.publish(numbered(1, start=4))
        await until(lambda: numbers(redis) == [4])
        part = await host.receipt_of(NAME)
    assert (part.points["delivered"], part.points["dropped"]) == (2, {"max_attempts": 3})


# A server that goes away


async def test_a_server_that_is_absent_at_start_is_named_and_waited_for(tmp_path):
    with RedisServer(tmp_path, start=False) as redis:
        async with running(tmp_path, redis, wait=False, stream="points") as host:
            await host.wait_for(NAME, State.BACKOFF, within=10)
            assert f"127.0.0.1:{redis.port}" in host.host.not_ready()[NAME]
            host.publish(numbered(100))
            redis.start()
            await until(lambda: len(numbers(redis)) == 100)
            assert numbers(redis) == list(range(100))
            await clean_end(host, delivered=100)


@pytest.mark.slow("talks to a real server")
async def test_a_server_that_comes_and_goes_costs_no_point_and_no_restart_of_few(tmp_path, redis):
    table = {"backoff_initial": 0.01, "backoff_max": 0.01}
    async with running(tmp_path, redis, table, stream="points", timeout=0.2) as host:
        for start in range(
            0, 800, 100
        ):  # the default, for all plugins, is five restarts in a minute
            host.publish(numbered(50, start))
            await trio.lowlevel.checkpoint()  # some may be on their way
            redis.kill()
            host.publish(numbered(50, start + 50))
            await host.wait_for(NAME, State.BACKOFF, within=10)
            redis.start()
            await host.wait_for(NAME, State.RUNNING, within=10)
        await until(lambda: {*numbers(redis)} == {*range(800)})
        await clean_end(host, delivered=800)


@pytest.mark.slow("talks to a real server")
@pytest.mark.parametrize(
    "config", [{"stream": "points"}, {"consume": "in"}], ids=["writer", "reader"]
)
async def test_a_stalled_server_is_noticed_without_a_point(tmp_path, redis, config):
    async with running(tmp_path, redis, **config) as host:
        redis.pause()
        await host.wait_for(NAME, State.BACKOFF, within=10)
        assert "Timeout" in host.life(NAME).record.last.reason
        host.publish(numbered(50))
        redis.resume()
        await host.wait_for(NAME, State.RUNNING, within=10)
        await until(lambda: "consume" in config or numbers(redis) == [*range(50)])
        await clean_end(host, delivered=50)


@pytest.mark.slow("a stop takes as long as it may")
@pytest.mark.parametrize("count", [10, 9000], ids=["few points", "more than the sockets hold"])
async def test_a_stop_during_a_stall_keeps_its_time_and_counts_what_is_lost(tmp_path, redis, count):
    padding = {"padding": "x" * 3000}
    points = [MonitoringPoint("numbers", 1.0, {}, {"n": n, **padding}) for n in range(count)]
    config = {"stream": "points", "consume": "in"}
    async with running(
        tmp_path, redis, {"buffer_limit": count}, shutdown_timeout=5, **config
    ) as host:
        redis.pause()
        host.publish(points)
        receipt = await host.stop()
    part = next(part for part in receipt.plugins if part.name == NAME)
    assert receipt.seconds < 6
    assert (receipt.exit_code, part.state) == (4, "stopped")
    assert part.points["dropped"] == {"shutdown": count}
    assert (part.leaked_tasks, part.leaked_threads) == ([], [])


# Reading


@pytest.mark.slow("talks to a real server")
async def test_a_stream_is_published_and_acknowledged(tmp_path, redis):
    add(redis, numbered(3))  # from before the group
    point = MonitoringPoint("door", 7, {"side": "left", "n": 1}, {"n": 9, "angle": 1.0})
    async with running(tmp_path, redis, consume="in") as host:
        await until(lambda: len(journal) == 3)
        add(redis, [point, *numbered(1200, start=3)])
        await until(lambda: len(journal) == 1204)
        assert journal[3] == point
        assert type(journal[3].time) is int
        assert received() == [0, 1, 2, 9, *range(3, 1203)]
        await until(lambda: pending(redis) == 0)
        await clean_end(host)
    assert redis.client.xlen("in") == 1204  # nothing was written


async def test_what_is_read_is_written_on(tmp_path, redis):
    add(redis, numbered(10))
    async with running(tmp_path, redis, consume="in", stream="points") as host:
        await until(lambda: len(numbers(redis)) == 10)
        await clean_end(host, delivered=10)


@pytest.mark.slow("talks to a real server")
async def test_a_backlog_is_read_no_faster_than_max_rate(tmp_path, redis):
    add(redis, numbered(100))
    async with running(tmp_path, redis, consume="in", batch=10, max_rate=100) as host:
        await until(lambda: journal)
        with trio.move_on_after(0.45):
            await until(lambda: len(journal) > 60)
        assert len(journal) <= 60
        await until(lambda: len(journal) == 100)
        await clean_end(host)


@pytest.mark.slow("talks to a real server")
async def test_what_a_dead_consumer_left_is_claimed(tmp_path, redis, nursery):
    """Its entries only once they are idle; until the others are there, it is seen to work on them."""
    theirs = add(redis, numbered(30))[:20]
    redis.client.xgroup_create("in", "lva", "0")
    redis.client.xreadgroup("lva", "dead", {"in": ">"}, count=20)
    config = {"consume": "in", "claim_idle": 1.0, "batch": 7, "consumer": "alive"}

    async def not_dead_yet():
        while len(journal) < 10:
            redis.client.xclaim("in", "lva", "dead", 0, theirs, justid=True)
            await trio.sleep(0.05)

    journal.clear()
    nursery.start_soon(not_dead_yet)
    async with running(tmp_path, redis, **config) as host:
        await until(lambda: len(journal) >= 30)
        assert received() == [*range(20, 30), *range(20)]
        await until(lambda: pending(redis) == 0)
        await clean_end(host)


async def test_what_this_consumer_left_comes_first_without_what_was_trimmed(
    tmp_path, redis, caplog
):
    ids = add(redis, numbered(10))
    redis.client.xgroup_create("in", "lva", "0")
    redis.client.xreadgroup("lva", "me", {"in": ">"}, count=8)
    redis.client.xdel("in", *ids[2:4])
    async with running(tmp_path, redis, consume="in", consumer="me", batch=3) as host:
        await until(lambda: len(journal) == 8 and pending(redis) == 0)
        assert received() == [0, 1, 4, 5, 6, 7, 8, 9]
        await clean_end(host)
    assert "no points" not in caplog.text


GOOD = {"series": "s", "time": "1", "tags": "{}", "fields": '{"n": 1}'}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"series": None}, "KeyError: b'series'"),
        ({"series": ""}, "ValueError: series is empty"),
        ({"series": b"\xff"}, "UnicodeDecodeError: "),
        ({"time": "yesterday"}, "JSONDecodeError: "),
        ({"time": '"1"'}, "TypeError: series 's': time is in Unix seconds"),
        ({"time": "1e400"}, "ValueError: series 's': time is not finite"),
        ({"time": "1" * 400}, "ValueError: series 's': time is not finite"),
        ({"tags": "[]"}, "TypeError: tags and fields must be JSON objects"),
        ({"fields": '{"n": [1]}'}, "TypeError: series 's': fields['n'] must be a str, int or float"),
        ({"fields": f'{{"n": {2**63}}}'}, "ValueError: series 's': fields['n'] does not fit into 64 bits"),
        ({"fields": "[" * 100_000}, "RecursionError: "),
        ({"fields": b"\xff"}, "UnicodeDecodeError: "),
    ],
)  # fmt: skip
def test_an_entry_that_is_no_point_says_why(change, why):
    entry = {key: value for key, value in (GOOD | change).items() if value is not None}
    fields = {k.encode(): v if isinstance(v, bytes) else v.encode() for k, v in entry.items()}
    with pytest.raises(redis_stream.MALFORMED) as caught:
        redis_stream.to_point(fields)
    assert why in f"{caught.typename}: {caught.value}"


@pytest.mark.parametrize("dead_letter", [None, "dead"])
async def test_an_entry_that_is_no_point_holds_up_nothing(tmp_path, redis, dead_letter, caplog):
    add(redis, numbered(2))
    bad = redis.client.xadd("in", {b"text": b"\xff\x00", "fields": "no"})
    add(redis, numbered(2, start=2))
    async with running(tmp_path, redis, consume="in", dead_letter=dead_letter) as host:
        await until(lambda: len(journal) == 4 and pending(redis) == 0)
        assert received() == [0, 1, 2, 3]
        await clean_end(host)
    assert (
        f"entries of in that are not points: 1; the first is {bad.decode()}: KeyError"
        in caplog.text
    )
    if dead_letter:
        ((_, fields),) = redis.client.xrange("dead")
        assert fields == {
            b"text": b"\xff\x00",
            b"fields": b"no",
            b"id": bad,
            b"error": b"KeyError: b'tags'",
        }
    else:
        assert not redis.client.exists("dead")


@pytest.mark.slow("talks to a real server")
async def test_without_its_dead_letter_stream_an_entry_stays_pending(tmp_path, redis, caplog):
    redis.client.set("dead", "not a stream")
    redis.client.xadd("in", {"text": "no point"})
    add(redis, numbered(1))
    async with running(tmp_path, redis, consume="in", dead_letter="dead", claim_idle=0.4) as host:
        await until(lambda: journal and pending(redis) == 1)
        assert "stay pending: WRONGTYPE" in caplog.text
        redis.client.delete("dead")
        await until(lambda: pending(redis) == 0)
        assert redis.client.xlen("dead") == 1
        assert received() == [0]
        await clean_end(host)


@pytest.mark.slow("talks to a real server")
async def test_a_consumer_survives_the_server_s_restarts_and_the_loss_of_its_group(tmp_path, redis):
    async with running(tmp_path, redis, consume="in") as host:
        for round_, end in enumerate((redis.stop, redis.kill, redis.kill)):
            add(redis, numbered(10, start=10 * round_))
            await until(lambda n=round_: len(journal) == 10 * n + 10 and pending(redis) == 0)
            end()
            await host.wait_for(NAME, State.BACKOFF, within=10)
            redis.start()
            await host.wait_for(NAME, State.RUNNING, within=10)
        assert received() == list(range(30))  # the group knew where it was
        redis.client.flushall()
        await host.wait_for(NAME, State.BACKOFF, within=10)
        await host.wait_for(NAME, State.RUNNING, within=10)
        add(redis, numbered(5, start=30))
        await until(lambda: len(journal) == 35)
        assert received() == list(range(35))
        await clean_end(host)


@pytest.mark.process
def test_two_services_share_a_group(tmp_path, redis):
    show = """
        class Show(BaseEventPlugin, BaseBackgroundPlugin):
            eventName = "monitoring_event"

            async def initialize(self):
                self.addRoute("/seen", lambda request: {"seen": self.seen})
                self.seen = []

            async def handleEvent(self, points, logger):
                self.seen += [point.fields["n"] for point in points if point.series == "numbers"]
    """
    services = []
    for name in ("one", "two"):
        directory = tmp_path / name
        write_plugin(directory, "unused", "")  # makes the directory
        write_plugin(directory / "plugins", "show", show)
        config = toml(redis, consume="in", consumer=name, batch=10, max_rate=100)
        services.append(ServiceProcess(directory, ["show", NAME], config))
    with services[0] as one, services[1] as two:
        one.wait_until_ready()
        two.wait_until_ready()
        add(redis, numbered(150))
        seen = lambda service: service.get("/seen").json()["seen"]  # noqa: E731
        one.wait_until(lambda: len(seen(one)) + len(seen(two)) >= 150)
        assert seen(one)
        assert seen(two)
        assert sorted(seen(one) + seen(two)) == list(range(150))
        assert (one.stop(), two.stop()) == (0, 0)


@pytest.mark.slow("talks to a real server")
async def test_no_entry_is_acknowledged_that_the_service_did_not_take(tmp_path, redis):
    """At stop the channels close before the consumer does; what it reads then must stay."""
    slow = """
        class Slow(BaseEventPlugin):
            eventName = "monitoring_event"

            async def handleEvent(self, points, logger):
                journal.extend(points)
                await trio.sleep(0.3)  # the others are drained, and go on, meanwhile
    """
    add(redis, numbered(3000))
    config = {"consume": "in", "batch": 10, "max_rate": 2000}
    async with running(tmp_path, redis, sink=slow, **config) as host:
        await until(lambda: len(journal) >= 100)
        await clean_end(host)
        (group,) = redis.client.xinfo_groups("in")
        acknowledged = group["entries-read"] - group["pending"]
        # A batch may come in between the two channels' ends: it is taken, and comes again.
        assert len(journal) - 10 <= acknowledged <= len(journal) < 3000
        assert received() == list(range(len(journal)))


@pytest.mark.slow("talks to a real server")
async def test_a_stop_waits_for_an_acknowledgement_under_way(tmp_path, redis):
    """A stand-in for a slow server."""
    async with running(tmp_path, redis, consume="in") as host:
        server, begun = host.plugin(NAME)._server, []
        acknowledge = server.xack

        async def slowly(*arguments: Any) -> Any:
            begun.append(arguments)
            await asyncio.sleep(0.3)
            return await acknowledge(*arguments)

        server.xack = slowly
        add(redis, numbered(3))
        await until(lambda: begun)
        assert pending(redis) > 0
        await clean_end(host)
        assert pending(redis) == 0


@pytest.mark.slow("talks to a real server")
async def test_a_cancellation_that_the_library_swallows_is_repeated(tmp_path, redis):
    """A stand-in for `asyncio.wait_for` before Python 3.12."""
    async with running(tmp_path, redis, stream="points") as host:
        begun = []

        async def swallow() -> None:
            begun.append(1)
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

        host.plugin(NAME)._server.ping = swallow
        await until(lambda: begun)
        await clean_end(host)
        assert (host.life(NAME).stop_seconds or 99) < 1


@pytest.mark.slow("talks to a real server")
async def test_points_that_do_not_come_back_are_not_acknowledged(tmp_path, redis, caplog):
    """The plugin's own buffer is too small, so the last point of the batch is dropped there."""
    add(redis, numbered(2))
    async with running(
        tmp_path,
        redis,
        {"buffer_limit": 1, "overflow": "drop_newest"},
        consume="in",
        claim_idle=0.4,
    ) as host:
        await until(lambda: "2 points did not come back" in caplog.text)
        assert pending(redis) == 2
        await until(lambda: len(journal) >= 4)  # claimed, and published again
        await host.stop()
    assert set(received()) == {0, 1}


# Credentials


@pytest.mark.process
@pytest.mark.parametrize(
    ("where", "right"),
    [("password", False), ("url", False), ("url", True)],
    ids=["wrong password", "wrong url", "right url"],
)
def test_a_password_is_used_and_never_shown(tmp_path, where, right):
    secret = "s3cr3t/ü@pass"
    said = secret if right else "wr0ng/ü@pass"
    quoted = said.replace("/", "%2F").replace("@", "%40").replace("ü", "%C3%BC")
    with RedisServer(tmp_path, password=secret) as redis:
        config: dict[str, Any] = {"password": said}
        if where == "url":
            config = {"url": redis.url.replace("//", f"//:{quoted}@")}
        # DEBUG shows what the library logs, too.
        with ServiceProcess(
            tmp_path,
            [NAME],
            toml(redis, stream="points", **config),
            arguments=["--log-level", "DEBUG"],
        ) as service:
            if right:
                service.wait_until_ready()
                service.wait_until(lambda: redis.client.xlen("points"))
            else:
                service.wait_until(
                    lambda: "invalid username-password pair" in service.get("/readyz").text
                )
            pages = [service.get(path).text for path in ("/plugins", f"/plugins/{NAME}", "/readyz")]
            service.stop()
        shown = "\n".join([*pages, service.output, json.dumps(service.receipt)])
        for text in (secret, said, quoted, json.dumps(said)[1:-1], "0ng", "s3cr3t"):
            assert text not in shown


async def test_a_user_of_the_server_s_access_list(tmp_path, redis):
    redis.client.acl_setuser(
        "writer",
        enabled=True,
        passwords=["+secret"],
        keys=["points"],
        commands=["+ping", "+xadd", "+client"],
    )
    async with running(
        tmp_path, redis, stream="points", username="writer", password="secret"
    ) as host:
        host.publish(numbered(1))
        await until(lambda: numbers(redis) == [0])
        await clean_end(host, delivered=1)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for localhost that signs itself; its key is in the same file."""
    path = tmp_path / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", path, "-out", tmp_path / "cert.pem", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + (tmp_path / "cert.pem").read_text())
    return path


@pytest.fixture
def tls(tmp_path: Path, certificate: Path) -> Iterator[tuple[RedisServer, int]]:
    """A server and its second port, for TLS."""
    port = RedisServer(tmp_path, start=False).port
    options = ["--tls-port", str(port), "--tls-cert-file", str(certificate),
               "--tls-key-file", str(certificate), "--tls-auth-clients", "no"]  # fmt: skip
    with RedisServer(tmp_path, *options) as server:
        yield server, port


@pytest.mark.parametrize(
    ("name", "known", "right"),
    [("localhost", True, True), ("localhost", False, False), ("127.0.0.1", True, False)],
    ids=["right", "unknown issuer", "another name"],
)
async def test_tls_checks_the_certificate(tmp_path, tls, certificate, name, known, right, caplog):
    redis, port = tls
    url = f"rediss://{name}:{port}/0" + (f"?ssl_ca_certs={certificate}" if known else "")
    async with running(tmp_path, redis, wait=False, stream="points", url=url) as host:
        await host.wait_for(NAME, State.RUNNING if right else State.BACKOFF, within=10)
        if right:
            host.publish(numbered(1))
            await until(lambda: numbers(redis) == [0])
        else:
            assert "certificate verify failed" in caplog.text
        await clean_end(host)


@pytest.mark.process
def test_a_stalled_tls_connection_does_not_hold_up_the_close(tmp_path, tls, certificate):
    redis, port = tls
    url = f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}"
    config = "shutdown_timeout = 5\n" + toml(redis, stream="points", url=url, timeout=30)
    with ServiceProcess(tmp_path, [NAME], config) as service:
        service.wait_until_ready()
        lengths = [0]

        def is_idle() -> bool:
            lengths.append(redis.client.xlen("points"))
            return lengths[-10:] == lengths[-1:] * 10

        service.wait_until(is_idle)
        redis.pause()
        assert service.stop() in {0, 4}, "not the exit code of the deadline"
        part = service.receipt_of(NAME)
        assert (part["state"], part["problems"], part["leaked_tasks"]) == ("stopped", [], [])


# Configuration


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({}, "set stream to write points, consume to publish a stream's, or both"),
        ({"stream": "a", "consume": "a"}, "must differ"),
        ({"consume": "a", "dead_letter": "a"}, "must differ"),
        ({"stream": "a", "url": "http://host"}, "url is redis://host:port/db"),
        ({"stream": "a", "url": "redis://:pa/55word@host"}, "percent-encoded"),
        ({"stream": "a", "url": "redis://:pa#55word@host"}, "percent-encoded"),
        ({"stream": "a", "url": "redis://host:55word"}, "url is redis://host:port/db"),
        ({"stream": "a", "url": "redis://host?password=55word"}, "no options but db and ssl_*"),
        ({"stream": "a", "url": "redis:///run/redis.sock"}, "unix:///path"),
        ({"stream": "a", "url": "redis://u:55word@host", "username": "v"}, "keep one of the two"),
        ({"stream": "a", "maxlen": 0}, "maxlen: "),
        ({"stream": ""}, "stream: "),
        ({"stream": "a", "steam": "55word"}, "steam: unknown key; did you mean 'stream'?"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused_without_quoting_it(tmp_path, config, problem):
    with pytest.raises(ConfigurationError) as caught:
        load_plugins(host_settings(tmp_path, [NAME], {NAME: {"config": config}}))
    assert problem in str(caught.value)
    assert f"plugin '{NAME}'" in str(caught.value)
    assert "55word" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown", "username", "password"),
    [
        ("redis://host", "redis://host", None, None),
        ("rediss://u:p%40%2Fss@[::1]:1/2", "rediss://[::1]:1/2", "u", "p@/ss"),
        ("redis://:p@ss@host:1", "redis://host:1", None, "p@ss"),
        ("redis://u@host", "redis://host", "u", ""),
        ("unix://u:p@/run/r.sock?db=1", "unix:///run/r.sock?db=1", "u", "p"),
        ("rediss://h?ssl_ca_certs=/a&db=3", "rediss://h?ssl_ca_certs=/a&db=3", None, None),
    ],
)  # fmt: skip
def test_credentials_are_taken_out_of_the_url(url, shown, username, password):
    config = redis_stream.Config(url=url, stream="points")
    said = None if config.password is None else config.password.get_secret_value()
    assert (config.url, config.username, said) == (shown, username, password)
    assert "p@" not in repr(config)
    redis_stream.connect(config)  # the library understands what is left


def test_every_key_is_documented():
    assert _tables().config_of(redis_stream.Config) in page("shipped")


async def test_events_of_streams_are_entries_in_one_order(tmp_path, redis):
    """Kind: an entry says what it is, however large; what is read is points."""
    large = replace(ITEMS["analytics_event"], image=bytes(redis_stream.LARGE))  # made in a thread
    events = [ITEMS["stream_event"], ITEMS["analytics_event"], large]
    async with running(tmp_path, redis, {"events": [*ITEMS]}, stream="all") as host:
        for item in (ITEMS["monitoring_event"], *events):
            host.host.publisher.publish(name_of(item), [item])
        await until(lambda: redis.client.xlen("all") == 4)
        first, *others = [fields for _, fields in redis.client.xrange("all")]
        await clean_end(host, delivered=4, rejected=0)
    assert redis_stream.to_point(first) == ITEMS["monitoring_event"]
    assert [fields[b"event_name"].decode() for fields in others] == [*map(name_of, events)]
    assert [json.loads(fields[b"event"]) for fields in others] == documents(*events)
    table = {"events": ["stream_event"]}
    async with running(tmp_path, redis, table, wait=False, consume="all") as host:
        await until(
            lambda: "name monitoring_event in events" in str(host.life(NAME).record.last_error)
        )
