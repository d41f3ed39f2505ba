"""The embedded sink, with a real file; worker threads need the real clock."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import trio
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import BadRequest, ServiceUnavailable

from lva import MonitoringPoint
from lva.host.life.states import State
from lva.plugins.history import connect
from tests.event_samples import ITEMS, JPEG, SEEN
from tests.plugins.sinks import last_error, ledger_of, running_sink, settled, why_not
from tests.support import RunningHost, numbered, until


def history(
    tmp_path: Path, wait: bool = True, table: Any = (), **config: Any
) -> AbstractAsyncContextManager[RunningHost]:
    """Run the plugin; the points of tests may be old."""
    return running_sink(tmp_path, "history", {"max_age": 1e12, **config}, wait, table)


async def ask(host: RunningHost, *query: tuple[str, str]) -> Any:
    """Answer GET /history/points?query as the route's handler does."""
    handler = host.host.routes.match("/history/points").route.verbs["GET"]
    return await handler(SimpleNamespace(args=MultiDict(query), path="/history/points"))


def seen(answer: Any) -> list[int]:
    return [row["fields"]["n"] for row in answer["points"]]


#: A batch is tried at once, again at once, and no more than twice.
IMPATIENT = {
    "retry_initial": 0.001, "retry_max": 0.001, "max_attempts": 2, "circuit_failures": 10_000
}  # fmt: skip


def sample(n: int, series: str = "requests", **tags: Any) -> MonitoringPoint:
    return MonitoringPoint(series, 1000.0 + n, tags, {"n": n})


async def test_points_are_kept_in_the_state_directory_and_come_newest_first(tmp_path):
    async with history(tmp_path) as host:
        await settled(host, [sample(1, a="x"), sample(2)])
        answer = await ask(host)
        assert seen(answer) == [2, 1]
        assert answer["next"] is None
        assert answer["points"][1] == {
            "id": 1, "series": "requests", "time": 1001.0, "tags": {"a": "x"}, "fields": {"n": 1},
        }  # fmt: skip
        assert (tmp_path / "state" / "history.sqlite3").is_file()
        receipt = await host.stop()
        assert receipt.exit_code == 0


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ([("series", "errors")], [3, 1]),
        ([("series", "none")], []),
        ([("since", "1002")], [4, 3, 2]),
        ([("until", "1002")], [1, 0]),
        ([("since", "1001"), ("until", "1003.5")], [3, 2, 1]),
        ([("tag", "status_code:200")], [2, 0]),
        ([("tag", "route:GET:/a")], [4]),
        ([("tag", "status_code:200"), ("tag", "place:door")], [2]),
        ([("tag", "load:0.5")], [3]),
        ([("tag", "status_code:20")], []),
        ([("tag", "%:200")], []),
        ([("series", "errors"), ("since", "1002")], [3]),
        ([("limit", "2")], [4, 3]),
        ([("series", "errors' OR 1=1 --")], []),
    ],
)
async def test_filters(tmp_path, query, found):
    points = [
        sample(0, status_code=200),
        sample(1, "errors", status_code="404"),
        sample(2, status_code="200", place="door"),
        sample(3, "errors", load=0.5),
        sample(4, route="GET:/a"),
    ]
    async with history(tmp_path) as host:
        await settled(host, points)
        assert seen(await ask(host, *query)) == found


@pytest.mark.parametrize(
    "query",
    [
        ("limit", "0"), ("limit", "1001"), ("limit", "many"), ("limit", "nan"), ("limit", ""),
        ("since", "yesterday"), ("until", "inf"), ("before", "-1"), ("before", "x"),
        ("before", "1e30"), ("tag", "status_code"),
    ],
)  # fmt: skip
async def test_a_malformed_query_is_a_bad_request(tmp_path, query):
    async with history(tmp_path) as host:
        with pytest.raises(BadRequest) as caught:
            await ask(host, query)
        assert query[0] in caught.value.description


async def test_pages_together_hold_every_point_once(tmp_path):
    async with history(tmp_path) as host:
        await settled(host, [sample(n, place="a&b=c") for n in range(25)] + [sample(99)])
        got: list[int] = []
        query = [("limit", "10"), ("tag", "place:a&b=c"), ("series", "requests")]
        for _ in range(4):
            answer = await ask(host, *query)
            got += seen(answer)
            await settled(host, [sample(1000, place="a&b=c")])  # newer ones do not shift the pages
            if answer["next"] is None:
                break
            split = urlsplit(answer["next"])
            assert split.path == "/history/points"
            query = parse_qsl(split.query)
        assert got == list(range(24, -1, -1))


