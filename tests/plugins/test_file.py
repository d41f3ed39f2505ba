"""Lines in a real file, on a real full disk and in real pipes; worker threads need the real clock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from lva import MonitoringPoint, PartialDeliveryError, PermanentDeliveryError, RetryLaterError
from lva.host.life.states import State
from lva.plugins import file as module
from lva.plugins import webhook
from tests.event_samples import ITEMS, documents
from tests.plugins.sinks import call, ledger_of, running_sink, why_not
from tests.support import (
    RunningHost,
    ServiceProcess,
    examples,
    no_room_beyond,
    numbered,
    running_host,
    until,
    write_plugin,
)


def file(
    tmp_path: Path, wait: bool = True, **config: Any
) -> AbstractAsyncContextManager[RunningHost]:
    """Run the plugin, with one attempt for a batch."""
    table = {"max_attempts": 1, "circuit_failures": 1000}
    config = {"path": str(tmp_path / "points"), **config}
    return running_sink(tmp_path, "file", config, wait, table)


def read(path: Path) -> list[int]:
    """Return the numbers of the points in a file of whole lines."""
    content = path.read_bytes()
    assert content.endswith(b"\n") or not content
    return [json.loads(line)["fields"]["n"] for line in content.splitlines()]


def padded(count: int, start: int = 0, size: int = 1000) -> list[MonitoringPoint]:
    return [
        MonitoringPoint("numbers", 1.0, {}, {"n": n, "padding": "x" * size})
        for n in range(start, start + count)
    ]


def rotated(path: Path, max_bytes: int = 0, backups: int = 5, **more: Any) -> module.RotatedFile:
    config = module.Config(path=path, max_bytes=max_bytes, backups=backups, **more)
    return module.RotatedFile(path, config, module.logging.getLogger("test"))


# Lines

texts = st.text(st.characters(codec="utf-8"), min_size=1)
finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.dictionaries(
    texts, st.text(st.characters(codec="utf-8")) | st.integers(-(2**63), 2**63 - 1) | finite
)
any_point = st.builds(MonitoringPoint, texts, finite | st.integers(), values, values)


@pytest.mark.slow("random examples")
@pytest.mark.parametrize("encode", [module.to_line, webhook.encode], ids=["file", "webhook"])
@given(point=any_point)
def test_any_point_comes_back_from_its_json(encode: Any, point: MonitoringPoint) -> None:
    document = json.loads(encode(point), parse_constant=pytest.fail)
    assert MonitoringPoint(**document) == point
    for mine, theirs in ((point.tags, document["tags"]), (point.fields, document["fields"])):
        assert [type(value) for value in theirs.values()] == [type(v) for v in mine.values()]


@pytest.mark.slow("random examples")
@given(any_point)
def test_any_point_is_one_line(point: MonitoringPoint) -> None:
    line = module.to_line(point)
    assert line.isascii()
    assert len(line.decode().splitlines()) == 1, "for readers with many ideas of a line's end, too"
    assert line.endswith(b"}\n")
    assert line.startswith(module.STARTS)


async def test_points_are_appended_in_order_to_a_private_file(tmp_path):
    umask = os.umask(0)
    try:
        async with file(tmp_path) as host:
            host.publish([MonitoringPoint("s", 1.5, {"tag": "ж"}, {"n": 0}), *numbered(2, 1)])
            assert (await host.stop()).exit_code == 0
    finally:
        os.umask(umask)
    path = tmp_path / "points"
    assert read(path) == [0, 1, 2]
    assert json.loads(path.read_text().splitlines()[0]) == {
        "series": "s", "time": 1.5, "tags": {"tag": "ж"}, "fields": {"n": 0},
    }  # fmt: skip
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    async with file(tmp_path) as host:
        await call(host, numbered(1, 3))
    assert read(path) == [0, 1, 2, 3]
    assert path.stat().st_mode & 0o777 == 0o640, "a choice of the user's"


async def test_without_a_path_the_file_is_in_the_state_directory(tmp_path):
    async with running_host(tmp_path, {"file": None}, wait=False) as host:
        await host.wait_for("file", State.RUNNING, within=20)
        host.publish(numbered(3))
        await host.stop()
    assert read(tmp_path / "state" / "points.jsonl") == [0, 1, 2]


async def test_a_batch_is_one_write(tmp_path, monkeypatch):
    async with file(tmp_path) as host:
        writes = []
        write = os.write
        monkeypatch.setattr(
            os, "write", lambda fd, data: writes.append(len(data)) or write(fd, data)
        )
        await call(host, numbered(1000))
        monkeypatch.undo()
        assert writes == [(tmp_path / "points").stat().st_size]
    assert read(tmp_path / "points") == list(range(1000))


async def test_lines_are_whole_when_the_system_writes_less_than_it_was_given(tmp_path, monkeypatch):
    async with file(tmp_path) as host:
        write = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
        await call(host, numbered(20))
        monkeypatch.undo()
    assert read(tmp_path / "points") == list(range(20))


async def test_there_is_one_thread_however_many_batches_come_at_once(tmp_path, monkeypatch):
    async with file(tmp_path) as host:
        loaded = host.module("file")
        at_work, most = 0, 0

        def slow(point: MonitoringPoint) -> bytes:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            threading.Event().wait(0.02)
            at_work -= 1
            return module.to_line(point)

        monkeypatch.setattr(loaded, "to_line", slow)
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(call, host, numbered(1, number))
        assert most == 1
    assert sorted(read(tmp_path / "points")) == [0, 1, 2, 3]


# Rotation


async def test_full_files_move_up_and_the_oldest_goes(tmp_path):
    size = len(module.to_line(numbered(1)[0]))
    async with file(tmp_path, max_bytes=3 * size, backups=2) as host:
        await call(host, numbered(2))
        await call(host, numbered(8, 2))  # fills the file and three more
        assert sorted(path.name for path in tmp_path.glob("points*")) == [
            "points", "points.1", "points.2",
        ]  # fmt: skip
        assert read(tmp_path / "points") == [9]
        assert read(tmp_path / "points.1") == [6, 7, 8]
        assert read(tmp_path / "points.2") == [3, 4, 5]
        assert (tmp_path / "points").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow("random lines in real files")
@examples(20)
@given(
    st.lists(st.lists(st.integers(20, 400), max_size=12), max_size=12),
    st.integers(400, 1500),
    st.integers(0, 4),
)
def test_the_files_never_hold_more_than_documented_and_are_what_was_written_last(
    batches, max_bytes, backups
):
    with tempfile.TemporaryDirectory() as directory:
        output = rotated(Path(directory) / "points", max_bytes, backups)
        output.open()
        everything = b""
        for batch in batches:
            lines = [module.STARTS[0] + b"x" * (size - 11) + b"\n" for size in batch]
            for count in output.write(lines):
                everything += b"".join(lines[:count])
                del lines[:count]
                newest_first = sorted(Path(directory).iterdir())
                contents = [path.read_bytes() for path in newest_first]
                assert len(contents) <= backups + 1
                assert max(map(len, contents)) <= max_bytes
                assert sum(map(len, contents)) <= max_bytes * (backups + 1)
                assert everything.endswith(b"".join(reversed(contents)))
            assert lines == []
        output.close()


async def test_a_line_that_no_file_can_hold_is_rejected_alone(tmp_path):
    long = padded(1, -1, 500)
    async with file(tmp_path, max_bytes=400) as host:
        points = [*numbered(2), *long, *numbered(2, 2)]
        with pytest.raises(PartialDeliveryError, match="a line of more than max_bytes") as caught:
            await call(host, points)
        assert (caught.value.failed, caught.value.rejected) == ([], long)
        with pytest.raises(PermanentDeliveryError):
            await call(host, long)
    assert read(tmp_path / "points") == [0, 1, 2, 3]


async def test_with_0_the_file_grows(tmp_path):
    async with file(tmp_path, max_bytes=0) as host:
        await call(host, padded(3))
    assert read(tmp_path / "points") == [0, 1, 2]


def test_a_rotation_that_a_crash_cut_short_costs_no_file(tmp_path):
    path = tmp_path / "points"
    for name in ("points", "points.1", "points.3"):  # points.2 had just been moved
        (tmp_path / name).write_bytes(module.STARTS[0] + name.encode() + b"\n")
    output = rotated(path, max_bytes=30, backups=3)
    output.open()
    assert list(output.write([module.STARTS[0] + b"new\n"])) == [1]
    output.close()
    names = {
        "points": b"new",
        "points.1": b"points",
        "points.2": b"points.1",
        "points.3": b"points.3",
    }
    for name, content in names.items():
        assert (tmp_path / name).read_bytes() == module.STARTS[0] + content + b"\n"


async def test_a_rotation_that_is_not_possible_is_tried_again(tmp_path):
    (tmp_path / "points.1").mkdir()
    async with file(tmp_path, max_bytes=100, backups=1) as host:
        await call(host, numbered(1))
        points = numbered(2, 1)
        with pytest.raises(RetryLaterError, match=r"points\.1"):
            await call(host, points)
        (tmp_path / "points.1").rmdir()
        await call(host, points[:1])
    assert read(tmp_path / "points.1") == [0]
    assert read(tmp_path / "points") == [1]


# Half a line


@pytest.mark.parametrize(
    ("content", "mended"),
    [
        (b"", b""),
        (b'{"series":1}\n', b'{"series":1}\n'),
        (b'{"series":1}\n{"series":"s","ti', b'{"series":1}\n'),
        (b'{"series":1}\n{', b'{"series":1}\n'),
        (b'{"se', b""),
        (b'{"series":1}\n{"series":2}', b'{"series":1}\n{"series":2}\n'),
        (b'{"series":1}', b'{"series":1}\n'),
        (b'{"series":1}\n' + bytes(4096), b'{"series":1}\n'),
        (b'{"series":1}\n{"series":"' + b"x" * 300_000, b'{"series":1}\n'),
        (b'{"series":"' + b"x" * 300_000, b""),
        (b'{"series":"' + b"x" * 300_000 + b'"}', b'{"series":"' + b"x" * 300_000 + b'"}\n'),
    ],
)
async def test_an_unfinished_line_is_not_glued_to_the_next(tmp_path, content, mended):
    path = tmp_path / "points"
    path.write_bytes(content)
    async with file(tmp_path) as host:
        assert path.read_bytes() == mended
        await call(host, numbered(1))
    assert path.read_bytes() == mended + module.to_line(numbered(1)[0])


SOURCE = """
    class Source(BaseBackgroundPlugin):
        async def start(self):
            number = 0
            while True:
                self.app.publish("monitoring_event", [
                    MonitoringPoint("numbers", 1.0, {}, {"n": n, "padding": "x" * 4000})
                    for n in range(number, number + 300)
                ])
                number += 300
                await trio.sleep(0.005)
