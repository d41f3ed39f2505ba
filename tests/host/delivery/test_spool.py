"""Points that outlive the process: the file, the order, the bounds, and what a crash can cost."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
import tempfile
import textwrap
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from lva import BaseEventPlugin, MonitoringPoint
from lva.errors import ConfigurationError
from lva.host.delivery import deliveries
from lva.host.delivery.queue import Batch, Bounds
from lva.host.delivery.spool import SpooledMailbox
from lva.host.delivery.spool_file import VERSION, Row, SpoolFile, decode, encode
from lva.host.life.states import State
from lva.host.loading.load import load_plugins
from lva.settings import PluginSettings
from tests.support import (
    examples,
    host_settings,
    journal,
    no_room_beyond,
    numbered,
    numbers,
    run_virtual,
    running_host,
    until,
    write_plugin,
)

LOGGER = logging.getLogger("lva.plugin.p")
MUCH = 1 << 40


def mailbox(
    path: Path,
    limit: int = 100_000,
    overflow: str = "drop_oldest",
    max_bytes: int = MUCH,
    max_stored: int = MUCH,
) -> SpooledMailbox:
    """Open a mailbox whose commits the test makes itself."""
    bounds = Bounds(limit, max_bytes, overflow == "drop_oldest")
    return SpooledMailbox(SpoolFile(path), bounds, max_stored, LOGGER)


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[SpooledMailbox]:
    """Open a mailbox, and close its file without keeping anything."""
    box = mailbox(path, **options)
    try:
        yield box
    finally:
        box._writer.file.close()


async def commit(box: SpooledMailbox) -> None:
    assert await box._writer.commit()


async def take_all(box: SpooledMailbox, size: int = 1_000_000) -> list[int]:
    """Take everything that waits."""
    taken: list[int] = []
    while box.ledger.queued:
        taken += numbers(await box.take(size))
    return taken


def rows(path: Path) -> list[tuple[int, int]]:
    """Return the number and the points of each segment in a file that nobody has open."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT number, points FROM segments ORDER BY number").fetchall()
    finally:
        connection.close()


def stored_points(box: SpooledMailbox) -> int:
    """Return how many points are on disk now."""
    (count,) = box._writer.file._connection.execute(
        "SELECT coalesce(sum(points), 0) FROM segments"
    ).fetchone()
    return int(count)


def crash(path: Path, directory: Path) -> Path:
    """Return a copy of the file as a crash at this moment would leave it."""
    directory.mkdir()
    for suffix in ("", "-wal"):
        if Path(f"{path}{suffix}").exists():
            shutil.copy(f"{path}{suffix}", f"{directory / path.name}{suffix}")
    return directory / path.name


def a_file_with(path: Path, *segments: Sequence[MonitoringPoint]) -> Path:
    """Write a spool of these segments, too far apart to become one, and close it."""
    file = SpoolFile(path)
    file.commit([Row(n, 1.75e9 + 100 * n, points) for n, points in enumerate(segments, 1)], [])
    file.close()
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "p.P.sqlite3"


# What is stored is what was published

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
values = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)
points = st.builds(
    MonitoringPoint,
    names,
    st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 2**40)),
    st.dictionaries(names, values, max_size=3),
    st.dictionaries(names, values, max_size=3),
)


@pytest.mark.slow("random examples or many points, on the disk")
@given(st.lists(points, max_size=5))
def test_any_valid_point_comes_back_as_it_was(several):
    again = decode(encode(several))
    assert again == several
    assert repr(again) == repr(several), "types differ"
    assert [point.size for point in again] == [point.size for point in several]


@pytest.mark.parametrize(
    "body",
    [b"", b"[", b"7", b"{}x", b'["abc"]', b'[["s",1.0,{}]]', b'[["",1.0,{},{}]]', b"\xff", b"[[1,1,{},{}]]"],
)  # fmt: skip
def test_what_is_no_list_of_points_is_damaged(body):
    with pytest.raises(ValueError):
        decode(body)


# The file


def test_the_file_is_private_and_leaves_no_log_behind(path):
    a_file_with(path, numbered(3))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def sink(body: str) -> str:
    """Return a plugin whose `handleEvent` has this body, with the numbers of the batch in `got`."""
    head = """
class Sink(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        got = [point.fields["n"] for point in points]
"""
    return head + textwrap.indent(textwrap.dedent(body), " " * 8)


SINK = sink("journal.append(got)")
DISK = {"sink": {"spool": "disk"}}


