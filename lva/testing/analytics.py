"""Puts an analytics plugin through its contract, in real worker processes, on generated frames."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

from lva.contract import AnalyticsInfo
from lva.errors import ConfigurationError, counted
from lva.events.streams import StreamAnalyticsEvent
from lva.logs.loggers import own_logger
from lva.testing.places import Place
from lva.testing.report import Breach, Report, Step, failed, passed
from lva.testing.subject import Source, subject_of
from lva.video.definition import StreamDefinition
from lva.video.processes.forks import ForkServer
from lva.video.processes.process import worker_spec
from lva.video.source import parse_source
from lva.video.supervision.record import StreamChange
from lva.video.supervision.stream import Stream, StreamServices
from lva.video.supervision.supervisor import Supervisor

#: What it is shown: the picture, which has a format of its own, its size and rate, and for how many seconds.
SHOWN: Final = (
    ("testsrc2", "640x360", 10, 3),
    ("rgbtestsrc", "322x178", 1, 5),
    ("mandelbrot", "64x48", 30, 1),
)
#: Seconds that one run may take; and one call of the plugin.
PATIENCE: Final = 60.0
CALL_LIMIT: Final = 10.0
#: Seconds that a worker may take to end: more than in the service, since the machine may be busy with tests.
CLOSE_LIMIT: Final = 2.0
#: Frames of the run after which memory is judged; or, once it is so many seconds since the first, at least so
#: many frames; and the seconds after which it is over in any case.
MANY: Final = 400
LONG: Final = 3.0
ENOUGH: Final = 150
LONGEST: Final = 10.0
#: Bytes by which a worker may grow over the later three quarters of that run.
GROWTH: Final = 8 * 2**20
#: What to do about what is said.
HINTS: Final = (
    ("read-only", "arrays belong to the frame; copy one before changing it: frame.image().copy()"),
    ("took longer than", "return sooner, or give the stream a larger analytics_timeout"),
    (r"\(SIG(SEGV|ABRT|BUS|FPE|ILL)\)", "native code that it calls crashes; the log has the lines of Python"),
    (r"\(exit code \d+\)", "raise an exception in place of ending the process"),
    ("SystemExit", "raise an exception in place of ending the process"),
    ("MiB of memory", "keep no frames or arrays for ever, such as in a deque(maxlen=…)"),
    ("AnalyticsEvents, not", 'yield AnalyticsEvent("type", {"key": value})'),
    ("end when it was asked", "close() and handleFrame() return soon; a plain `def close` waits for nothing"),
)  # fmt: skip


def check_analytics(
    source: Source,
    parameters: Mapping[str, Any] | None = None,
    *,
    source_of_frames: str | None = None,
    call_limit: float = CALL_LIMIT,
) -> Report:
    """Run an analytics plugin in a stream's worker, and report whether it keeps its contract.

    It is loaded as the service does it; opened, shown generated frames of several sizes, formats and rates,
    and closed; stopped in the midst of a stream of many frames; opened again after its process was killed. No
    call may raise, hang or end the process, events are such as can be sent, the worker ends when it is asked
    to, and after `close` no thread, file or child process of the plugin is left, nor has its memory
    grown. How long a frame takes is in the report. After a fault, what comes next is left out.

    Args:
        source: The path of a file or package, a plugin's name, or the text of a plugin.
        parameters: A stream's parameters for it.
        source_of_frames: An address as in a stream's definition, in place of the generated frames.
        call_limit: Seconds that one call of the plugin may take.

    Returns:
        What was found. Nothing that is wrong with the plugin is raised.

    Raises:
        FileNotFoundError: There is no such file.
    """
    begun = time.perf_counter()
    with subject_of(source) as subject:
        report = Report(subject.shown, subject.name)
        try:
            loaded = subject.load(subject.settings(None, None))
            if loaded.analytics is None:
                raise ConfigurationError([f"{subject.name} is no analytics plugin"])
            given = loaded.analytics.parameters(parameters or {})
        except (ConfigurationError, ValueError) as error:
            report.steps.append(failed("load the plugin", Breach("load", str(error))))
        else:
            report.steps.append(passed("load the plugin", "load"))
            census = subject.scratch / "census.json"
            trial = _AnalyticsTrial(loaded.analytics, parameters or {}, given, call_limit, census)
            report.steps += trio.run(trial.run, source_of_frames)
    report.seconds = time.perf_counter() - begun
    return report


@dataclass
class _AnalyticsTrial:
    """All runs of one plugin; what comes after one that failed is left out."""

    plugin: AnalyticsInfo
    parameters: Mapping[str, Any]
    whole_parameters: Mapping[str, Any]
    call_limit: float
    census: Path

    async def run(self, source: str | None) -> list[Step]:
        steps: list[Step] = []
        async with ForkServer() as forks:
            self.forks = forks
            for work in (self._whole, self._long, self._killed):
                steps += await work(source)
                if not all(step.ok for step in steps):
                    break
        return steps

    async def _whole(self, source: str | None) -> list[Step]:
        """Show frames to their end."""
        steps: list[Step] = []
        urls = {
            f"frames of {size} from {picture}, {counted(rate, 'frame')} a second": (
                f"test:{picture}?size={size}&rate={rate}&seconds={seconds}&live=0"
            )
            for picture, size, rate, seconds in SHOWN
        }
        for name, url in (urls if source is None else {f"frames of {source}": source}).items():
            run = _StreamRun(self, url)
            await run.until(lambda run=run: run.done)
            steps += run.steps(name)
            if not all(step.ok for step in steps):
                break
        return steps

    async def _long(self, source: str | None) -> list[Step]:
        """Show many frames as fast as it looks at them, and stop in the midst of them."""
        run = _StreamRun(self, source or "test:?live=0&size=320x180")
        begun = math.inf

        def enough() -> bool:
            nonlocal begun
            if run.analysed:  # to start a worker takes its time, too, where others compute
                begun = min(begun, trio.current_time())
            seconds = trio.current_time() - begun
            judged = run.analysed >= (ENOUGH if seconds > LONG else MANY)
            return run.done or judged or seconds > LONGEST

        await run.until(enough)
        if run.rung not in {None, "message"}:
            run.note(f"the worker did not end when it was asked to, but by {run.rung}")
        steps = run.steps("stop in the midst of a stream")
        return steps + (self._used() if all(step.ok for step in steps) else [])

    async def _killed(self, source: str | None) -> list[Step]:
        """Kill the worker, and show frames to the next."""
        url = source or "test:?live=0&size=160x120"
        first, second = _StreamRun(self, url), _StreamRun(self, url)
        await first.until(lambda: first.done or first.analysed >= 5, kill=True)
        await second.until(lambda: second.done or second.analysed >= 5)
        return second.steps("open again after its process was killed")

    def _used(self) -> list[Step]:
        """Judge what the plugin used and left."""
        if not self.census.exists():
            return []
        found = json.loads(self.census.read_text(encoding="utf-8"))
        seconds, memory = found["seconds"] or [0.0], found["memory"]
        name = "nothing is left after close"
        steps = [
            failed(name, Breach("G7", f"leaked: {what}", hint="end it, or close it, in close()"))
            for what in found["left"]
        ] or [passed(name, "G7")]
        grown = memory[-1] - memory[len(memory) // 4] if len(memory) > 4 else 0
        still = memory[-1] > memory[len(memory) * 3 // 4] if memory else False
        name = f"memory over {counted(len(seconds), 'frame')}"
        if grown > GROWTH and still:
            said = f"the process grew by {grown // 2**20} MiB over {counted(len(seconds) * 3 // 4, 'frame')}"
            hint = "keep no frames or arrays for ever, such as in a deque(maxlen=…)"
            steps.append(failed(name, Breach("G7", said, hint=hint)))
        else:
            steps.append(passed(name, "G7"))
        mean = sum(seconds) / len(seconds) * 1000
        times = f"a frame took {mean:.2f} ms, at most {max(seconds) * 1000:.1f} ms"
        return [*steps, passed(times, "frames")]


class _StreamRun:
    """One stream with the plugin."""

    def __init__(self, trial: _AnalyticsTrial, url: str) -> None:
        self.url = url
        self.done = False
        self.rung: str | None = None
        self._plugin = trial.plugin
        self._problems: list[str] = []
        self._words = ""
        definition = StreamDefinition.model_validate(
            {
                "name": "kit",
                "source": url,
                "analytics": [{"name": trial.plugin.name, "parameters": dict(trial.parameters)}],
                "analytics_timeout": trial.call_limit,
                "decode_error_retry": {"attempt_count": 0},
            }
        )
        spec = worker_spec(trial.plugin, trial.whole_parameters) | {"census": str(trial.census)}
        services = StreamServices(
            lambda _: [spec],
            self,
            logging.getLogger(f"lva.testing.{trial.plugin.name}"),
            trio.lowlevel.checkpoint,
            random.Random(0),  # noqa: S311 - jitter, the same each time
            forks=trial.forks,
        )
        self._stream = Stream("kit", definition, parse_source(url), services)

    @property
    def analysed(self) -> int:
        """How many frames were looked at."""
        return self._stream.ledger.counts()["analysed"]

    def note(self, problem: str) -> None:
        """Take what is wrong."""
        self._problems.append(problem)

    def changed(self, change: StreamChange) -> None:
        """Note what is wrong."""
        if change.code not in {None, "end_of_stream"}:
            self.note(change.reason)

    def seen(self, event: StreamAnalyticsEvent) -> None:
        """Do nothing: that an event can be sent is all that is asked of it."""

    async def until(self, condition: Any, *, kill: bool = False) -> None:
        """Let it run until then, or until something is wrong, and stop it; or kill its process."""
        stream = self._stream
        stream.move(stream.state, "created")
        with self._records(), trio.move_on_after(PATIENCE) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._supervised)
                while not condition() and not self._problems:  # noqa: ASYNC110 - another process counts
                    await trio.sleep(0.02)
                worker = stream.worker
                if worker is not None:
                    worker.patience = CLOSE_LIMIT
                if kill and worker is not None:
                    os.kill(worker.pid, signal.SIGKILL)
                nursery.cancel_scope.cancel()
            self.rung = None if worker is None else worker.rung
        if scope.cancelled_caught:
            self.note(f"not done after {PATIENCE:g} s")

    async def _supervised(self) -> None:
        await Supervisor(self._stream).run()
        self.done = True

    def steps(self, name: str) -> list[Step]:
        """Return what was found."""
        if not self.analysed and not self._problems:
            self.note("no frame was looked at")
        if not self._problems:
            return [passed(name, "frames")]
        told: dict[str, Step] = {}
        for text in self._problems:
            said, _, trace = text.partition("\n")
            said = said.removeprefix("stream kit: ")
            key = re.sub(r"at frame \d+|set aside.*", "", said)
            told.setdefault(key, failed(name, self._breach(said, trace or self._words)))
        return [*told.values()][:5]

    def _breach(self, said: str, trace: str) -> Breach:
        hint = next((hint for pattern, hint in HINTS if re.search(pattern, said)), "")
        return Breach("frames", said, _place(trace, [*self._plugin.files]), hint)

    @contextmanager
    def _records(self) -> Iterator[None]:
        """Take what the plugin raised, and its last words, from its log."""
        handler = _Failures(self)
        logger = own_logger(self._plugin.name)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)

    def take(self, text: str) -> None:
        """Take a record of the plugin's log."""
        if f"{self._plugin.name} failed in " in text:
            self.note(text)
        elif "Fatal Python error" in text:
            self._words = text


def _place(trace: str, files: Sequence[str]) -> Place | None:
    """Return the innermost line of the plugin in a traceback, or in what a process that crashed wrote."""
    places = [
        Place(match[1], int(match[2]), match[3])
        for match in re.finditer(r'File "([^"]+)", line (\d+),? in (\S+)', trace)
        if match[1] in files
    ]
    if not places:
        return None
    return places[0] if "Fatal Python error" in trace else places[-1]


class _Failures(logging.Handler):
    def __init__(self, run: _StreamRun) -> None:
        super().__init__(logging.WARNING)
        self._run = run

    def emit(self, record: logging.LogRecord) -> None:
        self._run.take(record.getMessage())