"""


@pytest.mark.process
def test_a_killed_process_leaves_whole_lines_behind_once_it_runs_again(tmp_path):
    write_plugin(tmp_path / "plugins", "source", SOURCE)
    path = tmp_path / "state" / "points.jsonl"
    toml = "[plugins.file]\nflush_interval = 0.01"
    with ServiceProcess(tmp_path, ["file", "source"], toml) as service:
        delivered = 0

        def busy() -> bool:
            nonlocal delivered
            delivered = service.plugin("file")["ledger"]["delivered"]
            return delivered > 1000

        service.wait_until_ready().wait_until(busy)
        service.process.kill()
        service.wait()
    with path.open("ab") as killed:  # in case that this was not in the middle of a line
        killed.write(module.STARTS[0] + b'"unfinished')
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    lines = [json.loads(line) for line in whole.splitlines()]
    assert len(lines) >= delivered, "what was delivered is there"
    numbers = [line["fields"]["n"] for line in lines if line["series"] == "numbers"]
    assert numbers == list(range(len(numbers))), "each once, and in order"
    with ServiceProcess(tmp_path, ["file"]) as service:
        service.wait_until_ready()
        assert service.stop() == 0
    mended = path.read_bytes()
    assert mended.startswith(whole)
    assert all(json.loads(line) for line in mended[len(whole) :].splitlines())
    assert len(mended) > len(whole), "it went on"


# A full disk


def fail(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system with 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if mounted.returncode:
        pytest.skip("only root can make a file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


async def test_a_full_disk_leaves_no_half_lines_and_no_repeated_ones(tmp_path, small_disk):
    path = small_disk / "points"
    async with file(tmp_path, path=str(path)) as host:
        await call(host, padded(100))
        size = path.stat().st_size
        points = padded(300, 100)
        with pytest.raises(RetryLaterError, match="No space left on device"):
            await call(host, points)
        assert path.stat().st_size == size
        host.publish(points)
        await until(lambda: ledger_of(host).retries > 2)
        subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
        receipt = await host.stop()
        assert receipt.plugins[0].points["delivered"] == 300
        assert receipt.exit_code == 0
    assert read(path) == list(range(400))


async def test_what_did_fit_before_the_disk_was_full_is_not_written_again(tmp_path, small_disk):
    path = small_disk / "points"
    async with file(tmp_path, path=str(path), max_bytes=100_000, backups=5) as host:
        points = padded(400)
        with pytest.raises(PartialDeliveryError, match="No space left on device") as caught:
            await call(host, points)
        again = caught.value.failed
        written = [n for name in ("points.2", "points.1") for n in read(small_disk / name)]
        assert again == points[len(written) :]
        assert written == list(range(len(written)))
        assert not path.exists() or read(path) == []


async def test_a_limit_on_the_size_of_files_is_like_a_full_disk(tmp_path):
    path = tmp_path / "points"
    async with file(tmp_path) as host:
        await call(host, padded(10))
        size = path.stat().st_size
        with no_room_beyond(size + 1500):
            with pytest.raises(RetryLaterError, match="File too large"):
                await call(host, padded(10, 10))
            assert path.stat().st_size == size
        await call(host, padded(10, 10))
    assert read(path) == list(range(20))


async def test_what_could_not_be_cut_back_is_cut_later(tmp_path, monkeypatch):
    write, truncate = os.write, os.ftruncate

    def write_half(fd: int, data: bytes) -> int:
        if len(data) < 40:
            fail()
        return write(fd, data[:40])

    async with file(tmp_path) as host:
        await call(host, numbered(1))
        monkeypatch.setattr(os, "write", write_half)
        monkeypatch.setattr(os, "ftruncate", fail)
        with pytest.raises(RetryLaterError, match="Input/output error"):
            await call(host, numbered(1, 1))
        monkeypatch.setattr(os, "write", write)
        monkeypatch.setattr(os, "ftruncate", truncate)
        assert not (tmp_path / "points").read_bytes().endswith(b"\n")
        await call(host, numbered(1, 2))
    assert read(tmp_path / "points") == [0, 2]


# fsync


async def test_with_fsync_points_are_delivered_once_they_are_on_the_disk(tmp_path, monkeypatch):
    synced: list[str] = []
    fsync = os.fsync

    def watch(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        fsync(fd)

    if not Path("/proc/self/fd").exists():
        pytest.skip("this system does not name open files")
    monkeypatch.setattr(os, "fsync", watch)
    async with file(tmp_path, fsync=True) as host:
        assert synced == [tmp_path.name]
        await call(host, numbered(1))
        assert synced == [tmp_path.name, "points"]
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(RetryLaterError, match="Input/output error"):
            await call(host, numbered(1, 1))
        monkeypatch.setattr(os, "fsync", watch)
        await call(host, numbered(1, 1))
    assert read(tmp_path / "points") == [0, 1]


async def test_without_fsync_the_disk_takes_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _fd: pytest.fail("synced"))
    async with file(tmp_path) as host:
        await call(host, numbered(1))


# Files that others touch


@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
async def test_a_file_that_went_away_is_begun_again(tmp_path, how, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "points"
    async with file(tmp_path) as host:
        await call(host, numbered(2))
        if how == "removed":
            path.unlink()
        else:
            path.rename(tmp_path / "moved")
        if how == "replaced":  # as logrotate's `create` does
            path.touch(0o640)
        await call(host, numbered(2, 2))
        await call(host, numbered(2, 4))
        assert caplog.text.count("was moved away: beginning a new file") == 1
    assert read(path) == [2, 3, 4, 5]
    if how != "removed":
        assert read(tmp_path / "moved") == [0, 1]


async def test_a_file_that_was_emptied_goes_on_at_its_beginning(tmp_path):
    async with file(tmp_path) as host:
        await call(host, numbered(5))
        os.truncate(tmp_path / "points", 0)  # logrotate's `copytruncate`
        await call(host, numbered(1, 5))
    assert read(tmp_path / "points") == [5]


async def test_a_directory_that_went_away_is_waited_for(tmp_path):
    directory = tmp_path / "d"
    directory.mkdir()
    path = directory / "points"
    async with file(tmp_path, path=str(path)) as host:
        await call(host, numbered(1))
        path.unlink()
        directory.rmdir()
        with pytest.raises(RetryLaterError, match=f"No such file or directory: '{path}'"):
            await call(host, numbered(1, 1))
        directory.mkdir()
        await call(host, numbered(1, 1))
    assert read(path) == [1]


async def refused(tmp_path: Path, path: Path) -> str:
    """Return why the plugin does not start with a path."""
    async with file(tmp_path, wait=False, path=str(path)) as host:
        return await why_not(host)


@pytest.mark.parametrize("target", ["there", "missing"])
async def test_a_symbolic_link_is_not_followed(tmp_path, target):
    (tmp_path / "there").write_bytes(b"")
    path = tmp_path / "link"
    path.symlink_to(tmp_path / target)
    assert f"{path} is a symbolic link; set path to where it leads" in await refused(tmp_path, path)
    assert (tmp_path / "there").read_bytes() == b""
    assert not (tmp_path / "missing").exists()


async def test_a_symbolic_link_put_in_the_file_s_place_is_not_followed(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "points"
    victim.write_bytes(b"")
    async with file(tmp_path) as host:
        await call(host, numbered(1))
        path.unlink()
        path.symlink_to(victim)
        with pytest.raises(RetryLaterError, match="is a symbolic link"):
            await call(host, numbered(1, 1))
        path.unlink()
        await call(host, numbered(1, 1))
    assert victim.read_bytes() == b""
    assert read(path) == [1]


@pytest.mark.parametrize("kind", ["fifo", "directory", "device"])
async def test_what_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / "thing"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path = Path("/dev/null")
    assert str(path) in await refused(tmp_path, path)


@pytest.mark.parametrize("content", [b"my notes", b"[1, 2]\n", b'{\n  "a": 1\n}', b"\x00" * 20])
async def test_a_file_with_something_else_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    assert f"{path} holds something else; move it away" in await refused(tmp_path, path)
    assert path.read_bytes() == content


async def test_a_file_that_another_process_writes_is_left_to_it(tmp_path):
    path = tmp_path / "points"
    half = module.STARTS[0] + b'"half'
    with path.open("wb") as other:
        other.write(half)
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        assert f"{path} is being written by another process" in await refused(tmp_path, path)
        assert path.read_bytes() == half
    async with file(tmp_path) as host:  # now it may
        await call(host, numbered(1))
    assert read(path) == [0]


# Standard output


async def test_standard_output_gets_the_lines(tmp_path, capfd):
    async with file(tmp_path, path="-") as host:
        await call(host, numbered(300))
        await call(host, padded(2, 300, 10_000))
    lines = capfd.readouterr().out.splitlines()
    assert [json.loads(line)["fields"]["n"] for line in lines] == list(range(302))
    os.fstat(1)  # it is still open
    assert not (tmp_path / "-").exists()


@pytest.fixture
def pipe(monkeypatch) -> Iterator[tuple[module.StandardOutput, int]]:
    """A StandardOutput that writes to a pipe, which is soon given up on, and the pipe's other end."""
    monkeypatch.setattr(module, "POLL_SECONDS", 0.001)
    reader, writer = os.pipe()
    output = module.StandardOutput()
    output._fd = writer
    yield output, reader
    output.close()
    os.close(reader)