def spool_of(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool" / "sink.Sink.sqlite3"


def refusal(tmp_path: Path) -> str:
    """Return why the plugins cannot be loaded."""
    write_plugin(tmp_path / "plugins", "sink", SINK)
    with pytest.raises(ConfigurationError) as caught:
        load_plugins(host_settings(tmp_path, ["sink"], DISK))
    (problem,) = caught.value.problems
    assert problem.startswith(f"plugin 'sink': spool {spool_of(tmp_path)}: ")
    return problem


def everything_below(directory: Path) -> dict[str, bytes]:
    return {item.name: item.read_bytes() for item in directory.iterdir()}


def test_a_file_of_another_version_is_refused_and_left_alone(tmp_path):
    path = a_file_with(spool_of(tmp_path), numbered(3))
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    before = everything_below(path.parent)
    problem = refusal(tmp_path)
    assert f"has version {VERSION + 1}, and this service reads version {VERSION}" in problem
    assert (
        "run the version that wrote it until the spool is empty, or move the file away" in problem
    )
    assert everything_below(path.parent) == before


def test_a_file_of_another_version_that_crashed_is_refused_and_loses_nothing(tmp_path):
    path = a_file_with(tmp_path / "sink.Sink.sqlite3", numbered(3))
    other = sqlite3.connect(path)
    other.execute(f"PRAGMA user_version = {VERSION + 1}")  # goes into the log
    other.execute("UPDATE segments SET number = 17")
    other.commit()
    spool_of(tmp_path).parent.parent.mkdir()
    path = crash(path, spool_of(tmp_path).parent)
    other.close()
    assert f"has version {VERSION + 1}" in refusal(tmp_path)
    assert rows(path) == [(17, 3)]


def test_a_database_of_somebody_else_is_refused_and_left_alone(tmp_path):
    path = spool_of(tmp_path)
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE segments (number INTEGER)")
    connection.close()
    before = everything_below(path.parent)
    assert "is not a spool of this service; move it away" in refusal(tmp_path)
    assert everything_below(path.parent) == before


def test_a_path_that_is_no_file_is_refused(tmp_path):
    spool_of(tmp_path).mkdir(parents=True)
    assert "cannot be opened: unable to open database file" in refusal(tmp_path)


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "spool").write_text("no directory")
    write_plugin(tmp_path / "plugins", "sink", SINK)
    with pytest.raises(ConfigurationError, match="plugin 'sink': .*exists"):
        load_plugins(host_settings(tmp_path, ["sink"], DISK))


async def test_when_one_spool_fails_none_stays_open_and_locked(tmp_path, monkeypatch):
    """Else the next try would find the first of them in use, for ever."""
    classes = [type(name, (BaseEventPlugin,), {"eventName": "monitoring_event"}) for name in "AB"]
    really = Path.chmod

    def no_second(path, mode):
        if path.name == "p.B.sqlite3":
            raise OSError(errno.EROFS, "the disk is away")
        really(path, mode)

    of_plugin = deliveries.Deliveries("p", None, tmp_path)
    settings = PluginSettings(spool="disk")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", no_second)
        with pytest.raises(
            ConfigurationError, match=r"p\.B\.sqlite3: cannot be opened: the disk is away"
        ):
            await of_plugin.open_spools(classes, settings)
    await of_plugin.open_spools(classes, settings)
    of_plugin.close_spools()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_read_only_is_refused(tmp_path):
    path = a_file_with(spool_of(tmp_path), numbered(3))
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        assert "readonly" in refusal(tmp_path)
    finally:
        path.parent.chmod(0o700)


def flip(path: Path, at: int, length: int = 1) -> None:
    content = bytearray(path.read_bytes())
    for n in range(at, at + length):
        content[n] ^= 0xFF
    path.write_bytes(content)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.slow("many commits to a disk")
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path, 0),  # the magic
        lambda path: flip(path, 16, 40),  # page size and what follows
        lambda path: flip(path, 100, 12),  # the table of tables
        lambda path: path.write_bytes(b"not a database at all" * 1000),
        lambda path: cut(path, 5000),
    ],
)
async def test_a_damaged_file_is_set_aside_and_the_service_starts(tmp_path, caplog, damage):
    path = a_file_with(spool_of(tmp_path), *[numbered(200, n) for n in range(5)])
    damage(path)
    content = path.read_bytes()
    async with running_host(tmp_path, {"sink": SINK}, DISK) as host:
        host.publish(numbered(2))
        part = await host.receipt_of("sink")
    assert journal == [[0, 1]]
    assert part.points["recovered"] == 0
    (aside,) = path.parent.glob("*.damaged-*")
    assert aside.name.startswith("sink.Sink.sqlite3.damaged-20")
    assert aside.read_bytes() == content
    assert f"spool {path}: is damaged (" in caplog.text
    assert f"set aside with {aside.name.removeprefix(path.name)} at the end" in caplog.text


async def test_an_empty_file_is_a_new_spool(path):
    path.parent.mkdir()
    path.touch()
    async with opened(path) as box:
        assert box.ledger.accepted == 0
        box.offer(numbered(1))
        await commit(box)
        assert stored_points(box) == 1


@pytest.mark.slow("many commits to a disk")
async def test_a_torn_log_costs_the_commits_that_it_tore(path, tmp_path):
    async with opened(path) as box:
        sizes = []
        for n in range(3):
            box.offer(numbered(10, 10 * n))
            await commit(box)
            sizes.append(Path(f"{path}-wal").stat().st_size)
        copies = [crash(path, tmp_path / name) for name in ("whole", "torn", "two")]
    cut(Path(f"{copies[1]}-wal"), sizes[2] - 1)
    cut(Path(f"{copies[2]}-wal"), sizes[1] - 100)
    for copy, survivors in zip(copies, (30, 20, 10), strict=True):
        async with opened(copy) as box:
            assert await take_all(box) == list(range(survivors))
            assert box.ledger.recovered == survivors


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("DELETE FROM segments WHERE number = 2", "it is missing"),
        ("UPDATE segments SET body = x'5b5d', crc = 223132457 WHERE number = 2", "0 points instead of 5"),
        ("UPDATE segments SET body = 'text' WHERE number = 2", "its checksum is wrong"),
        ("UPDATE segments SET crc = NULL WHERE number = 2", "its checksum is wrong"),
        ("DROP TABLE segments", "no such table"),
    ],
)  # fmt: skip
async def test_a_segment_that_is_not_what_it_was_is_dropped_and_counted(
    path, caplog, statement, why
):
    a_file_with(path, numbered(5), numbered(5, 5), numbered(5, 10))
    async with opened(path) as box:
        assert numbers(await box.take(5)) == [0, 1, 2, 3, 4]
        connection = box._writer.file._connection
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '')")
        connection.execute("PRAGMA writable_schema = RESET")
        connection.execute(statement)
        box.offer(numbered(1, 15))
        everything = "TABLE" in statement
        assert await take_all(box) == ([15] if everything else [10, 11, 12, 13, 14, 15])
        assert box.ledger.dropped == {"spool_damaged": 10 if everything else 5}
        assert box.ledger.balanced
        if not everything:
            await commit(box)
            assert stored_points(box) == 11, "what is damaged is deleted"
    assert why in caplog.text


