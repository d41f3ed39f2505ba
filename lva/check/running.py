"""What shows only when a plugin runs: its life-cycle, and what becomes of points.

Both use the kit of `lva.testing`, so a plugin is judged here as in its author's tests.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import trio

from lva.check.plugins import CheckReport
from lva.contract import Published
from lva.errors import ConfigurationError, PluginProblem, counted
from lva.events.points import MonitoringPoint
from lva.events.types import EVENT_TYPES, check_names, name_of
from lva.host.loading.load import table_of
from lva.host.plugin_modules import PACKAGE
from lva.settings import Settings

#: How long, in seconds, points may take to be delivered.
POINTS_LIMIT: Final = 30.0
#: Most bytes of a file of points.
_MAX_POINTS: Final = 64 * 1024 * 1024


def run_contract(report: CheckReport, settings: Settings) -> None:
    """Put a loaded plugin through the life-cycle contract, and add what is wrong to its report.

    It is started, stopped, cancelled at every step, crashed and restarted, in virtual time, with the
    configuration that the settings have for it and a state directory of its own. An analytics plugin looks at
    generated frames in a stream's process, in real time.
    """
    from lva.testing.analytics import check_analytics
    from lva.testing.contract import check_plugin

    config, table = _configured(report, settings)
    if report.kind == "analytics":
        found = check_analytics(_source(report), config)
    else:
        found = check_plugin(_source(report), config, table)
    tried = len(found.steps) - len(found.skipped)
    report.notes.append(f"{tried - len(found.failures)} of {counted(tried, 'step')} passed")
    if found.skipped:
        reasons = "; ".join(dict.fromkeys(step.message for step in found.skipped))
        report.notes.append(f"{counted(len(found.skipped), 'step')} skipped: {reasons}")
    for step in found.failures:
        hint = f"; {step.hint}" if step.hint else ""
        text = f"{step.guarantee}: {step.message}, at the step: {step.name}{hint}"
        file = Path(step.file) if step.file else report.file
        report.problems.append(PluginProblem(text, file, step.line, "run"))


def send_points(report: CheckReport, settings: Settings, points: Sequence[Published]) -> None:
    """Publish points to a loaded event plugin in the real host, in real time and once.

    They go where its configuration says. What was not delivered is added to the report.
    """
    try:
        ledger, last_error = trio.run(_send, report, settings, points)
    except AssertionError as error:
        report.problems.append(PluginProblem(str(error).strip(), report.file, None, "points-sent"))
        return
    lost = len(points) - ledger["delivered"] - ledger["rejected"]
    report.notes.append(f"{ledger['delivered']} of {counted(len(points), 'point')} delivered")
    if lost or ledger["rejected"]:
        why = f"; the last error was: {last_error}" if last_error else ""
        text = (
            f"of {counted(len(points), 'point')} {ledger['rejected']} rejected and {lost} neither delivered"
            f" nor rejected within {POINTS_LIMIT:g} s{why}"
        )
        report.problems.append(
            PluginProblem(text, report.file, None, "points-sent", "error" if lost else "warning")
        )


def read_points(path: Path) -> list[Published]:
    """Read points and events from a file with one JSON object a line, as the plugin `file` writes them.

    Raises:
        ConfigurationError: The file cannot be read, or lines in it are no points; all of them are named.
    """
    try:
        if path.stat().st_size > _MAX_POINTS:
            raise ConfigurationError(
                [f"{path}: larger than {_MAX_POINTS} bytes; send a part of it"]
            )
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{path}: is not UTF-8: {error}"]) from error
    points: list[Published] = []
    problems = []
    for number, line in enumerate(lines, 1):
        try:
            points += [_point(line)] if line.strip() else []
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else error
            problems.append(f"{path}:{number}: not a point: {why}")
    if not points and not problems:
        problems.append(f"{path}: has no points")
    if problems:
        more = len(problems) - 10
        raise ConfigurationError(
            problems[:10] + ([f"{path}: {counted(more, 'more line')}"] if more > 0 else [])
        )
    return points


def _point(line: str) -> Published:
    document = json.loads(line)
    if not isinstance(document, dict):
        raise TypeError("a point is a JSON object with series, time, tags and fields")
    if "event_name" in document:
        check_names([str(document["event_name"])])
        event: Published = EVENT_TYPES[document["event_name"]].decode(document)
        return event
    tags, fields = document.get("tags", {}), document.get("fields", {})
    if not isinstance(tags, dict) or not isinstance(fields, dict):
        raise TypeError("tags and fields must be JSON objects")
    return MonitoringPoint(document["series"], document["time"], tags, fields)


async def _send(
    report: CheckReport, settings: Settings, points: Sequence[Published]
) -> tuple[dict[str, Any], str]:
    from lva.testing import running_plugin
    from lva.testing.report import GUARANTEES

    config, table = _configured(report, settings)
    # Only points count here; whether it keeps the contract, `run_contract` tells.
    async with running_plugin(_source(report), config, table, tolerate=GUARANTEES) as host:
        assert report.loaded is not None
        at_once = min(1000, report.loaded.settings.buffer_limit)
        with trio.move_on_after(POINTS_LIMIT):
            for start in range(0, len(points), at_once):
                for name, some in groupby(points[start : start + at_once], key=name_of):
                    host.publish([*some], name)
                await host.settled(POINTS_LIMIT)
        status = host.status
        return dict(status["ledger"]), str(status["last_error"] or "")


def _source(report: CheckReport) -> str | os.PathLike[str]:
    """Return what the kit finds the plugin by: its file, or the name of an installed one."""
    assert report.loaded is not None
    inside = report.loaded.module.partition(".")[0] == PACKAGE
    return report.loaded.path if inside else report.name


def _configured(
    report: CheckReport, settings: Settings
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the plugin's configuration, and the host's keys that the settings have for it."""
    table = table_of(report.name, settings)
    return table.config, table.model_dump(exclude={"config", "from_"}, exclude_unset=True)