def attempt(output: module.StandardOutput, lines: list[bytes]) -> int:
    """Write lines, in a worker thread; return how many were written until that failed."""
    written = 0
    with suppress(OSError):
        for count in output.write(lines):
            written += count
    return written


def test_a_reader_that_reads_nothing_is_a_reason_to_come_back_later(pipe):
    output, reader = pipe
    lines = [b"x" * 999 + b"\n"] * 100
    written = trio.run(trio.to_thread.run_sync, attempt, output, lines)
    assert 0 < written < 100
    content = os.read(reader, 1 << 20)
    assert content == b"".join(lines[:written]), "whole lines only"
    later = [b"y" * 999 + b"\n"] * 10
    assert trio.run(trio.to_thread.run_sync, attempt, output, later) == 10
    assert os.read(reader, 1 << 20) == b"".join(later), "and nothing of what was to be repeated"


@pytest.mark.slow("a reader dawdles in real time")
@examples(10)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_lines_are_whole_however_the_reader_dawdles(sizes, rng):
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "POLL_SECONDS", 0.0)
    patch.setattr(module, "POLLS", 1)
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)
        output = module.StandardOutput()
        output._fd = writer
        lines = [b"%d:" % n + b"x" * size + b"\n" for n, size in enumerate(sizes)]
        content = bytearray()

        def write() -> None:
            left = list(lines)
            while left:
                del left[: attempt(output, left)]
                if left:
                    content.extend(os.read(reader, rng.randint(1, 8192)))

        trio.run(trio.to_thread.run_sync, write)
        output.close()
        while more := os.read(reader, 1 << 16):
            content.extend(more)
        got = bytes(content).splitlines(keepends=True)
        assert set(got) == set(lines), "each came, and none in pieces"
        assert list(dict.fromkeys(got)) == lines, "in order"
    finally:
        os.close(reader)
        patch.undo()