@pytest.mark.parametrize(
    "column", ["since = 'text'", "points = 0", "points = 'x'", "points = 1 << 40"]
)
async def test_a_row_that_does_not_even_tell_its_points_is_deleted_and_reported(
    path, caplog, column
):
    a_file_with(path, numbered(5), numbered(5, 5), numbered(5, 10))
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE segments SET {column} WHERE number = 2")
    connection.commit()
    connection.close()
    async with opened(path) as box:
        assert await take_all(box) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
        assert box.ledger.balanced
    assert rows(path) == [(1, 5), (3, 5)]
    assert f"spool {path}: deleted: 1 segment, so damaged" in caplog.text


# Written behind


async def test_what_is_delivered_before_a_commit_is_never_written(path):
    async with opened(path) as box:
        before = box._writer.file._connection.total_changes
        for n in range(0, 100, 10):
            box.offer(numbered(10, n))
            box.settle(await box.take(10))
        await commit(box)
        assert box._writer.file._connection.total_changes == before
        assert box.stored_bytes == 0
        assert box._writer.outstanding() == []


async def test_what_is_delivered_after_a_commit_is_deleted_by_the_next(path):
    async with opened(path) as box:
        box.offer(numbered(10))
        await commit(box)
        assert stored_points(box) == 10
        batch = await box.take(10)
        await commit(box)
        assert stored_points(box) == 10, "it is not delivered yet"
        box.settle(batch)
        await commit(box)
        assert stored_points(box) == 0
        assert box.stored_bytes == 0


async def test_what_is_delivered_while_it_is_being_written_is_deleted_by_the_next_commit(path):
    async with opened(path) as box, trio.open_nursery() as nursery:
        box.offer(numbered(1000))
        batch = await box.take(1000)
        nursery.start_soon(commit, box)
        await trio.testing.wait_all_tasks_blocked()
        assert box._writer.writing.locked()
        box.settle(batch)
        async with box._writer.writing:
            assert stored_points(box) == 1000
        await commit(box)
        assert stored_points(box) == 0
        assert box.stored_bytes == 0


async def test_commits_are_made_in_time_and_together(path):
    async with opened(path) as box, trio.open_nursery() as nursery:
        nursery.start_soon(box.write_behind)
        for n in range(100):
            box.offer(numbered(1, n))
            await trio.sleep(0.001)
        await until(lambda: stored_points(box) == 100)
        assert box._writer.file._connection.total_changes < 20, "segments, each written once"
        nursery.cancel_scope.cancel()


@pytest.mark.slow("many commits to a disk")
async def test_points_wait_in_memory_as_long_as_there_is_room_and_then_on_disk(path):
    async with opened(path, limit=50) as box:
        for n in range(0, 200, 10):
            box.offer(numbered(10, n))
            await commit(box)
            assert box._backlog.points <= 50
        assert box.ledger.queued == 200
        assert box.ledger.lost == 0
        loads = count_loads(box)
        assert await take_all(box, 7) == list(range(200))
        assert 0 < loads[0] <= (200 - 40) // 5, "what fits into memory is not read back"


def count_loads(box: SpooledMailbox) -> list[int]:
    """Count how many segments are read from now on, in the list's only item."""
    count, load = [0], box._writer.file.load

    def counting(number: int) -> list[MonitoringPoint]:
        count[0] += 1
        return load(number)

    box._writer.file.load = counting  # type: ignore[method-assign]
    return count


@pytest.mark.slow("many commits to a disk")
async def test_segments_are_bounded_in_bytes(path):
    large = [MonitoringPoint("s", 1.0, {}, {"n": n, "blob": "x" * 200_000}) for n in range(50)]
    async with opened(path) as box:
        box.offer(large)
        for n in range(50, 60):
            box.offer([MonitoringPoint("s", 1.0, {}, {"n": n, "blob": "x" * 600_000})])
        await commit(box)
        sizes = [
            size
            for (size,) in box._writer.file._connection.execute("SELECT length(body) FROM segments")
        ]
        assert max(sizes) < 2 * 1024 * 1024
        assert len(sizes) < 25
        assert await take_all(box) == list(range(60))


# From one run to the next


def settle(box: SpooledMailbox, batch: Batch, again: Sequence[int] = ()) -> None:
    """Account for points as delivered, but for those that come again."""
    box.ledger.delivered += len(batch) - len(again)
    box.ledger.in_flight -= len(batch) - len(again)
    box.settle(batch, again)


async def keep(box: SpooledMailbox, *batches: Batch) -> None:
    await box.keep(batches)
    assert box.ledger.balanced
    assert box.ledger.queued == box.ledger.in_flight == 0


