"""The line protocol sink: what it encodes, and what real servers make of it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from lva import MonitoringPoint, PartialDeliveryError
from lva.errors import ConfigurationError
from lva.host.life.states import State
from lva.host.loading.load import load_plugins
from lva.plugins import influx
from lva.plugins.influx import Config, encode, to_line
from tests.plugins.metric_servers import (
    Answer,
    InfluxDB,
    Request,
    StandIn,
    VictoriaMetrics,
    standing_in,
)
from tests.plugins.sinks import (
    call,
    last_error,
    ledger_of,
    reason,
    running_sink,
    settled,
    why_not,
)
from tests.process.moments import SEED
from tests.support import (
    RunningHost,
    examples,
    host_settings,
    numbered,
    run_virtual,
    until,
)

# When a connection breaks while a request is sent, httpx leaves its iterator to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*async_generator object ByteStream.__aiter__:pytest.PytestUnraisableExceptionWarning"
)

START = 1_700_000_000.123452
NS = 1_700_000_000_123_452_000


def point(n: int = 0, series: str = "requests", **fields: Any) -> MonitoringPoint:
    return MonitoringPoint(series, START + n, {"n": n}, fields or {"value": 1})


# A reader of line protocol, written from its description


class Reader:
    """Reads one line, character by character.

    Args:
        line: Without its line break.
        pairs: Whether two backslashes are read as one, as VictoriaMetrics does.
    """

    def __init__(self, line: str, pairs: bool = False) -> None:
        self.text, self.at, self.pairs = line, 0, pairs

    def read(self) -> tuple[str, dict[str, str], dict[str, Any], int]:
        series, tags, fields = self.until(", "), {}, {}
        while self.next() == ",":
            key = self.until("=, ")
            assert self.next() == "="
            assert key not in tags or self.pairs
            tags[key] = self.until(",= ")
            assert tags[key]
        while True:
            key = self.until("=, ")
            assert self.next() == "="
            assert key
            assert key not in fields or self.pairs
            fields[key] = self.quoted() if self.text[self.at] == '"' else self.bare()
            if (stop := self.next()) != ",":
                break
        assert stop == " "
        assert series
        assert not series.startswith("#")
        return series, tags, fields, int(self.text[self.at :])

    def next(self) -> str:
        self.at += 1
        return self.text[self.at - 1]

    def until(self, stops: str) -> str:
        found = ""
        escapable = ",= \\" if self.pairs else ",= "
        while self.text[self.at] not in stops:
            if self.text[self.at] == "\\" and self.text[self.at + 1] in escapable:
                self.at += 1
            found += self.next()
        return found

    def quoted(self) -> str:
        found = ""
        self.at += 1
        while (character := self.next()) != '"':
            escaped = character == "\\" and self.text[self.at] in '"\\'
            found += self.next() if escaped else character
        return found

    def bare(self) -> Any:
        text = self.until(", ")
        if text in {"true", "false"}:
            return text == "true"
        return int(text[:-1]) if text.endswith("i") else float(text)


def text_of(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# Encoding


nasty = st.text(st.sampled_from('ab1,,== ""\\\\\\\'#\n\r\t\0\x1b:/.\x85\u2028é😀'), max_size=6)
anything = nasty | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = anything.filter(bool) | st.sampled_from(["a", "b", "time", "camera"])
values = (
    anything
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
)
points = st.builds(
    MonitoringPoint,
    names,
    st.floats(-9.2e9, 9.2e9),
    st.dictionaries(names, values, max_size=3),
    st.dictionaries(names, values, max_size=3),
)


def has_no_form(point: MonitoringPoint) -> bool:
    """Say in other words which points cannot be written."""

    def unfit(text: str, also: str = "") -> bool:
        lost = any(a == "\\" and b in ",= " + also for a, b in pairwise(text))
        return lost or "\n" in text or text.endswith("\\")

    return (
        unfit(point.series, also='"')
        or point.series[0] in "#\t\0"
        or any(unfit(key) or unfit(text_of(value)) for key, value in point.tags.items())
        or any(unfit(key) or key[0] in "\t\0" or '"' in key for key in point.fields)
        or "time" in point.tags
        or "time" in point.fields
        or not point.fields
    )


@pytest.mark.slow("random examples")
@examples(100)
@given(points, st.sampled_from([0, 1, 1000, 1_000_000]))
def test_a_line_says_what_its_point_says(point, unit):
    try:
        line = to_line(point, unit, r"\\n").decode()
    except ValueError:
        assert has_no_form(point)
        return
    assert not has_no_form(point)
    series, tags, fields, moment = Reader(line).read()
    assert series == point.series
    kept = {key: value for key, value in point.tags.items() if value != ""}
    assert tags.keys() == kept.keys()
    assert fields.keys() == point.fields.keys()
    for key, text in tags.items():
        value = kept[key]
        # -0.0 == 0.0, and equal floats share one text
        assert text == text_of(value) or (type(value) is float and float(text) == value)
    for key, value in point.fields.items():
        written = value.replace("\n", "\\n") if isinstance(value, str) else value
        assert type(fields[key]) is type(value)
        assert fields[key] == written
    exact = Fraction(point.time) * 1_000_000
    if unit == 0:
        assert abs(moment // 1000 - exact) < Fraction(3, 2)
    elif unit == 1:
        assert abs(moment - exact) < Fraction(3, 2)
    else:
        assert -2 < exact - moment * unit < unit + 2


@pytest.mark.slow("random examples")
@examples(60)
@given(points.filter(lambda point: not has_no_form(point)))
def test_a_server_that_reads_two_backslashes_as_one_finds_the_same_parts(point):
    series, tags, fields, _ = Reader(to_line(point, 1, r"\\n").decode(), pairs=True).read()

    def read(texts: Iterable[str]) -> list[str]:
        return sorted({text.replace("\\\\", "\\") for text in texts})

    assert [series] == read([point.series])
    assert sorted(fields) == read(point.fields)
    assert sorted(tags) == read(key for key, value in point.tags.items() if value != "")


@pytest.mark.slow("random examples")
@examples(50)
@given(st.lists(points, max_size=6))
def test_no_point_disturbs_its_neighbours(batch):
    async def main() -> None:
        entries, rejected, why = await encode(batch, Config(db="lva"))
        kept = [point for point, _ in entries]
        assert [p for p in batch if not has_no_form(p)] == kept
        assert [p for p in batch if has_no_form(p)] == rejected
        assert bool(why) == bool(rejected)
        body = b"\n".join(line for _, line in entries)
        lines = body.decode().split("\n") if body else []
        assert [Reader(line).read()[0] for line in lines] == [point.series for point in kept]

    run_virtual(main)


def test_line_breaks_are_kept_if_one_says_so():
    odd = point(text="a\nevil value=1 1\r\n")
    assert to_line(odd, 1, "\n").count(b"\n") == 2
    assert b'text="a\\\\nevil value=1 1\r\\\\n"' in to_line(odd, 1, r"\\n")


@pytest.mark.parametrize(
    ("time", "unit", "moment"),
    [
        (1_700_000_000.1, 1, 1_700_000_000_100_000),
        (1_700_000_000.123456, 1, 1_700_000_000_123_456),
        (1_700_000_000.123455, 1, 1_700_000_000_123_455),
        (1_700_000_000.123456, 1000, 1_700_000_000_123),
        (1_700_000_000.999999, 1_000_000, 1_700_000_000),
        (1_700_000_000, 1, 1_700_000_000_000_000),
        (0, 1, 0),
        (-0.5, 1000, -500),
        (9_223_372_036.0, 1, 9_223_372_036_000_000),
    ],
)
def test_times_have_no_artefacts_of_floats(time, unit, moment):
    line = to_line(MonitoringPoint("s", time, {}, {"f": 1}), unit, "")
    assert int(line.rpartition(b" ")[2]) == moment


@pytest.mark.parametrize("time", [9.3e9, -9.3e9, 1e300, 10**400, 1.7e308])
def test_times_that_no_server_can_hold_are_refused(time):
    with pytest.raises((ValueError, OverflowError)):
        to_line(MonitoringPoint("s", time, {}, {"f": 1}), 0, "")


def test_nanoseconds_tell_the_points_of_one_microsecond_apart_and_are_always_the_same():
    lines = {to_line(point(n=7, value=value), 0, "") for value in range(20)}
    moments = {int(line.rpartition(b" ")[2]) for line in lines}
    assert len(moments) == 20
    assert {moment // 1000 for moment in moments} == {NS // 1000 + 7_000_000}
    assert lines == {to_line(point(n=7, value=value), 0, "") for value in range(20)}


def test_equal_tags_of_different_types_are_not_taken_for_one_another():
    heads = [
        to_line(MonitoringPoint("s", 0, {"a": value}, {"f": 1}), 1, "").split()[0]
        for value in (1, 1.0, True, "1.0")
    ]
    assert heads == [b"s,a=1", b"s,a=1.0", b"s,a=true", b"s,a=1.0"]


def test_tags_are_sorted_so_that_a_server_need_not_do_it():
    tags = {"b": 1, "a": 2, "c": 3}
    assert to_line(MonitoringPoint("s", 0, tags, {"f": 1}), 1, "").split()[0] == b"s,a=2,b=1,c=3"


def test_too_many_bytes_of_tags_are_refused():
    with pytest.raises(ValueError, match="longer than 65535 bytes"):
        to_line(MonitoringPoint("s", 0, {"a": "é" * 32_768}, {"f": 1}), 1, "")


# The host


def sink(
    tmp_path: Path, url: str, wait: bool = True, table: Any = (), **config: Any
) -> AbstractAsyncContextManager[RunningHost]:
    """Run the plugin."""
    places = {} if {"bucket", "db"} & set(config) else {"db": "lva"}
    return running_sink(tmp_path, "influx", {"url": url, **places, **config}, wait, table)


async def samples(server: VictoriaMetrics, db: str, count: int) -> list[tuple[Any, int, float]]:
    """Wait until a server shows as many samples of a database: it may answer a little before it does."""

    def found() -> list[tuple[Any, int, float]]:
        # /api/v2/write adds no label
        return [(m, at, value) for m, at, value in server.samples() if m.pop("db", "v2") == db]

    seen: list[tuple[Any, int, float]] = []

    def all_there() -> bool:
        seen[:] = found()
        return len(seen) >= count

    await until(all_there)
    return seen


@pytest.fixture(scope="module")
def influxdb(tmp_path_factory) -> Iterator[InfluxDB]:
    with InfluxDB(tmp_path_factory.mktemp("influxdb")) as server:
        yield server


@pytest.fixture(scope="module")
def victoria(tmp_path_factory) -> Iterator[VictoriaMetrics]:
    with VictoriaMetrics(tmp_path_factory.mktemp("victoria")) as server:
        yield server


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with standing_in() as it:
        yield it


# What is stored


ODD: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("requests", {"route": "GET:/a/<int:b>", "status_code": 200}, {"execution_time": 0.25}),
    ("odd, series=x", {"k,e= y": "v,a= l", "quoted": '"yes"'}, {"f,i= e": 1}),
    ("back\\slash", {"path": "C:\\a\\b", "k\\k": "x"}, {"pa\\th": "C:\\a\\"}),
    ("ünïcödé😀", {"straße": "日本\u2028"}, {"größe": "ß\t\r"}),
    ("empty", {"gone": "", "kept": "x"}, {"text": "", "n": -0.5}),
    ("numbers", {"int": -3, "float": 1.5, "bool": True}, {"least": -(2**63), "most": 2**63 - 1}),
    ("floats", {}, {"tiny": 5e-324, "huge": 1.7976931348623157e308, "small": 1e-07, "one": 1.0}),
    ("booleans", {}, {"yes": True, "no": False}),
    ("strings", {}, {"quotes": 'say "hi"', "last": '\\"', "line": 'a" ,b=1\\'}),
]


def odd_points() -> list[MonitoringPoint]:
    return [MonitoringPoint(series, START, tags, fields) for series, tags, fields in ODD]


async def test_influxdb_gives_back_what_was_published(tmp_path, influxdb):
    influxdb.create("odd")
    async with sink(tmp_path, influxdb.url, db="odd", precision="us") as host:
        ledger = await settled(host, odd_points())
    assert ledger.delivered == len(ODD)
    for series, tags, fields in ODD:
        kept = {key: text_of(value) for key, value in tags.items() if value != ""}
        assert influxdb.points(series, "odd") == [(NS, kept, fields)]
    kinds = {"int": "integer", "float": "float", "str": "string", "bool": "boolean"}
    for found in influxdb.query("SHOW FIELD KEYS", "odd"):
        fields = next(fields for series, _, fields in ODD if series == found["name"])
        expected = {key: kinds[type(value).__name__] for key, value in fields.items()}
        assert dict(found["values"]) == expected


@pytest.mark.parametrize(
    ("db", "place"), [("v1", {"db": "v1"}), ("v2", {"bucket": "b", "org": "o", "token": "t" * 9})]
)
async def test_victoria_metrics_stores_what_was_published(tmp_path, victoria, db, place):
    async with sink(tmp_path, victoria.url, **place) as host:
        ledger = await settled(host, odd_points())
    assert ledger.delivered == len(ODD)
    count = sum(len(fields) for _, _, fields in ODD)
    found = await samples(victoria, db, count)
    stored = {labels.pop("__name__"): (labels, at, value) for labels, at, value in found}
    assert len(stored) == len(found) == count
    for series, tags, fields in ODD:
        for key, value in fields.items():
            labels, at, number = stored[f"{series}_{key}"]
            assert labels == {k: text_of(v) for k, v in tags.items() if v != ""}
            assert at == NS // 1_000_000
            if not isinstance(value, str):  # which it has no place for
                assert number == pytest.approx(float(value), rel=1e-15, abs=1e-300)


@pytest.mark.slow("talks to a real server")
@pytest.mark.parametrize("server", ["influxdb", "victoria"])
async def test_servers_read_random_points_as_they_were_meant(tmp_path, server, request):
    server = request.getfixturevalue(server)
    rng = random.Random(SEED)

    def text(least: int = 0) -> str:
        letters = rng.choices("abcdefgh,= \"\\'#\r\t:\u2028é😀", k=rng.randint(least, 5))
        return "".join(letters)

    batch = [
        MonitoringPoint(
            f"{n}{text()}" if n % 2 else f"{text()}{n}",
            START + n,
            {f"{text()}t": text() for _ in range(3)} | {"id": n},
            {f"{text()}i": n, f"{text()}f": n / 4},
        )
        for n in range(400)
    ]
    kept = [point for point in batch if not has_no_form(point)]
    assert 50 < len(kept) < 400
    if server.program == "influxd":
        server.create("random")
    async with sink(tmp_path, server.url, db="random", precision="us") as host:
        ledger = await settled(host, batch)
    assert (ledger.delivered, ledger.rejected) == (len(kept), 400 - len(kept))
    found: dict[str, Any] = {}
    if server.program == "influxd":
        for part in server.query("SELECT * FROM /.*/ GROUP BY *", "random"):
            columns = zip(part["columns"][1:], part["values"][0][1:], strict=True)
            fields = {key: value for key, value in columns if value is not None}
            tags = {key: value for key, value in part["tags"].items() if value}
            found[part["tags"]["id"]] = part["name"], tags, fields, part["values"][0][0]
        for point in kept:
            tags = {key: text_of(value) for key, value in point.tags.items() if value != ""}
            moment = round(point.time * 1_000_000) * 1000
            expected = point.series, tags, point.fields, moment
            assert found.pop(str(point.tags["id"])) == expected
        assert not found
        return
    for labels, at, value in await samples(server, "random", 2 * len(kept)):
        name = labels.pop("__name__")
        found.setdefault(labels["id"], []).append((name, labels, at, value))
    assert found.keys() == {str(point.tags["id"]) for point in kept}

    def read(value: Any) -> str:
        return text_of(value).replace("\\\\", "\\")

    for point in kept:
        labels = {read(key): read(value) for key, value in point.tags.items() if value != ""}
        at = round(point.time * 1000 - 0.4)
        expected = [
            (read(f"{point.series}_{key}"), labels, at, value)
            for key, value in point.fields.items()
        ]
        by_name = sorted(found[str(point.tags["id"])], key=lambda sample: sample[0])
        assert by_name == sorted(expected, key=lambda sample: sample[0])


async def test_the_rest_of_a_text_is_no_point_of_its_own(tmp_path, victoria):
    async with sink(tmp_path, victoria.url, db="breaks") as host:
        await settled(host, [point(text='a\nevil,db=breaks value=7 1\n"', value=3)])
    found = await samples(victoria, "breaks", 2)
    stored = [(labels["__name__"], value) for labels, _, value in found]
    assert sorted(stored) == [("requests_text", 0), ("requests_value", 3)]


async def test_influxdb_can_keep_line_breaks(tmp_path, influxdb):
    influxdb.create("breaks")
    text = 'Traceback:\n  File "a", line 1\r\n'
    async with sink(tmp_path, influxdb.url, db="breaks", line_breaks="keep") as host:
        await settled(host, [point(text=text), point(1, text="next")])
    assert [fields["text"] for _, _, fields in influxdb.points("requests", "breaks")] == [
        text,
        "next",
    ]


async def test_points_of_the_same_moment_do_not_replace_one_another(tmp_path, influxdb):
    influxdb.create("moment")
    batch = [point(value=value) for value in range(20)]
    async with sink(tmp_path, influxdb.url, db="moment") as host:
        await settled(host, batch)
        assert len(influxdb.points("requests", "moment")) == 20
        await settled(host, batch)  # as after an answer that was lost
        assert len(influxdb.points("requests", "moment")) == 20


@pytest.mark.parametrize(("precision", "unit"), [("us", 1000), ("ms", 10**6), ("s", 10**9)])
async def test_influxdb_understands_the_unit_of_time(tmp_path, influxdb, precision, unit):
    influxdb.create(precision)
    async with sink(tmp_path, influxdb.url, db=precision, precision=precision) as host:
        await settled(host, [point()])
    ((at, _, _),) = influxdb.points("requests", precision)
    assert at == NS // unit * unit


# What is refused


def counted_posts(host: RunningHost) -> list[int]:
    """Note how many lines each request has, from now on."""
    plugin = host.plugin("influx")
    sizes: list[int] = []
    post = plugin._post

    async def counting(lines: Any) -> str:
        sizes.append(len(lines))
        return await post(lines)

    plugin._post = counting
    return sizes


@pytest.mark.slow("talks to a real server")
async def test_only_points_with_a_conflict_of_types_are_rejected(tmp_path, influxdb):
    influxdb.create("types")
    good = [point(n, "mixed", value=n) for n in range(300)]
    wrong = [point(n, "mixed", value=f"{n}") for n in range(300, 400)]
    wrong += [point(n, "mixed", value=n / 2, other=1) for n in range(400, 450)]
    batch = [*good, *wrong, *(point(n, "others", value=0.5) for n in range(50))]
    random.Random(0).shuffle(batch)
    async with sink(tmp_path, influxdb.url, db="types") as host:
        await settled(host, [point(1000, "mixed", value=1000)])
        sizes = counted_posts(host)
        ledger = await settled(host, batch)
    assert (ledger.delivered, ledger.rejected, ledger.lost) == (351, 150, 0)
    stored = [fields["value"] for _, _, fields in influxdb.points("mixed", "types")]
    assert sorted(stored) == [*range(300), 1000]
    assert len(influxdb.points("others", "types")) == 50
    assert len(sizes) < 60


async def test_wrong_points_are_found_where_the_server_says_nothing_of_them(tmp_path, stand_in):
    def answer(request: Request) -> Answer:
        wrong = b"value=13i" in request.body or b"value=77i" in request.body
        return (400, {}, b'{"message":"no"}') if wrong else (204, {}, b"")

    stand_in.answer = answer
    async with sink(tmp_path, stand_in.url) as host:
        ledger = await settled(host, [point(n, value=n) for n in range(200)])
        assert "400" in last_error(host)
    assert (ledger.delivered, ledger.rejected, ledger.retries) == (198, 2, 0)
    taken = [
        line for request in stand_in.requests if answer(request)[0] == 204
        for line in request.body.splitlines()
    ]  # fmt: skip
    assert len(taken) == len(set(taken)) == 198
    assert len(stand_in.requests) < 40


async def test_points_that_are_no_lines_are_rejected_and_the_others_written(tmp_path, influxdb):
    influxdb.create("lines")
    batch = [
        point(0),
        point(1, "#series"),
        MonitoringPoint("requests", START + 2, {"ends": "with\\"}, {"value": 1}),
        MonitoringPoint("requests", START + 3, {"two": "li\nnes"}, {"value": 1}),
        MonitoringPoint("requests", START + 4, {}, {}),
        point(5, time=1),
        MonitoringPoint("requests", 1e300, {}, {"value": 1}),
        point(7),
    ]
    async with sink(tmp_path, influxdb.url, db="lines") as host:
        sizes = counted_posts(host)
        ledger = await settled(host, batch)
    assert (ledger.delivered, ledger.rejected, ledger.retries) == (2, 6, 0)
    assert [tags["n"] for _, tags, _ in influxdb.points("requests", "lines")] == ["0", "7"]
    assert sizes == [2]


async def test_nothing_is_sent_when_nothing_can_be(tmp_path, stand_in):
    async with sink(tmp_path, stand_in.url) as host:
        ledger = await settled(host, [point(time=1)])
    assert (ledger.rejected, len(stand_in.requests)) == (1, 1)


@pytest.mark.slow("talks to a real server")
async def test_what_is_too_large_is_divided(tmp_path, influxdb):
    influxdb.create("large")
    batch = [point(n, text="x" * 1000) for n in range(500)]
    async with sink(tmp_path, influxdb.url, db="large", gzip=False) as host:
        ledger = await settled(host, [*batch, point(500, text="x" * 200_000)])
    assert (ledger.delivered, ledger.rejected) == (500, 1)
    assert len(influxdb.points("requests", "large")) == 500


async def test_a_size_that_was_refused_is_not_tried_again(tmp_path, stand_in):
    """Kind: a limit of the receiver's that each batch finds out anew."""
    most = 200_000
    stand_in.answer = lambda request: (413 if len(request.body) > most else 204, {}, b"")
    async with sink(tmp_path, stand_in.url, gzip=False) as host:
        for begin in (0, 1000):
            batch = [point(n, text="x" * 1000) for n in range(begin, begin + 1000)]
            ledger = await settled(host, batch)
    refused = [request for request in stand_in.requests if len(request.body) > most]
    assert (ledger.delivered, ledger.rejected) == (2000, 0)
    assert 0 < len(refused) <= 4
    assert stand_in.requests.index(refused[-1]) < len(stand_in.requests) / 2


