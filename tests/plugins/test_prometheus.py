"""/metrics: what it says, and what promtool and a real Prometheus make of it.

A scrape uses a worker thread, which needs the real clock.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import prometheus_client
import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from werkzeug.datastructures import Headers, MultiDict

from lva import Metric, MonitoringPoint
from lva.errors import ConfigurationError
from lva.host.delivery import ledger
from lva.host.delivery.circuit import Circuit
from lva.host.life.states import State
from lva.host.loading.load import load_plugins
from lva.host.watch.uses import Block, LoopUses
from lva.plugins import prometheus
from tests.plugins.metric_servers import PrometheusServer
from tests.plugins.programs import program
from tests.support import (
    RunningHost,
    ServiceProcess,
    host_settings,
    running_host,
    until,
    write_plugin,
)
from tests.test_docs import page

NAME = "prometheus"
SERVICE = "luna-video-agent"
#: Fails with its first batch; crashes when asked to.
SINK = """
    class Sink(BaseEventPlugin, BaseBackgroundPlugin):
        eventName = "monitoring_event"
        calls = 0

        async def start(self):
            self.crash = trio.Event()
            await self.crash.wait()
            raise RuntimeError("asked to")

        async def handleEvent(self, points, logger):
            self.calls += 1
            if self.calls == 1:
                raise OSError("not yet")
            if self.calls == 3:
                raise PermanentDeliveryError("wrong")
"""
TABLES = {"sink": {"retry_initial": 0.01, "backoff_initial": 0.01}}
#: Characters that the text format has to escape, and some that it need not.
AWKWARD = 'GET:/a"b\\c\nd{e}=,\u00e9\u2603\U0001f4f7\r\t'

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def request_point(route: str = "GET:/a", status: Any = 200, took: Any = 0.001) -> MonitoringPoint:
    tags = {"service": SERVICE, "route": route, "status_code": status, "door": "front"}
    return MonitoringPoint(
        "requests", 1.0, tags, {"request_id": "1,x", "execution_time": took, "size": 7}
    )


def error_point(route: str = "GET:/a", code: str = "not_found") -> MonitoringPoint:
    tags = {"service": SERVICE, "route": route, "status_code": 404, "error_code": code}
    return MonitoringPoint("errors", 1.0, tags, {"request_id": "1,x"})


async def answer(host: RunningHost, *query: tuple[str, str], **headers: str) -> Any:
    """Answer GET /metrics?query as the route's handler does."""
    handler = host.host.routes.match("/metrics").route.verbs["GET"]
    named = Headers({key.replace("_", "-"): value for key, value in headers.items()})
    return await handler(SimpleNamespace(headers=named, args=MultiDict(query)))


async def scrape(host: RunningHost) -> Samples:
    return samples((await answer(host)).body.decode())