async def test_a_stop_keeps_everything_once_and_in_order(path):
    box = mailbox(path, limit=100)
    for n in range(0, 300, 15):
        box.offer(numbered(15, n))
        if n % 2:
            await commit(box)
    await commit(box)
    first, second, third = [await box.take(33) for _ in range(3)]
    box.offer(numbered(20, 300))
    settle(box, first)
    settle(box, third, [1, 4, 30])
    await keep(box, second, third)
    assert box.ledger.kept == 320 - 33 - 30
    async with opened(path) as box:
        assert box.ledger.recovered == box.ledger.accepted == box.ledger.queued == 257
        expected = [*range(33, 66), 67, 70, 96, *range(99, 320)]
        assert await take_all(box, 40) == expected
        assert box.ledger.balanced


async def test_a_crash_repeats_what_was_not_settled_at_the_last_commit_and_nothing_older(
    path, tmp_path, mock_clock
):
    async with opened(path) as box:
        for n in range(0, 40, 10):
            box.offer(numbered(10, n))
            await commit(box)  # a segment each
            mock_clock.jump(60)
        box.settle(await box.take(10))
        await commit(box)
        box.settle(await box.take(10))
        box.offer(numbered(10, 40))
        copy = crash(path, tmp_path / "copy")
    async with opened(copy) as box:
        assert await take_all(box) == list(range(10, 40))


async def test_points_go_on_ageing_between_two_runs(path, mock_clock):
    box = mailbox(path)
    box.offer(numbered(5))
    mock_clock.jump(100)
    box.offer(numbered(5, 5))
    await commit(box)
    box.offer(numbered(5, 10))
    mock_clock.jump(50)
    await keep(box)
    mock_clock.jump(1000)  # another process, another clock
    async with opened(path) as box:
        now = trio.current_time()
        batch = await box.take(100)
        assert len(batch) == 15
        assert batch.older_than(now - 110) == 0
        assert batch.older_than(now - 90) == 10, "one segment, as old as its oldest point"
        assert batch.older_than(now - 60) == 10
        assert batch.older_than(now - 40) == 15


async def test_a_clock_that_was_set_back_makes_no_point_younger_than_now(path):
    file = SpoolFile(path)
    file.commit([Row(1, 4e9, numbered(1))], [])  # accepted in the year 2096
    file.close()
    async with opened(path) as box:
        batch = await box.take(1)
        assert batch.older_than(trio.current_time() - 1) == 0
        assert batch.older_than(trio.current_time() + 1) == 1


async def test_an_index_of_many_segments_reads_none_of_them(path):
    a_file_with(path, *[numbered(10, 10 * n) for n in range(200)])
    async with opened(path, limit=100) as box:
        loads = count_loads(box)
        assert box.ledger.queued == box.ledger.recovered == 2000
        assert loads == [0]
        assert box._backlog.points == 0


# Small segments


async def trickle(box: SpooledMailbox, count: int, start: int = 0) -> None:
    """Have points come one at a time, with a commit after each."""
    for n in range(start, start + count):
        box.offer(numbered(1, n))
        await commit(box)


@pytest.mark.slow("random examples or many points, on the disk")
@pytest.mark.parametrize("limit", [1000, 40])  # all in memory, or hardly any
async def test_a_trickle_does_not_leave_a_segment_for_each_point(path, limit):
    async with opened(path, limit=limit) as box:
        box._backlog.most = 50
        await trickle(box, 500)
        assert len(box._backlog.segments) == 10
        assert box._backlog.points <= limit
        assert box.ledger.queued == stored_points(box) == 500
    assert [points for _, points in rows(path)] == [50] * 9 + [1] * 50
    async with opened(path, limit=limit) as box:
        box._backlog.most = 50
        assert await take_all(box, 30) == list(range(500))
        assert box.ledger.balanced


@pytest.mark.slow("many commits to a disk")
async def test_a_restart_joins_what_a_crash_left_apart(path):
    file = SpoolFile(path)
    file.commit([Row(n, 1.75e9 + n / 1000, numbered(1, n)) for n in range(3000)], [])
    file.close()
    async with opened(path, limit=10_000) as box:
        assert len(box._backlog.segments) == 3
        box.offer(numbered(1, 3000))
        await commit(box)
        assert await take_all(box) == list(range(3001))
    assert [points for _, points in rows(path)] == [1000, 1000] + [1] * 1001


async def test_what_was_joined_is_deleted_as_a_whole_once_it_is_delivered(path):
    async with opened(path) as box:
        await trickle(box, 20)
        first = await box.take(15)
        box.settle(first)
        await commit(box)
        assert stored_points(box) == 20, "a part of a segment"
        box.settle(await box.take(15))
        await trickle(box, 1, 20)
        assert stored_points(box) == 1
        assert box.stored_bytes == sum(segment.size for segment in box._backlog.segments)


@pytest.mark.slow("many commits to a disk")
async def test_what_is_left_of_a_joined_segment_is_kept_alone(path):
    box = mailbox(path)
    await trickle(box, 20)
    box.settle(await box.take(15))
    batch = await box.take(2)
    await keep(box, batch)
    assert rows(path) == [(1, 5)]
    async with opened(path) as box:
        assert await take_all(box) == [15, 16, 17, 18, 19]