async def test_a_line_that_is_too_long_for_victoria_metrics_takes_no_other_along(
    tmp_path, victoria
):
    async with sink(tmp_path, victoria.url, db="long") as host:
        batch = [point(n, value=n) for n in range(100)]
        ledger = await settled(host, [*batch, point(100, text="x" * 300_000)])
    assert (ledger.delivered, ledger.rejected) == (100, 1)
    stored = {value for _, _, value in await samples(victoria, "long", 100)}
    assert stored == {float(n) for n in range(100)}


async def test_looking_for_wrong_points_ends_and_goes_on_later(tmp_path, stand_in, mock_clock):
    async def refuse(lines: Any) -> influx.RefusedLines | None:
        await trio.sleep(1)
        return influx.RefusedLines("400 no", too_large=False) if lines else None

    mock_clock.rate = 1.0  # certificates and constructors take real time
    async with sink(tmp_path, stand_in.url) as host:
        host.plugin("influx")._post = refuse
        mock_clock.rate, mock_clock.autojump_threshold = 0.0, 0
        left, calls = numbered(16), 0
        while left:
            begun = trio.current_time()
            with pytest.raises(PartialDeliveryError) as caught:
                await call(host, left)
            assert trio.current_time() - begun <= influx.SEARCH_TIME + 1
            left = caught.value.failed
            assert caught.value.after == (0.0 if left else None)
            calls += 1
    assert calls == 4