def samples(text: str, parser: Any = parse) -> Samples:
    """Return each sample's value by its name and labels; no series may be there twice."""
    found = [
        ((sample.name, frozenset(sample.labels.items())), sample.value)
        for family in parser(text)
        for sample in family.samples
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def select(seen: Samples, name: str, **labels: str) -> dict[str, float]:
    """Return the values of a metric's series with these labels, by their other labels' values."""
    chosen = {
        ",".join(value for key, value in sorted(pairs) if key not in labels): value
        for (sample, pairs), value in seen.items()
        if sample == name and labels.items() <= dict(pairs).items()
    }
    assert chosen, f"no {name} with {labels}"
    return chosen


def one(seen: Samples, name: str, **labels: str) -> float:
    (value,) = select(seen, name, **labels).values()
    return value


async def settled(host: RunningHost, *names: str) -> None:
    """Wait until nothing is on its way to these plugins."""
    ledgers = [each.ledger for name in names for each in host.life(name).deliveries.values()]
    await until(lambda: not any(ledger.queued or ledger.in_flight for ledger in ledgers))


# Requests and errors


async def test_requests_are_counted_under_the_documented_names(tmp_path):
    async with running_host(tmp_path, {NAME: None}) as host:
        host.publish([request_point(), request_point(took=0.3), request_point("POST:/b", 404)])
        host.publish([error_point("POST:/b"), error_point("POST:/b"), error_point(code="odd")])
        await settled(host, NAME)
        seen = await scrape(host)
    assert select(seen, "request_count_total", service=SERVICE) == {
        "GET:/a,200": 2,
        "POST:/b,404": 1,
    }
    assert select(seen, "errors_count_total", service=SERVICE) == {
        "not_found,POST:/b": 2,
        "odd,GET:/a": 1,
    }
    labels = {"path": "GET:/a", "service": SERVICE, "status_code": "200"}
    assert one(seen, "requests_count", **labels) == 2
    assert one(seen, "requests_sum", **labels) == pytest.approx(0.301)
    buckets = select(seen, "requests_bucket", **labels)
    assert [*buckets] == [
        "0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.075",
        "0.1", "0.25", "0.5", "0.75", "1.0", "2.5", "5.0", "7.5", "10.0", "+Inf",
    ]  # fmt: skip
    assert [*buckets.values()] == [0] * 3 + [1] * 9 + [2] * 8


async def test_other_points_of_these_names_are_left_alone(tmp_path):
    odd = [
        MonitoringPoint("requests", 1.0, {}, {}),
        MonitoringPoint("requests", 1.0, {"route": "GET:/a"}, {"execution_time": 1.0}),
        request_point(took="long"),
        MonitoringPoint("errors", 1.0, {"error_code": "x"}, {}),
        MonitoringPoint("numbers", 1.0, {}, {"n": 1}),
    ]
    async with running_host(tmp_path, {NAME: None}) as host:
        host.publish([*odd, request_point(status="200", took=-1), request_point(took=1)])
        await settled(host, NAME)
        seen = await scrape(host)
    assert select(seen, "request_count_total") == {f"GET:/a,{SERVICE},200": 2}
    assert one(seen, "requests_sum") == 1
    assert one(seen, "lva_plugin_points_delivered_total") == 7


async def test_labels_are_bounded_and_nothing_goes_uncounted(tmp_path):
    tables = {NAME: {"config": {"max_series": 10}}}
    async with running_host(tmp_path, {NAME: None}, tables) as host:
        for n in range(200):
            host.publish([request_point(f"GET:/{n}"), error_point(f"GET:/{n}")])
        host.publish([request_point("GET:/3"), request_point("GET:/150")])
        await settled(host, NAME)
        seen = await scrape(host)
    for name, total in (("request_count_total", 202), ("errors_count_total", 200)):
        counted = select(seen, name)
        assert len(counted) == 11
        assert sum(counted.values()) == total
    assert one(seen, "request_count_total", path="GET:/3") == 2
    assert one(seen, "request_count_total", path="other", status_code="other") == 191
    assert len(select(seen, "requests_count")) == 11
    assert one(seen, "lva_label_limit_hits_total") == 191 + 190


async def test_long_label_values_are_cut(tmp_path):
    async with running_host(tmp_path, {NAME: None}) as host:
        host.publish([request_point("GET:/" + "x" * 1000 + end) for end in "ab"])
        await settled(host, NAME)
        ((labels, count),) = select(await scrape(host), "request_count_total").items()
    assert labels == f"GET:/{'x' * (prometheus.LONGEST_VALUE - 5)},{SERVICE},200"
    assert count == 2


@pytest.mark.parametrize("parser", [parse, parse_openmetrics], ids=["text", "openmetrics"])
async def test_label_values_come_through_whatever_they_hold(tmp_path, parser):
    accept = "application/openmetrics-text;version=1.0.0" if parser is parse_openmetrics else ""
    tables = {NAME: {"config": {"extra_labels": {"site": AWKWARD}}}}
    async with running_host(tmp_path, {NAME: None}, tables) as host:
        host.publish([request_point(AWKWARD)])
        await settled(host, NAME)
        text = (await answer(host, Accept=accept)).body.decode()
    assert one(samples(text, parser), "request_count_total", path=AWKWARD, site=AWKWARD) == 1


# Plugins


async def test_the_use_of_the_event_loop_is_shown_while_somebody_watches(tmp_path):
    clock = [100.0]
    async with running_host(tmp_path, {NAME: None, "sink": SINK}, TABLES) as host:
        seen = await scrape(host)
        assert "lva_plugin_loop" not in str(seen)
        uses = host.host.loop_uses = LoopUses(lambda: clock[0])
        clock[0] += 10
        uses.note_block("sink", Block(0.0, 1.0, "here", []))
        for used in (3.0, 3.5):
            uses.note_processor({"sink": (7, used)})
            clock[0] += 1
        seen = await scrape(host)
    assert one(seen, "lva_plugin_loop_blocks_total", plugin="sink") == 1
    assert one(seen, "lva_plugin_loop_share", plugin="sink") == pytest.approx(1 / 12, abs=1e-4)
    assert one(seen, "lva_plugin_cpu_share", plugin="sink") == 0.5
    assert one(seen, "lva_plugin_loop_share", plugin=NAME) == 0
    assert len(select(seen, "lva_plugin_cpu_share")) == 1


async def test_each_plugin_is_shown(tmp_path):
    async with running_host(tmp_path, {NAME: None, "sink": SINK}, TABLES) as host:
        for _ in range(3):
            host.publish([request_point()] * 5)
            await settled(host, "sink")
        seen = await scrape(host)
    one_of = {"plugin": "sink", "class": "Sink"}
    assert one(seen, "lva_plugin_state", plugin="sink", state="running") == 1
    assert sum(select(seen, "lva_plugin_state", plugin="sink").values()) == 1
    assert [*select(seen, "lva_plugin_state", plugin="sink")] == [state.value for state in State]
    assert one(seen, "lva_plugin_restarts_total", plugin="sink") == 0
    assert one(seen, "lva_plugin_tasks", plugin="sink", runtime="trio") == 1
    assert one(seen, "lva_plugin_tasks", plugin="sink", runtime="asyncio") == 0
    for count, value in {
        "accepted_total": 15, "delivered_total": 10, "rejected_total": 5, "recovered_total": 0,
        "filtered_total": 0, "queued": 0, "in_flight": 0, "kept": 0,
    }.items():  # fmt: skip
        assert one(seen, f"lva_plugin_points_{count}", **one_of) == value
    assert set(select(seen, "lva_plugin_points_dropped_total", **one_of).values()) == {0}
    assert one(seen, "lva_plugin_retries_total", **one_of) == 1
    assert one(seen, "lva_plugin_batch_size_sum", **one_of) == 20
    assert one(seen, "lva_plugin_batch_size_count", **one_of) == 4
    assert one(seen, "lva_plugin_batch_size_bucket", le="10.0", **one_of) == 4
    assert one(seen, "lva_plugin_batch_size_bucket", le="1.0", **one_of) == 0
    assert one(seen, "lva_plugin_handle_duration_seconds_count", **one_of) == 4
    assert one(seen, "lva_plugin_circuit", state="closed", **one_of) == 1
    assert one(seen, "lva_plugin_circuit", state="open", **one_of) == 0
    assert one(seen, "lva_plugin_spool_bytes", **one_of) == 0


async def test_a_plugin_in_trouble_is_shown_as_it_is(tmp_path):
    source = """
        class Sink(BaseEventPlugin):
            eventName = "monitoring_event"

            async def handleEvent(self, points, logger):
                raise OSError("no")
    """
    tables = {"sink": {"circuit_failures": 1, "buffer_limit": 2, "batch_size": 1}}
    async with running_host(tmp_path, {NAME: None, "sink": source}, tables) as host:
        host.publish([request_point()])
        (delivery,) = host.life("sink").deliveries.values()
        await until(lambda: delivery.circuit.state != "closed")
        host.publish([request_point()] * 5)
        seen = await scrape(host)
        host.life("sink")._scope.cancel()
        host.life("sink").begin_stop(trio.current_time() + 1)
        await host.life("sink").ended.wait()
        ended = await scrape(host)
    assert one(seen, "lva_plugin_circuit", plugin="sink", state="open") == 1
    assert one(seen, "lva_plugin_points_queued", plugin="sink") == 2
    assert one(seen, "lva_plugin_points_in_flight", plugin="sink") == 1
    dropped = select(seen, "lva_plugin_points_dropped_total", plugin="sink")
    assert (dropped["Sink,overflow"], dropped["Sink,shutdown"]) == (3, 0)
    assert one(ended, "lva_plugin_state", plugin="sink", state="stopped") == 1
    assert one(ended, "lva_plugin_points_dropped_total", plugin="sink", reason="shutdown") == 3


def test_nothing_that_the_host_tells_is_unknown() -> None:
    reasons = {
        value
        for name, value in vars(ledger).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, str)
    }
    assert set(prometheus.REASONS) == reasons
    assert [*prometheus.STATES] == [state.value for state in State]
    for state in prometheus.CIRCUIT_STATES:
        assert f"``{state}``" in str(Circuit.state.__doc__)


