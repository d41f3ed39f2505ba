"""The log's own way out: nobody waits for it, what it drops is counted, and nothing else gets its lines.

The kind: whatever stands between a line and its reader, a full pipe, a closed or reused descriptor, a fork.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Iterator

import pytest

from lva.logs.writer import MOST_PENDING, Descriptor, LogWriter, _whole_lines


class Pipe:
    """A pipe whose writing end stands for standard error."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def read_until(self, end: bytes) -> bytes:
        text = b""
        while end not in text:
            text += os.read(self.reader, 1 << 16)
        return text


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for number in (pipe.reader, pipe.writer):
        with contextlib.suppress(OSError):
            os.close(number)


def _writer(pipe: Pipe) -> LogWriter:
    return LogWriter(Descriptor(pipe.writer), lambda count: f"{count} dropped")


def test_lines_are_written_in_order(pipe: Pipe) -> None:
    writer = _writer(pipe)
    for number in range(100):
        writer.write(f"line {number}")
    writer.flush(20)
    text = pipe.read_until(b"line 99\n")
    assert text.decode().splitlines() == [f"line {number}" for number in range(100)]


def test_without_a_reader_nobody_waits_and_what_is_dropped_is_counted(pipe: Pipe) -> None:
    writer = _writer(pipe)
    line = "x" * 999
    for _ in range(3000):  # three megabytes, of which a pipe takes the sixteenth part of one
        writer.write(line)
    assert writer.dropped > 1000
    writer.write("the receipt", keep=True)
    text = pipe.read_until(b"the receipt\n")
    writer.write("end", keep=True)
    lines = (text + pipe.read_until(b"end\n")).decode().splitlines()
    told = [int(text.split()[0]) for text in lines if text.endswith(" dropped")]
    assert sum(told) == writer.dropped
    assert lines.count(line) == 3000 - writer.dropped
    assert len(line) * lines.count(line) <= MOST_PENDING + (1 << 17)


def test_a_file_that_takes_the_descriptors_number_gets_no_line(pipe: Pipe, tmp_path) -> None:
    writer = _writer(pipe)
    writer.write("first")
    writer.flush(20)
    own = writer.descriptor.number()
    assert own is not None
    other = os.open(tmp_path / "data", os.O_CREAT | os.O_RDWR)
    os.dup2(other, own)  # as when a plugin closes the descriptor, and a file is opened
    writer.write("second")
    writer.flush(20)
    assert pipe.read_until(b"second\n") == b"first\nsecond\n"  # by the number it was made from
    os.dup2(other, pipe.writer)
    writer.write("third")
    writer.flush(20)
    assert writer.dropped == 1
    assert (tmp_path / "data").read_bytes() == b""
    os.close(other)
    os.close(own)


def test_a_closed_descriptor_is_no_error() -> None:
    reader, number = os.pipe()
    os.close(reader)
    os.close(number)
    writer = LogWriter(Descriptor(number), str)
    writer.write("nobody reads it")
    writer.flush(20)
    assert writer.dropped == 1


def test_a_reader_that_has_gone_is_no_error(pipe: Pipe) -> None:
    writer = _writer(pipe)
    os.close(pipe.reader)
    writer.write("nobody reads it")
    writer.flush(20)
    assert writer.dropped == 1


def test_a_file_that_somebody_made_non_blocking_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    writer = _writer(pipe)
    for _ in range(300):
        writer.write("x" * 999)
    writer.write("end")
    assert len(pipe.read_until(b"end\n")) == 300 * 1000 + 4


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # there are threads, on purpose
def test_a_forked_child_writes_its_lines_itself(pipe: Pipe) -> None:
    writer = _writer(pipe)
    writer.write("parent")
    writer.flush(20)
    if (child := os.fork()) == 0:
        try:
            writer.write("child")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    writer.write("parent again")
    assert pipe.read_until(b"again\n") == b"parent\nchild\nparent again\n"


def test_who_waits_for_the_end_waits_no_longer_than_told(pipe: Pipe) -> None:
    writer = _writer(pipe)
    for _ in range(300):
        writer.write("x" * 999)
    waiting = threading.Thread(target=writer.flush, args=(0.01,), daemon=True)
    waiting.start()
    waiting.join(20)
    assert not waiting.is_alive()


@pytest.mark.parametrize(
    ("lines", "first"),
    [
        ([10], 10),
        ([100] * 100, 4000),
        ([select.PIPE_BUF, 10], select.PIPE_BUF),
        ([select.PIPE_BUF + 1, 10], select.PIPE_BUF + 11),
    ],
)
def test_lines_are_written_whole_so_that_others_write_between_them(lines, first):
    """The kind is a record of the log that a plugin's `print` stands in the midst of."""
    data = b"".join(b"x" * (size - 1) + b"\n" for size in lines)
    assert len(_whole_lines(memoryview(data))) == first