# Servers that are away, busy or shut


@pytest.mark.slow("talks to a real server")
async def test_points_wait_for_a_server_and_a_database_that_come_later(tmp_path):
    with InfluxDB(tmp_path, start=False) as server:
        async with sink(tmp_path, server.url, wait=False) as host:
            host.publish(numbered(5))
            await host.wait_for("influx", State.BACKOFF, within=20)
            assert f"no response from {server.url}" in reason(host)
            server.start()
            await until(lambda: "responded with 404" in reason(host))
            assert "whether the bucket or db exists" in reason(host)
            server.create()
            await host.wait_for("influx", State.RUNNING, within=20)
            part = await host.receipt_of("influx")
        stored = [fields["n"] for _, _, fields in server.points("numbers")]
    assert sorted(stored) == [*range(5)]
    assert (part.points["delivered"], part.problems) == (5, [])


@pytest.mark.slow("talks to a real server")
async def test_nothing_is_lost_when_the_server_dies_and_comes_back(tmp_path):
    with InfluxDB(tmp_path) as server:
        server.create()
        async with sink(tmp_path, server.url, table={"max_attempts": 1}) as host:
            ledger = ledger_of(host)
            for n in range(0, 1000, 20):
                host.publish([point(n + i, value=n + i) for i in range(20)])
                if n == 200:
                    await until(lambda: ledger.delivered)
                    server.kill()
                elif n == 600:
                    await until(lambda: ledger.retries > 2)
                    server.start()
                await trio.lowlevel.checkpoint()
            await until(lambda: ledger.delivered == 1000)
            assert host.states("influx")[-1] == "running"
            assert (await host.stop()).exit_code == 0
        assert ledger.accepted == ledger.delivered
        stored = [fields["value"] for _, _, fields in server.points("requests")]
    assert sorted(stored) == [*range(1000)]