@pytest.mark.parametrize("joined", [False, True])
async def test_of_joined_rows_only_the_damaged_one_is_lost(path, caplog, joined):
    async with opened(path, limit=10) as box:
        box._backlog.most = 1000
        await trickle(box, 20)
        if joined:
            box._writer.runs.append(box._backlog.segments[-1].rows)
        box._writer.file._connection.execute("UPDATE segments SET crc = 1 WHERE number = 15")
        await trickle(box, 1, 20)
        assert await take_all(box) == [*range(14), *range(15, 21)]
        assert box.ledger.dropped == {"spool_damaged": 1}
        assert box.ledger.balanced
    assert "its checksum is wrong; 1 point dropped" in caplog.text


async def test_segments_are_not_joined_when_points_of_them_are_taken_or_much_older(
    path, mock_clock
):
    async with opened(path) as box:
        await trickle(box, 1)
        batch = await box.take(1)
        await trickle(box, 2, 1)
        assert [segment.count for segment in box._backlog.segments] == [2]
        mock_clock.jump(60)
        await trickle(box, 1, 3)
        assert [segment.count for segment in box._backlog.segments] == [2, 1]
        box.settle(batch)
        await commit(box)
        assert stored_points(box) == 3


async def test_a_segment_that_grows_while_it_is_being_read_is_read_again(path, monkeypatch):
    async with opened(path, limit=10) as box:
        box._backlog.most = 1000
        await trickle(box, 30)
        assert box._backlog.segments[0].points is None
        box.offer(numbered(1, 30))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit, box)
            assert numbers(await box.take(100)) == list(range(31))
        assert box.ledger.lost == 0
        assert box.ledger.balanced


async def test_a_batch_that_is_read_from_disk_fits_into_the_bytes_for_memory(path, mock_clock):
    async with opened(path, max_bytes=10_000) as box:
        for n in range(0, 500, 50):
            box.offer(sized(50, n))
            await commit(box)
            mock_clock.jump(60)
        taken = [numbers(batch) for batch in [await box.take(1000) for _ in range(3)]]
        assert all(50 <= len(batch) <= 150 for batch in taken), taken
        assert [n for batch in taken for n in batch] == list(range(sum(map(len, taken))))


# Bounds


def sized(count: int, start: int = 0, size: int = 100) -> list[MonitoringPoint]:
    """Return numbered points of so many bytes each."""
    return [
        MonitoringPoint("numbers", 1.0, {}, {"n": n, "x": "x" * (size - 25)})
        for n in range(start, start + count)
    ]


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_what_is_too_much_for_the_disk_is_dropped_by_policy(path, overflow):
    async with opened(path, max_stored=30_000, overflow=overflow) as box:
        for n in range(0, 1000, 10):
            box.offer(sized(10, n))
            await commit(box)
            assert box.stored_bytes <= 30_000
            assert box.ledger.balanced
        taken = await take_all(box)
        assert taken == sorted(taken)
        assert 190 <= len(taken) < 300, "encoded, a point takes somewhat more than 100 bytes"
        if overflow == "drop_oldest":
            assert taken[0] == 1000 - len(taken), "the newest are left"
        else:
            assert taken[189] == 189, "the oldest are left"
        assert box.ledger.dropped == {"overflow": 1000 - len(taken)}


async def test_before_a_commit_the_bound_on_disk_holds_for_what_would_be_written(path):
    async with opened(path, max_stored=30_000) as box:
        box.offer(sized(1000))
        assert box.stored_bytes == 30_000
        assert await take_all(box) == list(range(700, 1000))


async def test_what_is_in_flight_is_not_dropped_for_want_of_space(path):
    async with opened(path, max_stored=3000) as box:
        box.offer(sized(20))
        batch = await box.take(20)
        box.offer(sized(20, 20))
        assert numbers(batch) == list(range(20))
        assert numbers(await box.take(20)) == list(range(30, 40))
        assert box.ledger.dropped == {"overflow": 10}
        assert box.ledger.balanced


async def test_what_is_in_flight_is_written_although_its_neighbour_was_dropped(path, tmp_path):
    async with opened(path, limit=20) as box:
        box.offer(numbered(2))  # a segment
        await box.take(1)
        box.offer(numbered(20, 2))
        assert box.ledger.dropped == {"overflow": 1}
        await commit(box)
        copy = crash(path, tmp_path / "copy")
    async with opened(copy) as box:
        assert await take_all(box) == [0, *range(2, 22)]


@pytest.mark.parametrize(
    ("overflow", "expected"),
    [("drop_oldest", range(150, 250)), ("drop_newest", range(100))],
)
async def test_what_the_disk_cannot_take_in_time_is_dropped_by_policy(path, overflow, expected):
    async with opened(path, limit=100, overflow=overflow) as box:
        for n in range(0, 250, 10):
            box.offer(numbered(10, n))
            assert box._backlog.points <= 100
            assert box.ledger.balanced
        assert box.ledger.dropped == {"overflow": 150}
        await commit(box)
        assert await take_all(box) == list(expected)


async def test_points_in_memory_are_bounded_in_bytes_too(path):
    async with opened(path, max_bytes=10_000) as box:
        for n in range(300):
            box.offer(sized(1, n))
            assert box._backlog.bytes <= 10_000
        assert await take_all(box) == list(range(200, 300))
        box.offer(sized(150, 300))
        await commit(box)
        box.offer(sized(50, 450))
        assert box._backlog.bytes == 5_000, "what is stored was forgotten"
        assert await take_all(box) == [*range(350, 500)]


async def test_a_point_that_fits_nowhere_drives_out_no_other(path):
    async with opened(path, max_bytes=10_000) as box:
        box.offer(sized(10))
        box.offer([*sized(1, 10, 20_000), *sized(1, 11)])
        assert box.ledger.dropped == {"overflow": 1}
        assert await take_all(box) == [*range(10), 11]