@pytest.mark.slow("many points are counted meanwhile")
async def test_a_scrape_is_of_one_moment(tmp_path):
    """Points are counted all the time; what one scrape says of them fits together."""
    async with running_host(tmp_path, {NAME: None}, {NAME: {"batch_size": 3}}) as host:
        over = False

        async def publish() -> None:
            n = 0
            while not over:
                n += 1
                host.publish([request_point(f"GET:/{n % 100}")] * 5)
                await trio.sleep(0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            await trio.sleep(0.01)
            for _ in range(3):
                seen = await scrape(host)
                by_route = select(seen, "request_count_total")
                assert by_route == select(seen, "requests_count")
                ledger = {
                    count: sum(select(seen, f"lva_plugin_points_{count}", plugin=NAME).values())
                    for count in (
                        "accepted_total", "delivered_total", "rejected_total", "dropped_total",
                        "queued", "in_flight", "kept",
                    )
                }  # fmt: skip
                assert ledger["accepted_total"] == sum(ledger.values()) - ledger["accepted_total"]
                counted = sum(by_route.values()) - ledger["delivered_total"]
                assert 0 <= counted <= ledger["in_flight"]
            over = True


def counters(seen: Samples) -> Samples:
    kinds = {family.name: family.kind for family in prometheus.METRICS}
    return {
        key: value
        for key, value in seen.items()
        if kinds.get(key[0]) == "counter"
        or key[0].endswith(("_bucket", "_count", "_sum"))
        or key[0].startswith(("process_cpu_seconds", "python_gc_"))
    }


async def test_no_counter_falls_when_plugins_restart(tmp_path):
    tables = {**TABLES, NAME: {"backoff_initial": 0.01}}
    async with running_host(tmp_path, {NAME: None, "sink": SINK}, tables) as host:
        host.publish([request_point(), request_point(took=2), error_point()])
        await settled(host, NAME, "sink")
        before = counters(await scrape(host))
        host.plugin("sink").crash.set()
        host.plugin(NAME).nursery.start_soon(_fail)
        host.publish([request_point()])
        await until(lambda: all(host.states(n).count("running") == 2 for n in (NAME, "sink")))
        await settled(host, NAME, "sink")
        seen = await scrape(host)
    after = counters(seen)
    assert len(before) > 100
    assert {key for key, value in before.items() if after[key] < value} == set()
    assert one(seen, "request_count_total", path="GET:/a") == 3
    assert one(seen, "lva_plugin_restarts_total", plugin=NAME) == 1
    assert one(seen, "lva_plugin_restarts_total", plugin="sink") == 1


async def _fail() -> None:
    raise RuntimeError("a test wants it")


# The process


async def test_the_process_is_shown_unless_it_is_not_wanted(tmp_path):
    async with running_host(tmp_path, {NAME: None}) as host:
        seen = await scrape(host)
    assert one(seen, "process_resident_memory_bytes") > 1e6
    assert one(seen, "python_info", implementation="CPython") == 1
    assert one(seen, "python_gc_collections_total", generation="0") >= 0
    async with running_host(tmp_path, {NAME: None}, {NAME: {"config": {"process": False}}}) as host:
        seen = await scrape(host)
    assert not [name for name, _ in seen if name.startswith(("process_", "python_"))]


async def test_what_cannot_be_read_is_left_out(tmp_path, monkeypatch, caplog):
    def collect(_self: Any) -> None:
        raise ValueError("could not convert string to float: b'unlimited'")

    async with running_host(tmp_path, {NAME: None}) as host:
        monkeypatch.setattr(prometheus_client.ProcessCollector, "collect", collect)
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                seen = await scrape(host)
    assert not [name for name, _ in seen if name.startswith("process_")]
    assert one(seen, "python_info") == 1
    assert Counter("ProcessCollector is left out" in line for line in caplog.messages)[True] == 1


async def test_constant_labels_are_on_every_sample(tmp_path):
    labels = {"site": "north", "rack": "7"}
    tables = {NAME: {"config": {"extra_labels": labels}}}
    async with running_host(tmp_path, {NAME: None}, tables) as host:
        host.publish([request_point(), error_point()])
        await settled(host, NAME)
        seen = await scrape(host)
        again = await scrape(host)
    assert len(seen) > 80
    for pairs in [*seen, *again]:
        assert labels.items() <= dict(pairs[1]).items(), pairs


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"2nd": "x"}, "'2nd' is no label name"),
        ({"__name": "x"}, "'__name' is no label name"),
        ({"a-b": "x"}, "'a-b' is no label name"),
        ({"": "x"}, "'' is no label name"),
        ({"path": "x"}, "'path' has a meaning already"),
        ({"le": "x"}, "'le' has a meaning already"),
        ({"plugin": "x"}, "'plugin' has a meaning already"),
        ({"site": "\udcff"}, "the value of 'site' is not valid Unicode"),
    ],
)
def test_wrong_labels_are_refused_before_the_start(tmp_path, labels, said):
    tables = {NAME: {"config": {"extra_labels": labels}}}
    with pytest.raises(ConfigurationError) as caught:
        load_plugins(host_settings(tmp_path, [NAME], tables))
    (problem,) = caught.value.problems
    assert said in problem
    assert "plugins.prometheus.config.extra_labels" in problem