@pytest.mark.slow("talks to a real server")
async def test_a_wrong_password_may_be_mended(tmp_path, caplog):
    with InfluxDB(tmp_path, auth=True) as server:
        server.query("CREATE USER root WITH PASSWORD 'rootpass' WITH ALL PRIVILEGES")
        root = {"u": "root", "p": "rootpass"}
        server.query("CREATE DATABASE lva", **root)
        server.query("CREATE USER ada WITH PASSWORD 'another'", **root)
        ada = {"username": "ada", "password": "lovelace-pass"}
        async with sink(tmp_path, server.url, wait=False, **ada) as host:
            host.publish([point()])
            await until(lambda: "responded with 401" in reason(host))
            assert "check token, or username and password" in reason(host)
            server.query("SET PASSWORD FOR ada = 'lovelace-pass'", **root)
            await until(lambda: "responded with 403" in reason(host))
            server.query("GRANT WRITE ON lva TO ada", **root)
            await host.wait_for("influx", State.RUNNING, within=20)
            await until(lambda: ledger_of(host).delivered == 1)
            shown = repr(host.life("influx").record.history) + repr(host.plugin("influx").config)
        assert server.query("SELECT * FROM requests", **root)
    assert "responded with 401" in caplog.text
    assert "lovelace" not in caplog.text + shown


