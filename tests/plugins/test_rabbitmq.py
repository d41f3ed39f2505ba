"""The RabbitMQ plugin with a real server, which is killed, stalled and restarted."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from pydantic import ValidationError

from lva import MonitoringPoint
from lva.host.life.states import State
from lva.host.loading.load import load_plugins
from lva.host.receipt import PluginReceipt
from lva.testing import Behaviour, ServerWorld, numbered_points
from tests.event_samples import ITEMS, documents
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

if "CI" not in os.environ:
    pytest.importorskip("aio_pika", reason="aio-pika is not installed: pip install 'lva[rabbitmq]'")

from lva.plugins.rabbitmq import LARGE, Config, encode, pack, unpack
from tests.plugins.rabbitmq_server import CERTIFICATE, RabbitMQServer

# The server takes seconds to start, and many on a busy machine.
pytestmark = pytest.mark.timeout(180)

SECRET = "sesame-opens"
#: Writes down what other plugins publish.
SINK = """
    class Sink(BaseEventPlugin):
        eventName = "monitoring_event"
        async def handleEvent(self, points, logger):
            journal.extend(points)
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQServer]:
    with RabbitMQServer(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture
def server(node: RabbitMQServer) -> Iterator[RabbitMQServer]:
    yield node
    node.restore()


@pytest.fixture
def queue(request: pytest.FixtureRequest, server: RabbitMQServer) -> str:
    """A durable queue of the test's own."""
    name = re.sub(r"\W", "-", request.node.name)[:100]
    server.declare(name)
    return name


async def asked(ask: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Ask the server something in a worker thread."""
    return await trio.to_thread.run_sync(lambda: ask(*arguments, **options))


@asynccontextmanager
async def rabbitmq(
    tmp_path: Path,
    server: RabbitMQServer,
    sources: dict[str, str] | None = None,
    wait: bool = True,
    table: Any = (),
    shutdown_timeout: float = 25.0,
    **config: Any,
) -> AsyncIterator[RunningHost]:
    """A host with the plugin, and before it plugins of the test."""
    keys = {"backoff_initial": 0.1, "retry_initial": 0.1, **dict(table)}
    tables = {"rabbitmq": {**keys, "config": {"url": server.url, **config}}}
    plugins = {**(sources or {}), "rabbitmq": None}
    async with running_host(
        tmp_path, plugins, tables, wait=False, shutdown_timeout=shutdown_timeout
    ) as running:
        if wait:
            await running.wait_for("rabbitmq", State.RUNNING, within=15)
        yield running


def ledger(host: RunningHost) -> Any:
    return next(iter(host.life("rabbitmq").deliveries.values())).ledger


async def settled(host: RunningHost, count: int) -> None:
    await until(lambda: ledger(host).delivered + ledger(host).rejected >= count)


async def clean_receipt(host: RunningHost) -> PluginReceipt:
    """Stop; nothing went wrong and nothing was abandoned."""
    part = await host.receipt_of("rabbitmq")
    assert (part.state, part.problems, part.leaked_tasks, part.leaked_threads) == (
        "stopped", [], [], [],
    )  # fmt: skip
    return part


def body(*points: MonitoringPoint) -> bytes:
    return json.dumps([point.as_dict() for point in points]).encode()


def numbers(points: list[MonitoringPoint]) -> list[int]:
    return [point.fields["n"] for point in points if point.series == "numbers"]


# Publishing


async def test_points_arrive_in_order_with_their_types_and_are_confirmed(tmp_path, server, queue):
    points = numbered(250)
    values = {"i": 1, "f": 1.0, "s": "1", "big": 2**63 - 1, "text": "käse \U0001f9c0"}
    points.append(MonitoringPoint("typed", 5, {**values}, {**values, "small": -(2**63)}))
    async with rabbitmq(tmp_path, server, routing_key=queue) as host:
        host.publish(points)
        await settled(host, 251)
        messages = await asked(server.take, queue)  # confirmed is what is there already
        part = await clean_receipt(host)
    assert part.points["delivered"] == 251
    assert part.restarts == 0
    got = [item for message in messages for item in json.loads(message.body)]
    assert repr(got) == repr([point.as_dict() for point in points])
    assert all(len(json.loads(message.body)) <= 100 for message in messages)
    assert len({message.message_id for message in messages}) == len(messages)
    for message in messages:
        assert (message.content_type, message.delivery_mode) == ("application/json", 2)
        assert message.type == "monitoring_event"


async def test_what_an_outage_cuts_off_of_a_batch_is_not_blamed_on_the_points(
    tmp_path, server, queue
):
    large = MonitoringPoint("large", 1.0, {}, {"n": 25, "text": "x" * 5000})
    async with ServerWorld(("127.0.0.1", server.port)) as world:
        world.behaviour = Behaviour.SOMETIMES  # the first two times that points come by
        config = {"url": f"amqp://{world.address}/", "routing_key": queue, "message_bytes": 4096}
        async with rabbitmq(tmp_path, server, table={"max_attempts": 1}, **config) as host:
            host.publish([large, *numbered_points(5)])  # a part of the batch is done with at once
            await settled(host, 6)
            part = await clean_receipt(host)
    assert world.sightings >= 2
    points = part.points
    assert (points["delivered"], points["rejected"], points["dropped"]) == (5, 1, {})
    messages = await asked(server.take, queue)
    assert {item["fields"]["n"] for m in messages for item in json.loads(m.body)} == {*range(5)}


async def test_points_that_go_to_no_queue_are_rejected_and_counted(tmp_path, server, queue):
    async with rabbitmq(tmp_path, server, exchange="amq.topic", routing_key="nowhere") as host:
        host.publish(numbered(150))
        await settled(host, 150)
        part = await clean_receipt(host)
    assert (part.points["rejected"], part.points["retries"]) == (150, 0)


async def test_without_mandatory_the_server_may_drop_them(tmp_path, server):
    options = {"exchange": "amq.topic", "routing_key": "nowhere", "mandatory": False}
    async with rabbitmq(tmp_path, server, **options) as host:
        host.publish(numbered(150))
        part = await clean_receipt(host)
    assert (part.points["delivered"], part.points["rejected"]) == (150, 0)


async def test_a_point_too_large_for_a_message_costs_the_others_nothing(tmp_path, server, queue):
    large = MonitoringPoint("large", 1.0, {}, {"n": 1, "text": "x" * 2000})
    async with rabbitmq(tmp_path, server, routing_key=queue, message_bytes=1024) as host:
        host.publish([*numbered(20), large, *numbered(20, 20)])
        await settled(host, 41)
        part = await clean_receipt(host)
    assert (part.points["delivered"], part.points["rejected"]) == (40, 1)
    messages = await asked(server.take, queue)
    assert all(len(message.body) <= 1024 for message in messages)
    assert [item["fields"]["n"] for m in messages for item in json.loads(m.body)] == [*range(40)]


async def test_an_exchange_is_declared_or_awaited(tmp_path, server, queue):
    name = f"exchange-{queue}"
    async with rabbitmq(tmp_path, server, exchange=name, wait=False) as host:
        await host.wait_for("rabbitmq", State.BACKOFF, within=10)
        assert f"no exchange '{name}'" in host.life("rabbitmq").record.last.reason
        assert f"127.0.0.1:{server.port}" in host.life("rabbitmq").record.last.reason
    async with rabbitmq(tmp_path, server, exchange=name, exchange_type="topic") as host:
        await clean_receipt(host)

    async def bind(channel: Any) -> None:
        await channel.declare_exchange(name, "topic", durable=True)  # as it is, or this fails
        await (await channel.get_queue(queue)).bind(name, "lva.#")

    await asked(server.do, bind)
    async with rabbitmq(tmp_path, server, exchange=name, routing_key="lva.points") as host:
        host.publish(numbered(3))
        await settled(host, 3)
    (message,) = await asked(server.take, queue)
    assert message.routing_key == "lva.points"


async def test_tls_is_checked_against_the_authority_that_is_named(tmp_path, server, queue):
    url = f"amqps://127.0.0.1:{server.tls_port}/"
    async with rabbitmq(tmp_path, server, url=url, routing_key=queue, wait=False) as host:
        await host.wait_for("rabbitmq", State.BACKOFF, within=10)
        assert "CERTIFICATE_VERIFY_FAILED" in host.life("rabbitmq").record.last.reason
    named = f"{url}?cafile={CERTIFICATE}"
    async with rabbitmq(tmp_path, server, url=named, routing_key=queue) as host:
        host.publish(numbered(3))
        await settled(host, 3)
        await clean_receipt(host)
    assert await asked(server.count, queue) == 1


# Consuming


async def test_points_of_a_queue_are_published_in_order_with_their_types(tmp_path, server, queue):
    typed = MonitoringPoint("typed", 5, {"i": 1, "f": 1.0, "s": "1"}, {"i": 2, "f": 2.0, "s": "2"})
    single = json.dumps(typed.as_dict()).encode()
    bodies = [body(*numbered(3)), body(), single, *(body(p) for p in numbered(40, 3))]
    await asked(server.send, queue, *bodies)
    async with rabbitmq(tmp_path, server, {"sink": SINK}, queue=queue, prefetch=7) as host:
        await until(lambda: len(journal) >= 44)
        # Only what is acknowledged is gone for good after the stop.
        await until(lambda: host.plugin("rabbitmq")._inbox.empty())
        part = await clean_receipt(host)
    assert numbers(journal) == [*range(43)]
    assert repr(journal[3].as_dict()) == repr(typed.as_dict())
    assert part.restarts == 0
    assert await asked(server.count, queue) == 0


async def test_what_was_not_published_is_not_acknowledged(tmp_path, server, queue):
    tried: list[Any] = []
    async with rabbitmq(tmp_path, server, {"sink": SINK}, queue=queue) as host:
        view = host.plugin("rabbitmq").app

        def refuse(event: str, points: Any) -> None:
            tried.extend(points)
            del view.publish  # the next attempt publishes as ever
            raise OSError("the service takes nothing")

        view.publish = refuse
        await asked(server.send, queue, *(body(point) for point in numbered(5)))
        await until(lambda: len(journal) >= 5)
        part = await host.receipt_of("rabbitmq")
    assert tried
    assert numbers(journal) == [*range(5)]
    assert part.restarts == 1
    assert await asked(server.count, queue) == 0


async def test_what_comes_while_the_service_stops_stays_in_the_queue(tmp_path, server, queue):
    """A slow sink delays the stop, in which no points are taken any more."""
    slow = """
        class Slow(BaseEventPlugin):
            eventName = "monitoring_event"
            async def handleEvent(self, points, logger):
                await trio.sleep(0.5)
                journal.extend(points)
    """
    tables = {"sink": slow}
    async with rabbitmq(tmp_path, server, tables, queue=queue, max_rate=1e9) as host:
        await asked(server.send, queue, *(body(point) for point in numbered(5)))
        await until(lambda: ledger(host).delivered >= 5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.stop)
            delivery = next(iter(host.life("sink").deliveries.values()))
            await until(lambda: delivery.mailbox.closed.is_set())
            await asked(server.send, queue, *(body(point) for point in numbered(5, 5)))
    left = [unpack(message.body, 10_000)[0] for message in await asked(server.take, queue)]
    assert numbers(journal) + numbers(left) == [*range(10)]
    assert len(left) == 5


MALFORMED = [
    b"", b"no JSON", b"\xff\xfe", b"{}", b"[[]]", b"null", b"7", b'["series"]', b"[" * 100_000,
    b'{"series": "", "time": 1, "tags": {}, "fields": {}}',
    b'{"series": "s", "time": "now", "tags": {}, "fields": {}}',
    b'{"series": "s", "time": NaN, "tags": {}, "fields": {}}',
    b'{"series": "s", "time": 1%s, "tags": {}, "fields": {}}' % (b"0" * 400),
    b'{"series": "s", "time": 1, "tags": {}, "fields": {"n": 9223372036854775808}}',
    b'{"series": "s", "time": 1, "tags": {}, "fields": {"n": null}}',
    b'{"series": "s", "time": 1, "tags": [["a", "b"]], "fields": {}}',
    b'{"series": "s", "time": 1, "tags": {}, "fields": {}, "more": 1}',
    b'[{"series": "s", "time": 1, "tags": {}, "fields": {}}, 1]',
    json.dumps([MonitoringPoint("s", 1, {}, {"n": "x" * 5000}).as_dict()]).encode(),
]  # fmt: skip


async def test_malformed_messages_go_to_the_dead_letters_and_block_nothing(
    tmp_path, server, queue, caplog
):
    fed = f"fed-{queue}"
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}
    await asked(server.declare, fed, **arguments)
    await asked(server.send, fed, body(*numbered(1)), *MALFORMED, body(*numbered(1, 1)))
    options = {"queue": fed, "prefetch": 3, "message_bytes": 4000}
    async with rabbitmq(tmp_path, server, {"sink": SINK}, **options) as host:
        await until(lambda: len(journal) >= 2)
        part = await clean_receipt(host)
    assert part.restarts == 0
    assert numbers(journal) == [0, 1]
    assert len(journal) == 2
    dead = await asked(server.take, queue)
    assert [message.body for message in dead] == MALFORMED
    assert await asked(server.count, fed) == 0
    (record,) = [r for r in caplog.records if "rejected so far" in r.getMessage()]
    assert fed in record.getMessage()


async def test_a_queue_that_is_deleted_is_a_crash_and_waited_for(tmp_path, server, queue):
    async with rabbitmq(tmp_path, server, {"sink": SINK}, queue=queue) as host:
        await asked(server.delete, queue)
        await host.wait_for("rabbitmq", State.BACKOFF, within=10)
        assert f"cancelled the consumer of '{queue}'" in host.life("rabbitmq").record.last.reason
        await until(lambda: "no queue" in host.life("rabbitmq").record.last.reason)
        await asked(server.declare, queue)
        await asked(server.send, queue, body(*numbered(2)))
        await until(lambda: len(journal) >= 2)
        await clean_receipt(host)


async def test_both_directions_make_a_bridge(tmp_path, server, queue):
    other = f"other-{queue}"
    await asked(server.send, queue, *(body(point) for point in numbered(200)))
    await asked(server.declare, other)
    async with rabbitmq(tmp_path, server, queue=queue, routing_key=other) as host:
        await settled(host, 200)
        await clean_receipt(host)
    messages = await asked(server.take, other)
    points = [point for message in messages for point in unpack(message.body, 100_000)]
    assert numbers(points) == [*range(200)]


async def test_a_quorum_queue_is_declared(tmp_path, server, queue):
    name = f"quorum-{queue}"
    async with rabbitmq(tmp_path, server, queue=name, queue_type="quorum") as host:
        await clean_receipt(host)
    await asked(server.declare, name, **{"x-queue-type": "quorum"})  # as it is, or this fails


async def test_a_service_that_would_feed_itself_stops_at_the_first_point(tmp_path, server, queue):
    async def bind(channel: Any) -> None:
        await (await channel.get_queue(queue)).bind("amq.topic", "points")

    await asked(server.do, bind)
    options = {"queue": queue, "exchange": "amq.topic", "routing_key": "points"}
    async with rabbitmq(tmp_path, server, {"sink": SINK}, **options) as host:
        host.publish(numbered(1))
        await until(lambda: "come back for ever" in host.life("rabbitmq").record.last.reason)
        await until(lambda: "initialize() raised" in host.life("rabbitmq").record.last.reason)
        assert host.host.not_ready()["rabbitmq"].startswith("backoff: ")
        assert "change one of the two" in host.life("rabbitmq").record.last.reason
    assert len(journal) == 1


# Messages and configuration


@pytest.mark.slow("many random batches")
def test_what_is_packed_is_unpacked():
    points = numbered(1000)
    for most_points, most_bytes in ((1, 10_000), (7, 10_000), (1000, 300), (10_000, 10_000_000)):
        parcels, too_large = pack(points, most_points, most_bytes)
        assert too_large == []
        assert [p for content, _ in parcels for p in unpack(content, most_bytes)] == points
        assert all(len(part) <= most_points for _, part in parcels)
        assert [point for _, part in parcels for point in part] == points


def test_a_message_is_as_full_as_its_limit_allows():
    points = numbered(10)
    size = len(encode(points[0]))
    parcels, _ = pack(points, 100, 10 * (size + 1) + 1)
    assert [len(content) for content, _ in parcels] == [10 * (size + 1) + 1]
    parcels, _ = pack(points, 100, 10 * (size + 1))
    assert [len(part) for _, part in parcels] == [9, 1]
    assert pack(points, 100, size + 1) == ([], points)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({}, "set exchange or routing_key to send"),
        ({"queue": "q", "routing_key": "q"}, "'q', which is also consumed"),
        ({"queue": "q", "exchange_type": "topic"}, "need the name"),
        ({"exchange": "e", "queue_type": "quorum"}, "need the name"),
        ({"queue": "q", "url": f"http://u:{SECRET}@host/"}, "url is amqp://"),
        ({"queue": "q", "url": f"amqp://u:{SECRET}@host:port/"}, "url is amqp://"),
        ({"queue": "q", "url": f"amqp://u:{SECRET}@/"}, "url is amqp://"),
        ({"queue": "q", "url": f"amqp://u:{SECRET}@host/?heartbeat=1"}, "with no options but auth"),
        ({"queue": "q", "url": f"amqp://u:{SECRET}@h/", "username": "me"}, "keep one of the two"),
        ({"queue": "q", "prefetch": 0}, "prefetch"),
        ({"queue": "q", "heartbeat": 0}, "heartbeat"),
        ({"queue": "q", "colour": "red"}, "colour"),
    ],
)
def test_a_wrong_configuration_is_refused_without_its_secrets(config, what):
    with pytest.raises(ValidationError) as caught:
        Config(**config)
    assert what in str(caught.value)
    messages = [item["msg"] for item in caught.value.errors(include_input=False)]
    assert SECRET not in "".join(messages)


def test_credentials_leave_the_url():
    config = Config(queue="q", url=f"amqps://user:{SECRET}%2F@host:1/vhost?cafile=/ca.pem")
    assert config.url == "amqps://host:1/vhost?cafile=/ca.pem"
    assert config.username == "user"
    assert config.password.get_secret_value() == f"{SECRET}/"
    assert SECRET not in repr(config)


async def test_an_unknown_key_is_refused_before_the_service_starts(tmp_path):
    settings = host_settings(tmp_path, ["rabbitmq"], {"rabbitmq": {"config": {"queu": "q"}}})
    with pytest.raises(Exception, match="queu: unknown key; did you mean 'queue'"):
        load_plugins(settings)


def test_the_documented_table_is_that_of_the_code():
    plain = str.maketrans("", "", "`")
    assert _tables().config_of(Config).translate(plain) in page("shipped").translate(plain)


# The service as a process

#: Publishes 1000 numbered points a second.
SOURCE = """
    class Source(BaseBackgroundPlugin):
        async def initialize(self):
            self.n = 0
            self.addRoute("/published", lambda request: {"n": self.n})

        async def start(self):
            while True:
                points = [MonitoringPoint("numbers", 1.0, {}, {"n": self.n + i}) for i in range(20)]
                self.n += 20
                self.app.publish("monitoring_event", points)
                await trio.sleep(0.02)
"""
#: Tells the numbers of the points it got.
SHOW = """
    class Show(BaseEventPlugin, BaseBackgroundPlugin):
        eventName = "monitoring_event"
        async def initialize(self):
            self.seen = []
            self.addRoute("/seen", lambda request: self.seen)

        async def handleEvent(self, points, logger):
            self.seen += [point.fields["n"] for point in points if point.series == "numbers"]
"""


@pytest.fixture
def service(tmp_path: Path, server: RabbitMQServer) -> Callable[..., ServiceProcess]:
    """Makes services with the plugin, last of the active ones; `config` is its configuration."""

    def make(
        *active: str, toml: str = "", env: dict[str, str] | None = None, **config: Any
    ) -> ServiceProcess:
        path = tmp_path / f"service{len([*tmp_path.iterdir()])}"
        path.mkdir()
        write_plugin(path / "plugins", "source", SOURCE)
        write_plugin(path / "plugins", "show", SHOW)
        # With one attempt, whatever is blamed on the points loses some.
        host = "[plugins.rabbitmq]\nmax_attempts = 1\nbackoff_initial = 0.2\nbackoff_max = 1\n"
        values = {"url": server.url, **config}
        lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        text = f"{toml}\n{host}\n[plugins.rabbitmq.config]\n{lines}"
        return ServiceProcess(path, [*active, "rabbitmq"], text, env)

    return make


def reason(process: ServiceProcess) -> str:
    """Why the plugin does not run; empty if it does."""
    answer = process.get("/readyz")
    return "" if answer.status_code == 200 else answer.json()["reasons"].get("rabbitmq", "")


def delivered(process: ServiceProcess) -> int:
    return int(process.plugin("rabbitmq")["ledger"]["delivered"])


def deliver_another(process: ServiceProcess, count: int) -> None:
    goal = delivered(process) + count
    process.wait_until(lambda: delivered(process) >= goal)


def points_in(server: RabbitMQServer, queue: str) -> list[MonitoringPoint]:
    return [p for message in server.take(queue) for p in unpack(message.body, 1 << 20)]


@pytest.mark.process
def test_a_server_that_is_away_at_the_start_and_then_killed_costs_no_point(server, queue, service):
    fed = f"fed-{queue}"
    server.declare(fed)
    server.stop()
    with service("source", routing_key=queue, queue=fed) as process:
        why = (
            f"initialize() raised ConnectionError: RabbitMQ at 127.0.0.1:{server.port}: [Errno 111]"
        )
        process.wait_until(lambda: why in reason(process))
        server.start()
        process.wait_until_ready()
        deliver_another(process, 500)
        # Some points are on their way, and get no further.
        server.pause()
        process.wait_until(lambda: process.plugin("rabbitmq")["ledger"]["in_flight"])
        server.kill()
        process.wait_until(lambda: reason(process))
        server.start()
        process.wait_until_ready()
        server.send(fed, body(MonitoringPoint("fed", 1.0, {}, {"n": 1})))
        deliver_another(process, 500)
        process.wait_until(lambda: server.count(fed) == 0)
        assert process.stop() == 0, process.output[-6000:]
        part = process.receipt_of("rabbitmq")
    points = part["points"]
    assert points["accepted"] == points["delivered"] > 1000
    assert part["problems"] == []
    got = points_in(server, queue)
    assert set(numbers(got)) == {*range(max(numbers(got)) + 1)}
    # No point equals another: those of requests have their ids. Copies of one are the duplicates.
    assert len({repr(point.as_dict()) for point in got}) == points["delivered"]
    assert [point.series for point in got if point.series == "fed"]
    # Only the loss of a connection counts as a restart towards max_restarts.
    crashes = [r for r in process.records if "start() raised" in r["message"]]
    assert 1 <= len(crashes) <= 3, [r["message"] for r in crashes]


@pytest.mark.process
def test_a_server_that_stalls_is_noticed_and_waited_for(server, queue, service):
    sender = service("source", routing_key=queue, timeout=1)
    reader = service(queue=queue + "-none", queue_type="classic", heartbeat=1, timeout=1)
    with sender, reader:
        sender.wait_until_ready()
        reader.wait_until_ready()
        deliver_another(sender, 200)
        server.pause()
        sender.wait_until(lambda: "no confirm within 1 s" in str(sender.plugin("rabbitmq")))
        sender.wait_until(lambda: "did not respond within 1 s" in reason(sender))
        # Who sends nothing notices by the heartbeats that do not come.
        reader.wait_until(lambda: "fell silent" in str(reader.plugin("rabbitmq")["history"]))
        assert reason(reader)
        for process in (sender, reader):
            assert process.get("/livez", timeout=2).status_code == 200
        server.resume()
        reader.wait_until_ready()
        sender.wait_until_ready()
        deliver_another(sender, 200)
        assert (sender.stop(), reader.stop()) == (0, 0)
        points = sender.receipt_of("rabbitmq")["points"]
        assert sender.receipt_of("rabbitmq")["problems"] == []
        assert reader.receipt_of("rabbitmq")["problems"] == []
    got = points_in(server, queue)
    assert points["delivered"] == points["accepted"]
    assert set(numbers(got)) == {*range(max(numbers(got)) + 1)}
    assert len({repr(point.as_dict()) for point in got}) == points["delivered"]


async def test_closing_is_bounded_when_not_even_the_good_bye_can_be_sent(tmp_path, server, queue):
    large = [MonitoringPoint("large", 1.0, {}, {"text": "x" * 500_000}) for _ in range(40)]
    async with rabbitmq(tmp_path, server, routing_key=queue, shutdown_timeout=8) as host:
        server.pause()
        host.publish(large)
        await until(lambda: ledger(host).in_flight)
        begun = time.monotonic()
        part = await host.receipt_of("rabbitmq")
    assert time.monotonic() - begun < 8
    assert part.state == "stopped", part
    assert part.problems == []
    assert sum(part.points["dropped"].values()) == 40


@pytest.mark.process
def test_prefetch_bounds_what_a_crash_leaves_and_the_server_gives_it_out_again(
    server, queue, service
):
    with service(queue=queue, prefetch=7) as process:
        process.wait_until_ready()
        process.signal(signal.SIGSTOP)
        server.send(queue, *(body(point) for point in numbered(50)))
        process.wait_until(lambda: server.count(queue) == 43)
        process.signal(signal.SIGKILL)
        process.wait_until(lambda: server.count(queue) == 50)
    with service("show", queue=queue, prefetch=7) as process:
        process.wait_until_ready()
        process.wait_until(lambda: len(process.get("/seen").json()) >= 50)
        assert process.get("/seen").json() == [*range(50)]
        assert process.stop() == 0
    assert server.count(queue) == 0


@pytest.mark.process
def test_a_wrong_password_is_said_but_never_shown(server, queue, service):
    url = server.url.replace("//", f"//guest:{SECRET}@")
    env = {"LUNA_VIDEO_AGENT_LOG_LEVEL": "DEBUG"}
    with service(routing_key=queue, url=url, env=env) as process:
        why = f"RabbitMQ at 127.0.0.1:{server.port}: ACCESS_REFUSED"
        process.wait_until(lambda: why in reason(process))
        shown = process.get("/plugins").text + process.get("/readyz").text
        assert process.stop() == 4  # the points of these requests are nowhere
        assert process.receipt_of("rabbitmq")["state"] == "stopped"
    assert SECRET not in shown + process.output


async def test_events_of_streams_are_messages_of_their_own_type(tmp_path, server, queue):
    """Kind: a message has items of one type, which it names; the order is kept."""
    large = replace(ITEMS["analytics_event"], image=bytes(LARGE))  # which a thread makes JSON of
    table = {"events": [*ITEMS], "flush_interval": 0.05}
    async with rabbitmq(tmp_path, server, table=table, routing_key=queue) as host:
        for name, item in ITEMS.items():
            host.host.publisher.publish(name, [item] * 2)
        host.host.publisher.publish("analytics_event", [large])
        await settled(host, 7)
        messages = await asked(server.take, queue)
        await clean_receipt(host)
    assert [message.type for message in messages] == [*ITEMS]
    found = [json.loads(message.body) for message in messages]
    found[-1], last = found[-1][:-1], found[-1][-1]
    assert [last] == documents(large)
    assert found == [documents(item, item) for item in ITEMS.values()]