# The form of the answer


async def test_the_form_is_what_the_client_asks_for(tmp_path):
    async with running_host(tmp_path, {NAME: None}) as host:
        plain = await answer(host)
        assert plain.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert "Content-Encoding" not in plain.headers
        new = await answer(
            host, Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
        )
        assert new.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert new.body.endswith(b"# EOF\n")
        packed = await answer(host, Accept_Encoding="gzip, deflate")
        assert packed.headers["Content-Encoding"] == "gzip"
        names = {name for name, _ in samples(gzip.decompress(packed.body).decode())}
    old = {name for name, _ in samples(plain.body.decode())}
    assert names == old
    assert old == {name for name, _ in samples(new.body.decode(), parse_openmetrics)}


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=x",
        "text/plain;version=1.x",
        "*/*",
        ";;==,,",
        "text/html",
    ],
)
async def test_any_accept_header_gets_an_answer(tmp_path, accept):
    async with running_host(tmp_path, {NAME: None}) as host:
        assert one(samples((await answer(host, Accept=accept)).body.decode()), "python_info") == 1


async def test_a_scrape_may_ask_for_some_names_only(tmp_path):
    async with running_host(tmp_path, {NAME: None}) as host:
        query = [("name[]", "lva_plugin_state"), ("name[]", "python_info"), ("name[]", "nonsense")]
        seen = samples((await answer(host, *query)).body.decode())
    assert {name for name, _ in seen} == {"lva_plugin_state", "python_info"}