async def test_a_wait_for_the_reader_ends_when_the_call_is_cancelled(pipe, monkeypatch):
    output, _reader = pipe
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(module, "POLLS", 10_000)

    def write() -> None:
        for _ in output.write([b"x" * 999 + b"\n"] * 100):
            pass

    with trio.fail_after(10), trio.move_on_after(0.1) as scope:
        await trio.to_thread.run_sync(write)
    assert scope.cancelled_caught


def test_a_broken_pipe_is_named():
    reader, writer = os.pipe()
    output = module.StandardOutput()
    output._fd = writer
    os.close(reader)
    with pytest.raises(BrokenPipeError, match="nobody reads it any longer"):
        next(output.write([b"a line\n"]))
    output.close()


async def test_a_closed_standard_output_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module.sys, "__stdout__", None)
    async with file(tmp_path, wait=False, path="-") as host:
        assert "standard output is closed" in await why_not(host)


@pytest.mark.process
def test_a_service_without_standard_output_says_so(tmp_path):
    """Nothing else that the service opens may stand for it: the points would be lost."""
    run = f"exec {sys.executable} -m lva run >&-"
    toml = '[plugins.file.config]\npath = "-"'
    with ServiceProcess(tmp_path, ["file"], toml, command=["/bin/sh", "-c", run]) as service:
        service.wait_for("standard output is closed")


