"""What plugins print and log in a worker arrives in their logs, whatever way it took, and never blocks."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import sys
import time

import pytest
import trio

from lva.video.definition import StreamDefinition
from lva.video.processes.printed import LAST_LINES, Printed
from lva.video.source import parse_source
from lva.video.supervision.stream import Stream, StreamServices
from lva.video.worker.output import LONGEST, WorkerOutput
from tests.video.supervision.test_stream import Listener, no_pace, running, until

NOISY = r"""
import ctypes, faulthandler, logging, os, subprocess, sys, warnings
from lva import AnalyticsEvent, BaseAnalyticsPlugin

libc = ctypes.CDLL(None)

class Noisy(BaseAnalyticsPlugin):
    def open(self, stream):
        print("opened for", stream.name)
        print("to stderr", file=sys.stderr)
        self.logger.info("logged %s", 5)
        logging.getLogger("a.library").warning("of a library")
        warnings.warn("beware")
        libc.puts(b"from C")
        libc.fflush(None)
        os.write(2, b"to descriptor 2\n")
        subprocess.run(["echo", "from a child"])
        sys.stdout.buffer.write(b"as bytes \xff\n")
        sys.__stdout__.write("to the old stdout\n")
        print("x" * 100_000)
        self.logger.info("bad %d", "x")
        self.logger.debug("not wanted")
        print("\ud800")
        assert sys.stdout.fileno() == 1

        self.seen = 0

    def handleFrame(self, frame):
        self.seen += 1  # whichever the service has time for
        if self.seen == 2 and self.config.get("flood"):
            for number in range(20_000):
                print("flood", number)
                try:
                    os.write(1, b"low flood %d\n" % number)
                except BlockingIOError:
                    pass
        if self.seen == 2:
            return AnalyticsEvent("second")
        if self.seen > 4 and self.config.get("null"):
            ctypes.string_at(0)

    def close(self):
        print("closed at last")
"""


def noisy_stream(directory, **parameters):
    path = directory / "noisy.py"
    path.write_text(NOISY)
    spec = {
        "name": "noisy", "path": str(path), "module": "lva_plugins.noisy", "class": "Noisy",
        "files": {str(path): hashlib.sha256(path.read_bytes()).hexdigest()},
        "class_module": "lva_plugins.noisy", "parameters": parameters,
    }  # fmt: skip
    definition = StreamDefinition.model_validate(
        {"name": "door", "source": "test:?rate=25", "analytics": [{"name": "noisy"}]}
    )
    logger = logging.getLogger("lva.test")
    services = StreamServices(lambda _: [spec], Listener(), logger, no_pace, random.Random(1))
    return Stream("id", definition, parse_source("test:?rate=25"), services)


def of_the_plugin(caplog):
    return [record for record in caplog.records if record.name == "lva.plugin.noisy"]


@pytest.mark.slow("real worker processes")
async def test_all_of_it_is_in_the_plugin_s_log_with_the_stream(tmp_path, caplog):
    """The kind is every way to print: Python's, a library's, C's, a child's, a warning; at the end, too."""
    caplog.set_level(logging.INFO)
    stream = noisy_stream(tmp_path)
    async with running(stream):
        await until(lambda: len(stream.events) == 1)
    records = of_the_plugin(caplog)
    texts = [record.getMessage() for record in records]
    assert all(text.startswith("stream door: ") for text in texts)
    for said in (
        "opened for door", "to stderr", "logged 5", "of a library", "from C", "to descriptor 2",
        "from a child",
        "as bytes \\xff", "to the old stdout", "cannot be formatted", "\\ud800",
        "closed at last",
    ):  # fmt: skip
        assert any(said in text for text in texts), said
    assert any("UserWarning: beware" in text for text in texts)
    assert "not wanted" not in caplog.text
    levels = {record.getMessage(): record.levelno for record in records}
    assert levels["stream door: to stderr"] == logging.WARNING
    assert levels["stream door: opened for door"] == logging.INFO
    assert max(map(len, texts)) <= LONGEST + 100


@pytest.mark.slow("real worker processes")
async def test_a_crash_tells_the_line_of_python_that_it_was_in(tmp_path, caplog):
    """The kind is the last words of a process: nobody in it can say them, and a flood does not hide them."""
    caplog.set_level(logging.INFO)
    stream = noisy_stream(tmp_path, null=True, flood=True)
    async with running(stream):
        await until(lambda: any("SIGSEGV" in entry["reason"] for entry in stream.log))
        texts = [record.getMessage() for record in of_the_plugin(caplog)]
    assert any("Fatal Python error: Segmentation fault" in text for text in texts)
    assert 100 < sum("flood" in text for text in texts) < 1500
    line = NOISY.splitlines().index("            ctypes.string_at(0)") + 1
    assert any(f'noisy.py", line {line} in handleFrame' in text for text in texts)


@pytest.fixture
def output(monkeypatch):
    """Makes what a worker does with its output, and a list of what it sends."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level

    def make():
        monkeypatch.setattr(sys, "stdout", sys.stdout)
        monkeypatch.setattr(sys, "stderr", sys.stderr)
        sent = []
        return WorkerOutput(
            lambda *record: sent.append(record), lambda: "noisy", logging.INFO
        ), sent

    yield make
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def test_lines_are_put_together_and_cut(output):
    _, sent = output()
    sys.stdout.write("a li")
    sys.stdout.write("ne\n\nanother\nand ")
    sys.stderr.write("y" * (LONGEST + 5) + "\n")
    for _ in range(10):
        sys.stdout.write("z" * LONGEST)
    sys.stdout.write("\n")
    texts = [text for _, _, text in sent]
    assert texts[:2] == ["a line", "another"]
    assert [len(text) for text in texts[2:]] == [LONGEST, LONGEST]
    assert texts[3].startswith("and zzz")


def test_a_flood_is_counted(output, monkeypatch):
    made, sent = output()
    for number in range(2000):
        print(number)
    made.tell_suppressed()
    assert 100 < len(sent) < 1000
    few = len(sent)
    now = time.monotonic() + 11
    monkeypatch.setattr(made._limits, "_clock", lambda: now)
    made.tell_suppressed()
    assert sent[-1] == ("noisy", logging.INFO, f"{2000 - few} more suppressed: too many in 10 s")


async def test_a_pipe_is_read_to_its_end_at_a_limited_rate(autojump_clock):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    printed, said = Printed(reading), []
    filled = 0
    while True:
        try:
            filled += os.write(writing, b"%07d\n" % (filled // 8))
        except BlockingIOError:
            break
    async with trio.open_nursery() as nursery:
        nursery.start_soon(printed.run, lambda _, text: said.append(text))
        while len(said) < 400:
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert said[:2] == ["0000000", "0000001"]
    assert len(said) == 500
    os.close(writing)
    printed.drain(lambda _, text: said.append(text))
    printed.close()
    assert len(said) == 500 + LAST_LINES + 1
    assert said[-2:] == [
        f"{filled // 8 - 1:07d}",
        f"{filled // 8 - 500} more suppressed: too many in 10 s",
    ]


async def test_the_end_of_all_writers_ends_it(autojump_clock):
    reading, writing = os.pipe()
    printed, said = Printed(reading), []
    os.write(writing, b"last\nwords")
    os.close(writing)
    with trio.fail_after(5):
        await printed.run(lambda _, text: said.append(text))
    printed.drain(lambda _, text: said.append(text))
    assert said == ["last", "words"]
    printed.close()