async def test_the_text_is_not_written_on_the_event_loop(tmp_path, monkeypatch):
    threads = []
    choose = prometheus.choose_encoder
    async with running_host(tmp_path, {NAME: None}) as host:
        module = host.module(NAME)

        def watch(accept: str) -> Any:
            threads.append(threading.get_ident())
            return choose(accept)

        monkeypatch.setattr(module, "choose_encoder", watch)
        await answer(host)
    assert threads
    assert threads[0] != threading.get_ident()


async def test_a_stop_in_the_middle_of_a_scrape(tmp_path):
    async with running_host(tmp_path, {NAME: None}) as host:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, host)
            await trio.sleep(0)
            nursery.cancel_scope.cancel()
        part = await host.receipt_of(NAME)
    assert (part.state, part.leaked_threads, part.problems) == ("stopped", [], [])


# The documentation


def section() -> str:
    """Return the plugin's part of the documentation."""
    found = re.search(
        r"^``prometheus``\n-+\n(.*?)(?=^``\w+``\n-+$|\Z)", page("shipped"), re.MULTILINE | re.DOTALL
    )
    assert found
    return found[1]


async def test_the_documentation_lists_exactly_what_there_is(tmp_path):
    rows = re.findall(
        r"^   \* - ``(\w+)``\n     - (counter|gauge|histogram)\n     - (.*)\n     - (.+)$",
        section(),
        re.MULTILINE,
    )
    listed = {name: (kind, re.findall(r"``(\w+)``", labels)) for name, kind, labels, _ in rows}
    assert len(listed) == len(rows)
    async with running_host(tmp_path, {NAME: None}) as host:
        host.publish([request_point(), error_point()])
        await settled(host, NAME)
        host.host.loop_uses = LoopUses()
        for seconds in (1.0, 2.0):
            host.host.loop_uses.note_processor({NAME: (1, seconds)})
        text = (await answer(host)).body.decode()
    exposed = {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            sorted({label for sample in family.samples for label in sample.labels} - {"le"}),
        )
        for family in parse(text)
    }
    assert {name: (kind, sorted(labels)) for name, (kind, labels) in listed.items()} == exposed


