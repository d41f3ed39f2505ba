"""Puts an analytics plugin through its contract, in real worker processes, on generated frames."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import trio

from lva.contract import AnalyticsInfo
from lva.errors import ConfigurationError
from lva.logs import own_logger
from lva.stream_events import StreamAnalyticsEvent
from lva.testing.report import Breach, Report, failed, passed
from lva.testing.subject import Source, subject_of
from lva.video.definition import StreamDefinition
from lva.video.forks import ForkServer
from lva.video.process import worker_spec
from lva.video.record import StreamChange
from lva.video.source import parse_source
from lva.video.stream import Stream, StreamServices
from lva.video.supervisor import Supervisor

#: What it is shown: size and rate of each source, and how many seconds of it.
SHOWN: Final = (("640x360", 10, 3), ("160x120", 25, 1), ("64x48", 5, 2))
#: Seconds that a whole run may take; and one call of the plugin.
PATIENCE: Final = 60.0
CALL_LIMIT: Final = 10.0


def check_analytics(
    source: Source,
    parameters: Mapping[str, Any] | None = None,
    *,
    source_of_frames: str | None = None,
) -> Report:
    """Run an analytics plugin in a stream's worker, and report whether it keeps its contract.

    It is loaded as the service does it; opened, shown generated frames of several sizes and rates, and
    closed; and stopped in the midst of a live stream. No call may raise, hang or end the process, events are
    such as can be sent, and the worker ends when it is asked to.

    Args:
        source: The path of a file or package, a plugin's name, or the text of a plugin.
        parameters: A stream's parameters for it.
        source_of_frames: An address as in a stream's definition, in place of the generated frames.

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
            loaded.analytics.parameters(parameters or {})
        except (ConfigurationError, ValueError) as error:
            report.steps.append(failed("load the plugin", Breach("load", str(error))))
        else:
            report.steps.append(passed("load the plugin", "load"))
            runs = _runs(source_of_frames)
            report.steps += trio.run(_all_steps, loaded.analytics, parameters or {}, runs)
    report.seconds = time.perf_counter() - begun
    return report


def _runs(source: str | None) -> Iterator[tuple[str, str, bool]]:
    """Yield each run: its name, where frames come from, and whether they are shown to their end."""
    if source is not None:
        yield f"frames of {source}", source, True
        return
    for size, rate, seconds in SHOWN:
        url = f"test:?size={size}&rate={rate}&seconds={seconds}&live=0"
        yield f"frames of {size}, {rate} a second", url, True
    yield "stop in the midst of a live stream", "test:?rate=25", False


async def _all_steps(
    plugin: AnalyticsInfo, parameters: Mapping[str, Any], runs: Iterable[tuple[str, str, bool]]
) -> list[Any]:
    async with ForkServer() as forks:
        return [
            step
            for name, url, whole in runs
            for step in await _Run(plugin, parameters, url, whole, forks).steps(name)
        ]


class _Run:
    """One stream with the plugin, from its start to its end."""

    def __init__(
        self,
        plugin: AnalyticsInfo,
        parameters: Mapping[str, Any],
        url: str,
        whole: bool,
        forks: ForkServer,
    ) -> None:
        self._plugin = plugin
        self._whole = whole
        self._problems: list[str] = []
        definition = StreamDefinition.model_validate(
            {
                "name": "kit",
                "source": url,
                "analytics": [{"name": plugin.name, "parameters": dict(parameters)}],
                "analytics_timeout": CALL_LIMIT,
                "autorestart": False,
                "decode_error_retry": {"attempt_count": 0},
            }
        )
        spec = worker_spec(plugin, plugin.parameters(parameters))
        self._stream = Stream(
            "kit",
            definition,
            parse_source(url),
            StreamServices(
                lambda _: [spec],
                self,
                logging.getLogger(f"lva.testing.{plugin.name}"),
                trio.lowlevel.checkpoint,
                random.Random(0),  # noqa: S311
                forks=forks,
            ),
        )

    def changed(self, change: StreamChange) -> None:
        """Note what is wrong."""
        if change.code not in {None, "end_of_stream"}:
            self._problems.append(change.reason)

    def seen(self, event: StreamAnalyticsEvent) -> None:
        """Do nothing: that an event can be sent is all that is asked of it."""

    async def steps(self, name: str) -> list[Any]:
        """Run it; return what was found."""
        with _records(self._problems, self._plugin.name):
            await self._run()
        frames = self._stream.ledger.frames()
        if not frames["analysed"] and not self._problems:
            self._problems.append("no frame was looked at")
        if not self._problems:
            return [passed(name, "frames")]
        return [failed(name, Breach("frames", text)) for text in dict.fromkeys(self._problems)][:5]

    async def _run(self) -> None:
        stream, worker = self._stream, None
        stream.move(stream.state, "created")
        with trio.move_on_after(PATIENCE) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(self._until_done, nursery.cancel_scope))
                if not self._whole:
                    await self._until_looked_at()
                    worker = stream.worker
                    nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            self._problems.append(f"not done after {PATIENCE:g} s")
        elif worker is not None and worker.rung != "message":
            self._problems.append(
                f"the worker did not end when it was asked to, but by {worker.rung}"
            )

    async def _until_looked_at(self) -> None:
        """Wait until some frames have been looked at, or something is wrong."""
        counts = self._stream.ledger.counts
        while counts()["analysed"] < 5 and not self._problems:  # noqa: ASYNC110 - another process counts
            await trio.sleep(0.02)

    async def _until_done(self, scope: trio.CancelScope) -> None:
        await Supervisor(self._stream).run()
        scope.cancel()


@contextmanager
def _records(problems: list[str], plugin: str) -> Iterator[None]:
    """Take what the plugin raised from its log."""
    handler = _Failures(problems)
    logger = own_logger(plugin)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Failures(logging.Handler):
    def __init__(self, problems: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if " failed in " in text:
            self._problems.append(text)