async def test_points_wait_for_a_reader_that_has_gone(tmp_path):
    async with file(tmp_path, path="-") as host:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, host.plugin("file")._output._fd)
        os.close(writer)
        with pytest.raises(RetryLaterError, match="nobody reads it any longer"):
            await call(host, numbered(1))


@pytest.mark.process
def test_the_points_are_on_standard_output_and_the_log_is_not(tmp_path):
    run = f"exec {sys.executable} -m lva run > {tmp_path / 'out'}"
    toml = '[plugins.file]\nflush_interval = 0.01\nconfig = {path = "-"}'
    with ServiceProcess(tmp_path, ["file"], toml, command=["/bin/sh", "-c", run]) as service:
        service.wait_until_ready()
        for _ in range(20):
            service.get("/livez")
        assert service.stop() == 0
        delivered = service.receipt_of("file")["points"]["delivered"]
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert len(lines) == delivered > 20
    assert {line["series"] for line in lines} <= {"requests", "errors"}


async def test_events_of_streams_are_lines_in_one_order_and_a_file_may_begin_with_one(tmp_path):
    """Kind: a line is the document of whatever it is, with the picture."""
    table = {"events": [*ITEMS], "config": {"path": str(tmp_path / "points")}}
    for _ in range(2):
        async with running_host(tmp_path, {"file": None}, {"file": table}) as host:
            for name, item in reversed(ITEMS.items()):
                host.host.publisher.publish(name, [item])
            assert (await host.stop()).exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "points").read_bytes().splitlines()]
    assert lines == documents(*reversed(ITEMS.values())) * 2