# A disk that fails


async def test_a_full_disk_is_reported_and_points_wait_in_memory(path, caplog):
    async with opened(path, limit=500) as box:
        box.offer(numbered(100))
        await commit(box)
        with no_room_beyond(Path(f"{path}-wal").stat().st_size + 5000):
            for n in range(100, 600, 50):
                box.offer(numbered(50, n))
                assert not await box._writer.commit()
                assert box.ledger.balanced
                assert box._backlog.points <= 500
            assert box.ledger.lost == 0, "what is stored was forgotten to make room"
            box.offer(numbered(50, 600))
            assert box.ledger.dropped == {"overflow": 50}
        assert stored_points(box) == 100
        await commit(box)
        assert stored_points(box) == 600
        assert await take_all(box) == [*range(100), *range(150, 650)]
        assert box.ledger.balanced
    problems = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(problems) == 1, "one line in a while"
    assert problems[0].startswith("the spool cannot be written: ")
    assert "full" in problems[0] or "I/O" in problems[0]


async def test_what_is_settled_while_the_disk_is_full_is_deleted_later(path):
    async with opened(path) as box:
        box.offer(numbered(100))
        await commit(box)
        box.settle(await box.take(100))
        with no_room_beyond(Path(f"{path}-wal").stat().st_size):
            assert not await box._writer.commit()
        assert stored_points(box) == 100
        await commit(box)
        assert stored_points(box) == 0


async def test_what_comes_during_a_commit_that_fails_stays_behind_what_was_there(path):
    async with opened(path, limit=100) as box, trio.open_nursery() as nursery:
        box.offer(numbered(50))
        with no_room_beyond(4096):
            async with (
                box._writer._thread
            ):  # for which the write waits, so that it is under way for sure
                nursery.start_soon(box._writer.commit)
                await trio.testing.wait_all_tasks_blocked()
                assert box._writer.writing.locked()
                box.offer(numbered(30, 50))
            async with box._writer.writing:
                pass
        assert stored_points(box) == 0
        box.offer(numbered(40, 80))
        assert box.ledger.dropped == {"overflow": 20}
        await commit(box)
        assert await take_all(box) == list(range(20, 120))


async def test_what_is_partly_taken_is_not_forgotten(path):
    box = mailbox(path, limit=40)
    box.offer(numbered(4))
    await commit(box)
    batch = await box.take(1)
    box.offer(numbered(40, 4))
    assert box.ledger.dropped == {"overflow": 3}
    await keep(box, batch)
    async with opened(path) as box:
        assert await take_all(box) == [0, 1, 2, 3, *range(7, 44)]


@pytest.mark.slow("many commits to a disk")
async def test_a_stop_over_a_full_disk_keeps_what_is_stored_and_drops_the_rest(path):
    box = mailbox(path)
    box.offer(numbered(100))
    await commit(box)
    batch = await box.take(20)
    box.offer(numbered(5000, 100))
    with no_room_beyond(Path(f"{path}-wal").stat().st_size + 5000):
        await box.keep([batch])
        assert box.ledger.kept == 100
        assert box.ledger.in_flight == len(batch) == 0
        assert box.drop_rest("shutdown") == 5000
        assert box.ledger.dropped == {"shutdown": 5000}
        assert box.ledger.balanced
    async with opened(path) as box:
        assert await take_all(box) == list(range(100))


def truncated(path: Path) -> None:
    """Cut off SQLite's log, in which the points are."""
    os.truncate(f"{path}-wal", 0)


def overwritten(path: Path) -> None:
    for part in (path, Path(f"{path}-wal")):
        with part.open("r+b") as file:
            file.write(b"\xa5" * part.stat().st_size)


@pytest.mark.parametrize("spoil", [truncated, overwritten])
async def test_nothing_is_kept_in_a_file_that_cannot_be_read(path, spoil, caplog):
    """Kind: a file that goes bad while it is open: what is in memory is kept all the same."""
    box = mailbox(path)
    box.offer(numbered(30))
    await commit(box)
    batch = await box.take(10)
    box.offer(numbered(20, 30))
    spoil(path)
    await box.keep([batch])
    assert "(truncated or overwritten); it was set aside" in caplog.text
    assert (box.ledger.kept, box.ledger.lost) == (50, 0)
    assert box.ledger.balanced
    async with opened(path) as box:
        assert await take_all(box) == [*range(50)]


async def test_what_is_only_in_a_file_that_cannot_be_read_is_dropped(path):
    """Kind: the same, past the bounds of memory: the account says so."""
    box = mailbox(path, limit=10)
    box.offer(numbered(10))
    await commit(box)
    box.offer(numbered(10, 10))
    await commit(box)
    overwritten(path)
    await box.keep([])
    assert box.ledger.kept == 10
    assert box.ledger.dropped == {"spool_damaged": 10}
    assert box.ledger.balanced
    async with opened(path) as box:
        assert len(await take_all(box)) == 10


# In a host


def disk(**more: Any) -> dict[str, Any]:
    return {"sink": {"spool": "disk", "batch_size": 10, **more}}