@pytest.mark.slow("SQLite works in a thread, in real time")
async def test_the_file_is_bounded_in_size_the_oldest_points_go_first(tmp_path):
    limit = 1024 * 1024
    async with history(tmp_path, max_bytes=limit) as host:
        total = 0
        for _ in range(8):
            batch = [
                MonitoringPoint("s", 1.0, {}, {"n": total + n, "padding": "x" * 1000})
                for n in range(300)
            ]
            total += len(batch)
            await settled(host, batch)
        kept = seen(await ask(host, ("limit", "1000")))
        assert kept == list(range(total - 1, total - 1 - len(kept), -1)), (
            "the newest, without a gap"
        )
        assert 0.5 * limit < len(kept) * 1000 <= limit
        await host.stop()
    size = (tmp_path / "state" / "history.sqlite3").stat().st_size
    assert size <= 2 * limit


@pytest.mark.slow("SQLite works in a thread, in real time")
async def test_one_batch_that_is_larger_than_the_file_may_be(tmp_path):
    limit = 1024 * 1024
    async with history(tmp_path, max_bytes=limit) as host:
        await settled(
            host, [MonitoringPoint("s", 1.0, {}, {"n": n, "p": "x" * 1000}) for n in range(3000)]
        )
        answer = await ask(host, ("limit", "1000"))
        assert seen(answer)[0] == 2999
        assert 0 < len(answer["points"]) < 1000


async def test_points_past_their_age_go(tmp_path):
    now = time.time()
    async with history(tmp_path, max_age=100, trim_interval=0.02) as host:
        await settled(
            host, [MonitoringPoint("s", now - age, {}, {"n": age}) for age in (1000, 101, 50, 0)]
        )
        with trio.fail_after(10):
            while len(seen(answer := await ask(host))) > 2:
                await trio.sleep(0.01)
        assert seen(answer) == [0, 50]


@pytest.mark.slow("SQLite works in a thread, in real time")
async def test_a_restart_of_the_service_keeps_the_points(tmp_path):
    async with history(tmp_path) as host:
        await settled(host, numbered(3))
    async with history(tmp_path) as host:
        await settled(host, numbered(1, 3))
        assert seen(await ask(host)) == [3, 2, 1, 0]


async def test_the_file_may_be_elsewhere(tmp_path):
    path = tmp_path / "else where.db"
    async with history(tmp_path, path=str(path)) as host:
        await settled(host, numbered(1))
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM points").fetchone() == (1,)
    connection.close()


async def refused(tmp_path: Path, **config: Any) -> str:
    """Return why the plugin does not start."""
    async with history(tmp_path, wait=False, **config) as host:
        return await why_not(host)


def foreign(path, statements: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(statements)
    connection.close()


@pytest.mark.parametrize(
    "statements",
    [
        "CREATE TABLE users (name)",
        "PRAGMA user_version = 7",
        "PRAGMA user_version = 1; CREATE TABLE users (name)",
        "PRAGMA user_version = 1; CREATE TABLE points (x, y)",
    ],
)
async def test_a_foreign_database_is_refused_and_left_alone(tmp_path, statements):
    path = tmp_path / "foreign.db"
    foreign(path, statements)
    before = path.read_bytes()
    reason = await refused(tmp_path, path=str(path))
    assert str(path) in reason
    assert "move it away, or set plugins.history.config.path" in reason
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"this is no database" * 100, b"SQLite format 3\x00" + b"\xff" * 4000]
)
async def test_a_corrupt_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "corrupt.db"
    path.write_bytes(content)
    reason = await refused(tmp_path, path=str(path))
    assert f"{path} cannot be used as a history" in reason
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_read_is_not_left_open(tmp_path):
    path = tmp_path / "corrupt.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(sqlite3.DatabaseError) as caught:
        connect(path)
    open_files = [os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()]
    assert str(path) not in open_files, caught


async def test_a_path_that_cannot_be_opened_is_named(tmp_path):
    path = tmp_path / "missing" / "file.db"
    reason = await refused(tmp_path, path=str(path))
    assert str(path) in reason


async def test_it_starts_once_the_file_can_be_opened(tmp_path):
    path = tmp_path / "late.db"
    path.write_bytes(b"rubbish" * 1000)
    async with history(tmp_path, wait=False, path=str(path)) as host:
        await host.wait_for("history", State.BACKOFF, within=20)
        host.publish(numbered(2))
        path.unlink()
        await host.wait_for("history", State.RUNNING, within=20)
        receipt = await host.stop()
        assert receipt.plugins[0].points["delivered"] == 2