@pytest.mark.parametrize("key", prometheus.Config.model_fields)
def test_every_key_is_documented(key: str) -> None:
    assert f"\n``{key}`` " in section()


def test_the_alerts_of_the_documentation_can_be_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"code-block:: promql\n\n((?:   .+\n)+)", section())
    lines = [line.strip() for line in block.splitlines() if not line.strip().startswith("#")]
    assert len(lines) >= 5
    rules = [{"alert": f"Rule{number}", "expr": line} for number, line in enumerate(lines)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "lva", "rules": rules}]}))
    checked = subprocess.run(
        [program("promtool"), "check", "rules", str(tmp_path / "rules.yml")],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
    assert f"{len(lines)} rules found" in checked.stdout
    known = {family.name for family in prometheus.METRICS} | {"requests_bucket"}
    for line in lines:
        assert set(re.findall(r"\b(\w+)(?=[\[{])", line)) <= known


# The real service, promtool, and a real Prometheus


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The service with some traffic behind it, and a plugin that crashes again and again."""
    tmp_path = tmp_path_factory.mktemp("service")
    crashing = """
        class Crashing(BaseEventPlugin, BaseBackgroundPlugin):
            eventName = "monitoring_event"

            async def initialize(self):
                self.addRoute("/doors/<path:door>", self.door)

            async def start(self):
                await trio.sleep(0.2)
                raise RuntimeError("again")

            async def door(self, request, door):
                return "open"

            async def handleEvent(self, points, logger):
                pass
    """
    write_plugin(tmp_path / "plugins", "crashing", crashing)
    idle = 'class Idle(BaseBackgroundPlugin):\n    runtime = "asyncio"'
    write_plugin(tmp_path / "plugins", "idle", idle)
    toml = """
        [plugins.crashing]
        backoff_max = 0.01
        max_restarts = 1000

        [plugins.prometheus.config.extra_labels]
        site = 'no"r\\th'
    """
    with ServiceProcess(tmp_path, [NAME, "history", "crashing", "idle"], toml) as process:
        # Not by asking for the routes, each of which is a 404 of its own until it is there.
        for name in (NAME, "crashing"):
            process.wait_until(lambda name=name: process.plugin(name)["routes"])
        for path in ("/readyz", "/nowhere", "/doors/front", "/plugins/crashing"):
            process.get(path)
        # The points of a request are delivered after its answer.
        process.wait_until(lambda: 'error_code="not_found"' in process.get("/metrics").text)
        process.wait_until(lambda: 'status_code="404"' in process.get("/metrics").text)
        yield process
        assert process.stop() == 0


@pytest.mark.process
@pytest.mark.parametrize("accept", ["", "application/openmetrics-text;version=1.0.0"])
def test_the_service_serves_it(service: ServiceProcess, accept: str) -> None:
    reply = service.get("/metrics", headers={"Accept": accept})
    assert reply.status_code == 200
    assert reply.headers["Content-Encoding"] == "gzip"  # the client asks for it
    seen = samples(reply.text, parse_openmetrics if accept else parse)
    assert one(seen, "request_count_total", path="GET:*", status_code="404", site='no"r\\th') == 1
    assert one(seen, "errors_count_total", path="GET:*", error_code="not_found") == 1
    status = service.plugin("history")
    assert (
        one(seen, "lva_plugin_points_delivered_total", plugin="history")
        <= (status["deliveries"][0]["ledger"]["accepted"])
    )
    assert service.request("HEAD", "/metrics").status_code == 200
    assert service.request("POST", "/metrics").status_code == 405


@pytest.mark.process
def test_promtool_finds_nothing_to_mend(service: ServiceProcess) -> None:
    text = service.get("/metrics").text
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    # It does find what there is.
    spoilt = text.replace("request_count_total", "request_number")
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"], input=spoilt, capture_output=True, text=True
    )
    assert checked.returncode != 0


@pytest.mark.soak
@pytest.mark.process
def test_a_real_prometheus_scrapes_it(service: ServiceProcess, tmp_path: Path) -> None:
    target = service.url.removeprefix("http://")
    with PrometheusServer(tmp_path, target) as server:
        assert [*server.wait_for('up{job="lva"} == 1').values()] == [1]
        found = server.wait_for('request_count_total{path="GET:*"}')
        (labels,) = map(json.loads, found)
        assert labels["service"] == SERVICE
        assert labels["site"] == 'no"r\\th'
        assert labels["status_code"] == "404"
        # The service's own scrapes are among its requests, and counters only rise.
        scrapes = 'request_count_total{path="GET:/metrics"}'
        first = sum(server.wait_for(f"{scrapes} > 1").values())
        assert sum(server.wait_for(f"{scrapes} > {first}").values()) > first
        assert sum(server.wait_for('lva_plugin_restarts_total{plugin="crashing"} > 2').values()) > 2
        assert not server.query("resets(lva_plugin_restarts_total[1m]) > 0")
        assert not server.query("resets(request_count_total[1m]) > 0")
        quantile = server.wait_for("histogram_quantile(0.5, sum by (le) (requests_bucket))")
        assert 0 < sum(quantile.values()) < 1
        server.wait_for("lva_plugin_cpu_share")  # there after two seconds
        names = set(server.ask("label/__name__/values"))
        (target_state,) = server.ask("targets")["activeTargets"]
        assert target_state["lastError"] == ""
    for family in prometheus.METRICS:
        suffixes = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
        assert {family.name + suffix for suffix in suffixes} <= names


# What plugins measure themselves


def test_what_plugins_measure_is_there_within_bounds(caplog: pytest.LogCaptureFixture) -> None:
    """The kind: names that are taken, labels that differ, and series without number."""
    level = Metric("level", "gauge", "How high.", ["tank"], [(("a",), 1.0), (("b" * 500,), 2.0)])
    measured = {
        "one": [
            level,
            Metric("lva_plugin_tasks", "gauge", "Not its own."),
            Metric("twice", "gauge", "A label that is added.", ["plugin"], [(("x",), 1)]),
        ],
        "two": [level, Metric("level", "gauge", "Other labels.", ["pipe"], [(("a",), 3)])],
        "many": [Metric("n_total", "counter", "Many.", ["n"], [((str(n),), n) for n in range(9)])],
    }
    collector = prometheus.PluginCollector(
        lambda: measured, {"site": "north"}, 5, logging.getLogger("lva.plugin.prometheus")
    )
    for _ in range(2):
        found = {family.name: family for family in collector.collect()}
    assert set(found) == {"level", "n"}
    samples = [(sample.labels, sample.value) for sample in found["level"].samples]
    assert samples[0] == ({"plugin": "one", "tank": "a", "site": "north"}, 1.0)
    assert [labels["plugin"] for labels, _ in samples] == ["one", "one", "two", "two"]
    assert max(len(labels["tank"]) for labels, _ in samples) == prometheus.LONGEST_VALUE
    assert len(found["n"].samples) == 5
    said = [record.getMessage().partition("plugin ")[2] for record in caplog.records]
    assert said == [  # each once, however often it is scraped
        "one: lva_plugin_tasks: the name, or a label, is taken",
        "one: twice: the name, or a label, is taken",
        "two: level: another plugin has it with other labels",
        "many: n_total: more than 5 series",
    ]