async def test_what_a_stop_leaves_is_kept_and_delivered_first_by_the_next_run(tmp_path):
    down = sink("""raise RetryLaterError("down")""")
    async with running_host(tmp_path, {"sink": down}, disk()) as host:
        host.publish(numbered(25))
        receipt = await host.stop()
    points = receipt.plugins[0].points
    assert (points["accepted"], points["kept"], points["dropped"]) == (25, 25, {})
    assert points["queued"] == points["in_flight"] == receipt.plugins[0].lost == 0
    assert receipt.exit_code == 0, "nothing is lost"
    async with running_host(tmp_path, {"sink": SINK}, disk()) as host:
        host.publish(numbered(5, 25))
        part = await host.receipt_of("sink")
    assert [n for batch in journal for n in batch] == list(range(30))
    points = part.points
    assert (points["accepted"], points["recovered"], points["delivered"]) == (30, 25, 30)
    assert points["kept"] == 0


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_stop_does_not_use_up_the_attempts_of_what_can_be_kept(tmp_path, concurrency):
    table = disk(max_attempts=2, retry_initial=0.01, concurrency=concurrency)
    down = sink("""
        journal.append(got)
        await trio.sleep(0.05)
        raise OSError("down")
        """)
    async with running_host(tmp_path, {"sink": down}, table) as host:
        host.publish(numbered(100))
        part = await host.receipt_of("sink")
    assert part.points["kept"] == 100
    assert part.points["dropped"] == {}
    assert len(journal) <= concurrency, "after a failure at the stop, nothing is tried again"


@pytest.mark.slow("many commits to a disk")
async def test_a_stop_delivers_what_can_be_delivered(tmp_path):
    slow = sink("""
        journal.append(got)
        await trio.sleep(0.02)
        """)
    async with running_host(tmp_path, {"sink": slow}, disk()) as host:
        host.publish(numbered(100))
        part = await host.receipt_of("sink")
    assert len(journal) == 10
    assert part.points["delivered"] == 100
    assert rows(spool_of(tmp_path)) == []


async def test_a_plugin_that_has_failed_keeps_its_points(tmp_path):
    source = """
        class Sink(BaseEventPlugin):
            eventName = "monitoring_event"

            async def initialize(self):
                raise OSError("down")

            async def handleEvent(self, points, logger):
                raise AssertionError
    """
    table = disk(startup_error_behavior="error", max_restarts=0)
    async with running_host(tmp_path, {"sink": source}, table, wait=False) as host:
        host.publish(numbered(3))
        await host.wait_for("sink", State.FAILED)
        receipt = await host.stop()
    assert receipt.plugins[0].points["kept"] == 3
    assert receipt.exit_code == 0
    async with running_host(tmp_path, {"sink": SINK}, disk()) as host:
        await host.stop()
    assert journal == [[0, 1, 2]]


@pytest.mark.slow("many commits to a disk")
async def test_points_in_a_call_that_does_not_end_are_kept(tmp_path):
    stuck = sink("""
        with trio.CancelScope(shield=True):
            await trio.sleep(0.5)
        """)
    table = disk(handle_timeout=0.05, stop_timeout=0.1)
    async with running_host(tmp_path, {"sink": stuck}, table) as host:
        host.publish(numbered(15))
        await host.wait_for("sink", State.ABANDONED)
        await host.life("sink").ended.wait()
        assert host.life("sink").deliveries.popitem()[1].ledger.kept == 15
    assert rows(spool_of(tmp_path)) == [(1, 15)]


# The law