async def test_a_token_that_is_revoked_keeps_points_waiting(tmp_path, stand_in, caplog):
    stand_in.say(204, 401, 404, 204, text=b"unauthorized")
    config = {"bucket": "b & b", "org": "ö", "token": "sesame-sesame"}
    async with sink(tmp_path, stand_in.url, table={"max_attempts": 1}, **config) as host:
        ledger = await settled(host, [point()])
    assert (ledger.delivered, ledger.retries) == (1, 2)
    for request in stand_in.requests:
        assert request.path == "/api/v2/write"
        assert request.query == {"bucket": "b & b", "org": "ö", "precision": "ns"}
        assert request.headers["Authorization"] == "Token sesame-sesame"
    assert "401" in caplog.text
    assert "sesame" not in caplog.text


async def test_a_path_that_victoria_metrics_does_not_have_loses_no_points(tmp_path, victoria):
    async with sink(tmp_path, f"{victoria.url}/nowhere", wait=False) as host:
        assert "unsupported path" in await why_not(host)


async def test_what_was_settled_stays_settled_when_the_server_goes_away(tmp_path, stand_in):
    stand_in.say(204, 400, 204, 204, 503, 204)
    async with sink(tmp_path, stand_in.url) as host:
        ledger = await settled(host, numbered(10))
    assert (ledger.delivered, ledger.rejected, ledger.retries) == (10, 0, 1)
    sizes = [len(request.body.splitlines()) for request in stand_in.requests]
    assert sizes == [0, 10, 0, 5, 5, 5]