@pytest.mark.parametrize(
    "point",
    [
        MonitoringPoint("s", 10**30, {}, {"n": -1}),
        MonitoringPoint("s\0", 1.0, {"\n": "\0"}, {"n": 2**63 - 1}),
    ],
    ids=["huge time", "control characters"],
)
async def test_an_odd_point_does_not_cost_the_others_in_its_batch_theirs(tmp_path, point):
    async with history(tmp_path) as host:
        host.publish([*numbered(2), point, *numbered(2, 2)])
        receipt = await host.stop()
        assert receipt.plugins[0].points["dropped"] == {}
    async with history(tmp_path) as host:
        assert {0, 1, 2, 3} <= set(seen(await ask(host)))


@pytest.mark.slow("SQLite works in a thread, in real time")
async def test_requests_while_points_are_written_see_whole_batches(tmp_path):
    async with history(tmp_path) as host:
        counts = []

        async def read() -> None:
            for _ in range(30):
                answer = await ask(host, ("limit", "1000"))
                counts.append(len(answer["points"]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for n in range(8):
                await settled(host, numbered(100, n * 100))
        assert counts == sorted(counts)
        assert all(count % 100 == 0 for count in counts)


# What was published before is there


@pytest.mark.slow("SQLite works in a thread, in real time")
async def test_what_was_published_before_it_was_asked_is_in_the_answer(tmp_path):
    """Kind: an answer that is true of a moment ago."""
    async with history(tmp_path, table={"flush_interval": 0.2}) as host:
        for n in range(3):
            host.publish(numbered(1, n))
            assert seen(await ask(host)) == list(range(n, -1, -1))
        host.publish(numbered(1, 3))
        assert seen(await ask(host, ("before", "3"))) == [1, 0]  # a further page waits for nothing


@pytest.mark.slow("SQLite works in a thread, in real time")
async def test_an_answer_does_not_wait_for_points_that_cannot_be_written(tmp_path):
    """Kind: waiting for what is not going to happen soon."""
    table = {"circuit_failures": 1, "circuit_pause": 60}
    config = {"max_age": 1e12}
    async with running_sink(tmp_path, "history", config, table=table, shutdown_timeout=1) as host:
        plugin = host.plugin("history")
        plugin._writer._connection.execute("PRAGMA max_page_count = 1")
        host.publish([MonitoringPoint("s", 1.0, {}, {"n": 0, "padding": "x" * 100_000})])
        (delivery,) = host.life("history").deliveries.values()
        await until(lambda: delivery.circuit.state != "closed")
        assert plugin._account() == (1, 1)
        assert seen(await ask(host)) == []


# A full disk, and files that go


async def test_points_wait_while_the_disk_is_full(tmp_path):
    """Kind: a file that cannot be written now: no attempt of a batch counts, and nothing crashes."""
    async with history(tmp_path, table=IMPATIENT, trim_interval=0.01) as host:
        await settled(host, numbered(1))
        writer = host.plugin("history")._writer
        writer._connection.execute("PRAGMA max_page_count = 1")  # SQLite's own full disk
        padding = {"padding": "x" * 100_000}
        host.publish([MonitoringPoint("s", 1.0, {}, {"n": n, **padding}) for n in range(1, 4)])
        ledger = ledger_of(host)
        await until(lambda: ledger.retries >= 5)
        assert "history.sqlite3: database or disk is full" in last_error(host)
        assert (ledger.lost, ledger.rejected) == (0, 0)
        writer._connection.execute("PRAGMA max_page_count = 1000000")
        assert sorted(seen(await ask(host))) == [0, 1, 2, 3]
        assert host.states("history").count("initializing") == 1


async def test_an_error_that_is_the_point_s_is_not_taken_for_the_file_s(tmp_path):
    async with history(tmp_path, table={"max_attempts": 1}) as host:
        host.plugin("history")._writer._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)
        ledger = await settled(host, [MonitoringPoint("s", 1.0, {}, {"n": "x" * 2000})])
        assert ledger.lost == 1
        assert "DataError" in last_error(host)


@pytest.mark.slow("SQLite works in a thread, in real time")
@pytest.mark.parametrize(
    ("suffixes", "found"),
    [
        (("", "-wal", "-shm"), [3, 2]),
        (("",), [3, 2]),
        (("-wal",), [3, 2, 1, 0]),
        (("-shm",), [3, 2, 1, 0]),
    ],
    ids=["all", "the file", "its log", "its index"],
)
@pytest.mark.parametrize("moved", [False, True])
async def test_files_that_are_removed_under_it_are_noticed(
    tmp_path, suffixes, found, moved, caplog
):
    """Kind: writing on into a file that nobody finds any more."""
    path = tmp_path / "state" / "history.sqlite3"
    async with history(tmp_path) as host:
        await settled(host, numbered(2))
        for suffix in suffixes:
            part = Path(f"{path}{suffix}")
            part.rename(f"{part}.old") if moved else part.unlink()
        await settled(host, numbered(2, 2))
        assert seen(await ask(host)) == found
    assert "was moved away, removed or truncated" in caplog.text
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT count(*) FROM points").fetchone()
    connection.close()
    assert rows == (len(found),)


async def test_a_question_after_the_files_are_gone_is_answered_from_a_new_one(tmp_path):
    path = tmp_path / "state" / "history.sqlite3"
    async with history(tmp_path) as host:
        await settled(host, numbered(2))
        path.unlink()
        assert seen(await ask(host)) == []
        path.unlink()
        path.mkdir()  # nothing can be opened here
        with pytest.raises(ServiceUnavailable, match="unable to open"):
            await ask(host)
        path.rmdir()
        assert seen(await ask(host)) == []


def truncated(path: Path) -> None:
    """Cut off SQLite's log, in which the points are."""
    os.truncate(f"{path}-wal", 0)


def overwritten(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        part = Path(f"{path}{suffix}")
        with part.open("r+b") as file:
            file.write(b"\xa5" * part.stat().st_size)


@pytest.mark.parametrize("spoil", [truncated, overwritten])
async def test_a_file_that_is_spoiled_under_it_costs_nothing_that_comes_later(tmp_path, spoil):
    """Kind: a file that goes bad while it is open: points are neither dropped nor delivered into nothing."""
    path = tmp_path / "state" / "history.sqlite3"
    async with history(tmp_path, table=IMPATIENT) as host:
        await settled(host, numbered(2))
        spoil(path)
        await settled(host, numbered(2, 2))
        assert seen(await ask(host))[:2] == [3, 2]
        assert (await host.stop()).exit_code == 0
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT fields FROM points ORDER BY id DESC").fetchall()
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    assert [json.loads(text)["n"] for (text,) in rows][:2] == [3, 2]
    assert bool([*path.parent.glob("*.damaged-*")]) == (spoil is overwritten)


@pytest.mark.slow("SQLite works in a thread, in real time")
async def test_points_wait_while_the_file_is_somebody_else_s(tmp_path):
    """Kind: a file that cannot be used now: no attempt of a batch counts."""
    path = tmp_path / "state" / "history.sqlite3"
    async with history(tmp_path, table=IMPATIENT) as host:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink()
        path.write_bytes(b"a letter" * 1000)
        host.publish(numbered(2))
        ledger = ledger_of(host)
        await until(lambda: ledger.retries >= 5)
        assert "cannot be used as a history" in last_error(host)
        with pytest.raises(ServiceUnavailable, match="cannot be used as a history"):
            await ask(host)
        assert path.read_bytes() == b"a letter" * 1000
        path.unlink()
        assert sorted(seen(await ask(host))) == [0, 1]
        assert (ledger.lost, ledger.rejected) == (0, 0)


async def test_events_of_streams_are_kept_as_points_without_their_pictures(tmp_path):
    """Kind: an event is found by its type and its tags; the file has no room for pictures."""
    async with history(tmp_path, table={"events": [*ITEMS]}) as host:
        for name, item in ITEMS.items():
            host.host.publisher.publish(name, [item])
        (seen,) = (await ask(host, ("series", "analytics_event"), ("tag", "stream:door")))["points"]
        (change,) = (await ask(host, ("tag", "status:failure")))["points"]
        assert len((await ask(host))["points"]) == 3
    assert (seen["time"], seen["tags"]) == (SEEN.time, SEEN.tags)
    assert seen["fields"]["data"] == {"boxes": [{"x": 1, "ü": None}]}
    assert seen["fields"]["image"] == {
        "type": "image/jpeg",
        "size": len(JPEG),
        "url": SEEN.image_url,
    }
    assert (change["series"], change["fields"]["reason"]) == ("stream_event", "no answer")