def quick_directory() -> Path:
    """Return a new directory in memory, if there is such a place: examples are many."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))


plans = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 30)),
        st.tuples(st.just("publish"), st.integers(1, 30)),
        st.tuples(st.just("take"), st.integers(1, 40)),
        st.tuples(st.just("settle"), st.integers(0, 3)),
        st.tuples(st.just("settle partly"), st.integers(2, 4)),
        st.tuples(st.just("commit"), st.just(0)),
        st.tuples(st.just("commit"), st.just(0)),
        st.tuples(st.just("crash"), st.just(0)),
        st.tuples(st.just("stop"), st.just(0)),
    ),
    max_size=40,
)


class Model:
    """What a spooled mailbox should hold, as plain lists of numbers."""

    def __init__(self) -> None:
        self.published = 0
        self.waiting: list[int] = []
        self.in_flight: list[list[int]] = []
        self.on_disk: set[int] = set()  # unsettled, when last committed
        self.safe_below = 0  # everything before was settled when last committed

    def unsettled(self) -> list[int]:
        return [*[n for batch in self.in_flight for n in batch], *self.waiting]

    def committed(self) -> None:
        self.on_disk = set(self.unsettled())
        self.safe_below = min(self.on_disk, default=self.published)


@pytest.mark.slow("random examples or many points, on the disk")
@given(plan=plans, limit=st.sampled_from([40, 200]))
@examples(50)
def test_nothing_that_was_committed_is_ever_missing(plan, limit):
    directory = quick_directory()
    path = directory / "p.P.sqlite3"
    model = Model()
    runs = 0
    box: SpooledMailbox
    batches: list[Batch] = []

    def check() -> None:
        ledger = box.ledger
        assert ledger.balanced
        assert ledger.lost == 0
        assert ledger.queued == len(model.waiting)
        assert ledger.in_flight == sum(map(len, model.in_flight))
        assert [numbers(batch) for batch in batches] == model.in_flight
        assert box._backlog.points <= limit + box._backlog.most
        assert 0 <= box._backlog.points <= len(model.waiting)
        assert (box.stored_bytes == 0) == (not model.unsettled())
        assert {*box._backlog._resident} <= {*box._backlog.segments}

    async def main() -> None:
        nonlocal box, runs, path
        box = mailbox(path, limit)
        for step, value in plan:
            if step == "publish":
                if box._backlog.points + value > limit:
                    await commit(box)  # the disk keeps up: nothing is to be lost
                    model.committed()
                box.offer(numbered(value, model.published))
                model.waiting += range(model.published, model.published + value)
                model.published += value
            elif step == "take" and model.waiting:
                batch = await box.take(value)
                assert 0 < len(batch) <= value
                assert numbers(batch) == model.waiting[: len(batch)], "the order"
                del model.waiting[: len(batch)]
                batches.append(batch)
                model.in_flight.append(numbers(batch))
            elif step == "settle" and value < len(batches):
                settle(box, batches.pop(value))
                model.in_flight.pop(value)
            elif step == "settle partly" and batches:
                again = [n for n in range(len(batches[0])) if n % value]
                settle(box, batches[0], again)
                model.in_flight[0] = [model.in_flight[0][n] for n in again]
                if not again:
                    del batches[0], model.in_flight[0]
            elif step == "commit":
                await commit(box)
                model.committed()
            elif step == "stop":
                await box.keep(batches)
                assert box.ledger.balanced
                assert box.ledger.kept == len(model.unsettled())
                expected = sorted(model.unsettled())
                batches.clear()
                model.in_flight.clear()
                box = mailbox(path, limit)
                assert box.ledger.recovered == len(expected)
                model.waiting = await everything(box)
                assert model.waiting == expected, "exactly what was left, and no duplicate"
                model.committed()
            elif step == "crash":
                runs += 1
                copy = crash(path, directory / str(runs))
                box._writer.file.close()
                path = copy
                batches.clear()
                model.in_flight.clear()
                box = mailbox(path, limit)
                found = await everything(box)
                assert found == sorted(set(found)), "the order, and once each"
                assert set(found) >= model.on_disk, "nothing committed is missing"
                assert min(found, default=MUCH) > model.safe_below - box._backlog.most, (
                    "what is back is new"
                )
                assert max(found, default=-1) < model.published
                model.waiting = found
                model.committed()
            check()
        box._writer.file.close()

    async def everything(box: SpooledMailbox) -> list[int]:
        """Return the numbers that wait, without taking them."""
        found: list[int] = []
        for segment in box._backlog.segments:
            found += numbers(box._writer.file.load(segment.rows)[0])
        assert len(found) == box.ledger.recovered
        return found

    run_virtual(main)
    shutil.rmtree(directory)


@pytest.mark.slow("random examples or many points, on the disk")
@given(
    plan=plans,
    limit=st.integers(1, 60),
    max_stored=st.integers(500, 5000),
    overflow=st.sampled_from(["drop_oldest", "drop_newest"]),
)
@examples(50)
def test_the_bounds_hold_and_what_they_cost_is_counted(plan, limit, max_stored, overflow):
    directory = quick_directory()

    async def main() -> None:
        box = mailbox(directory / "p.P.sqlite3", limit, overflow, 10 * 32 * limit, max_stored)
        batches: list[Batch] = []
        taken: list[int] = []
        settled = published = 0
        for step, value in plan:
            if step == "publish":
                box.offer(numbered(value, published))
                published += value
            elif step == "take" and box.ledger.queued:
                batches.append(await box.take(value))
                taken += numbers(batches[-1])
            elif step.startswith("settle") and batches:
                batch = batches.pop()
                settled += len(batch)
                settle(box, batch)
            elif step == "commit":
                await commit(box)
            ledger = box.ledger
            assert ledger.balanced
            assert ledger.accepted == published
            assert ledger.delivered == settled
            assert len(taken) + ledger.queued + ledger.lost == published
            assert 0 <= box._backlog.points <= limit + box._backlog.most
            in_flight = sum(point.size for batch in batches for point in batch)
            assert box.stored_bytes <= max_stored + 3 * in_flight + 100 * len(batches)
        rest = await take_all(box)
        assert [*taken, *rest] == sorted({*taken, *rest}), "the order, and once each"
        assert len(taken) + len(rest) + box.ledger.lost == published
        if overflow == "drop_oldest" and box.ledger.lost and published and rest:
            assert rest[-1] == published - 1, "the newest is never dropped for an older one"
        box._writer.file.close()

    run_virtual(main)
    shutil.rmtree(directory)


# Files that go


@pytest.mark.parametrize("suffixes", [("", "-wal"), ("",), ("-wal",)], ids=["all", "file", "log"])
@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_spool_that_is_removed_while_it_runs_is_put_back_with_all_that_it_holds(
    tmp_path: Path, suffixes: tuple[str, ...], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Kind: writing on into a file that the next run does not find."""
    path = tmp_path / "spool" / "x.sqlite3"
    file = SpoolFile(path)
    try:
        for number in (1, 2):
            file.commit([Row(number, 100.0, numbered(3, number * 3))], [])
            if number == 1:
                for suffix in suffixes:
                    part = Path(f"{path}{suffix}")
                    part.rename(f"{part}.old") if how == "moved" else part.unlink()
                    if how == "replaced":
                        part.write_bytes(b"something else")
        file.commit([Row(3, 100.0, numbered(3, 9))], [(1, 1)])
    finally:
        file.close()
    assert caplog.text.count("was moved away or removed; it was put back") == 1
    again = SpoolFile(path)
    try:
        assert [number for number, *_ in again.index] == [2, 3]
        points, _ = again.load((2, 3))
        assert [point.fields["n"] for point in points] == list(range(6, 12))
    finally:
        again.close()