async def test_a_pause_holds_when_a_part_was_written_already(tmp_path, stand_in):
    async with sink(tmp_path, stand_in.url) as host:
        answers: list[Answer] = [
            (400, {}, b""), (204, {}, b""), (204, {}, b""), (429, {"Retry-After": "50"}, b""),
        ]  # fmt: skip
        stand_in.answer = lambda _: answers.pop(0)
        with pytest.raises(PartialDeliveryError) as caught:
            await call(host, numbered(4))
    assert (len(caught.value.failed), caught.value.rejected, caught.value.after) == (2, [], 50)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_who_says_the_same_of_no_points_at_all_says_nothing_of_them(
    tmp_path, stand_in, status
):
    """Kind: a refusal by somebody who is not the receiver, in words that could be anybody's."""
    statuses = [204, *[status] * 4, 204]

    def answer(_: Request) -> Answer:
        now = statuses.pop(0)
        return now, {}, b"" if now == 204 else b"Bad Request"

    stand_in.answer = answer
    async with sink(tmp_path, stand_in.url, table={"max_attempts": 1}) as host:
        ledger = await settled(host, numbered(10))
        assert f"{status} Bad Request, whether there are points or not" in last_error(host)
    assert (ledger.delivered, ledger.rejected, ledger.retries) == (10, 0, 2)


@pytest.mark.slow("talks to a real server")
async def test_large_points_go_out_in_requests_that_get_through(tmp_path, stand_in):
    stand_in.say(204, 204, 503, 204, 204)
    batch = [point(n, text="x" * 900_000) for n in range(10)]
    table = {"max_attempts": 1}
    async with sink(tmp_path, stand_in.url, table=table, gzip=False) as host:
        ledger = await settled(host, batch)
    assert (ledger.delivered, ledger.lost, ledger.retries) == (10, 0, 1)
    counts = [len(request.body.splitlines()) for request in stand_in.requests]
    assert counts == [0, 4, 4, 4, 2], "what was written is not written again"
    assert max(len(request.body) for request in stand_in.requests) <= influx.MOST_BYTES


# The wire


async def test_a_proxy_of_the_configuration_is_used(tmp_path, stand_in):
    async with sink(tmp_path, "http://nowhere.invalid", proxy=stand_in.url) as host:
        assert (await settled(host, numbered(3))).delivered == 3
    assert stand_in.requests[-1].headers["Host"] == "nowhere.invalid"


async def test_others_get_a_turn_while_a_large_batch_is_encoded(tmp_path):
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await encode(numbered(5000), Config(db="lva"))
        nursery.cancel_scope.cancel()
    assert turns >= 15


# The configuration


def load(tmp_path, **config: Any) -> Any:
    (loaded,) = load_plugins(host_settings(tmp_path, ["influx"], {"influx": {"config": config}}))
    return loaded


def test_a_call_has_time_for_its_search(tmp_path):
    loaded = load(tmp_path, db="lva")
    assert loaded.settings.flush_interval == 1.0
    assert loaded.settings.handle_timeout > influx.SEARCH_TIME + 10


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "set either bucket or db"),
        ({"bucket": "b", "db": "d"}, "set either bucket or db"),
        ({"db": "d", "username": "u"}, "username and password go together"),
        ({"db": "d", "password": "very-secret"}, "username and password go together"),
        ({"db": "d", "token": "very-secret", "username": "u", "password": "p"}, "either token or"),
        ({"db": "d", "token": "very-secret\n"}, "token: a token has printable ASCII"),
        ({"db": "d", "token": "very-secret-é"}, "token: a token has printable ASCII"),
        ({"db": "d", "url": "ftp://host"}, "url: this is no URL of the form http://host:port"),
        ({"db": "d", "url": "http://"}, "url: this is no URL"),
        ({"db": "d", "url": "http://host:port"}, "url: this is no URL"),
        ({"db": "d", "url": "http://host/?db=d"}, "url: this is no URL"),
        ({"db": "d", "url": "http://u:very-secret@host"}, "the user stands in username"),
        ({"db": "d", "proxy": "very-secret"}, "proxy: this is no URL"),
        ({"db": "d", "timeout": 0}, "timeout: "),
        ({"db": "d", "timeout": 11}, "timeout: "),
        ({"db": "d", "precision": "m"}, "precision: "),
        ({"db": "d", "databse": "d"}, "databse: unknown key"),
    ],
)
def test_a_wrong_configuration_is_refused_without_its_secrets(tmp_path, config, message):
    with pytest.raises(ConfigurationError, match=message) as error:
        load(tmp_path, **config)
    assert "very-secret" not in str(error.value)
